//! A timer that may repeat: what itimers, POSIX timers and timerfds have in common.
//!
//! The owner is called back ([`Expire`]) and then asks [`Interval::due`]; a stale callback (set anew or disarmed meanwhile) is
//! not. A timer that repeats stops there, until what it tells has been taken: [`Interval::go_on`]. However short its period, it
//! does not run ahead of who takes its signals or counts.
//! Lock: `state` (rank `Endpoint`), then a timer queue's.

use super::timer::{self, Expire, Target, Timer};
use crate::Result;
use alloc::sync::{Arc, Weak};
use umbel_smp::lock::{Rank, SpinLock};

/// What is left until the first expiration and the time between expirations, ns; 0 = disarmed, once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    pub value_ns: u64,
    pub interval_ns: u64,
}

/// See the module.
pub struct Interval {
    owner: Weak<dyn Expire>,
    state: SpinLock<State>,
}

#[derive(Default)]
struct State {
    /// CLOCK_MONOTONIC of the next expiration.
    deadline_ns: Option<u64>,
    interval_ns: u64,
    armed: Option<Timer>,
}

impl Interval {
    /// A disarmed timer that calls `owner`.
    pub fn new(owner: Weak<dyn Expire>) -> Interval {
        Interval { owner, state: SpinLock::new(Rank::Endpoint, State::default()) }
    }

    /// Sets the timer: first expiration at CLOCK_MONOTONIC `deadline_ns`, `None` disarms. Returns the old setting.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set(&self, deadline_ns: Option<u64>, interval_ns: u64) -> Result<Setting> {
        let mut state = self.state.lock();
        let old = state.setting(super::monotonic_ns());
        if let Some(timer) = state.armed.take() {
            timer.cancel();
        }
        state.interval_ns = interval_ns;
        self.arm(&mut state, deadline_ns)?;
        Ok(old)
    }

    /// The setting now.
    pub fn get(&self) -> Setting {
        self.state.lock().setting(super::monotonic_ns())
    }

    /// Sets the timer as [`Self::set`] does, for nobody to be called back.
    pub fn note(&self, deadline_ns: Option<u64>, interval_ns: u64) -> Result<Setting> {
        let old = self.set(None, interval_ns)?;
        self.state.lock().deadline_ns = deadline_ns;
        Ok(old)
    }

    /// Whether the timer has expired by `now_ns`. One that repeats does not run until [`Self::go_on`].
    pub fn due(&self, now_ns: u64) -> bool {
        let mut state = self.state.lock();
        let due = state.armed.is_some() && state.deadline_ns.is_some_and(|deadline| deadline <= now_ns);
        if due {
            state.armed = None;
            if state.interval_ns == 0 {
                state.deadline_ns = None;
            }
        }
        due
    }

    /// Arms a timer that [`Self::due`] stopped for its next expiration after `now_ns`, but not before `earliest_ns`;
    /// returns how many were missed since.
    pub fn go_on(&self, now_ns: u64, earliest_ns: u64) -> u64 {
        let mut state = self.state.lock();
        let stopped = state.armed.is_none() && state.interval_ns > 0;
        let Some(deadline_ns) = state.deadline_ns.filter(|deadline| stopped && *deadline <= now_ns) else { return 0 };
        let (count, next) = expirations(deadline_ns, state.interval_ns, now_ns.max(earliest_ns));
        // Without memory the timer stops: nothing else can be done here.
        let _ = self.arm(&mut state, next);
        count - 1
    }

    fn arm(&self, state: &mut State, deadline_ns: Option<u64>) -> Result<()> {
        state.deadline_ns = deadline_ns;
        if let Some(deadline_ns) = deadline_ns {
            state.armed = Some(timer::arm(deadline_ns, Target::Owner(self.owner.clone()))?);
        }
        Ok(())
    }
}

impl Drop for Interval {
    fn drop(&mut self) {
        if let Some(timer) = self.state.get_mut().armed.take() {
            timer.cancel();
        }
    }
}

