//! One part of the heap: a range of KDATA behind one talc, which grows at its end in 2 MiB steps and gives them back.
//!
//! A step is allocated on the host and collapsed into a huge page *before* it joins, so that no first touch can fail. Steps
//! are charged to the guest's RAM ([`frame::charge_kernel`]), all but the first few of the hot region and the reserve.
//!
//! Locks: `Rank::Heap`: growth, then talc.

use super::magazine::{self, Magazine, Stocks};
use crate::{frame, percpu};
use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::*};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;
use umbel_abi::machine::layout::{
    COLD_BASE, COLD_LEN, CONTROL_LEN, CONTROL_OFF, HOT_BASE, HOT_MAX, HUGE, PAGE, STATICS_LEN,
};
use umbel_host::mem;
use umbel_smp::lock::{Rank, SpinLock};

pub(super) static KDATA_FD: AtomicI32 = AtomicI32::new(-1);
/// Bytes of the hot range.
pub(super) static HOT_LEN: AtomicU64 = AtomicU64::new(32 << 20);
/// Bytes that are freed before a region looks whether it can give steps back.
const SLACK: u64 = HUGE / 2;

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

/// A region.
pub struct Region {
    kind: Kind,
    /// Bytes of steps that are not charged to RAM: the first ones, and those taken when RAM is used up.
    base: u64,
    reserve: u64,
    growth: SpinLock<Option<End>>,
    talc: SpinLock<Talc<Manual, DefaultBinning>>,
    stocks: Stocks,
    /// Bytes handed out by talc (magazines' stock included).
    used: AtomicU64,
    /// Bytes of the range that joined.
    grown: AtomicU64,
    /// Of these, bytes that are not charged to RAM.
    uncharged: AtomicU64,
    /// Bytes given back to talc since the last look at the end.
    returned: AtomicU64,
}

impl Region {
    /// An empty region: it takes its first step at the first allocation.
    pub const fn new(kind: Kind, base: u64, reserve: u64) -> Region {
        Region {
            kind,
            base,
            reserve,
            growth: SpinLock::new(Rank::Heap, None),
            talc: SpinLock::new(Rank::Heap, Talc::new(Manual)),
            stocks: magazine::empty_stocks(),
            used: AtomicU64::new(0),
            grown: AtomicU64::new(0),
            uncharged: AtomicU64::new(0),
            returned: AtomicU64::new(0),
        }
    }

    /// Bytes handed out.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Bytes of the range taken.
    pub fn grown(&self) -> u64 {
        self.grown.load(Relaxed)
    }

    /// Bytes that it has, or may take without a charge.
    pub fn spare(&self) -> u64 {
        let more = (self.base + self.reserve).saturating_sub(self.uncharged.load(Relaxed));
        self.grown().saturating_sub(self.used()) + more
    }

    /// Bytes of its range that are left.
    pub fn rest(&self) -> u64 {
        self.kind.range().saturating_sub(self.used())
    }

