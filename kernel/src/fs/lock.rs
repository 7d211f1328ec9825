//! File locks: POSIX record locks, open-file-description locks, flock(2).
//!
//! All advisory. A lock belongs to a descriptor table (POSIX) or an open file (the other two); locks of different
//! classes POSIX and description conflict with each other, flock's with none but its own. A lock is found by the inode,
//! which whoever holds a lock keeps alive by the open file. Deadlocks among POSIX waiters are `EDEADLK`.
//!
//! Lock: one table (rank Leaf, spinning). Sources: fcntl(2), flock(2).

use super::{FdTable, File};
use crate::room::push;
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// Last byte of a lock to the end of the file, however long it grows.
pub const TO_THE_END: u64 = i64::MAX as u64;

/// Whether readers may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Shared,
    Exclusive,
}

/// Who holds a lock, and so which kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A process, by its descriptor table.
    Posix(usize),
    /// An open file, by its number (`F_OFD_SETLK`).
    Description(u64),
    /// An open file (flock(2)).
    Flock(u64),
}

/// Bytes `first ..= last` locked by `holder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    pub holder: Holder,
    pub mode: Mode,
    pub first: u64,
    pub last: u64,
    /// Process that took it, for `F_GETLK`; -1 for open files.
    pub pid: i32,
}

/// A lock as /proc shows it: with device and inode of its file.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    pub lock: Lock,
    pub dev: u64,
    pub ino: u64,
}

/// All locks, of one open file if `of` says so.
///
/// # Errors
/// `ENOMEM`.
pub fn list(of: Option<&File>) -> Result<Vec<Shown>> {
    let wanted = of.map(key);
    let holds = |lock: &Lock, file: &File| {
        matches!(lock.holder, Holder::Posix(_))
            || [Holder::Description(file.id()), Holder::Flock(file.id())].contains(&lock.holder)
    };
    let table = TABLE.lock();
    let mut out = Vec::new();
    for (key, (dev, ino, list)) in &table.held {
        if wanted.is_none_or(|wanted| wanted == *key) {
            let own = list.iter().filter(|lock| of.is_none_or(|file| holds(lock, file)));
            for &lock in own {
                push(&mut out, Shown { lock, dev: *dev, ino: *ino })?;
            }
        }
    }
    Ok(out)
}

impl Shown {
    /// A line of /proc/locks without its number.
    pub fn line(&self) -> String {
        let Shown { lock, dev, ino } = self;
        let class = match lock.holder {
            Holder::Posix(_) => "POSIX ",
            Holder::Description(_) => "OFDLCK",
            Holder::Flock(_) => "FLOCK ",
        };
        let mode = if lock.mode == Mode::Exclusive { "WRITE" } else { "READ " };
        let dev = super::Dev::decode(*dev);
        let end = if lock.last == TO_THE_END { String::from("EOF") } else { format!("{}", lock.last) };
        let place = format!("{:02x}:{:02x}:{ino}", dev.major, dev.minor);
        format!("{class} ADVISORY  {mode} {} {place} {} {end}", lock.pid, lock.first)
    }
}

#[derive(Default)]
struct Table {
    /// Locks by file; none overlap for one holder.
    held: BTreeMap<u64, (u64, u64, Vec<Lock>)>,
    /// POSIX holders that wait for others, each waiting thread once: ticket, who waits, for whom.
    waiting: Vec<(u64, Holder, Holder)>,
}

static TABLE: SpinLock<Table> = SpinLock::new(Rank::Leaf, Table { held: BTreeMap::new(), waiting: Vec::new() });
/// Those who wait for any lock. Contention on file locks is rare; waking all of them is not.
static RELEASED: WaitQueue = WaitQueue::new();
/// Locks in the table: closing a file looks no further when there are none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The holder of POSIX locks taken through `table`.
pub fn posix_holder(table: &FdTable) -> Holder {
    Holder::Posix(core::ptr::from_ref(table).addr())
}

/// The lock that keeps `wanted` from being granted.
pub fn conflict(file: &File, wanted: &Lock) -> Option<Lock> {
    TABLE.lock().conflict(key(file), wanted)
}

/// Takes `wanted`, replacing what its holder has there; waits for others if `wait`.
///
/// # Errors
/// `EAGAIN`, `EDEADLK`, `ERESTARTSYS`.
pub fn take(file: &File, wanted: Lock, wait: Wait) -> Result<()> {
    static TICKETS: AtomicU64 = AtomicU64::new(0);
    let (key, ticket) = (key(file), TICKETS.fetch_add(1, Relaxed));
    let result = match attempt(key, &wanted, wait, ticket) {
        Some(result) => result,
        None => match RELEASED.wait_interruptible(None, || attempt(key, &wanted, wait, ticket)) {
            Ok(result) => result,
            Err(Wake::Interrupted | Wake::TimedOut) => {
                TABLE.lock().stop_waiting(ticket);
                Err(Errno::ERESTARTSYS)
            }
        },
    };
    let attr = file.attr();
    let mut table = TABLE.lock();
    if let (Ok(attr), Some(entry)) = (attr, table.held.get_mut(&key)) {
        (entry.0, entry.1) = (attr.dev, attr.ino);
    }
    drop(table);
    result
}

