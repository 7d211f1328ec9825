//! Sockets of AF_UNIX. Source: unix(7), socket(2) and the calls it names.
//!
//! A [`Socket`] owns an [`Inbox`]; sending puts a message into the peer's. Peers hold each other weakly: a socket whose peer
//! is gone reads the rest, then end of file. Names are either abstract ([`NAMES`]) or an inode's [`Bound`].
//!
//! Locks: `inbox` (sleeping, rank Stream), held while guest memory is copied; `state` (rank `Endpoint`), a leaf among these;
//! never two sockets' at once.

mod inbox;
mod ops;

pub use inbox::{Extras, Inbox, Received, Sender};
pub use ops::{file, of};

use crate::fs::{IoDst, IoSrc};
use crate::signal::{self, SIGPIPE, SigInfo};
use crate::task::{self, Task};
use crate::{Errno, Result};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use umbel_smp::lock::{Mutex, Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// Kinds of sockets, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stream = 1,
    Datagram = 2,
    SeqPacket = 5,
}

impl Kind {
    /// From the type argument of socket(2).
    ///
    /// # Errors
    /// `ESOCKTNOSUPPORT`. A raw socket is a datagram socket, as on Linux.
    pub fn from_raw(raw: u32) -> Result<Kind> {
        Ok(match raw {
            1 => Kind::Stream,
            2 | 3 => Kind::Datagram,
            5 => Kind::SeqPacket,
            _ => return Err(Errno::ESOCKTNOSUPPORT),
        })
    }

    /// Whether it has a peer for life and listens.
    pub fn connects(self) -> bool {
        self != Kind::Datagram
    }
}

/// Options of a send or receive call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub nonblock: bool,
    pub peek: bool,
    /// Wait until the buffer is full (`MSG_WAITALL`).
    pub all: bool,
    /// No SIGPIPE (`MSG_NOSIGNAL`).
    pub quiet: bool,
}

#[derive(Default)]
struct State {
    /// Its name: a path, or a NUL and anything; empty = none.
    name: Vec<u8>,
    peer: Weak<Socket>,
    /// The peer's name when the connection was made, and who it is.
    peer_name: Vec<u8>,
    peer_cred: Option<Sender>,
    /// It was connected once.
    connected: bool,
    /// Connections that accept(2) has not taken; `None` if it does not listen.
    backlog: Option<VecDeque<Arc<Socket>>>,
    backlog_max: usize,
}

/// See the module.
pub struct Socket {
    pub kind: Kind,
    /// Number in the file system, for fstat(2).
    pub id: u64,
    inbox: Mutex<Inbox>,
    /// Bytes and messages that wait, and whether more may come: to look at without the lock.
    waiting: AtomicUsize,
    ready: AtomicBool,
    full: AtomicBool,
    /// Nobody sends to it any more (the peer closed or shut down; or it shut down itself).
    receive_closed: AtomicBool,
    /// It sends no more.
    send_closed: AtomicBool,
    state: SpinLock<State>,
    /// Its readers and accepters; and those who send to it.
    readers: Arc<WaitQueue>,
    writers: Arc<WaitQueue>,
    /// `SO_PASSCRED`.
    pub pass_cred: AtomicBool,
    /// `SO_RCVTIMEO`, `SO_SNDTIMEO`, ns; 0 = none.
    pub receive_timeout_ns: AtomicU64,
    pub send_timeout_ns: AtomicU64,
}

/// Abstract names.
static NAMES: SpinLock<BTreeMap<Vec<u8>, Weak<Socket>>> = SpinLock::new(Rank::Endpoint, BTreeMap::new());

/// The socket behind an inode.
pub struct Bound(SpinLock<Weak<Socket>>);

impl Bound {
    /// An inode's, made by bind(2).
    pub fn new(socket: &Arc<Socket>) -> Bound {
        Bound(SpinLock::new(Rank::Endpoint, Arc::downgrade(socket)))
    }

    /// The socket, while it is open.
    pub fn socket(&self) -> Option<Arc<Socket>> {
        self.0.lock().upgrade()
    }
}

/// The caller's identity, for its peers.
pub fn sender(task: &Task) -> Sender {
    let cred = task.cred();
    Sender { pid: task.process().pid().0, uid: cred.euid, gid: cred.egid }
}

