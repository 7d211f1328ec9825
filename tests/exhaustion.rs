//! Machines whose memory is used up, by each kind of object: errors or deaths of those who take it, never the machine's; and
//! what was taken is back afterwards.

mod common;

use common::{Outcome, Run, guest_program};
use std::process::Command;

/// Runs a guest program in a small machine, under a limit of processor time on the host.
fn in_small_machine(mem: &str, cpus: &str, program: &str, args: &[&str]) -> Outcome {
    let program = guest_program(program, false).to_string_lossy().into_owned();
    let umbel = common::umbel().to_string_lossy().into_owned();
    let limits = ["--cpu=600"];
    let run = ["run", "--cpus", cpus, "--mem", mem, "--user", "0", "--stats", "--", &program];
    let has_prlimit = Command::new("prlimit").arg("--version").output().is_ok();
    let all: Vec<&str> = if has_prlimit {
        limits.into_iter().chain([umbel.as_str()]).chain(run).chain(args.iter().copied()).collect()
    } else {
        run.into_iter().chain(args.iter().copied()).collect()
    };
    let command = if has_prlimit { "prlimit" } else { &umbel };
    Run::on_host(command, &all).limit(900).finish()
}

fn survives(mem: &str, cpus: &str, bombs: &[&str]) {
    let outcome = in_small_machine(mem, cpus, "bombs", bombs);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

#[test]
fn processes_and_threads() {
    survives("64M", "2", &["processes", "fork_storm", "threads", "futex_pi", "polls"]);
    // What its slots took stays taken.
    survives("64M", "4", &["processes"]);
}

#[test]
fn open_files() {
    survives("64M", "2", &["files", "ptys", "pipes", "epolls", "timer_files", "proc_texts"]);
}

#[test]
fn sockets_and_what_waits_in_them() {
    survives("64M", "2", &["flights", "in_flight", "streams", "tcp", "udp"]);
}

#[test]
fn areas_and_page_tables() {
    survives("64M", "2", &["vmas", "page_tables", "sparse", "sparse_forks", "area_forks", "arguments"]);
}

#[test]
fn names_and_what_hangs_on_them() {
    survives("64M", "2", &["inodes", "directories", "symlinks", "xattrs", "absent_names", "watches"]);
    survives("128M", "1", &["mounts", "namespaces", "record_locks"]);
}

#[test]
fn timers_signals_and_queues() {
    survives("64M", "2", &["posix_timers", "queued_signals", "posix_queues", "sysv_queues"]);
}

#[test]
fn one_user_does_not_take_what_others_need() {
    let bombs = ["--as-user", "processes", "threads", "files", "pipes", "epolls", "flights", "streams", "udp", "vmas"];
    survives("64M", "2", &bombs);
    survives("64M", "2", &["--as-user", "timer_files", "queued_signals", "posix_queues", "sysv_queues", "proc_texts"]);
}

#[test]
fn a_big_process_dies_and_not_a_small_one_that_faults() {
    for cpus in ["1", "2"] {
        let outcome = in_small_machine("64M", cpus, "oom", &["40"]);
        assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
    }
}
