//! Areas of an address space, and the set of them.
//!
//! Pure data: no locks, no host calls. Invariant of [`VmaSet`]: areas are page-aligned, not empty, do not overlap, and
//! neighbours that can be one area are one.

use super::commit;
use super::gaps::Gaps;
use super::object::Mappable;
use super::table::Pte;
use super::userfault::Watch;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::ops::Range;
use umbel_mm::PAGE;

bitflags! {
    /// What a guest may do with an area. Bits as `PROT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Prot: u32 {
        const READ = 1;
        const WRITE = 2;
        const EXEC = 4;
    }
}

bitflags! {
    /// Properties of an area.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct VmaFlags: u32 {
        /// Writes go to the object, not to a copy.
        const SHARED = 1;
        /// Grows downwards on a fault below it.
        const GROWSDOWN = 2;
        /// Pages stay present (mlock).
        const LOCKED = 4;
        /// Not in a fork's child.
        const DONTFORK = 8;
        /// Empty in a fork's child.
        const WIPEONFORK = 16;
        /// The object may be written through a shared mapping: mprotect may allow it.
        const MAYWRITE = 32;
        /// Not in core dumps.
        const DONTDUMP = 64;
        /// The heap of brk(2).
        const HEAP = 128;
        /// The first thread's stack.
        const STACK = 256;
        /// Never executed: a file on a mount that forbids it.
        const NOEXEC = 512;
        /// Pages are locked when they come (`MLOCK_ONFAULT`).
        const ONFAULT = 1 << 10;
        /// Advice of madvise(2), kept to be shown.
        const SEQUENTIAL = 1 << 11;
        const RANDOM = 1 << 12;
        const MERGEABLE = 1 << 13;
        const HUGEPAGE = 1 << 14;
        const NOHUGEPAGE = 1 << 15;
        /// Not counted as committed memory (`MAP_NORESERVE`).
        const NORESERVE = 1 << 16;
        /// Never changed again (mseal(2)).
        const SEALED = 1 << 17;
        /// Every access is refused (`MADV_GUARD_INSTALL`).
        const GUARD = 1 << 18;
        /// Every access is answered by SIGBUS (`UFFDIO_POISON`).
        const POISON = 1 << 19;
        /// What belongs to pages, and moves with them.
        /// Nobody reaches it from outside; its pages stay (memfd_secret(2)).
        const SECRET = 1 << 20;
        /// `clear_refs` was told to look for writes since the area was made: pages that come now have not been written.
        const CLEARED = 1 << 21;
        const MARKS = Self::GUARD.bits() | Self::POISON.bits();
        /// See [`super::policy`].
        const POLICY = 0x3f << 24;
    }
}

/// The open file behind an area, for /proc and for keeping it open.
pub trait MappedFile: Send + Sync {
    /// Its path as the guest sees it.
    fn path(&self) -> Vec<u8>;
    /// Device and inode number.
    fn identity(&self) -> (u64, u64);
    /// Itself, for who knows its kind.
    fn as_any(&self) -> &dyn core::any::Any;
    /// It goes with the last area that shows it.
    fn is_leaving(&self) -> bool {
        false
    }
}

/// Where an area's pages come from.
#[derive(Clone)]
pub enum Backing {
    /// Zeroes at first.
    Anonymous,
    /// An object's pages.
    File {
        /// The object.
        object: Arc<dyn Mappable>,
        /// Byte offset in it of the area's start; a multiple of the page size.
        offset: u64,
        /// The open file, if it came from one.
        file: Option<Arc<dyn MappedFile>>,
    },
}

impl core::fmt::Debug for Backing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Backing::Anonymous => f.write_str("Anonymous"),
            Backing::File { offset, .. } => write!(f, "File({offset:#x})"),
        }
    }
}

/// Free gap kept below a stack that grows (source: mmap(2), `MAP_GROWSDOWN`).
pub const STACK_GUARD: u64 = 256 * PAGE;

/// Address of an object, as its identity; of the one that it stands for, if it does.
pub fn object_id(object: &Arc<dyn Mappable>) -> *const () {
    Arc::as_ptr(object.stands_for().unwrap_or(object)).cast()
}

impl Backing {
    /// As it is for an area that begins `bytes` later.
    fn advanced(&self, bytes: u64) -> Backing {
        match self {
            Backing::Anonymous => Backing::Anonymous,
            Backing::File { object, offset, file } => {
                Backing::File { object: object.clone(), offset: offset + bytes, file: file.clone() }
            }
        }
    }

