//! Pages that only one slot has mapped are taken away without telling anybody, against another slot that maps them.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_mm::handshake::{View, behind_append};
use umbel_mm::holders::{Holders, take_alone};
use umbel_mm::log::{Change, UpdateLog};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::sync::UnsafeCell;

#[derive(Default)]
struct Table {
    present: bool,
    holders: Holders,
}

/// One page of one space, mapped in slot 0, which takes it away. Slot 1 may fault on it meanwhile.
struct Space {
    table: SpinLock<Table>,
    log: UpdateLog,
    /// Of slot 1's virtual CPU.
    view: View,
    /// Written by slot 0 once nobody can reach it: loom reports an access that is not ordered before.
    page: UnsafeCell<u32>,
}

// SAFETY: the protocol orders the accesses to the page, which loom checks.
unsafe impl Sync for Space {}

const UNMAP: Change = Change::Drop { start: 0x1000, end: 0x2000 };

impl Space {
    fn new() -> Arc<Self> {
        let mut table = Table { present: true, ..Table::default() };
        table.holders = table.holders.claim(0);
        Arc::new(Self {
            table: SpinLock::new(Rank::PageTable, table),
            log: UpdateLog::new(),
            view: View::new(),
            page: UnsafeCell::new(0),
        })
    }

    /// Slot 1: maps the page if it is there, then reads it if it still is; returns whether it was there.
    fn fault_and_read(&self) -> bool {
        let mut applied = self.log.head();
        let mapped = {
            let mut table = self.table.lock();
            if table.present {
                table.holders = table.holders.claim(1);
            }
            table.present
        };
        self.view.begin(&self.log);
        let gone = std::cell::Cell::new(false);
        let _ = self.log.catch_up(&mut applied, |_| gone.set(true), || gone.set(true));
        if mapped && !gone.get() {
            // SAFETY: the page is mapped, so it is not reused before this section ends.
            let _ = unsafe { *self.page.get().as_ptr() };
        }
        self.view.end();
        mapped
    }

    /// Slot 0: takes the page away and uses it for something else; returns whether it told the others.
    fn discard_and_reuse(&self) -> bool {
        let take = |table: &mut Table| table.present = false;
        let alone = take_alone(&self.table, |table| table.holders.only(0), || (), take);
        if alone.is_none() {
            take(&mut self.table.lock());
            self.log.append(UNMAP);
            behind_append();
            if self.view.runs(&self.log) {
                self.view.wait_section();
            }
        }
        // SAFETY: no slot reaches the page any more.
        unsafe { *self.page.get_mut().as_ptr() = 1 };
        alone.is_none()
    }
}

fn discard_against_fault() {
    let space = Space::new();
    let other = {
        let space = space.clone();
        thread::spawn(move || space.fault_and_read())
    };
    let told = space.discard_and_reuse();
    let mapped = other.join().unwrap();
    assert!(told || !mapped, "claim: who has the page mapped is told");
}

#[test]
fn whoever_maps_a_page_is_told_when_it_goes() {
    model(discard_against_fault);
}

#[test]
fn mutant_slot_that_claims_nothing_keeps_a_page_that_is_gone() {
    mutant_fails("holders-unclaimed", discard_against_fault);
}

#[test]
fn mutant_taker_that_does_not_ask_again_overlooks_a_slot() {
    mutant_fails("holders-not-asked-again", discard_against_fault);
}
