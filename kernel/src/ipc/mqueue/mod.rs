//! POSIX message queues. Source: mq_overview(7), mq_send(3), mq_receive(3), mq_notify(3).
//!
//! Queues are found by name in their IPC namespace; a descriptor is an open file whose operations are [`Mq`]. Messages wait by priority, then by
//! arrival. A process may ask to be told when a message comes to an empty queue that nobody waits at.
//!
//! Locks (spinning): the table of names ([`fs`]), then a queue's `state` (Endpoint).

mod fs;

pub use fs::MqFs;
use fs::New;

use crate::fs::{Attr, File, FileOps, Inode, IoDst, Kind, OpenFlags, PollEvents, PollTable, SetAttr, Time, anon};
use crate::ipc::sysv;
use crate::net::netlink;
use crate::setting::Setting;
use crate::signal::{self, SigInfo};
use crate::task::{self, Charge, Count, Cred, Process, Task, User, cap};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// Highest priority and one (`MQ_PRIO_MAX`).
pub const PRIO_MAX: u32 = 32768;
/// fs.mqueue.queues_max, msg_max, msgsize_max, and the defaults of the latter two.
pub static QUEUES_MAX: Setting = Setting::new(256, 0, i32::MAX as u64);
pub static MSG_MAX: Setting = Setting::new(10, 1, HARD_MSG_MAX);
pub static MSGSIZE_MAX: Setting = Setting::new(8192, 128, HARD_MSGSIZE_MAX);
pub static MSG_DEFAULT: Setting = Setting::new(10, 1, HARD_MSG_MAX);
pub static MSGSIZE_DEFAULT: Setting = Setting::new(8192, 128, HARD_MSGSIZE_MAX);
/// What nobody may go beyond.
const HARD_MSG_MAX: u64 = 65536;
const HARD_MSGSIZE_MAX: u64 = 1 << 24;
/// Bytes of the kernel's heap that queues leave to others.
const HEAP_MARGIN: u64 = 2 << 20;
/// Bytes that a message costs beyond its text, and bytes of a priority: what Linux's structures take.
const MESSAGE_BYTES: u64 = 48;
const PRIORITY_BYTES: u64 = 48;
/// `SI_MESGQ`.
const SI_MESGQ: i32 = -3;

/// The queues of an IPC namespace, by name.
pub struct Names(Arc<MqFs>);

impl Names {
    /// None.
    pub fn new() -> Names {
        Names(MqFs::new())
    }

    /// The file system that shows them.
    pub fn fs(&self) -> Arc<MqFs> {
        self.0.clone()
    }
}

/// The namespace ends: whoever has the file system mounted sees its queues, and makes no more.
impl Drop for Names {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue.
pub struct Queue {
    name: Box<[u8]>,
    ino: u64,
    fs: Weak<MqFs>,
    me: Weak<Queue>,
    /// Owner, mode, times and size as a file.
    meta: SpinLock<Attr>,
    max_messages: usize,
    max_size: usize,
    /// What it may hold, charged to whoever made it.
    _charge: Charge,
    state: SpinLock<State>,
    senders: Arc<WaitQueue>,
    receivers: Arc<WaitQueue>,
}

#[derive(Default)]
struct State {
    /// By falling priority, each in order of arrival.
    by_priority: BTreeMap<core::cmp::Reverse<u32>, VecDeque<Box<[u8]>>>,
    count: usize,
    bytes: usize,
    /// Threads that wait to receive.
    waiting: usize,
    notify: Option<Notify>,
}

/// Who is told of the next message.
struct Notify {
    process: Weak<Process>,
    pid: i32,
    how: How,
}

/// How a process is told.
#[derive(Clone)]
pub enum How {
    /// Not at all (`SIGEV_NONE`).
    Silent,
    /// By a signal with a value.
    Signal(u32, u64),
    /// By a cookie through a netlink socket, at which the C library's thread waits (`SIGEV_THREAD`).
    Socket(Arc<File>, [u8; COOKIE]),
}

/// Bytes of a cookie; the last says why it comes.
pub const COOKIE: usize = 32;

/// Size of a queue as mq_open(3) is given it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub messages: i64,
    pub bytes: i64,
}

/// An open queue.
pub struct Mq(Arc<Queue>);

