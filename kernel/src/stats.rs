//! Counters behind `--stats`.

use crate::syscall::names::NAMES;
use crate::syscall::table;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_abi::machine::MAX_CPUS;
use umbel_gate::{cold, thin};
use umbel_mm::{heap, view};
use umbel_smp::cpu;
use umbel_smp::lock::{Rank, stat};

/// A count that each virtual CPU keeps for itself: which of the numbers on its line it is.
pub struct Counter(usize);

/// What one virtual CPU counted. On cache lines of its own.
#[repr(align(64))]
struct Line([AtomicU64; COUNTERS]);

static LINES: [Line; MAX_CPUS] = [const { Line([const { AtomicU64::new(0) }; COUNTERS]) }; MAX_CPUS];

impl Counter {
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.at(cpu::this().id()).fetch_add(n, Relaxed);
    }

    /// What virtual CPU `cpu` added.
    pub fn of(&self, cpu: u32) -> u64 {
        self.at(cpu).load(Relaxed)
    }

    /// The sum over all virtual CPUs.
    pub fn sum(&self) -> u64 {
        // Guest code may have lied about some.
        (0..MAX_CPUS as u32).fold(0, |sum: u64, cpu| sum.wrapping_add(self.of(cpu)))
    }

    #[inline]
    fn at(&self, cpu: u32) -> &'static AtomicU64 {
        &LINES[cpu as usize % MAX_CPUS].0[self.0 % COUNTERS]
    }
}

