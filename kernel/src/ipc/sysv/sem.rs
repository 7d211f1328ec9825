//! Semaphores. Source: semop(2), semctl(2).
//!
//! A list of operations is done as a whole or not at all. Whoever cannot go on sleeps in the set's queue and tries
//! again after every change. Adjustments to be undone at exit are kept in the set by process; [`Undo`] says in which sets a process has some.
//!
//! Locks: a set's state, then the list of adjustments.

use super::{Limits, Object, Perm, now};
use crate::{Errno, Result};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// Highest value of a semaphore (`SEMVMX`).
pub const VALUE_MAX: i32 = 32767;
const NOWAIT: u16 = super::IPC_NOWAIT as u16;
/// `SEM_UNDO`.
const UNDO: u16 = 0x1000;

umbel_mm::pod! {
    /// `struct sembuf`.
    pub struct Op {
        num: u16,
        op: i16,
        flags: u16,
    }
}

impl Op {
    /// Whether it changes the semaphore.
    pub fn alters(&self) -> bool {
        self.op != 0
    }

    /// Which semaphore.
    pub fn number(&self) -> u16 {
        self.num
    }
}

/// One semaphore.
#[derive(Clone, Copy, Debug, Default)]
pub struct Semaphore {
    pub value: i32,
    /// Process that changed or tested it last.
    pub pid: i32,
}

/// In which sets processes have adjustments: pairs of a process and a set's id.
pub struct Undo(SpinLock<BTreeSet<(i32, i32)>>);

impl Default for Undo {
    fn default() -> Undo {
        Undo(SpinLock::new(Rank::Leaf, BTreeSet::new()))
    }
}

impl Undo {
    /// A set in which process `pid` has adjustments.
    pub fn of(&self, pid: i32) -> Option<i32> {
        self.0.lock().range((pid, i32::MIN)..=(pid, i32::MAX)).next().map(|(_, id)| *id)
    }

    fn forget(&self, pid: i32, id: i32) {
        self.0.lock().remove(&(pid, id));
    }

    /// The same, which is forgotten: the caller undoes them.
    pub fn take(&self, pid: i32) -> Option<i32> {
        let mut pairs = self.0.lock();
        let pair = *pairs.range((pid, i32::MIN)..=(pid, i32::MAX)).next()?;
        pairs.remove(&pair);
        Some(pair.1)
    }
}

/// A set of semaphores.
pub struct Set {
    state: SpinLock<State>,
    queue: WaitQueue,
}

struct State {
    perm: Perm,
    list: Vec<Semaphore>,
    /// Adjustments at exit by process.
    undo: BTreeMap<i32, Vec<i32>>,
    /// By waiter: the semaphore it waits for, and whether for zero.
    waiting: BTreeMap<u64, (u16, bool)>,
    next_waiter: u64,
    otime: i64,
    removed: bool,
}

impl Object for Set {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

/// What became of a list of operations.
enum Tried {
    Done,
    /// It waits for a semaphore; whether for zero.
    Blocked {
        num: u16,
        zero: bool,
        nowait: bool,
    },
}

impl Set {
    /// A set of `count` zeroes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(perm: Perm, count: usize) -> Result<Set> {
        let mut list = Vec::new();
        list.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        list.resize(count, Semaphore::default());
        let state = State {
            perm,
            list,
            undo: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_waiter: 0,
            otime: 0,
            removed: false,
        };
        Ok(Set { state: SpinLock::new(Rank::Endpoint, state), queue: WaitQueue::new() })
    }

    /// Number of semaphores.
    pub fn count(&self) -> usize {
        self.state.lock().list.len()
    }

    /// Does `ops` for process `pid`, waiting as long as need be.
    ///
    /// # Errors
    /// `EAGAIN`, `EFBIG`, `ERANGE`, `EIDRM`, `EINTR`, `ENOMEM`.
    pub fn operate(&self, ops: &[Op], pid: i32, deadline_ns: Option<u64>, undo: &Undo) -> Result<()> {
        if ops.iter().any(|op| op.flags & UNDO != 0) {
            // Adjustments stay until the process ends.
            umbel_mm::heap::room_for(super::HEAP_MARGIN)?;
        }
        let mut ticket = None;
        let result = match self.attempt((ops, pid, undo), &mut ticket) {
            Some(result) => result,
            None => match self.queue.wait_interruptible(deadline_ns, || self.attempt((ops, pid, undo), &mut ticket)) {
                Ok(result) => result,
                Err(Wake::TimedOut) => Err(Errno::EAGAIN),
                Err(Wake::Interrupted) => Err(Errno::EINTR),
            },
        };
        if let Some(ticket) = ticket {
            self.state.lock().waiting.remove(&ticket);
        }
        if result.is_ok() && ops.iter().any(Op::alters) {
            self.queue.wake_all();
        }
        result
    }

