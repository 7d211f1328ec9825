//! The page table of a space: the truth of which pages are in RAM. What slots have mapped is a cache of it.
//!
//! Pure data. An entry owns one reference on its frame; whoever takes an entry out owns that reference. Host pages have
//! no entry: an absent entry of an area whose object is a host file stands for the host's page. An entry says which slots may
//! have the page mapped ([`Holders`]): whoever maps it claims it first.

use super::vma::Prot;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use umbel_mm::holders::Holders;
use umbel_mm::{Pfn, heap};

const CHUNK: u64 = 64;
const NO_RUN: u8 = u8::MAX;

/// One entry: nothing, or a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pte(u64);

impl Pte {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const SHARED: u64 = 4;
    const AHEAD: u64 = 8;
    const OLD: u64 = 16;
    const OBJECT: u64 = 32;
    const WATCHED: u64 = 64;
    const CLEAN: u64 = 128;
    /// Those whose next write is noted.
    const NOTED: u64 = Self::WATCHED | Self::CLEAN;
    /// Where [`Holders`] are, above the frame's number.
    const HOLDERS: u32 = 48;

    /// No page.
    pub const NONE: Pte = Pte(0);

    /// A frame that only this entry refers to, or did: writable unless a fork shared it.
    pub fn private(pfn: Pfn, write: bool) -> Pte {
        Pte((u64::from(pfn.0) << 12) | Self::PRESENT | if write { Self::WRITE } else { 0 })
    }

    /// A frame of an object that is mapped shared: never copied.
    pub fn shared(pfn: Pfn) -> Pte {
        Pte((u64::from(pfn.0) << 12) | Self::PRESENT | Self::WRITE | Self::SHARED)
    }

    /// A frame of an object that is mapped private: copied before the first write.
    pub fn of_object(pfn: Pfn) -> Pte {
        Pte(Self::private(pfn, false).0 | Self::OBJECT)
    }

    /// Whether there is a frame.
    pub fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether it may be mapped writable.
    pub fn is_writable(self) -> bool {
        self.0 & (Self::WRITE | Self::NOTED) == Self::WRITE
    }

    /// The same as far as copying on write goes: whether the frame is this entry's, though writes may be watched.
    pub fn may_be_written(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// Whether somebody is asked before the next write (`UFFDIO_WRITEPROTECT`).
    pub fn is_watched(self) -> bool {
        self.0 & Self::WATCHED != 0
    }

    /// Whether nobody has written to it since `clear_refs` was told to look for writes.
    pub fn is_clean(self) -> bool {
        self.0 & Self::CLEAN != 0
    }

    /// Whether the next write must be seen, whoever wants to know of it.
    pub fn is_noted(self) -> bool {
        self.0 & Self::NOTED != 0
    }

    /// Whether the frame belongs to an object mapped shared.
    pub fn is_shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }

    /// Whether the frame belongs to an object mapped private.
    pub fn is_object(self) -> bool {
        self.0 & Self::OBJECT != 0
    }

    /// Whether it was made along with another page and nobody is known to have touched it.
    pub fn is_ahead(self) -> bool {
        self.0 & Self::AHEAD != 0
    }

    /// Whether nobody is known to have touched it since `clear_refs`.
    pub fn is_old(self) -> bool {
        self.0 & Self::OLD != 0
    }

    /// The frame. Meaningless unless present.
    pub fn pfn(self) -> Pfn {
        Pfn((self.0 >> 12) as u32)
    }

    /// Which slots may have it mapped.
    pub fn holders(self) -> Holders {
        Holders::from_bits((self.0 >> Self::HOLDERS) as u16)
    }

    /// The same, which `slot` is about to map.
    #[must_use]
    fn claimed(self, slot: usize) -> Pte {
        Pte(self.unclaimed().0 | u64::from(self.holders().claim(slot).bits()) << Self::HOLDERS)
    }

    /// The same where no slot has it.
    #[must_use]
    fn unclaimed(self) -> Pte {
        Pte(self.0 & !(u64::from(u16::MAX) << Self::HOLDERS))
    }

    /// The same for another place or space, where no slot has it and nobody watches.
    #[must_use]
    pub fn elsewhere(self) -> Pte {
        self.unclaimed().unwatched()
    }

    /// The same, with somebody to ask before the next write.
    #[must_use]
    pub fn watched(self) -> Pte {
        Pte(self.0 | Self::WATCHED)
    }

    /// The same, with nobody to ask.
    #[must_use]
    pub fn unwatched(self) -> Pte {
        Pte(self.0 & !Self::WATCHED)
    }

