//! What each virtual CPU did with its time: guest code, kernel, idle, and waiting for a host CPU.
//!
//! The virtual CPUs keep the parts up to date when they switch and idle; whoever looks adds what is in progress. The host's
//! part is what remains of the time in which a virtual CPU did not sleep, less the CPU time that the host gave its slots: also
//! the few microseconds in which one slot wakes another. Nothing here goes back, whoever looks when.

use super::cpu::{self, Cpu};
use crate::task::Task;
use crate::time;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::*};
use umbel_abi::machine::VcpuState;
use umbel_smp::{cpu as vcpu, vtime};

/// How often another virtual CPU is looked at until it is seen in guest code: some 100 µs.
const LOOKS: u32 = 2000;

/// Times of a virtual CPU since it was there, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// In guest code.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// With nothing to do.
    pub idle: u64,
    /// Ready to run, while the host ran something else.
    pub steal: u64,
}

/// Time of stays that ended, and the beginning of the one in progress, in one word, so that whoever looks sees both or neither:
/// the sum, less the beginning, which makes it negative, while a stay is in progress.
pub(super) struct Tally(AtomicI64);

impl Tally {
    pub const fn new() -> Tally {
        Tally(AtomicI64::new(0))
    }

    /// Nothing if one is in progress.
    pub fn begin(&self, now_ns: u64) {
        let sum = self.0.load(Relaxed);
        if sum >= 0 {
            self.0.store(sum - now_ns as i64, Relaxed);
        }
    }

    /// Nothing if none is in progress.
    pub fn end(&self, now_ns: u64) {
        let sum = self.0.load(Relaxed);
        if sum < 0 {
            self.0.store(sum + now_ns as i64, Relaxed);
        }
    }

    pub fn so_far(&self, now_ns: u64) -> u64 {
        let sum = self.0.load(Relaxed);
        if sum < 0 { sum.saturating_add(now_ns as i64).max(0) as u64 } else { sum as u64 }
    }
}

/// What a virtual CPU keeps for it; written by itself, except `shown`.
pub(super) struct Clock {
    /// Stays in the idle loop, and sleeps in it.
    pub idle: Tally,
    pub sleep: Tally,
    /// Guest code of those that were switched away from.
    user_ns: AtomicU64,
    /// Since when the running thread is not charged.
    since_ns: AtomicU64,
    /// What was shown last of user, system, idle, steal.
    shown: [AtomicU64; 4],
}

impl Clock {
    pub const fn new() -> Clock {
        Clock {
            idle: Tally::new(),
            sleep: Tally::new(),
            user_ns: AtomicU64::new(0),
            since_ns: AtomicU64::new(0),
            shown: [const { AtomicU64::new(0) }; 4],
        }
    }

    /// The running thread was charged up to now.
    pub fn charge(&self, task: &Task, now_ns: u64) {
        let user_ns = task.sched.user.so_far(now_ns);
        add(&self.user_ns, user_ns.saturating_sub(task.sched.user_charged_ns.load(Relaxed)));
        task.sched.user_charged_ns.store(user_ns, Relaxed);
        self.since_ns.store(now_ns, Relaxed);
    }

    /// Another thread runs from now on.
    pub fn switched(&self, now_ns: u64) {
        self.since_ns.store(now_ns, Relaxed);
    }

    /// Times up to `now_ns` of one that is there for `here_ns` and got `host_ns` of CPU time, and runs guest code.
    fn times(&self, now_ns: u64, here_ns: u64, host_ns: Option<u64>, in_guest: bool) -> Times {
        let idle = self.idle.so_far(now_ns).min(here_ns);
        let awake = here_ns.saturating_sub(self.sleep.so_far(now_ns));
        let steal = host_ns.map_or(0, |host_ns| awake.saturating_sub(host_ns)).min(here_ns - idle);
        let busy = here_ns - idle - steal;
        let running = if in_guest { now_ns.saturating_sub(self.since_ns.load(Relaxed)) } else { 0 };
        let user = (self.user_ns.load(Relaxed) + running).min(busy);
        Times { user, system: busy - user, idle, steal }
    }

    /// The same, never less than before.
    fn show(&self, times: Times) -> Times {
        let [user, system, idle, steal] = [times.user, times.system, times.idle, times.steal];
        let show = |part: usize, ns: u64| self.shown[part].fetch_max(ns, Relaxed).max(ns);
        Times { user: show(0, user), system: show(1, system), idle: show(2, idle), steal: show(3, steal) }
    }
}

/// Adds to what only the running virtual CPU writes.
fn add(to: &AtomicU64, ns: u64) {
    to.store(to.load(Relaxed) + ns, Relaxed);
}

/// The times of virtual CPU `cpu`.
pub fn of(cpu: u32) -> Times {
    let own: &Cpu = cpu::get(cpu);
    let now_ns = time::monotonic_ns();
    let here_ns = now_ns.saturating_sub(crate::machine::started_ns()).saturating_sub(own.away_ns.load(Relaxed));
    let vcpu = vcpu::get(cpu);
    let host_ns = vcpu.filter(|_| !vtime::on()).map(vcpu::Vcpu::host_ns);
    // A call or an interrupt that is just being served shall not make a long run of guest code the kernel's.
    let shown_in_guest = |vcpu: &vcpu::Vcpu| vcpu.shared().state.load(Relaxed) == VcpuState::Guest as u32;
    let in_guest = vcpu.is_some_and(|vcpu| {
        shown_in_guest(vcpu)
            || (0..LOOKS).any(|_| {
                core::hint::spin_loop();
                shown_in_guest(vcpu)
            })
    });
    own.clock.show(own.clock.times(now_ns, here_ns, host_ns, in_guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_did_not_give_is_stolen() {
        let clock = Clock::new();
        clock.idle.begin(100);
        clock.sleep.begin(150);
        clock.sleep.end(350);
        clock.idle.end(400);
        // Of 1000 it slept 200 and got 500.
        let times = clock.times(1000, 1000, Some(500), false);
        assert_eq!(times, Times { user: 0, system: 400, idle: 300, steal: 300 });
    }

    #[test]
    fn what_is_in_progress_counts() {
        let clock = Clock::new();
        clock.switched(600);
        assert_eq!(clock.times(1000, 1000, Some(1000), true).user, 400);
        clock.idle.begin(1000);
        clock.sleep.begin(1000);
        let times = clock.times(1500, 1500, Some(1000), false);
        assert_eq!((times.idle, times.steal), (500, 0));
    }

    #[test]
    fn nothing_goes_back() {
        let clock = Clock::new();
        let more = Times { user: 5, system: 5, idle: 5, steal: 5 };
        assert_eq!(clock.show(more), more);
        assert_eq!(clock.show(Times { user: 6, ..Times::default() }), Times { user: 6, ..more });
    }
}
