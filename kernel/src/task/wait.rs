//! Waiting for children. Source: wait(2), waitid(2).

use super::ids::{self, Node, Table, WaitStatus};
use super::process::{Process, Usage};
use super::task::Task;
use crate::{Errno, Pid, Result, signal};
use alloc::sync::Arc;
use bitflags::bitflags;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as raw;
use umbel_smp::wait::Wake;

bitflags! {
    /// `WNOHANG` and its kin.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct WaitOptions: u32 {
        const WNOHANG = raw::WNOHANG;
        const WUNTRACED = raw::WUNTRACED;
        const WEXITED = raw::WEXITED;
        const WCONTINUED = raw::WCONTINUED;
        const WNOWAIT = raw::WNOWAIT;
        const __WNOTHREAD = raw::__WNOTHREAD;
        const __WALL = raw::__WALL;
        const __WCLONE = raw::__WCLONE;
    }
}
crate::flag_args!(WaitOptions);

/// Which children.
#[derive(Clone)]
pub enum WaitFor {
    Any,
    Pid(Pid),
    Pgrp(Pid),
    /// This process, whoever has its number later (`P_PIDFD`).
    Process(Arc<Process>),
}

/// A child's change of state.
#[derive(Clone, Copy, Debug)]
pub struct WaitResult {
    pub pid: Pid,
    /// What it is for the waiter, as it was before it could be reaped.
    pub number: i32,
    pub uid: u32,
    pub status: WaitStatus,
    pub usage: Usage,
    /// Whose end or stop it is.
    pub of: Of,
}

/// What a result is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Child,
    /// A traced thread, or a traced process that is another's child.
    Tracee,
    /// The end of a traced thread that is not its process's leader.
    Thread,
}

/// Waits as `options` say; `Ok(None)` if `WNOHANG` and nothing happened yet.
///
/// # Errors
/// `ECHILD` if there is nothing to wait for, `ERESTARTSYS` on a signal.
pub fn wait(task: &Arc<Task>, which: WaitFor, options: WaitOptions) -> Result<Option<WaitResult>> {
    let process = task.process();
    let mut look = || match scan(task, &which, options) {
        Ok(Some(found)) => Some(Ok(Some(WaitResult { number: process.sees(found.pid), ..found }))),
        Ok(None) if options.contains(WaitOptions::WNOHANG) => Some(Ok(None)),
        Ok(None) => None,
        Err(errno) => Some(Err(errno)),
    };
    match process.child_events.wait_interruptible(None, &mut look) {
        Ok(Ok(Some(found))) => {
            if found.is_end() {
                await_signal(&found);
            }
            if found.is_end() && !options.contains(WaitOptions::WNOWAIT) && !take(process, &found) {
                // Another thread of this process was faster.
                return wait(task, which.clone(), options);
            }
            Ok(Some(found))
        }
        Ok(other) => other,
        Err(Wake::Interrupted | Wake::TimedOut) => Err(Errno::ERESTARTSYS),
    }
}

/// An end can be found before its signal is sent: waits for that, as a signal that is blocked must be pending when the call
/// returns.
fn await_signal(found: &WaitResult) {
    if let Some(ended) = ids::find_process(found.pid).filter(|_| found.of != Of::Thread) {
        ended.await_told();
    }
}

/// Takes the end that was found; false if another thread was faster.
fn take(process: &Process, found: &WaitResult) -> bool {
    match found.of {
        Of::Child => super::exit::reap(found.pid),
        Of::Tracee => super::ptrace::relation::reaped_by_tracer(process, found.pid),
        Of::Thread => {
            let mut table = ids::table();
            let Ok(node) = table.node_mut(process.pid()) else { return false };
            let Some(at) = node.dead_tracees.iter().position(|dead| dead.tid == found.pid) else { return false };
            let dead = node.dead_tracees.remove(at);
            table.unreserve(dead.tid);
            drop(table);
            drop(dead);
            true
        }
    }
}

impl WaitResult {
    fn is_end(&self) -> bool {
        self.status != WaitStatus::CONTINUED && self.status.0 & 0xff != 0x7f
    }
}

/// `si_code` and `si_status` of a status.
pub fn code_of(status: WaitStatus) -> (i32, i32) {
    let value = (status.0 >> 8 & 0xff) as i32;
    let (code, value) = match status.0 {
        0xffff => (raw::CLD_CONTINUED, signal::SIGCONT as i32),
        bits if bits & 0xff == 0x7f => (raw::CLD_STOPPED, value),
        bits if bits & 0x7f == 0 => (raw::CLD_EXITED, value),
        bits if bits & 0x80 != 0 => (raw::CLD_DUMPED, (bits & 0x7f) as i32),
        bits => (raw::CLD_KILLED, (bits & 0x7f) as i32),
    };
    (code as i32, value)
}

