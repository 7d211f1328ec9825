//! What happens when the host kills processes of a machine.

mod common;

use common::{
    Ended, Outcome, PATIENCE, Run, children, generations, is_root, open_to_all, slots_at_rest, state, umbel, until,
    wait_until,
};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Starts a machine of one virtual CPU on a shell script.
fn start(script: &str) -> Child {
    start_with(&[], script)
}

fn start_with(options: &[&str], script: &str) -> Child {
    Command::new(umbel())
        .args(["run", "--cpus", "1"])
        .args(options)
        .args(["--", "/bin/sh", "-c", script])
        .stdin(Stdio::piped())
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
    let mut machine = start_with(&["--stats"], "(while :; do :; done); echo \"child $?\"");
    // The loop runs in guest mode: its slot is the one that uses time there.
    let slot = until(|| generations(machine.id()).get(3)?.iter().copied().find(|slot| user_ticks(*slot) > 20));
    kill(slot);
    let status = wait_until(&mut machine, PATIENCE).expect("the machine goes on");
    let output = machine.wait_with_output().expect("its output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "child 137\n");
    assert_eq!(status.code(), Some(0));
    let report = String::from_utf8_lossy(&output.stderr);
    let dead = report.lines().find_map(|line| line.strip_prefix("dead slots")).map(str::trim);
    assert_eq!(dead, Some("1"), "{report}");
}

#[test]
fn slots_killed_asleep_or_parked_cost_nothing() {
    // One process sleeps in its slot, others are parked; the virtual CPU is idle.
    let mut machine = start("sleep 1000 & echo ready; read x; echo kept $?; kill $!; wait $!; echo $?");
    let mut ready = [0; 6];
    machine.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("its output");
    for round in 0..3 {
        let slots = slots_at_rest(machine.id());
        assert!(round > 0 || slots.len() >= 2, "{slots:?}");
        slots.iter().copied().for_each(kill);
        until(|| slots.iter().all(|slot| state(*slot) == 'X').then_some(()));
    }
    slots_at_rest(machine.id());
    machine.stdin.as_mut().expect("piped").write_all(b"\n").expect("it reads");
    let status = wait_until(&mut machine, PATIENCE).expect("the machine goes on");
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
    let alive = |pid: &u32| !matches!(state(*pid), 'Z' | 'X');
    until(|| (!all.iter().any(alive)).then_some(()));
}

/// Host CPUs on which a process may run, as the host writes them.
fn allowed(pid: u32) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned())
}

