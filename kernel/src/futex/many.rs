//! Waiting on several words at once, and the calls of the second generation. Source: futex_waitv(2).

use super::{Entry, MATCH_ANY, TABLE, Waiter, bucket_of, dequeue, enqueue, key_of, requeue, wake};
use crate::task::Task;
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering::*, fence};
use umbel_mm::user::{self, UserAddr};
use umbel_smp::BlockEnd;
use umbel_smp::schedule::schedule;
use umbel_smp::thread::{Interruptible, Prepare};

/// Most words of one call.
const WAITERS_MAX: u32 = 128;
const SIZE_MASK: u32 = 3;
/// 32-bit words: the only size there is.
const SIZE_U32: u32 = 2;
const PRIVATE: u32 = 128;

/// `struct futex_waitv`.
#[derive(Clone, Copy)]
struct Word {
    value: u64,
    addr: u64,
    flags: u32,
}

/// Checks the flags of a word; whether it is shared between processes.
fn is_shared(flags: u32) -> Result<bool> {
    let known = flags & !(SIZE_MASK | PRIVATE) == 0;
    if known && flags & SIZE_MASK == SIZE_U32 { Ok(flags & PRIVATE == 0) } else { Err(Errno::EINVAL) }
}

fn read_words(addr: UserAddr, count: u32) -> Result<Vec<Word>> {
    let raw: Vec<[u64; 3]> = user::read_vec(addr, count as usize)?;
    let word = |&[value, addr, flags]: &[u64; 3]| {
        if flags >> 32 != 0 { Err(Errno::EINVAL) } else { Ok(Word { value, addr, flags: flags as u32 }) }
    };
    raw.iter().map(word).collect()
}

/// The deadline on CLOCK_MONOTONIC that `timeout` on `clock` means.
fn deadline(timeout: u64, clock: u32) -> Result<Option<u64>> {
    const REALTIME: u32 = 0;
    const MONOTONIC: u32 = 1;
    if timeout == 0 {
        return Ok(None);
    }
    let clock = match clock {
        REALTIME => time::ClockId::Realtime,
        MONOTONIC => time::ClockId::Monotonic,
        _ => return Err(Errno::EINVAL),
    };
    Ok(Some(clock.to_monotonic(time::read_timespec(timeout)?)))
}

/// futex_waitv(2): waits until one of the words' waiters is woken; its index.
///
/// # Errors
/// `EAGAIN` if a word has another value, `ETIMEDOUT`, `ERESTARTSYS`, `EINVAL`, `EFAULT`.
pub fn wait_any(task: &Arc<Task>, waiters: u64, count: u32, flags: u32, timeout: u64, clock: u32) -> Result<usize> {
    if flags != 0 || count == 0 || count > WAITERS_MAX || waiters == 0 {
        return Err(Errno::EINVAL);
    }
    let deadline_ns = deadline(timeout, clock)?;
    let words = read_words(UserAddr(waiters), count)?;
    wait_words(task, &words, MATCH_ANY, deadline_ns)
}

fn wait_words(task: &Arc<Task>, words: &[Word], bitset: u32, deadline_ns: Option<u64>) -> Result<usize> {
    let keys = words.iter().map(|word| key_of(task, word.addr, is_shared(word.flags)?));
    let keys = keys.collect::<Result<Vec<_>>>()?;
    let mut waiting: Vec<Arc<Waiter>> = Vec::new();
    waiting.try_reserve(words.len()).map_err(|_| Errno::ENOMEM)?;
    let mut result = Ok(());
    for (word, key) in words.iter().zip(keys) {
        let index = bucket_of(&key);
        let waiter = Waiter::new(task, bitset, index);
        let entry = Entry { key, waiter: waiter.clone() };
        result = enqueue(&TABLE[index], UserAddr(word.addr), word.value as u32, entry);
        if result.is_err() {
            break;
        }
        waiting.push(waiter);
    }
    if result.is_ok() {
        result = sleep(task, &waiting, deadline_ns);
    }
    // Whoever was woken meanwhile counts, or the wake-up would be lost.
    let woken = waiting.iter().map(|waiter| !dequeue(waiter)).collect::<Vec<_>>();
    match woken.iter().position(|&woken| woken) {
        Some(index) => Ok(index),
        None => Err(result.err().unwrap_or(Errno::EAGAIN)),
    }
}

fn sleep(task: &Task, waiting: &[Arc<Waiter>], deadline_ns: Option<u64>) -> Result<()> {
    let schedule = schedule().ok_or(Errno::EINTR)?;
    let any_woken = || waiting.iter().any(|waiter| waiter.woken.load(Acquire));
    loop {
        let prepared = task.thread.prepare_block(Interruptible::Yes);
        // Pairs with the fence of the waker, as in `super::sleep`.
        fence(SeqCst);
        if any_woken() {
            task.thread.cancel_block();
            return Ok(());
        }
        if prepared == Prepare::Interrupted {
            return Err(Errno::ERESTARTSYS);
        }
        let end = schedule.block(deadline_ns);
        if any_woken() {
            return Ok(());
        }
        if end == BlockEnd::TimedOut {
            return Err(Errno::ETIMEDOUT);
        }
    }
}

/// futex_wait(2).
///
/// # Errors
/// As [`wait_any`].
pub fn wait_one(
    task: &Arc<Task>,
    addr: u64,
    value: u64,
    mask: u64,
    flags: u32,
    timeout: u64,
    clock: u32,
) -> Result<()> {
    is_shared(flags)?;
    let mask = u32::try_from(mask).ok().filter(|&mask| mask != 0).ok_or(Errno::EINVAL)?;
    let deadline_ns = deadline(timeout, clock)?;
    wait_words(task, &[Word { value, addr, flags }], mask, deadline_ns).map(drop)
}

/// futex_wake(2); how many were woken.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn wake_some(task: &Arc<Task>, addr: u64, mask: u64, count: i32, flags: u32) -> Result<u64> {
    let shared = is_shared(flags)?;
    let mask = u32::try_from(mask).ok().filter(|&mask| mask != 0).ok_or(Errno::EINVAL)?;
    let key = key_of(task, addr, shared)?;
    if count <= 0 { Ok(0) } else { wake(key, count as usize, mask) }
}

/// futex_requeue(2): `waiters` are two words, from the first to the second.
///
/// # Errors
/// `EINVAL`, `EFAULT`, `EAGAIN`.
pub fn move_some(task: &Arc<Task>, waiters: u64, flags: u32, wakes: i32, moves: i32) -> Result<u64> {
    let (wakes, moves) = (usize::try_from(wakes), usize::try_from(moves));
    let (Ok(wakes), Ok(moves), 0) = (wakes, moves, flags) else { return Err(Errno::EINVAL) };
    if waiters == 0 {
        return Err(Errno::EINVAL);
    }
    let words = read_words(UserAddr(waiters), 2)?;
    let [from, to] = words[..] else { return Err(Errno::EINVAL) };
    let (source, target) =
        (key_of(task, from.addr, is_shared(from.flags)?)?, key_of(task, to.addr, is_shared(to.flags)?)?);
    requeue::plain(from.addr, source, target, wakes, moves, Some(from.value as u32))
}
