//! Virtual time: what the machine would have taken on as many processors as it has virtual CPUs.
//!
//! Each virtual CPU has a clock that advances with the processor time that it uses; one runs at a time, the one whose clock
//! is furthest behind ([`crate::turns`]), up to a quantum ahead of the next. Whatever ends a wait sets the clock to when that
//! happened: [`call`] a cross-call or wake-up, [`advance_to`] a queued thread or a lock that was released.
//!
//! The meter: a clock is `base` plus the time-stamp counter's ticks since, which cost no host call. After [`FINE_NS`] of those
//! the host is asked how much processor time it really was: other tasks of the host ran meanwhile, or nobody. Host clocks
//! of processor time belong to host tasks, so the meter stops and starts again where a virtual CPU moves between slots or rests.
//!
//! Off unless [`begin`] was called at boot; [`on`] is one load. No locks but the turns'.

use crate::cpu::{self, Vcpu};
use crate::turns::{Leave, Lull, Turns};
use crate::{idle, ipi};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use umbel_abi::machine::MAX_CPUS;
use umbel_host::clock;

static ON: AtomicBool = AtomicBool::new(false);
static TURNS: Turns<MAX_CPUS> = Turns::new();
/// ns a tick of the counter, times 2^[`SHIFT`]; 0 = the counter cannot be trusted.
static RATE: AtomicU64 = AtomicU64::new(0);

const SHIFT: u32 = 24;
/// So long the counter is believed; the host preempts for longer, and asking it costs a hundredth of this.
const FINE_NS: u64 = 20_000;

/// How virtual time is to pass.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How far the clocks of running virtual CPUs may drift apart, ns.
    pub quantum_ns: u64,
    pub lull: Lull,
    /// Decides between equal clocks; 0 = the lower number.
    pub seed: u64,
    /// Frequency of the counter, 0 = unknown.
    pub tsc_khz: u64,
}

/// The clock of one virtual CPU. Written by itself alone.
pub(crate) struct Meter {
    /// Its virtual time when `tsc` and `cpu_ns` were read.
    base_ns: AtomicU64,
    tsc: AtomicU64,
    /// Processor time of the host task.
    cpu_ns: AtomicU64,
    /// The latest time that was told: no later one is earlier.
    told_ns: AtomicU64,
}

/// Whether time is virtual.
#[inline(always)]
pub fn on() -> bool {
    ON.load(Relaxed)
}

/// Starts the clock of the calling virtual CPU, the only one so far, at `start_ns`. Once, at boot.
pub fn begin(start_ns: u64, rules: &Rules) {
    if rules.tsc_khz != 0 {
        RATE.store(((1_000_000_u128 << SHIFT) / u128::from(rules.tsc_khz)) as u64, Relaxed);
    }
    let me = cpu::this();
    me.meter.base_ns.store(start_ns, Relaxed);
    me.meter.start();
    TURNS.begin(me.id() as usize, start_ns, rules.quantum_ns, rules.lull, rules.seed);
    ON.store(true, Release);
}

/// The other virtual CPUs take part from now on.
pub fn admit_others() {
    for vcpu in cpu::all().filter(|vcpu| vcpu.id() != cpu::this().id()) {
        TURNS.join(vcpu.id() as usize);
    }
}

/// First thing on another virtual CPU: waits until it was admitted and has its turn.
pub fn enter() {
    rest(cpu::this());
}

/// Virtual time of the running virtual CPU, ns.
pub fn now_ns() -> u64 {
    cpu::this().meter.now()
}

/// The running virtual CPU could not go on before `at_ns`.
pub fn advance_to(at_ns: u64) {
    let meter = &cpu::this().meter;
    let behind_ns = at_ns.saturating_sub(meter.now());
    meter.base_ns.store(meter.base_ns.load(Relaxed) + behind_ns, Relaxed);
}

/// Runs `f`, whose cost no real machine would have.
pub fn uncounted<R>(f: impl FnOnce() -> R) -> R {
    let rate = RATE.load(Relaxed);
    let before = clock::tsc();
    let result = f();
    let ticks = clock::tsc().saturating_sub(before);
    let meter = &cpu::this().meter;
    meter.tsc.store(meter.tsc.load(Relaxed) + ticks, Relaxed);
    meter.cpu_ns.store(meter.cpu_ns.load(Relaxed) + scale(ticks, rate), Relaxed);
    result
}