/// Opens the queue `name`, made with `mode` and `size` if `O_CREAT` says so.
///
/// # Errors
/// `EACCES`, `EEXIST`, `ENOENT`, `EINVAL`, `ENOSPC`, `EMFILE` beyond `RLIMIT_MSGQUEUE`.
pub fn open(task: &Task, name: &[u8], flags: OpenFlags, mode: u32, size: Option<Size>) -> Result<Arc<File>> {
    let (queue, made) = sysv::namespace().queues.0.open(task, &New { name, mode, size }, flags)?;
    if !made {
        queue.check(&task.cred(), flags)?;
    }
    let kept = flags & (OpenFlags::NONBLOCK | OpenFlags::WRONLY | OpenFlags::RDWR);
    Ok(File::anonymous(Arc::new(Mq(queue)), kept))
}

/// Messages and bytes of a new queue.
fn checked(size: Option<Size>, cred: &Cred) -> Result<Size> {
    let usual = |default: &Setting, most: &Setting| default.get().min(most.get()) as i64;
    let Some(size) = size else {
        let (messages, bytes) = (usual(&MSG_DEFAULT, &MSG_MAX), usual(&MSGSIZE_DEFAULT, &MSGSIZE_MAX));
        return Ok(Size { messages, bytes });
    };
    let (messages, bytes) = match cred.capable(cap::SYS_RESOURCE) {
        true => (HARD_MSG_MAX as i64, HARD_MSGSIZE_MAX as i64),
        false => (MSG_MAX.get() as i64, MSGSIZE_MAX.get() as i64),
    };
    if !(1..=messages).contains(&size.messages) || !(1..=bytes).contains(&size.bytes) {
        return Err(Errno::EINVAL);
    }
    Ok(size)
}

/// What a queue of this size counts for. Source: getrlimit(2), `RLIMIT_MSGQUEUE`.
fn charge((user, limit): &(Arc<User>, u64), size: Size) -> Result<Charge> {
    let (messages, bytes) = (size.messages as u64, size.bytes as u64);
    let texts = messages.checked_mul(bytes).ok_or(Errno::EOVERFLOW)?;
    let bytes = texts + messages * MESSAGE_BYTES + messages.min(PRIO_MAX.into()) * PRIORITY_BYTES;
    user.charge(Count::QueueBytes, bytes, *limit).ok_or(Errno::EMFILE)
}

/// Removes a name; the queue lives on for those who have it open.
///
/// # Errors
/// `ENOENT`, `EPERM` for others than its owner.
pub fn unlink(name: &[u8], cred: &Cred) -> Result<()> {
    sysv::namespace().queues.0.remove(name, None, |owner| {
        if owner.uid == cred.fsuid || cred.capable(cap::FOWNER) { Ok(()) } else { Err(Errno::EPERM) }
    })
}

impl Queue {
    fn new(fs: Weak<MqFs>, new: &New<'_>, (size, charge): (Size, Charge), cred: &Cred) -> Arc<Queue> {
        let (ino, now) = (crate::fs::next_ino(), Time::now());
        let mut meta = Attr::new(Kind::Regular, new.mode, ino);
        (meta.uid, meta.gid, meta.size) = (cred.fsuid, cred.fsgid, fs::FILE_SIZE);
        (meta.atime, meta.mtime, meta.ctime) = (now, now, now);
        Arc::new_cyclic(|me| Queue {
            name: new.name.into(),
            ino,
            fs,
            me: me.clone(),
            meta: SpinLock::new(Rank::Leaf, meta),
            max_messages: size.messages as usize,
            max_size: size.bytes as usize,
            _charge: charge,
            state: SpinLock::new(Rank::Endpoint, State::default()),
            senders: Arc::new(WaitQueue::new()),
            receivers: Arc::new(WaitQueue::new()),
        })
    }

