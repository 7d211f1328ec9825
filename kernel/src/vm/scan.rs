//! Looking for pages of a kind, and watching the next writes of those found. Source: Linux's
//! Documentation/admin-guide/mm/pagemap.rst, `PAGEMAP_SCAN`.
//!
//! A page whose writes are watched by a userfaultfd that is not asked (`UFFD_FEATURE_WP_ASYNC`) has been written when it is not
//! watched any more. To find those and to watch them again is one step: both happen under the space's lock as its writer, and
//! slots have let go of writing before it is given back. What is written meanwhile is in the pages before who asked looks at them.

use super::account::page_state;
use super::map::max_areas;
use super::space::{Inner, Space};
use super::table::Pte;
use super::userfault::Watch;
use super::vma::{Prot, Vma, VmaFlags};
use crate::{Errno, Result};
use bitflags::bitflags;
use core::ops::Range;
use umbel_abi::machine::layout::USER_TOP;
use umbel_mm::log::Change;
use umbel_mm::{PAGE, view};

bitflags! {
    /// What a page is. Bits as `PAGE_IS_*`; those of swapped, zero and huge pages say what there is here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Category: u64 {
        /// Its writes can be watched without anybody being asked.
        const WPALLOWED = 1;
        /// It is not watched: written, if it was.
        const WRITTEN = 2;
        const FILE = 4;
        const PRESENT = 8;
        /// Not present, but watched or guarded.
        const SWAPPED = 16;
        /// Never: there is no such page.
        const PFNZERO = 32;
        /// Never.
        const HUGE = 64;
        const SOFT_DIRTY = 128;
        const GUARD = 256;
    }
}

/// What is looked for: pages that have, with `inverted` inverted, all of `all` and, unless it is empty, one of `any`.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    pub inverted: Category,
    pub all: Category,
    pub any: Category,
    /// The next writes of what is found are watched.
    pub watch: bool,
    /// Areas where that cannot be are an error, and not passed over.
    pub check: bool,
}

impl Query {
    fn wants(&self, category: Category) -> bool {
        let category = category.symmetric_difference(self.inverted);
        category.contains(self.all) && (self.any.is_empty() || category.intersects(self.any))
    }

    /// Whether pages of `vma` can be among what is looked for.
    ///
    /// # Errors
    /// `EPERM` if their writes were to be watched and cannot be.
    fn wants_area(&self, vma: &Vma) -> Result<bool> {
        let of_area = area_category(vma);
        if !of_area.contains(Category::WPALLOWED) {
            if self.check {
                return Err(Errno::EPERM);
            }
            if self.watch {
                return Ok(false);
            }
        }
        let needed = self.all & Category::WPALLOWED;
        Ok(of_area.symmetric_difference(self.inverted).contains(needed))
    }
}

fn area_category(vma: &Vma) -> Category {
    let is_async = vma.watch.as_ref().is_some_and(Watch::is_async);
    if is_async { Category::WPALLOWED } else { Category::empty() }
}

impl Space {
    /// Gives `take` the ranges of addresses from `range.start` on whose pages `query` wants; that tells where the first page is that it
    /// does not take. Ends there, at the end of `range`, or after `steps` ranges; where, and whether everything was taken.
    ///
    /// # Errors
    /// `EPERM`: see [`Query::check`]; `ENOMEM`.
    pub fn scan(
        &self,
        range: Range<u64>,
        query: &Query,
        steps: usize,
        take: &mut dyn FnMut(Range<u64>, Category) -> u64,
    ) -> Result<(u64, bool)> {
        let mut inner = self.inner.write();
        let mut watched: Option<Range<u64>> = None;
        let mut at = range.start;
        let mut left = steps;
        let mut result = Ok(true);
        while at < range.end && left > 0 {
            left -= 1;
            let Some(vma) = inner.vmas.first_within(&(at..range.end.min(USER_TOP))) else {
                at = range.end;
                break;
            };
            at = at.max(vma.start);
            match query.wants_area(&vma) {
                Ok(true) => {}
                Ok(false) => {
                    at = vma.end;
                    continue;
                }
                Err(errno) => {
                    result = Err(errno);
                    break;
                }
            }
            let (end, category) = alike(&mut inner, &vma, at / PAGE);
            let piece = at..end * PAGE;
            at = piece.end;
            if !query.wants(category) {
                continue;
            }
            let taken = take(piece.clone(), category);
            if query.watch && taken > piece.start {
                let entering = watch_piece(&mut inner, &(piece.start..taken));
                match &mut watched {
                    Some(range) => range.end = taken,
                    None => watched = Some(piece.start..taken),
                }
                if let Err(errno) = entering {
                    result = Err(errno);
                    break;
                }
            }
            if taken < piece.end {
                at = taken;
                result = Ok(false);
                break;
            }
        }
        if let Some(Range { start, end }) = watched {
            self.forbid_writes(&inner, start..end);
        }
        result.map(|all| (at, all))
    }

    /// Slots let go of writing to a range: what may be written comes back by faults.
    fn forbid_writes(&self, inner: &Inner, range: Range<u64>) {
        for vma in inner.vmas.within(&range).filter(|vma| vma.prot.contains(Prot::WRITE)) {
            let prot = vma.prot.difference(Prot::WRITE).bits();
            self.log.append(Change::Protect { start: vma.start, end: vma.end, prot });
        }
        view::shootdown(&self.log);
    }
}

/// Pages from `vpn` of `vma` on that are alike: where they end, and what they are. Those that are there are looked at one by one.
fn alike(inner: &mut Inner, vma: &Vma, vpn: u64) -> (u64, Category) {
    let state = page_state(inner, vma, vpn);
    let table = inner.table.get_mut();
    let end = if table.get(vpn).is_present() { vpn + 1 } else { table.next_present(vpn..end_of_kind(vma, vpn)) };
    let mut category = area_category(vma);
    let watchable = category.contains(Category::WPALLOWED);
    category.set(Category::PRESENT, state.present);
    category.set(Category::FILE, state.present && state.of_object);
    category.set(Category::SWAPPED, !state.present && (state.watched || state.guard));
    category.set(Category::GUARD, state.guard);
    category.set(Category::SOFT_DIRTY, state.dirty);
    // What was never there was not written, unless somebody would have been told.
    category.set(Category::WRITTEN, !state.watched && (state.present || state.guard || watchable));
    (end, category)
}

/// Where absent pages end that are in the file, or behind its end, as page `vpn` is.
fn end_of_kind(vma: &Vma, vpn: u64) -> u64 {
    let end = vma.pages().end;
    let Some((object, index)) = vma.object_page(vpn) else { return end };
    match object.size().div_ceil(PAGE).checked_sub(index) {
        Some(inside @ 1..) => end.min(vpn.saturating_add(inside)),
        _ => end,
    }
}

/// Watches the next writes of a range, whether pages are there or not.
fn watch_piece(inner: &mut Inner, range: &Range<u64>) -> Result<()> {
    let pages = range.start / PAGE..range.end / PAGE;
    if inner.table.get_mut().next_present(pages.clone()) < pages.end {
        inner.table.get_mut().update(pages, |_, pte| *pte = Pte::watched(*pte));
        return Ok(());
    }
    let part = inner.vmas.first_within(range);
    if part.is_some_and(|part| part.is_protected() || part.flags.contains(VmaFlags::GUARD)) {
        return Ok(());
    }
    if inner.vmas.count() + 2 > max_areas() {
        return Err(Errno::ENOMEM);
    }
    inner.vmas.update(range, |vma| vma.set_protected(true));
    Ok(())
}
