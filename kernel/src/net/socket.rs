//! What a socket of any family is to system calls and to descriptors.
//!
//! [`Socket`] is what a family implements; [`Common`] what all of them keep; [`file`] makes an open file of one, [`of`] finds
//! it again. Addresses are the bytes of Linux's `struct sockaddr_*`; an empty one is none.

use super::link::LOOPBACK;
use super::namespace::Namespace;
use super::option::Switches;
use super::route::Query;
use super::uapi::*;
use crate::bpf::Program;
use crate::fs::{Attr, File, FileOps, IoDst, IoSrc, Kind as Inode, OpenFlags, PollEvents, PollTable};
use crate::landlock::Sandbox;
use crate::signal::{self, SIGPIPE, SigInfo};
use crate::syscall::fd::{set_owner, shown_owner};
use crate::task::{self, Task};
use crate::vm::Mappable;
use crate::{Errno, Result, time};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::net::IpAddr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, AtomicU64, Ordering::*};
use umbel_mm::user::{self, UserAddr};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// The bytes of a `struct sockaddr_*`; empty = none.
pub type Address = Vec<u8>;

/// Who calls, and how.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub task: &'a Arc<Task>,
    /// `O_NONBLOCK` or `MSG_DONTWAIT`.
    pub nonblock: bool,
    /// `MSG_*`.
    pub flags: u32,
}

impl Call<'_> {
    /// Whether all these `MSG_*` are given.
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub level: u32,
    pub kind: u32,
    pub bytes: Vec<u8>,
}

/// What goes with the bytes that are sent.
#[derive(Default)]
pub struct Outgoing {
    /// Where to; empty = the peer.
    pub to: Address,
    /// `SCM_RIGHTS`.
    pub files: Vec<Arc<File>>,
    /// Other control messages.
    pub control: Vec<Control>,
}

/// What a receive call got.
#[derive(Default)]
pub struct Incoming {
    /// Bytes given out.
    pub count: usize,
    /// Bytes of the message, given out or cut off.
    pub full: usize,
    pub from: Address,
    /// `MSG_EOR`, `MSG_ERRQUEUE`, …; `MSG_TRUNC` follows from the counts.
    pub flags: u32,
    pub files: Vec<Arc<File>>,
    pub control: Vec<Control>,
}

/// What every socket keeps: what it is, and the options of `SOL_SOCKET`.
pub struct Common {
    /// Changed by `IPV6_ADDRFORM` alone.
    family: AtomicU16,
    pub kind: u32,
    pub protocol: u32,
    /// Number in the file system, for fstat(2); the cookie too.
    pub id: u64,
    pub namespace: Arc<Namespace>,
    /// Who made it, in which sandbox.
    pub uid: u32,
    pub sandbox: Sandbox,
    /// Its receivers and accepters; its senders.
    pub readers: Arc<WaitQueue>,
    pub writers: Arc<WaitQueue>,
    pub switches: Switches,
    /// `SO_ERROR`: taken by whoever reads it.
    error: AtomicI32,
    /// `SO_RCVBUF`, `SO_SNDBUF` as they are read: twice what was asked for.
    pub receive_buffer: AtomicU32,
    pub send_buffer: AtomicU32,
    pub receive_low: AtomicU32,
    /// `SO_LINGER`, seconds; off: -1 less them.
    pub linger: AtomicI32,
    pub priority: AtomicU32,
    pub mark: AtomicU32,
    pub peek_offset: AtomicI32,
    /// `SO_BINDTODEVICE`: a device's index, or 0.
    pub device: AtomicU32,
    /// The device to its peer, once it has one.
    pub link: AtomicU32,
    /// `SO_RCVTIMEO`, `SO_SNDTIMEO`, ns; 0 = none.
    pub receive_timeout_ns: AtomicU64,
    pub send_timeout_ns: AtomicU64,
    /// `SO_BUF_LOCK`: which buffers were set by hand (1 = send, 2 = receive).
    pub buffer_locks: AtomicU32,
    /// `SO_ATTACH_FILTER`; whether there is one, to look at without the lock.
    filter: SpinLock<Option<Arc<Program>>>,
    has_filter: AtomicBool,
    /// When what was last received came, if that was not told with it (`SIOCGSTAMP`); 0 = nothing was.
    pub stamp_ns: AtomicU64,
}

