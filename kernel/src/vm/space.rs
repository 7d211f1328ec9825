//! One guest address space: its state, its locks, its end.

use super::account;
use super::edges::Edges;
use super::mdwe::Mdwe;
use super::table::{Detached, PageTable, Pte};
use super::unpatch::Trampolines;
use super::vma::{Backing, MappedFile, Prot, Vma, VmaFlags, VmaSet};
use super::warm::Family;
use crate::Result;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use umbel_abi::machine::layout::USER_TOP;
use umbel_mm::log::{Change, UpdateLog};
use umbel_mm::{PAGE, Pfn, frame, heap, percpu, view};
use umbel_smp::lock::{Once, Rank, RwMutex, SpinLock};

/// No limit (`RLIM_INFINITY`).
pub const UNLIMITED: u64 = u64::MAX;
/// Least distance between the top of the mmap area and the top of the stack.
const MIN_STACK_GAP: u64 = 128 << 20;
/// What mmap keeps free above its area, for stack randomisation and guard.
const STACK_SLACK: u64 = 1 << 20;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Resource limits that concern memory, in bytes (source: getrlimit(2)).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `RLIMIT_STACK`.
    pub stack: u64,
    /// `RLIMIT_AS`.
    pub address_space: u64,
    /// `RLIMIT_DATA`.
    pub data: u64,
    /// `RLIMIT_MEMLOCK`.
    pub memlock: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { stack: 8 << 20, address_space: UNLIMITED, data: UNLIMITED, memlock: 8 << 20 }
    }
}

/// Where the loader put things; for brk(2), /proc and prctl(2).
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// First address of the heap.
    pub brk_start: u64,
    /// End of the heap.
    pub brk: u64,
    /// First address above the first thread's stack.
    pub stack_top: u64,
    /// Text, data, arguments, environment.
    pub code: (u64, u64),
    pub data: (u64, u64),
    pub args: (u64, u64),
    pub env: (u64, u64),
    /// First address above the area in which mmap places mappings.
    pub mmap_top: u64,
    /// The program's interpreter: the dynamic linker.
    pub interpreter: (u64, u64),
}

/// An area, as /proc/PID/maps shows it.
#[derive(Clone)]
pub struct VmaInfo {
    pub start: u64,
    pub end: u64,
    pub prot: Prot,
    pub flags: VmaFlags,
    /// Offset in the file.
    pub offset: u64,
    pub file: Option<Arc<dyn MappedFile>>,
}

impl VmaInfo {
    pub(super) fn of(vma: &Vma) -> VmaInfo {
        let (offset, file) = match &vma.backing {
            Backing::Anonymous => (0, None),
            Backing::File { offset, file, .. } => (*offset, file.clone()),
        };
        VmaInfo { start: vma.start, end: vma.end, prot: vma.prot, flags: vma.flags, offset, file }
    }
}

/// Sizes, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub size: u64,
    /// Most that `size` was.
    pub size_peak: u64,
    pub resident: u64,
    /// Most that `resident` was.
    pub peak: u64,
    /// Of `resident`: pages of objects in RAM, mapped shared.
    pub shared: u64,
    /// Of `resident`: pages of files that the process has not written to.
    pub file: u64,
    /// Executable areas.
    pub code: u64,
    pub data: u64,
    pub stack: u64,
    pub locked: u64,
    /// The page table itself.
    pub table: u64,
}

/// What finds a space, and keeps none of its memory once it is gone.
#[derive(Debug)]
pub(super) struct Handle(Weak<Space>);

impl Handle {
    /// The space, if it still lives.
    pub fn space(&self) -> Option<Arc<Space>> {
        self.0.upgrade()
    }
}

/// A guest address space.
pub struct Space {
    id: u64,
    handle: Arc<Handle>,
    pub(super) log: UpdateLog,
    pub(super) inner: RwMutex<Inner>,
    /// No call site is patched any more. Set under `inner`'s lock.
    pub(super) unpatched: AtomicBool,
    /// See [`Space::attach`].
    attached: Once<Keep>,
}

/// What a space keeps for as long as it lives: the mark of the program that runs in it.
pub type Keep = Arc<dyn core::any::Any + Send + Sync>;

/// See [`Space::keep`].
#[derive(Clone, Default)]
pub(super) struct Kept(Option<Keep>);

impl core::fmt::Debug for Kept {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.is_some().fmt(f)
    }
}

