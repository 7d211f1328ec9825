//! AF_NETLINK: questions to the kernel and their answers, as messages. Source: netlink(7).
//!
//! [`route`] answers about devices, addresses and routes (NETLINK_ROUTE), [`diag`] about sockets (NETLINK_SOCK_DIAG); nothing
//! is ever announced on NETLINK_KOBJECT_UEVENT. Answers are made whole when they are asked for, in the asking call. Changes of the device and
//! of its addresses are told to the groups of NETLINK_ROUTE.
//! Locks: `state` (rank `Endpoint`).

mod diag;
mod message;
mod route;

use super::namespace::Namespace;
use super::option::{bytes, default_buffers, number, words};
use super::socket::{Address, Call, Common, Control, Incoming, Outgoing, Socket};
use super::uapi::*;
use crate::bpf;
use crate::fs::{File, IoDst, IoSrc, PollEvents};
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering::*};
use message::{Answer, Request, requests};
use umbel_smp::lock::{Rank, SpinLock};

/// Protocols.
const ROUTE: u32 = 0;
const SOCK_DIAG: u32 = 4;
const KOBJECT_UEVENT: u32 = 15;
/// One more than the last protocol.
const PROTOCOL_MAX: u32 = 32;
/// Bytes of `struct sockaddr_nl`.
const ADDRESS_LEN: usize = 12;
/// Longest request.
const REQUEST_MAX: usize = 32 << 10;

/// Options of SOL_NETLINK.
const ADD_MEMBERSHIP: u32 = 1;
const DROP_MEMBERSHIP: u32 = 2;
const NO_ENOBUFS: u32 = 5;
pub const LIST_MEMBERSHIPS: u32 = 9;
const CAP_ACK: u32 = 10;
const LAST_OPTION: u32 = 12;

#[derive(Default)]
struct State {
    /// Its port and its groups.
    port: u32,
    groups: u32,
    /// Where it is connected to.
    peer: Option<(u32, u32)>,
    queue: VecDeque<Arc<Letter>>,
    /// Bytes in it.
    used: usize,
    /// It has been in groups: their list has a length.
    has_joined: bool,
}

/// Something to be received.
struct Letter {
    bytes: Vec<u8>,
    /// The sender's port, and the groups that it was sent to.
    from: (u32, u32),
    /// The sender's process, user and group.
    sender: [u32; 3],
}

/// A socket.
pub struct Netlink {
    common: Common,
    state: SpinLock<State>,
    /// Options that are on, by number.
    options: AtomicU32,
    /// Who made it was an administrator: nobody else makes requests by the privileges of whom it is given to.
    by_admin: bool,
}

/// socket(2).
///
/// # Errors
/// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
pub fn create(task: &Arc<Task>, kind: u32, protocol: u32) -> Result<Arc<dyn Socket>> {
    if !matches!(kind, SOCK_RAW | SOCK_DGRAM) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if protocol >= PROTOCOL_MAX || !matches!(protocol, ROUTE | SOCK_DIAG | KOBJECT_UEVENT) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let common = Common::new(task, (AF_NETLINK, kind, protocol), default_buffers());
    let (state, options) = (SpinLock::new(Rank::Endpoint, State::default()), AtomicU32::new(0));
    Ok(Arc::new(Netlink { common, state, options, by_admin: task.net_capable(cap::NET_ADMIN) }))
}

/// Puts `bytes` as they are into the queue of the netlink socket behind `file`, as mq_notify(2) wants it.
///
/// # Errors
/// `EINVAL` if it is none, `ENOBUFS`.
pub fn deliver(file: &File, bytes: &[u8]) -> Result<()> {
    let socket = super::socket::of(file).map_err(|_| Errno::EINVAL)?;
    let netlink = socket.as_any().downcast_ref::<Netlink>().ok_or(Errno::EINVAL)?;
    if bytes.is_empty() { Ok(()) } else { netlink.answered(alloc::vec![bytes.to_vec()]) }
}

/// Tells a group of NETLINK_ROUTE something.
fn announce(namespace: &Namespace, group: u32, notice: Answer) {
    for bytes in notice.datagrams() {
        let letter = Arc::new(Letter { bytes, from: (0, 1 << (group - 1)), sender: [0; 3] });
        broadcast(namespace, ROUTE, letter, None);
    }
}