    /// Whether `next` goes on where an area of `len` bytes of this ends.
    fn continues(&self, len: u64, next: &Backing) -> bool {
        match (self, next) {
            (Backing::Anonymous, Backing::Anonymous) => true,
            (Backing::File { object: a, offset: at, .. }, Backing::File { object: b, offset: then, .. }) => {
                object_id(a) == object_id(b) && at + len == *then
            }
            _ => false,
        }
    }
}

/// One area: `start..end` with the same properties.
#[derive(Clone, Debug)]
pub struct Vma {
    pub start: u64,
    pub end: u64,
    pub prot: Prot,
    pub flags: VmaFlags,
    pub backing: Backing,
    /// Who is asked about faults (userfaultfd(2)).
    pub watch: Option<Watch>,
}

impl Vma {
    /// An area that nobody watches.
    pub fn new(range: Range<u64>, prot: Prot, flags: VmaFlags, backing: Backing) -> Vma {
        Vma { start: range.start, end: range.end, prot, flags, backing, watch: None }
    }

    /// Whether nothing of it may be mapped ahead of an access.
    pub fn is_closed(&self) -> bool {
        self.prot.is_empty() || self.flags.intersects(VmaFlags::MARKS)
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it holds no address; never so inside a set.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Where it begins for others: an area that grows down keeps a gap below it.
    pub fn guarded_start(&self) -> u64 {
        let gap = if self.flags.contains(VmaFlags::GROWSDOWN) { STACK_GUARD } else { 0 };
        self.start.saturating_sub(gap)
    }

    /// Whether the first write of pages that come is noted: they come one by one.
    pub fn notes_first_writes(&self) -> bool {
        self.flags.contains(VmaFlags::CLEARED) || self.is_protected()
    }

    /// Whether writes of pages that are not there yet are watched.
    pub fn is_protected(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.protected)
    }

    /// Whether writes of pages that come are watched; of areas that somebody watches.
    pub fn set_protected(&mut self, protected: bool) {
        if let Some(watch) = &mut self.watch {
            watch.protected = protected;
        }
    }

    /// The entry of a page that comes, for a write or not.
    pub fn fresh(&self, mut pte: Pte, write: bool) -> Pte {
        if self.flags.contains(VmaFlags::CLEARED) && !write {
            pte = pte.clean();
        }
        match &self.watch {
            Some(watch) if watch.protected && !(write && watch.is_async()) => pte.watched(),
            _ => pte,
        }
    }

    /// Page numbers.
    pub fn pages(&self) -> Range<u64> {
        self.start / PAGE..self.end / PAGE
    }

    /// Bytes that count as committed memory: of private areas that may be written.
    pub fn committed(&self) -> u64 {
        let counts = self.prot.contains(Prot::WRITE) && !self.flags.intersects(VmaFlags::SHARED | VmaFlags::NORESERVE);
        if counts { self.len() } else { 0 }
    }

    /// Whether writes stay in this space.
    pub fn is_private(&self) -> bool {
        !self.flags.contains(VmaFlags::SHARED)
    }

    /// Page of the object at page `vpn`, with the object.
    pub fn object_page(&self, vpn: u64) -> Option<(&Arc<dyn Mappable>, u64)> {
        match &self.backing {
            Backing::Anonymous => None,
            Backing::File { object, offset, .. } => Some((object, offset / PAGE + (vpn - self.start / PAGE))),
        }
    }

    /// The part within `range`; the caller knows that there is one.
    fn clipped(&self, range: &Range<u64>) -> Vma {
        let start = self.start.max(range.start);
        Vma { start, end: self.end.min(range.end), backing: self.backing.advanced(start - self.start), ..self.clone() }
    }

    fn joins(&self, next: &Vma) -> bool {
        // The stack's guard gap depends on where it begins: it never joins.
        self.end == next.start
            && self.prot == next.prot
            && self.flags == next.flags
            && self.watch == next.watch
            && !self.flags.contains(VmaFlags::GROWSDOWN)
            && self.backing.continues(self.len(), &next.backing)
    }
}

/// All areas of a space, by start.
#[derive(Debug, Default)]
pub struct VmaSet {
    areas: BTreeMap<u64, Vma>,
    gaps: Gaps,
    /// Bytes in all areas.
    bytes: u64,
    /// Most that `bytes` was.
    peak: u64,
    /// Bytes that count as committed; told to [`commit`].
    committed: u64,
}

impl Drop for VmaSet {
    fn drop(&mut self) {
        commit::sub(self.committed);
    }
}

impl VmaSet {
    /// The area that holds `addr`.
    pub fn find(&self, addr: u64) -> Option<&Vma> {
        let (_, vma) = self.areas.range(..=addr).next_back()?;
        (addr < vma.end).then_some(vma)
    }

