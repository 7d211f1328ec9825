//! When a virtual CPU looks whether it is on a good host CPU ([`umbel_smp::placement`]): every few milliseconds while it switches
//! between threads, which costs nothing in between. One that has stopped switching looks once more, by a timer.

use super::cpu::Cpu;
use crate::machine;
use core::sync::atomic::Ordering::Relaxed;
use umbel_abi::machine::BootInfo;
use umbel_smp::placement;

/// Between two looks.
const LOOK_NS: u64 = 8_000_000;
/// After so long the timer makes one look that did not switch meanwhile. Long, because each slot has a timer of its own.
const LATE_NS: u64 = 100_000_000;

/// The virtual CPU switches to another thread now.
pub(super) fn note_switch(cpu: &Cpu, now_ns: u64) {
    if cpu.look_ns.load(Relaxed) == 0 {
        next(cpu, now_ns, false);
    } else {
        look(cpu, now_ns);
    }
}

/// The machine may have said where this virtual CPU shall be.
pub(super) fn told(cpu: &Cpu, now_ns: u64) {
    if cpu.look_ns.load(Relaxed) == 0 && placement::is_told() {
        next(cpu, now_ns, false);
    }
}

/// Looks if it is time to.
pub(super) fn look(cpu: &Cpu, now_ns: u64) {
    let due_ns = cpu.look_ns.load(Relaxed);
    if due_ns != 0 && due_ns <= now_ns {
        let awake_ns = now_ns.saturating_sub(cpu.clock.sleep.so_far(now_ns));
        next(cpu, now_ns, placement::look(awake_ns));
    }
}

/// When the timer must make it look.
pub(super) fn deadline(cpu: &Cpu) -> Option<u64> {
    match cpu.look_ns.load(Relaxed) {
        0 => None,
        due_ns => Some(due_ns + LATE_NS),
    }
}

/// In virtual time, too, all are where the machine put them.
fn next(cpu: &Cpu, now_ns: u64, settled: bool) {
    let at_rest = settled || machine::option(BootInfo::PIN) || machine::host_cpus() < 2;
    cpu.look_ns.store(if at_rest { 0 } else { now_ns + LOOK_NS }, Relaxed);
}
