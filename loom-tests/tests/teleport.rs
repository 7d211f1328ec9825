//! Hand-overs of a virtual CPU between its slots, and the deaths of slots.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_abi::machine::VcpuState;
use umbel_smp::handover::{Death, Owner, Park};
use umbel_smp::ipi::{Line, Poke};
use umbel_smp::sync::{AtomicU32, Ordering::*, UnsafeCell};

/// A virtual CPU with slots 0 and 1.
struct Vcpu {
    owner: Owner,
    parks: [Park; 2],
    /// Kernel context: only the slot that runs the virtual CPU touches it. Counts turns.
    context: UnsafeCell<u32>,
    /// The next host signal kills slot 0.
    killed: AtomicU32,
}

// SAFETY: the owner word gives the context to one slot at a time, which loom checks.
unsafe impl Sync for Vcpu {}

impl Vcpu {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            owner: Owner::new(0),
            parks: [Park::new(), Park::new()],
            context: UnsafeCell::new(0),
            killed: AtomicU32::new(0),
        })
    }

    /// Kernel code in slot `me`: returns the number of the turn.
    fn run(&self) -> u32 {
        let context = self.context.get_mut();
        // SAFETY: the slot runs the virtual CPU.
        let turns = unsafe { &mut *context.as_ptr() };
        *turns += 1;
        *turns
    }

    fn dies(&self) -> bool {
        self.killed.load(Relaxed) == 1
    }
}

/// Slot 0 hands to slot 1, which hands back.
fn there_and_back() {
    let vcpu = Vcpu::new();
    let other = {
        let vcpu = vcpu.clone();
        thread::spawn(move || {
            vcpu.owner.wait(1, &vcpu.parks[1]);
            assert_eq!(vcpu.run(), 2);
            vcpu.owner.hand(0, &vcpu.parks[0]);
        })
    };
    vcpu.parks[0].ring();
    vcpu.owner.wait(0, &vcpu.parks[0]);
    assert_eq!(vcpu.run(), 1);
    vcpu.owner.hand(1, &vcpu.parks[1]);
    vcpu.owner.wait(0, &vcpu.parks[0]);
    assert_eq!(vcpu.run(), 3);
    other.join().unwrap();
}

#[test]
fn one_slot_at_a_time_runs_the_virtual_cpu() {
    model(there_and_back);
}

#[test]
fn mutant_relaxed_hand_over_is_a_data_race() {
    mutant_fails("teleport-hand-relaxed", || {
        let vcpu = Vcpu::new();
        let other = {
            let vcpu = vcpu.clone();
            // The slot is on its way already: nothing but the owner word orders the two.
            thread::spawn(move || {
                if vcpu.owner.try_take(1) {
                    vcpu.run();
                }
            })
        };
        assert!(vcpu.owner.try_take(0));
        vcpu.run();
        vcpu.owner.give(1);
        other.join().unwrap();
    });
}

/// Slot 0 is killed at any point of its hand-over to slot 1; the parent reaps it and acts by the owner word.
fn killed_while_handing_over() {
    let vcpu = Vcpu::new();
    assert!(vcpu.owner.try_take(0));
    vcpu.run();
    let dying = {
        let vcpu = vcpu.clone();
        thread::spawn(move || {
            if vcpu.dies() {
                return;
            }
            vcpu.owner.give(1);
            if vcpu.dies() {
                return;
            }
            vcpu.parks[1].ring();
        })
    };
    let target = {
        let vcpu = vcpu.clone();
        thread::spawn(move || {
            vcpu.owner.wait(1, &vcpu.parks[1]);
            vcpu.run()
        })
    };
    vcpu.killed.store(1, Relaxed);
    dying.join().unwrap();
    match vcpu.owner.on_death(0) {
        // Here the parent would report a kernel panic or, in guest mode, revive slot 0; let that one hand on.
        Death::Running => {
            vcpu.owner.revive(0);
            assert!(vcpu.owner.try_take(0));
            vcpu.owner.hand(1, &vcpu.parks[1]);
        }
        Death::Handed(slot) => vcpu.parks[slot as usize].ring(),
        Death::Elsewhere => {}
    }
    assert_eq!(target.join().unwrap(), 2, "claim: the kernel context goes on once");
}

#[test]
fn a_slot_killed_while_it_hands_over_does_not_stop_the_virtual_cpu() {
    model(killed_while_handing_over);
}

#[test]
fn mutant_parent_that_forgets_the_target_stops_the_virtual_cpu() {
    mutant_fails("teleport-handed-ignored", killed_while_handing_over);
}

