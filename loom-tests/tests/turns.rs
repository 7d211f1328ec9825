//! The baton of virtual time: the code of `smp::turns` and `smp::ipi` over words of the model's own.

#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::ipi::{Line, Poke};
use umbel_smp::sync::AtomicU32;
use umbel_smp::turns::{Leave, Lull, Turns};

/// `VcpuState::Kernel`.
const KERNEL: u32 = 1;
const CPUS: usize = 3;

struct Words {
    state: AtomicU32,
    pending: AtomicU32,
    doorbell: AtomicU32,
}

struct Machine {
    turns: Turns<CPUS>,
    words: [Words; CPUS],
    /// What only the holder of the baton touches.
    held: UnsafeCell<u32>,
}

// SAFETY: loom checks the accesses to `held`.
unsafe impl Sync for Machine {}
// SAFETY: as above.
unsafe impl Send for Machine {}

impl Machine {
    /// Virtual CPU 0 runs.
    fn new(lull: Lull) -> Arc<Self> {
        let words = || Words { state: AtomicU32::new(KERNEL), pending: AtomicU32::new(0), doorbell: AtomicU32::new(0) };
        let machine = Self { turns: Turns::new(), words: [words(), words(), words()], held: UnsafeCell::new(0) };
        machine.turns.begin(0, 10, 5, lull, 1);
        Arc::new(machine)
    }

    fn line(&self, cpu: usize) -> Line<'_> {
        let Words { state, pending, doorbell } = &self.words[cpu];
        Line { state, pending, doorbell }
    }

    fn work(&self) {
        // SAFETY: loom checks that nobody else is here.
        self.held.with_mut(|held| unsafe { *held += 1 });
    }

    fn leave(&self, me: usize, clock: u64, leave: Leave) {
        if let Some(next) = self.turns.give_up(me, clock, leave, 0) {
            self.line(next).ring();
        }
    }

    fn rest(&self, me: usize) {
        self.turns.rest(me, self.line(me), || 0);
    }
}

fn spawn(machine: &Arc<Machine>, life: impl FnOnce(&Machine) + Send + 'static) -> thread::JoinHandle<()> {
    let machine = machine.clone();
    thread::spawn(move || life(&machine))
}

/// Two yield to each other; whoever has no turn left departs. A lost baton is a deadlock.
fn yields() {
    let machine = Machine::new(Lull::Jumps);
    machine.turns.join(1);
    let other = spawn(&machine, |machine| {
        machine.rest(1);
        machine.work();
        machine.leave(1, 30, Leave::Yields);
        machine.rest(1);
        machine.work();
        machine.leave(1, 40, Leave::Departs);
    });
    machine.work();
    machine.leave(0, 20, Leave::Yields);
    machine.rest(0);
    machine.work();
    machine.leave(0, 50, Leave::Departs);
    other.join().unwrap();
}

/// One idles until the other calls it, and goes on no earlier than the call.
fn called() {
    let machine = Machine::new(Lull::Jumps);
    machine.turns.join(1);
    let other = spawn(&machine, |machine| {
        machine.rest(1);
        machine.work();
        machine.leave(1, 12, Leave::Idles(None));
        machine.rest(1);
        machine.work();
        assert_eq!(machine.turns.started(1), 30, "claim: an idle one goes on when it was called");
        machine.leave(1, 31, Leave::Departs);
    });
    machine.leave(0, 20, Leave::Yields);
    machine.rest(0);
    machine.work();
    machine.turns.call(1, 30);
    machine.leave(0, 35, Leave::Departs);
    other.join().unwrap();
}

/// A device interrupts one that idles, while another runs, or just as that one idles too.
fn interrupted() {
    let machine = Machine::new(Lull::Jumps);
    machine.turns.join(1);
    let device = spawn(&machine, |machine| assert_eq!(machine.line(1).post(1), Poke::Nothing));
    let other = spawn(&machine, |machine| {
        machine.rest(1);
        let mut seen = 0;
        loop {
            machine.work();
            seen |= machine.line(1).take();
            if seen != 0 {
                break;
            }
            machine.leave(1, 12, Leave::Idles(None));
            machine.rest(1);
        }
        machine.leave(1, 13, Leave::Departs);
    });
    machine.work();
    machine.leave(0, 20, Leave::Departs);
    device.join().unwrap();
    other.join().unwrap();
}

/// Both rest with a deadline; where lulls pass in host time the device interrupts one of them.
fn lull() {
    let machine = Machine::new(Lull::Passes);
    machine.turns.join(1);
    let device = spawn(&machine, |machine| assert_eq!(machine.line(0).post(1), Poke::Nothing));
    let other = spawn(&machine, |machine| {
        machine.rest(1);
        machine.work();
        machine.leave(1, 12, Leave::Idles(Some(100)));
        machine.rest(1);
        machine.work();
        machine.leave(1, 130, Leave::Departs);
    });
    machine.work();
    machine.leave(0, 20, Leave::Idles(Some(1000)));
    machine.rest(0);
    machine.work();
    machine.turns.call(1, 30);
    machine.leave(0, 200, Leave::Departs);
    device.join().unwrap();
    other.join().unwrap();
}

#[test]
fn the_baton_is_never_lost_and_never_doubled() {
    model(yields);
}

#[test]
fn who_is_called_runs_at_the_time_of_the_call() {
    model(called);
}

#[test]
fn a_device_gets_the_baton_for_the_one_that_it_interrupts() {
    model(interrupted);
}

#[test]
fn in_a_lull_a_device_or_a_deadline_goes_on() {
    model(lull);
}

#[test]
fn mutant_grant_without_doorbell_stops_everything() {
    mutant_fails("turns-grant-silent", yields);
}

#[test]
fn mutant_doorbell_cleared_after_the_look_loses_the_baton() {
    mutant_fails("turns-bell-cleared-late", yields);
}

#[test]
fn mutant_rest_that_is_deaf_to_devices_stops_everything() {
    mutant_fails("turns-device-ignored", interrupted);
}

#[test]
fn mutant_interrupt_that_takes_a_held_baton_doubles_it() {
    mutant_fails("turns-baton-doubled", interrupted);
}

#[test]
fn mutant_rest_without_fence_loses_a_doorbell() {
    mutant_fails("nap-receiver-unfenced", interrupted);
}
