//! Wait queues: threads that sleep until a condition may have changed, and who is told when it may.
//!
//! No wake-up is lost: a waiter enqueues itself and announces that it blocks *before* it tests its condition; whoever
//! changes the condition does so *before* it looks at the queue; a full fence stands between the two steps on both
//! sides. The condition is the caller's, usually behind a spinning lock of its own.
//!
//! [`WaitQueue::wake_one`] takes one waiter off the queue. A waiter that leaves for another reason just then (its
//! condition came true by itself, a deadline, an interrupt) passes the wake-up on, so that a wake-up for each unit
//! given reaches a waiter for each unit.
//!
//! The entries are on their waiters' kernel stacks (KDATA, the same address in every slot), linked under the queue's
//! lock, so that waiting allocates nothing. Locks: the queue's (rank `WaitQueue`), then the scheduler's.
//! Model: `loom-tests/tests/wait.rs`.

mod list;
mod poll;

pub use poll::{PollEntry, PollTable, WakeTarget};

use crate::const_new;
use crate::lock::{Rank, SpinLock, might_sleep};
use crate::schedule::{BlockEnd, Schedule, scheduler};
use crate::sync::{AtomicU32, Ordering::*, full_fence, mutant};
use crate::thread::{Interruptible, Prepare, Thread};
use core::pin::{Pin, pin};
use list::{List, Node, Target};

/// Why an interruptible wait ended without its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The thread was interrupted.
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

/// Threads (and poll registrations) that wait for one thing.
#[derive(Debug)]
pub struct WaitQueue {
    /// Entries in `list`, to look at without the lock.
    len: AtomicU32,
    list: SpinLock<List>,
}

impl WaitQueue {
    const_new! {
        /// An empty queue.
        pub fn new() -> Self {
            Self { len: AtomicU32::new(0), list: SpinLock::new(Rank::WaitQueue, List::new()) }
        }
    }

    /// Sleeps until `condition` gives a value. Not interruptible.
    ///
    /// The condition is called while the thread is about to block: it may take spinning locks.
    pub fn wait_until<R>(&self, condition: impl FnMut() -> Option<R>) -> R {
        match self.wait(Interruptible::No, None, condition) {
            Ok(value) => value,
            Err(_) => unreachable!("neither interruptible nor limited in time"),
        }
    }

    /// Sleeps until `condition` gives a value, the thread is interrupted or CLOCK_MONOTONIC reaches `deadline_ns`.
    pub fn wait_interruptible<R>(
        &self,
        deadline_ns: Option<u64>,
        condition: impl FnMut() -> Option<R>,
    ) -> Result<R, Wake> {
        self.wait(Interruptible::Yes, deadline_ns, condition)
    }

    /// As [`Self::wait_until`], until CLOCK_MONOTONIC `deadline_ns` at most; `None` then.
    pub fn wait_deadline<R>(&self, deadline_ns: u64, condition: impl FnMut() -> Option<R>) -> Option<R> {
        self.wait(Interruptible::No, Some(deadline_ns), condition).ok()
    }

    fn wait<R>(
        &self,
        kind: Interruptible,
        deadline_ns: Option<u64>,
        mut condition: impl FnMut() -> Option<R>,
    ) -> Result<R, Wake> {
        might_sleep();
        if let Some(value) = condition() {
            return Ok(value);
        }
        let schedule = scheduler();
        let thread = schedule.current();
        let node = pin!(Node::new(Target::Thread(thread.clone())));
        let node = node.into_ref();
        loop {
            let (woken, result) =
                match try_block(schedule, &thread, kind, deadline_ns, || self.enqueue(node), &mut condition) {
                    Step::Met(value) => (false, Ok(value)),
                    Step::Ended(wake) => (false, Err(wake)),
                    Step::Blocked(end) => {
                        // A wake-up that took the entry off before this test is what made the condition true.
                        let woken = !node.is_queued();
                        match (condition(), end) {
                            (Some(value), _) => (woken, Ok(value)),
                            (None, BlockEnd::TimedOut) => (false, Err(Wake::TimedOut)),
                            (None, BlockEnd::Woken) => continue,
                        }
                    }
                };
            self.leave(node, woken);
            return result;
        }
    }