    /// The same, not written from now on.
    #[must_use]
    pub fn clean(self) -> Pte {
        Pte(self.0 | Self::CLEAN)
    }

    /// The same, written.
    #[must_use]
    pub fn dirty(self) -> Pte {
        Pte(self.0 & !Self::CLEAN)
    }

    /// What of an area's protection the page has: no writing while it must be copied first.
    pub fn allows(self, prot: Prot) -> Prot {
        if self.is_writable() { prot } else { prot.difference(Prot::WRITE) }
    }

    /// The same, copied before the next write.
    #[must_use]
    pub fn read_only(self) -> Pte {
        Pte(self.0 & !Self::WRITE)
    }

    /// The same, writable; its frame is nobody else's.
    #[must_use]
    pub fn writable(self) -> Pte {
        Pte((self.0 | Self::WRITE) & !Self::OBJECT)
    }

    /// The same, made along with another.
    #[must_use]
    pub fn ahead(self) -> Pte {
        Pte(self.0 | Self::AHEAD)
    }

    /// The same, not touched from now on.
    #[must_use]
    pub fn old(self) -> Pte {
        Pte(self.0 | Self::OLD)
    }

    /// The same, touched.
    #[must_use]
    pub fn touched(self) -> Pte {
        Pte(self.0 & !(Self::AHEAD | Self::OLD))
    }
}

#[derive(Clone, Debug)]
struct Chunk {
    entries: [Pte; CHUNK as usize],
    present: u32,
    /// The last page of the run that a fault allocated last and that ends here, [`NO_RUN`] = none; and the run's size as a
    /// power of two.
    run: (u8, u8),
    /// The next one that was taken out with it.
    next: Option<Box<Chunk>>,
}

impl Chunk {
    const EMPTY: Chunk = Chunk { entries: [Pte::NONE; CHUNK as usize], present: 0, run: (NO_RUN, 0), next: None };
}

/// The chunks of a range of pages, by number.
fn chunks(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / CHUNK..range.end.div_ceil(CHUNK) }
}

/// The entries by page number.
#[derive(Debug, Default)]
pub struct PageTable {
    chunks: BTreeMap<u64, Box<Chunk>>,
    present: u64,
    /// Most that `present` was.
    peak: u64,
}

impl PageTable {
    /// Bytes that a copy takes at most.
    pub fn weight(&self) -> u64 {
        self.chunks.len() as u64 * (size_of::<Chunk>() as u64 * 2)
    }

    /// Entries present.
    pub fn present(&self) -> u64 {
        self.present
    }

    /// Most entries that were present at once.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// Begins anew with what is there.
    pub fn reset_peak(&mut self) {
        self.peak = self.present;
    }

    /// `slot` is about to map present pages of a range.
    pub fn claim(&mut self, range: Range<u64>, slot: usize) {
        self.update(range, |_, pte| *pte = pte.claimed(slot));
    }

    /// Whether no slot but `slot` may have present pages of a range mapped.
    pub fn held_only_by(&self, range: Range<u64>, slot: usize) -> bool {
        self.iter(range).all(|(_, pte)| pte.holders().only(slot))
    }

    /// Size in pages of the run that a fault allocated last up to `vpn`, if that is known.
    pub fn run_before(&self, vpn: u64) -> Option<u64> {
        let last = vpn.checked_sub(1)?;
        let (page, size) = self.chunks.get(&(last / CHUNK))?.run;
        (u64::from(page) == last % CHUNK).then_some(1 << size)
    }

    /// A fault allocated pages up to `end`; for the next one they were a run of `size`.
    pub fn note_run(&mut self, end: u64, size: u64) {
        let last = end.saturating_sub(1);
        if let Some(chunk) = self.chunks.get_mut(&(last / CHUNK)) {
            chunk.run = ((last % CHUNK) as u8, size.max(1).ilog2() as u8);
        }
    }

    /// Bytes that it takes itself.
    pub fn bytes(&self) -> u64 {
        (self.chunks.len() * size_of::<Chunk>()) as u64
    }

    /// The entry of page `vpn`.
    pub fn get(&self, vpn: u64) -> Pte {
        self.chunks.get(&(vpn / CHUNK)).map_or(Pte::NONE, |chunk| chunk.entries[(vpn % CHUNK) as usize])
    }

    /// Replaces an entry; the old one.
    pub fn set(&mut self, vpn: u64, pte: Pte) -> Pte {
        if !pte.is_present() {
            return self.take(vpn);
        }
        let chunk = self.chunk(vpn / CHUNK);
        let old = core::mem::replace(&mut chunk.entries[(vpn % CHUNK) as usize], pte);
        if !old.is_present() {
            chunk.present += 1;
            self.present += 1;
            self.peak = self.peak.max(self.present);
        }
        old
    }

