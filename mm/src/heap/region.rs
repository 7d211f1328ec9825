//! One part of the heap: a range of KDATA behind one talc, which grows in 2 MiB steps and gives them back.
//!
//! A step is allocated on the host and collapsed into a huge page *before* it joins, so that no first touch can fail. Steps
//! are charged to the guest's RAM ([`frame::charge_kernel`]), all but the first few of the hot region and the reserve.
//! Free steps at the end leave the range; free ones inside become *holes* ([`holes`](super::holes)), which are filled again
//! before the range grows.
//!
//! Locks: `Rank::Heap`: growth, then talc.

use super::account::TAG;
use super::holes::{HOLE, Holes};
use super::magazine::{self, Magazine, Stocks};
use crate::{Errno, Result, frame, percpu};
use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::*};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;
use umbel_abi::machine::MAX_CPUS;
use umbel_abi::machine::layout::{
    COLD_BASE, COLD_LEN, CONTROL_LEN, CONTROL_OFF, HOT_BASE, HOT_MAX, HUGE, PAGE, STATICS_LEN,
};
use umbel_host::mem;
use umbel_smp::lock::{Rank, SpinLock};

pub(super) static KDATA_FD: AtomicI32 = AtomicI32::new(-1);
/// Why the host last refused a step; 0: it never did.
pub(super) static HOST_REFUSAL: AtomicI32 = AtomicI32::new(0);
/// Bytes of the hot range.
pub(super) static HOT_LEN: AtomicU64 = AtomicU64::new(32 << 20);
/// Bytes that are freed before a region looks whether it can give steps back; more each time that it could not.
const SLACK: u64 = HUGE / 2;
const SLACK_MAX: u64 = 64 << 20;
/// What no count of freed bytes is: stands where a virtual CPU is asked to trim.
const ASKED: u64 = u64::MAX;
/// Free bytes that a region keeps.
const KEPT: u64 = 2 * HUGE;

/// Which part of KDATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Always accessible to kernel code.
    Hot,
    /// Opened on demand.
    Cold,
}

/// Bytes of the hot region before the control block.
const FIRST: u64 = CONTROL_OFF - STATICS_LEN;

impl Kind {
    /// Where byte `at` of the region lies in its range.
    const fn offset(self, at: u64) -> u64 {
        match self {
            Kind::Hot if at < FIRST => STATICS_LEN + at,
            Kind::Hot => STATICS_LEN + at + CONTROL_LEN,
            Kind::Cold => at,
        }
    }

    /// The address of byte `at`.
    const fn address(self, at: u64) -> u64 {
        match self {
            Kind::Hot => HOT_BASE + self.offset(at),
            Kind::Cold => COLD_BASE + self.offset(at),
        }
    }

    /// Which byte of the region lies at `address`, or would if nothing else did before it.
    const fn position(self, address: u64) -> u64 {
        match self {
            Kind::Hot if address < HOT_BASE + CONTROL_OFF => address - HOT_BASE - STATICS_LEN,
            Kind::Hot => address - HOT_BASE - STATICS_LEN - CONTROL_LEN,
            Kind::Cold => address - COLD_BASE,
        }
    }

    /// Bytes of the range.
    pub fn range(self) -> u64 {
        match self {
            Kind::Hot => HOT_LEN.load(Relaxed) - STATICS_LEN - CONTROL_LEN,
            Kind::Cold => COLD_LEN,
        }
    }

    /// The first end of a step from byte `at` of the region on: steps end on a huge page's border, and before the control block.
    pub const fn step_end(self, at: u64) -> u64 {
        match self {
            Kind::Hot if at <= FIRST => FIRST,
            _ => at + (self.offset(at).next_multiple_of(HUGE) - self.offset(at)),
        }
    }

    /// Whether byte `at` does not follow the one before it.
    const fn breaks_at(self, at: u64) -> bool {
        matches!(self, Kind::Hot) && at == FIRST
    }

    /// Where byte `at` of the region lies in the memory file.
    const fn file_offset(self, at: u64) -> u64 {
        match self {
            Kind::Hot => self.offset(at),
            Kind::Cold => HOT_MAX + at,
        }
    }
}

/// Where a region ends, as talc wants it back.
struct End(NonNull<u8>);

// SAFETY: only an address, used under the growth lock.
unsafe impl Send for End {}

/// What growth changes. Protected by its lock.
struct Growth {
    end: Option<End>,
    holes: Holes,
}

