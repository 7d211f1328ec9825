//! ptrace(2).

use super::Pid;
use crate::Result;
use crate::task::Task;
use crate::task::ptrace::request;
use alloc::sync::Arc;
use linux_raw_sys::general as nr;
use umbel_mm::UserAddr;

rows! {
    nr::__NR_ptrace, ptrace(request: u32, pid: Pid, addr: u64, data: u64) => ptrace, Partial("no PEEKSIGINFO, no SINGLEBLOCK");
}

/// `PTRACE_GET_SYSCALL_INFO`, the one request that returns a number.
const GET_SYSCALL_INFO: u32 = 0x420e;

fn ptrace(task: &Arc<Task>, request: u32, pid: Pid, addr: u64, data: u64) -> Result<u64> {
    if request == GET_SYSCALL_INFO {
        return request::syscall_info(task, pid, addr, UserAddr(data));
    }
    request::ptrace(task, request, pid, addr, data).map(|()| 0)
}
