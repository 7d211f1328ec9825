//! What the virtual CPUs of this machine get of the host, looked at from outside: cheap enough for fifty times a second.
//!
//! The kernel's own numbers are not asked: the host's are right whatever a guest does. A slot's number from the control block
//! counts if the host, too, says that it is a slot of that virtual CPU.

use super::rule::Contender;
use crate::control;
use crate::manage::status;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use umbel_abi::machine::{BootInfo, Control, Mailbox, VcpuState};

/// For so many looks it is believed which slots there are.
const LOOKS: u32 = 10;
/// Over which time it is averaged how much a virtual CPU could use, ns.
const WINDOW_NS: u64 = 100_000_000;
/// So long it counts where a virtual CPU shall be, ns: several looks, however rare they are.
const COUNTS_NS: u64 = 3_000_000_000;
/// Who could use this much of a host CPU competes for it; who has done so does until it could use only that much. The host counts
/// a wait when it is over, so who was awake at so many looks in a row is believed to have been in between.
const BUSY: f64 = 0.9;
const NOT_BUSY: f64 = 0.8;
const AWAKE_LOOKS: u32 = 12;

/// Measures a machine.
pub struct Meter {
    control: &'static Control,
    /// The parent of the parents of slots.
    zygote: i32,
    cpus: Vec<Seen>,
    looks: u32,
    last_ns: u64,
}

/// A virtual CPU.
#[derive(Default)]
struct Seen {
    /// Its slots, and the time that each had run and waited.
    slots: HashMap<i32, (u64, u64)>,
    /// Processor time since it was looked at first.
    ran_ns: u64,
    /// How much of a host CPU it could use.
    demand: f64,
    /// At so many looks in a row it was not idle.
    awake_looks: u32,
    competes: bool,
    /// Where it ran last.
    at: u32,
}

impl Meter {
    pub fn new(control: &'static Control, zygote: i32) -> Meter {
        let cpus = (0..control.boot.possible).map(|_| Seen::default()).collect();
        Meter { control, zygote, cpus, looks: 0, last_ns: now_ns() }
    }

    /// Whether nobody computes at this instant.
    pub fn is_idle(&self) -> bool {
        (0..self.cpus.len()).all(|cpu| self.is_asleep(cpu))
    }

    fn is_asleep(&self, cpu: usize) -> bool {
        let state = self.control.vcpus[cpu].state.load(Acquire);
        state == VcpuState::Idle as u32 || state == VcpuState::Offline as u32
    }

    /// Measures, and tells who competes.
    pub fn look(&mut self) -> Vec<Contender> {
        let now_ns = now_ns();
        let elapsed_ns = now_ns.saturating_sub(self.last_ns).max(1);
        self.last_ns = now_ns;
        if self.looks.is_multiple_of(LOOKS) {
            self.find_slots();
        }
        self.looks = self.looks.wrapping_add(1);
        for cpu in 0..self.cpus.len() {
            let asleep = self.is_asleep(cpu);
            self.cpus[cpu].measure(elapsed_ns, asleep);
        }
        let competing: Vec<usize> = (0..self.cpus.len()).filter(|cpu| self.cpus[*cpu].competes).collect();
        competing.into_iter().map(|cpu| self.contender(cpu, now_ns)).collect()
    }

    fn contender(&mut self, cpu: usize, now_ns: u64) -> Contender {
        if let Some(at) = self.running(cpu).and_then(status::last_host_cpu) {
            self.cpus[cpu].at = at;
        }
        let ran_ns = self.cpus[cpu].ran_ns;
        Contender {
            owner: std::process::id() as i32,
            cpu: cpu as u32,
            allowed: self.allowed(cpu),
            at: self.cpus[cpu].at,
            ran_ns,
            counted_ns: ran_ns,
            seen_ns: now_ns,
            lead_ns: 0,
            home: None,
            next_home: None,
        }
    }

