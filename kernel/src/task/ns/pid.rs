//! PID namespaces: which process has which number where. Source: pid_namespaces(7).
//!
//! Inside the kernel a process, thread, group or session has one id, that of the first namespace, from its begin to its
//! end. A namespace below gives the ids that were made in it, or below it, numbers of its own. They are translated where
//! a call takes or gives them: arguments and results of type [`Pid`] by the rows of the table of calls
//! ([`of_caller`], [`caller_sees`]), everything else by [`crate::task::Process::sees`].
//!
//! The first process of a namespace is its init: it adopts the namespace's orphans, signals from inside reach it only if
//! it handles them, and its end ends every other process ([`crate::task::exit`]).
//!
//! Lock: a namespace's numbers (rank `Leaf`). They change under the lock of the table of ids only.

use super::count::Ticket;
use super::{UserNs, first};
use crate::task::ids::{PID_MAX, RESERVED};
use crate::{Errno, Pid, Result, fs, task};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use umbel_smp::lock::{Once, Rank, SpinLock};

/// Deepest nesting.
pub const LEVELS_MAX: usize = 32;
/// Stands for a number that a namespace has not given: no id is that high.
const NOBODY: Pid = Pid(i32::MAX);
/// There is, or was, a namespace besides the first.
static NESTED: AtomicBool = AtomicBool::new(false);

/// See the module.
pub struct PidNs {
    pub id: u64,
    pub owner: Arc<UserNs>,
    parent: Option<Arc<PidNs>>,
    /// 0 for the first.
    level: usize,
    /// Unused in the first, where numbers are ids.
    numbers: SpinLock<Numbers>,
    _counts: Option<Ticket>,
}

#[derive(Debug, Default)]
struct Numbers {
    by_number: BTreeMap<i32, Pid>,
    by_id: BTreeMap<i32, i32>,
    /// Last number given out in turn.
    last: i32,
    init: Option<Pid>,
    /// Its init has ended: nobody comes in any more.
    closed: bool,
}

impl PidNs {
    /// The one that the machine boots with.
    pub fn first() -> Arc<PidNs> {
        static FIRST: Once<Arc<PidNs>> = Once::new();
        FIRST.call_once(|| Arc::new(PidNs::make(first::PID, UserNs::first(), None, None))).clone()
    }

    /// A namespace without processes below `parent`.
    ///
    /// # Errors
    /// `ENOSPC` if it would lie too deep.
    pub fn new(parent: &Arc<PidNs>, owner: &Arc<UserNs>, counts: Ticket) -> Result<Arc<PidNs>> {
        if parent.level >= LEVELS_MAX {
            return Err(Errno::ENOSPC);
        }
        NESTED.store(true, Relaxed);
        Ok(Arc::new(PidNs::make(fs::next_ino(), owner.clone(), Some(parent.clone()), Some(counts))))
    }

    fn make(id: u64, owner: Arc<UserNs>, parent: Option<Arc<PidNs>>, counts: Option<Ticket>) -> PidNs {
        let level = parent.as_ref().map_or(0, |parent| parent.level + 1);
        let numbers = SpinLock::new(Rank::Leaf, Numbers::default());
        PidNs { id, owner, parent, level, numbers, _counts: counts }
    }

    /// The one around it.
    pub fn parent(&self) -> Option<&Arc<PidNs>> {
        self.parent.as_ref()
    }

    /// How many are around it.
    pub fn level(&self) -> usize {
        self.level
    }

    /// It and those around it, itself first.
    pub fn lineage(self: &Arc<PidNs>) -> impl Iterator<Item = &Arc<PidNs>> {
        core::iter::successors(Some(self), |ns| ns.parent.as_ref())
    }

    /// Whether it is `outer` or lies below it.
    pub fn is_within(self: &Arc<PidNs>, outer: &Arc<PidNs>) -> bool {
        self.lineage().any(|ns| Arc::ptr_eq(ns, outer))
    }

    /// The number of `id` here; 0 if it has none.
    pub fn number_of(&self, id: Pid) -> i32 {
        if self.level == 0 { id.0 } else { self.numbers.lock().by_id.get(&id.0).copied().unwrap_or(0) }
    }

    /// What has `number` here.
    pub fn find(&self, number: i32) -> Option<Pid> {
        if self.level == 0 { Some(Pid(number)) } else { self.numbers.lock().by_number.get(&number).copied() }
    }

    /// All that have numbers here: not for the first.
    pub fn members(&self) -> Vec<Pid> {
        self.numbers.lock().by_number.values().copied().collect()
    }

    /// The process that adopts orphans, once there was one.
    pub fn init(&self) -> Option<Pid> {
        if self.level == 0 { Some(task::ids::INIT) } else { self.numbers.lock().init }
    }

    /// Nobody comes in any more.
    pub fn close(&self) {
        self.numbers.lock().closed = true;
    }

    /// Whether its init has ended.
    pub fn is_closed(&self) -> bool {
        self.numbers.lock().closed
    }

    /// `id`, which has number 1 here, has been entered into the table.
    pub fn set_init(&self, id: Pid) {
        self.numbers.lock().init = Some(id);
    }