/// A device is there, or has changed; it goes.
pub use route::{announce_link, announce_link_gone};

/// Gives a letter to the sockets of its groups, but for the sender's.
fn broadcast(namespace: &Namespace, protocol: u32, letter: Arc<Letter>, sender: Option<&Netlink>) {
    namespace.each_socket(AF_NETLINK, |socket| {
        let Some(member) = socket.as_any().downcast_ref::<Netlink>() else { return };
        let (_, groups, own) = member.identity();
        let same = sender.is_some_and(|sender| core::ptr::eq(sender, member));
        if own == protocol && groups & letter.from.1 != 0 && !same && member.push(letter.clone()).is_err() {
            member.miss();
        }
    });
}

/// Reads a `struct sockaddr_nl`: port and groups.
fn parse(addr: &[u8]) -> Result<(u32, u32)> {
    let bytes: &[u8; ADDRESS_LEN] = addr.first_chunk().ok_or(Errno::EINVAL)?;
    if bytes.first_chunk() != Some(&AF_NETLINK.to_le_bytes()) {
        return Err(Errno::EINVAL);
    }
    let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
    Ok((word(4), word(8)))
}

fn format(port: u32, groups: u32) -> Address {
    let mut bytes = AF_NETLINK.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&port.to_le_bytes());
    bytes.extend_from_slice(&groups.to_le_bytes());
    bytes
}

impl Netlink {
    /// Its port, its groups, its protocol.
    pub fn identity(&self) -> (u32, u32, u32) {
        let state = self.state.lock();
        (state.port, state.groups, self.common.protocol)
    }

    /// Gives it a port: `wanted`, or the caller's process number, or one that nobody has.
    fn take_port(&self, task: &Task, wanted: u32) -> Result<()> {
        let (mut taken, mut short) = (Vec::new(), false);
        self.common.namespace.each_socket(AF_NETLINK, |socket| {
            if let Some(other) = socket.as_any().downcast_ref::<Netlink>()
                && !core::ptr::eq(other, self)
                && other.common.protocol == self.common.protocol
            {
                short |= taken.try_reserve(1).is_err();
                if !short {
                    taken.push(other.identity().0);
                }
            }
        });
        if short {
            return Err(Errno::ENOMEM);
        }
        // There may be many.
        taken.sort_unstable();
        let is_taken = |port: &u32| taken.binary_search(port).is_ok();
        let port = match wanted {
            0 => {
                let own = task.process().pid().0 as u32;
                let free = (1..=0xffff_f000_u32).rev().find(|port| !is_taken(port));
                if is_taken(&own) { free.ok_or(Errno::EADDRINUSE)? } else { own }
            }
            port if is_taken(&port) => return Err(Errno::EADDRINUSE),
            port => port,
        };
        self.state.lock().port = port;
        Ok(())
    }

    fn bind_automatically(&self, task: &Task) -> Result<()> {
        if self.state.lock().port == 0 { self.take_port(task, 0) } else { Ok(()) }
    }

    fn answer(&self, task: &Arc<Task>, request: &Request<'_>) -> Answer {
        let (port, ..) = self.identity();
        let mut answer = Answer::new(request, port);
        let result = match self.common.protocol {
            ROUTE if !self.by_admin && !request.asks() => Err(Errno::EPERM),
            ROUTE => route::answer(task, &self.common.namespace, request, &mut answer),
            SOCK_DIAG => diag::answer(&self.common.namespace, request, &mut answer),
            _ => Err(Errno::ECONNREFUSED),
        };
        answer.finish(request, result, self.options.load(Relaxed) >> CAP_ACK & 1 != 0);
        answer
    }

    /// Whether the socket's filter lets a datagram through.
    fn wants(&self, bytes: &[u8]) -> bool {
        let packet = bpf::Packet {
            bytes,
            protocol: self.common.protocol as u16,
            direction: 0,
            device: 0,
            hardware: 0,
            network: 0,
        };
        self.common.filter().is_none_or(|program| program.run(&packet) != 0)
    }

