//! Demand faults: what to do when a slot has no (or not enough of a) mapping at an address.
//!
//! A fault costs several microseconds before it gets here, so it never maps one page: it maps the longest run of
//! contiguous frames around the address, and allocates anonymous memory in runs.
//!
//! Most faults only add pages, or map what is there ([`Space::add_page`]): these are readers of the space's lock, so those of
//! several threads go on side by side. They hold the page table's lock to look, and to enter what they made; the frames between
//! are allocated, mapped in the current slot and zeroed without it. Who finds afterwards that another was faster gives its
//! frames back. Invariants: nobody blocks between looking and mapping; whatever is mapped was claimed for the slot
//! ([`umbel_mm::holders`]) under the table's lock; nothing is taken away meanwhile, except by who has it alone.

use super::object::PageSource;
use super::run::{PresentRun, around, contiguous, map_host};
use super::space::{Doomed, Inner, Space};
use super::table::Pte;
use super::userfault::{Question, Watch};
use super::vma::{Backing, Prot, STACK_GUARD, Vma, VmaFlags};
use super::warm::host_page;
use crate::{Errno, Result, stats};
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;
use umbel_mm::frame::{self, FrameRef, MAX_RUN, Run};
use umbel_mm::{PAGE, Pfn, heap, percpu, slotmap, view};
use umbel_smp::vtime::{self, Event};

/// `si_code` of a SIGSEGV: nothing is mapped there.
pub const SEGV_MAPERR: i32 = 1;
/// `si_code` of a SIGSEGV: the protection forbids it.
pub const SEGV_ACCERR: i32 = 2;

/// First and longest anonymous runs, in pages.
pub(super) const FIRST_RUN: u64 = 16;
/// Pages copied together.
const COPY_AROUND: u64 = 4;
/// Pages of a host file copied together.
const HOST_COPY: u64 = 16;
/// Pages made writable together when nobody else has them any more.
const REUSE_AROUND: u64 = 64;
/// What a fault, or a copy on the guest's behalf, wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Exec,
}

impl Access {
    fn allowed_by(self, prot: Prot) -> bool {
        match self {
            // x86: what may be written or executed may be read.
            Access::Read => !prot.is_empty(),
            Access::Write => prot.contains(Prot::WRITE),
            Access::Exec => prot.contains(Prot::EXEC),
        }
    }
}

/// Who made the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Guest code, which makes it again after a signal.
    Guest,
    /// The kernel, for the guest.
    Kernel,
}

/// Why a fault was not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGSEGV with this `si_code`.
    Segv(i32),
    /// SIGBUS: beyond the end of the object, or the host could not read it.
    Bus,
    /// No RAM left.
    Oom,
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        match errno {
            Errno::ENOMEM => Fault::Oom,
            _ => Fault::Bus,
        }
    }
}

pub(super) type FaultResult<T> = core::result::Result<T, Fault>;

/// What came of a fault that may only add pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    /// New pages, mapped.
    New,
    /// The page was there, and is mapped now.
    Present,
    /// More must change: for the writer of the space's lock.
    Nothing,
}

impl Space {
    /// Makes the page at `addr` accessible in the current slot, which is this space's. May sleep. Where a userfaultfd is asked,
    /// the access is to be made again.
    pub fn handle_fault(&self, addr: u64, access: Access, origin: Origin) -> FaultResult<()> {
        let (vpn, write) = (addr / PAGE, access == Access::Write);
        {
            let inner = self.enter();
            note_touch(&inner, vpn);
            let area = area_for(&inner, addr, access);
            if let Some(question) = area.ok().and_then(|vma| Question::about(&inner, vma, vpn, write)) {
                drop(inner);
                return self.ask(question, addr, access, origin);
            }
            let added = match area {
                Ok(vma) => add_page(&inner, vma, vpn, write, true)?,
                Err(Fault::Segv(SEGV_MAPERR)) => Added::Nothing,
                Err(fault) => return Err(fault),
            };
            if added == Added::New {
                // Not where only this slot lacked the mapping: which slot that is may depend on the host.
                vtime::event(Event::Fault);
            }
            if added != Added::Nothing {
                return Ok(());
            }
        }
        let mut inner = self.inner.write();
        self.activate();
        if inner.vmas.find(addr).is_none() {
            grow_stack(&mut inner, addr).ok_or(Fault::Segv(SEGV_MAPERR))?;
        }
        let vma = area_for(&inner, addr, access)?.clone();
        if let Some(question) = Question::about(&inner, &vma, vpn, write) {
            drop(inner);
            return self.ask(question, addr, access, origin);
        }
        let before = inner.table.get_mut().present();
        self.make_present(&mut inner, &vma, vpn, write, true)?;
        if inner.table.get_mut().present() != before {
            vtime::event(Event::Fault);
        }
        Ok(())
    }