impl Common {
    /// A new socket's, made by `task`, with buffers of these sizes.
    pub fn new(task: &Task, (family, kind, protocol): (u16, u32, u32), (receive, send): (u32, u32)) -> Common {
        let cred = task.cred();
        Common::build(
            super::namespace::of(task),
            (cred.fsuid, cred.sandbox.clone()),
            (family, kind, protocol),
            (receive, send),
        )
    }

    /// Whether it takes what has come in by `device`.
    pub fn takes_from(&self, device: u32) -> bool {
        let own = self.device.load(Relaxed);
        own == 0 || own == device
    }

    /// What it asks about the way to `to`. `from`: the address that it sends from, if it has one.
    pub fn query(&self, to: IpAddr, from: Option<IpAddr>) -> Query {
        Query { to, from, device: self.device.load(Relaxed), mark: self.mark.load(Relaxed) }
    }

    /// For a connection that `self` accepts: the same options.
    pub fn inherit(&self) -> Common {
        let new = Common::build(
            self.namespace.clone(),
            (self.uid, self.sandbox.clone()),
            (self.family(), self.kind, self.protocol),
            (self.receive_buffer.load(Relaxed), self.send_buffer.load(Relaxed)),
        );
        new.switches.copy(&self.switches);
        for (to, from) in [
            (&new.receive_low, &self.receive_low),
            (&new.priority, &self.priority),
            (&new.mark, &self.mark),
            (&new.device, &self.device),
            (&new.buffer_locks, &self.buffer_locks),
        ] {
            to.store(from.load(Relaxed), Relaxed);
        }
        new.set_filter(self.filter());
        new.linger.store(self.linger.load(Relaxed), Relaxed);
        new.receive_timeout_ns.store(self.receive_timeout_ns.load(Relaxed), Relaxed);
        new.send_timeout_ns.store(self.send_timeout_ns.load(Relaxed), Relaxed);
        new
    }

    fn build(
        namespace: Arc<Namespace>,
        (uid, sandbox): (u32, Sandbox),
        (family, kind, protocol): (u16, u32, u32),
        (receive, send): (u32, u32),
    ) -> Common {
        Common {
            family: AtomicU16::new(family),
            kind,
            protocol,
            id: crate::fs::next_ino(),
            namespace,
            uid,
            sandbox,
            readers: Arc::new(WaitQueue::new()),
            writers: Arc::new(WaitQueue::new()),
            switches: Switches::default(),
            error: AtomicI32::new(0),
            receive_buffer: AtomicU32::new(receive),
            send_buffer: AtomicU32::new(send),
            receive_low: AtomicU32::new(1),
            linger: AtomicI32::new(-1),
            priority: AtomicU32::new(0),
            mark: AtomicU32::new(0),
            peek_offset: AtomicI32::new(-1),
            device: AtomicU32::new(0),
            link: AtomicU32::new(LOOPBACK),
            receive_timeout_ns: AtomicU64::new(0),
            send_timeout_ns: AtomicU64::new(0),
            buffer_locks: AtomicU32::new(0),
            filter: SpinLock::new(Rank::Leaf, None),
            has_filter: AtomicBool::new(false),
            stamp_ns: AtomicU64::new(0),
        }
    }

    /// `AF_*`.
    pub fn family(&self) -> u16 {
        self.family.load(Relaxed)
    }

    /// Makes a socket of AF_INET6 one of AF_INET.
    pub fn become_v4(&self) {
        self.family.store(AF_INET, Relaxed);
    }

    /// Sets the filter, or takes it away; the old one.
    pub fn set_filter(&self, new: Option<Arc<Program>>) -> Option<Arc<Program>> {
        let mut filter = self.filter.lock();
        self.has_filter.store(new.is_some(), Release);
        core::mem::replace(&mut *filter, new)
    }

    /// The filter.
    pub fn filter(&self) -> Option<Arc<Program>> {
        if self.has_filter.load(Acquire) { self.filter.lock().clone() } else { None }
    }

    /// Notes an error for the next call, and wakes everybody.
    pub fn fail(&self, error: Errno) {
        self.error.store(error.raw(), Release);
        self.wake();
    }

    /// Whether an error waits.
    pub fn has_error(&self) -> bool {
        self.error.load(Acquire) != 0
    }

    /// Takes the error that waits.
    pub fn take_error(&self) -> Option<Errno> {
        if !self.has_error() {
            return None;
        }
        let raw = self.error.swap(0, AcqRel);
        (raw != 0).then(|| Errno::from_raw(raw))
    }

