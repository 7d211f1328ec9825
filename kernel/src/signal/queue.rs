//! Pending signals of a thread or a process.
//!
//! Standard signals are kept once each; real-time signals queue in order, as many as `RLIMIT_SIGPENDING` allows. When
//! memory or the limit is short a standard signal is still kept, without its reason, as Linux does.
//!
//! Reasons stand in a list for each number, and which timers are pending in a sorted one: however many are queued, adding one
//! and taking one look at few.

use super::info::{SigInfo, code};
use super::number::*;
use crate::task::{Charge, Count, User};
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It is pending now.
    New,
    /// It was pending already and is not pending twice.
    Already,
    /// Nobody takes it.
    Ignored,
}

/// A reason, and what it is charged to.
#[derive(Debug)]
struct Entry {
    info: SigInfo,
    /// How many reasons came before it.
    order: u64,
    _charge: Option<Charge>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Pending {
    set: SigSet,
    /// Reasons in the order of arrival, by number; no list is empty.
    lists: Vec<(Signo, VecDeque<Entry>)>,
    /// Timers with a reason in the lists, in order.
    timers: Vec<(Signo, i32)>,
    /// Reasons that came so far.
    arrived: u64,
}

impl Pending {
    /// Nothing pending.
    pub const fn new() -> Pending {
        Pending { set: 0, lists: Vec::new(), timers: Vec::new(), arrived: 0 }
    }

    /// The signals that are pending.
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// Adds a signal, charged to `user` up to `limit` (`RLIMIT_SIGPENDING`).
    ///
    /// # Errors
    /// `EAGAIN` for a timer's signal, or a real-time signal that sigqueue(3) sends, that finds no room.
    pub fn push(&mut self, info: SigInfo, user: &Arc<User>, limit: u64) -> Result<Queued> {
        let signo = info.signo();
        let pending = self.set & bit(signo) != 0;
        let timer = info.timer_id();
        // Each timer has its own place: another one's signal of the same number does not stand in its way.
        let again = match timer {
            Some(id) => self.timers.binary_search(&(signo, id)).is_ok(),
            None => signo < SIGRTMIN,
        };
        if pending && again {
            return Ok(Queued::Already);
        }
        // kill(2) and the kernel may always tell why they send a standard signal; timers are few.
        let exempt = timer.is_some() || (signo < SIGRTMIN && info.code() >= 0);
        let charge = user.charge(Count::Signals, 1, if exempt { u64::MAX } else { limit });
        let kept = charge.is_some() && self.append(Entry { info, order: self.arrived, _charge: charge }).is_ok();
        let told = timer.is_some() || (signo >= SIGRTMIN && !matches!(info.code(), code::SI_USER | code::SI_KERNEL));
        if !kept && told {
            return Err(Errno::EAGAIN);
        }
        self.set |= bit(signo);
        Ok(Queued::New)
    }

    /// Takes the signal to be delivered next that is not in `blocked`.
    pub fn take(&mut self, blocked: SigSet) -> Option<SigInfo> {
        let ready = self.set & !blocked;
        let first = if ready & SYNCHRONOUS != 0 { ready & SYNCHRONOUS } else { ready };
        if first == 0 {
            return None;
        }
        let signo = first.trailing_zeros() + 1;
        let info = self.remove_first(signo);
        if self.list(signo).is_err() {
            self.set &= !bit(signo);
        }
        Some(info.unwrap_or_else(|| SigInfo::kill(signo, 0, 0)))
    }

    /// The reason that came as number `index`, counted from 0, of those that are kept.
    pub fn peek(&self, index: usize) -> Option<SigInfo> {
        // Each list is in the order of arrival: how many came before any moment is soon counted.
        let before = |moment: u64| -> usize {
            self.lists.iter().map(|(_, list)| list.partition_point(|entry| entry.order < moment)).sum()
        };
        if index >= before(self.arrived) {
            return None;
        }
        let (mut low, mut high) = (0, self.arrived);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if before(middle) <= index { low = middle } else { high = middle }
        }
        let at = |list: &VecDeque<Entry>| list.binary_search_by_key(&low, |entry| entry.order).ok();
        self.lists.iter().find_map(|(_, list)| list.get(at(list)?)).map(|entry| entry.info)
    }

