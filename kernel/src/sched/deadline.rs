//! Who is admitted to SCHED_DEADLINE: no more than the processors can hold. Source: sched(7).
//!
//! The sum of the admitted bandwidths is at most `sched_rt_runtime_us` of each `sched_rt_period_us`, times the virtual CPUs that
//! are online. How jobs are served: [`umbel_smp::runqueue`]. Used by sched_setattr(2), clone and exit, hot-plugging and
//! `/proc/sys/kernel`. Lock: `Rank::Leaf`.

use super::entity::Entity;
use super::online;
use crate::setting::Setting;
use crate::signal::{self, SIGXCPU, SigInfo};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::runqueue::{Budget, Class};

/// Longest period, µs.
const PERIOD_MOST_US: u64 = u32::MAX as u64;

/// `sched_deadline_period_max_us` and `sched_deadline_period_min_us`.
pub static PERIOD_MAX_US: Setting = Setting::new(4_194_304, 100, PERIOD_MOST_US);
pub static PERIOD_MIN_US: Setting = Setting::new(100, 1, 4_194_304);

/// Least run time, ns.
const LEAST_NS: u64 = 1 << 10;

/// What was promised, and what may be.
struct Bandwidth {
    admitted: u64,
    /// `sched_rt_period_us`.
    period_us: i64,
    /// `sched_rt_runtime_us`, -1: everybody is admitted.
    runtime_us: i64,
}

static BANDWIDTH: SpinLock<Bandwidth> =
    SpinLock::new(Rank::Leaf, Bandwidth { admitted: 0, period_us: 1_000_000, runtime_us: 950_000 });

impl Bandwidth {
    /// Whether `sum` is no more than `cpus` processors can hold.
    fn holds(&self, sum: u64, cpus: u64) -> bool {
        if self.runtime_us < 0 {
            return true;
        }
        let each = self.runtime_us as u64 * Budget::WHOLE / self.period_us as u64;
        sum <= each * cpus
    }
}

fn cpus() -> u64 {
    online().count() as u64
}

/// The budget of `struct sched_attr`: run time, deadline and period, ns; no period: the deadline.
///
/// # Errors
/// `EINVAL`.
pub fn budget([runtime_ns, deadline_ns, period_ns]: [u64; 3]) -> Result<Budget> {
    let period_ns = if period_ns == 0 { deadline_ns } else { period_ns };
    let periods = PERIOD_MIN_US.get() * 1000..=PERIOD_MAX_US.get() * 1000;
    let sound =
        (LEAST_NS..=deadline_ns).contains(&runtime_ns) && deadline_ns <= period_ns && periods.contains(&period_ns);
    if sound { Ok(Budget { runtime_ns, deadline_ns, period_ns }) } else { Err(Errno::EINVAL) }
}

/// Whether everybody is admitted, wherever he may run.
pub fn is_unlimited() -> bool {
    BANDWIDTH.lock().runtime_us < 0
}

/// Admits `task` with `budget` instead of what it has, and makes it run so.
///
/// # Errors
/// `EBUSY`.
pub fn admit(task: &Entity, budget: Budget, flags: u64) -> Result<()> {
    let (cpus, new) = (cpus(), budget.bandwidth());
    let old = task.admitted();
    {
        let mut bandwidth = BANDWIDTH.lock();
        let sum = bandwidth.admitted - old + new;
        if new > old && !bandwidth.holds(sum, cpus) {
            return Err(Errno::EBUSY);
        }
        bandwidth.admitted = sum;
    }
    task.set_deadline(budget, flags, new);
    Ok(())
}

/// `task` is SCHED_DEADLINE no more, or ends.
pub fn leave(task: &Entity) {
    let old = task.give_back();
    if old != 0 {
        BANDWIDTH.lock().admitted -= old;
    }
}

/// Whether there is room for what was promised on one virtual CPU less.
pub fn fits_without_one() -> bool {
    let cpus = cpus().saturating_sub(1);
    let bandwidth = BANDWIDTH.lock();
    bandwidth.holds(bandwidth.admitted, cpus)
}

/// `SCHED_FLAG_DL_OVERRUN`.
pub const FLAG_OVERRUN: u64 = 4;

/// The running `task` used up what it had for this period.
pub(super) fn tell_of_overrun(task: &Arc<Task>) {
    if task.sched.deadline_flags() & FLAG_OVERRUN != 0 {
        signal::send_to_process(task.process(), SigInfo::kernel(SIGXCPU));
    }
}

/// Whether a child cannot be as `class`, and `resets` to nothing else.
pub fn forbids_fork(class: Class, resets: bool) -> bool {
    matches!(class, Class::Deadline(_)) && !resets
}

/// `sched_rt_period_us` and `sched_rt_runtime_us`.
pub fn limits() -> (i64, i64) {
    let bandwidth = BANDWIDTH.lock();
    (bandwidth.period_us, bandwidth.runtime_us)
}

/// Changes them.
///
/// # Errors
/// `EINVAL`: no period, or more run time than that. `EBUSY`: more was promised.
pub fn set_limits(period_us: i64, runtime_us: i64) -> Result<()> {
    let bounds = 1..=i64::from(i32::MAX);
    if !bounds.contains(&period_us) || !(-1..=period_us).contains(&runtime_us) {
        return Err(Errno::EINVAL);
    }
    let cpus = cpus();
    let mut bandwidth = BANDWIDTH.lock();
    let new = Bandwidth { admitted: bandwidth.admitted, period_us, runtime_us };
    if !new.holds(new.admitted, cpus) {
        return Err(Errno::EBUSY);
    }
    *bandwidth = new;
    let share = (runtime_us >= 0).then(|| (runtime_us as u64 * 1000, period_us as u64 * 1000));
    umbel_smp::runqueue::set_real_time_share(share);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_sound_or_refused() {
        let whole = Budget { runtime_ns: 1024, deadline_ns: 100_000, period_ns: 100_000 };
        assert_eq!(budget([1024, 100_000, 0]), Ok(whole));
        for bad in [[1023, 100_000, 0], [1024, 99_999, 0], [1024, 200_000, 100_000], [2, 1, 1], [1024, 1 << 63, 0]] {
            assert_eq!(budget(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(Budget { runtime_ns: 30, deadline_ns: 40, period_ns: 120 }.bandwidth(), Budget::WHOLE / 4);
    }

    #[test]
    fn processors_hold_what_the_limits_say() {
        let limit = |runtime_us| Bandwidth { admitted: 0, period_us: 100, runtime_us };
        let part = |percent: u64| Budget::WHOLE * percent / 100;
        assert!(limit(95).holds(part(95), 1) && !limit(95).holds(part(96), 1) && limit(95).holds(part(190), 2));
        assert!(limit(-1).holds(part(900), 1) && !limit(0).holds(1, 1));
    }
}