/// Virtual time at which the running virtual CPU must give way, `u64::MAX` = not at all.
pub fn limit_ns() -> u64 {
    TURNS.limit()
}

/// Gives way to virtual CPUs that are too far behind. The caller holds no spinning lock.
pub fn take_turns() {
    let me = cpu::this();
    if me.meter.now() >= TURNS.limit() {
        leave(me, Leave::Yields);
    }
}

/// The running virtual CPU has nothing to do until `until_ns`, or until it is called or interrupted. Holds no lock.
pub fn idle(until_ns: Option<u64>) {
    leave(cpu::this(), Leave::Idles(until_ns));
}

/// Virtual CPU `target` has something to do, from now on if it was idle.
pub(crate) fn call(target: u32) {
    TURNS.call(target as usize, now_ns());
}

/// Whether virtual CPU `target` is idle and was not called.
pub fn is_idle(target: u32) -> bool {
    TURNS.is_idle(target as usize)
}

/// The host task that runs the virtual CPU is about to change.
pub(crate) fn pause(vcpu: &Vcpu) {
    if on() {
        vcpu.meter.settle();
    }
}

/// Another host task runs it.
pub(crate) fn resume(vcpu: &Vcpu) {
    if on() {
        vcpu.meter.start();
    }
}

fn leave(me: &'static Vcpu, how: Leave) {
    let clock_ns = me.meter.settle();
    if let Some(next) = TURNS.give_up(me.id() as usize, clock_ns, how, host_ns()) {
        ring(next);
    }
    rest(me);
}

/// Until `me` has its turn.
fn rest(me: &'static Vcpu) {
    let id = me.id() as usize;
    while !TURNS.runs(id) {
        // Comes back early if the host killed the slot meanwhile.
        idle::rest(|| TURNS.rest(id, ipi::line(me.shared()), host_ns));
    }
    let meter = &me.meter;
    meter.base_ns.fetch_max(TURNS.started(id), Relaxed);
    meter.start();
}

fn ring(cpu: usize) {
    if let Some(shared) = ipi::control().vcpus.get(cpu) {
        ipi::line(shared).ring();
    }
}

fn host_ns() -> u64 {
    clock::now_ns(clock::MONOTONIC)
}

fn scale(ticks: u64, rate: u64) -> u64 {
    ((u128::from(ticks) * u128::from(rate)) >> SHIFT) as u64
}

impl Meter {
    pub(crate) const fn new() -> Meter {
        Meter {
            base_ns: AtomicU64::new(0),
            tsc: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            told_ns: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        let rate = RATE.load(Relaxed);
        let fine_ns = scale(clock::tsc().saturating_sub(self.tsc.load(Relaxed)), rate);
        if rate == 0 || fine_ns >= FINE_NS {
            return self.settle();
        }
        self.tell(self.base_ns.load(Relaxed) + fine_ns)
    }

    /// Asks the host what was really used; the asking itself is not.
    fn settle(&self) -> u64 {
        let before = clock::tsc();
        let cpu_ns = clock::now_ns(clock::THREAD_CPU);
        let after = clock::tsc();
        let asking_ns = scale(after.saturating_sub(before), RATE.load(Relaxed)).min(FINE_NS) / 2;
        let used_ns = cpu_ns.saturating_sub(self.cpu_ns.load(Relaxed)).saturating_sub(asking_ns);
        let now_ns = self.tell(self.base_ns.load(Relaxed) + used_ns);
        self.base_ns.store(now_ns, Relaxed);
        self.cpu_ns.store(cpu_ns + asking_ns, Relaxed);
        self.tsc.store(after, Relaxed);
        now_ns
    }

    /// Begins with the host task that runs.
    fn start(&self) {
        self.cpu_ns.store(clock::now_ns(clock::THREAD_CPU), Relaxed);
        self.tsc.store(clock::tsc(), Relaxed);
    }

    fn tell(&self, now_ns: u64) -> u64 {
        let told_ns = self.told_ns.load(Relaxed).max(now_ns);
        self.told_ns.store(told_ns, Relaxed);
        told_ns
    }
}
