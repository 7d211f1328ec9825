//! The adaptive reader-writer lock.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::lock::{Rank, RwLock};

fn writer_against_reader() {
    let lock = Arc::new(RwLock::new(Rank::Leaf, (0, 0)));
    let reader = {
        let lock = lock.clone();
        thread::spawn(move || {
            let pair = lock.read();
            assert_eq!(pair.0, pair.1, "claim: readers see whole writes");
        })
    };
    {
        let mut pair = lock.write();
        pair.0 += 1;
        pair.1 += 1;
    }
    reader.join().unwrap();
    let mut pair = lock.write();
    assert_eq!(*pair, (1, 1));
    pair.0 = 2;
}

fn two_writers_and_a_reader() {
    let lock = Arc::new(RwLock::new(Rank::Leaf, 0));
    let writer = {
        let lock = lock.clone();
        thread::spawn(move || *lock.write() += 1)
    };
    let reader = {
        let lock = lock.clone();
        thread::spawn(move || assert!(*lock.read() <= 2))
    };
    *lock.write() += 1;
    writer.join().unwrap();
    reader.join().unwrap();
    assert_eq!(*lock.read(), 2);
}

#[test]
fn readers_see_whole_writes() {
    model(writer_against_reader);
}

#[test]
fn writers_exclude_everybody_and_every_waiter_gets_in() {
    model(two_writers_and_a_reader);
}

#[test]
fn mutant_relaxed_read_unlock_is_a_data_race() {
    mutant_fails("rw-read-unlock-relaxed", writer_against_reader);
}

#[test]
fn mutant_silent_write_unlock_leaves_a_sleeper() {
    mutant_fails("rw-write-unlock-silent", two_writers_and_a_reader);
}

#[test]
fn two_readers_are_inside_at_once() {
    model(|| {
        let lock = Arc::new(RwLock::new(Rank::Leaf, 7));
        let mine = lock.read();
        let other = lock.clone();
        // Deadlocks if the second reader must wait for the first.
        thread::spawn(move || assert_eq!(*other.read(), 7)).join().unwrap();
        assert_eq!(*mine, 7);
    });
}
