//! What a space has in RAM, counted: for /proc/PID/smaps, pagemap, status and mincore(2).
//!
//! Pages of host files count as present wherever they are mapped: they are the host's page cache, mapped in long runs.
//! Anonymous pages are allocated in runs, too; those that were only allocated along with another ([`Pte::is_ahead`]) count once
//! somebody has written to them, which their bytes tell; so do those of objects that were mapped along with another. Source: proc_pid_smaps(5), proc_pid_pagemap(5), mincore(2).

use super::advise::checked;
use super::space::{Inner, Space, VmaInfo};
use super::table::{PageTable, Pte};
use super::vma::{Backing, Prot, Vma, VmaFlags};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::ops::{AddAssign, Range};
use umbel_abi::machine::layout::{USER_BOTTOM, USER_TOP};
use umbel_mm::frame::{self, FrameRef};
use umbel_mm::{PAGE, UserAddr};

/// Digits of a page's share behind the point.
const SHARE_BITS: u32 = 12;

/// What of an area is in RAM, in bytes; shares (`pss*`) are [`SHARE_BITS`] finer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resident {
    pub rss: u64,
    pub anonymous: u64,
    pub shared_clean: u64,
    pub shared_dirty: u64,
    pub private_clean: u64,
    pub private_dirty: u64,
    pub referenced: u64,
    pss_dirty: u64,
    pss_anon: u64,
    pss_file: u64,
    pss_shmem: u64,
    locked: u64,
}

impl Resident {
    /// Proportional shares in bytes: all, of dirty, anonymous, file and shared pages, of locked ones.
    pub fn shares(&self) -> [u64; 6] {
        let all = self.pss_anon + self.pss_file + self.pss_shmem;
        let parts = [all, self.pss_dirty, self.pss_anon, self.pss_file, self.pss_shmem, self.locked];
        parts.map(|fine| fine >> SHARE_BITS)
    }

    /// Counts `pages` that `sharers` spaces map.
    fn count(&mut self, kind: PageKind, pages: u64, sharers: u64, old: bool) {
        let (bytes, share) = (pages * PAGE, ((pages * PAGE) << SHARE_BITS) / sharers.max(1));
        self.rss += bytes;
        self.referenced += if old { 0 } else { bytes };
        let clean = kind == PageKind::Host;
        *match (sharers > 1, clean) {
            (true, true) => &mut self.shared_clean,
            (true, false) => &mut self.shared_dirty,
            (false, true) => &mut self.private_clean,
            (false, false) => &mut self.private_dirty,
        } += bytes;
        self.pss_dirty += if clean { 0 } else { share };
        match kind {
            PageKind::Anonymous => {
                self.anonymous += bytes;
                self.pss_anon += share;
            }
            PageKind::Host => self.pss_file += share,
            PageKind::Object => self.pss_shmem += share,
        }
    }

    fn all_locked(mut self) -> Resident {
        self.locked = self.pss_anon + self.pss_file + self.pss_shmem;
        self
    }
}

impl AddAssign for Resident {
    fn add_assign(&mut self, other: Resident) {
        let pairs = [
            (&mut self.rss, other.rss),
            (&mut self.anonymous, other.anonymous),
            (&mut self.shared_clean, other.shared_clean),
            (&mut self.shared_dirty, other.shared_dirty),
            (&mut self.private_clean, other.private_clean),
            (&mut self.private_dirty, other.private_dirty),
            (&mut self.referenced, other.referenced),
            (&mut self.pss_dirty, other.pss_dirty),
            (&mut self.pss_anon, other.pss_anon),
            (&mut self.pss_file, other.pss_file),
            (&mut self.pss_shmem, other.pss_shmem),
            (&mut self.locked, other.locked),
        ];
        for (sum, more) in pairs {
            *sum += more;
        }
    }
}

/// Whose a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageKind {
    /// The process's own.
    Anonymous,
    /// A frame of an object in RAM.
    Object,
    /// The host's, of a file.
    Host,
}