/// A region.
pub struct Region {
    kind: Kind,
    /// Bytes of steps that are not charged to RAM: the first ones, and those taken when RAM is used up.
    base: u64,
    reserve: u64,
    growth: SpinLock<Growth>,
    talc: SpinLock<Talc<Manual, DefaultBinning>>,
    stocks: Stocks,
    /// Bytes handed out by talc (magazines' stock included).
    used: AtomicU64,
    /// Bytes of the range that joined.
    grown: AtomicU64,
    /// Of these, bytes that are not charged to RAM.
    uncharged: AtomicU64,
    /// Of these, bytes of holes.
    hollow: AtomicU64,
    /// Most that `grown` less `hollow` was.
    peak: AtomicU64,
    /// Bytes given back to talc so far, how many there were at the last look for free steps, and how many more lead to the next.
    freed: AtomicU64,
    looked: AtomicU64,
    slack: AtomicU64,
    /// `freed` in units of [`Region::TRIM`] when each virtual CPU trimmed last, or [`ASKED`].
    trimmed: [AtomicU64; MAX_CPUS],
}

impl Region {
    /// An empty region: it takes its first step at the first allocation.
    pub const fn new(kind: Kind, base: u64, reserve: u64) -> Region {
        Region {
            kind,
            base,
            reserve,
            growth: SpinLock::new(Rank::Heap, Growth { end: None, holes: Holes::new() }),
            talc: SpinLock::new(Rank::Heap, Talc::new(Manual)),
            stocks: magazine::empty_stocks(),
            used: AtomicU64::new(0),
            grown: AtomicU64::new(0),
            uncharged: AtomicU64::new(0),
            hollow: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            slack: AtomicU64::new(SLACK),
            trimmed: [const { AtomicU64::new(0) }; MAX_CPUS],
        }
    }

    /// Bytes handed out.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Bytes of the range that are backed.
    pub fn populated(&self) -> u64 {
        self.grown.load(Relaxed).saturating_sub(self.hollow.load(Relaxed))
    }

    /// Most that these were.
    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// Bytes that it may yet take without a charge.
    pub fn unclaimed(&self) -> u64 {
        (self.base + self.reserve).saturating_sub(self.uncharged.load(Relaxed)).min(self.rest())
    }

    /// Bytes of its range that are not backed.
    pub fn rest(&self) -> u64 {
        self.kind.range().saturating_sub(self.populated())
    }

    /// Whether a block of `len` bytes is free without growth.
    pub fn has(&self, len: u64) -> bool {
        let Ok(layout) = Layout::from_size_align(len as usize, 16) else { return false };
        let mut talc = self.talc.lock();
        // SAFETY: the layout is not empty; the block goes back as it came.
        unsafe { talc.allocate(layout).map(|block| talc.deallocate(block.as_ptr(), layout)) }.is_some()
    }

