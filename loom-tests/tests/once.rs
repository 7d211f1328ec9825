//! The cell that is written once.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use umbel_smp::lock::Once;
use umbel_smp::sync::UnsafeCell;

/// A value with a cell that loom watches.
struct Watched(UnsafeCell<u32>);

// SAFETY: written before it is shared, read afterwards.
unsafe impl Sync for Watched {}

fn three_callers() {
    let once = Arc::new(Once::new());
    let made = Arc::new(AtomicU32::new(0));
    let call = |once: &Once<Watched>, made: &AtomicU32| {
        let value = once.call_once(|| {
            made.fetch_add(1, Relaxed);
            let value = Watched(UnsafeCell::new(0));
            // SAFETY: nobody else has it yet.
            unsafe { *value.0.get_mut().as_ptr() = 7 };
            value
        });
        // SAFETY: nobody writes any more.
        assert_eq!(unsafe { *value.0.get().as_ptr() }, 7);
    };
    let others: Vec<_> = (0..2)
        .map(|_| {
            let (once, made) = (once.clone(), made.clone());
            thread::spawn(move || call(&once, &made))
        })
        .collect();
    call(&once, &made);
    for other in others {
        other.join().unwrap();
    }
    assert_eq!(made.load(Relaxed), 1);
}

#[test]
fn one_caller_makes_the_value_and_all_see_it() {
    model(three_callers);
}

#[test]
fn mutant_relaxed_publication_is_a_data_race() {
    mutant_fails("once-ready-relaxed", three_callers);
}