#[test]
fn pinned_virtual_cpus_stay_each_on_one_host_cpu() {
    let ours = allowed(std::process::id()).expect("our own");
    if !ours.contains([',', '-']) {
        return;
    }
    let script = "for i in 1 2 3 4; do while :; do sh -c :; done & done; sleep 1000";
    let run = |options: &[&str]| {
        let mut command = Command::new(umbel());
        command.args(["run", "--cpus", "2"]).args(options).args(["--", "/bin/sh", "-c", script]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start a machine")
    };
    let mut machine = run(&["--pin"]);
    // One list for each virtual CPU: the places of its slots.
    let places = until(|| {
        let parents = generations(machine.id()).get(2)?.clone();
        let lists: Vec<Vec<String>> =
            parents.iter().map(|parent| children(*parent).into_iter().filter_map(allowed).collect()).collect();
        // A slot that was forked just now has its parent's places until it takes its own.
        let settled = |slots: &Vec<String>| slots.len() >= 3 && slots.iter().all(|place| place.parse::<u32>().is_ok());
        (lists.len() == 2 && lists.iter().all(settled)).then_some(lists)
    });
    machine.kill().expect("our own child");
    machine.wait().expect("our own child");
    for slots in &places {
        assert!(slots.iter().all(|place| place == &slots[0]), "{places:?}");
    }
    assert_ne!(places[0][0], places[1][0], "{places:?}");
    // Without it the host may move them.
    let mut machine = run(&[]);
    until(|| {
        let slots = generations(machine.id()).get(3)?.clone();
        slots.into_iter().any(|slot| allowed(slot).is_some_and(|place| place == ours)).then_some(())
    });
    machine.kill().expect("our own child");
    machine.wait().expect("our own child");
}

/// Host CPU on which a process ran last.
fn processor(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(36)?.parse().ok()
}

#[test]
fn a_virtual_cpu_that_switches_leaves_a_host_cpu_that_others_fill() {
    let ours = allowed(std::process::id()).expect("our own");
    if !ours.contains([',', '-']) {
        return;
    }
    // Two processes that wait for each other: no slot runs for longer than some microseconds.
    let script = "mkfifo /tmp/a /tmp/b; (while read x; do echo; done) </tmp/a >/tmp/b & exec 3>/tmp/a 4</tmp/b; \
                  while echo >&3; read x <&4; do :; done";
    let machine = Ended(vec![start(script)]);
    let busy = until(|| {
        let mut slots = generations(machine.0[0].id()).get(3)?.clone();
        slots.retain(|slot| user_ticks(*slot) > 20);
        (slots.len() >= 2).then_some(slots)
    });
    let here = processor(busy[0]).expect("a slot lives");
    let hog = |_| {
        let line = format!("exec taskset -c {here} sh -c 'while :; do :; done'");
        Command::new("setsid").args(["sh", "-c", &line]).stdin(Stdio::null()).spawn().expect("start a busy process")
    };
    let _hogs = Ended((0..3).map(hog).collect());
    until(|| busy.iter().any(|slot| processor(*slot).is_some_and(|cpu| cpu != here)).then_some(()));
}

/// Starts a machine as an ordinary user who may have so many processes (0 = as many as he wants).
fn limited(processes: u64, script: &str) -> Outcome {
    let program = open_to_all(&umbel()).to_string_lossy().into_owned();
    let processes = format!("--nproc={processes}:{processes}");
    let args = [processes.as_str(), &program, "run", "--cpus", "2", "--stats", "--", "/bin/sh", "-c", script];
    // Nobody else on the host is this user.
    Run::on_host("prlimit", &args).user(54_323).finish()
}

#[test]
fn a_host_that_allows_few_processes_means_few_slots_and_no_failure() {
    if !is_root() {
        return;
    }
    let script = "for i in $(seq 20); do (sleep 1; echo $i) & done; wait; i=0; while [ $i -lt 50 ]; do sh -c :; i=$((i+1)); done; echo end";
    for processes in [15, 17, 24, 60] {
        let outcome = limited(processes, script);
        assert_eq!(outcome.status, 0, "{processes}: {outcome:#?}");
        assert!(outcome.stdout.ends_with("end\n") && outcome.stdout.lines().count() == 21, "{processes}: {outcome:#?}");
        assert!(!outcome.stderr.contains("recycled slots                       0"), "{processes}: {outcome:#?}");
    }
    let refused = limited(6, "echo never");
    assert_eq!((refused.status, refused.stdout.as_str()), (125, ""), "{refused:#?}");
    assert!(refused.stderr.contains("need") && refused.stderr.contains("ulimit -u"), "{refused:#?}");
    let program = open_to_all(&umbel()).to_string_lossy().into_owned();
    let check = Run::on_host("prlimit", &["--nproc=40:40", &program, "check"]).user(54_323).finish();
    assert!(check.stdout.contains("weak    slots"), "{check:#?}");
}

/// A control group of a test's own, in which there may be so many processes; `None` where there can be none.
struct Group(PathBuf);

impl Group {
    fn new(processes: u64) -> Option<Group> {
        let enabled = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap_or_default();
        let root = if enabled.split_whitespace().any(|one| one == "pids") { "" } else { "pids" };
        let own = Path::new("/sys/fs/cgroup").join(root).join(format!("umbel-test-{}-{processes}", std::process::id()));
        fs::create_dir(&own).ok()?;
        let group = Group(own);
        fs::write(group.0.join("pids.max"), processes.to_string()).ok().map(|()| group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever was killed may still be leaving.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_control_group_that_allows_few_processes_means_the_same() {
    let script = "for i in $(seq 20); do (sleep 1; echo $i) & done; wait; echo end";
    for processes in [15, 24, 60] {
        let Some(group) = Group::new(processes).filter(|_| is_root()) else {
            println!("skipped: no control group can be made here");
            return;
        };
        let dir = group.0.display().to_string();
        let program = umbel().to_string_lossy().into_owned();
        let enter = "echo $$ > $0/cgroup.procs && exec \"$@\"";
        let args = ["-c", enter, &dir, &program, "run", "--cpus", "2", "--stats", "--", "/bin/sh", "-c", script];
        let outcome = Run::on_host("/bin/sh", &args).finish();
        assert_eq!(outcome.status, 0, "{processes}: {outcome:#?}");
        assert!(outcome.stdout.ends_with("end\n") && outcome.stdout.lines().count() == 21, "{processes}: {outcome:#?}");
        assert!(!outcome.stderr.contains("recycled slots                       0"), "{processes}: {outcome:#?}");
    }
}

#[test]
fn the_report_tells_of_huge_pages_by_slot() {
    let outcome =
        Run::umbel(&["run", "--cpus", "2", "--stats", "--", "/bin/sh", "-c", "sleep 0.1 | sleep 0.1"]).finish();
    let line = outcome.stderr.lines().find_map(|line| line.strip_prefix("huge pages mapped per slot"));
    let counts: Vec<&str> = line.expect("its line").split_whitespace().collect();
    // Whoever may not look is told so.
    let told = counts.iter().all(|count| count.parse::<u32>().is_ok()) && counts.len() >= 2;
    assert!(if is_root() { told } else { !counts.is_empty() }, "{outcome:#?}");
}

#[test]
fn a_slot_drops_its_mappings_of_hot_memory_now_and_then() {
    // Two calls a byte: one drop each 1024 of them, and hardly any where little is called.
    for (bytes, least, most) in [("1", 0, 5), ("20000", 35, 60)] {
        let script = format!("exec dd if=/dev/zero of=/dev/null bs=1 count={bytes}");
        let outcome = Run::umbel(&["run", "--cpus", "1", "--stats", "--", "/bin/sh", "-c", &script]).finish();
        let dropped = outcome.counted("mappings of hot memory dropped");
        assert!((least..=most).contains(&dropped), "{bytes}: {dropped}, {outcome:#?}");
    }
}

#[test]
fn the_first_slots_of_many_virtual_cpus_lie_together() {
    const CPUS: usize = 128;
    if !is_root() {
        return; // slots are closed to others
    }
    let mut machine = Command::new(umbel())
        .args(["run", "--cpus", &CPUS.to_string(), "--", "/bin/sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .expect("start a machine");
    // Offsets of their pages in the file of kernel memory.
    let pages = until(|| {
        let slots = generations(machine.id()).get(3)?.clone();
        let offsets: Vec<u64> = slots.iter().copied().filter_map(page_of_slot).collect();
        (offsets.len() >= CPUS).then_some(offsets)
    });
    machine.kill().expect("kill the machine");
    machine.wait().expect("reap the machine");
    // 8 KiB each, with twice as much for processes in between; one virtual CPU after the other takes 48 KiB each.
    let near = pages.iter().filter(|&&offset| offset < 6 << 20).count();
    assert!(near >= CPUS, "{near} of {pages:x?}");
}

/// Where in kernel memory the page of a slot lies, bytes.
fn page_of_slot(pid: u32) -> Option<u64> {
    let start = format!("{:x}-", umbel_abi::machine::layout::SLOT_PAGE);
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let line = maps.lines().find(|line| line.starts_with(&start))?;
    u64::from_str_radix(line.split_whitespace().nth(2)?, 16).ok()
}

#[test]
fn a_child_finds_the_pages_of_its_parent_mapped() {
    let script = "i=0; while [ $i -lt 100 ]; do (:); i=$((i+1)); done";
    let outcome = Run::umbel(&["run", "--cpus", "2", "--stats", "--", "/bin/sh", "-c", script]).finish();
    let line = outcome.stderr.lines().find_map(|line| line.strip_prefix("faults "));
    let faults: u32 = line.and_then(|line| line.trim().parse().ok()).expect("the number of faults");
    // 30, where a child's slot is filled when it is bound; 19 for each child where that is left to its faults.
    assert!(faults < 300, "{faults} faults: {outcome:#?}");
}
