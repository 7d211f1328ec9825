//! Where runnable threads go, when slices end, and how load moves between virtual CPUs.
//!
//! A woken thread is queued on the waker's virtual CPU, because that is about to block more often than not and a wake-up
//! of a sleeping host thread costs more than most of the work. If the waker has not blocked soon after its last wake-ups, or
//! has woken another already, an idle virtual CPU is called at once, and comes to steal; a slice's end calls one in any case.
//!
//! Where virtual CPUs outnumber the host's and enough of them are busy, one more does not get more done: it would take its
//! time from the others and bring the thread's address space to one more slot. Then threads move only when they have
//! waited for a while, so that a machine still uses all its virtual CPUs, and idle ones do not poll.

use super::cpu::{self, Cpu};
use super::entity::QueueEntity;
use super::{host, hotplug, virt};
use crate::task::Task;
use crate::time::{self, timer};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::*};
use umbel_abi::machine::Mailbox;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::runqueue::{Arrival, BASE_SLICE_NS};
use umbel_smp::thread::ThreadRef;
use umbel_smp::{cpu as vcpu, ipi, vtime};

/// A block within this time after a wake-up is a hand-over.
const HAND_OVER_NS: u64 = 30_000;
/// So many hand-overs in a row are a habit.
const HABIT: u32 = 2;
/// After so long a queue needs help, whoever is about to block.
const LONG_NS: u64 = BASE_SLICE_NS;
/// The least that SCHED_DEADLINE runs at once: without, a short budget would be used up on the way to guest code. What is too
/// much is paid back.
const GRAIN_NS: u64 = 100_000;
/// The least that guest code runs before a timer interrupts it, which takes some 5 us by itself: without, it would not get on
/// at all while timers expire faster. Less than Linux's timer slack.
const LEAST_GUEST_NS: u64 = 20_000;
/// Slices are stretched by this at most.
const MAX_STRETCH: u32 = 8;

/// By how much slices are longer than threads ask for: while many virtual CPUs share a host CPU, each stands still for most of
/// its slice, and without that each of its turns would be a slice's end. Worked out at the ends of slices.
static STRETCH: AtomicU32 = AtomicU32::new(1);

fn stretched(ns: u64) -> u64 {
    ns * u64::from(STRETCH.load(Relaxed))
}

/// Queues a Runnable task, and makes somebody look if that is needed.
pub(super) fn enqueue(task: &Arc<Task>, arrival: Arrival) {
    let here = vcpu::this().id();
    let Some(mut entity) = task.sched.pocket.lock().take() else { return };
    task.sched.news().into_iter().for_each(|params| entity.configure(params));
    loop {
        match push(task, entity, arrival, here) {
            Ok(()) => return,
            // That virtual CPU has gone since.
            Err(back) => entity = back,
        }
    }
}

/// Puts `entity` on the queue where its task should run, or gives it back if that takes no more.
fn push(task: &Arc<Task>, mut entity: QueueEntity, arrival: Arrival, here: u32) -> Result<(), QueueEntity> {
    if arrival == Arrival::Woken && entity.is_budgeted() {
        entity.wake(time::monotonic_ns());
    }
    let target = choose(task, here);
    task.sched.cpu.store(target, Relaxed);
    virt::note_ready(task);
    let cpu = cpu::get(target);
    let (urgent, queued) = {
        let mut queue = cpu.queue.lock();
        let queue = &mut *queue;
        queue.run.try_push(entity, arrival)?;
        let queued = queue.run.len() as u32;
        if queued == 1 {
            cpu.waiting_since_ns.store(time::monotonic_ns(), Relaxed);
        }
        cpu.note(queue);
        let urgent = match &queue.running {
            Some(running) => arrival != Arrival::New && queue.run.preempts(running),
            None => true,
        };
        (urgent, queued)
    };
    if target != here {
        if urgent {
            cpu.resched.store(true, Relaxed);
        }
        ipi::send(target, Mailbox::RESCHEDULE);
        return Ok(());
    }
    if cpu.idle.load(Relaxed) {
        return Ok(());
    }
    if urgent {
        cpu.resched.store(true, Relaxed);
    }
    start_slice(here);
    called_for_help(here, queued);
    Ok(())
}

