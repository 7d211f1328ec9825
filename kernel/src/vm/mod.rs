//! Guest address spaces: areas, page table, faults, copy-on-write.
//!
//! * [`Space`]: one address space; [`space`] has its state and lock, [`map`] mmap/munmap/mprotect/brk, [`remap`] mremap,
//!   [`advise`] madvise and friends, [`account`] what is in RAM, [`commit`] what is promised, [`fault`] demand faults, [`run`] what they map at once, [`edges`] how far they go, [`warm`] what comes before them, [`fork`] copying, [`remote`] access from other spaces, [`scan`] looking for pages of a kind, [`userfault`] who else is asked,
//!   [`patch`] and [`unpatch`] call sites.
//! * [`vma`], [`table`]: pure data: areas and page table.
//! * [`object`]: what can be mapped ([`Mappable`]); [`mapping_set`]: who maps it.
//!
//! The page table is the truth; what a slot has mapped is a cache of it, filled by faults, corrected through the update
//! log (`mm::log`, `mm::view`). Two changes need no log entry: not-present → present, and those of pages that no slot but the
//! current one may have mapped (`mm::holders`), which it corrects itself. Old frames are released only after the shootdown that
//! follows the entry: no freed page is ever seen through an old mapping.
//!
//! Locks: `Rank::Space` (sleeping), then what [`Mappable::page`] takes (`Rank::Pages` and below), then `Rank::PageTable`. Whoever
//! changes areas, or present pages that others may have mapped, is the space's writer and needs no lock of the page table; faults
//! that only add pages and advice that drops a slot's own are readers and take that one for moments, never over a host call.

pub mod account;
pub mod advise;
pub mod commit;
mod edges;
pub mod fault;
pub mod fork;
mod gaps;
pub mod map;
pub mod mapping_set;
mod mdwe;
pub mod object;
pub mod pager;
mod patch;
pub mod policy;
pub mod remap;
pub mod remote;
mod run;
pub mod scan;
pub mod space;
pub mod table;
mod text;
mod unpatch;
pub mod userfault;
pub mod vma;
mod warm;
mod word;

#[cfg(test)]
mod tests;

pub use account::{PageState, Resident};
pub use fault::{Access, Fault, Origin};
pub use map::MapRequest;
pub use mapping_set::MappingSet;
pub use mdwe::Mdwe;
pub use object::{HostFd, Mappable, PageSource, SharedMemory};
pub use pager::init;
pub use space::{Layout, Limits, Space, Usage, VmaInfo};
pub use unpatch::Detour;
pub use vma::{Backing, MappedFile, Prot, Vma, VmaFlags};
