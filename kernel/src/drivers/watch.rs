//! Virtual CPUs that hang: the kernel's side of the machine's watch ([`umbel_abi::machine::Watch`]), and `/proc/sysrq-trigger`.
//!
//! The machine looks, since the kernel might hang on all virtual CPUs at once. What it has found it interrupts some virtual
//! CPU with, which logs it ([`look`]). Sources: Linux's Documentation/admin-guide/{sysrq,lockup-watchdogs}, proc(5).

use crate::{Errno, Result};
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use umbel_abi::machine::{BootInfo, Watch};
use umbel_smp::cpu::control;

/// Seconds that a virtual CPU may spend in the kernel without looking for interrupts, unless an administrator says otherwise.
const LIMIT_S: u32 = 10;
/// As on Linux.
const LIMIT_MAX_S: u32 = 60;

fn watch() -> &'static Watch {
    &control().watch
}

/// Begins: once, at boot. In virtual time virtual CPUs stand still for as long as others run.
pub fn init() {
    let limit_s = if crate::machine::option(BootInfo::VIRTUAL) { 0 } else { LIMIT_S };
    watch().limit_s.store(limit_s, Relaxed);
}

/// The limit in ns, 0 = none.
pub fn limit_ns() -> u64 {
    u64::from(watch().limit_s.load(Relaxed)) * 1_000_000_000
}

/// `/proc/sys/kernel/watchdog_thresh`.
pub fn show_limit() -> Result<Vec<u8>> {
    Ok(format!("{}\n", watch().limit_s.load(Relaxed)).into_bytes())
}

/// Sets it; 0 = nobody looks.
pub fn set_limit(text: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let limit_s = text.trim().parse().ok().filter(|limit_s| *limit_s <= LIMIT_MAX_S).ok_or(Errno::EINVAL)?;
    watch().limit_s.store(limit_s, Relaxed);
    // The machine looks by the new limit from now on.
    umbel_host::futex::wake(&watch().wanted, u32::MAX);
    Ok(())
}

/// `/proc/sysrq-trigger`: the first byte counts.
pub fn trigger(text: &[u8]) -> Result<()> {
    match text.first() {
        Some(b'l') => {
            log::info!("sysrq: Show backtrace of all active CPUs");
            watch().wanted.store(1, Release);
            umbel_host::futex::wake(&watch().wanted, u32::MAX);
        }
        Some(b'z') if crate::machine::option(BootInfo::DEBUG_STALL) => hang(),
        Some(b'c') if crate::machine::option(BootInfo::DEBUG_STALL) => panic!("sysrq triggered crash"),
        Some(b'w') if crate::machine::option(BootInfo::DEBUG_STALL) => umbel_mm::view::break_shootdowns(),
        Some(b'y') if crate::machine::option(BootInfo::DEBUG_STALL) => damage(),
        Some(_) => log::info!("sysrq: HELP : show-backtrace-all-active-cpus(l)"),
        None => {}
    }
    Ok(())
}

/// Writes where nobody does: the machine must see it.
fn damage() {
    if let Some(word) = control().canary.get(100) {
        word.fetch_add(1, Relaxed);
    }
}

/// Keeps this virtual CPU in the kernel, deaf to everything, for three times the limit.
#[inline(never)]
fn hang() {
    let end_ns = crate::time::monotonic_ns() + 3 * limit_ns();
    while crate::time::monotonic_ns() < end_ns {
        core::hint::spin_loop();
    }
}

/// Device interrupt: logs what the machine has to say.
pub fn look() {
    let len = watch().text_len.load(Acquire) as usize;
    if len == 0 {
        return;
    }
    let text = umbel_smp::cpu::watch_text(len);
    // Only one logs it, and the machine may write again then.
    if watch().text_len.compare_exchange(len as u32, 0, AcqRel, Relaxed).is_err() {
        return;
    }
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        log::error!("{}", alloc::string::String::from_utf8_lossy(line));
    }
}