/// One page, as pagemap shows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageState {
    /// Its frame's number, if it has one.
    pub frame: Option<u32>,
    pub present: bool,
    /// Of a file, or shared.
    pub of_object: bool,
    /// Mapped here only.
    pub exclusive: bool,
    /// Written since `clear_refs` was told to look for that, or since it was made.
    pub dirty: bool,
    /// Its next write is watched.
    pub watched: bool,
    /// Nobody may touch it (`MADV_GUARD_INSTALL`).
    pub guard: bool,
}

impl Space {
    /// Calls `visit` with each area and what of it is in RAM. The space is not locked meanwhile: areas may change between
    /// two calls.
    pub fn for_each_resident(&self, mut visit: impl FnMut(&VmaInfo, &Resident)) {
        let mut at = 0;
        loop {
            let mut inner = self.inner.write();
            let Some(vma) = inner.vmas.find_from(at).cloned() else { return };
            let resident = area(&mut inner, &vma);
            drop(inner);
            at = vma.end;
            visit(&VmaInfo::of(&vma), &resident);
        }
    }

    /// The pages `range`, by number.
    pub fn page_states(&self, range: Range<u64>) -> Vec<PageState> {
        let mut inner = self.inner.write();
        range.map(|vpn| state(&mut inner, vpn)).collect()
    }

    /// One byte a page: 1 = in memory. Source: mincore(2).
    pub fn resident(&self, addr: UserAddr, len: u64) -> Result<Vec<u8>> {
        let range = checked(addr, len)?;
        let mut inner = self.inner.write();
        if !inner.vmas.covers(&range) {
            return Err(Errno::ENOMEM);
        }
        let mut pages = Vec::new();
        pages.try_reserve_exact(((range.end - range.start) / PAGE) as usize).map_err(|_| Errno::ENOMEM)?;
        let mut at = range.start;
        while let Some(vma) = inner.vmas.first_within(&(at..range.end)) {
            at = vma.end;
            for vpn in vma.pages() {
                let cached = || vma.object_page(vpn).is_some_and(|(object, index)| object.is_resident(index));
                let own = inner.table.get_mut().get(vpn);
                let there = match own.is_present() {
                    true if !own.is_shared() => is_touched(&mut inner, vpn),
                    touched => (touched && !own.is_ahead()) || cached(),
                };
                pages.push(u8::from(there));
            }
        }
        Ok(pages)
    }

    /// Forgets that pages were touched (`clear_refs`): anonymous ones, those of objects.
    pub fn clear_referenced(&self, anonymous: bool, objects: bool) {
        let mut inner = self.inner.write();
        inner.watched = true;
        let mut told = false;
        let mut at = 0;
        while let Some(vma) = inner.vmas.first_within(&(at..USER_TOP)) {
            at = vma.end;
            let of_object = matches!(vma.backing, Backing::File { .. });
            if if of_object { objects } else { anonymous } {
                inner.table.get_mut().update(vma.pages(), |_, pte| *pte = pte.old());
                self.log_drop(vma.start, vma.end);
                told = true;
            }
        }
        if told {
            umbel_mm::view::shootdown(&self.log);
        }
    }

    /// Looks for writes from now on (`clear_refs`).
    pub fn clear_dirty(&self) {
        let mut inner = self.inner.write();
        inner.vmas.update(&(0..USER_TOP), |vma| vma.flags.insert(VmaFlags::CLEARED));
        inner.table.get_mut().update(0..USER_TOP / PAGE, |_, pte| *pte = pte.clean());
        // One entry, however many areas there are.
        self.log_drop(USER_BOTTOM, USER_TOP);
        umbel_mm::view::shootdown(&self.log);
    }

    /// The peak is what is in RAM now (`clear_refs`).
    pub fn reset_peak(&self) {
        self.inner.read().table.lock().reset_peak();
    }
}

/// Bytes of `vma` that are the host's pages of a file.
pub(super) fn host_bytes(table: &PageTable, vma: &Vma) -> u64 {
    let first = vma.object_page(vma.start / PAGE).filter(|_| !vma.prot.is_empty());
    let Some((object, index)) = first.filter(|(object, index)| object.host_page(*index).is_some()) else {
        return 0;
    };
    let in_file = object.size().div_ceil(PAGE).saturating_sub(index).min(vma.len() / PAGE);
    in_file.saturating_sub(table.iter(vma.pages()).count() as u64) * PAGE
}

