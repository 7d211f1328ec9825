//! mmap, munmap, mprotect, brk: changes of the set of areas.

use super::advise::{FEW_AREAS, check_change, check_sealed};
use super::commit;
use super::space::{Doomed, Inner, Space, UNLIMITED};
use super::vma::{Backing, Prot, Vma, VmaFlags};
use crate::setting::Setting;
use crate::{Errno, Result};
use core::ops::Range;
use umbel_abi::machine::layout::{USER_BOTTOM, USER_TOP};
use umbel_mm::log::Change;
use umbel_mm::{PAGE, UserAddr, heap, view};

/// Areas that a space may have (`vm.max_map_count`).
pub static MAX_AREAS: Setting = Setting::new(65_530, 0, i32::MAX as u64);
/// End of what `MAP_32BIT` may hand out.
const LOW_END: u64 = 0x8000_0000;
const LOW_START: u64 = 0x4000_0000;

/// Where a new area goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Anywhere; at the hint if that is free.
    Anywhere,
    /// Anywhere below 2 GiB (`MAP_32BIT`); at the hint if that is free and below, too.
    Low,
    /// Exactly there, over what is there (`MAP_FIXED`).
    Fixed,
    /// Exactly there, if it is free; else `EEXIST` (`MAP_FIXED_NOREPLACE`).
    FixedFree,
}

/// What mmap(2) asks for.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// Hint or place.
    pub addr: UserAddr,
    /// Bytes; rounded up to pages.
    pub len: u64,
    pub place: Place,
    pub prot: Prot,
    pub flags: VmaFlags,
    pub backing: Backing,
}

/// Rounds a range up to pages; `EINVAL` if it is empty or misaligned, `ENOMEM` beyond guest addresses.
pub(super) fn page_range(addr: u64, len: u64) -> Result<Range<u64>> {
    if !addr.is_multiple_of(PAGE) || len == 0 {
        return Err(Errno::EINVAL);
    }
    let len = len.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
    let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
    if end > USER_TOP { Err(Errno::ENOMEM) } else { Ok(addr..end) }
}

impl Space {
    /// Adds an area; its address. Source: mmap(2).
    ///
    /// # Errors
    /// `EINVAL` for a misaligned or empty range, `EEXIST`, `ENOMEM`, `EPERM` below the lowest address.
    pub fn map(&self, request: MapRequest) -> Result<UserAddr> {
        heap::room()?;
        let len = request.len.checked_next_multiple_of(PAGE).filter(|&len| len > 0 && len <= USER_TOP);
        let len = len.ok_or(if request.len == 0 { Errno::EINVAL } else { Errno::ENOMEM })?;
        if let Backing::File { object, .. } = &request.backing
            && let Some(set) = object.mappings()
        {
            set.add(self.handle());
        }
        let mut doomed = Doomed::default();
        let fixed = matches!(request.place, Place::Fixed | Place::FixedFree);
        let wanted = request.addr.0..if fixed { request.addr.0.saturating_add(len) } else { request.addr.0 };
        let mut inner = self.write_cleared(&wanted);
        let range = place(&mut inner, &request, len)?;
        let mut flags = request.flags;
        // Under the lock: who seals it looks for areas afterwards.
        if let Backing::File { object, .. } = &request.backing
            && flags.contains(VmaFlags::SHARED)
            && object.write_sealed()
        {
            if request.prot.contains(Prot::WRITE) {
                return Err(Errno::EPERM);
            }
            flags.remove(VmaFlags::MAYWRITE);
        }
        inner.check_exec_gain(request.prot, request.prot)?;
        check_change(&inner, &range)?;
        let replaced: u64 = inner.vmas.within(&range).map(|vma| vma.len()).sum();
        // One more than it says, as on Linux.
        if inner.vmas.count() > max_areas() || inner.vmas.bytes() - replaced + len > inner.limits.address_space {
            return Err(Errno::ENOMEM);
        }
        check_data(&inner, request.prot, flags, len)?;
        check_commit(request.prot, flags, len)?;
        if replaced > 0 {
            self.remove_range(&mut inner, &range, &mut doomed);
        }
        flags.insert(inner.lock_future);
        let (start, end, prot, backing) = (range.start, range.end, request.prot, request.backing);
        if matches!(backing, Backing::Anonymous) {
            inner.edges.note(&(start / PAGE..end / PAGE));
        }
        inner.vmas.insert(Vma::new(start..end, prot, flags, backing));
        drop(inner);
        if flags.contains(VmaFlags::LOCKED) {
            // Only mlock(2) tells of failures.
            let _ = self.populate(start, end);
        }
        Ok(UserAddr(start))
    }

