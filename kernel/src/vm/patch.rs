//! Swapping patched text in: hot system calls of a program's files enter the kernel without a signal.
//!
//! A file of the host directory that is mapped as text gets, at its first hot site, a trampoline object, mapped at a
//! fixed distance from the file in every space; and a RAM page for each page of text with a hot site, which replaces the
//! file's page through the page table. Pages and trampolines are shared by all spaces that map the file. A space where
//! the distance is taken keeps its sites unpatched.
//!
//! Never patched: files in RAM (they may change), writable and shared text, pages that the space has changed. A plain
//! load of patched text sees the patch. What a patch looks like is `gate::patch`'s business.
//!
//! Locks: `FILES` (`Rank::Patch`, sleeping), then a space's.

use super::MapRequest;
use super::map::Place;
use super::object::{Mappable, PageSource};
use super::space::Space;
use super::table::Pte;
use super::vma::{Backing, Prot, VmaFlags, object_id};
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use umbel_gate::patch::{self, TRAMPOLINE_LEN};
use umbel_mm::frame::{self, FrameRef};
use umbel_mm::{PAGE, UserAddr, view};
use umbel_smp::lock::{Mutex, Rank, SpinLock};

/// Distance of the trampolines from the start of the file's mapping: down if there is room, else up.
const DISTANCE: u64 = 1 << 30;
/// Pages of trampolines of a file.
const TRAMPOLINE_PAGES: u64 = 8;
const MOST_SITES: usize = TRAMPOLINE_PAGES as usize * PAGE as usize / TRAMPOLINE_LEN;
/// Files that may have patches.
const MOST_FILES: usize = 64;

static FILES: Mutex<BTreeMap<usize, File>> = Mutex::new(Rank::Patch, BTreeMap::new());

/// A file with patched text.
struct File {
    object: Weak<dyn Mappable>,
    trampolines: Arc<Trampolines>,
    /// Offsets in the file of the calls that were tried, and which trampoline each got, if any.
    sites: BTreeMap<u64, Option<usize>>,
    used: usize,
    /// Patched text by page number, the newest version last: spaces may still have older ones.
    pages: BTreeMap<u64, Vec<FrameRef>>,
}

/// The trampolines of a file, as an object to map.
struct Trampolines(SpinLock<Vec<FrameRef>>);

impl Mappable for Trampolines {
    fn page(&self, index: u64, _write: bool) -> Result<PageSource> {
        self.0.lock().get(index as usize).cloned().map(PageSource::Frame).ok_or(Errno::EFAULT)
    }

    fn size(&self) -> u64 {
        TRAMPOLINE_PAGES * PAGE
    }
}

impl Trampolines {
    fn write(&self, number: usize, code: &[u8]) -> Result<()> {
        let at = number * TRAMPOLINE_LEN;
        let page = at / PAGE as usize;
        if self.0.lock().get(page).is_none() {
            let frame = FrameRef::zeroed()?;
            self.0.lock().push(frame);
        }
        let frame = self.0.lock().get(page).cloned().ok_or(Errno::ENOMEM)?;
        frame.write(at % PAGE as usize, code)
    }
}

/// Where a call stands.
struct Site {
    object: Arc<dyn Mappable>,
    /// Page of the file.
    page: u64,
    /// Where that page is mapped.
    page_addr: u64,
    /// Offset in it.
    call: usize,
    /// Where the trampolines go.
    trampolines: u64,
}

impl Space {
    /// Patches the hot system call that returns to `back`, if it can be; its number is `nr`.
    pub fn patch_call(&self, back: u64, nr: u32) {
        if let Some(site) = back.checked_sub(2).and_then(|at| self.locate(at)) {
            // Not patching is always right.
            let _ = self.patch_site(&site, nr);
        }
    }

    /// The site at `at`, if its text may be patched.
    fn locate(&self, at: u64) -> Option<Site> {
        let inner = self.inner.lock();
        if inner.unpatched {
            return None;
        }
        let vma = inner.vmas.find(at)?;
        let Backing::File { object, offset, file: Some(_) } = &vma.backing else { return None };
        if !vma.is_private() || vma.prot != Prot::READ | Prot::EXEC {
            return None;
        }
        let start = vma.start.checked_sub(*offset)?;
        let trampolines = start.checked_sub(DISTANCE).filter(|&at| at >= DISTANCE).unwrap_or(start + DISTANCE);
        let (_, page) = vma.object_page(at / PAGE)?;
        let site =
            Site { object: object.clone(), page, page_addr: at / PAGE * PAGE, call: (at % PAGE) as usize, trampolines };
        Some(site)
    }

