//! A group of fanotify(7): its queue, its questions, and the descriptor that a listener reads and answers.

use super::super::{File, FileOps, IoDst, IoSrc, Kind, OnExec, OpenFlags, Path, PollEvents, PollTable, names};
use super::marks::{self, Marks, Met};
use super::record::{self, Opened, Subject};
use super::{COUNT, GROUPS, HEAP_MARGIN, MAX_GROUPS, MAX_QUEUED, Origin, flag, mask};
use crate::room::Text;
use crate::signal::{self, PutOff};
use crate::task::ns::pid::caller_sees;
use crate::task::{self, Task, pidfd};
use crate::{Errno, Fd, Pid, Result};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU32, Ordering::*};
use umbel_abi::linux::ioctl::FIONREAD;
use umbel_abi::linux::uapi::RLIMIT_NOFILE;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

/// Queued events that a new one may be merged into.
const MERGE_MAX: usize = 128;
/// Answers.
const ALLOW: u32 = 1;
const DENY: u32 = 2;
/// No descriptor, or one that could not be made.
const NO_FD: i32 = -1;
const NO_PIDFD: i32 = -1;
const BAD_PIDFD: i32 = -2;

/// Somebody waits for an answer: 0 = none yet.
struct Permission(AtomicU32);

struct Event {
    subject: Subject,
    mask: u32,
    pid: i32,
    permission: Option<Arc<Permission>>,
}

#[derive(Default)]
pub(super) struct State {
    pub marks: Marks,
    events: VecDeque<Event>,
    /// Questions that the listener has read, by its descriptor.
    asked: Vec<(i32, Arc<Permission>)>,
    overflowed: bool,
    closed: bool,
}

/// See the module above.
pub struct Group {
    pub(super) flags: u32,
    /// Flags of the descriptors that the listener gets.
    event_flags: OpenFlags,
    pub(super) state: SpinLock<State>,
    queue: Arc<WaitQueue>,
    /// Who waits for answers.
    answers: WaitQueue,
    pub(super) me: Weak<Group>,
}

/// Whether two events may be one: of the same object by the same process, and about names of one kind.
fn merges(one: &Event, subject: &Subject, mask: u32, pid: i32) -> bool {
    const APART: u32 = mask::ONDIR | mask::RENAME;
    one.permission.is_none() && one.pid == pid && (one.mask ^ mask) & APART == 0 && one.subject.is(subject)
}

impl Group {
    /// What of `what` the marks of this group want to know of `origin`.
    fn wanted(&self, origin: &Origin<'_>, what: u32) -> Met {
        let tellable = match self.flags & flag::FIDS {
            // By descriptor: what can be opened.
            0 => origin.path.is_some() && matches!(origin.inode.kind(), Kind::Regular | Kind::Directory),
            fids => fids & flag::REPORT_FID != 0 || origin.parent.is_some() || origin.is_dir(),
        };
        if !tellable {
            return Met::default();
        }
        let mut met = marks::met(&mut self.state.lock().marks, origin, what);
        if self.flags & flag::FIDS == 0 {
            met.mask &= !mask::OPTIONS;
        }
        met
    }

    /// Queues an event if it is wanted.
    pub(super) fn tell(&self, origin: &Origin<'_>, what: u32) {
        let met = self.wanted(origin, what);
        if met.mask != 0 {
            self.push(origin, &met, None);
        }
    }

    /// Asks, if the group wants to be asked.
    pub(super) fn permit(&self, origin: &Origin<'_>, what: u32) -> Result<()> {
        let met = self.wanted(origin, what);
        if met.mask != 0 { self.ask(origin, &met) } else { Ok(()) }
    }

    /// Who is asked first; 0 = only told.
    pub fn class(&self) -> u32 {
        self.flags & flag::CLASS
    }

    /// Flags from [`flag`].
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Queues an event; false if it did not fit.
    fn push(&self, origin: &Origin<'_>, met: &Met, permission: Option<Arc<Permission>>) -> bool {
        let task = task::current();
        let pid = if self.flags & flag::REPORT_TID != 0 { task.tid().0 } else { task.process().pid().0 };
        let limit = if self.flags & flag::UNLIMITED_QUEUE != 0 { usize::MAX } else { MAX_QUEUED.get() as usize };
        let subject = Subject::new(self.flags, origin, met);
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        if permission.is_none()
            && let Some(last) =
                state.events.iter_mut().rev().take(MERGE_MAX).find(|event| merges(event, &subject, met.mask, pid))
        {
            last.mask |= met.mask;
            drop(state);
            return true;
        }
        let full = state.events.len() >= limit || umbel_mm::heap::room_for(HEAP_MARGIN).is_err();
        if full {
            if !core::mem::replace(&mut state.overflowed, true) {
                state.events.push_back(Event {
                    subject: Subject::Queue,
                    mask: mask::Q_OVERFLOW,
                    pid: 0,
                    permission: None,
                });
            }
        } else {
            state.events.push_back(Event { subject, mask: met.mask, pid, permission });
        }
        drop(state);
        self.queue.wake_all();
        !full
    }

