//! Runs of pages that one host call maps in the current slot: present ones, and a host file's.
//!
//! Used by [`super::fault`] and [`super::warm`], as readers of the space's lock or its writer. Invariant: present pages are claimed
//! for the slot under the lock under which they were found ([`umbel_mm::holders`]); pages of host files have no entry to claim.

use super::fault::{Fault, FaultResult};
use super::object::PageSource;
use super::space::Inner;
use super::table::{PageTable, Pte};
use super::vma::{Prot, Vma};
use crate::{Result, stats};
use core::ops::Range;
use umbel_mm::frame::{self, MAX_RUN};
use umbel_mm::{PAGE, Pfn, percpu, slotmap};

/// Pages looked at around a fault on pages that are present.
const MAP_AROUND: u64 = MAX_RUN as u64;
/// Pages of a host file mapped together: an area costs the same however long it is.
const HOST_AROUND: u64 = 1 << 16;

/// A run of present pages, claimed for the current slot.
pub(super) struct PresentRun {
    addr: u64,
    first: Pfn,
    pub count: u32,
    prot: Prot,
}

impl PresentRun {
    /// The run around `vpn` within `window`; of one page if touches are `watched`.
    pub fn claim(table: &mut PageTable, watched: bool, vma: &Vma, vpn: u64, window: Range<u64>) -> PresentRun {
        let near = around(vma, vpn, if watched { 1 } else { MAP_AROUND });
        let window = window.start.max(near.start)..window.end.min(near.end);
        let pte = table.get(vpn);
        let run = contiguous(table, vpn, &window, |other| other.is_writable() == pte.is_writable());
        let first = table.get(run.start);
        table.claim(run.clone(), percpu::slot());
        let count = (run.end - run.start) as u32;
        PresentRun { addr: run.start * PAGE, first: first.pfn(), count, prot: first.allows(vma.prot) }
    }

    /// The run at the start of `pages`, empty if that page is to be noted when it is touched; `None` if it is absent.
    pub fn claim_from(table: &mut PageTable, vma: &Vma, pages: Range<u64>) -> Option<PresentRun> {
        let pte = Some(table.get(pages.start)).filter(|pte| pte.is_present())?;
        let window = pages.start..pages.end.min(pages.start + u64::from(MAX_RUN));
        let alike = |other: Pte| other.is_writable() == pte.is_writable() && !other.is_old();
        let run = contiguous(table, pages.start, &window, alike);
        let count = if pte.is_old() { 0 } else { (run.end - run.start) as u32 };
        table.claim(run.start..run.start + u64::from(count), percpu::slot());
        Some(PresentRun { addr: run.start * PAGE, first: pte.pfn(), count, prot: pte.allows(vma.prot) })
    }

    /// Takes `next` in if both are one run.
    pub fn append(&mut self, next: &PresentRun) -> bool {
        let last = Pfn(self.first.0 + self.count.saturating_sub(1));
        let fits = self.addr + u64::from(self.count) * PAGE == next.addr
            && self.prot == next.prot
            && self.count + next.count <= MAX_RUN
            && frame::follows(last, next.first);
        self.count += if fits { next.count } else { 0 };
        fits
    }

    pub fn map(self) -> Result<()> {
        stats::FAULT_PAGES.add(self.count.into());
        slotmap::map_frames(self.addr, self.first, self.count, self.prot.bits())
    }
}

/// The longest run of pages around `vpn`, within `window`, whose entries pass `fits` and whose frames are contiguous.
pub(super) fn contiguous(table: &PageTable, vpn: u64, window: &Range<u64>, fits: impl Fn(Pte) -> bool) -> Range<u64> {
    let mut run = vpn..vpn + 1;
    let mut table = table.cursor();
    let mut pte = table.get(vpn);
    while run.start > window.start {
        let below = table.get(run.start - 1);
        if !below.is_present() || !fits(below) || !frame::follows(below.pfn(), pte.pfn()) {
            break;
        }
        pte = below;
        run.start -= 1;
    }
    pte = table.get(vpn);
    while run.end < window.end {
        let above = table.get(run.end);
        if !above.is_present() || !fits(above) || !frame::follows(pte.pfn(), above.pfn()) {
            break;
        }
        pte = above;
        run.end += 1;
    }
    run
}

/// Pages of `vma` in the aligned window of `size` pages (a power of two) around `vpn`.
pub(super) fn around(vma: &Vma, vpn: u64, size: u64) -> Range<u64> {
    let start = vpn & !(size - 1);
    start.max(vma.pages().start)..(start + size).min(vma.pages().end)
}

/// Maps the host's pages around `vpn`, as far as they lie together in the file and no page of RAM replaces them.
pub(super) fn map_host(inner: &Inner, vma: &Vma, vpn: u64, fd: i32, offset: u64) -> FaultResult<()> {
    let Some((object, index)) = vma.object_page(vpn) else {
        return Err(Fault::Bus);
    };
    let near = around(vma, vpn, HOST_AROUND);
    let (start, end) = {
        let table = inner.table.lock();
        let start = table.absent_down_to(vpn, near.start).max(vpn - (vpn.min(index)));
        (start, table.next_present(vpn..near.end))
    };
    let before = vpn - start;
    let (mut first, mut count, mut at) = (vpn, object.host_run(index, end - vpn).max(1), offset);
    // Does the run that begins further down reach up to here?
    if before > 0
        && offset >= before * PAGE
        && object.host_run(index - before, end - start) > before
        && matches!(object.page(index - before, false), Ok(PageSource::Host { fd: same, offset: low })
            if same == fd && low + before * PAGE == offset)
    {
        first = start;
        count += before;
        at = offset - before * PAGE;
    }
    let mut prot = vma.prot;
    prot.remove(Prot::WRITE);
    slotmap::map_host(first * PAGE, count * PAGE, fd, at, prot.bits())?;
    Ok(())
}
