//! The end of threads and processes. Source: _exit(2), exit_group(2), wait(2).
//!
//! A thread ends by leaving the run loop, never from inside a call, so that everything its stack owns is dropped. Then
//! [`leave`] gives up what it shares, takes it out of the tree and, if it was the last of its group, makes the process a
//! zombie and tells the parent.

use super::ids::{self, Node, Table, WaitStatus};
use super::process::{Process, Usage};
use super::task::Task;
use super::{ptrace, reaper};
use crate::cgroup;
use crate::signal::{self, SigInfo};
use crate::{Pid, futex, sched};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, Release};
use umbel_mm::user::{self, UserAddr};

/// Ends the calling thread when it next leaves the kernel.
pub fn exit(task: &Task, code: i32) {
    task.exit_code.store(code, Relaxed);
    task.exiting.store(true, Relaxed);
}

/// Ends the whole process of `task`: every thread leaves as soon as it can.
pub fn group_exit(process: &Arc<Process>, status: WaitStatus) {
    if process.decide_exit(status) {
        kick_threads(process);
    }
}

/// Makes all threads of `process` look at their state.
pub fn kick_threads(process: &Process) {
    let threads = match ids::table().node(process.pid()) {
        Ok(node) => node.threads.clone(),
        Err(_) => Vec::new(),
    };
    for thread in &threads {
        sched::interrupt(thread);
        thread.trace.wake();
    }
    process.stop_queue.wake_all();
}

/// Everything that is left to do for a thread that has left the run loop. Afterwards it may only switch away for ever.
pub fn leave(task: &Arc<Task>) {
    task.thread.clear_interrupt();
    super::coredump::leaving(task);
    let own = WaitStatus::exited(task.exit_code.load(Relaxed));
    ptrace::stops::exit(task, task.process().group_exit().unwrap_or(own).0);
    ptrace::relation::tracer_exit(task);
    signal::on_exit(task);
    let size = super::acct::collect(task);
    release_memory(task);
    drop(task.replace_files(None));
    drop(task.replace_fs(None));
    task.seccomp.release();
    crate::ipc::unix::settle();
    crate::fs::settle();
    let process = task.process().clone();
    if process.live_threads() <= 1 {
        // Before anybody can learn of the end.
        crate::ipc::sysv::exit(process.pid().0);
        task.leave_ipc();
    }
    {
        let mut times = process.times.lock();
        times.own.add(&task.sched.usage());
        // It is in the table for a while.
        task.counted.store(true, Relaxed);
    }
    let status = process.group_exit().unwrap_or(own);
    if process.live_threads() <= 1 {
        super::acct::process_exit(task, status, size);
    }
    let usage = task.sched.usage();
    let (gone, tracer) = loop {
        let mut table = ids::table();
        if reaper::is_due(&table, &process) {
            drop(table);
            reaper::end_namespace(&process);
            continue;
        }
        let tracer = ptrace::relation::tracee_exit(&mut table, task, status, usage);
        break (remove_thread(&mut table, task, &process, status), tracer);
    };
    process.cgroup.group().tell();
    futex::pi::owner_exit(task);
    if let (Some(tracer), Gone::Thread(_)) = (&tracer, &gone)
        && !task.is_leader()
    {
        let info = thread_info(tracer.sees(task.tid()), &process, status, &usage);
        signal::send_to_process(tracer, info);
        tracer.child_events.wake_all();
    }
    match gone {
        Gone::Thread(bereaved) => {
            for (child, wanted) in bereaved {
                signal::send_to_process(&child, SigInfo::kernel(wanted));
            }
            process.end_queue.wake_all();
            process.child_events.wake_all();
            super::exec::thread_gone(&process);
        }
        Gone::Process(end) => {
            process.timers.clear();
            process.signal.forget_pending();
            process.leave_program();
            crate::ipc::sysv::exit(process.pid().0);
            task.leave_ipc();
            finish_process(&process, status, end);
        }
    }
}

