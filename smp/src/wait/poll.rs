//! One thread, or something like an epoll instance, that waits on many queues at once.

use super::list::{Node, Target};
use super::{Step, WaitQueue, Wake, try_block};
use crate::lock::might_sleep;
use crate::schedule::{BlockEnd, scheduler};
use crate::thread::Interruptible;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::pin::Pin;
use umbel_abi::linux::Errno;

/// Somebody who wants to know of wake-ups.
pub trait WakeTarget: Send + Sync + fmt::Debug {
    /// Called at each wake-up, under the queue's lock: may take ranks below `WaitQueue`, or `lock_nested` queues. Says
    /// whether somebody waits there.
    fn woken(&self) -> bool;
}

/// A registration on one queue, removed when dropped.
#[derive(Debug)]
pub struct PollEntry {
    node: Pin<Box<Node>>,
    queue: Arc<WaitQueue>,
}

impl PollEntry {
    /// Tells `target` of every wake-up on `queue`.
    pub fn new(queue: &Arc<WaitQueue>, target: Arc<dyn WakeTarget>) -> Self {
        Self::with_target(queue, Target::Other(target))
    }

    fn with_target(queue: &Arc<WaitQueue>, target: Target) -> Self {
        let entry = Self { node: Box::pin(Node::new(target)), queue: queue.clone() };
        queue.enqueue(entry.node.as_ref());
        entry
    }
}

impl Drop for PollEntry {
    fn drop(&mut self) {
        self.queue.leave(self.node.as_ref(), true);
    }
}

/// Who is to be told by a table's registrations.
#[derive(Debug)]
enum Subscriber {
    CurrentThread,
    Target(Arc<dyn WakeTarget>),
    Exclusive(Arc<dyn WakeTarget>),
}

/// The registrations of one poll, select or epoll item; dropping it removes them all.
///
/// A pollable object gets a `&mut PollTable`, registers its queues and *then* looks at its state.
#[derive(Debug)]
pub struct PollTable {
    subscriber: Subscriber,
    entries: Vec<PollEntry>,
}

impl PollTable {
    /// A table for the current thread, which will call [`Self::wait_interruptible`].
    pub const fn new() -> Self {
        Self { subscriber: Subscriber::CurrentThread, entries: Vec::new() }
    }

    /// A table whose registrations tell `target`.
    pub fn for_target(target: Arc<dyn WakeTarget>) -> Self {
        Self { subscriber: Subscriber::Target(target), entries: Vec::new() }
    }

    /// As [`Self::for_target`], where it is enough that one of several such targets is told
    /// ([`WaitQueue::wake_taker`]).
    pub fn for_exclusive_target(target: Arc<dyn WakeTarget>) -> Self {
        Self { subscriber: Subscriber::Exclusive(target), entries: Vec::new() }
    }

    /// Registers on `queue`. Fails with ENOMEM.
    pub fn register(&mut self, queue: &Arc<WaitQueue>) -> Result<(), Errno> {
        self.entries.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let target = match &self.subscriber {
            Subscriber::CurrentThread => Target::Poller(scheduler().current()),
            Subscriber::Target(target) => Target::Other(target.clone()),
            Subscriber::Exclusive(target) => Target::Exclusive(target.clone()),
        };
        self.entries.push(PollEntry::with_target(queue, target));
        Ok(())
    }

    /// Sleeps until `condition` gives a value, the thread is interrupted or CLOCK_MONOTONIC reaches `deadline_ns`.
    pub fn wait_interruptible<R>(
        &self,
        deadline_ns: Option<u64>,
        mut condition: impl FnMut() -> Option<R>,
    ) -> Result<R, Wake> {
        might_sleep();
        let schedule = scheduler();
        let thread = schedule.current();
        loop {
            // The registrations stay on their queues when they are woken.
            let step = try_block(schedule, &thread, Interruptible::Yes, deadline_ns, || {}, &mut condition);
            match step {
                Step::Met(value) => return Ok(value),
                Step::Ended(wake) => return Err(wake),
                Step::Blocked(end) => match (condition(), end) {
                    (Some(value), _) => return Ok(value),
                    (None, BlockEnd::TimedOut) => return Err(Wake::TimedOut),
                    (None, BlockEnd::Woken) => {}
                },
            }
        }
    }

    /// Removes all registrations.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl Default for PollTable {
    fn default() -> Self {
        Self::new()
    }
}
