//! How workloads scale: `--lockstat`, `/proc/lock_stat`, `umbel scale`.

mod common;

use common::Run;
use std::path::PathBuf;

/// A path of this test's own in the host's temporary directory.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("umbel-{name}-{}", std::process::id()))
}

#[test]
fn locks_are_counted_where_asked_for() {
    let script = "for i in 1 2 3 4; do ls /usr > /dev/null & done; wait; cat /proc/lock_stat";
    let outcome = Run::umbel(&["run", "--cpus", "2", "--lockstat", "/bin/sh", "-c", script]).finish();
    assert_eq!(outcome.status, 0, "{outcome:#?}");
    for text in [&outcome.stdout, &outcome.stderr] {
        let table = text.lines().find(|l| l.starts_with("RunQueue")).unwrap_or_else(|| panic!("{outcome:#?}"));
        let numbers: Vec<u64> = table.split_whitespace().skip(1).map(|n| n.parse().expect("a number")).collect();
        let &[acquisitions, contentions, _, hold_ns] = &numbers[..] else { panic!("{table}") };
        assert!(acquisitions > 20 && contentions <= acquisitions && hold_ns > 0, "{table}");
    }
    let plain = Run::umbel(&["run", "/bin/cat", "/proc/lock_stat"]).finish();
    assert!(plain.stdout.contains("--lockstat") && plain.stderr.is_empty(), "{plain:#?}");
}

/// What a lock and its release cost more by looking whether they are counted, ns; `smp/src/lock/tests.rs` measures it.
#[cfg(feature = "nightly")]
const LOOK_NS: f64 = 3.0;

/// As often as opening and closing a file takes locks, these looks are less than a fiftieth of it.
#[cfg(feature = "nightly")]
#[test]
fn locks_cost_little_while_they_are_not_counted() {
    const UNITS: &str = "20000";
    let program = common::guest_program("scaling", false);
    let run = |more: &[&str]| {
        let machine = ["run", "--cpus", "1"];
        let workload = ["--", program.to_str().expect("UTF-8"), "opens", UNITS];
        Run::umbel(&[&machine, more, &workload].concat()).finish()
    };
    let counted = run(&["--lockstat"]);
    let acquisitions = |line: &str| line.split_whitespace().nth(1).and_then(|count| count.parse::<f64>().ok());
    let locks: f64 = counted.stderr.lines().filter_map(acquisitions).sum();
    let used_us = |outcome: &common::Outcome| outcome.stdout.split_whitespace().nth(2).and_then(|us| us.parse().ok());
    let least_us = (0..5).map(|_| run(&[])).filter_map(|outcome| used_us(&outcome)).fold(f64::MAX, f64::min);
    let share = locks * LOOK_NS / (least_us * 1000.0);
    assert!(locks > 100_000.0 && share < 0.02, "{locks} locks in {least_us} us: {share}");
}

#[test]
fn counters_go_into_the_file_that_is_named() {
    let file = scratch("report");
    let name = file.to_str().expect("UTF-8");
    let outcome = Run::umbel(&["run", "--stats", "--report", name, "/bin/echo", "out"]).finish();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", ""), "{outcome:#?}");
    let report = std::fs::read_to_string(&file).expect("the report");
    std::fs::remove_file(&file).expect("our own file");
    assert!(report.contains("time of the command, ns") && report.contains("ticks"), "{report}");
}

#[test]
fn a_parallel_workload_is_measured_and_drawn() {
    let (json, svg) = (scratch("json"), scratch("svg"));
    let names = [&json, &svg].map(|path| path.to_str().expect("UTF-8"));
    // Work that is split among as many processes as there are virtual CPUs.
    let script = "n=$(nproc); for i in $(seq $n); do \
                  (j=0; while [ $j -lt $((60000 / n)) ]; do j=$((j + 1)); done) & done; wait";
    let outcome = Run::umbel(&[
        "scale", "--cpus", "1,2,4", "--repeat", "1", "--json", names[0], "--svg", names[1], "--", "/bin/sh", "-c",
        script,
    ])
    .finish();
    assert_eq!(outcome.status, 0, "{outcome:#?}");
    let rows: Vec<Vec<&str>> = outcome.stdout.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows.iter().take(3).map(|row| row[0]).collect::<Vec<_>>(), ["1", "2", "4"], "{outcome:#?}");
    assert_eq!(rows[0][3], "1.00", "{outcome:#?}");
    let text = std::fs::read_to_string(&json).expect("the measurements");
    assert!(text.contains("\"all_ns\"") && text.contains("\"contention\""), "{text}");
    assert!(std::fs::read_to_string(&svg).expect("the picture").contains("<svg"));
    std::fs::remove_file(json).and_then(|()| std::fs::remove_file(svg)).expect("our own files");
}

