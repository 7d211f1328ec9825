//! What all processes of one user share: counts that limits look at, the account that the kernel's heap is charged to, and
//! processors. Source: getrlimit(2), user_namespaces(7), pipe(7), inotify(7), keyrings(7).
//!
//! Whoever makes something that is counted keeps a [`Charge`], which gives it back when it is dropped. A [`User`] lives as long as
//! one of its processes, or something that is charged to it; its account of the heap as long as it holds some. Lock: the table's
//! (rank `Leaf`).

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_mm::heap::account;
use umbel_smp::lock::{Once, Rank, SpinLock};
use umbel_smp::runqueue::Group;

static USERS: SpinLock<BTreeMap<u32, Known>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

/// The account of users that come when all others are taken.
const SHARED: u16 = account::ACCOUNTS as u16 - 1;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Threads, and processes that were not waited for (`RLIMIT_NPROC`).
    Processes,
    /// Queued signals (`RLIMIT_SIGPENDING`).
    Signals,
    /// Pages that pipes may hold (`fs.pipe-user-pages-soft`, `-hard`).
    PipePages,
    /// `fs.inotify.max_user_instances`.
    InotifyInstances,
    /// `fs.inotify.max_user_watches`.
    InotifyWatches,
    /// Bytes of POSIX message queues (`RLIMIT_MSGQUEUE`).
    QueueBytes,
    /// Bytes of locked segments (`RLIMIT_MEMLOCK`).
    LockedBytes,
    /// Descriptors in messages that wait (`RLIMIT_NOFILE`).
    InFlight,
    /// `kernel.keys.maxkeys`.
    Keys,
    /// `kernel.keys.maxbytes`.
    KeyBytes,
}

const COUNTS: usize = Count::KeyBytes as usize + 1;

/// A user, by real user id.
#[derive(Debug)]
pub struct User {
    uid: u32,
    /// Number of its account of the kernel's heap. Immutable.
    account: u16,
    counts: [AtomicU64; COUNTS],
    /// What its sessions share of the processors.
    share: Once<Arc<Group>>,
}

/// A user that has been here. Protected by the table's lock.
struct Known {
    user: Weak<User>,
    account: u16,
}

/// What something counts for, given back when it is dropped.
#[derive(Debug)]
pub struct Charge {
    user: Arc<User>,
    what: Count,
    amount: u64,
}

impl User {
    /// The user `uid`.
    pub fn of(uid: u32) -> Arc<User> {
        let mut users = USERS.lock();
        if let Some(user) = users.get(&uid).and_then(|known| known.user.upgrade()) {
            return user;
        }
        users.retain(|_, known| known.user.strong_count() > 0 || account::held(known.account) > 0);
        let account = match users.get(&uid) {
            Some(known) => known.account,
            None if uid == 0 => account::NOBODY,
            None => free_account(&users),
        };
        let counts = [const { AtomicU64::new(0) }; COUNTS];
        let user = Arc::new(User { uid, account, counts, share: Once::new() });
        users.insert(uid, Known { user: Arc::downgrade(&user), account });
        user
    }

    /// All that live, by id.
    pub fn all() -> Vec<Arc<User>> {
        USERS.lock().values().filter_map(|known| known.user.upgrade()).collect()
    }

    /// Its id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// What its sessions share of the processors.
    pub fn share(&self) -> &Arc<Group> {
        self.share.call_once(crate::sched::group::of_user)
    }

    /// Number of its account of the kernel's heap.
    pub fn account(&self) -> u16 {
        self.account
    }

    /// How much it has.
    pub fn count(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Relaxed)
    }

    /// Charges `amount`; `None` if it had more than `limit` then.
    #[must_use]
    pub fn charge(self: &Arc<User>, what: Count, amount: u64, limit: u64) -> Option<Charge> {
        self.add(what, amount, limit).then(|| Charge { user: self.clone(), what, amount })
    }

    fn add(&self, what: Count, amount: u64, limit: u64) -> bool {
        let more = |count: u64| count.checked_add(amount).filter(|&sum| sum <= limit);
        self.counts[what as usize].fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

impl Charge {
    /// The user.
    pub fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// How much it is.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Makes it `amount`; false, and as it was, if the user had more than `limit` then. Less is never refused.
    #[must_use]
    pub fn resize(&mut self, amount: u64, limit: u64) -> bool {
        let fits = match amount.checked_sub(self.amount) {
            Some(0) => true,
            Some(more) => self.user.add(self.what, more, limit),
            None => {
                self.user.counts[self.what as usize].fetch_sub(self.amount - amount, Relaxed);
                true
            }
        };
        if fits {
            self.amount = amount;
        }
        fits
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.user.counts[self.what as usize].fetch_sub(self.amount, Relaxed);
    }
}

/// An account that nobody has.
fn free_account(users: &BTreeMap<u32, Known>) -> u16 {
    let taken = |account: u16| users.values().any(|known| known.account == account);
    (account::NOBODY + 1..SHARED).find(|&account| !taken(account)).unwrap_or(SHARED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_limited_and_given_back() {
        let user = User::of(77);
        let first = user.charge(Count::Signals, 1, 2);
        let second = User::of(77).charge(Count::Signals, 1, 2);
        assert!(first.is_some() && second.is_some() && user.charge(Count::Signals, 1, 2).is_none());
        drop(first);
        assert_eq!((user.count(Count::Signals), user.count(Count::Keys)), (1, 0));
        let mut third = user.charge(Count::Signals, 1, 2).unwrap();
        assert!(!third.resize(2, 2) && third.resize(2, 3) && third.resize(0, 0));
        assert_eq!((user.count(Count::Signals), third.amount()), (1, 0));
        drop((second, third));
        assert_eq!(user.count(Count::Signals), 0);
    }

    #[test]
    fn each_user_has_an_account_of_its_own_and_root_none() {
        let (one, other) = (User::of(501), User::of(502));
        assert!(one.account() != other.account() && one.account() != account::NOBODY);
        assert_eq!(User::of(0).account(), account::NOBODY);
        assert!(User::all().iter().any(|user| user.uid() == 502));
    }
}