    /// Makes a range present in RAM (and mapped in the current slot) as far as areas allow it: `MAP_POPULATE`, mlock(2).
    /// Areas that are locked when pages come (`MLOCK_ONFAULT`) are left out. Stops at the first failure.
    pub fn populate(&self, start: u64, end: u64) -> FaultResult<()> {
        let mut at = start;
        while at < end {
            let vma = self.inner.read().vmas.find_from(at).map(|vma| (vma.start, vma.end, vma.prot, vma.flags));
            let Some((from, to, prot, flags)) = vma.filter(|(from, ..)| *from < end) else { return Ok(()) };
            let range = at.max(from)..end.min(to);
            at = range.end;
            if !flags.contains(VmaFlags::ONFAULT) {
                // A write to a shared page would make its file newer.
                self.touch_all(range, prot.contains(Prot::WRITE) && !flags.contains(VmaFlags::SHARED))?;
            }
        }
        Ok(())
    }

    /// Faults every page of a range in.
    pub(super) fn touch_all(&self, range: Range<u64>, write: bool) -> FaultResult<()> {
        let access = if write { Access::Write } else { Access::Read };
        for vpn in range.start / PAGE..range.end / PAGE {
            let (pte, allowed) = {
                let inner = self.inner.read();
                let mut table = inner.table.lock();
                table.update(vpn..vpn + 1, |_, pte| *pte = pte.touched());
                let allowed = inner.vmas.find(vpn * PAGE).is_some_and(|vma| access.allowed_by(vma.prot));
                (table.get(vpn), allowed)
            };
            if !allowed || !pte.is_present() || (write && !pte.is_writable()) {
                self.handle_fault(vpn * PAGE, access, Origin::Kernel)?;
            }
        }
        Ok(())
    }

    /// Makes page `vpn` of `vma` present for the access; maps it in the current slot if `map`.
    pub(super) fn make_present(
        &self,
        inner: &mut Inner,
        vma: &Vma,
        vpn: u64,
        write: bool,
        map: bool,
    ) -> FaultResult<()> {
        if add_page(inner, vma, vpn, write, map)? != Added::Nothing {
            return Ok(());
        }
        if inner.table.get_mut().get(vpn).is_present() {
            return self.unshare(inner, vma, vpn, map);
        }
        self.object_page(inner, vma, vpn, write, map)
    }

    /// An absent page of an object.
    fn object_page(&self, inner: &mut Inner, vma: &Vma, vpn: u64, write: bool, map: bool) -> FaultResult<()> {
        let Some((object, index)) = vma.object_page(vpn) else {
            return Err(Fault::Bus);
        };
        let write_object = write && !vma.is_private();
        match object.page(index, write_object)? {
            PageSource::Frame(frame) if !vma.is_private() => {
                let pte = Pte::shared(frame.into_raw());
                if write {
                    object.written();
                }
                let pte = if write || !object.notes_writes() { pte } else { pte.read_only() };
                release(inner.table.get_mut().set(vpn, vma.fresh(pte, write)));
            }
            PageSource::Frame(frame) if !write => {
                release(inner.table.get_mut().set(vpn, vma.fresh(Pte::of_object(frame.into_raw()), false)));
            }
            PageSource::Frame(frame) => {
                let copy = FrameRef::alloc()?;
                frame::copy(frame.pfn(), copy.pfn(), 1)?;
                self.install(inner, vpn, copy);
            }
            PageSource::Host { .. } if write => {
                if write_object {
                    return Err(Fault::Bus);
                }
                return self.copy_host_pages(inner, vma, vpn, map);
            }
            PageSource::Host { fd, offset } => {
                return if map { map_host(inner, vma, vpn, fd, offset) } else { Ok(()) };
            }
        }
        // What came before has been mapped when it came.
        let pages = enter_ready(inner, vma, vpn);
        if map { map_present(inner, vma, vpn, pages) } else { Ok(()) }
    }

