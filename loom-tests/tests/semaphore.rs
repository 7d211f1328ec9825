//! The counting semaphore.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::lock::Semaphore;
use umbel_smp::sync::UnsafeCell;

/// Data that one thread hands to another by giving a unit.
struct Handed(UnsafeCell<u32>);

// SAFETY: the semaphore orders the accesses, which loom checks.
unsafe impl Sync for Handed {}

fn hand_over() {
    let shared = Arc::new((Semaphore::new(0), Handed(UnsafeCell::new(0))));
    let giver = {
        let shared = shared.clone();
        thread::spawn(move || {
            // SAFETY: the taker looks only after `up`.
            unsafe { *shared.1.0.get_mut().as_ptr() = 7 };
            shared.0.up();
        })
    };
    shared.0.down();
    // SAFETY: the giver is done after `up`.
    assert_eq!(unsafe { *shared.1.0.get().as_ptr() }, 7);
    giver.join().unwrap();
}

#[test]
fn down_waits_for_up_and_sees_what_came_before_it() {
    model(hand_over);
}

#[test]
fn mutant_relaxed_up_is_a_data_race() {
    mutant_fails("semaphore-up-relaxed", hand_over);
}

fn two_units_for_two() {
    let semaphore = Arc::new(Semaphore::new(0));
    let takers: Vec<_> = (0..2)
        .map(|_| {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.down())
        })
        .collect();
    semaphore.up();
    semaphore.up();
    for taker in takers {
        taker.join().unwrap();
    }
    assert_eq!(semaphore.units(), 0);
}

#[test]
fn two_units_let_two_sleepers_in() {
    model(two_units_for_two);
}

#[test]
fn mutant_waiter_that_enqueues_before_it_announces_loses_its_wake_up() {
    mutant_fails("wait-enqueued-unannounced", two_units_for_two);
}
