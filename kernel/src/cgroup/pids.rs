//! The controller `pids`: how many threads may be in a group and those below it. Source:
//! Documentation/admin-guide/cgroup-v2.rst, "PID".
//!
//! A thread counts from clone(2) until it has ended, the leader of a process until that has been waited for. Everything is counted
//! in all groups all the time; limits hold, and are shown, where the controller is enabled. All under the table's lock.

use super::{Cgroup, Controllers, Notice};
use crate::task::ids::Table;
use crate::{Errno, Result};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// `max`.
pub const NO_LIMIT: u64 = u64::MAX;
/// Above what any machine may have.
const LIMIT_MAX: u64 = 4 << 20;

/// What one group counts.
pub struct Counts {
    current: AtomicU64,
    peak: AtomicU64,
    max: AtomicU64,
    /// Clones refused for the limit of this group or one below; of this one alone.
    refused: AtomicU64,
    refused_here: AtomicU64,
    pub(super) events: Notice,
    pub(super) local_events: Notice,
}

impl Counts {
    pub(super) fn new() -> Counts {
        Counts {
            current: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            max: AtomicU64::new(NO_LIMIT),
            refused: AtomicU64::new(0),
            refused_here: AtomicU64::new(0),
            events: Notice::new(),
            local_events: Notice::new(),
        }
    }

    /// The controller was enabled: as in a new group.
    pub(super) fn start(&self) {
        self.max.store(NO_LIMIT, Relaxed);
        self.refused.store(0, Relaxed);
        self.refused_here.store(0, Relaxed);
        self.peak.store(self.current(), Relaxed);
    }

    /// Threads now.
    pub(super) fn current(&self) -> u64 {
        self.current.load(Relaxed)
    }

    /// Most at once so far.
    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// How many there may be.
    pub(super) fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// Clones refused for the limit of this group or one below; or of this one alone.
    pub(super) fn refused(&self, here: bool) -> u64 {
        if here { self.refused_here.load(Relaxed) } else { self.refused.load(Relaxed) }
    }

    /// `pids.max`.
    ///
    /// # Errors
    /// `EINVAL` for what is no number of threads.
    pub(super) fn set_max(&self, max: u64) -> Result<()> {
        if max != NO_LIMIT && max > LIMIT_MAX {
            return Err(Errno::EINVAL);
        }
        self.max.store(max, Relaxed);
        Ok(())
    }
}

/// Groups at and above `group` that the controller is enabled in.
fn counted(group: &Cgroup) -> impl Iterator<Item = &Cgroup> {
    group.lineage().filter(|group| !group.is_root() && group.controllers().contains(Controllers::PIDS))
}

/// Whether one more thread may be cloned into `group`. A refusal is counted; the caller tells of it ([`Cgroup::tell`]).
///
/// # Errors
/// `EAGAIN`.
pub fn check(_: &mut Table, group: &Cgroup) -> Result<()> {
    for at in counted(group) {
        let more = at.pids.current() + 1;
        if more > at.pids.max() {
            refuse(at);
            return Err(Errno::EAGAIN);
        }
        at.pids.peak.fetch_max(more, Relaxed);
    }
    Ok(())
}

/// Whether [`check`] would pass now.
pub fn has_room(group: &Cgroup) -> bool {
    counted(group).all(|at| at.pids.current() < at.pids.max())
}

fn refuse(limited: &Cgroup) {
    limited.pids.refused_here.fetch_add(1, Relaxed);
    limited.pids.local_events.changed();
    for at in counted(limited) {
        at.pids.refused.fetch_add(1, Relaxed);
        at.pids.events.changed();
    }
}

/// `count` threads are in `group` from now on, whatever its limit.
pub(super) fn charge(group: &Cgroup, count: u64) {
    for at in group.lineage() {
        let now = at.pids.current.fetch_add(count, Relaxed) + count;
        at.pids.peak.fetch_max(now, Relaxed);
    }
}

/// They are no more.
pub(super) fn uncharge(group: &Cgroup, count: u64) {
    for at in group.lineage() {
        at.pids.current.fetch_sub(count, Relaxed);
    }
}
