//! Raw host system calls, and nothing else: no policy, no state, no allocation.
//!
//! Every function is one instruction sequence around `syscall`. In the kernel image they work only in kernel mode:
//! the slot's dispatch selector blocks them in guest mode and the seccomp filter lists the numbers used here.

#![no_std]

pub mod clock;
pub mod file;
pub mod futex;
pub mod mem;
pub mod process;
pub mod raw;
pub mod signal;
pub mod space;
pub mod timer;