/// Whether to wait for a lock that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Yes,
    No,
}

/// Once: `None` = wait.
fn attempt(key: u64, wanted: &Lock, wait: Wait, ticket: u64) -> Option<Result<()>> {
    let mut table = TABLE.lock();
    // In the same breath as the lock is granted: who holds it does not wait for it.
    table.stop_waiting(ticket);
    match table.conflict(key, wanted) {
        None => {
            let changed = table.grant(key, *wanted);
            drop(table);
            // Exclusive to shared lets others in.
            if changed {
                RELEASED.wake_all();
            }
            Some(Ok(()))
        }
        Some(_) if wait == Wait::No => Some(Err(Errno::EAGAIN)),
        Some(other) if table.would_deadlock(wanted.holder, other.holder) => Some(Err(Errno::EDEADLK)),
        Some(other) => {
            // Only processes wait for each other in a circle: an open file's locks anybody may release.
            if let (Holder::Posix(_), Holder::Posix(_)) = (wanted.holder, other.holder) {
                table.waiting.push((ticket, wanted.holder, other.holder));
            }
            None
        }
    }
}

/// Releases what `holder` has in `first ..= last`.
pub fn release(file: &File, holder: Holder, first: u64, last: u64) {
    if TABLE.lock().cut(key(file), holder, first, last) {
        RELEASED.wake_all();
    }
}

/// Drops the POSIX locks that `owner` has on `file`: any close of any descriptor of the file does.
pub fn release_posix(file: &File, owner: &FdTable) {
    if COUNT.load(Relaxed) != 0 {
        release(file, posix_holder(owner), 0, TO_THE_END);
    }
}

/// Drops the locks of the open file itself, when its last reference goes.
pub fn release_description(file: &File) {
    if COUNT.load(Relaxed) != 0 {
        release(file, Holder::Description(file.id()), 0, TO_THE_END);
        release(file, Holder::Flock(file.id()), 0, TO_THE_END);
    }
}

/// The file's place in the table: its inode's address, or its own number.
fn key(file: &File) -> u64 {
    match file.path() {
        Some(path) => Arc::as_ptr(path.inode()).cast::<()>().addr() as u64,
        // Addresses are even.
        None => file.id() << 1 | 1,
    }
}

impl Holder {
    fn class(self) -> u8 {
        u8::from(matches!(self, Holder::Flock(_)))
    }
}

impl Table {
    fn conflict(&self, key: u64, wanted: &Lock) -> Option<Lock> {
        let bites = |lock: &&Lock| {
            lock.holder != wanted.holder
                && lock.holder.class() == wanted.holder.class()
                && lock.first <= wanted.last
                && wanted.first <= lock.last
                && (lock.mode == Mode::Exclusive || wanted.mode == Mode::Exclusive)
        };
        self.held.get(&key)?.2.iter().find(bites).copied()
    }

    /// Puts the lock in, joined with those of the same mode that it touches; true if the holder gave something up by it.
    ///
    /// A holder's locks stand together, by their first byte, where its first one came: `F_GETLK` names the first.
    fn grant(&mut self, key: u64, mut lock: Lock) -> bool {
        let own = |other: &Lock| other.holder == lock.holder;
        let place = self.held.get(&key).and_then(|(_, _, list)| list.iter().position(own));
        let changed = self.cut(key, lock.holder, lock.first, lock.last);
        let list = &mut self.held.entry(key).or_default().2;
        let place = place.unwrap_or(list.len());
        let (first, last) = (lock.first, lock.last);
        list.retain(|other| {
            let touches = other.last.checked_add(1) == Some(first) || last.checked_add(1) == Some(other.first);
            let joins = touches && other.holder == lock.holder && other.mode == lock.mode;
            if joins {
                (lock.first, lock.last) = (lock.first.min(other.first), lock.last.max(other.last));
            }
            !joins
        });
        let before = |other: &&Lock| other.holder == lock.holder && other.first < lock.first;
        let place = place + list.iter().skip(place).take_while(before).count();
        list.insert(place, lock);
        self.recount();
        changed
    }

    fn stop_waiting(&mut self, ticket: u64) {
        self.waiting.retain(|(own, ..)| *own != ticket);
    }

