//! What the machine told the kernel when it started it. Set once by [`crate::boot`], read everywhere.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use umbel_abi::machine::BootInfo;
use umbel_smp::cpu;

static STARTED_NS: AtomicU64 = AtomicU64::new(0);
static HOST_CPUS: AtomicU32 = AtomicU32::new(u32::MAX);

/// What the machine said at boot.
pub fn info() -> &'static BootInfo {
    &cpu::control().boot
}

/// Whether a debug option of [`BootInfo`] is on.
pub fn option(bit: u32) -> bool {
    info().options & bit != 0
}

/// CLOCK_MONOTONIC at boot, ns.
pub fn started_ns() -> u64 {
    STARTED_NS.load(Relaxed)
}

/// Sets what [`started_ns`] tells, and counts. Called once.
pub fn set_started(now_ns: u64) {
    STARTED_NS.store(now_ns, Relaxed);
    HOST_CPUS.store(info().host_cpus.iter().map(|word| word.count_ones()).sum(), Relaxed);
}

/// Number of host CPUs on which the machine may run.
pub fn host_cpus() -> u32 {
    HOST_CPUS.load(Relaxed)
}
