//! How a model is shown to bite.

use std::process::Command;

/// Requires that `run` fails when step `name` is broken: runs the calling test again in a process of its own.
pub fn fails(name: &str, run: impl FnOnce()) {
    if std::env::var("UMBEL_MUTANT").as_deref() == Ok(name) {
        return run();
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
    let found = ["deadlock", "Causality violation", "Concurrent", "assertion", "claim:", "max_steps"]
        .iter()
        .any(|reason| said.contains(reason));
    assert!(found, "mutant {name} died of something else: {said}");
}
