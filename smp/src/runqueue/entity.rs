//! What a run queue knows of one thread.

use super::deadline::{Budget, Job};
use super::group::{self, Group, Parts};
use super::tree::{Key, Links};
use alloc::boxed::Box;
use alloc::sync::Arc;

/// Real time that a fair entity asks for at once, unless it is told otherwise.
pub const BASE_SLICE_NS: u64 = 3_000_000;
/// Least and most that it may be told to ask for, as on Linux.
pub const SLICES_NS: core::ops::RangeInclusive<u64> = 100_000..=100_000_000;
/// Slice of SCHED_RR, as `sched_rr_get_interval` tells.
pub const RR_SLICE_NS: u64 = 100_000_000;
/// Weight of SCHED_IDLE, where nice 0 is 1024.
const IDLE_WEIGHT: u64 = 3;
/// What an entity of nice 0 weighs: finer, so that a thousandth of it still is a number.
pub(super) const UNIT: u64 = 1024 << 10;
/// The least that anything weighs: virtual time must not run so fast that it overflows.
const LEAST_WEIGHT: u64 = 256;

/// Linux's `sched_prio_to_weight`: nice -20 to 19, a step is about 10 % of the CPU.
const WEIGHTS: [u64; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121, 2501,
    1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
];

/// The weight of a nice value; values out of range count as the nearest.
pub const fn weight_of_nice(nice: i8) -> u64 {
    let nice = if nice < -20 {
        -20
    } else if nice > 19 {
        19
    } else {
        nice
    };
    WEIGHTS[(nice + 20) as usize]
}

/// Scheduling class and its parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// SCHED_OTHER, SCHED_BATCH: nice -20 to 19. SCHED_IDLE: `idle`.
    Fair { nice: i8, idle: bool },
    /// SCHED_FIFO: 1 to 99.
    Fifo { priority: u8 },
    /// SCHED_RR: 1 to 99.
    RoundRobin { priority: u8 },
    /// SCHED_DEADLINE.
    Deadline(Budget),
}

impl Class {
    /// SCHED_OTHER with nice 0.
    pub const NORMAL: Self = Self::Fair { nice: 0, idle: false };

    /// Who goes before whom: the greater, the sooner. Fair ones are equal, and so are deadlines of one length.
    pub const fn urgency(self) -> (u8, u64) {
        match self {
            Self::Fair { .. } => (0, 0),
            Self::Fifo { priority } | Self::RoundRobin { priority } => (1, priority as u64),
            Self::Deadline(budget) => (2, u64::MAX - budget.deadline_ns),
        }
    }
}

/// What an entity is scheduled by.
#[derive(Clone, Debug)]
pub struct Params {
    pub class: Class,
    /// Its budget is that of somebody who waits for it: it does not rest.
    pub lent: bool,
    /// Of a fair entity: how much it asks for at once. The less, the sooner it gets it.
    pub slice_ns: u64,
    /// What it shares with others; `None`: it counts by itself.
    pub group: Option<Arc<Group>>,
    /// Since when: the first period of SCHED_DEADLINE begins then.
    pub now_ns: u64,
}

impl Params {
    /// Of a class, with everything else as usual.
    pub const fn of(class: Class) -> Params {
        Params { class, lent: false, slice_ns: BASE_SLICE_NS, group: None, now_ns: 0 }
    }
}

/// A schedulable thing: one a thread, for all its life.
#[derive(Debug)]
pub struct Entity<T> {
    /// The thread.
    pub item: T,
    pub(super) class: Class,
    pub(super) slice_ns: u64,
    pub(super) group: Option<Arc<Group>>,
    /// What it adds to its groups while it is attached, and what it weighs then.
    pub(super) parts: Parts,
    pub(super) weight: u64,
    /// Counts in the average of a queue.
    pub(super) attached: bool,
    /// Weighted run time, on the scale of the queue it is attached to.
    pub(super) vruntime: i64,
    /// While detached: how far it was behind the average.
    pub(super) lag: i64,
    /// Virtual deadline; relative to `vruntime` while detached.
    pub(super) deadline: i64,
    /// While it runs: the virtual runtime until which only somebody with a shorter slice takes its place.
    pub(super) protected: i64,
    /// What SCHED_RR has left of its slice.
    rr_left_ns: u64,
    /// What SCHED_DEADLINE has left of its period.
    pub(super) job: Job,
    /// All that it ever ran.
    total_ns: u64,
    /// Position in the tree it is in, or was in last.
    pub(super) key: Key,
    pub(super) links: Links<T>,
}

impl<T> Entity<T> {
    /// A detached entity.
    pub fn new(item: T, class: Class) -> Box<Self> {
        Box::new(Self::unboxed(item, class))
    }

