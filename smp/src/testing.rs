//! A [`Schedule`] over host threads, for unit tests and models: every kernel thread is a host (or loom) thread of its
//! own, and the thread's state word is the futex on which it blocks.

extern crate std;

use crate::schedule::{BlockEnd, Schedule};
use crate::sync::{futex_wait_until, futex_wake};
use crate::thread::{State, SwitchedOut, Thread, ThreadRef, WakeEnd};
use std::sync::Arc;

#[cfg(not(loom))]
std::thread_local! {
    static CURRENT: ThreadRef = Arc::new(Thread::adopted(0, 0));
}
#[cfg(loom)]
checker::thread_local! {
    static CURRENT: ThreadRef = Arc::new(Thread::adopted(0, 0));
}

/// The scheduler; see the module's head.
#[derive(Clone, Copy, Debug)]
pub struct HostThreads;

impl Schedule for HostThreads {
    fn current(&self) -> ThreadRef {
        CURRENT.with(Arc::clone)
    }

    fn block(&self, deadline_ns: Option<u64>) -> BlockEnd {
        let thread = self.current();
        let mut end = BlockEnd::Woken;
        match thread.switched_out() {
            SwitchedOut::Blocked => end = wait_until_runnable(&thread, deadline_ns),
            SwitchedOut::Enqueue | SwitchedOut::Dead => {}
        }
        thread.run();
        end
    }

    fn wake(&self, thread: &ThreadRef) -> bool {
        let end = thread.wake();
        finish_wake(thread, end);
        end != WakeEnd::NotBlocked
    }

    fn interrupted(&self) -> bool {
        self.current().interrupted()
    }
}

/// Interrupts a thread as a signal would.
pub fn interrupt(thread: &ThreadRef) {
    let end = thread.interrupt();
    finish_wake(thread, end);
}

fn finish_wake(thread: &ThreadRef, end: WakeEnd) {
    if end == WakeEnd::Enqueue {
        futex_wake(thread.word(), 1);
    }
}

fn wait_until_runnable(thread: &ThreadRef, deadline_ns: Option<u64>) -> BlockEnd {
    loop {
        let word = thread.word().load(crate::sync::Ordering::Acquire);
        if !matches!(thread.state(), State::Blocked { .. }) {
            return BlockEnd::Woken;
        }
        if !futex_wait_until(thread.word(), word, deadline_ns) {
            // Losing the race against a waker is a wake-up.
            return match thread.wake() {
                WakeEnd::Enqueue => BlockEnd::TimedOut,
                _ => BlockEnd::Woken,
            };
        }
    }
}

/// The scheduler of every model is [`HostThreads`].
#[cfg(loom)]
pub fn register(_schedule: &'static dyn Schedule) {}

/// The scheduler of every model is [`HostThreads`].
#[cfg(loom)]
pub fn schedule() -> Option<&'static dyn Schedule> {
    Some(&HostThreads)
}

/// Threads of a stress test, and what each of them repeats.
#[cfg(all(test, not(loom)))]
pub const THREADS: u32 = 8;
#[cfg(all(test, not(loom)))]
pub const ROUNDS: u32 = 2000;

/// Registers this scheduler and the account of held locks.
#[cfg(all(test, not(loom)))]
pub fn register_all() {
    crate::register(&HostThreads);
    crate::lock::register_cpu_held(|| &crate::cpu::this().held);
}

/// Runs `body` in [`THREADS`] threads and waits for them.
#[cfg(all(test, not(loom)))]
pub fn together(body: impl Fn(u32) + Sync) {
    register_all();
    std::thread::scope(|scope| {
        for index in 0..THREADS {
            let body = &body;
            scope.spawn(move || body(index));
        }
    });
}

/// CLOCK_MONOTONIC.
#[cfg(all(test, not(loom)))]
pub fn now_ns() -> u64 {
    umbel_host::clock::now_ns(1)
}
