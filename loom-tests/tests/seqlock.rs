//! The sequence lock.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::lock::{Rank, SeqLock};

fn reader_against_writer() {
    let lock = Arc::new(SeqLock::<[u64; 2]>::zeroed(Rank::Leaf));
    let writer = {
        let lock = lock.clone();
        thread::spawn(move || lock.update(|[a, b]| [a + 1, b + 1]))
    };
    if let Some([a, b]) = lock.try_read() {
        assert_eq!(a, b, "claim: no torn reads");
    }
    writer.join().unwrap();
    assert_eq!(lock.read(), [1, 1]);
}

#[test]
fn a_reader_never_sees_a_torn_value() {
    model(reader_against_writer);
}

#[test]
fn mutant_reader_without_fence_sees_one() {
    mutant_fails("seq-no-acquire-fence", reader_against_writer);
}

#[test]
fn mutant_writer_without_fence_shows_one() {
    mutant_fails("seq-no-release-fence", reader_against_writer);
}

#[test]
fn two_writers_lose_no_update() {
    model(|| {
        let lock = Arc::new(SeqLock::<[u64; 1]>::zeroed(Rank::Leaf));
        let other = lock.clone();
        let other = thread::spawn(move || other.update(|[a]| [a + 1]));
        lock.update(|[a]| [a + 1]);
        other.join().unwrap();
        assert_eq!(lock.read(), [2]);
    });
}
