//! Descriptors of processes and threads. Source: pidfd_open(2), `CLONE_PIDFD` of clone(2).
//!
//! A pidfd names its process for ever: when the process is gone it names nobody, whoever has the number then. It becomes
//! readable when the process (or the thread, with `PIDFD_THREAD`) has ended.

use super::{Process, Task, ids};
use crate::fs::{File, FileOps, IoDst, IoSrc, OpenFlags, PollEvents, PollTable};
use crate::syscall::Pid;
use crate::task;
use crate::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;

/// See the module.
pub struct PidFd {
    process: Arc<Process>,
    /// With `PIDFD_THREAD`: the thread and its id.
    thread: Option<(Weak<Task>, Pid)>,
}

/// What a pidfd stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Process,
    /// `PIDFD_THREAD`.
    Thread,
}

/// A new pidfd of `task`'s process, or of `task` itself. `flags`: `O_NONBLOCK`.
pub fn new(task: &Arc<Task>, scope: Scope, flags: OpenFlags) -> Arc<File> {
    let thread = (scope == Scope::Thread).then(|| (Arc::downgrade(task), task.tid()));
    let process = task.process().clone();
    File::anonymous(Arc::new(PidFd { process, thread }), flags | OpenFlags::RDWR)
}

/// A new pidfd of `process`, which may be a zombie.
pub fn of_process(process: Arc<Process>, flags: OpenFlags) -> Arc<File> {
    File::anonymous(Arc::new(PidFd { process, thread: None }), flags | OpenFlags::RDWR)
}

impl PidFd {
    /// The process, unless it has been waited for.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn process(&self) -> Result<&Arc<Process>> {
        let known = ids::find_process(self.process.pid());
        if known.is_some_and(|known| Arc::ptr_eq(&known, &self.process)) {
            Ok(&self.process)
        } else {
            Err(Errno::ESRCH)
        }
    }

    /// The thread that it is about: its own, or one of the process.
    ///
    /// # Errors
    /// `ESRCH` once it has ended.
    pub fn task(&self) -> Result<Arc<Task>> {
        match &self.thread {
            Some((task, _)) => task.upgrade().filter(is_entered).ok_or(Errno::ESRCH),
            None => {
                let pid = self.process()?.pid();
                ids::table().node(pid)?.threads.first().cloned().ok_or(Errno::ESRCH)
            }
        }
    }

    /// Whether it is about one thread.
    pub fn is_thread(&self) -> bool {
        self.thread.is_some()
    }

    /// The process, whether it lives or not.
    pub fn any_process(&self) -> &Arc<Process> {
        &self.process
    }

    fn has_ended(&self) -> bool {
        match &self.thread {
            Some(_) => self.task().is_err(),
            None => self.process.has_ended(),
        }
    }
}

/// Whether the thread still runs under its id.
fn is_entered(task: &Arc<Task>) -> bool {
    ids::find_task(task.tid()).is_some_and(|known| Arc::ptr_eq(&known, task))
}

impl FileOps for PidFd {
    fn read(&self, _: &File, _: &mut IoDst<'_>) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn write(&self, _: &File, _: &mut IoSrc<'_>) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if table.is_some_and(|table| table.register(&self.process.end_queue).is_err()) {
            return PollEvents::ERR;
        }
        let mut events = PollEvents::empty();
        if self.has_ended() {
            events |= PollEvents::READABLE;
            if self.thread.is_none() && self.process().is_err() {
                events |= PollEvents::HUP;
            }
        }
        events
    }

    fn fdinfo(&self, _: &File) -> String {
        let pid = match &self.thread {
            Some((_, tid)) => self.task().map(|_| *tid),
            None => self.process().map(|process| process.pid()),
        };
        let Ok(pid) = pid else { return String::from("Pid:\t-1\nNSpid:\t-1\n") };
        let viewer = task::current().process().pid_ns().clone();
        let own = viewer.number_of(pid);
        let mut out = format!("Pid:\t{own}\nNSpid:\t{own}");
        let inside: Vec<_> = self.process.pid_ns().lineage().filter(|ns| ns.is_within(&viewer)).collect();
        for ns in inside.iter().rev().skip(1) {
            out += &format!("\t{}", ns.number_of(pid));
        }
        out.push('\n');
        out
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[pidfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
