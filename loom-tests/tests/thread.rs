//! The states of a thread: blocking on one virtual CPU while others wake it.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::sync::{AtomicU32, Ordering::*, UnsafeCell};
use umbel_smp::thread::{Interruptible, Prepare, State, SwitchedOut, Thread, WakeEnd};

/// A thread with the context that its virtual CPU saves, and how often it was put on a run queue.
struct Task {
    thread: Thread,
    context: UnsafeCell<u32>,
    enqueued: AtomicU32,
}

// SAFETY: the states give the context to one virtual CPU at a time, which loom checks.
unsafe impl Sync for Task {}

impl Task {
    fn new() -> Arc<Self> {
        Arc::new(Self { thread: Thread::adopted(0, 0), context: UnsafeCell::new(0), enqueued: AtomicU32::new(0) })
    }

    /// Saves or loads the context.
    fn touch_context(&self) {
        // SAFETY: only who switches the thread out or has taken it from the run queue does this.
        unsafe { *self.context.get_mut().as_ptr() += 1 };
    }

    /// Puts it on a run queue; another virtual CPU takes it from there at once.
    fn enqueue(&self) {
        self.enqueued.fetch_add(1, Relaxed);
        self.touch_context();
    }

    /// The virtual CPU of the thread gives it up, unless it is interrupted; returns whether it did.
    fn block(&self) -> bool {
        if self.thread.prepare_block(Interruptible::Yes) == Prepare::Interrupted {
            return false;
        }
        self.touch_context();
        if self.thread.switched_out() == SwitchedOut::Enqueue {
            self.enqueue();
        }
        true
    }

    fn wake(&self) {
        if self.thread.wake() == WakeEnd::Enqueue {
            self.enqueue();
        }
    }
}

/// One virtual CPU blocks the thread, two others wake it; one of the two wakes after it announced the block.
fn blocked_and_woken_twice() {
    let task = Task::new();
    let announced = Arc::new(AtomicU32::new(0));
    let wakers: Vec<_> = (0..2)
        .map(|_| {
            let (task, announced) = (task.clone(), announced.clone());
            thread::spawn(move || {
                let due = announced.load(Acquire) == 1;
                task.wake();
                due
            })
        })
        .collect();
    assert_eq!(task.thread.prepare_block(Interruptible::Yes), Prepare::Ready);
    announced.store(1, Release);
    task.touch_context();
    if task.thread.switched_out() == SwitchedOut::Enqueue {
        task.enqueue();
    }
    let due: Vec<bool> = wakers.into_iter().map(|waker| waker.join().unwrap()).collect();
    let due = due.contains(&true);
    let enqueued = task.enqueued.load(Relaxed);
    assert!(enqueued <= 1, "claim: a thread is enqueued once: {enqueued}");
    assert!(!due || enqueued == 1, "claim: a wake-up after the announcement enqueues it");
    assert_eq!(enqueued == 1, task.thread.state() == State::Runnable);
}

#[test]
fn exactly_one_enqueues_a_woken_thread_and_after_its_context_is_saved() {
    model(blocked_and_woken_twice);
}

#[test]
fn mutant_wake_that_enqueues_a_running_thread_is_a_data_race() {
    mutant_fails("thread-caught-enqueued", blocked_and_woken_twice);
}

/// A block and an interrupt at once.
fn blocked_and_interrupted() {
    let task = Task::new();
    let other = {
        let task = task.clone();
        thread::spawn(move || {
            if task.thread.interrupt() == WakeEnd::Enqueue {
                task.enqueue();
            }
        })
    };
    let blocked = task.block();
    other.join().unwrap();
    assert!(task.thread.interrupted());
    let expected = if blocked { State::Runnable } else { State::Running };
    assert_eq!(task.thread.state(), expected);
}

#[test]
fn an_interrupt_before_a_block_refuses_it_and_one_during_it_ends_it() {
    model(blocked_and_interrupted);
}

#[test]
fn mutant_interrupt_that_enqueues_a_running_thread_is_a_data_race() {
    mutant_fails("thread-caught-enqueued", blocked_and_interrupted);
}

/// A block, a wake-up and an interrupt at once.
fn woken_and_interrupted() {
    let task = Task::new();
    let other = {
        let task = task.clone();
        thread::spawn(move || task.wake())
    };
    let third = {
        let task = task.clone();
        thread::spawn(move || {
            if task.thread.interrupt() == WakeEnd::Enqueue {
                task.enqueue();
            }
        })
    };
    task.block();
    other.join().unwrap();
    third.join().unwrap();
    assert!(task.enqueued.load(Relaxed) <= 1);
}

#[test]
fn a_wake_up_and_an_interrupt_at_once_enqueue_once() {
    model(woken_and_interrupted);
}

#[test]
fn mutant_wake_up_or_interrupt_that_enqueues_a_running_thread_is_a_data_race() {
    mutant_fails("thread-caught-enqueued", woken_and_interrupted);
}
