//! Fast user-space locks. Source: futex(2), get_robust_list(2).
//!
//! Waiters stand in hash buckets by key. A waiter compares the word *under its bucket's lock* and enqueues itself before it
//! drops the lock, so a waker that changed the word first finds it, and one that did not is seen in the word. The word is
//! read without faulting there; if its page is absent the lock is dropped, the page made present, and all tried again.
//!
//! Used by: futex(2), the end of threads, exec. Locks: a bucket's (rank `Futex`), two in the order of their index; then the
//! scheduler's. [`pi`]: locks that the kernel hands over. [`many`]: several words at once. [`requeue`]: from word to word.
//!
//! Waiters of a higher real-time priority stand before others, which stand in the order in which they came.

pub mod many;
pub mod pi;
mod requeue;

use crate::signal::Restart;
use crate::task::Task;
use crate::{Errno, Result, time};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*, fence};
use linux_raw_sys::general as raw;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::BlockEnd;
use umbel_smp::lock::{Rank, SpinGuard, SpinLock};
use umbel_smp::schedule::schedule;
use umbel_smp::thread::{Interruptible, Prepare, ThreadRef};
use umbel_smp::wait::Wake;

/// What a word is, wherever it is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Identity of the address space, or of the object that shared memory shows.
    pub space: u64,
    /// Address, or offset in the object.
    pub offset: u64,
    /// Whether `space` is an object.
    pub shared: bool,
}

/// All bits: FUTEX_WAIT and FUTEX_WAKE.
const MATCH_ANY: u32 = u32::MAX;
/// Longest robust list that is followed.
const ROBUST_LIMIT: usize = 2048;
const BUCKETS: usize = 256;

/// A thread that waits.
struct Waiter {
    thread: ThreadRef,
    /// Its real-time priority when it came, 0 = none.
    priority: u8,
    bitset: u32,
    /// FUTEX_WAIT_REQUEUE_PI: it is not woken but moved.
    bound: Option<pi::Bound>,
    /// Set under the bucket's lock when it is taken out by a waker.
    woken: AtomicBool,
    /// Where it stands: changed by a requeue, under both buckets' locks.
    bucket: AtomicUsize,
}

impl Waiter {
    /// One that is about to stand in `bucket`.
    fn new(task: &Task, bitset: u32, bucket: usize) -> Arc<Waiter> {
        Self::with(task.thread.clone(), pi::priority_of(task.sched.class()), bitset, bucket, None)
    }

    fn with(thread: ThreadRef, priority: u8, bitset: u32, bucket: usize, bound: Option<pi::Bound>) -> Arc<Waiter> {
        let (woken, bucket) = (AtomicBool::new(false), AtomicUsize::new(bucket));
        Arc::new(Waiter { thread, priority, bitset, bound, woken, bucket })
    }
}

struct Entry {
    key: Key,
    waiter: Arc<Waiter>,
}

type Entries = VecDeque<Entry>;

struct Bucket {
    /// Entries, and threads about to add one: to look at without the lock.
    waiters: AtomicU32,
    entries: SpinLock<Entries>,
}

static TABLE: [Bucket; BUCKETS] =
    [const { Bucket { waiters: AtomicU32::new(0), entries: SpinLock::new(Rank::Futex, VecDeque::new()) } }; BUCKETS];

