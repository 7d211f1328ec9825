//! Programs as people use them: wall time in a machine over wall time on the host, by turns in the same run.
//!
//! The machine's own start and stop are part of its time; short programs are run several times over. A program that the
//! host lacks is skipped by name. Scratch files lie in `/dev/shm`, which is memory on both sides.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Times that the pair host, machine is repeated; the best of each counts.
const PAIRS: usize = 3;
/// Directories and files in each of the repository that `git status` looks through.
const REPOSITORY: (usize, usize) = (60, 80);
/// Files of the C project and functions in each.
const PROJECT: (usize, usize) = (24, 60);

/// A script for sh, the program without which it makes no sense, and the most that the ratio may be.
struct Case {
    name: &'static str,
    needs: &'static str,
    script: &'static str,
    goal: f64,
    /// The script prints a rate after this label: the ratio is the host's rate over the machine's.
    rate: Option<&'static str>,
}

const fn case(name: &'static str, needs: &'static str, script: &'static str, goal: f64) -> Case {
    Case { name, needs, script, goal, rate: None }
}

const fn rate(name: &'static str, needs: &'static str, script: &'static str, label: &'static str) -> Case {
    Case { name, needs, script, goal: 1.0 / 0.97, rate: Some(label) }
}

const TWENTY_PYTHONS: &str = "p='/usr/bin/python3 -c pass'; for i in 1 2 3 4 5 6 7 8 9 10; do $p; $p; done";

/// `$W` stands for the directory that [`prepare`] fills.
const CASES: &[Case] = &[
    case("200 x true", "true", "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done", 2.5),
    case("find /usr", "find", "find /usr >/dev/null", 4.0),
    case(
        "tar and untar",
        "tar",
        "d=/dev/shm/umbel-bench.$$; mkdir $d && tar cf $d/x.tar -C /usr include && tar xf $d/x.tar -C $d; rm -rf $d",
        3.0,
    ),
    case("python3 start x 20", "/usr/bin/python3", TWENTY_PYTHONS, 1.5),
    case("git status x 3", "git", "cd $W/repository && git status -s && git status -s && git status -s", 3.0),
    case(
        "make -j2",
        "make",
        "d=/dev/shm/umbel-bench.$$; cp -r $W/project $d && make -s -j2 -C $d >/dev/null; rm -rf $d",
        1.4,
    ),
    case("hackbench", "hackbench", "hackbench -g 2 -l 200 >/dev/null", 6.0),
    rate("sysbench cpu", "sysbench", "sysbench cpu --time=1 run", "events per second:"),
    rate("sysbench memory", "sysbench", "sysbench memory --time=1 run", "MiB transferred ("),
];

fn main() {
    let work = prepare();
    println!("programs: milliseconds (or rate), best of {PAIRS} paired runs, 2 virtual CPUs");
    println!("{:<22}{:>12}{:>12}{:>9}{:>9}", "program", "host", "machine", "ratio", "goal");
    let mut rows = Vec::new();
    for case in CASES {
        if !exists(case.needs) {
            println!("{:<22}skipped: no {} here", case.name, case.needs);
            continue;
        }
        let (host, machine, ratio) = compare(case, &work);
        println!("{:<22}{host:>12.1}{machine:>12.1}{ratio:>9.2}{:>9.2}", case.name, case.goal);
        rows.push(format!(
            "  {{\"program\": \"{}\", \"host\": {host:.1}, \"machine\": {machine:.1}, \"ratio\": {ratio:.3}}}",
            case.name
        ));
    }
    common::write_json("programs", &rows);
}

/// The best of the host, the best of the machine, and how much worse the machine is.
fn compare(case: &Case, work: &Path) -> (f64, f64, f64) {
    let (mut host, mut machine) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        host.push(measure(case, &mut Command::new("sh"), work));
        machine.push(measure(case, common::machine().arg("/bin/sh"), work));
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
    let value = text.split_once(label).and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{}: no \"{label}\" in {text}", case.name))
}

fn exists(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// The repository and the project, made once.
fn prepare() -> PathBuf {
    let work = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("programs");
    if !work.join("done").exists() {
        make_project(&work.join("project"));
        if exists("git") {
            make_repository(&work.join("repository"));
        }
        fs::write(work.join("done"), "").expect("target directory");
    }
    work
}

fn make_repository(at: &Path) {
    for dir in 0..REPOSITORY.0 {
        let dir = at.join(format!("directory{dir}"));
        fs::create_dir_all(&dir).expect("target directory");
        for file in 0..REPOSITORY.1 {
            fs::write(dir.join(format!("file{file}.txt")), format!("{dir:?} {file}\n")).expect("target directory");
        }
    }
    let script = "git init -q . && git add -A && git -c user.name=b -c user.email=b@c commit -qm files";
    let made = Command::new("sh").args(["-c", script]).current_dir(at).status().expect("a shell");
    assert!(made.success(), "git makes a repository");
}

/// Many files of small functions that call each other, and their Makefile.
fn make_project(at: &Path) {
    fs::create_dir_all(at).expect("target directory");
    for file in 0..PROJECT.0 {
        let mut text = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
        for function in 0..PROJECT.1 {
            text += &format!(
                "int f{file}_{function}(int n, const char *s) {{\n    char b[64];\n    int i, sum = {function};\n    \
                 for (i = 0; i < n; i++) sum += s[i % 7] * (i ^ {function});\n    \
                 if (sum % 3 == 0) snprintf(b, sizeof b, \"%d %s\", sum, s);\n    else strcpy(b, \"{file}\");\n    \
                 return atoi(b) + (int)strlen(b);\n}}\n"
            );
        }
        fs::write(at.join(format!("part{file}.c")), text).expect("target directory");
    }
    fs::write(at.join("main.c"), "int main(void) { return 0; }\n").expect("target directory");
    let makefile = "CFLAGS = -O1\nprogram: $(patsubst %.c,%.o,$(wildcard *.c))\n\t$(CC) -o $@ $^\n";
    fs::write(at.join("Makefile"), makefile).expect("target directory");
}
