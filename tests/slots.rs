//! What happens when the host kills processes of a machine.

mod common;

use common::{generations, umbel, until, wait_until};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Starts a machine of one virtual CPU on a shell script.
fn start(script: &str) -> Child {
    Command::new(umbel())
        .args(["run", "--cpus", "1", "--", "/bin/sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start a machine")
}

/// Host time that a process has used in user mode, ticks.
fn user_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

fn kill(pid: u32) {
    let done = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("run kill");
    assert!(done.success());
}

#[test]
fn a_slot_killed_in_guest_mode_costs_its_guest_process() {
    let mut machine = start("(while :; do :; done); echo \"child $?\"");
    // The loop runs in guest mode: its slot is the one that uses time there.
    let slot = until(|| generations(machine.id()).get(3)?.iter().copied().find(|slot| user_ticks(*slot) > 20));
    kill(slot);
    let status = wait_until(&mut machine, LIMIT).expect("the machine goes on");
    let output = machine.wait_with_output().expect("its output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "child 137\n");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn slots_killed_asleep_or_parked_cost_nothing() {
    // One process sleeps in its slot, others are parked; the virtual CPU is idle.
    let mut machine = start("sleep 1000 & sleep 4; echo kept $?; kill $!; wait $!; echo $?");
    let slots = until(|| generations(machine.id()).get(3).filter(|slots| slots.len() >= 2).cloned());
    sleep(Duration::from_millis(700));
    for round in 0..3 {
        let slots = if round == 0 { slots.clone() } else { generations(machine.id())[3].clone() };
        slots.into_iter().for_each(kill);
        sleep(Duration::from_millis(400));
    }
    let status = wait_until(&mut machine, LIMIT).expect("the machine goes on");
    let output = machine.wait_with_output().expect("its output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "kept 0\n143\n", "{output:?}");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_machine_killed_leaves_no_process() {
    let mut machine = start("sleep 1000");
    let all = until(|| {
        let generations = generations(machine.id());
        (!generations.get(3)?.is_empty()).then(|| generations[1..].concat())
    });
    assert!(all.len() >= 3, "zygote, parent, slots: {all:?}");
    machine.kill().expect("kill the machine");
    machine.wait().expect("reap the machine");
    let alive = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    };
    until(|| (!all.iter().any(alive)).then_some(()));
}
