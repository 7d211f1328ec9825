//! Descriptors of processes and threads. Source: pidfd_open(2), `CLONE_PIDFD` of clone(2).
//!
//! A pidfd names its process for ever: when the process is gone it names nobody, whoever has the number then. It becomes
//! readable when the process (or the thread, with `PIDFD_THREAD`) has ended.

use super::access::{Creds, may_access};
use super::{Process, Task, ids, ns};
use crate::fs::{File, FileOps, IoDst, IoSrc, OpenFlags, PollEvents, PollTable};
use crate::room::Text;
use crate::task;
use crate::{Errno, Pid, Result};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::Write as _;
use core::sync::atomic::Ordering::Relaxed;
use umbel_mm::user::{self, UserAddr};

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

/// Words of `struct pidfd_info`, and bytes of its first version.
const INFO_WORDS: usize = 18;
const INFO_MIN: usize = 64;

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

    /// `struct pidfd_info`, as words: what there is to know, of a process that was waited for how it ended.
    fn info(&self, wanted: u64) -> Result<[u32; INFO_WORDS]> {
        const PID: u32 = 1;
        const CREDS: u32 = 2;
        const EXIT: u32 = 8;
        let mut words = [0; INFO_WORDS];
        let Ok(process) = self.process() else {
            let visible = self.process.pid_ns().is_within(task::current().process().pid_ns());
            if wanted & u64::from(EXIT) == 0 || self.is_thread() || !visible {
                return Err(Errno::ESRCH);
            }
            (words[0], words[15]) = (EXIT, self.process.end_status.load(Relaxed));
            return Ok(words);
        };
        let viewer = task::current();
        let task = self.task().ok();
        let sees = |id| viewer.process().sees(id) as u32;
        let tgid = sees(process.pid());
        if tgid == 0 {
            return Err(Errno::ESRCH);
        }
        let parent = ids::table().node(process.pid())?.parent;
        words[0] = PID;
        (words[4], words[5], words[6]) = (task.as_ref().map_or(tgid, |task| sees(task.tid())), tgid, sees(parent));
        if let Some(task) = task {
            let (own, cred) = (viewer.cred(), task.cred());
            let users = [cred.uid, cred.euid, cred.suid, cred.fsuid].map(|id| own.show_uid(id));
            let groups = [cred.gid, cred.egid, cred.sgid, cred.fsgid].map(|id| own.show_gid(id));
            words[0] |= CREDS;
            for (pair, (user, group)) in words[7..15].chunks_exact_mut(2).zip(users.into_iter().zip(groups)) {
                pair.copy_from_slice(&[user, group]);
            }
        }
        Ok(words)
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

    fn ioctl(&self, caller: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        const GET_NAMESPACE: u32 = 0xff01;
        const GET_INFO: u32 = 0xc000_ff0b;
        const SIZE: u32 = 0x3fff_0000;
        if let Some((_, of)) = cmd.checked_sub(GET_NAMESPACE).and_then(|kind| ns::KINDS.get(kind as usize)) {
            let task = self.task()?;
            if arg != 0 {
                return Err(Errno::EINVAL);
            }
            may_access(caller, &task, Creds::Fs).map_err(|_| Errno::EACCES)?;
            return ns::file::open(caller, of(&task));
        }
        if cmd & !SIZE != GET_INFO {
            return Err(Errno::ENOTTY);
        }
        let size = (cmd & SIZE) >> 16;
        if arg == 0 || (size as usize) < INFO_MIN {
            return Err(Errno::EINVAL);
        }
        let wanted: u64 = user::read_val(UserAddr(arg))?;
        let mut bytes: Vec<u8> = self.info(wanted)?.into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.resize(size as usize, 0);
        user::copy_out(UserAddr(arg), &bytes).map(|()| 0)
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

    fn fdinfo(&self, _: &File, out: &mut Text) {
        let pid = match &self.thread {
            Some((_, tid)) => self.task().map(|_| *tid),
            None => self.process().map(|process| process.pid()),
        };
        let Ok(pid) = pid else { return out.push_str("Pid:\t-1\nNSpid:\t-1\n") };
        let viewer = task::current().process().pid_ns().clone();
        let own = viewer.number_of(pid);
        let _ = write!(out, "Pid:\t{own}\nNSpid:\t{own}");
        let inside: Vec<_> = self.process.pid_ns().lineage().filter(|ns| ns.is_within(&viewer)).collect();
        for ns in inside.iter().rev().skip(1) {
            let _ = write!(out, "\t{}", ns.number_of(pid));
        }
        out.push_str("\n");
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[pidfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
