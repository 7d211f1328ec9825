//! CPython's own test suite, with the host's python3: every test that passes on the host passes in a machine.
//!
//! What differs is in `DIFFERENT`, by name and with the reason. Without `--features nightly` the slowest tests are left out
//! on both sides. Where the suite is not installed (Debian: `libpython3.11-testsuite`) it is skipped by name.

mod common;

use common::{Outcome, Run};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

const PYTHON: &str = "/usr/bin/python3";

/// Patterns of tests that pass on a host and not inside, or that hang on some hosts, and why.
const DIFFERENT: [(&str, &str); 6] = [
    ("*V[Ss][Oo][Cc][Kk]*", "no AF_VSOCK inside; on hosts without a peer these wait for ever"),
    ("*PidfdSignalTest*", "a directory of /proc is no pidfd inside"),
    (
        "*test_sendfile.*test_sendfile_close_peer_in_the_middle_of_receiving",
        "TCP buffers have one size, whatever SO_SNDBUF asks for",
    ),
    ("*testHostnameRes", "the machine has a name of its own, which the host's /etc/hosts does not know"),
    ("*testSockName", "likewise"),
    ("*test_to_thread_concurrent", "counts without a lock: fails now and then anywhere"),
];

/// Tests that sleep long, or do the same once more in other clothes.
const SLOW: [&str; 9] = [
    "*test_siginterrupt_off",
    "*test_itimer_virtual",
    "*NoPoll*",
    "*WithManager*",
    "*WithThreads*",
    "*test_events.Poll*",
    "*test_events.Select*",
    "*SubprocessSafeWatcher*",
    "*SubprocessFastWatcher*",
];

fn patterns() -> Vec<&'static str> {
    let slow = if cfg!(feature = "nightly") { &SLOW[..0] } else { &SLOW[..] };
    DIFFERENT.iter().map(|(pattern, _)| *pattern).chain(slow.iter().copied()).collect()
}

/// How each test ended.
fn endings(outcome: &Outcome) -> BTreeMap<&str, &str> {
    assert!(outcome.stdout.ends_with("end\n"), "the suite ends early: {outcome:#?}");
    outcome.stdout.lines().filter_map(|line| line.split_once(' ')).map(|(ending, test)| (test, ending)).collect()
}

/// Tests that the host passes and the machine does not.
fn passing_on_the_host_alone(host: &BTreeMap<&str, &str>, inside: &BTreeMap<&str, &str>) -> Vec<String> {
    let passing = |(test, ending): &(&&str, &&str)| **ending == "ok" && inside.get(**test) != Some(&"ok");
    host.iter().filter(passing).map(|(test, _)| (*test).to_owned()).collect()
}

/// Runs a module on both sides at once: most of its time is sleep.
#[track_caller]
fn passes_what_the_host_passes(module: &str) {
    let (name, part) = module.split_once('.').unwrap_or((module, ""));
    let there = Run::on_host(PYTHON, &["-c", &format!("import test.{name}")]);
    if !Path::new(PYTHON).exists() || there.finish().status != 0 {
        eprintln!("skipped: {module} of CPython's test suite is not on this host");
        return;
    }
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/suite.py");
    let suite = std::fs::read_to_string(suite).expect("a script of this repository");
    let module = if part.is_empty() { format!("test.{name}") } else { format!("test.{name}.{part}") };
    let mut args = vec!["-c", &suite, &module];
    args.extend(patterns());
    let mut inside = vec!["run", "--cpus", "2", "--mem", "2G", "--", PYTHON];
    inside.extend(&args);
    let (host, guest) = thread::scope(|scope| {
        let host = scope.spawn(|| Run::on_host(PYTHON, &args).limit(900).finish());
        let guest = Run::umbel(&inside).limit(900).finish();
        (host.join().expect("the host's run"), guest)
    });
    let on_host = endings(&host);
    assert!(on_host.values().any(|ending| *ending == "ok"), "{module}: nothing passes on the host");
    let fail = passing_on_the_host_alone(&on_host, &endings(&guest));
    assert!(fail.is_empty(), "passing on the host alone: {fail:#?}\n{}", guest.stderr);
}

#[test]
fn test_os() {
    passes_what_the_host_passes("test_os");
}

#[test]
fn test_subprocess() {
    passes_what_the_host_passes("test_subprocess");
}

#[test]
fn test_threading() {
    passes_what_the_host_passes("test_threading");
}

#[test]
fn test_signal() {
    passes_what_the_host_passes("test_signal");
}

#[test]
fn test_socket() {
    passes_what_the_host_passes("test_socket");
}

#[test]
fn test_select() {
    passes_what_the_host_passes("test_select");
}

#[test]
fn test_mmap() {
    passes_what_the_host_passes("test_mmap");
}

#[test]
fn test_fcntl() {
    passes_what_the_host_passes("test_fcntl");
}

#[test]
fn test_multiprocessing_fork() {
    passes_what_the_host_passes("test_multiprocessing_fork");
}

#[test]
fn test_asyncio() {
    let parts = [
        "base_events",
        "buffered_proto",
        "events",
        "locks",
        "queues",
        "runners",
        "selector_events",
        "sendfile",
        "server",
        "sock_lowlevel",
        "streams",
        "subprocess",
        "taskgroups",
        "threads",
        "timeouts",
        "unix_events",
    ];
    for part in parts {
        passes_what_the_host_passes(&format!("test_asyncio.test_{part}"));
    }
}
