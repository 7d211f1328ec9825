//! Locks that the kernel hands over: FUTEX_LOCK_PI and its kin. Source: futex(2), "Priority-inheritance futexes".
//!
//! The word holds the owner's thread id, and `FUTEX_WAITERS` while somebody waits. An unlock gives the lock to the
//! waiter of the highest priority: it writes that thread's id into the word and takes it out of the queue, both under the
//! queue's lock, so a waiter that is woken owns the lock. Waiters of an owner that ends look again and take it over.
//!
//! An owner runs with the highest real-time priority or the shortest deadline of its waiters, and if it waits itself so does whom
//! it waits for ([`lend`]). What is lent is worked out from the queue and stored under its lock, so that the last change counts.
//!
//! Lock: the queue's (rank `Futex`); one for all, as such locks are rare.

use super::{Key, key_of};
use crate::task::ns::pid::of_caller;
use crate::task::{self, Task};
use crate::{Errno, Pid, Result, sched, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::*, fence};
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
    /// What it ran as when it came: the most urgent goes first.
    class: Class,
    owner: Pid,
    state: Arc<AtomicU8>,
}

static QUEUE: SpinLock<Vec<Waiter>> = SpinLock::new(Rank::Futex, Vec::new());
/// How long the queue is: to look at without the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// What a thread that waits elsewhere becomes here when it is moved.
#[derive(Clone)]
pub(super) struct Bound {
    key: Key,
    tid: u32,
    id: Pid,
    class: Class,
    pub(super) state: Arc<AtomicU8>,
}

impl Bound {
    /// For the lock of `key`.
    pub(super) fn new(task: &Task, key: Key) -> Bound {
        let (tid, class) = (task.process().sees(task.tid()) as u32, task.sched.effective());
        Bound { key, tid, id: task.tid(), class, state: Arc::new(AtomicU8::new(WAITING)) }
    }
}

/// How long FUTEX_LOCK_PI waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// FUTEX_TRYLOCK_PI.
    None,
    /// Until CLOCK_MONOTONIC says so, if at all.
    Until(Option<u64>),
}

