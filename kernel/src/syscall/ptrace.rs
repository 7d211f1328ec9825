//! ptrace(2).

use super::Pid;
use crate::Result;
use crate::task::Task;
use crate::task::ptrace::{answers, request};
use alloc::sync::Arc;
use linux_raw_sys::general as nr;
use umbel_mm::UserAddr;

rows! {
    nr::__NR_ptrace, ptrace(request: u32, pid: Pid, addr: u64, data: u64) => ptrace, Partial("no SINGLEBLOCK, no SYSEMU_SINGLESTEP, no filters or dispatch shown");
}

fn ptrace(task: &Arc<Task>, request: u32, pid: Pid, addr: u64, data: u64) -> Result<u64> {
    if answers::is_one(request) {
        return answers::ptrace(task, request, pid, addr, UserAddr(data));
    }
    request::ptrace(task, request, pid, addr, data).map(|()| 0)
}
