//! Where the search for a free range begins. A program may have tens of thousands of areas: whoever looked at all of them for each
//! mmap(2) would take time that grows with the square of their number.

/// Lengths about which something is known at a time.
const LENGTHS: usize = 4;

/// What is known of the free ranges between areas, for a few lengths that were looked for.
///
/// Invariant: an area (or its guard) begins at [`Known::from`], or it is `end`; and between there and `end` no range of `len` bytes is
/// free. Areas that come keep that true; of what goes [`Gaps::freed`] must be told. Who begins at `from` still looks whether guards of
/// areas above reach farther down.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gaps {
    /// Where the searches began that found this out.
    end: u64,
    known: [Known; LENGTHS],
    /// Whose turn it is to be forgotten.
    oldest: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// 0 = nothing is known.
    len: u64,
    from: u64,
}

impl Gaps {
    /// Where a search downwards from `end` for `len` bytes may begin.
    pub fn start(&self, end: u64, len: u64) -> u64 {
        if end > self.end {
            return end;
        }
        let useful = self.known.iter().filter(|known| known.len != 0 && known.len <= len);
        useful.fold(end, |start, known| start.min(known.from))
    }

    /// A search downwards from `end` has found that `len` bytes are free nowhere from `from` on.
    pub fn note(&mut self, end: u64, len: u64, from: u64) {
        if end > self.end {
            *self = Gaps { end, ..Gaps::default() };
        }
        if end < self.end {
            return;
        }
        let same = self.known.iter().position(|known| known.len == len);
        let index = same.unwrap_or_else(|| {
            self.oldest = (self.oldest + 1) % LENGTHS;
            self.oldest
        });
        if let Some(known) = self.known.get_mut(index) {
            *known = Known { len, from };
        }
    }

    /// A free range that ends at `end` became larger, or is new.
    pub fn freed(&mut self, end: u64) {
        for known in &mut self.known {
            known.from = known.from.max(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vma::{Backing, Prot, Vma, VmaFlags, VmaSet};
    use core::ops::Range;
    use umbel_mm::PAGE;

    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// The highest free gap, page by page.
    fn highest(set: &VmaSet, bounds: &Range<u64>, len: u64) -> Option<u64> {
        let taken = |page: &u64| {
            let at = page * PAGE;
            set.iter().any(|vma| at < vma.end && at >= vma.guarded_start())
        };
        let starts = bounds.start / PAGE..(bounds.end - len + PAGE) / PAGE;
        starts
            .rev()
            .map(|page| page * PAGE)
            .find(|start| !(start / PAGE..(start + len) / PAGE).any(|page| taken(&page)))
    }

    #[test]
    fn what_is_known_leads_to_the_gap_that_a_search_finds() {
        const PAGES: u64 = 1024;
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..20 {
            let mut set = VmaSet::default();
            let top = (PAGES - 100) * PAGE;
            for _ in 0..300 {
                let len = [1, 1, 1, 2, 3, 7, 20][next(&mut state) as usize % 7] * PAGE;
                let at = (1 + next(&mut state) % (PAGES - 60)) * PAGE;
                let flags = if next(&mut state).is_multiple_of(16) { VmaFlags::GROWSDOWN } else { VmaFlags::empty() };
                match next(&mut state) % 8 {
                    0..4 => {
                        // The usual search, one that ends lower, one that ends higher.
                        let end = [top, top, top, top / 2, PAGES * PAGE][next(&mut state) as usize % 5];
                        let bounds = PAGE..end;
                        let wanted = highest(&set, &bounds, len);
                        assert_eq!(set.gap_below(&bounds, len), wanted, "{len} below {end}: {set:?}");
                        if let Some(start) = wanted.filter(|_| !next(&mut state).is_multiple_of(4)) {
                            let prot = if next(&mut state).is_multiple_of(2) { Prot::READ } else { Prot::WRITE };
                            set.insert(Vma::new(start..start + len, prot, flags, Backing::Anonymous));
                        }
                    }
                    4 | 5 => drop(set.remove(&(at..at + len))),
                    6 => set.update(&(at..at + len), |vma| vma.prot = Prot::READ),
                    _ => set.update(&(at..at + len), |vma| vma.flags = flags),
                }
            }
        }
    }

    /// Each search looks at a few areas, however many there are.
    #[test]
    fn many_areas_are_mapped_in_little_time() {
        let mut set = VmaSet::default();
        let bounds = PAGE..1 << 40;
        let begin = std::time::Instant::now();
        for i in 0..100_000_u64 {
            let (len, prot) = ([1, 2, 5][i as usize % 3] * PAGE, if i % 2 == 0 { Prot::READ } else { Prot::WRITE });
            let start = set.gap_below(&bounds, len).unwrap();
            set.insert(Vma::new(start..start + len, prot, VmaFlags::empty(), Backing::Anonymous));
        }
        assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    }
}
