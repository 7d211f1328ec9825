//! How models are run.

use std::process::Command;

/// Switches away from a thread that can go on, per execution. Two find almost everything (three are feasible for the
/// small models); `LOOM_MAX_PREEMPTIONS` overrides.
const PREEMPTIONS: usize = 2;

/// Explores every interleaving of `body` within the preemption bound.
pub fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.max_branches = 20_000;
    builder.check(body);
}

/// Requires that the model fails when step `name` is broken: runs the calling test again in a process of its own.
pub fn mutant_fails(name: &str, body: impl Fn() + Sync + Send + 'static) {
    if std::env::var("UMBEL_MUTANT").as_deref() == Ok(name) {
        return model(body);
    }
    let this_test = std::thread::current();
    let output = Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", "--nocapture"])
        .arg(this_test.name().expect("test threads have names"))
        .env("UMBEL_MUTANT", name)
        .output()
        .expect("the test binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "mutant {name} survived: {said}");
    let found = ["deadlock", "Causality violation", "Concurrent", "assertion", "claim:"]
        .iter()
        .any(|reason| said.contains(reason));
    assert!(found, "mutant {name} died of something else: {said}");
}
