//! Running a new program. Source: execve(2).
//!
//! Up to the point of no return ([`commit`]) nothing of the caller has changed and every error is returned. After it
//! the other threads are gone; what fails then kills the process.

use super::ids::{self, WaitStatus};
use super::ns::user::Which;
use super::process::Process;
use super::task::Task;
use super::{Count, Cred, cap, exit, ptrace};
use crate::fs::{File, MountFlags};
use crate::loader::{self, Loaded, stack::Strings};
use crate::{Errno, Result, sched, signal};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general::RLIMIT_NPROC;
use umbel_gate::Regs;

/// `ADDR_NO_RANDOMIZE` of personality(2).
const NO_RANDOMIZE: u32 = 0x0004_0000;
/// Set-user-id and set-group-id bits of a mode.
const SET_ID: u32 = 0o6000;

/// What to run.
pub struct Program {
    pub file: Arc<File>,
    /// The name that was asked for.
    pub name: Vec<u8>,
    /// See [`loader::Request::unreachable`].
    pub unreachable: bool,
}

/// Replaces the program of the calling process.
///
/// # Errors
/// See execve(2); the process then goes on as it was, or is being killed.
pub fn exec(task: &Arc<Task>, program: Program, strings: Strings) -> Result<()> {
    let process = task.process();
    let over = || process.user().count(Count::Processes) > process.limit(RLIMIT_NPROC);
    if task.too_many.swap(false, Relaxed) && over() {
        task.too_many.store(true, Relaxed);
        return Err(Errno::EAGAIN);
    }
    let personality = process.personality.load(Relaxed);
    let Program { file, name, unreachable } = program;
    let randomize = personality & NO_RANDOMIZE == 0;
    let request = loader::Request { file, name, strings, unreachable, limits: process.limits(), randomize };
    let loaded =
        loader::load(task, request, &|file| new_cred(task, file).map(|(cred, secure)| (Arc::new(cred), secure)))?;
    let old_tid = ptrace::stops::seen_by_tracer(task, task.tid());
    de_thread(task)?;
    commit(task, loaded);
    if !task.must_exit() {
        ptrace::stops::exec(task, old_tid);
    }
    Ok(())
}

/// Gives a process that has never run its first program.
pub fn prepare_first(task: &Arc<Task>, loaded: Loaded) {
    let Loaded { space, entry, sp, image, comm, .. } = loaded;
    task.thread.space.store(space.id(), Relaxed);
    drop(task.replace_space(Some(space)));
    task.set_comm(&comm);
    task.process().set_image(image);
    task.user.reset(&Regs::start(entry, sp));
}

/// What the program's file makes of the caller's credentials, and whether it is to be careful (`AT_SECURE`).
fn new_cred(task: &Task, file: &Arc<File>) -> Result<(Cred, bool)> {
    let mut cred = (*task.cred()).clone();
    let before = (cred.euid, cred.egid);
    let attr = file.attr()?;
    let watched = task.trace.tracer_task().is_some_and(|tracer| !tracer.capable(cap::SYS_PTRACE));
    let unsafe_now = || task.no_new_privs.load(Relaxed) || watched || is_nosuid(file) || shares_places(task);
    if attr.mode & SET_ID != 0 && !unsafe_now() {
        if attr.mode & 0o4000 != 0 && cred.user_ns.find(Which::Users, attr.uid).is_some() {
            cred.euid = attr.uid;
        }
        // Without group execution the bit means mandatory locking, not set-group-id.
        if attr.mode & 0o2010 == 0o2010 && cred.user_ns.find(Which::Groups, attr.gid).is_some() {
            cred.egid = attr.gid;
        }
    }
    (cred.suid, cred.fsuid) = (cred.euid, cred.euid);
    (cred.sgid, cred.fsgid) = (cred.egid, cred.egid);
    let had = cred.permitted;
    cred.exec_caps();
    // Nobody gains what another, or a promise, keeps from it.
    let careful = || task.no_new_privs.load(Relaxed) || watched || shares_places(task);
    if cred.permitted & !had != 0 && careful() {
        cred.permitted &= had;
        cred.effective &= had;
    }
    cred.keys.exec();
    let secure = before != (cred.euid, cred.egid) || cred.euid != cred.uid || cred.egid != cred.gid;
    Ok((cred, secure))
}

/// Whether a process without privilege shares root and current directory with another, which could change them under it.
fn shares_places(task: &Task) -> bool {
    if task.capable(cap::SETUID) {
        return false;
    }
    let Ok(own) = task.fs() else { return false };
    // Outside the table's lock.
    let others: Vec<Arc<Task>> = {
        let table = ids::table();
        table.tasks.values().filter(|other| !Arc::ptr_eq(other.process(), task.process())).cloned().collect()
    };
    others.iter().any(|other| other.fs().is_ok_and(|places| Arc::ptr_eq(&places, &own)))
}

fn is_nosuid(file: &File) -> bool {
    file.path().is_some_and(|path| path.mount().flags().contains(MountFlags::NOSUID))
}