    /// As [`Self::take_error`], as a result.
    ///
    /// # Errors
    /// The error that waited.
    pub fn check_error(&self) -> Result<()> {
        self.take_error().map_or(Ok(()), Err)
    }

    /// Wakes readers and writers.
    pub fn wake(&self) {
        self.readers.wake_all();
        self.writers.wake_all();
    }

    /// Waits as a receiver until `condition` gives a value.
    ///
    /// # Errors
    /// `EAGAIN` if the call must not wait, or after `SO_RCVTIMEO`; `ERESTARTSYS`, or `EINTR` with a timeout.
    pub fn wait_readable<R>(&self, nonblock: bool, condition: impl FnMut() -> Option<R>) -> Result<R> {
        wait_on(&self.readers, &self.receive_timeout_ns, nonblock, condition)
    }

    /// Waits as a sender until `condition` gives a value.
    ///
    /// # Errors
    /// As [`Self::wait_readable`], with `SO_SNDTIMEO`.
    pub fn wait_writable<R>(&self, nonblock: bool, condition: impl FnMut() -> Option<R>) -> Result<R> {
        wait_on(&self.writers, &self.send_timeout_ns, nonblock, condition)
    }
}

/// Waits on `queue` for a call with a timeout option.
///
/// # Errors
/// As [`Common::wait_readable`].
pub fn wait_on<R>(
    queue: &WaitQueue,
    timeout_ns: &AtomicU64,
    nonblock: bool,
    mut condition: impl FnMut() -> Option<R>,
) -> Result<R> {
    if let Some(value) = condition() {
        return Ok(value);
    }
    if nonblock {
        return Err(Errno::EAGAIN);
    }
    let timeout = timeout_ns.load(Relaxed);
    let deadline = (timeout != 0).then(|| time::deadline_in(timeout));
    queue.wait_interruptible(deadline, condition).map_err(|wake| match wake {
        Wake::TimedOut => Errno::EAGAIN,
        Wake::Interrupted if timeout != 0 => Errno::EINTR,
        Wake::Interrupted => Errno::ERESTARTSYS,
    })
}

/// A socket of some family. Calls may sleep, but for `poll` and `close`.
#[allow(unused_variables)]
pub trait Socket: Send + Sync + Any {
    /// What it keeps for all families.
    fn common(&self) -> &Common;