    fn ask(&self, origin: &Origin<'_>, met: &Met) -> Result<()> {
        let question = Arc::new(Permission(AtomicU32::new(0)));
        if !self.push(origin, met, Some(question.clone())) {
            return Ok(());
        }
        let task = task::current();
        let mut later = PutOff::none(&task);
        loop {
            let answered = || match question.0.load(Acquire) {
                0 => None,
                answer => Some(answer),
            };
            match self.answers.wait_interruptible(None, answered) {
                Ok(DENY) => return Err(Errno::EPERM),
                Ok(_) => return Ok(()),
                Err(_) if later.ended_by(signal::fatal_pending) => break,
                Err(_) => {}
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
        let refuse = |errno| {
            if let Some(question) = &event.permission {
                question.0.store(DENY, Release);
                self.answers.wake_all();
            }
            errno
        };
        let opened = self.open_all(&task, &event).map_err(refuse)?;
        let pid = if self.tells_pid(&task, event.pid) { caller_sees(Pid(event.pid)) } else { 0 };
        let record = record::encode(self.flags, &event.subject, event.mask, pid, opened);
        let whole = |count| if count == record.len() { Ok(count) } else { Err(Errno::EFAULT) };
        if let Err(errno) = dst.write(&record).and_then(whole) {
            for fd in [opened.fd, opened.pidfd] {
                // Installed just now; if somebody closed it already, so much the better.
                let _ = task.files().and_then(|files| files.close(Fd(fd)));
            }
            return Err(refuse(errno));
        }
        if let Some(question) = event.permission {
            self.state.lock().asked.push((opened.fd, question));
        }
        Ok(record.len())
    }

    /// Whether the listener may know who it was.
    fn tells_pid(&self, task: &Task, pid: i32) -> bool {
        pid != 0 && (self.flags & flag::UNPRIVILEGED == 0 || task.process().pid().0 == pid)
    }

    /// The descriptors that come with an event.
    fn open_all(&self, task: &Arc<Task>, event: &Event) -> Result<Opened> {
        let errors = self.flags & flag::REPORT_FD_ERROR != 0;
        let fd = match &event.subject {
            Subject::Place(path) => self.open(task, path),
            Subject::Queue | Subject::Handles(_) => Ok(NO_FD),
        };
        let fd = match fd {
            // Who is asked needs the descriptor to answer.
            Err(errno) if errors && event.permission.is_none() => -errno.raw(),
            fd => fd?,
        };
        let pidfd = match self.flags & flag::REPORT_PIDFD {
            0 => NO_PIDFD,
            _ => match self.open_process(task, event.pid) {
                Ok(fd) => fd,
                Err(errno) if errors => -errno.raw(),
                Err(Errno::ESRCH) => NO_PIDFD,
                Err(_) => BAD_PIDFD,
            },
        };
        Ok(Opened { fd, pidfd })
    }

    fn open(&self, task: &Arc<Task>, path: &Path) -> Result<i32> {
        if self.event_flags.writable() {
            path.mount().check_writable()?;
        }
        let file = names::open_quietly(path, self.event_flags)?;
        let on_exec = OnExec::close_if(self.event_flags.contains(OpenFlags::CLOEXEC));
        let limit = task.process().limit(RLIMIT_NOFILE);
        task.files()?.install(file, on_exec, limit).map(|fd| fd.0)
    }

    fn open_process(&self, task: &Arc<Task>, pid: i32) -> Result<i32> {
        let process = task::ids::find_process(Pid(pid)).ok_or(Errno::ESRCH)?;
        let file = pidfd::of_process(process, OpenFlags::empty());
        task.files()?.install(file, OnExec::Close, task.process().limit(RLIMIT_NOFILE)).map(|fd| fd.0)
    }

    /// The first event, if it fits into `room` bytes.
    fn pop(&self, room: usize) -> Option<Result<Event>> {
        let mut state = self.state.lock();
        let needed = state.events.front().map(|event| self.len(event))?;
        if room < needed {
            return Some(Err(Errno::EINVAL));
        }
        let event = state.events.pop_front()?;
        if event.mask == mask::Q_OVERFLOW {
            state.overflowed = false;
        }
        Some(Ok(event))
    }

    /// Bytes of an event as it is read.
    fn len(&self, event: &Event) -> usize {
        record::len(self.flags, &event.subject, event.mask)
    }
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
        let bytes = self.state.lock().events.iter().map(|event| self.len(event)).sum::<usize>() as i32;
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

    fn fdinfo(&self, _: &File, out: &mut Text) {
        let flags = self.flags & !flag::UNPRIVILEGED;
        let _ = writeln!(out, "fanotify flags:{flags:x} event-flags:{:x}", self.event_flags.bits());
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