impl Socket {
    /// A socket without name and peer.
    pub fn new(kind: Kind) -> Arc<Socket> {
        Arc::new(Socket {
            kind,
            id: crate::fs::next_ino(),
            inbox: Mutex::new(Rank::Stream, Inbox::default()),
            waiting: AtomicUsize::new(0),
            ready: AtomicBool::new(false),
            full: AtomicBool::new(false),
            receive_closed: AtomicBool::new(false),
            send_closed: AtomicBool::new(false),
            state: SpinLock::new(Rank::Endpoint, State::default()),
            readers: Arc::new(WaitQueue::new()),
            writers: Arc::new(WaitQueue::new()),
            pass_cred: AtomicBool::new(false),
            receive_timeout_ns: AtomicU64::new(0),
            send_timeout_ns: AtomicU64::new(0),
        })
    }

    /// Two sockets connected to each other.
    pub fn pair(kind: Kind, who: Sender) -> (Arc<Socket>, Arc<Socket>) {
        let (a, b) = (Socket::new(kind), Socket::new(kind));
        a.join(&b, Vec::new(), who);
        b.join(&a, Vec::new(), who);
        (a, b)
    }

    fn join(&self, peer: &Arc<Socket>, peer_name: Vec<u8>, who: Sender) {
        let mut state = self.state.lock();
        state.peer = Arc::downgrade(peer);
        state.peer_name = peer_name;
        state.peer_cred = Some(who);
        state.connected = true;
    }

    /// Its name.
    pub fn name(&self) -> Vec<u8> {
        self.state.lock().name.clone()
    }