    /// bind(2).
    fn bind(&self, call: &Call<'_>, addr: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// connect(2).
    fn connect(&self, call: &Call<'_>, addr: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// listen(2).
    fn listen(&self, call: &Call<'_>, backlog: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// accept(2): the connection.
    fn accept(&self, call: &Call<'_>) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// getsockname(2).
    fn name(&self) -> Result<Address>;

    /// getpeername(2).
    fn peer_name(&self) -> Result<Address> {
        Err(Errno::ENOTCONN)
    }

    /// Sends all of `src`, or what fits; the bytes sent.
    fn send(&self, call: &Call<'_>, src: &mut IoSrc<'_>, message: Outgoing) -> Result<usize>;

    /// Receives into `dst`; nothing at the end of a stream.
    fn receive(&self, call: &Call<'_>, dst: &mut IoDst<'_>) -> Result<Incoming>;

    /// shutdown(2): no more receiving, no more sending.
    fn shutdown(&self, receiving: bool, sending: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// An option of a level other than `SOL_SOCKET`, or one of that level that not all sockets have. `room`: bytes the caller takes.
    fn option(&self, task: &Arc<Task>, level: u32, name: u32, room: usize) -> Result<Vec<u8>> {
        Err(if level == SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP })
    }

    /// Sets such an option.
    fn set_option(&self, task: &Arc<Task>, level: u32, name: u32, value: &[u8]) -> Result<()> {
        Err(if level == SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP })
    }

    /// Whether it listens.
    fn is_listening(&self) -> bool {
        false
    }

    /// What is ready. The caller has registered with the queues of [`Common`].
    fn poll(&self) -> PollEvents;

    /// Queues beside its own on which its readiness depends.
    fn register(&self, table: &mut PollTable) -> Result<()> {
        Ok(())
    }

    /// A request of ioctl(2) that not all sockets have.
    fn ioctl(&self, task: &Arc<Task>, cmd: u32, arg: u64) -> Result<u64> {
        Err(Errno::ENOTTY)
    }

    /// What mmap(2) of it maps.
    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        Err(Errno::ENODEV)
    }

    /// Bytes that wait to be received.
    fn waiting(&self) -> usize {
        0
    }

    /// `SO_SNDBUF` has changed.
    fn buffers_changed(&self) {}

    /// The last descriptor goes by close(2): waits until what was sent has arrived, if `SO_LINGER` says so.
    fn linger(&self) {}

    /// The last descriptor is gone. Must not sleep.
    fn close(&self);

    /// For families to find their own type again.
    fn as_any(&self) -> &dyn Any;
}

/// What a descriptor of a socket does.
struct Ops(Arc<dyn Socket>);

impl Ops {
    /// Writes when the last packet came, in units of `unit_ns` below the second.
    fn stamp(&self, arg: u64, unit_ns: u64) -> Result<u64> {
        match self.0.common().stamp_ns.load(Relaxed) {
            0 => Err(Errno::ENOENT),
            at_ns => {
                let parts = [at_ns / time::SEC_NS, at_ns % time::SEC_NS / unit_ns];
                user::write_val(UserAddr(arg), &parts).map(|()| 0)
            }
        }
    }
}

impl FileOps for Ops {
    fn splices(&self) -> bool {
        true
    }

    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let task = task::current();
        let call = Call { task: &task, nonblock: file.nonblocking(), flags: 0 };
        self.0.receive(&call, dst).map(|got| got.count)
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let task = task::current();
        let call = Call { task: &task, nonblock: file.nonblocking(), flags: 0 };
        send(&self.0, &call, src, Outgoing::default())
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        let common = self.0.common();
        if let Some(table) = table {
            let own = table.register(&common.readers).and(table.register(&common.writers));
            if own.is_err() || self.0.register(table).is_err() {
                return PollEvents::ERR;
            }
        }
        self.0.poll()
    }

    fn ioctl(&self, task: &Arc<Task>, file: &File, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            FIOSETOWN | SIOCSPGRP => {
                set_owner(file, user::read_val(UserAddr(arg))?)?;
                Ok(0)
            }
            FIOGETOWN | SIOCGPGRP => user::write_val(UserAddr(arg), &shown_owner(file)).map(|()| 0),
            SIOCGSTAMP | SIOCGSTAMP_NEW => self.stamp(arg, 1000),
            SIOCGSTAMPNS | SIOCGSTAMPNS_NEW => self.stamp(arg, 1),
            FIONREAD if !self.0.is_listening() => {
                user::write_val(UserAddr(arg), &(self.0.waiting().min(i32::MAX as usize) as i32))?;
                Ok(0)
            }
            _ => match self.0.ioctl(task, cmd, arg) {
                Err(Errno::ENOTTY) => super::link::ioctl::ioctl(task, &self.0.common().namespace, cmd, arg),
                result => result,
            },
        }
    }

    fn mappable(&self, _: &File) -> Result<Arc<dyn Mappable>> {
        self.0.mappable()
    }

    fn attr(&self, _: &File) -> Result<Attr> {
        Ok(Attr::new(Inode::Socket, 0o777, self.0.common().id))
    }

    fn last_close(&self, _: &File) {
        self.0.linger();
    }

    fn release(&self, _: &File) {
        self.0.close();
    }

    fn describe(&self, _: &File) -> String {
        format!("socket:[{}]", self.0.common().id)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Sends; SIGPIPE goes with `EPIPE` of a stream.
///
/// # Errors
/// Those of [`Socket::send`].
pub fn send(socket: &Arc<dyn Socket>, call: &Call<'_>, src: &mut IoSrc<'_>, message: Outgoing) -> Result<usize> {
    let result = socket.send(call, src, message);
    if result == Err(Errno::EPIPE) && !call.has(MSG_NOSIGNAL) && socket.common().kind != SOCK_DGRAM {
        signal::send_to_task(call.task, SigInfo::kernel(SIGPIPE));
    }
    result
}

/// An open file of `socket`. `flags`: `O_NONBLOCK`.
pub fn file(socket: Arc<dyn Socket>, flags: OpenFlags) -> Arc<File> {
    File::anonymous(Arc::new(Ops(socket)), flags | OpenFlags::RDWR)
}

/// The socket behind an open file.
///
/// # Errors
/// `ENOTSOCK`.
pub fn of(file: &File) -> Result<&Arc<dyn Socket>> {
    file.ops_as::<Ops>().map(|ops| &ops.0).ok_or(Errno::ENOTSOCK)
}
