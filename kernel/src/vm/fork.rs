//! fork(2): a copy of a space that shares its private pages until one side writes.

use super::commit;
use super::space::{Inner, Space};
use super::table::Pte;
use super::unpatch;
use super::vma::{Prot, Vma, VmaFlags};
use super::warm::{NOTED, copy_recent};
use crate::Result;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::AtomicU32;
use umbel_abi::machine::layout::{USER_BOTTOM, USER_TOP};
use umbel_mm::log::Change;
use umbel_mm::{PAGE, frame, heap, view};

/// Log entries that a fork may append; beyond that one entry drops everything.
const MAX_ENTRIES: usize = 64;
/// Kernel memory that an area costs at most, with the vectors that hold areas and their objects meanwhile.
const BYTES_PER_AREA: u64 = 8 * size_of::<Vma>() as u64;
/// What a page-table entry costs beside the child's table: a range in the list of those to protect, which doubles as it grows.
const BYTES_PER_ENTRY: u64 = 3 * size_of::<(Range<u64>, Prot)>() as u64;

impl Space {
    /// A copy. Private pages become read-only on both sides; the parent's slots have let go of writing before the copy is
    /// made. Shared objects stay shared.
    ///
    /// # Errors
    /// `ENOMEM` when kernel memory is short.
    pub fn fork(self: &Arc<Self>) -> Result<Arc<Space>> {
        // The caller's task and the caller. With another thread, or somebody who looks in, pages must be taken at one
        // instant.
        let alone = Arc::strong_count(self) <= 2;
        // First, so that nothing is lost when memory is short.
        Space::room()?;
        let mut inner = self.inner.write();
        heap::room_for(Self::fork_cost(&mut inner))?;
        commit::check_sum(inner.vmas.committed())?;
        let areas: Vec<Vma> =
            inner.vmas.iter().filter(|vma| !vma.flags.contains(VmaFlags::DONTFORK)).cloned().collect();
        let family = inner.family.clone();
        let kept = inner.kept.clone();
        let mut child = Inner {
            layout: inner.layout,
            limits: inner.limits,
            mdwe: inner.mdwe.inherited(),
            kept,
            family,
            forked: true,
            notes_left: AtomicU32::new(NOTED),
            trampolines: unpatch::copy(&inner.trampolines)?,
            ..Inner::default()
        };
        if alone {
            // What cannot be copied now is shared until somebody writes.
            let _ = copy_recent(&mut inner, &mut child, &areas);
        }
        self.protect_private(&mut inner, &areas, &mut child);
        for vma in &areas {
            copy_entries(&mut inner, &mut child, vma);
        }
        let mut objects = Vec::new();
        for mut vma in areas {
            // Locks are not inherited (source: mlock(2)).
            vma.flags.remove(VmaFlags::LOCKED | VmaFlags::ONFAULT);
            // Nor is who is asked about faults (source: userfaultfd(2)).
            vma.watch = None;
            objects.extend(vma.object_page(vma.start / PAGE).map(|(object, _)| object.clone()));
            child.vmas.insert(vma);
        }
        let space = Space::build(child, self.is_unpatched());
        // Before the parent can change: who looks for areas of an object finds one of the two.
        for object in objects {
            if let Some(set) = object.mappings() {
                set.add(space.handle());
            }
        }
        drop(inner);
        Ok(space)
    }

    /// Bytes of kernel memory that a copy of the space takes at most, for as long as it is made.
    fn fork_cost(inner: &mut Inner) -> u64 {
        let table = inner.table.get_mut();
        table.weight() + table.present() * BYTES_PER_ENTRY + inner.vmas.count() as u64 * BYTES_PER_AREA
    }

    /// Takes writing away from all private pages that the child has no copy of, here and in every slot.
    fn protect_private(&self, inner: &mut Inner, areas: &[Vma], child: &mut Inner) {
        let mut ranges: Vec<(Range<u64>, Prot)> = Vec::new();
        let (table, copied) = (inner.table.get_mut(), child.table.get_mut());
        for vma in areas.iter().filter(|vma| vma.is_private() && vma.prot.contains(Prot::WRITE)) {
            let prot = vma.prot.difference(Prot::WRITE);
            table.update(vma.pages(), |vpn, pte| {
                if !pte.may_be_written() || copied.get(vpn).is_present() {
                    return;
                }
                *pte = pte.read_only();
                match ranges.last_mut() {
                    Some((range, same)) if range.end == vpn && *same == prot => range.end += 1,
                    _ => ranges.push((vpn..vpn + 1, prot)),
                }
            });
        }
        // Areas that mprotect made read-only keep their writable mark: they need it back when they are writable again.
        for vma in areas.iter().filter(|vma| vma.is_private() && !vma.prot.contains(Prot::WRITE)) {
            table.update(vma.pages(), |_, pte| *pte = pte.read_only());
        }
        if ranges.is_empty() {
            return;
        }
        if ranges.len() > MAX_ENTRIES {
            self.log.append(Change::Drop { start: USER_BOTTOM, end: USER_TOP });
        } else {
            for (range, prot) in ranges {
                let (start, end) = (range.start * PAGE, range.end * PAGE);
                self.log.append(Change::Protect { start, end, prot: prot.bits() });
            }
        }
        view::shootdown(&self.log);
    }
}

/// Shares the private pages of an area with the child. Shared objects' pages are found again by faults.
fn copy_entries(parent: &mut Inner, child: &mut Inner, vma: &Vma) {
    if !vma.is_private() || vma.flags.contains(VmaFlags::WIPEONFORK) {
        return;
    }
    let copied = child.table.get_mut();
    for (vpn, pte) in parent.table.get_mut().iter(vma.pages()) {
        if copied.get(vpn).is_present() {
            // A copy that was made ahead has not been written by anybody either.
            let clean = |entry: Pte| if pte.is_clean() { entry.clean() } else { entry };
            copied.update(vpn..vpn + 1, |_, entry| *entry = clean(*entry));
            continue;
        }
        frame::get(pte.pfn());
        copied.set(vpn, pte.read_only().elsewhere());
    }
}
