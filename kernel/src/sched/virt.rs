//! The scheduler's part in virtual time ([`umbel_smp::vtime`]): when it begins, who must give way, since when a task could run.
//! Where time is the host's, everything here is one test of a flag.

use crate::boot;
use crate::task::Task;
use crate::time;
use core::sync::atomic::Ordering::Relaxed;
use umbel_abi::machine::{BootInfo, StdioKind};
use umbel_smp::turns::Lull;
use umbel_smp::vtime::{self, Rules};

/// Makes time virtual if the machine says so. Once, on virtual CPU 0, when the clocks have started.
pub fn begin_virtual_time() {
    if !boot::option(BootInfo::VIRTUAL) {
        return;
    }
    let info = boot::info();
    let speaks = |kind: u32| kind == StdioKind::Tty as u32 || kind == StdioKind::Stream as u32;
    let lull = if info.stdio.first().is_some_and(|input| speaks(input.kind)) { Lull::Passes } else { Lull::Jumps };
    let rules = Rules { quantum_ns: u64::from(info.virtual_quantum_us) * 1000, lull, seed: 0, tsc_khz: info.tsc_khz };
    let start_ns = time::monotonic_ns();
    time::clock::detach();
    vtime::begin(start_ns, &rules);
}

/// The other virtual CPUs take part from now on. Once, when the kernel is ready.
pub fn admit_others() {
    if vtime::on() {
        vtime::admit_others();
    }
}

/// Gives way to virtual CPUs whose clocks are too far behind. The caller holds no lock.
pub fn take_turns() {
    if vtime::on() {
        vtime::take_turns();
    }
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
    }
}

/// Whether a call would find virtual CPU `cpu` idle: in virtual time one that was called is idle until it has its turn.
pub(super) fn may_be_called(cpu: u32) -> bool {
    !vtime::on() || vtime::is_idle(cpu)
}

/// When this virtual CPU must look next, given when it must for other reasons; 0 = never.
pub(super) fn timer_deadline(next_ns: u64) -> u64 {
    match (vtime::on(), next_ns) {
        (false, next_ns) => next_ns,
        (true, 0) if vtime::limit_ns() == u64::MAX => 0,
        (true, 0) => vtime::limit_ns(),
        (true, next_ns) => next_ns.min(vtime::limit_ns()),
    }
}
