//! The machine's clocks: CLOCK_MONOTONIC from the time-stamp counter, the others as offsets from it.
//!
//! The guest's CLOCK_MONOTONIC is the host's, so deadlines mean the same on both sides. Between anchors it is
//! `base_ns + ((tsc - base_tsc) * mult >> SHIFT)`; [`reanchor`] asks the host and corrects the rate, without ever going
//! back. Without an invariant counter every reading asks the host. Readers take no lock (seqlock).

use core::sync::atomic::{AtomicU64, Ordering::*, fence};
use umbel_abi::machine::SlotPage;
use umbel_host::clock as host;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::vtime;

/// Binary digits behind the point of `mult`.
const SHIFT: u32 = 24;
/// Time between anchors, ns.
const PERIOD_NS: u64 = 500_000_000;
/// Change of an offset between clocks that is taken for an error of measurement, ns.
const NOISE_NS: u64 = 50_000;
/// Largest correction of the rate in a period: one part in this.
const SLEW: u64 = 2000;

/// How to compute CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    pub base_tsc: u64,
    pub base_ns: u64,
    /// ns a tick, times 2^SHIFT; 0 = ask the host.
    pub mult: u64,
}

impl Scale {
    /// CLOCK_MONOTONIC at counter value `tsc`.
    pub fn at(&self, tsc: u64) -> u64 {
        // Counters of different cores may differ by a few ticks around an anchor.
        let ticks = tsc.saturating_sub(self.base_tsc);
        self.base_ns + ((u128::from(ticks) * u128::from(self.mult)) >> SHIFT) as u64
    }

    /// The next scale: at `tsc` the host says `host_ns`. Meets the host's clock within a period, never steps back.
    fn next(&self, tsc: u64, host_ns: u64, rate: u64) -> Scale {
        let own_ns = self.at(tsc);
        if host_ns >= own_ns {
            return Scale { base_tsc: tsc, base_ns: host_ns, mult: rate };
        }
        let ahead = (own_ns - host_ns).min(PERIOD_NS / SLEW);
        let slower = u128::from(rate) * u128::from(PERIOD_NS - ahead) / u128::from(PERIOD_NS);
        Scale { base_tsc: tsc, base_ns: own_ns, mult: slower as u64 }
    }
}

/// The scale in use, and REALTIME and BOOTTIME relative to MONOTONIC. `seq` is odd while they change.
struct Clock {
    seq: AtomicU64,
    base_tsc: AtomicU64,
    base_ns: AtomicU64,
    mult: AtomicU64,
    real_offset_ns: AtomicU64,
    boot_offset_ns: AtomicU64,
    /// When the next anchor is due.
    due_ns: AtomicU64,
    /// The first anchor: counter and host time, to measure the counter's rate. Serialises writers.
    first: SpinLock<Option<(u64, u64)>>,
}

static CLOCK: Clock = Clock {
    seq: AtomicU64::new(0),
    base_tsc: AtomicU64::new(0),
    base_ns: AtomicU64::new(0),
    mult: AtomicU64::new(0),
    real_offset_ns: AtomicU64::new(0),
    boot_offset_ns: AtomicU64::new(0),
    due_ns: AtomicU64::new(0),
    first: SpinLock::new(Rank::Leaf, None),
};

/// Starts the clocks. Once, at boot; `tsc_khz` 0 if the counter cannot be trusted.
pub fn init(tsc_khz: u64) {
    let rate = if tsc_khz == 0 { 0 } else { ((1_000_000_u128 << SHIFT) / u128::from(tsc_khz)) as u64 };
    let (tsc, mono_ns) = sample();
    let mut first = CLOCK.first.lock();
    *first = Some((tsc, mono_ns));
    publish(&Scale { base_tsc: tsc, base_ns: mono_ns, mult: rate }, mono_ns);
}

