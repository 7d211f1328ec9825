//! A thread group.

use super::ns::{PidNs, UserNs};
use super::{Charge, Limits, Task, User, WaitStatus};
use crate::Pid;
use crate::cgroup;
use crate::signal;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::runqueue::Class;
use umbel_smp::wait::WaitQueue;

/// A process: what its threads share. Its place in the tree is in [`super::ids`].
pub struct Process {
    /// Immutable.
    pid: Pid,
    /// Where it and its threads have numbers. Immutable.
    pid_ns: Arc<PidNs>,
    /// It is a PID namespace's init: signals that it does not handle are dropped.
    pub unkillable: AtomicBool,
    /// Signals of the group. Own locks.
    pub signal: signal::Shared,
    /// setitimer's and timer_create's timers. Own locks.
    pub timers: crate::time::ProcessTimers,
    /// Resource limits.
    limits: SpinLock<Limits>,
    /// The status the process ends with, once somebody decided.
    group_exit: SpinLock<Option<WaitStatus>>,
    /// `group_exit` is set: to look at without the lock.
    exiting: AtomicBool,
    /// When that was decided, CLOCK_MONOTONIC. Set before `exiting`.
    exit_ns: AtomicU64,
    /// SIGKILL was sent: not even a stop at the end holds it.
    killed: AtomicBool,
    /// The thread that is running execve(2) and waits for the others to end, as its tid; 0 = none.
    exec_by: AtomicI32,
    /// Woken when a child changes state, and when a thread of the group exits.
    pub child_events: WaitQueue,
    /// Signal to the parent at exit, 0 = none (then only `__WCLONE` waits see it). Protected by being set in clone and exec.
    pub exit_signal: AtomicU32,
    /// Programs that it has begun, and that its parent had when it was made: another program gets no signal but SIGCHLD.
    pub(super) execs: AtomicU32,
    pub(super) parent_execs: AtomicU32,
    /// Threads that have not ended.
    pub(super) threads: AtomicUsize,
    /// Group stop.
    pub stop: SpinLock<Stop>,
    /// Stopped threads wait here.
    pub stop_queue: WaitQueue,
    /// Times of threads that exited, and of children that were waited for.
    pub times: SpinLock<Times>,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub subreaper: AtomicBool,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: AtomicU32,
    /// Who is privileged here looks into its memory even if it is not dumpable: the user namespace where its program was begun.
    memory_owner: SpinLock<Arc<UserNs>>,
    /// Real user id of its threads, for wait(2).
    pub uid: AtomicU32,
    /// The user whose counts its signals are charged to.
    user: SpinLock<Arc<User>>,
    /// What its leader counted for, until it has been waited for.
    pub(super) zombie: SpinLock<Option<Charge>>,
    /// All threads are gone: see [`Self::has_ended`].
    pub(super) ended: AtomicBool,
    /// How its last thread was scheduled, once it has ended: its class, and whether it was a batch's and reset at forks.
    pub end_class: SpinLock<Option<(Class, (bool, bool))>>,
    /// The status that it ended with, once it has.
    pub(super) end_status: AtomicU32,
    /// Woken when a thread ends, and when the process has been waited for: pollers of pidfds.
    pub end_queue: Arc<WaitQueue>,
    /// How many are still to be sent the signal of its end: its parent or tracer, later a parent that it got from either.
    untold: AtomicU32,
    /// What it registered for with membarrier(2).
    pub membarriers: AtomicU32,
    /// personality(2).
    pub personality: AtomicU32,
    /// `/proc/PID/coredump_filter`: see [`super::coredump`].
    pub coredump_filter: AtomicU32,
    /// While a core is to be written: what the threads that left had in their registers.
    pub(super) cores: SpinLock<Option<Vec<super::coredump::Thread>>>,
    /// `/proc/PID/oom_score_adj`: see [`super::oom`].
    pub oom_score_adj: AtomicI32,
    /// The least value that it may be given without `CAP_SYS_RESOURCE`.
    pub oom_score_adj_min: AtomicI32,
    /// Its place in the tree of control groups. Own lock.
    pub cgroup: cgroup::Member,
    /// What it read and wrote, for /proc.
    pub io: IoCounts,
    /// What it runs, for /proc.
    image: SpinLock<Arc<Image>>,
    /// CLOCK_MONOTONIC at fork, ns. Immutable.
    pub start_ns: u64,
}

/// Calls that read and wrote, and bytes that they moved (proc_pid_io(5)).
#[derive(Debug, Default)]
pub struct IoCounts {
    pub reads: AtomicU64,
    pub read_bytes: AtomicU64,
    pub writes: AtomicU64,
    pub written_bytes: AtomicU64,
}

