//! Looking after running machines: `umbel ps`, `umbel top`, names.

mod common;

use common::{Outcome, PATIENCE, Run, slots_at_rest, umbel};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A user's runtime directory of this test's own, with machines that are ended with it.
struct Fleet {
    dir: PathBuf,
    /// Host CPUs of machines, all that there are if empty.
    on: &'static str,
    machines: Vec<Child>,
}

impl Fleet {
    fn new(test: &str) -> Fleet {
        let dir = std::env::temp_dir().join(format!("umbel-{test}-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir).expect("a directory");
        Fleet { dir, on: "", machines: Vec::new() }
    }

    /// Starts a machine and waits until it is listed.
    fn start(&mut self, name: &str, cpus: &str, script: &str) -> u32 {
        let mut command = match self.on {
            "" => Command::new(umbel()),
            on => {
                let mut taskset = Command::new("taskset");
                taskset.args(["-c", on]).arg(umbel());
                taskset
            }
        };
        let machine = command
            .args(["run", "--name", name, "--cpus", cpus, "--", "/bin/sh", "-c", script])
            .env("XDG_RUNTIME_DIR", &self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("umbel");
        let pid = machine.id();
        self.machines.push(machine);
        self.wait_for(&["ps"], |shown| shown.lines().any(|l| l.starts_with(name) && l.contains(" running ")));
        pid
    }

    fn ask(&self, args: &[&str]) -> Outcome {
        Run::umbel(args).env("XDG_RUNTIME_DIR", self.dir.to_str().expect("UTF-8")).finish()
    }

    #[track_caller]
    fn wait_for(&self, args: &[&str], good: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let outcome = self.ask(args);
            if good(&outcome.stdout) {
                return outcome.stdout;
            }
            assert!(Instant::now() < deadline, "{args:?}: {outcome:#?}");
            sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for machine in &mut self.machines {
            let _ = machine.kill();
            let _ = machine.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The words of the line of a machine.
fn line<'a>(shown: &'a str, name: &str) -> Vec<&'a str> {
    shown.lines().find(|l| l.starts_with(name)).unwrap_or_default().split_whitespace().collect()
}

#[test]
fn machines_are_listed_while_they_run() {
    let mut fleet = Fleet::new("listed");
    assert_eq!(fleet.ask(&["ps"]).stdout.lines().count(), 1, "only the header");
    let time =
        |shown: &str, name: &str| -> Option<f64> { line(shown, name).get(3)?.trim_end_matches('s').parse().ok() };
    let quiet = fleet.start("quiet", "1", "exec sleep 1000");
    slots_at_rest(quiet);
    let before = time(&fleet.ask(&["ps"]).stdout, "quiet").expect("seconds");
    let pid = fleet.start("busy", "3", "while :; do :; done");
    let shown = fleet.wait_for(&["ps"], |shown| time(shown, "busy").is_some_and(|used| used > 0.5));
    let busy = line(&shown, "busy");
    assert_eq!((busy[1], busy[2]), (pid.to_string().as_str(), "3"), "{shown}");
    let used = time(&shown, "quiet").expect("seconds") - before;
    assert!(used < 0.1, "an idle machine uses nothing: {used} s, {shown}");
    // One ended by force leaves files that nobody sees.
    fleet.machines[1].kill().expect("our own child");
    fleet.machines[1].wait().expect("our own child");
    let shown = fleet.ask(&["ps"]).stdout;
    assert!(!shown.contains("busy") && shown.contains("quiet"), "{shown}");
}

#[test]
fn top_measures_shares() {
    let mut fleet = Fleet::new("top");
    let quiet = fleet.start("quiet", "1", "exec sleep 1000");
    slots_at_rest(quiet);
    fleet.start("busy", "1", "while :; do :; done");
    let outcome = fleet.ask(&["top", "-d", "1", "-n", "2"]);
    assert_eq!(outcome.status, 0, "{outcome:#?}");
    let second = outcome.stdout.rsplit("machines,").next().expect("two looks");
    let share = line(second, "busy")[3].trim_end_matches('%').parse::<f64>().expect("per cent");
    assert!(share > 95.0, "{outcome:#?}");
    assert_eq!(line(second, "busy")[4], "50.0%", "{outcome:#?}");
}

/// Those of two directories do not agree where their virtual CPUs are, and on several host CPUs both are told.
#[test]
fn machines_that_do_not_know_each_other_are_told_of() {
    if std::fs::read_to_string("/sys/devices/system/cpu/present").is_ok_and(|cpus| cpus.trim() == "0") {
        println!("skipped: one host CPU");
        return;
    }
    let (mut ours, mut theirs) = (Fleet::new("ours"), Fleet::new("theirs"));
    ours.start("ours", "1", "exec sleep 1000");
    theirs.start("theirs", "1", "exec sleep 1000");
    for fleet in [&ours, &theirs] {
        let top = fleet.ask(&["top", "-d", "0.1", "-n", "1"]);
        assert!(top.stdout.starts_with("1 machines,") && top.stdout.contains("not listed here"), "{top:#?}");
        let check = fleet.ask(&["check"]);
        let weak = |line: &str| line.starts_with("weak") && line.contains("shares") && line.contains("not listed here");
        assert!(check.stdout.lines().any(weak), "{check:#?}");
    }
}

/// Of a machine that was given two host CPUs: those on which each slot may run that does.
fn places(machine: u32) -> Vec<String> {
    let children = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u32>>()
    };
    let slots = children(machine).into_iter().flat_map(children).flat_map(children);
    let place = |slot: u32| {
        let status = std::fs::read_to_string(format!("/proc/{slot}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        (field("State:")?.starts_with('R')).then(|| field("Cpus_allowed_list:").unwrap_or_default().to_owned())
    };
    slots.filter_map(place).collect()
}

/// Three virtual CPUs that compete for two host CPUs are each bound to one, and no more once they do not.
#[test]
fn machines_that_compete_agree_where_they_are() {
    if std::fs::read_to_string("/proc/self/status").is_ok_and(|status| !status.contains("Cpus_allowed_list:\t0-")) {
        println!("skipped: not the first two host CPUs");
        return;
    }
    let mut fleet = Fleet::new("agree");
    fleet.on = "0,1";
    let busy = "(while :; do :; done) & while :; do :; done";
    let (two, one) = (fleet.start("two", "2", busy), fleet.start("one", "1", busy));
    let until = |good: &dyn Fn() -> bool, shown: &dyn Fn() -> String| {
        let deadline = Instant::now() + PATIENCE;
        while !good() {
            assert!(Instant::now() < deadline, "{}", shown());
            sleep(Duration::from_millis(20));
        }
    };
    let shown = || format!("{:?} {:?}", places(two), places(one));
    let bound = |places: Vec<String>, many: usize| {
        places.len() == many && places.iter().all(|place| place == "0" || place == "1")
    };
    until(&|| bound(places(two), 2) && bound(places(one), 1), &shown);
    // One that is stopped, and whose virtual CPUs are not, says nothing any more.
    let launcher = |signal| kill(Pid::from_raw(two as i32), signal).expect("our own child");
    launcher(Signal::SIGSTOP);
    until(&|| places(two) == ["0-1", "0-1"], &shown);
    launcher(Signal::SIGCONT);
    until(&|| bound(places(two), 2) && bound(places(one), 1), &shown);
    fleet.machines[1].kill().expect("our own child");
    fleet.machines[1].wait().expect("our own child");
    until(&|| places(two) == ["0-1", "0-1"], &shown);
}

#[test]
fn a_name_is_one_machines() {
    let mut fleet = Fleet::new("names");
    fleet.start("only", "1", "sleep 1000");
    let outcome = fleet.ask(&["run", "--name", "only", "/bin/true"]);
    assert_eq!((outcome.status, outcome.stderr.lines().count()), (2, 1), "{outcome:#?}");
    for wrong in ["", "17", "a/b", "white space"] {
        let outcome = fleet.ask(&["run", "--name", wrong, "/bin/true"]);
        assert_eq!((outcome.status, outcome.stderr.lines().count()), (2, 1), "{wrong:?}: {outcome:#?}");
    }
}

#[test]
fn virtual_cpus_are_added_and_removed() {
    let mut fleet = Fleet::new("cpus");
    let load = "for i in 1 2 3 4; do (while :; do :; done) & done; sleep 1000";
    fleet.start("grows", "2", load);
    let states = |fleet: &Fleet| -> Vec<String> {
        let shown = fleet.ask(&["cpu", "list", "grows"]).stdout;
        shown.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap_or_default().into()).collect()
    };
    assert_eq!(states(&fleet), ["online", "online", "absent", "absent", "absent", "absent", "absent", "absent"]);
    assert_eq!(fleet.ask(&["cpu", "add", "grows"]).stdout, "virtual CPU 2 is online\n");
    assert_eq!(line(&fleet.ask(&["ps"]).stdout, "grows")[2], "3");
    assert_eq!(fleet.ask(&["cpu", "remove", "grows", "1"]).stdout, "virtual CPU 1 is offline\n");
    assert_eq!(states(&fleet)[..4], ["online", "offline", "online", "absent"]);
    // The one that went takes no time any more, the others do.
    let used = |fleet: &Fleet, cpu: usize| -> f64 {
        let shown = fleet.ask(&["cpu", "list", "grows"]).stdout;
        let time = shown.lines().nth(cpu + 1).and_then(|line| line.split_whitespace().nth(4));
        time.expect("a time").trim_end_matches('s').parse().expect("seconds")
    };
    let before = (used(&fleet, 1), used(&fleet, 2));
    fleet.wait_for(&["cpu", "list", "grows"], |_| used(&fleet, 2) > before.1 + 0.1);
    assert_eq!(used(&fleet, 1), before.0);
    assert_eq!(fleet.ask(&["cpu", "remove", "grows"]).stdout, "virtual CPU 2 is offline\n");
    for wrong in [
        ["remove", "grows", "0"],
        ["remove", "grows", "2"],
        ["remove", "grows", "77"],
        ["remove", "grows", "x"],
        ["add", "grows", "0"],
        ["add", "grows", "4"],
        ["add", "nobody", "1"],
    ] {
        let outcome = fleet.ask(&[&["cpu"], &wrong[..]].concat());
        assert_eq!((outcome.status, outcome.stderr.lines().count()), (2, 1), "{wrong:?}: {outcome:#?}");
    }
    let outcome = fleet.ask(&["cpu", "remove", "grows"]);
    assert_eq!(outcome.status, 2, "the last one stays: {outcome:#?}");
    assert_eq!(fleet.ask(&["cpu", "add", "grows"]).stdout, "virtual CPU 1 is online\n");
    let outcome = fleet.ask(&["run", "--cpus", "4", "--max-cpus", "3", "/bin/true"]);
    assert_eq!((outcome.status, outcome.stderr.lines().count()), (2, 1), "{outcome:#?}");
}

#[test]
fn a_directory_open_to_others_is_not_used() {
    let fleet = Fleet::new("open");
    let dir = fleet.dir.join("umbel");
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).expect("our own directory");
    let outcome = fleet.ask(&["ps"]);
    assert_eq!((outcome.status, outcome.stderr.lines().count()), (125, 1), "{outcome:#?}");
    // A machine runs all the same, unlisted.
    let outcome = fleet.ask(&["run", "/bin/echo", "runs"]);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "runs\n"), "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
}

#[test]
fn wrong_intervals_are_refused() {
    for args in [["top", "-d", "0"], ["top", "-d", "soon"], ["top", "-n", "0"]] {
        let outcome = Run::umbel(&args).finish();
        assert_eq!((outcome.status, outcome.stderr.lines().count()), (2, 1), "{args:?}: {outcome:#?}");
    }
}
