//! The shootdown handshake: who takes a page away, against a virtual CPU in an active section.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_mm::handshake::{View, behind_append};
use umbel_mm::log::{Change, UpdateLog};
use umbel_smp::sync::UnsafeCell;

/// One page of one space, mapped in the slot of one other virtual CPU.
struct Space {
    log: UpdateLog,
    view: View,
    /// Written by the initiator once nobody can reach it: loom reports an access that is not ordered before.
    page: UnsafeCell<u32>,
}

// SAFETY: the handshake orders the accesses to the page, which loom checks.
unsafe impl Sync for Space {}

const UNMAP: Change = Change::Drop { start: 0x1000, end: 0x2000 };

impl Space {
    fn new() -> Arc<Self> {
        Arc::new(Self { log: UpdateLog::new(), view: View::new(), page: UnsafeCell::new(0) })
    }

    /// The receiver copies from the page if it is still mapped; returns whether it was.
    fn user_copy(&self, applied: &mut u64) -> bool {
        self.view.begin(&self.log);
        let mut mapped = true;
        let gone = std::cell::Cell::new(false);
        let _ = self.log.catch_up(applied, |_| gone.set(true), || gone.set(true));
        mapped &= !gone.get();
        if mapped {
            // SAFETY: the page is mapped, so it is not reused before this section ends.
            let _ = unsafe { *self.page.get().as_ptr() };
        }
        self.view.end();
        mapped
    }

    /// The initiator takes the page away and uses it for something else.
    fn unmap_and_reuse(&self) {
        self.log.append(UNMAP);
        behind_append();
        if self.view.runs(&self.log) {
            self.view.wait_section();
        }
        // SAFETY: no virtual CPU reaches the page any more.
        unsafe { *self.page.get_mut().as_ptr() = 1 };
    }
}

fn copy_against_unmap() {
    let space = Space::new();
    let receiver = {
        let space = space.clone();
        thread::spawn(move || {
            let mut applied = 0;
            space.user_copy(&mut applied)
        })
    };
    space.unmap_and_reuse();
    receiver.join().unwrap();
}

#[test]
fn an_active_section_sees_the_change_or_is_waited_for() {
    model(copy_against_unmap);
}

fn two_copies_against_unmap() {
    let space = Space::new();
    let receiver = {
        let space = space.clone();
        thread::spawn(move || {
            let mut applied = 0;
            // A slot that has seen the change has no mapping to use in its next section.
            if space.user_copy(&mut applied) {
                space.user_copy(&mut applied);
            }
        })
    };
    space.unmap_and_reuse();
    receiver.join().unwrap();
}

#[test]
fn a_second_section_never_reaches_the_page_again() {
    model(two_copies_against_unmap);
}

/// As a virtual CPU that idles between two calls.
fn copy_idle_copy_against_unmap() {
    let space = Space::new();
    let receiver = {
        let space = space.clone();
        thread::spawn(move || {
            let mut applied = 0;
            let mapped = space.user_copy(&mut applied);
            space.view.leave();
            if mapped {
                space.user_copy(&mut applied);
            }
        })
    };
    space.unmap_and_reuse();
    receiver.join().unwrap();
}

#[test]
fn who_was_idle_is_waited_for_again() {
    model(copy_idle_copy_against_unmap);
}

#[test]
fn mutant_receiver_that_tells_nobody_uses_a_page_that_is_gone() {
    mutant_fails("view-unpublished", copy_idle_copy_against_unmap);
}

#[test]
fn mutant_relaxed_begin_hides_the_end_of_the_section_before() {
    mutant_fails("view-begin-relaxed", two_copies_against_unmap);
}

#[test]
fn mutant_receiver_without_fence_uses_a_page_that_is_gone() {
    mutant_fails("view-receiver-unfenced", copy_against_unmap);
}

#[test]
fn mutant_initiator_without_fence_misses_a_section() {
    mutant_fails("view-initiator-unfenced", copy_against_unmap);
}

#[test]
fn mutant_initiator_that_does_not_wait_reuses_the_page_too_early() {
    mutant_fails("view-section-ignored", copy_against_unmap);
}

#[test]
fn mutant_relaxed_end_of_a_section_is_a_data_race() {
    mutant_fails("view-end-relaxed", copy_against_unmap);
}
