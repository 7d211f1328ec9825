//! An address space: three slots fault, act and discard, by the space's lock, the page table's claims, the update log and the
//! shootdown together. The kernel's page table is an array here; the protocols are its own.

use loom_tests::{explore, step_mutant_fails};
use shuttle::thread;
use std::sync::Arc;
use umbel_mm::handshake::{View, behind_append};
use umbel_mm::holders::{Holders, take_alone};
use umbel_mm::log::{Change, UpdateLog};
use umbel_smp::lock::{Rank, RwMutex, SpinLock};
use umbel_smp::sync::{AtomicBool, AtomicUsize, Ordering::SeqCst};

const SLOTS: usize = 3;
const PAGES: usize = 2;
const FRAMES: usize = 24;

#[derive(Default)]
struct Entry {
    frame: Option<usize>,
    holders: Holders,
}

struct Space {
    lock: RwMutex<()>,
    table: SpinLock<[Entry; PAGES]>,
    log: UpdateLog,
    views: [View; SLOTS],
    freed: [AtomicBool; FRAMES],
    next: AtomicUsize,
}

/// What a slot has mapped.
#[derive(Default)]
struct Slot {
    me: usize,
    applied: u64,
    mapped: [Option<usize>; PAGES],
}

impl Slot {
    fn catch_up(&mut self, log: &UpdateLog) {
        let mapped = std::cell::RefCell::new(&mut self.mapped);
        let drop_range = |change: Change| {
            let Change::Drop { start, .. } = change else { return };
            mapped.borrow_mut()[(start >> 12) as usize] = None;
        };
        let _ = log.catch_up(&mut self.applied, drop_range, || **mapped.borrow_mut() = [None; PAGES]);
    }

    fn fault(&mut self, space: &Space, page: usize) {
        let _reader = space.lock.read();
        space.views[self.me].publish(&space.log);
        self.catch_up(&space.log);
        let mut table = space.table.lock();
        let entry = &mut table[page];
        let frame = *entry.frame.get_or_insert_with(|| space.next.fetch_add(1, SeqCst));
        entry.holders = entry.holders.claim(self.me);
        drop(table);
        self.mapped[page] = Some(frame);
    }

    /// As a copy to user memory.
    fn act(&mut self, space: &Space, page: usize) {
        space.views[self.me].begin(&space.log);
        self.catch_up(&space.log);
        if let Some(frame) = self.mapped[page] {
            for _ in 0..2 {
                assert!(!space.freed[frame].load(SeqCst), "claim: no freed page is seen through an old mapping");
                thread::yield_now();
            }
        }
        space.views[self.me].end();
    }

    fn discard(&mut self, space: &Space, page: usize) {
        let me = self.me;
        let alone = {
            let _reader = space.lock.read();
            let only = |table: &[Entry; PAGES]| table[page].holders.only(me);
            take_alone(&space.table, only, || self.mapped[page] = None, |table| core::mem::take(&mut table[page]))
        };
        let taken = alone.unwrap_or_else(|| self.discard_from_all(space, page));
        if let Some(frame) = taken.frame {
            space.freed[frame].store(true, SeqCst);
        }
    }

    fn discard_from_all(&mut self, space: &Space, page: usize) -> Entry {
        let _writer = space.lock.write();
        let taken = core::mem::take(&mut space.table.lock()[page]);
        let start = (page as u64) << 12;
        space.log.append(Change::Drop { start, end: start + (1 << 12) });
        behind_append();
        let others = space.views.iter().enumerate().filter(|(slot, _)| *slot != self.me);
        for (_, view) in others.filter(|(_, view)| view.runs(&space.log)) {
            view.wait_section();
        }
        self.catch_up(&space.log);
        taken
    }

    fn live(mut self, space: &Space) {
        for round in 0..3 {
            let page = (self.me + round) % PAGES;
            self.fault(space, page);
            self.act(space, page);
            self.fault(space, 0);
            self.act(space, 0);
            self.discard(space, page);
        }
    }
}

fn fault_act_discard() {
    let space = Arc::new(Space {
        lock: RwMutex::new(Rank::Space, ()),
        table: SpinLock::new(Rank::PageTable, Default::default()),
        log: UpdateLog::new(),
        views: Default::default(),
        freed: core::array::from_fn(|_| AtomicBool::new(false)),
        next: AtomicUsize::new(0),
    });
    let slots = (0..SLOTS).map(|me| {
        let space = space.clone();
        thread::spawn(move || Slot { me, ..Slot::default() }.live(&space))
    });
    let slots: Vec<_> = slots.collect();
    slots.into_iter().for_each(|slot| slot.join().unwrap());
}

#[test]
fn no_freed_page_is_seen_through_an_old_mapping() {
    explore(fault_act_discard);
}

#[test]
fn mutant_slot_that_claims_nothing_sees_a_freed_page() {
    step_mutant_fails("holders-unclaimed", fault_act_discard);
}

#[test]
fn mutant_taker_that_does_not_ask_again_overlooks_a_slot() {
    step_mutant_fails("holders-not-asked-again", fault_act_discard);
}

#[test]
fn mutant_initiator_that_does_not_wait_frees_the_page_too_early() {
    step_mutant_fails("view-section-ignored", fault_act_discard);
}

#[test]
fn mutant_writer_that_wakes_no_readers_leaves_a_sleeper() {
    step_mutant_fails("rwmutex-readers-forgotten", fault_act_discard);
}
