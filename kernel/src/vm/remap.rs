//! mremap(2).

use super::advise::check_change;
use super::map::{check_commit, check_data, find_place, max_areas, page_range};
use super::space::{Doomed, Inner, Space};
use super::vma::{Backing, Vma, VmaFlags, object_id};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use umbel_abi::machine::layout::{USER_BOTTOM, USER_TOP};
use umbel_mm::{PAGE, UserAddr, heap, view};

/// Where mremap may put the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nowhere else.
    Stay,
    /// Elsewhere if it cannot grow in place (`MREMAP_MAYMOVE`).
    May,
    /// Exactly there (`MREMAP_FIXED`).
    To(UserAddr),
}

impl Space {
    /// Changes the size of an area, moving it if need be; its address. With `keep` (`MREMAP_DONTUNMAP`) the old range
    /// stays, empty. Source: mremap(2).
    pub fn remap(&self, addr: UserAddr, old_len: u64, new_len: u64, how: Move, keep: bool) -> Result<UserAddr> {
        if !addr.is_page_aligned() || new_len == 0 || (keep && !old_len.is_multiple_of(PAGE)) {
            return Err(Errno::EINVAL);
        }
        let new_len = new_len.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
        let mut doomed = Doomed::default();
        let from = addr.0..addr.0.saturating_add(old_len.max(new_len));
        drop(self.write_cleared(&from));
        if let Move::To(to) = how {
            drop(self.write_cleared(&(to.0..to.0.saturating_add(new_len))));
        }
        // Patches work where they are only.
        let mut inner = self.write_own_text(&from);
        let vma = inner.vmas.find_whole(addr.0).ok_or(Errno::EFAULT)?;
        check_change(&inner, &(addr.0..addr.0.saturating_add(old_len.max(1))))?;
        if old_len == 0 {
            return self.duplicate(&mut inner, &vma, addr, new_len, how);
        }
        let mut old = page_range(addr.0, old_len).map_err(|_| Errno::EFAULT)?;
        if let Move::To(to) = how {
            self.clear_target(&mut inner, &old, to, new_len, &mut doomed)?;
        }
        // A smaller size unmaps what is left over, of however many areas that is and whatever comes of the rest.
        let kept_end = old.end.min(old.start + new_len);
        if kept_end < old.end {
            self.remove_range(&mut inner, &(kept_end..old.end), &mut doomed);
            old.end = kept_end;
        }
        let old_len = old.end - old.start;
        if new_len == old_len && !keep && !matches!(how, Move::To(_)) {
            return Ok(addr);
        }
        if old.end > vma.end {
            return Err(Errno::EFAULT);
        }
        let more = new_len - old_len;
        if let Backing::File { offset, .. } = &vma.backing {
            // Devices have pages at all offsets that there are.
            let end = offset.checked_add(old.start - vma.start).and_then(|start| start.checked_add(new_len));
            end.ok_or(Errno::EINVAL)?;
        }
        check_data(&inner, vma.prot, vma.flags, more)?;
        check_commit(vma.prot, vma.flags, more)?;
        if let Move::To(to) = how {
            let target = page_range(to.0, new_len).map_err(|_| Errno::EINVAL)?;
            self.relocate(&mut inner, &vma, old, target, keep, &mut doomed);
            return Ok(to);
        }
        check_growth(&inner, more)?;
        // Entries that move are listed on the way.
        heap::room_for((old_len / PAGE).min(inner.table.get_mut().present()) * 48)?;
        let grown = old.end..old.start + new_len;
        let free = old.end == vma.end && page_range(addr.0, new_len).is_ok();
        if !keep && free && inner.vmas.within(&grown).next().is_none() {
            inner.vmas.insert(extended(&vma, &grown));
            return Ok(addr);
        }
        if how == Move::Stay {
            return Err(Errno::ENOMEM);
        }
        let to = find_place(&mut inner, 0, new_len).ok_or(Errno::ENOMEM)?;
        self.relocate(&mut inner, &vma, old, to.clone(), keep, &mut doomed);
        Ok(UserAddr(to.start))
    }

    /// Shows the pages of the object from page `page` on in a range of one shared area. Source: remap_file_pages(2),
    /// which has been such a mapping since Linux 4.0.
    ///
    /// # Errors
    /// `EINVAL` if the range is not all of shared areas of one object, with one protection.
    pub fn remap_pages(&self, start: u64, len: u64, page: u64) -> Result<()> {
        let range = start & !(PAGE - 1)..(start & !(PAGE - 1)).saturating_add(len & !(PAGE - 1));
        let offset = page.checked_mul(PAGE).filter(|offset| offset.checked_add(len).is_some()).ok_or(Errno::EINVAL)?;
        if range.is_empty() || range.end > USER_TOP {
            return Err(Errno::EINVAL);
        }
        let mut doomed = Doomed::default();
        let mut inner = self.inner.write();
        let first = inner.vmas.within(&range).next().filter(|vma| vma.start == range.start).ok_or(Errno::EINVAL)?;
        let Backing::File { object, file, .. } = &first.backing else { return Err(Errno::EINVAL) };
        let same = |vma: &Vma| match &vma.backing {
            Backing::File { object: other, .. } => {
                object_id(object) == object_id(other) && vma.prot == first.prot && vma.flags == first.flags
            }
            Backing::Anonymous => false,
        };
        if first.is_private() || !inner.vmas.covers(&range) || !inner.vmas.within(&range).all(|vma| same(&vma)) {
            return Err(Errno::EINVAL);
        }
        check_growth(&inner, 0)?;
        check_change(&inner, &range)?;
        // One that was removed is gone before it can be shown again, if this is the only area: it and this look at it hold it.
        let gone = file.as_ref().is_some_and(|file| file.is_leaving() && Arc::strong_count(file) <= 2);
        if gone && first.end == range.end {
            self.remove_range(&mut inner, &range, &mut doomed);
            return Err(Errno::EINVAL);
        }
        let backing = Backing::File { object: object.clone(), offset, file: file.clone() };
        self.remove_range(&mut inner, &range, &mut doomed);
        inner.vmas.insert(Vma { start: range.start, end: range.end, backing, ..first });
        drop(inner);
        // As MAP_POPULATE: what fails now fails again when it is touched.
        let _ = self.populate(range.start, range.end);
        Ok(())
    }

