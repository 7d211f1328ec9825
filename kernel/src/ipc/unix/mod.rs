//! Sockets of AF_UNIX. Source: unix(7), socket(2) and the calls it names.
//!
//! A [`Socket`] owns an [`Inbox`]; sending puts a message into the peer's. Peers hold each other weakly: a socket whose peer
//! is gone reads the rest, then end of file. Names are either abstract (the namespace's table) or an inode's [`Bound`].
//!
//! Locks: `inbox` (sleeping, rank Stream), held while guest memory is copied; `state` (rank `Endpoint`), a leaf among these;
//! never two sockets' at once.

mod garbage;
pub use garbage::settle;
mod inbox;
mod ops;

use crate::fs::{IoDst, IoSrc};
use crate::net::option::default_buffers;
use crate::net::socket::{Common, Socket as _, wait_on};
use crate::net::uapi::*;
use crate::task::{self, Task};
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
pub use inbox::{Extras, Inbox, Received, Sender};
use umbel_smp::lock::{Mutex, Rank, SpinLock};

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

/// Options of a receive call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub nonblock: bool,
    pub peek: bool,
    /// Wait until the buffer is full (`MSG_WAITALL`).
    pub all: bool,
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
    common: Common,
    me: Weak<Socket>,
    inbox: Mutex<Inbox>,
    /// Bytes and messages that wait, and whether more may come: to look at without the lock.
    waiting: AtomicUsize,
    ready: AtomicBool,
    full: AtomicBool,
    /// Nobody sends to it any more (the peer closed or shut down; or it shut down itself).
    receive_closed: AtomicBool,
    /// It sends no more.
    send_closed: AtomicBool,
    /// The end of a connection that accept(2) never took.
    unaccepted: AtomicBool,
    /// Somebody has, or had, a descriptor of it.
    accepted: AtomicBool,
    /// Its last descriptor is gone.
    closed: AtomicBool,
    /// The buffer of whoever sent last.
    room: AtomicUsize,
    state: SpinLock<State>,
}

