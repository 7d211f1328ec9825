//! The guest's scheduler beside the host's, with the same programs: hackbench, cyclictest, stress-ng (packages rt-tests and
//! stress-ng), and `guest/wakeups.c`, which does what schbench does (no package of Debian's).
//! `cargo bench --bench sched [-- PROGRAM]`.
//!
//! On the host on one CPU and on two; in machines of 1 (on one host CPU), 2, 8 and 64 virtual CPUs. What is not installed is
//! named and left out.

mod common;

use std::collections::BTreeMap;
use std::process::Command;

/// A program and a script that prints "NAME NUMBER" lines.
const SCRIPTS: &[(&str, &str)] = &[
    (
        "hackbench",
        "hackbench -g 4 -l 200 | awk '/Time:/ { print \"hackbench_processes_s\", $2 }'
         hackbench -T -g 4 -l 200 | awk '/Time:/ { print \"hackbench_threads_s\", $2 }'",
    ),
    (
        "cyclictest",
        "cyclictest -q -D 3 -i 2000 -t 2 2>&1 | awk '/Avg:/ { for (i = 1; i < NF; i++) {
            if ($i == \"Avg:\" && $(i + 1) > avg) avg = $(i + 1)
            if ($i == \"Max:\" && $(i + 1) > max) max = $(i + 1)
         } } END { print \"cyclictest_avg_us\", avg; print \"cyclictest_max_us\", max }'",
    ),
    (
        "stress-ng",
        "cd /tmp; for s in switch pipe yield futex cpu; do
            stress-ng --$s 4 -t 2 --metrics-brief 2>&1 | awk -v s=$s '$4 == s && !n++ { print \"stress_\" s \"_per_s\", $9 }'
         done",
    ),
    ("wakeups", "$WAKEUPS 4 3"),
];

/// What is compared: a label, host CPUs, and virtual CPUs, if it is a machine.
const PLACES: [(&str, &str, Option<u32>); 6] = [
    ("host, 1", "0", None),
    ("host, 2", "0,1", None),
    ("machine 1", "0", Some(1)),
    ("2", "0,1", Some(2)),
    ("8", "0,1", Some(8)),
    ("64", "0,1", Some(64)),
];

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wakeups = common::compile("wakeups");
    print!("{:<24}", "sched");
    PLACES.iter().for_each(|(label, ..)| print!("{label:>12}"));
    println!();
    let mut rows = Vec::new();
    for (program, script) in SCRIPTS.iter().filter(|(name, _)| wanted.as_deref().is_none_or(|wanted| wanted == *name)) {
        if *program != "wakeups" && !common::program::exists(program) {
            println!("{program:<24}skipped: not installed");
            continue;
        }
        let script = script.replace("$WAKEUPS", &wakeups.display().to_string());
        let found: Vec<BTreeMap<String, f64>> = PLACES.iter().map(|place| run(place, &script)).collect();
        let names = found.iter().flat_map(|figures| figures.keys().cloned()).collect::<std::collections::BTreeSet<_>>();
        for name in names {
            let values: Vec<f64> =
                found.iter().map(|figures| figures.get(&name).copied().unwrap_or(f64::NAN)).collect();
            print!("{name:<24}");
            values.iter().for_each(|value| print!("{value:>12.2}"));
            println!();
            let pairs: Vec<String> =
                PLACES.iter().zip(&values).map(|((label, ..), value)| format!("\"{label}\": {value:.3}")).collect();
            rows.push(format!("  {{\"what\": \"{name}\", {}}}", pairs.join(", ").replace("NaN", "null")));
        }
    }
    common::write_json("sched", &rows);
}

fn run((_, cores, cpus): &(&str, &str, Option<u32>), script: &str) -> BTreeMap<String, f64> {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]);
    if let Some(cpus) = cpus {
        command.args([env!("CARGO_BIN_EXE_umbel"), "run", "--cpus", &cpus.to_string(), "--mem", "2G", "--"]);
    }
    common::figures(command.args(["sh", "-c", script]))
}
