//! Running a new program. Source: execve(2).
//!
//! Up to the point of no return ([`commit`]) nothing of the caller has changed and every error is returned. After it
//! the other threads are gone; what fails then kills the process.

use super::ids::{self, WaitStatus};
use super::ns::UserNs;
use super::ns::user::Which;
use super::process::Process;
use super::task::Task;
use super::{Count, Cred, cap, exit, ptrace};
use crate::fs::perm::{self, Want};
use crate::fs::{File, MountFlags};
use crate::loader::{self, Loaded, stack::Strings};
use crate::{Errno, Result, sched, signal};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
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
    let shown = Cell::new(None);
    let loaded = loader::load(task, request, &|file| {
        let (cred, secure) = new_cred(task, file, Gain::Allowed)?;
        shown.set(Some(cred.gained()));
        Ok((Arc::new(cred), secure))
    })?;
    let old_tid = ptrace::stops::seen_by_tracer(task, task.tid());
    de_thread(task)?;
    commit(task, loaded, shown.get());
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

/// Whether a program may have more privileges than who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gain {
    Allowed,
    Refused,
}

/// What credentials have that a program's file may have given them.
type Gained = (u32, u32, u64);

/// What the program's file makes of the caller's credentials, and whether it is to be careful (`AT_SECURE`).
fn new_cred(task: &Task, file: &Arc<File>, gain: Gain) -> Result<(Cred, bool)> {
    let mut cred = (*task.cred()).clone();
    let before = (cred.euid, cred.egid);
    let attr = file.attr()?;
    let bound = || gain == Gain::Refused || task.no_new_privs.load(Relaxed) || is_watched(task) || shares_places(task);
    let known =
        cred.user_ns.find(Which::Users, attr.uid).is_some() && cred.user_ns.find(Which::Groups, attr.gid).is_some();
    if attr.mode & SET_ID != 0 && known && !is_nosuid(task, file) && !bound() {
        if attr.mode & 0o4000 != 0 {
            cred.euid = attr.uid;
        }
        // Without group execution the bit means mandatory locking, not set-group-id.
        if attr.mode & 0o2010 == 0o2010 {
            cred.egid = attr.gid;
        }
    }
    (cred.suid, cred.fsuid) = (cred.euid, cred.euid);
    (cred.sgid, cred.fsgid) = (cred.egid, cred.egid);
    let had = cred.permitted;
    cred.exec_caps();
    // Nobody gains what another, or a promise, keeps from it.
    if cred.permitted & !had != 0 && bound() {
        cred.permitted &= had;
        cred.effective &= had;
    }
    cred.keys.exec();
    let secure = before != (cred.euid, cred.egid) || cred.euid != cred.uid || cred.egid != cred.gid;
    Ok((cred, secure))
}

/// Whether a tracer sees the thread that may not trace what it becomes.
fn is_watched(task: &Task) -> bool {
    task.trace.tracer_task().is_some_and(|tracer| !tracer.capable(cap::SYS_PTRACE))
}

/// Whether a process without privilege shares root and current directory with another, which could change them under it.
fn shares_places(task: &Task) -> bool {
    if task.capable(cap::SETUID) {
        return false;
    }
    let Ok(places) = task.fs() else { return false };
    // Outside the table's lock.
    let own: Vec<Arc<Task>> = {
        let table = ids::table();
        table.node(task.process().pid()).map_or_else(|_| Vec::new(), |node| node.threads.clone())
    };
    let is_same = |thread: &&Arc<Task>| thread.fs().is_ok_and(|other| Arc::ptr_eq(&other, &places));
    places.users() > own.iter().filter(is_same).count()
}

/// Whether set-id bits mean nothing where the file lies: on such a mount, in another tree of mounts than the caller's, or in a file
/// system that was made in a user namespace where the caller is not.
fn is_nosuid(task: &Task, file: &File) -> bool {
    let Some(path) = file.path() else { return false };
    let tree = task.fs().ok().and_then(|fs| fs.namespace()).map(|space| space.id());
    let foreign = tree.is_some_and(|own| own != path.mount().namespace());
    foreign
        || path.mount().flags().contains(MountFlags::NOSUID)
        || !task.cred().user_ns.is_within(&path.mount().fs_owner())
}

/// Whether the caller may read the program that it runs.
fn is_readable(task: &Task, file: &File) -> bool {
    file.inode().is_none_or(|inode| perm::check(&*inode, &task.cred(), Want::READ).is_ok())
}

/// The user namespace whose administrators look into a process that runs `file`; what may not be read belongs to one that knows its
/// owner.
fn memory_owner(task: &Task, file: &File, readable: bool) -> Arc<UserNs> {
    let mut ns = task.cred().user_ns.clone();
    let Ok(attr) = file.attr() else { return UserNs::first() };
    let knows = |ns: &UserNs| ns.find(Which::Users, attr.uid).is_some() && ns.find(Which::Groups, attr.gid).is_some();
    while !readable && !knows(&ns) {
        let Some(parent) = ns.parent() else { break };
        ns = parent;
    }
    ns
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
fn commit(task: &Arc<Task>, loaded: Loaded, shown: Option<Gained>) {
    let process = task.process();
    match become_privileged(task, &loaded.file, shown) {
        Ok(()) => {}
        Err(_) => exit::group_exit(process, WaitStatus::signaled(signal::SIGKILL, false)),
    }
    unshare(task);
    process.execs.fetch_add(1, Relaxed);
    process.exit_signal.store(signal::SIGCHLD, Relaxed);
    if let Ok(node) = ids::table().node_mut(process.pid()) {
        node.execed = true;
    }
    install(task, loaded);
    crate::stats::EXECS.add(1);
}

/// Takes the credentials that `file` gives: `shown` to the program already, which is careful accordingly. Where something has changed since,
/// or a tracer comes meanwhile, nothing is gained.
fn become_privileged(task: &Arc<Task>, file: &Arc<File>, shown: Option<Gained>) -> Result<()> {
    let process = task.process();
    let readable = is_readable(task, file);
    process.set_memory_owner(memory_owner(task, file, readable));
    let (mut cred, secure) = new_cred(task, file, Gain::Allowed)?;
    let (plain, _) = new_cred(task, file, Gain::Refused)?;
    if shown != Some(cred.gained()) {
        cred = plain.clone();
    }
    process.dumpable.store(u32::from(!secure && readable), Relaxed);
    if secure {
        task.parent_death_signal.store(0, Relaxed);
    }
    let gained = cred.gained() != plain.gained();
    task.set_cred(cred);
    // Who attaches looks at the credentials once it is the tracer: one of both sees the other.
    if gained && is_watched(task) {
        task.set_cred(plain);
    }
    Ok(())
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
    task.process().membarriers.store(0, Relaxed);
    task.process().timers.exec();
    task.signal.exec();
    task.rseq.clear();
    super::dispatch::clear(task);
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
    fn gained(&self) -> Gained {
        (self.euid, self.egid, self.permitted)
    }

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