    /// Forgets all signals in `set`.
    pub fn discard(&mut self, set: SigSet) {
        if self.set & set != 0 {
            self.set &= !set;
            self.lists.retain(|(signo, _)| bit(*signo) & set == 0);
            self.timers.retain(|(signo, _)| bit(*signo) & set == 0);
        }
    }

    /// Where the list of `signo` is, or would be.
    fn list(&self, signo: Signo) -> core::result::Result<usize, usize> {
        self.lists.binary_search_by_key(&signo, |(signo, _)| *signo)
    }

    /// Adds a reason; `ENOMEM` if there is no memory for it.
    fn append(&mut self, entry: Entry) -> Result<()> {
        let (signo, timer) = (entry.info.signo(), entry.info.timer_id());
        self.timers.try_reserve(1).and_then(|()| self.lists.try_reserve(1)).map_err(|_| Errno::ENOMEM)?;
        match self.list(signo) {
            Ok(at) => {
                let (_, list) = self.lists.get_mut(at).ok_or(Errno::ENOMEM)?;
                list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                list.push_back(entry);
            }
            Err(at) => {
                let mut list = VecDeque::new();
                list.try_reserve_exact(1).map_err(|_| Errno::ENOMEM)?;
                list.push_back(entry);
                self.lists.insert(at, (signo, list));
            }
        }
        if let Some(id) = timer
            && let Err(at) = self.timers.binary_search(&(signo, id))
        {
            self.timers.insert(at, (signo, id));
        }
        self.arrived += 1;
        Ok(())
    }

