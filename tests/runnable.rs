//! A machine of N virtual CPUs is at most N runnable tasks for its host, whatever runs inside.
//!
//! Hand-overs in progress aside: a slot that has woken its successor runs for some more instructions until it sleeps, and if the host
//! lets another task run first it is runnable for as long as that takes. What tells it from a task too many is processor
//! time: it has no work left, so it sleeps before it has used [`TAIL_TICKS`].

mod common;

use common::{Ended, PATIENCE, children, generations, guest_program, umbel};
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Processes of the bomb. Each has the same share, so a slot comes back to work only long after its hand-over.
const PROCESSES: &str = "40";
const LOOKS: usize = 100;
/// Processor time that no hand-over takes, in ticks of 10 ms: the first may be over at once.
const TAIL_TICKS: u64 = 4;

/// A host task that was runnable when it was looked at.
struct Awake {
    tid: u32,
    /// How often it had slept, and the ticks that it had used.
    sleeps: u64,
    ticks: u64,
}

impl Awake {
    fn find(tid: u32) -> Option<Awake> {
        let ticks = ticks(tid)?;
        sleeps(tid).map(|sleeps| Awake { tid, sleeps, ticks })
    }

    /// Whether it has not slept since.
    fn is_still(&self) -> bool {
        sleeps(self.tid) == Some(self.sleeps)
    }

    /// Whether it has not slept since, and has done more than to go to sleep.
    fn works(&self) -> bool {
        ticks(self.tid).is_some_and(|now| now >= self.ticks + TAIL_TICKS) && self.is_still()
    }
}

/// How often a task has slept; `None` if it is not runnable.
fn sleeps(tid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    field("State:")?.starts_with('R').then(|| field("voluntary_ctxt_switches:")?.parse().ok())?
}

/// Processor time that a task has used.
fn ticks(tid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    let mut times = stat.rsplit_once(')')?.1.split_whitespace().skip(11).map(|field| field.parse::<u64>());
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

/// Which of these tasks were all runnable at one moment: found so, and found so again, without sleep in between, when each had been
/// looked at.
fn runnable(tids: &[u32]) -> Vec<Awake> {
    let found: Vec<Awake> = tids.iter().filter_map(|&tid| Awake::find(tid)).collect();
    found.into_iter().filter(Awake::is_still).collect()
}

/// Whether more than `most` of these tasks had work to do: not all but `most` sleep first.
fn too_many_work(mut awake: Vec<Awake>, most: usize) -> bool {
    while awake.len() > most {
        if awake.iter().filter(|task| task.works()).count() > most {
            return true;
        }
        sleep(Duration::from_millis(1));
        awake.retain(Awake::is_still);
    }
    false
}

/// All host tasks of a machine.
fn tasks(machine: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{machine}/task")).expect("the machine lives");
    let threads = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    threads.chain(generations(machine)[1..].concat()).collect()
}

fn stays_within(cpus: usize) {
    let program = guest_program("spinning", false);
    let mut command = Command::new(umbel());
    command
        .args(["run", "--mem", "256M", "--user", "0", "--cpus", &cpus.to_string(), "--"])
        .arg(program)
        .arg(PROCESSES);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = Ended(vec![command.spawn().expect("start a machine")]);
    let mut full = [0; 5];
    machine.0[0].stdout.as_mut().expect("piped").read_exact(&mut full).expect("its output");
    let end = Instant::now() + PATIENCE;
    let (mut looks, mut most) = (0, 0);
    while looks < LOOKS || most < cpus {
        assert!(Instant::now() < end, "after {looks} looks never more than {most} were runnable");
        let awake = runnable(&tasks(machine.0[0].id()));
        (looks, most) = (looks + 1, most.max(awake.len()));
        let tids: Vec<u32> = awake.iter().map(|task| task.tid).collect();
        assert!(!too_many_work(awake, cpus), "more than {cpus} run: {tids:?}");
    }
}

#[test]
fn a_fork_bomb_makes_no_more_runnable_tasks_than_virtual_cpus() {
    stays_within(2);
    stays_within(4);
}

#[test]
fn processes_that_run_beside_each_other_are_found() {
    let busy = |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("start a busy process");
    let all = Ended((0..3).map(busy).collect());
    let tids = children(std::process::id());
    let tids: Vec<u32> = tids.into_iter().filter(|pid| all.0.iter().any(|child| child.id() == *pid)).collect();
    let end = Instant::now() + PATIENCE;
    while !too_many_work(runnable(&tids), 2) {
        assert!(Instant::now() < end, "three busy processes are more than two");
    }
    assert!(!too_many_work(runnable(&tids), 3));
}
