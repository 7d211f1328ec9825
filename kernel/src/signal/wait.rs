//! Waiting for signals without handlers. Source: sigtimedwait(2), sigpending(2).

use super::deliver::{deliverable, take_pending};
use super::*;
use crate::task::{Task, stop};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_smp::wait::{WaitQueue, Wake};

/// Takes a signal of `set`, waiting for one until CLOCK_MONOTONIC `deadline_ns`.
///
/// # Errors
/// `EAGAIN` after the deadline, `EINTR` if another signal came.
pub fn wait_for(task: &Arc<Task>, set: SigSet, deadline_ns: Option<u64>) -> Result<SigInfo> {
    let take = || take_of(task, set);
    if let Some(info) = take() {
        return Ok(info);
    }
    // From here on senders count this thread among those that take signals of `set`, though it blocks them.
    task.signal.state.lock().waiting_for = set;
    let mut later = PutOff::none(task);
    let result = loop {
        let queue = WaitQueue::new();
        match queue.wait_interruptible(deadline_ns, take) {
            Ok(info) => break Ok(info),
            Err(Wake::TimedOut) => break Err(Errno::EAGAIN),
            Err(Wake::Interrupted) if later.ended_by(interrupted) => break Err(Errno::EINTR),
            // A signal of `set` that another thread took meanwhile, or one that is ignored.
            Err(Wake::Interrupted) => {}
        }
    };
    task.signal.state.lock().waiting_for = 0;
    result.or_else(|error| take().ok_or(error))
}

/// Whether there is a reason for an interruption: something to deliver, a stop, an end. See [`PutOff`].
pub fn interrupted(task: &Task) -> bool {
    task.must_exit() || deliverable(task) != 0 || stop::is_due(task) || task.trace.traps()
}

/// Interruptions of a thread that its wait goes on after. Their reasons are looked for on the way out of the kernel once the
/// wait is over: a flag that was only cleared would lose them. For waits that some reasons end and others do not.
pub struct PutOff<'a> {
    task: &'a Task,
    any: bool,
}

impl<'a> PutOff<'a> {
    /// For a wait of the calling thread, `task`.
    pub fn none(task: &'a Task) -> PutOff<'a> {
        PutOff { task, any: false }
    }

    /// Whether `reason` ends the wait that was interrupted; otherwise the thread may wait again.
    pub fn ended_by(&mut self, reason: impl FnOnce(&Task) -> bool) -> bool {
        self.any = true;
        // First this: what comes after the look interrupts the next wait.
        self.task.thread.clear_interrupt();
        reason(self.task)
    }
}

impl Drop for PutOff<'_> {
    fn drop(&mut self) {
        if self.any {
            // The thread is running, so that nobody is to be woken.
            let _ = self.task.thread.interrupt();
        }
    }
}

/// Pending signals that the thread blocks.
pub fn blocked_pending(task: &Task) -> SigSet {
    let shared = task.process().signal.state.lock().pending.set();
    (shared | task.signal.pending_set()) & task.signal.mask()
}

/// Takes a pending signal of `set`, blocked or not.
pub(super) fn take_of(task: &Task, set: SigSet) -> Option<SigInfo> {
    let mut info = {
        let mut shared = task.process().signal.state.lock();
        take_pending(&mut task.signal.state.lock(), &mut shared.pending, !set)?
    };
    crate::time::posix::delivered(task.process(), &mut info);
    Some(info.shown_to(&task.cred()))
}
