//! A thread group.

use crate::syscall::Pid;

/// A process: what its threads share.
pub struct Process {
    /// Immutable.
    pid: Pid,
}

impl Process {
    /// Its id: that of its first thread.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}
