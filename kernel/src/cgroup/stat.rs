//! Processor time of groups: what `cpu.stat` shows. Source: Documentation/admin-guide/cgroup-v2.rst, "CPU".
//!
//! A group has the time of threads that ended in it or left it; live ones are asked when somebody wants to know. What a removed
//! group had goes to its parent.

use super::Cgroup;
use crate::task::ids::Table;
use crate::task::{Task, Usage};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Time of user and of kernel mode, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    pub user_ns: u64,
    pub system_ns: u64,
}

/// Time that is past. Changed under the table's lock.
#[derive(Default)]
pub struct Times {
    user_ns: AtomicU64,
    system_ns: AtomicU64,
}

impl Times {
    pub(super) fn get(&self) -> Time {
        Time { user_ns: self.user_ns.load(Relaxed), system_ns: self.system_ns.load(Relaxed) }
    }

    pub(super) fn add(&self, time: Time) {
        self.user_ns.fetch_add(time.user_ns, Relaxed);
        self.system_ns.fetch_add(time.system_ns, Relaxed);
    }

    fn set(&self, time: Time) {
        self.user_ns.store(time.user_ns, Relaxed);
        self.system_ns.store(time.system_ns, Relaxed);
    }
}

/// What a thread keeps for its group. Changed under the table's lock.
#[derive(Default)]
pub struct OfThread {
    /// It stands still, as far as the freezer is concerned.
    pub(super) rests: AtomicBool,
    /// What it had used when it came in.
    before: Times,
}

/// What of `usage` `task` has used since it came into its group.
fn used_here(task: &Task, usage: &Usage) -> Time {
    let before = task.in_group.before.get();
    Time {
        user_ns: usage.user_ns.saturating_sub(before.user_ns),
        system_ns: usage.system_ns.saturating_sub(before.system_ns),
    }
}

/// `task` leaves `group`, to another one or for ever.
pub(super) fn settle(task: &Task, group: &Cgroup) {
    let usage = task.sched.usage();
    group.times.add(used_here(task, &usage));
    task.in_group.before.set(Time { user_ns: usage.user_ns, system_ns: usage.system_ns });
}

/// What has been used in `group` and all below it.
pub(super) fn total(table: &Table, group: &Arc<Cgroup>) -> Time {
    let sum = |one: Time, other: Time| Time {
        user_ns: one.user_ns + other.user_ns,
        system_ns: one.system_ns + other.system_ns,
    };
    let past = group.subtree().map(|group| group.times.get()).fold(Time::default(), sum);
    let live = table.tasks.values().filter(|task| task.process().cgroup.is_within(group));
    live.map(|task| used_here(task, &task.sched.usage())).fold(past, sum)
}
