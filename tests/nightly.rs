//! Long soaks, run by hand: `cargo test --release --features nightly --test nightly`.

mod common;

use common::{Run, guest_program};

/// Seconds of each soak.
const SOAK: &str = "600";

#[track_caller]
fn soak(name: &str, cpus: u32) {
    let outcome = Run::in_machine(cpus, guest_program(name, false), &[SOAK]).limit(900).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

#[test]
fn registers_for_ten_minutes() {
    soak("registers", 4);
}

#[test]
fn memory_for_ten_minutes() {
    soak("torture_memory", 4);
}

#[test]
fn a_hundred_thousand_processes() {
    let program = guest_program("storm", false);
    let outcome = Run::in_machine(2, &program, &["100000"]).limit(3600).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

#[test]
fn virtual_cpus_come_and_go_a_thousand_times() {
    let outcome = Run::in_machine(4, guest_program("hotplug", false), &["1000"]).limit(900).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

#[test]
fn system_calls_that_nobody_means() {
    let seed = std::process::id().to_string();
    println!("seed {seed}");
    let outcome = Run::in_machine(2, guest_program("fuzz_syscalls", false), &[&seed, SOAK]).limit(900).finish();
    assert_eq!(outcome.status, 0, "seed {seed}: {outcome:#?}");
}