/// Time becomes virtual: it starts at the host's, which it no longer follows. Once, at boot. Returns when that was.
pub fn detach() -> u64 {
    let _first = CLOCK.first.lock();
    let now_ns = monotonic_ns();
    publish(&Scale { base_tsc: host::tsc(), base_ns: now_ns, mult: 0 }, now_ns);
    CLOCK.due_ns.store(u64::MAX, Relaxed);
    now_ns
}

/// Likewise for a model, where each boot is at the same time: the beginning of 2000. Returns when that is.
pub fn detach_model() -> u64 {
    const REAL_NS: u64 = 946_684_800 * super::SEC_NS;
    detach();
    CLOCK.real_offset_ns.store(REAL_NS, Relaxed);
    CLOCK.boot_offset_ns.store(0, Relaxed);
    super::SEC_NS
}

/// CLOCK_MONOTONIC, ns.
#[inline]
pub fn monotonic_ns() -> u64 {
    loop {
        let seq = CLOCK.seq.load(Acquire);
        let scale = load();
        let now_ns = if scale.mult == 0 { asked_ns() } else { scale.at(host::tsc()) };
        fence(Acquire);
        if seq & 1 == 0 && CLOCK.seq.load(Relaxed) == seq {
            return now_ns;
        }
        core::hint::spin_loop();
    }
}

/// CLOCK_MONOTONIC without a counter: virtual time, or the host is asked.
#[cold]
fn asked_ns() -> u64 {
    if vtime::on() { vtime::now_ns() } else { host::now_ns(host::MONOTONIC) }
}

/// The host's CLOCK_MONOTONIC, ns: what its timers go by.
pub fn host_ns() -> u64 {
    if vtime::on() { host::now_ns(host::MONOTONIC) } else { monotonic_ns() }
}

/// The host's CLOCK_MONOTONIC when ours will be `at_ns`, if this virtual CPU runs until then.
pub fn host_deadline(at_ns: u64) -> u64 {
    if at_ns == 0 || !vtime::on() {
        return at_ns;
    }
    host::now_ns(host::MONOTONIC).saturating_add(at_ns.saturating_sub(vtime::now_ns()))
}

/// CLOCK_REALTIME - CLOCK_MONOTONIC, ns.
pub fn real_offset_ns() -> u64 {
    match CLOCK.real_offset_ns.load(Relaxed) {
        0 => host::now_ns(host::REALTIME).wrapping_sub(host::now_ns(host::MONOTONIC)),
        offset => offset,
    }
}

/// CLOCK_BOOTTIME - CLOCK_MONOTONIC, ns.
pub fn boot_offset_ns() -> u64 {
    CLOCK.boot_offset_ns.load(Relaxed)
}

/// CLOCK_REALTIME, ns since 1970.
pub fn realtime_ns() -> u64 {
    monotonic_ns().wrapping_add(real_offset_ns())
}

/// Takes a new anchor if one is due. Call at ticks and around idle; cheap otherwise.
pub fn reanchor() {
    if monotonic_ns() < CLOCK.due_ns.load(Relaxed) {
        return;
    }
    let Some(first) = CLOCK.first.try_lock() else { return };
    let (tsc, host_ns) = sample();
    let old = load();
    let rate = match *first {
        Some((first_tsc, first_ns)) if old.mult != 0 && host_ns > first_ns + PERIOD_NS => {
            ((u128::from(host_ns - first_ns) << SHIFT) / u128::from(tsc.saturating_sub(first_tsc).max(1))) as u64
        }
        _ => old.mult,
    };
    publish(&old.next(tsc, host_ns, rate), host_ns);
}

