//! Locks that the kernel hands over: FUTEX_LOCK_PI and its kin. Source: futex(2), "Priority-inheritance futexes".
//!
//! The word holds the owner's thread id, and `FUTEX_WAITERS` while somebody waits. An unlock gives the lock to the
//! waiter of the highest priority: it writes that thread's id into the word and takes it out of the queue, both under the
//! queue's lock, so a waiter that is woken owns the lock. Waiters of an owner that ends look again and take it over.
//!
//! An owner runs with the highest real-time priority of its waiters, and if it waits itself so does whom it waits for
//! ([`lend`]). What is lent is worked out from the queue and stored under its lock, so that the last change counts.
//!
//! Lock: the queue's (rank `Futex`); one for all, as such locks are rare.

use super::{Key, key_of};
use crate::task::ns::pid::of_caller;
use crate::task::{self, Task};
use crate::{Errno, Pid, Result, sched, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering::*, fence};
use linux_raw_sys::general as raw;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::BlockEnd;
use umbel_smp::lock::{Rank, SpinGuard, SpinLock};
use umbel_smp::runqueue::Class;
use umbel_smp::schedule::schedule;
use umbel_smp::thread::{Interruptible, Prepare, ThreadRef};

const TID: u32 = raw::FUTEX_TID_MASK;
const WAITERS: u32 = raw::FUTEX_WAITERS;
const OWNER_DIED: u32 = raw::FUTEX_OWNER_DIED;

/// What became of a waiter.
const WAITING: u8 = 0;
/// The lock is its own.
const OWNS: u8 = 1;
/// The owner ended: look again.
const ORPHANED: u8 = 2;

struct Waiter {
    key: Key,
    thread: ThreadRef,
    /// Its number, as the word has it, and its id.
    tid: u32,
    id: Pid,
    /// Higher goes first: the real-time priority.
    priority: u8,
    owner: Pid,
    state: Arc<AtomicU8>,
}

static QUEUE: SpinLock<Vec<Waiter>> = SpinLock::new(Rank::Futex, Vec::new());

/// How long FUTEX_LOCK_PI waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// FUTEX_TRYLOCK_PI.
    None,
    /// Until CLOCK_MONOTONIC says so, if at all.
    Until(Option<u64>),
}

/// What one attempt to take the lock found.
enum Attempt {
    Taken,
    /// Somebody else's, who is told that there are waiters.
    Owned(u32),
}

/// Takes the lock at `addr`.
///
/// # Errors
/// `EDEADLK` if the caller has it or its owner waits for the caller, `EAGAIN` without patience, `ETIMEDOUT`, `ESRCH` if the
/// owner does not exist, `EPERM` for an owner that is not allowed, `ERESTARTNOINTR`, `EFAULT`.
pub fn lock(task: &Arc<Task>, addr: u64, shared: bool, patience: Patience) -> Result<()> {
    let key = key_of(task, addr, shared)?;
    let own = task.process().sees(task.tid()) as u32;
    let mut orphaned = false;
    loop {
        // Compared with itself, so that it does not fault under the lock.
        let word = user::fetch_u32(UserAddr(addr))?;
        user::cmpxchg_u32(UserAddr(addr), word, word)?;
        let owner = word & TID;
        let holder = if owner == 0 { None } else { find(owner) };
        let gone = owner != 0 && holder.is_none();
        let mut queue = QUEUE.lock();
        match attempt(&mut queue, UserAddr(addr), key, (own, task.tid()), (owner, gone && orphaned)) {
            Ok(Attempt::Taken) => {
                drop(queue);
                lend(task.clone());
                return Ok(());
            }
            Ok(Attempt::Owned(now)) if now == owner => {}
            Ok(Attempt::Owned(_)) | Err(Errno::EFAULT) => continue,
            Err(other) => return Err(other),
        }
        let Patience::Until(deadline_ns) = patience else { return Err(Errno::EAGAIN) };
        let Some(holder) = holder else { return Err(Errno::ESRCH) };
        check_cycle(&queue, task.tid(), holder.tid())?;
        let state = Arc::new(AtomicU8::new(WAITING));
        queue.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let priority = priority_of(task);
        let thread = task.thread.clone();
        let (id, owner) = (task.tid(), holder.tid());
        queue.push(Waiter { key, thread, tid: own, id, priority, owner, state: state.clone() });
        drop(queue);
        lend(holder);
        if task::find_task(owner).is_none() {
            // It ended before it could see the new waiter.
            state.store(ORPHANED, Release);
        }
        let slept = sleep(task, &state, deadline_ns);
        let mut queue = QUEUE.lock();
        queue.retain(|waiter| !Arc::ptr_eq(&waiter.state, &state));
        drop(queue);
        // Whoever has it now has a waiter less.
        task::find_task(owner).into_iter().for_each(lend);
        match state.load(Acquire) {
            OWNS => return Ok(()),
            ORPHANED => orphaned = true,
            _ => slept?,
        }
    }
}