/// What the space's lock protects. Faults that only add pages, and whoever takes away what only its own slot has, come as
/// readers: the page table has a lock of its own.
#[derive(Debug)]
pub(super) struct Inner {
    pub vmas: VmaSet,
    pub table: SpinLock<PageTable>,
    pub layout: Layout,
    pub limits: Limits,
    /// Where runs of anonymous memory end. On its own: a kernel stack has no room for as much.
    pub edges: Box<Edges>,
    /// Faults say which pages were touched, one by one (`clear_refs`).
    pub watched: bool,
    /// The space was made by fork.
    pub forked: bool,
    /// Faults that may still be noted, if it was.
    pub notes_left: AtomicU32,
    /// Since the last exec.
    pub family: Arc<Family>,
    /// Flags of areas to come (mlockall(2), `MCL_FUTURE`).
    pub lock_future: VmaFlags,
    /// What its program promised.
    pub mdwe: Mdwe,
    /// See [`Space::keep`].
    pub kept: Kept,
    /// Where trampolines of patched call sites are, or were.
    pub trampolines: Vec<Trampolines>,
}

impl Default for Inner {
    fn default() -> Self {
        Inner {
            vmas: VmaSet::default(),
            table: SpinLock::new(Rank::PageTable, PageTable::default()),
            layout: Layout::default(),
            limits: Limits::default(),
            edges: Box::default(),
            watched: false,
            forked: false,
            notes_left: AtomicU32::new(0),
            family: Arc::default(),
            lock_future: VmaFlags::empty(),
            mdwe: Mdwe::empty(),
            kept: Kept::default(),
            trampolines: Vec::new(),
        }
    }
}

/// Frames, and objects that may hold frames, to be released after a shootdown.
#[derive(Debug, Default)]
pub(super) struct Doomed {
    entries: Vec<Pte>,
    detached: Vec<Detached>,
    areas: Vec<Vma>,
}

impl Doomed {
    /// Takes over an entry's reference.
    pub fn push(&mut self, pte: Pte) {
        self.entries.push(pte);
    }

    /// Takes over an area that was taken out.
    pub fn keep(&mut self, area: Vma) {
        if matches!(area.backing, Backing::File { .. }) {
            self.areas.push(area);
        }
    }

    /// Takes over the references of entries that were taken out.
    pub fn extend(&mut self, detached: Detached) {
        if !detached.is_empty() {
            self.detached.push(detached);
        }
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        let mut run: Option<(Pfn, u32)> = None;
        let detached = self.detached.iter().flat_map(Detached::entries);
        for pte in self.entries.iter().copied().chain(detached).filter(|pte| pte.is_present()) {
            match &mut run {
                Some((first, count)) if frame::follows(Pfn(first.0 + *count - 1), pte.pfn()) => *count += 1,
                _ => {
                    if let Some((first, count)) = run.replace((pte.pfn(), 1)) {
                        frame::put_run(first, count);
                    }
                }
            }
        }
        if let Some((first, count)) = run {
            frame::put_run(first, count);
        }
    }
}

impl core::fmt::Debug for Space {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Space({})", self.id)
    }
}

impl Space {
    /// An empty space.
    ///
    /// # Errors
    /// `ENOMEM` when kernel memory is short.
    pub fn new() -> Result<Arc<Space>> {
        let top = USER_TOP - PAGE;
        let layout = Layout { stack_top: top, mmap_top: mmap_top(top, &Limits::default()), ..Layout::default() };
        Self::room()?;
        Ok(Self::build(Inner { layout, ..Inner::default() }, false))
    }

    /// Whether there is kernel memory for one more: `ENOMEM`.
    pub(super) fn room() -> Result<()> {
        heap::room_hot((size_of::<Space>() + UpdateLog::ENTRIES_LEN + size_of::<Edges>()) as u64)
    }

    /// A space with these contents; the caller has asked for room.
    pub(super) fn build(inner: Inner, unpatched: bool) -> Arc<Space> {
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let build = |me: &Weak<Space>| Space {
            id,
            handle: Arc::new(Handle(me.clone())),
            log: UpdateLog::new(),
            inner: RwMutex::new(Rank::Space, inner),
            unpatched: AtomicBool::new(unpatched),
            attached: Once::new(),
        };
        // Hot: the exit reads the head of the log when cold memory is locked already.
        heap::hot(|| Arc::new_cyclic(build))
    }

    /// A number that no other space ever has: what a slot is bound to.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// Binds the current slot to this space and brings it up to date. True if nothing was mapped yet.
    pub fn activate(&self) -> bool {
        view::activate(&self.log)
    }

    /// The update log: for the gate's last look before guest mode.
    pub fn log(&self) -> &UpdateLog {
        &self.log
    }

    /// Keeps `what` until the space and all its copies are gone.
    pub fn keep(&self, what: Keep) {
        self.inner.write().kept = Kept(Some(what));
    }

    /// Gives the space something of another part of the kernel that lives as long as it does, unless it has it: not for its copies.
    pub fn attach(&self, make: impl FnOnce() -> Keep) {
        self.attached.call_once(make);
    }

