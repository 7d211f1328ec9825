//! The contract between the machine and the kernel image: shapes only, no behaviour.
//!
//! Everything here lives in memory that both sides map. Each side treats what the other wrote as untrusted:
//! read once, check, cap.

mod boot;
pub mod layout;
mod ring;
mod slot;

pub use boot::{
    BootInfo, CANARY_WORDS, Console, Control, ControlState, CpuRequest, HostFiles, MAX_ARENAS, MAX_CPUS, StdioKind,
    StdioStat, TRACE_MAX, Watch,
};
pub use ring::{RING_LEN, RINGS, Ring, RingIndex};
pub use slot::{AHEAD_NAME, AHEAD_STAT, AHEAD_WORDS, Mailbox, PLAIN_FDS, SlotPage, SlotPhase, VcpuShared, VcpuState};
