//! The order in which locks are taken, and the debug check of it.
//!
//! [`Rank`] lists every kind of lock top-down: whoever holds one may take only ranks further down. Spinning locks are
//! accounted to the virtual CPU, which runs kernel code without preemption; sleeping locks to the thread. Each
//! account is a [`HeldLocks`]. In release builds nothing is recorded or checked.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

macro_rules! ranks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Kinds of locks, outermost first. Add new ones where they belong; the order is the documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Rank {
            $($(#[$doc])* $name,)*
        }

        impl Rank {
            /// All of them, outermost first.
            pub const ALL: &[Rank] = &[$(Rank::$name,)*];
        }
    };
}

ranks! {
    // Sleeping locks.
    /// Mount tables and namespaces.
    Mount,
    /// Renames between directories (one a file system).
    Rename,
    /// Directory contents; parent before child by `lock_nested`.
    Directory,
    /// Executing a new program: one exec or ptrace attach at a time per process.
    Exec,
    /// The position of an open file.
    FilePosition,
    /// A tty's readers and writers.
    TtyIo,
    /// The ring of a packet socket, while a packet is written to its file.
    PacketRing,
    /// Contents of a file, pipe or socket.
    Inode,
    /// A stream's buffer that user memory is copied to and from.
    Stream,
    /// A System V or POSIX IPC object.
    Ipc,
    /// Patched text of files.
    Patch,
    /// Address space: list of areas.
    Space,
    /// Cached pages of one object.
    Pages,
    /// Reclaim, swap.
    Reclaim,
    /// Any sleeping lock under which no other is taken.
    SleepLeaf,

    // Spinning locks.
    /// Table of all processes, groups and sessions.
    PidTable,
    /// One process: threads, children, limits.
    Process,
    /// Signal actions and queues.
    Signal,
    /// Signal actions that several processes may share.
    SignalActions,
    /// Controlling terminal, foreground group.
    TtyState,
    /// Descriptor table.
    FdTable,
    /// Current directory, root, umask.
    FsContext,
    /// Names of one dentry.
    Dentry,
    /// Attributes of an inode.
    InodeState,
    /// Epoll's ready list.
    Epoll,
    /// State of a pipe, socket, eventfd or another pollable object.
    Endpoint,
    /// Line discipline buffers.
    Tty,
    /// Futex buckets; two by `lock_nested`, lower address first.
    Futex,
    /// Page tables.
    PageTable,
    /// The update log's appenders and the slots of a space.
    UpdateLog,
    /// Timer queues.
    Timer,
    /// State of one task.
    Task,
    /// Wait queues; one inside another (epoll in epoll) by `lock_nested`.
    WaitQueue,
    /// Device rings.
    Ring,
    /// Run queues; two by `lock_nested`, lower CPU first.
    RunQueue,
    /// Slots of a virtual CPU.
    Slot,
    /// Any spinning lock under which nothing happens but allocation and logging.
    Leaf,
    /// Frame allocator.
    Frames,
    /// Kernel heap.
    Heap,
    /// The kernel log: may be taken under anything.
    Log,
}

pub(super) const RANKS: usize = Rank::ALL.len();
const _: () = assert!(RANKS <= 64);

/// Whether acquisitions are recorded and checked.
pub const CHECKED: bool = cfg!(debug_assertions) && !cfg!(loom);

/// The locks held by one virtual CPU (spinning) or one thread (sleeping), and the CPU's interrupt count.
///
/// Only its owner writes it, so relaxed accesses suffice; atomics because signal handlers may look.
#[derive(Debug)]
pub struct HeldLocks {
    mask: AtomicU64,
    counts: [AtomicU8; RANKS],
    /// See [`super::IrqGuard`].
    pub(super) irq_off: AtomicU32,
}

impl HeldLocks {
    /// Nothing held.
    pub const fn new() -> Self {
        Self { mask: AtomicU64::new(0), counts: [const { AtomicU8::new(0) }; RANKS], irq_off: AtomicU32::new(0) }
    }

    /// Whether any lock is held.
    pub fn any(&self) -> bool {
        self.mask.load(Relaxed) != 0
    }

