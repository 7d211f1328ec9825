//! Groups that are told what happens to files, and asked whether it may: the queue of events behind a descriptor.
//! Source: fanotify(7), fanotify_init(2), fanotify_mark(2).
//!
//! A [`Group`] has marks on inodes, mounts and file systems. What is opened, read, written or closed by a [`Path`] is shown to each group
//! ([`event`]); for some it must be allowed first ([`permit`]): the thread waits until the listener has answered or is gone. A listener
//! gets each object as a descriptor of its own, whose use nobody is told ([`File::hush`]).
//!
//! Inode marks are [`Watch`]es too, so that they end with their inode; what [`super::notify`] tells them has no path and is not theirs.
//!
//! With no mark in the whole machine each event costs one load. Locks: [`GROUPS`] (rank `Leaf`), a group's state (rank
//! `Endpoint`), never both; no path is dropped under them.

use super::notify::{self, Watch};
use super::{File, FileOps, InodeRef, IoDst, IoSrc, Kind, Mount, OnExec, OpenFlags, Path, PollEvents, PollTable};
use crate::setting::Setting;
use crate::task::ns::pid::caller_sees;
use crate::task::{self, Task};
use crate::{Errno, Pid, Result};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};
use umbel_abi::linux::ioctl::FIONREAD;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// Events that a queue holds, groups and marks of the machine (fs.fanotify.*).
pub static MAX_QUEUED: Setting = Setting::new(16384, 1, i32::MAX as u64);
pub static MAX_GROUPS: Setting = Setting::new(128, 0, i32::MAX as u64);
pub static MAX_MARKS: Setting = Setting::new(8192, 0, i32::MAX as u64);
/// Bytes of the kernel's heap that queues and marks leave to others.
const HEAP_MARGIN: u64 = 2 << 20;
/// Bytes of `struct fanotify_event_metadata`, and its version.
const RECORD: usize = 24;
const VERSION: u8 = 3;
/// Queued events that a new one may be merged into.
const MERGE_MAX: usize = 128;

/// Events and options in a mark's mask, with Linux's values.
pub mod mask {
    pub const ACCESS: u32 = 0x1;
    pub const MODIFY: u32 = 0x2;
    pub const CLOSE_WRITE: u32 = 0x8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const OPEN_EXEC: u32 = 0x1000;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const OPEN_PERM: u32 = 0x1_0000;
    pub const ACCESS_PERM: u32 = 0x2_0000;
    pub const OPEN_EXEC_PERM: u32 = 0x4_0000;
    pub const EVENT_ON_CHILD: u32 = 0x0800_0000;
    pub const ONDIR: u32 = 0x4000_0000;
    pub const PERMISSIONS: u32 = OPEN_PERM | ACCESS_PERM | OPEN_EXEC_PERM;
    pub const EVENTS: u32 = ACCESS | MODIFY | CLOSE_WRITE | CLOSE_NOWRITE | OPEN | OPEN_EXEC;
    pub const VALID: u32 = EVENTS | PERMISSIONS | EVENT_ON_CHILD | ONDIR;
}

/// Flags of a group (fanotify_init(2)) that it keeps.
pub const UNLIMITED_QUEUE: u32 = 0x10;
pub const UNLIMITED_MARKS: u32 = 0x20;
pub const REPORT_TID: u32 = 0x100;
/// The class: who is asked first. 0 is only told.
pub const CLASS: u32 = 0xc;
/// Answers.
const ALLOW: u32 = 1;
const DENY: u32 = 2;

static GROUPS: SpinLock<Vec<Weak<Group>>> = SpinLock::new(Rank::Leaf, Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);
static MARKS: AtomicUsize = AtomicUsize::new(0);

/// What a mark asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bits {
    mask: u32,
    ignored: u32,
    /// A modification does not end what is ignored.
    survives: bool,
}

/// What is marked.
#[derive(Clone)]
pub enum Object {
    Inode(Path),
    Mount(Arc<Mount>),
    System(u64),
}

