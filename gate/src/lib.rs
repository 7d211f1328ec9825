//! The only door between guest code and the kernel: entry, exit, protection, registers.
//!
//! * [`enter_user`] runs a guest thread until its next trap; it looks like a function call ([`context`]).
//! * `gate.s`: the gate page (first page of the image) with the unlock and lock instructions, and the exits.
//! * [`arm`] prepares a fresh slot: signal stack, handlers, user dispatch, seccomp filter ([`filter`]).
//! * [`signal`] judges a host signal frame, [`nested`] one that hit kernel mode.
//! * [`fpu`] keeps the extended state of guest threads.
//!
//! Used by: the run loop of the kernel (`enter_user`), the slot code of the machine layer (`arm_slot`,
//! [`SlotBlock`], [`save_before_switch`]), signal delivery (FPU images), `vm` (call-site patches).
//!
//! Invariants: nothing that decides a kernel address is read from memory that the guest can write; the mode is
//! [`SlotBlock::in_kernel`], never derived from an instruction pointer; no lock is taken here.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod ahead;
mod arm;
mod asm;
mod block;
pub mod cold;
mod context;
pub mod filter;
mod fixup;
pub mod fpu;
pub mod image;
mod nested;
pub mod panic;
pub mod patch;
mod plain;
mod regs;
mod signal;
mod sites;
pub mod thin;
mod trap;
pub mod vdso;

pub use arm::{ASYNC_MASK, ArmError, ArmOptions, arm_slot};
pub use block::{SlotBlock, init};
pub use context::{Bases, UserContext, clear_residue, enter_user, resume_dead, save_before_switch};
pub use plain::{Notes, Reads, WatchNote, take_notes, take_reads};
pub use regs::Regs;
pub use sites::HotSite;
pub use trap::{Exception, FaultInfo, Kill, Trap};

pub use umbel_abi::linux::Errno;

/// What gate functions return.
pub type Result<T> = core::result::Result<T, Errno>;
