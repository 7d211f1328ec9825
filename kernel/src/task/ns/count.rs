//! How many namespaces the users of a user namespace may make. Source: namespaces(7), `/proc/sys/user`.
//!
//! A namespace counts for who made it in the user namespace that owns it, and for who made that in the one above, up to the first.
//! It holds a [`Ticket`], which counts for as long as the namespace lives. Lock: the counts of a user namespace (rank `Leaf`), one at
//! a time.

use super::user::UserNs;
use crate::task::ids;
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

/// A kind of namespaces: its place in [`NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Cgroup,
    Ipc,
    Mounts,
    Net,
    Pid,
    Time,
    User,
    Uts,
}

const KINDS: usize = 8;

/// Each kind, with its file's name.
pub const NAMES: [(&str, Counted); KINDS] = [
    ("max_cgroup_namespaces", Counted::Cgroup),
    ("max_ipc_namespaces", Counted::Ipc),
    ("max_mnt_namespaces", Counted::Mounts),
    ("max_net_namespaces", Counted::Net),
    ("max_pid_namespaces", Counted::Pid),
    ("max_time_namespaces", Counted::Time),
    ("max_user_namespaces", Counted::User),
    ("max_uts_namespaces", Counted::Uts),
];

/// A limit of the first user namespace that nobody has set: it is made before there is RAM, on which it depends.
const UNSET: u64 = u64::MAX;

/// Limits of a user namespace, and what its users have.
#[derive(Debug)]
pub struct Counts {
    limits: [AtomicU64; KINDS],
    by_user: SpinLock<BTreeMap<u32, [u32; KINDS]>>,
}

impl Counts {
    /// Of the first one: half as many as there may be threads.
    pub fn first() -> Counts {
        Counts::up_to(UNSET)
    }

    /// Of another: what is above it limits it.
    pub fn unlimited() -> Counts {
        Counts::up_to(i32::MAX as u64)
    }

    fn up_to(limit: u64) -> Counts {
        Counts {
            limits: [const { AtomicU64::new(0) }; KINDS].map(|_| AtomicU64::new(limit)),
            by_user: SpinLock::new(Rank::Leaf, BTreeMap::new()),
        }
    }

    /// Most of a kind that one user may have.
    pub fn limit(&self, kind: Counted) -> u64 {
        match self.limits.get(kind as usize).map_or(0, |limit| limit.load(Relaxed)) {
            UNSET => ids::threads_max() / 2,
            limit => limit,
        }
    }

    /// Changes that; who has more keeps it.
    ///
    /// # Errors
    /// `EINVAL` beyond what an `int` holds.
    pub fn set_limit(&self, kind: Counted, limit: u64) -> Result<()> {
        if limit > i32::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        if let Some(place) = self.limits.get(kind as usize) {
            place.store(limit, Relaxed);
        }
        Ok(())
    }

    fn add(&self, uid: u32, kind: Counted) -> Result<()> {
        let mut by_user = self.by_user.lock();
        let counts = by_user.entry(uid).or_default();
        match counts.get_mut(kind as usize) {
            Some(count) if u64::from(*count) < self.limit(kind) => {
                *count += 1;
                Ok(())
            }
            _ => {
                if *counts == [0; KINDS] {
                    by_user.remove(&uid);
                }
                Err(Errno::ENOSPC)
            }
        }
    }

    fn sub(&self, uid: u32, kind: Counted) {
        let mut by_user = self.by_user.lock();
        let Some(counts) = by_user.get_mut(&uid) else { return };
        if let Some(count) = counts.get_mut(kind as usize) {
            *count = count.saturating_sub(1);
        }
        if *counts == [0; KINDS] {
            by_user.remove(&uid);
        }
    }
}

/// What a namespace counts for, as long as it lives.
#[derive(Debug)]
pub struct Ticket {
    ns: Arc<UserNs>,
    uid: u32,
    kind: Counted,
}

/// The user namespaces in which something counts that `uid` makes in `ns`, and for whom.
fn accounts(ns: &Arc<UserNs>, uid: u32) -> impl Iterator<Item = (Arc<UserNs>, u32)> {
    core::iter::successors(Some((ns.clone(), uid)), |(ns, _)| ns.parent().map(|parent| (parent, ns.owner())))
}

impl Ticket {
    /// For a namespace that `uid` makes, and `ns` owns.
    ///
    /// # Errors
    /// `ENOSPC` if there are too many.
    pub fn take(ns: &Arc<UserNs>, uid: u32, kind: Counted) -> Result<Ticket> {
        for (done, (at, whose)) in accounts(ns, uid).enumerate() {
            if let Err(errno) = at.counts.add(whose, kind) {
                accounts(ns, uid).take(done).for_each(|(at, whose)| at.counts.sub(whose, kind));
                return Err(errno);
            }
        }
        Ok(Ticket { ns: ns.clone(), uid, kind })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        accounts(&self.ns, self.uid).for_each(|(at, whose)| at.counts.sub(whose, self.kind));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_limits_too_and_is_given_back() {
        let first = UserNs::first();
        let inner = UserNs::for_tests(&first, 1000);
        inner.counts.set_limit(Counted::Uts, 2).unwrap();
        let one = Ticket::take(&inner, 5, Counted::Uts).unwrap();
        let two = Ticket::take(&inner, 5, Counted::Uts).unwrap();
        assert_eq!(Ticket::take(&inner, 5, Counted::Uts).err(), Some(Errno::ENOSPC));
        assert!(Ticket::take(&inner, 6, Counted::Uts).is_ok());
        drop(one);
        let before = first.counts.limit(Counted::Uts);
        first.counts.set_limit(Counted::Uts, 1).unwrap();
        assert_eq!(Ticket::take(&inner, 5, Counted::Uts).err(), Some(Errno::ENOSPC));
        first.counts.set_limit(Counted::Uts, before).unwrap();
        let again = Ticket::take(&inner, 5, Counted::Uts).unwrap();
        drop((two, again));
        assert!(inner.counts.by_user.lock().is_empty());
        assert_eq!(inner.counts.set_limit(Counted::Uts, 1 << 31), Err(Errno::EINVAL));
    }
}