/// How a mark changes.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub add: bool,
    pub mask: u32,
    /// It is about what is ignored.
    pub ignored: bool,
    pub survives: bool,
}

/// Inode, mount or file system, by address or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Inode(usize),
    Mount(usize),
    System(u64),
}

/// Keeps what a key names from becoming something else.
enum Held {
    Inode(Arc<Marker>),
    Mount { _mount: Weak<Mount> },
    System,
}

/// Ends an inode's mark with the inode.
struct Marker {
    group: Weak<Group>,
    inode: InodeRef,
}

impl Watch for Marker {
    fn tell(&self, _: &notify::Event<'_>) {}

    fn ended(&self) {
        if let Some(group) = self.group.upgrade() {
            let gone = group.state.lock().marks.remove(&inode_key(&self.inode));
            MARKS.fetch_sub(usize::from(gone.is_some()), Relaxed);
            drop(gone);
        }
    }
}

/// Somebody waits for an answer: 0 = none yet.
struct Permission(AtomicU32);

struct Event {
    path: Option<Path>,
    mask: u32,
    pid: i32,
    permission: Option<Arc<Permission>>,
}

#[derive(Default)]
struct State {
    marks: BTreeMap<Key, (Bits, Held)>,
    events: VecDeque<Event>,
    /// Questions that the listener has read, by its descriptor.
    asked: Vec<(i32, Arc<Permission>)>,
    overflowed: bool,
    closed: bool,
}

/// See the module.
pub struct Group {
    flags: u32,
    /// Flags of the descriptors that the listener gets.
    event_flags: OpenFlags,
    state: SpinLock<State>,
    queue: Arc<WaitQueue>,
    /// Who waits for answers.
    answers: WaitQueue,
    me: Weak<Group>,
}

fn inode_key(inode: &InodeRef) -> Key {
    Key::Inode(Arc::as_ptr(inode).cast::<()>().addr())
}

fn key(object: &Object) -> Key {
    match object {
        Object::Inode(path) => inode_key(path.inode()),
        Object::Mount(mount) => Key::Mount(Arc::as_ptr(mount).addr()),
        Object::System(dev) => Key::System(*dev),
    }
}

fn groups() -> Vec<Arc<Group>> {
    GROUPS.lock().iter().filter_map(Weak::upgrade).collect()
}

/// Something happened to `path`: one of [`mask::EVENTS`]. Does not sleep.
pub fn event(path: &Path, what: u32) {
    if MARKS.load(Relaxed) == 0 {
        return;
    }
    for group in groups() {
        let wanted = group.wanted(path, what);
        if wanted != 0 {
            group.push(path, wanted, None);
        }
    }
}

/// Asks whether `path` may be opened or read (one of [`mask::PERMISSIONS`]); waits for the answers.
///
/// # Errors
/// `EPERM` if a listener says no, `EINTR` if the thread is being ended.
pub fn permit(path: &Path, what: u32) -> Result<()> {
    if MARKS.load(Relaxed) == 0 {
        return Ok(());
    }
    let mut groups = groups();
    groups.sort_by_key(|group| core::cmp::Reverse(group.flags & CLASS));
    for group in groups {
        let wanted = group.wanted(path, what);
        if wanted != 0 {
            group.ask(path, wanted)?;
        }
    }
    Ok(())
}

impl Group {
    /// What of `what` the marks of this group want to know of `path`.
    fn wanted(&self, path: &Path, what: u32) -> u32 {
        let parent = path.dentry().parent().and_then(|dir| dir.inode().map(inode_key));
        let places = [
            inode_key(path.inode()),
            Key::Mount(Arc::as_ptr(path.mount()).addr()),
            Key::System(path.mount().fs().dev()),
        ];
        let directory = path.inode().kind() == Kind::Directory;
        let mut state = self.state.lock();
        let (mut found, mut ignored) = (0, 0);
        let mut look = |key: Key, child: bool| {
            let Some((bits, _)) = state.marks.get_mut(&key) else { return };
            if what & mask::MODIFY != 0 && !bits.survives {
                bits.ignored = 0;
            }
            if child && bits.mask & mask::EVENT_ON_CHILD == 0 {
                return;
            }
            ignored |= bits.ignored;
            if !directory || bits.mask & mask::ONDIR != 0 {
                found |= bits.mask;
            }
        };
        for key in places {
            look(key, false);
        }
        if let Some(key) = parent {
            look(key, true);
        }
        what & found & !ignored
    }