#[test]
fn a_workload_that_fails_is_named() {
    let outcome = Run::umbel(&["scale", "--cpus", "1", "--repeat", "1", "/bin/false"]).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (125, ""), "{outcome:#?}");
    assert!(outcome.stderr.contains("status 1"), "{outcome:#?}");
    for wrong in [["--cpus", "0"], ["--cpus", "1,x"], ["--repeat", "0"]] {
        let outcome = Run::umbel(&["scale", wrong[0], wrong[1], "/bin/true"]).finish();
        assert_eq!((outcome.status, outcome.stderr.lines().count()), (2, 1), "{wrong:?}: {outcome:#?}");
    }
}

/// How many virtual CPUs a workload of `scaling.c` keeps busy in virtual time: what its threads used over the time it took. What
/// else the host does makes both longer alike.
fn busy(cpus: u32, workload: &[&str]) -> f64 {
    let program = common::guest_program("scaling", false);
    let cpus = cpus.to_string();
    let mut args = vec!["run", "--virtual", "--cpus", &cpus, "--", program.to_str().expect("UTF-8")];
    args.extend(workload);
    let outcome = Run::umbel(&args).finish();
    let numbers: Vec<f64> = outcome.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [took_us, used_us] = numbers[..] else { panic!("{workload:?} on {cpus}: {outcome:#?}") };
    used_us / took_us
}

/// What a workload of `scaling.c` says it took in virtual time on each of these numbers of virtual CPUs, us: the least of three
/// runs, because what else the host does can only make it longer. They take turns, so that what it does for long concerns all.
#[cfg(feature = "nightly")]
fn virtual_us<const N: usize>(cpus: [u32; N], workload: &[&str]) -> [f64; N] {
    let program = common::guest_program("scaling", false);
    let run = |cpus: u32| {
        let cpus_text = cpus.to_string();
        let mut args = vec!["run", "--virtual", "--cpus", &cpus_text, "--", program.to_str().expect("UTF-8")];
        args.extend(workload);
        let outcome = Run::umbel(&args).finish();
        let us: Option<f64> = outcome.stdout.split_whitespace().next().and_then(|word| word.parse().ok());
        us.unwrap_or_else(|| panic!("{workload:?} on {cpus}: {outcome:#?}"))
    };
    (0..3).map(|_| cpus.map(run)).fold([f64::MAX; N], |least, us| std::array::from_fn(|i| least[i].min(us[i])))
}

#[test]
fn virtual_time_jumps_over_sleeps() {
    // Where input may come at any time a sleep takes the host's time.
    let script = "a=$(date +%s%3N); sleep 1000; (sleep 5000 & sleep 6000 & wait); b=$(date +%s%3N); echo $((b - a))";
    let machine =
        format!("exec {} run --virtual --cpus 3 -- /bin/sh -c '{script}' < /dev/null", common::umbel().display());
    let outcome = Run::on_host("/bin/sh", &["-c", &machine]).finish();
    // The programs need processor time of their own, beside a thousand times as much.
    let ms: u32 = outcome.stdout.trim().parse().unwrap_or_else(|_| panic!("{outcome:#?}"));
    assert!((7_000_000..7_010_000).contains(&ms), "{outcome:#?}");
}

#[test]
fn virtual_processors_are_more_than_the_host_has() {
    for kind in ["processes", "threads"] {
        let busy = busy(8, &[kind, "200000"]);
        assert!((7.0..8.2).contains(&busy), "{kind}: {busy}");
    }
    // A pair keeps two processors busy and no more.
    let [one, two, four] = [1, 2, 4].map(|cpus| busy(cpus, &["pair", "20000"]));
    assert!(
        (0.9..1.1).contains(&one) && [two, four].iter().all(|busy| (1.6..2.2).contains(busy)),
        "{one} {two} {four}"
    );
}

