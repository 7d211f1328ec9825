//! What the machine tells the kernel at boot, and the control block they share afterwards.

use super::{Ring, VcpuShared};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};

/// Most virtual CPUs of a machine.
pub const MAX_CPUS: usize = 256;
/// Most RAM arenas (memfds) of a machine.
pub const MAX_ARENAS: usize = 16;

/// Descriptors of the shared table that the kernel uses. All stay open for the machine's life.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFiles {
    /// memfd of KDATA: hot range at offset 0, cold range after it.
    pub kdata: i32,
    /// memfds of RAM, `arena_count` of them.
    pub arenas: [i32; MAX_ARENAS],
    /// `O_PATH` directory that is the root of the guest's lower layer.
    pub root: i32,
    /// memfd that holds the guest vDSO image, -1 if none.
    pub vdso: i32,
}

/// What one of the machine's standard streams is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StdioKind {
    /// Closed on the host: the guest gets no descriptor.
    Closed = 0,
    /// The terminal: the guest gets its tty.
    Tty = 1,
    /// A pipe, socket or character device: a byte stream through a ring.
    Stream = 2,
    /// A regular file: `fd` is read and written directly at the file's own (shared) offset.
    File = 3,
    /// A memory device that the guest has, too: /dev/null, zero, full, random or urandom.
    Memory = 4,
}

/// One of the machine's standard streams.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StdioStat {
    /// A [`StdioKind`].
    pub kind: u32,
    /// The host descriptor, -1 if closed.
    pub fd: i32,
    /// `st_mode` on the host, for `fstat`.
    pub mode: u32,
    /// `fcntl(F_GETFL)` on the host.
    pub flags: u32,
}

/// Immutable facts of the machine, in KDATA, written by the machine before the first slot runs.
#[repr(C)]
pub struct BootInfo {
    /// Number of virtual CPUs at boot, `1..=MAX_CPUS`.
    pub cpus: u32,
    /// Number of virtual CPUs that there may ever be, `cpus..=MAX_CPUS`.
    pub possible: u32,
    /// Slots that the host's limits leave room for, and host areas that each may hold.
    pub slots: u32,
    pub slot_areas: u32,
    /// RAM in pages, all arenas together; each arena holds an equal share, the last one the rest.
    pub ram_pages: u64,
    /// Number of arenas in use.
    pub arena_count: u32,
    /// Pages of the first arenas (the last may hold fewer).
    pub arena_pages: u64,
    /// Descriptors.
    pub files: HostFiles,
    /// Standard input, output, error.
    pub stdio: [StdioStat; 3],
    /// Bit mask of debug options: [`BootInfo::STRACE`] and following.
    pub options: u32,
    /// Kernel log level on the machine's standard error: 0 off, 1 error … 5 trace.
    pub log_level: u32,
    /// User and group of the first process.
    pub uid: u32,
    pub gid: u32,
    /// XSAVE components in use (XCR0 & 0xe7) and bytes of the standard-format area.
    pub xsave_mask: u64,
    pub xsave_len: u32,
    /// Page size of the host's huge pages mapped for KDATA, 0 if they could not be had.
    pub huge: u32,
    /// TSC frequency in kHz, 0 if not invariant (then clocks ask the host).
    pub tsc_khz: u64,
    /// The host's `AT_HWCAP`, `AT_HWCAP2`, `AT_CLKTCK`.
    pub hwcap: u64,
    pub hwcap2: u64,
    /// 16 random bytes twice a boot: seed of the kernel's generator.
    pub seed: [u8; 32],
    /// With [`BootInfo::VIRTUAL`]: how far the clocks of running virtual CPUs may drift apart, us.
    pub virtual_quantum_us: u32,
    /// Likewise: what taking a lock costs that another virtual CPU held last, ns.
    pub virtual_hand_over_ns: u32,
    /// With [`BootInfo::VIRTUAL_MODEL`]: what the schedule is drawn from.
    pub virtual_seed: u64,
    /// The host CPUs on which the machine may run, as bits.
    pub host_cpus: [u64; 16],
    /// With [`BootInfo::PIN`]: the host CPU of each virtual CPU.
    pub pin: [u16; MAX_CPUS],
    /// With [`BootInfo::VIRTUAL_MODEL`]: how often it is looked for code that computes without end, us.
    pub virtual_look_us: u32,
    /// Bytes of [`BootInfo::strings`] in use.
    pub strings_len: u32,
    /// Counts of NUL-terminated strings in `strings`, in this order: arguments, environment, then the working
    /// directory (1) and the host name (1).
    pub argc: u32,
    pub envc: u32,
    /// The strings themselves.
    pub strings: [u8; 0x2_0000],
}

impl BootInfo {
    /// `--strace`.
    pub const STRACE: u32 = 1;
    /// `--stats`.
    pub const STATS: u32 = 2;
    /// `--debug-host`: slots stay dumpable.
    pub const DEBUG_HOST: u32 = 4;
    /// `--pin`: virtual CPU n stays on host CPU n mod the host's count.
    pub const PIN: u32 = 8;
    /// `--lockstat`.
    pub const LOCKSTAT: u32 = 16;
    /// `--debug-stall`: root of the guest may make a virtual CPU hang.
    pub const DEBUG_STALL: u32 = 1 << 31;
    /// Virtual time; all virtual CPUs are on one host CPU.
    pub const VIRTUAL: u32 = 32;
    /// With `VIRTUAL`: it passes by fixed costs of events.
    pub const VIRTUAL_MODEL: u32 = 64;
}