/// socket(2).
///
/// # Errors
/// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
pub fn create(task: &Task, kind: u32, protocol: u32) -> Result<Arc<Socket>> {
    if protocol > u32::from(AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let kind = Kind::from_raw(kind)?;
    Ok(Socket::new(kind, Common::new(task, (AF_UNIX, kind as u32, 0), default_buffers())))
}

/// socketpair(2): two sockets connected to each other.
///
/// # Errors
/// As [`create`].
pub fn pair(task: &Task, kind: u32, protocol: u32) -> Result<(Arc<Socket>, Arc<Socket>)> {
    let (a, b) = (create(task, kind, protocol)?, create(task, kind, protocol)?);
    let who = sender(task);
    a.join(&b, Vec::new(), who);
    b.join(&a, Vec::new(), who);
    Ok((a, b))
}

/// A socket as it stood at a moment.
pub struct View {
    pub name: Vec<u8>,
    /// The peer's number.
    pub peer: Option<u64>,
    pub connected: bool,
    pub listening: bool,
    /// Bytes, or connections, that wait; and how many connections may.
    pub waiting: usize,
    pub room: usize,
}

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
    fn new(kind: Kind, common: Common) -> Arc<Socket> {
        Arc::new_cyclic(|me| Socket {
            kind,
            common,
            me: me.clone(),
            inbox: Mutex::new(Rank::Stream, Inbox::default()),
            waiting: AtomicUsize::new(0),
            ready: AtomicBool::new(false),
            full: AtomicBool::new(false),
            receive_closed: AtomicBool::new(false),
            send_closed: AtomicBool::new(false),
            unaccepted: AtomicBool::new(false),
            accepted: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            room: AtomicUsize::new(default_buffers().0 as usize),
            state: SpinLock::new(Rank::Endpoint, State::default()),
        })
    }

    fn join(&self, peer: &Arc<Socket>, peer_name: Vec<u8>, who: Sender) {
        let mut state = self.state.lock();
        state.peer = Arc::downgrade(peer);
        state.peer_name = peer_name;
        state.peer_cred = Some(who);
        state.connected = true;
    }

    /// Its name.
    pub fn own_name(&self) -> Vec<u8> {
        self.state.lock().name.clone()
    }

    /// Who its peer is (`SO_PEERCRED`).
    pub fn peer_cred(&self) -> Option<Sender> {
        self.state.lock().peer_cred
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
        let mut names = self.common.namespace.unix_names.lock();
        if names.get(&name).is_some_and(|socket| socket.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        names.insert(name.clone(), Arc::downgrade(self));
        drop(names);
        self.set_name(name)
    }

    /// listen(2).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for datagrams, `EINVAL` without a name or if connected.
    fn start_listening(&self, backlog: u32, who: Sender) -> Result<()> {
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
    fn connect_to(self: &Arc<Socket>, target: &Arc<Socket>, nonblock: bool, who: Sender) -> Result<()> {
        if target.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if !self.kind.connects() {
            self.check_may_send(target)?;
            self.join(target, target.own_name(), who);
            self.wake();
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
        crate::net::room()?;
        let server = Socket::new(self.kind, target.common.inherit());
        server.accepted.store(false, Release);
        server.join(self, self.own_name(), who);
        server.set_name(target.own_name())?;
        let attempt = || target.offer(&server);
        let timeout = &self.common.send_timeout_ns;
        let listener_cred = wait_on(&target.common.writers, timeout, nonblock, attempt)??;
        self.join(&server, target.own_name(), listener_cred);
        target.common.readers.wake_one();
        self.wake();
        Ok(())
    }

    /// Refuses a datagram to a socket that is connected to somebody else.
    fn check_may_send(&self, target: &Socket) -> Result<()> {
        let state = target.state.lock();
        let other = state.connected && !core::ptr::eq(state.peer.as_ptr(), self);
        if other { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// connect(2) with AF_UNSPEC: a datagram socket forgets its peer.
    fn disconnect(&self) {
        let mut state = self.state.lock();
        state.peer = Weak::new();
        state.connected = false;
        state.peer_name.clear();
        state.peer_cred = None;
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
    fn take_connection(&self, nonblock: bool) -> Result<Arc<Socket>> {
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
        let socket = self.common.wait_readable(nonblock, take)??;
        socket.accepted.store(true, Release);
        self.common.writers.wake_all();
        Ok(socket)
    }

    /// Sends `src` to `to`, or the peer.
    ///
    /// # Errors
    /// `EPIPE`, `ENOTCONN`, `ECONNREFUSED`, `EMSGSIZE`, `EAGAIN`, `EFAULT`, …
    fn send_to(&self, src: &mut IoSrc<'_>, to: Option<Arc<Socket>>, extras: Extras, nonblock: bool) -> Result<usize> {
        self.common.check_error()?;
        if self.send_closed.load(Acquire) {
            return Err(Errno::EPIPE);
        }
        let target = match to {
            Some(target) => {
                self.check_may_send(&target)?;
                target
            }
            None => {
                let state = self.state.lock();
                let gone = if self.kind.connects() { Errno::EPIPE } else { Errno::ECONNREFUSED };
                let missing = if state.connected { gone } else { Errno::ENOTCONN };
                state.peer.upgrade().ok_or(missing)?
            }
        };
        let total = src.remaining();
        let mut extras = Some(Extras { from: self.own_name(), ..extras });
        if let Some(extras) = extras.as_mut().filter(|_| self.asks_who() || target.asks_who()) {
            extras.sender.get_or_insert_with(|| sender(&task::current()));
        }
        let mut done = 0;
        loop {
            match target.put(self, src, &mut extras) {
                Ok(Some(count)) => done += count,
                Ok(None) => {
                    let room = || (!target.full.load(Acquire) || target.receive_closed.load(Acquire)).then_some(());
                    let timeout = &self.common.send_timeout_ns;
                    if let Err(error) = wait_on(&target.common.writers, timeout, nonblock, room) {
                        return if done > 0 { Ok(done) } else { Err(error) };
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
    fn put(&self, from: &Socket, src: &mut IoSrc<'_>, extras: &mut Option<Extras>) -> Result<Option<usize>> {
        let (kind, most) = (from.kind, from.common.send_buffer.load(Relaxed) as usize);
        let mut inbox = self.inbox.lock();
        if self.receive_closed.load(Acquire) {
            let gone = self.closed.load(Acquire) && !kind.connects();
            return Err(if gone { Errno::ECONNREFUSED } else { Errno::EPIPE });
        }
        self.room.store(most, Relaxed);
        if inbox.is_full(most) {
            self.note(&inbox);
            return Ok(None);
        }
        let count = match kind {
            Kind::Stream if src.remaining() == 0 => 0,
            Kind::Stream => inbox.push_piece(src, most, extras)?,
            _ if src.remaining() > most.saturating_sub(32) => return Err(Errno::EMSGSIZE),
            _ => inbox.push_message(src, extras.take().unwrap_or_default())?,
        };
        self.note(&inbox);
        drop(inbox);
        self.common.readers.wake_all();
        Ok(Some(count))
    }

    fn note(&self, inbox: &Inbox) {
        let visible = if self.kind == Kind::Stream { inbox.len() } else { inbox.first_len() };
        self.waiting.store(visible, Release);
        self.ready.store(!inbox.is_empty(), Release);
        self.full.store(inbox.is_full(self.room.load(Relaxed)), Release);
    }

    /// Receives into `dst`; nothing at the end of file.
    ///
    /// # Errors
    /// `EAGAIN`, `ENOTCONN`, `EINVAL` if it listens, `EFAULT`, `ERESTARTSYS`.
    fn receive_into(&self, dst: &mut IoDst<'_>, options: Options) -> Result<Received> {
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
            if got.count == 0 {
                self.common.check_error()?;
            }
            // As on Linux, who would not have waited for a datagram does not learn that none will come.
            let tells = self.kind != Kind::Datagram || !options.nonblock;
            if tells && self.receive_closed.load(Acquire) && !self.ready.load(Acquire) {
                got.ended = got.count == 0;
                return Ok(got);
            }
            let over = || (tells && self.receive_closed.load(Acquire)) || self.common.has_error();
            let ready = || (self.ready.load(Acquire) || over()).then_some(());
            if let Err(error) = self.common.wait_readable(options.nonblock, ready) {
                return if got.count > 0 { Ok(got) } else { Err(error) };
            }
        }
    }

    fn take(&self, dst: &mut IoDst<'_>, options: Options) -> Result<Received> {
        let mut inbox = self.inbox.lock();
        let got = match self.kind {
            Kind::Stream => inbox.take_stream(dst, options.peek, self.passes_credentials()),
            _ => inbox.take_message(dst, options.peek),
        };
        self.note(&inbox);
        drop(inbox);
        self.common.writers.wake_all();
        got
    }

    /// shutdown(2): no more receiving, no more sending.
    ///
    /// # Errors
    /// `ENOTCONN`.
    fn shut(&self, receiving: bool, sending: bool) -> Result<()> {
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
    fn close_all(&self) {
        let (peer, backlog, name) = {
            let mut state = self.state.lock();
            let backlog = state.backlog.take();
            (state.peer.upgrade(), backlog, state.name.clone())
        };
        if name.first() == Some(&0) {
            let mut names = self.common.namespace.unix_names.lock();
            // A connection that a listener made has its name, and not its place.
            if names.get(&name).is_some_and(|socket| core::ptr::eq(socket.as_ptr(), self)) {
                names.remove(&name);
            }
        }
        let unread = self.ready.load(Acquire);
        self.closed.store(true, Release);
        self.receive_closed.store(true, Release);
        self.send_closed.store(true, Release);
        if let Some(peer) = peer.filter(|_| self.kind.connects()) {
            peer.receive_closed.store(true, Release);
            peer.send_closed.store(true, Release);
            if unread || self.unaccepted.load(Acquire) {
                peer.common.fail(Errno::ECONNRESET);
            }
            peer.wake();
        }
        for refused in backlog.unwrap_or_default() {
            refused.unaccepted.store(true, Release);
            refused.close();
        }
        // Nobody receives any more; a sender that holds the inbox just now leaves it to the last reference.
        let waiting = self.inbox.try_lock().map(|mut inbox| core::mem::take(&mut *inbox));
        if let Some(waiting) = waiting {
            garbage::bury(waiting);
        }
        garbage::closed();
        self.wake();
    }

    fn wake(&self) {
        self.common.wake();
    }

    /// How it stands now, for those who list sockets.
    pub fn view(&self) -> View {
        let state = self.state.lock();
        View {
            name: state.name.clone(),
            peer: state.peer.upgrade().map(|peer| peer.common.id),
            connected: state.connected,
            listening: state.backlog.is_some(),
            waiting: state.backlog.as_ref().map_or(self.waiting.load(Acquire), VecDeque::len),
            room: if state.backlog.is_some() { state.backlog_max } else { 0 },
        }
    }
}
