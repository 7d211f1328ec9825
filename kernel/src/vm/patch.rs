//! Swapping patched text in: hot system calls of a program's files enter the kernel without a signal.
//!
//! A file of the host directory that is mapped as text gets, at its first hot site, a trampoline object, mapped at a
//! fixed distance from the file in every space; and a RAM page for each page of text with a hot site, which replaces the
//! file's page through the page table. Pages and trampolines are shared by all spaces that map the file. A space where
//! the distance is taken keeps its sites unpatched. A program for which exec or the dynamic linker maps the text later gets all of
//! it patched ([`PatchedText`]). A site is hot when one thread has trapped there often, or many threads once. A file's patched text outlives the programs that
//! map it while others have the file open and its share of RAM is small ([`Kept`]): whoever runs next need not copy it.
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
use super::text::{Kept, PatchedText};
use super::vma::{Backing, Prot, Vma, VmaFlags, object_id};
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use umbel_gate::patch::{self, TRAMPOLINE_LEN};
use umbel_mm::frame::FrameRef;
use umbel_mm::{PAGE, UserAddr};
use umbel_smp::lock::{Mutex, MutexGuard, Rank, SpinLock};

/// Distance of the trampolines from the start of the file's mapping: down if there is room, else up.
pub(super) const DISTANCE: u64 = 1 << 30;
/// Pages of trampolines of a file.
pub(super) const TRAMPOLINE_PAGES: u64 = 8;
const MOST_SITES: usize = TRAMPOLINE_PAGES as usize * PAGE as usize / TRAMPOLINE_LEN;
/// Files that may have patches.
const MOST_FILES: usize = 64;

pub(super) static FILES: Mutex<BTreeMap<usize, File>> = Mutex::new(Rank::Patch, BTreeMap::new());

/// A call that was patched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patch {
    /// Number of its trampoline.
    pub trampoline: usize,
    /// Number of the call.
    pub nr: u32,
    /// Where the jump to the trampoline stands in padding, behind the call; `None` if it is in the place of the `mov`.
    pub landing: Option<u64>,
}

/// A file with patched text.
pub(super) struct File {
    object: Weak<dyn Mappable>,
    trampolines: Arc<Trampolines>,
    /// Offsets in the file of the calls that were tried, and what each got, if anything.
    pub(super) sites: BTreeMap<u64, Option<Patch>>,
    used: usize,
    /// Patched text by page number, the newest version last: spaces may still have older ones.
    pages: BTreeMap<u64, Vec<FrameRef>>,
    /// What is mapped in the place of the file, as long as somebody maps it or it is kept.
    text: Weak<PatchedText>,
    kept: Option<Kept>,
    /// Times that `text` was given out although there were newer patches.
    outdated: u32,
}

/// Outdated copies of text given out before a new one is made.
const MOST_OUTDATED: u32 = 16;

/// Forgets files that nobody else has.
pub(super) fn prune() {
    let mut gone = Vec::new();
    FILES.lock().retain(|_, file| {
        let used = file.object.strong_count() > usize::from(file.kept.is_some());
        if !used {
            gone.push(file.kept.take());
        }
        used
    });
    // Not under the lock: the last reference to a file closes it.
    drop(gone);
}

/// First traps of threads by site, as far as the hash tells: a hint.
static FIRST_TRAPS: [AtomicU32; 1024] = [const { AtomicU32::new(0) }; 1024];
/// Threads that trap at a site once before it is hot.
const HOT_THREADS: u32 = 8;

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
pub(super) struct Site {
    pub object: Arc<dyn Mappable>,
    /// Page of the file.
    pub page: u64,
    /// Where that page is mapped.
    page_addr: u64,
    /// Offset in it.
    pub call: usize,
    /// Where the trampolines go.
    pub trampolines: u64,
}

impl Site {
    /// Offset in the file.
    pub fn offset(&self) -> u64 {
        self.page * PAGE + self.call as u64
    }
}

impl Space {
    /// Patches the hot system call that returns to `back`, if it can be; its number is `nr`.
    pub fn patch_call(&self, back: u64, nr: u32) {
        if let Some(site) = back.checked_sub(2).and_then(|at| self.locate(at)) {
            // Not patching is always right.
            let _ = self.patch_site(&site, nr);
        }
    }