/// The virtual CPU for a task that becomes runnable.
fn choose(task: &Arc<Task>, here: u32) -> u32 {
    let affinity = task.sched.affinity();
    let good = |&cpu: &u32| affinity.has(cpu) && hotplug::is_online(cpu);
    if affinity.has(here) && vcpu::this().is_online() {
        return here;
    }
    let last = task.sched.last_cpu();
    if let Some(cpu) = Some(last).filter(good).or_else(|| (0..vcpu::count()).find(good)) {
        return cpu;
    }
    hotplug::break_affinity(task, last);
    if vcpu::this().is_online() { here } else { 0 }
}

/// The running task woke somebody onto its own queue, where so many are `queued` now: calls an idle virtual CPU unless the task
/// is about to block and leave this one to the only one that waits.
fn called_for_help(here: u32, queued: u32) {
    let waker = cpu::current();
    let now_ns = time::monotonic_ns();
    waker.sched.woke_ns.store(now_ns, Relaxed);
    let own = cpu::get(here);
    let alone = queued == 1 && waker.sched.hands_over.load(Relaxed) >= HABIT;
    if !alone && !host_is_full(here, 1) {
        call_idle(here);
    } else if own.waits_long(now_ns) && now_ns.saturating_sub(own.called_ns.load(Relaxed)) > stretched(LONG_NS) {
        own.called_ns.store(now_ns, Relaxed);
        call_idle(here);
    }
}

/// Whether the virtual CPUs other than `here`, with `own` more, keep all host CPUs busy that the machine may use. Only where
/// virtual CPUs outnumber these.
pub(super) fn host_is_full(here: u32, own: u32) -> bool {
    let (count, host) = (vcpu::count(), crate::machine::host_cpus());
    if count <= host || vtime::on() {
        return false;
    }
    let busy = |&id: &u32| id != here && !cpu::get(id).idle.load(Relaxed) && hotplug::is_online(id);
    let needed = host.saturating_sub(own) as usize;
    (0..count).filter(busy).take(needed).count() == needed
}

impl Cpu {
    /// Whether something has been queued here for long.
    fn waits_long(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.waiting_since_ns.load(Relaxed)) > stretched(LONG_NS)
    }
}

/// The running task blocks now.
pub(super) fn note_block(task: &Task) {
    let woke_ns = task.sched.woke_ns.swap(0, Relaxed);
    if woke_ns == 0 {
        return;
    }
    let habit = &task.sched.hands_over;
    if time::monotonic_ns().saturating_sub(woke_ns) < HAND_OVER_NS {
        habit.store((habit.load(Relaxed) + 1).min(8), Relaxed);
    } else {
        habit.store(0, Relaxed);
    }
}

/// Makes one idle virtual CPU look for work.
fn call_idle(here: u32) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = vcpu::count();
    if count == 1 {
        return;
    }
    let first = NEXT.fetch_add(1, Relaxed);
    for step in 0..count {
        let id = (first.wrapping_add(step)) % count;
        if id != here && cpu::get(id).idle.load(SeqCst) && virt::may_be_called(id) {
            ipi::send(id, Mailbox::HELP);
            return;
        }
    }
}

/// This virtual CPU was called for help, but what it idled for has come meanwhile: another idle one helps, if it is still wanted.
pub(super) fn pass_on(here: u32) {
    let waits = |id: u32| id != here && cpu::get(id).queued.load(Relaxed) != 0;
    if !host_is_full(here, 1) && (0..vcpu::count()).any(waits) {
        call_idle(here);
    }
}

/// Takes something that waits elsewhere; returns whether it did.
pub(super) fn steal(here: u32, own: &Cpu) -> bool {
    steal_from(here, own, |_| true)
}

/// The same, from those with whom something has waited for long.
pub(super) fn steal_late(here: u32, own: &Cpu) -> bool {
    let now_ns = time::monotonic_ns();
    steal_from(here, own, |other| other.waits_long(now_ns))
}