    /// Once; `None` = wait.
    fn attempt(&self, (ops, pid, undo): (&[Op], i32, &Undo), ticket: &mut Option<u64>) -> Option<Result<()>> {
        let mut state = self.state.lock();
        if state.removed {
            return Some(Err(if ticket.is_some() { Errno::EIDRM } else { Errno::EINVAL }));
        }
        match state.perform(ops, pid) {
            Ok(Tried::Done) => {
                if state.undo.contains_key(&pid) {
                    undo.0.lock().insert((pid, state.perm.id));
                }
                Some(Ok(()))
            }
            Ok(Tried::Blocked { nowait: true, .. }) => Some(Err(Errno::EAGAIN)),
            Ok(Tried::Blocked { num, zero, .. }) => {
                let own = match *ticket {
                    Some(own) => own,
                    None => {
                        state.next_waiter += 1;
                        state.next_waiter
                    }
                };
                *ticket = Some(own);
                state.waiting.insert(own, (num, zero));
                None
            }
            Err(errno) => Some(Err(errno)),
        }
    }

    /// Does `work` with the semaphores; what it changed wakes whoever waits.
    fn with<R>(&self, work: impl FnOnce(&mut State) -> Result<R>) -> Result<R> {
        let mut state = self.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        work(&mut state)
    }

    /// All values.
    pub fn values(&self) -> Result<Vec<u16>> {
        self.with(|state| Ok(state.list.iter().map(|semaphore| semaphore.value as u16).collect()))
    }

    /// One semaphore. `EINVAL` if there is none.
    pub fn semaphore(&self, num: usize) -> Result<Semaphore> {
        self.with(|state| state.list.get(num).copied().ok_or(Errno::EINVAL))
    }

    /// How many wait for semaphore `num` to become zero, or greater.
    pub fn waiters(&self, num: usize, zero: bool) -> Result<usize> {
        self.with(|state| {
            let waits = |&&(at, for_zero): &&(u16, bool)| usize::from(at) == num && for_zero == zero;
            if num < state.list.len() { Ok(state.waiting.values().filter(waits).count()) } else { Err(Errno::EINVAL) }
        })
    }

    /// `SETVAL`, `SETALL`: values from semaphore `first` on; forgets adjustments.
    ///
    /// # Errors
    /// `ERANGE`, `EINVAL`.
    pub fn set_values(&self, first: usize, values: &[i32], pid: i32) -> Result<()> {
        if values.iter().any(|value| !(0..=VALUE_MAX).contains(value)) {
            return Err(Errno::ERANGE);
        }
        self.with(|state| {
            let range = first..first + values.len();
            let places = state.list.get_mut(range.clone()).ok_or(Errno::EINVAL)?;
            for (place, &value) in places.iter_mut().zip(values) {
                *place = Semaphore { value, pid };
            }
            for adjust in state.undo.values_mut() {
                adjust.get_mut(range.clone()).into_iter().flatten().for_each(|adjust| *adjust = 0);
            }
            state.perm.ctime = now();
            Ok(())
        })?;
        self.queue.wake_all();
        Ok(())
    }

    /// Owner and times: permissions, last operation, number.
    pub fn facts(&self) -> (Perm, i64, usize) {
        let state = self.state.lock();
        (state.perm, state.otime, state.list.len())
    }

    /// `IPC_SET`.
    pub fn set_perm(&self, uid: u32, gid: u32, mode: u32) {
        self.state.lock().perm.set(uid, gid, mode);
    }

    /// It is in the table no more: whoever waits fails.
    pub fn removed(&self, undo: &Undo) {
        let mut state = self.state.lock();
        state.removed = true;
        let id = state.perm.id;
        let adjusted = core::mem::take(&mut state.undo);
        adjusted.keys().for_each(|&pid| undo.forget(pid, id));
        drop(state);
        self.queue.wake_all();
    }

