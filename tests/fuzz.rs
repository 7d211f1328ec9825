//! System calls with arguments that nobody means: the kernel answers, and neither panics, hangs nor loses memory.

mod common;

use common::{Run, guest_program};

/// Most memory that may be missing after a run, KiB: files that the calls made, and caches.
const LOST_KIB: i64 = 64 << 10;

#[track_caller]
fn fuzz(seed: u64, seconds: u64) {
    println!("seed {seed}: fuzz_syscalls {seed} {seconds}");
    let program = guest_program("fuzz_syscalls", false);
    let outcome = Run::in_machine(2, program, &[&seed.to_string(), &seconds.to_string()]).finish();
    // Workers that are root may write anywhere: only the end of the output is the program's own.
    assert_eq!(outcome.status, 0, "seed {seed}: {outcome:#?}");
    let lost = outcome.stderr.rsplit("rounds, ").next().and_then(|rest| rest.split(' ').next()?.parse::<i64>().ok());
    assert!(lost.is_some_and(|lost| lost < LOST_KIB), "seed {seed}: {outcome:#?}");
}

#[test]
fn calls_of_one_seed_do_no_harm() {
    fuzz(1, 15);
}

/// Seeds of their own have the soaks of the nightly set, where what they find holds nobody up.
#[test]
fn calls_of_another_seed_do_no_harm() {
    fuzz(685, 15);
}
