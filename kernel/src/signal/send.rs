//! Sending. Source: kill(2), signal(7), `kernel/signal.c` of Linux (behaviour).

use super::queue::Queued;
use super::*;
use crate::landlock;
use crate::task::{self, Cred, Process, Task, WaitStatus, cap, exit, ids, stop};
use crate::{Errno, Pid, Result, sched};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;
use linux_raw_sys::general::RLIMIT_SIGPENDING;

/// Sends to one thread. A signal that finds no memory or room is lost, unless it is a standard one.
pub fn send_to_task(task: &Arc<Task>, info: SigInfo) {
    // Only sigqueue(3) and timers are told that there was no room; they call `queue_to_*`.
    let _ = queue_to_task(task, info);
}

/// Sends to a process: a thread that does not block the signal takes it.
pub fn send_to_process(process: &Arc<Process>, info: SigInfo) {
    let _ = queue_to_process(process, info);
}

/// Sends to all processes of group `pgid` (the terminal's signals: no permission is asked).
pub fn send_to_pgrp(pgid: Pid, info: SigInfo) {
    for process in ids::find_pgrp(pgid) {
        send_to_process(&process, info);
    }
}

/// As [`send_to_task`].
///
/// # Errors
/// `EAGAIN` for a real-time signal without room.
pub fn queue_to_task(task: &Arc<Task>, info: SigInfo) -> Result<Queued> {
    queue(task.process(), Some(task), info)
}

/// As [`send_to_process`].
///
/// # Errors
/// `EAGAIN` for a real-time signal without room.
pub fn queue_to_process(process: &Arc<Process>, info: SigInfo) -> Result<Queued> {
    queue(process, None, info)
}

/// Ends a thread's process by SIGKILL: nothing can block or handle it, so it is not queued at all.
pub fn kill_now(process: &Arc<Process>) {
    process.set_killed();
    exit::group_exit(process, WaitStatus::signaled(SIGKILL, false));
    if process.is_exiting() {
        // One that stands in a tracer's stop at its end goes on, too.
        threads(process).iter().for_each(|task| task.trace.wake());
    }
}

fn queue(process: &Arc<Process>, target: Option<&Arc<Task>>, info: SigInfo) -> Result<Queued> {
    let signo = info.signo();
    if process.pid().0 <= ids::INIT.0 {
        // The kernel's own threads take no signals.
        return Ok(Queued::Ignored);
    }
    let shielded = process.unkillable.load(Relaxed) && !(bit(signo) & UNBLOCKABLE != 0 && is_forced(process, &info));
    if signo == SIGKILL && shielded {
        return Ok(Queued::Ignored);
    }
    if signo == SIGKILL {
        kill_now(process);
        return Ok(Queued::New);
    }
    let threads = threads(process);
    let Some(first) = target.or(threads.first()) else { return Ok(Queued::Ignored) };
    job_control(process, &threads, signo);
    let limit = process.limit(RLIMIT_SIGPENDING);
    let user = process.user();
    let mut shared = process.signal.state.lock();
    let wanted = first.signal.mask() & bit(signo) != 0;
    let action = shared.actions.get(signo);
    let dropped = action.ignores(signo) || (shielded && action.handler == SIG_DFL);
    let ignored = dropped && !first.trace.is_traced();
    // Not even a thread that waits for it gets what it ignores and does not block.
    if !wanted && ignored {
        return Ok(Queued::Ignored);
    }
    let queued = match target {
        Some(task) => task.signal.state.lock().pending.push(info, &user, limit)?,
        None => shared.pending.push(info, &user, limit)?,
    };
    drop(shared);
    if queued == Queued::New {
        match target {
            Some(task) => notify(task, signo),
            None => notify_one(&threads, signo),
        }
        process.signal.watchers.wake_all();
    }
    Ok(queued)
}

/// Whether SIGKILL and SIGSTOP reach even the init of a PID namespace: from the kernel, and from those whom it cannot see.
fn is_forced(process: &Process, info: &SigInfo) -> bool {
    let by_process = info.code() <= code::SI_USER && info.timer_id().is_none();
    info.code() == code::SI_KERNEL || (by_process && process.sees(task::current().process().pid()) == 0)
}

/// The live threads of `process`.
fn threads(process: &Process) -> Vec<Arc<Task>> {
    ids::table().node(process.pid()).map(|node| node.threads.clone()).unwrap_or_default()
}

fn takes(task: &Task, signo: Signo) -> bool {
    !task.must_exit() && (task.signal.mask() & bit(signo) == 0 || task.signal.waits_for(signo))
}

fn notify(task: &Arc<Task>, signo: Signo) {
    if takes(task, signo) {
        sched::interrupt(task);
    }
}

/// Interrupts one thread that takes `signo`: the first thread if it does.
fn notify_one(threads: &[Arc<Task>], signo: Signo) {
    let mut ready = threads.iter().filter(|task| takes(task, signo));
    let idle = |task: &&Arc<Task>| !task.thread.interrupted();
    if let Some(task) = ready.clone().find(idle).or_else(|| ready.next()) {
        sched::interrupt(task);
    }
}

