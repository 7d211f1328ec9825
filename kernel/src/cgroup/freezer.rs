//! Stopping and killing whole groups. Source: Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze", "cgroup.kill".
//!
//! A thread of a group that is to be frozen stops on its next way out of the kernel, and *rests*. One that stands in a stop of a
//! signal's or a tracer's, or waits for its vfork child, rests, too. A group is frozen when all its threads rest and all
//! groups below it are. SIGKILL ends a rest; a tracer's `PTRACE_INTERRUPT` reaches who rests, which stays so. All counts change under the table's lock.

use super::Cgroup;
use crate::sched;
use crate::signal::{self, SIGKILL, SigInfo};
use crate::task::ptrace::stops;
use crate::task::{Process, Task, exit, ids};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// What a group has of it.
#[derive(Default)]
pub struct State {
    /// `cgroup.freeze`.
    pub(super) wanted: AtomicBool,
    frozen: AtomicBool,
    /// Live threads of it that rest.
    pub(super) resting: AtomicUsize,
}

impl State {
    pub(super) fn wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Relaxed)
    }
}

/// Whether threads of `group` are to stop.
pub fn is_due(group: &Cgroup) -> bool {
    group.lineage().any(|group| group.freezer.wanted())
}

/// Looks whether `group`, and those above it, are frozen now.
pub(super) fn update(group: &Cgroup) {
    for at in group.lineage() {
        let rests = at.freezer.resting.load(Relaxed) == at.members.load(Relaxed);
        let below = |child: &Arc<Cgroup>| child.freezer.is_frozen();
        let frozen = rests && is_due(at) && at.children.lock().by_id.values().all(below);
        if at.freezer.frozen.swap(frozen, Relaxed) == frozen {
            return;
        }
        at.events.changed();
    }
}

/// The resting ones among the threads that come into `group`, or leave it.
pub(super) fn count_resting(group: &Cgroup, task: &Task, comes: bool) {
    let change = usize::from(task.in_group.rests.load(Relaxed));
    if comes {
        group.freezer.resting.fetch_add(change, Relaxed);
    } else {
        group.freezer.resting.fetch_sub(change, Relaxed);
    }
}

/// `task`, the caller, stands still from now on, or goes on.
fn set_resting(task: &Task, rests: bool) {
    let group = {
        let _table = ids::table();
        let group = task.process().cgroup.group();
        count_resting(&group, task, false);
        task.in_group.rests.store(rests, Relaxed);
        count_resting(&group, task, true);
        update(&group);
        group
    };
    group.tell();
}

/// The caller, which is `task`, waits in `wait` for somebody who lets it go on.
pub fn rest<R>(task: &Task, wait: impl FnOnce() -> R) -> R {
    set_resting(task, true);
    let outcome = wait();
    set_resting(task, false);
    outcome
}

/// Stops the calling thread while its group is to be frozen. Called on the way out of the kernel.
pub fn park(task: &Arc<Task>) {
    let process = task.process();
    let due = || is_due(&process.cgroup.group()) && !task.must_exit();
    while due() {
        // A tracer's stop is within the rest: the group stays frozen.
        rest(task, || {
            process.stop_queue.wait_until(|| (!due() || task.trace.traps()).then_some(()));
            stops::trap(task);
        });
    }
}

/// `cgroup.freeze`.
pub(super) fn set(group: &Arc<Cgroup>, wanted: bool) {
    {
        let _table = ids::table();
        if group.freezer.wanted.swap(wanted, Relaxed) == wanted {
            return;
        }
        group.subtree().for_each(|below| update(&below));
    }
    // They look whether they are to stop, or may go on.
    processes_of(group).for_each(|process| exit::kick_threads(&process));
    let mut at = Some(group.clone());
    while let Some(below) = at {
        below.tell();
        let _table = ids::table();
        at = below.next_below(group);
    }
}

/// A thread that was just cloned, and does not run yet, is to stop at once if its group is.
pub fn stop_first(child: &Arc<Task>) {
    if is_due(&child.process().cgroup.group()) {
        sched::interrupt(child);
    }
}

/// `cgroup.kill`: SIGKILL for all processes in `group` and below. A process that one of them forks meanwhile is found, too: who
/// was killed forks no more.
pub(super) fn kill(group: &Arc<Cgroup>, killer: &Task) {
    loop {
        let mut found = false;
        for process in processes_of(group).filter(|process| !process.is_killed()) {
            let info = SigInfo::kill(SIGKILL, process.sees(killer.process().pid()), killer.cred().uid);
            signal::send_to_process(&process, info);
            // The init of the killer's own PID namespace is spared.
            found |= process.is_killed();
        }
        if !found {
            return;
        }
    }
}

/// The live processes in `group` and below, each as it is when its turn comes. Takes no memory.
fn processes_of(group: &Arc<Cgroup>) -> impl Iterator<Item = Arc<Process>> {
    ids::all_processes().filter(|process| process.cgroup.is_within(group))
}
