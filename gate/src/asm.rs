//! The assembled parts and their labels.

use crate::{SlotBlock, UserContext};
use core::arch::global_asm;
use core::mem::offset_of;
use umbel_abi::machine::layout::{
    AHEAD_CURSOR, AHEAD_GIVEN, AHEAD_SAVED, CLOSED, COLD_BASE, COLD_LEN, ENTRY_PAGE, HOT_BASE, IMAGE_BASE, NOTED,
    READS, SLOT_PAGE, WATCH_COUNT, WATCH_DATA, WATCH_EVENTS, WATCH_NUMBER, WATCH_OP,
};
use umbel_abi::machine::{AHEAD_NAME, AHEAD_STAT, SlotPage, VcpuState};

/// How a stay in guest mode ended, as the assembly returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// A system call through a patched site: registers are saved.
    Fast = 0,
    /// A host signal: the frame is to be judged.
    Signal = 1,
    /// It never left: something is waiting.
    Stay = 2,
    /// XRSTOR refused the FPU image.
    BadFpu = 3,
    /// The slot died; another one goes on with its kernel context.
    SlotDied = 4,
}

impl Kind {
    pub(crate) fn from_raw(raw: u32) -> Kind {
        match raw {
            0 => Kind::Fast,
            1 => Kind::Signal,
            2 => Kind::Stay,
            3 => Kind::BadFpu,
            _ => Kind::SlotDied,
        }
    }
}

/// Flags that the host leaves as the guest set them: AC, NT, DF, TF.
const BAD_FLAGS: u32 = 0x4_4500;

global_asm!(
    include_str!("asm/gate.s"),
    HOT_BASE = const HOT_BASE,
    HOT_LEN = const offset_of!(SlotPage, hot_len),
    IMAGE_BASE = const IMAGE_BASE,
    SLOT_PAGE = const SLOT_PAGE,
    ENTRY_PAGE = const ENTRY_PAGE,
    KSP = const offset_of!(SlotBlock, ksp),
    CONTEXT = const offset_of!(SlotBlock, context),
    IRQ_SP = const offset_of!(SlotBlock, irq_sp),
    SHARED = const offset_of!(SlotBlock, shared),
    LIVE = const offset_of!(SlotBlock, live),
    SLOW = const offset_of!(SlotBlock, slow),
    SIGNALLED = const SlotBlock::MASKED | SlotBlock::DISARMED,
    ENTRY_ARGS = const offset_of!(SlotBlock, entry_args),
    FPU = const UserContext::FPU_OFFSET,
    BAD_FLAGS = const BAD_FLAGS,
    STATE_KERNEL = const VcpuState::Kernel as u32,
    KIND_SIGNAL = const Kind::Signal as u32,
    KIND_FAST = const Kind::Fast as u32,
    PLAIN = const offset_of!(SlotPage, plain),
    CLOEXEC = const offset_of!(SlotPage, cloexec),
    STATUS = const offset_of!(SlotPage, status),
    NOTED = const ENTRY_PAGE - SLOT_PAGE + NOTED,
    CLOSED = const ENTRY_PAGE - SLOT_PAGE + CLOSED,
    READS = const ENTRY_PAGE - SLOT_PAGE + READS,
    WATCHED = const offset_of!(SlotPage, watched),
    WATCHER = const offset_of!(SlotPage, watcher),
    WATCH_OP = const ENTRY_PAGE - SLOT_PAGE + WATCH_OP,
    WATCH_COUNT = const ENTRY_PAGE - SLOT_PAGE + WATCH_COUNT,
    WATCH_NUMBER = const ENTRY_PAGE - SLOT_PAGE + WATCH_NUMBER,
    WATCH_EVENTS = const ENTRY_PAGE - SLOT_PAGE + WATCH_EVENTS,
    WATCH_DATA = const ENTRY_PAGE - SLOT_PAGE + WATCH_DATA,
    AHEAD_UNTIL = const offset_of!(SlotPage, ahead_until),
    AHEAD_FLAGS = const offset_of!(SlotPage, ahead_flags),
    AHEAD_END = const offset_of!(SlotPage, ahead_end),
    AHEAD_STAT = const AHEAD_STAT * 8,
    AHEAD_NAME = const AHEAD_NAME * 8,
    SAVED = const AHEAD_SAVED,
    CURSOR = const AHEAD_CURSOR,
    GIVEN = const AHEAD_GIVEN,
);

