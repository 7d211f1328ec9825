//! Time namespaces: CLOCK_MONOTONIC and CLOCK_BOOTTIME with offsets. Source: time_namespaces(7).
//!
//! Inside the kernel all times are those of the first namespace. A thread carries the offsets of its namespace
//! ([`crate::task::Task::time_offset_ns`]); [`crate::time::ClockId`] adds them where a call shows a clock and takes them off
//! where one is given an absolute time, the slot page has them for the vDSO. Offsets change until somebody is in the
//! namespace: unshare(2) makes one for the caller's children and for what it executes.
//!
//! Lock: a namespace's state (rank `Leaf`).

use super::count::Ticket;
use super::{UserNs, first};
use crate::task::{Task, cap};
use crate::time::{SEC_NS, monotonic_ns};
use crate::{Errno, Result, fs};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use umbel_smp::lock::{Once, Rank, SpinLock};

/// Which clock an offset is for, and how files call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    Monotonic = 0,
    Boottime = 1,
}

const CLOCKS: [(&str, &str, Offset); 2] = [("monotonic", "1", Offset::Monotonic), ("boottime", "7", Offset::Boottime)];

/// Offsets in ns, by [`Offset`].
pub type Offsets = [i64; 2];

#[derive(Debug, Default)]
struct State {
    offsets: Offsets,
    /// Somebody is in it.
    frozen: bool,
}

/// See the module.
#[derive(Debug)]
pub struct TimeNs {
    pub id: u64,
    pub owner: Arc<UserNs>,
    state: SpinLock<State>,
    _counts: Option<Ticket>,
}

impl TimeNs {
    /// The one that the machine boots with.
    pub fn first() -> Arc<TimeNs> {
        static FIRST: Once<Arc<TimeNs>> = Once::new();
        FIRST
            .call_once(|| TimeNs::with(first::TIME, UserNs::first(), State { frozen: true, ..State::default() }, None))
            .clone()
    }

    /// A namespace with this one's offsets.
    pub fn copy(&self, owner: &Arc<UserNs>, counts: Ticket) -> Arc<TimeNs> {
        let state = State { offsets: self.offsets(), frozen: false };
        TimeNs::with(fs::next_ino(), owner.clone(), state, Some(counts))
    }

    fn with(id: u64, owner: Arc<UserNs>, state: State, counts: Option<Ticket>) -> Arc<TimeNs> {
        Arc::new(TimeNs { id, owner, state: SpinLock::new(Rank::Leaf, state), _counts: counts })
    }

    /// Its offsets.
    pub fn offsets(&self) -> Offsets {
        self.state.lock().offsets
    }

    /// Somebody goes in: the offsets stay as they are.
    pub fn enter(&self) {
        self.state.lock().frozen = true;
    }

    /// `/proc/PID/timens_offsets`.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, _, clock) in CLOCKS {
            let ns = self.offsets()[clock as usize];
            let (sec, ns) = (ns.div_euclid(SEC_NS as i64), ns.rem_euclid(SEC_NS as i64));
            out += &format!("{name:<10} {sec:>10} {ns:>9}\n");
        }
        out
    }

    /// Changes offsets as `text` says.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_TIME`, `EACCES` once somebody is in it, `EINVAL`, `ERANGE`.
    pub fn set(&self, task: &Task, text: &[u8]) -> Result<()> {
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let mut new = [None; 2];
        for line in text.lines() {
            let (clock, ns) = parse(line).ok_or(Errno::EINVAL)?;
            new[clock as usize] = Some(ns);
        }
        if !task.cred().capable_in(&self.owner, cap::SYS_TIME) {
            return Err(Errno::EPERM);
        }
        let now = [monotonic_ns(), monotonic_ns() + crate::time::clock::boot_offset_ns()];
        if new.iter().zip(now).any(|(new, now)| new.is_some_and(|ns| !in_range(i128::from(now) + ns))) {
            return Err(Errno::ERANGE);
        }
        let mut state = self.state.lock();
        if state.frozen {
            return Err(Errno::EACCES);
        }
        for (offset, new) in state.offsets.iter_mut().zip(new) {
            *offset = new.map_or(*offset, |ns| ns as i64);
        }
        Ok(())
    }
}

/// Whether a clock may show this: not before its begin, nor so late that deadlines overflow (`KTIME_SEC_MAX / 2`).
fn in_range(ns: i128) -> bool {
    (0..=i128::from(i64::MAX / 2)).contains(&ns)
}

/// A line `CLOCK SECONDS NANOSECONDS`.
fn parse(line: &str) -> Option<(Offset, i128)> {
    let mut words = line.split_ascii_whitespace();
    let clock = words.next()?;
    let (.., clock) = CLOCKS.into_iter().find(|(name, number, _)| *name == clock || *number == clock)?;
    let sec: i64 = words.next()?.parse().ok()?;
    let ns: u32 = words.next()?.parse().ok()?;
    let complete = words.next().is_none() && u64::from(ns) < SEC_NS;
    complete.then_some((clock, i128::from(sec) * i128::from(SEC_NS) + i128::from(ns)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_a_clock_and_an_offset() {
        assert_eq!(parse("monotonic 5 7"), Some((Offset::Monotonic, 5_000_000_007)));
        assert_eq!(parse("7 -1 500000000"), Some((Offset::Boottime, -500_000_000)));
        for bad in
            ["realtime 1 1", "0 1 1", "monotonic 1", "monotonic 1 1000000000", "monotonic 1 -1", "boottime 1 1 1"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn offsets_print_with_nanoseconds_that_are_not_negative() {
        let ns =
            TimeNs::with(0, UserNs::first(), State { offsets: [-500_000_000, 2_000_000_003], frozen: false }, None);
        assert_eq!(ns.text(), "monotonic          -1 500000000\nboottime            2         3\n");
        assert!(in_range(0) && !in_range(-1) && !in_range(i128::from(i64::MAX)));
    }
}