fn kind(vma: &Vma, pte: Pte) -> PageKind {
    match &vma.backing {
        Backing::File { object, .. } if pte.is_shared() || pte.is_object() => {
            let host = vma.is_private() && object.host_page(0).is_some();
            if host { PageKind::Host } else { PageKind::Object }
        }
        _ => PageKind::Anonymous,
    }
}

/// Spaces that have the frame of an entry. An object holds a reference, too.
fn sharers(kind: PageKind, pte: Pte) -> u64 {
    let held = u64::from(kind != PageKind::Anonymous);
    u64::from(frame::references(pte.pfn())).saturating_sub(held)
}

fn area(inner: &mut Inner, vma: &Vma) -> Resident {
    let mut resident = Resident::default();
    let mut at = vma.pages().start;
    loop {
        let vpn = inner.table.get_mut().next_present(at..vma.pages().end);
        if vpn >= vma.pages().end {
            break;
        }
        at = vpn + 1;
        let pte = inner.table.get_mut().get(vpn);
        if is_touched(inner, vpn) {
            let kind = kind(vma, pte);
            resident.count(kind, 1, sharers(kind, pte), pte.is_old());
        }
    }
    let host = host_bytes(inner.table.get_mut(), vma) / PAGE;
    if let Some((object, _)) = vma.object_page(vma.start / PAGE).filter(|_| host > 0) {
        let spaces = object.mappings().map_or(1, |set| set.count());
        resident.count(PageKind::Host, host, spaces as u64, false);
    }
    if vma.flags.contains(VmaFlags::LOCKED) { resident.all_locked() } else { resident }
}

fn state(inner: &mut Inner, vpn: u64) -> PageState {
    let Some(vma) = inner.vmas.find(vpn * PAGE).cloned() else { return PageState::default() };
    page_state(inner, &vma, vpn)
}

/// Page `vpn` of `vma`.
pub(super) fn page_state(inner: &mut Inner, vma: &Vma, vpn: u64) -> PageState {
    let pte = inner.table.get_mut().get(vpn);
    let cleared = vma.flags.contains(VmaFlags::CLEARED);
    if pte.is_present() && is_touched(inner, vpn) {
        let kind = kind(vma, pte);
        return PageState {
            frame: Some(pte.pfn().0),
            present: true,
            of_object: kind != PageKind::Anonymous,
            exclusive: sharers(kind, pte) == 1,
            dirty: !(cleared && pte.is_clean()),
            watched: pte.is_watched(),
            guard: false,
        };
    }
    let absent = PageState {
        dirty: !cleared,
        watched: pte.is_watched() || vma.is_protected(),
        guard: vma.flags.contains(VmaFlags::GUARD),
        ..PageState::default()
    };
    if pte.is_present() {
        return absent;
    }
    let host = vma
        .object_page(vpn)
        .is_some_and(|(object, index)| object.host_page(index).is_some() && index < object.size().div_ceil(PAGE));
    let present = host && vma.prot != Prot::empty();
    PageState { present, of_object: present, ..absent }
}

/// Whether a page is not all zeroes.
pub(super) fn has_bytes(frame: &FrameRef) -> bool {
    // In two host calls; a stack of the kernel does not take a whole page.
    let mut bytes = [0; 2048];
    (0..PAGE as usize).step_by(bytes.len()).any(|at| {
        // What cannot be read is not known to be zero.
        frame.read(at, &mut bytes).is_err() || bytes.iter().any(|byte| *byte != 0)
    })
}

/// Whether page `vpn`, which is present, counts: see the module.
pub(super) fn is_touched(inner: &mut Inner, vpn: u64) -> bool {
    let pte = inner.table.get_mut().get(vpn);
    if !pte.is_ahead() {
        return true;
    }
    let written = has_bytes(&FrameRef::from_held(pte.pfn()));
    if written {
        inner.table.get_mut().update(vpn..vpn + 1, |_, pte| *pte = pte.touched());
    }
    written
}
