//! The sleeping reader-writer lock, on the wait queue and a scheduler over loom's threads.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::lock::{Rank, RwMutex};

fn writer_against_reader() {
    let lock = Arc::new(RwMutex::new(Rank::SleepLeaf, (0, 0)));
    let reader = {
        let lock = lock.clone();
        thread::spawn(move || {
            let both = lock.read();
            assert_eq!(both.0, both.1, "claim: a reader sees all of a write or nothing");
        })
    };
    {
        let mut both = lock.write();
        both.0 = 1;
        both.1 = 1;
    }
    reader.join().unwrap();
}

#[test]
fn a_reader_sees_all_of_a_write_or_nothing_and_sleepers_get_in() {
    model(writer_against_reader);
}

fn two_writers() {
    let lock = Arc::new(RwMutex::new(Rank::SleepLeaf, 0));
    let other = lock.clone();
    let other = thread::spawn(move || *other.write() += 1);
    *lock.write() += 1;
    other.join().unwrap();
    assert_eq!(*lock.read(), 2);
}

#[test]
fn writers_exclude_each_other() {
    model(two_writers);
}

/// A reader leaves while a writer comes, and another reader comes meanwhile.
fn writer_among_readers() {
    let lock = Arc::new(RwMutex::new(Rank::SleepLeaf, 0));
    let first = lock.read();
    let (writer, reader) = (lock.clone(), lock.clone());
    let writer = thread::spawn(move || *writer.write() += 1);
    let reader = thread::spawn(move || *reader.read());
    drop(first);
    writer.join().unwrap();
    assert!(reader.join().unwrap() <= 1);
}

#[test]
fn neither_kind_waits_for_ever() {
    model(writer_among_readers);
}

#[test]
fn mutant_relaxed_write_unlock_is_a_data_race() {
    mutant_fails("rwmutex-write-unlock-relaxed", writer_against_reader);
}

#[test]
fn mutant_relaxed_read_unlock_is_a_data_race() {
    mutant_fails("rwmutex-read-unlock-relaxed", writer_against_reader);
}

#[test]
fn mutant_writer_that_wakes_no_readers_leaves_a_sleeper() {
    mutant_fails("rwmutex-readers-forgotten", writer_against_reader);
}

#[test]
fn mutant_leaver_without_fence_leaves_a_writer_asleep() {
    mutant_fails("rwmutex-leave-unfenced", writer_among_readers);
}
