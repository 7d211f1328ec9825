//! What the host's user, and the guest, must not reach: slots through the host's /proc, magic files of the host, what
//! another guest process left; and that stopping the machine stops all of it.

mod common;

use common::{
    PATIENCE, Run, generations, guest_program, is_root, open_to_all, slots_at_rest, state, umbel, until, wait_until,
};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use umbel_abi::machine::layout;

/// A user without rights, where the tests run as root.
const NOBODY: u32 = 65534;

fn start(script: &str, user: Option<u32>) -> Child {
    let program = if user.is_some() { open_to_all(&umbel()) } else { umbel() };
    let mut command = Command::new(program);
    command.args(["run", "--cpus", "2", "--", "/bin/sh", "-c", script]);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("start a machine")
}

fn slots(machine: &Child) -> Vec<u32> {
    until(|| generations(machine.id()).get(3).filter(|slots| slots.len() >= 2).cloned())
}

/// Waits until the script has said so.
fn until_ready(machine: &mut Child) {
    let mut ready = [0; 6];
    machine.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("its output");
    assert_eq!(&ready, b"ready\n");
}

/// Tells the script to go on, and wants it to end in order with this output.
fn goes_on(mut machine: Child, wanted: &[u8]) {
    machine.stdin.as_mut().expect("piped").write_all(b"\n").expect("it reads");
    let status = wait_until(&mut machine, PATIENCE).expect("the machine ends");
    let output = machine.wait_with_output().expect("its output");
    assert_eq!((status.code(), output.stdout.as_slice()), (Some(0), wanted), "{output:?}");
}

fn stop(mut machine: Child) {
    machine.kill().expect("our own child");
    machine.wait().expect("our own child");
}

#[test]
fn an_ordinary_user_cannot_open_his_own_slots() {
    let user = is_root().then_some(NOBODY);
    let mut machine = start("echo ready; while :; do :; done", user);
    until_ready(&mut machine);
    let pids: Vec<String> = slots(&machine).iter().map(u32::to_string).collect();
    let mut peek = Run::on_host(guest_program("peek", false), &pids.iter().map(String::as_str).collect::<Vec<_>>());
    if let Some(user) = user {
        peek = peek.user(user);
    }
    let outcome = peek.finish();
    stop(machine);
    assert_eq!(outcome.stdout, "ok\n", "{outcome:#?}");
}

#[test]
fn slots_leave_no_core() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let before = fs::read_dir("/").expect("the root directory").count();
    let mut machine = start("sleep 1000 & echo ready; read x; echo went on", None);
    until_ready(&mut machine);
    let all = slots_at_rest(machine.id());
    for pid in &all {
        let _ = Command::new("kill").args(["-ABRT", &pid.to_string()]).status();
    }
    until(|| all.iter().all(|slot| state(*slot) == 'X').then_some(()));
    goes_on(machine, b"went on\n");
    let after = fs::read_dir("/").expect("the root directory").count();
    assert!(pattern.starts_with(['/', '|']) || before == after, "a core file in /");
}

#[test]
fn a_stop_of_the_machine_stops_all_slots() {
    let mut machine = start("while :; do :; done & echo ready; read x; kill $!; echo counted", None);
    until_ready(&mut machine);
    let all = slots(&machine);
    let signal = |name: &str| {
        let done = Command::new("kill").args([name, &machine.id().to_string()]).status().expect("run kill");
        assert!(done.success());
    };
    signal("-TSTP");
    until(|| all.iter().all(|pid| state(*pid) == 'T').then_some(()));
    signal("-CONT");
    until(|| all.iter().all(|pid| state(*pid) != 'T').then_some(()));
    goes_on(machine, b"counted\n");
}

#[test]
fn magic_files_of_the_host_are_not_reached_through_links_and_mounts() {
    // Links are the guest's own to follow: they lead to the guest's /proc.
    let dir = std::path::PathBuf::from(format!("/var/tmp/umbel-magic-{}", std::process::id()));
    fs::create_dir_all(dir.join("p")).expect("a directory");
    let _ = std::os::unix::fs::symlink("/proc/1/environ", dir.join("link"));
    let _ = std::os::unix::fs::symlink("../../../../../../proc/1/comm", dir.join("up"));
    let at = dir.display();
    let show = format!("cat {at}/up; cat {at}/p/1/comm {at}/p/self/mem 2>/dev/null; ls {at}/p 2>/dev/null | wc -l");
    let script = format!("mount --bind /proc {at}/p 2>/dev/null; exec \"$0\" run --cpus 1 -- /bin/sh -c '{show}'");
    let umbel = umbel().to_string_lossy().into_owned();
    let outcome = Run::on_host("/usr/bin/unshare", &["-rm", "/bin/sh", "-c", &script, &umbel]).finish();
    let inside = Run::umbel(&["run", "--cpus", "1", "--", "/bin/cat", "/proc/1/comm"]).finish();
    let _ = fs::remove_dir_all(&dir);
    assert_eq!(outcome.stdout, format!("{}0\n", inside.stdout), "{outcome:#?}");
    for root in ["/proc", "/sys", "/dev/pts", "/proc/self/fd"] {
        let refused = Run::umbel(&["run", "--cpus", "1", "--root", root, "--", "/bin/true"]).finish();
        assert_ne!(refused.status, 0, "{root}: {refused:#?}");
    }
}

#[test]
fn registers_of_one_process_are_not_left_for_the_next() {
    let program = guest_program("residue", false).to_string_lossy().into_owned();
    let places = [(layout::ENTRY_PAGE, layout::PAGE), (layout::SIGNAL_STACK, layout::SIGNAL_STACK_LEN)];
    let places: Vec<String> = places.iter().flat_map(|(at, len)| [format!("{at:x}"), format!("{len:x}")]).collect();
    for cpus in ["1", "2"] {
        let mut args = vec!["run", "--cpus", cpus, "--", &program];
        args.extend(places.iter().map(String::as_str));
        let outcome = Run::umbel(&args).finish();
        assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
    }
}
