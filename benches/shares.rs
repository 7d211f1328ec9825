//! Do machines get processor time by their number of virtual CPUs, whatever they run?
//!
//! `cargo bench --bench shares [-- PART]`. *hog*: a machine of one virtual CPU against a busy process, in a session each, for
//! how often it switches; goal: within 5 %. *machines*: one of two virtual CPUs against one of one, on one host CPU and on
//! two, started from one session and from one each, 10 s; goal: 2.0 ± 0.1 times the processor time. The first seconds are not judged: the host's load averages settle.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const SETTLE: Duration = Duration::from_secs(3);
const MEASURE: Duration = Duration::from_secs(10);

fn main() {
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if wanted("hog") {
        against_a_hog();
    }
    if wanted("machines") {
        against_each_other();
    }
}

/// A machine's processor time over that of a busy process on the same host CPU.
fn against_a_hog() {
    let switcher = common::compile("switcher");
    println!("shares: processor time of a machine with one virtual CPU over a busy process's, same core");
    println!("{:>10}{:>14}{:>9}", "processes", "switch every", "share");
    let mut rows = Vec::new();
    for processes in [1, 2, 8, 32] {
        for burst in [10, 100, 1000] {
            let arguments = [processes.to_string(), burst.to_string(), "60".into()];
            let machine = start(Session::Own, Cores::One, &machine(1, &switcher, &arguments));
            let hog = start(Session::Own, Cores::One, &["sh", "-c", "while :; do :; done"].map(String::from));
            let share = compete(machine, hog);
            println!("{processes:>10}{burst:>11} us{share:>9.3}");
            rows.push(format!("  {{\"processes\": {processes}, \"burst_us\": {burst}, \"share\": {share:.3}}}"));
        }
    }
    common::write_json("shares", &rows);
}

/// What the machine of two virtual CPUs runs, and that of one.
const LOADS: [(&str, &str); 8] = [
    ("compute", "compute"),
    ("calls", "calls"),
    ("switches", "switches"),
    ("faults", "faults"),
    ("mix", "mix"),
    ("switches", "compute"),
    ("compute", "switches"),
    ("calls", "faults"),
];

/// Processor time of a machine with two virtual CPUs over that of one with one.
fn against_each_other() {
    let storm = common::compile("storm");
    println!("shares: processor time of a machine with two virtual CPUs over that of one with one; goal 1.9 to 2.1");
    println!(
        "{:>10}{:>10}{:>12}{:>12}{:>12}{:>12}",
        "two run", "one runs", "1 core", "2 cores", "1c, apart", "2c, apart"
    );
    let mut rows = Vec::new();
    for (two, one) in LOADS {
        print!("{two:>10}{one:>10}");
        for session in [Session::Shared, Session::Own] {
            for cores in [Cores::One, Cores::Two] {
                let begin = |cpus: u32, kind: &str| {
                    // Enough of them for all virtual CPUs, and as many for one as for two.
                    start(session, cores, &machine(cpus, &storm, &[kind.into(), "10".into(), "60".into()]))
                };
                let share = compete(begin(2, two), begin(1, one));
                print!("{share:>12.3}");
                rows.push(format!(
                    "  {{\"two\": \"{two}\", \"one\": \"{one}\", \"session\": \"{session:?}\", \"cores\": \"{cores:?}\", \"share\": {share:.3}}}"
                ));
            }
        }
        println!();
    }
    common::write_json("shares_machines", &rows);
}

/// In whose session something is started.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Session {
    Shared,
    Own,
}

/// Host CPUs that it may use.
#[derive(Clone, Copy, Debug)]
enum Cores {
    One,
    Two,
}

/// The command line of a machine that runs `program`.
fn machine(cpus: u32, program: &Path, arguments: &[String]) -> Vec<String> {
    let umbel = PathBuf::from(env!("CARGO_BIN_EXE_umbel"));
    let mut line = vec![umbel.display().to_string()];
    line.extend(["run", "--cpus", &cpus.to_string(), "--"].map(String::from));
    line.push(program.display().to_string());
    line.extend_from_slice(arguments);
    line
}

fn start(session: Session, cores: Cores, line: &[String]) -> Child {
    let mut words: Vec<&str> = if session == Session::Own { vec!["setsid"] } else { vec![] };
    words.extend(["taskset", "-c", if matches!(cores, Cores::One) { "0" } else { "0,1" }]);
    words.extend(line.iter().map(String::as_str));
    Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("setsid and taskset")
}

/// Processor time of the first over that of the second, which are ended then.
fn compete(mut first: Child, mut second: Child) -> f64 {
    sleep(SETTLE);
    let before = (used_ns(&first), used_ns(&second));
    sleep(MEASURE);
    let after = (used_ns(&first), used_ns(&second));
    for child in [&mut first, &mut second] {
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }
    (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64
}

/// Processor time that a process and all its descendants have used, ns. Not by the ticks of /proc/PID/stat: what each of
/// many slots loses to their length adds up to some percent.
fn used_ns(child: &Child) -> u64 {
    let threads = |pid: u32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let used = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0)
    };
    common::family(child.id()).into_iter().flat_map(threads).map(used).sum()
}
