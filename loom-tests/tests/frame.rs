//! Reference counts of frames.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use umbel_mm::refcount::RefCount;
use umbel_smp::sync::UnsafeCell;

/// A frame whose contents loom watches, and how often it was freed.
struct Frame {
    count: RefCount,
    bytes: UnsafeCell<u32>,
    freed: AtomicU32,
}

// SAFETY: the count orders reads before the reuse that follows the last put, which loom checks.
unsafe impl Sync for Frame {}

impl Frame {
    fn read_and_put(&self) {
        // SAFETY: this thread holds a reference, and nobody writes while there are any.
        let _ = unsafe { *self.bytes.get().as_ptr() };
        if self.count.put() {
            self.freed.fetch_add(1, Relaxed);
            // SAFETY: the last reference is gone: the frame may be used anew.
            unsafe { *self.bytes.get_mut().as_ptr() = 1 };
        }
    }
}

fn three_holders() {
    let frame = Arc::new(Frame { count: RefCount::default(), bytes: UnsafeCell::new(0), freed: AtomicU32::new(0) });
    frame.count.init();
    let others: Vec<_> = (0..2)
        .map(|_| {
            frame.count.get();
            let frame = frame.clone();
            thread::spawn(move || frame.read_and_put())
        })
        .collect();
    frame.read_and_put();
    for other in others {
        other.join().unwrap();
    }
    assert_eq!(frame.freed.load(Relaxed), 1);
}

#[test]
fn a_frame_is_freed_once_and_only_after_its_last_use() {
    model(three_holders);
}

#[test]
fn mutant_relaxed_put_reuses_a_frame_that_is_being_read() {
    mutant_fails("frame-put-relaxed", three_holders);
}
