//! The adaptive spin lock.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::lock::{Rank, SpinLock};

/// Three threads add to a counter that only the lock protects; loom reports unordered accesses, lost wake-ups hang.
fn three_increments() {
    let lock = Arc::new(SpinLock::new(Rank::Leaf, 0));
    let others: Vec<_> = (0..2)
        .map(|_| {
            let lock = lock.clone();
            thread::spawn(move || *lock.lock() += 1)
        })
        .collect();
    *lock.lock() += 1;
    for other in others {
        other.join().unwrap();
    }
    assert_eq!(*lock.lock(), 3);
}

#[test]
fn holders_exclude_each_other_and_every_waiter_gets_in() {
    model(three_increments);
}

#[test]
fn mutant_relaxed_unlock_is_a_data_race() {
    mutant_fails("spin-unlock-relaxed", three_increments);
}

#[test]
fn mutant_waiter_that_does_not_mark_the_word_sleeps_for_ever() {
    mutant_fails("spin-waiter-unmarked", three_increments);
}

/// Two try, at least one gets in.
fn two_that_try() {
    let lock = Arc::new(SpinLock::new(Rank::Leaf, 0));
    let other = lock.clone();
    let other = thread::spawn(move || {
        if let Some(mut value) = other.try_lock() {
            *value += 1;
        }
    });
    if let Some(mut value) = lock.try_lock() {
        *value += 1;
    }
    other.join().unwrap();
    assert!((1..=2).contains(&*lock.lock()));
}

#[test]
fn try_lock_never_enters_a_held_lock() {
    model(two_that_try);
}

#[test]
fn mutant_relaxed_unlock_lets_who_tries_race() {
    mutant_fails("spin-unlock-relaxed", two_that_try);
}