    /// Whether it may ask before something happens.
    pub fn asks(&self) -> bool {
        self.flags & CLASS != 0
    }

    /// Queues an event; false if it did not fit.
    fn push(&self, path: &Path, what: u32, permission: Option<Arc<Permission>>) -> bool {
        let task = task::current();
        let pid = if self.flags & REPORT_TID != 0 { task.tid().0 } else { task.process().pid().0 };
        let limit = if self.flags & UNLIMITED_QUEUE != 0 { usize::MAX } else { MAX_QUEUED.get() as usize };
        let path = path.clone();
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        let same = |event: &&mut Event| {
            event.permission.is_none()
                && event.pid == pid
                && event.path.as_ref().is_some_and(|own| same_object(own, &path))
        };
        if permission.is_none()
            && let Some(last) = state.events.iter_mut().rev().take(MERGE_MAX).find(same)
        {
            last.mask |= what;
            drop(state);
            return true;
        }
        let full = state.events.len() >= limit || umbel_mm::heap::room_for(HEAP_MARGIN).is_err();
        if full {
            if !core::mem::replace(&mut state.overflowed, true) {
                state.events.push_back(Event { path: None, mask: mask::Q_OVERFLOW, pid: 0, permission: None });
            }
        } else {
            state.events.push_back(Event { path: Some(path), mask: what, pid, permission });
        }
        drop(state);
        self.queue.wake_all();
        !full
    }

    fn ask(&self, path: &Path, what: u32) -> Result<()> {
        let question = Arc::new(Permission(AtomicU32::new(0)));
        if !self.push(path, what, Some(question.clone())) {
            return Ok(());
        }
        let task = task::current();
        loop {
            let answered = || match question.0.load(Acquire) {
                0 => None,
                answer => Some(answer),
            };
            match self.answers.wait_interruptible(None, answered) {
                Ok(DENY) => return Err(Errno::EPERM),
                Ok(_) => return Ok(()),
                Err(Wake::Interrupted) if task.must_exit() => break,
                // Only the end of the thread ends this wait.
                Err(_) => task.thread.clear_interrupt(),
            }
        }
        let mine = |permission: &Arc<Permission>| Arc::ptr_eq(permission, &question);
        let gone: VecDeque<Event> = {
            let mut state = self.state.lock();
            state.asked.retain(|(_, permission)| !mine(permission));
            let (gone, kept) = core::mem::take(&mut state.events)
                .into_iter()
                .partition(|event| event.permission.as_ref().is_some_and(mine));
            state.events = kept;
            gone
        };
        drop(gone);
        Err(Errno::EINTR)
    }

    /// Changes the mark of `object`.
    ///
    /// # Errors
    /// `ENOENT` if there is none to take from, `ENOSPC` if there are too many.
    pub fn mark(&self, object: &Object, change: Change) -> Result<()> {
        let key = key(object);
        if change.add && !self.state.lock().marks.contains_key(&key) {
            self.insert(object, key)?;
        }
        let mut state = self.state.lock();
        let (bits, _) = state.marks.get_mut(&key).ok_or(Errno::ENOENT)?;
        let field = if change.ignored { &mut bits.ignored } else { &mut bits.mask };
        if change.add {
            *field |= change.mask;
            bits.survives |= change.ignored && change.survives;
        } else {
            *field &= !change.mask;
        }
        let empty = bits.mask & !(mask::ONDIR | mask::EVENT_ON_CHILD) == 0 && bits.ignored == 0;
        let gone = if empty { state.marks.remove(&key) } else { None };
        drop(state);
        self.unmark(gone.into_iter().collect());
        Ok(())
    }