fn steal_from(here: u32, own: &Cpu, accept: impl Fn(&Cpu) -> bool) -> bool {
    let count = vcpu::count();
    if !vcpu::this().is_online() {
        return false;
    }
    for step in 1..count {
        let other = cpu::get((here + step) % count);
        if other.queued.load(Relaxed) == 0 || !accept(other) {
            continue;
        }
        let may_move = |thread: &ThreadRef| may_run(thread, here);
        let stolen = {
            let mut queue = other.queue.lock();
            let stolen = queue.run.steal(may_move);
            other.queued.store(queue.run.len() as u32, Relaxed);
            stolen
        };
        let Some(entity) = stolen else { continue };
        if let Some(task) = entity.item.owner::<Task>() {
            task.sched.cpu.store(here, Relaxed);
        }
        let mut queue = own.queue.lock();
        queue.run.push(entity, Arrival::Moved);
        own.queued.store(queue.run.len() as u32, Relaxed);
        crate::stats::STEALS.add(1);
        return true;
    }
    false
}

fn may_run(thread: &ThreadRef, cpu: u32) -> bool {
    thread.owner::<Task>().is_none_or(|task| task.sched.affinity().has(cpu))
}

/// A cross-call asked to look at the queue.
pub(super) fn look(id: u32, cpu: &Cpu) {
    hotplug::report_broken();
    if cpu.queued.load(Relaxed) != 0 || vcpu::this().life.is_leaving() {
        cpu.resched.store(true, Relaxed);
        // What another virtual CPU put here may have to wait for the end of a slice that nobody has begun.
        start_slice(id);
    } else if cpu.idle.load(Relaxed) {
        steal(id, cpu);
    }
}

/// Another thread runs now: its slice ends sometime if anything waits.
pub(super) fn new_slice(id: u32) {
    cpu::get(id).slice_end_ns.store(0, Relaxed);
    start_slice(id);
}

/// Something waits here: the running slice ends sometime.
pub(super) fn start_slice(id: u32) {
    let cpu = cpu::get(id);
    if (cpu.queued.load(Relaxed) != 0 || cpu.budgeted.load(Relaxed)) && cpu.slice_end_ns.load(Relaxed) == 0 {
        cpu.slice_end_ns.store(time::monotonic_ns() + slice_ns(cpu), Relaxed);
    }
}

fn slice_ns(cpu: &Cpu) -> u64 {
    let queue = cpu.queue.lock();
    let slice_ns = queue.run.slice_ns(queue.running.as_deref());
    if cpu.budgeted.load(Relaxed) { slice_ns.max(GRAIN_NS) } else { stretched(slice_ns) }
}

/// Two busy virtual CPUs a host CPU are what an odd thread more makes: slices stretch from there on.
fn stretch() -> u32 {
    let (count, host) = (vcpu::count(), crate::machine::host_cpus().max(1));
    if count <= host || vtime::on() {
        return 1;
    }
    let busy = (0..count).filter(|&id| !cpu::get(id).idle.load(Relaxed) && hotplug::is_online(id)).count() as u32;
    stretch_of(busy, host)
}

fn stretch_of(busy: u32, host: u32) -> u32 {
    (busy / (2 * host)).clamp(1, MAX_STRETCH)
}

/// Looks whether the running slice is over.
pub(super) fn tick(id: u32, cpu: &Cpu) {
    let end_ns = cpu.slice_end_ns.load(Relaxed);
    if end_ns == 0 || time::monotonic_ns() < end_ns {
        return;
    }
    cpu.slice_end_ns.store(0, Relaxed);
    if (cpu.queued.load(Relaxed) == 0 && !cpu.budgeted.load(Relaxed)) || cpu.idle.load(Relaxed) {
        return;
    }
    let task = cpu::current();
    task.sched.hands_over.store(0, Relaxed);
    let now_ns = cpu::account(&task, time::monotonic_ns());
    drop(task);
    if cpu::expired(cpu, now_ns) {
        cpu.resched.store(true, Relaxed);
    }
    STRETCH.store(stretch(), Relaxed);
    cpu.slice_end_ns.store(now_ns + slice_ns(cpu), Relaxed);
    balance(id);
    tell_of_starving(id, cpu, now_ns);
}