    /// Counts the first trap of a thread at the call that returns to `back`; patches it if many threads have come here.
    pub fn count_call(&self, back: u64, nr: u32) {
        let Some(site) = back.checked_sub(2).and_then(|at| self.locate(at)) else { return };
        let key = object_id(&site.object).addr() as u64 ^ site.offset().wrapping_mul(0x9e37_79b9);
        let traps = &FIRST_TRAPS[(key ^ key >> 10) as usize % FIRST_TRAPS.len()];
        if traps.fetch_add(1, Relaxed) + 1 == HOT_THREADS {
            traps.store(0, Relaxed);
            let _ = self.patch_site(&site, nr);
        }
    }

    /// Maps patched text in the place of the file's text that was just mapped at `start` to be run, if there is any.
    pub fn adopt_text(&self, start: UserAddr) {
        let Some(site) = self.locate(start.0) else { return };
        let Some(pages) = self.inner.read().vmas.find(start.0).map(|vma| site.page..site.page + vma.len() / PAGE)
        else {
            return;
        };
        let mut files = FILES.lock();
        let Some(file) = files.get_mut(&(object_id(&site.object) as usize)).filter(|_| !self.is_unpatched()) else {
            return;
        };
        let Some(text) = file.text(&site.object, pages) else { return };
        if self.map_trampolines(site.trampolines, &file.trampolines).is_err() {
            return;
        }
        let mut inner = self.inner.write();
        let Some(vma) = inner.vmas.find(start.0).filter(|vma| vma.start == start.0).cloned() else { return };
        let same =
            vma.object_page(start.0 / PAGE).is_some_and(|(object, _)| object_id(object) == object_id(&site.object));
        if !same || !is_text(&vma) {
            return;
        }
        // The bytes that slots may have already do the same, so nobody need be told.
        inner.vmas.update(&(vma.start..vma.end), |vma| {
            if let Backing::File { object, .. } = &mut vma.backing {
                *object = text.clone();
            }
        });
    }

    /// The site at `at`, if its text may be patched.
    fn locate(&self, at: u64) -> Option<Site> {
        if self.is_unpatched() { None } else { self.text_at(at) }
    }

    /// What text of a file stands at `at`.
    pub(super) fn text_at(&self, at: u64) -> Option<Site> {
        let inner = self.inner.read();
        let vma = inner.vmas.find(at)?;
        let Backing::File { object, offset, file: Some(_) } = &vma.backing else { return None };
        if !is_text(vma) {
            return None;
        }
        let start = vma.start.checked_sub(*offset)?;
        let trampolines = start.checked_sub(DISTANCE).filter(|&at| at >= DISTANCE).unwrap_or(start + DISTANCE);
        let (_, page) = vma.object_page(at / PAGE)?;
        let site =
            Site { object: object.clone(), page, page_addr: at / PAGE * PAGE, call: (at % PAGE) as usize, trampolines };
        Some(site)
    }

    fn patch_site(&self, site: &Site, nr: u32) -> Result<()> {
        prune();
        let mut files = FILES.lock();
        if self.is_unpatched() {
            return Err(Errno::EPERM);
        }
        let key = object_id(&site.object) as usize;
        if !files.contains_key(&key) {
            if files.len() >= MOST_FILES {
                return Err(Errno::ENOSPC);
            }
            files.insert(key, File::new(&site.object));
        }
        let file = files.get_mut(&key).ok_or(Errno::ENOENT)?;
        let at = site.offset();
        if !self.holds(site, file) {
            return Err(Errno::EBUSY);
        }
        if !file.sites.contains_key(&at) {
            let patch = file.add(site, nr)?;
            file.sites.insert(at, patch);
        }
        let Some(frame) = file.newest(site.page) else { return Err(Errno::ENOEXEC) };
        self.map_trampolines(site.trampolines, &file.trampolines)?;
        self.replace_page(UserAddr(site.page_addr), frame)
    }

    /// Whether the space has the file's own page at the site, or any patch of it: what a child has of its parent is older
    /// than what its siblings made of it.
    fn holds(&self, site: &Site, file: &File) -> bool {
        let pte: Pte = self.inner.read().table.lock().get(site.page_addr / PAGE);
        !pte.is_present() || file.has_version(site.page, pte)
    }