/// Runs operation `op` of futex(2); `timeout` is the fourth argument, an address or a number.
///
/// # Errors
/// As futex(2).
pub fn futex(task: &Arc<Task>, addr: u64, op: u32, value: u32, timeout: u64, addr2: u64, value3: u32) -> Result<u64> {
    let flags = op & !(raw::FUTEX_CMD_MASK as u32);
    let shared = op & raw::FUTEX_PRIVATE_FLAG == 0;
    let command = op & raw::FUTEX_CMD_MASK as u32;
    let with_clock =
        matches!(command, raw::FUTEX_WAIT | raw::FUTEX_WAIT_BITSET | raw::FUTEX_LOCK_PI2 | raw::FUTEX_WAIT_REQUEUE_PI);
    if flags & raw::FUTEX_CLOCK_REALTIME != 0 && !with_clock {
        return Err(Errno::ENOSYS);
    }
    let key = |addr: u64| key_of(task, addr, shared);
    let count = |raw: u64| raw as u32 as usize;
    match command {
        raw::FUTEX_WAIT => wait_call(task, addr, flags, value, timeout, MATCH_ANY, true),
        raw::FUTEX_WAIT_BITSET => wait_call(task, addr, flags, value, timeout, value3, false),
        raw::FUTEX_WAKE => wake(key(addr)?, value as usize, MATCH_ANY),
        raw::FUTEX_WAKE_BITSET if value3 == 0 => Err(Errno::EINVAL),
        raw::FUTEX_WAKE_BITSET => wake(key(addr)?, value as usize, value3),
        raw::FUTEX_REQUEUE => requeue::plain(addr, key(addr)?, key(addr2)?, value as usize, count(timeout), None),
        raw::FUTEX_CMP_REQUEUE => {
            requeue::plain(addr, key(addr)?, key(addr2)?, value as usize, count(timeout), Some(value3))
        }
        raw::FUTEX_CMP_REQUEUE_PI => requeue::to_lock(task, (addr, addr2), shared, value, count(timeout), value3),
        raw::FUTEX_WAIT_REQUEUE_PI => {
            let deadline_ns = pi::deadline(timeout, flags & raw::FUTEX_CLOCK_REALTIME == 0)?;
            requeue::wait(task, (addr, addr2), shared, value, deadline_ns).map(|()| 0)
        }
        raw::FUTEX_WAKE_OP => {
            let (first, second) = (key(addr)?, key(addr2)?);
            let again = wake_op(addr2, value3)?;
            let woken = wake(first, value as usize, MATCH_ANY)?;
            Ok(woken + if again { wake(second, count(timeout), MATCH_ANY)? } else { 0 })
        }
        raw::FUTEX_LOCK_PI | raw::FUTEX_LOCK_PI2 => {
            let monotonic = command == raw::FUTEX_LOCK_PI2 && flags & raw::FUTEX_CLOCK_REALTIME == 0;
            let patience = pi::Patience::Until(pi::deadline(timeout, monotonic)?);
            pi::lock(task, addr, shared, patience).map(|()| 0)
        }
        raw::FUTEX_TRYLOCK_PI => pi::lock(task, addr, shared, pi::Patience::None).map(|()| 0),
        raw::FUTEX_UNLOCK_PI => pi::unlock(task, addr, shared).map(|()| 0),
        _ => Err(Errno::ENOSYS),
    }
}

/// Goes on with a FUTEX_WAIT that had a timeout (restart_syscall(2)).
pub fn restart(task: &Arc<Task>, addr: u64, flags: u32, value: u32, bitset: u32, deadline_ns: u64) -> Result<u64> {
    wait_until(task, addr, flags, value, bitset, Some(deadline_ns))
}

/// Wakes at most `count` threads that wait at guest address `addr`, private or shared (a thread's end).
pub fn wake_address(task: &Arc<Task>, addr: UserAddr, count: usize) {
    let mut last = None;
    for shared in [false, true] {
        if let Ok(key) = key_of(task, addr.0, shared)
            && last != Some(key)
        {
            // Who waits for a lock here is no concern of the one that ends.
            let _ = wake(key, count, MATCH_ANY);
            last = Some(key);
        }
    }
}

/// A thread's end: marks the robust mutexes that it holds as ownerless and wakes their waiters.
pub fn exit_robust_list(task: &Arc<Task>) {
    let head = task.robust_list.swap(0, Relaxed);
    if head != 0 {
        // A list that is not readable any more protects nothing.
        let _ = walk_robust_list(task, head);
    }
}

fn walk_robust_list(task: &Arc<Task>, head: u64) -> Result<()> {
    let [first, offset, pending]: [u64; 3] = user::read_val(UserAddr(head))?;
    let pending = pending & !1;
    let mut entry = first & !1;
    for _ in 0..ROBUST_LIMIT {
        if entry == head {
            break;
        }
        // Before the mutex is marked: its new owner may unlink it at once.
        let next: Result<u64> = user::read_val(UserAddr(entry));
        if entry != pending {
            abandon(task, entry.wrapping_add(offset))?;
        }
        entry = next? & !1;
    }
    if pending != 0 { abandon(task, pending.wrapping_add(offset)) } else { Ok(()) }
}

/// Marks the mutex word at `addr` if the thread owns it.
fn abandon(task: &Arc<Task>, addr: u64) -> Result<()> {
    let addr = UserAddr(addr);
    loop {
        let old = user::fetch_u32(addr)?;
        if old & raw::FUTEX_TID_MASK != task.process().sees(task.tid()) as u32 {
            return Ok(());
        }
        let new = old & raw::FUTEX_WAITERS | raw::FUTEX_OWNER_DIED;
        if user::cmpxchg_u32(addr, old, new)? == old {
            if old & raw::FUTEX_WAITERS != 0 {
                wake_address(task, addr, 1);
            }
            return Ok(());
        }
    }
}