/// Logs, once a switch, that threads wait here for longer than the watch allows.
fn tell_of_starving(id: u32, cpu: &Cpu, now_ns: u64) {
    let since_ns = cpu.switched_ns.load(Relaxed).max(cpu.waiting_since_ns.load(Relaxed));
    let waited_ns = now_ns.saturating_sub(since_ns);
    let limit_ns = crate::drivers::watch::limit_ns();
    let queued = cpu.queued.load(Relaxed);
    if queued == 0 || limit_ns == 0 || waited_ns < limit_ns || cpu.told.swap(true, Relaxed) {
        return;
    }
    let task = cpu::current();
    let comm = task.comm();
    let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let (comm, waited_s) = (alloc::string::String::from_utf8_lossy(comm), waited_ns / 1_000_000_000);
    log::error!(
        "watchdog: CPU#{id}: {queued} threads wait for {waited_s}s while process {} ({comm}) runs",
        task.tid().0
    );
}

/// Calls an idle virtual CPU to what waits here, or pushes one thread to a queue that is shorter by two.
fn balance(here: u32) {
    call_idle(here);
    let count = vcpu::count();
    let own = cpu::get(here);
    let load = |id: u32| cpu::get(id).queued.load(Relaxed) + u32::from(!cpu::get(id).idle.load(Relaxed));
    let others = (0..count).filter(|&id| id != here && hotplug::is_online(id));
    let Some(target) = others.min_by_key(|&id| load(id)) else { return };
    if load(target) + 2 > load(here) {
        return;
    }
    let moved = {
        let mut queue = own.queue.lock();
        let moved = queue.run.steal(|thread| may_run(thread, target));
        own.queued.store(queue.run.len() as u32, Relaxed);
        moved
    };
    let Some(entity) = moved else { return };
    if let Some(task) = entity.item.owner::<Task>() {
        task.sched.cpu.store(target, Relaxed);
    }
    let cpu = cpu::get(target);
    let pushed = {
        let mut queue = cpu.queue.lock();
        let pushed = queue.run.try_push(entity, Arrival::Moved);
        cpu.queued.store(queue.run.len() as u32, SeqCst);
        pushed
    };
    if let Err(entity) = pushed {
        if let Some(task) = entity.item.owner::<Task>() {
            *task.sched.pocket.lock() = Some(entity);
            enqueue(&task, Arrival::Moved);
        }
        return;
    }
    crate::stats::STEALS.add(1);
    ipi::send(target, Mailbox::RESCHEDULE);
}

/// The next thing that this virtual CPU must not miss, whatever runs.
pub(super) fn next_event(id: u32) -> Option<u64> {
    let next = timer::next_deadline(id);
    match cpu::get(id).replenish_ns.load(Relaxed) {
        0 => next,
        period_ns => Some(next.map_or(period_ns, |next| next.min(period_ns))),
    }
}

/// Those whose next period has begun may run again.
pub(super) fn replenish(id: u32, cpu: &Cpu) {
    let next_ns = cpu.replenish_ns.load(Relaxed);
    if next_ns == 0 || time::monotonic_ns() < next_ns {
        return;
    }
    {
        let mut queue = cpu.queue.lock();
        let queue = &mut *queue;
        queue.run.replenish(time::monotonic_ns());
        cpu.note(queue);
        if queue.running.as_ref().is_none_or(|running| queue.run.preempts(running)) {
            cpu.resched.store(true, Relaxed);
        }
    }
    start_slice(id);
}

/// Timers have run since `began_ns`: whatever else they ask for, guest code runs for as long now. Without this, timers that are
/// armed again faster than they can be served would leave it nothing.
pub(super) fn calm(cpu: &Cpu, began_ns: u64) {
    let now_ns = time::monotonic_ns();
    cpu.calm_ns.store(now_ns + now_ns.saturating_sub(began_ns), Relaxed);
}

/// Sets the host's timer to the next thing that this virtual CPU must not miss. Call before guest code runs.
pub fn program_timer() {
    let (id, cpu) = cpu::this();
    if cpu.budgeted.load(Relaxed) {
        start_slice(id);
    }
    let slice = cpu.slice_end_ns.load(Relaxed);
    let next = [next_event(id), host::deadline(cpu)].into_iter().flatten().min();
    let next = match next {
        Some(deadline) if slice == 0 || deadline < slice => deadline,
        _ => slice,
    };
    let next = virt::timer_deadline(next);
    if next != cpu.timer_ns.load(Relaxed) {
        let now_ns = time::monotonic_ns();
        let calm_ns = cpu.calm_ns.load(Relaxed).max(now_ns + LEAST_GUEST_NS);
        let next = if next == 0 || vtime::on() { next } else { next.max(calm_ns) };
        // An earlier setting than needed is harmless: the receiver looks at the clock.
        let set = cpu.timer_ns.load(Relaxed);
        if next == 0 || (set != 0 && set <= next && set > now_ns) {
            return;
        }
        cpu.timer_ns.store(next, Relaxed);
        vcpu::set_timer(time::clock::host_deadline(next));
    }
}