/// A task that was built and never entered: gives back what it holds.
pub fn discard(task: &Arc<Task>) {
    ids::table().unreserve(task.tid());
    task.thread.die();
    drop(task.take_charge());
    drop(task.replace_space(None));
    drop(task.replace_files(None));
    drop(task.replace_fs(None));
}

/// What the thread leaves in memory that others may share: robust futexes and the tid word; notes the peak size.
pub(super) fn release_memory_for_exec(task: &Arc<Task>) {
    let Some(space) = task.space() else { return };
    futex::exit_robust_list(task);
    let clear = task.clear_child_tid.swap(0, Relaxed);
    if clear != 0 && user::write_val(UserAddr(clear), &0_u32).is_ok() {
        futex::wake_address(task, UserAddr(clear), 1);
    }
    let peak = space.peak() / 1024;
    {
        let mut times = task.process().times.lock();
        times.own.max_rss_kib = times.own.max_rss_kib.max(peak);
    }
}

/// Gives the address space up.
fn release_memory(task: &Arc<Task>) {
    release_memory_for_exec(task);
    let space = task.replace_space(None);
    sched::leave_space(task);
    drop(space);
    task.release_vfork();
}

/// What a thread's end meant for its group.
enum Gone {
    /// Children that want a signal when the thread that forked them ends.
    Thread(Vec<(Arc<Process>, u32)>),
    Process(End),
}

/// Who is to hear of a process's end.
struct End {
    parent: Option<Arc<Process>>,
    /// Who is told first, if a process traced it that is not its parent.
    tracer: Option<Arc<Process>>,
    /// Processes that this one traced and did not wait for.
    ended: Vec<(Arc<Process>, WaitStatus)>,
    /// Children, which now have another parent, and the signal that they want for that.
    orphans: Vec<(Arc<Process>, u32)>,
    /// Those parents, with the zombies among the children.
    new_parents: Vec<(Arc<Process>, Arc<Process>)>,
    /// Groups that lost their last link to job control and have stopped members.
    hangup: Vec<Arc<Process>>,
    session_leader_of: Option<Arc<ids::Session>>,
}

fn remove_thread(table: &mut Table, task: &Arc<Task>, process: &Arc<Process>, status: WaitStatus) -> Gone {
    let pid = process.pid();
    let tid = task.tid();
    cgroup::enter::left(table, task);
    if tid != pid {
        table.tasks.remove(&tid.0);
        table.release(tid);
        process.cgroup.uncharge(table);
        drop(task.take_charge());
    } else {
        *process.zombie.lock() = task.take_charge();
    }
    let Ok(node) = table.node_mut(pid) else { return Gone::Thread(Vec::new()) };
    node.threads.retain(|other| !Arc::ptr_eq(other, task));
    process.threads.store(node.threads.len(), Relaxed);
    if let Some(heir) = node.threads.first().map(|thread| thread.tid()) {
        return Gone::Thread(pass_children(table, process, tid, heir));
    }
    node.zombie = Some(status);
    *process.end_class.lock() = Some((task.sched.class(), task.sched.flags()));
    process.end_status.store(status.0, Relaxed);
    process.ended.store(true, Release);
    table.tasks.remove(&pid.0);
    let ended = ptrace::relation::tracer_gone(table, pid);
    let orphaned = orphan_children(table, process);
    let hangup = newly_orphaned(table, pid, &orphaned.0);
    let node = match table.node(pid) {
        Ok(node) => node,
        Err(_) => return Gone::Thread(Vec::new()),
    };
    let session = &node.pgrp.session;
    Gone::Process(End {
        parent: table.node(node.parent).ok().map(|parent| parent.process.clone()),
        tracer: node.traced_by.and_then(|tracer| table.node(tracer).ok()).map(|tracer| tracer.process.clone()),
        ended,
        orphans: orphaned.0,
        new_parents: orphaned.1,
        hangup,
        session_leader_of: (session.id == pid).then(|| session.clone()),
    })
}

