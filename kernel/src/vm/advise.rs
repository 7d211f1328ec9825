//! madvise, msync, mlock, mseal: what a guest says about its pages.

use super::fault::Fault;
use super::map::{max_areas, page_range};
use super::object::Mappable;
use super::space::{Doomed, Inner, Space};
use super::vma::{Backing, Prot, Vma, VmaFlags};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use umbel_abi::linux::uapi;
use umbel_abi::machine::layout::USER_TOP;
use umbel_mm::holders::take_alone;
use umbel_mm::log::Change;
use umbel_mm::{PAGE, UserAddr, heap, percpu, view};

/// What mlock(2) and its kin make of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// They may go.
    Unlocked,
    /// They come now and stay.
    Now,
    /// They stay once they have come (`MLOCK_ONFAULT`).
    OnFault,
}

impl LockMode {
    /// The flags that say so.
    pub fn flags(self) -> VmaFlags {
        match self {
            LockMode::Unlocked => VmaFlags::empty(),
            LockMode::Now => VmaFlags::LOCKED,
            LockMode::OnFault => VmaFlags::LOCKED | VmaFlags::ONFAULT,
        }
    }
}

/// Both flags of [`LockMode`].
const LOCKS: VmaFlags = VmaFlags::LOCKED.union(VmaFlags::ONFAULT);

/// What advice that only changes an area's properties does to them; `None` for other advice.
fn change_of(advice: u32) -> Option<fn(&mut VmaFlags)> {
    const ORDER: VmaFlags = VmaFlags::SEQUENTIAL.union(VmaFlags::RANDOM);
    const HUGE: VmaFlags = VmaFlags::HUGEPAGE.union(VmaFlags::NOHUGEPAGE);
    Some(match advice {
        uapi::MADV_NORMAL => |flags| flags.remove(ORDER),
        uapi::MADV_RANDOM => |flags| *flags = flags.difference(ORDER) | VmaFlags::RANDOM,
        uapi::MADV_SEQUENTIAL => |flags| *flags = flags.difference(ORDER) | VmaFlags::SEQUENTIAL,
        uapi::MADV_WILLNEED | uapi::MADV_COLD | uapi::MADV_PAGEOUT => |_| {},
        uapi::MADV_HUGEPAGE => |flags| *flags = flags.difference(HUGE) | VmaFlags::HUGEPAGE,
        uapi::MADV_NOHUGEPAGE => |flags| *flags = flags.difference(HUGE) | VmaFlags::NOHUGEPAGE,
        uapi::MADV_DONTFORK => |flags| flags.insert(VmaFlags::DONTFORK),
        uapi::MADV_DOFORK => |flags| flags.remove(VmaFlags::DONTFORK),
        uapi::MADV_WIPEONFORK => |flags| flags.insert(VmaFlags::WIPEONFORK),
        uapi::MADV_KEEPONFORK => |flags| flags.remove(VmaFlags::WIPEONFORK),
        uapi::MADV_DONTDUMP => |flags| flags.insert(VmaFlags::DONTDUMP),
        uapi::MADV_DODUMP => |flags| flags.remove(VmaFlags::DONTDUMP),
        uapi::MADV_GUARD_INSTALL => |flags| flags.insert(VmaFlags::GUARD),
        uapi::MADV_GUARD_REMOVE => |flags| flags.remove(VmaFlags::GUARD),
        _ => return None,
    })
}

