//! Files of /proc that describe the whole machine. Source: proc(5).

use super::{config, cpuinfo};
use crate::cgroup;
use crate::drivers::watch;
use crate::fs::InodeRef;
use crate::fs::pseudo::{Dir, Meta, PseudoFs, StaticDir, TextFile};
use crate::keys;
use crate::room::Text;
use crate::sched;
use crate::sched::times::{self, Times};
use crate::stats;
use crate::syscall::system;
use crate::task;
use crate::task::ids;
use crate::task::ns::time::Offset;
use crate::time::clock;
use crate::vm::commit;
use crate::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use umbel_mm::{frame, heap};
use umbel_smp::ipi::control;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::thread::State;

/// Clock ticks a second, as programs count them (`USER_HZ`), in ns.
pub const TICK_NS: u64 = 10_000_000;

/// Adds the files to the root.
pub fn add(fs: &Arc<PseudoFs>, dir: StaticDir) -> StaticDir {
    let text = |generate: fn() -> Result<Vec<u8>>| -> InodeRef { TextFile::new(Meta::new(fs, 0o444), generate) };
    dir.add("cmdline", text(|| Ok(b"umbel\n".to_vec())))
        .add("config.gz", text(|| Ok(config::gzip())))
        .add("cpuinfo", text(|| Ok(cpuinfo::text(&online(), control().boot.tsc_khz))))
        .add("key-users", text(|| Ok(keys::show::users().into_bytes())))
        .add("keys", text(keys::show::keys))
        .add("cgroups", text(|| Ok(cgroup::list())))
        .add("devices", text(|| Ok(DEVICES.into())))
        .add("filesystems", text(|| Ok(FILESYSTEMS.into())))
        .add("interrupts", text(|| Ok(interrupts(&online()).into_bytes())))
        .add("lock_stat", text(|| Ok(lock_stat().into_bytes())))
        .add("loadavg", text(|| Ok(loadavg().into_bytes())))
        .add("meminfo", text(|| Ok(meminfo(&memory()).into_bytes())))
        .add("modules", text(|| Ok(Vec::new())))
        .add("partitions", text(|| Ok(b"major minor  #blocks  name\n\n".to_vec())))
        .add("schedstat", text(|| Ok(schedstat().into_bytes())))
        .add("stat", text(|| Ok(stat().into_bytes())))
        .add("sysrq-trigger", TextFile::writable(Meta::new(fs, 0o200), || Err(Errno::EIO), watch::trigger))
        .add("swaps", text(|| Ok(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec())))
        .add("uptime", text(|| Ok(uptime().into_bytes())))
        .add("version", text(|| Ok(version().into_bytes())))
        .add("vmstat", text(|| Ok(vmstat(&memory()).into_bytes())))
        .add("diskstats", text(|| Ok(Vec::new())))
        .add("consoles", text(|| Ok(b"console              -W- (EC  p  )    5:1\n".to_vec())))
        .add("execdomains", text(|| Ok(b"0-0\tLinux           \t[kernel]\n".to_vec())))
        .add("locks", text(locks))
        .add("misc", text(|| Ok(Vec::new())))
        .add("softirqs", text(|| Ok(softirqs(&online()).into_bytes())))
        .add("tty", Dir::new(Meta::new(fs, 0o555), StaticDir::new().add("drivers", text(|| Ok(TTY_DRIVERS.into())))))
}

/// /proc/filesystems.
pub const FILESYSTEMS: &str = "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\tdevpts\nnodev\tcgroup2\nnodev\tmqueue\nnodev\toverlay\n";
const DEVICES: &str =
    "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n  7 loop\n";

const TTY_DRIVERS: &str = "/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
pty_slave            /dev/pts      136 0-1048575 pty:slave
";

/// All file locks.
fn locks() -> Result<Vec<u8>> {
    let mut out = Text::default();
    for (index, lock) in crate::fs::lock::list(None)?.iter().enumerate() {
        let _ = writeln!(out, "{}: {}", index + 1, lock.line());
    }
    out.finish()
}

/// The virtual CPUs that are online.
fn online() -> Vec<u32> {
    sched::online().collect()
}

/// There are none: the names with zeroes.
fn softirqs(cpus: &[u32]) -> String {
    const NAMES: [&str; 10] =
        ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];
    let mut out = String::from("                    ");
    for cpu in cpus {
        let _ = write!(out, "{:<11}", format!("CPU{cpu}"));
    }
    out.push('\n');
    for name in NAMES {
        let _ = write!(out, "{name:>12}:");
        for _ in cpus {
            let _ = write!(out, " {:>10}", 0);
        }
        out.push('\n');
    }
    out
}

