//! AF_NETLINK: questions to the kernel and their answers, as messages. Source: netlink(7).
//!
//! [`route`] answers about devices, addresses and routes (NETLINK_ROUTE), [`diag`] about sockets (NETLINK_SOCK_DIAG); nothing
//! is ever announced on NETLINK_KOBJECT_UEVENT. Answers are made whole when they are asked for, in the asking call.
//! Locks: `state` (rank `Endpoint`).

mod diag;
mod message;
mod route;

use super::option::{bytes, number};
use super::socket::{Address, Call, Common, Incoming, Outgoing, Socket};
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
const BUFFERS: (u32, u32) = (212_992, 212_992);
/// Bytes of `struct sockaddr_nl`.
const ADDRESS_LEN: usize = 12;
/// Longest request.
const REQUEST_MAX: usize = 32 << 10;

/// Options of SOL_NETLINK.
const ADD_MEMBERSHIP: u32 = 1;
const DROP_MEMBERSHIP: u32 = 2;
const LIST_MEMBERSHIPS: u32 = 9;
const CAP_ACK: u32 = 10;
const LAST_OPTION: u32 = 12;

#[derive(Default)]
struct State {
    /// Its port and its groups.
    port: u32,
    groups: u32,
    /// Where it is connected to.
    peer: Option<(u32, u32)>,
    queue: VecDeque<Arc<Vec<u8>>>,
}

/// A socket.
pub struct Netlink {
    common: Common,
    state: SpinLock<State>,
    /// Options that are on, by number.
    options: AtomicU32,
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
    let common = Common::new(task, (AF_NETLINK, kind, protocol), BUFFERS);
    Ok(Arc::new(Netlink { common, state: SpinLock::new(Rank::Endpoint, State::default()), options: AtomicU32::new(0) }))
}

/// Puts `bytes` as they are into the queue of the netlink socket behind `file`, as mq_notify(2) wants it.
///
/// # Errors
/// `EINVAL` if it is none, `ENOBUFS`.
pub fn deliver(file: &File, bytes: &[u8]) -> Result<()> {
    let socket = super::socket::of(file).map_err(|_| Errno::EINVAL)?;
    let netlink = socket.as_any().downcast_ref::<Netlink>().ok_or(Errno::EINVAL)?;
    if bytes.is_empty() { Ok(()) } else { netlink.push(alloc::vec![bytes.to_vec()]) }
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
        let mut taken: Vec<u32> = Vec::new();
        for socket in self.common.namespace.sockets(AF_NETLINK) {
            if let Some(other) = socket.as_any().downcast_ref::<Netlink>()
                && !core::ptr::eq(other, self)
                && other.common.protocol == self.common.protocol
            {
                taken.push(other.identity().0);
            }
        }
        let port = match wanted {
            0 => {
                let own = task.process().pid().0 as u32;
                let free = (0..).map(|step| 0xffff_f000_u32 - step).find(|port| !taken.contains(port));
                if taken.contains(&own) { free.ok_or(Errno::EADDRINUSE)? } else { own }
            }
            port if taken.contains(&port) => return Err(Errno::EADDRINUSE),
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

    fn push(&self, mut datagrams: Vec<Vec<u8>>) -> Result<()> {
        datagrams.retain(|bytes| self.wants(bytes));
        {
            let mut state = self.state.lock();
            state.queue.try_reserve(datagrams.len()).map_err(|_| Errno::ENOBUFS)?;
            state.queue.extend(datagrams.into_iter().map(Arc::new));
        }
        self.common.readers.wake_all();
        Ok(())
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
        if groups != 0 && !open && !call.task.capable(cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        let own = self.state.lock().port;
        if own != 0 && port != own && port != 0 {
            return Err(Errno::EINVAL);
        }
        if own == 0 {
            self.take_port(call.task, port)?;
        }
        self.state.lock().groups = groups;
        Ok(())
    }

    fn connect(&self, call: &Call<'_>, addr: &[u8]) -> Result<()> {
        if addr.first_chunk() == Some(&AF_UNSPEC.to_le_bytes()) {
            self.state.lock().peer = None;
            return Ok(());
        }
        let (port, groups) = parse(addr)?;
        if (groups != 0 || port != 0) && !call.task.capable(cap::NET_ADMIN) {
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
        if to != (0, 0) {
            return Err(if call.task.capable(cap::NET_ADMIN) { Errno::ECONNREFUSED } else { Errno::EPERM });
        }
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
        for request in requests(&bytes) {
            self.push(self.answer(call.task, &request).datagrams())?;
        }
        Ok(len)
    }

    fn receive(&self, call: &Call<'_>, dst: &mut IoDst<'_>) -> Result<Incoming> {
        if call.has(MSG_OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let peek = call.has(MSG_PEEK);
        let take = || {
            let mut state = self.state.lock();
            if peek { state.queue.front().cloned() } else { state.queue.pop_front() }
        };
        let message = self.common.wait_readable(call.nonblock, take)?;
        let full = message.len();
        let count = dst.write(message.get(..full.min(dst.remaining())).unwrap_or(&[]))?;
        Ok(Incoming { count, full, from: format(0, 0), ..Incoming::default() })
    }

    fn option(&self, _: &Arc<Task>, level: u32, name: u32, _: usize) -> Result<Vec<u8>> {
        match (level, name) {
            (SOL_NETLINK, LIST_MEMBERSHIPS) => Ok(bytes(self.state.lock().groups)),
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
        let readable = !self.state.lock().queue.is_empty();
        if readable { PollEvents::READABLE | PollEvents::WRITABLE } else { PollEvents::WRITABLE }
    }

    fn waiting(&self) -> usize {
        self.state.lock().queue.front().map_or(0, |message| message.len())
    }

    fn close(&self) {
        self.common.namespace.forget(self.common.id);
        self.common.wake();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
