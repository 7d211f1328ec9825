//! Pages made ready before they are touched, where that is cheaper than the faults it saves.
//!
//! * [`Space::warm`]: a slot that has nothing of the space mapped gets what is there: text first, one host call a run.
//! * [`Space::prefault`]: what mmap(2) and brk(2) just added.
//! * [`Space::load`]: a program's data segment is copied whole, with the zero pages behind it, before anybody runs it.
//! * [`Recent`]: pages written since a fork are copied for the next child at the fork, instead of by a fault on either side.
//!
//! Invariants: nothing here takes a translation away, so nothing is logged; what is mapped is what a fault would have
//! mapped; failures are left to the fault. Locks: under the space's, which faults enter as readers ([`Space::enter`]).

use super::fault::{FIRST_RUN, FaultResult, allocate_range};
use super::run::{PresentRun, map_host};
use super::space::{Inner, Space};
use super::vma::{Backing, Prot, Vma};
use crate::Result;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_mm::frame;
use umbel_mm::{PAGE, UserAddr};
use umbel_smp::lock::RwMutexReadGuard;

/// Host calls spent on a fresh slot. A fault costs about two of them.
const WARM_CALLS: u32 = 24;
/// Pages of RAM mapped into a fresh slot at most.
const WARM_PAGES: u64 = 1024;
/// A new anonymous area up to this many pages is touched at once, or so it is assumed.
const SMALL_AREA: u64 = 64;
/// Pages of a program's data that are copied ahead at most: beyond that faults are cheaper.
const LOADED: u64 = 512;
/// Zero pages behind them that are made ahead.
const LOADED_ZERO: u64 = 16;

impl Space {
    /// Maps what the space has into the current slot, which was just bound to it ([`Space::activate`] said so).
    pub fn warm(&self) {
        drop(self.enter_slot(true));
    }

    /// Enters the space as a reader, in a slot that is bound to it and warm. Until the guard is dropped the caller must not
    /// block.
    pub(super) fn enter(&self) -> RwMutexReadGuard<'_, Inner> {
        self.enter_slot(false)
    }

    /// The same; `fresh` says that the slot was bound to the space just now.
    fn enter_slot(&self, mut fresh: bool) -> RwMutexReadGuard<'_, Inner> {
        let inner = self.inner.read();
        fresh |= self.activate();
        while fresh {
            warm(&inner);
            // Warming asks objects, which may sleep: the thread may be in another slot then.
            fresh = self.activate();
        }
        inner
    }

    /// Maps what a new mapping of the current space's guest will touch next, where that is cheap: pages of host files, and
    /// small anonymous areas. Failures show at the first touch.
    pub fn prefault(&self, start: u64, len: u64) {
        let inner = self.enter();
        let Some(vma) = inner.vmas.find(start) else { return };
        let vpn = start / PAGE;
        if inner.table.lock().get(vpn).is_present() {
            return;
        }
        match &vma.backing {
            Backing::File { .. } if !vma.prot.is_empty() => drop(map_if_host(&inner, vma, vpn)),
            Backing::Anonymous if vma.prot.contains(Prot::WRITE) && len <= SMALL_AREA * PAGE => {
                let end = (vpn + len.div_ceil(PAGE).min(FIRST_RUN)).min(vma.pages().end);
                let end = inner.table.lock().next_present(vpn..end);
                let _ = allocate_range(&inner, vma, vpn..end, vpn, true);
                inner.table.lock().update(vpn..vpn + 1, |_, pte| *pte = pte.ahead());
            }
            _ => {}
        }
    }

    /// Copies a data segment into RAM: `bytes` of its file from `start` on, then zeroes up to `end`, all of it private
    /// areas of this space, which nobody runs yet. False if not even the file's part was done.
    pub fn load(&self, start: UserAddr, bytes: u64, end: u64) -> bool {
        let mut inner = self.inner.write();
        let file_end = (start.0 + bytes).div_ceil(PAGE);
        let pages = start.0 / PAGE..(end / PAGE).min(file_end + LOADED_ZERO);
        if file_end - pages.start > LOADED {
            return false;
        }
        let Some((fd, offset)) = inner.vmas.find(start.0).and_then(|vma| host_page(vma, pages.start)) else {
            return false;
        };
        if inner.table.get_mut().next_present(pages.clone()) != pages.end {
            return false;
        }
        let mut at = pages.start;
        while at < pages.end {
            let Ok(run) = frame::alloc_run((pages.end - at) as u32) else { break };
            let skip = (at - pages.start) * PAGE;
            if frame::load(fd, offset + skip, bytes.saturating_sub(skip), run).is_err() {
                frame::put_run(run.first, run.count);
                break;
            }
            inner.table.get_mut().fill(at, run.first, run.count);
            at += u64::from(run.count);
        }
        at >= file_end
    }
}