/// RAM, in KiB.
struct Memory {
    total: u64,
    free: u64,
    /// Pages of files in RAM.
    shared: u64,
    /// The kernel's own heap, which lies outside the guest's RAM.
    kernel: u64,
}

fn memory() -> Memory {
    let usage = frame::usage();
    let (used, _) = heap::usage();
    let shared = crate::fs::tmpfs::total_pages() * 4;
    Memory { total: usage.total * 4, free: usage.free * 4, shared, kernel: used / 1024 }
}

fn meminfo(memory: &Memory) -> String {
    let used = memory.total - memory.free;
    let private = used.saturating_sub(memory.shared);
    let lines: [(&str, u64); 34] = [
        ("MemTotal", memory.total),
        ("MemFree", memory.free),
        ("MemAvailable", memory.free),
        ("Buffers", 0),
        ("Cached", memory.shared),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("Active(anon)", used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", private),
        ("Mapped", 0),
        ("Shmem", memory.shared),
        ("KReclaimable", 0),
        ("Slab", memory.kernel),
        ("SReclaimable", 0),
        ("SUnreclaim", memory.kernel),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", commit::limit() / 1024),
        ("Committed_AS", commit::committed() / 1024 + memory.shared),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
    ];
    let mut out = String::new();
    for (name, kib) in lines {
        let _ = writeln!(out, "{:<15} {kib:>8} kB", format!("{name}:"));
    }
    out.push_str(
        "HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\n",
    );
    out.push_str("Hugepagesize:       2048 kB\nHugetlb:               0 kB\n");
    out
}

fn vmstat(memory: &Memory) -> String {
    format!(
        "nr_free_pages {}\nnr_anon_pages {}\nnr_file_pages 0\npgfault {}\npgmajfault 0\npswpin 0\npswpout 0\noom_kill 0\n",
        memory.free / 4,
        (memory.total - memory.free) / 4,
        stats::FAULTS.sum(),
    )
}

/// For how long the machine has run, ns.
fn age_ns() -> u64 {
    crate::time::monotonic_ns().saturating_sub(crate::machine::started_ns())
}

/// What CLOCK_BOOTTIME shows, ns: the machine's clocks are the host's, and so is what they count from.
pub fn uptime_ns() -> u64 {
    crate::time::monotonic_ns().saturating_add(clock::boot_offset_ns())
}

/// The same as the running task's time namespace has it.
pub fn seen_uptime_ns() -> u64 {
    uptime_ns().saturating_add_signed(task::current().time_offset_ns(Offset::Boottime))
}

fn hundredths(ns: u64) -> String {
    format!("{}.{:02}", ns / 1_000_000_000, ns / 10_000_000 % 100)
}

fn uptime() -> String {
    format!("{} {}\n", hundredths(seen_uptime_ns()), hundredths(stats::IDLE_NS.sum()))
}

fn version() -> String {
    format!("Linux version {} (umbel@umbel) (rustc) {}\n", system::RELEASE, system::VERSION)
}

/// Threads that run or could, and all threads.
fn counts() -> (usize, usize) {
    let table = ids::table();
    let runnable = |task: &&Arc<crate::task::Task>| matches!(task.thread.state(), State::Running | State::Runnable);
    (table.tasks.values().filter(runnable).count(), table.tasks.len())
}

/// The three averages, in 1/2^11, as they were at `at_ns`.
struct Load {
    averages: [u64; 3],
    at_ns: u64,
}

static LOAD: SpinLock<Load> = SpinLock::new(Rank::Leaf, Load { averages: [0; 3], at_ns: 0 });

/// Linux's interval of load samples and its decay factors for 1, 5 and 15 minutes, in 1/2^11.
const SAMPLE_NS: u64 = 5_000_000_000;
const DECAY: [u64; 3] = [1884, 2014, 2037];
const ONE: u64 = 1 << 11;

impl Load {
    /// Takes the samples that were due since the last look, as if `running` had been the number at all of them: nobody
    /// pays for the averages while nobody looks.
    fn catch_up(&mut self, now_ns: u64, running: u64) {
        let due = (now_ns.saturating_sub(self.at_ns) / SAMPLE_NS).min(1000);
        for _ in 0..due {
            for (average, decay) in self.averages.iter_mut().zip(DECAY) {
                *average = (*average * decay + running * ONE * (ONE - decay)) / ONE;
            }
        }
        self.at_ns = if due == 1000 { now_ns } else { self.at_ns + due * SAMPLE_NS };
    }
}

/// The three load averages in 1/2^11.
pub fn load() -> [u64; 3] {
    let (running, _) = counts();
    let mut load = LOAD.lock();
    // The reader itself runs.
    load.catch_up(age_ns(), running.saturating_sub(1) as u64);
    load.averages
}

fn loadavg() -> String {
    let averages = load().map(|value| format!("{}.{:02}", value / ONE, value % ONE * 100 / ONE));
    let (running, all) = counts();
    let last = ids::table().last_in(task::current().process().pid_ns());
    format!("{} {running}/{all} {}\n", averages.join(" "), last)
}

fn stat() -> String {
    let mut out = String::new();
    let mut rows = String::new();
    let mut all = [0; 4];
    for cpu in online() {
        let Times { user, system, idle, steal } = times::of(cpu);
        let row = [user, system, idle, steal].map(|ns| ns / TICK_NS);
        push_row(&mut rows, &format!("cpu{cpu}"), row);
        all.iter_mut().zip(row).for_each(|(sum, part)| *sum += part);
    }
    push_row(&mut out, "cpu ", all);
    out.push_str(&rows);
    let boot_s = crate::time::realtime_ns().saturating_sub(uptime_ns()) / 1_000_000_000;
    let (running, _) = counts();
    let _ = writeln!(out, "intr {}", stats::TICKS.sum() + stats::DEVICE_INTERRUPTS.sum());
    let _ = writeln!(out, "ctxt {}", stats::SWITCHES.sum());
    let _ = writeln!(out, "btime {boot_s}");
    let _ = writeln!(out, "processes {}", stats::FORKS.sum());
    let _ = writeln!(out, "procs_running {running}\nprocs_blocked 0");
    out.push_str("softirq 0 0 0 0 0 0 0 0 0 0 0\n");
    out
}

/// Costs of the kernel's locks, where `--lockstat` counts them.
fn lock_stat() -> String {
    if !umbel_smp::lock::stat::enabled() {
        return "locks are not counted: start the machine with --lockstat\n".into();
    }
    stats::locks()
}

/// Version 15 without domains: switches, and time of running and idling, by virtual CPU (sched-stats of Linux's documentation).
fn schedstat() -> String {
    let mut out = format!("version 15\ntimestamp {}\n", uptime_ns() / TICK_NS);
    for cpu in online() {
        let times = times::of(cpu);
        let (ran_ns, waited_ns) = (times.user + times.system, times.steal);
        let _ = writeln!(
            out,
            "cpu{cpu} 0 0 {} 0 0 0 {ran_ns} {waited_ns} {}",
            stats::SWITCHES.of(cpu),
            stats::SWITCHES.of(cpu)
        );
    }
    out
}

fn push_row(out: &mut String, name: &str, [user, kernel, idle, steal]: [u64; 4]) {
    let _ = writeln!(out, "{name} {user} 0 {kernel} {idle} 0 0 0 {steal} 0 0");
}

fn interrupts(cpus: &[u32]) -> String {
    let mut out = String::from("    ");
    for cpu in cpus {
        let _ = write!(out, "       {:<4}", format!("CPU{cpu}"));
    }
    out.push('\n');
    for (name, count, what) in [
        ("LOC", &stats::TICKS, "Local timer interrupts"),
        ("RES", &stats::CROSS_CALLS, "Rescheduling interrupts"),
        ("TLB", &stats::FLUSHES, "TLB shootdowns"),
        ("DEV", &stats::DEVICE_INTERRUPTS, "Device interrupts"),
    ] {
        let _ = write!(out, "{name}:");
        for &cpu in cpus {
            let _ = write!(out, " {:>10}", count.of(cpu));
        }
        let _ = writeln!(out, "   {what}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_prints_as_linux_does() {
        let text = meminfo(&Memory { total: 65536, free: 1024, shared: 5, kernel: 77 });
        assert!(text.starts_with("MemTotal:          65536 kB\nMemFree:            1024 kB\n"), "{text}");
        let host = std::fs::read_to_string("/proc/meminfo").unwrap();
        for line in text.lines() {
            let name = line.split(':').next().unwrap();
            if let Some(theirs) = host.lines().find(|line| line.split(':').next() == Some(name)) {
                let column = |line: &str| line.rfind(|c: char| c.is_ascii_digit()).map(|end| end.max(23));
                assert_eq!(column(line), column(theirs), "{line} / {theirs}");
            }
        }
    }

    #[test]
    fn load_approaches_what_runs() {
        let mut load = Load { averages: [0; 3], at_ns: 0 };
        load.catch_up(60_000_000_000, 2);
        assert!((1..2 * ONE).contains(&load.averages[0]));
        assert!(load.averages[0] > load.averages[1] && load.averages[1] > load.averages[2]);
        load.catch_up(100_000_000_000_000, 2);
        assert!(load.averages[0] > 2 * ONE - 20);
    }

    #[test]
    fn times_have_two_digits() {
        assert_eq!(hundredths(12_345_678_901), "12.34");
    }
}
