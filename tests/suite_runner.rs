//! The runner of the conformance suites itself, on a small suite made here.

#[path = "suites/cases.rs"]
mod cases;
mod common;
#[path = "suites/report.rs"]
mod report;
#[path = "suites/run.rs"]
mod run;
#[path = "suites/session.rs"]
mod session;

use cases::{Suite, Verdict};
use report::{Known, Sums};
use session::Options;
use std::path::PathBuf;
use std::time::Duration;

/// A directory that a guest sees too.
fn directory(name: &str) -> PathBuf {
    let base = if env!("CARGO_TARGET_TMPDIR").starts_with("/tmp") { "/var/tmp" } else { env!("CARGO_TARGET_TMPDIR") };
    let dir = PathBuf::from(base).join(format!("umbel-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("target directory");
    dir
}

#[test]
fn ltp_results_are_counted_and_kept() {
    let dir = directory("suite");
    std::fs::create_dir_all(dir.join("runtest")).expect("target directory");
    // What a machine shows of its own in /proc/cmdline tells the two places apart.
    let scenario = "# a comment\n\
                    passes true\n\
                    fails false\n\
                    differs ! grep -q umbel /proc/cmdline\n\
                    hangs grep -q umbel /proc/cmdline && sleep 100 || true\n\
                    skips exit 32\n\
                    clock_settime01 echo never run\n";
    std::fs::write(dir.join("runtest/syscalls"), scenario).expect("target directory");
    let mut options = Options::new(Suite::Ltp, dir.clone());
    options.out = dir.join("out");
    options.jobs = 2;
    options.inside_limit = Duration::from_secs(10);
    let sums = session::run(&options).expect("a run");
    assert_eq!(sums, Sums { tests: 5, native: 3, inside: 1, unexplained: 2 });
    let table = std::fs::read_to_string(dir.join("out/table.txt")).expect("a table");
    assert!(table.contains("    differs fail\n    hangs late\n"), "{table}");
    let json = std::fs::read_to_string(dir.join("out/results.json")).expect("results");
    assert!(json.contains("\"name\": \"skips\", \"native\": {\"verdict\": \"skip\""), "{json}");
    let native = std::fs::read_to_string(dir.join("out/native.txt")).expect("native results");
    let native = report::parse_native(&native);
    assert_eq!((native.len(), native["passes"].verdict), (5, Verdict::Pass));
    std::fs::remove_dir_all(&dir).expect("target directory");
}

#[test]
fn reasons_are_found_by_name_and_by_beginning() {
    let known = Known::parse("# head\n[no block devices]\na01 b* # why\n[other]\nc\n");
    assert_eq!(known.reason("a01"), Some("no block devices"));
    assert_eq!(known.reason("a02"), None);
    assert_eq!(known.reason("b7"), Some("no block devices"));
    assert_eq!(known.reason("c"), Some("other"));
}

#[test]
fn suites_have_names_of_their_own() {
    let names: std::collections::BTreeSet<&str> = Suite::ALL.iter().map(|suite| suite.name()).collect();
    assert_eq!(names.len(), Suite::ALL.len());
}

#[test]
fn each_suite_says_a_pass_in_its_own_way() {
    assert_eq!(Suite::Ltp.judge(32, ""), Verdict::Skip);
    assert_eq!(Suite::Ltp.judge(4, ""), Verdict::Fail);
    assert_eq!(Suite::Pjdfstest.judge(0, "1..2\nok 1\nnot ok 2 - x\n"), Verdict::Fail);
    assert_eq!(Suite::Pjdfstest.judge(0, "1..2\nok 1\nnot ok 2 # TODO x\n"), Verdict::Pass);
    assert_eq!(Suite::Pjdfstest.judge(0, "1..0 # SKIP\n"), Verdict::Skip);
    assert_eq!(Suite::Gvisor.judge(0, "[  SKIPPED ] A.b\n"), Verdict::Skip);
    assert_eq!(Suite::LibcTest.judge(1, ""), Verdict::Fail);
}