    /// Removes what is mapped in a range. Source: munmap(2).
    pub fn unmap(&self, addr: UserAddr, len: u64) -> Result<()> {
        let mut range = page_range(addr.0, len).map_err(|_| Errno::EINVAL)?;
        let mut checked = false;
        loop {
            let mut doomed = Doomed::default();
            let mut inner = self.write_cleared(&range);
            // Splitting one area makes one more.
            let splits = inner.vmas.find(range.start).is_some_and(|vma| vma.start < range.start && range.end < vma.end);
            if splits && inner.vmas.count() >= max_areas() {
                return Err(Errno::ENOMEM);
            }
            // A few areas at a time: lists of many take memory, which whoever unmaps may be about to make.
            let end = inner.vmas.within(&range).nth(FEW_AREAS).map_or(range.end, |vma| vma.start);
            // All or nothing, unless another thread seals meanwhile.
            check_sealed(&inner, &(range.start..if checked { end } else { range.end }))?;
            checked = true;
            self.remove_range(&mut inner, &(range.start..end), &mut doomed);
            if end == range.end {
                return Ok(());
            }
            range.start = end;
        }
    }

    /// Removes areas and pages of a range, from every slot too. Their frames go when `doomed` does.
    pub(super) fn remove_range(&self, inner: &mut Inner, range: &Range<u64>, doomed: &mut Doomed) {
        let (mut gone, mut told): (Option<Range<u64>>, _) = (None, false);
        for part in inner.vmas.remove(range) {
            if Self::may_be_mapped(inner, &part) {
                gone = Some(gone.map_or(part.start, |gone| gone.start)..part.end);
                // Pages of the host are claimed by nobody.
                told |= matches!(part.backing, Backing::File { .. }) || !Self::only_here(inner, part.pages());
            }
            // Entries of areas without any permission are there too.
            doomed.extend(inner.table.get_mut().detach(part.pages()));
            doomed.keep(part);
        }
        let Some(gone) = gone else { return };
        if told {
            self.log_drop(gone.start, gone.end);
            view::shootdown(&self.log);
        } else {
            view::apply_here(&self.log, Change::Drop { start: gone.start, end: gone.end });
        }
    }

