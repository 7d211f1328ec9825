//! The intrusive list of a wait queue.

use crate::schedule::scheduler;
use crate::sync::{AtomicBool, Ordering::*};
use crate::thread::ThreadRef;
use crate::wait::WakeTarget;
use alloc::sync::Arc;
use core::cell::Cell;
use core::marker::PhantomPinned;
use core::pin::Pin;
use core::ptr;

/// What an entry stands for.
#[derive(Debug)]
pub(super) enum Target {
    /// A sleeping thread: taken off the list when woken, counted.
    Thread(ThreadRef),
    /// A thread that waits on many queues: stays, not counted.
    Poller(ThreadRef),
    /// Something else that wants to know: stays, not counted.
    Other(Arc<dyn WakeTarget>),
    /// As `Other`, where one of them is enough.
    Exclusive(Arc<dyn WakeTarget>),
}

/// One entry.
///
/// # Invariants
/// While `queued`, the entry is on exactly one list, pinned, and its links are touched only under that list's lock.
/// Whoever clears `queued` does not touch the entry afterwards.
#[derive(Debug)]
pub(super) struct Node {
    prev: Cell<*const Node>,
    next: Cell<*const Node>,
    queued: AtomicBool,
    target: Target,
    _pinned: PhantomPinned,
}

// SAFETY: the links are touched only under the lock of the list that the entry is on (see the invariants); the target is Send
// and Sync by itself.
unsafe impl Send for Node {}
// SAFETY: as for Send.
unsafe impl Sync for Node {}

impl Node {
    pub(super) fn new(target: Target) -> Self {
        Self {
            prev: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            queued: AtomicBool::new(false),
            target,
            _pinned: PhantomPinned,
        }
    }

    /// Whether it is on a list. False means that the waker is done with it.
    pub(super) fn is_queued(&self) -> bool {
        self.queued.load(Acquire)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // In a model that fails, every stack is abandoned as it stands.
        assert!(cfg!(loom) || !self.is_queued(), "a wait entry is gone while it is queued");
    }
}

/// A doubly linked list of entries, oldest first.
///
/// # Invariants
/// Every entry on the list is alive: it is removed before its drop, which asserts so.
#[derive(Debug)]
pub(super) struct List {
    head: *const Node,
    tail: *const Node,
    len: u32,
}

// SAFETY: the entries are shared between threads only under the lock around the list; their targets are Send and Sync.
unsafe impl Send for List {}

impl List {
    pub(super) const fn new() -> Self {
        Self { head: ptr::null(), tail: ptr::null(), len: 0 }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Appends `node` unless it is here already; it must leave the list before it is dropped.
    pub(super) fn push(&mut self, node: Pin<&Node>) {
        if node.is_queued() {
            return;
        }
        let this: *const Node = node.get_ref();
        node.prev.set(self.tail);
        node.next.set(ptr::null());
        match self.node(self.tail) {
            Some(tail) => tail.next.set(this),
            None => self.head = this,
        }
        self.tail = this;
        self.len += 1;
        node.queued.store(true, Relaxed);
    }

    /// Takes `node` off; false if it was not on the list any more.
    pub(super) fn remove(&mut self, node: Pin<&Node>) -> bool {
        let queued = node.queued.load(Relaxed);
        if queued {
            self.unlink(&node);
        }
        queued
    }

    /// Wakes at most `n` threads, everybody who does not count, and at most `takers` of the exclusive ones, not counting
    /// those with whom nobody waits; returns how many threads were woken.
    pub(super) fn wake(&mut self, n: usize, mut takers: usize) -> usize {
        let mut woken = 0;
        let mut at = self.head;
        while let Some(node) = self.node(at) {
            at = node.next.get();
            match &node.target {
                Target::Thread(_) if woken == n => {}
                Target::Thread(thread) => {
                    // Once unlinked the entry may be gone at any time, and the thread's reference with it.
                    let thread = thread.clone();
                    self.unlink(node);
                    scheduler().wake(&thread);
                    woken += 1;
                }
                Target::Poller(thread) => {
                    scheduler().wake(thread);
                }
                Target::Other(target) => {
                    target.woken();
                }
                Target::Exclusive(target) => {
                    if takers > 0 && target.woken() {
                        takers -= 1;
                    }
                }
            }
        }
        woken
    }

    /// The last touch of `node`.
    fn unlink(&mut self, node: &Node) {
        let (prev, next) = (node.prev.get(), node.next.get());
        match self.node(prev) {
            Some(node) => node.next.set(next),
            None => self.head = next,
        }
        match self.node(next) {
            Some(node) => node.prev.set(prev),
            None => self.tail = prev,
        }
        self.len -= 1;
        node.queued.store(false, Release);
    }

    /// The entry at `at`, a link of this list.
    fn node<'a>(&self, at: *const Node) -> Option<&'a Node> {
        // SAFETY: links are null or point to entries on this list, which are alive by its invariant.
        unsafe { at.as_ref() }
    }
}