    /// Makes room at `to` for what is moved there from `old`.
    fn clear_target(
        &self,
        inner: &mut Inner,
        old: &Range<u64>,
        to: UserAddr,
        new_len: u64,
        doomed: &mut Doomed,
    ) -> Result<()> {
        let target = page_range(to.0, new_len).map_err(|_| Errno::EINVAL)?;
        if (target.start < old.end && old.start < target.end) || target.start < USER_BOTTOM {
            return Err(Errno::EINVAL);
        }
        check_change(inner, &target)?;
        check_growth(inner, new_len.saturating_sub(old.end - old.start))?;
        heap::room_for(((old.end - old.start) / PAGE).min(inner.table.get_mut().present()) * 48)?;
        self.remove_range(inner, &target, doomed);
        Ok(())
    }

    /// Moves areas and pages of `old` (a part of `vma`) to the free range `to`.
    fn relocate(&self, inner: &mut Inner, vma: &Vma, old: Range<u64>, to: Range<u64>, keep: bool, doomed: &mut Doomed) {
        let backing = inner.vmas.within(&old).next().map_or(Backing::Anonymous, |part| part.backing);
        let marked: Vec<Vma> = inner.vmas.within(&old).filter(|part| part.flags.intersects(VmaFlags::MARKS)).collect();
        let entries: Vec<_> = inner.table.get_mut().take_range(old.start / PAGE..old.end / PAGE);
        self.log_drop(old.start, old.end);
        view::shootdown(&self.log);
        if !keep {
            self.remove_range(inner, &old, doomed);
        }
        if keep {
            // The pages that are locked, or marked, are elsewhere.
            let gone = VmaFlags::LOCKED | VmaFlags::ONFAULT | VmaFlags::MARKS;
            inner.vmas.update(&old, |vma| vma.flags.remove(gone));
        }
        let flags = vma.flags.difference(VmaFlags::GROWSDOWN | VmaFlags::HEAP | VmaFlags::STACK);
        inner.vmas.insert(Vma::new(to.clone(), vma.prot, flags, backing));
        for part in marked {
            let (start, marks) = (part.start - old.start + to.start, part.flags & VmaFlags::MARKS);
            inner.vmas.update(&(start..start + part.len()), |vma| vma.flags.insert(marks));
        }
        for (vpn, pte) in entries {
            inner.table.get_mut().set(vpn - old.start / PAGE + to.start / PAGE, pte.elsewhere().dirty());
        }
    }

    /// `old_len` 0: another mapping of the same shared object.
    fn duplicate(&self, inner: &mut Inner, vma: &Vma, addr: UserAddr, len: u64, how: Move) -> Result<UserAddr> {
        if vma.is_private() {
            return Err(Errno::EINVAL);
        }
        if how == Move::Stay {
            return Err(Errno::ENOMEM);
        }
        check_growth(inner, len)?;
        let to = match how {
            Move::To(to) => page_range(to.0, len).map_err(|_| Errno::EINVAL)?,
            _ => find_place(inner, 0, len).ok_or(Errno::ENOMEM)?,
        };
        check_change(inner, &to)?;
        let mut doomed = Doomed::default();
        self.remove_range(inner, &to, &mut doomed);
        let from = inner.vmas.within(&(addr.0..vma.end)).next().ok_or(Errno::EFAULT)?;
        inner.vmas.insert(Vma { start: to.start, end: to.end, watch: None, ..from });
        Ok(UserAddr(to.start))
    }
}

fn check_growth(inner: &Inner, more: u64) -> Result<()> {
    if inner.vmas.count() + 2 > max_areas() || inner.vmas.bytes().saturating_add(more) > inner.limits.address_space {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// The area for the addresses that `vma` grows by.
fn extended(vma: &Vma, grown: &Range<u64>) -> Vma {
    let backing = match &vma.backing {
        Backing::Anonymous => Backing::Anonymous,
        Backing::File { object, offset, file } => {
            Backing::File { object: object.clone(), offset: offset + (grown.start - vma.start), file: file.clone() }
        }
    };
    Vma { start: grown.start, end: grown.end, backing, ..vma.clone() }
}
