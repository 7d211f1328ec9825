//! A program that looks closely is to see its own text: taking patches out, and where a thread that is on the way from a patched
//! call to the gate stands in its own text.
//!
//! Patches of a space go for good, all at once, when a tracer looks at it, when it steps through itself, makes text writable
//! or moves it, or wants something else where the trampolines are. Threads that were on the way are led back to their call before
//! they run guest code again: see [`Space::is_unpatched`]. Signal frames and tracers see them there, too.
//!
//! Invariant: a space with patched text has the file's trampolines in `Inner::trampolines`.
//!
//! Locks: as `patch`.

use super::patch::{DISTANCE, FILES, Patch, TRAMPOLINE_PAGES, is_text, prune};
use super::space::{Doomed, Inner, Space};
use super::table::Pte;
use super::vma::{Backing, Vma, object_id};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering::*;
use umbel_abi::machine::layout::USER_TOP;
use umbel_gate::Regs;
use umbel_gate::patch::{self, TRAMPOLINE_LEN};
use umbel_mm::{PAGE, frame, view};
use umbel_smp::lock::RwMutexWriteGuard;

/// Where a space has a file's trampolines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trampolines {
    /// Their first address.
    base: u64,
    /// They are mapped there; else the program has something else there by now.
    mapped: bool,
}

impl Trampolines {
    fn pages(&self) -> Range<u64> {
        self.base..self.base + TRAMPOLINE_PAGES * PAGE
    }

    fn overlap(&self, range: &Range<u64>) -> bool {
        self.pages().start < range.end && range.start < self.pages().end
    }
}

/// What the registers of a thread on its way to the gate would be in the program's own text: at its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detour {
    /// The system call's instruction.
    pub rip: u64,
    /// The call's number, if it was the patch that put it there.
    pub rax: Option<u64>,
    /// Exactly one instruction of the program's own has been run since the patch was reached.
    pub is_step: bool,
}

impl Space {
    /// Whether patches were taken out. A thread that sees this for the first time, in a slot that is up to date, asks where it is
    /// ([`Self::detour`]) before it runs guest code.
    pub fn is_unpatched(&self) -> bool {
        self.unpatched.load(Acquire)
    }

    /// Takes all patches out, for good: whoever traces a program is to see its own text, and every call.
    pub fn unpatch(&self) {
        if self.is_unpatched() {
            return;
        }
        prune();
        // Whoever patches holds it and looks at the mark.
        let files = FILES.lock();
        let inner = &mut *self.inner.write();
        if self.unpatched.swap(true, AcqRel) {
            return;
        }
        self.take_texts(inner);
        let patched = |inner: &mut Inner, from: u64| {
            let (vmas, table) = (&inner.vmas, inner.table.get_mut());
            vmas.iter().filter(|vma| vma.end > from * PAGE).find_map(|vma| {
                let Backing::File { object, .. } = &vma.backing else { return None };
                let file = files.get(&(object_id(object) as usize))?;
                let pages = vma.pages().start.max(from)..vma.pages().end;
                let is_patch = |vpn, pte| vma.object_page(vpn).is_some_and(|(_, page)| file.has_version(page, pte));
                table.iter(pages).find(|&(vpn, pte)| is_patch(vpn, pte)).map(|(vpn, _)| vpn)
            })
        };
        // No lists: memory may be short.
        let mut from = 0;
        while let Some(vpn) = patched(inner, from) {
            let old = inner.table.get_mut().set(vpn, Pte::default());
            self.log_drop(vpn * PAGE, (vpn + 1) * PAGE);
            view::shootdown(&self.log);
            if old.is_present() {
                frame::put_run(old.pfn(), 1);
            }
            from = vpn + 1;
        }
    }

    /// Maps files in the place of their patched text again.
    fn take_texts(&self, inner: &mut Inner) {
        let mut from = 0;
        loop {
            let patched =
                |backing: &Backing| matches!(backing, Backing::File { object, .. } if object.stands_for().is_some());
            let next = inner.vmas.within(&(from..USER_TOP)).find(|vma| patched(&vma.backing));
            let Some(area) = next.map(|vma| vma.start..vma.end) else { return };
            let mut taken = None;
            inner.vmas.update(&area, |vma| {
                if let Backing::File { object, .. } = &mut vma.backing
                    && let Some(base) = object.stands_for().cloned()
                {
                    taken = Some(core::mem::replace(object, base));
                }
            });
            self.log_drop(area.start, area.end);
            view::shootdown(&self.log);
            // No slot has it any more.
            drop(taken);
            from = area.end;
        }
    }