/// Gives the children that thread `from` of `process` forked to its thread `heir`; those that want a signal for that.
pub(super) fn pass_children(table: &mut Table, process: &Process, from: Pid, heir: Pid) -> Vec<(Arc<Process>, u32)> {
    let mut bereaved = Vec::new();
    let children = table.node(process.pid()).map(|node| node.children.clone()).unwrap_or_default();
    for child in children {
        let Some(node) = table.processes.get_mut(&child).filter(|node| node.by == from) else { continue };
        node.by = heir;
        let wanted = node.threads.first().map_or(0, |thread| thread.parent_death_signal.load(Relaxed));
        if wanted != 0 {
            bereaved.push((node.process.clone(), wanted));
        }
    }
    bereaved
}

type Orphans = (Vec<(Arc<Process>, u32)>, Vec<(Arc<Process>, Arc<Process>)>);

/// Gives the children of `process` to whom [`reaper`] says.
fn orphan_children(table: &mut Table, process: &Process) -> Orphans {
    let reaper = reaper::find(table, process);
    let Ok(node) = table.node_mut(process.pid()) else { return Default::default() };
    let children = core::mem::take(&mut node.children);
    let mut orphans = Vec::new();
    let mut parents = Vec::new();
    for child in children {
        let Some(node) = table.processes.get_mut(&child) else { continue };
        (node.parent, node.by) = (reaper, reaper);
        for thread in &node.threads {
            thread.change_identity();
        }
        let wanted = node.threads.first().map_or(0, |thread| thread.parent_death_signal.load(Relaxed));
        orphans.push((node.process.clone(), wanted));
        // Whatever the child's signal was, its new parent gets SIGCHLD.
        node.process.exit_signal.store(signal::SIGCHLD, Relaxed);
        let zombie = node.zombie.is_some().then(|| node.process.clone());
        if let Some(parent) = table.processes.get_mut(&reaper.0) {
            parent.children.insert(child);
            if let Some(zombie) = zombie {
                zombie.to_be_told();
                parents.push((parent.process.clone(), zombie));
            }
        }
    }
    (orphans, parents)
}

/// Members of groups that the end of `pid` leaves without job control while one of them is stopped.
fn newly_orphaned(table: &Table, pid: Pid, children: &[(Arc<Process>, u32)]) -> Vec<Arc<Process>> {
    let Ok(own) = table.node(pid) else { return Vec::new() };
    let in_session = |node: &&Node| node.pgrp.id != own.pgrp.id && node.pgrp.session.id == own.pgrp.session.id;
    let mut groups: Vec<&Node> = Vec::new();
    // The end of `pid` matters to its own group only if it was the link to another one.
    if table.node(own.parent).is_ok_and(|parent| in_session(&parent)) {
        groups.push(own);
    }
    groups.extend(children.iter().filter_map(|(child, _)| table.node(child.pid()).ok()).filter(in_session));
    let mut hangup: Vec<Arc<Process>> = Vec::new();
    for node in groups {
        let group = node.pgrp.id;
        if table.has_job_control(group, pid) {
            continue;
        }
        let members = table.members(|other| other.pgrp.id == group);
        let stopped = members.iter().any(|member| member.stop.lock().signal.is_some());
        if stopped && !hangup.iter().any(|known| members.iter().any(|member| Arc::ptr_eq(known, member))) {
            hangup.extend(members);
        }
    }
    hangup
}

