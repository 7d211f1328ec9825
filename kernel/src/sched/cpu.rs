//! One virtual CPU's queue, the running thread, and the switch from one to the next.

use super::entity::QueueEntity;
use super::{host, hotplug, idle, place, times, virt};
use crate::stats;
use crate::task::Task;
use crate::time::{self, timer};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*, fence};
use umbel_abi::machine::{MAX_CPUS, Mailbox};
use umbel_mm::heap::{self, account};
use umbel_smp::lock::{Rank, SpinLock, might_sleep};
use umbel_smp::runqueue::{Arrival, Class, Requeue, RunQueue};
use umbel_smp::thread::{SwitchedOut, ThreadRef};
use umbel_smp::{BlockEnd, cpu as vcpu, ipi, switch, vtime};

/// A virtual CPU as the scheduler sees it.
pub(super) struct Cpu {
    pub queue: SpinLock<Queue>,
    /// What runs here. Only this virtual CPU looks; the lock is for the type system.
    current: SpinLock<Option<Arc<Task>>>,
    /// What runs when nothing else can: the boot thread. Likewise.
    idle_task: SpinLock<Option<Arc<Task>>>,
    /// What ran here before, until its context is saved. Likewise.
    departing: SpinLock<Option<Departing>>,
    /// Something else should run at the next opportunity.
    pub resched: AtomicBool,
    /// Entities queued, to look at without the lock.
    pub queued: AtomicU32,
    /// In the idle loop.
    pub idle: AtomicBool,
    /// When a slice ends, 0 = nobody waits.
    pub slice_end_ns: AtomicU64,
    /// What runs is SCHED_DEADLINE: its slice ends even if nobody waits.
    pub budgeted: AtomicBool,
    /// When the next period begins of somebody who rests here, 0 = nobody does.
    pub replenish_ns: AtomicU64,
    /// What the host's timer is set to, 0 = nothing.
    pub timer_ns: AtomicU64,
    /// Until when guest code is left alone by timers.
    pub calm_ns: AtomicU64,
    /// When something came to an empty queue.
    pub waiting_since_ns: AtomicU64,
    /// When it last called for help because something waited for long.
    pub called_ns: AtomicU64,
    /// When it last changed threads, and whether it was told since that others wait for too long.
    pub switched_ns: AtomicU64,
    pub told: AtomicBool,
    /// When it looks next whether it is on a good host CPU, 0 = when it has switched.
    pub look_ns: AtomicU64,
    /// How long it was not there.
    pub away_ns: AtomicU64,
    pub clock: times::Clock,
}

/// Protected by `Cpu::queue`.
pub(super) struct Queue {
    pub run: RunQueue<ThreadRef>,
    /// The running thread's entity: popped, attached.
    pub running: Option<QueueEntity>,
}

impl Cpu {
    /// Its queue changed: what is looked at without the lock follows.
    pub fn note(&self, queue: &Queue) {
        self.replenish_ns.store(queue.run.resting_until().unwrap_or(0), Relaxed);
        self.budgeted.store(queue.running.as_ref().is_some_and(|running| running.is_budgeted()), Relaxed);
        self.queued.store(queue.run.len() as u32, SeqCst);
    }

    /// Whether what runs here goes on. If not, this virtual CPU looks for work itself, before it is idle.
    fn is_busy(&self) -> bool {
        let task = current();
        !task.thread.is_blocking() && !self.idle_task.lock().as_ref().is_some_and(|idle| Arc::ptr_eq(idle, &task))
    }
}

/// A thread that is being switched out.
struct Departing {
    task: Arc<Task>,
    entity: Option<QueueEntity>,
    why: Leave,
}

/// Why a thread gives up the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// It is Blocking; its entity is detached.
    Blocks,
    /// Its entity is still attached here.
    Runnable(Requeue),
    /// It is the boot thread, which has no entity.
    Idles,
    /// For ever.
    Dies,
}