    /// Copies page `vpn` of a host file, and those around it that lie together in the file: data segments are written all
    /// over. Maps them in the current slot if `map`.
    fn copy_host_pages(&self, inner: &mut Inner, vma: &Vma, vpn: u64, map: bool) -> FaultResult<()> {
        let window = around(vma, vpn, if vma.notes_first_writes() { 1 } else { HOST_COPY });
        let start = inner.table.get_mut().absent_down_to(vpn, window.start);
        let limit = inner.table.get_mut().next_present(vpn..window.end) - start;
        let count = vma.object_page(start).map_or(0, |(object, index)| object.host_run(index, limit));
        let mut pages = start..start + count.min(limit);
        if !pages.contains(&vpn) {
            pages = vpn..vpn + 1;
        }
        let mut run = frame::alloc_run((pages.end - pages.start) as u32)?;
        if u64::from(run.count) != pages.end - pages.start {
            // RAM is in pieces: this page at least.
            frame::put_run(Pfn(run.first.0 + 1), run.count - 1);
            (pages, run.count) = (vpn..vpn + 1, 1);
        }
        let place = vma.object_page(pages.start).and_then(|(object, index)| object.host_page(index));
        let copied =
            place.ok_or(Errno::EFAULT).and_then(|(fd, at)| frame::copy_from_host(fd, at, run.first, run.count));
        if let Err(errno) = copied {
            frame::put_run(run.first, run.count);
            return Err(errno.into());
        }
        inner.table.get_mut().fill(pages.start, run.first, run.count);
        self.replaced(inner, vma, vpn, pages, map)
    }

    /// Slots must let go of what they have of `pages`, which have new, contiguous, writable frames. The current one maps
    /// those instead if `map`.
    fn replaced(&self, inner: &mut Inner, vma: &Vma, vpn: u64, pages: Range<u64>, map: bool) -> FaultResult<()> {
        self.log_drop(pages.start * PAGE, pages.end * PAGE);
        if !map {
            view::shootdown(&self.log);
            return Ok(());
        }
        view::shootdown_replaced(&self.log);
        map_over(inner, vma, vpn, pages)
    }

    /// Puts a private frame where slots may have a page of the object: they must let go of that first.
    fn install(&self, inner: &mut Inner, vpn: u64, frame: FrameRef) {
        release(inner.table.get_mut().set(vpn, Pte::private(frame.into_raw(), true)));
        self.log_drop(vpn * PAGE, (vpn + 1) * PAGE);
        view::shootdown(&self.log);
    }

    /// A write to a private page that may be shared with other spaces or the object, or to one of an object that notes writes.
    fn unshare(&self, inner: &mut Inner, vma: &Vma, vpn: u64, map: bool) -> FaultResult<()> {
        let only_noted = vma.watch.as_ref().is_some_and(Watch::is_async);
        inner.table.get_mut().update(vpn..vpn + 1, |_, pte| {
            *pte = if only_noted { pte.dirty().unwatched() } else { pte.dirty() };
        });
        if !vma.is_private() {
            if let Some((object, _)) = vma.object_page(vpn) {
                object.written();
            }
            let around = around(vma, vpn, REUSE_AROUND);
            inner.table.get_mut().update(around.clone(), |_, pte| *pte = pte.writable());
            return if map { map_present(inner, vma, vpn, around) } else { Ok(()) };
        }
        inner.family.written.note(vpn);
        let table = inner.table.get_mut();
        if frame::references(table.get(vpn).pfn()) == 1 {
            // Only we have it. Less strict than before, so slots need not be told.
            let around = around(vma, vpn, REUSE_AROUND);
            table.update(around.clone(), |_, pte| {
                if frame::references(pte.pfn()) == 1 {
                    *pte = pte.writable();
                }
            });
            return if map { map_present(inner, vma, vpn, around) } else { Ok(()) };
        }
        let around = around(vma, vpn, COPY_AROUND);
        let mut doomed = Doomed::default();
        let (range, alone) = match copy_run(inner, vpn, around, &mut doomed) {
            // RAM is short: this page at least.
            Err(Errno::ENOMEM) => copy_run(inner, vpn, vpn..vpn + 1, &mut doomed)?,
            other => other?,
        };
        let mapped =
            if map && alone { map_over(inner, vma, vpn, range) } else { self.replaced(inner, vma, vpn, range, map) };
        drop(doomed);
        mapped
    }
}