    /// A block, null if the region cannot grow.
    #[inline]
    pub fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = magazine::class_of(layout) else {
            return self.large(layout);
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
        let mut talc = self.talc.lock();
        for _ in 1..magazine::capacity(class) / 2 {
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

    fn account_return(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
        if self.returned.fetch_add(bytes, Relaxed) > SLACK {
            self.returned.store(0, Relaxed);
            self.shrink();
        }
    }

    fn large(&self, layout: Layout) -> *mut u8 {
        loop {
            let grown = self.grown.load(Acquire);
            // SAFETY: the layout is not empty.
            let found = unsafe { self.talc.lock().allocate(layout) };
            if let Some(block) = found {
                self.used.fetch_add(cost(layout), Relaxed);
                return block.as_ptr();
            }
            if !self.grow(layout, grown) {
                return null_mut();
            }
        }
    }

    /// Adds steps at the end, unless somebody else did since `seen`; false if the range or RAM is used up.
    fn grow(&self, layout: Layout, seen: u64) -> bool {
        let need = layout.size() as u64 + layout.align() as u64 + 4096;
        // Not over the control block at once: the next step follows.
        let next = self.kind.step_end(seen + 1);
        let step = if self.kind.breaks_at(next) { next } else { self.kind.step_end(seen + need) } - seen;
        if seen + step > self.kind.range() {
            return false;
        }
        // Not under the lock: frames come before the heap.
        let free = self.uncharged.load(Relaxed) + step;
        let charged = free > self.base && frame::charge_kernel(step / PAGE);
        if !charged && free > self.base + self.reserve {
            return false;
        }
        let grew = self.grow_locked(step, seen);
        match (grew, charged) {
            (Ok(()), false) => drop(self.uncharged.fetch_add(step, Relaxed)),
            (Err(_), true) => frame::uncharge_kernel(step / PAGE),
            _ => {}
        }
        // Whoever came first has made room too.
        grew != Err(Refusal::Short)
    }

    fn grow_locked(&self, step: u64, seen: u64) -> Result<(), Refusal> {
        let mut end = self.growth.lock();
        let grown = self.grown.load(Acquire);
        if grown != seen {
            return Err(Refusal::Changed);
        }
        if !self.populate(grown, step) {
            return Err(Refusal::Short);
        }
        let start = self.kind.address(grown);
        let new_end = (start + step) as *mut u8;
        let mut talc = self.talc.lock_nested();
        // SAFETY: the range is mapped, populated, behind all that was given before, and nobody else's.
        let joined = unsafe {
            match end.as_ref() {
                Some(end) if !self.kind.breaks_at(grown) => Some(talc.extend(end.0, new_end)),
                _ => talc.claim(start as *mut u8, step as usize),
            }
        };
        *end = Some(End(joined.ok_or(Refusal::Short)?));
        self.grown.store(grown + step, Release);
        Ok(())
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
            if mem::allocate(fd, self.kind.file_offset(at) / HUGE * HUGE, HUGE).is_err() {
                return false;
            }
            // SAFETY: collapsing keeps contents. Where it fails plain pages do.
            let _ = unsafe { mem::advise(self.kind.address(at) / HUGE * HUGE, HUGE, mem::MADV_COLLAPSE) };
            at = self.kind.step_end(at + 1);
        }
        true
    }

    /// Gives free steps at the end back to the host and to RAM, all but one.
    #[cold]
    fn shrink(&self) {
        let mut end = self.growth.lock();
        let grown = self.grown.load(Acquire);
        let mut talc = self.talc.lock_nested();
        let Some(old) = end.as_ref() else { return };
        // SAFETY: `old` is the end that talc gave last.
        let top = unsafe { talc.reserved(old.0) }.up_to.as_ptr() as u64;
        let top = self.kind.position(top);
        let keep = (self.kind.step_end(top) + HUGE).max(self.base);
        if keep + HUGE > grown {
            return;
        }
        // SAFETY: as above; the new end lies above the reserved part.
        let cut = unsafe { talc.truncate(old.0, self.kind.address(keep) as *mut u8) };
        // The free block stays larger than a step, so the heap is not deleted.
        let Some(cut) = cut else { return };
        *end = Some(End(cut));
        self.grown.store(keep, Release);
        drop(talc);
        let fd = KDATA_FD.load(Acquire);
        for at in (keep..grown).step_by(HUGE as usize) {
            // SAFETY: the step left the heap; nothing lives there.
            let _ = unsafe { mem::punch_hole(fd, self.kind.file_offset(at), HUGE) };
        }
        drop(end);
        let gone = grown - keep;
        let reserve = self.uncharged.load(Relaxed).saturating_sub(self.base).min(gone);
        self.uncharged.fetch_sub(reserve, Relaxed);
        frame::uncharge_kernel((gone - reserve) / PAGE);
    }
}

/// Why a region did not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Somebody else changed it meanwhile.
    Changed,
    /// The host has no memory.
    Short,
}

/// Bytes that a block takes from talc: its tag, rounded to the alignment, is part of it.
const fn cost(layout: Layout) -> u64 {
    layout.size() as u64 + 16
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
