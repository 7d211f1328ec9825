//! The update log of an address space. Under loom it is two entries long.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_mm::log::{CaughtUp, Change, LOG_LEN, UpdateLog};

/// The change numbered `n`, from 1: every word of it tells which one it is.
fn change(n: u64) -> Change {
    Change::Drop { start: n << 12, end: (n + 1) << 12 }
}

/// A slot, and what it still believes to be mapped of the pages 1 to `N`.
struct Slot {
    applied: u64,
    stale: Vec<u64>,
}

impl Slot {
    fn new(pages: u64) -> Self {
        Self { applied: 0, stale: (1..=pages).collect() }
    }

    fn catch_up(&mut self, log: &UpdateLog) -> CaughtUp {
        let stale = std::cell::RefCell::new(&mut self.stale);
        let apply = |got: Change| {
            let Change::Drop { start, .. } = got else { panic!("claim: entries come back whole: {got:?}") };
            assert_eq!(got, change(start >> 12), "claim: entries come back whole");
            stale.borrow_mut().retain(|page| page << 12 != start);
        };
        log.catch_up(&mut self.applied, apply, || stale.borrow_mut().clear())
    }
}

/// `changes` are appended while a slot catches up, once during and once after.
fn append_against_catch_up(changes: u64) {
    let log = Arc::new(UpdateLog::new());
    let appender = {
        let log = log.clone();
        thread::spawn(move || (1..=changes).for_each(|n| log.append(change(n))))
    };
    let mut slot = Slot::new(changes);
    let _ = slot.catch_up(&log);
    let applied = slot.applied;
    assert!(
        slot.stale.iter().all(|&page| page > applied),
        "claim: what counts as applied was applied: {applied} {:?}",
        slot.stale
    );
    appender.join().unwrap();
    let _ = slot.catch_up(&log);
    assert_eq!(slot.applied, changes);
    assert!(slot.stale.is_empty(), "claim: no entry is lost: {:?}", slot.stale);
}

#[test]
fn no_entry_is_lost_or_torn_without_a_wrap() {
    model(|| append_against_catch_up(LOG_LEN - 1));
}

#[test]
fn a_wrap_is_noticed_and_everything_dropped() {
    model(|| append_against_catch_up(LOG_LEN + 1));
}

#[test]
fn a_wrap_over_a_reader_is_noticed() {
    model(overtaken_reader);
}

/// The slot is within the ring when it starts, and the appender comes around while it reads.
fn overtaken_reader() {
    let log = Arc::new(UpdateLog::new());
    log.append(change(1));
    let appender = {
        let log = log.clone();
        thread::spawn(move || (2..=1 + LOG_LEN).for_each(|n| log.append(change(n))))
    };
    let mut slot = Slot::new(1 + LOG_LEN);
    let _ = slot.catch_up(&log);
    let applied = slot.applied;
    assert!(slot.stale.iter().all(|&page| page > applied), "claim: what counts as applied was applied");
    appender.join().unwrap();
    let _ = slot.catch_up(&log);
    assert!(slot.stale.is_empty(), "claim: no entry is lost");
}

#[test]
fn mutant_reader_that_ignores_the_wrap_takes_a_wrong_entry() {
    mutant_fails("log-wrap-unnoticed", overtaken_reader);
}

#[test]
fn mutant_reader_without_fence_takes_a_wrong_entry() {
    mutant_fails("log-read-unfenced", overtaken_reader);
}

#[test]
fn mutant_appender_without_fence_shows_a_wrong_entry() {
    mutant_fails("log-append-unfenced", overtaken_reader);
}

#[test]
fn mutant_relaxed_head_shows_an_entry_before_it_is_there() {
    mutant_fails("log-head-relaxed", || append_against_catch_up(1));
}