    /// As [`Self::protect`], from the start of the area that grows down (`PROT_GROWSDOWN`).
    ///
    /// # Errors
    /// `EINVAL` if it does not grow, `ENOMEM` if there is none.
    pub fn protect_down(&self, addr: UserAddr, len: u64, prot: Prot) -> Result<()> {
        let range = page_range(addr.0, len)?;
        let start = {
            let inner = self.inner.read();
            let vma = inner.vmas.find_from(range.start).filter(|vma| vma.start < range.end).ok_or(Errno::ENOMEM)?;
            if !vma.flags.contains(VmaFlags::GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            vma.start
        };
        self.protect(UserAddr(start), range.end - start, prot)
    }

    /// Changes the protection of a range. Source: mprotect(2).
    ///
    /// # Errors
    /// `ENOMEM` if part of the range is not mapped, `EACCES` to write a shared object that was opened for reading.
    pub fn protect(&self, addr: UserAddr, len: u64, prot: Prot) -> Result<()> {
        if len == 0 && addr.is_page_aligned() {
            return Ok(());
        }
        let range = page_range(addr.0, len)?;
        drop(self.write_cleared(&range));
        let mut inner = if prot.contains(Prot::WRITE) { self.write_own_text(&range) } else { self.inner.write() };
        if !inner.vmas.covers(&range) || inner.vmas.count() + 2 > max_areas() {
            return Err(Errno::ENOMEM);
        }
        check_change(&inner, &range)?;
        let denied = |vma: &Vma| !vma.is_private() && !vma.flags.contains(VmaFlags::MAYWRITE);
        if prot.contains(Prot::WRITE) && inner.vmas.within(&range).any(|vma| denied(&vma)) {
            return Err(Errno::EACCES);
        }
        if prot.contains(Prot::EXEC) && inner.vmas.within(&range).any(|vma| vma.flags.contains(VmaFlags::NOEXEC)) {
            return Err(Errno::EACCES);
        }
        inner.vmas.within(&range).try_for_each(|vma| inner.check_exec_gain(vma.prot, prot))?;
        let (now, then) = inner.vmas.within(&range).fold((0, 0), |(now, then), mut vma| {
            let before = vma.committed();
            vma.prot = prot;
            (now + before, then + vma.committed())
        });
        if then > now {
            commit::check(then - now)?;
        }
        let mut told = false;
        let parts: alloc::vec::Vec<Vma> = inner.vmas.within(&range).collect();
        for part in &parts {
            if !part.prot.difference(prot).is_empty() && Self::may_be_mapped(&mut inner, part) {
                let less = less(part, prot);
                if matches!(part.backing, Backing::Anonymous) && Self::only_here(&mut inner, part.pages()) {
                    view::apply_here(&self.log, less);
                } else {
                    self.log.append(less);
                    told = true;
                }
            }
        }
        inner.vmas.update(&range, |vma| vma.prot = prot);
        if told {
            view::shootdown(&self.log);
        }
        Ok(())
    }

    /// A free range of `len` bytes in the mmap area; nothing is reserved. For the loader, whose space nobody else has.
    pub fn find_room(&self, len: u64) -> Result<UserAddr> {
        let len = len.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
        find_place(&mut self.inner.write(), 0, len).map(|range| UserAddr(range.start)).ok_or(Errno::ENOMEM)
    }

    /// Puts the heap's start: the loader.
    pub fn set_brk(&self, start: UserAddr) {
        let mut inner = self.inner.write();
        inner.layout.brk_start = start.0;
        inner.layout.brk = start.0;
    }

    /// Moves the heap's end if that can be; where it is then. Source: brk(2), Linux's return value.
    pub fn brk(&self, to: UserAddr) -> UserAddr {
        let mut doomed = Doomed::default();
        let mut inner = self.inner.write();
        let (start, now) = (inner.layout.brk_start, inner.layout.brk);
        if to.0 < start || start == 0 || to.0 > USER_TOP {
            return UserAddr(now);
        }
        let (old, new) = (now.next_multiple_of(PAGE), to.0.next_multiple_of(PAGE));
        if new < old {
            if check_change(&inner, &(new..old)).is_err() {
                return UserAddr(now);
            }
            self.remove_range(&mut inner, &(new..old), &mut doomed);
        } else if new > old && !grow_heap(&mut inner, old, new) {
            return UserAddr(now);
        }
        inner.layout.brk = to.0;
        let locked = inner.lock_future.contains(VmaFlags::LOCKED) && new > old;
        drop(inner);
        if locked {
            let _ = self.populate(old, new);
        } else if new > old {
            self.prefault(old, new - old);
        }
        to
    }
}

/// That an area has less protection. Never more than its strictest page allows: pages to be copied on write.
fn less(part: &Vma, prot: Prot) -> Change {
    let Vma { start, end, .. } = *part;
    if prot.is_empty() {
        return Change::Drop { start, end };
    }
    let host = if part.is_private() { prot.difference(Prot::WRITE) } else { prot };
    Change::Protect { start, end, prot: host.bits() }
}

/// See [`MAX_AREAS`].
pub(super) fn max_areas() -> usize {
    MAX_AREAS.get() as usize
}

/// `ENOMEM` if an area of `more` bytes may not be promised.
pub(super) fn check_commit(prot: Prot, flags: VmaFlags, more: u64) -> Result<()> {
    let area = Vma::new(0..more, prot, flags, Backing::Anonymous);
    match area.committed() {
        0 => Ok(()),
        bytes => commit::check(bytes),
    }
}

/// `ENOMEM` if an area of `more` bytes takes the private writable ones beyond `RLIMIT_DATA`.
pub(super) fn check_data(inner: &Inner, prot: Prot, flags: VmaFlags, more: u64) -> Result<()> {
    let is_data = |prot: Prot, flags: VmaFlags| {
        prot.contains(Prot::WRITE) && !flags.intersects(VmaFlags::SHARED | VmaFlags::GROWSDOWN)
    };
    if inner.limits.data == UNLIMITED || !is_data(prot, flags) {
        return Ok(());
    }
    let data: u64 = inner.vmas.iter().filter(|vma| is_data(vma.prot, vma.flags)).map(Vma::len).sum();
    if data.saturating_add(more) > inner.limits.data { Err(Errno::ENOMEM) } else { Ok(()) }
}

fn grow_heap(inner: &mut Inner, old: u64, new: u64) -> bool {
    let more = new - old;
    let limits = inner.limits;
    let data = new - inner.layout.brk_start;
    // One page stays free above, as below a stack.
    if new + PAGE > USER_TOP
        || inner.vmas.find_from(old).is_some_and(|next| next.start < new + PAGE)
        || inner.vmas.bytes() + more > limits.address_space
        || (limits.data != UNLIMITED && data > limits.data)
        || check_commit(Prot::WRITE, VmaFlags::HEAP, more).is_err()
        || check_data(inner, Prot::READ | Prot::WRITE, VmaFlags::HEAP, more).is_err()
        || heap::room().is_err()
    {
        return false;
    }
    let flags = VmaFlags::HEAP | inner.lock_future;
    let prot = Prot::READ | Prot::WRITE;
    inner.vmas.insert(Vma::new(old..new, prot, flags, Backing::Anonymous));
    true
}

/// The range for a request of `len` bytes.
fn place(inner: &mut Inner, request: &MapRequest, len: u64) -> Result<Range<u64>> {
    let hint = request.addr.0;
    match request.place {
        Place::Fixed | Place::FixedFree => {
            let range = page_range(hint, len)?;
            if range.start < USER_BOTTOM {
                return Err(Errno::EPERM);
            }
            if request.place == Place::FixedFree && inner.vmas.within(&range).next().is_some() {
                return Err(Errno::EEXIST);
            }
            return Ok(range);
        }
        Place::Low => {
            let at_hint = at_hint(inner, hint, len, LOW_END);
            let low = || inner.vmas.gap_below(&(LOW_START..LOW_END), len).map(|start| start..start + len);
            return at_hint.or_else(low).ok_or(Errno::ENOMEM);
        }
        Place::Anywhere => {}
    }
    find_place(inner, hint, len).ok_or(Errno::ENOMEM)
}

/// A free range: at the hint if there is one and it is free, else top-down in the mmap area, else anywhere.
pub(super) fn find_place(inner: &mut Inner, hint: u64, len: u64) -> Option<Range<u64>> {
    if let Some(range) = at_hint(inner, hint, len, USER_TOP) {
        return Some(range);
    }
    let ends = [inner.layout.mmap_top, USER_TOP - PAGE];
    let start = ends.into_iter().find_map(|end| inner.vmas.gap_below(&(USER_BOTTOM..end), len))?;
    Some(start..start + len)
}

/// The range at the hint, if there is a hint, the range is free and ends no higher than `limit`.
fn at_hint(inner: &Inner, hint: u64, len: u64, limit: u64) -> Option<Range<u64>> {
    let start = hint.checked_next_multiple_of(PAGE)?;
    let end = start.checked_add(len)?;
    let free = || inner.vmas.within(&(start..end)).next().is_none() && inner.vmas.guard_from(end) >= end;
    (start >= USER_BOTTOM && end <= limit && free()).then_some(start..end)
}
