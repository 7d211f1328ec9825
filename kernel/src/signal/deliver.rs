//! The way out to guest code.

use crate::task::Task;
use alloc::sync::Arc;
use umbel_gate::Regs;

/// Whether [`deliver`] has something to do. One load.
pub fn pending(_task: &Task) -> bool {
    false
}

/// Whether a signal that will end the process is pending.
pub fn fatal_pending(_task: &Task) -> bool {
    false
}

/// Delivers what is pending and settles interrupted calls. Call on the way out to guest code when [`pending`] or when a
/// system call returned one of the `ERESTART` codes; look at `must_exit` afterwards.
pub fn deliver(_task: &Arc<Task>, _regs: &mut Regs) {}