    /// What was attached.
    pub fn attachment(&self) -> Option<&(dyn core::any::Any + Send + Sync)> {
        self.attached.get().map(|kept| &**kept)
    }

    /// Layout, now.
    pub fn layout(&self) -> Layout {
        self.inner.read().layout
    }

    /// Changes the layout: the loader, prctl(PR_SET_MM).
    pub fn update_layout(&self, change: impl FnOnce(&mut Layout)) {
        change(&mut self.inner.write().layout);
    }

    /// Takes over the process's limits: at exec and setrlimit(2).
    pub fn set_limits(&self, limits: Limits) {
        self.inner.write().limits = limits;
    }

    /// Puts the top of the stack at `stack_top`, and the mmap area as far below it as the stack's limit asks for.
    pub fn place_stack(&self, stack_top: u64) {
        let mut inner = self.inner.write();
        inner.layout.stack_top = stack_top;
        inner.layout.mmap_top = mmap_top(stack_top, &inner.limits);
    }

    /// Calls `visit` with each area, by address. The space is locked meanwhile: no copies to this space inside.
    pub fn for_each_vma(&self, mut visit: impl FnMut(&VmaInfo)) {
        let inner = self.inner.read();
        for vma in inner.vmas.iter() {
            visit(&VmaInfo::of(vma));
        }
    }

    /// How many areas there are.
    pub fn areas(&self) -> usize {
        self.inner.read().vmas.count()
    }

    /// Pages that killing all that use the space would free: of RAM, page tables and areas.
    pub fn weight(&self) -> u64 {
        let inner = self.inner.read();
        let table = inner.table.lock();
        table.present() + inner.charged(&table) / PAGE
    }

    /// Sizes.
    pub fn usage(&self) -> Usage {
        let inner = &mut *self.inner.write();
        let table = inner.table.get_mut();
        let mut usage = Usage { size: inner.vmas.bytes(), size_peak: inner.vmas.peak(), ..Usage::default() };
        for vma in inner.vmas.iter() {
            usage.count(vma);
            usage.file += account::host_bytes(table, vma);
        }
        usage.resident = table.present() * PAGE + usage.file;
        usage.peak = table.peak() * PAGE + usage.file;
        for (_, pte) in table.iter(0..USER_TOP / PAGE) {
            usage.shared += if pte.is_shared() { PAGE } else { 0 };
            usage.file += if pte.is_object() { PAGE } else { 0 };
        }
        usage.table = table.bytes();
        usage
    }

    /// Most bytes of RAM that it has had.
    pub fn peak(&self) -> u64 {
        self.inner.read().table.lock().peak() * PAGE
    }
}

impl Usage {
    fn count(&mut self, vma: &Vma) {
        if vma.flags.contains(VmaFlags::LOCKED) {
            self.locked += vma.len();
        }
        if vma.flags.contains(VmaFlags::GROWSDOWN) {
            self.stack += vma.len();
        } else if vma.prot.contains(Prot::EXEC) && !vma.prot.contains(Prot::WRITE) {
            self.code += vma.len();
        } else if vma.prot.contains(Prot::WRITE) && vma.is_private() {
            self.data += vma.len();
        }
    }
}

fn mmap_top(stack_top: u64, limits: &Limits) -> u64 {
    let room = limits.stack.clamp(MIN_STACK_GAP, USER_TOP / 6 * 5);
    (stack_top - room - STACK_SLACK) & !(PAGE - 1)
}

impl Inner {
    /// Bytes of kernel memory that page table and areas take.
    fn charged(&self, table: &PageTable) -> u64 {
        table.bytes() + (self.vmas.count() * size_of::<Vma>()) as u64
    }
}

impl Space {
    /// Whether some slot may have pages of the range mapped: entries, or host pages, which have none.
    pub(super) fn may_be_mapped(inner: &mut Inner, part: &Vma) -> bool {
        part.prot != Prot::empty()
            && (matches!(part.backing, Backing::File { .. })
                || inner.table.get_mut().next_present(part.pages()) != part.pages().end)
    }

    /// Whether no slot but the current one may have pages of RAM of the range mapped.
    pub(super) fn only_here(inner: &mut Inner, pages: Range<u64>) -> bool {
        inner.table.get_mut().held_only_by(pages, percpu::slot())
    }

    /// Appends a drop of the range. A shootdown must follow.
    pub(super) fn log_drop(&self, start: u64, end: u64) {
        self.log.append(Change::Drop { start, end });
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        view::forget(&self.log);
        // Slots that still hold it are free for other spaces.
        umbel_smp::slot::retire_space(self.id);
        let mut doomed = Doomed::default();
        doomed.extend(self.inner.get_mut().table.get_mut().detach(0..USER_TOP / PAGE));
    }
}