fn finish_process(process: &Arc<Process>, status: WaitStatus, end: End) {
    process.end_queue.wake_all();
    reaper::tell_inits(process);
    if let Some(session) = &end.session_leader_of {
        super::session::leader_exit(session);
    }
    for member in &end.hangup {
        signal::send_to_process(member, SigInfo::kernel(signal::SIGHUP));
        signal::send_to_process(member, SigInfo::kernel(signal::SIGCONT));
    }
    for (orphan, wanted) in &end.orphans {
        if *wanted != 0 {
            signal::send_to_process(orphan, SigInfo::kernel(*wanted));
        }
        // getppid() may be answered without entering the kernel.
        kick_threads(orphan);
    }
    for (parent, zombie) in &end.new_parents {
        signal::send_to_process(parent, SigInfo::kernel(signal::SIGCHLD));
        zombie.told();
        parent.child_events.wake_all();
    }
    match (&end.tracer, &end.parent) {
        (Some(tracer), _) => {
            let usage = process.times.lock().own;
            signal::send_to_process(tracer, child_info(signal::SIGCHLD, (process, tracer), status, &usage));
            tracer.child_events.wake_all();
        }
        (None, Some(parent)) => tell_parent(parent, process, status),
        (None, None) => {}
    }
    process.told();
    for (traced, status) in &end.ended {
        let parent = ids::table().node(traced.pid()).map(|node| node.parent);
        if let Some(parent) = parent.ok().and_then(ids::find_process) {
            tell_parent(&parent, traced, *status);
        }
        traced.told();
    }
    if process.pid() == crate::boot::FIRST {
        crate::boot::finish(status);
    }
}

/// SIGCHLD and the wake-up; reaps at once if the parent does not want to know.
pub(super) fn tell_parent(parent: &Arc<Process>, process: &Arc<Process>, status: WaitStatus) {
    let same_program = process.parent_execs.load(Relaxed) == parent.execs.load(Relaxed);
    let wanted = if same_program { process.exit_signal.load(Relaxed) } else { signal::SIGCHLD };
    if wanted == signal::SIGCHLD && signal::ignores_children(parent) {
        take_out(process.pid());
        parent.child_events.wake_all();
        return;
    }
    if wanted != 0 && signal::is_valid(u64::from(wanted)) {
        let usage = process.times.lock().own;
        signal::send_to_process(parent, child_info(wanted, (process, parent), status, &usage));
    }
    parent.child_events.wake_all();
}

/// The `siginfo_t` of a process's end, for `hearer`.
fn child_info(signo: u32, (process, hearer): (&Process, &Process), status: WaitStatus, usage: &Usage) -> SigInfo {
    let (code, value) = super::wait::code_of(status);
    let uid = process.uid.load(Relaxed);
    SigInfo::child(signo, code, hearer.sees(process.pid()), uid, value, usage.user_ns, usage.system_ns)
}

/// The same of a traced thread.
fn thread_info(tid: i32, process: &Process, status: WaitStatus, usage: &Usage) -> SigInfo {
    let (code, value) = super::wait::code_of(status);
    let uid = process.uid.load(Relaxed);
    SigInfo::child(signal::SIGCHLD, code, tid, uid, value, usage.user_ns, usage.system_ns)
}

/// Removes the zombie `pid`, which was waited for, from the tree; its times go to its parent. Returns whether it was there.
pub fn reap(pid: Pid) -> bool {
    let Some((process, parent)) = take_out(pid) else { return false };
    if let Some(parent) = parent {
        let times = *process.times.lock();
        let mut all = parent.times.lock();
        all.children.add(&times.own);
        all.children.add(&times.children);
    }
    true
}

/// Removes the zombie `pid` from the tree. Returns it and its parent, if it was there.
fn take_out(pid: Pid) -> Option<(Arc<Process>, Option<Arc<Process>>)> {
    let mut table = ids::table();
    let node = table.processes.remove(&pid.0)?;
    let group = node.pgrp.id;
    let parent = table.processes.get_mut(&node.parent.0).map(|parent| {
        parent.children.remove(&pid.0);
        parent.process.clone()
    });
    let process = node.process.clone();
    process.cgroup.uncharge(&mut table);
    drop(table);
    process.end_queue.wake_all();
    drop(process.zombie.lock().take());
    drop(node);
    if process.pid_ns().level() > 0 {
        let mut table = ids::table();
        [pid, group].into_iter().for_each(|id| table.release(id));
    }
    Some((process, parent))
}
