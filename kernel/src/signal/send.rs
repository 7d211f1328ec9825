//! Sending. Source: kill(2), signal(7).

use super::SigInfo;
use crate::syscall::Pid;
use crate::task::{Process, Task};
use alloc::sync::Arc;

/// Sends to one thread.
pub fn send_to_task(_task: &Arc<Task>, _info: SigInfo) {}

/// Sends to a process: a thread that does not block the signal takes it.
pub fn send_to_process(_process: &Arc<Process>, _info: SigInfo) {}

/// Sends to all processes of group `pgid` (the terminal's signals: no permission is asked).
pub fn send_to_pgrp(_pgid: Pid, _info: SigInfo) {}

/// The running instruction's own fault: delivered even if blocked or ignored, by the default action then.
pub fn force_fault(_task: &Arc<Task>, _info: SigInfo) {}

/// Whether `process` wants no zombies: SIGCHLD ignored, or SA_NOCLDWAIT.
pub fn ignores_children(_process: &Process) -> bool {
    false
}

/// A thread leaves for ever: what it alone had pending is dropped, what the process has goes to another thread.
pub fn on_exit(_task: &Arc<Task>) {}
