//! Counting the system calls that trap, to find the sites that are worth a patch.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Sites counted at a time; a new one takes the place of what was in its cell.
const CELLS: usize = 16;
/// Calls after which a site is hot: a patch costs about this many traps.
const HOT: u64 = 24;
/// Low bits of a cell: the count. The rest is the return address.
const COUNT_BITS: u32 = 16;

/// The trapping call sites of one thread. Touched by that thread only.
pub(crate) struct CallSites {
    cells: [AtomicU64; CELLS],
    /// The site that just became hot, 0 if none.
    hot: AtomicU64,
}

impl CallSites {
    pub(crate) fn new() -> CallSites {
        CallSites { cells: [const { AtomicU64::new(0) }; CELLS], hot: AtomicU64::new(0) }
    }

    /// Counts a call that returns to `back`, an address below 2^48.
    pub(crate) fn count(&self, back: u64) {
        let cell = &self.cells[(back ^ back >> 6) as usize % CELLS];
        let old = cell.load(Relaxed);
        let new = if old >> COUNT_BITS != back { back << COUNT_BITS | 1 } else { old + 1 };
        let count = new & ((1 << COUNT_BITS) - 1);
        if count == HOT {
            self.hot.store(back, Relaxed);
        }
        if count < 1 << (COUNT_BITS - 1) {
            cell.store(new, Relaxed);
        }
    }

    pub(crate) fn take_hot(&self) -> Option<u64> {
        let hot = self.hot.load(Relaxed);
        if hot == 0 {
            return None;
        }
        self.hot.store(0, Relaxed);
        Some(hot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_becomes_hot_once() {
        let sites = CallSites::new();
        let mut fired = 0;
        for _ in 0..100_000 {
            sites.count(0x7f00_1234_5678);
            fired += usize::from(sites.take_hot() == Some(0x7f00_1234_5678));
        }
        assert_eq!(fired, 1);
    }

    #[test]
    fn sites_that_push_each_other_out_stay_cold() {
        let sites = CallSites::new();
        for _ in 0..1000 {
            sites.count(0x1000);
            sites.count(0x1000 + (1 << 20));
        }
        assert_eq!(sites.take_hot(), None);
    }
}
