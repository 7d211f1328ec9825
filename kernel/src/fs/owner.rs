//! Signals to the owner of an open file about leases and directories. Source: fcntl(2).

use super::{File, sigio};
use crate::Fd;
use crate::task::Task;
use alloc::sync::Arc;

/// Makes the caller's process the owner of `file`, unless it has one.
pub fn claim(task: &Arc<Task>, file: &File) {
    if file.async_owner().id() == 0 {
        file.async_owner().set(task.process().pid().0, sigio::OWNER_PID);
    }
}

/// Tells the owner of `file`, which it has open as `fd`.
pub fn tell(file: &File, fd: Fd) {
    sigio::send(file, fd, sigio::code::POLL_MSG);
}