    /// A block, null if the region cannot grow.
    #[inline]
    pub fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = magazine::class_of(layout) else {
            return self.large(tagged(layout));
        };
        match self.with(class, Magazine::pop) {
            Some(block) => block.cast(),
            None => self.refill(class),
        }
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// It came from this region's [`Self::alloc`] with this layout.
    #[inline]
    pub unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = magazine::class_of(layout) else {
            let layout = tagged(layout);
            // SAFETY: allocated by `large` with this layout.
            unsafe { self.talc.lock().deallocate(block, layout) };
            self.account_return(cost(layout));
            return;
        };
        let count = self.with(class, |magazine| magazine.push(block.cast()));
        if count > magazine::capacity(class) {
            self.flush(class);
        }
    }

    /// Works on this virtual CPU's magazine of a class. `work` does not block.
    #[inline]
    fn with<R>(&self, class: usize, work: impl FnOnce(&mut Magazine) -> R) -> R {
        let cell = &self.stocks[percpu::cpu()].0;
        // SAFETY: this virtual CPU's own element; nothing that `work` calls comes back here.
        let stock = unsafe { &mut *cell.get() };
        work(&mut stock[class])
    }

    #[cold]
    fn refill(&self, class: usize) -> *mut u8 {
        let layout = magazine::class_layout(class);
        let first = self.large(layout);
        if first.is_null() {
            return first;
        }
        let fetch = self.with(class, |magazine| magazine.next_fetch(class));
        let mut talc = self.talc.lock();
        for _ in 1..fetch {
            // SAFETY: the layout is not empty.
            let Some(block) = (unsafe { talc.allocate(layout) }) else {
                break;
            };
            self.used.fetch_add(cost(layout), Relaxed);
            self.with(class, |magazine| magazine.push(block.as_ptr().cast()));
        }
        first
    }

    #[cold]
    fn flush(&self, class: usize) {
        let layout = magazine::class_layout(class);
        let mut talc = self.talc.lock();
        let mut bytes = 0;
        for _ in 0..magazine::capacity(class) / 2 {
            let Some(block) = self.with(class, Magazine::pop) else {
                break;
            };
            // SAFETY: allocated from talc with this layout.
            unsafe { talc.deallocate(block.cast(), layout) };
            bytes += cost(layout);
        }
        drop(talc);
        self.account_return(bytes);
    }

    /// Bytes that are freed before a virtual CPU trims again.
    const TRIM: u64 = 1 << 18;

    /// Whether there is more free than a region keeps.
    fn has_excess(&self) -> bool {
        self.populated() > self.used() + KEPT
    }

    /// Whether [`Self::trim`] may find something.
    pub fn wants_trim(&self) -> bool {
        self.has_excess() && self.trimmed[percpu::cpu()].load(Relaxed) != self.freed.load(Relaxed) / Self::TRIM
    }

    /// Asks the other virtual CPUs to trim as soon as they can.
    pub fn ask_others(&self) {
        let own = percpu::cpu();
        for (_, trimmed) in self.trimmed.iter().enumerate().filter(|(cpu, _)| *cpu != own) {
            trimmed.store(ASKED, Relaxed);
        }
    }

    /// Whether somebody has asked this virtual CPU to.
    pub fn is_asked(&self) -> bool {
        self.trimmed[percpu::cpu()].load(Relaxed) == ASKED
    }

    /// Empties this virtual CPU's magazines and gives free steps back. Whether there were any.
    pub fn trim(&self) -> bool {
        self.trimmed[percpu::cpu()].store(self.freed.load(Relaxed) / Self::TRIM, Relaxed);
        self.drain();
        self.shrink()
    }

    /// Gives this virtual CPU's magazines back to talc: what they hold lies anywhere and keeps steps from being free.
    fn drain(&self) {
        let mut bytes = 0;
        let mut talc = self.talc.lock();
        for class in 0..magazine::CLASSES.len() {
            let layout = magazine::class_layout(class);
            while let Some(block) = self.with(class, Magazine::pop) {
                // SAFETY: allocated from talc with this layout.
                unsafe { talc.deallocate(block.cast(), layout) };
                bytes += cost(layout);
            }
        }
        self.used.fetch_sub(bytes, Relaxed);
    }

    fn account_return(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
        let freed = self.freed.fetch_add(bytes, Relaxed) + bytes;
        if freed.wrapping_sub(self.looked.load(Relaxed)) > self.slack.load(Relaxed) && self.has_excess() {
            self.looked.store(freed, Relaxed);
            self.drain();
            let more = if self.shrink() { SLACK } else { self.slack.load(Relaxed).saturating_mul(2).min(SLACK_MAX) };
            self.slack.store(more, Relaxed);
        }
    }

    fn large(&self, layout: Layout) -> *mut u8 {
        loop {
            let seen = self.populated();
            // SAFETY: the layout is not empty.
            let found = unsafe { self.talc.lock().allocate(layout) };
            if let Some(block) = found {
                self.used.fetch_add(cost(layout), Relaxed);
                super::note_left();
                return block.as_ptr();
            }
            if !self.grow(layout, seen) {
                return null_mut();
            }
        }
    }

    /// Adds steps, unless somebody else did since `seen`; false if the range or RAM is used up.
    fn grow(&self, layout: Layout, seen: u64) -> bool {
        let need = layout.size() as u64 + layout.align() as u64 + 4096;
        let mut growth = self.growth.lock();
        // Whoever came first has made room too, perhaps the last there was.
        if self.populated() != seen {
            return true;
        }
        // Not over the control block at once: the next step follows.
        let grown = self.grown.load(Acquire);
        let next = self.kind.step_end(grown + 1);
        let step = if self.kind.breaks_at(next) { next } else { self.kind.step_end(grown + need) } - grown;
        if seen + step > self.kind.range() {
            return false;
        }
        let free = self.uncharged.load(Relaxed) + step;
        let charged = free > self.base && frame::charge_kernel(step / PAGE);
        if !charged && free > self.base + self.reserve {
            return false;
        }
        let grew = match growth.holes.first() {
            Some(hole) if step == HUGE => self.fill(&mut growth, hole),
            _ => self.extend(&mut growth, grown, step),
        };
        match (grew, charged) {
            (true, false) => drop(self.uncharged.fetch_add(step, Relaxed)),
            (false, true) => frame::uncharge_kernel(step / PAGE),
            _ => {}
        }
        self.peak.fetch_max(self.populated(), Relaxed);
        grew
    }

    /// Takes a step behind the last one.
    fn extend(&self, growth: &mut Growth, grown: u64, step: u64) -> bool {
        if grown + step > self.kind.range() || !self.populate(grown, step) {
            return false;
        }
        let start = self.kind.address(grown);
        let new_end = (start + step) as *mut u8;
        let mut talc = self.talc.lock_nested();
        // SAFETY: the range is mapped, populated, behind all that was given before, and nobody else's.
        let joined = unsafe {
            match growth.end.as_ref() {
                Some(end) if !self.kind.breaks_at(grown) => Some(talc.extend(end.0, new_end)),
                _ => talc.claim(start as *mut u8, step as usize),
            }
        };
        let Some(end) = joined else { return false };
        growth.end = Some(End(end));
        self.grown.store(grown + step, Release);
        true
    }

    /// Charges steps of the reserve to RAM now that there is some beside `kept` bytes: they are there for the next shortage.
    #[cold]
    pub fn restore(&self, kept: u64) {
        let _growth = self.growth.lock();
        while self.uncharged.load(Relaxed) >= self.base + HUGE && frame::charge_kernel_beside(HUGE / PAGE, kept / PAGE)
        {
            self.uncharged.fetch_sub(HUGE, Relaxed);
        }
    }

    /// Whether some of the reserve is taken.
    pub fn wants_restore(&self) -> bool {
        self.uncharged.load(Relaxed) >= self.base + HUGE
    }

    /// Backs a hole again and gives it to talc.
    fn fill(&self, growth: &mut Growth, hole: u64) -> bool {
        if !self.populate(self.kind.position(self.at(hole) as u64), HUGE) {
            return false;
        }
        growth.holes.remove(hole);
        self.hollow.fetch_sub(HUGE, Relaxed);
        // SAFETY: a hole is a block of this layout that talc gave; nobody else has it.
        unsafe { self.talc.lock_nested().deallocate(self.at(hole), HOLE) };
        true
    }

    /// The address of a whole step, which are counted from the huge page in which the region begins.
    fn at(&self, step: u64) -> *mut u8 {
        ((self.kind.address(0) / HUGE + step) * HUGE) as *mut u8
    }

    /// Makes a range of the region exist on the host, on huge pages where they can be had.
    fn populate(&self, at: u64, len: u64) -> bool {
        let fd = KDATA_FD.load(Acquire);
        if fd < 0 {
            return true;
        }
        let (mut at, end) = (at, at + len);
        while at < end {
            // Whole huge pages: what lies there already keeps its contents.
            if let Err(errno) = allocate(fd, self.kind.file_offset(at) / HUGE * HUGE) {
                HOST_REFUSAL.store(errno.raw(), Relaxed);
                return false;
            }
            // SAFETY: collapsing keeps contents. Where it fails plain pages do.
            let _ = unsafe { mem::advise(self.kind.address(at) / HUGE * HUGE, HUGE, mem::MADV_COLLAPSE) };
            at = self.kind.step_end(at + 1);
        }
        true
    }

    /// Gives free steps back to the host and to RAM, all but one at the end and one inside. Whether there were any.
    #[cold]
    fn shrink(&self) -> bool {
        let mut growth = self.growth.lock();
        let gone = self.cut_end(&mut growth) + self.dig(&mut growth);
        drop(growth);
        if gone == 0 {
            return false;
        }
        let reserve = self.uncharged.load(Relaxed).saturating_sub(self.base).min(gone);
        self.uncharged.fetch_sub(reserve, Relaxed);
        frame::uncharge_kernel((gone - reserve) / PAGE);
        true
    }

    /// Takes free steps at the end out of the range; the bytes that were backed.
    fn cut_end(&self, growth: &mut Growth) -> u64 {
        let grown = self.grown.load(Acquire);
        let mut talc = self.talc.lock_nested();
        let Some(old) = growth.end.as_ref() else { return 0 };
        // SAFETY: `old` is the end that talc gave last.
        let top = unsafe { talc.reserved(old.0) }.up_to.as_ptr() as u64;
        let top = self.kind.position(top);
        let keep = (self.kind.step_end(top) + HUGE).max(self.base);
        if keep + HUGE > grown {
            return 0;
        }
        // SAFETY: as above; the new end lies above the reserved part.
        let cut = unsafe { talc.truncate(old.0, self.kind.address(keep) as *mut u8) };
        // The free block stays larger than a step, so the heap is not deleted.
        let Some(cut) = cut else { return 0 };
        growth.end = Some(End(cut));
        self.grown.store(keep, Release);
        drop(talc);
        for at in (keep..grown).step_by(HUGE as usize) {
            self.punch(at, HUGE);
        }
        grown - keep
    }

    /// Makes holes of free steps inside; their bytes.
    fn dig(&self, growth: &mut Growth) -> u64 {
        let mut talc = self.talc.lock_nested();
        // SAFETY: the layout is not empty.
        let Some(kept) = (unsafe { talc.allocate(HOLE) }) else { return 0 };
        let mut fresh = 0;
        while self.populated() > self.base + HUGE {
            // SAFETY: as above.
            let Some(block) = (unsafe { talc.allocate(HOLE) }) else { break };
            let at = block.as_ptr() as u64;
            growth.holes.insert(at / HUGE - self.kind.address(0) / HUGE);
            self.hollow.fetch_add(HUGE, Relaxed);
            self.punch(self.kind.position(at), HOLE.size() as u64);
            fresh += HUGE;
        }
        // SAFETY: just allocated so.
        unsafe { talc.deallocate(kept.as_ptr(), HOLE) };
        fresh
    }

    /// Gives bytes back to the host.
    fn punch(&self, at: u64, len: u64) {
        let fd = KDATA_FD.load(Acquire);
        // SAFETY: these bytes left the heap; nothing lives there.
        let _ = unsafe { mem::punch_hole(fd, self.kind.file_offset(at), len) };
    }
}