    /// Process `pid` ends.
    pub fn undo(&self, pid: i32) {
        let mut state = self.state.lock();
        let Some(adjust) = state.undo.remove(&pid) else { return };
        for (semaphore, adjust) in state.list.iter_mut().zip(adjust).filter(|(_, adjust)| *adjust != 0) {
            // An adjustment that would leave the range goes as far as it can.
            semaphore.value = (semaphore.value + adjust).clamp(0, VALUE_MAX);
            semaphore.pid = pid;
        }
        state.otime = now();
        drop(state);
        self.queue.wake_all();
    }
}

impl State {
    /// All of `ops` or none of them.
    fn perform(&mut self, ops: &[Op], pid: i32) -> Result<Tried> {
        let count = self.list.len();
        if ops.iter().any(|op| usize::from(op.num) >= count) {
            return Err(Errno::EFBIG);
        }
        let mut new = self.list.clone();
        let mut adjust = self.undo.get(&pid).cloned();
        for op in ops {
            let place = new.get_mut(usize::from(op.num)).ok_or(Errno::EFBIG)?;
            let blocked = |zero| Tried::Blocked { num: op.num, zero, nowait: op.flags & NOWAIT != 0 };
            if op.op == 0 && place.value != 0 {
                return Ok(blocked(true));
            }
            let value = place.value + i32::from(op.op);
            if value < 0 {
                return Ok(blocked(false));
            }
            if value > VALUE_MAX {
                return Err(Errno::ERANGE);
            }
            if op.flags & UNDO != 0 {
                let adjust = adjust.get_or_insert_with(|| vec![0; count]);
                let place = adjust.get_mut(usize::from(op.num)).ok_or(Errno::EFBIG)?;
                *place -= i32::from(op.op);
                if !(-VALUE_MAX - 1..=VALUE_MAX).contains(place) {
                    return Err(Errno::ERANGE);
                }
            }
            *place = Semaphore { value, pid };
        }
        self.list = new;
        if let Some(adjust) = adjust {
            self.undo.insert(pid, adjust);
        }
        self.otime = now();
        Ok(Tried::Done)
    }
}

/// The limits `SEMMSL`, `SEMMNS`, `SEMOPM`, `SEMMNI`.
pub fn limits(limits: &Limits) -> [u64; 4] {
    [0, 1, 2, 3].map(|index: usize| limits.sem.get(index).map_or(0, Limits::get))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Cred;

    fn set(values: &[i32]) -> Set {
        let set = Set::new(Perm::new(0, 0, &Cred::new(0, 0), 0o600), values.len()).unwrap();
        set.set_values(0, values, 1).unwrap();
        set
    }

    fn op(num: u16, op: i16, flags: u16) -> Op {
        Op { num, op, flags: flags | NOWAIT }
    }

    #[test]
    fn operations_are_done_together_or_not_at_all() {
        let set = set(&[1, 0]);
        assert_eq!(set.operate(&[op(0, -1, 0), op(1, -1, 0)], 1, None, &Undo::default()), Err(Errno::EAGAIN));
        assert_eq!(set.values(), Ok(vec![1, 0]));
        assert_eq!(
            set.operate(&[op(1, 2, 0), op(0, -1, 0), op(1, -1, 0), op(0, 0, 0)], 9, None, &Undo::default()),
            Ok(())
        );
        assert_eq!((set.values(), set.semaphore(1).unwrap().pid), (Ok(vec![0, 1]), 9));
        assert_eq!(set.operate(&[op(2, 1, 0)], 1, None, &Undo::default()), Err(Errno::EFBIG));
        assert_eq!(
            set.operate(&[op(0, VALUE_MAX as i16, 0), op(0, 1, 0)], 1, None, &Undo::default()),
            Err(Errno::ERANGE)
        );
    }

    #[test]
    fn what_a_process_took_comes_back_at_its_end() {
        let set = set(&[3]);
        set.operate(&[op(0, -2, UNDO)], 5, None, &Undo::default()).unwrap();
        set.operate(&[op(0, -1, 0)], 5, None, &Undo::default()).unwrap();
        set.undo(6);
        assert_eq!(set.values(), Ok(vec![0]));
        set.undo(5);
        assert_eq!(set.values(), Ok(vec![2]));
        set.operate(&[op(0, -2, UNDO)], 5, None, &Undo::default()).unwrap();
        set.set_values(0, &[7], 1).unwrap();
        set.undo(5);
        assert_eq!(set.values(), Ok(vec![7]));
    }
}
