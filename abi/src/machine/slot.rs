//! What slots and virtual CPUs show to code outside their kernel context.

use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64};

/// A slot's page: written in KDATA, seen read-only by guest code at [`super::layout::SLOT_PAGE`].
///
/// Holds nothing secret. Gate assembly reads `selector_ptr`, `block` here: guest code cannot write them.
#[repr(C, align(4096))]
pub struct SlotPage {
    /// User-dispatch selector: 1 = block (guest mode), 0 = allow (kernel mode). Offset 0.
    pub selector: AtomicU8,
    _pad: [u8; 7],
    /// KDATA address of this very page (writable there). Offset 8.
    pub self_ptr: u64,
    /// KDATA address of the slot's block (gate state). Offset 16.
    pub block: u64,
    /// KDATA address of the virtual CPU's per-CPU block. Offset 24.
    pub vcpu: u64,
    /// Index of the virtual CPU. Offset 32.
    pub cpu: u32,
    /// Index of the slot in the kernel's table. Offset 36.
    pub index: u32,
    /// Sequence count of the fields below: odd while they change. Offset 40.
    pub seq: AtomicU32,
    /// 1 = trampolines and vDSO may answer from this page, 0 = they must enter the kernel. Offset 44.
    pub fast_reads: AtomicU32,
    /// Identity of the running guest thread. Offsets 48, 52, …
    pub pid: AtomicU32,
    pub tid: AtomicU32,
    pub ppid: AtomicU32,
    pub uid: AtomicU32,
    pub euid: AtomicU32,
    pub gid: AtomicU32,
    pub egid: AtomicU32,
    /// Which identity this is: the kernel's own mark, unique among all that were ever shown.
    pub identity: AtomicU32,
    /// Clock: ns = base_ns + ((tsc - base_tsc) * mult >> shift). Offset 80.
    pub base_tsc: AtomicU64,
    /// CLOCK_MONOTONIC at `base_tsc`, ns.
    pub mono_ns: AtomicU64,
    /// CLOCK_REALTIME - CLOCK_MONOTONIC, ns.
    pub real_offset_ns: AtomicU64,
    /// Multiplier, 0 = clocks must enter the kernel.
    pub mult: AtomicU32,
    pub shift: AtomicU32,
    /// Bytes of hot KDATA: [`super::layout::hot_len`]. Offset 112.
    pub hot_len: u64,
    /// What the thread's time namespace adds: part of `mono_ns`, taken off `real_offset_ns`.
    pub time_offset_ns: AtomicU64,
    /// Which table of descriptors the fields below show, 0 = none, and after how many changes of it.
    pub table: AtomicU64,
    pub table_changes: AtomicU64,
    /// Per descriptor: 1 = the gate may answer for it, 0 = it must enter the kernel, as for those beyond [`PLAIN_FDS`].
    pub plain: [AtomicU8; 256],
    /// Per descriptor, if so: whether it closes at execve(2), and its status flags.
    pub cloexec: [AtomicU8; PLAIN_FDS],
    pub status: [AtomicU32; PLAIN_FDS],
    /// Per descriptor: 1 = the gate may note epoll_ctl(2) on it, which is registered with the instance below.
    pub watched: [AtomicU8; 256],
    /// Descriptor of that instance, negated.
    pub watcher: AtomicI32,
    /// Answers to calls of newfstatat(2) that are likely to come (the kernel's `fs::ahead`): the time-stamp counter until which the
    /// gate may give them, 0 = it must enter the kernel.
    pub ahead_until: AtomicU64,
    /// What to put there when the thread leaves the kernel, and the count of changes as of which they hold.
    pub ahead_limit: AtomicU64,
    pub ahead_changes: AtomicU64,
    /// Whose they are, as [`Self::identity`]; 0 = there are none.
    pub ahead_task: AtomicU32,
    /// The flags of the calls.
    pub ahead_flags: AtomicU32,
    /// Offset in the page of what follows the last one.
    pub ahead_end: AtomicU32,
    /// The answers: `struct stat`; offset of the last word of the name, and in the upper half that of the next answer in
    /// the page; the name, at least 8 bytes with its NUL, padded.
    pub ahead: [AtomicU64; AHEAD_WORDS],
}