    /// Takes the first reason of `signo`; its list goes with the last one.
    fn remove_first(&mut self, signo: Signo) -> Option<SigInfo> {
        let at = self.list(signo).ok()?;
        let (_, list) = self.lists.get_mut(at)?;
        let info = list.pop_front().map(|entry| entry.info);
        if list.is_empty() {
            self.lists.remove(at);
        }
        if let Some(id) = info.and_then(|info| info.timer_id())
            && let Ok(at) = self.timers.binary_search(&(signo, id))
        {
            self.timers.remove(at);
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(signo: Signo, pid: i32) -> SigInfo {
        SigInfo::kill(signo, pid, 0)
    }

    fn user() -> Arc<User> {
        User::of(4242)
    }

    fn pid(info: Option<SigInfo>) -> Option<(Signo, i32)> {
        info.map(|info| (info.signo(), info.0.fields[0] as i32))
    }

    #[test]
    fn standard_signals_collapse_and_keep_the_first_reason() {
        let mut pending = Pending::new();
        assert_eq!(pending.push(kill(SIGUSR1, 1), &user(), 10), Ok(Queued::New));
        assert_eq!(pending.push(kill(SIGUSR1, 2), &user(), 10), Ok(Queued::Already));
        assert_eq!(pid(pending.take(0)), Some((SIGUSR1, 1)));
        assert_eq!(pid(pending.take(0)), None);
        assert_eq!(pending.set(), 0);
    }

    #[test]
    fn real_time_signals_queue_in_order_lowest_number_first() {
        let mut pending = Pending::new();
        for (signo, pid) in [(36, 1), (35, 2), (36, 3), (35, 4)] {
            assert_eq!(pending.push(kill(signo, pid), &user(), 10), Ok(Queued::New));
        }
        let order: [_; 4] = core::array::from_fn(|_| pid(pending.take(0)).unwrap());
        assert_eq!(order, [(35, 2), (35, 4), (36, 1), (36, 3)]);
        assert!(pending.take(0).is_none());
    }

    #[test]
    fn reasons_are_shown_in_the_order_in_which_they_came() {
        let mut pending = Pending::new();
        // Nobody else counts signals of this one meanwhile.
        let user = User::of(4246);
        for (signo, id) in [(36, 1), (35, 2), (SIGUSR1, 3), (36, 4), (SIGUSR1, 5), (35, 6)] {
            pending.push(kill(signo, id), &user, 10).unwrap();
        }
        let shown =
            |pending: &Pending| -> Vec<i32> { (0..9).map_while(|i| pid(pending.peek(i))).map(|(_, id)| id).collect() };
        assert_eq!(shown(&pending), [1, 2, 3, 4, 6], "a standard signal that is pending is not pending twice");
        assert_eq!(pid(pending.take(bit(SIGUSR1))), Some((35, 2)));
        assert_eq!(shown(&pending), [1, 3, 4, 6]);
        pending.discard(bit(36));
        assert_eq!(shown(&pending), [3, 6]);
        assert!(Pending::new().peek(0).is_none());
    }

    #[test]
    fn faults_go_first_and_blocked_signals_stay() {
        let mut pending = Pending::new();
        pending.push(kill(SIGHUP, 1), &user(), 10).unwrap();
        pending.push(SigInfo::fault(SIGSEGV, code::SEGV_MAPERR, 0), &user(), 10).unwrap();
        assert_eq!(pid(pending.take(bit(SIGSEGV))), Some((SIGHUP, 1)));
        assert_eq!(pending.set(), bit(SIGSEGV));
        assert_eq!(pending.take(0).map(|info| info.signo()), Some(SIGSEGV));
    }

    #[test]
    fn the_limit_refuses_sigqueue_but_not_standard_signals() {
        let mut pending = Pending::new();
        // Nobody else counts signals of this one meanwhile.
        let user = User::of(4243);
        let queued = SigInfo::raw(40, code::SI_QUEUE, &[]);
        assert_eq!(pending.push(queued, &user, 1), Ok(Queued::New));
        assert_eq!(pending.push(queued, &user, 1), Err(Errno::EAGAIN));
        assert_eq!(pending.push(kill(SIGTERM, 9), &user, 1), Ok(Queued::New));
        assert_eq!(pid(pending.take(0)), Some((SIGTERM, 9)));
        let thread = SigInfo::tkill(SIGTERM, 9, 0);
        assert_eq!(pending.push(thread, &user, 1), Ok(Queued::New));
        assert_eq!(pid(pending.take(0)), Some((SIGTERM, 0)));
    }

    #[test]
    fn a_timer_is_pending_once() {
        let mut pending = Pending::new();
        assert_eq!(pending.push(SigInfo::timer(34, 1, 0), &user(), 9), Ok(Queued::New));
        assert_eq!(pending.push(SigInfo::timer(34, 2, 0), &user(), 9), Ok(Queued::New));
        assert_eq!(pending.push(SigInfo::timer(34, 1, 0), &user(), 9), Ok(Queued::Already));
        pending.discard(bit(34));
        assert!(pending.take(0).is_none());
    }

    #[test]
    fn a_forged_timer_signal_counts_as_any_other() {
        let mut pending = Pending::new();
        let user = User::of(4244);
        let mut bytes = SigInfo::timer(40, 3, 0).to_bytes();
        assert_eq!(pending.push(SigInfo::from_bytes(40, &bytes), &user, 1), Ok(Queued::New));
        bytes[16] = 4;
        assert_eq!(pending.push(SigInfo::from_bytes(40, &bytes), &user, 1), Err(Errno::EAGAIN));
        assert_eq!(pending.push(SigInfo::timer(40, 3, 0), &user, 1), Ok(Queued::New), "the timer's own is another one");
    }

    #[test]
    fn many_signals_stand_in_lists_by_number() {
        let mut pending = Pending::new();
        // Nobody else counts signals of this one meanwhile.
        let user = User::of(4245);
        for pid in 0..5000 {
            assert_eq!(pending.push(kill(34 + (pid % 3) as Signo, pid), &user, 9999), Ok(Queued::New));
            assert_eq!(pending.push(SigInfo::timer(50, pid, 0), &user, 0), Ok(Queued::New));
        }
        // What a look-up searches.
        assert_eq!((pending.lists.len(), pending.timers.len()), (4, 5000));
        for pid in (0..5000).step_by(3) {
            assert_eq!(super::tests::pid(pending.take(0)), Some((34, pid)));
        }
        assert_eq!(pending.lists.len(), 3);
        pending.discard(SigSet::MAX & !bit(35));
        assert_eq!((pending.lists.len(), pending.timers.len(), pending.set()), (1, 0, bit(35)));
        assert_eq!(super::tests::pid(pending.take(0)), Some((35, 1)));
    }
}