/// A child of fork says which pages it touches first.
fn note_touch(inner: &Inner, vpn: u64) {
    let one_less = |left: u32| left.checked_sub(1);
    if inner.forked
        && inner.notes_left.load(Relaxed) > 0
        && inner.notes_left.fetch_update(Relaxed, Relaxed, one_less).is_ok()
    {
        inner.family.touched.note(vpn);
    }
}

/// The area that allows the access.
pub(super) fn area_for(inner: &Inner, addr: u64, access: Access) -> FaultResult<&Vma> {
    let vma = inner.vmas.find(addr).ok_or(Fault::Segv(SEGV_MAPERR))?;
    match vma.flags {
        flags if flags.contains(VmaFlags::GUARD) => Err(Fault::Segv(SEGV_MAPERR)),
        _ if !access.allowed_by(vma.prot) => Err(Fault::Segv(SEGV_ACCERR)),
        flags if flags.contains(VmaFlags::POISON) => Err(Fault::Bus),
        _ => Ok(vma),
    }
}

/// Makes page `vpn` of `vma` present for the access, as far as that takes nothing away and no object must make it; maps it in
/// the current slot if `map`.
fn add_page(inner: &Inner, vma: &Vma, vpn: u64, write: bool, map: bool) -> FaultResult<Added> {
    loop {
        {
            let mut table = inner.table.lock();
            let pte = table.get(vpn);
            if pte.is_present() {
                table.update(vpn..vpn + 1, |_, pte| *pte = pte.touched());
                if write && !pte.is_writable() {
                    return Ok(Added::Nothing);
                }
                if map {
                    let run = PresentRun::claim(&mut table, inner.watched, vma, vpn, vma.pages());
                    drop(table);
                    run.map()?;
                }
                return Ok(Added::Present);
            }
        }
        // A page table entry costs kernel memory.
        heap::room_to_fault()?;
        match &vma.backing {
            Backing::Anonymous if vma.notes_first_writes() => {
                if add_noted(inner, vma, vpn, write, map)? {
                    return Ok(Added::New);
                }
            }
            Backing::Anonymous if allocate_run(inner, vma, vpn, map)? => return Ok(Added::New),
            // Another thread was faster.
            Backing::Anonymous => {}
            Backing::File { .. } => {
                let Some((fd, offset)) = host_page(vma, vpn).filter(|_| map && !write) else {
                    return Ok(Added::Nothing);
                };
                return map_host(inner, vma, vpn, fd, offset).map(|()| Added::Present);
            }
        }
    }
}

/// Puts one zeroed frame at an absent page of an area whose first writes are noted. False if a page came meanwhile.
fn add_noted(inner: &Inner, vma: &Vma, vpn: u64, write: bool, map: bool) -> FaultResult<bool> {
    let run = frame::alloc_zeroed_run(1)?;
    let mut table = inner.table.lock();
    if table.get(vpn).is_present() {
        drop(table);
        frame::put_run(run.first, 1);
        return Ok(false);
    }
    table.set(vpn, vma.fresh(Pte::private(run.first, true), write));
    if map {
        let run = PresentRun::claim(&mut table, true, vma, vpn, vpn..vpn + 1);
        drop(table);
        run.map()?;
    }
    Ok(true)
}

/// Drops the reference of an entry that was replaced.
pub(super) fn release(old: Pte) {
    if old.is_present() {
        frame::put_run(old.pfn(), 1);
    }
}