/// Parameters of `task` changed: its entity follows where it is, and its CPU chooses anew. One that is on its way somewhere
/// follows when it gets there.
pub(super) fn requeue(task: &Task) {
    loop {
        let target = task.sched.last_cpu();
        let cpu = cpu::get(target);
        if let (Some(entity), Some(task)) = (follow(task, target, cpu), task.thread.owner::<Task>()) {
            *task.sched.pocket.lock() = Some(entity);
            enqueue(&task, Arrival::Moved);
        }
        cpu.resched.store(true, Relaxed);
        // What runs may have less left now.
        if target == vcpu::this().id() {
            new_slice(target);
        } else {
            cpu.slice_end_ns.store(0, Relaxed);
            ipi::send(target, Mailbox::RESCHEDULE);
        }
        if task.sched.last_cpu() == target {
            return;
        }
    }
}

/// Makes the entity of `task` follow, if it runs or waits on virtual CPU `id`; takes it out of the queue if it may not wait
/// there any more.
fn follow(task: &Task, id: u32, cpu: &Cpu) -> Option<QueueEntity> {
    let is_it = |thread: &ThreadRef| Arc::ptr_eq(thread, &task.thread);
    let mut queue = cpu.queue.lock();
    let queue = &mut *queue;
    if let Some(running) = queue.running.as_mut().filter(|running| is_it(&running.item)) {
        task.sched.news().into_iter().for_each(|params| queue.run.configure(running, params));
        cpu.note(queue);
        return None;
    }
    let mut entity = queue.run.take(is_it)?;
    task.sched.news().into_iter().for_each(|params| entity.configure(params));
    if task.sched.affinity().has(id) {
        queue.run.push(entity, Arrival::Moved);
        cpu.note(queue);
        return None;
    }
    cpu.note(queue);
    Some(entity)
}

/// Exponentially decaying averages of runnable threads, times 2^11; updated when somebody asks or at ticks.
pub(super) fn load_average() -> [u64; 3] {
    LOAD.lock().averages
}

struct Load {
    updated_ns: u64,
    averages: [u64; 3],
}

static LOAD: SpinLock<Load> = SpinLock::new(Rank::Leaf, Load { updated_ns: 0, averages: [0; 3] });

/// Time between updates, as on Linux.
const LOAD_PERIOD_NS: u64 = 5_000_000_000;
/// Decay in one period, of 2^11.
const LOAD_DECAY: [u64; 3] = [1884, 2014, 2037];

/// Updates the load averages if a period has passed. Cheap otherwise.
pub(super) fn update_load(now_ns: u64) {
    let Some(mut load) = LOAD.try_lock() else { return };
    if load.updated_ns == 0 {
        load.updated_ns = now_ns;
    }
    let periods = (now_ns.saturating_sub(load.updated_ns) / LOAD_PERIOD_NS).min(1000);
    if periods == 0 {
        return;
    }
    load.updated_ns += periods * LOAD_PERIOD_NS;
    let runnable: u64 = (0..vcpu::count())
        .map(cpu::get)
        .map(|cpu| u64::from(cpu.queued.load(Relaxed)) + u64::from(!cpu.idle.load(Relaxed)))
        .sum();
    for _ in 0..periods {
        for (average, decay) in load.averages.iter_mut().zip(LOAD_DECAY) {
            *average = (*average * decay + (runnable << 11) * (2048 - decay)) >> 11;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stretch_where_virtual_cpus_crowd() {
        assert_eq!([0, 1, 2, 4].map(|busy| stretch_of(busy, 2)), [1; 4]);
        assert_eq!([8, 12, 64, 256].map(|busy| stretch_of(busy, 2)), [2, 3, 8, 8]);
        assert_eq!([2, 64].map(|busy| stretch_of(busy, 1)), [1, 8]);
    }
}
