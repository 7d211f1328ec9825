//! The scheduler: which thread runs on which virtual CPU.
//!
//! * [`schedule`], [`start`], [`interrupt`], [`yield_now`], [`cond_resched`]: what other subsystems call.
//! * [`hotplug`]: virtual CPUs that come and go. [`group`]: who shares with whom. [`deadline`]: who is promised bandwidth.
//! * `cpu`: the queue of each virtual CPU and the switch itself. `place`: where a woken thread goes.
//!   `idle`: looking for work, polling, the doorbell. `entity`: what a task carries for the scheduler.
//!   `host`: when a virtual CPU looks whether its host CPU is a good one. `virt`: virtual time. [`times`]: what virtual CPUs did with theirs.
//!
//! A thread that blocks stays on its stack and idles there if nothing else is runnable: a sleep that ends soon costs no
//! switch. Its run-queue entity travels: queue → running → (queue | the task's pocket while it is blocked).
//!
//! Kernel code is not preempted: a waiting interrupt is served at the exit to guest code, in the idle loop and here.
//!
//! Locks: `Rank::RunQueue` (one a virtual CPU), nothing is taken under it. Times: CLOCK_MONOTONIC, ns.

mod cpu;
pub mod deadline;
mod entity;
pub mod group;
mod host;
pub mod hotplug;
mod idle;
mod place;
pub mod times;
mod virt;

pub use cpu::{
    adopt_boot_thread, current, exit_current, finish_switch, has_work, idle_forever, need_resched, prepare_idle_task,
    schedule, serve_interrupts,
};
pub use entity::{Affinity, Entity};
pub use place::program_timer;
pub use virt::{admit_others, begin_virtual_time, emulate_counter, report as virtual_report, take_turns};

use crate::Result;
use crate::task::Task;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use umbel_abi::machine::Mailbox;
use umbel_mm::heap;
use umbel_mm::stack::KernelStack;
use umbel_smp::runqueue::Arrival;
use umbel_smp::thread::{Thread, ThreadRef, WakeEnd};
use umbel_smp::{BlockEnd, Schedule, cpu as vcpu, ipi};

/// Has the other virtual CPUs give back what their magazines of the heap hold, as soon as they look for interrupts.
pub fn ask_for_memory() {
    heap::ask_others();
    let own = vcpu::this().id();
    for vcpu in vcpu::all().filter(|vcpu| vcpu.id() != own) {
        ipi::send(vcpu.id(), Mailbox::RESCHEDULE);
    }
}

/// The kernel's scheduler, as the layers below see it.
struct KernelSchedule;

impl Schedule for KernelSchedule {
    fn current(&self) -> ThreadRef {
        cpu::current_thread()
    }

    fn block(&self, deadline_ns: Option<u64>) -> BlockEnd {
        cpu::block(deadline_ns)
    }

    fn wake(&self, thread: &ThreadRef) -> bool {
        finish_wake(thread, thread.wake())
    }

    fn interrupted(&self) -> bool {
        cpu::current_thread().interrupted()
    }
}

/// Registers the scheduler with the layers below. Once at boot.
pub fn init() {
    static SCHEDULE: KernelSchedule = KernelSchedule;
    umbel_smp::register(&SCHEDULE);
}

/// Puts a new task on a run queue.
pub fn start(task: &Arc<Task>) {
    place::enqueue(task, Arrival::New);
}

/// Makes `task` look at its signals and its state soon: ends an interruptible wait, or interrupts guest code.
pub fn interrupt(task: &Arc<Task>) {
    if !finish_wake(&task.thread, task.thread.interrupt()) {
        cpu::poke_if_running(task);
    }
}

/// What a wake-up leaves to do; returns whether the thread was blocked.
fn finish_wake(thread: &Thread, end: WakeEnd) -> bool {
    match end {
        WakeEnd::Enqueue => {
            if let Some(task) = thread.owner::<Task>() {
                place::enqueue(&task, Arrival::Woken);
            }
            true
        }
        WakeEnd::Caught => {
            if let Some(task) = thread.owner::<Task>() {
                cpu::poke_if_idling(&task);
            }
            true
        }
        WakeEnd::NotBlocked => false,
    }
}

/// Lets others of this virtual CPU run first, as sched_yield(2).
pub fn yield_now() {
    cpu::yield_now();
}

/// For long loops in the kernel: serves interrupts and gives way if something else should run. May block.
pub fn cond_resched() {
    serve_interrupts();
    take_turns();
    if need_resched() {
        schedule();
    }
}

/// A new thread with a kernel stack of its own, ready to be started for `task_main`.
///
/// # Errors
/// `ENOMEM`.
pub fn new_thread(space: u64) -> Result<(ThreadRef, Option<KernelStack>)> {
    let mut stack = KernelStack::new()?;
    let thread = Arc::new(Thread::new(space, 0));
    thread.sp.store(stack.prepare(crate::task::task_main), Relaxed);
    Ok((thread, Some(stack)))
}

/// The thread that runs already, on a stack that is not ours.
pub fn adopted_thread() -> (ThreadRef, Option<KernelStack>) {
    (Arc::new(Thread::adopted(0, 0)), None)
}

/// The running thread leaves its address space for good.
pub fn leave_space(task: &Task) {
    task.thread.space.store(0, Relaxed);
}

/// The running thread goes on in the address space `space`.
pub fn enter_space(task: &Task, space: u64) {
    umbel_smp::switch::move_to_space(&task.thread, space);
}

/// What `task` is scheduled by, or its affinity, changed: that counts at once, wherever it is.
pub fn class_changed(task: &Task) {
    place::requeue(task);
}

/// Load averages of 1, 5 and 15 minutes, times 2^11.
pub fn load_average() -> [u64; 3] {
    place::load_average()
}

/// Number of virtual CPUs that there may ever be: the length of sets of them.
pub fn possible() -> u32 {
    vcpu::control().boot.possible.max(1)
}

/// The virtual CPUs that run threads, ascending.
pub fn online() -> impl Iterator<Item = u32> {
    vcpu::all().filter(|vcpu| vcpu.is_online()).map(vcpu::Vcpu::id)
}

/// Sleeps until CLOCK_MONOTONIC `deadline_ns`, deaf to interrupts. For kernel threads, and who waits for others in a loop.
pub fn sleep_until(deadline_ns: u64) {
    let queue = umbel_smp::wait::WaitQueue::new();
    let _ = queue.wait_deadline(deadline_ns, || None::<()>);
}
