//! Virtual CPUs that hang in the kernel are reported with names, whatever they mask meanwhile.

mod common;

use common::{Outcome, Run};

fn inside(options: &[&str], script: &str) -> Outcome {
    let run = ["run", "--cpus", "2"];
    Run::umbel(&[&run, options, &["--", "/bin/sh", "-c", script]].concat()).finish()
}

/// A shell's first writes come by signal: the kernel hangs with all its signals masked.
#[test]
fn a_virtual_cpu_that_hangs_is_reported_with_backtraces() {
    let script = "echo 1 > /proc/sys/kernel/watchdog_thresh; echo z > /proc/sysrq-trigger; \
                  i=0; until dmesg | grep -q watch::hang || [ $i = 300 ]; do sleep 0.1; i=$((i+1)); done; dmesg";
    let outcome = inside(&["--debug-stall"], script);
    let log = outcome.stdout;
    // One that the host does not run for a second is reported, too.
    let mut reports = log.split("watchdog: BUG: hard lockup - CPU#").skip(1);
    let report = reports.find(|report| report.contains("watch::hang")).unwrap_or_else(|| panic!("{log}"));
    assert!(report.contains(" stuck for 1s in the kernel"), "{log}");
    assert!(report.contains("stands still:") && report.contains("CPU 0: ") && report.contains("CPU 1: "), "{log}");
    for name in ["watch::trigger", "task_main"] {
        assert!(report.contains(name), "{name}: {log}");
    }
    assert_eq!(log.matches("watch::hang").count(), 1, "one is reported once: {log}");
}

#[test]
fn a_thread_that_is_kept_from_running_is_reported() {
    // Real-time threads leave the others nothing only where they may.
    let script = "echo 1 > /proc/sys/kernel/watchdog_thresh; echo -1 > /proc/sys/kernel/sched_rt_runtime_us; \
                  busy='while :; do :; done'; \
                  taskset -c 1 chrt -f 50 sh -c \"$busy\" & first=$!; \
                  until [ \"$(cut -d' ' -f2,41 /proc/$first/stat)\" = '(sh) 1' ]; do sleep 0.1; done; taskset -c 1 sh -c \"$busy\" & \
                  i=0; until dmesg | grep -q 'threads wait' || [ $i = 100 ]; do sleep 0.2; i=$((i+1)); done; \
                  kill -9 $first $!; dmesg | grep -c 'CPU#1: 1 threads wait for [1-9]'";
    assert_eq!(inside(&[], script).stdout, "1\n");
}

#[test]
fn backtraces_are_shown_on_demand() {
    let outcome = inside(
        &[],
        "while :; do :; done & echo l > /proc/sysrq-trigger; \
                               until dmesg | grep -q 'CPU 1: '; do sleep 0.1; done; kill $!; dmesg",
    );
    assert!(outcome.stdout.contains("sysrq: Show backtrace of all active CPUs"), "{outcome:#?}");
    assert!(outcome.stdout.contains("] CPU 0: ") && outcome.stdout.contains("] CPU 1: "), "{outcome:#?}");
}

#[test]
fn nobody_hangs_who_was_not_allowed_to() {
    let script = "echo z > /proc/sysrq-trigger; dmesg | tail -1; cat /proc/sys/kernel/watchdog_thresh; \
                  echo 61 > /proc/sys/kernel/watchdog_thresh || echo refused; \
                  echo 0 > /proc/sys/kernel/watchdog_thresh && cat /proc/sys/kernel/watchdog_thresh";
    let outcome = inside(&[], script);
    let shown = outcome.stdout.split_once("] ").map(|(_, shown)| shown);
    assert_eq!(shown, Some("sysrq: HELP : show-backtrace-all-active-cpus(l)\n10\nrefused\n0\n"), "{outcome:#?}");
    let outcome = inside(&["--user", "1000", "--debug-stall"], "echo z > /proc/sysrq-trigger");
    assert_ne!(outcome.status, 0, "{outcome:#?}");
}

/// User, system, idle and steal of both virtual CPUs, in ticks, between two looks at /proc/stat.
fn times(stats: &str) -> [[u64; 4]; 2] {
    let rows = stats.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    let rows: Vec<[u64; 4]> = rows
        .map(|row| {
            let fields: Vec<u64> = row.split_whitespace().skip(1).map(|word| word.parse().expect("a number")).collect();
            [fields[0], fields[2], fields[3], fields[7]]
        })
        .collect();
    let [first, second, first_later, second_later] = rows[..] else { panic!("{stats}") };
    let since = |before: [u64; 4], after: [u64; 4]| std::array::from_fn(|i| after[i] - before[i]);
    [since(first, first_later), since(second, second_later)]
}

/// Runs until a process computes.
const COMPUTES: &str = "computes() { until grep -q ') R' /proc/$1/stat; do sleep 0.1; done; };";

/// Two virtual CPUs on one core of the host: each waits for about half of the time, and neither is idle.
#[test]
fn what_the_host_takes_is_shown_as_steal() {
    let script = format!(
        "{COMPUTES} while :; do :; done & first=$!; while :; do :; done & computes $first; computes $!; \
         cat /proc/stat; sleep 3; cat /proc/stat; kill $first $!"
    );
    let umbel = common::umbel();
    let run = ["-c", "0", umbel.to_str().expect("UTF-8"), "run", "--cpus", "2", "--", "/bin/sh", "-c", &script];
    let outcome = Run::on_host("taskset", &run).finish();
    for [user, system, idle, steal] in times(&outcome.stdout) {
        let all = user + system + idle + steal;
        assert!((270..2000).contains(&all), "{outcome:#?}");
        // How much more depends on what else the host does there.
        assert!(steal * 10 > all * 3, "{outcome:#?}");
        assert!(user > system && idle * 10 < all * 2, "{outcome:#?}");
    }
}

/// Each virtual CPU has its own times, and a loop that never enters the kernel is user time.
#[test]
fn a_busy_virtual_cpu_is_busy_alone() {
    let script = format!(
        "{COMPUTES} taskset -c 1 sh -c 'while :; do :; done' & \
         computes $!; until grep -q '^Cpus_allowed_list:.1$' /proc/$!/status; do sleep 0.1; done; computes $!; cat /proc/stat; sleep 2; cat /proc/stat; kill $!"
    );
    let outcome = inside(&[], &script);
    let [first, second] = times(&outcome.stdout);
    let all = second.iter().sum::<u64>();
    // Either waits for the host for as long as that likes, when it would run.
    assert!(all > 150 && (first[2] + first[3]) * 4 > all * 3 && second[2] * 4 < all, "idle: {outcome:#?}");
    assert!((second[0] + second[3]) * 4 > all * 3 && second[0] > 5 * first[0], "user: {outcome:#?}");
    assert!(second[0] > second[1], "{outcome:#?}");
}
