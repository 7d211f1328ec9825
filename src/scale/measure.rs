//! Runs the workload, a machine a run, and reads the report that each leaves.

use super::ScaleError;
use crate::cli::ScaleOptions;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Kinds of locks that are kept of a run.
const LOCKS: usize = 3;
/// The report's line with the time of the command.
const TIME: &str = "time of the command, ns";
/// The report's line in a model when code computed long without an event.
const IRREPRODUCIBLE: &str = "long computations in the model";

/// The workload on one number of virtual CPUs: the median run.
#[derive(Serialize, Clone, Debug)]
pub struct Point {
    pub cpus: u32,
    /// From the command's start to its end, ns.
    pub time_ns: u64,
    /// Times of all runs, in their order.
    pub all_ns: Vec<u64>,
    /// The kinds of locks that were waited for longest.
    pub locks: Vec<Lock>,
    /// In a model: nothing but the seed decided the result.
    #[serde(skip)]
    pub reproducible: bool,
}

/// One line of `--lockstat`.
#[derive(Serialize, Clone, Debug, PartialEq)]
pub struct Lock {
    pub class: String,
    pub acquisitions: u64,
    pub contentions: u64,
    pub wait_ns: u64,
    pub hold_ns: u64,
}

impl Point {
    /// Runs a second.
    pub fn speed(&self) -> f64 {
        1e9 / self.time_ns.max(1) as f64
    }
}

/// Measures all counts; a bar on standard error shows how far it is.
pub fn measure(options: &ScaleOptions) -> Result<Vec<Point>, ScaleError> {
    let report = std::env::temp_dir().join(format!("umbel-scale-{}", std::process::id()));
    let bar = ProgressBar::new(options.cpus.len() as u64 * u64::from(options.repeat));
    if let Ok(style) = ProgressStyle::with_template("{msg:>10} [{bar:40}] {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    let points = options.cpus.iter().map(|&cpus| {
        bar.set_message(format!("{cpus} CPUs"));
        let mut runs = Vec::new();
        for _ in 0..options.repeat {
            runs.push(run(options, cpus, &report)?);
            bar.inc(1);
        }
        let all_ns: Vec<u64> = runs.iter().map(|run| run.time_ns).collect();
        let reproducible = runs.iter().all(|run| run.reproducible);
        runs.sort_by_key(|run| run.time_ns);
        let Run { time_ns, locks, .. } = runs.swap_remove(runs.len() / 2);
        Ok(Point { cpus, time_ns, all_ns, locks, reproducible })
    });
    let points = points.collect();
    bar.finish_and_clear();
    let _ = fs::remove_file(report);
    points
}

fn run(options: &ScaleOptions, cpus: u32, report: &Path) -> Result<Run, ScaleError> {
    let machine = std::env::current_exe().map_err(|error| ScaleError::Host("find this program", error))?;
    let mut command = Command::new(machine);
    command.args(["run", "--stats", "--lockstat", "--cpus", &cpus.to_string(), "--mem", &options.mem.to_string()]);
    if let Some(time) = &options.virtual_time {
        command.arg(format!("--virtual={}", time.words));
    }
    let status = command
        .arg("--report")
        .arg(report)
        .arg("--root")
        .arg(&options.root)
        .arg("--")
        .args(&options.command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| ScaleError::Host("start a machine", error))?;
    if !status.success() {
        let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        return Err(ScaleError::Command { cpus, status });
    }
    let text = fs::read_to_string(report).map_err(|error| ScaleError::Host("read the report", error))?;
    parse(&text).ok_or(ScaleError::Report)
}

/// What one report says.
struct Run {
    time_ns: u64,
    locks: Vec<Lock>,
    reproducible: bool,
}

/// Time of the command and the locks that were waited for longest.
fn parse(report: &str) -> Option<Run> {
    let time_ns = report.lines().find_map(|line| line.strip_prefix(TIME))?.trim().parse().ok()?;
    let table = report.lines().skip_while(|line| !line.starts_with("lock class")).skip(1);
    let mut locks: Vec<Lock> = table.filter_map(lock).filter(|lock| lock.wait_ns > 0).collect();
    locks.sort_by_key(|lock| std::cmp::Reverse(lock.wait_ns));
    locks.truncate(LOCKS);
    let reproducible = !report.lines().any(|line| line.starts_with(IRREPRODUCIBLE));
    Some(Run { time_ns, locks, reproducible })
}

fn lock(line: &str) -> Option<Lock> {
    let mut words = line.split_whitespace();
    let class = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    Some(Lock { class, acquisitions: number()?, contentions: number()?, wait_ns: number()?, hold_ns: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = "time of the command, ns              1234\nticks 7\n\
                      lock class acquisitions contentions wait-ns hold-ns\n\
                      Heap 10 0 0 50\nPidTable 5 2 30 40\nDentry 5 2 60 40\n";
        let run = parse(report).expect("a report");
        assert_eq!((run.time_ns, run.reproducible), (1234, true));
        let classes: Vec<_> = run.locks.iter().map(|lock| lock.class.as_str()).collect();
        assert_eq!(classes, ["Dentry", "PidTable"]);
        assert!(parse("nothing").is_none());
        let long = format!("{report}{IRREPRODUCIBLE}   2\n");
        assert!(parse(&long).is_some_and(|run| !run.reproducible));
    }
}
