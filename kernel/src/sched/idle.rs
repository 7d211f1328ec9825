//! What a virtual CPU does when nothing is runnable on it: look elsewhere, poll for a while, sleep at the doorbell.
//!
//! The poll adapts: while sleeps end within it, it stays; each time one does not, it shrinks, down to nothing.

use super::cpu::{self, Cpu};
use super::{place, serve_interrupts};
use crate::stats;
use crate::time;
use core::sync::atomic::{AtomicU64, Ordering::*};
use umbel_abi::machine::MAX_CPUS;
use umbel_smp::{cpu as vcpu, ipi, vtime};

/// Longest poll: about what waking a sleeping host thread costs.
const POLL_MAX_NS: u64 = 50_000;
const POLL_MIN_NS: u64 = 2_000;

static POLL_NS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(POLL_MAX_NS) }; MAX_CPUS];

/// Waits until something is queued here, `ready` says so, an interrupt is pending, or `deadline_ns` has passed. May return
/// early. The caller serves interrupts.
pub(super) fn wait(deadline_ns: Option<u64>, ready: impl Fn() -> bool) {
    let (id, cpu) = cpu::this();
    let start_ns = time::monotonic_ns();
    cpu.clock.idle.begin(start_ns);
    cpu.idle.store(true, SeqCst);
    umbel_mm::view::leave();
    let line = ipi::line(vcpu::this().shared());
    let done = || cpu.queued.load(Relaxed) != 0 || line.pending.load(Relaxed) != 0 || ready();
    if vtime::on() {
        vtime::stop_charging();
        // Nobody else runs: what is not there now does not come before this one rests.
        if !done() && !place::steal(id, cpu) {
            vtime::idle(earlier(deadline_ns, place::next_event(id)));
        }
    } else if !poll(id, cpu, start_ns, deadline_ns, &done) {
        umbel_mm::heap::trim();
        let until_ns = earlier(deadline_ns, place::next_event(id));
        let slept_ns = time::monotonic_ns();
        cpu.clock.sleep.begin(slept_ns);
        umbel_smp::idle::sleep(until_ns, done);
        let woken_ns = time::monotonic_ns();
        cpu.clock.sleep.end(woken_ns);
        adapt(id, woken_ns - slept_ns);
    }
    cpu.idle.store(false, SeqCst);
    let end_ns = time::monotonic_ns();
    cpu.clock.idle.end(end_ns);
    stats::IDLE_NS.add(end_ns - start_ns);
}

fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Polls for a while if there is a host CPU for it, stealing what waits elsewhere; returns whether there is something to do.
fn poll(id: u32, cpu: &Cpu, start_ns: u64, deadline_ns: Option<u64>, done: &impl Fn() -> bool) -> bool {
    if place::host_is_full(id, 0) {
        // Others need the host CPU on which this would be spent.
        return done() || place::steal_late(id, cpu);
    }
    let poll_ns = poll_ns(id).load(Relaxed);
    loop {
        if done() || place::steal(id, cpu) {
            return true;
        }
        let now_ns = time::monotonic_ns();
        if deadline_ns.is_some_and(|deadline| now_ns >= deadline) {
            return true;
        }
        if place::next_event(id).is_some_and(|next| now_ns >= next) {
            serve_interrupts();
            return true;
        }
        if now_ns >= start_ns + poll_ns {
            return false;
        }
        for _ in 0..16 {
            core::hint::spin_loop();
        }
    }
}

fn adapt(id: u32, slept_ns: u64) {
    let poll = poll_ns(id);
    let old = poll.load(Relaxed);
    // A sleep that polling a little longer would have spared, or one that no poll could.
    let new = if slept_ns < POLL_MAX_NS { old * 2 } else { old / 2 };
    poll.store(new.clamp(POLL_MIN_NS, POLL_MAX_NS), Relaxed);
}

fn poll_ns(id: u32) -> &'static AtomicU64 {
    &POLL_NS[id as usize % MAX_CPUS]
}
