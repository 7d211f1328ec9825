//! A host pseudo-terminal that plays the user of a program, in a machine or on the host.

use super::umbel;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{read, write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A program in a machine on a terminal of its own.
pub struct Session {
    pub child: Child,
    master: OwnedFd,
    slave: OwnedFd,
    /// Settings of the terminal before the machine started.
    before: Termios,
    /// Output not looked at yet.
    shown: Vec<u8>,
}

impl Session {
    /// A program in a machine.
    pub fn start(args: &[&str]) -> Session {
        Session::start_with(&[], args)
    }

    /// The same, with options of the machine.
    pub fn start_with(options: &[&str], args: &[&str]) -> Session {
        let mut command = Command::new(umbel());
        command.args(["run", "--cpus", "2"]).args(options).arg("--").args(args);
        Session::with(command)
    }

    /// A program on the host.
    pub fn on_host(args: &[&str]) -> Session {
        let mut command = Command::new(args[0]);
        command.args(&args[1..]);
        Session::with(command)
    }

    fn with(mut command: Command) -> Session {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pseudo-terminal");
        let before = tcgetattr(pty.slave.as_fd()).expect("a terminal");
        let stdio = || Stdio::from(pty.slave.try_clone().expect("descriptors"));
        command.env("TERM", "xterm").stdin(stdio()).stdout(stdio()).stderr(stdio());
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

    /// An interactive bash in a machine, at its prompt.
    pub fn bash() -> Session {
        let mut session = Session::start(&["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"]);
        session.expect("# |$ ");
        session
    }

    /// Types.
    pub fn keys(&self, bytes: &str) {
        let mut rest = bytes.as_bytes();
        while !rest.is_empty() {
            let count = write(&self.master, rest).expect("the master takes keys");
            rest = &rest[count..];
        }
    }

    /// Waits until one of the texts (separated by `|`) is shown and returns everything up to its end.
    pub fn expect(&mut self, texts: &str) -> String {
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
    pub fn command(&mut self, line: &str, answer: &str) -> String {
        self.keys(&format!("{line}\n"));
        self.expect(&line.replace('|', "?"));
        self.expect(answer)
    }

    /// Changes the window.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize.
        let done = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0);
    }

    /// Whether the terminal is as it was before.
    pub fn is_as_before(&self) -> bool {
        let flags = |settings: &Termios| (settings.local_flags, settings.input_flags, settings.output_flags);
        let now = tcgetattr(self.slave.as_fd()).expect("a terminal");
        flags(&now) == flags(&self.before)
    }

    /// Waits for the end; the terminal must be as it was before.
    pub fn finish(mut self) -> i32 {
        let status = super::wait_until(&mut self.child, PATIENCE).expect("umbel ends");
        assert!(self.is_as_before());
        super::shell_status(status)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
