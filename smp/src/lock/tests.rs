//! What the models show for three threads, here for many.

extern crate std;

use super::*;
use crate::testing::{ROUNDS, THREADS, together};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

#[test]
fn spinning_lock_counts_right() {
    let lock = SpinLock::new(Rank::Leaf, 0);
    together(|_| (0..ROUNDS).for_each(|_| *lock.lock() += 1));
    assert_eq!(lock.into_inner(), THREADS * ROUNDS);
}

#[test]
fn reader_writer_lock_shows_whole_writes() {
    let lock = RwLock::new(Rank::Leaf, (0, 0));
    together(|index| {
        for _ in 0..ROUNDS {
            if index < 2 {
                let mut pair = lock.write();
                pair.0 += 1;
                pair.1 += 1;
            } else {
                let pair = lock.read();
                assert_eq!(pair.0, pair.1);
            }
        }
    });
    assert_eq!(*lock.read(), (2 * ROUNDS, 2 * ROUNDS));
}

#[test]
fn sequence_lock_shows_whole_writes() {
    let lock = SeqLock::<[u64; 4]>::zeroed(Rank::Leaf);
    together(|index| {
        for _ in 0..ROUNDS {
            if index == 0 {
                lock.update(|words| words.map(|word| word + 1));
            } else {
                let words = lock.read();
                assert_eq!(words, [words[0]; 4]);
            }
        }
    });
    assert_eq!(lock.read(), [u64::from(ROUNDS); 4]);
}

#[test]
fn once_makes_one_value() {
    let (once, made) = (Once::new(), AtomicU32::new(0));
    together(|_| assert_eq!(*once.call_once(|| made.fetch_add(1, SeqCst) + 7), 7));
    assert_eq!(made.into_inner(), 1);
}

#[test]
fn sleeping_lock_counts_right() {
    let lock = Mutex::new(Rank::SleepLeaf, 0);
    together(|_| (0..ROUNDS).for_each(|_| *lock.lock() += 1));
    assert_eq!(lock.into_inner(), THREADS * ROUNDS);
}

#[test]
fn semaphore_never_admits_more_than_its_units() {
    let (semaphore, inside) = (Semaphore::new(3), AtomicU32::new(0));
    together(|_| {
        for _ in 0..ROUNDS {
            semaphore.down();
            assert!(inside.fetch_add(1, SeqCst) < 3);
            inside.fetch_sub(1, SeqCst);
            semaphore.up();
        }
    });
    assert_eq!(semaphore.units(), 3);
}

#[test]
#[should_panic(expected = "lock order")]
fn a_lock_taken_upwards_panics() {
    together(|_| ());
    let (low, high) = (SpinLock::new(Rank::Leaf, ()), SpinLock::new(Rank::Process, ()));
    let _low = low.lock();
    let _high = high.lock();
}

#[test]
#[should_panic(expected = "sleeping under a spinning lock")]
fn a_sleeping_lock_under_a_spinning_one_panics() {
    together(|_| ());
    let (spin, sleeping) = (SpinLock::new(Rank::PidTable, ()), Mutex::new(Rank::SleepLeaf, ()));
    let _spin = spin.lock();
    let _sleeping = sleeping.lock();
}

/// Time of the quickest of many rounds of a thousand each, ns a call.
#[cfg(not(debug_assertions))]
fn least_ns(calls: [&dyn Fn(); 2]) -> [f64; 2] {
    const CALLS: u32 = 1000;
    let round = |call: &dyn Fn()| {
        let start = std::time::Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..2000).fold([f64::MAX; 2], |least, _| std::array::from_fn(|i| least[i].min(round(calls[i]))))
}

/// `cargo test --release -p umbel-smp costs`: debug builds check ranks besides. What calls take so many locks that this matters is
/// `locks_cost_little_while_they_are_not_counted` of tests/scale.rs.
#[cfg(not(debug_assertions))]
#[test]
fn a_lock_that_is_not_counted_costs_no_more_than_two_looks_at_a_flag() {
    let (lock, bare, value) = (SpinLock::new(Rank::Leaf, 0_u64), RawSpin::new(), core::cell::Cell::new(0_u64));
    let [counted, plain] = least_ns([&|| *lock.lock() += 1, &|| {
        bare.lock();
        value.set(value.get() + 1);
        bare.unlock();
    }]);
    assert!(counted - plain < 3.0, "{counted} ns instead of {plain}");
}
