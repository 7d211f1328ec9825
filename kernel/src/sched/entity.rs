//! What a task carries for the scheduler.

use super::group::{self, Autogroup};
use super::times::Tally;
use crate::task::Usage;
use crate::time;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use umbel_abi::machine::MAX_CPUS;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::runqueue::{self, BASE_SLICE_NS, Budget, Class};
use umbel_smp::thread::ThreadRef;

/// The travelling part.
pub(super) type QueueEntity = Box<runqueue::Entity<ThreadRef>>;

/// A set of virtual CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity([u64; MAX_CPUS / 64]);

impl Affinity {
    /// Every virtual CPU.
    pub const ALL: Affinity = Affinity([u64::MAX; MAX_CPUS / 64]);

    /// Whether `cpu` is in the set.
    pub fn has(&self, cpu: u32) -> bool {
        self.0.get(cpu as usize / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// From the bytes of a `cpu_set_t`, cut to `cpus` virtual CPUs.
    pub fn from_bytes(bytes: &[u8], cpus: u32) -> Affinity {
        let mut set = [0_u64; MAX_CPUS / 64];
        for cpu in 0..cpus {
            let byte = bytes.get(cpu as usize / 8).copied().unwrap_or(0);
            if byte >> (cpu % 8) & 1 != 0
                && let Some(word) = set.get_mut(cpu as usize / 64)
            {
                *word |= 1 << (cpu % 64);
            }
        }
        Affinity(set)
    }

    /// The bytes of a `cpu_set_t` for `cpus` virtual CPUs, a multiple of 8 of them.
    pub fn to_bytes(self, cpus: u32) -> impl Iterator<Item = u8> {
        let words = (cpus as usize).div_ceil(64);
        (0..cpus.div_ceil(64) * 64).step_by(8).take(words * 8).map(move |first| {
            (0..8).filter(|bit| first + bit < cpus && self.has(first + bit)).fold(0, |byte, bit| byte | 1 << bit)
        })
    }

    /// The virtual CPUs that there are and that run threads.
    pub fn online() -> Affinity {
        let mut set = [0_u64; MAX_CPUS / 64];
        for vcpu in umbel_smp::cpu::all().filter(|vcpu| vcpu.is_online()) {
            if let Some(word) = set.get_mut(vcpu.id() as usize / 64) {
                *word |= 1 << (vcpu.id() % 64);
            }
        }
        Affinity(set)
    }

    /// What is in both sets.
    pub fn and(mut self, other: Affinity) -> Affinity {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
        self
    }

    /// Whether no virtual CPU below `cpus` is in it.
    pub fn is_empty(&self, cpus: u32) -> bool {
        !(0..cpus).any(|cpu| self.has(cpu))
    }
}

/// A task's scheduling state.
pub struct Entity {
    /// The queue entity while the task neither runs nor waits in a queue.
    pub(super) pocket: SpinLock<Option<QueueEntity>>,
    /// Parameters: what the owner asked for.
    class: SpinLock<Params>,
    /// They changed, and the queue entity has not followed yet.
    stale: AtomicBool,
    /// Virtual CPU that it ran on last, or is queued on.
    pub(super) cpu: AtomicU32,
    /// Since when it has not been charged.
    pub(super) since_ns: AtomicU64,
    /// Its time on a CPU, and in guest mode, which those who look on another CPU see while it passes. Written where it runs.
    pub(super) total: Tally,
    pub(super) user: Tally,
    /// What of that the virtual CPUs that it ran on have counted.
    pub(super) user_charged_ns: AtomicU64,
    pub minor_faults: AtomicU64,
    pub major_faults: AtomicU64,
    pub(super) voluntary: AtomicU64,
    pub(super) involuntary: AtomicU64,
    /// How often in a row it blocked soon after it woke somebody: then its wake-ups stay on its CPU.
    pub(super) hands_over: AtomicU32,
    /// When it last woke somebody.
    pub(super) woke_ns: AtomicU64,
    /// In virtual time: since when it could run, by the clock of whoever queued it.
    pub(super) ready_ns: AtomicU64,
}

/// Protected by `Entity::class`.
#[derive(Clone)]
struct Params {
    class: Class,
    /// The nice value; while it is not fair, that which it will have when it is again.
    nice: i8,
    /// How much it asks for at once, while it is fair.
    slice_ns: u64,
    /// With whom it shares; `None`: kernel threads.
    group: Option<Arc<Autogroup>>,
    /// What the most urgent of those is who wait for its PI futexes.
    loan: Class,
    affinity: Affinity,
    /// SCHED_BATCH instead of SCHED_OTHER.
    batch: bool,
    reset_on_fork: bool,
    /// Of SCHED_DEADLINE: `SCHED_FLAG_*`, and what was promised to it.
    deadline_flags: u64,
    admitted: u64,
}

impl Params {
    fn effective(&self) -> Class {
        match self.loan {
            _ if !self.borrows() => self.class,
            Class::RoundRobin { priority } => Class::Fifo { priority },
            loan => loan,
        }
    }

    /// Whether it runs as what it is lent.
    fn borrows(&self) -> bool {
        self.loan.urgency() > self.class.urgency()
    }

    /// What a queue entity is to follow.
    fn wanted(&self) -> runqueue::Params {
        let group = self.group.as_ref().filter(|_| group::enabled());
        let group = group.map(|group| group.share().clone());
        let now_ns = crate::time::monotonic_ns();
        let lent = self.borrows();
        runqueue::Params { class: self.effective(), lent, slice_ns: self.slice_ns, group, now_ns }
    }
}

impl Entity {
    /// A task with the default parameters.
    pub fn new() -> Entity {
        Entity::in_group(None)
    }

    /// The same, for a task that shares with others.
    pub fn in_group(group: Option<Arc<Autogroup>>) -> Entity {
        let params = Params {
            class: Class::NORMAL,
            nice: 0,
            slice_ns: BASE_SLICE_NS,
            group,
            loan: Class::NORMAL,
            affinity: Affinity::ALL,
            batch: false,
            reset_on_fork: false,
            deadline_flags: 0,
            admitted: 0,
        };
        Entity::with(params, 0)
    }

    fn with(params: Params, cpu: u32) -> Entity {
        Entity {
            pocket: SpinLock::new(Rank::Leaf, None),
            class: SpinLock::new(Rank::Leaf, params),
            stale: AtomicBool::new(true),
            cpu: AtomicU32::new(cpu),
            since_ns: AtomicU64::new(0),
            total: Tally::new(),
            user: Tally::new(),
            user_charged_ns: AtomicU64::new(0),
            minor_faults: AtomicU64::new(0),
            major_faults: AtomicU64::new(0),
            voluntary: AtomicU64::new(0),
            involuntary: AtomicU64::new(0),
            hands_over: AtomicU32::new(0),
            woke_ns: AtomicU64::new(0),
            ready_ns: AtomicU64::new(0),
        }
    }

    /// How often it has been switched away from.
    pub fn switches(&self) -> u64 {
        self.voluntary.load(Relaxed).wrapping_add(self.involuntary.load(Relaxed))
    }

    /// What a child of this task starts with.
    pub fn for_child(&self) -> Entity {
        let mut params = self.class.lock().clone();
        (params.loan, params.deadline_flags, params.admitted) = (Class::NORMAL, 0, 0);
        if params.reset_on_fork {
            params.reset_on_fork = false;
            params.slice_ns = BASE_SLICE_NS;
            let (nice, idle) = match params.class {
                Class::Fair { nice, idle } => (nice.max(0), idle),
                _ => (0, false),
            };
            (params.nice, params.class) = (nice, Class::Fair { nice, idle });
        }
        Entity::with(params, self.cpu.load(Relaxed))
    }

    /// Makes the travelling part, once the thread exists.
    pub fn attach(&self, thread: &ThreadRef) {
        let entity = runqueue::Entity::new(thread.clone(), self.effective());
        *self.pocket.lock() = Some(entity);
    }

    /// Virtual CPU that it ran on last.
    pub fn last_cpu(&self) -> u32 {
        self.cpu.load(Relaxed)
    }

    /// Class and priority.
    pub fn class(&self) -> Class {
        self.class.lock().class
    }

    /// Changes class and priority; the caller says so by [`super::class_changed`].
    pub fn set_class(&self, class: Class) {
        self.change(|params| {
            params.class = class;
            if let Class::Fair { nice, .. } = class {
                params.nice = nice;
            }
        });
        super::deadline::leave(self);
    }

    /// It is SCHED_DEADLINE from now on, with `flags` and a promise of `bandwidth`; the caller says so by
    /// [`super::class_changed`].
    pub(super) fn set_deadline(&self, budget: Budget, flags: u64, bandwidth: u64) {
        self.change(|params| {
            params.class = Class::Deadline(budget);
            (params.deadline_flags, params.admitted) = (flags, bandwidth);
        });
    }

    /// What was promised to it.
    pub(super) fn admitted(&self) -> u64 {
        self.class.lock().admitted
    }

    /// The same, and it is promised no longer.
    pub(super) fn give_back(&self) -> u64 {
        core::mem::take(&mut self.class.lock().admitted)
    }

    /// `SCHED_FLAG_*` of SCHED_DEADLINE.
    pub fn deadline_flags(&self) -> u64 {
        self.class.lock().deadline_flags
    }

    /// How much it asks for at once while it is fair, ns.
    pub fn slice_ns(&self) -> u64 {
        self.class.lock().slice_ns
    }

    /// Changes that; the caller says so by [`super::class_changed`].
    pub fn set_slice_ns(&self, slice_ns: u64) {
        self.change(|params| params.slice_ns = slice_ns);
    }

    /// With whom it shares.
    pub fn group(&self) -> Option<Arc<Autogroup>> {
        self.class.lock().group.clone()
    }

    /// Changes that; the caller says so by [`super::class_changed`].
    pub fn set_group(&self, group: Arc<Autogroup>) {
        let old = self.change(|params| params.group.replace(group));
        drop(old);
    }

    fn change<R>(&self, change: impl FnOnce(&mut Params) -> R) -> R {
        let result = change(&mut self.class.lock());
        self.set_stale();
        result
    }

    /// The queue entity must follow anew.
    pub(super) fn set_stale(&self) {
        // Before the caller looks where the task is.
        self.stale.swap(true, SeqCst);
    }

    /// What the queue entity is to follow, if that is not what it follows already. Whoever asks lets it.
    pub(super) fn news(&self) -> Option<runqueue::Params> {
        if !self.stale.load(Relaxed) {
            return None;
        }
        // Before the parameters are read: a change that comes after that makes them stale again.
        self.stale.swap(false, AcqRel).then(|| self.class.lock().wanted())
    }

    /// What it runs as: its class, or what is lent to it.
    pub fn effective(&self) -> Class {
        self.class.lock().effective()
    }

    /// Lends it a real-time priority or a deadline; [`Class::NORMAL`] is nothing. Whether that changes what it runs as; then the
    /// caller says so by [`super::class_changed`].
    #[must_use]
    pub fn set_loan(&self, loan: Class) -> bool {
        self.change(|params| {
            let before = params.effective();
            params.loan = loan;
            params.effective() != before
        })
    }

    /// SCHED_BATCH, SCHED_RESET_ON_FORK.
    pub fn flags(&self) -> (bool, bool) {
        let params = self.class.lock();
        (params.batch, params.reset_on_fork)
    }

    /// Sets SCHED_BATCH, SCHED_RESET_ON_FORK.
    pub fn set_flags(&self, batch: bool, reset_on_fork: bool) {
        let mut params = self.class.lock();
        params.batch = batch;
        params.reset_on_fork = reset_on_fork;
    }

    /// The nice value, -20 to 19.
    pub fn nice(&self) -> i8 {
        self.class.lock().nice
    }

    /// Sets the nice value, of one that is not fair for when it is again; the caller says so by [`super::class_changed`].
    pub fn set_nice(&self, new: i8) {
        self.change(|params| {
            params.nice = new;
            if let Class::Fair { nice, .. } = &mut params.class {
                *nice = new;
            }
        });
    }

    /// Where it may run.
    pub fn affinity(&self) -> Affinity {
        self.class.lock().affinity
    }

    /// Sets where it may run.
    pub fn set_affinity(&self, affinity: Affinity) {
        self.class.lock().affinity = affinity;
    }

    /// Time on a CPU up to now, ns.
    pub fn run_ns(&self) -> u64 {
        self.total.so_far(time::monotonic_ns())
    }

    /// Its guest code runs from now on.
    pub fn enters_guest(&self, now_ns: u64) {
        self.user.begin(now_ns);
    }

    /// The same, until now.
    pub fn leaves_guest(&self, now_ns: u64) {
        self.user.end(now_ns);
    }

    /// Times and counts so far.
    pub fn usage(&self) -> Usage {
        let now_ns = time::monotonic_ns();
        let user_ns = self.user.so_far(now_ns);
        let total = self.total.so_far(now_ns).max(user_ns);
        Usage {
            user_ns,
            system_ns: total - user_ns,
            minor_faults: self.minor_faults.load(Relaxed),
            major_faults: self.major_faults.load(Relaxed),
            voluntary_switches: self.voluntary.load(Relaxed),
            involuntary_switches: self.involuntary.load(Relaxed),
            max_rss_kib: 0,
        }
    }
}

impl Default for Entity {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn affinity_keeps_only_existing_cpus() {
        let set = Affinity::from_bytes(&[0xff], 3);
        assert!(set.has(2) && !set.has(3));
        assert_eq!(set.to_bytes(3).collect::<Vec<_>>(), [7, 0, 0, 0, 0, 0, 0, 0]);
        assert!(Affinity::from_bytes(&[8], 3).is_empty(3));
    }

    #[test]
    fn a_lent_priority_raises_and_never_lowers() {
        let task = Entity::new();
        let fifo = |priority| Class::Fifo { priority };
        assert!(task.set_loan(fifo(7)));
        assert_eq!((task.effective(), task.class()), (Class::Fifo { priority: 7 }, Class::NORMAL));
        task.set_class(Class::RoundRobin { priority: 9 });
        assert_eq!(task.effective(), Class::RoundRobin { priority: 9 });
        assert!(!task.set_loan(Class::NORMAL) && !task.set_loan(fifo(9)) && task.set_loan(fifo(10)));
        assert_eq!(task.for_child().effective(), Class::RoundRobin { priority: 9 });
    }

    #[test]
    fn the_shorter_deadline_is_lent() {
        let budget = |deadline_ns| Class::Deadline(Budget { runtime_ns: 1, deadline_ns, period_ns: 100 });
        let task = Entity::new();
        assert!(task.set_loan(budget(50)) && task.effective() == budget(50) && task.class() == Class::NORMAL);
        task.set_class(Class::Fifo { priority: 99 });
        assert_eq!(task.effective(), budget(50));
        task.set_class(budget(60));
        assert!(task.effective() == budget(50) && task.set_loan(budget(70)) && task.effective() == budget(60));
        assert!(!task.set_loan(Class::Fifo { priority: 99 }) && task.effective() == budget(60));
    }

    #[test]
    fn children_inherit_unless_told_otherwise() {
        let parent = Entity::new();
        parent.set_nice(5);
        assert_eq!(parent.for_child().nice(), 5);
        parent.set_class(Class::Fifo { priority: 3 });
        assert_eq!((parent.nice(), parent.for_child().nice()), (5, 5));
        parent.set_flags(false, true);
        assert_eq!(parent.for_child().class(), Class::NORMAL);
    }
}