    /// The last number given out.
    pub fn last(&self) -> i32 {
        self.numbers.lock().last
    }

    /// Numbers go on behind this one.
    pub(in crate::task) fn set_last(&self, last: i32) {
        self.numbers.lock().last = last;
    }

    /// Gives `id` a number: `wanted` if that is not 0, else the next free one. `is_free`: whether an id is in use no more.
    ///
    /// # Errors
    /// `ENOMEM` once it is closed, `EINVAL` for a number that cannot be, `EEXIST` for one in use, `EAGAIN` if all are.
    pub(in crate::task) fn enter(&self, id: Pid, wanted: i32, is_free: impl Fn(i32) -> bool) -> Result<()> {
        let mut numbers = self.numbers.lock();
        if numbers.closed {
            return Err(Errno::ENOMEM);
        }
        let free = |numbers: &Numbers, number: i32| numbers.by_number.get(&number).is_none_or(|other| is_free(other.0));
        let number = if wanted == 0 {
            let number = next(numbers.last, |number| free(&numbers, number)).ok_or(Errno::EAGAIN)?;
            numbers.last = number;
            number
        } else {
            if wanted != 1 && numbers.init.is_none() {
                return Err(Errno::EINVAL);
            }
            if !free(&numbers, wanted) {
                return Err(Errno::EEXIST);
            }
            wanted
        };
        if let Some(stale) = numbers.by_number.insert(number, id) {
            numbers.by_id.remove(&stale.0);
        }
        numbers.by_id.insert(id.0, number);
        Ok(())
    }

    /// `id` is in use no more.
    pub(in crate::task) fn leave(&self, id: Pid) {
        let mut numbers = self.numbers.lock();
        if let Some(number) = numbers.by_id.remove(&id.0) {
            numbers.by_number.remove(&number);
        }
        if numbers.by_number.is_empty() && numbers.init.is_none() {
            // What was to be its init could not be made: the next one will be.
            numbers.last = 0;
        }
    }
}

/// The next number after `last` that is free.
pub fn next(last: i32, is_free: impl Fn(i32) -> bool) -> Option<i32> {
    let mut number = last;
    for _ in 0..PID_MAX {
        number = if number + 1 >= PID_MAX { RESERVED } else { number + 1 };
        if is_free(number) {
            return Some(number);
        }
    }
    None
}

/// The id of what has `number` for the running task; a negative number below -1 stands for a group. 0 and -1 stay.
pub fn of_caller(number: i32) -> Pid {
    if !NESTED.load(Relaxed) || matches!(number, 0 | -1 | i32::MIN) {
        return Pid(number);
    }
    let found = task::current().process().pid_ns().find(number.abs()).unwrap_or(NOBODY);
    Pid(found.0 * number.signum())
}

/// The number that `id` has for the running task, 0 if none; what is not an id stays.
pub fn caller_sees(id: Pid) -> i32 {
    if !NESTED.load(Relaxed) || id.0 <= 0 { id.0 } else { task::current().process().sees(id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::ns::count::Counted;

    fn make_below(ns: &Arc<PidNs>) -> Result<Arc<PidNs>> {
        // There is no RAM that would say how many there may be.
        let (owner, kind) = (UserNs::first(), Counted::Pid);
        owner.counts.set_limit(kind, 1000)?;
        PidNs::new(ns, &owner, Ticket::take(&owner, 0, kind)?)
    }

    fn below() -> Arc<PidNs> {
        make_below(&PidNs::first()).unwrap()
    }

    #[test]
    fn numbers_start_at_one_and_stale_ones_are_taken_over() {
        let ns = below();
        assert_eq!(ns.enter(Pid(70), 5, |_| false), Err(Errno::EINVAL));
        assert_eq!(ns.enter(Pid(70), 0, |_| false), Ok(()));
        assert_eq!((ns.number_of(Pid(70)), ns.number_of(Pid(71)), ns.find(1)), (1, 0, Some(Pid(70))));
        ns.set_init(Pid(70));
        assert_eq!(ns.enter(Pid(71), 1, |_| false), Err(Errno::EEXIST));
        assert_eq!(ns.enter(Pid(71), 5, |_| false), Ok(()));
        assert_eq!(ns.enter(Pid(72), 5, |id| id == 71), Ok(()));
        assert_eq!((ns.number_of(Pid(71)), ns.number_of(Pid(72))), (0, 5));
        ns.close();
        assert_eq!(ns.enter(Pid(73), 0, |_| false), Err(Errno::ENOMEM));
    }

    #[test]
    fn a_first_process_that_was_not_made_leaves_number_one() {
        let ns = below();
        ns.enter(Pid(70), 0, |_| false).unwrap();
        ns.leave(Pid(70));
        ns.enter(Pid(71), 0, |_| false).unwrap();
        assert_eq!(ns.number_of(Pid(71)), 1);
    }

    #[test]
    fn nesting_has_an_end() {
        let mut ns = PidNs::first();
        for _ in 0..LEVELS_MAX {
            ns = make_below(&ns).unwrap();
        }
        assert!(make_below(&ns).is_err());
        assert!(ns.is_within(&PidNs::first()) && !PidNs::first().is_within(&ns));
    }
}
