//! New threads and processes. Source: clone(2), fork(2), vfork(2).
//!
//! The child is complete before it enters the table of ids, and in the table before it can run; if a step fails
//! nothing is left behind. Nothing here may hold the table's lock while it copies memory.

use super::ids::{self, INIT, Table};
use super::ns::PidNs;
use super::pidfd::{self, Scope};
use super::process::Process;
use super::task::{NewTask, Task};
use super::{Completion, Count, User, cap, ns, ptrace};
use crate::cgroup::{self, Cgroup, freezer, pids};
use crate::fs::{OnExec, OpenFlags};
use crate::keys::own::Rings;
use crate::signal::{self, PutOff};
use crate::{Errno, Fd, Pid, Result, sched};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as raw;
use umbel_gate::Regs;
use umbel_mm::{heap, user};

bitflags! {
    /// `CLONE_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CloneFlags: u64 {
        const VM = raw::CLONE_VM as u64;
        const FS = raw::CLONE_FS as u64;
        const FILES = raw::CLONE_FILES as u64;
        const SIGHAND = raw::CLONE_SIGHAND as u64;
        const PIDFD = raw::CLONE_PIDFD as u64;
        const PTRACE = raw::CLONE_PTRACE as u64;
        const VFORK = raw::CLONE_VFORK as u64;
        const PARENT = raw::CLONE_PARENT as u64;
        const THREAD = raw::CLONE_THREAD as u64;
        const NEWNS = raw::CLONE_NEWNS as u64;
        const SYSVSEM = raw::CLONE_SYSVSEM as u64;
        const SETTLS = raw::CLONE_SETTLS as u64;
        const PARENT_SETTID = raw::CLONE_PARENT_SETTID as u64;
        const CHILD_CLEARTID = raw::CLONE_CHILD_CLEARTID as u64;
        const DETACHED = raw::CLONE_DETACHED as u64;
        const UNTRACED = raw::CLONE_UNTRACED as u64;
        const CHILD_SETTID = raw::CLONE_CHILD_SETTID as u64;
        const NEWTIME = raw::CLONE_NEWTIME as u64;
        const NEWCGROUP = raw::CLONE_NEWCGROUP as u64;
        const NEWUTS = raw::CLONE_NEWUTS as u64;
        const NEWIPC = raw::CLONE_NEWIPC as u64;
        const NEWUSER = raw::CLONE_NEWUSER as u64;
        const NEWPID = raw::CLONE_NEWPID as u64;
        const NEWNET = raw::CLONE_NEWNET as u64;
        const IO = raw::CLONE_IO as u64;
        const CLEAR_SIGHAND = 1 << 32;
        const INTO_CGROUP = 1 << 33;
    }
}