/// Words for answers.
pub const AHEAD_WORDS: usize = 384;
/// Words of an answer before its name, and of these the attributes.
pub const AHEAD_NAME: usize = 19;
pub const AHEAD_STAT: usize = 18;

/// Descriptors from 0 on for which the gate may answer.
pub const PLAIN_FDS: usize = 64;

const _: () = assert!(core::mem::offset_of!(SlotPage, hot_len) == 112);
const _: () = assert!(size_of::<SlotPage>() == 4096);

/// Where a slot's host task is. Owned by the kernel; the parent of the slots reads it when one dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SlotPhase {
    /// No host task.
    Empty = 0,
    /// Waiting on its park word.
    Parked = 1,
    /// Running kernel code.
    Kernel = 2,
    /// Running guest code.
    Guest = 3,
    /// No host task: the host refused to make one.
    Refused = 4,
}

/// What a virtual CPU's host task is doing, for whoever wants to interrupt it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum VcpuState {
    /// Not started, or removed and asleep until it is called back.
    Offline = 0,
    /// In kernel mode: looks at its mailbox before it leaves.
    Kernel = 1,
    /// In guest mode: needs a signal.
    Guest = 2,
    /// Waiting on its doorbell: needs a futex wake.
    Idle = 3,
}

/// Cross-calls and device interrupts waiting for a virtual CPU.
#[repr(C)]
pub struct Mailbox {
    /// Bits of pending causes.
    pub pending: AtomicU32,
    /// Futex word: 0 = asleep or about to be, 1 = rung.
    pub doorbell: AtomicU32,
}

impl Mailbox {
    /// Re-evaluate the run queue.
    pub const RESCHEDULE: u32 = 1;
    /// Apply the update log of the running address space.
    pub const SHOOTDOWN: u32 = 2;
    /// A ring or the control block changed.
    pub const DEVICE: u32 = 4;
    /// The slot's timer fired.
    pub const TIMER: u32 = 8;
    /// Stop for ever (panic or shutdown).
    pub const STOP: u32 = 16;
    /// Take something that waits elsewhere. For one that is idle.
    pub const HELP: u32 = 32;
}

/// The part of a virtual CPU that the machine and other virtual CPUs touch.
///
/// To interrupt one: set bits in `mailbox.pending` (SeqCst), full fence, read `state`: `Idle` → store 1 to the
/// doorbell and FUTEX_WAKE (shared); `Guest` → tgkill(`tgid`, `tid`, SIGUSR1 or SIGIO); else nothing.
/// The virtual CPU publishes `state`, full fence, then reads `pending`.
#[repr(C, align(64))]
pub struct VcpuShared {
    /// A [`VcpuState`].
    pub state: AtomicU32,
    /// Host thread id of the slot that runs this virtual CPU (slots are single-threaded: also its process id).
    pub tid: AtomicU32,
    pub mailbox: Mailbox,
    /// Requests to the parent of this virtual CPU's slots: futex word, incremented per request and per child death.
    pub parent_word: AtomicU32,
    /// Host process id of that parent.
    pub parent_pid: AtomicU32,
    /// Incremented each time that kernel code passes a point at which it looks for interrupts.
    pub progress: AtomicU32,
    /// Host CPU on which the machine wants this virtual CPU, plus one; 0 = wherever the host puts it. Written by the machine,
    /// which then moves the slot that runs; the others follow at the next hand-over. Taken back by the virtual CPU after
    /// `home_until_ns`.
    pub home: AtomicU32,
    /// So long that counts unless the machine says so again, for it may be stopped: CLOCK_MONOTONIC.
    pub home_until_ns: AtomicU64,
}