fn grow_stack(inner: &mut Inner, addr: u64) -> Option<()> {
    let above = inner.vmas.find_from(addr)?;
    if !above.flags.contains(VmaFlags::GROWSDOWN) || above.end - addr > inner.limits.stack {
        return None;
    }
    let (start, to, above_prot) = (above.start, addr & !(PAGE - 1), above.prot);
    if inner.vmas.bytes() + (start - to) > inner.limits.address_space {
        return None;
    }
    if let Some(below) = inner.vmas.find_below(start)
        && !below.flags.contains(VmaFlags::GROWSDOWN)
        && !below.prot.is_empty()
        && below.end + STACK_GUARD > to
    {
        return None;
    }
    super::map::check_commit(above_prot, VmaFlags::empty(), start - to).ok()?;
    inner.vmas.grow_down(start, to);
    Some(())
}

/// Allocates zeroed frames around an absent page of anonymous memory: more each time when faults go upwards. False if pages
/// came meanwhile.
fn allocate_run(inner: &Inner, vma: &Vma, vpn: u64, map: bool) -> FaultResult<bool> {
    let usage = frame::usage();
    let (pages, size) = {
        let table = inner.table.lock();
        let mut size = table.run_before(vpn).map_or(FIRST_RUN, |size| (size * 2).min(u64::from(MAX_RUN)));
        if usage.free < usage.total / 16 {
            size = 1;
        }
        let window = inner.edges.clip(around(vma, vpn, size), vpn);
        (table.absent_down_to(vpn, window.start)..table.next_present(vpn..window.end), size)
    };
    let end = pages.end;
    if pages.is_empty() || !allocate_range(inner, vma, pages, vpn, map)? {
        return Ok(false);
    }
    inner.table.lock().note_run(end, size);
    Ok(true)
}

/// Allocates zeroed frames for absent pages of anonymous memory. Page `vpn` of them is needed, the others are welcome. False if
/// some came meanwhile.
pub(super) fn allocate_range(
    inner: &Inner,
    vma: &Vma,
    Range { start, end }: Range<u64>,
    vpn: u64,
    map: bool,
) -> FaultResult<bool> {
    let mut at = start;
    while at < end {
        let map = map.then_some(vma.prot);
        let run = match new_run(at, (end - at) as u32, map) {
            Ok(run) => run,
            Err(_) if at > vpn => break,
            Err(_) if at < vpn => {
                at = vpn;
                continue;
            }
            Err(errno) => return Err(errno.into()),
        };
        let pages = at..at + u64::from(run.count);
        if !enter_run(inner, pages.clone(), run, vpn, map.is_some()) {
            if map.is_some() {
                slotmap::unmap(pages.start * PAGE, (pages.end - pages.start) * PAGE);
            }
            frame::put_run(run.first, run.count);
            return Ok(false);
        }
        at = pages.end;
    }
    Ok(true)
}

/// Enters the frames for `pages`, of which `vpn` is needed, if none has come meanwhile. They are claimed for the current slot if
/// it has them mapped.
fn enter_run(inner: &Inner, pages: Range<u64>, run: Run, vpn: u64, mapped: bool) -> bool {
    let mut table = inner.table.lock();
    if table.next_present(pages.clone()) != pages.end {
        return false;
    }
    table.fill(pages.start, run.first, run.count);
    if mapped {
        table.claim(pages.clone(), percpu::slot());
    }
    table.update(pages, |page, pte| *pte = if page == vpn { *pte } else { pte.ahead() });
    true
}

/// Zeroed frames for absent pages from `vpn` on, as many as there are side by side up to `want`; mapped in the current slot
/// with a protection, if one is given.
fn new_run(vpn: u64, want: u32, map: Option<Prot>) -> Result<Run> {
    let Some(prot) = map else { return frame::alloc_zeroed_run(want) };
    let (run, dirty) = frame::alloc_unzeroed_run(want)?;
    let (addr, len) = (vpn * PAGE, u64::from(run.count) * PAGE);
    // Old bytes are zeroed through the mapping: no guest code runs here before the run is entered or given back, and no other
    // slot can map frames that are not in the table yet.
    let mut ready = if dirty && !prot.contains(Prot::WRITE) { frame::zero_run(run) } else { Ok(()) };
    if ready.is_ok() {
        ready = slotmap::map_frames(addr, run.first, run.count, prot.bits());
    }
    if ready.is_ok() && dirty && prot.contains(Prot::WRITE) && slotmap::clear(addr, len).is_err() {
        ready = frame::zero_run(run);
    }
    if let Err(errno) = ready {
        slotmap::unmap(addr, len);
        frame::put_run(run.first, run.count);
        return Err(errno);
    }
    stats::FAULT_PAGES.add(u64::from(run.count));
    Ok(run)
}

