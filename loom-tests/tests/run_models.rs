//! Runs the models within an ordinary `cargo test`, in a target directory of their own.

#![cfg(not(loom))]

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn every_model_holds() {
    run("loom", "--cfg loom", &[]);
}

#[test]
fn the_large_models_hold() {
    run("shuttle", "--cfg loom --cfg shuttle", &["--test", "large"]);
}

fn run(directory: &str, flags: &str, which: &[&str]) {
    let status = Command::new(env!("CARGO"))
        .args(["test", "-p", "loom-tests", "--release", "--target-dir"])
        .arg(target_dir().join(directory))
        .args(which)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "a model failed: see above");
}

/// The target directory that this test was built in: it is `TARGET/PROFILE/deps/run_models-HASH`.
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    let target = exe.ancestors().nth(3).expect("tests lie three deep");
    target.to_path_buf()
}