fn key_of(task: &Task, addr: u64, shared: bool) -> Result<Key> {
    if !addr.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let space = task.space().ok_or(Errno::EFAULT)?;
    if shared {
        // A word that other processes may use must be there; a private one is looked at only by those who wait.
        user::fetch_u32(UserAddr(addr))?;
        if let Some((object, offset)) = space.shared_word(UserAddr(addr))? {
            return Ok(Key { space: object, offset, shared: true });
        }
    }
    // Memory of its own that a process calls shared is another word than the same called private.
    Ok(Key { space: space.id(), offset: addr | u64::from(shared), shared: false })
}

fn bucket_of(key: &Key) -> usize {
    let mixed = (key.space.rotate_left(32) ^ key.offset >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize % BUCKETS
}

fn wait_call(
    task: &Arc<Task>,
    addr: u64,
    flags: u32,
    value: u32,
    timeout: u64,
    bitset: u32,
    relative: bool,
) -> Result<u64> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let deadline_ns = if timeout == 0 {
        None
    } else {
        let given_ns = time::read_timespec(timeout)?;
        Some(if relative {
            time::monotonic_ns().saturating_add(given_ns)
        } else if flags & raw::FUTEX_CLOCK_REALTIME != 0 {
            given_ns.saturating_sub(time::clock::real_offset_ns())
        } else {
            time::ClockId::Monotonic.to_monotonic(given_ns)
        })
    };
    wait_until(task, addr, flags, value, bitset, deadline_ns)
}

fn wait_until(
    task: &Arc<Task>,
    addr: u64,
    flags: u32,
    value: u32,
    bitset: u32,
    deadline_ns: Option<u64>,
) -> Result<u64> {
    match wait(task, addr, flags & raw::FUTEX_PRIVATE_FLAG == 0, value, bitset, deadline_ns)? {
        Ok(()) => Ok(0),
        Err(Wake::TimedOut) => Err(Errno::ETIMEDOUT),
        Err(Wake::Interrupted) => match deadline_ns {
            None => Err(Errno::ERESTARTSYS),
            Some(deadline_ns) => {
                task.signal.set_restart(Restart::Futex { addr, flags, value, bitset, deadline_ns });
                Err(Errno::ERESTART_RESTARTBLOCK)
            }
        },
    }
}

/// Waits until woken if the word at `addr` is `value`.
fn wait(
    task: &Arc<Task>,
    addr: u64,
    shared: bool,
    value: u32,
    bitset: u32,
    deadline_ns: Option<u64>,
) -> Result<core::result::Result<(), Wake>> {
    let key = key_of(task, addr, shared)?;
    let index = bucket_of(&key);
    let waiter = Waiter::new(task, bitset, index);
    enqueue(&TABLE[index], UserAddr(addr), value, Entry { key, waiter: waiter.clone() })?;
    let slept = sleep(&waiter, deadline_ns);
    // Woken just now although the sleep ended for another reason: the wake-up counts, or it would be lost.
    Ok(if slept.is_err() && dequeue(&waiter) { slept } else { Ok(()) })
}

/// Compares the word and enqueues under the bucket's lock.
fn enqueue(bucket: &Bucket, addr: UserAddr, value: u32, entry: Entry) -> Result<()> {
    bucket.waiters.fetch_add(1, Relaxed);
    // Pairs with the fence of `wake`: the waker changed the word before it looks at `waiters`.
    fence(SeqCst);
    let result = loop {
        let mut entries = bucket.entries.lock();
        match user::fetch_u32_nofault(addr) {
            Ok(now) if now != value => break Err(Errno::EAGAIN),
            Ok(_) if entries.try_reserve(1).is_err() => break Err(Errno::ENOMEM),
            Ok(_) => {
                insert(&mut entries, entry);
                return Ok(());
            }
            Err(_) => {
                drop(entries);
                if let Err(error) = user::fetch_u32(addr) {
                    break Err(error);
                }
            }
        }
    };
    bucket.waiters.fetch_sub(1, Relaxed);
    result
}

/// Puts an entry behind those of its priority or a higher one; there must be room.
fn insert(entries: &mut Entries, entry: Entry) {
    let priority = entry.waiter.priority;
    let at = match entries.back() {
        Some(last) if last.waiter.priority < priority => {
            entries.partition_point(|other| other.waiter.priority >= priority)
        }
        _ => entries.len(),
    };
    entries.insert(at, entry);
}

/// Whether somebody waits for the word of `key` other than for its being a lock.
fn has_waiters(key: &Key) -> bool {
    let bucket = &TABLE[bucket_of(key)];
    bucket.waiters.load(Relaxed) != 0 && bucket.entries.lock().iter().any(|entry| entry.key == *key)
}

