//! Signals to the owner of an open file (`F_SETOWN`, `F_SETSIG`) about leases and directories. Source: fcntl(2).

use super::{File, PollEvents};
use crate::signal::{self, SIGIO, SigInfo};
use crate::syscall::{Fd, Pid};
use crate::task::{Task, ids};
use alloc::sync::Arc;

/// `POLL_MSG`.
const POLL_MSG: i32 = 3;
/// Its band: `POLLIN | POLLRDNORM | POLLMSG`.
const BAND: u64 = PollEvents::READABLE.bits() as u64 | 0x400;

/// Makes the caller's process the owner of `file`, unless it has one.
pub fn claim(task: &Arc<Task>, file: &File) {
    /// `F_OWNER_PID`.
    const PROCESS: i32 = 1;
    if file.owner() == 0 {
        file.set_owner(task.process().pid().0, PROCESS);
    }
}

/// Tells the owner of `file`, which it has open as `fd`.
pub fn tell(file: &File, fd: Fd) {
    let info = match file.signal() {
        0 => SigInfo::kernel(SIGIO),
        signo => SigInfo::raw(signo, POLL_MSG, &[BAND, fd.0 as u64]),
    };
    match file.owner() {
        0 => {}
        group @ ..0 => signal::send_to_pgrp(Pid(-group), info),
        id => {
            if let Some(process) = ids::find_process(Pid(id)) {
                signal::send_to_process(&process, info);
            }
        }
    }
}
