//! What the scheduler promises inside a machine, whatever else the host does.

mod common;

use common::{PATIENCE, Run, guest_program, umbel};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn sessions_and_users_share_and_slices_tell_how_soon() {
    let program = guest_program("sharing", false).to_string_lossy().into_owned();
    let args = ["run", "--cpus", "1", "--user", "0:0", "--", &program];
    let outcome = Run::umbel(&args).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

/// Timer interrupts that a machine of one virtual CPU takes in a second in which `busy` processes compute, and the shell that
/// counts them waits for what nobody writes.
fn ticks(busy: u32) -> u64 {
    let script = format!(
        "for i in $(seq {busy}); do (while :; do :; done) & done; mkfifo /tmp/never; exec 9<> /tmp/never
         count() {{ while read -r name count rest; do [ $name = LOC: ] && ticks=$count; done < /proc/interrupts; }}
         count; before=$ticks; read -t 1 -u 9; count; echo $((ticks - before)); kill $(jobs -p)"
    );
    let outcome = Run::umbel(&["run", "--cpus", "1", "--", "bash", "-c", &script]).finish();
    outcome.stdout.trim().parse().unwrap_or_else(|_| panic!("{outcome:#?}"))
}

#[test]
fn one_busy_thread_needs_no_ticks() {
    let (alone, together) = (ticks(1), ticks(2));
    // The end of the wait, and what counting takes; two of them take turns every few milliseconds.
    assert!(alone < 40 && together > 2 * alone, "{alone} ticks alone, {together} with another");
}

/// A process and all its descendants that are there now.
fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        next += 1;
    }
    found
}

#[test]
fn a_machine_stays_on_the_processors_that_it_was_given() {
    let core = core_affinity::get_core_ids().and_then(|ids| ids.first().copied()).expect("a processor").id.to_string();
    let script = "for i in 1 2 3; do (while :; do :; done) & done; sleep 2; kill $(jobs -p)";
    let mut machine = Command::new("taskset")
        .args(["-c", &core])
        .arg(umbel())
        .args(["run", "--cpus", "2", "--", "bash", "-c", script])
        .stdin(Stdio::null())
        .spawn()
        .expect("taskset");
    let start = Instant::now();
    let mut looked = 0;
    while machine.try_wait().expect("our own child").is_none() {
        assert!(start.elapsed() < PATIENCE, "still running");
        for pid in family(machine.id()) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            if !status.starts_with("Name:\tumbel") {
                // Not yet taskset, or not yet the machine.
                continue;
            }
            let Some(allowed) = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")) else {
                continue;
            };
            assert_eq!(allowed.trim(), core, "process {pid}: {status}");
            looked += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(looked > 20, "{looked} looks");
}
