//! The guest kernel: policy and Linux's semantics, in safe Rust.
//!
//! Entry point for reading: `task::run` (the run loop), `syscall::table` (what a guest may ask for).

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod boot;
pub mod bpf;
pub mod cgroup;
pub mod drivers;
pub mod fs;
pub mod futex;
mod id;
pub mod ipc;
pub mod keys;
pub mod landlock;
pub mod loader;
pub mod log;
pub mod machine;
pub mod net;
pub mod random;
pub mod room;
pub mod sched;
pub mod setting;
pub mod signal;
pub mod stats;
pub mod syscall;
pub mod task;
pub mod time;
pub mod tty;
pub mod vm;

pub use id::{Fd, Pid, Tid};
pub use umbel_abi::linux::Errno;

/// What kernel functions return.
pub type Result<T> = core::result::Result<T, Errno>;
