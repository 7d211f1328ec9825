//! What all processes of one user share: counts that limits look at. Source: getrlimit(2).
//!
//! A [`User`] lives as long as a process of it, or a signal that is charged to it. Lock: the table's (rank `Leaf`).

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

static USERS: SpinLock<BTreeMap<u32, Weak<User>>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

/// A user, by real user id.
#[derive(Debug, Default)]
pub struct User {
    signals: AtomicU64,
}

/// A queued signal's share of `RLIMIT_SIGPENDING`, given back when it is dropped.
#[derive(Debug)]
pub struct SignalCharge(Arc<User>);

impl User {
    /// The user `uid`.
    pub fn of(uid: u32) -> Arc<User> {
        let mut users = USERS.lock();
        if let Some(user) = users.get(&uid).and_then(Weak::upgrade) {
            return user;
        }
        users.retain(|_, user| user.strong_count() > 0);
        let user = Arc::<User>::default();
        users.insert(uid, Arc::downgrade(&user));
        user
    }

    /// Queued signals of all its processes.
    pub fn signals(&self) -> u64 {
        self.signals.load(Relaxed)
    }

    /// Charges one signal; `None` if that would be more than `limit`.
    pub fn charge_signal(self: &Arc<User>, limit: u64) -> Option<SignalCharge> {
        let charge = |count: u64| (count < limit).then_some(count + 1);
        self.signals.fetch_update(Relaxed, Relaxed, charge).ok()?;
        Some(SignalCharge(self.clone()))
    }
}

impl Drop for SignalCharge {
    fn drop(&mut self) {
        self.0.signals.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_limited_and_given_back() {
        let user = User::of(77);
        let first = user.charge_signal(2);
        let second = User::of(77).charge_signal(2);
        assert!(first.is_some() && second.is_some() && user.charge_signal(2).is_none());
        drop(first);
        assert_eq!(user.signals(), 1);
        assert!(user.charge_signal(2).is_some());
    }
}