static CPUS: [Cpu; MAX_CPUS] = [const {
    Cpu {
        queue: SpinLock::new(Rank::RunQueue, Queue { run: RunQueue::new(), running: None }),
        current: SpinLock::new(Rank::Leaf, None),
        idle_task: SpinLock::new(Rank::Leaf, None),
        departing: SpinLock::new(Rank::Leaf, None),
        resched: AtomicBool::new(false),
        queued: AtomicU32::new(0),
        idle: AtomicBool::new(false),
        slice_end_ns: AtomicU64::new(0),
        budgeted: AtomicBool::new(false),
        replenish_ns: AtomicU64::new(0),
        timer_ns: AtomicU64::new(0),
        calm_ns: AtomicU64::new(0),
        waiting_since_ns: AtomicU64::new(0),
        called_ns: AtomicU64::new(0),
        switched_ns: AtomicU64::new(0),
        told: AtomicBool::new(false),
        look_ns: AtomicU64::new(0),
        away_ns: AtomicU64::new(0),
        clock: times::Clock::new(),
    }
}; MAX_CPUS];

/// The virtual CPU that runs this.
pub(super) fn this() -> (u32, &'static Cpu) {
    let id = vcpu::this().id();
    (id, get(id))
}

/// Virtual CPU number `cpu`.
pub(super) fn get(cpu: u32) -> &'static Cpu {
    &CPUS[cpu as usize % MAX_CPUS]
}

/// The running task.
///
/// # Panics
/// Before the boot thread is adopted: no guest can cause that.
pub fn current() -> Arc<Task> {
    this().1.current.lock().clone().expect("a task runs on every virtual CPU once it is started")
}

pub(super) fn current_thread() -> ThreadRef {
    current().thread.clone()
}

/// Gives virtual CPU `cpu`, which does not run yet, its boot thread.
pub fn prepare_idle_task(cpu: u32, task: Arc<Task>) {
    let own = get(cpu);
    *own.idle_task.lock() = Some(task);
    own.queue.lock().run.set_cpu(cpu);
}

/// Adopts the boot context of this virtual CPU as the task prepared for it, which has no stack of its own. It becomes the
/// idle thread, and the virtual CPU is there.
pub fn adopt_boot_thread() {
    let (id, cpu) = this();
    let task = cpu.idle_task.lock().clone();
    if let Some(task) = &task {
        task.sched.cpu.store(id, Relaxed);
    }
    *cpu.current.lock() = task;
    cpu.away_ns.store(time::monotonic_ns().saturating_sub(crate::machine::started_ns()), Relaxed);
    hotplug::start_here();
}

/// What the boot thread does for ever: runs whatever can run.
pub fn idle_forever() -> ! {
    loop {
        serve_interrupts();
        match pick() {
            Some(next) => switch(next, Leave::Idles),
            None if vcpu::this().life.is_leaving() => hotplug::go(),
            None => idle::wait(None, || false),
        }
    }
}

/// Switches away from the running thread for ever.
pub fn exit_current() -> ! {
    {
        let task = current();
        task.thread.die();
        super::deadline::leave(&task.sched);
        account(&task, time::monotonic_ns());
    }
    loop {
        serve_interrupts();
        if let Some(next) = pick().or_else(idle_task) {
            switch(next, Leave::Dies);
        }
    }
}

/// Whether something else should run here.
pub fn need_resched() -> bool {
    this().1.resched.load(Relaxed)
}

/// Whether anything waits for this virtual CPU.
pub fn has_work() -> bool {
    this().1.queued.load(Relaxed) != 0
}

/// Lets something more urgent run, if there is any. The caller stays runnable.
pub fn schedule() {
    give_way(Requeue::Preempted);
}

/// As sched_yield(2).
pub(super) fn yield_now() {
    serve_interrupts();
    give_way(Requeue::Yielded);
}

fn give_way(why: Requeue) {
    might_sleep();
    let (id, cpu) = this();
    cpu.resched.store(false, Relaxed);
    let task = current();
    let must_move = !may_stay(&task, id) || (cpu.budgeted.load(Relaxed) && must_rest(cpu, &task, why));
    if cpu.queued.load(Relaxed) == 0 && !must_move {
        return;
    }
    account(&task, time::monotonic_ns());
    if why == Requeue::Preempted && !must_move && !preempted(cpu) {
        return;
    }
    let next = if must_move { pick().or_else(idle_task) } else { pick() };
    if let Some(next) = next {
        if why == Requeue::Preempted {
            task.sched.involuntary.fetch_add(1, Relaxed);
            task.sched.hands_over.store(0, Relaxed);
        }
        switch(next, Leave::Runnable(why));
    }
}

