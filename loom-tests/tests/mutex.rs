//! The sleeping mutex, on the wait queue and a scheduler over loom's threads.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::lock::{Mutex, Rank};

fn two_increments() {
    let lock = Arc::new(Mutex::new(Rank::SleepLeaf, 0));
    let other = lock.clone();
    let other = thread::spawn(move || *other.lock() += 1);
    *lock.lock() += 1;
    other.join().unwrap();
    assert_eq!(*lock.lock(), 2);
}

#[test]
fn holders_exclude_each_other_and_sleepers_get_in() {
    model(two_increments);
}

#[test]
fn mutant_relaxed_unlock_is_a_data_race() {
    mutant_fails("mutex-unlock-relaxed", two_increments);
}

#[test]
fn mutant_waker_without_fence_leaves_a_sleeper() {
    mutant_fails("wait-waker-unfenced", two_increments);
}