    /// Puts `text` in, waiting for room unless `nonblock`.
    fn send(&self, text: Box<[u8]>, priority: u32, nonblock: bool, deadline_ns: Option<u64>) -> Result<()> {
        let mut text = Some(text);
        let mut told = None;
        let mut attempt = || {
            let mut state = self.state.lock();
            if state.count >= self.max_messages {
                return nonblock.then_some(Err(Errno::EAGAIN));
            }
            let text = text.take()?;
            state.bytes += text.len();
            state.by_priority.entry(core::cmp::Reverse(priority)).or_default().push_back(text);
            state.count += 1;
            if state.count == 1 && state.waiting == 0 {
                told = state.notify.take();
            }
            Some(Ok(()))
        };
        match attempt() {
            Some(result) => result?,
            None => self.senders.wait_interruptible(deadline_ns, attempt).map_err(ended)??,
        }
        self.receivers.wake_all();
        if let Some(notify) = told {
            notify.tell();
        }
        Ok(())
    }

    /// Takes the first message of the highest priority, waiting for one unless `nonblock`.
    fn receive(&self, nonblock: bool, deadline_ns: Option<u64>) -> Result<(Box<[u8]>, u32)> {
        let take = || self.state.lock().take();
        let message = match take() {
            Some(message) => message,
            None if nonblock => return Err(Errno::EAGAIN),
            None => {
                self.state.lock().waiting += 1;
                let waited = self.receivers.wait_interruptible(deadline_ns, take);
                self.state.lock().waiting -= 1;
                waited.map_err(ended)?
            }
        };
        self.senders.wake_all();
        Ok(message)
    }
}

fn ended(wake: Wake) -> Errno {
    if wake == Wake::TimedOut { Errno::ETIMEDOUT } else { Errno::ERESTARTSYS }
}

impl State {
    fn take(&mut self) -> Option<(Box<[u8]>, u32)> {
        let mut first = self.by_priority.first_entry()?;
        let priority = first.key().0;
        let text = first.get_mut().pop_front()?;
        if first.get().is_empty() {
            first.remove();
        }
        self.count -= 1;
        self.bytes -= text.len();
        Some((text, priority))
    }
}

impl Notify {
    fn tell(self) {
        /// `NOTIFY_WOKENUP`.
        const WOKEN: u8 = 1;
        let (process, signo, value) = match (self.process.upgrade(), &self.how) {
            (Some(process), How::Signal(signo, value)) => (process, *signo, *value),
            (_, How::Socket(..)) => return self.send_cookie(WOKEN),
            _ => return,
        };
        let sender = task::current();
        let (pid, uid) = (process.sees(sender.process().pid()) as u32, sender.cred().uid);
        let ids = u64::from(pid) | u64::from(uid) << 32;
        signal::send_to_process(&process, SigInfo::raw(signo, SI_MESGQ, &[ids, value]));
    }

    /// The registration is over without a message.
    fn end(self) {
        /// `NOTIFY_REMOVED`.
        const REMOVED: u8 = 2;
        self.send_cookie(REMOVED);
    }

    fn send_cookie(&self, why: u8) {
        if let How::Socket(file, cookie) = &self.how {
            let mut cookie = *cookie;
            cookie[COOKIE - 1] = why;
            // A full queue loses it, as on Linux.
            let _ = netlink::deliver(file, &cookie);
        }
    }
}

impl Mq {
    /// mq_timedsend(3).
    ///
    /// # Errors
    /// `EMSGSIZE`, `EAGAIN`, `ETIMEDOUT`, `ERESTARTSYS`, `ENOMEM`.
    pub fn send(&self, file: &File, text: Box<[u8]>, priority: u32, deadline_ns: Option<u64>) -> Result<()> {
        umbel_mm::heap::room_for(HEAP_MARGIN)?;
        self.0.send(text, priority, file.nonblocking(), deadline_ns)
    }

    /// mq_timedreceive(3): the text and its priority.
    ///
    /// # Errors
    /// `EAGAIN`, `ETIMEDOUT`, `ERESTARTSYS`.
    pub fn receive(&self, file: &File, deadline_ns: Option<u64>) -> Result<(Box<[u8]>, u32)> {
        self.0.receive(file.nonblocking(), deadline_ns)
    }

    /// Longest message.
    pub fn max_size(&self) -> usize {
        self.0.max_size
    }

    /// Flags aside, what mq_getattr(3) shows: most messages, longest, how many there are.
    pub fn attributes(&self) -> [i64; 3] {
        let count = self.0.state.lock().count;
        [self.0.max_messages as i64, self.0.max_size as i64, count as i64]
    }

