//! Group stop and continue. Source: signal(7), wait(2).
//!
//! A stop signal stops every thread of the group at its next way out of the kernel; when the last has parked the parent is
//! told. SIGCONT and SIGKILL end the stop.

use super::exit::kick_threads;
use super::process::Process;
use super::task::Task;
use super::{ids, ptrace};
use crate::cgroup::freezer;
use crate::signal::{self, SigInfo};
use alloc::sync::Arc;

/// Stops the process of `task` for `signo`: the caller parks on its way out.
pub fn begin(task: &Task, signo: u32) {
    let process = task.process();
    {
        let mut stop = process.stop.lock();
        if stop.signal.is_none() {
            stop.signal = Some(signo);
            stop.told = false;
            stop.generation += 1;
        }
    }
    kick_threads(process);
}

/// Ends a stop (SIGCONT was sent); also notes it for wait(2).
pub fn resume(process: &Arc<Process>) {
    let was_stopped = {
        let mut stop = process.stop.lock();
        let was = stop.signal.take().is_some();
        if was {
            stop.unreported = None;
            stop.continued = true;
        }
        was
    };
    process.stop_queue.wake_all();
    if was_stopped {
        let threads = ids::table().node(process.pid()).map(|node| node.threads.clone()).unwrap_or_default();
        threads.iter().for_each(ptrace::stops::continued);
        tell_parent(process, raw_code(true), signal::SIGCONT);
    }
}

/// The stop that the calling thread has to take part in: the signal, and the number of the stop. A tracee whose tracer let
/// it go on has done so.
pub fn due(task: &Task) -> Option<(u32, u64)> {
    let (signal, generation) = {
        let stop = task.process().stop.lock();
        (stop.signal?, stop.generation)
    };
    (!ptrace::stops::has_shown(task, generation)).then_some((signal, generation))
}

/// Whether the calling thread is to stop on its way out of the kernel: with its process, or frozen with its control group.
pub fn is_due(task: &Task) -> bool {
    due(task).is_some() || freezer::is_due(&task.process().cgroup.group())
}

/// Whether the process is still in its stop number `generation`.
pub fn stands(task: &Task, generation: u64) -> bool {
    let stop = task.process().stop.lock();
    stop.signal.is_some() && stop.generation == generation
}

/// Parks the calling thread while its process is stopped. Called on the way out of the kernel.
pub fn park(task: &Arc<Task>) {
    while let Some((signo, generation)) = due(task).filter(|_| !task.must_exit()) {
        enter(task);
        if task.trace.is_traced() {
            ptrace::stops::group_stop(task, signo, generation);
        } else {
            let over = || {
                let stopped = task.process().stop.lock().signal.is_some();
                (!stopped || task.must_exit() || task.trace.is_traced()).then_some(())
            };
            freezer::rest(task, || task.process().stop_queue.wait_until(over));
        }
        task.process().stop.lock().parked -= 1;
    }
}

/// Counts the calling thread among those that have stopped, and tells the parent if it is the last.
fn enter(task: &Arc<Task>) {
    let process = task.process();
    let tell = {
        let mut stop = process.stop.lock();
        stop.parked += 1;
        let Some(signo) = stop.signal else { return };
        let tell = stop.parked >= process.live_threads() && !stop.told;
        if tell {
            stop.told = true;
            stop.unreported = Some(signo);
        }
        tell.then_some(signo)
    };
    if let Some(signo) = tell {
        tell_parent(process, raw_code(false), signo);
    }
}

fn raw_code(continued: bool) -> i32 {
    if continued { signal::code::CLD_CONTINUED } else { signal::code::CLD_STOPPED }
}

/// SIGCHLD, unless the parent said SA_NOCLDSTOP, and the wake-up of its waits.
fn tell_parent(process: &Arc<Process>, code: i32, signo: u32) {
    let (parent, uid) = {
        let table = ids::table();
        let Ok(node) = table.node(process.pid()) else { return };
        let uid = node.threads.first().map_or(0, |thread| thread.cred().uid);
        match table.node(node.parent) {
            Ok(parent) => (parent.process.clone(), uid),
            Err(_) => return,
        }
    };
    if !signal::ignores_child_stops(&parent) {
        let info = SigInfo::child(signal::SIGCHLD, code, parent.sees(process.pid()), uid, signo as i32, 0, 0);
        signal::send_to_process(&parent, info);
    }
    parent.child_events.wake_all();
}