/// See [`Space::warm`]: text first, as far as the budget goes. A child of fork gets what its family is known to touch.
fn warm(inner: &Inner) {
    let mut plan = Plan { inner, calls: WARM_CALLS, pages: WARM_PAGES, run: None };
    let forked = inner.forked;
    if forked {
        let mut pages = inner.family.written.list();
        pages.extend(inner.family.touched.list());
        pages.sort_unstable();
        pages.dedup();
        for vpn in pages {
            if let Some(vma) = inner.vmas.find(vpn * PAGE).filter(|vma| !vma.is_closed()) {
                plan.area(vma, vpn..vpn + 1);
            }
        }
        plan.flush();
    }
    for text in [true, false] {
        let wanted = |vma: &&Vma| vma.prot.contains(Prot::EXEC) == text && !vma.is_closed();
        for vma in inner.vmas.iter().filter(wanted).filter(|_| text || !forked) {
            plan.area(vma, vma.pages());
        }
        plan.flush();
    }
}

/// What may still be spent, and the run of frames found so far: areas that lie side by side may share one.
struct Plan<'a> {
    inner: &'a Inner,
    calls: u32,
    pages: u64,
    run: Option<PresentRun>,
}

impl Plan<'_> {
    /// Maps what is there of pages of `vma`.
    fn area(&mut self, vma: &Vma, Range { start: mut at, end }: Range<u64>) {
        while at < end && self.calls > 0 {
            let run = PresentRun::claim_from(&mut self.inner.table.lock(), vma, at..end);
            if let Some(run) = run {
                // Who touches an old page must be noted.
                at += u64::from(run.count).max(1);
                self.add(run);
                continue;
            }
            match map_if_host(self.inner, vma, at) {
                Ok(true) => self.calls -= 1,
                Ok(false) => {}
                Err(_) => return,
            }
            at = self.inner.table.lock().next_present(at..end);
        }
    }

    fn add(&mut self, run: PresentRun) {
        if run.count > 0 && !self.run.as_mut().is_some_and(|before| before.append(&run)) {
            self.flush();
            self.run = Some(run);
        }
    }

    fn flush(&mut self) {
        let Some(run) = self.run.take() else { return };
        let count = u64::from(run.count);
        if self.calls == 0 || self.pages < count {
            return;
        }
        self.calls -= 1;
        self.pages -= count;
        // What does not succeed is left to the fault.
        let _ = run.map();
    }
}

/// Maps the host's pages around `vpn` if the object's page is one of a host file; whether it is.
fn map_if_host(inner: &Inner, vma: &Vma, vpn: u64) -> FaultResult<bool> {
    match host_page(vma, vpn) {
        Some((fd, offset)) => map_host(inner, vma, vpn, fd, offset).map(|()| true),
        None => Ok(false),
    }
}

/// Where the object's page at `vpn` is in a file of the host, if it is.
pub(super) fn host_page(vma: &Vma, vpn: u64) -> Option<(i32, u64)> {
    let (object, index) = vma.object_page(vpn)?;
    object.host_page(index)
}

/// What a process and its children did after their forks, as far as known: hints, shared between them.
#[derive(Debug, Default)]
pub(super) struct Family {
    /// Pages written by either: copied at the next fork.
    pub written: Recent,
    /// Pages that children touched first: mapped in the next child's slot.
    pub touched: Recent,
}

/// Faults of a child that are noted.
pub(super) const NOTED: u32 = 32;

/// Some page numbers; new ones take the place of old ones.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pages: [AtomicU64; RECENT],
    next: AtomicU64,
}

/// Pages remembered.
const RECENT: usize = 16;

impl Recent {
    /// Notes page `vpn`.
    pub fn note(&self, vpn: u64) {
        if self.pages.iter().all(|page| page.load(Relaxed) != vpn) {
            let at = self.next.fetch_add(1, Relaxed) as usize % RECENT;
            self.pages[at].store(vpn, Relaxed);
        }
    }

    /// The pages, in order.
    fn list(&self) -> Vec<u64> {
        let mut list: Vec<u64> = self.pages.iter().map(|page| page.load(Relaxed)).filter(|&vpn| vpn != 0).collect();
        list.sort_unstable();
        list.dedup();
        list
    }
}

/// Copies the recently written pages of `areas` for `child` at once: they stay writable here. The caller knows that nobody
/// else writes meanwhile.
pub(super) fn copy_recent(parent: &mut Inner, child: &mut Inner, areas: &[Vma]) -> Result<()> {
    let private = |vpn: u64| {
        let vma = areas.iter().find(|vma| vma.pages().contains(&vpn))?;
        let wipe = vma.flags.contains(super::vma::VmaFlags::WIPEONFORK);
        (vma.is_private() && vma.prot.contains(Prot::WRITE) && !wipe).then_some(())
    };
    let (table, copied) = (parent.table.get_mut(), child.table.get_mut());
    let pages = parent.family.written.list();
    let mut pages = pages.into_iter().filter(|&vpn| table.get(vpn).is_present() && private(vpn).is_some()).peekable();
    while let Some(first) = pages.next() {
        let mut end = first + 1;
        let last = |end: u64| table.get(end - 1).pfn();
        while pages.next_if(|&vpn| vpn == end && frame::follows(last(end), table.get(vpn).pfn())).is_some() {
            end += 1;
        }
        let mut at = first;
        while at < end {
            let run = frame::alloc_run((end - at) as u32)?;
            if let Err(errno) = frame::copy(table.get(at).pfn(), run.first, run.count) {
                frame::put_run(run.first, run.count);
                return Err(errno);
            }
            copied.fill(at, run.first, run.count);
            at += u64::from(run.count);
        }
    }
    Ok(())
}
