//! Who shares the processors with whom: the threads of a session among each other, the sessions of a user among each
//! other, and users with users. Source: sched(7), "The autogroup feature"; there only sessions share.
//!
//! A child is in its parent's group; setsid(2) and another user id begin a new one. Kernel threads are in none. The shares
//! themselves: [`umbel_smp::runqueue::Group`].

use crate::task::{Task, User, cap, ids};
use crate::{Errno, Result, time};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::*};
use umbel_mm::heap;
use umbel_smp::runqueue::Group;

/// `kernel.sched_autogroup_enabled`; if not, every thread counts by itself.
static ENABLED: AtomicBool = AtomicBool::new(true);

/// Least time between two changes of a group's nice value by whoever has no privilege, as on Linux.
const CHANGE_NS: u64 = 100_000_000;

/// The group of a session's threads.
#[derive(Debug)]
pub struct Autogroup {
    /// As /proc/PID/autogroup shows it. Immutable.
    id: u64,
    nice: AtomicI32,
    /// When somebody without privilege may change that again.
    next_change_ns: AtomicU64,
    share: Arc<Group>,
}

impl Autogroup {
    /// The group of a new session of user `uid`.
    pub fn new(uid: u32) -> Arc<Autogroup> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Autogroup::with(uid, LAST.fetch_add(1, Relaxed) + 1, 0)
    }

    /// The group of those in the same session that run as user `uid`.
    pub fn of_user(&self, uid: u32) -> Arc<Autogroup> {
        Autogroup::with(uid, self.id, self.nice.load(Relaxed))
    }

    fn with(uid: u32, id: u64, nice: i32) -> Arc<Autogroup> {
        let user = User::of(uid);
        heap::hot(|| {
            let share = Group::new(Some(user.share().clone()), super::possible());
            share.set_nice(nice as i8);
            Arc::new(Autogroup { id, nice: AtomicI32::new(nice), next_change_ns: AtomicU64::new(0), share })
        })
    }

    pub(super) fn share(&self) -> &Arc<Group> {
        &self.share
    }

    /// As /proc/PID/autogroup shows it.
    pub fn show(&self) -> String {
        format!("/autogroup-{} nice {}\n", self.id, self.nice.load(Relaxed))
    }

    /// `task` gives it the nice value that `text` tells.
    ///
    /// # Errors
    /// `EINVAL`: no nice value. `EPERM`: less than 0 without privilege. `EAGAIN`: again so soon, without privilege.
    pub fn set_nice(&self, task: &Task, text: &[u8]) -> Result<()> {
        let nice = core::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let nice = nice.filter(|nice| (-20..=19).contains(nice)).ok_or(Errno::EINVAL)?;
        if nice < 0 && !task.capable(cap::SYS_NICE) {
            return Err(Errno::EPERM);
        }
        let now_ns = time::monotonic_ns();
        if now_ns < self.next_change_ns.load(Relaxed) && !task.capable(cap::SYS_ADMIN) {
            return Err(Errno::EAGAIN);
        }
        self.next_change_ns.store(now_ns + CHANGE_NS, Relaxed);
        self.nice.store(nice, Relaxed);
        self.share.set_nice(nice as i8);
        Ok(())
    }
}

/// What all of a user's sessions share.
pub fn of_user() -> Arc<Group> {
    heap::hot(|| Group::new(None, super::possible()))
}

/// Whether groups count.
pub fn enabled() -> bool {
    ENABLED.load(Relaxed)
}

/// Changes that, for all that run now, too.
pub fn set_enabled(enabled: bool) {
    ENABLED.store(enabled, Relaxed);
    for task in ids::all_tasks() {
        task.sched.set_stale();
        super::class_changed(&task);
    }
}

/// `task` leads a session of its own from now on, with all threads of its process.
pub fn begin_session(task: &Task) {
    let group = Autogroup::new(task.cred().uid);
    let threads = ids::table().node(task.process().pid()).map(|node| node.threads.clone());
    for thread in threads.into_iter().flatten() {
        thread.sched.set_group(group.clone());
        super::class_changed(&thread);
    }
}

/// `task` has another real user id from now on.
pub fn change_user(task: &Task, uid: u32) {
    if let Some(group) = task.sched.group() {
        task.sched.set_group(group.of_user(uid));
        super::class_changed(task);
    }
}