    /// The space's lock, for somebody who lets the program write or move what is in the range: without patches if that is text.
    pub(super) fn write_own_text(&self, range: &Range<u64>) -> RwMutexWriteGuard<'_, Inner> {
        loop {
            let inner = self.inner.write();
            // Not what a compiler in the program makes and changes.
            let of_file = |vma: &Vma| matches!(vma.backing, Backing::File { file: Some(_), .. });
            let has_text = || inner.vmas.within(range).any(|vma| is_text(&vma) && of_file(&vma));
            if inner.trampolines.is_empty() || self.is_unpatched() || !has_text() {
                return inner;
            }
            drop(inner);
            self.unpatch();
        }
    }

    /// The space's lock, for somebody who puts something into the range or takes away what the program thinks is there: without
    /// trampolines.
    pub(super) fn write_cleared(&self, range: &Range<u64>) -> RwMutexWriteGuard<'_, Inner> {
        loop {
            let mut inner = self.inner.write();
            let in_the_way = |part: &&mut Trampolines| part.mapped && part.overlap(range);
            let Some(part) = inner.trampolines.iter_mut().find(in_the_way) else { return inner };
            if !self.is_unpatched() {
                drop(inner);
                self.unpatch();
                continue;
            }
            part.mapped = false;
            let pages = part.pages();
            let mut doomed = Doomed::default();
            self.remove_range(&mut inner, &pages, &mut doomed);
            drop(inner);
            drop(doomed);
        }
    }

    /// Remembers that trampolines are to be at `base`.
    pub(super) fn note_trampolines(&self, base: u64) -> Result<()> {
        let trampolines = &mut self.inner.write().trampolines;
        if trampolines.iter().any(|known| known.base == base) {
            return Ok(());
        }
        trampolines.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        trampolines.push(Trampolines { base, mapped: false });
        Ok(())
    }

    /// If a thread with these registers is between a patched call and the kernel: where it is in its own text.
    pub fn detour(&self, regs: &Regs) -> Option<Detour> {
        if patch::is_entry(regs.rip) {
            return self.patched_at(regs.rcx.checked_sub(2)?).map(|(rip, _)| Detour { rip, rax: None, is_step: false });
        }
        let base = {
            let inner = self.inner.read();
            if inner.trampolines.is_empty() {
                return None;
            }
            inner.trampolines.iter().find(|part| part.pages().contains(&regs.rip)).map(|part| part.base)
        };
        let Some(base) = base else { return self.padding_of(regs.rip) };
        let (number, at) = ((regs.rip - base) as usize / TRAMPOLINE_LEN, (regs.rip - base) as usize % TRAMPOLINE_LEN);
        let (rip, patch) = [base + DISTANCE, base.wrapping_sub(DISTANCE)].into_iter().find_map(|start| {
            let text = self.any_text_of(start)?;
            let files = FILES.lock();
            let file = files.get(&text)?;
            let of_number = |patch: &Option<Patch>| patch.is_some_and(|patch| patch.trampoline == number);
            let (offset, patch) = file.sites.iter().find(|(_, patch)| of_number(patch))?;
            Some((start + offset, (*patch)?))
        })?;
        let moved = patch.landing.is_none();
        Some(Detour { rip, rax: moved.then_some(patch.nr.into()), is_step: moved && at == 0 })
    }

    /// Key of the file whose first byte is, or would be, mapped at `start`, as text somewhere behind it.
    fn any_text_of(&self, start: u64) -> Option<usize> {
        let inner = self.inner.read();
        inner.vmas.within(&(start..start.checked_add(DISTANCE)?)).find_map(|vma| match &vma.backing {
            Backing::File { object, offset, file: Some(_) } if is_text(&vma) && vma.start - offset == start => {
                Some(object_id(object) as usize)
            }
            _ => None,
        })
    }

    /// The patched call at `addr`, with its address.
    fn patched_at(&self, addr: u64) -> Option<(u64, Patch)> {
        let text = self.text_at(addr)?;
        let files = FILES.lock();
        let patch = files.get(&(object_id(&text.object) as usize))?.sites.get(&text.offset()).copied()??;
        Some((addr, patch))
    }

    /// Whose jump stands in the padding at `rip`.
    fn padding_of(&self, rip: u64) -> Option<Detour> {
        const REACH: u64 = 0x80 + 2;
        let text = self.text_at(rip)?;
        let files = FILES.lock();
        let file = files.get(&(object_id(&text.object) as usize))?;
        let offset = text.offset();
        let jumps_here = |(&at, patch): (&u64, &Option<Patch>)| {
            let landing = (*patch)?.landing?;
            (at + landing == offset).then_some(Detour { rip: rip - landing, rax: None, is_step: false })
        };
        file.sites.range(offset.saturating_sub(REACH)..offset).find_map(jumps_here)
    }
}

impl Inner {
    /// The trampolines that are to be at `base` are there.
    pub(super) fn trampolines_mapped(&mut self, base: u64) {
        if let Some(known) = self.trampolines.iter_mut().find(|known| known.base == base) {
            known.mapped = true;
        }
    }
}

/// A copy of the list for a child.
pub(super) fn copy(trampolines: &[Trampolines]) -> Result<Vec<Trampolines>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(trampolines.len()).map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(trampolines);
    Ok(copy)
}