    /// Puts a virtual CPU on that host CPU, or leaves it to the host again.
    pub fn settle(&mut self, cpu: usize, home: Option<u32>) {
        let Some(vcpu) = self.control.vcpus.get(cpu).filter(|_| cpu < self.cpus.len()) else { return };
        let word = home.map_or(0, |host_cpu| host_cpu + 1);
        vcpu.home_until_ns.store(now_ns() + COUNTS_NS, Relaxed);
        let changed = vcpu.home.swap(word, Release) != word;
        if changed && home.is_some() {
            // So that it looks from now on whether that still counts.
            control::interrupt(self.control, cpu as u32, Mailbox::DEVICE);
        }
        if !changed && home.is_none_or(|host_cpu| host_cpu == self.cpus[cpu].at) {
            return;
        }
        let allowed = self.allowed(cpu);
        let Some(slot) = self.running(cpu) else { return };
        let mut mask = CpuSet::new();
        let host_cpus = (0..CpuSet::count()).filter(|n| match home {
            Some(host_cpu) => *n == host_cpu as usize,
            None => allowed.get(n / 64).is_some_and(|word| word & 1 << (n % 64) != 0),
        });
        host_cpus.for_each(|n| mask.set(n).unwrap_or(()));
        // A slot that is gone, or a host CPU that is: the host has seen to it.
        let _ = sched_setaffinity(Pid::from_raw(slot), &mask);
    }

    /// The slot that runs a virtual CPU, or did a moment ago.
    fn running(&mut self, cpu: usize) -> Option<i32> {
        let slot = self.control.vcpus[cpu].tid.load(Relaxed) as i32;
        if !self.cpus[cpu].slots.contains_key(&slot) {
            self.find_slots();
        }
        Some(slot).filter(|slot| self.cpus[cpu].slots.contains_key(slot))
    }

    fn find_slots(&mut self) {
        let parents = children(self.zygote);
        for (seen, vcpu) in self.cpus.iter_mut().zip(&self.control.vcpus) {
            let parent = vcpu.parent_pid.load(Acquire) as i32;
            let known = !seen.slots.is_empty();
            let slots = if parents.contains(&parent) { children(parent) } else { Vec::new() };
            seen.slots.retain(|slot, _| slots.contains(slot));
            for slot in slots {
                // All that a new one has run is new, but not at the first look.
                let start = || if known { (0, 0) } else { (ran_ns(slot), status::schedstat(&slot.to_string()).1) };
                seen.slots.entry(slot).or_insert_with(start);
            }
        }
    }

    /// Host CPUs on which it may be, without zeroes at the end.
    fn allowed(&self, cpu: usize) -> Vec<u64> {
        let boot = &self.control.boot;
        let mut words = boot.host_cpus;
        if boot.options & BootInfo::PIN != 0 {
            let pin = usize::from(boot.pin[cpu % boot.pin.len()]);
            words = [0; 16];
            words[pin / 64 % 16] = 1 << (pin % 64);
        }
        let used = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        words[..used].to_vec()
    }
}

impl Seen {
    fn measure(&mut self, elapsed_ns: u64, asleep: bool) {
        let mut awake_ns = 0;
        for (slot, (ran, waited)) in &mut self.slots {
            let ran_now = ran_ns(*slot);
            if ran_now <= *ran {
                continue;
            }
            let (_, waited_now) = status::schedstat(&slot.to_string());
            self.ran_ns += ran_now - *ran;
            awake_ns += ran_now - *ran + waited_now.saturating_sub(*waited);
            (*ran, *waited) = (ran_now, waited_now.max(*waited));
        }
        self.awake_looks = if asleep { 0 } else { self.awake_looks.saturating_add(1) };
        let part = (awake_ns as f64 / elapsed_ns as f64).min(1.0);
        let weight = (elapsed_ns as f64 / WINDOW_NS as f64).min(1.0);
        self.demand += (part - self.demand) * weight;
        let enough = if self.competes { NOT_BUSY } else { BUSY };
        self.competes = self.demand >= enough || self.awake_looks >= AWAKE_LOOKS;
    }
}

/// Processor time of a host process.
fn ran_ns(pid: i32) -> u64 {
    let time = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).and_then(clock_gettime);
    time.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// The host's CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Children of a process of one thread; none where the host does not tell (CONFIG_PROC_CHILDREN).
fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
