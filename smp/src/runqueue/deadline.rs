//! SCHED_DEADLINE: so much run time within so much time, again and again. Source: sched(7), sched_setattr(2).
//!
//! Jobs run in the order of their deadlines, before all other classes. Each has a server of constant bandwidth (Abeni and
//! Buttazzo, "Integrating Multimedia Applications in Hard Real-Time Systems"): who has used its run time up, or yields, rests until
//! its next period; who wakes goes on with what it has left only if that is no more than its share of the time to its deadline.
//!
//! Who has what one of them waits for runs with the waiter's budget, *lent*: then a period that is used up is followed by the next
//! at once, with a later deadline.
//!
//! Used by the run queue, which keeps those that rest apart.

/// What a thread asks for. Run time ≤ deadline ≤ period, none is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    pub runtime_ns: u64,
    pub deadline_ns: u64,
    pub period_ns: u64,
}

impl Budget {
    /// What part of a processor that is, of [`Self::WHOLE`].
    pub fn bandwidth(&self) -> u64 {
        part(self.runtime_ns, Self::WHOLE, self.period_ns)
    }

    /// The bandwidth of a whole processor.
    pub const WHOLE: u64 = 1 << 20;
}

/// `a * b / c`.
fn part(a: u64, b: u64, c: u64) -> u64 {
    (u128::from(a) * u128::from(b) / u128::from(c.max(1))) as u64
}

/// What the running period has left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Job {
    budget: Budget,
    left_ns: i64,
    /// Its deadline.
    until_ns: u64,
    lent: bool,
}

impl Job {
    /// A period that begins now.
    pub fn begin(budget: Budget, now_ns: u64, lent: bool) -> Job {
        Job { budget, left_ns: budget.runtime_ns as i64, until_ns: now_ns + budget.deadline_ns, lent }
    }

    pub fn is_lent(&self) -> bool {
        self.lent
    }

    /// Where it stands among the real-time priorities, negated: before all of them, by deadline.
    pub fn rank(&self) -> i64 {
        self.until_ns as i64 - (1 << 62)
    }

    /// Accounts run time; returns whether it must rest.
    pub fn charge(&mut self, ran_ns: u64) -> bool {
        self.left_ns = self.left_ns.saturating_sub(ran_ns as i64);
        self.go_on_if_lent();
        self.is_spent()
    }

    fn go_on_if_lent(&mut self) {
        if self.lent && self.is_spent() {
            self.replenish(0);
        }
    }

    /// Whether it must rest until its next period.
    pub fn is_spent(&self) -> bool {
        self.left_ns <= 0
    }

    pub fn left_ns(&self) -> u64 {
        self.left_ns.max(0) as u64
    }

    /// It is done before its time is.
    pub fn end(&mut self) {
        self.left_ns = self.left_ns.min(0);
        self.go_on_if_lent();
    }

    /// When the next period begins.
    pub fn next_ns(&self) -> u64 {
        self.until_ns - self.budget.deadline_ns + self.budget.period_ns
    }

    /// The next period begins, which pays for what was used too much.
    pub fn replenish(&mut self, now_ns: u64) {
        let runtime = self.budget.runtime_ns.max(1);
        let periods = self.left_ns.min(0).unsigned_abs() / runtime + 1;
        self.left_ns += (periods * runtime) as i64;
        self.until_ns += periods * self.budget.period_ns;
        if self.until_ns < now_ns {
            *self = Job::begin(self.budget, now_ns, self.lent);
        }
    }

    /// It wakes.
    pub fn wake(&mut self, now_ns: u64) {
        let Budget { runtime_ns, deadline_ns, period_ns } = self.budget;
        if now_ns >= self.next_ns() {
            *self = Job::begin(self.budget, now_ns, self.lent);
        } else if self.is_spent() {
            // It rests on.
        } else if now_ns >= self.until_ns {
            // Between its deadline and the next period it may not run.
            self.end();
        } else {
            let share_ns = part(runtime_ns, self.until_ns - now_ns, deadline_ns);
            if self.left_ns() > share_ns && deadline_ns < period_ns {
                self.left_ns = share_ns as i64;
            } else if self.left_ns() > share_ns {
                *self = Job::begin(self.budget, now_ns, self.lent);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PLAIN: Budget = Budget { runtime_ns: 10, deadline_ns: 100, period_ns: 100 };
    const EARLY: Budget = Budget { runtime_ns: 10, deadline_ns: 40, period_ns: 100 };

    #[test]
    fn a_spent_job_rests_until_its_period_is_over_and_pays_back() {
        let mut job = Job::begin(PLAIN, 1000, false);
        assert!(!job.charge(9) && job.charge(16));
        assert_eq!(job.next_ns(), 1100);
        // 15 too much are one period and a half.
        job.replenish(1100);
        assert_eq!((job.left_ns(), job.until_ns), (5, 1300));
        job.end();
        assert!(job.is_spent() && job.next_ns() == 1300);
        job.replenish(5000);
        assert_eq!((job.left_ns(), job.until_ns), (10, 5100));
    }

    #[test]
    fn who_wakes_late_does_not_run_more_than_its_share() {
        let mut job = Job::begin(PLAIN, 1000, false);
        assert!(!job.charge(5));
        // 5 of 60 are less than 10 of 100: it goes on.
        job.wake(1040);
        assert_eq!((job.left_ns(), job.until_ns), (5, 1100));
        job.wake(1060);
        assert_eq!((job.left_ns(), job.until_ns), (10, 1160));
        assert!(job.charge(10));
        job.wake(1159);
        assert!(job.is_spent());
        job.wake(1160);
        assert_eq!((job.left_ns(), job.until_ns), (10, 1260));
    }

    #[test]
    fn between_an_early_deadline_and_the_next_period_nothing_runs() {
        let mut job = Job::begin(EARLY, 1000, false);
        assert!(!job.charge(2));
        job.wake(1020);
        assert_eq!((job.left_ns(), job.until_ns), (5, 1040));
        job.wake(1050);
        assert!(job.is_spent() && job.next_ns() == 1100);
        job.replenish(1100);
        assert_eq!((job.left_ns(), job.until_ns), (10, 1140));
    }

    #[test]
    fn a_lent_job_goes_on_with_a_later_deadline_instead_of_resting() {
        let mut job = Job::begin(PLAIN, 1000, true);
        assert!(!job.charge(9) && !job.charge(16));
        assert_eq!((job.left_ns(), job.until_ns), (5, 1300));
        job.end();
        assert_eq!((job.is_spent(), job.left_ns(), job.until_ns), (false, 10, 1400));
    }
}