global_asm!(
    include_str!("asm/exit.s"),
    SLOT_PAGE = const SLOT_PAGE,
    ENTRY_PAGE = const ENTRY_PAGE,
    KSP = const offset_of!(SlotBlock, ksp),
    CONTEXT = const offset_of!(SlotBlock, context),
    SHARED = const offset_of!(SlotBlock, shared),
    PENDING = const offset_of!(SlotBlock, pending),
    COLD = const offset_of!(SlotBlock, cold),
    COLD_BASE = const COLD_BASE,
    COLD_LEN = const COLD_LEN,
    HOT_BASE = const HOT_BASE,
    HOT_LEN = const offset_of!(SlotPage, hot_len),
    LOG_HEAD = const offset_of!(SlotBlock, log_head),
    LOG_APPLIED = const offset_of!(SlotBlock, log_applied),
    STACK = const offset_of!(SlotBlock, stack),
    EMPTY_SET = const offset_of!(SlotBlock, empty_set),
    SLOW = const offset_of!(SlotBlock, slow),
    DISARMED = const SlotBlock::DISARMED,
    FPU = const UserContext::FPU_OFFSET,
    STATE_GUEST = const VcpuState::Guest as u32,
    STATE_KERNEL = const VcpuState::Kernel as u32,
    KIND_STAY = const Kind::Stay as u32,
    KIND_BAD_FPU = const Kind::BadFpu as u32,
);

unsafe extern "C" {
    pub(crate) fn gate_leave(context: u64, block: u64, slow: u32, mask: u64) -> u32;
    pub(crate) fn gate_save_extended(area: *mut u8, mask: u64);
    pub(crate) fn gate_go_on(ksp: u64, kind: u32) -> !;
    pub(crate) safe fn gate_cold_protect(prot: u32) -> i64;
    pub(crate) safe fn gate_thin() -> i64;
}

macro_rules! labels {
    ($($name:ident),* $(,)?) => {
        unsafe extern "C" { $(safe static $name: u8;)* }
        /// Addresses of the labels.
        pub(crate) mod label {
            $(pub(crate) fn $name() -> u64 { &raw const super::$name as u64 })*
        }
    };
}

labels!(
    gate_start,
    gate_end,
    gate_signal_entry,
    gate_signal_restart,
    gate_signal_unlocked,
    gate_signal_end,
    gate_fast_entry,
    gate_fast_restart,
    gate_fast_unlocked,
    gate_fast_end,
    gate_close_entry,
    gate_close_end,
    gate_fcntl_entry,
    gate_fcntl_end,
    gate_epoll_entry,
    gate_epoll_end,
    gate_stat_entry,
    gate_stat_saved,
    gate_stat_end,
    gate_exit_start,
    gate_exit_end,
    gate_fast_locked,
    gate_slow_locked,
    gate_fast_window,
    gate_fast_window_end,
    gate_slow_window,
    gate_slow_window_end,
    gate_sigreturned,
    gate_cold_protected,
    gate_thinned,
    gate_restorer,
);

/// The guest's `rsp`, argument registers and number as the fast entry left them on the entry page.
#[repr(C)]
pub(crate) struct EntrySave {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
}

/// What the entry of newfstatat(2) changes, as it left it on the entry page.
#[repr(C)]
pub(crate) struct StatSave {
    pub r8: u64,
    pub r9: u64,
    pub rdx: u64,
    /// In `ax`: flags as LAHF and SETO give them.
    pub flags: u64,
}

#[cfg(test)]
mod tests {
    use super::label;

    fn page() -> &'static [u8] {
        // SAFETY: the labels bound one assembled page.
        unsafe { core::slice::from_raw_parts(label::gate_start() as *const u8, 4096) }
    }

    #[test]
    fn the_gate_is_one_page() {
        assert_eq!(label::gate_end() - label::gate_start(), 4096);
    }

    #[test]
    fn no_call_stands_in_the_page_but_the_four() {
        let known = [
            label::gate_signal_unlocked(),
            label::gate_fast_unlocked(),
            label::gate_fast_locked(),
            label::gate_slow_locked(),
        ]
        .map(|l| (l - label::gate_start()) as usize - 2);
        for (at, pair) in page().windows(2).enumerate() {
            match pair {
                [0x0f, 0x05] => assert!(known.contains(&at), "stray syscall at {at:#x}"),
                [0x0f, 0x34] | [0xcd, 0x80] => panic!("stray system call at {at:#x}"),
                _ => {}
            }
        }
        for at in known {
            assert_eq!(&page()[at..at + 2], &[0x0f, 0x05]);
        }
    }

    #[test]
    fn the_last_call_is_well_before_the_end_of_the_page() {
        assert!(label::gate_exit_end() < label::gate_end() - 16);
    }
}