/// Whether an area can be given the advice; the errno if not.
fn check_advice(vma: &Vma, advice: u32) -> Result<()> {
    let locked = vma.flags.contains(VmaFlags::LOCKED);
    let anonymous = matches!(vma.backing, Backing::Anonymous);
    let discards = matches!(
        advice,
        uapi::MADV_DONTNEED
            | uapi::MADV_DONTNEED_LOCKED
            | uapi::MADV_FREE
            | uapi::MADV_REMOVE
            | uapi::MADV_DONTFORK
            | uapi::MADV_WIPEONFORK
            | uapi::MADV_GUARD_INSTALL
    );
    let sealed = vma.flags.contains(VmaFlags::SEALED) && anonymous && !vma.prot.contains(Prot::WRITE);
    let fits = match advice {
        _ if discards && sealed => return Err(Errno::EPERM),
        uapi::MADV_COLD | uapi::MADV_PAGEOUT | uapi::MADV_DONTNEED | uapi::MADV_REMOVE => !locked,
        uapi::MADV_GUARD_INSTALL => !locked,
        uapi::MADV_FREE => !locked && anonymous,
        uapi::MADV_WIPEONFORK => anonymous,
        _ => true,
    };
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// What of a range can be given some advice.
struct Advised {
    /// The parts of areas up to the first that cannot.
    parts: Vec<Vma>,
    /// What madvise(2) says when those have been.
    result: Result<()>,
}

impl Advised {
    fn new(inner: &Inner, range: &Range<u64>, advice: u32) -> Result<Advised> {
        check_parts(inner, range)?;
        let mut parts: Vec<Vma> = inner.vmas.within(range).collect();
        let good = parts.iter().take_while(|vma| check_advice(vma, advice).is_ok()).count();
        let refused = parts.get(good).map_or(Ok(()), |vma| check_advice(vma, advice));
        parts.truncate(good);
        let covered = if inner.vmas.covers(range) { Ok(()) } else { Err(Errno::ENOMEM) };
        Ok(Advised { parts, result: refused.and(covered) })
    }
}

impl Space {
    /// Gives advice about each area of a range, up to the first that cannot have it. Advice about caching is kept to be
    /// shown. Source: madvise(2).
    ///
    /// # Errors
    /// `EINVAL` for unknown advice (merging, huge pages on demand and poison among it), `ENOMEM` if part of the range is not
    /// mapped, which does not spare the rest.
    pub fn advise(&self, addr: UserAddr, len: u64, advice: u32) -> Result<()> {
        let change = change_of(advice);
        match advice {
            uapi::MADV_POPULATE_READ | uapi::MADV_POPULATE_WRITE => {
                let range = checked(addr, len).map_err(|_| Errno::EINVAL)?;
                return self.populate_as(range, advice == uapi::MADV_POPULATE_WRITE);
            }
            uapi::MADV_DONTNEED | uapi::MADV_DONTNEED_LOCKED | uapi::MADV_FREE | uapi::MADV_REMOVE => {}
            _ if change.is_none() => return Err(Errno::EINVAL),
            _ => {}
        }
        let wraps = addr.0.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE)).is_none();
        let range = checked(addr, len).map_err(|errno| if wraps { Errno::EINVAL } else { errno })?;
        let mut doomed = Doomed::default();
        if matches!(advice, uapi::MADV_DONTNEED | uapi::MADV_DONTNEED_LOCKED | uapi::MADV_FREE) {
            return self.discard(&range, advice, &mut doomed);
        }
        let mut inner = self.inner.write();
        let advised = Advised::new(&inner, &range, advice)?;
        match change {
            Some(change) => {
                let end = advised.parts.last().map_or(range.start, |vma| vma.end);
                inner.vmas.update(&(range.start..end), |vma| change(&mut vma.flags));
                if advice == uapi::MADV_GUARD_INSTALL && end > range.start {
                    // What was there is gone, as far as it is the area's own.
                    doomed.extend(inner.table.get_mut().detach(range.start / PAGE..end / PAGE));
                    self.log_drop(range.start, end);
                    view::shootdown(&self.log);
                }
            }
            None => {
                drop(inner);
                punch(&advised.parts)?;
            }
        }
        advised.result
    }

    /// Drops pages: anonymous ones read as zero afterwards, others as their object. As a reader of the space where only the
    /// current slot has them.
    fn discard(&self, range: &Range<u64>, advice: u32, doomed: &mut Doomed) -> Result<()> {
        {
            let inner = self.inner.read();
            inner.edges.note(&(range.start / PAGE..range.end / PAGE));
            let advised = Advised::new(&inner, range, advice)?;
            let marked = |part: &Vma| part.flags.contains(VmaFlags::POISON) || part.is_protected();
            if !advised.parts.iter().any(marked) && self.discard_here(&inner, &advised.parts, doomed) {
                return advised.result;
            }
        }
        let mut inner = self.inner.write();
        let advised = Advised::new(&inner, range, advice)?;
        for part in advised.parts.iter().filter(|part| part.flags.contains(VmaFlags::POISON)) {
            inner.vmas.update(&(part.start..part.end), |vma| vma.flags.remove(VmaFlags::POISON));
        }
        // What reads as zero now was written, as far as its watchers are concerned.
        for part in advised.parts.iter().filter(|part| part.is_protected()) {
            if inner.vmas.count() + 2 > max_areas() {
                return Err(Errno::ENOMEM);
            }
            inner.vmas.update(&(part.start..part.end), |vma| vma.set_protected(false));
        }
        let mut told = false;
        for part in &advised.parts {
            let taken = inner.table.get_mut().detach(part.pages());
            if !taken.is_empty() {
                self.log_drop(part.start, part.end);
                told = true;
            }
            doomed.extend(taken);
        }
        if told {
            view::shootdown(&self.log);
        }
        advised.result
    }

    /// As far as no slot but the current one has the pages; whether that is all of them.
    fn discard_here(&self, inner: &Inner, parts: &[Vma], doomed: &mut Doomed) -> bool {
        let slot = percpu::slot();
        parts.iter().all(|part| {
            let pages = part.pages();
            if inner.table.lock().next_present(pages.clone()) == pages.end {
                return true;
            }
            let taken = take_alone(
                &inner.table,
                |table| table.held_only_by(pages.clone(), slot),
                || view::apply_here(&self.log, Change::Drop { start: part.start, end: part.end }),
                |table| table.detach(pages.clone()),
            );
            taken.map(|taken| doomed.extend(taken)).is_some()
        })
    }

    /// `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE`.
    fn populate_as(&self, range: Range<u64>, write: bool) -> Result<()> {
        let allows = |vma: &Vma| if write { vma.prot.contains(Prot::WRITE) } else { !vma.prot.is_empty() };
        let (covered, allowed) = {
            let inner = self.inner.read();
            (inner.vmas.covers(&range), inner.vmas.within(&range).all(|vma| allows(&vma)))
        };
        if !covered {
            return Err(Errno::ENOMEM);
        }
        if !allowed {
            return Err(Errno::EINVAL);
        }
        self.touch_all(range, write).map_err(|fault| match fault {
            Fault::Oom => Errno::ENOMEM,
            _ => Errno::EFAULT,
        })
    }

    /// The pages of an object from `first` on are gone: drops entries and copies.
    pub(super) fn forget_pages(&self, object: *const (), first: u64) {
        let mut doomed = Doomed::default();
        let mut inner = self.inner.write();
        let mut told = false;
        let next = |inner: &Inner, from: u64| {
            inner
                .vmas
                .within(&(from..USER_TOP))
                .find_map(|vma| pages_from(&vma, object, first).map(|pages| (pages, vma.end)))
        };
        let mut at = 0;
        while let Some((pages, end)) = next(&inner, at) {
            at = end;
            doomed.extend(inner.table.get_mut().detach(pages.clone()));
            self.log_drop(pages.start * PAGE, pages.end * PAGE);
            told = true;
        }
        if told {
            view::shootdown(&self.log);
        }
    }

    /// Whether an area of `object` is shared, and writable or may become so.
    pub(super) fn may_write_object(&self, object: *const ()) -> bool {
        let of_object = |vma: &Vma| match &vma.backing {
            Backing::File { object: own, .. } => super::vma::object_id(own) == object,
            Backing::Anonymous => false,
        };
        let writer = |vma: &Vma| !vma.is_private() && vma.flags.contains(VmaFlags::MAYWRITE) && of_object(vma);
        self.inner.read().vmas.iter().any(writer)
    }

    /// Checks a range for msync(2): our objects need no writing back.
    ///
    /// # Errors
    /// `EBUSY` if `invalidate` and a page is locked, `ENOMEM` if one is not mapped.
    pub fn sync(&self, addr: UserAddr, len: u64, invalidate: bool, wait: bool) -> Result<()> {
        let range = checked(addr, len)?;
        let notes = {
            let inner = self.inner.read();
            if invalidate && inner.vmas.within(&range).any(|vma| vma.flags.contains(VmaFlags::LOCKED)) {
                return Err(Errno::EBUSY);
            }
            if !inner.vmas.covers(&range) {
                return Err(Errno::ENOMEM);
            }
            wait && inner.vmas.within(&range).any(|vma| notes_writes(&vma))
        };
        if notes {
            self.note_next_writes(&range);
        }
        Ok(())
    }

    /// Shared pages of objects that note writes are not writable until the next one.
    fn note_next_writes(&self, range: &Range<u64>) {
        let mut inner = self.inner.write();
        let mut told = false;
        let mut at = range.start;
        let next = |inner: &Inner, from: u64| inner.vmas.within(&(from..range.end)).find(notes_writes);
        while let Some(Vma { start, end, prot, .. }) = next(&inner, at) {
            at = end;
            let mut any = false;
            inner.table.get_mut().update(start / PAGE..end / PAGE, |_, pte| {
                any |= pte.is_writable();
                *pte = pte.read_only();
            });
            if any && prot.contains(Prot::WRITE) {
                self.log.append(Change::Protect { start, end, prot: prot.difference(Prot::WRITE).bits() });
                told = true;
            }
        }
        if told {
            view::shootdown(&self.log);
        }
    }

    /// Locks or unlocks a range. Source: mlock(2).
    ///
    /// # Errors
    /// `ENOMEM` if part of it is not mapped, or cannot be made present.
    pub fn lock_range(&self, addr: UserAddr, len: u64, mode: LockMode) -> Result<()> {
        let start = addr.page();
        let len = len.checked_add(addr.0 - start.0).ok_or(Errno::EINVAL)?;
        let range = checked(start, len)?;
        let mut inner = self.inner.write();
        inner.vmas.update(&range, |vma| {
            if !vma.flags.contains(VmaFlags::SECRET) {
                vma.flags = vma.flags.difference(LOCKS) | mode.flags();
            }
        });
        if !inner.vmas.covers(&range) {
            return Err(Errno::ENOMEM);
        }
        drop(inner);
        match mode {
            LockMode::Now => self.populate(range.start, range.end).map_err(|_| Errno::ENOMEM),
            _ => Ok(()),
        }
    }

    /// mlockall(2) and munlockall(2): `now` for what is mapped, unless that stays as it is, `future` for what will be.
    pub fn lock_all(&self, now: Option<LockMode>, future: LockMode) {
        let mut inner = self.inner.write();
        inner.lock_future = future.flags();
        if let Some(mode) = now {
            inner.vmas.update(&(0..USER_TOP), |vma| vma.flags = vma.flags.difference(LOCKS) | mode.flags());
        }
        drop(inner);
        if now != Some(LockMode::Now) {
            return;
        }
        let next = |from: u64| self.inner.read().vmas.find_from(from).map(|vma| (vma.start.max(from), vma.end));
        let mut at = 0;
        while let Some((start, end)) = next(at) {
            // What cannot be present (no permission, the end of a file) stays away.
            let _ = self.populate(start, end);
            at = end;
        }
    }

    /// Bytes locked, and bytes that locking the range would add.
    pub fn locked(&self, addr: UserAddr, len: u64) -> (u64, u64) {
        let inner = self.inner.read();
        let is_locked = |vma: &Vma| vma.flags.contains(VmaFlags::LOCKED);
        let now = inner.vmas.iter().filter(|vma| is_locked(vma)).map(Vma::len).sum();
        let range = addr.page().0..addr.0.saturating_add(len).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let mapped: u64 = inner.vmas.within(&range).filter(is_locked).map(|vma| vma.len()).sum();
        (now, (range.end - range.start.min(range.end)).saturating_sub(mapped))
    }

    /// Whether what is mapped next is locked (mlockall(2), `MCL_FUTURE`).
    pub fn locks_future(&self) -> bool {
        self.inner.read().lock_future.contains(VmaFlags::LOCKED)
    }

    /// Whether the area at `addr` is locked.
    pub fn is_locked(&self, addr: UserAddr) -> bool {
        self.inner.read().vmas.find(addr.0).is_some_and(|vma| vma.flags.contains(VmaFlags::LOCKED))
    }

    /// Keeps the areas of a range as they are for ever. Source: Linux's Documentation/userspace-api/mseal.rst.
    ///
    /// # Errors
    /// `EINVAL` for a misaligned range, `ENOMEM` if part of it is not mapped.
    pub fn seal(&self, addr: UserAddr, len: u64) -> Result<()> {
        let range = checked(addr, len).map_err(|errno| if len > USER_TOP { Errno::EINVAL } else { errno })?;
        let mut inner = self.inner.write();
        if !inner.vmas.covers(&range) {
            return Err(Errno::ENOMEM);
        }
        inner.vmas.update(&range, |vma| vma.flags.insert(VmaFlags::SEALED));
        Ok(())
    }
}