/// Takes a waiter out; false if a waker did so before.
fn dequeue(waiter: &Arc<Waiter>) -> bool {
    loop {
        let index = waiter.bucket.load(Acquire);
        let Some(bucket) = TABLE.get(index) else { return false };
        let mut entries = bucket.entries.lock();
        if waiter.woken.load(Acquire) {
            return false;
        }
        if waiter.bucket.load(Acquire) != index {
            continue;
        }
        let at = entries.iter().position(|entry| Arc::ptr_eq(&entry.waiter, waiter));
        let Some(at) = at else { return false };
        let entry = entries.remove(at);
        bucket.waiters.fetch_sub(1, Relaxed);
        drop(entries);
        drop(entry);
        return true;
    }
}

fn sleep(waiter: &Waiter, deadline_ns: Option<u64>) -> core::result::Result<(), Wake> {
    let Some(schedule) = schedule() else { return Err(Wake::Interrupted) };
    loop {
        let prepared = waiter.thread.prepare_block(Interruptible::Yes);
        // Pairs with the fence in `take`: woken is set before the waker looks at the thread's state.
        fence(SeqCst);
        if waiter.woken.load(Acquire) {
            waiter.thread.cancel_block();
            return Ok(());
        }
        if prepared == Prepare::Interrupted {
            return Err(Wake::Interrupted);
        }
        let end = schedule.block(deadline_ns);
        if waiter.woken.load(Acquire) {
            return Ok(());
        }
        if end == BlockEnd::TimedOut {
            return Err(Wake::TimedOut);
        }
    }
}

/// Wakes at most `count` waiters of `key` whose bitset meets `bitset`; returns how many that were.
///
/// # Errors
/// `EINVAL` if one waits for a lock.
fn wake(key: Key, count: usize, bitset: u32) -> Result<u64> {
    let bucket = &TABLE[bucket_of(&key)];
    fence(SeqCst);
    if pi::waits_at(&key) {
        return Err(Errno::EINVAL);
    }
    if bucket.waiters.load(Relaxed) == 0 {
        return Ok(0);
    }
    let mut entries = bucket.entries.lock();
    take(bucket, &mut entries, &key, count.max(1), bitset)
}

fn take(bucket: &Bucket, entries: &mut Entries, key: &Key, count: usize, bitset: u32) -> Result<u64> {
    let mut woken = 0;
    let mut at = 0;
    while let Some(entry) = entries.get(at).filter(|_| (woken as usize) < count) {
        if entry.key == *key && entry.waiter.bound.is_some() {
            return Err(Errno::EINVAL);
        }
        if entry.key != *key || entry.waiter.bitset & bitset == 0 {
            at += 1;
            continue;
        }
        if let Some(entry) = entries.remove(at) {
            bucket.waiters.fetch_sub(1, Relaxed);
            entry.waiter.woken.store(true, Release);
            fence(SeqCst);
            if let Some(schedule) = schedule() {
                schedule.wake(&entry.waiter.thread);
            }
            woken += 1;
        }
    }
    Ok(woken)
}

/// Locks two buckets in the order of their index; the second guard is `None` where they are one.
fn lock_two(first: usize, second: usize) -> (SpinGuard<'static, Entries>, Option<SpinGuard<'static, Entries>>) {
    if first == second {
        return (TABLE[first].entries.lock(), None);
    }
    let low = TABLE[first.min(second)].entries.lock();
    let high = TABLE[first.max(second)].entries.lock_nested();
    if first < second { (low, Some(high)) } else { (high, Some(low)) }
}

/// FUTEX_WAKE_OP's change of the second word; whether its old value satisfies the comparison.
fn wake_op(addr: u64, encoded: u32) -> Result<bool> {
    let sign_extend = |field: u32| ((field << 20) as i32) >> 20;
    let (op, cmp) = (encoded >> 28, encoded >> 24 & 15);
    let (op_arg, cmp_arg) = (sign_extend(encoded >> 12 & 0xfff), sign_extend(encoded & 0xfff));
    let op_arg = if op & 8 != 0 { 1_u32.wrapping_shl(op_arg as u32) } else { op_arg as u32 };
    loop {
        let old = user::fetch_u32(UserAddr(addr))?;
        let new = match op & 7 {
            raw::FUTEX_OP_SET => op_arg,
            raw::FUTEX_OP_ADD => old.wrapping_add(op_arg),
            raw::FUTEX_OP_OR => old | op_arg,
            raw::FUTEX_OP_ANDN => old & !op_arg,
            raw::FUTEX_OP_XOR => old ^ op_arg,
            _ => return Err(Errno::ENOSYS),
        };
        if user::cmpxchg_u32(UserAddr(addr), old, new)? == old {
            return compare(cmp, old as i32, cmp_arg);
        }
    }
}

