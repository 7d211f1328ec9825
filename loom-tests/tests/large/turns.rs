//! Virtual time: four virtual CPUs take turns, idle, call each other and are interrupted by a device.

use loom_tests::{explore, step_mutant_fails};
use shuttle::thread;
use std::sync::Arc;
use umbel_smp::ipi::{Line, Poke};
use umbel_smp::sync::{AtomicU32, Ordering::SeqCst};
use umbel_smp::turns::{Leave, Lull, Turns};

/// `VcpuState::Kernel`.
const KERNEL: u32 = 1;
const CPUS: usize = 4;
const ROUNDS: u64 = 3;

#[derive(Default)]
struct Words {
    state: AtomicU32,
    pending: AtomicU32,
    doorbell: AtomicU32,
}

struct Machine {
    turns: Turns<CPUS>,
    words: [Words; CPUS],
    inside: AtomicU32,
}

impl Machine {
    fn line(&self, cpu: usize) -> Line<'_> {
        let Words { state, pending, doorbell } = &self.words[cpu];
        Line { state, pending, doorbell }
    }

    fn work(&self) {
        assert_eq!(self.inside.swap(1, SeqCst), 0, "claim: one has the baton");
        thread::yield_now();
        self.inside.store(0, SeqCst);
    }

    fn leave(&self, me: usize, clock: u64, leave: Leave) {
        if let Some(next) = self.turns.give_up(me, clock, leave, 0) {
            self.line(next).ring();
        }
    }

    fn rest(&self, me: usize) {
        self.turns.rest(me, self.line(me), || 0);
        let _ = self.line(me).take();
    }

    fn live(&self, me: usize) {
        for round in 0..ROUNDS {
            self.work();
            let clock = self.turns.started(me) + 3 + me as u64 * round;
            match (me as u64 + round) % 3 {
                0 => self.leave(me, clock, Leave::Yields),
                1 => {
                    self.turns.call((me + 1) % CPUS, clock);
                    self.leave(me, clock, Leave::Idles(Some(clock + 50)));
                }
                _ => self.leave(me, clock, Leave::Idles(Some(clock + 7))),
            }
            self.rest(me);
        }
        self.work();
        self.leave(me, self.turns.started(me) + 1, Leave::Departs);
    }
}

fn four_take_turns() {
    let words = core::array::from_fn(|_| Words { state: AtomicU32::new(KERNEL), ..Words::default() });
    let machine = Arc::new(Machine { turns: Turns::new(), words, inside: AtomicU32::new(0) });
    machine.turns.begin(0, 10, 5, Lull::Jumps, 1);
    (1..CPUS).for_each(|cpu| machine.turns.join(cpu));
    let others = (1..CPUS).map(|me| {
        let machine = machine.clone();
        thread::spawn(move || {
            machine.rest(me);
            machine.live(me);
        })
    });
    let mut threads: Vec<_> = others.collect();
    let device = machine.clone();
    threads.push(thread::spawn(move || (0..CPUS).for_each(|cpu| assert_eq!(device.line(cpu).post(1), Poke::Nothing))));
    machine.live(0);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_baton_goes_around_among_four() {
    explore(four_take_turns);
}

#[test]
fn mutant_grant_without_doorbell_stops_everything() {
    step_mutant_fails("turns-grant-silent", four_take_turns);
}

#[test]
fn mutant_doorbell_cleared_after_the_look_loses_the_baton() {
    step_mutant_fails("turns-bell-cleared-late", four_take_turns);
}

#[test]
fn mutant_interrupt_that_takes_a_held_baton_doubles_it() {
    step_mutant_fails("turns-baton-doubled", four_take_turns);
}