/// In virtual time without input, which would let the host's time pass.
#[track_caller]
fn holds(program: &str, cpus: u32) {
    let program = common::guest_program(program, false);
    let machine =
        format!("exec {} run --virtual --cpus {cpus} -- {} < /dev/null", common::umbel().display(), program.display());
    let outcome = Run::on_host("/bin/sh", &["-c", &machine]).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

#[test]
fn the_time_stamp_counter_is_virtual() {
    holds("counter", 2);
}

#[test]
fn an_idle_virtual_cpu_that_cannot_help_passes_the_call_on() {
    holds("called", 4);
}

#[test]
fn who_is_idle_is_not_called_when_mappings_go() {
    // Stacks are unmapped one after the other while 15 of 16 virtual CPUs have nothing more to do.
    let program = common::guest_program("scaling", false);
    let args =
        ["run", "--virtual", "--cpus", "16", "--stats", "--", program.to_str().expect("UTF-8"), "threads", "20000"];
    let outcome = Run::umbel(&args).finish();
    let [shootdowns, calls] = ["shootdowns", "cross-calls for shootdowns"].map(|name| outcome.counted(name));
    assert!(shootdowns >= 16 && calls < 8 * shootdowns, "{calls} calls for {shootdowns} shootdowns");
}

/// What `racing.c` prints in a model of this seed with these words more, and the report.
fn race(seed: u32, mode: &str, args: &str) -> (String, String) {
    let program = common::guest_program("racing", false);
    let report = scratch(&format!("race-{seed}"));
    let machine = format!(
        "exec {} run --virtual=model,quantum=5,seed={seed}{mode} --cpus 4 --stats --report {} -- {} {args} < /dev/null",
        common::umbel().display(),
        report.display(),
        program.display()
    );
    let outcome = Run::on_host("/bin/sh", &["-c", &machine]).finish();
    assert_eq!((outcome.status, outcome.stdout.len()), (0, 320), "{outcome:#?}");
    let text = std::fs::read_to_string(&report).expect("the report");
    std::fs::remove_file(&report).expect("our own file");
    (outcome.stdout, text)
}

#[test]
fn a_model_gives_the_same_schedule_for_the_same_seed() {
    let time = |text: &str| text.lines().next().expect("a time").to_owned();
    let [(first, report), (first_paired, report_paired)] = ["", "p"].map(|args| race(5, "", args));
    // However often the host interrupts it.
    for mode in ["", ",look=100", ",look=30"] {
        for (args, first, report) in [("", &first, &report), ("p", &first_paired, &report_paired)] {
            let (again, report_again) = race(5, mode, args);
            assert_eq!((&again, time(&report_again)), (first, time(report)), "{mode} {args}");
        }
    }
    assert!((6..10).any(|seed| race(seed, "", "").0 != first), "no seed changes anything: {first}");
    assert!(!report.contains("long computations"), "{report}");
    let (_, long) = race(11, "", "x");
    assert!(long.contains("long computations"), "{long}");
}

/// Half a minute of a host core.
#[cfg(feature = "nightly")]
#[test]
fn a_lock_held_half_of_the_time_lets_sixty_four_processors_do_the_work_of_two() {
    let workload = ["lock", "2560000", "50"];
    let [one, many] = virtual_us([1, 64], &workload);
    let speed_up = one / many;
    assert!((1.9..2.1).contains(&speed_up), "{speed_up}");
}

/// Enough work for what does not grow with it, the start and 64 joins, to be little. A host that is stopped for a while itself, as
/// virtual ones are, makes one of 64 late by that: hence the least of three runs. Six minutes of a host core.
#[cfg(feature = "nightly")]
#[test]
fn who_only_computes_is_sixty_four_times_as_fast_on_sixty_four_processors() {
    for kind in ["processes", "threads"] {
        let [one, many] = virtual_us([1, 64], &[kind, "20480000"]);
        let speed_up = one / many;
        assert!((60.8..64.5).contains(&speed_up), "{kind}: {speed_up}");
    }
}

/// What the workload says it took on real host cores, us: the median of five runs before everything else the host does.
#[cfg(feature = "nightly")]
fn real_us(cpus: u32, workload: &[&str]) -> f64 {
    let program = common::guest_program("scaling", false);
    let (umbel, cpus) = (common::umbel(), cpus.to_string());
    let mut args = vec!["-f", "1", umbel.to_str().expect("UTF-8"), "run", "--cpus", &cpus, "--"];
    args.push(program.to_str().expect("UTF-8"));
    args.extend(workload);
    let run = || {
        let outcome = Run::on_host("/usr/bin/chrt", &args).finish();
        let us: Option<f64> = outcome.stdout.split_whitespace().next().and_then(|word| word.parse().ok());
        us.unwrap_or_else(|| panic!("{workload:?} on {cpus}: {outcome:#?}"))
    };
    let mut all: Vec<f64> = (0..5).map(|_| run()).collect();
    all.sort_by(f64::total_cmp);
    all[2]
}

/// Wants root, and two host cores for itself.
#[cfg(feature = "nightly")]
#[test]
fn what_is_predicted_of_two_processors_is_measured_on_two() {
    let workloads: [&[&str]; 6] = [
        &["processes", "60000"],
        &["threads", "60000"],
        &["pair", "40000"],
        &["lock", "400000", "30"],
        &["touching", "20000"],
        &["faults", "20000"],
    ];
    for workload in workloads {
        let [one, two] = virtual_us([1, 2], workload);
        let predicted = one / two;
        let measured = real_us(1, workload) / real_us(2, workload);
        let ratio = predicted / measured;
        assert!((0.9..1.1).contains(&ratio), "{workload:?}: predicted {predicted}, measured {measured}");
    }
}