fn compare(cmp: u32, old: i32, arg: i32) -> Result<bool> {
    Ok(match cmp {
        raw::FUTEX_OP_CMP_EQ => old == arg,
        raw::FUTEX_OP_CMP_NE => old != arg,
        raw::FUTEX_OP_CMP_LT => old < arg,
        raw::FUTEX_OP_CMP_LE => old <= arg,
        raw::FUTEX_OP_CMP_GT => old > arg,
        raw::FUTEX_OP_CMP_GE => old >= arg,
        _ => return Err(Errno::ENOSYS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbel_smp::thread::Thread;

    fn add_at(key: Key, bitset: u32, priority: u8) -> Arc<Waiter> {
        let bucket = bucket_of(&key);
        let waiter = Waiter::with(Arc::new(Thread::adopted(0, 0)), priority, bitset, bucket, None);
        TABLE[bucket].waiters.fetch_add(1, Relaxed);
        insert(&mut TABLE[bucket].entries.lock(), Entry { key, waiter: waiter.clone() });
        waiter
    }

    fn add(key: Key, bitset: u32) -> Arc<Waiter> {
        add_at(key, bitset, 0)
    }

    fn key(space: u64, offset: u64) -> Key {
        Key { space, offset, shared: false }
    }

    fn woken(waiters: &[Arc<Waiter>]) -> std::vec::Vec<bool> {
        waiters.iter().map(|waiter| waiter.woken.load(Relaxed)).collect()
    }

    #[test]
    fn wakes_go_to_the_first_matching_waiters() {
        let waiters = [add(key(1, 8), 1), add(key(1, 8), 2), add(key(1, 8), 3), add(key(2, 8), 1)];
        assert_eq!(wake(key(1, 8), 1, 2), Ok(1));
        assert_eq!(woken(&waiters), [false, true, false, false]);
        assert_eq!(wake(key(1, 8), usize::MAX, MATCH_ANY), Ok(2));
        assert!(!dequeue(&waiters[0]));
        assert!(dequeue(&waiters[3]));
        assert_eq!(wake(key(2, 8), 1, MATCH_ANY), Ok(0));
    }

    #[test]
    fn wakes_go_to_the_highest_priority_and_then_to_the_first() {
        let at = key(11, 8);
        let waiters: std::vec::Vec<_> = [0, 5, 0, 9, 5].map(|priority| add_at(at, 1, priority)).into();
        let order: std::vec::Vec<_> = (0..5)
            .map(|_| {
                let before = woken(&waiters);
                assert_eq!(wake(at, 1, MATCH_ANY), Ok(1));
                (0..5).find(|&index| woken(&waiters)[index] && !before[index]).unwrap()
            })
            .collect();
        assert_eq!(order, [3, 1, 4, 0, 2]);
    }

    #[test]
    fn requeued_waiters_are_woken_at_the_new_place() {
        let (from, to) = (key(7, 4096), key(7, 8192));
        let waiters = [add(from, 1), add(from, 1), add(from, 1)];
        assert_eq!(requeue::plain(0, from, to, 1, 1, None), Ok(1));
        assert_eq!(woken(&waiters), [true, false, false]);
        assert_eq!(wake(to, 9, MATCH_ANY), Ok(1));
        assert_eq!(woken(&waiters), [true, true, false]);
        assert!(dequeue(&waiters[2]));
    }

    #[test]
    fn operations_on_a_word_are_those_of_futex_2() {
        // A static: the stack of a test lies above guest addresses.
        static WORD: AtomicU32 = AtomicU32::new(5);
        let (word, addr) = (&WORD, WORD.as_ptr() as u64);
        let encode = |op: u32, arg: u32, cmp: u32, cmp_arg: u32| op << 28 | cmp << 24 | arg << 12 | cmp_arg;
        assert_eq!(wake_op(addr, encode(raw::FUTEX_OP_ADD, 0xfff, raw::FUTEX_OP_CMP_EQ, 5)), Ok(true));
        assert_eq!(word.load(Relaxed), 4);
        assert_eq!(wake_op(addr, encode(8 | raw::FUTEX_OP_OR, 3, raw::FUTEX_OP_CMP_GT, 4)), Ok(false));
        assert_eq!(word.load(Relaxed), 12);
    }
}
