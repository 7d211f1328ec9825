//! On which host CPU a virtual CPU is.
//!
//! Its slots are host tasks that wake each other, and the host would wake each where a CPU idles: that costs more than most
//! calls do. So the slot that is handed to is bound to the host CPU of the one that hands over. But a task that is bound cannot be
//! balanced: of three virtual CPUs on two host CPUs one would have a CPU to itself for ever. Therefore a virtual CPU looks from time
//! to time ([`look`]). One that changed no slots since is let go, as any busy task of the host's. One that got much less than it
//! could have used is *crowded*: while it is, its slots are let go once they are where the virtual CPU is. The host wakes such a
//! task where it ran last if no CPU idles. If one does, the virtual CPU goes there, and its slots are bound until it has looked again.
//!
//! Where the host groups tasks, a group weighs on a CPU by what its tasks did there lately. So a virtual CPU that was moved takes its
//! sleeping slots along: each is bound to the new host CPU and woken once, or else it would weigh half for as long as its slots'
//! turns take to come round ([`Slot::follow`]).
//!
//! Beside other machines the machine may say where the virtual CPU shall be (`VcpuShared::home`), and move the running slot
//! there itself: then this is where all are bound, and it does not look for a better place ([`heed`]). A machine that is stopped
//! says nothing any more: after a while the virtual CPU goes its own way again.
//!
//! With `--pin` all slots stay where the machine put them. Used by [`crate::slot`] and the scheduler.

use crate::cpu::{self, Vcpu};
use crate::slot::Slot;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*};
use umbel_abi::machine::{BootInfo, MAX_CPUS, SlotPhase};
use umbel_host::{clock, process};

/// Less time awake than this tells nothing: the host's slices are as long.
const LEAST_NS: u64 = 4_000_000;
/// No host CPU, or any.
const ANY: i32 = -1;
/// Bound, but nobody knows where to: the machine may have.
const UNKNOWN: i32 = -2;
/// Slots that have not run for so many changes weigh nothing any more.
const LATELY: u64 = 256;

/// It gets what it can use; much less; or did at the last look, but found an idle CPU since.
const AT_EASE: u32 = 0;
const CROWDED: u32 = 1;
const MOVED: u32 = 2;

/// What a virtual CPU knows of it. Written by itself.
pub(crate) struct Whereabouts {
    /// The host CPU on which it was handed over last.
    host_cpu: AtomicI32,
    /// [`AT_EASE`], [`CROWDED`] or [`MOVED`].
    state: AtomicU32,
    /// At the last look: slot changes, and time awake.
    turns: AtomicU64,
    awake_ns: AtomicU64,
    /// `VcpuShared::home` when it was heeded last.
    home: AtomicU32,
}

/// Where a slot is. Written by its virtual CPU.
pub(crate) struct Place {
    /// Host CPU to which it is bound.
    bound: AtomicI32,
    /// Host CPU on which it ran last.
    last: AtomicI32,
    /// Its CPU time when its virtual CPU looked last.
    seen_ns: AtomicU64,
}

/// The running virtual CPU, which has been awake for `awake_ns` in all, looks how it fares. Returns whether it need not look
/// again before it changes slots.
pub fn look(awake_ns: u64) -> bool {
    let vcpu = cpu::this();
    let own = &vcpu.whereabouts;
    forget_home(vcpu);
    if let Some(slot) = vcpu.active() {
        heed(slot, vcpu);
    }
    if own.home.load(Relaxed) != 0 {
        return false;
    }
    let turns = vcpu.turns.load(Relaxed);
    if own.turns.load(Relaxed) == turns {
        if let Some(slot) = vcpu.active() {
            slot.let_go();
        }
        return true;
    }
    let awake = awake_ns.saturating_sub(own.awake_ns.load(Relaxed));
    if awake < LEAST_NS {
        return false;
    }
    let got = got_ns(vcpu, own.turns.load(Relaxed));
    own.state.store(if is_crowded(awake, got) { CROWDED } else { AT_EASE }, Relaxed);
    own.awake_ns.store(awake_ns, Relaxed);
    own.turns.store(turns, Relaxed);
    false
}

/// Whether the machine says where the running virtual CPU shall be: then it must look from time to time whether that still counts.
pub fn is_told() -> bool {
    cpu::this().shared().home.load(Relaxed) != 0
}

/// What the machine said long ago does not count any more.
fn forget_home(vcpu: &Vcpu) {
    let shared = vcpu.shared();
    let home = shared.home.load(Acquire);
    if home != 0 && clock::now_ns(clock::MONOTONIC) >= shared.home_until_ns.load(Relaxed) {
        // It may be saying something else just now.
        let _ = shared.home.compare_exchange(home, 0, Relaxed, Relaxed);
    }
}

/// In the running slot: does as the machine says that the virtual CPU shall be elsewhere, or wherever the host puts it.
fn heed(running: &Slot, vcpu: &Vcpu) {
    let own = &vcpu.whereabouts;
    let home = vcpu.shared().home.load(Acquire);
    if own.home.load(Relaxed) == home {
        return;
    }
    own.home.store(home, Relaxed);
    for slot in vcpu.slots() {
        slot.place.bound.store(UNKNOWN, Relaxed);
    }
    own.state.store(AT_EASE, Relaxed);
    if home == 0 {
        running.let_go();
    } else {
        running.bind_to(home as i32 - 1);
    }
}