/// Brings a slot's page up to date, for readings without entering the kernel. Only the slot itself, in kernel mode, calls
/// this, before it goes back to guest code: nobody reads the page meanwhile. `offset_ns`: of the thread's time namespace.
pub fn refresh(page: &SlotPage, offset_ns: i64) {
    let base_tsc = CLOCK.base_tsc.load(Relaxed);
    let offset_ns = offset_ns as u64;
    if page.base_tsc.load(Relaxed) == base_tsc && page.time_offset_ns.load(Relaxed) == offset_ns {
        return;
    }
    let scale = loop {
        let seq = CLOCK.seq.load(Acquire);
        let scale = load();
        fence(Acquire);
        if seq & 1 == 0 && CLOCK.seq.load(Relaxed) == seq {
            break scale;
        }
    };
    page.seq.fetch_add(1, AcqRel);
    page.time_offset_ns.store(offset_ns, Relaxed);
    page.mono_ns.store(scale.base_ns.wrapping_add(offset_ns), Relaxed);
    page.real_offset_ns.store(real_offset_ns().wrapping_sub(offset_ns), Relaxed);
    page.mult.store(scale.mult as u32, Relaxed);
    page.shift.store(SHIFT, Relaxed);
    page.base_tsc.store(scale.base_tsc, Relaxed);
    page.seq.fetch_add(1, Release);
}

fn load() -> Scale {
    Scale {
        base_tsc: CLOCK.base_tsc.load(Relaxed),
        base_ns: CLOCK.base_ns.load(Relaxed),
        mult: CLOCK.mult.load(Relaxed),
    }
}

/// Stores a scale; the caller holds `first`.
fn publish(scale: &Scale, mono_ns: u64) {
    // Two readings are never of one instant: small differences are noise, and must not make CLOCK_REALTIME tremble.
    let offset = |clock, old: &AtomicU64| {
        let new = host::now_ns(clock).wrapping_sub(host::now_ns(host::MONOTONIC));
        let old = old.load(Relaxed);
        if new.wrapping_sub(old).wrapping_add(NOISE_NS) > 2 * NOISE_NS { new } else { old }
    };
    CLOCK.seq.fetch_add(1, AcqRel);
    CLOCK.base_tsc.store(scale.base_tsc, Relaxed);
    CLOCK.base_ns.store(scale.base_ns, Relaxed);
    CLOCK.mult.store(scale.mult, Relaxed);
    CLOCK.real_offset_ns.store(offset(host::REALTIME, &CLOCK.real_offset_ns), Relaxed);
    CLOCK.boot_offset_ns.store(offset(host::BOOTTIME, &CLOCK.boot_offset_ns), Relaxed);
    CLOCK.due_ns.store(mono_ns + PERIOD_NS, Relaxed);
    CLOCK.seq.fetch_add(1, Release);
}

/// Counter and host time of one instant: the closest of a few tries.
fn sample() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..4 {
        let before = host::tsc();
        let now_ns = host::now_ns(host::MONOTONIC);
        let width = host::tsc().saturating_sub(before);
        if width < best.0 {
            best = (width, before + width / 2, now_ns);
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GHZ: Scale = Scale { base_tsc: 1000, base_ns: 50, mult: 1 << SHIFT };

    #[test]
    fn a_scale_counts_from_its_base() {
        assert_eq!(GHZ.at(1000), 50);
        assert_eq!(GHZ.at(1500), 550);
        assert_eq!(GHZ.at(0), 50, "an older counter value is not before the base");
    }

    #[test]
    fn an_anchor_steps_forward_or_slows_down() {
        let forward = GHZ.next(2000, 5000, GHZ.mult);
        assert_eq!((forward.at(2000), forward.mult), (5000, GHZ.mult));
        let back = GHZ.next(2000, 1000, GHZ.mult);
        assert_eq!(back.at(2000), 1050);
        assert!(back.mult < GHZ.mult);
        let met = back.at(2000 + PERIOD_NS).abs_diff(1000 + PERIOD_NS);
        assert!(met < 100, "{met}");
    }

    #[test]
    fn the_clock_is_the_hosts() {
        let before = host::now_ns(host::MONOTONIC);
        let now_ns = monotonic_ns();
        assert!(now_ns >= before && now_ns < before + 1_000_000_000);
        let real = realtime_ns().abs_diff(host::now_ns(host::REALTIME));
        assert!(real < 1_000_000_000, "{real}");
    }
}
