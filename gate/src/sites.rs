//! Counting the system calls that trap, to find the sites that are worth a patch.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Sites counted at a time; a new one takes the place of what was in its cell.
const CELLS: usize = 16;
/// Calls after which a site is hot: a patch costs about this many traps.
const HOT: u64 = 24;
/// The trap that made a site worth looking at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HotSite {
    /// The thread's first at this site, as far as is known, with this return address.
    First(u64),
    /// One of many.
    Hot(u64),
}

/// Low bits of a cell: the count. The rest is the return address.
const COUNT_BITS: u32 = 16;
/// Above all addresses.
const FIRST: u64 = 1 << 63;

/// The trapping call sites of one thread. Touched by that thread only.
pub(crate) struct CallSites {
    cells: [AtomicU64; CELLS],
    /// The site that just became hot, or trapped first, with [`FIRST`] then; 0 if none.
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
        match count {
            HOT => self.hot.store(back, Relaxed),
            1 => self.hot.store(back | FIRST, Relaxed),
            _ => {}
        }
        if count < 1 << (COUNT_BITS - 1) {
            cell.store(new, Relaxed);
        }
    }

    pub(crate) fn take_hot(&self) -> Option<HotSite> {
        let hot = self.hot.load(Relaxed);
        if hot == 0 {
            return None;
        }
        self.hot.store(0, Relaxed);
        Some(if hot & FIRST != 0 { HotSite::First(hot & !FIRST) } else { HotSite::Hot(hot) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_becomes_hot_once() {
        let sites = CallSites::new();
        let mut fired = Vec::new();
        for _ in 0..100_000 {
            sites.count(0x7f00_1234_5678);
            fired.extend(sites.take_hot());
        }
        assert_eq!(fired, [HotSite::First(0x7f00_1234_5678), HotSite::Hot(0x7f00_1234_5678)]);
    }

    #[test]
    fn sites_that_push_each_other_out_stay_cold() {
        let sites = CallSites::new();
        for _ in 0..1000 {
            sites.count(0x1000);
            sites.count(0x1000 + (1 << 20));
        }
        assert!(!matches!(sites.take_hot(), Some(HotSite::Hot(_))));
    }
}