/// What a process runs. Immutable; replaced by exec.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Absolute path of the executable.
    pub exe: Vec<u8>,
    /// The executable itself, while the process runs it.
    pub place: Option<crate::fs::Path>,
    /// Where its argument and environment strings lie, and the auxiliary vector's bytes.
    pub args: core::ops::Range<u64>,
    pub env: core::ops::Range<u64>,
    pub auxv: Vec<u8>,
    /// Top of the initial stack.
    pub stack_top: u64,
    /// First code, end of code, first data, end of data.
    pub code: core::ops::Range<u64>,
}

/// State of a group stop. Protected by `Process::stop`.
#[derive(Debug, Default)]
pub struct Stop {
    /// Number of the stop: of those that begun so far.
    pub generation: u64,
    /// The signal that stops the group now.
    pub signal: Option<u32>,
    /// Threads that have parked.
    pub parked: usize,
    /// The parent knows of this stop.
    pub told: bool,
    /// A stop that no wait(2) has reported yet.
    pub unreported: Option<u32>,
    /// A continue that no wait(2) has reported yet.
    pub continued: bool,
}

/// Accumulated times and counts of a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub own: Usage,
    pub children: Usage,
}

/// What getrusage(2) reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub user_ns: u64,
    pub system_ns: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    /// Peak resident set, KiB.
    pub max_rss_kib: u64,
}

impl Usage {
    /// Adds times and counts; the peak is the larger one.
    pub fn add(&mut self, other: &Usage) {
        self.user_ns += other.user_ns;
        self.system_ns += other.system_ns;
        self.minor_faults += other.minor_faults;
        self.major_faults += other.major_faults;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
        self.max_rss_kib = self.max_rss_kib.max(other.max_rss_kib);
    }
}

impl Process {
    /// A process in no table yet.
    pub fn new(pid: (Pid, Arc<PidNs>), signal: signal::Shared, limits: Limits, image: Arc<Image>) -> Process {
        let (pid, pid_ns) = pid;
        let unkillable = AtomicBool::new(pid_ns.level() > 0 && pid_ns.number_of(pid) == 1);
        Process {
            pid,
            pid_ns,
            unkillable,
            signal,
            timers: crate::time::ProcessTimers::new(),
            limits: SpinLock::new(Rank::Process, limits),
            group_exit: SpinLock::new(Rank::Process, None),
            exiting: AtomicBool::new(false),
            exit_ns: AtomicU64::new(0),
            killed: AtomicBool::new(false),
            exec_by: AtomicI32::new(0),
            child_events: WaitQueue::new(),
            exit_signal: AtomicU32::new(0),
            execs: AtomicU32::new(0),
            parent_execs: AtomicU32::new(0),
            threads: AtomicUsize::new(0),
            stop: SpinLock::new(Rank::Process, Stop::default()),
            stop_queue: WaitQueue::new(),
            times: SpinLock::new(Rank::Process, Times::default()),
            subreaper: AtomicBool::new(false),
            dumpable: AtomicU32::new(1),
            memory_owner: SpinLock::new(Rank::Leaf, UserNs::first()),
            coredump_filter: AtomicU32::new(0x33),
            cores: SpinLock::new(Rank::Leaf, None),
            uid: AtomicU32::new(0),
            user: SpinLock::new(Rank::Process, User::of(0)),
            zombie: SpinLock::new(Rank::Process, None),
            ended: AtomicBool::new(false),
            end_class: SpinLock::new(Rank::Leaf, None),
            end_status: AtomicU32::new(0),
            end_queue: Arc::new(WaitQueue::new()),
            untold: AtomicU32::new(1),
            membarriers: AtomicU32::new(0),
            personality: AtomicU32::new(0),
            oom_score_adj: AtomicI32::new(0),
            oom_score_adj_min: AtomicI32::new(0),
            cgroup: cgroup::Member::new(cgroup::root().clone()),
            io: IoCounts::default(),
            image: SpinLock::new(Rank::Process, image),
            start_ns: crate::time::monotonic_ns(),
        }
    }

    /// Its id: that of its first thread.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The PID namespace that it is in.
    pub fn pid_ns(&self) -> &Arc<PidNs> {
        &self.pid_ns
    }

    /// The number that `id` has for it; 0 if none.
    pub fn sees(&self, id: Pid) -> i32 {
        self.pid_ns.number_of(id)
    }