impl State {
    fn setting(&self, now_ns: u64) -> Setting {
        let left_ns = |deadline: u64| match deadline.checked_sub(now_ns) {
            Some(left_ns) => left_ns,
            None => self.interval_ns - (now_ns - deadline).checked_rem(self.interval_ns).unwrap_or(0),
        };
        // One that is due and not handled yet is still armed: at least 1 ns.
        let least_ns = u64::from(self.armed.is_some());
        let value_ns = self.deadline_ns.map_or(0, |deadline| left_ns(deadline).max(least_ns));
        Setting { value_ns, interval_ns: self.interval_ns }
    }
}

/// Expirations of a timer due at `deadline_ns` by `now_ns`, and when it expires next.
fn expirations(deadline_ns: u64, interval_ns: u64, now_ns: u64) -> (u64, Option<u64>) {
    if interval_ns == 0 {
        return (1, None);
    }
    let more = (now_ns - deadline_ns) / interval_ns;
    (more + 1, Some(deadline_ns.saturating_add((more + 1).saturating_mul(interval_ns))))
}

/// Something that owns an [`Interval`], made with a reference to itself.
pub fn cyclic<T: Expire + 'static>(make: impl FnOnce(Interval) -> T) -> Arc<T> {
    Arc::new_cyclic(|weak: &Weak<T>| {
        let owner: Weak<dyn Expire> = weak.clone();
        make(Interval::new(owner))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Owner(Interval);
    impl Expire for Owner {
        fn expired(&self, _: u64) {}
    }

    #[test]
    fn missed_periods_are_counted_and_the_phase_is_kept() {
        assert_eq!(expirations(100, 0, 500), (1, None));
        assert_eq!(expirations(100, 10, 100), (1, Some(110)));
        assert_eq!(expirations(100, 10, 139), (4, Some(140)));
    }

    #[test]
    fn setting_gives_back_what_was_left() {
        let owner = cyclic(Owner);
        let far = super::super::monotonic_ns() + 3_600_000_000_000;
        assert_eq!(owner.0.set(Some(far), 7), Ok(Setting::default()));
        let old = owner.0.set(None, 0).unwrap();
        assert_eq!(old.interval_ns, 7);
        assert!(old.value_ns > 3_500_000_000_000);
        assert!(!owner.0.due(u64::MAX), "disarmed");
    }

    #[test]
    fn a_timer_that_waits_for_its_signal_counts_what_it_missed() {
        let owner = cyclic(Owner);
        let now_ns = super::super::monotonic_ns();
        owner.0.set(Some(now_ns), 10).unwrap();
        assert!(owner.0.due(now_ns + 5));
        assert!(!owner.0.due(now_ns + 25), "stopped until its signal is taken");
        assert_eq!(owner.0.state.lock().setting(now_ns + 25), Setting { value_ns: 5, interval_ns: 10 });
        assert_eq!(owner.0.go_on(now_ns + 25, 0), 2);
        assert_eq!(owner.0.go_on(now_ns + 25, 0), 0, "armed again");
        assert!(owner.0.due(now_ns + 30));
    }

    #[test]
    fn an_armed_timer_goes_with_its_owner() {
        let owner = cyclic(Owner);
        let far = super::super::monotonic_ns() + 3_600_000_000_000;
        assert_eq!(owner.0.set(Some(far), 7), Ok(Setting::default()));
        let weak = Arc::downgrade(&owner);
        drop(owner);
        assert!(weak.upgrade().is_none(), "kept alive by its own timer");
    }

    #[test]
    fn a_stale_callback_is_not_due() {
        let owner = cyclic(Owner);
        let now_ns = super::super::monotonic_ns();
        owner.0.set(Some(now_ns + 3_600_000_000_000), 0).unwrap();
        assert!(!owner.0.due(now_ns));
        assert!(owner.0.due(now_ns + 3_600_000_000_000));
        assert!(!owner.0.due(u64::MAX));
        assert_eq!(owner.0.go_on(u64::MAX, 0), 0, "it does not repeat");
    }
}