/// Whether the running thread, which is SCHED_DEADLINE, must rest until its next period.
fn must_rest(cpu: &Cpu, task: &Arc<Task>, why: Requeue) -> bool {
    account(task, time::monotonic_ns());
    let spent = cpu.queue.lock().running.as_ref().is_some_and(|running| running.is_spent());
    if spent {
        super::deadline::tell_of_overrun(task);
    }
    spent || why == Requeue::Yielded
}

/// What was blocked, and runs here still, goes on.
fn wake_here(cpu: &Cpu, now_ns: u64) {
    let mut queue = cpu.queue.lock();
    if let Some(running) = &mut queue.running {
        running.wake(now_ns);
        if running.is_spent() {
            cpu.resched.store(true, Relaxed);
        }
    }
}

/// Whether something queued should run instead of the running thread.
pub(super) fn preempted(cpu: &Cpu) -> bool {
    let mut queue = cpu.queue.lock();
    let queue = &mut *queue;
    queue.running.as_ref().is_some_and(|running| queue.run.preempts(running))
}

/// The same at the end of a slice.
pub(super) fn expired(cpu: &Cpu, now_ns: u64) -> bool {
    let mut queue = cpu.queue.lock();
    let queue = &mut *queue;
    weigh_running(queue, now_ns);
    queue.running.as_ref().is_some_and(|running| queue.run.expires(running))
}

/// See [`umbel_smp::Schedule::block`].
pub(super) fn block(deadline_ns: Option<u64>) -> BlockEnd {
    might_sleep();
    let task = current();
    let thread = &task.thread;
    if !thread.is_blocking() {
        return BlockEnd::Woken;
    }
    place::note_block(&task);
    task.sched.voluntary.fetch_add(1, Relaxed);
    let mut timer = None;
    loop {
        serve_interrupts();
        if !thread.is_blocking() {
            break;
        }
        if deadline_ns.is_some_and(|deadline| time::monotonic_ns() >= deadline) {
            thread.cancel_block();
            break;
        }
        let (_, cpu) = this();
        // A virtual CPU that goes must not have anybody's stack.
        let leaving = vcpu::this().life.is_leaving();
        if cpu.queued.load(Relaxed) != 0 || leaving {
            if timer.is_none() {
                let late_ns = slack_ns(&task);
                timer = deadline_ns.and_then(|deadline| {
                    timer::arm(deadline.saturating_add(late_ns), timer::Target::Wake(thread.clone())).ok()
                });
            }
            account(&task, time::monotonic_ns());
            if let Some(next) = pick().or_else(|| if leaving { idle_task() } else { None }) {
                switch(next, Leave::Blocks);
                break;
            }
        }
        task.sched.total.end(account(&task, time::monotonic_ns()));
        idle::wait(deadline_ns, || !thread.is_blocking());
        // Idling on its stack is not its time.
        let now_ns = time::monotonic_ns();
        task.sched.total.begin(now_ns);
        task.sched.since_ns.store(now_ns, Relaxed);
        let (_, cpu) = this();
        cpu.clock.switched(now_ns);
        if cpu.budgeted.load(Relaxed) && !thread.is_blocking() {
            wake_here(cpu, now_ns);
        }
    }
    if let Some(timer) = timer {
        timer.cancel();
    }
    match deadline_ns {
        Some(deadline) if time::monotonic_ns() >= deadline => BlockEnd::TimedOut,
        _ => BlockEnd::Woken,
    }
}

/// How much later than asked a wait of `task` may end while others run (`PR_SET_TIMERSLACK`), as Linux lets those of the fair
/// class: a wait shorter than a switch would be over before whom it waits for had a chance.
fn slack_ns(task: &Task) -> u64 {
    match task.sched.class() {
        Class::Fair { .. } => task.timer_slack_ns.load(Relaxed),
        _ => 0,
    }
}

