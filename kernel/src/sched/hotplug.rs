//! Virtual CPUs that come and go.
//!
//! [`set_online`] is for `/sys/devices/system/cpu/cpuN/online` and for the machine's requests (`umbel cpu`), which a kernel
//! thread carries out. One change at a time. Going offline, on the virtual CPU that goes: its threads are put elsewhere one
//! by one as it would run them, its queue is closed when it is empty, its timers are left to virtual CPU 0, its view of
//! update logs is taken back; then it sleeps with its slots, which keep what they are bound to and catch up when it is back.
//! Cross-calls to it wait in its mailbox until then: those who send one need nothing of a virtual CPU that runs nothing.
//!
//! Virtual CPU 0 takes the devices' interrupts and others' timers: it cannot go, as on x86 since Linux 6.5.
//! Locks: `CHANGE` (`SleepLeaf`), a run queue's. The stages and their order: [`umbel_smp::hotplug`].

use super::cpu;
use crate::task::Task;
use crate::time::{self, timer};
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::*};
use umbel_abi::machine::{CpuRequest, Mailbox};
use umbel_smp::hotplug::Stage;
use umbel_smp::lock::{Mutex, Rank, SpinLock};
use umbel_smp::wait::WaitQueue;
use umbel_smp::{cpu as vcpu, ipi, zygote};

/// One change at a time.
static CHANGE: Mutex<()> = Mutex::new(Rank::SleepLeaf, ());
/// Where whoever asked for a change, and the thread that asks for the machine, wait.
static CHANGED: WaitQueue = WaitQueue::new();

/// Whether virtual CPU `cpu` runs threads.
pub fn is_online(cpu: u32) -> bool {
    vcpu::get(cpu).is_some_and(vcpu::Vcpu::is_online)
}

/// Number of virtual CPUs that are there, online or not: they have the lowest numbers.
pub fn present() -> u32 {
    vcpu::count()
}

/// Brings virtual CPU `cpu` up or takes it down, and returns when that is done. Nothing if it is so already.
///
/// # Errors
/// `ENODEV`: it is not possible, or, to take it down, not there. `EBUSY`: virtual CPU 0 cannot go, nor one whose time is promised
/// (SCHED_DEADLINE). `ENOMEM`, `EAGAIN`: the
/// kernel, or the host, has no room for one more. `EOPNOTSUPP`: in virtual time, in which those that take part are fixed.
pub fn set_online(cpu: u32, online: bool) -> Result<()> {
    if umbel_smp::vtime::on() {
        return Err(Errno::EOPNOTSUPP);
    }
    let _one = CHANGE.lock();
    match online {
        true => bring_up(cpu),
        false => take_down(cpu),
    }
}

fn take_down(cpu: u32) -> Result<()> {
    let vcpu = vcpu::get(cpu).ok_or(Errno::ENODEV)?;
    if cpu == 0 {
        return Err(Errno::EBUSY);
    }
    if is_online(cpu) && !super::deadline::fits_without_one() {
        return Err(Errno::EBUSY);
    }
    if vcpu.life.leave() {
        ipi::send(cpu, Mailbox::RESCHEDULE);
        CHANGED.wait_until(|| (vcpu.life.stage() == Stage::Offline).then_some(()));
        log::info!("smpboot: CPU {cpu} is now offline");
    }
    Ok(())
}

fn bring_up(cpu: u32) -> Result<()> {
    // Numbers below the first that was never made exist; the next one can.
    let next = present();
    if cpu >= super::possible() || cpu > next {
        return Err(Errno::ENODEV);
    }
    if is_online(cpu) {
        return Ok(());
    }
    let absent = vcpu::get(cpu).is_none_or(|vcpu| vcpu.life.stage() == Stage::Absent);
    if absent {
        umbel_mm::heap::room_hot(ROOM)?;
        cpu::prepare_idle_task(cpu, crate::task::kthread::idle()?);
        zygote::create(cpu)?;
    }
    let vcpu = vcpu::get(cpu).ok_or(Errno::ENODEV)?;
    vcpu.life.call();
    let there = CHANGED.wait_until(|| match vcpu.life.stage() {
        Stage::Online => Some(true),
        Stage::Absent => Some(false),
        _ => None,
    });
    if !there {
        return Err(Errno::EAGAIN);
    }
    log::info!("smpboot: CPU {cpu} is now online");
    Ok(())
}

