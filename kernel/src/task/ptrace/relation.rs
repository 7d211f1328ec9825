//! Who traces whom: beginning, inheriting, ending.
//!
//! A tracee stands in its tracer's node of the table of ids, by thread id, from the moment it is traced until it is let
//! go or its end has been waited for.

use super::{Mode, Options, State, Tracer};
use crate::signal::{self, SIGSTOP, SigInfo};
use crate::task::access::{Creds, may_access};
use crate::task::ids::{self, DeadTracee, Table, WaitStatus};
use crate::task::{Process, Task, Usage, exit};
use crate::{Errno, Pid, Result, sched};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `PTRACE_TRACEME`: the parent traces the caller.
///
/// # Errors
/// `EPERM` if it is traced already, or its parent may not.
pub fn trace_me(task: &Arc<Task>) -> Result<()> {
    let mut table = ids::table();
    let own = table.node(task.process().pid())?;
    let (parent, by) = (own.parent, own.by);
    let threads = &table.node(parent)?.threads;
    let tracer = threads.iter().find(|thread| thread.tid() == by).or(threads.first()).cloned().ok_or(Errno::EPERM)?;
    if parent == ids::INIT || task.trace.is_traced() {
        return Err(Errno::EPERM);
    }
    drop(table);
    may_access(&tracer, task, Creds::Real)?;
    table = ids::table();
    begin(&mut table, &tracer, task, Start::default())?;
    drop(table);
    turn_patches_off(task);
    Ok(())
}

/// How a tracing begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    pub seized: bool,
    pub options: Options,
    /// Stops as soon as possible with `PTRACE_EVENT_STOP`.
    pub trap: bool,
}

/// `PTRACE_ATTACH`, `PTRACE_SEIZE`.
///
/// # Errors
/// `EPERM`, `ESRCH`.
pub fn attach(task: &Arc<Task>, target: &Arc<Task>, start: Start) -> Result<()> {
    if Arc::ptr_eq(task.process(), target.process()) || target.body.is_some() {
        return Err(Errno::EPERM);
    }
    may_access(task, target, Creds::Real)?;
    if target.must_exit() {
        return Err(Errno::EPERM);
    }
    begin(&mut ids::table(), task, target, start)?;
    // It may have become another's meanwhile; from now on it becomes none's by execve(2).
    if let Err(errno) = may_access(task, target, Creds::Real) {
        detach(target, 0);
        return Err(errno);
    }
    if !start.seized {
        signal::send_to_task(target, SigInfo::kernel(SIGSTOP));
    }
    turn_patches_off(target);
    // One that is stopped already stops anew, as a tracee, and does so before this returns.
    target.process().stop_queue.wake_all();
    let settled = || {
        let stopped = target.process().stop.lock().signal.is_some();
        (!stopped || target.trace.is_stopped() || target.must_exit()).then_some(())
    };
    // Whoever is interrupted meanwhile has attached all the same.
    let _ = task.process().child_events.wait_interruptible(None, settled);
    Ok(())
}

fn begin(table: &mut Table, tracer: &Arc<Task>, target: &Arc<Task>, start: Start) -> Result<()> {
    let node = table.node_mut(tracer.process().pid())?;
    let free = target.trace.with(|state| {
        let free = state.tracer.is_none();
        if free {
            let tracer = Tracer { task: Arc::downgrade(tracer), process: tracer.process().clone() };
            *state = State {
                tracer: Some(tracer),
                seized: start.seized,
                options: start.options,
                trap: start.trap,
                ..State::default()
            };
        }
        free
    });
    if !free {
        return Err(Errno::EPERM);
    }
    node.tracees.insert(target.tid().0);
    Ok(())
}

/// A debugger is to see the program's own text, and every call: takes the patches of its call sites out.
fn turn_patches_off(target: &Task) {
    if let Some(space) = target.space() {
        space.unpatch();
    }
}

/// A tracee's child that its tracer asked to see is traced from its first instruction on. Under the table's lock.
pub fn inherit(table: &mut Table, parent: &Arc<Task>, child: &Arc<Task>) {
    let from = {
        let state = parent.trace.state.0.lock();
        state.tracer.as_ref().map(|tracer| (tracer.task.clone(), state.seized, state.options))
    };
    let Some((tracer, seized, options)) = from else { return };
    let Some(tracer) = tracer.upgrade() else { return };
    // A tracer that is gone traces nobody.
    let _ = begin(table, &tracer, child, Start { seized, options, trap: seized });
}

/// The first thing that a child traced by [`inherit`] does is to stop. Before it runs.
pub fn stop_first(child: &Arc<Task>) {
    if !child.trace.is_traced() {
        return;
    }
    if child.trace.traps() {
        sched::interrupt(child);
    } else {
        signal::send_to_task(child, SigInfo::kernel(SIGSTOP));
    }
}