    /// It learns that it has missed something, unless it does not want to.
    fn miss(&self) {
        if self.options.load(Relaxed) >> NO_ENOBUFS & 1 == 0 {
            self.common.fail(Errno::ENOBUFS);
        }
    }

    /// The kernel's answers.
    fn answered(&self, datagrams: Vec<Vec<u8>>) -> Result<()> {
        let letters = datagrams.into_iter().map(|bytes| Letter { bytes, from: (0, 0), sender: [0; 3] });
        letters.into_iter().try_for_each(|letter| self.enqueue(Arc::new(letter), usize::MAX))
    }

    /// What others send, as long as there is room.
    fn push(&self, letter: Arc<Letter>) -> Result<()> {
        self.enqueue(letter, self.common.receive_buffer.load(Relaxed) as usize)
    }

    fn enqueue(&self, letter: Arc<Letter>, room: usize) -> Result<()> {
        if !self.wants(&letter.bytes) {
            return Ok(());
        }
        {
            let mut state = self.state.lock();
            let full = state.used > room || state.queue.try_reserve(1).is_err();
            if full {
                return Err(Errno::ENOBUFS);
            }
            state.used += letter.bytes.len();
            state.queue.push_back(letter);
        }
        self.common.readers.wake_all();
        Ok(())
    }

    fn take(&self, peek: bool) -> Option<Arc<Letter>> {
        let mut state = self.state.lock();
        if peek {
            return state.queue.front().cloned();
        }
        let letter = state.queue.pop_front()?;
        state.used -= letter.bytes.len();
        Some(letter)
    }

    /// Sends to other programs: to groups, and to the socket with a port. False: it is for the kernel, too.
    fn send_to_others(&self, call: &Call<'_>, (port, groups): (u32, u32), bytes: &[u8]) -> Result<bool> {
        if (port, groups) == (0, 0) {
            return Ok(false);
        }
        if !call.task.net_capable(cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        let (cred, pid) = (call.task.cred(), call.task.process().pid().0 as u32);
        // Of several groups the first.
        let group = groups & groups.wrapping_neg();
        let from = (self.identity().0, group);
        let letter = Arc::new(Letter { bytes: bytes.to_vec(), from, sender: [pid, cred.uid, cred.gid] });
        let (namespace, protocol) = (&self.common.namespace, self.common.protocol);
        if group != 0 {
            broadcast(namespace, protocol, letter.clone(), Some(self));
        }
        if port == 0 {
            return Ok(false);
        }
        let has_port = |socket: &Arc<dyn Socket>| {
            let other = socket.as_any().downcast_ref::<Netlink>();
            other.is_some_and(|other| other.identity().0 == port && other.common.protocol == protocol)
        };
        let mut target = None;
        namespace.each_socket(AF_NETLINK, |socket| {
            if has_port(socket) {
                target = Some(socket.clone());
            }
        });
        let target = target.ok_or(Errno::ECONNREFUSED)?;
        let target = target.as_any().downcast_ref::<Netlink>().ok_or(Errno::ECONNREFUSED)?;
        let letter = Letter { from: (letter.from.0, 0), bytes: bytes.to_vec(), sender: letter.sender };
        target.push(Arc::new(letter)).map_err(|_| Errno::EAGAIN)?;
        Ok(true)
    }
}

impl Socket for Netlink {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, call: &Call<'_>, addr: &[u8]) -> Result<()> {
        let (port, groups) = parse(addr)?;
        // Anybody hears of devices and of events; other groups are for administrators.
        let open = matches!(self.common.protocol, ROUTE | KOBJECT_UEVENT);
        if groups != 0 && !open && !call.task.net_capable(cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        let own = self.state.lock().port;
        if own != 0 && port != own && port != 0 {
            return Err(Errno::EINVAL);
        }
        if own == 0 {
            self.take_port(call.task, port)?;
        }
        let mut state = self.state.lock();
        state.groups = groups;
        state.has_joined |= groups != 0;
        Ok(())
    }

