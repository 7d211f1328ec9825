//! The machine's terminal end to end: a host pseudo-terminal plays the user.

mod common;

use common::umbel;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{Pid, read, write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program in a machine on a terminal of its own.
struct Session {
    child: Child,
    master: OwnedFd,
    slave: OwnedFd,
    /// Settings of the terminal before the machine started.
    before: Termios,
    /// Output not looked at yet.
    shown: Vec<u8>,
}

impl Session {
    fn start(args: &[&str]) -> Session {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pseudo-terminal");
        let before = tcgetattr(pty.slave.as_fd()).expect("a terminal");
        let stdio = || Stdio::from(pty.slave.try_clone().expect("descriptors"));
        let mut command = Command::new(umbel());
        command.args(["run", "--cpus", "2", "--"]).args(args);
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let become_leader = || {
            nix::unistd::setsid()?;
            // SAFETY: TIOCSCTTY takes an integer; descriptor 0 is the terminal.
            let done = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
            nix::errno::Errno::result(done).map(drop).map_err(std::io::Error::from)
        };
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(become_leader) };
        let child = command.spawn().expect("umbel");
        Session { child, master: pty.master, slave: pty.slave, before, shown: Vec::new() }
    }

    fn bash() -> Session {
        let mut session = Session::start(&["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"]);
        session.expect("# |$ ");
        session
    }

    fn keys(&self, bytes: &str) {
        let mut rest = bytes.as_bytes();
        while !rest.is_empty() {
            let count = write(&self.master, rest).expect("the master takes keys");
            rest = &rest[count..];
        }
    }

    /// Waits until one of the texts (separated by `|`) is shown and returns everything up to its end.
    fn expect(&mut self, texts: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = String::from_utf8_lossy(&self.shown).into_owned();
            let found = texts.split('|').filter_map(|text| Some(shown.find(text)? + text.len())).min();
            if let Some(end) = found {
                self.shown = shown.as_bytes()[end..].to_vec();
                return shown[..end].to_owned();
            }
            assert!(Instant::now() < deadline, "{texts:?} is not shown, only {shown:?}");
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(100_u16)).expect("poll");
            let mut chunk = [0; 4096];
            if ready > 0 {
                let count = read(&self.master, &mut chunk).unwrap_or(0);
                self.shown.extend_from_slice(&chunk[..count]);
            }
        }
    }

    /// Types a command for the shell and waits for what it shows.
    fn command(&mut self, line: &str, answer: &str) -> String {
        self.keys(&format!("{line}\n"));
        self.expect(&line.replace('|', "?"));
        self.expect(answer)
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize.
        let done = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0);
    }

    /// Waits for the end; the terminal must be as it was before.
    fn finish(mut self) -> i32 {
        let status = common::wait_until(&mut self.child, PATIENCE).expect("umbel ends");
        let after = tcgetattr(self.slave.as_fd()).expect("a terminal");
        assert_eq!(after.local_flags, self.before.local_flags);
        assert_eq!(after.input_flags, self.before.input_flags);
        assert_eq!(after.output_flags, self.before.output_flags);
        common::shell_status(status)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
    shell.keys("sleep 100\n");
    sleep(Duration::from_secs(1));
    shell.keys("\x03");
    shell.expect("^C");
    shell.command("echo status $?", "status 130\r\n");
    shell.keys("sleep 100\n");
    sleep(Duration::from_secs(1));
    shell.keys("\x1c");
    shell.expect("Quit");
    shell.keys("sleep 101\n");
    sleep(Duration::from_secs(1));
    shell.keys("\x1a");
    shell.expect("Stopped");
    shell.command("bg", "sleep 101 &");
    shell.command("jobs", "Running");
    shell.keys("fg\n");
    sleep(Duration::from_millis(500));
    shell.keys("\x03");
    shell.expect("^C");
    shell.keys("exit 4\n");
    assert_eq!(shell.finish(), 4);
}

#[test]
fn lines_are_edited_and_ended_by_the_discipline() {
    let mut session = Session::start(&["/bin/cat"]);
    sleep(Duration::from_millis(500));
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
    sleep(Duration::from_secs(1));
    shell.keys("\n");
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
    let script = "stty raw -echo; echo go; dd bs=1 count=3 2>/dev/null | od -An -c; stty sane; read -s x; echo got $x";
    let mut session = Session::start(&["/bin/bash", "-c", script]);
    session.expect("go");
    session.keys("\x03\r\x1a");
    session.expect("003  \\r 032");
    sleep(Duration::from_millis(500));
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
    let mut session = Session::start(&["/bin/sh", "-c", "trap '' TERM HUP; echo ready; sleep 100"]);
    session.expect("ready");
    let start = Instant::now();
    kill(Pid::from_raw(session.child.id() as i32), Signal::SIGTERM).expect("our own child");
    assert_eq!(session.finish(), 137);
    assert!(start.elapsed() < Duration::from_secs(10));
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