    /// The area that holds `addr` with those behind it that are one with it but for [`VmaFlags::MARKS`], without these.
    pub fn find_whole(&self, addr: u64) -> Option<Vma> {
        let unmarked = |vma: &Vma| Vma { flags: vma.flags.difference(VmaFlags::MARKS), ..vma.clone() };
        let mut whole = unmarked(self.find(addr)?);
        while let Some(next) = self.areas.get(&whole.end).map(unmarked).filter(|next| whole.joins(next)) {
            whole.end = next.end;
        }
        Some(whole)
    }

    /// The first area that ends above `addr`.
    pub fn find_from(&self, addr: u64) -> Option<&Vma> {
        self.find(addr).or_else(|| self.areas.range(addr..).next().map(|(_, vma)| vma))
    }

    /// The last area that begins below `addr`.
    pub fn find_below(&self, addr: u64) -> Option<&Vma> {
        self.areas.range(..addr).next_back().map(|(_, vma)| vma)
    }

    /// Areas, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.areas.values()
    }

    /// Number of areas.
    pub fn count(&self) -> usize {
        self.areas.len()
    }

    /// Bytes in all areas.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that count as committed memory.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    fn commit(&mut self, more: u64) {
        self.committed += more;
        commit::add(more);
    }

    fn uncommit(&mut self, less: u64) {
        self.committed -= less;
        commit::sub(less);
    }

    /// Most bytes that were in all areas at once.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// The parts of areas within `range`, by address.
    pub fn within(&self, range: &Range<u64>) -> impl Iterator<Item = Vma> {
        let first = self.find(range.start).filter(|_| !range.is_empty()).map_or(range.start, |vma| vma.start);
        let (range, clip) = (first.min(range.end)..range.end, range.clone());
        self.areas.range(range).map(move |(_, vma)| vma.clipped(&clip))
    }

    /// The first of them. Who goes on from its end needs no list, of which there may be many.
    pub fn first_within(&self, range: &Range<u64>) -> Option<Vma> {
        self.within(range).next()
    }

    /// Whether every address of `range` is in an area.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        let mut at = range.start;
        for vma in self.within(range) {
            if vma.start != at {
                return false;
            }
            at = vma.end;
        }
        at >= range.end
    }

    /// Takes the parts of areas within `range` out and returns them.
    pub fn remove(&mut self, range: &Range<u64>) -> Vec<Vma> {
        let removed: Vec<Vma> = self.within(range).collect();
        for part in &removed {
            self.take(part);
        }
        removed
    }

    /// Takes a part of an area out.
    fn take(&mut self, part: &Vma) {
        // The area that the part is of still begins at or before it.
        let Some(start) = self.find(part.start).map(|vma| vma.start) else { return };
        let Some(whole) = self.areas.remove(&start) else { return };
        self.bytes -= part.len();
        self.uncommit(part.committed());
        if whole.start < part.start {
            let left = whole.clipped(&(whole.start..part.start));
            self.areas.insert(left.start, left);
        }
        if part.end < whole.end {
            let right = whole.clipped(&(part.end..whole.end));
            self.areas.insert(right.start, right);
        }
        self.gaps.freed(self.guard_from(part.end));
    }

    /// Adds an area where there is none, joined with its neighbours if they fit.
    pub fn insert(&mut self, mut vma: Vma) {
        if vma.is_empty() {
            return;
        }
        self.bytes += vma.len();
        self.commit(vma.committed());
        self.peak = self.peak.max(self.bytes);
        if let Some(left) = self.find_below(vma.start)
            && left.joins(&vma)
        {
            let left = left.clone();
            self.areas.remove(&left.start);
            vma = Vma { end: vma.end, ..left };
        }
        if let Some(right) = self.areas.get(&vma.end)
            && vma.joins(right)
        {
            let end = right.end;
            self.areas.remove(&vma.end);
            vma.end = end;
        }
        self.areas.insert(vma.start, vma);
    }

    /// Changes the parts of areas within `range`, splitting and joining.
    pub fn update(&mut self, range: &Range<u64>, mut change: impl FnMut(&mut Vma)) {
        let (mut at, gaps, mut guards) = (range.start, self.gaps, false);
        // One by one: this cannot fail for want of memory.
        while let Some(mut part) = self.first_within(&(at..range.end)) {
            at = part.end;
            guards |= part.flags.contains(VmaFlags::GROWSDOWN);
            self.take(&part);
            change(&mut part);
            self.insert(part);
        }
        // What was taken is there again, but for a guard below it.
        if !guards {
            self.gaps = gaps;
        }
    }

    /// Moves the start of the area at `start` down to `to`; the addresses between are free.
    pub fn grow_down(&mut self, start: u64, to: u64) {
        if let Some(mut vma) = self.areas.remove(&start) {
            let before = vma.committed();
            self.bytes += start - to;
            self.peak = self.peak.max(self.bytes);
            vma.start = to;
            self.commit(vma.committed() - before);
            self.areas.insert(to, vma);
        }
    }

    /// Where the guard below the first area at or above `addr` begins.
    pub fn guard_from(&self, addr: u64) -> u64 {
        self.areas.range(addr..).next().map_or(u64::MAX, |(_, vma)| vma.guarded_start())
    }

    /// The highest free gap of `len` bytes within `bounds`.
    pub fn gap_below(&mut self, bounds: &Range<u64>, len: u64) -> Option<u64> {
        let from = self.gaps.start(bounds.end, len);
        // Guards of areas above may reach farther down.
        let above = self.areas.range(from..from + STACK_GUARD);
        let mut top = above.fold(from, |top, (_, vma)| top.min(vma.guarded_start()));
        for (_, vma) in self.areas.range(..from).rev() {
            if vma.end <= top && top - vma.end >= len {
                break;
            }
            top = top.min(vma.guarded_start());
            if top < bounds.start + len {
                break;
            }
        }
        self.gaps.note(bounds.end, len, top);
        let start = top.checked_sub(len)?;
        (start >= bounds.start).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap as Model;

    fn anon(start: u64, end: u64, prot: Prot) -> Vma {
        Vma::new(start * PAGE..end * PAGE, prot, VmaFlags::empty(), Backing::Anonymous)
    }

    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn check(set: &VmaSet, model: &Model<u64, Prot>) {
        let mut seen = Model::new();
        let mut last: Option<&Vma> = None;
        for vma in set.iter() {
            assert!(vma.start < vma.end);
            if let Some(last) = last {
                assert!(last.end <= vma.start, "overlap");
                assert!(!last.joins(vma), "neighbours that should be one");
            }
            for page in vma.pages() {
                seen.insert(page, vma.prot);
            }
            last = Some(vma);
        }
        assert_eq!(&seen, model);
        assert_eq!(set.bytes(), model.len() as u64 * PAGE);
    }

    #[test]
    fn random_changes_agree_with_a_page_by_page_model() {
        let mut set = VmaSet::default();
        let mut model = Model::new();
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..5000 {
            let start = next(&mut seed) % 60;
            let end = start + 1 + next(&mut seed) % 12;
            let range = start * PAGE..end * PAGE;
            let prot = Prot::from_bits_truncate((next(&mut seed) % 8) as u32);
            match next(&mut seed) % 3 {
                0 => {
                    set.remove(&range);
                    set.insert(anon(start, end, prot));
                    model.extend((start..end).map(|page| (page, prot)));
                }
                1 => {
                    set.remove(&range);
                    model.retain(|page, _| !(start..end).contains(page));
                }
                _ => {
                    set.update(&range, |vma| vma.prot = prot);
                    model.range_mut(start..end).for_each(|(_, old)| *old = prot);
                }
            }
            check(&set, &model);
            assert_eq!(set.covers(&range), (start..end).all(|page| model.contains_key(&page)));
        }
    }

    #[test]
    fn nothing_is_within_an_empty_range() {
        let mut set = VmaSet::default();
        set.insert(anon(10, 20, Prot::READ));
        for page in [9, 10, 15, 20] {
            assert!(set.first_within(&(page * PAGE..page * PAGE)).is_none());
        }
        assert!(set.first_within(&(19 * PAGE..25 * PAGE)).is_some_and(|vma| vma.len() == PAGE));
    }

    #[test]
    fn a_gap_is_free_and_the_highest() {
        let mut set = VmaSet::default();
        set.insert(anon(10, 20, Prot::READ));
        set.insert(anon(24, 30, Prot::READ));
        let bounds = PAGE..40 * PAGE;
        assert_eq!(set.gap_below(&bounds, 10 * PAGE), Some(30 * PAGE));
        assert_eq!(set.gap_below(&bounds, 11 * PAGE), None);
        assert_eq!(set.gap_below(&(PAGE..30 * PAGE), 4 * PAGE), Some(20 * PAGE));
        assert_eq!(set.gap_below(&(PAGE..28 * PAGE), 4 * PAGE), Some(20 * PAGE));
        assert_eq!(set.gap_below(&(PAGE..28 * PAGE), 9 * PAGE), Some(PAGE));
        assert_eq!(set.gap_below(&(PAGE..28 * PAGE), 10 * PAGE), None);
    }
}