    fn map_trampolines(&self, at: u64, trampolines: &Arc<Trampolines>) -> Result<()> {
        let object: Arc<dyn Mappable> = trampolines.clone();
        let id = object_id(&object);
        if let Some(vma) = self.inner.read().vmas.find(at)
            && let Backing::File { object: there, .. } = &vma.backing
            && vma.start == at
        {
            return if object_id(there) == id { Ok(()) } else { Err(Errno::EEXIST) };
        }
        self.note_trampolines(at)?;
        self.map(MapRequest {
            addr: UserAddr(at),
            len: TRAMPOLINE_PAGES * PAGE,
            place: Place::FixedFree,
            prot: Prot::READ | Prot::EXEC,
            flags: VmaFlags::empty(),
            backing: Backing::File { object, offset: 0, file: None },
        })?;
        let frames = trampolines.0.lock().clone();
        let mut inner = self.inner.write();
        // Another thread may have been faster, with a fault or with an unmapping.
        let there = inner.vmas.find(at).and_then(|vma| vma.object_page(at / PAGE));
        if there.is_none_or(|(object, _)| object_id(object) != id) {
            return Err(Errno::EEXIST);
        }
        inner.trampolines_mapped(at);
        for (vpn, frame) in (at / PAGE..).zip(frames) {
            if !inner.table.get_mut().get(vpn).is_present() {
                inner.table.get_mut().set(vpn, Pte::private(frame.into_raw(), false));
            }
        }
        Ok(())
    }
}

/// Whether the area is text as the loaders map it.
pub(super) fn is_text(vma: &Vma) -> bool {
    vma.is_private() && vma.prot == Prot::READ | Prot::EXEC
}

/// All patches there are, while they do not change.
pub(super) struct Patches(MutexGuard<'static, BTreeMap<usize, File>>);

impl Patches {
    /// Before any space's lock.
    pub fn lock() -> Patches {
        Patches(FILES.lock())
    }

    /// Whether what is mapped is a patched version of that page of the file.
    pub fn has(&self, object: &Arc<dyn Mappable>, page: u64, mapped: Pte) -> bool {
        mapped.is_present()
            && self.0.get(&(object_id(object) as usize)).is_some_and(|file| file.has_version(page, mapped))
    }
}

impl File {
    /// What to map in the place of `pages` of the file.
    fn text(&mut self, base: &Arc<dyn Mappable>, pages: Range<u64>) -> Option<Arc<PatchedText>> {
        if let Some(text) = self.text.upgrade() {
            self.outdated += u32::from(text.patches < self.used);
            if self.outdated < MOST_OUTDATED {
                return Some(text);
            }
        }
        let (first, last) = (*self.pages.keys().next()?, *self.pages.keys().next_back()?);
        let whole = pages.end - pages.start <= u64::from(umbel_mm::frame::MAX_RUN);
        let pages = if whole { pages } else { first..last + 1 };
        let newest = self.pages.iter().filter_map(|(&page, versions)| Some((page, versions.last()?)));
        let text = Arc::new(PatchedText::new(base, pages, newest, self.used).ok()?);
        self.text = Arc::downgrade(&text);
        self.kept = None;
        self.kept = Kept::new(&text);
        self.outdated = 0;
        Some(text)
    }

    fn new(object: &Arc<dyn Mappable>) -> File {
        File {
            object: Arc::downgrade(object),
            trampolines: Arc::new(Trampolines(SpinLock::new(Rank::Leaf, Vec::new()))),
            sites: BTreeMap::new(),
            used: 0,
            pages: BTreeMap::new(),
            text: Weak::new(),
            kept: None,
            outdated: 0,
        }
    }

    /// Whether what is mapped, a present page, is a patched version of `page`.
    pub(super) fn has_version(&self, page: u64, mapped: Pte) -> bool {
        self.pages.get(&page).is_some_and(|all| all.iter().any(|frame| frame.pfn() == mapped.pfn()))
    }

    /// The newest version of a patched page.
    fn newest(&self, page: u64) -> Option<FrameRef> {
        self.pages.get(&page)?.last().cloned()
    }

    /// Makes the patched page of a new site; `None` if it cannot be patched.
    fn add(&mut self, site: &Site, nr: u32) -> Result<Option<Patch>> {
        let mut text = Vec::new();
        text.try_reserve_exact(PAGE as usize).map_err(|_| Errno::ENOMEM)?;
        text.resize(PAGE as usize, 0);
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
        let landing = match plan.edits {
            [Some(long), Some(_)] => Some((long.at - site.call) as u64),
            _ => None,
        };
        Ok(Some(Patch { trampoline: number, nr, landing }))
    }
}

/// A page of a file of the host directory; other files may change under the patch.
fn read_host_page(object: &dyn Mappable, page: u64, buf: &mut [u8]) -> Result<()> {
    match object.page(page, false)? {
        PageSource::Host { fd, offset } => umbel_mm::frame::read_host(fd, offset, buf),
        PageSource::Frame(_) => Err(Errno::ETXTBSY),
    }
}
