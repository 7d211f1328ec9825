//! Tasks (threads), processes (thread groups), credentials, the table of ids, the run loop.
//!
//! * [`Task`]: one guest thread. [`Process`]: its thread group. [`Cred`]: who it is.
//! * [`current`]: the running task; the only way to it.
//! * [`ids`]: the tree of processes, groups and sessions. [`run`]: the run loop.
//! * [`clone`], [`exec`], [`exit`], [`wait`], [`stop`], [`session`]: what the calls of the same names do.
//!
//! Locks, outermost first: the table of ids, one process's, one task's. None is held across anything that sleeps.

pub mod access;
pub mod acct;
mod arch;
pub mod clone;
mod completion;
pub mod coredump;
mod cred;
pub mod dispatch;
pub mod exec;
pub mod exit;
pub mod ids;
pub mod kthread;
pub mod limits;
pub mod ns;
pub mod oom;
pub mod pidfd;
mod process;
pub mod ptrace;
mod reaper;
pub mod rseq;
mod run;
pub mod seccomp;
pub mod session;
pub mod stop;
#[allow(clippy::module_inception)]
mod task;
mod user;
pub mod wait;

pub use crate::sched::current;
pub use arch::arch_prctl;
pub use completion::Completion;
pub use cred::{Cred, cap};
pub use exit::group_exit;
pub use ids::{WaitStatus, all_processes, find_pgrp, find_process, find_task};
pub use limits::Limits;
pub use process::{Image, Process, Times, Usage};
pub use run::task_main;
pub use task::{COMM_LEN, NewTask, Task, comm};
pub use user::{Charge, Count, User};

/// Whether the running task has the capability.
pub fn capable(cap: u32) -> bool {
    current().capable(cap)
}