    /// The innermost rank held, as its number.
    fn innermost(&self) -> Option<u32> {
        self.mask.load(Relaxed).checked_ilog2()
    }

    /// Records an acquisition.
    ///
    /// # Panics
    /// When the order is violated: a kernel bug that could deadlock.
    pub(super) fn acquire(&self, rank: Rank, nesting: Nesting) {
        let number = rank as u32;
        if let Some(held) = self.innermost() {
            let allowed = match nesting {
                Nesting::Below => held < number,
                Nesting::Beside => held <= number,
                Nesting::Try => true,
            };
            assert!(allowed, "lock order: {rank:?} ({number}) taken under rank {held}");
        }
        self.counts[rank as usize].fetch_add(1, Relaxed);
        self.mask.fetch_or(1 << number, Relaxed);
    }

    /// Records a release.
    pub(super) fn release(&self, rank: Rank) {
        if self.counts[rank as usize].fetch_sub(1, Relaxed) == 1 {
            self.mask.fetch_and(!(1 << rank as u32), Relaxed);
        }
    }
}

impl Default for HeldLocks {
    fn default() -> Self {
        Self::new()
    }
}

/// How an acquisition relates to the locks already held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nesting {
    /// Strictly below all held ranks.
    Below,
    /// Below or equal: the caller has an order of its own among equals.
    Beside,
    /// Anything: the acquisition does not wait.
    Try,
}

/// A `fn() -> &'static HeldLocks`, null until registered.
static CPU_HELD: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Registers how to find the [`HeldLocks`] of this virtual CPU. Until then nothing is recorded.
pub fn register_cpu_held(find: fn() -> &'static HeldLocks) {
    CPU_HELD.store(find as *mut (), Relaxed);
}

/// The account of this virtual CPU.
pub(super) fn cpu_held() -> Option<&'static HeldLocks> {
    let find = CPU_HELD.load(Relaxed);
    if find.is_null() {
        return None;
    }
    // SAFETY: only `register_cpu_held` stores here, and it stores pointers to functions of this type.
    let find = unsafe { core::mem::transmute::<*mut (), fn() -> &'static HeldLocks>(find) };
    Some(find())
}

/// Records the acquisition of a spinning lock on this virtual CPU.
#[inline(always)]
pub(super) fn note_acquire(rank: Rank, nesting: Nesting) {
    if CHECKED && let Some(held) = cpu_held() {
        held.acquire(rank, nesting);
    }
}

/// Records the release of a spinning lock on this virtual CPU.
#[inline(always)]
pub(super) fn note_release(rank: Rank) {
    if CHECKED && let Some(held) = cpu_held() {
        held.release(rank);
    }
}

/// States that the caller may block: no spinning lock is held here. Checked in debug builds.
#[inline(always)]
#[track_caller]
pub fn might_sleep() {
    if CHECKED && let Some(held) = cpu_held() {
        assert!(!held.any(), "sleeping under a spinning lock");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_downwards_is_allowed_in_any_release_order() {
        let held = HeldLocks::new();
        held.acquire(Rank::Process, Nesting::Below);
        held.acquire(Rank::WaitQueue, Nesting::Below);
        held.release(Rank::Process);
        held.acquire(Rank::RunQueue, Nesting::Below);
        held.release(Rank::RunQueue);
        held.release(Rank::WaitQueue);
        assert!(!held.any());
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn taking_upwards_panics() {
        let held = HeldLocks::new();
        held.acquire(Rank::RunQueue, Nesting::Below);
        held.acquire(Rank::Process, Nesting::Below);
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn taking_an_equal_rank_panics() {
        let held = HeldLocks::new();
        held.acquire(Rank::Futex, Nesting::Below);
        held.acquire(Rank::Futex, Nesting::Below);
    }

    #[test]
    fn equal_ranks_nest_when_asked_for_and_count() {
        let held = HeldLocks::new();
        held.acquire(Rank::Futex, Nesting::Below);
        held.acquire(Rank::Futex, Nesting::Beside);
        held.release(Rank::Futex);
        assert!(held.any());
        held.release(Rank::Futex);
        assert!(!held.any());
    }
}