/// Areas of a range that a call may change without asking for memory for lists of them.
pub(super) const FEW_AREAS: usize = 64;
/// Bytes that such lists take of each, while they grow.
const BYTES_PER_AREA: u64 = 8 * size_of::<Vma>() as u64;

/// `EPERM` if an area of the range is sealed.
pub(super) fn check_sealed(inner: &Inner, range: &Range<u64>) -> Result<()> {
    let sealed = inner.vmas.within(range).any(|vma| vma.flags.contains(VmaFlags::SEALED));
    if sealed { Err(Errno::EPERM) } else { Ok(()) }
}

/// The same, or `ENOMEM` if lists of the range's areas may not fit.
pub(super) fn check_change(inner: &Inner, range: &Range<u64>) -> Result<()> {
    check_sealed(inner, range)?;
    check_parts(inner, range)
}

/// `ENOMEM` if lists of the range's areas may not fit.
pub(super) fn check_parts(inner: &Inner, range: &Range<u64>) -> Result<()> {
    let parts = if inner.vmas.count() > FEW_AREAS { inner.vmas.within(range).count() } else { 0 };
    if parts > FEW_AREAS { heap::room_for(parts as u64 * BYTES_PER_AREA) } else { Ok(()) }
}

/// `MADV_REMOVE`: what areas show of their objects becomes a hole.
fn punch(parts: &[Vma]) -> Result<()> {
    for part in parts {
        let Backing::File { object, offset, .. } = &part.backing else { return Err(Errno::EINVAL) };
        if part.is_private() || !part.flags.contains(VmaFlags::MAYWRITE) {
            return Err(Errno::EACCES);
        }
        let object: &Arc<dyn Mappable> = object;
        object.punch(*offset, part.len())?;
    }
    Ok(())
}

/// The range, rounded to pages; empty ranges are fine and do nothing.
pub(super) fn checked(addr: UserAddr, len: u64) -> Result<Range<u64>> {
    if len == 0 && addr.is_page_aligned() {
        return Ok(addr.0..addr.0);
    }
    page_range(addr.0, len)
}

/// Whether the first write of each page of the area is told to its object.
fn notes_writes(vma: &Vma) -> bool {
    let object = vma.object_page(vma.start / PAGE);
    !vma.is_private() && object.is_some_and(|(object, _)| object.notes_writes())
}

/// Pages of `vma` that show `object` from page `first` on.
fn pages_from(vma: &Vma, object: *const (), first: u64) -> Option<Range<u64>> {
    let (own, index) = vma.object_page(vma.start / PAGE)?;
    if super::vma::object_id(own) != object {
        return None;
    }
    let pages = vma.pages();
    let start = pages.start + first.saturating_sub(index);
    (start < pages.end).then_some(start..pages.end)
}