    /// Takes a range away from what `holder` has; true if there was any.
    fn cut(&mut self, key: u64, holder: Holder, first: u64, last: u64) -> bool {
        let Some((_, _, list)) = self.held.get_mut(&key) else { return false };
        let mut kept = Vec::with_capacity(list.len() + 1);
        let mut changed = false;
        for lock in list.drain(..) {
            if lock.holder != holder || lock.first > last || first > lock.last {
                kept.push(lock);
                continue;
            }
            changed = true;
            if lock.first < first {
                kept.push(Lock { last: first - 1, ..lock });
            }
            if lock.last > last {
                kept.push(Lock { first: last + 1, ..lock });
            }
        }
        let empty = kept.is_empty();
        *list = kept;
        if empty {
            self.held.remove(&key);
        }
        self.recount();
        changed
    }

    fn recount(&self) {
        COUNT.store(self.held.values().map(|(_, _, list)| list.len()).sum(), Relaxed);
    }

    /// Whether `other`, for whom `holder` would wait, waits for `holder` itself.
    fn would_deadlock(&self, holder: Holder, mut other: Holder) -> bool {
        /// Where threads share a holder, a walk may go round in a circle that `holder` is not in: Linux gives up, too.
        const STEPS: usize = 10;
        if !matches!((holder, other), (Holder::Posix(_), Holder::Posix(_))) {
            return false;
        }
        for _ in 0..STEPS {
            match self.waiting.iter().find(|(_, waiter, _)| *waiter == other) {
                Some((_, _, next)) if *next == holder => return true,
                Some((_, _, next)) => other = *next,
                None => return false,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(holder: usize, mode: Mode, first: u64, last: u64) -> Lock {
        Lock { holder: Holder::Posix(holder), mode, first, last, pid: holder as i32 }
    }

    #[test]
    fn ranges_conflict_where_they_touch_and_one_writes() {
        let mut table = Table::default();
        table.grant(1, lock(1, Mode::Shared, 10, 19));
        assert!(table.conflict(1, &lock(2, Mode::Shared, 0, 99)).is_none());
        assert!(table.conflict(1, &lock(2, Mode::Exclusive, 19, 30)).is_some());
        assert!(table.conflict(1, &lock(2, Mode::Exclusive, 20, 30)).is_none());
        assert!(table.conflict(1, &lock(1, Mode::Exclusive, 0, 99)).is_none());
        assert!(table.conflict(2, &lock(2, Mode::Exclusive, 0, 99)).is_none());
    }

    #[test]
    fn unlocking_the_middle_leaves_both_ends() {
        let mut table = Table::default();
        table.grant(1, lock(1, Mode::Exclusive, 0, 99));
        assert!(table.cut(1, Holder::Posix(1), 40, 59));
        let mut left: Vec<_> = table.held[&1].2.iter().map(|l| (l.first, l.last)).collect();
        left.sort_unstable();
        assert_eq!(left, [(0, 39), (60, 99)]);
        assert!(table.cut(1, Holder::Posix(1), 0, TO_THE_END));
        assert!(table.held.is_empty());
    }

    #[test]
    fn locks_that_touch_become_one_and_stand_by_holder() {
        let mut table = Table::default();
        table.grant(1, lock(1, Mode::Shared, 20, 29));
        table.grant(1, lock(2, Mode::Shared, 0, 9));
        table.grant(1, lock(1, Mode::Shared, 0, 9));
        let ranges = |table: &Table| table.held[&1].2.iter().map(|l| (l.pid, l.first, l.last)).collect::<Vec<_>>();
        assert_eq!(ranges(&table), [(1, 0, 9), (1, 20, 29), (2, 0, 9)]);
        table.grant(1, lock(1, Mode::Shared, 10, 19));
        assert_eq!(ranges(&table), [(1, 0, 29), (2, 0, 9)]);
        table.grant(1, lock(1, Mode::Exclusive, 10, 19));
        assert_eq!(ranges(&table), [(1, 0, 9), (1, 10, 19), (1, 20, 29), (2, 0, 9)]);
        assert_eq!(table.conflict(1, &lock(3, Mode::Exclusive, 0, 99)).map(|l| l.first), Some(0));
    }

    #[test]
    fn circles_of_waiters_are_deadlocks() {
        let mut table = Table::default();
        let [a, b, c] = [1, 2, 3].map(Holder::Posix);
        table.waiting.push((1, b, c));
        assert!(!table.would_deadlock(a, b));
        table.waiting.push((2, c, a));
        assert!(table.would_deadlock(a, b));
        assert!(!table.would_deadlock(a, Holder::Description(2)));
        table.stop_waiting(2);
        assert!(!table.would_deadlock(a, b));
    }
}