    /// Takes an entry out.
    pub fn take(&mut self, vpn: u64) -> Pte {
        let Some(chunk) = self.chunks.get_mut(&(vpn / CHUNK)) else {
            return Pte::NONE;
        };
        let old = core::mem::take(&mut chunk.entries[(vpn % CHUNK) as usize]);
        if old.is_present() {
            chunk.present -= 1;
            self.present -= 1;
            if chunk.present == 0 {
                self.chunks.remove(&(vpn / CHUNK));
            }
        }
        old
    }

    /// Present entries of a range, by page.
    pub fn iter(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Pte)> {
        self.chunks.range(chunks(&range)).flat_map(move |(&index, chunk)| {
            let range = range.clone();
            (index * CHUNK..).zip(chunk.entries).filter(move |(vpn, pte)| pte.is_present() && range.contains(vpn))
        })
    }

    /// Changes present entries of a range in place; they stay present.
    pub fn update(&mut self, range: Range<u64>, mut change: impl FnMut(u64, &mut Pte)) {
        for (&index, chunk) in self.chunks.range_mut(chunks(&range)) {
            for (vpn, pte) in (index * CHUNK..).zip(&mut chunk.entries) {
                if pte.is_present() && range.contains(&vpn) {
                    change(vpn, pte);
                }
            }
        }
    }

    /// Puts private writable entries for contiguous frames at absent pages.
    pub fn fill(&mut self, vpn: u64, first: Pfn, count: u32) {
        let end = vpn + u64::from(count);
        let mut at = vpn;
        while at < end {
            let chunk = self.chunk(at / CHUNK);
            let stop = end.min((at / CHUNK + 1) * CHUNK);
            for page in at..stop {
                let pfn = Pfn(first.0 + (page - vpn) as u32);
                chunk.entries[(page % CHUNK) as usize] = Pte::private(pfn, true);
            }
            chunk.present += (stop - at) as u32;
            at = stop;
        }
        self.present += u64::from(count);
        self.peak = self.peak.max(self.present);
    }

    fn chunk(&mut self, index: u64) -> &mut Chunk {
        let empty = || Box::new(Chunk::EMPTY);
        heap::cold(|| self.chunks.entry(index).or_insert_with(empty))
    }

    /// Takes all entries of a range out.
    pub fn take_range(&mut self, range: Range<u64>) -> Vec<(u64, Pte)> {
        let mut taken = Vec::new();
        let mut empty = Vec::new();
        for (&index, chunk) in self.chunks.range_mut(chunks(&range)) {
            for (vpn, pte) in (index * CHUNK..).zip(&mut chunk.entries) {
                if pte.is_present() && range.contains(&vpn) {
                    taken.push((vpn, core::mem::take(pte)));
                    chunk.present -= 1;
                }
            }
            if chunk.present == 0 {
                empty.push(index);
            }
        }
        for index in empty {
            self.chunks.remove(&index);
        }
        self.present -= taken.len() as u64;
        taken
    }

    /// Takes all entries of a range out, chunks as they are: takes no memory but for entries at its edges, since it serves whoever ends
    /// for want of memory.
    pub fn detach(&mut self, range: Range<u64>) -> Detached {
        let full = range.start.div_ceil(CHUNK)..range.end / CHUNK;
        let mut detached = Detached::default();
        if full.is_empty() {
            detached.edges = self.take_range(range);
            return detached;
        }
        detached.edges = self.take_range(range.start..full.start * CHUNK);
        detached.edges.extend(self.take_range(full.end * CHUNK..range.end));
        let mut last = &mut detached.chunks;
        while let Some((&index, _)) = self.chunks.range(full.clone()).next() {
            let Some(chunk) = self.chunks.remove(&index) else { break };
            self.present -= u64::from(chunk.present);
            last = &mut last.insert(chunk).next;
        }
        detached
    }

    /// A reader that is fast for pages near each other.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { table: self, index: u64::MAX, chunk: None }
    }

    /// The first page of `range` that is present, or its end.
    pub fn next_present(&self, range: Range<u64>) -> u64 {
        let end = range.end;
        self.iter(range).next().map_or(end, |(vpn, _)| vpn)
    }

    /// The lowest page such that none from it up to and without `vpn` is present, not below `bottom`.
    pub fn absent_down_to(&self, vpn: u64, bottom: u64) -> u64 {
        let mut at = vpn;
        while at > bottom {
            if (at.is_multiple_of(CHUNK) || at == vpn) && !self.chunks.contains_key(&((at - 1) / CHUNK)) {
                at = ((at - 1) / CHUNK * CHUNK).max(bottom);
            } else if self.get(at - 1).is_present() {
                break;
            } else {
                at -= 1;
            }
        }
        at
    }
}