    fn connect(&self, call: &Call<'_>, addr: &[u8]) -> Result<()> {
        if addr.first_chunk() == Some(&AF_UNSPEC.to_le_bytes()) {
            self.state.lock().peer = None;
            return Ok(());
        }
        let (port, groups) = parse(addr)?;
        if (groups != 0 || port != 0) && !call.task.net_capable(cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        self.bind_automatically(call.task)?;
        self.state.lock().peer = Some((port, groups));
        Ok(())
    }

    fn name(&self) -> Result<Address> {
        let (port, groups, _) = self.identity();
        Ok(format(port, groups))
    }

    fn peer_name(&self) -> Result<Address> {
        let (port, groups) = self.state.lock().peer.unwrap_or_default();
        Ok(format(port, groups))
    }

    fn send(&self, call: &Call<'_>, src: &mut IoSrc<'_>, message: Outgoing) -> Result<usize> {
        if call.has(MSG_OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let to = match message.to.is_empty() {
            true => self.state.lock().peer.unwrap_or_default(),
            false => parse(&message.to)?,
        };
        self.bind_automatically(call.task)?;
        let len = src.remaining();
        if len > REQUEST_MAX {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
        bytes.resize(len, 0);
        if src.read(&mut bytes)? < len {
            return Err(Errno::EFAULT);
        }
        if self.send_to_others(call, to, &bytes)? {
            return Ok(len);
        }
        for request in requests(&bytes) {
            let full = self.state.lock().used > self.common.receive_buffer.load(Relaxed) as usize;
            if full && request.dumps() {
                // A list that there is no room for is not made.
                self.miss();
                continue;
            }
            super::room()?;
            let answer = self.answer(call.task, &request);
            if full { self.miss() } else { self.answered(answer.datagrams())? }
        }
        Ok(len)
    }

    fn receive(&self, call: &Call<'_>, dst: &mut IoDst<'_>) -> Result<Incoming> {
        if call.has(MSG_OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let look = || match self.common.take_error() {
            Some(error) => Some(Err(error)),
            None => self.take(call.has(MSG_PEEK)).map(Ok),
        };
        let letter = self.common.wait_readable(call.nonblock, look)??;
        let full = letter.bytes.len();
        let count = dst.write(letter.bytes.get(..full.min(dst.remaining())).unwrap_or(&[]))?;
        let mut control = Vec::new();
        if self.common.switches.get(so::PASSCRED) {
            control.push(Control { level: SOL_SOCKET, kind: SCM_CREDENTIALS, bytes: words(&letter.sender) });
        }
        let (port, groups) = letter.from;
        Ok(Incoming { count, full, from: format(port, groups), control, ..Incoming::default() })
    }

    fn option(&self, _: &Arc<Task>, level: u32, name: u32, _: usize) -> Result<Vec<u8>> {
        match (level, name) {
            (SOL_NETLINK, LIST_MEMBERSHIPS) => {
                let state = self.state.lock();
                let groups = u64::from(state.groups).to_le_bytes().to_vec();
                Ok(if state.has_joined { groups } else { Vec::new() })
            }
            (SOL_NETLINK, 3..=LAST_OPTION) => Ok(bytes(self.options.load(Relaxed) >> name & 1)),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_option(&self, _: &Arc<Task>, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level != SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        let number = number(value)?;
        match name {
            ADD_MEMBERSHIP | DROP_MEMBERSHIP => {
                let bit = number.checked_sub(1).and_then(|at| 1_u32.checked_shl(at as u32)).ok_or(Errno::EINVAL)?;
                let mut state = self.state.lock();
                state.has_joined = true;
                state.groups = if name == ADD_MEMBERSHIP { state.groups | bit } else { state.groups & !bit };
                Ok(())
            }
            3..=LAST_OPTION if name != LIST_MEMBERSHIPS => {
                let bit = 1 << name;
                match number {
                    0 => self.options.fetch_and(!bit, Relaxed),
                    _ => self.options.fetch_or(bit, Relaxed),
                };
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn poll(&self) -> PollEvents {
        let mut events = PollEvents::WRITABLE;
        events.set(PollEvents::READABLE, !self.state.lock().queue.is_empty());
        events.set(PollEvents::ERR, self.common.has_error());
        events
    }

    fn waiting(&self) -> usize {
        self.state.lock().queue.front().map_or(0, |letter| letter.bytes.len())
    }

    fn close(&self) {
        self.common.namespace.forget(self.common.id);
        self.common.wake();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