/// Ends the tracing of `target`, which goes on with `signo` (0 = none) if it was stopped.
pub fn detach(target: &Arc<Task>, signo: u32) {
    {
        let mut table = ids::table();
        forget(&mut table, target);
    }
    let_go(target, signo);
}

fn let_go(target: &Arc<Task>, signo: u32) {
    target.trace.with(|state| {
        let signal = if state.stop.is_some() { signo } else { 0 };
        let info = state.stop.take().and_then(|stop| stop.info);
        *state = State { signal, info, mode: Mode::Run, ..State::default() };
    });
    target.trace.wake();
    // A stop of its process still binds it.
    sched::interrupt(target);
}

/// Takes `target` out of its tracer's list.
fn forget(table: &mut Table, target: &Task) -> Option<Arc<Process>> {
    let tracer = target.trace.tracer()?;
    if let Ok(node) = table.node_mut(tracer.pid()) {
        node.tracees.remove(&target.tid().0);
    }
    Some(tracer)
}

/// A tracee takes over another id (execve(2) of a thread that is not the leader).
pub fn renamed(table: &mut Table, target: &Task, old: Pid) {
    if let Some(tracer) = target.trace.tracer()
        && let Ok(node) = table.node_mut(tracer.pid())
    {
        node.tracees.remove(&old.0);
        node.tracees.insert(target.tid().0);
    }
}

/// The tracing thread ends: its tracees are let go, or die if it asked for that.
pub fn tracer_exit(task: &Arc<Task>) {
    let tids: Vec<i32> = match ids::table().node(task.process().pid()) {
        Ok(node) if !node.tracees.is_empty() => node.tracees.iter().copied().collect(),
        _ => return,
    };
    for tid in tids {
        let Some(target) = ids::find_task(Pid(tid)) else { continue };
        if !target.trace.tracer_task().is_some_and(|tracer| Arc::ptr_eq(&tracer, task)) {
            continue;
        }
        let kill = target.trace.state.0.lock().options.contains(Options::EXITKILL);
        detach(&target, 0);
        if kill {
            signal::send_to_task(&target, SigInfo::kernel(signal::SIGKILL));
        }
    }
}

/// A tracing process is gone: ends of tracees that it has not waited for go to their parents. Returns those processes.
pub fn tracer_gone(table: &mut Table, tracer: Pid) -> Vec<(Arc<Process>, WaitStatus)> {
    let Ok(node) = table.node_mut(tracer) else { return Vec::new() };
    let tracees = core::mem::take(&mut node.tracees);
    for dead in core::mem::take(&mut node.dead_tracees) {
        table.unreserve(dead.tid);
    }
    let mut ended = Vec::new();
    for tid in tracees {
        if let Some(node) = table.processes.get_mut(&tid)
            && node.traced_by == Some(tracer)
        {
            node.traced_by = None;
            if let Some(status) = node.zombie {
                node.process.to_be_told();
                ended.push((node.process.clone(), status));
            }
        }
    }
    ended
}

/// A tracee has left its process. Its end is its tracer's to wait for: of a leader through its process, of another thread as
/// an entry of its own. Returns the tracer.
pub fn tracee_exit(table: &mut Table, task: &Task, status: WaitStatus, usage: Usage) -> Option<Arc<Process>> {
    let tracer = task.trace.tracer()?;
    let (pid, tid) = (task.process().pid(), task.tid());
    let is_parent = table.node(pid).is_ok_and(|node| node.parent == tracer.pid());
    if task.is_leader() {
        if is_parent {
            forget(table, task);
            table.node_mut(pid).into_iter().for_each(|node| node.was_traced = true);
        } else if let Ok(node) = table.node_mut(pid) {
            node.traced_by = Some(tracer.pid());
        }
    } else {
        forget(table, task);
        table.keep_id(tid);
        let dead = DeadTracee { tid, process: task.process().clone(), status, usage };
        if let Ok(node) = table.node_mut(tracer.pid()) {
            node.dead_tracees.push(dead);
        }
    }
    task.trace.with(|state| *state = State::default());
    Some(tracer)
}

/// The tracer has waited for the end of process `pid`: now its parent may.
pub fn reaped_by_tracer(tracer: &Process, pid: Pid) -> bool {
    let told = {
        let mut table = ids::table();
        if let Ok(node) = table.node_mut(tracer.pid()) {
            node.tracees.remove(&pid.0);
        }
        let Ok(node) = table.node_mut(pid) else { return false };
        if node.traced_by.take().is_none() {
            return false;
        }
        let (process, zombie, parent) = (node.process.clone(), node.zombie, node.parent);
        let told = table.node(parent).ok().and_then(|parent| Some((parent.process.clone(), process, zombie?)));
        if let Some((_, process, _)) = &told {
            process.to_be_told();
        }
        told
    };
    if let Some((parent, process, status)) = told {
        exit::tell_parent(&parent, &process, status);
        process.told();
    }
    true
}
