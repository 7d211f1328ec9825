//! In virtual time: when locks were held, so that virtual CPUs whose clocks overlap wait for each other.
//!
//! Virtual CPUs run one after the other, so nobody ever finds a spinning lock held; and the one that runs later may be the
//! one whose clock is earlier. So each lock has a calendar: time in buckets of [`BUCKET_NS`], each with how long the lock was
//! held in it. Whoever releases a lock that it held from `since_ns` for `held_ns` enters that from `since_ns` on, into what
//! *others* left of each bucket; how much later than in an empty calendar it is done then is what it waited. Where little is
//! left, that is the queue; the order of arrival does not matter, and the lock is never held more than all the time.
//! Readers wait for writers but enter nothing.
//!
//! The calendar reaches back [`BUCKETS`] buckets, more than clocks drift apart by default; what lies before the last bucket in
//! use by more counts as taken. Longer holds are left to the lock itself, whose next holder then really waits. A few hundred locks have calendars, the ones least lately used lose theirs.
//! Only the virtual CPU that runs comes here; atomics because there are several.

use super::stat::Hold;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

const SHIFT: u32 = 12;
const BUCKET_NS: u64 = 1 << SHIFT;
const BUCKETS: usize = 512;
/// Locks with a calendar: sets of so many.
const SETS: usize = 64;
const WAYS: usize = 4;
/// Digits of a cell for the time held; the rest is the low part of the bucket's number.
const HELD_BITS: u32 = SHIFT + 1;
const HELD: u32 = (1 << HELD_BITS) - 1;

static BOOKING: AtomicPtr<Booking> = AtomicPtr::new(core::ptr::null_mut());

struct Booking {
    lines: Vec<Line>,
    /// By line: what each virtual CPU entered itself into the bucket it was in last.
    own: Vec<[AtomicU32; SETS * WAYS]>,
}

struct Line {
    /// Address of the lock, 0 = free.
    lock: AtomicU64,
    used_ns: AtomicU64,
    /// Last holder, plus one.
    holder: AtomicU32,
    cells: [AtomicU32; BUCKETS],
}

/// What a hold costs on top of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub wait_ns: u64,
    /// Another virtual CPU held it last.
    pub moved: bool,
}

/// Makes the calendars. Once, at boot.
pub(super) fn enable(cpus: u32) {
    let lines = (0..SETS * WAYS).map(|_| Line::new()).collect();
    let own = (0..cpus).map(|_| [const { AtomicU32::new(0) }; SETS * WAYS]).collect();
    BOOKING.store(Box::leak(Box::new(Booking { lines, own })), Relaxed);
}

/// Virtual CPU `cpu` held `lock` from `since_ns` for `held_ns`.
pub(super) fn enter(lock: usize, cpu: u32, how: Hold, since_ns: u64, held_ns: u64) -> Cost {
    // SAFETY: null or leaked, and never written again.
    match unsafe { BOOKING.load(Relaxed).as_ref() } {
        Some(booking) if held_ns < BUCKET_NS * BUCKETS as u64 / 2 => {
            booking.enter(lock as u64, cpu as usize, how, since_ns, held_ns)
        }
        _ => Cost::default(),
    }
}

impl Booking {
    fn enter(&self, lock: u64, cpu: usize, how: Hold, since_ns: u64, held_ns: u64) -> Cost {
        let Some(at) = self.find(lock, since_ns) else { return Cost::default() };
        let (Some(line), Some(own)) = (self.lines.get(at), self.own.get(cpu).and_then(|own| own.get(at))) else {
            return Cost::default();
        };
        let me = cpu as u32 + 1;
        let last = line.holder.swap(me, Relaxed);
        let moved = last != 0 && last != me && how == Hold::Alone;
        let mut cost = Cost { wait_ns: 0, moved };
        let mut now_ns = since_ns;
        let mut need_ns = held_ns.max(1);
        while need_ns > 0 {
            let bucket = now_ns >> SHIFT;
            let Some(cell) = line.cell(bucket) else {
                // Forgotten, because the lock was held much later: there is a long queue.
                now_ns = (bucket + 1) << SHIFT;
                continue;
            };
            let held = u64::from(cell.load(Relaxed) & HELD);
            let own_word = own.load(Relaxed);
            let mine = if own_word >> HELD_BITS == low(bucket) { u64::from(own_word & HELD) } else { 0 };
            let free = BUCKET_NS.saturating_sub(held.saturating_sub(mine));
            let end_ns = (bucket + 1) << SHIFT;
            let can_ns = free.min(end_ns - now_ns);
            // What is free is spread over the bucket, but nothing of it is lost.
            let (took_ns, until_ns) = if can_ns >= need_ns {
                (need_ns, end_ns.min(now_ns + (need_ns << SHIFT) / free))
            } else {
                (can_ns, end_ns)
            };
            if how == Hold::Alone {
                store(cell, tag_of(bucket), held + took_ns);
                store(own, low(bucket), mine + took_ns);
            }
            (now_ns, need_ns) = (until_ns, need_ns - took_ns);
        }
        cost.wait_ns = now_ns.saturating_sub(since_ns + held_ns.max(1));
        cost
    }