/// One look at all tracees; `None` if none of them is meant.
fn scan_tracees(table: &Table, own: &Node, which: &WaitFor, options: WaitOptions) -> Option<Option<WaitResult>> {
    let mut any = None;
    let meant = |node: &Node, tid: Pid| match which {
        WaitFor::Pid(pid) => tid == *pid,
        _ => is_wanted(node, which),
    };
    for dead in &own.dead_tracees {
        let node = table.node(dead.process.pid());
        if node.map_or(matches!(which, WaitFor::Any), |node| meant(node, dead.tid))
            || matches!(which, WaitFor::Pid(pid) if *pid == dead.tid)
        {
            any = Some(None);
            if options.contains(WaitOptions::WEXITED) {
                let uid = dead.process.uid.load(Relaxed);
                let status = dead.process.group_exit().unwrap_or(dead.status);
                let (pid, usage) = (dead.tid, dead.usage);
                return Some(Some(WaitResult { pid, number: 0, uid, status, usage, of: Of::Thread }));
            }
        }
    }
    for tid in &own.tracees {
        let task = table.tasks.get(tid);
        let pid = task.map_or(Pid(*tid), |task| task.process().pid());
        let Ok(node) = table.node(pid) else { continue };
        if !meant(node, Pid(*tid)) {
            continue;
        }
        any = Some(None);
        let found = match task {
            Some(task) => stop_of(task, node, options),
            None => node.zombie.filter(|_| options.contains(WaitOptions::WEXITED)).map(|status| end_of(node, status)),
        };
        if let Some(found) = found {
            return Some(Some(WaitResult { pid: Pid(*tid), of: Of::Tracee, ..found }));
        }
    }
    any
}

/// The stop of a tracee that has not been reported.
fn stop_of(task: &Task, node: &Node, options: WaitOptions) -> Option<WaitResult> {
    let code = task.trace.report(!options.contains(WaitOptions::WNOWAIT))?;
    Some(end_of(node, WaitStatus(code << 8 | 0x7f)))
}

fn end_of(node: &Node, status: WaitStatus) -> WaitResult {
    let process = &node.process;
    let mut usage = process.times.lock().own;
    usage.add(&process.times.lock().children);
    WaitResult { pid: process.pid(), number: 0, uid: process.uid.load(Relaxed), status, usage, of: Of::Child }
}

/// One look at all children.
fn scan(task: &Task, which: &WaitFor, options: WaitOptions) -> Result<Option<WaitResult>> {
    let table = ids::table();
    let own = table.node(task.process().pid())?;
    let own_only = options.contains(WaitOptions::__WNOTHREAD);
    let mut any = false;
    for child in &own.children {
        let Some(node) = table.processes.get(child) else { continue };
        if !matches(node, which, options) || (own_only && node.by != task.tid()) {
            continue;
        }
        // Who does not wait for ends does not see a zombie at all.
        if node.zombie.is_some() && !options.contains(WaitOptions::WEXITED) {
            continue;
        }
        any = true;
        if let Some(found) = state_of(own, node, options) {
            return Ok(Some(found));
        }
    }
    if let Some(found) = scan_tracees(&table, own, which, options) {
        any = true;
        if found.is_some() {
            return Ok(found);
        }
    }
    if any { Ok(None) } else { Err(Errno::ECHILD) }
}

fn is_wanted(node: &Node, which: &WaitFor) -> bool {
    match which {
        WaitFor::Any => true,
        WaitFor::Pid(pid) => node.process.pid() == *pid,
        WaitFor::Pgrp(pgid) => node.pgrp.id == *pgid,
        WaitFor::Process(process) => Arc::ptr_eq(&node.process, process),
    }
}

fn matches(node: &Node, which: &WaitFor, options: WaitOptions) -> bool {
    let is_clone = node.process.exit_signal.load(Relaxed) != signal::SIGCHLD;
    is_wanted(node, which)
        && (node.was_traced
            || options.contains(WaitOptions::__WALL)
            || is_clone == options.contains(WaitOptions::__WCLONE))
}

/// What there is to report of a child, if anything; takes the report unless `WNOWAIT`.
fn state_of(own: &Node, node: &Node, options: WaitOptions) -> Option<WaitResult> {
    let process = &node.process;
    let result = |status| end_of(node, status);
    if let Some(status) = node.zombie {
        let waits = options.contains(WaitOptions::WEXITED) && node.traced_by.is_none();
        return waits.then(|| result(status));
    }
    if own.tracees.contains(&process.pid().0) {
        // Its stops are seen as a tracee's.
        return None;
    }
    let keep = options.contains(WaitOptions::WNOWAIT);
    let mut stop = process.stop.lock();
    if let Some(signo) = stop.unreported
        && options.contains(WaitOptions::WUNTRACED)
    {
        if !keep {
            stop.unreported = None;
        }
        drop(stop);
        return Some(result(WaitStatus::stopped(signo)));
    }
    if stop.continued && options.contains(WaitOptions::WCONTINUED) {
        if !keep {
            stop.continued = false;
        }
        drop(stop);
        return Some(result(WaitStatus::CONTINUED));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_codes() {
        assert_eq!(code_of(WaitStatus::exited(3)), (raw::CLD_EXITED as i32, 3));
        assert_eq!(code_of(WaitStatus::signaled(9, false)), (raw::CLD_KILLED as i32, 9));
        assert_eq!(code_of(WaitStatus::signaled(11, true)), (raw::CLD_DUMPED as i32, 11));
        assert_eq!(code_of(WaitStatus::stopped(19)), (raw::CLD_STOPPED as i32, 19));
        assert_eq!(code_of(WaitStatus::CONTINUED), (raw::CLD_CONTINUED as i32, 18));
    }
}
