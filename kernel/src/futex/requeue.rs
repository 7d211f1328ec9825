//! From word to word: FUTEX_CMP_REQUEUE, and what moves waiters of a word to a lock. Source: futex(2).
//!
//! A waiter that is bound for a lock ([`pi::Bound`]) stands in a bucket as others do, but sleeps until the lock is its own. Who
//! moves it takes it out of the bucket and gives it the lock, or puts it among the lock's waiters: all under the bucket's lock and
//! the queue's, so that the waiter, when its sleep ends for another reason, finds itself in one place.
//!
//! Locks: a bucket's, then `pi`'s (both rank `Futex`).

use super::pi::{self, Bound};
use super::{Entry, Key, MATCH_ANY, TABLE, Waiter, bucket_of, dequeue, enqueue, insert, key_of, lock_two, take};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;
use umbel_mm::user::{self, UserAddr};

/// Wakes `wakes` waiters of `from` and moves at most `moves` others to `to`, if the word is `expected`.
///
/// # Errors
/// `EINVAL` if one of them is bound for a lock, or waits for one; `EAGAIN` for another word; `EFAULT`.
pub(super) fn plain(addr: u64, from: Key, to: Key, wakes: usize, moves: usize, expected: Option<u32>) -> Result<u64> {
    if wakes > i32::MAX as usize || moves > i32::MAX as usize {
        return Err(Errno::EINVAL);
    }
    if pi::waits_at(&from) {
        return Err(Errno::EINVAL);
    }
    let (source, target) = (bucket_of(&from), bucket_of(&to));
    let (mut entries, mut others) = loop {
        let guards = lock_two(source, target);
        let Some(expected) = expected else { break guards };
        match user::fetch_u32_nofault(UserAddr(addr)) {
            Ok(now) if now == expected => break guards,
            Ok(_) => return Err(Errno::EAGAIN),
            Err(_) => {
                drop(guards);
                user::fetch_u32(UserAddr(addr))?;
            }
        }
    };
    let woken = if wakes == 0 { 0 } else { take(&TABLE[source], &mut entries, &from, wakes, MATCH_ANY)? };
    let mut moved = 0;
    let mut at = 0;
    while moved < moves && at < entries.len() {
        if entries.get(at).is_none_or(|entry| entry.key != from) {
            at += 1;
            continue;
        }
        if entries.get(at).is_some_and(|entry| entry.waiter.bound.is_some()) {
            return Err(Errno::EINVAL);
        }
        let Some(others) = others.as_mut() else {
            // One bucket: only the key changes.
            if let Some(entry) = entries.get_mut(at) {
                entry.key = to;
            }
            moved += 1;
            at += 1;
            continue;
        };
        if others.try_reserve(1).is_err() {
            break;
        }
        if let Some(mut entry) = entries.remove(at) {
            entry.key = to;
            entry.waiter.bucket.store(target, Release);
            TABLE[source].waiters.fetch_sub(1, Relaxed);
            TABLE[target].waiters.fetch_add(1, Relaxed);
            insert(others, entry);
        }
        moved += 1;
    }
    Ok(if expected.is_some() { woken + moved as u64 } else { woken })
}

/// FUTEX_WAIT_REQUEUE_PI: waits at the first word, if it is `value`, to be moved to the lock in the second, and for that.
///
/// # Errors
/// `EAGAIN` for another value, or if a signal came after the move; `ETIMEDOUT`, `ERESTARTNOINTR`, `EINVAL`, `EFAULT`.
pub(super) fn wait(
    task: &Arc<Task>,
    (addr, lock): (u64, u64),
    shared: bool,
    value: u32,
    deadline_ns: Option<u64>,
) -> Result<()> {
    let to = key_of(task, lock, shared)?;
    let key = key_of(task, addr, shared)?;
    if addr == lock || key == to {
        return Err(Errno::EINVAL);
    }
    let (index, bound) = (bucket_of(&key), Bound::new(task, to));
    let priority = pi::priority_of(task.sched.class());
    let waiter = Waiter::with(task.thread.clone(), priority, MATCH_ANY, index, Some(bound.clone()));
    enqueue(&TABLE[index], UserAddr(addr), value, Entry { key, waiter: waiter.clone() })?;
    let slept = pi::sleep(task, &bound.state, deadline_ns);
    if slept.is_err() && dequeue(&waiter) {
        return slept;
    }
    // The first word has changed: to wait for that again would be of no use.
    pi::settle(task, (lock, shared), &bound.state, slept, deadline_ns).map_err(|errno| match errno {
        Errno::ERESTARTNOINTR => Errno::EAGAIN,
        other => other,
    })
}

/// FUTEX_CMP_REQUEUE_PI: gives the lock in the second word to the first waiter of the first, if it is free, and makes that one and
/// at most `moves` others wait for it. Returns how many.
///
/// # Errors
/// `EINVAL` unless `wakes` is 1 and all were bound for this lock, `EAGAIN` if the first word is not `expected`, `EDEADLK`,
/// `ESRCH`, `EFAULT`.
pub(super) fn to_lock(
    task: &Arc<Task>,
    (addr, lock): (u64, u64),
    shared: bool,
    wakes: u32,
    moves: usize,
    expected: u32,
) -> Result<u64> {
    if wakes != 1 || moves > i32::MAX as usize || addr == lock {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (key_of(task, addr, shared)?, key_of(task, lock, shared)?);
    if from == to {
        return Err(Errno::EINVAL);
    }
    let index = bucket_of(&from);
    loop {
        // What is looked at under the locks must not fault there; whoever owns the lock is looked up before, too.
        let (owner, holder) = pi::look_up(UserAddr(lock))?;
        user::fetch_u32(UserAddr(addr))?;
        let mut entries = TABLE[index].entries.lock();
        match user::fetch_u32_nofault(UserAddr(addr)) {
            Ok(now) if now == expected => {}
            Ok(_) => return Err(Errno::EAGAIN),
            Err(_) => continue,
        }
        let mut waiters = Vec::new();
        for entry in entries.iter().filter(|entry| entry.key == from).take(moves.saturating_add(1)) {
            waiters.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            waiters.push(entry.waiter.clone());
        }
        if waiters.is_empty() {
            return Ok(0);
        }
        let looked_up = (owner, holder.as_ref().map(|holder| holder.tid()));
        let Some(adopted) = pi::adopt(UserAddr(lock), to, &waiters, looked_up, moves > 0)? else { continue };
        for waiter in waiters.iter().take(adopted.count) {
            if let Some(at) = entries.iter().position(|entry| Arc::ptr_eq(&entry.waiter, waiter)) {
                entries.remove(at);
                TABLE[index].waiters.fetch_sub(1, Relaxed);
            }
            waiter.woken.store(true, Release);
        }
        drop(entries);
        pi::adopted(adopted.owner);
        return adopted.result.map(|()| adopted.count as u64);
    }
}
