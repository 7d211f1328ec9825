//! What locks cost: per rank, how often they were taken and contended, how long waited for and held.
//!
//! Off unless [`enable`]d at boot: then each acquisition and release looks at one flag and no more. The accounts are one a
//! virtual CPU, so that counting does not contend itself. The holding time of a spinning lock is taken from the virtual CPU,
//! which releases it before it does anything else; of two locks of one rank held at once (`lock_nested`) the inner one's
//! counts. Sleeping locks carry theirs ([`super::Mutex`]).
//!
//! In virtual time the counting is what makes virtual CPUs wait for locks (`occupancy`).

use super::occupancy;
use super::rank::{RANKS, Rank};
use crate::{cpu, vtime};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::*};

static ON: AtomicBool = AtomicBool::new(false);
/// The accounts, one a virtual CPU, and the clock; set once, before `ON`.
static BOOK: AtomicPtr<Book> = AtomicPtr::new(core::ptr::null_mut());

struct Book {
    now_ns: fn() -> u64,
    accounts: Vec<Account>,
}

/// One virtual CPU's.
#[repr(align(128))]
struct Account {
    ranks: [Entry; RANKS],
}

/// Written by its virtual CPU alone; atomic because others read it.
#[derive(Default)]
struct Entry {
    acquisitions: AtomicU64,
    contentions: AtomicU64,
    wait_ns: AtomicU64,
    hold_ns: AtomicU64,
    /// When a spinning lock of this rank was taken, 0 = not held.
    since_ns: AtomicU64,
}

/// The sums of one rank over all virtual CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub acquisitions: u64,
    /// Acquisitions that had to wait.
    pub contentions: u64,
    pub wait_ns: u64,
    pub hold_ns: u64,
}

/// Starts counting, for `cpus` virtual CPUs; `now_ns` is a clock that takes no counted lock. Once, at boot.
pub fn enable(cpus: u32, now_ns: fn() -> u64) {
    let accounts = (0..cpus).map(|_| Account { ranks: core::array::from_fn(|_| Entry::default()) }).collect();
    let book = Box::leak(Box::new(Book { now_ns, accounts }));
    BOOK.store(book, Release);
    if vtime::on() {
        occupancy::enable(cpus);
    }
    ON.store(true, Release);
}

/// Whether locks are counted.
#[inline(always)]
pub fn enabled() -> bool {
    ON.load(Relaxed)
}

/// What all locks of `rank` cost until now.
pub fn totals(rank: Rank) -> Totals {
    let mut sum = Totals::default();
    for account in book().map(|book| book.accounts.as_slice()).unwrap_or_default() {
        let entry = &account.ranks[rank as usize];
        sum.acquisitions += entry.acquisitions.load(Relaxed);
        sum.contentions += entry.contentions.load(Relaxed);
        sum.wait_ns += entry.wait_ns.load(Relaxed);
        sum.hold_ns += entry.hold_ns.load(Relaxed);
    }
    sum
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Alone,
    /// With other readers.
    Shared,
}

/// Takes a spinning lock by `quick`, or if that fails by `slow`, and counts it.
#[cold]
pub(super) fn acquire(rank: Rank, quick: impl FnOnce() -> bool, slow: impl FnOnce()) {
    let since_ns = wait(rank, quick, slow);
    if let Some(entry) = entry(rank) {
        entry.since_ns.store(since_ns, Relaxed);
    }
}

/// Counts the release of a spinning lock, `lock`.
#[cold]
pub(super) fn release<T>(rank: Rank, lock: &T, how: Hold) {
    let since_ns = entry(rank).map_or(0, |entry| entry.since_ns.swap(0, Relaxed));
    held(rank, lock, how, since_ns);
}

/// Counts an acquisition by `quick`, or if that fails by `slow`; returns when it succeeded, ns.
#[cold]
pub(super) fn wait(rank: Rank, quick: impl FnOnce() -> bool, slow: impl FnOnce()) -> u64 {
    let at_once = quick();
    let start_ns = now_ns();
    if !at_once {
        slow();
    }
    let taken_ns = vtime::uncounted(|| {
        let end_ns = now_ns();
        // Only now: a sleeper may have been moved to another virtual CPU.
        if let Some(entry) = entry(rank) {
            add(&entry.acquisitions, 1);
            if !at_once {
                add(&entry.contentions, 1);
                add(&entry.wait_ns, end_ns.saturating_sub(start_ns));
            }
        }
        end_ns
    });
    vtime::event(vtime::Event::Lock);
    taken_ns
}

/// Counts that `lock`, taken at `since_ns` (0 = before the counting), was held until now. In virtual time it is now that the
/// caller learns how long it would have waited.
#[cold]
pub(super) fn held<T>(rank: Rank, lock: &T, how: Hold, since_ns: u64) {
    let Some(entry) = entry(rank).filter(|_| since_ns != 0) else { return };
    let cost = vtime::uncounted(|| {
        let held_ns = now_ns().saturating_sub(since_ns);
        add(&entry.hold_ns, held_ns);
        if !vtime::on() || !vtime::counts() {
            return occupancy::Cost::default();
        }
        let cost = occupancy::enter(core::ptr::from_ref(lock).addr(), cpu::this().id(), how, since_ns, held_ns);
        if cost.wait_ns > 0 {
            add(&entry.contentions, 1);
            add(&entry.wait_ns, cost.wait_ns);
        }
        cost
    });
    if cost != occupancy::Cost::default() {
        vtime::waited(cost.wait_ns, cost.moved);
    }
}

/// The caller alone writes it.
fn add(count: &AtomicU64, n: u64) {
    count.store(count.load(Relaxed) + n, Relaxed);
}

fn now_ns() -> u64 {
    book().map_or(0, |book| (book.now_ns)())
}

fn entry(rank: Rank) -> Option<&'static Entry> {
    book()?.accounts.get(cpu::this().id() as usize)?.ranks.get(rank as usize)
}

fn book() -> Option<&'static Book> {
    // SAFETY: null or the leaked book, which is never written again.
    unsafe { BOOK.load(Acquire).as_ref() }
}
