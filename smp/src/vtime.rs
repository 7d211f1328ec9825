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
//! In a *model* a clock advances by a fixed cost for each [`Event`] instead, so that the same seed gives the same schedule; a
//! virtual CPU that computes long without one is found out by [`look_for_progress`].
//!
//! Off unless [`begin`] was called at boot; [`on`] is one load. No locks but the turns'.

use crate::cpu::{self, Vcpu};
use crate::turns::{Leave, Lull, Turns};
use crate::{idle, ipi, slot};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use umbel_abi::machine::MAX_CPUS;
use umbel_host::{clock, process};

static ON: AtomicBool = AtomicBool::new(false);
static TURNS: Turns<MAX_CPUS> = Turns::new();
/// ns a tick of the counter, times 2^[`SHIFT`]; 0 = the counter cannot be trusted.
static RATE: AtomicU64 = AtomicU64::new(0);
/// Ticks that [`uncounted`] itself takes.
static OVERHEAD: AtomicU64 = AtomicU64::new(0);
/// Ticks that it takes to trap the counter and to let it be again.
static TRAP_TICKS: AtomicU64 = AtomicU64::new(0);
/// What it costs to take a lock that another virtual CPU held last.
static HAND_OVER_NS: AtomicU64 = AtomicU64::new(0);

const SHIFT: u32 = 24;
/// So long the counter is believed; the host preempts for longer, and asking it costs a hundredth of this.
const FINE_NS: u64 = 20_000;

/// Whether time passes by events only.
static MODEL: AtomicBool = AtomicBool::new(false);
/// Events so far, and what [`look_for_progress`] saw last: their number, the slot and its processor time.
static EVENTS: AtomicU64 = AtomicU64::new(0);
static SEEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static LONG: AtomicU64 = AtomicU64::new(0);

/// What a cross-call costs its sender.
const CALL_NS: u64 = 300;
/// Processor time without an event that makes a model's result a matter of chance.
const LONG_NS: u64 = 8_000_000;

/// What costs time in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A system call.
    Call,
    /// A page fault that made a page.
    Fault,
    /// A switch between threads.
    Switch,
    /// A lock taken.
    Lock,
}

/// How virtual time is to pass.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How far the clocks of running virtual CPUs may drift apart, ns.
    pub quantum_ns: u64,
    pub lull: Lull,
    /// What it costs to take a lock that another virtual CPU held last, ns.
    pub hand_over_ns: u64,
    /// Not 0: decides between about equal clocks.
    pub seed: u64,
    /// By events.
    pub model: bool,
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
    /// The counter when guest code was interrupted last, until it is known whether for a turn; 0 = known.
    interrupted: AtomicU64,
    /// The counter when it got its turn, until guest code goes on; 0 = it does.
    turned: AtomicU64,
    /// In a model: locks cost. Only in a call or a fault; how often the kernel is entered otherwise is up to the host.
    charging: AtomicBool,
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
    HAND_OVER_NS.store(rules.hand_over_ns, Relaxed);
    MODEL.store(rules.model, Relaxed);
    ON.store(true, Release);
    calibrate();
    me.meter.start();
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

/// Whether virtual time passes by events.
pub fn is_model() -> bool {
    MODEL.load(Relaxed)
}

/// Something happened on the running virtual CPU that costs time in a model. Nothing otherwise.
#[inline]
pub fn event(event: Event) {
    if is_model() {
        let cost_ns = match event {
            Event::Call => 400,
            Event::Fault => 900,
            Event::Switch => 1500,
            Event::Lock => 50,
        };
        let meter = &cpu::this().meter;
        if event == Event::Lock {
            if !meter.charging.load(Relaxed) {
                return;
            }
        } else {
            meter.charging.store(true, Relaxed);
        }
        EVENTS.fetch_add(1, Relaxed);
        meter.base_ns.fetch_add(cost_ns, Relaxed);
    }
}

/// Runs `f`, which a model does not see: it happens when the host likes.
pub fn free_of_charge(f: impl FnOnce()) {
    let charging = &cpu::this().meter.charging;
    let before = is_model() && charging.swap(false, Relaxed);
    f();
    if before {
        charging.store(true, Relaxed);
    }
}

/// In a model, now and then by the host's clock: whether the running virtual CPU computes without any event. Then its clock
/// advances by what it used, or it would wait for another one for ever; but the result is no longer the seed's alone.
pub fn look_for_progress() {
    let cpu_ns = clock::now_ns(clock::THREAD_CPU);
    let now = [EVENTS.load(Relaxed), slot::this().index().into(), cpu_ns];
    let then = [0, 1, 2].map(|i: usize| SEEN[i].load(Relaxed));
    let used_ns = cpu_ns.saturating_sub(then[2]);
    let no_event = now[..2] == then[..2];
    if no_event && used_ns < LONG_NS {
        return;
    }
    SEEN.iter().zip(now).for_each(|(seen, now)| seen.store(now, Relaxed));
    if no_event {
        LONG.fetch_add(1, Relaxed);
        cpu::this().meter.base_ns.fetch_add(used_ns, Relaxed);
    }
}

/// Nothing costs a model anything from now on, until the next [`event`]: how often what follows happens is up to the host.
pub fn stop_charging() {
    cpu::this().meter.charging.store(false, Relaxed);
}

/// Whether what happens now counts: in a model, what happens when the host likes does not.
pub(crate) fn counts() -> bool {
    !is_model() || cpu::this().meter.charging.load(Relaxed)
}