/// What the machine's terminal last told us, and what we told it.
#[repr(C)]
pub struct Console {
    /// Rows and columns: `rows << 16 | columns`. Written by the machine.
    pub window: AtomicU32,
    /// Incremented by the machine when `window` changed.
    pub window_changes: AtomicU32,
}

/// The word by which the machine has a virtual CPU added or removed, one at a time: the machine writes a request and
/// interrupts virtual CPU 0, the kernel replaces it by the answer, the machine takes that away (0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuRequest(pub u32);

impl CpuRequest {
    const REQUEST: u32 = 1 << 31;
    const ANSWER: u32 = 1 << 30;
    const ONLINE: u32 = 1 << 16;

    /// Brings virtual CPU `cpu` up, or takes it down.
    pub const fn new(cpu: u32, online: bool) -> CpuRequest {
        CpuRequest(Self::REQUEST | cpu & 0xffff | if online { Self::ONLINE } else { 0 })
    }

    /// The virtual CPU and whether it shall be online, if this is a request.
    pub const fn request(self) -> Option<(u32, bool)> {
        if self.0 & Self::REQUEST == 0 { None } else { Some((self.0 & 0xffff, self.0 & Self::ONLINE != 0)) }
    }

    /// What the kernel answers: an error number, 0 if it is done.
    pub const fn answered(errno: u32) -> CpuRequest {
        CpuRequest(Self::ANSWER | errno & 0xffff)
    }

    /// That number, if this is an answer.
    pub const fn answer(self) -> Option<u32> {
        if self.0 & Self::ANSWER == 0 || self.0 & Self::REQUEST != 0 { None } else { Some(self.0 & 0xffff) }
    }
}

/// Most return addresses of a [`Watch`].
pub const TRACE_MAX: usize = 48;

/// Of virtual CPUs that hang in the kernel: the machine looks at [`super::VcpuShared::progress`] again and again, has one that
/// stands still tell where it is, puts names to the addresses and gives the text to the kernel for its log.
#[repr(C)]
pub struct Watch {
    /// Seconds after which a virtual CPU hangs, 0 = nobody looks. Written by the kernel.
    pub limit_s: AtomicU32,
    /// 1 = the kernel wants backtraces of all virtual CPUs now; futex word of the machine.
    pub wanted: AtomicU32,
    /// Number of the virtual CPU that shall tell where it is, plus one; 0 when it has. Written by the machine, then by it.
    pub asked: AtomicU32,
    /// Its instruction pointer and return addresses, 0-terminated.
    pub trace: [AtomicU64; TRACE_MAX],
    /// Bytes of `text` that the kernel shall log; 0 when it has.
    pub text_len: AtomicU32,
    /// Lines.
    pub text: [core::cell::UnsafeCell<u8>; 0x4000],
}

/// Words of a page.
pub const CANARY_WORDS: usize = 512;

/// How the machine's life stands. A futex word that the machine waits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ControlState {
    Booting = 0,
    Running = 1,
    /// The first process is gone and output is flushed: `exit_status` holds.
    Finished = 2,
    /// The guest kernel panicked: `panic_*` hold.
    Panicked = 3,
}

/// The block at [`super::layout::CONTROL_OFF`] of the hot range.
#[repr(C, align(4096))]
pub struct Control {
    /// A [`ControlState`]; futex word.
    pub state: AtomicU32,
    /// Exit status of the machine: the command's, or 128+n.
    pub exit_status: AtomicI32,
    /// Set to 1 by the machine to ask for an orderly end (SIGTERM), then an interrupt on vCPU 0.
    pub shutdown: AtomicU32,
    /// Bytes of `report` in use: the `--stats` text, or the panic message.
    pub report_len: AtomicU32,
    /// Return addresses of a panic, 0-terminated; the machine symbolises them.
    pub backtrace: [AtomicU64; 64],
    pub console: Console,
    /// Requests to the zygote: futex word, incremented per request and per child death.
    pub zygote_word: AtomicU32,
    /// What the machine asks of virtual CPUs, a [`CpuRequest`], and the answer; futex word.
    pub cpu_request: AtomicU32,
    /// Shared part of each virtual CPU.
    pub vcpus: [VcpuShared; MAX_CPUS],
    /// Facts, then strings: from these on the block lies in the hot range's second huge page.
    pub boot: BootInfo,
    /// Rings by [`super::RingIndex`].
    pub rings: [Ring; super::RINGS],
    /// Text for [`Self::report_len`].
    pub report: [core::cell::UnsafeCell<u8>; 0x8000],
    /// What machine and kernel say to each other about virtual CPUs that hang.
    pub watch: Watch,
    /// Written by the machine before the kernel runs, and never again by anybody: it looks whether they change.
    pub canary: [AtomicU64; CANARY_WORDS],
}

// SAFETY: the cells are written by one side at a time, ordered by `state` and `report_len`.
unsafe impl Sync for Control {}

const _: () = assert!(size_of::<Control>() as u64 <= super::layout::CONTROL_LEN);
const _: () = {
    let facts_end = core::mem::offset_of!(Control, boot) + core::mem::offset_of!(BootInfo, strings);
    assert!(super::layout::CONTROL_OFF + facts_end as u64 <= super::layout::HUGE);
};