/// Charges the running thread up to `now_ns`; returns that.
pub(super) fn account(task: &Task, now_ns: u64) -> u64 {
    let since = task.sched.since_ns.swap(now_ns, Relaxed);
    let ran = if since == 0 { 0 } else { now_ns.saturating_sub(since) };
    if ran > 0 {
        let (_, cpu) = this();
        cpu.clock.charge(task, now_ns);
        let mut queue = cpu.queue.lock();
        let queue = &mut *queue;
        if let Some(entity) = &mut queue.running {
            queue.run.charge(entity, ran);
        }
    }
    now_ns
}

/// What runs next, with its entity; the boot thread has none.
type Next = (Arc<Task>, Option<QueueEntity>);

/// The thread that should run next here, taken off the queue; the running one's entity stays where it is.
fn pick() -> Option<Next> {
    let (id, cpu) = this();
    loop {
        let mut queue = cpu.queue.lock();
        let mut entity = queue.run.pop();
        let Some(task) = entity.as_ref()?.item.owner::<Task>() else { continue };
        let here = may_stay(&task, id);
        let news = task.sched.news();
        if let Some(entity) = &mut entity
            && (!here || news.is_some())
        {
            queue.run.detach(entity);
            news.into_iter().for_each(|params| entity.configure(params));
        } else {
            cpu.queued.store(queue.run.len() as u32, Relaxed);
            task.sched.cpu.store(id, Relaxed);
            return Some((task, entity));
        }
        // Its parameters changed while it was queued.
        match entity {
            Some(entity) if here => {
                queue.run.push(entity, Arrival::Moved);
                cpu.note(&queue);
            }
            entity => {
                cpu.queued.store(queue.run.len() as u32, Relaxed);
                drop(queue);
                *task.sched.pocket.lock() = entity;
                place::enqueue(&task, Arrival::Moved);
            }
        }
    }
}

/// Whether `task` may run on this virtual CPU, number `id`.
fn may_stay(task: &Task, id: u32) -> bool {
    task.sched.affinity().has(id) && !vcpu::this().life.is_leaving()
}

/// The boot thread, for when a thread must go and no other can run.
fn idle_task() -> Option<Next> {
    this().1.idle_task.lock().clone().map(|task| (task, None))
}

/// Makes `next` the running thread. Returns when the caller runs again, perhaps elsewhere; never for `Leave::Dies`.
fn switch((next, entity): Next, why: Leave) {
    let (id, cpu) = this();
    let Some(prev) = cpu.current.lock().take() else { return };
    virt::before_switch(&next);
    let now_ns = time::monotonic_ns();
    host::note_switch(cpu, now_ns);
    let old = {
        let mut queue = cpu.queue.lock();
        let queue = &mut *queue;
        let mut old = core::mem::replace(&mut queue.running, entity);
        // What changed since it was taken off the queue: nobody could find its entity meanwhile.
        if let (Some(running), Some(params)) = (&mut queue.running, next.sched.news()) {
            queue.run.configure(running, params);
        }
        weigh_running(queue, now_ns);
        if !matches!(why, Leave::Runnable(_))
            && let Some(old) = &mut old
        {
            queue.run.detach(old);
        }
        cpu.note(queue);
        old
    };
    account::enter(next.account());
    prev.sched.total.end(now_ns);
    next.sched.total.begin(now_ns);
    next.sched.since_ns.store(now_ns, Relaxed);
    cpu.clock.switched(now_ns);
    cpu.switched_ns.store(now_ns, Relaxed);
    cpu.told.store(false, Relaxed);
    next.thread.run();
    cpu.resched.store(false, Relaxed);
    place::new_slice(id);
    stats::SWITCHES.add(1);
    let prev_thread = prev.thread.clone();
    let thread = next.thread.clone();
    *cpu.departing.lock() = Some(Departing { task: prev, entity: old, why });
    *cpu.current.lock() = Some(next);
    if why == Leave::Dies {
        switch::switch_away(prev_thread, thread);
    }
    switch::switch_to(&prev_thread, &thread);
    drop(prev_thread);
    drop(thread);
    finish_switch();
}

/// What runs counts in its groups as it should by now: those on virtual CPUs that idle do not count.
pub(super) fn weigh_running(queue: &mut Queue, now_ns: u64) {
    let Some(running) = &mut queue.running else { return };
    let Some(group) = running.group() else { return };
    group.sum(now_ns, &|cpu| !get(cpu).idle.load(Relaxed));
    queue.run.reweigh(running);
}

