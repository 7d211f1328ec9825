//! A socket of AF_UNIX as system calls see it: names from addresses, messages with descriptors and credentials.

use super::{Bound, Extras, Kind, Options, Sender, Socket, sender};
use crate::fs::walk::Follow;
use crate::fs::{IoDst, IoSrc, Kind as Inode, Name, Names, OnExec, OpenFlags, PollEvents, PollTable, perm};
use crate::landlock;
use crate::net::option::words;
use crate::net::socket::{Address, Call, Common, Control, Incoming, Outgoing, Socket as AnySocket};
use crate::net::uapi::*;
use crate::task::ns::pid::{caller_sees, of_caller};
use crate::task::ns::user::Which;
use crate::task::{Count, Task, User, cap, ids, pidfd};
use crate::{Errno, Pid, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering::*;
use umbel_abi::linux::uapi::RLIMIT_NOFILE;
use umbel_mm::user::{self, UserAddr};

/// What stands for users and groups that are not known.
const OVERFLOW_ID: u32 = 65534;
/// Longest `sun_path`.
const PATH_MAX: usize = 108;

/// Reads a `struct sockaddr_un`: a path, or a NUL and an abstract name; empty if it names nothing.
fn parse(addr: &[u8]) -> Result<Vec<u8>> {
    let family: u16 = addr.first_chunk().map(|bytes| u16::from_le_bytes(*bytes)).ok_or(Errno::EINVAL)?;
    if family != AF_UNIX || addr.len() > 2 + PATH_MAX {
        return Err(Errno::EINVAL);
    }
    let name = addr.get(2..).unwrap_or(&[]);
    let end = match name.first() {
        Some(0) => name.len(),
        _ => name.iter().position(|&byte| byte == 0).unwrap_or(name.len()),
    };
    Ok(name.get(..end).unwrap_or(&[]).to_vec())
}

/// A name as a `struct sockaddr_un`.
fn format(name: &[u8]) -> Address {
    let mut bytes = AF_UNIX.to_le_bytes().to_vec();
    bytes.extend_from_slice(name);
    if name.first().is_some_and(|&first| first != 0) {
        bytes.push(0);
    }
    bytes
}

/// A sender's name in a received message: none, if it has none.
fn format_sender(name: &[u8]) -> Address {
    if name.is_empty() { Vec::new() } else { format(name) }
}

impl Socket {
    /// The socket that an address leads to.
    fn look_up(&self, task: &Task, addr: &[u8]) -> Result<Arc<Socket>> {
        let name = parse(addr)?;
        match name.first() {
            None => return Err(Errno::EINVAL),
            Some(0) => {
                let socket = self.common.namespace.unix_names.lock().get(&name).and_then(|socket| socket.upgrade());
                let socket = socket.ok_or(Errno::ECONNREFUSED)?;
                let reaches = task.cred().sandbox.reaches(&socket.common.sandbox, landlock::ABSTRACT_UNIX);
                return if reaches { Ok(socket) } else { Err(Errno::EPERM) };
            }
            Some(_) => {}
        }
        let (context, cred) = (task.fs()?, task.cred());
        let path = Names { context: &context, cred: &cred }.find(&Name::new(&name), Follow::Yes)?;
        perm::check(&**path.inode(), &cred, perm::Want::WRITE)?;
        let bound = path.inode().extra().and_then(|extra| extra.get::<Bound>());
        bound.and_then(|bound| bound.socket()).ok_or(Errno::ECONNREFUSED)
    }

    fn this(&self) -> Result<Arc<Socket>> {
        self.me.upgrade().ok_or(Errno::ENOTCONN)
    }

    /// Gives it an abstract name that nobody has (autobind).
    fn bind_any(self: &Arc<Socket>) -> Result<()> {
        let first = self.common.id as u32;
        for step in 0..0x10_0000_u32 {
            let number = first.wrapping_add(step) & 0xf_ffff;
            let mut name = alloc::vec![0];
            name.extend_from_slice(alloc::format!("{number:05x}").as_bytes());
            match self.bind_abstract(name) {
                Err(Errno::EADDRINUSE) => {}
                result => return result,
            }
        }
        Err(Errno::ENOSPC)
    }

    fn bind_path(self: &Arc<Socket>, task: &Task, name: Vec<u8>) -> Result<()> {
        let (context, cred) = (task.fs()?, task.cred());
        let names = Names { context: &context, cred: &cred };
        let node = names.node(Inode::Socket, 0o777);
        let made = names.create(&Name::new(&name), &node);
        let path = made.map_err(|error| if error == Errno::EEXIST { Errno::EADDRINUSE } else { error })?;
        let extra = path.inode().extra().ok_or(Errno::EOPNOTSUPP)?;
        extra.get_or_insert(|| Arc::new(Bound::new(self)));
        self.set_name(name)
    }

    /// Where a call with an address sends to. A connected stream refuses one.
    fn destination(&self, task: &Task, addr: &[u8]) -> Result<Option<Arc<Socket>>> {
        if addr.is_empty() {
            return Ok(None);
        }
        if self.kind == Kind::SeqPacket {
            // The peer gets it, whatever the address says.
            return Ok(None);
        }
        if self.kind == Kind::Stream {
            return Err(if self.state.lock().connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let target = self.look_up(task, addr)?;
        if target.kind == self.kind { Ok(Some(target)) } else { Err(Errno::EPROTOTYPE) }
    }

    /// Whether credentials go with each message.
    pub(super) fn passes_credentials(&self) -> bool {
        self.common.switches.get(so::PASSCRED)
    }

    /// Whether it wants to know who sends, or may once accept(2) has given it to somebody.
    pub(super) fn asks_who(&self) -> bool {
        self.passes_credentials() || self.common.switches.get(so::PASSPIDFD) || !self.accepted.load(Acquire)
    }
}

/// The credentials that a message names, and may name; otherwise the caller's are sent where they are asked for.
fn credentials(task: &Task, control: &[Control]) -> Result<Option<Sender>> {
    let own = sender(task);
    for message in control {
        if (message.level, message.kind) != (SOL_SOCKET, SCM_CREDENTIALS) {
            if message.level == SOL_SOCKET {
                return Err(Errno::EINVAL);
            }
            continue;
        }
        let bytes: &[u8; 12] = message.bytes.first_chunk().ok_or(Errno::EINVAL)?;
        let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        let (pid, uid, gid) = (of_caller(word(0) as i32).0, word(4), word(8));
        let cred = task.cred();
        let uid = cred.user_ns.take(Which::Users, uid)?;
        let gid = cred.user_ns.take(Which::Groups, gid)?;
        let pid_ok = pid == own.pid || cred.capable_in(&task.process().pid_ns().owner, cap::SYS_ADMIN);
        let uid_ok = [cred.uid, cred.euid, cred.suid].contains(&uid) || cred.capable_here(cap::SETUID);
        let gid_ok = [cred.gid, cred.egid, cred.sgid].contains(&gid) || cred.capable_here(cap::SETGID);
        if !(pid_ok && uid_ok && gid_ok) {
            return Err(Errno::EPERM);
        }
        if pid != own.pid && ids::find_process(Pid(pid)).is_none() {
            return Err(Errno::ESRCH);
        }
        return Ok(Some(Sender { pid, uid, gid }));
    }
    Ok(None)
}

/// Who sends, in the numbers of `task`, the caller.
fn seen(task: &Task, Sender { pid, uid, gid }: Sender) -> Vec<u8> {
    let cred = task.cred();
    words(&[caller_sees(Pid(pid)) as u32, cred.show_uid(uid), cred.show_gid(gid)])
}

/// Gives the caller a descriptor of process `pid`.
fn open_pidfd(task: &Task, pid: i32) -> Result<Vec<u8>> {
    let process = ids::find_process(Pid(pid)).ok_or(Errno::ESRCH)?;
    let file = pidfd::of_process(process, OpenFlags::empty());
    let fd = task.files()?.install(file, OnExec::Close, task.process().limit(RLIMIT_NOFILE))?;
    Ok(fd.0.to_le_bytes().to_vec())
}

impl AnySocket for Socket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, call: &Call<'_>, addr: &[u8]) -> Result<()> {
        let this = self.this()?;
        let name = parse(addr)?;
        if !self.own_name().is_empty() {
            return Err(Errno::EINVAL);
        }
        match name.first() {
            None => this.bind_any(),
            Some(0) => this.bind_abstract(name),
            Some(_) => this.bind_path(call.task, name),
        }
    }

    fn connect(&self, call: &Call<'_>, addr: &[u8]) -> Result<()> {
        if !self.kind.connects() && addr.first_chunk() == Some(&AF_UNSPEC.to_le_bytes()) {
            self.disconnect();
            return Ok(());
        }
        let target = self.look_up(call.task, addr)?;
        self.this()?.connect_to(&target, call.nonblock, sender(call.task))
    }

    fn listen(&self, call: &Call<'_>, backlog: u32) -> Result<()> {
        self.start_listening(backlog, sender(call.task))
    }

    fn accept(&self, call: &Call<'_>) -> Result<Arc<dyn AnySocket>> {
        if !self.kind.connects() {
            return Err(Errno::EOPNOTSUPP);
        }
        let new: Arc<dyn AnySocket> = self.take_connection(call.nonblock)?;
        self.common.namespace.register(&new);
        Ok(new)
    }

    fn name(&self) -> Result<Address> {
        Ok(format(&self.own_name()))
    }

    fn peer_name(&self) -> Result<Address> {
        let state = self.state.lock();
        if state.connected { Ok(format(&state.peer_name)) } else { Err(Errno::ENOTCONN) }
    }

    fn send(&self, call: &Call<'_>, src: &mut IoSrc<'_>, message: Outgoing) -> Result<usize> {
        if call.has(MSG_OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        // Who may not raise limits has no more descriptors under way than it may have open.
        let payer = (!message.files.is_empty()).then(|| User::of(call.task.cred().uid));
        let waiting = payer.as_ref().map_or(0, |user| user.count(Count::InFlight));
        let too_many = message.files.len() as u64 + waiting > call.task.process().limit(RLIMIT_NOFILE);
        if !message.files.is_empty() && too_many && !call.task.capable(cap::SYS_RESOURCE) {
            return Err(Errno::ETOOMANYREFS);
        }
        let to = self.destination(call.task, &message.to)?;
        let extras =
            Extras { files: message.files, payer, sender: credentials(call.task, &message.control)?, from: Vec::new() };
        self.send_to(src, to, extras, call.nonblock)
    }

    fn receive(&self, call: &Call<'_>, dst: &mut IoDst<'_>) -> Result<Incoming> {
        if call.has(MSG_OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if call.has(MSG_ERRQUEUE) && self.kind == Kind::Datagram {
            return Err(Errno::EAGAIN);
        }
        let options = Options { nonblock: call.nonblock, peek: call.has(MSG_PEEK), all: call.has(MSG_WAITALL) };
        let got = self.receive_into(dst, options)?;
        let mut control = Vec::new();
        // At its end a stream is nobody's, and a queue of messages has none.
        if self.passes_credentials() && (self.kind == Kind::Stream || !got.ended) {
            let bytes = match got.extras.sender {
                Some(sender) => seen(call.task, sender),
                None if got.ended => words(&[0, 0, 0]),
                None => words(&[0, OVERFLOW_ID, OVERFLOW_ID]),
            };
            control.push(Control { level: SOL_SOCKET, kind: SCM_CREDENTIALS, bytes });
        }
        if self.common.switches.get(so::PASSPIDFD)
            && let Some(who) = got.extras.sender
            && let Ok(bytes) = open_pidfd(call.task, who.pid)
        {
            control.push(Control { level: SOL_SOCKET, kind: SCM_PIDFD, bytes });
        }
        let from = if self.kind == Kind::Stream { self.peer_sender_name() } else { format_sender(&got.extras.from) };
        Ok(Incoming { count: got.count, full: got.full, from, flags: 0, files: got.extras.files, control })
    }

    fn shutdown(&self, receiving: bool, sending: bool) -> Result<()> {
        self.shut(receiving, sending)
    }

    fn option(&self, task: &Arc<Task>, level: u32, name: u32, _: usize) -> Result<Vec<u8>> {
        if level != SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        match name {
            so::PEERCRED => Ok(self.peer_cred().map_or(words(&[0, u32::MAX, u32::MAX]), |who| seen(task, who))),
            so::PEERPIDFD => open_pidfd(task, self.peer_cred().ok_or(Errno::ENODATA)?.pid),
            so::PEERGROUPS if self.peer_cred().is_none() => Err(Errno::ENODATA),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn is_listening(&self) -> bool {
        self.state.lock().backlog.is_some()
    }

    fn register(&self, table: &mut PollTable) -> Result<()> {
        let peer = self.state.lock().peer.upgrade();
        peer.map_or(Ok(()), |peer| table.register(&peer.common.writers))
    }

    fn poll(&self) -> PollEvents {
        let (peer, connected, offers) = {
            let state = self.state.lock();
            let offers = state.backlog.as_ref().map(|backlog| !backlog.is_empty());
            (state.peer.upgrade(), state.connected, offers)
        };
        if let Some(offers) = offers {
            return if offers { PollEvents::READABLE } else { PollEvents::empty() };
        }
        let ended = self.receive_closed.load(Acquire);
        let mut events = PollEvents::empty();
        if self.ready.load(Acquire) || ended {
            events |= PollEvents::READABLE;
        }
        if ended {
            events |= PollEvents::RDHUP;
        }
        if (ended && self.send_closed.load(Acquire)) || (self.kind.connects() && !connected) {
            events |= PollEvents::HUP;
        }
        if self.common.has_error() {
            events |= PollEvents::ERR;
        }
        if peer.is_none_or(|peer| !peer.full.load(Acquire)) {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    fn ioctl(&self, _: &Arc<Task>, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            FIONREAD | TIOCOUTQ if self.is_listening() => Err(Errno::EINVAL),
            TIOCOUTQ => {
                let peer = self.state.lock().peer.upgrade();
                let unread = peer.map_or(0, |peer| peer.waiting.load(Acquire));
                user::write_val(UserAddr(arg), &(unread as i32)).map(|()| 0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Acquire)
    }

    fn close(&self) {
        self.close_all();
        self.common.namespace.forget(self.common.id);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Socket {
    /// The name that a stream's received messages carry: the peer's, if it has one.
    fn peer_sender_name(&self) -> Address {
        format_sender(&self.state.lock().peer_name)
    }
}
