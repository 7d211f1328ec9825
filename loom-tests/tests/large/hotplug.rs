//! Run queues: four virtual CPUs run, wake and steal threads, while all but the first go and come back.

use loom_tests::{explore, step_mutant_fails};
use shuttle::thread;
use std::sync::Arc;
use umbel_smp::hotplug::{Life, Stage};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::runqueue::{Arrival, Class, Entity, RunQueue};
use umbel_smp::sync::{AtomicBool, AtomicU32, Ordering::SeqCst};

const CPUS: usize = 4;
/// The first half wake the second.
const ITEMS: usize = 8;

struct Machine {
    lives: [Life; CPUS],
    queues: [SpinLock<RunQueue<usize>>; CPUS],
    ran: [AtomicU32; ITEMS],
    /// No virtual CPU is taken away any more.
    settled: AtomicBool,
}

impl Machine {
    fn new() -> Arc<Machine> {
        let machine = Machine {
            lives: core::array::from_fn(|_| Life::new()),
            queues: core::array::from_fn(|_| SpinLock::new(Rank::RunQueue, RunQueue::new())),
            ran: core::array::from_fn(|_| AtomicU32::new(0)),
            settled: AtomicBool::new(false),
        };
        for life in &machine.lives {
            assert!(life.create());
            life.arrive();
        }
        Arc::new(machine)
    }

    /// As the scheduler's `enqueue`: another choice if the queue turns it away.
    fn wake(&self, item: usize) {
        let mut entity = Entity::new(item, Class::NORMAL);
        for choice in item.. {
            let target = choice % CPUS;
            if self.lives[target].takes_threads() {
                match self.queues[target].lock().try_push(entity, Arrival::Woken) {
                    Ok(_) => return,
                    Err(back) => entity = back,
                }
            }
            thread::yield_now();
        }
    }

    /// Its own first, then another's.
    fn pick(&self, me: usize) -> Option<usize> {
        let own = self.queues[me].lock().pop();
        let others = (1..CPUS).map(|step| (me + step) % CPUS).filter(|&cpu| self.lives[cpu].takes_threads());
        own.or_else(|| others.into_iter().find_map(|cpu| self.queues[cpu].lock().steal(|_| true)))
            .map(|entity| entity.item)
    }

    fn done(&self) -> bool {
        self.settled.load(SeqCst) && self.ran.iter().all(|ran| ran.load(SeqCst) > 0)
    }

    fn run(&self, me: usize) {
        while !self.done() {
            if self.lives[me].is_leaving() {
                self.go(me);
            }
            match self.pick(me) {
                Some(item) => {
                    assert_eq!(self.ran[item].fetch_add(1, SeqCst), 0, "claim: nobody runs twice");
                    if item < ITEMS / 2 {
                        self.wake(item + ITEMS / 2);
                    }
                }
                None => thread::yield_now(),
            }
        }
    }

    /// As the scheduler's `pick` and `go`: gives all away, departs, and comes back when it is called.
    fn go(&self, me: usize) {
        loop {
            let popped = self.queues[me].lock().steal(|_| true);
            match popped {
                Some(entity) => drop(self.queues[0].lock().push(entity, Arrival::Moved)),
                None if self.queues[me].lock().close() => break,
                None => {}
            }
        }
        self.lives[me].depart();
        self.lives[me].rest();
        assert!(self.queues[me].lock().is_empty(), "claim: nobody is left on a virtual CPU that is gone");
        self.queues[me].lock().open();
        self.lives[me].arrive();
    }

    /// Takes a virtual CPU away and brings it back.
    fn replug(&self, cpu: usize) {
        assert!(self.lives[cpu].leave());
        while self.lives[cpu].stage() != Stage::Offline {
            thread::yield_now();
        }
        assert!(self.lives[cpu].call());
        while self.lives[cpu].stage() != Stage::Online {
            thread::yield_now();
        }
    }
}

fn come_and_go() {
    let machine = Machine::new();
    let plug = {
        let machine = machine.clone();
        thread::spawn(move || {
            (1..CPUS).for_each(|cpu| machine.replug(cpu));
            machine.settled.store(true, SeqCst);
        })
    };
    let waker = {
        let machine = machine.clone();
        thread::spawn(move || (0..ITEMS / 2).for_each(|item| machine.wake(item)))
    };
    let cpus = (0..CPUS).map(|me| {
        let machine = machine.clone();
        thread::spawn(move || machine.run(me))
    });
    let cpus: Vec<_> = cpus.collect();
    waker.join().unwrap();
    plug.join().unwrap();
    cpus.into_iter().for_each(|cpu| cpu.join().unwrap());
    assert!(machine.done());
}

#[test]
fn every_thread_runs_once_while_virtual_cpus_come_and_go() {
    explore(come_and_go);
}

#[test]
fn mutant_queue_that_stays_open_keeps_a_thread_for_ever() {
    step_mutant_fails("runqueue-closed-ignored", come_and_go);
}

#[test]
fn mutant_silent_call_leaves_a_virtual_cpu_asleep() {
    step_mutant_fails("hotplug-call-silent", come_and_go);
}