/// First thing on the next thread's stack: the previous one's context is saved, it may run elsewhere now.
pub fn finish_switch() {
    let (id, cpu) = this();
    let Some(Departing { task, entity, why }) = cpu.departing.lock().take() else { return };
    match why {
        Leave::Idles => {}
        Leave::Dies => {
            drop(entity);
            let _ = task.thread.switched_out();
        }
        Leave::Blocks => {
            *task.sched.pocket.lock() = entity;
            if task.thread.switched_out() == SwitchedOut::Enqueue {
                place::enqueue(&task, Arrival::Woken);
            }
        }
        Leave::Runnable(why) => {
            let _ = task.thread.switched_out();
            if let Some(entity) = entity {
                put_back(id, cpu, &task, entity, why);
            }
        }
    }
}

/// Requeues a runnable thread, or moves it if it may not run here any more.
fn put_back(id: u32, cpu: &Cpu, task: &Arc<Task>, mut entity: QueueEntity, why: Requeue) {
    virt::note_ready(task);
    let stays = may_stay(task, id);
    let mut queue = cpu.queue.lock();
    if stays {
        queue.run.requeue(entity, why);
        cpu.note(&queue);
        drop(queue);
        place::start_slice(id);
        return;
    }
    queue.run.detach(&mut entity);
    drop(queue);
    *task.sched.pocket.lock() = Some(entity);
    place::enqueue(task, Arrival::Moved);
}

/// Handles what is pending for this virtual CPU: cross-calls, timers, devices. Never blocks.
pub fn serve_interrupts() {
    let (id, cpu) = this();
    let shared = vcpu::this().shared();
    // Nobody else writes it.
    shared.progress.store(shared.progress.load(Relaxed).wrapping_add(1), Relaxed);
    let line = ipi::line(shared);
    let bits = line.take();
    if bits != 0 {
        if bits & Mailbox::STOP != 0 {
            vcpu::stop_for_ever();
        }
        if bits & (Mailbox::DEVICE | Mailbox::TIMER) != 0 {
            vtime::free_of_charge(|| serve_host(cpu, bits));
        }
        // On its way here the slot caught up with what has gone, or it will before guest code runs.
        if bits & Mailbox::SHOOTDOWN != 0 {
            stats::FLUSHES.add(1);
        }
        if bits & Mailbox::RESCHEDULE != 0 {
            stats::CROSS_CALLS.add(1);
            heap::trim_if_asked();
            place::look(id, cpu);
        }
        if bits & Mailbox::HELP != 0 {
            stats::CROSS_CALLS.add(1);
            if cpu.is_busy() {
                place::pass_on(id);
            }
        }
        if bits & Mailbox::TIMER != 0 {
            virt::look_for_progress();
        }
    }
    if let Some(began_ns) = timer::run_expired(id) {
        place::calm(cpu, began_ns);
    }
    place::replenish(id, cpu);
    place::tick(id, cpu);
}

/// Interrupts that come when the host likes.
fn serve_host(cpu: &Cpu, bits: u32) {
    if bits & Mailbox::DEVICE != 0 {
        stats::DEVICE_INTERRUPTS.add(1);
        crate::drivers::interrupt();
        host::told(cpu, time::monotonic_ns());
    }
    if bits & Mailbox::TIMER != 0 {
        stats::TICKS.add(1);
        cpu.timer_ns.store(0, Relaxed);
        umbel_smp::slot::this().timer_fired();
        time::clock::reanchor();
        host::look(cpu, time::monotonic_ns());
        place::update_load(time::monotonic_ns());
    }
}

/// Interrupts guest code of `task` if that runs now.
pub(super) fn poke_if_running(task: &Task) {
    let cpu = task.sched.cpu.load(Relaxed);
    if cpu != vcpu::this().id() {
        fence(SeqCst);
        ipi::send(cpu, Mailbox::RESCHEDULE);
    }
}

/// `task` was about to block, perhaps idling on its own stack: makes it look.
pub(super) fn poke_if_idling(task: &Task) {
    poke_if_running(task);
}
