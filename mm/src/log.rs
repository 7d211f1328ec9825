//! The update log of an address space: a ring of changes of present translations, with absolute counts.
//!
//! Every change that takes something away (unmap, less protection, another page) is appended; each slot keeps the
//! count that it has applied and catches up before it runs guest code or touches guest memory. A slot that is further
//! behind than the ring is long drops all its mappings instead: they are only a cache of the page table.
//!
//! Appenders are serialised by the space's lock; catching up takes no lock. The reader copies an entry, then checks that
//! the head has not come around to it meanwhile (as a seqlock's reader does).
//!
//! Model: `loom-tests/tests/log.rs`.

use alloc::boxed::Box;
use umbel_smp::const_new;
use umbel_smp::sync::{AtomicU64, Ordering, fence, load_own, mutant, order};

/// Entries in the ring.
pub const LOG_LEN: u64 = if cfg!(loom) { 2 } else { 256 };

/// One change. Addresses are multiples of the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Translations of the range are gone or different.
    Drop { start: u64, end: u64 },
    /// The range may be accessed with `prot` at most.
    Protect { start: u64, end: u64, prot: u32 },
}

/// What catching up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum CaughtUp {
    /// Nothing new.
    Already,
    /// So many entries were applied.
    Applied(u64),
    /// Entries were overwritten: everything was dropped.
    Lost,
}

struct Entry {
    /// Start, with the kind in the low bits.
    start: AtomicU64,
    end: AtomicU64,
}

/// Low bits of `Entry::start`: 0 = drop, 8 | prot = protect.
const PROTECT: u64 = 8;
const LOW: u64 = 0xfff;

impl Entry {
    const_new! {
        fn new() -> Self {
            Entry { start: AtomicU64::new(0), end: AtomicU64::new(0) }
        }
    }

    fn store(&self, change: Change) {
        let (start, end) = match change {
            Change::Drop { start, end } => (start, end),
            Change::Protect { start, end, prot } => (start | PROTECT | u64::from(prot & 7), end),
        };
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
    }

    fn load(&self) -> Change {
        let word = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let start = word & !LOW;
        if word & PROTECT == 0 {
            Change::Drop { start, end }
        } else {
            Change::Protect { start, end, prot: (word & 7) as u32 }
        }
    }
}

/// The log of one address space.
pub struct UpdateLog {
    head: AtomicU64,
    /// [`LOG_LEN`] of them, in a block of their own: a kernel stack has no room for as much.
    entries: Box<[Entry]>,
}

impl Default for UpdateLog {
    fn default() -> Self {
        Self::new()
    }
}

impl UpdateLog {
    /// Bytes of the entries.
    pub const ENTRIES_LEN: usize = LOG_LEN as usize * size_of::<Entry>();

    /// An empty log, whose entries are allocated in the running scope of the heap.
    pub fn new() -> Self {
        UpdateLog { head: AtomicU64::new(0), entries: (0..LOG_LEN).map(|_| Entry::new()).collect() }
    }

    /// The absolute count of changes so far.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// The head's word, for the gate's last look before guest mode.
    pub fn head_word(&self) -> &AtomicU64 {
        &self.head
    }

    /// Appends a change. The caller holds the space's lock, and shoots down before the old pages are reused.
    pub fn append(&self, change: Change) {
        let count = load_own(&self.head);
        // A reader that sees any of the new words must see that the head came around: pairs with the fence in `read`.
        if !mutant("log-append-unfenced") {
            fence(Ordering::Release);
        }
        self.entries[(count % LOG_LEN) as usize].store(change);
        self.head.store(count + 1, order("log-head-relaxed", Ordering::Release));
    }

    /// Reads entry `count`, or nothing if it was, or is being, overwritten.
    fn read(&self, count: u64) -> Option<Change> {
        let change = self.entries[(count % LOG_LEN) as usize].load();
        if !mutant("log-read-unfenced") {
            fence(Ordering::Acquire);
        }
        let head = self.head.load(Ordering::Relaxed);
        (head - count < LOG_LEN || mutant("log-wrap-unnoticed")).then_some(change)
    }

    /// Brings a slot that has applied `applied` up to date: `apply` each change in order, or `drop_all` if some are lost.
    /// Changes appended meanwhile may or may not be included; `applied` says.
    pub fn catch_up(&self, applied: &mut u64, mut apply: impl FnMut(Change), drop_all: impl FnOnce()) -> CaughtUp {
        let head = self.head();
        let behind = head.wrapping_sub(*applied);
        if behind == 0 {
            return CaughtUp::Already;
        }
        if behind < LOG_LEN {
            while let Some(change) = self.read(*applied) {
                apply(change);
                *applied += 1;
                if *applied == head {
                    return CaughtUp::Applied(behind);
                }
            }
        }
        *applied = self.head();
        drop_all();
        CaughtUp::Lost
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn page(n: u64) -> Change {
        Change::Drop { start: n << 12, end: (n + 1) << 12 }
    }

    #[test]
    fn changes_come_back_in_order_and_once() {
        let log = UpdateLog::new();
        let mut applied = 0;
        let mut seen = Vec::new();
        for n in 0..3 * LOG_LEN {
            log.append(page(n));
            if n % 7 == 0 {
                let got = log.catch_up(&mut applied, |c| seen.push(c), || panic!("lost"));
                assert!(matches!(got, CaughtUp::Applied(_)));
            }
        }
        let _ = log.catch_up(&mut applied, |c| seen.push(c), || panic!("lost"));
        assert_eq!(seen, (0..3 * LOG_LEN).map(page).collect::<Vec<_>>());
        assert_eq!(log.catch_up(&mut applied, |_| panic!("again"), || panic!("lost")), CaughtUp::Already);
    }

    #[test]
    fn a_slot_too_far_behind_drops_everything() {
        let log = UpdateLog::new();
        for n in 0..=LOG_LEN {
            log.append(page(n));
        }
        let mut applied = 0;
        let mut dropped = false;
        assert_eq!(log.catch_up(&mut applied, |_| panic!("applied"), || dropped = true), CaughtUp::Lost);
        assert!(dropped);
        assert_eq!(applied, log.head());
    }

    #[test]
    fn protection_survives_the_packing() {
        let log = UpdateLog::new();
        let change = Change::Protect { start: 0x7000, end: 0x9000, prot: 5 };
        log.append(change);
        let mut seen = Vec::new();
        let _ = log.catch_up(&mut 0, |c| seen.push(c), || panic!("lost"));
        assert_eq!(seen, [change]);
    }
}