/// How often a virtual CPU of a model computed long without an event.
pub fn long_computations() -> u64 {
    LONG.load(Relaxed)
}

/// Guest code runs next: what its time-stamp counter says is ours to answer, until [`left_guest`].
pub fn enter_guest() {
    let meter = &cpu::this().meter;
    stop_charging();
    meter.skip(TRAP_TICKS.load(Relaxed));
    match meter.turned.swap(0, Relaxed) {
        0 => {}
        turned => meter.skip_since(turned),
    }
    process::trap_counter(true);
}

/// Back in the kernel, which reads the counter itself.
pub fn left_guest() {
    process::trap_counter(false);
}

/// ... by an interrupt: if all that it does is to give way, no real machine would have had it.
pub fn interrupted() {
    cpu::this().meter.interrupted.store(clock::tsc(), Relaxed);
}

/// Another thread runs next: what it costs to go on after a turn is not the turn's any more.
pub fn switches() {
    cpu::this().meter.turned.store(0, Relaxed);
}

/// What the time-stamp counter of the running virtual CPU would say.
pub fn guest_counter() -> u64 {
    let rate = RATE.load(Relaxed).max(1);
    ((u128::from(now_ns()) << SHIFT) / u128::from(rate)) as u64
}

/// Virtual time of the running virtual CPU, ns.
pub fn now_ns() -> u64 {
    cpu::this().meter.now()
}

/// The running virtual CPU could not go on before `at_ns`.
pub fn advance_to(at_ns: u64) {
    let meter = &cpu::this().meter;
    let behind_ns = at_ns.saturating_sub(meter.now());
    meter.base_ns.fetch_add(behind_ns, Relaxed);
}

/// The running virtual CPU would have waited so long for a lock; if it `moved` from another one, that costs too.
pub(crate) fn waited(wait_ns: u64, moved: bool) {
    let hand_over_ns = if moved { HAND_OVER_NS.load(Relaxed) } else { 0 };
    cpu::this().meter.base_ns.fetch_add(wait_ns + hand_over_ns, Relaxed);
}

/// Runs `f`, whose cost no real machine would have.
pub fn uncounted<R>(f: impl FnOnce() -> R) -> R {
    if !on() {
        return f();
    }
    let before = clock::tsc();
    let result = f();
    let meter = &cpu::this().meter;
    meter.skip_since(before);
    meter.skip(OVERHEAD.load(Relaxed));
    result
}

/// Measures what [`uncounted`] costs besides what it takes out itself, and what [`enter_guest`] and [`left_guest`] do.
fn calibrate() {
    let trap = || {
        let before = clock::tsc();
        process::trap_counter(true);
        process::trap_counter(false);
        clock::tsc() - before
    };
    TRAP_TICKS.store((0..100).map(|_| trap()).min().unwrap_or(0), Relaxed);
    const CALLS: u64 = 100;
    let batch = || {
        let start = &cpu::this().meter.tsc;
        start.store(clock::tsc(), Relaxed);
        (0..CALLS).for_each(|_| uncounted(|| ()));
        clock::tsc().saturating_sub(start.load(Relaxed))
    };
    let least = (0..16).map(|_| batch()).min().unwrap_or(0);
    OVERHEAD.store(least / CALLS, Relaxed);
}

/// Virtual time at which the running virtual CPU must give way, `u64::MAX` = not at all.
pub fn limit_ns() -> u64 {
    TURNS.limit()
}

/// Gives way to virtual CPUs that are too far behind; returns whether there were any. The caller holds no spinning lock.
pub fn take_turns() -> bool {
    let me = cpu::this();
    let interrupted = me.meter.interrupted.swap(0, Relaxed);
    if me.meter.now() < TURNS.limit() {
        return false;
    }
    if interrupted != 0 {
        me.meter.skip_since(interrupted);
    }
    leave(me, Leave::Yields);
    me.meter.turned.store(clock::tsc(), Relaxed);
    true
}

/// The running virtual CPU has nothing to do until `until_ns`, or until it is called or interrupted. Holds no lock.
pub fn idle(until_ns: Option<u64>) {
    stop_charging();
    leave(cpu::this(), Leave::Idles(until_ns));
}

/// Virtual CPU `target` has something to do, from now on if it was idle.
pub(crate) fn call(target: u32) {
    uncounted(|| TURNS.call(target as usize, now_ns()));
    cpu::this().meter.base_ns.fetch_add(CALL_NS, Relaxed);
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
            interrupted: AtomicU64::new(0),
            turned: AtomicU64::new(0),
            charging: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        if is_model() {
            return self.base_ns.load(Relaxed);
        }
        let rate = RATE.load(Relaxed);
        let fine_ns = scale(clock::tsc().saturating_sub(self.tsc.load(Relaxed)), rate);
        if rate == 0 || fine_ns >= FINE_NS {
            return self.settle();
        }
        self.tell(self.base_ns.load(Relaxed) + fine_ns)
    }

    /// Asks the host what was really used; the asking itself is not.
    fn settle(&self) -> u64 {
        if is_model() {
            return self.base_ns.load(Relaxed);
        }
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

    /// What passed since the counter said `before` does not count. What came before the host was asked last is settled.
    fn skip_since(&self, before: u64) {
        self.skip(clock::tsc().saturating_sub(before.max(self.tsc.load(Relaxed))));
    }

    /// So many ticks do not count.
    fn skip(&self, ticks: u64) {
        self.tsc.fetch_add(ticks, Relaxed);
        self.cpu_ns.fetch_add(scale(ticks, RATE.load(Relaxed)), Relaxed);
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