/// The parent rings slot 1 in doubt, when it may have taken over and handed on long ago.
fn rung_in_doubt() {
    let vcpu = Vcpu::new();
    assert!(vcpu.owner.try_take(0));
    let slot = {
        let vcpu = vcpu.clone();
        thread::spawn(move || {
            vcpu.owner.wait(1, &vcpu.parks[1]);
            vcpu.run();
            vcpu.owner.hand(0, &vcpu.parks[0]);
            // Handed once more at the very end, so that the model ends.
            vcpu.owner.wait(1, &vcpu.parks[1]);
            assert_eq!(vcpu.run(), 3, "claim: one slot at a time");
        })
    };
    let parent = {
        let vcpu = vcpu.clone();
        thread::spawn(move || {
            if let Death::Handed(1) = vcpu.owner.on_death(2) {
                vcpu.parks[1].ring();
            }
        })
    };
    vcpu.owner.hand(1, &vcpu.parks[1]);
    vcpu.owner.wait(0, &vcpu.parks[0]);
    assert_eq!(vcpu.run(), 2, "claim: one slot at a time");
    vcpu.owner.hand(1, &vcpu.parks[1]);
    slot.join().unwrap();
    parent.join().unwrap();
}

#[test]
fn ringing_a_slot_in_doubt_is_harmless() {
    model(rung_in_doubt);
}

#[test]
fn mutant_slot_that_trusts_its_doorbell_runs_beside_another() {
    mutant_fails("teleport-doorbell-trusted", rung_in_doubt);
}

/// Slot 0 is killed while its virtual CPU sleeps, and a cross-call arrives: the fresh slot returns from the sleep and
/// sees it.
fn killed_asleep() {
    let vcpu = Vcpu::new();
    let words: Arc<[AtomicU32; 3]> = Arc::new(std::array::from_fn(|_| AtomicU32::new(0)));
    let line = |words: &Arc<[AtomicU32; 3]>| -> Line<'static> {
        // SAFETY: the model keeps the words alive until every thread is joined.
        let words: &'static [AtomicU32; 3] = unsafe { &*Arc::as_ptr(words) };
        Line { state: &words[0], pending: &words[1], doorbell: &words[2] }
    };
    assert!(vcpu.owner.try_take(0));
    // The dead slot's last act: it published that it sleeps.
    words[0].store(VcpuState::Idle as u32, Release);
    let sender = {
        let words = words.clone();
        thread::spawn(move || assert_eq!(line(&words).post(1), Poke::Nothing, "claim: nobody signals the dead"))
    };
    let fresh = {
        let (vcpu, words) = (vcpu.clone(), words.clone());
        thread::spawn(move || {
            vcpu.owner.wait(0, &vcpu.parks[0]);
            // Woken for nothing, as far as it knows: it looks, and sleeps again.
            while line(&words).take() == 0 {
                line(&words).idle(None, || false);
            }
        })
    };
    assert_eq!(vcpu.owner.on_death(0), Death::Running);
    line(&words).enter_kernel();
    vcpu.owner.revive(0);
    vcpu.parks[0].ring();
    sender.join().unwrap();
    fresh.join().unwrap();
}

#[test]
fn a_cross_call_to_a_virtual_cpu_whose_slot_is_killed_asleep_is_not_lost() {
    model(killed_asleep);
}

#[test]
fn mutant_fresh_slot_that_is_not_handed_the_virtual_cpu_stops_it() {
    mutant_fails("teleport-revived-unhanded", killed_asleep);
}

/// A cross-call arrives while the virtual CPU moves between slots: the slot that goes to guest mode sees it, or the
/// sender signals the host task that was published before.
#[test]
fn a_cross_call_during_a_hand_over_is_not_lost() {
    model(|| {
        let vcpu = Vcpu::new();
        let words: Arc<[AtomicU32; 5]> = Arc::new(std::array::from_fn(|_| AtomicU32::new(0)));
        // state, pending, doorbell, host task of the running slot, signalled task
        let line = |words: &Arc<[AtomicU32; 5]>| -> Line<'static> {
            // SAFETY: the model keeps the words alive until every thread is joined.
            let words: &'static [AtomicU32; 5] = unsafe { &*Arc::as_ptr(words) };
            Line { state: &words[0], pending: &words[1], doorbell: &words[2] }
        };
        line(&words).enter_kernel();
        words[3].store(100, Relaxed);
        let sender = {
            let words = words.clone();
            thread::spawn(move || {
                if line(&words).post(1) == Poke::Signal {
                    words[4].store(words[3].load(Acquire), Relaxed);
                }
            })
        };
        let target = {
            let (vcpu, words) = (vcpu.clone(), words.clone());
            thread::spawn(move || {
                vcpu.owner.wait(1, &vcpu.parks[1]);
                line(&words).enter_guest()
            })
        };
        assert!(vcpu.owner.try_take(0));
        words[3].store(101, Release);
        vcpu.owner.hand(1, &vcpu.parks[1]);
        sender.join().unwrap();
        let in_guest = target.join().unwrap();
        let signalled = words[4].load(Relaxed);
        assert!(!in_guest || signalled == 101, "claim: the right host task is signalled: {signalled}");
    });
}