impl CloneFlags {
    /// Refuses combinations that make no sense.
    fn check(self) -> Result<()> {
        let needs = |flag: CloneFlags, needed: CloneFlags| !self.contains(flag) || self.contains(needed);
        if !needs(CloneFlags::SIGHAND, CloneFlags::VM)
            || !needs(CloneFlags::THREAD, CloneFlags::SIGHAND)
            || self.contains(CloneFlags::SIGHAND | CloneFlags::CLEAR_SIGHAND)
            || self.contains(CloneFlags::PIDFD | CloneFlags::DETACHED)
            || self.contains(CloneFlags::THREAD | CloneFlags::NEWUSER)
            || self.contains(CloneFlags::THREAD | CloneFlags::NEWPID)
            || (self.contains(CloneFlags::FS) && self.intersects(CloneFlags::NEWUSER | CloneFlags::NEWNS))
        {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

/// What clone(2) and clone3(2) ask for.
#[derive(Clone, Debug, Default)]
pub struct CloneArgs {
    pub flags: CloneFlags,
    /// Signal to the parent at exit.
    pub exit_signal: u32,
    /// Stack pointer of the child, 0 = the caller's.
    pub stack: u64,
    pub tls: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    /// Where the child's pidfd goes.
    pub pidfd: u64,
    /// Numbers that the child shall have, that in its own PID namespace first.
    pub set_tid: Vec<i32>,
    /// Where the child goes, if not where its parent is.
    pub group: Option<Arc<Cgroup>>,
}

/// Makes a thread or a process; returns the number that it has for the caller once it may run.
///
/// # Errors
/// `EINVAL` for flags that exclude each other, `EAGAIN` at a limit and while kernel memory is low, `ENOMEM`.
pub fn clone(task: &Arc<Task>, args: &CloneArgs) -> Result<i32> {
    args.flags.check()?;
    let process = task.process();
    if args.flags.contains(CloneFlags::PARENT) && (process.pid() == INIT || process.is_ns_init()) {
        return Err(Errno::EINVAL);
    }
    check_limit(task)?;
    check_group(&args.group.clone().unwrap_or_else(|| process.cgroup.group()))?;
    let child = build(task, args).map_err(|errno| match errno {
        // What lacks is kernel memory: a limit of processes, which may pass.
        Errno::ENOMEM if heap::low() => Errno::EAGAIN,
        errno => errno,
    })?;
    let tid = child.tid();
    // Once it runs, it may be gone with its numbers at any time.
    let number = process.sees(tid);
    let pidfd = match give_pidfd(task, &child, args) {
        Ok(pidfd) => pidfd,
        Err(errno) => {
            super::exit::discard(&child);
            return Err(errno);
        }
    };
    if args.flags.contains(CloneFlags::PARENT_SETTID) {
        // As Linux does, a bad address is not an error here.
        let _ = user::write_val(user::UserAddr(args.parent_tid), &number);
    }
    if args.flags.contains(CloneFlags::CHILD_SETTID)
        && let Some(space) = child.space()
    {
        let seen = child.process().sees(tid);
        let _ = space.write_remote(user::UserAddr(args.child_tid), &seen.to_ne_bytes());
    }
    let done = args.flags.contains(CloneFlags::VFORK).then(|| {
        let done = Arc::new(Completion::new());
        child.set_vfork(done.clone());
        done
    });
    let event = ptrace::stops::clone_event(task, args);
    let message = ptrace::stops::seen_by_tracer(task, tid);
    let entered = enter(task, &child, args, event.is_some());
    if entered.is_err() || args.group.is_some() {
        args.group.as_ref().unwrap_or(&process.cgroup.group()).tell();
    }
    if let Err(errno) = entered {
        if let (Some(fd), Ok(files)) = (pidfd, task.files()) {
            drop(files.remove(fd));
        }
        super::exit::discard(&child);
        return Err(errno);
    }
    if !args.flags.contains(CloneFlags::THREAD) {
        // Without memory for its timer the limit is noted, no more.
        let _ = crate::time::posix::watch_cpu_limit(child.process());
    }
    ptrace::relation::stop_first(&child);
    freezer::stop_first(&child);
    sched::start(&child);
    crate::stats::FORKS.add(1);
    if let Some(event) = event {
        ptrace::stops::event(task, event, message);
    }
    if let Some(done) = done {
        wait_vfork(task, &done);
        ptrace::stops::event(task, ptrace::Event::VforkDone, message);
    }
    Ok(number)
}

/// Gives the caller a descriptor of the child, if it asked for one.
fn give_pidfd(task: &Task, child: &Arc<Task>, args: &CloneArgs) -> Result<Option<Fd>> {
    if !args.flags.contains(CloneFlags::PIDFD) {
        return Ok(None);
    }
    let scope = if args.flags.contains(CloneFlags::THREAD) { Scope::Thread } else { Scope::Process };
    let file = pidfd::new(child, scope, OpenFlags::empty());
    let files = task.files()?;
    let fd = files.install(file, OnExec::Close, task.process().limit(raw::RLIMIT_NOFILE))?;
    match user::write_val(user::UserAddr(args.pidfd), &fd.0) {
        Ok(()) => Ok(Some(fd)),
        Err(errno) => {
            drop(files.remove(fd));
            Err(errno)
        }
    }
}

/// Waits until a vfork child has its own space or is gone. Only a fatal signal ends it sooner.
fn wait_vfork(task: &Task, done: &Completion) {
    if done.wait().is_ok() {
        return;
    }
    let mut later = PutOff::none(task);
    freezer::rest(task, || while done.wait().is_err() && !later.ended_by(signal::fatal_pending) {});
}

/// `RLIMIT_NPROC` binds everybody but the privileged.
fn check_limit(task: &Task) -> Result<()> {
    let limit = task.process().limit(raw::RLIMIT_NPROC);
    let cred = task.cred();
    if cred.uid == 0 || cred.capable(cap::SYS_ADMIN) || cred.capable(cap::SYS_RESOURCE) {
        return Ok(());
    }
    if User::of(cred.uid).count(Count::Processes) >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// Refuses at once what [`enter`] would refuse after much work.
fn check_group(group: &Cgroup) -> Result<()> {
    if pids::has_room(group) {
        return Ok(());
    }
    let allowed = pids::check(&mut ids::table(), group);
    group.tell();
    allowed
}

/// Builds the child: nobody else can see it yet, except that its id is taken when it is entered.
fn build(task: &Arc<Task>, args: &CloneArgs) -> Result<Arc<Task>> {
    let flags = args.flags;
    let fresh = ns::make(task, flags)?;
    let mut ns = fresh.ns.unwrap_or_else(|| task.ns());
    if !flags.contains(CloneFlags::VM) {
        ns = ns.in_time_for_children();
    }
    let pid_ns = &ns.pid_for_children;
    if flags.contains(CloneFlags::THREAD) && !Arc::ptr_eq(pid_ns, task.process().pid_ns()) {
        return Err(Errno::EINVAL);
    }
    let space = task.space().ok_or(Errno::EINVAL)?;
    let space = if flags.contains(CloneFlags::VM) { space } else { space.fork()? };
    let files = task.files()?;
    let files = if flags.contains(CloneFlags::FILES) { files } else { files.duplicate()? };
    let fs = task.fs()?;
    let fs = match fresh.fs {
        Some(own) => own,
        None if flags.contains(CloneFlags::FS) => fs,
        None => fs.duplicate(),
    };
    let user = task.user.try_clone()?;
    user.update(|regs: &mut Regs| {
        regs.rax = 0;
        regs.orig_rax = Regs::NO_SYSCALL;
        if args.stack != 0 {
            regs.rsp = args.stack;
        }
    });
    if flags.contains(CloneFlags::SETTLS) {
        let mut bases = user.bases();
        bases.fs = super::arch::check_base(args.tls)?;
        user.set_bases(bases);
    }
    let cred = Rings::for_child(fresh.cred.map_or_else(|| task.cred(), Arc::new), flags.contains(CloneFlags::THREAD))?;
    if sched::deadline::forbids_fork(task.sched.class(), task.sched.flags().1) {
        return Err(Errno::EAGAIN);
    }
    let thread = sched::new_thread(space.id())?;
    let tid = ids::table().reserve_in(pid_ns, &args.set_tid)?;
    let process = if flags.contains(CloneFlags::THREAD) {
        task.process().clone()
    } else {
        new_process(task, (tid, pid_ns), args)
    };
    let drop_altstack = flags.contains(CloneFlags::VM) && !flags.contains(CloneFlags::VFORK);
    let child = Task::new(NewTask {
        tid,
        process,
        thread,
        user,
        signal: signal::Private::for_clone(&task.signal, drop_altstack),
        body: None,
        sched: task.sched.for_child(),
        cred,
        comm: task.comm(),
        space: Some(space),
        files: Some(files),
        fs: Some(fs),
        rseq: if flags.contains(CloneFlags::VM) { Default::default() } else { task.rseq.copy() },
        seccomp: task.seccomp.copy(),
        ns,
    });
    child.no_new_privs.store(task.no_new_privs.load(Relaxed), Relaxed);
    child.no_counter.store(task.no_counter.load(Relaxed), Relaxed);
    child.io_priority.store(task.io_priority.load(Relaxed), Relaxed);
    child.mem_policy.store(task.mem_policy.load(Relaxed), Relaxed);
    let slack_ns = task.timer_slack_ns.load(Relaxed);
    child.timer_slack_ns.store(slack_ns, Relaxed);
    child.default_slack_ns.store(slack_ns, Relaxed);
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        child.clear_child_tid.store(args.child_tid, Relaxed);
    }
    Ok(child)
}

fn new_process(task: &Task, (pid, ns): (Pid, &Arc<PidNs>), args: &CloneArgs) -> Arc<Process> {
    let parent = task.process();
    let signal = signal::Shared::for_clone(
        &parent.signal,
        args.flags.contains(CloneFlags::SIGHAND),
        args.flags.contains(CloneFlags::CLEAR_SIGHAND),
    );
    let child = Process::new((pid, ns.clone()), signal, parent.limits(), parent.image());
    child.exit_signal.store(args.exit_signal, Relaxed);
    child.set_uid(parent.uid.load(Relaxed));
    child.dumpable.store(parent.dumpable.load(Relaxed), Relaxed);
    child.set_memory_owner(parent.memory_owner());
    child.coredump_filter.store(parent.coredump_filter.load(Relaxed), Relaxed);
    child.oom_score_adj.store(parent.oom_score_adj.load(Relaxed), Relaxed);
    child.oom_score_adj_min.store(parent.oom_score_adj_min.load(Relaxed), Relaxed);
    child.membarriers.store(parent.membarriers.load(Relaxed), Relaxed);
    child.personality.store(parent.personality.load(Relaxed), Relaxed);
    Arc::new(child)
}

/// Enters the child into the table, unless the caller is being killed.
fn enter(task: &Arc<Task>, child: &Arc<Task>, args: &CloneArgs, traced: bool) -> Result<()> {
    let mut table = ids::table();
    if task.must_exit() {
        return Err(Errno::ERESTARTNOINTR);
    }
    cgroup::enter::place_child(&mut table, task.process(), child.process(), args.group.as_ref())?;
    if args.flags.contains(CloneFlags::THREAD) {
        table.enter_thread(child)?;
    } else {
        enter_process(&mut table, task, child, args)?;
    }
    if traced || args.flags.contains(CloneFlags::PTRACE) {
        ptrace::relation::inherit(&mut table, task, child);
    }
    Ok(())
}

fn enter_process(table: &mut Table, task: &Arc<Task>, child: &Arc<Task>, args: &CloneArgs) -> Result<()> {
    let own = task.process().pid();
    let ns = child.process().pid_ns();
    if ns.lineage().any(|ns| ns.is_closed()) {
        return Err(Errno::ENOMEM);
    }
    let node = table.node(own)?;
    let pgrp = node.pgrp.clone();
    let parent = if args.flags.contains(CloneFlags::PARENT) { (node.parent, node.by) } else { (own, task.tid()) };
    let maker = task.process();
    let execs = if args.flags.contains(CloneFlags::PARENT) { &maker.parent_execs } else { &maker.execs };
    child.process().parent_execs.store(execs.load(Relaxed), Relaxed);
    if args.flags.contains(CloneFlags::PARENT) {
        child.process().exit_signal.store(maker.exit_signal.load(Relaxed), Relaxed);
    }
    table.enter_process(child, parent, pgrp);
    if child.process().unkillable.load(Relaxed) {
        ns.set_init(child.tid());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_need_shared_handlers_and_those_a_shared_space() {
        assert!(CloneFlags::THREAD.check().is_err());
        assert!((CloneFlags::SIGHAND | CloneFlags::THREAD).check().is_err());
        assert!((CloneFlags::VM | CloneFlags::SIGHAND | CloneFlags::THREAD).check().is_ok());
        assert!((CloneFlags::NEWNS | CloneFlags::FS).check().is_err());
        assert!(CloneFlags::empty().check().is_ok());
    }
}