    /// Wakes one waiter, and whoever polls; returns how many waiters that was.
    pub fn wake_one(&self) -> usize {
        self.wake_n(1)
    }

    /// Wakes everybody; returns how many waiters that was, polls not counted.
    pub fn wake_all(&self) -> usize {
        self.wake_n(usize::MAX)
    }

    /// As [`Self::wake_all`] for something that one taker is enough for: of the targets that are exclusive only the first
    /// with whom somebody waits is told.
    pub fn wake_taker(&self) -> usize {
        self.wake_some(usize::MAX, 1)
    }

    /// As [`Self::wake_all`], for a [`WakeTarget`]: while another queue's lock is held. Whether anybody was there.
    pub fn wake_all_nested(&self) -> bool {
        full_fence("wait-waker-unfenced");
        if self.len.load(Relaxed) == 0 {
            return false;
        }
        let mut list = self.list.lock_nested();
        list.wake(usize::MAX, usize::MAX);
        self.len.store(list.len(), Relaxed);
        true
    }

    /// Wakes at most `n` waiters in the order of their arrival, and whoever polls; returns how many waiters that was.
    pub fn wake_n(&self, n: usize) -> usize {
        self.wake_some(n, n)
    }

    fn wake_some(&self, n: usize, takers: usize) -> usize {
        // Pairs with the fence of `try_block`: the condition was changed before, the waiter enqueued before its test.
        full_fence("wait-waker-unfenced");
        if self.len.load(Relaxed) == 0 {
            return 0;
        }
        let mut list = self.list.lock();
        let woken = list.wake(n, takers);
        self.len.store(list.len(), Relaxed);
        woken
    }

    /// Whether nobody waits. Whoever changed a condition before may skip the wake-up then.
    pub fn is_empty(&self) -> bool {
        full_fence("wait-waker-unfenced");
        self.len.load(Relaxed) == 0
    }

    fn enqueue(&self, node: Pin<&Node>) {
        let mut list = self.list.lock();
        list.push(node);
        self.len.store(list.len(), Relaxed);
    }

    /// Takes `node` off the queue. If a waker did so before and the wake-up was not `consumed`, passes it on.
    fn leave(&self, node: Pin<&Node>, consumed: bool) {
        if node.is_queued() {
            let mut list = self.list.lock();
            if list.remove(node) {
                self.len.store(list.len(), Relaxed);
                return;
            }
        }
        if !consumed && !mutant("wait-not-passed-on") {
            self.wake_one();
        }
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// Outcome of [`try_block`].
enum Step<R> {
    /// The condition holds; the thread did not block.
    Met(R),
    /// The thread may not block.
    Ended(Wake),
    /// It blocked: test again.
    Blocked(BlockEnd),
}

/// Announces the block, enqueues, tests, blocks.
///
/// The announcement comes before the entry: a waker that takes the entry off must find the thread blocking, or the
/// wake-up would be gone with the entry.
fn try_block<R>(
    schedule: &dyn Schedule,
    thread: &Thread,
    kind: Interruptible,
    deadline_ns: Option<u64>,
    enqueue: impl Fn(),
    condition: &mut impl FnMut() -> Option<R>,
) -> Step<R> {
    if mutant("wait-enqueued-unannounced") {
        enqueue();
    }
    let prepared = thread.prepare_block(kind);
    if !mutant("wait-enqueued-unannounced") {
        enqueue();
    }
    // Pairs with the fence of `wake_n`.
    full_fence("wait-waiter-unfenced");
    if let Some(value) = condition() {
        thread.cancel_block();
        return Step::Met(value);
    }
    let interrupted = kind == Interruptible::Yes && schedule.interrupted();
    if prepared == Prepare::Interrupted || interrupted {
        thread.cancel_block();
        return Step::Ended(Wake::Interrupted);
    }
    Step::Blocked(schedule.block(deadline_ns))
}

#[cfg(all(test, not(loom)))]
mod tests;
