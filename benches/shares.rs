//! Does a virtual CPU get a plain busy process's share of a host core, however often it switches? Goal: within 5 %.
//!
//! A machine of one virtual CPU and a busy process, in a session each, compete for host CPU 0. The first seconds are not
//! judged: the host's load averages settle.

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const SETTLE: Duration = Duration::from_secs(3);
const MEASURE: Duration = Duration::from_secs(6);

fn main() {
    let switcher = common::compile("switcher");
    println!("shares: processor time of a machine with one virtual CPU over a busy process's, same core");
    println!("{:>10}{:>14}{:>9}", "processes", "switch every", "share");
    let mut rows = Vec::new();
    for processes in [1, 2, 8, 32] {
        for burst in [10, 100, 1000] {
            let share = compete(&switcher, processes, burst);
            println!("{processes:>10}{:>11} us{share:>9.3}", burst);
            rows.push(format!("  {{\"processes\": {processes}, \"burst_us\": {burst}, \"share\": {share:.3}}}"));
        }
    }
    common::write_json("shares", &rows);
}

/// CPU time of the machine over that of the busy process.
fn compete(switcher: &std::path::Path, processes: u32, burst_us: u32) -> f64 {
    let mut machine = on_cpu_0()
        .arg(env!("CARGO_BIN_EXE_umbel"))
        .args(["run", "--cpus", "1", "--"])
        .arg(switcher)
        .args([processes.to_string(), burst_us.to_string(), "60".into()])
        .spawn()
        .expect("setsid and taskset");
    let mut hog = on_cpu_0().args(["sh", "-c", "while :; do :; done"]).spawn().expect("setsid and taskset");
    sleep(SETTLE);
    let before = (ticks(&machine), ticks(&hog));
    sleep(MEASURE);
    let after = (ticks(&machine), ticks(&hog));
    for child in [&mut machine, &mut hog] {
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }
    (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64
}

fn on_cpu_0() -> Command {
    let mut command = Command::new("setsid");
    command.args(["taskset", "-c", "0"]).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Clock ticks that a process and all its descendants have used.
fn ticks(child: &Child) -> u64 {
    let used = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum::<u64>()
    };
    common::family(child.id()).into_iter().map(used).sum()
}