/// Who wants a lock, and what is known about whose it is.
struct Claim {
    /// The number that the word is to have, and its thread's id.
    own: u32,
    id: Pid,
    /// The owner by the word, and whether the lock may be taken from it because it is gone.
    owner: u32,
    gone: bool,
    /// Others will wait for it.
    awaited: bool,
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
/// owner does not exist, `EINVAL` if somebody waits for the word otherwise, `ERESTARTNOINTR`, `EFAULT`.
pub fn lock(task: &Arc<Task>, addr: u64, shared: bool, patience: Patience) -> Result<()> {
    acquire(task, addr, shared, patience, false)
}

/// As [`lock`]; `orphaned`: the caller waited before, for an owner that ended.
fn acquire(task: &Arc<Task>, addr: u64, shared: bool, patience: Patience, mut orphaned: bool) -> Result<()> {
    let key = key_of(task, addr, shared)?;
    let bound = Bound::new(task, key);
    loop {
        let (owner, holder) = look_up(UserAddr(addr))?;
        let gone = owner != 0 && holder.is_none() && orphaned;
        if super::has_waiters(&key) {
            return Err(if owner == bound.tid { Errno::EDEADLK } else { Errno::EINVAL });
        }
        let mut queue = QUEUE.lock();
        let claim = Claim { own: bound.tid, id: bound.id, owner, gone, awaited: false };
        match attempt(&mut queue, UserAddr(addr), key, &claim) {
            Ok(Attempt::Taken) => {
                drop(queue);
                lend(task.clone());
                return Ok(());
            }
            Ok(Attempt::Owned(now)) if now == owner => {}
            Ok(Attempt::Owned(_)) | Err(Errno::EFAULT) => continue,
            Err(other) => return Err(other),
        }
        let Some(holder) = holder else { return Err(Errno::ESRCH) };
        let Patience::Until(deadline_ns) = patience else { return Err(Errno::EAGAIN) };
        let bound = Bound { state: Arc::new(AtomicU8::new(WAITING)), ..bound.clone() };
        let owner = holder.tid();
        push(&mut queue, &bound, task.thread.clone(), owner)?;
        drop(queue);
        lend(holder);
        if task::find_task(owner).is_none() {
            // It ended before it could see the new waiter.
            bound.state.store(ORPHANED, Release);
        }
        let slept = sleep(task, &bound.state, deadline_ns);
        match leave(&bound.state) {
            OWNS => return Ok(()),
            ORPHANED => orphaned = true,
            _ => slept?,
        }
    }
}

/// Ends the wait of a thread that was moved to the lock at `addr`; `slept` says how its sleep ended.
///
/// # Errors
/// As [`lock`].
pub(super) fn settle(
    task: &Arc<Task>,
    (addr, shared): (u64, bool),
    state: &Arc<AtomicU8>,
    slept: Result<()>,
    deadline_ns: Option<u64>,
) -> Result<()> {
    match leave(state) {
        OWNS => Ok(()),
        ORPHANED => acquire(task, addr, shared, Patience::Until(deadline_ns), true),
        _ => slept,
    }
}

/// The owner by the word at `addr`, which is made writable, and the owner's thread.
pub(super) fn look_up(addr: UserAddr) -> Result<(u32, Option<Arc<Task>>)> {
    let word = user::fetch_u32(addr)?;
    // Compared with itself, so that it does not fault under the lock.
    user::cmpxchg_u32(addr, word, word)?;
    let owner = word & TID;
    Ok((owner, if owner == 0 { None } else { find(owner) }))
}

/// Whether somebody waits for the lock of `key`.
pub(super) fn waits_at(key: &Key) -> bool {
    COUNT.load(Relaxed) != 0 && QUEUE.lock().iter().any(|waiter| waiter.key == *key)
}

/// Adds a waiter for what `owner` has.
fn push(queue: &mut Vec<Waiter>, bound: &Bound, thread: ThreadRef, owner: Pid) -> Result<()> {
    check_cycle(queue, bound.id, owner)?;
    queue.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    let Bound { key, tid, id, class, state } = bound.clone();
    queue.push(Waiter { key, thread, tid, id, class, owner, state });
    COUNT.store(queue.len(), Relaxed);
    Ok(())
}

/// Takes a waiter out, if it is still there; what became of it.
fn leave(state: &Arc<AtomicU8>) -> u8 {
    let mut queue = QUEUE.lock();
    let at = queue.iter().position(|waiter| Arc::ptr_eq(&waiter.state, state));
    let owner = at.map(|at| queue.remove(at).owner);
    COUNT.store(queue.len(), Relaxed);
    drop(queue);
    // Whoever has it now has a waiter less.
    owner.and_then(task::find_task).into_iter().for_each(lend);
    state.load(Acquire)
}

/// What became of threads that were to be moved to a lock.
pub(super) struct Adopted {
    /// How many of them, from the first on, have the lock now or wait for it here.
    pub(super) count: usize,
    /// Why the next one did not.
    pub(super) result: Result<()>,
    /// Whose the lock is.
    pub(super) owner: Pid,
}

/// Gives the lock at `addr` to the first of `waiters` if it is free, and makes the others wait for it. `None` if it is not
/// `looked_up`'s any more. Under the lock of the bucket in which they stand.
///
/// # Errors
/// As [`lock`], for the first of them.
pub(super) fn adopt(
    addr: UserAddr,
    key: Key,
    waiters: &[Arc<super::Waiter>],
    looked_up: (u32, Option<Pid>),
    awaited: bool,
) -> Result<Option<Adopted>> {
    let bound = |waiter: &super::Waiter| waiter.bound.clone().filter(|bound| bound.key == key).ok_or(Errno::EINVAL);
    let Some(first) = waiters.first() else { return Ok(None) };
    let new = bound(first)?;
    let mut queue = QUEUE.lock_nested();
    let claim = Claim { own: new.tid, id: new.id, owner: looked_up.0, gone: false, awaited };
    let (owner, mut count) = match attempt(&mut queue, addr, key, &claim) {
        Ok(Attempt::Taken) => {
            set(&new.state, &first.thread, OWNS);
            (new.id, 1)
        }
        Ok(Attempt::Owned(now)) if now == looked_up.0 => (looked_up.1.ok_or(Errno::ESRCH)?, 0),
        Ok(Attempt::Owned(_)) | Err(Errno::EFAULT) => return Ok(None),
        Err(other) => return Err(other),
    };
    let mut result = Ok(());
    while let Some(waiter) = waiters.get(count).filter(|_| result.is_ok()) {
        result = bound(waiter).and_then(|bound| push(&mut queue, &bound, waiter.thread.clone(), owner));
        count += usize::from(result.is_ok());
    }
    Ok(Some(Adopted { count, result, owner }))
}

/// After [`adopt`], without locks: the owner runs with the priority of its new waiters, or they look again if it is gone.
pub(super) fn adopted(owner: Pid) {
    match task::find_task(owner) {
        Some(owner) => lend(owner),
        None => orphan(owner),
    }
}

/// Tries to take the lock, or marks it as waited for. Under the queue's lock, without faulting.
fn attempt(queue: &mut SpinGuard<'_, Vec<Waiter>>, addr: UserAddr, key: Key, claim: &Claim) -> Result<Attempt> {
    loop {
        let word = user::fetch_u32_nofault(addr)?;
        let owner = word & TID;
        if owner == claim.own {
            return Err(Errno::EDEADLK);
        }
        let gone = claim.gone && claim.owner == owner;
        if owner == 0 || gone {
            let others = claim.awaited || queue.iter().any(|waiter| waiter.key == key && waiter.tid != claim.own);
            let died = if gone { OWNER_DIED } else { word & OWNER_DIED };
            let new = claim.own | died | if others { WAITERS } else { 0 };
            if user::cmpxchg_u32_nofault(addr, word, new)? == word {
                queue.iter_mut().filter(|waiter| waiter.key == key).for_each(|waiter| waiter.owner = claim.id);
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
    if own == owner {
        return Err(Errno::EDEADLK);
    }
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

/// The real-time priority of a class, 0 = none; deadlines are beyond all of them.
pub(super) fn priority_of(class: Class) -> u8 {
    match class {
        Class::Fifo { priority } | Class::RoundRobin { priority } => priority,
        Class::Deadline(_) => 100,
        Class::Fair { .. } => 0,
    }
}

/// Longest chain of owners that wait themselves.
const CHAIN_MAX: usize = 1024;

/// Lends `owner` the class of its most urgent waiter, or takes it back; goes on with whom it waits for, if that matters there.
fn lend(owner: Arc<Task>) {
    let mut at = owner;
    for _ in 0..CHAIN_MAX {
        let (changed, next) = {
            let mut queue = QUEUE.lock();
            let id = at.tid();
            let classes = queue.iter().filter(|waiter| waiter.owner == id).map(|waiter| waiter.class);
            let most = classes.max_by_key(|class| class.urgency());
            let changed = at.sched.set_loan(most.unwrap_or(Class::NORMAL));
            let waits = queue.iter_mut().find(|waiter| waiter.id == id);
            (
                changed,
                waits.map(|waiter| {
                    waiter.class = at.sched.effective();
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

pub(super) fn sleep(task: &Task, state: &AtomicU8, deadline_ns: Option<u64>) -> Result<()> {
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

fn set(state: &AtomicU8, thread: &ThreadRef, value: u8) {
    state.store(value, Release);
    fence(SeqCst);
    if let Some(schedule) = schedule() {
        schedule.wake(thread);
    }
}

/// Gives the lock at `addr` to the next waiter, or to nobody.
///
/// # Errors
/// `EPERM` if it is not the caller's; `EINVAL` if somebody waits for the word otherwise; `EFAULT`.
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
        let strangers = super::has_waiters(&key);
        let mut queue = QUEUE.lock();
        let next = next_of(&queue, key);
        if next.is_none() && strangers {
            return Err(Errno::EINVAL);
        }
        let others = queue.iter().filter(|waiter| waiter.key == key).count() > 1;
        let new = next.and_then(|at| queue.get(at)).map_or(0, |waiter| waiter.tid | if others { WAITERS } else { 0 });
        match user::cmpxchg_u32_nofault(place, word, new) {
            Ok(old) if old == word => {}
            _ => continue,
        }
        let heir = next.map(|at| {
            let waiter = queue.remove(at);
            queue.iter_mut().filter(|other| other.key == key).for_each(|other| other.owner = waiter.id);
            set(&waiter.state, &waiter.thread, OWNS);
            waiter.id
        });
        COUNT.store(queue.len(), Relaxed);
        drop(queue);
        lend(task.clone());
        heir.and_then(task::find_task).into_iter().for_each(lend);
        return Ok(());
    }
}

/// The first of the most urgent.
fn next_of(queue: &[Waiter], key: Key) -> Option<usize> {
    let waiting = queue.iter().enumerate().filter(|(_, waiter)| waiter.key == key);
    waiting.rev().max_by_key(|(_, waiter)| waiter.class.urgency()).map(|(at, _)| at)
}

/// A thread ends: those who wait for its locks look again.
pub fn owner_exit(task: &Task) {
    orphan(task.tid());
}

fn orphan(owner: Pid) {
    let queue = QUEUE.lock();
    let orphans = queue.iter().filter(|waiter| waiter.owner == owner);
    orphans.for_each(|waiter| set(&waiter.state, &waiter.thread, ORPHANED));
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
