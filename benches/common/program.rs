//! Whole programs by wall time or by the rate that they print, on the host and in a machine by turns. Used by the benches
//! `programs` and `servers`.

#![allow(dead_code)] // each bench uses its own part

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Times that the pair host, machine is repeated; the best of each counts.
const PAIRS: usize = 3;

/// A script for sh, the program without which it makes no sense, and the most that the ratio may be.
pub struct Case {
    pub name: &'static str,
    pub needs: &'static str,
    pub script: &'static str,
    pub goal: f64,
    /// The script prints a rate after this label: the ratio is the host's rate over the machine's.
    pub rate: Option<&'static str>,
}

/// A script that is timed; at most `goal` times the host's time.
pub const fn case(name: &'static str, needs: &'static str, script: &'static str, goal: f64) -> Case {
    Case { name, needs, script, goal, rate: None }
}

/// A script that prints a rate after `label`; at least `share` of the host's.
pub const fn rate(
    name: &'static str,
    needs: &'static str,
    script: &'static str,
    label: &'static str,
    share: f64,
) -> Case {
    Case { name, needs, script, goal: 1.0 / share, rate: Some(label) }
}

/// Runs all cases, prints a table and writes `target/bench/TITLE.json`.
pub fn ratios(title: &str, cases: &[Case], work: &Path) {
    println!("{title}: milliseconds (or rate), best of {PAIRS} paired runs, 2 virtual CPUs");
    println!("{:<22}{:>12}{:>12}{:>9}{:>9}", "program", "host", "machine", "ratio", "goal");
    let mut rows = Vec::new();
    for case in cases {
        if !exists(case.needs) {
            println!("{:<22}skipped: no {} here", case.name, case.needs);
            continue;
        }
        let (host, machine, ratio) = compare(case, work);
        println!("{:<22}{host:>12.1}{machine:>12.1}{ratio:>9.2}{:>9.2}", case.name, case.goal);
        rows.push(format!(
            "  {{\"program\": \"{}\", \"host\": {host:.1}, \"machine\": {machine:.1}, \"ratio\": {ratio:.3}}}",
            case.name
        ));
    }
    super::write_json(title, &rows);
}

/// The best of the host, the best of the machine, and how much worse the machine is.
fn compare(case: &Case, work: &Path) -> (f64, f64, f64) {
    let (mut host, mut machine) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        host.push(measure(case, &mut Command::new("sh"), work));
        machine.push(measure(case, super::machine().arg("/bin/sh"), work));
    }
    let best = |values: &[f64]| match case.rate {
        Some(_) => values.iter().copied().fold(0.0, f64::max),
        None => values.iter().copied().fold(f64::INFINITY, f64::min),
    };
    let (host, machine) = (best(&host), best(&machine));
    (host, machine, if case.rate.is_some() { host / machine } else { machine / host })
}

/// Milliseconds, or the rate that the script prints.
fn measure(case: &Case, shell: &mut Command, work: &Path) -> f64 {
    let script = case.script.replace("$W", &work.display().to_string());
    let command = shell.arg("-c").arg(script).stdin(Stdio::null());
    let start = Instant::now();
    let output = command.output().expect("a shell");
    let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
    assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
    let Some(label) = case.rate else { return elapsed_ms };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The last one: some programs print how they get on.
    let value = text.rsplit_once(label).and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{}: no \"{label}\" in {text}", case.name))
}

/// Whether the shell finds this command.
pub fn exists(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}