/// Tries to take the lock, or marks it as waited for. Under the queue's lock, without faulting.
///
/// `looked_up`: an owner, and whether the lock may be taken from it because it is gone.
fn attempt(
    queue: &mut SpinGuard<'_, Vec<Waiter>>,
    addr: UserAddr,
    key: Key,
    (own, id): (u32, Pid),
    looked_up: (u32, bool),
) -> Result<Attempt> {
    loop {
        let word = user::fetch_u32_nofault(addr)?;
        let owner = word & TID;
        if owner == own {
            return Err(Errno::EDEADLK);
        }
        let gone = looked_up == (owner, true);
        if owner == 0 || gone {
            let others = queue.iter().any(|waiter| waiter.key == key && waiter.tid != own);
            let died = if gone { OWNER_DIED } else { word & OWNER_DIED };
            let new = own | died | if others { WAITERS } else { 0 };
            if user::cmpxchg_u32_nofault(addr, word, new)? == word {
                queue.iter_mut().filter(|waiter| waiter.key == key).for_each(|waiter| waiter.owner = id);
                return Ok(Attempt::Taken);
            }
        } else if word & WAITERS != 0 || user::cmpxchg_u32_nofault(addr, word, word | WAITERS)? == word {
            return Ok(Attempt::Owned(owner));
        }
    }
}

/// A guest's thread.
fn find(tid: u32) -> Option<Arc<Task>> {
    task::find_task(of_caller(tid as i32)).filter(|task| task.body.is_none())
}

/// Whether `own` may wait for `owner`: `EDEADLK` if that waits for it.
fn check_cycle(queue: &[Waiter], own: Pid, owner: Pid) -> Result<()> {
    // Whom the owner waits for, and so on.
    let mut at = owner;
    for _ in 0..queue.len() {
        match queue.iter().find(|waiter| waiter.id == at) {
            Some(waiter) if waiter.owner == own => return Err(Errno::EDEADLK),
            Some(waiter) => at = waiter.owner,
            None => break,
        }
    }
    Ok(())
}

/// The real-time priority that `task` runs with.
fn priority_of(task: &Task) -> u8 {
    match task.sched.effective() {
        Class::Fifo { priority } | Class::RoundRobin { priority } => priority,
        Class::Fair { .. } => 0,
    }
}

/// Longest chain of owners that wait themselves.
const CHAIN_MAX: usize = 1024;

/// Lends `owner` the priority of its first waiter, or takes it back; goes on with whom it waits for, if that matters there.
fn lend(owner: Arc<Task>) {
    let mut at = owner;
    for _ in 0..CHAIN_MAX {
        let (changed, next) = {
            let mut queue = QUEUE.lock();
            let id = at.tid();
            let most = queue.iter().filter(|waiter| waiter.owner == id).map(|waiter| waiter.priority).max();
            let changed = at.sched.set_boost(most.unwrap_or(0));
            let waits = queue.iter_mut().find(|waiter| waiter.id == id);
            (
                changed,
                waits.map(|waiter| {
                    waiter.priority = priority_of(&at);
                    waiter.owner
                }),
            )
        };
        if !changed {
            return;
        }
        sched::class_changed(&at);
        match next.and_then(task::find_task) {
            Some(next) => at = next,
            None => return,
        }
    }
}

