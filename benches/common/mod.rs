//! What the benches share: one program run on the host and in a machine by turns, ratios printed, JSON written.

#![allow(dead_code)] // each bench uses its own part

pub mod program;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Times that the pair host, machine is repeated; the best of each operation counts.
const PAIRS: usize = 3;

/// An operation and the ratio to native it is meant to reach (at most, or at least for speed-ups).
pub struct Goal {
    pub operation: &'static str,
    pub ratio: Option<f64>,
}

/// A goal with a bound.
pub const fn goal(operation: &'static str, ratio: f64) -> Goal {
    Goal { operation, ratio: Some(ratio) }
}

/// An operation that is only reported.
pub const fn report(operation: &'static str) -> Goal {
    Goal { operation, ratio: None }
}

/// Compiles `benches/guest/NAME.c`, static.
pub fn compile(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/guest").join(format!("{name}.c"));
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let status = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()))
        .args(["-std=gnu11", "-O2", "-static", "-pthread", "-o"])
        .arg(&program)
        .arg(&source)
        .status()
        .expect("a C compiler");
    assert!(status.success(), "{} does not compile", source.display());
    program
}

/// The machine's command line up to the guest's command.
pub fn machine() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbel"));
    command.args(["run", "--cpus", "2", "--"]);
    command
}

/// Runs a command that prints "NAME NUMBER" lines.
///
/// # Panics
/// When the command fails: a bench of a broken program means nothing.
pub fn figures(command: &mut Command) -> BTreeMap<String, f64> {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// Measures operations of `benches/guest/ops.c` and reports them under `title`.
pub fn ratios(title: &str, goals: &[Goal]) {
    ratios_of("ops", title, goals);
}

/// As [`ratios`], with operations of `benches/guest/NAME.c`.
pub fn ratios_of(name: &str, title: &str, goals: &[Goal]) {
    let program = compile(name);
    let names: Vec<&str> = goals.iter().map(|g| g.operation).collect();
    let mut host = BTreeMap::new();
    let mut guest = BTreeMap::new();
    for _ in 0..PAIRS {
        keep_best(&mut host, figures(Command::new(&program).args(&names)));
        keep_best(&mut guest, figures(machine().arg(&program).args(&names)));
    }
    println!("{title}: nanoseconds per operation, best of {PAIRS} paired runs, 2 virtual CPUs");
    println!("{:<22}{:>12}{:>12}{:>9}{:>9}", "operation", "host", "machine", "ratio", "goal");
    let mut rows = Vec::new();
    for goal in goals {
        let (Some(h), Some(g)) = (host.get(goal.operation), guest.get(goal.operation)) else { continue };
        let bound = goal.ratio.map_or("-".into(), |r| format!("{r}"));
        println!("{:<22}{h:>12.0}{g:>12.0}{:>9.2}{bound:>9}", goal.operation, g / h);
        rows.push(format!(
            "  {{\"operation\": \"{}\", \"host_ns\": {h:.1}, \"machine_ns\": {g:.1}, \"ratio\": {:.3}}}",
            goal.operation,
            g / h
        ));
    }
    write_json(title, &rows);
}

fn keep_best(best: &mut BTreeMap<String, f64>, new: BTreeMap<String, f64>) {
    for (name, value) in new {
        best.entry(name).and_modify(|b: &mut f64| *b = b.min(value)).or_insert(value);
    }
}

/// Writes rows of JSON objects to `target/bench/TITLE.json`.
pub fn write_json(title: &str, rows: &[String]) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    std::fs::create_dir_all(&directory).expect("target directory");
    let path = directory.join(format!("{title}.json"));
    std::fs::write(&path, format!("[\n{}\n]\n", rows.join(",\n"))).expect("target directory");
    println!("written: {}", path.display());
}

/// A process and all its descendants.
pub fn family(root: u32) -> Vec<u32> {
    let listing = Command::new("ps").args(["-eo", "pid=,ppid="]).output().expect("ps");
    let pairs: Vec<(u32, u32)> = String::from_utf8_lossy(&listing.stdout)
        .lines()
        .filter_map(|l| {
            let mut words = l.split_whitespace().filter_map(|w| w.parse().ok());
            Some((words.next()?, words.next()?))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent_pid = found[next];
        found.extend(pairs.iter().filter(|(_, parent)| *parent == parent_pid).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}