    /// Whether it is the init of a PID namespace.
    pub fn is_ns_init(&self) -> bool {
        self.pid_ns.level() > 0 && self.pid_ns.init() == Some(self.pid)
    }

    /// Whether it was told to end at `start_ns` or later, and has not ended.
    pub fn is_ending_since(&self, start_ns: u64) -> bool {
        self.is_exiting() && !self.has_ended() && self.exit_ns.load(Relaxed) >= start_ns
    }

    /// Whether all its threads are gone.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Acquire)
    }

    /// One more is to hear of its end: under the table's lock, with the change by which that one finds it.
    pub(super) fn to_be_told(&self) {
        self.untold.fetch_add(1, Relaxed);
    }

    /// One that was to hear of its end has been sent the signal.
    pub(super) fn told(&self) {
        self.untold.fetch_sub(1, Release);
        self.end_queue.wake_all();
    }

    /// Waits until all that are to hear of its end have been sent the signal. Whoever sends it does nothing long before.
    pub(super) fn await_told(&self) {
        self.end_queue.wait_until(|| (self.untold.load(Acquire) == 0).then_some(()));
    }

    /// The user whose counts its signals are charged to.
    pub fn user(&self) -> Arc<User> {
        self.user.lock().clone()
    }

    /// See the field.
    pub fn memory_owner(&self) -> Arc<UserNs> {
        self.memory_owner.lock().clone()
    }

    /// See the field.
    pub(super) fn set_memory_owner(&self, owner: Arc<UserNs>) {
        let old = core::mem::replace(&mut *self.memory_owner.lock(), owner);
        drop(old);
    }

    /// Notes the real user id of its threads.
    pub(super) fn set_uid(&self, uid: u32) {
        if self.uid.swap(uid, Relaxed) != uid {
            let user = User::of(uid);
            let old = core::mem::replace(&mut *self.user.lock(), user);
            drop(old);
        }
    }

    /// Its resource limits.
    pub fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// Runs `change` on the limits.
    pub fn with_limits<R>(&self, change: impl FnOnce(&mut Limits) -> R) -> R {
        change(&mut self.limits.lock())
    }

    /// The soft limit of `resource` (`RLIMIT_*`).
    pub fn limit(&self, resource: u32) -> u64 {
        self.limits.lock().soft(resource)
    }

    /// What it runs.
    pub fn image(&self) -> Arc<Image> {
        self.image.lock().clone()
    }

    /// Notes what it runs now.
    pub fn set_image(&self, image: Image) {
        let image = Arc::new(image);
        let old = core::mem::replace(&mut *self.image.lock(), image);
        drop(old);
    }

    /// It runs its program no more: the mount may go.
    pub fn leave_program(&self) {
        self.set_image(Image { place: None, ..(*self.image()).clone() });
    }

    /// Whether its end has been decided.
    pub fn is_exiting(&self) -> bool {
        self.exiting.load(Acquire)
    }

    /// Whether SIGKILL was sent.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Acquire)
    }

    /// SIGKILL was sent. The caller wakes the threads.
    pub fn set_killed(&self) {
        self.killed.store(true, Release);
    }

    /// Starts ending all threads but `by`; false if another thread was first.
    #[must_use]
    pub(super) fn begin_exec(&self, by: &Task) -> bool {
        self.exec_by.compare_exchange(0, by.tid().0, AcqRel, Acquire).is_ok()
    }

    /// The thread that ran execve(2) is alone, or gave up.
    pub(super) fn end_exec(&self) {
        self.exec_by.store(0, Release);
    }

    /// Whether `task` must end because another thread of its process runs execve(2).
    pub fn is_replacing(&self, task: &Task) -> bool {
        let by = self.exec_by.load(Acquire);
        by != 0 && by != task.tid().0
    }

    /// Threads that have not ended.
    pub fn live_threads(&self) -> usize {
        self.threads.load(Acquire)
    }

    /// The decided status.
    pub fn group_exit(&self) -> Option<WaitStatus> {
        *self.group_exit.lock()
    }

    /// A core was written: the status says so.
    pub(super) fn note_core(&self) {
        const CORE: u32 = 0x80;
        if let Some(status) = self.group_exit.lock().as_mut() {
            status.0 |= CORE;
        }
    }

    /// Decides the status; the first decision stands. Returns whether this was the first.
    #[must_use]
    pub fn decide_exit(&self, status: WaitStatus) -> bool {
        let mut decided = self.group_exit.lock();
        let first = decided.is_none();
        if first {
            *decided = Some(status);
            self.exit_ns.store(crate::time::monotonic_ns(), Relaxed);
            self.exiting.store(true, Release);
        }
        first
    }
}