    /// The line of `lock`: its own, or that of the least lately used one of its set.
    fn find(&self, lock: u64, now_ns: u64) -> Option<usize> {
        let set = (lock.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SETS * WAYS;
        let lines = self.lines.get(set..set + WAYS)?;
        if let Some(way) = lines.iter().position(|line| line.lock.load(Relaxed) == lock) {
            lines[way].used_ns.fetch_max(now_ns, Relaxed);
            return Some(set + way);
        }
        let (way, line) = lines.iter().enumerate().min_by_key(|(_, line)| line.used_ns.load(Relaxed))?;
        line.lock.store(lock, Relaxed);
        line.used_ns.store(now_ns, Relaxed);
        line.holder.store(0, Relaxed);
        line.cells.iter().for_each(|cell| cell.store(0, Relaxed));
        self.own.iter().for_each(|own| own[set + way].store(0, Relaxed));
        Some(set + way)
    }
}

impl Line {
    fn new() -> Line {
        Line {
            lock: AtomicU64::new(0),
            used_ns: AtomicU64::new(0),
            holder: AtomicU32::new(0),
            cells: [const { AtomicU32::new(0) }; BUCKETS],
        }
    }

    /// The cell of a bucket, empty if it was another's; `None` if a later bucket has it.
    fn cell(&self, bucket: u64) -> Option<&AtomicU32> {
        let cell = &self.cells[bucket as usize % BUCKETS];
        let held_by = tag(cell.load(Relaxed));
        let wanted = tag_of(bucket);
        if held_by != wanted {
            // Tags wrap: half of them are the past.
            let ahead = held_by.wrapping_sub(wanted) & (u32::MAX >> HELD_BITS);
            if cell.load(Relaxed) & HELD != 0 && ahead < 1 << (31 - HELD_BITS) {
                return None;
            }
            store(cell, wanted, 0);
        }
        Some(cell)
    }
}

fn tag(cell: u32) -> u32 {
    cell >> HELD_BITS
}

/// Which of the buckets that share a cell.
fn tag_of(bucket: u64) -> u32 {
    low(bucket / BUCKETS as u64)
}

fn low(number: u64) -> u32 {
    number as u32 & (u32::MAX >> HELD_BITS)
}

fn store(cell: &AtomicU32, tag: u32, held: u64) {
    cell.store(tag << HELD_BITS | (held.min(BUCKET_NS) as u32), Relaxed);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    const MS: u64 = 1_000_000;

    fn booking(cpus: u32) -> Booking {
        let lines = (0..SETS * WAYS).map(|_| Line::new()).collect();
        let own = (0..cpus).map(|_| [const { AtomicU32::new(0) }; SETS * WAYS]).collect();
        Booking { lines, own }
    }

    /// `cpus` processors take turns of 1 ms of their clocks; each holds a lock for `held_ns` of every `period_ns` that it
    /// works, until all have done `rounds`. Returns the time that the last one needs.
    fn makespan(cpus: usize, rounds: u64, period_ns: u64, held_ns: u64) -> u64 {
        let booking = booking(cpus as u32);
        let mut random = 1_u64;
        let mut clocks = std::vec![(1000 * MS, 0); cpus];
        loop {
            let unfinished = || (0..cpus).filter(|&cpu| clocks[cpu].1 < rounds);
            let Some(least) = unfinished().map(|cpu| clocks[cpu].0).min() else { break };
            let near: Vec<_> = unfinished().filter(|&cpu| clocks[cpu].0 <= least + MS / 8).collect();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let cpu = near[(random >> 33) as usize % near.len()];
            let end = clocks[cpu].0 + MS;
            while clocks[cpu].1 < rounds && clocks[cpu].0 < end {
                let since = clocks[cpu].0 + period_ns - held_ns;
                let cost = booking.enter(0x1000, cpu, Hold::Alone, since, held_ns);
                clocks[cpu] = (since + held_ns + cost.wait_ns, clocks[cpu].1 + 1);
            }
        }
        clocks.iter().map(|(clock, _)| clock - 1000 * MS).max().unwrap_or(0)
    }

    #[test]
    fn one_processor_never_waits_for_itself() {
        assert_eq!(makespan(1, 1000, 5000, 4000), 1000 * 5000);
    }

    #[test]
    fn processors_that_want_more_than_all_of_a_lock_get_all_of_it() {
        const ROUNDS: u64 = 2000;
        for (period, held) in [(10_000, 1000), (50_000, 5000), (2000, 300), (300_000, 60_000)] {
            let bound = 64 * ROUNDS * held;
            let took = makespan(64, ROUNDS, period, held);
            assert!(took >= bound * 98 / 100 && took <= bound * 105 / 100, "{period} {held}: {took} of {bound}");
        }
    }

    #[test]
    fn a_lock_that_is_seldom_wanted_costs_little() {
        let took = makespan(4, 1000, 100_000, 1000);
        let alone = 1000 * 100_000;
        assert!(took >= alone && took <= alone * 102 / 100, "{took} of {alone}");
    }

    #[test]
    fn readers_wait_for_writers_only() {
        let booking = booking(2);
        assert_eq!(booking.enter(8, 0, Hold::Shared, MS, 1000), Cost { wait_ns: 0, moved: false });
        assert_eq!(booking.enter(8, 1, Hold::Shared, MS, 1000).wait_ns, 0);
        assert_eq!(booking.enter(8, 0, Hold::Alone, 2 * MS, 4 * BUCKET_NS).wait_ns, 0);
        assert!(booking.enter(8, 1, Hold::Shared, 2 * MS + BUCKET_NS, 1000).wait_ns >= 2 * BUCKET_NS);
    }
}
