//! Programs as people use them: wall time in a machine over wall time on the host, by turns in the same run.
//!
//! The machine's own start and stop are part of its time; short programs are run several times over. A program that the
//! host lacks is skipped by name. Scratch files lie in `/dev/shm`, which is memory on both sides.

mod common;

use common::program::{Case, case, exists, rate, ratios};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories and files in each of the repository that `git status` looks through.
const REPOSITORY: (usize, usize) = (60, 80);
/// Files of the C project and functions in each.
const PROJECT: (usize, usize) = (24, 60);

/// The least share of the host's rate for what only computes.
const COMPUTING: f64 = 0.97;

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
    rate("sysbench cpu", "sysbench", "sysbench cpu --time=1 run", "events per second:", COMPUTING),
    rate("sysbench memory", "sysbench", "sysbench memory --time=1 run", "MiB transferred (", COMPUTING),
];

fn main() {
    ratios("programs", CASES, &prepare());
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
