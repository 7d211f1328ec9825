//! System calls: from a number and six registers to a typed handler and back.
//!
//! * [`table`]: what a row is, the `rows!` macro, the table by number.
//! * [`args`]: how registers become typed arguments and results, and how `--strace` prints them.
//! * One file per family with its rows and its (short) handlers: decode, one call of the subsystem, encode.
//!
//! To add a call: a row in the family's `rows!`, a handler beside it. To add a family: `pub mod NAME;` here and
//! `NAME::ROWS` in [`table::FAMILIES`]. Example (from `process.rs`):
//!
//! ```ignore
//! rows! {
//!     nr::__NR_getpid, getpid() => getpid, Full;
//!     nr::__NR_setpgid, setpgid(pid: Pid, pgrp: Pid) => setpgid, Full;
//!     nr::__NR_sysfs, sysfs(option: u32) => sysfs, Partial("names only");
//! }
//!
//! fn getpid(task: &Arc<Task>) -> Result<Pid> { … }          // any `Result<T: IntoRet>`
//! fn setpgid(task: &Arc<Task>, pid: Pid, pgrp: Pid) -> Result<()> { … }
//! ```
//!
//! Locks: none of its own. Users: the run loop (`task::run`).

pub mod args;
#[macro_use]
pub mod table;

pub mod aio;
pub mod attr;
pub mod cachestat;
pub mod cred;
pub mod fanotify;
pub mod fd;
pub mod fs;
pub mod handle;
pub mod io;
pub mod ipc;
pub mod kcmp;
pub mod keys;
pub mod landlock;
pub mod lock;
pub mod madvise;
pub mod mm;
pub mod mount;
pub mod mqueue;
pub mod names;
pub mod notify;
pub mod ns;
pub mod numa;
pub mod pidfd;
pub mod poll;
pub mod prctl;
pub mod process;
pub mod ptrace;
pub mod quota;
pub mod scarce;
pub mod sched;
pub mod sendfile;
pub mod signal;
pub mod socket;
pub mod splice;
pub mod statmount;
pub mod sync;
pub mod system;
pub mod sysv;
pub mod time;
pub mod truncate;
pub mod xattr;

use crate::task::Task;
use crate::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write;

pub use args::{ArgFmt, FromArg, IntoRet, UserStr};

use crate::{Fd, Pid};
pub use table::{Row, Support};

/// The six argument registers: rdi, rsi, rdx, r10, r8, r9.
pub type Args = [u64; 6];

/// Runs system call `nr` for `task`.
///
/// # Errors
/// What the handler returns, `ERESTART*` included; `ENOSYS` where the table has no row.
pub fn dispatch(task: &Arc<Task>, nr: u64, args: &Args) -> Result<u64> {
    match table::find(nr) {
        Some(_) if scarce::takes_memory(nr) && scarce::refuses(task) => Err(scarce::refusal(nr)),
        Some(row) => (row.call)(task, args),
        None => {
            table::count_missing(nr);
            Err(Errno::ENOSYS)
        }
    }
}

/// As [`dispatch`], printing one line in the manner of strace(1) on the kernel's log ring.
pub fn dispatch_traced(task: &Arc<Task>, nr: u64, args: &Args) -> Result<u64> {
    let mut line = String::new();
    let _ = write!(line, "[{}] ", task.tid());
    match table::find(nr) {
        Some(row) => (row.format)(task, args, &mut line),
        None => {
            let _ = write!(line, "syscall_{nr}({:#x}, {:#x}, {:#x})", args[0], args[1], args[2]);
        }
    }
    let result = dispatch(task, nr, args);
    let _ = match result {
        Ok(value) if value > 0xffff => write!(line, " = {value:#x}"),
        Ok(value) => write!(line, " = {value}"),
        Err(errno) => write!(line, " = -1 {}", errno.name()),
    };
    crate::log::strace(&line);
    result
}
