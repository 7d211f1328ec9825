//! Wait queues.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::schedule::Schedule;
use umbel_smp::sync::{AtomicU32, Ordering::*};
use umbel_smp::testing::{HostThreads, interrupt};
use umbel_smp::wait::{PollTable, WaitQueue, Wake};

struct Flag {
    set: AtomicU32,
    queue: Arc<WaitQueue>,
}

impl Flag {
    fn new(value: u32) -> Arc<Self> {
        Arc::new(Self { set: AtomicU32::new(value), queue: Arc::new(WaitQueue::new()) })
    }

    fn is_set(&self) -> Option<()> {
        (self.set.load(Relaxed) != 0).then_some(())
    }

    /// Takes one unit.
    fn take(&self) -> Option<()> {
        self.set.fetch_update(Relaxed, Relaxed, |units| units.checked_sub(1)).ok().map(|_| ())
    }
}

fn set_and_wake() {
    let flag = Flag::new(0);
    let waiter = {
        let flag = flag.clone();
        thread::spawn(move || flag.queue.wait_until(|| flag.is_set()))
    };
    flag.set.store(1, Relaxed);
    flag.queue.wake_one();
    waiter.join().unwrap();
    assert!(flag.queue.is_empty());
}

#[test]
fn no_wake_up_is_lost() {
    model(set_and_wake);
}

#[test]
fn mutant_waker_without_fence_loses_one() {
    mutant_fails("wait-waker-unfenced", set_and_wake);
}

#[test]
fn mutant_waiter_without_fence_loses_one() {
    mutant_fails("wait-waiter-unfenced", set_and_wake);
}

/// Two wait for one flag.
fn two_woken_at_once() {
    let flag = Flag::new(0);
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let flag = flag.clone();
            thread::spawn(move || flag.queue.wait_until(|| flag.is_set()))
        })
        .collect();
    flag.set.store(1, Relaxed);
    flag.queue.wake_all();
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

#[test]
fn wake_all_wakes_two() {
    model(two_woken_at_once);
}

#[test]
fn mutant_waker_of_all_without_fence_leaves_one() {
    mutant_fails("wait-waker-unfenced", two_woken_at_once);
}

/// A unit and its wake-up may hit a waiter that is being interrupted: then the other waiter must get them.
fn interrupted_waiter_passes_on() {
    let flag = Flag::new(0);
    let (send, receive) = loom::sync::mpsc::channel();
    let interrupted = {
        let flag = flag.clone();
        thread::spawn(move || {
            send.send(HostThreads.current()).unwrap();
            flag.queue.wait_interruptible(None, || flag.take())
        })
    };
    let patient = {
        let flag = flag.clone();
        thread::spawn(move || flag.queue.wait_until(|| flag.take()))
    };
    let victim = receive.recv().unwrap();
    flag.set.store(1, Relaxed);
    flag.queue.wake_one();
    interrupt(&victim);
    if interrupted.join().unwrap().is_ok() {
        flag.set.store(1, Relaxed);
        flag.queue.wake_one();
    }
    patient.join().unwrap();
}

#[test]
fn an_interrupted_waiter_passes_its_wake_up_on() {
    model(interrupted_waiter_passes_on);
}

#[test]
fn mutant_wake_up_not_passed_on_leaves_a_sleeper() {
    mutant_fails("wait-not-passed-on", interrupted_waiter_passes_on);
}

#[test]
fn an_interrupt_always_ends_an_interruptible_wait() {
    model(|| {
        let flag = Flag::new(0);
        let victim = HostThreads.current();
        let other = thread::spawn(move || interrupt(&victim));
        let end = flag.queue.wait_interruptible(None, || flag.is_set());
        assert_eq!(end, Err(Wake::Interrupted));
        other.join().unwrap();
    });
}

/// One waits at two queues for what comes at the second.
fn poller_of_two() {
    let flags = [Flag::new(0), Flag::new(0)];
    let other = flags[1].clone();
    let other = thread::spawn(move || {
        other.set.store(1, Relaxed);
        other.queue.wake_all();
    });
    let mut table = PollTable::new();
    for flag in &flags {
        table.register(&flag.queue).unwrap();
    }
    let seen = table.wait_interruptible(None, || flags.iter().position(|f| f.is_set().is_some()));
    assert_eq!(seen, Ok(1));
    drop(table);
    other.join().unwrap();
    assert!(flags.iter().all(|flag| flag.queue.is_empty()));
}

#[test]
fn a_poller_sees_either_of_two_queues() {
    model(poller_of_two);
}

#[test]
fn mutant_poller_without_fence_loses_a_wake_up() {
    mutant_fails("wait-waiter-unfenced", poller_of_two);
}