/// Copies frames of the run around `vpn` within `window` that are contiguous and not writable; the pages copied, and whether no
/// slot but the current one may have the old ones mapped.
fn copy_run(inner: &mut Inner, vpn: u64, window: Range<u64>, doomed: &mut Doomed) -> Result<(Range<u64>, bool)> {
    let table = inner.table.get_mut();
    let shared = |pte: Pte| !pte.is_writable() && !pte.is_noted() && frame::references(pte.pfn()) > 1;
    let run = contiguous(table, vpn, &window, shared);
    let want = (run.end - run.start) as u32;
    let fresh = frame::alloc_run(want)?;
    let run = if fresh.count == want { run } else { vpn..vpn + 1 };
    let count = (run.end - run.start) as u32;
    frame::put_run(Pfn(fresh.first.0 + count), fresh.count - count);
    if let Err(error) = frame::copy(table.get(run.start).pfn(), fresh.first, count) {
        frame::put_run(fresh.first, count);
        return Err(error);
    }
    let mut alone = true;
    for (page, pfn) in run.clone().zip(fresh.first.0..) {
        let old = table.set(page, Pte::private(Pfn(pfn), true));
        alone &= old.holders().only(percpu::slot());
        doomed.push(old);
    }
    Ok((run, alone))
}

/// Enters those pages around `vpn`, a page of an object that has just come, which the object has in RAM as well and whose frames
/// lie side by side: one host call maps them all. They count when they are touched (see [`super::account`]).
fn enter_ready(inner: &mut Inner, vma: &Vma, vpn: u64) -> Range<u64> {
    let near = inner.edges.clip(around(vma, vpn, u64::from(MAX_RUN)), vpn);
    let table = inner.table.get_mut();
    let pte = table.get(vpn);
    let mut run = vpn..vpn + 1;
    if inner.watched || vma.watch.is_some() || !(pte.is_shared() || pte.is_object()) {
        return run;
    }
    let absent = table.absent_down_to(vpn, near.start)..table.next_present(vpn + 1..near.end);
    let mut enter = |page: u64, beside: Pfn, above: bool| {
        let (object, index) = vma.object_page(page)?;
        let frame = object.ready(index)?;
        let pfn = frame.pfn();
        let follows = if above { frame::follows(beside, pfn) } else { frame::follows(pfn, beside) };
        if !follows || (pte.is_writable() && object.notes_writes()) {
            return None;
        }
        let new = if pte.is_shared() { Pte::shared(frame.into_raw()) } else { Pte::of_object(frame.into_raw()) };
        let new = if pte.is_writable() { new } else { new.read_only() };
        release(table.set(page, vma.fresh(new, false).ahead()));
        Some(pfn)
    };
    let mut last = pte.pfn();
    while run.start > absent.start
        && let Some(pfn) = enter(run.start - 1, last, false)
    {
        (last, run.start) = (pfn, run.start - 1);
    }
    last = pte.pfn();
    while run.end < absent.end
        && let Some(pfn) = enter(run.end, last, true)
    {
        (last, run.end) = (pfn, run.end + 1);
    }
    run
}

/// Maps the run of present pages around `vpn` in the current slot.
fn map_present(inner: &mut Inner, vma: &Vma, vpn: u64, window: Range<u64>) -> FaultResult<()> {
    let watched = inner.watched;
    PresentRun::claim(inner.table.get_mut(), watched, vma, vpn, window).map()?;
    Ok(())
}

/// As [`map_present`] in the place of what the slot has of `pages`, which must go in any case.
fn map_over(inner: &mut Inner, vma: &Vma, vpn: u64, pages: Range<u64>) -> FaultResult<()> {
    let mapped = map_present(inner, vma, vpn, pages.clone());
    if mapped.is_err() {
        slotmap::unmap(pages.start * PAGE, (pages.end - pages.start) * PAGE);
    }
    mapped
}
