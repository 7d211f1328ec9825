//! Processes and threads: clone, exec, exit, wait, ids, groups, sessions, limits.

use super::Pid;
use crate::Result;
use crate::task::Task;
use alloc::sync::Arc;
use linux_raw_sys::general as nr;

rows! {
    nr::__NR_getpid, getpid() => getpid, Full;
    nr::__NR_gettid, gettid() => gettid, Full;
}

fn getpid(task: &Arc<Task>) -> Result<Pid> {
    Ok(task.process().pid())
}

fn gettid(task: &Arc<Task>) -> Result<Pid> {
    Ok(task.tid())
}
