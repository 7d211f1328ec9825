//! Memory below the address spaces: frames of guest RAM, the kernel heap, user copies, the update log.
//!
//! * [`frame`]: guest-physical pages in the RAM memfds, by number and reference count.
//! * [`heap`], [`stack`]: kernel memory in the hot part of KDATA.
//! * [`slotmap`]: the host mappings of the slot that runs.
//! * [`log`], [`handshake`], [`view`]: changes of present translations, and who must have seen them; [`holders`]: when nobody need.
//! * [`user`], [`io`]: the only way to bytes of guest memory.
//!
//! Used by `gate` (fixup table) and `kernel` (everything else). Locks: each module's head.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[cfg(not(loom))]
pub mod frame;
pub mod handshake;
#[cfg(not(loom))]
pub mod heap;
pub mod holders;
#[cfg(not(loom))]
pub mod io;
pub mod log;
#[cfg(not(loom))]
pub mod percpu;
#[cfg(loom)]
#[path = "frame/refcount.rs"]
pub mod refcount;
#[cfg(not(loom))]
pub mod slotmap;
#[cfg(not(loom))]
pub mod stack;
#[cfg(not(loom))]
pub mod user;
#[cfg(not(loom))]
pub mod view;

#[cfg(not(loom))]
pub use frame::{FrameRef, Pfn};
pub use umbel_abi::linux::Errno;
#[cfg(not(loom))]
pub use user::{Pager, UserAddr};

/// What functions of this crate return.
pub type Result<T> = core::result::Result<T, Errno>;

/// Bytes in a page.
pub const PAGE: u64 = umbel_abi::machine::layout::PAGE;