    /// As [`Self::new`], for callers with an allocation of their own that may fail.
    pub fn unboxed(item: T, class: Class) -> Self {
        let mut entity = Self {
            item,
            class,
            slice_ns: BASE_SLICE_NS,
            group: None,
            parts: Parts::default(),
            weight: UNIT,
            attached: false,
            vruntime: 0,
            lag: 0,
            deadline: 0,
            protected: 0,
            rr_left_ns: RR_SLICE_NS,
            job: Job::default(),
            total_ns: 0,
            key: Key::default(),
            links: Links::default(),
        };
        entity.weigh();
        entity
    }

    /// Its class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Changes what a detached entity is scheduled by.
    pub fn configure(&mut self, params: Params) {
        debug_assert!(!self.attached, "detach it first");
        if self.class != params.class {
            self.rr_left_ns = RR_SLICE_NS;
        }
        if let Class::Deadline(budget) = params.class
            && (self.class != params.class || self.job.is_lent() != params.lent)
        {
            self.job = Job::begin(budget, params.now_ns, params.lent);
        }
        (self.class, self.slice_ns, self.group) = (params.class, params.slice_ns, params.group);
        self.weigh();
    }

    /// Finds out what a detached entity weighs now. Its lag in real time stays what it is.
    pub(super) fn weigh(&mut self) {
        let (parts, weight) = self.weighed();
        self.lag = (i128::from(self.lag) * i128::from(self.weight) / i128::from(weight)) as i64;
        (self.parts, self.weight) = (parts, weight);
    }

    /// What it adds to its groups and weighs now.
    pub(super) fn weighed(&self) -> (Parts, u64) {
        let nominal = match self.class {
            Class::Fair { idle: true, .. } => IDLE_WEIGHT,
            Class::Fair { nice, .. } => weight_of_nice(nice),
            _ => return (Parts::default(), UNIT),
        };
        let (parts, weight) = group::weigh(self.group.as_deref(), nominal * (UNIT / weight_of_nice(0)));
        (parts, weight.max(LEAST_WEIGHT))
    }

    /// What it shares with others.
    pub fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref()
    }

    /// How much it asks for at once, ns.
    pub fn slice_ns(&self) -> u64 {
        self.slice_ns
    }

    /// Its position in the queue it is in.
    pub fn key(&self) -> Key {
        self.key
    }

    /// All that was charged to it, ns.
    pub fn total_ns(&self) -> u64 {
        self.total_ns
    }

    /// Where it stands among those that run before fair ones: the less, the sooner.
    pub(super) fn rank(&self) -> i64 {
        match self.class {
            Class::Fair { .. } => 0,
            Class::Fifo { priority } | Class::RoundRobin { priority } => -i64::from(priority),
            Class::Deadline(_) => self.job.rank(),
        }
    }

    /// Whether it is SCHED_FIFO or SCHED_RR.
    pub(super) fn is_real_time(&self) -> bool {
        matches!(self.class, Class::Fifo { .. } | Class::RoundRobin { .. })
    }

    /// Whether it is SCHED_DEADLINE.
    pub fn is_budgeted(&self) -> bool {
        matches!(self.class, Class::Deadline(_))
    }

    /// Whether it is, and must rest until its next period.
    pub fn is_spent(&self) -> bool {
        self.is_budgeted() && self.job.is_spent()
    }

    /// It wakes, detached or where it was popped.
    pub fn wake(&mut self, now_ns: u64) {
        if self.is_budgeted() {
            self.job.wake(now_ns);
        }
    }

    /// A slice on the virtual scale.
    pub(super) fn virtual_slice(&self) -> i64 {
        self.to_virtual(self.slice_ns)
    }

    pub(super) fn weighted(&self) -> i128 {
        i128::from(self.weight) * i128::from(self.vruntime)
    }

    /// Accounts run time; returns whether the slice is over.
    pub(super) fn charge(&mut self, ran_ns: u64) -> bool {
        self.total_ns += ran_ns;
        match self.class {
            Class::Fair { .. } => {
                self.vruntime += self.to_virtual(ran_ns);
                let over = self.vruntime >= self.deadline;
                if over {
                    self.deadline = self.vruntime + self.virtual_slice();
                }
                over
            }
            Class::RoundRobin { .. } => {
                self.rr_left_ns = self.rr_left_ns.saturating_sub(ran_ns);
                self.rr_slice_over()
            }
            Class::Fifo { .. } => false,
            Class::Deadline(_) => self.job.charge(ran_ns),
        }
    }

    /// Whether it used its SCHED_RR slice up.
    pub(super) fn rr_slice_over(&self) -> bool {
        self.rr_left_ns == 0
    }

    /// Gives a new SCHED_RR slice if the old one is used up; returns whether it was.
    pub(super) fn renew_rr_slice(&mut self) -> bool {
        let over = self.rr_slice_over();
        if over {
            self.rr_left_ns = RR_SLICE_NS;
        }
        over
    }

    fn to_virtual(&self, ns: u64) -> i64 {
        match ns.checked_mul(UNIT) {
            _ if self.weight == UNIT => ns as i64,
            Some(product) => (product / self.weight) as i64,
            None => (u128::from(ns) * u128::from(UNIT) / u128::from(self.weight)) as i64,
        }
    }
}