/// Makes other threads of the caller's process look for signals in `set` that the caller will not take any more.
pub(super) fn retarget(task: &Arc<Task>, set: SigSet) {
    let waiting = task.process().signal.state.lock().pending.set() & set;
    if waiting == 0 {
        return;
    }
    let others: Vec<_> = threads(task.process()).into_iter().filter(|other| !Arc::ptr_eq(other, task)).collect();
    for signo in (1..=NSIG as u32).filter(|&signo| waiting & bit(signo) != 0) {
        notify_one(&others, signo);
    }
}

/// What SIGCONT and the stop signals do when they are sent, whether blocked or not.
fn job_control(process: &Arc<Process>, threads: &[Arc<Task>], signo: Signo) {
    let discard = |set: SigSet| {
        process.signal.state.lock().pending.discard(set);
        for task in threads {
            task.signal.state.lock().pending.discard(set);
        }
    };
    if signo == SIGCONT {
        discard(STOP_SIGNALS);
        process.signal.continues.fetch_add(1, AcqRel);
        stop::resume(process);
    } else if bit(signo) & STOP_SIGNALS != 0 {
        discard(bit(SIGCONT));
    }
}

/// The running instruction's own fault: delivered even if blocked or ignored, by the default action then.
pub fn force_fault(task: &Arc<Task>, info: SigInfo) {
    let signo = info.signo();
    let blocked = task.signal.mask() & bit(signo) != 0;
    let user = task.process().user();
    let mut shared = task.process().signal.state.lock();
    if blocked || shared.actions.get(signo).handler == SIG_IGN {
        shared.actions.set(signo, Action::default());
        task.signal.store_mask(task.signal.mask() & !bit(signo));
    }
    if shared.actions.get(signo).handler == SIG_DFL && !task.trace.is_traced() {
        // No init of a PID namespace lives through its own fault.
        task.process().unkillable.store(false, Relaxed);
    }
    // The first fault counts: its reason replaces an older one.
    let mut private = task.signal.state.lock();
    private.pending.discard(bit(signo));
    let _ = private.pending.push(info, &user, u64::MAX);
    drop(private);
    drop(shared);
    sched::interrupt(task);
}

/// Whether `process` wants no zombies: SIGCHLD ignored, or SA_NOCLDWAIT.
pub fn ignores_children(process: &Process) -> bool {
    let action = process.signal.state.lock().actions.get(SIGCHLD);
    action.handler == SIG_IGN || action.has(sa::NOCLDWAIT)
}

/// Whether `process` does not want to hear of its children's stops: SIGCHLD ignored, or SA_NOCLDSTOP.
pub fn ignores_child_stops(process: &Process) -> bool {
    let action = process.signal.state.lock().actions.get(SIGCHLD);
    action.handler == SIG_IGN || action.has(sa::NOCLDSTOP)
}

/// Replaces the action of `signo`, if there is a new one; returns the old one. What is pending of a signal that is ignored
/// from now on is dropped.
pub fn set_action(process: &Arc<Process>, signo: Signo, new: Option<Action>) -> Action {
    let threads = if new.is_some_and(|new| new.ignores(signo)) { threads(process) } else { Vec::new() };
    let mut shared = process.signal.state.lock();
    let old = shared.actions.get(signo);
    let Some(new) = new else { return old };
    shared.actions.set(signo, new);
    if new.ignores(signo) {
        shared.pending.discard(bit(signo));
        for task in &threads {
            task.signal.state.lock().pending.discard(bit(signo));
        }
        drop(shared);
        crate::time::posix::dropped(process, signo);
    }
    old
}

/// A thread leaves for ever: what it alone had pending is dropped, what the process has goes to another thread.
pub fn on_exit(task: &Arc<Task>) {
    task.signal.state.lock().pending.discard(SigSet::MAX);
    if !task.process().is_exiting() {
        retarget(task, !task.signal.mask());
    }
}

/// kill(2)'s rule: who may send `signo` to a process of `target`.
///
/// # Errors
/// `EPERM`.
pub fn may_signal(sender: &Cred, target: &Cred, same_session: bool, signo: u64) -> Result<()> {
    if !sender.sandbox.reaches(&target.sandbox, landlock::SIGNAL) {
        return Err(Errno::EPERM);
    }
    let same_user = [sender.euid, sender.uid].iter().any(|id| *id == target.suid || *id == target.uid);
    let allowed =
        same_user || sender.capable_in(&target.user_ns, cap::KILL) || (signo == u64::from(SIGCONT) && same_session);
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_signal_their_own_processes_and_continue_their_session() {
        let (root, alice, bob) = (Cred::new(0, 0), Cred::new(1, 1), Cred::new(2, 2));
        assert_eq!(may_signal(&alice, &alice, false, 15), Ok(()));
        assert_eq!(may_signal(&root, &alice, false, 15), Ok(()));
        assert_eq!(may_signal(&alice, &bob, true, 15), Err(Errno::EPERM));
        assert_eq!(may_signal(&alice, &bob, true, 18), Ok(()));
        let setuid = Cred { euid: 2, ..alice.clone() };
        assert_eq!(may_signal(&setuid, &bob, false, 9), Ok(()));
    }
}