    /// Takes all patches out, for good: whoever traces a program is to see its own text, and every call.
    pub fn unpatch(&self) {
        let mut files = FILES.lock();
        let mut inner = self.inner.lock();
        if core::mem::replace(&mut inner.unpatched, true) {
            return;
        }
        files.retain(|_, file| file.object.strong_count() > 0);
        let mut patched = Vec::new();
        for vma in inner.vmas.iter() {
            let Backing::File { object, .. } = &vma.backing else { continue };
            let Some(file) = files.get(&(object_id(object) as usize)) else { continue };
            for (vpn, pte) in inner.table.iter(vma.pages()) {
                let page = vma.object_page(vpn).map(|(_, page)| page);
                let is_patch = |frame: &FrameRef| frame.pfn() == pte.pfn();
                if page.and_then(|page| file.pages.get(&page)).is_some_and(|versions| versions.iter().any(is_patch)) {
                    patched.push(vpn);
                }
            }
        }
        drop(files);
        for vpn in patched {
            let old = inner.table.set(vpn, Pte::default());
            self.log_drop(vpn * PAGE, (vpn + 1) * PAGE);
            view::shootdown(&self.log);
            if old.is_present() {
                frame::put_run(old.pfn(), 1);
            }
        }
    }

    fn patch_site(&self, site: &Site, nr: u32) -> Result<()> {
        let mut files = FILES.lock();
        let key = object_id(&site.object) as usize;
        files.retain(|_, file| file.object.strong_count() > 0);
        if !files.contains_key(&key) {
            if files.len() >= MOST_FILES {
                return Err(Errno::ENOSPC);
            }
            files.insert(key, File::new(&site.object));
        }
        let file = files.get_mut(&key).ok_or(Errno::ENOENT)?;
        let at = site.page * PAGE + site.call as u64;
        let before = file.newest(site.page);
        if !self.holds(site, before.as_ref()) {
            return Err(Errno::EBUSY);
        }
        if !file.sites.contains_key(&at) {
            let trampoline = file.add(site, nr)?;
            file.sites.insert(at, trampoline);
        }
        let Some(frame) = file.newest(site.page) else { return Err(Errno::ENOEXEC) };
        self.map_trampolines(site.trampolines, &file.trampolines)?;
        self.replace_page(UserAddr(site.page_addr), frame)
    }

    /// Whether the space has the file's own page at the site, or an earlier patch of it.
    fn holds(&self, site: &Site, patched: Option<&FrameRef>) -> bool {
        let pte: Pte = self.inner.lock().table.get(site.page_addr / PAGE);
        !pte.is_present() || patched.is_some_and(|frame| frame.pfn() == pte.pfn())
    }

    fn map_trampolines(&self, at: u64, trampolines: &Arc<Trampolines>) -> Result<()> {
        let object: Arc<dyn Mappable> = trampolines.clone();
        if let Some(vma) = self.inner.lock().vmas.find(at)
            && let Backing::File { object: there, .. } = &vma.backing
            && vma.start == at
        {
            return if object_id(there) == object_id(&object) { Ok(()) } else { Err(Errno::EEXIST) };
        }
        self.map(MapRequest {
            addr: UserAddr(at),
            len: TRAMPOLINE_PAGES * PAGE,
            place: Place::FixedFree,
            prot: Prot::READ | Prot::EXEC,
            flags: VmaFlags::empty(),
            backing: Backing::File { object, offset: 0, file: None },
        })
        .map(drop)
    }
}

impl File {
    fn new(object: &Arc<dyn Mappable>) -> File {
        File {
            object: Arc::downgrade(object),
            trampolines: Arc::new(Trampolines(SpinLock::new(Rank::Leaf, Vec::new()))),
            sites: BTreeMap::new(),
            used: 0,
            pages: BTreeMap::new(),
        }
    }

    /// The newest version of a patched page.
    fn newest(&self, page: u64) -> Option<FrameRef> {
        self.pages.get(&page)?.last().cloned()
    }

    /// Makes the patched page of a new site; the trampoline it got, `None` if it cannot be patched.
    fn add(&mut self, site: &Site, nr: u32) -> Result<Option<usize>> {
        let mut text = vec![0; PAGE as usize];
        match self.newest(site.page) {
            Some(frame) => frame.read(0, &mut text)?,
            None => read_host_page(&*site.object, site.page, &mut text)?,
        }
        let number = self.used;
        let trampoline = site.trampolines + (number * TRAMPOLINE_LEN) as u64;
        let plan = patch::plan(&text, site.page_addr, site.call, nr, trampoline).filter(|_| number < MOST_SITES);
        let Some(plan) = plan else { return Ok(None) };
        for edit in plan.edits.iter().flatten() {
            text.get_mut(edit.at..edit.at + edit.bytes().len()).ok_or(Errno::EFAULT)?.copy_from_slice(edit.bytes());
        }
        self.trampolines.write(number, &plan.trampoline)?;
        // A new page each time: others may be running the old one.
        let frame = FrameRef::zeroed()?;
        frame.write(0, &text)?;
        self.pages.entry(site.page).or_default().push(frame);
        self.used += 1;
        Ok(Some(number))
    }
}

/// A page of a file of the host directory; other files may change under the patch.
fn read_host_page(object: &dyn Mappable, page: u64, buf: &mut [u8]) -> Result<()> {
    match object.page(page, false)? {
        PageSource::Host { fd, offset } => umbel_mm::frame::read_host(fd, offset, buf),
        PageSource::Frame(_) => Err(Errno::ETXTBSY),
    }
}