fn sleep(task: &Task, state: &AtomicU8, deadline_ns: Option<u64>) -> Result<()> {
    let schedule = schedule().ok_or(Errno::EINTR)?;
    loop {
        let prepared = task.thread.prepare_block(Interruptible::Yes);
        // Pairs with the fence of `set`.
        fence(SeqCst);
        if state.load(Acquire) != WAITING {
            task.thread.cancel_block();
            return Ok(());
        }
        if prepared == Prepare::Interrupted {
            return Err(Errno::ERESTARTNOINTR);
        }
        let end = schedule.block(deadline_ns);
        if state.load(Acquire) != WAITING {
            return Ok(());
        }
        if end == BlockEnd::TimedOut {
            return Err(Errno::ETIMEDOUT);
        }
    }
}

fn set(waiter: &Waiter, state: u8) {
    waiter.state.store(state, Release);
    fence(SeqCst);
    if let Some(schedule) = schedule() {
        schedule.wake(&waiter.thread);
    }
}

/// Gives the lock at `addr` to the next waiter, or to nobody.
///
/// # Errors
/// `EPERM` if it is not the caller's; `EFAULT`.
pub fn unlock(task: &Arc<Task>, addr: u64, shared: bool) -> Result<()> {
    let key = key_of(task, addr, shared)?;
    let own = task.process().sees(task.tid()) as u32;
    let place = UserAddr(addr);
    loop {
        let word = user::fetch_u32(place)?;
        if word & TID != own {
            return Err(Errno::EPERM);
        }
        // So that it does not fault under the lock.
        user::cmpxchg_u32(place, word, word)?;
        let mut queue = QUEUE.lock();
        let next = next_of(&queue, key);
        let others = queue.iter().filter(|waiter| waiter.key == key).count() > 1;
        let new = next.and_then(|at| queue.get(at)).map_or(0, |waiter| waiter.tid | if others { WAITERS } else { 0 });
        match user::cmpxchg_u32_nofault(place, word, new) {
            Ok(old) if old == word => {}
            _ => continue,
        }
        let heir = next.map(|at| {
            let waiter = queue.remove(at);
            queue.iter_mut().filter(|other| other.key == key).for_each(|other| other.owner = waiter.id);
            set(&waiter, OWNS);
            waiter.id
        });
        drop(queue);
        lend(task.clone());
        heir.and_then(task::find_task).into_iter().for_each(lend);
        return Ok(());
    }
}

/// The first of those with the highest priority.
fn next_of(queue: &[Waiter], key: Key) -> Option<usize> {
    let waiting = queue.iter().enumerate().filter(|(_, waiter)| waiter.key == key);
    waiting.rev().max_by_key(|(_, waiter)| waiter.priority).map(|(at, _)| at)
}

/// A thread ends: those who wait for its locks look again.
pub fn owner_exit(task: &Task) {
    let own = task.tid();
    let queue = QUEUE.lock();
    queue.iter().filter(|waiter| waiter.owner == own).for_each(|waiter| set(waiter, ORPHANED));
}

/// The deadline of FUTEX_LOCK_PI: on CLOCK_REALTIME unless `monotonic`.
///
/// # Errors
/// `EFAULT`, `EINVAL`.
pub fn deadline(timeout: u64, monotonic: bool) -> Result<Option<u64>> {
    if timeout == 0 {
        return Ok(None);
    }
    let clock = if monotonic { time::ClockId::Monotonic } else { time::ClockId::Realtime };
    Ok(Some(clock.to_monotonic(time::read_timespec(timeout)?)))
}
