//! What the processor and the C library's start-up know.

use core::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc, _xgetbv};
use std::time::{Duration, Instant};

/// XSAVE components that guests may have: x87, SSE, AVX, AVX-512.
const COMPONENTS: u64 = 0xe7;

/// Components in use, and bytes of a standard-format area for them.
pub fn xsave() -> (u64, u32) {
    // SAFETY: `umbel check` and the loader require a processor with XSAVE; so does the host's ABI for AVX.
    let mask = unsafe { xcr0() } & COMPONENTS;
    let end = |component: u32| {
        let leaf = __cpuid_count(13, component);
        leaf.eax + leaf.ebx
    };
    let len = (2..8).filter(|n| mask & 1 << n != 0).map(end).max().unwrap_or(0);
    (mask, len.max(576))
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: the operating system enabled XSAVE, as every Linux on such a processor does.
    unsafe { _xgetbv(0) }
}

/// TSC frequency in kHz, 0 if it is not constant or the host does not trust it.
pub fn tsc_khz() -> u64 {
    let invariant = __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0;
    let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let trusted = source.is_ok_and(|name| matches!(name.trim(), "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page"));
    if !invariant && !trusted {
        return 0;
    }
    hypervisor_khz().unwrap_or_else(calibrate)
}

/// The hypervisor's word for it.
fn hypervisor_khz() -> Option<u64> {
    let under_hypervisor = __cpuid(1).ecx & 1 << 31 != 0;
    if !under_hypervisor || __cpuid(0x4000_0000).eax < 0x4000_0010 {
        return None;
    }
    Some(u64::from(__cpuid(0x4000_0010).eax)).filter(|khz| *khz > 0)
}

fn calibrate() -> u64 {
    const WINDOW: Duration = Duration::from_millis(5);
    let (start, ticks) = moment();
    std::thread::sleep(WINDOW);
    let (end, more) = moment();
    let ns = end.duration_since(start).as_nanos().max(1);
    (u128::from(more - ticks) * 1_000_000 / ns) as u64
}

/// Clock and counter, read as close to each other as some tries allow.
fn moment() -> (Instant, u64) {
    let read = || {
        // SAFETY: reads a counter.
        let before = unsafe { _rdtsc() };
        let now = Instant::now();
        // SAFETY: reads a counter.
        let after = unsafe { _rdtsc() };
        (after - before, now, before + (after - before) / 2)
    };
    let (_, now, ticks) = (0..32).map(|_| read()).min_by_key(|(width, ..)| *width).unwrap_or_else(read);
    (now, ticks)
}

/// `AT_HWCAP` and `AT_HWCAP2`.
pub fn hwcaps() -> (u64, u64) {
    // SAFETY: reads the auxiliary vector.
    unsafe { (libc::getauxval(libc::AT_HWCAP), libc::getauxval(libc::AT_HWCAP2)) }
}

/// Random bytes.
pub fn seed() -> std::io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    // SAFETY: the buffer is as long as it says.
    match unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) } {
        32 => Ok(seed),
        _ => Err(std::io::Error::last_os_error()),
    }
}