    fn insert(&self, object: &Object, key: Key) -> Result<()> {
        umbel_mm::heap::room_for(HEAP_MARGIN).map_err(|_| Errno::ENOMEM)?;
        let limit = if self.flags & UNLIMITED_MARKS != 0 { usize::MAX } else { MAX_MARKS.get() as usize };
        if MARKS.fetch_add(1, Relaxed) >= limit {
            MARKS.fetch_sub(1, Relaxed);
            return Err(Errno::ENOSPC);
        }
        let held = match object {
            Object::Inode(path) => {
                let marker = Arc::new(Marker { group: self.me.clone(), inode: path.inode().clone() });
                notify::add(path, marker.clone());
                Held::Inode(marker)
            }
            Object::Mount(mount) => Held::Mount { _mount: Arc::downgrade(mount) },
            Object::System(_) => Held::System,
        };
        let old = self.state.lock().marks.insert(key, (Bits::default(), held));
        self.unmark(old.into_iter().collect());
        Ok(())
    }

    /// Removes all marks of one kind.
    pub fn flush(&self, kind: &Object) {
        let same = |key: &Key| match kind {
            Object::Inode(_) => matches!(key, Key::Inode(_)),
            Object::Mount(_) => matches!(key, Key::Mount(_)),
            Object::System(_) => matches!(key, Key::System(_)),
        };
        let mut gone = Vec::new();
        {
            let mut state = self.state.lock();
            let keys: Vec<Key> = state.marks.keys().copied().filter(same).collect();
            gone.extend(keys.iter().filter_map(|key| state.marks.remove(key)));
        }
        self.unmark(gone);
    }

    /// Marks that are in the table no more.
    fn unmark(&self, gone: Vec<(Bits, Held)>) {
        MARKS.fetch_sub(gone.len(), Relaxed);
        for (_, held) in gone {
            if let Held::Inode(marker) = held {
                let inode = marker.inode.clone();
                let watch: Arc<dyn Watch> = marker;
                notify::remove(&inode, &watch);
            }
        }
    }

    /// Answers the question behind the listener's descriptor `fd`.
    fn answer(&self, fd: i32, answer: u32) -> Result<()> {
        let mut state = self.state.lock();
        let index = state.asked.iter().position(|(own, _)| *own == fd).ok_or(Errno::ENOENT)?;
        let (_, question) = state.asked.swap_remove(index);
        drop(state);
        question.0.store(answer, Release);
        self.answers.wake_all();
        Ok(())
    }

    /// Gives the listener one event.
    fn deliver(&self, event: Event, dst: &mut IoDst<'_>) -> Result<usize> {
        let task = task::current();
        let Event { path, mask, pid, permission } = event;
        let refuse = |errno| {
            if let Some(question) = &permission {
                question.0.store(DENY, Release);
                self.answers.wake_all();
            }
            errno
        };
        let fd = match &path {
            None => -1,
            Some(path) => self.open(&task, path).map_err(refuse)?,
        };
        let mut record = [0; RECORD];
        let (head, rest) = record.split_at_mut(8);
        head.copy_from_slice(&[RECORD as u8, 0, 0, 0, VERSION, 0, RECORD as u8, 0]);
        rest[..8].copy_from_slice(&u64::from(mask).to_le_bytes());
        rest[8..12].copy_from_slice(&fd.to_le_bytes());
        let seen = if pid == 0 { 0 } else { caller_sees(Pid(pid)) };
        rest[12..].copy_from_slice(&seen.to_le_bytes());
        let written = dst.write(&record).and_then(|count| if count == RECORD { Ok(count) } else { Err(Errno::EFAULT) });
        if let Err(errno) = written {
            // Installed just now; if somebody closed it already, so much the better.
            let _ = task.files().and_then(|files| files.close(crate::Fd(fd)));
            return Err(refuse(errno));
        }
        if let Some(question) = permission {
            self.state.lock().asked.push((fd, question));
        }
        Ok(RECORD)
    }