macro_rules! counters {
    ($( $(#[$doc:meta])* $name:ident = $label:literal; )*) => {
        /// Where each stands on a line.
        #[allow(clippy::upper_case_acronyms, non_camel_case_types)] // named as the counters are
        enum Place { $( $name ),* }

        $( $(#[$doc])* pub static $name: Counter = Counter(Place::$name as usize); )*

        /// All counters with their labels, in the order of the report.
        static ALL: &[(&str, &Counter)] = &[ $( ($label, &$name) ),* ];

        const COUNTERS: usize = [ $( Place::$name as usize ),* ].len();
    };
}

counters! {
    /// System calls that came through a patched call site.
    SYSCALLS_PATCHED = "system calls by patched call site";
    /// System calls that came by signal.
    SYSCALLS_SIGNAL = "system calls by signal";
    /// System calls that trampolines and the gate answered from the slot's page, if guest code does not lie.
    READS = "system calls answered read-only";
    /// Clocks and CPU numbers that the vDSO told, likewise.
    CLOCK_READS = "clocks told by the vDSO";
    /// close(2) that the gate took and that was made good later.
    CLOSES_LATER = "closes noted by the gate";
    /// Descriptors for which calls of epoll_ctl(2) that the gate took were made good later.
    WATCHES_LATER = "registrations noted by the gate";
    /// newfstatat(2) that the gate answered.
    STATS_AHEAD = "attributes told by the gate";
    /// Faults of guest code and of user copies.
    FAULTS = "faults";
    /// Pages mapped by them.
    FAULT_PAGES = "pages mapped by faults";
    /// Switches between kernel stacks.
    SWITCHES = "switches";
    /// Threads taken from another virtual CPU's queue.
    STEALS = "threads moved between virtual CPUs";
    /// Cross-calls served that asked to look at the queue.
    CROSS_CALLS = "cross-calls";
    /// Cross-calls served that told of translations which have gone.
    FLUSHES = "cross-calls that took mappings away";
    /// Device interrupts served.
    DEVICE_INTERRUPTS = "device interrupts";
    /// Timer interrupts served.
    TICKS = "ticks";
    /// Forks.
    FORKS = "clones";
    /// execve(2) that succeeded.
    EXECS = "execs";
    /// Time in the idle loop.
    IDLE_NS = "idle time, ns";
}

/// Counts what guest code took from this slot's page since it was last in the kernel, as it says itself.
#[inline]
pub fn count_reads() {
    if let Some(reads) = umbel_gate::take_reads() {
        READS.add(reads.calls);
        CLOCK_READS.add(reads.clocks);
    }
}

/// The text of `--stats`.
pub fn report() -> String {
    let mut out = String::new();
    for (label, counter) in ALL {
        let _ = writeln!(out, "{label:36} {}", counter.sum());
    }
    let faults = FAULTS.sum().max(1);
    let _ = writeln!(
        out,
        "{:36} {}.{}",
        "pages per fault",
        FAULT_PAGES.sum() / faults,
        FAULT_PAGES.sum() * 10 / faults % 10
    );
    let sum = |value: fn(&cpu::Vcpu) -> u64| cpu::all().map(value).sum::<u64>();
    let _ = writeln!(out, "{:36} {}", "teleports", sum(|vcpu| vcpu.teleports.load(Relaxed)));
    let _ = writeln!(out, "{:36} {}", "recycled slots", sum(|vcpu| vcpu.recycles.load(Relaxed)));
    let _ = writeln!(out, "{:36} {}", "dead slots", sum(|vcpu| vcpu.dead_slots.load(Relaxed)));
    memory(&mut out);
    for (nr, count) in table::missing() {
        let _ = match NAMES.get(nr) {
            Some(name) if *name != "?" => writeln!(out, "{:36} {name} ({count})", "missing system call"),
            _ if nr < table::LIMIT => writeln!(out, "{:36} {nr} ({count})", "missing system call"),
            _ => writeln!(out, "{:36} {nr} or more ({count})", "missing system call"),
        };
    }
    out
}

/// What address spaces and memory count themselves.
fn memory(out: &mut String) {
    let [hot, cold_region] = heap::regions();
    let frames = umbel_mm::frame::usage();
    let counts = [
        ("shootdowns", view::SHOOTDOWNS.load(Relaxed)),
        ("cross-calls for shootdowns", view::CROSS_CALLS.load(Relaxed)),
        ("log entries applied", view::APPLIED.load(Relaxed)),
        ("log wraps", view::WRAPS.load(Relaxed)),
        ("pages of RAM in use", frames.total - frames.free),
        ("kernel heap in use, hot, KiB", hot.used >> 10),
        ("kernel heap in use, cold, KiB", cold_region.used >> 10),
        ("kernel heap populated, hot, KiB", hot.populated >> 10),
        ("kernel heap populated, cold, KiB", cold_region.populated >> 10),
        ("kernel heap peak, hot, KiB", hot.peak >> 10),
        ("kernel heap peak, cold, KiB", cold_region.peak >> 10),
        ("kernel memory least left, KiB", heap::LEAST.load(Relaxed) >> 10),
        ("deepest kernel stack, bytes", umbel_mm::stack::PEAK.load(Relaxed)),
        ("cold memory opened", cold::OPENED.load(Relaxed)),
        ("cold memory opened by a fault", cold::FAULTED.load(Relaxed)),
        ("mappings of hot memory dropped", thin::DROPPED.load(Relaxed)),
        ("calls refused for lack of memory", heap::REFUSED.load(Relaxed)),
    ];
    for (label, count) in counts {
        let _ = writeln!(out, "{label:36} {count}");
    }
}

/// The text of `--lockstat` and /proc/lock_stat: kinds of locks that were taken, dearest first. Times in ns.
pub fn locks() -> String {
    let mut kinds: Vec<(Rank, stat::Totals)> = Rank::ALL
        .iter()
        .map(|&rank| (rank, stat::totals(rank)))
        .filter(|(_, totals)| totals.acquisitions != 0)
        .collect();
    kinds.sort_by_key(|(_, totals)| core::cmp::Reverse((totals.wait_ns, totals.hold_ns)));
    let mut out = String::from("lock class       acquisitions  contentions      wait-ns      hold-ns\n");
    for (rank, totals) in kinds {
        let name = alloc::format!("{rank:?}");
        let stat::Totals { acquisitions, contentions, wait_ns, hold_ns } = totals;
        let _ = writeln!(out, "{name:16} {acquisitions:12} {contentions:12} {wait_ns:12} {hold_ns:12}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_sums_over_cpus() {
        // No other unit test executes a program.
        let before = EXECS.sum();
        EXECS.add(2);
        std::thread::spawn(|| EXECS.add(3)).join().unwrap();
        assert_eq!(EXECS.sum() - before, 5);
    }
}
