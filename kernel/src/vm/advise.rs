//! madvise, mincore, msync, mlock: what a guest says and asks about its pages.

use super::map::page_range;
use super::space::{Doomed, Space};
use super::vma::{Backing, Vma, VmaFlags};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::ops::Range;
use umbel_abi::linux::uapi;
use umbel_mm::{PAGE, UserAddr, view};

impl Space {
    /// Source: madvise(2). Advice that only steers caching is checked and accepted.
    ///
    /// # Errors
    /// `EINVAL` for unknown advice, `ENOMEM` if part of the range is not mapped.
    pub fn advise(&self, addr: UserAddr, len: u64, advice: u32) -> Result<()> {
        let change: fn(&mut VmaFlags) = match advice {
            uapi::MADV_DONTNEED | uapi::MADV_FREE | uapi::MADV_DONTNEED_LOCKED => {
                return self.discard(addr, len, advice);
            }
            uapi::MADV_NORMAL
            | uapi::MADV_RANDOM
            | uapi::MADV_SEQUENTIAL
            | uapi::MADV_WILLNEED
            | uapi::MADV_MERGEABLE
            | uapi::MADV_UNMERGEABLE
            | uapi::MADV_HUGEPAGE
            | uapi::MADV_NOHUGEPAGE
            | uapi::MADV_COLD
            | uapi::MADV_PAGEOUT
            | uapi::MADV_COLLAPSE => |_| {},
            uapi::MADV_DONTFORK => |flags| flags.insert(VmaFlags::DONTFORK),
            uapi::MADV_DOFORK => |flags| flags.remove(VmaFlags::DONTFORK),
            uapi::MADV_WIPEONFORK => |flags| flags.insert(VmaFlags::WIPEONFORK),
            uapi::MADV_KEEPONFORK => |flags| flags.remove(VmaFlags::WIPEONFORK),
            uapi::MADV_DONTDUMP => |flags| flags.insert(VmaFlags::DONTDUMP),
            uapi::MADV_DODUMP => |flags| flags.remove(VmaFlags::DONTDUMP),
            uapi::MADV_POPULATE_READ | uapi::MADV_POPULATE_WRITE => {
                let range = checked(addr, len)?;
                self.populate(range.start, range.end);
                return Ok(());
            }
            _ => return Err(Errno::EINVAL),
        };
        let range = checked(addr, len)?;
        let mut inner = self.inner.lock();
        let wipe = advice == uapi::MADV_WIPEONFORK;
        let cannot_wipe = |vma: &Vma| !vma.is_private() || !matches!(vma.backing, Backing::Anonymous);
        if wipe && inner.vmas.within(&range).any(|vma| cannot_wipe(&vma)) {
            return Err(Errno::EINVAL);
        }
        inner.vmas.update(&range, |vma| change(&mut vma.flags));
        if inner.vmas.covers(&range) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Drops pages: anonymous ones read as zero afterwards, others as their object.
    fn discard(&self, addr: UserAddr, len: u64, advice: u32) -> Result<()> {
        let range = checked(addr, len)?;
        let mut doomed = Doomed::default();
        let mut inner = self.inner.lock();
        let parts: Vec<Vma> = inner.vmas.within(&range).collect();
        let locked = |vma: &Vma| vma.flags.contains(VmaFlags::LOCKED) && advice != uapi::MADV_DONTNEED_LOCKED;
        let shared = |vma: &Vma| advice == uapi::MADV_FREE && !matches!(vma.backing, Backing::Anonymous);
        if parts.iter().any(|vma| locked(vma) || shared(vma)) {
            return Err(Errno::EINVAL);
        }
        let mut told = false;
        for part in &parts {
            let taken = inner.table.detach(part.pages());
            if !taken.is_empty() {
                self.log_drop(part.start, part.end);
                told = true;
            }
            doomed.extend(taken);
        }
        if told {
            view::shootdown(&self.log);
        }
        if inner.vmas.covers(&range) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// The pages of an object from `first` on are gone: drops entries and copies.
    pub(super) fn forget_pages(&self, object: *const (), first: u64) {
        let mut doomed = Doomed::default();
        let mut inner = self.inner.lock();
        let mut told = false;
        let parts: Vec<Range<u64>> = inner.vmas.iter().filter_map(|vma| pages_from(vma, object, first)).collect();
        for pages in parts {
            doomed.extend(inner.table.detach(pages.clone()));
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
        self.inner.lock().vmas.iter().any(writer)
    }

    /// Checks a range for msync(2): our objects need no writing back.
    pub fn sync(&self, addr: UserAddr, len: u64) -> Result<()> {
        let range = checked(addr, len)?;
        if self.inner.lock().vmas.covers(&range) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Locks or unlocks a range. Source: mlock(2). `now`: make it present (not `MLOCK_ONFAULT`).
    pub fn lock_range(&self, addr: UserAddr, len: u64, lock: bool, now: bool) -> Result<()> {
        let start = addr.page();
        let len = len.checked_add(addr.0 - start.0).ok_or(Errno::EINVAL)?;
        let range = checked(start, len)?;
        let mut inner = self.inner.lock();
        inner.vmas.update(&range, |vma| vma.flags.set(VmaFlags::LOCKED, lock));
        let covered = inner.vmas.covers(&range);
        drop(inner);
        if lock && now {
            self.populate(range.start, range.end);
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// mlockall(2) and munlockall(2).
    pub fn lock_all(&self, lock_now: bool, lock_future: bool) {
        let mut inner = self.inner.lock();
        inner.lock_future = lock_future;
        let all = 0..umbel_abi::machine::layout::USER_TOP;
        if lock_now || !lock_future {
            inner.vmas.update(&all, |vma| vma.flags.set(VmaFlags::LOCKED, lock_now));
        }
        drop(inner);
        if lock_now {
            self.populate(all.start, all.end);
        }
    }

    /// Bytes locked, and bytes that locking the range would add.
    pub fn locked(&self, addr: UserAddr, len: u64) -> (u64, u64) {
        let inner = self.inner.lock();
        let is_locked = |vma: &Vma| vma.flags.contains(VmaFlags::LOCKED);
        let now = inner.vmas.iter().filter(|vma| is_locked(vma)).map(Vma::len).sum();
        let range = addr.page().0..addr.0.saturating_add(len);
        let more = inner.vmas.within(&range).filter(|vma| !is_locked(vma)).map(|vma| vma.len()).sum();
        (now, more)
    }
}

/// The range, rounded to pages; empty ranges are fine and do nothing.
pub(super) fn checked(addr: UserAddr, len: u64) -> Result<Range<u64>> {
    if len == 0 && addr.is_page_aligned() {
        return Ok(addr.0..addr.0);
    }
    page_range(addr.0, len)
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