    /// mq_notify(3).
    ///
    /// # Errors
    /// `EBUSY` if somebody else is to be told.
    pub fn notify(&self, process: &Arc<Process>, how: How) -> Result<()> {
        let mut state = self.0.state.lock();
        if state.notify.as_ref().is_some_and(|notify| notify.process.strong_count() > 0) {
            return Err(Errno::EBUSY);
        }
        let new = Notify { process: Arc::downgrade(process), pid: process.pid().0, how };
        let old = state.notify.replace(new);
        drop(state);
        // What a process that is gone left is not closed under the lock.
        drop(old);
        Ok(())
    }

    /// Process `pid` is not to be told any more.
    pub fn forget(&self, pid: i32) {
        let gone = self.0.state.lock().notify.take_if(|notify| notify.pid == pid);
        if let Some(notify) = gone {
            notify.end();
        }
    }
}

impl FileOps for Mq {
    fn reopen(&self, file: &Arc<File>, flags: OpenFlags) -> Result<Arc<File>> {
        anon::same(file, flags)
    }

    /// A line about the queue, as a file on mqueue has it.
    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        let line = {
            let state = self.0.state.lock();
            let (mode, signo) = match state.notify.as_ref() {
                Some(Notify { how: How::Signal(signo, _), .. }) => (0, *signo),
                Some(Notify { how: How::Socket(..), .. }) => (2, 0),
                Some(_) => (1, 0),
                None => (0, 0),
            };
            let pid = state.notify.as_ref().map_or(0, |notify| notify.pid);
            format!("QSIZE:{:<10} NOTIFY:{mode:<5} SIGNO:{signo:<5} NOTIFY_PID:{pid:<6}\n", state.bytes)
        };
        dst.write(line.as_bytes().get(offset as usize..).unwrap_or(&[]))
    }

    fn seekable(&self) -> bool {
        true
    }

    fn splices(&self) -> bool {
        false
    }

    fn pollable(&self, _: &File) -> bool {
        true
    }

    fn truncate(&self, _: &File, size: u64) -> Result<()> {
        self.0.set_attr(&SetAttr { size: Some(size), ..SetAttr::default() })
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table
            && (table.register(&self.0.receivers).is_err() || table.register(&self.0.senders).is_err())
        {
            return PollEvents::ERR;
        }
        let count = self.0.state.lock().count;
        let mut events = PollEvents::empty();
        events.set(PollEvents::READABLE, count > 0);
        events.set(PollEvents::WRITABLE, count < self.0.max_messages);
        events
    }

    fn attr(&self, _: &File) -> Result<Attr> {
        self.0.attr()
    }

    fn flush(&self, _: &File) -> Result<()> {
        self.forget(task::current().process().pid().0);
        Ok(())
    }

    fn describe(&self, _: &File) -> String {
        format!("/{}", String::from_utf8_lossy(&self.0.name))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn messages_come_by_priority_then_by_arrival() {
        let size = Size { messages: 3, bytes: 10 };
        let charge = charge(&(User::of(0), u64::MAX), size).unwrap();
        let queue =
            Queue::new(Weak::new(), &New { name: b"q", mode: 0o600, size: None }, (size, charge), &Cred::new(0, 0));
        for (text, priority) in [(b"a", 1), (b"b", 5), (b"c", 5)] {
            queue.send(text.to_vec().into(), priority, true, None).unwrap();
        }
        assert_eq!(queue.send(Box::new([]), 0, true, None), Err(Errno::EAGAIN));
        let order: Vec<_> = (0..3).map(|_| queue.receive(true, None).unwrap()).collect();
        assert_eq!(
            order.iter().map(|(text, priority)| (text[0], *priority)).collect::<Vec<_>>(),
            [(b'b', 5), (b'c', 5), (b'a', 1)]
        );
        assert_eq!(queue.receive(true, None).map(|_| ()), Err(Errno::EAGAIN));
    }

    #[test]
    fn ordinary_users_make_small_queues() {
        let (root, user) = (Cred::new(0, 0), Cred::new(5, 5));
        assert!(checked(Some(Size { messages: 100, bytes: 100 }), &root).is_ok());
        assert!(checked(Some(Size { messages: 100, bytes: 100 }), &user).is_err());
        assert!(checked(Some(Size { messages: 0, bytes: 100 }), &root).is_err());
    }
}
