//! The machine's terminal end to end: a host pseudo-terminal plays the user.

mod common;

use common::session::Session;
use common::{generations, umbel, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_program_finds_a_terminal_with_name_and_size() {
    let mut session = Session::start(&["/bin/sh", "-c", "tty; stty size; test -t 0 -a -t 2 && echo yes; exit 5"]);
    session.expect("/dev/console\r\n");
    session.expect("24 80\r\n");
    session.expect("yes\r\n");
    assert_eq!(session.finish(), 5);
}

#[test]
fn keys_interrupt_quit_and_stop_the_foreground_group() {
    let mut shell = Session::bash();
    // Once it says so it is in the foreground, and dies of what the keys send.
    let job = |shell: &mut Session, and: &str| {
        shell.keys(&format!("sh -c 'echo st''arted; {and}'\n"));
        shell.expect("started\r\n");
    };
    job(&mut shell, "exec sleep 100");
    shell.keys("\x03");
    shell.expect("^C");
    shell.command("echo status $?", "status 130\r\n");
    job(&mut shell, "exec sleep 100");
    shell.keys("\x1c");
    shell.expect("Quit");
    // Says when it has left the foreground, and when it is back.
    let front = "front() { read a b c d group e f front g < /proc/$$/stat; test $group = $front; }";
    let back = "while front; do sleep 0.1; done; echo aw\"\"ay; until front; do sleep 0.1; done; echo ba\"\"ck; exec sleep 101";
    job(&mut shell, &format!("{front}; {back}"));
    shell.keys("\x1a");
    shell.expect("Stopped");
    shell.command("bg", "sleep 101' &");
    shell.expect("away\r\n");
    shell.command("jobs", "Running");
    shell.keys("fg\n");
    shell.expect("back\r\n");
    shell.keys("\x03");
    shell.expect("^C");
    shell.keys("exit 4\n");
    assert_eq!(shell.finish(), 4);
}

#[test]
fn lines_are_edited_and_ended_by_the_discipline() {
    let mut session = Session::start(&["/bin/sh", "-c", "echo ready; exec cat"]);
    session.expect("ready\r\n");
    session.keys("abx\x7fc\n");
    session.expect("abx\x08 \x08c\r\n");
    session.expect("abc\r\n");
    session.keys("gone\x15left\n");
    session.expect("left\r\nleft\r\n");
    session.keys("\x04");
    assert_eq!(session.finish(), 0);
}

#[test]
fn a_background_reader_is_stopped() {
    let mut shell = Session::bash();
    shell.keys("cat &\n");
    shell.keys("until grep -q 'State:.T' /proc/$!/status; do sleep 0.1; done\n\n");
    shell.expect("Stopped");
    // `wait` alone returns at once for a stopped job, and a shell that has not yet seen the death refuses to exit.
    shell.command("kill -9 %1; wait -f %1; echo over", "over\r\n");
    shell.keys("exit\n");
    shell.finish();
}

#[test]
fn a_change_of_the_window_is_told() {
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut session = Session::start(&["/bin/bash", "-c", script]);
    session.expect("ready");
    session.resize(40, 100);
    session.expect("40 100");
    assert_eq!(session.finish(), 0);
}

#[test]
fn raw_settings_hold_and_echo_can_be_off() {
    let script = "stty raw -echo; echo go; dd bs=1 count=3 2>/dev/null | od -An -c; stty sane -echo; echo off; read -s x; echo got $x";
    let mut session = Session::start(&["/bin/bash", "-c", script]);
    session.expect("go");
    session.keys("\x03\r\x1a");
    session.expect("003  \\r 032");
    session.expect("off\r\n");
    session.keys("secret\n");
    let shown = session.expect("got secret");
    assert_eq!(shown.matches("secret").count(), 1, "{shown:?}");
    assert_eq!(session.finish(), 0);
}

#[test]
fn sigterm_ends_the_guest_in_order_and_gives_the_terminal_back() {
    let script = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let mut session = Session::start(&["/bin/bash", "-c", script]);
    session.expect("ready");
    kill(Pid::from_raw(session.child.id() as i32), Signal::SIGTERM).expect("our own child");
    session.expect("told");
    assert_eq!(session.finish(), 7);
}

#[test]
fn a_guest_that_ignores_the_end_is_made_to() {
    let mut session = Session::start(&["/bin/sh", "-c", "trap '' TERM HUP; echo ready; sleep 1000"]);
    session.expect("ready");
    kill(Pid::from_raw(session.child.id() as i32), Signal::SIGTERM).expect("our own child");
    // The command would have slept longer than anybody waits here.
    assert_eq!(session.finish(), 137);
}

#[test]
fn pseudo_terminals_work_inside() {
    let inner = "tty; test -t 1 && echo inner; stty size";
    let mut session = Session::start(&["/usr/bin/script", "-qc", inner, "/dev/null"]);
    session.expect("/dev/pts/0\r\n");
    session.expect("inner\r\n");
    session.expect("24 80\r\n");
    assert_eq!(session.finish(), 0);
}

/// The machine that runs on the terminal of `session`, whose program is a shell that started it.
fn machine_of(session: &Session) -> u32 {
    until(|| generations(session.child.id()).get(1)?.first().copied())
}

#[test]
fn a_machine_that_is_killed_or_crashes_gives_the_terminal_back() {
    for signal in [Signal::SIGKILL, Signal::SIGILL, Signal::SIGABRT] {
        let script =
            format!("{} run --cpus 2 -- sh -c 'echo rea''dy; sleep 100'; echo status $?; read x", umbel().display());
        let mut session = Session::on_host(&["/bin/sh", "-c", &script]);
        session.expect("ready");
        assert!(!session.is_as_before());
        kill(Pid::from_raw(machine_of(&session) as i32), signal).expect("our own machine");
        session.expect(&format!("status {}", 128 + signal as i32));
        until(|| session.is_as_before().then_some(()));
        session.keys("\n");
        session.finish();
    }
}

#[test]
fn a_panic_of_the_kernel_or_the_death_of_its_processes_gives_the_terminal_back() {
    let mut session =
        Session::start_with(&["--debug-stall"], &["/bin/sh", "-c", "echo ready; echo c > /proc/sysrq-trigger"]);
    session.expect("sysrq triggered crash");
    assert_eq!(session.finish(), 70);
    for generation in [1, 2] {
        let mut session = Session::start(&["/bin/sh", "-c", "echo ready; while :; do :; done"]);
        session.expect("ready");
        let all = generations(session.child.id());
        let named = |pid: &&u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name != "umbel-terminal\n")
        };
        let victim = all[generation].iter().find(named).expect("zygote and parents");
        kill(Pid::from_raw(*victim as i32), Signal::SIGSEGV).expect("our own machine");
        session.expect("kernel panic");
        assert_eq!(session.finish(), 70);
    }
}
