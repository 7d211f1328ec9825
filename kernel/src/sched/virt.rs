//! The scheduler's part in virtual time ([`umbel_smp::vtime`]): when it begins, who must give way, since when a task could run.
//! Where time is the host's, everything here is one test of a flag.

use crate::task::Task;
use crate::{machine, signal, time};
use alloc::string::String;
use core::sync::atomic::Ordering::Relaxed;
use umbel_abi::machine::{BootInfo, StdioKind};
use umbel_gate::Exception;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::cpu as vcpu;
use umbel_smp::turns::Lull;
use umbel_smp::vtime::{self, Event, Rules};

/// The report's line of a model that is not reproducible; `umbel scale` looks for it.
const IRREPRODUCIBLE: &str = "long computations in the model";

/// Makes time virtual if the machine says so. Once, on virtual CPU 0, when the clocks have started.
pub fn begin_virtual_time() {
    if !machine::option(BootInfo::VIRTUAL) {
        return;
    }
    let info = machine::info();
    let speaks = |kind: u32| kind == StdioKind::Tty as u32 || kind == StdioKind::Stream as u32;
    let model = machine::option(BootInfo::VIRTUAL_MODEL);
    let lull = match info.stdio.first() {
        Some(input) if speaks(input.kind) => Lull::Passes,
        _ if model => Lull::Silent,
        _ => Lull::Jumps,
    };
    let rules = Rules {
        quantum_ns: u64::from(info.virtual_quantum_us) * 1000,
        lull,
        hand_over_ns: info.virtual_hand_over_ns.into(),
        seed: info.virtual_seed.max(1),
        model,
        tsc_khz: info.tsc_khz,
    };
    let start_ns = if model { time::clock::detach_model() } else { time::clock::detach() };
    vtime::begin(start_ns, &rules);
}

/// The other virtual CPUs take part from now on. Once, when the kernel is ready.
pub fn admit_others() {
    if vtime::on() {
        vtime::admit_others();
    }
}

/// Gives way to virtual CPUs whose clocks are too far behind; returns whether there were any. The caller holds no lock.
pub fn take_turns() -> bool {
    vtime::on() && vtime::take_turns()
}

/// `task` is queued now: it ran or was woken by whom this virtual CPU runs.
pub(super) fn note_ready(task: &Task) {
    if vtime::on() {
        task.sched.ready_ns.store(vtime::now_ns(), Relaxed);
    }
}

/// `next` runs here now: not before it was queued.
pub(super) fn before_switch(next: &Task) {
    if vtime::on() {
        vtime::advance_to(next.sched.ready_ns.load(Relaxed));
        vtime::switches();
        vtime::event(Event::Switch);
    }
}

/// Whether a call would find virtual CPU `cpu` idle: in virtual time one that was called is idle until it has its turn.
pub(super) fn may_be_called(cpu: u32) -> bool {
    !vtime::on() || vtime::is_idle(cpu)
}

/// The host's timer came, by which a model looks for code that computes without end.
pub(super) fn look_for_progress() {
    if vtime::is_model() {
        vtime::look_for_progress();
    }
}

/// For `--stats`: a line if the result was not the seed's alone.
pub fn report() -> String {
    match vtime::long_computations() {
        0 => String::new(),
        count => alloc::format!("{:36} {count}\n", IRREPRODUCIBLE),
    }
}

/// Guest code of `task` read the time-stamp counter: answers with virtual time. False if it did something else.
pub fn emulate_counter(task: &Task, exception: &Exception) -> bool {
    const RDTSC: [u8; 2] = [0x0f, 0x31];
    const RDTSCP: [u8; 3] = [0x0f, 0x01, 0xf9];
    let general_protection = exception.signal == signal::SIGSEGV as i32 && exception.trapno == 13;
    if !general_protection || !vtime::on() {
        return false;
    }
    let ip = task.user.regs().rip;
    let processor = match user::read_val::<[u8; 2]>(UserAddr(ip)) {
        Ok(RDTSC) => None,
        Ok(_) if user::read_val::<[u8; 3]>(UserAddr(ip)) == Ok(RDTSCP) => Some(u64::from(vcpu::this().id())),
        _ => return false,
    };
    let counter = vtime::guest_counter();
    task.user.update(|regs| {
        (regs.rax, regs.rdx) = (counter & 0xffff_ffff, counter >> 32);
        regs.rip += if processor.is_some() { 3 } else { 2 };
        regs.rcx = processor.unwrap_or(regs.rcx);
    });
    true
}

/// When this virtual CPU must look next, given when it must for other reasons; 0 = never.
pub(super) fn timer_deadline(next_ns: u64) -> u64 {
    match (vtime::on(), next_ns) {
        (false, next_ns) => next_ns,
        // No other timer is the host's in a model.
        (true, _) if vtime::is_model() => vtime::now_ns() + u64::from(machine::info().virtual_look_us) * 1000,
        (true, 0) if vtime::limit_ns() == u64::MAX => 0,
        (true, 0) => vtime::limit_ns(),
        (true, next_ns) => next_ns.min(vtime::limit_ns()),
    }
}