/// Entries that were taken out, each with its reference.
#[derive(Debug, Default)]
pub struct Detached {
    edges: Vec<(u64, Pte)>,
    /// The first of whole chunks.
    chunks: Option<Box<Chunk>>,
}

impl Detached {
    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty() && self.chunks.is_none()
    }

    /// All entries, by page within each part.
    pub fn entries(&self) -> impl Iterator<Item = Pte> {
        let chunks = core::iter::successors(self.chunks.as_deref(), |chunk| chunk.next.as_deref());
        let entries = chunks.flat_map(|chunk| chunk.entries).filter(|pte| pte.is_present());
        self.edges.iter().map(|&(_, pte)| pte).chain(entries)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        // One after the other: they are too many for the stack.
        let mut next = self.chunks.take();
        while let Some(mut chunk) = next {
            next = chunk.next.take();
        }
    }
}

/// Reads entries, remembering where it looked last.
pub struct Cursor<'a> {
    table: &'a PageTable,
    index: u64,
    chunk: Option<&'a Chunk>,
}

impl Cursor<'_> {
    /// The entry of page `vpn`.
    pub fn get(&mut self, vpn: u64) -> Pte {
        if vpn / CHUNK != self.index {
            self.index = vpn / CHUNK;
            self.chunk = self.table.chunks.get(&self.index).map(|chunk| &**chunk);
        }
        self.chunk.map_or(Pte::NONE, |chunk| chunk.entries[(vpn % CHUNK) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap as Model;

    #[test]
    fn entries_survive_and_counts_hold() {
        let mut table = PageTable::default();
        let mut model = Model::new();
        let mut seed = 88_172_645_463_325_252u64;
        for _ in 0..20_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let vpn = seed % 500;
            let pte = Pte::private(Pfn((seed >> 32) as u32 >> 4), seed & 1024 != 0);
            if seed & 2048 != 0 {
                assert_eq!(table.set(vpn, pte), model.insert(vpn, pte).unwrap_or_default());
            } else {
                assert_eq!(table.take(vpn), model.remove(&vpn).unwrap_or_default());
            }
            assert_eq!(table.present(), model.len() as u64);
            let (low, high) = (vpn / 2, vpn);
            assert_eq!(table.next_present(low..high), model.range(low..high).next().map_or(high, |(&vpn, _)| vpn));
            let floor = (low..high).rev().take_while(|vpn| !model.contains_key(vpn)).last().unwrap_or(high);
            assert_eq!(table.absent_down_to(high, low), floor);
        }
        assert_eq!(
            table.iter(100..300).collect::<Vec<_>>(),
            model.range(100..300).map(|(&v, &p)| (v, p)).collect::<Vec<_>>()
        );
        let mut cursor = table.cursor();
        assert!((0..500).all(|vpn| cursor.get(vpn) == table.get(vpn)));
        let part = table.take_range(70..300);
        assert_eq!(part, model.range(70..300).map(|(&v, &p)| (v, p)).collect::<Vec<_>>());
        assert_eq!(table.present(), (model.len() - part.len()) as u64);
        table.fill(70, Pfn(1000), 230);
        assert_eq!(table.get(170), Pte::private(Pfn(1100), true));
        assert_eq!(table.take_range(0..500).len(), model.len() - part.len() + 230);
        assert_eq!(table.present(), 0);
        assert!(table.chunks.is_empty());
    }

    #[test]
    fn detached_entries_are_all_of_the_range_and_no_others() {
        for range in [0..500, 3..5, 60..70, 64..128, 20..450, 100..100] {
            let mut table = PageTable::default();
            table.fill(10, Pfn(1010), 400);
            let inside = range.clone().filter(|vpn| (10..410).contains(vpn)).count();
            let cut = table.detach(range.clone());
            let mut pfns: Vec<u32> = cut.entries().map(|pte| pte.pfn().0).collect();
            pfns.sort_unstable();
            assert_eq!(pfns.len(), inside);
            assert!(pfns.iter().all(|&pfn| range.contains(&(u64::from(pfn) - 1000))));
            assert_eq!(table.present(), 400 - inside as u64);
            assert_eq!(table.iter(0..500).count(), 400 - inside);
            assert_eq!(cut.is_empty(), inside == 0);
        }
    }
}