/// Has the host allocate a huge page's worth of the memory file.
fn allocate(fd: i32, offset: u64) -> Result<()> {
    const PIECE: u64 = 64 << 10;
    let whole = mem::allocate(fd, offset, HUGE);
    if whole != Err(Errno::EINTR) {
        return whole;
    }
    // Older hosts end it for each signal that comes. Pieces are done before the next one does.
    for at in (offset..offset + HUGE).step_by(PIECE as usize) {
        while let Err(errno) = mem::allocate(fd, at, PIECE) {
            if errno != Errno::EINTR {
                return Err(errno);
            }
        }
    }
    Ok(())
}

/// Where in a block of this layout its account's tag lies.
#[inline]
pub fn tag_at(layout: Layout) -> usize {
    magazine::class_of(layout).map_or_else(|| layout.size().next_multiple_of(TAG), |class| magazine::CLASSES[class])
}

/// What talc is asked for so that a block of no magazine has room for its tag.
fn tagged(layout: Layout) -> Layout {
    let size = layout.size().next_multiple_of(TAG) + TAG;
    // A layout that nothing can serve: the size is too large already.
    Layout::from_size_align(size, layout.align()).unwrap_or(layout)
}

/// Bytes that a block takes from talc: talc's tag is part of it.
const fn cost(layout: Layout) -> u64 {
    (layout.size() as u64 + 8).next_multiple_of(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_end_on_huge_pages_and_leave_the_control_block_out() {
        let mut at = 0;
        let control = HOT_BASE + CONTROL_OFF..HOT_BASE + CONTROL_OFF + CONTROL_LEN;
        for step in 0..8 {
            let end = Kind::Hot.step_end(at + 1);
            assert_eq!(Kind::Hot.step_end(end), end);
            let (first, last) = (Kind::Hot.address(at), Kind::Hot.address(end - 1));
            assert_eq!(last - first, end - 1 - at, "a step is one piece");
            assert!(!control.contains(&first) && !control.contains(&last));
            assert_eq!(first / HUGE, last / HUGE);
            assert_eq!((Kind::Hot.position(first), Kind::Hot.position(last)), (at, end - 1));
            assert!(step == 0 || (last + 1).is_multiple_of(HUGE));
            assert_eq!(Kind::Hot.breaks_at(at), step == 1);
            at = end;
        }
        assert_eq!((Kind::Cold.step_end(1), Kind::Cold.step_end(HUGE + 1)), (HUGE, 2 * HUGE));
    }
}
