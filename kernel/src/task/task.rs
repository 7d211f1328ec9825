//! One guest thread.

use super::{Cred, Process};
use crate::syscall::Pid;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// A guest thread, or a kernel thread.
pub struct Task {
    /// Changes once: when a thread that is not the leader calls execve(2) and takes the leader's place.
    tid: AtomicI32,
    /// Immutable.
    process: Arc<Process>,
    /// Who the thread is; replaced as a whole by the thread itself.
    cred: Arc<Cred>,
}

impl Task {
    /// Its id.
    pub fn tid(&self) -> Pid {
        Pid(self.tid.load(Relaxed))
    }

    /// Its thread group.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Its credentials now.
    pub fn cred(&self) -> Arc<Cred> {
        self.cred.clone()
    }
}