    fn open(&self, task: &Arc<Task>, path: &Path) -> Result<i32> {
        let file = super::names::open_quietly(path, self.event_flags)?;
        let on_exec = OnExec::close_if(self.event_flags.contains(OpenFlags::CLOEXEC));
        let limit = task.process().limit(umbel_abi::linux::uapi::RLIMIT_NOFILE);
        task.files()?.install(file, on_exec, limit).map(|fd| fd.0)
    }

    /// The first event, if it fits into `room` bytes.
    fn pop(&self, room: usize) -> Option<Result<Event>> {
        let mut state = self.state.lock();
        if !state.events.is_empty() && room < RECORD {
            return Some(Err(Errno::EINVAL));
        }
        let event = state.events.pop_front()?;
        if event.mask == mask::Q_OVERFLOW {
            state.overflowed = false;
        }
        Some(Ok(event))
    }
}

fn same_object(one: &Path, other: &Path) -> bool {
    Arc::ptr_eq(one.dentry(), other.dentry()) && Arc::ptr_eq(one.mount(), other.mount())
}

impl FileOps for Group {
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        let room = dst.remaining();
        let first = match self.pop(room) {
            Some(first) => first?,
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => self.queue.wait_interruptible(None, || self.pop(room)).map_err(|_| Errno::ERESTARTSYS)??,
        };
        let mut done = self.deliver(first, dst)?;
        while let Some(Ok(next)) = self.pop(dst.remaining()) {
            match self.deliver(next, dst) {
                Ok(count) => done += count,
                // What was given out counts; this event is lost, as on Linux.
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// `struct fanotify_response`.
    fn write(&self, _: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let mut bytes = [0; 8];
        if src.remaining() < bytes.len() {
            return Err(Errno::EINVAL);
        }
        src.read(&mut bytes)?;
        let [a, b, c, d, rest @ ..] = bytes;
        let (fd, answer) = (i32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(rest));
        if fd < 0 || !matches!(answer, ALLOW | DENY) {
            return Err(Errno::EINVAL);
        }
        self.answer(fd, answer).map(|()| bytes.len())
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if table.is_some_and(|table| table.register(&self.queue).is_err()) {
            return PollEvents::ERR;
        }
        let empty = self.state.lock().events.is_empty();
        if empty { PollEvents::empty() } else { PollEvents::READABLE }
    }

    fn ioctl(&self, _: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        if cmd != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes = (self.state.lock().events.len() * RECORD) as i32;
        user::write_val(UserAddr(arg), &bytes).map(|()| 0)
    }

    fn release(&self, _: &File) {
        let state = {
            let mut state = self.state.lock();
            core::mem::replace(&mut *state, State { closed: true, ..State::default() })
        };
        let asked = state.asked.iter().map(|(_, question)| question);
        for question in asked.chain(state.events.iter().filter_map(|event| event.permission.as_ref())) {
            question.0.store(ALLOW, Release);
        }
        self.answers.wake_all();
        self.unmark(state.marks.into_values().collect());
    }

    fn fdinfo(&self, _: &File) -> String {
        format!("fanotify flags:{:x} event-flags:{:x}\n", self.flags, self.event_flags.bits())
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[fanotify]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Relaxed);
    }
}

/// Makes a group.
///
/// # Errors
/// `EMFILE` when there are too many.
pub fn new(flags: u32, event_flags: OpenFlags, nonblock: OpenFlags) -> Result<Arc<File>> {
    if COUNT.fetch_add(1, Relaxed) as u64 >= MAX_GROUPS.get() {
        COUNT.fetch_sub(1, Relaxed);
        return Err(Errno::EMFILE);
    }
    let group = Arc::new_cyclic(|me| Group {
        flags,
        event_flags,
        state: SpinLock::new(Rank::Endpoint, State::default()),
        queue: Arc::new(WaitQueue::new()),
        answers: WaitQueue::new(),
        me: me.clone(),
    });
    {
        let mut groups = GROUPS.lock();
        groups.retain(|group| group.strong_count() > 0);
        groups.push(Arc::downgrade(&group));
    }
    Ok(File::anonymous(group, nonblock | OpenFlags::RDWR))
}
