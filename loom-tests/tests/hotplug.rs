//! A virtual CPU that goes while others wake threads onto it, and comes back.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::hotplug::{Life, Stage};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::runqueue::{Arrival, Class, Entity, RunQueue};

/// Two virtual CPUs: the first stays.
struct Machine {
    life: Life,
    queues: [SpinLock<RunQueue<u32>>; 2],
}

impl Machine {
    fn new() -> Arc<Machine> {
        let queue = || SpinLock::new(Rank::RunQueue, RunQueue::new());
        let machine = Machine { life: Life::new(), queues: [queue(), queue()] };
        assert!(machine.life.create());
        machine.life.arrive();
        Arc::new(machine)
    }

    /// As the scheduler's `enqueue`: chooses the second while that takes threads, again if its queue turns it away.
    fn wake(&self, item: u32) {
        let mut entity = Entity::new(item, Class::NORMAL);
        loop {
            let target = usize::from(self.life.takes_threads());
            match self.queues[target].lock().try_push(entity, Arrival::Woken) {
                Ok(_) => return,
                Err(back) => entity = back,
            }
            thread::yield_now();
        }
    }

    /// As the scheduler's `pick` and `go`, on the second virtual CPU: gives all away, then departs.
    fn go(&self) {
        loop {
            let popped = self.queues[1].lock().steal(|_| true);
            match popped {
                Some(entity) => drop(self.queues[0].lock().push(entity, Arrival::Moved)),
                None if self.queues[1].lock().close() => return self.life.depart(),
                None => {}
            }
        }
    }

    fn queued(&self) -> [usize; 2] {
        [0, 1].map(|cpu| self.queues[cpu].lock().len())
    }
}

/// A thread is woken while the virtual CPU that would take it goes.
fn woken_while_it_goes() {
    let machine = Machine::new();
    machine.wake(1);
    let waker = {
        let machine = machine.clone();
        thread::spawn(move || machine.wake(2))
    };
    assert!(machine.life.leave());
    machine.go();
    waker.join().unwrap();
    assert_eq!(machine.queued(), [2, 0], "claim: nobody is left on a virtual CPU that is gone");
}

#[test]
fn a_thread_woken_while_its_virtual_cpu_goes_runs_elsewhere() {
    model(woken_while_it_goes);
}

#[test]
fn mutant_queue_that_stays_open_keeps_a_thread_for_ever() {
    mutant_fails("runqueue-closed-ignored", woken_while_it_goes);
}

/// It departs, is seen to have departed, and is called back: what it wrote before is seen, and it wakes up.
fn called_back() {
    let machine = Machine::new();
    let owned = Arc::new(loom::cell::UnsafeCell::new(0));
    assert!(machine.life.leave());
    let cpu = {
        let (machine, owned) = (machine.clone(), owned.clone());
        thread::spawn(move || {
            // SAFETY: the virtual CPU's own until it has departed.
            owned.with_mut(|word| unsafe { *word = 1 });
            machine.go();
            machine.life.rest();
            machine.queues[1].lock().open();
            machine.life.arrive();
        })
    };
    while machine.life.stage() != Stage::Offline {
        thread::yield_now();
    }
    // SAFETY: it has departed, so that what it had is ours.
    owned.with(|word| assert_eq!(unsafe { *word }, 1));
    assert!(machine.life.call());
    cpu.join().unwrap();
    machine.wake(3);
    assert_eq!(machine.queued(), [0, 1], "claim: it takes threads again");
}

#[test]
fn a_virtual_cpu_that_is_called_comes_back() {
    model(called_back);
}

#[test]
fn mutant_silent_call_leaves_it_asleep() {
    mutant_fails("hotplug-call-silent", called_back);
}

#[test]
fn mutant_relaxed_departure_is_a_data_race() {
    mutant_fails("hotplug-depart-relaxed", called_back);
}