/// Ends all other threads of the process; the caller becomes its leader.
fn de_thread(task: &Arc<Task>) -> Result<()> {
    let process = task.process();
    {
        let table = ids::table();
        let node = table.node(process.pid())?;
        if task.must_exit() || !process.begin_exec(task) {
            return Err(Errno::ERESTARTNOINTR);
        }
        if node.threads.len() == 1 {
            drop(table);
            return become_leader(task);
        }
    }
    exit::kick_threads(process);
    let alone = || {
        let table = ids::table();
        let count = table.node(process.pid()).map_or(0, |node| node.threads.len());
        (count <= 1 || process.is_exiting()).then_some(())
    };
    process.child_events.wait_until(alone);
    if process.is_exiting() {
        process.end_exec();
        return Err(Errno::ERESTARTNOINTR);
    }
    become_leader(task)
}

fn become_leader(task: &Arc<Task>) -> Result<()> {
    let process = task.process();
    process.end_exec();
    let pid = process.pid();
    if task.tid() != pid {
        let mut table = ids::table();
        table.tasks.remove(&task.tid().0);
        let old = task.tid();
        exit::pass_children(&mut table, process, old, pid);
        task.set_tid(pid);
        ptrace::relation::renamed(&mut table, task, old);
        table.tasks.insert(pid.0, task.clone());
        table.release(old);
        // The leader that has ended is not there to be waited for.
        process.cgroup.uncharge(&mut table);
        process.exit_signal.store(signal::SIGCHLD, Relaxed);
    }
    Ok(())
}

/// A thread of `process` is gone: whoever waits in [`de_thread`] is woken through `child_events`.
pub(super) fn thread_gone(process: &Process) {
    process.child_events.wake_all();
}

/// The point of no return.
fn commit(task: &Arc<Task>, loaded: Loaded) {
    let process = task.process();
    let cred = new_cred(task, &loaded.file);
    match cred {
        Ok((cred, secure)) => {
            process.dumpable.store(u32::from(!secure), Relaxed);
            if secure {
                task.parent_death_signal.store(0, Relaxed);
            }
            task.set_cred(cred);
        }
        Err(_) => exit::group_exit(process, WaitStatus::signaled(signal::SIGKILL, false)),
    }
    unshare(task);
    process.exit_signal.store(signal::SIGCHLD, Relaxed);
    if let Ok(node) = ids::table().node_mut(process.pid()) {
        node.execed = true;
    }
    install(task, loaded);
    crate::stats::EXECS.add(1);
}

/// Descriptors become the process's own, those marked are closed; handlers, stacks and timers are forgotten.
fn unshare(task: &Arc<Task>) {
    if let Ok(files) = task.files() {
        match Arc::strong_count(&files) {
            // The task's reference and this one.
            0..=2 => files.close_on_exec(),
            _ => {
                let own = files.copy();
                own.close_on_exec();
                drop(task.replace_files(Some(own)));
            }
        }
    }
    task.process().signal.exec();
    task.process().expedites.store(false, Relaxed);
    task.process().timers.exec();
    task.signal.exec();
    task.rseq.clear();
    task.trace.forget_points();
}

/// Moves the thread into the new space with fresh registers.
fn install(task: &Arc<Task>, loaded: Loaded) {
    let Loaded { space, entry, sp, image, comm, .. } = loaded;
    super::exit::release_memory_for_exec(task);
    let id = space.id();
    if task.trace.is_traced() {
        space.unpatch();
    }
    // The old space goes first: nobody else may have it, and its memory is free for the new one.
    drop(task.replace_space(Some(space)));
    if !task.is_vfork_child() {
        // Stay in this slot, emptied, instead of going over to another one.
        umbel_smp::slot::give_up();
    }
    sched::enter_space(task, id);
    task.release_vfork();
    task.set_ns(task.ns().in_time_for_children());
    task.set_comm(&comm);
    task.process().set_image(image);
    task.user.reset(&Regs::start(entry, sp));
}

impl Cred {
    /// Capabilities after execve: root gains all, others keep the ambient ones. Source: capabilities(7).
    pub fn exec_caps(&mut self) {
        const KEEP_CAPS: u32 = 1 << 4;
        self.securebits &= !KEEP_CAPS;
        const NOROOT: u32 = 1;
        let root = self.securebits & NOROOT == 0 && (self.is_root(self.euid) || self.is_root(self.uid));
        if root {
            self.permitted = self.inheritable | self.bounding;
            self.effective = if self.is_root(self.euid) { self.permitted } else { 0 };
            self.ambient = 0;
        } else {
            self.permitted = self.ambient;
            self.effective = self.ambient;
        }
        self.permitted &= cap::ALL;
        self.effective &= cap::ALL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_gains_capabilities_and_others_lose_them() {
        let mut cred = Cred::new(0, 0);
        cred.permitted = 0;
        cred.effective = 0;
        cred.exec_caps();
        assert_eq!(cred.effective, cap::ALL);
        let mut cred = Cred::new(1000, 1000);
        cred.permitted = 4;
        cred.exec_caps();
        assert_eq!((cred.permitted, cred.effective), (0, 0));
    }
}