    /// Its peer's name.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn peer_name(&self) -> Result<Vec<u8>> {
        let state = self.state.lock();
        if state.connected { Ok(state.peer_name.clone()) } else { Err(Errno::ENOTCONN) }
    }

    /// Who its peer is (`SO_PEERCRED`).
    pub fn peer_cred(&self) -> Option<Sender> {
        self.state.lock().peer_cred
    }

    /// Whether it listens.
    pub fn is_listening(&self) -> bool {
        self.state.lock().backlog.is_some()
    }

    /// Bytes that wait to be received.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Acquire)
    }

    /// Names it; the caller has made sure that the name leads here.
    ///
    /// # Errors
    /// `EINVAL` if it has a name.
    pub fn set_name(&self, name: Vec<u8>) -> Result<()> {
        let mut state = self.state.lock();
        if !state.name.is_empty() {
            return Err(Errno::EINVAL);
        }
        state.name = name;
        Ok(())
    }

    /// Gives it an abstract name.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EINVAL` if it has a name.
    pub fn bind_abstract(self: &Arc<Socket>, name: Vec<u8>) -> Result<()> {
        let mut names = NAMES.lock();
        if names.get(&name).is_some_and(|socket| socket.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        names.insert(name.clone(), Arc::downgrade(self));
        drop(names);
        self.set_name(name)
    }

    /// The socket of an abstract name.
    pub fn find_abstract(name: &[u8]) -> Option<Arc<Socket>> {
        NAMES.lock().get(name)?.upgrade()
    }

    /// listen(2).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for datagrams, `EINVAL` without a name or if connected.
    pub fn listen(&self, backlog: u32, who: Sender) -> Result<()> {
        if !self.kind.connects() {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if state.name.is_empty() || state.connected {
            return Err(Errno::EINVAL);
        }
        state.backlog.get_or_insert_default();
        state.backlog_max = backlog.min(4096) as usize;
        state.peer_cred = Some(who);
        Ok(())
    }

    /// Connects to `target`; `nonblock`: does not wait for room in its backlog.
    ///
    /// # Errors
    /// `ECONNREFUSED`, `EPROTOTYPE`, `EISCONN`, `EAGAIN`, `ERESTARTSYS`.
    pub fn connect(self: &Arc<Socket>, target: &Arc<Socket>, nonblock: bool, who: Sender) -> Result<()> {
        if target.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if !self.kind.connects() {
            self.join(target, target.name(), who);
            return Ok(());
        }
        {
            let state = self.state.lock();
            if state.connected {
                return Err(Errno::EISCONN);
            }
            if state.backlog.is_some() {
                return Err(Errno::EINVAL);
            }
        }
        let server = Socket::new(self.kind);
        server.join(self, self.name(), who);
        server.set_name(target.name())?;
        let attempt = || target.offer(&server);
        let offered = match attempt() {
            Some(offered) => offered,
            None if nonblock => return Err(Errno::EAGAIN),
            None => target.writers.wait_interruptible(None, attempt).map_err(|_| Errno::ERESTARTSYS)?,
        };
        let listener_cred = offered?;
        self.join(&server, target.name(), listener_cred);
        target.readers.wake_all();
        Ok(())
    }

    /// Puts a new connection into the backlog: `None` if there is no room.
    fn offer(&self, server: &Arc<Socket>) -> Option<Result<Sender>> {
        let mut state = self.state.lock();
        let max = state.backlog_max;
        let who = state.peer_cred.unwrap_or_default();
        if self.receive_closed.load(Acquire) {
            return Some(Err(Errno::ECONNREFUSED));
        }
        let Some(backlog) = &mut state.backlog else { return Some(Err(Errno::ECONNREFUSED)) };
        if backlog.len() > max {
            return None;
        }
        if backlog.try_reserve(1).is_err() {
            return Some(Err(Errno::ENOMEM));
        }
        backlog.push_back(server.clone());
        Some(Ok(who))
    }

    /// Takes a connection.
    ///
    /// # Errors
    /// `EINVAL` if it does not listen, `EAGAIN`, `ERESTARTSYS`.
    pub fn accept(&self, nonblock: bool) -> Result<Arc<Socket>> {
        let take = || {
            let mut state = self.state.lock();
            match &mut state.backlog {
                None => Some(Err(Errno::EINVAL)),
                Some(backlog) => match backlog.pop_front() {
                    Some(socket) => Some(Ok(socket)),
                    None if self.receive_closed.load(Acquire) => Some(Err(Errno::EINVAL)),
                    None => None,
                },
            }
        };
        let socket = match take() {
            Some(result) => result?,
            None if nonblock => return Err(Errno::EAGAIN),
            None => match self.readers.wait_interruptible(deadline(&self.receive_timeout_ns), take) {
                Ok(result) => result?,
                Err(wake) => return Err(errno_of(wake)),
            },
        };
        self.writers.wake_all();
        Ok(socket)
    }

    /// Sends `src` to `to`, or the peer.
    ///
    /// # Errors
    /// `EPIPE` (with SIGPIPE), `ENOTCONN`, `ECONNREFUSED`, `EMSGSIZE`, `EAGAIN`, `EFAULT`, …
    pub fn send(
        &self,
        src: &mut IoSrc<'_>,
        to: Option<Arc<Socket>>,
        extras: Extras,
        options: Options,
    ) -> Result<usize> {
        let result = self.try_send(src, to, extras, options);
        if result == Err(Errno::EPIPE) && !options.quiet && self.kind.connects() {
            signal::send_to_task(&task::current(), SigInfo::kernel(SIGPIPE));
        }
        result
    }

    fn try_send(
        &self,
        src: &mut IoSrc<'_>,
        to: Option<Arc<Socket>>,
        extras: Extras,
        options: Options,
    ) -> Result<usize> {
        if self.send_closed.load(Acquire) {
            return Err(Errno::EPIPE);
        }
        let target = match to {
            Some(target) => target,
            None => {
                let state = self.state.lock();
                let gone = if self.kind.connects() { Errno::EPIPE } else { Errno::ECONNREFUSED };
                let missing = if state.connected { gone } else { Errno::ENOTCONN };
                state.peer.upgrade().ok_or(missing)?
            }
        };
        let total = src.remaining();
        let mut extras = Some(Extras { from: self.name(), ..extras });
        let mut done = 0;
        loop {
            match target.put(self.kind, src, &mut extras) {
                Ok(Some(count)) => done += count,
                Ok(None) if options.nonblock => return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) },
                Ok(None) => {
                    let room = || (!target.full.load(Acquire) || target.receive_closed.load(Acquire)).then_some(());
                    let waited = target.writers.wait_interruptible(deadline(&self.send_timeout_ns), room);
                    if let Err(wake) = waited {
                        return if done > 0 { Ok(done) } else { Err(errno_of(wake)) };
                    }
                }
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
            if done >= total {
                return Ok(done);
            }
        }
    }

    /// Puts a message, or a piece of a stream, into this inbox; `None` if there is no room.
    fn put(&self, kind: Kind, src: &mut IoSrc<'_>, extras: &mut Option<Extras>) -> Result<Option<usize>> {
        let mut inbox = self.inbox.lock();
        if self.receive_closed.load(Acquire) {
            return Err(if kind.connects() { Errno::EPIPE } else { Errno::ECONNREFUSED });
        }
        if inbox.is_full() {
            return Ok(None);
        }
        let count = match kind {
            Kind::Stream if src.remaining() == 0 => 0,
            Kind::Stream => inbox.push_piece(src, extras)?,
            _ => inbox.push_message(src, extras.take().unwrap_or_default())?,
        };
        self.note(&inbox);
        drop(inbox);
        self.readers.wake_all();
        Ok(Some(count))
    }

    fn note(&self, inbox: &Inbox) {
        let visible = if self.kind == Kind::Stream { inbox.len() } else { inbox.first_len() };
        self.waiting.store(visible, Release);
        self.ready.store(!inbox.is_empty(), Release);
        self.full.store(inbox.is_full(), Release);
    }

    /// Receives into `dst`; nothing at the end of file.
    ///
    /// # Errors
    /// `EAGAIN`, `ENOTCONN`, `EINVAL` if it listens, `EFAULT`, `ERESTARTSYS`.
    pub fn receive(&self, dst: &mut IoDst<'_>, options: Options) -> Result<Received> {
        {
            let state = self.state.lock();
            if state.backlog.is_some() || (self.kind == Kind::Stream && !state.connected) {
                return Err(Errno::EINVAL);
            }
            if self.kind == Kind::SeqPacket && !state.connected {
                return Err(Errno::ENOTCONN);
            }
        }
        let mut got = Received::default();
        loop {
            if self.ready.load(Acquire) {
                let part = self.take(dst, options)?;
                if got.count == 0 {
                    got.extras = part.extras;
                }
                got.count += part.count;
                got.full += part.full;
                let wants_more = options.all && self.kind == Kind::Stream && !options.peek && dst.remaining() > 0;
                if !wants_more {
                    return Ok(got);
                }
                continue;
            }
            if self.receive_closed.load(Acquire) && !self.ready.load(Acquire) {
                return Ok(got);
            }
            if options.nonblock {
                return if got.count > 0 { Ok(got) } else { Err(Errno::EAGAIN) };
            }
            let ready = || (self.ready.load(Acquire) || self.receive_closed.load(Acquire)).then_some(());
            if let Err(wake) = self.readers.wait_interruptible(deadline(&self.receive_timeout_ns), ready) {
                return if got.count > 0 { Ok(got) } else { Err(errno_of(wake)) };
            }
        }
    }

    fn take(&self, dst: &mut IoDst<'_>, options: Options) -> Result<Received> {
        let mut inbox = self.inbox.lock();
        let got = match self.kind {
            Kind::Stream => inbox.take_stream(dst, options.peek),
            _ => inbox.take_message(dst, options.peek),
        };
        self.note(&inbox);
        drop(inbox);
        self.writers.wake_all();
        got
    }

    /// shutdown(2): no more receiving, no more sending.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn shutdown(&self, receiving: bool, sending: bool) -> Result<()> {
        let peer = {
            let state = self.state.lock();
            if self.kind.connects() && !state.connected && state.backlog.is_none() {
                return Err(Errno::ENOTCONN);
            }
            state.peer.upgrade()
        };
        let connected = self.kind.connects();
        if receiving {
            self.receive_closed.store(true, Release);
            if let Some(peer) = peer.as_ref().filter(|_| connected) {
                peer.send_closed.store(true, Release);
            }
        }
        if sending {
            self.send_closed.store(true, Release);
            if let Some(peer) = peer.as_ref().filter(|_| connected) {
                peer.receive_closed.store(true, Release);
            }
        }
        self.wake();
        if let Some(peer) = peer {
            peer.wake();
        }
        Ok(())
    }

    /// The last descriptor is gone.
    fn close(&self) {
        let (peer, backlog, name) = {
            let mut state = self.state.lock();
            let backlog = state.backlog.take();
            (state.peer.upgrade(), backlog, state.name.clone())
        };
        if name.first() == Some(&0) {
            NAMES.lock().remove(&name);
        }
        self.receive_closed.store(true, Release);
        self.send_closed.store(true, Release);
        if let Some(peer) = peer.filter(|_| self.kind.connects()) {
            peer.receive_closed.store(true, Release);
            peer.send_closed.store(true, Release);
            peer.wake();
        }
        for refused in backlog.unwrap_or_default() {
            refused.close();
        }
        self.wake();
    }

    fn wake(&self) {
        self.readers.wake_all();
        self.writers.wake_all();
    }
}

fn deadline(timeout_ns: &AtomicU64) -> Option<u64> {
    match timeout_ns.load(Relaxed) {
        0 => None,
        ns => Some(crate::time::deadline_in(ns)),
    }
}

fn errno_of(wake: Wake) -> Errno {
    match wake {
        Wake::Interrupted => Errno::ERESTARTSYS,
        Wake::TimedOut => Errno::EAGAIN,
    }
}
