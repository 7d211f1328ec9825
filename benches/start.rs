//! Start a machine, run `true`, stop: wall time, and memory of an idle machine. Goals: 60 ms, 24 MB.

mod common;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

const RUNS: usize = 15;

fn main() {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            assert!(common::machine().arg("/bin/true").status().expect("umbel starts").success());
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let mut machine = common::machine().args(["/bin/sleep", "60"]).stdin(Stdio::null()).spawn().expect("umbel starts");
    std::thread::sleep(Duration::from_millis(500));
    let kib: u64 = common::family(machine.id()).iter().map(|pid| memory_kib(*pid)).sum();
    machine.kill().expect("our own child");
    machine.wait().expect("our own child");
    let (median, worst) = (times[RUNS / 2], times[RUNS - 1]);
    println!("start: median {median:.1} ms, worst {worst:.1} ms of {RUNS}; idle machine {:.1} MB", kib as f64 / 1024.0);
    common::write_json(
        "start",
        &[format!("  {{\"median_ms\": {median:.2}, \"worst_ms\": {worst:.2}, \"idle_kib\": {kib}}}")],
    );
}

/// Proportional set size and page tables, KiB.
fn memory_kib(pid: u32) -> u64 {
    let field = |file: &str, name: &str| {
        fs::read_to_string(format!("/proc/{pid}/{file}"))
            .unwrap_or_default()
            .lines()
            .find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    field("smaps_rollup", "Pss:") + field("status", "VmPTE:")
}
