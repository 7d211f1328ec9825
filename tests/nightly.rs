//! Long soaks, run by hand: `cargo test --release --features nightly --test nightly`.

mod common;

use common::{Run, guest_program, umbel};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Seconds of each soak.
const SOAK: &str = "600";

#[track_caller]
fn soak(name: &str, cpus: u32) {
    let outcome = Run::in_machine(cpus, guest_program(name, false), &[SOAK]).limit(900).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

#[test]
fn registers_for_ten_minutes() {
    soak("registers", 4);
}

#[test]
fn memory_for_ten_minutes() {
    soak("torture_memory", 4);
}

/// The torture of memory notices when shootdowns are left out. Here, because it is a matter of chance when: mostly within
/// seconds, seldom after minutes.
#[test]
fn old_mappings_that_are_left_are_seen() {
    let program = guest_program("torture_memory", false).to_string_lossy().into_owned();
    let script = format!("echo w > /proc/sysrq-trigger; exec {program} {SOAK}");
    let outcome =
        Run::umbel(&["run", "--cpus", "4", "--debug-stall", "--", "/bin/sh", "-c", &script]).limit(900).finish();
    assert!(outcome.status != 0 && outcome.stdout.contains(" shows "), "{outcome:#?}");
}

/// So many virtual CPUs on one processor: each wake-up comes, and the watchdog saw no virtual CPU and no thread that was stuck.
#[track_caller]
fn no_wake_up_is_lost(cpus: u32) {
    let program = guest_program("turns", false);
    let (umbel, cpus) = (umbel().to_string_lossy().into_owned(), cpus.to_string());
    let script = format!("{} 8 {SOAK}; dmesg", program.display());
    let args = ["-c", "0", &umbel, "run", "--cpus", &cpus, "--", "/bin/sh", "-c", &script];
    let outcome = Run::on_host("taskset", &args).limit(900).finish();
    let (first, log) = outcome.stdout.split_once('\n').unwrap_or_default();
    assert!(first == "ok" && log.contains("virtual CPUs") && !log.contains("watchdog:"), "{outcome:#?}");
}

#[test]
fn no_wake_up_is_lost_on_64_virtual_cpus_for_ten_minutes() {
    no_wake_up_is_lost(64);
}

#[test]
fn no_wake_up_is_lost_on_256_virtual_cpus_for_ten_minutes() {
    no_wake_up_is_lost(256);
}

/// Machines of two virtual CPUs and of one, on one processor and on two, whatever they run.
#[test]
fn two_virtual_cpus_get_twice_the_time_of_one() {
    let grouped = fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled");
    if grouped.map_or(true, |text| text.trim() != "1") {
        println!("skipped: the host does not schedule by session");
        return;
    }
    let busy = ["sh", "-c", "(while :; do :; done) & while :; do :; done"].map(String::from);
    let turns = [guest_program("turns", false).display().to_string(), "2".into(), "120".into()];
    for (two, one) in [(&busy, &busy), (&turns, &turns), (&turns, &busy), (&busy, &turns)] {
        for processors in ["0", "0,1"] {
            let ratio = ratio(on_processors(processors, 2, two), on_processors(processors, 1, one));
            assert!((1.9..=2.1).contains(&ratio), "{ratio:.3} on {processors}: {two:?} on two, {one:?} on one");
        }
    }
}

fn on_processors(processors: &str, cpus: u32, command: &[String]) -> Child {
    let mut machine = Command::new("taskset");
    machine.args(["-c", processors]).arg(umbel()).args(["run", "--cpus", &cpus.to_string(), "--"]).args(command);
    machine.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("taskset")
}

/// Processor time of the first over that of the second in ten seconds, once the host's averages have settled.
fn ratio(mut first: Child, mut second: Child) -> f64 {
    sleep(Duration::from_secs(3));
    let before = (used_ns(first.id()), used_ns(second.id()));
    sleep(Duration::from_secs(10));
    let after = (used_ns(first.id()), used_ns(second.id()));
    for child in [&mut first, &mut second] {
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }
    (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64
}

/// Processor time that a process and all its descendants have used, ns: more exact than the ticks of /proc/PID/stat, of
/// which each of many slots loses some.
fn used_ns(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_thread = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let own_ns = text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        own_ns + children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(used_ns).sum::<u64>()
    };
    threads.map(of_thread).sum()
}

#[test]
fn a_hundred_thousand_processes() {
    let program = guest_program("storm", false);
    let outcome = Run::in_machine(2, &program, &["100000"]).limit(3600).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

#[test]
fn virtual_cpus_come_and_go_a_thousand_times() {
    let outcome = Run::in_machine(4, guest_program("hotplug", false), &["1000"]).limit(900).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

#[test]
fn system_calls_that_nobody_means() {
    let seed = std::process::id().to_string();
    println!("seed {seed}");
    let outcome = Run::in_machine(2, guest_program("fuzz_syscalls", false), &[&seed, SOAK]).limit(900).finish();
    assert_eq!(outcome.status, 0, "seed {seed}: {outcome:#?}");
}