/// Kernel memory that a new virtual CPU takes: stack and first slot.
const ROOM: u64 = 256 << 10;

/// The running virtual CPU boots. Those that the machine starts with are there already, and may have been asked to go.
pub(super) fn start_here() {
    if vcpu::this().life.stage() == Stage::Coming {
        arrive();
    }
}

/// The running virtual CPU is ready for threads: it is new, or back.
fn arrive() {
    let (id, own) = cpu::this();
    timer::take_back(id);
    own.queue.lock().run.open();
    vcpu::this().life.arrive();
    CHANGED.wake_all();
}

/// On the boot thread of a virtual CPU that leaves and has nothing queued: sleeps until it is called back.
pub(super) fn go() {
    let (id, own) = cpu::this();
    let closed = {
        let mut queue = own.queue.lock();
        // Those that rest for their next period go elsewhere now.
        queue.run.release();
        own.note(&queue);
        queue.run.close()
    };
    if !closed {
        return;
    }
    let gone_ns = time::monotonic_ns();
    timer::leave_behind(id);
    umbel_mm::view::leave();
    own.timer_ns.store(0, Relaxed);
    own.slice_end_ns.store(0, Relaxed);
    vcpu::set_timer(0);
    let life = &vcpu::this().life;
    life.depart();
    CHANGED.wake_all();
    while life.stage() == Stage::Offline {
        umbel_smp::idle::sleep_offline();
    }
    own.away_ns.fetch_add(time::monotonic_ns().saturating_sub(gone_ns), Relaxed);
    arrive();
}

/// Most threads that [`BROKEN`] keeps until they are reported.
const BROKEN_MAX: usize = 16;

/// A thread that may run anywhere now, and where it ran last.
type Broken = (Arc<Task>, u32);

/// Threads to be reported: this happens under locks under which nothing can be logged.
static BROKEN: SpinLock<[Option<Broken>; BROKEN_MAX]> = SpinLock::new(Rank::Leaf, [const { None }; BROKEN_MAX]);
static BROKEN_COUNT: AtomicU32 = AtomicU32::new(0);

/// No virtual CPU on which `task` may run is online: it may run on all.
pub(super) fn break_affinity(task: &Arc<Task>, cpu: u32) {
    task.sched.set_affinity(super::Affinity::ALL);
    let mut broken = BROKEN.lock();
    if let Some(free) = broken.iter_mut().find(|entry| entry.is_none()) {
        *free = Some((task.clone(), cpu));
        BROKEN_COUNT.fetch_add(1, Relaxed);
    }
}

/// Logs what [`break_affinity`] did. Called when a virtual CPU looks at its queue, as it does after every such change.
pub(super) fn report_broken() {
    if BROKEN_COUNT.load(Relaxed) == 0 {
        return;
    }
    let broken = core::mem::replace(&mut *BROKEN.lock(), [const { None }; BROKEN_MAX]);
    BROKEN_COUNT.store(0, Relaxed);
    for (task, cpu) in broken.into_iter().flatten() {
        let comm = task.comm();
        let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
        let comm = alloc::string::String::from_utf8_lossy(comm);
        log::info!("process {} ({comm}) no longer affine to cpu{cpu}", task.tid().0);
    }
}

/// The machine's request, if there is one.
fn request() -> Option<(u32, bool)> {
    CpuRequest(vcpu::control().cpu_request.load(Acquire)).request()
}

/// Device interrupt: the machine may have asked for something, or the zygote have refused.
pub fn look() {
    CHANGED.wake_all();
}

/// The kernel thread that does what the machine asks for.
pub fn serve_machine(_: &Arc<Task>) {
    loop {
        let (cpu, online) = CHANGED.wait_until(request);
        let errno = set_online(cpu, online).err().map_or(0, |errno| errno.raw() as u32);
        let word = &vcpu::control().cpu_request;
        word.store(CpuRequest::answered(errno).0, Release);
        umbel_host::futex::wake(word, u32::MAX);
    }
}
