//! Where everything lies in a slot's address space.
//!
//! One page-global-directory entry (512 GiB, the highest of the lower half) belongs to Umbel; everything
//! below [`USER_TOP`] belongs to the guest. Nothing that a guest can map lies within a gigabyte of the gate.

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Bytes in a huge page.
pub const HUGE: u64 = 2 << 20;

/// First address that guests may map. The host's `mmap_min_addr` is at most this.
pub const USER_BOTTOM: u64 = 0x1_0000;
/// First address above guest memory.
pub const USER_TOP: u64 = 0x7f80_0000_0000;

/// The kernel image. Its first page is the gate.
pub const IMAGE_BASE: u64 = USER_TOP + 0x4000_0000;
/// Bytes reserved for text and read-only data.
pub const IMAGE_MAX: u64 = 0x0400_0000;

/// What one entry of the page directory's second level spans: the host skips it at once while nothing lies in it.
const GIGA: u64 = 1 << 30;
/// KDATA, hot part: the range that the gate locks and unlocks. Begins with the image's statics.
///
/// [`HOT_NEAR`] bytes before a gigabyte's border: what lies behind the border costs nothing until a machine uses it.
pub const HOT_BASE: u64 = USER_TOP + 2 * GIGA - HOT_NEAR;
/// Bytes of the hot range that each lock and unlock walks in any case.
const HOT_NEAR: u64 = 8 << 20;
/// Most bytes of the hot range.
pub const HOT_MAX: u64 = 128 << 20;
/// Bytes of the hot range of a machine with so many pages of RAM: an address range, populated in 2 MiB steps.
///
/// Every lock and unlock walks it: 8 ns per empty 2 MiB step and 125 ns per populated one (measured), so it is small where there
/// is no RAM for thousands of processes. One length a machine, which the filter compares: an unlock that opened more than
/// the next lock covers would leave the rest to the guest.
pub const fn hot_len(ram_pages: u64) -> u64 {
    if ram_pages < (3 << 30) / PAGE { 48 << 20 } else { HOT_MAX }
}
/// Bytes of the hot range for the image's statics.
pub const STATICS_LEN: u64 = 0x000f_0000;
/// Offset in the hot range of [`super::Control`]. What each call reads of it lies in the huge page of the statics; what boot and
/// consoles use, in the next one.
pub const CONTROL_OFF: u64 = HUGE - 0x8000;
/// Bytes reserved there.
pub const CONTROL_LEN: u64 = 0x000a_0000;

/// The slot's own [`super::SlotPage`], read-only.
pub const SLOT_PAGE: u64 = USER_TOP + 0x6000_0000;
/// The entry/exit page: private to the slot, always writable, never trusted.
pub const ENTRY_PAGE: u64 = USER_TOP + 0x6001_0000;
/// Offset on the entry page of a word that is not 0 when the gate noted calls, to be made good at the next entry.
pub const NOTED: u64 = 1024;
/// Two words: how many system calls were answered from the slot's page since the last entry, and how many clocks and CPU numbers
/// the vDSO told. For `--stats` only.
pub const READS: u64 = 1040;
pub const CLOCK_READS: u64 = 1048;
/// A byte for each descriptor: 1 = the gate closed it.
pub const CLOSED: u64 = 1088;
/// A byte for each descriptor: the last epoll_ctl(2) on it that the gate noted, 0 = none.
pub const WATCH_OP: u64 = 1152;
/// How many with an event it noted, and for each descriptor the number of the last one and its event.
pub const WATCH_COUNT: u64 = 1032;
pub const WATCH_NUMBER: u64 = 1280;
pub const WATCH_EVENTS: u64 = 1536;
pub const WATCH_DATA: u64 = 1792;
/// Offsets there of what the gate works with when it answers newfstatat(2): four words for registers, the offset in the slot's page of
/// the next answer, how many it gave.
pub const AHEAD_SAVED: u64 = 512;
pub const AHEAD_CURSOR: u64 = 544;
pub const AHEAD_GIVEN: u64 = 548;
/// The host's signal frames while KDATA is locked: private to the slot, always writable, never trusted.
pub const SIGNAL_STACK: u64 = USER_TOP + 0x6002_0000;
/// Bytes of the signal stack.
pub const SIGNAL_STACK_LEN: u64 = 0x1_0000;
/// The guest's vDSO (r-x).
pub const GUEST_VDSO: u64 = USER_TOP + 0x6004_0000;
/// Bytes reserved for it.
pub const GUEST_VDSO_LEN: u64 = 0x4000;
/// Mapping window for page copies, unmapped again before guest mode.
pub const WINDOW: u64 = USER_TOP + 0x7000_0000;
/// Bytes of the window.
pub const WINDOW_LEN: u64 = 0x0400_0000;

/// KDATA, cold part: left locked, unlocked on demand in kernel mode. Before a gigabyte's border, as [`HOT_BASE`] is.
pub const COLD_BASE: u64 = USER_TOP + 3 * GIGA - COLD_NEAR;
/// Bytes of the cold range that each opening walks in any case.
const COLD_NEAR: u64 = 32 << 20;
/// Bytes of the cold range: an address range, populated in 2 MiB steps.
pub const COLD_LEN: u64 = 0x4_0000_0000;

/// Bytes of a kernel stack, 2^n, aligned to its size.
///
/// Debug builds measure the deepest use, a nested signal's frame included: `--stats` shows it.
pub const KERNEL_STACK_LEN: u64 = 0x4000;