/// CPU time of the slots of `vcpu` since the last look, which was at slot change `turns`.
fn got_ns(vcpu: &Vcpu, turns: u64) -> u64 {
    // One that has not run since has used nothing since. The one that ran then runs since the change before.
    let ran = |slot: &&Slot| slot.used.load(Relaxed) + 1 >= turns && slot.tid() > 0;
    let got = |slot: &Slot| {
        let used = clock::process_ns(slot.tid());
        used.saturating_sub(slot.place.seen_ns.swap(used, Relaxed))
    };
    vcpu.slots().filter(ran).map(got).sum()
}

/// Less than seven eighths of what it could have used: the host's interrupts and daemons take less.
fn is_crowded(awake_ns: u64, got_ns: u64) -> bool {
    got_ns.saturating_mul(8) < awake_ns.saturating_mul(7)
}

impl Whereabouts {
    pub(crate) const fn new() -> Whereabouts {
        Whereabouts {
            host_cpu: AtomicI32::new(ANY),
            state: AtomicU32::new(AT_EASE),
            turns: AtomicU64::new(0),
            awake_ns: AtomicU64::new(0),
            home: AtomicU32::new(0),
        }
    }
}

impl Place {
    /// The host task is new.
    pub(crate) fn reset(&self) {
        self.bound.store(ANY, Relaxed);
        self.last.store(ANY, Relaxed);
        self.seen_ns.store(0, Relaxed);
    }
}

impl Slot {
    /// In the new host task: with `--pin`, to the host CPU that the machine chose.
    pub(crate) fn pin(&self) {
        let boot = &cpu::control().boot;
        if boot.options & BootInfo::PIN == 0 {
            return;
        }
        let core = boot.pin[self.cpu() as usize % MAX_CPUS];
        if process::set_affinity(0, &cpu_mask(core.into())).is_ok() {
            self.place.bound.store(core.into(), Relaxed);
        }
    }

    /// In the slot that hands over to this one, before that is woken: it shall run where the virtual CPU is.
    pub(crate) fn follow(&self, from: &Slot, vcpu: &Vcpu) {
        let own = &vcpu.whereabouts;
        heed(from, vcpu);
        let here = host_cpu() as i32;
        from.place.last.store(here, Relaxed);
        let before = own.host_cpu.load(Relaxed);
        own.host_cpu.store(here, Relaxed);
        let state = own.state.load(Relaxed);
        if state != AT_EASE && before != here && before != ANY {
            self.bring_others(from, vcpu, here);
        }
        if !(state == CROWDED && self.place.bound.load(Relaxed) == ANY && self.place.last.load(Relaxed) == here) {
            self.bind_to(here);
        }
    }

    /// Takes the slots along that ran lately, but this one and that which hands over to it.
    fn bring_others(&self, from: &Slot, vcpu: &Vcpu, here: i32) {
        let turns = vcpu.turns.load(Relaxed);
        let sleeps = |slot: &&Slot| {
            let apart = slot.local() != self.local() && slot.local() != from.local();
            apart && slot.used.load(Relaxed) + LATELY >= turns && slot.phase.load(Relaxed) == SlotPhase::Parked as u32
        };
        for slot in vcpu.slots().filter(sleeps) {
            slot.bind_to(here);
            slot.place.last.store(here, Relaxed);
            // It finds that it was not handed anything, and sleeps again.
            slot.ring();
        }
    }

    fn bind_to(&self, here: i32) {
        if self.place.bound.load(Relaxed) != here && process::set_affinity(self.tid(), &cpu_mask(here as u32)).is_ok() {
            self.place.bound.store(here, Relaxed);
        }
    }

    /// In the slot that took over.
    pub(crate) fn arrive(&self, vcpu: &Vcpu) {
        let own = &vcpu.whereabouts;
        if own.state.load(Relaxed) != CROWDED {
            return;
        }
        if own.host_cpu.load(Relaxed) == host_cpu() as i32 {
            self.let_go();
        } else {
            own.state.store(MOVED, Relaxed);
        }
    }

    /// In the running slot: the host may move it, to where the machine was allowed to run.
    fn let_go(&self) {
        let boot = &cpu::control().boot;
        if boot.options & BootInfo::PIN == 0 && self.place.bound.swap(ANY, Relaxed) != ANY {
            let _ = process::set_affinity(0, &boot.host_cpus);
        }
    }
}

fn cpu_mask(cpu: u32) -> [u64; 16] {
    let mut mask = [0; 16];
    if let Some(word) = mask.get_mut(cpu as usize / 64) {
        *word = 1 << (cpu % 64);
    }
    mask
}

/// The host CPU that runs the caller, without a host call.
fn host_cpu() -> u32 {
    let aux: u32;
    // SAFETY: reads registers; Linux keeps the CPU number in the low 12 bits of TSC_AUX.
    unsafe {
        core::arch::asm!("rdtscp", out("eax") _, out("edx") _, out("ecx") aux, options(nomem, nostack));
    }
    aux & 0xfff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_a_host_cpu_is_crowded_and_who_is_interrupted_is_not() {
        assert!(is_crowded(8_000_000, 4_000_000) && is_crowded(8_000_000, 6_900_000) && is_crowded(1, 0));
        assert!(!is_crowded(8_000_000, 8_000_000) && !is_crowded(8_000_000, 7_100_000) && !is_crowded(0, 0));
    }
}
