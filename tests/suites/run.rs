//! Running one test on the host or in a machine of its own, under a deadline.
//!
//! On the host a test gets namespaces of its own where the user is root (mounts, host name, IPC, processes), with a
//! tmpfs on /tmp: it is as much alone as in a machine, and what it leaves behind goes with it. In a machine it is
//! user 0 of a kernel that serves it alone; a panic or a hang costs one test.

use crate::cases::{Case, Suite, Verdict};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The exit status of `umbel` when the guest kernel panicked.
const PANICKED: i32 = 70;
/// Output beyond this is not looked at.
const OUTPUT_LIMIT: u64 = 4 << 20;

/// Where a test runs.
#[derive(Clone, Debug)]
pub enum Place {
    /// On the host, in namespaces of its own where `isolated`.
    Host { isolated: bool },
    /// In a machine: the `umbel` binary and further options of `umbel run`.
    Machine { umbel: PathBuf, options: Vec<String> },
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub verdict: Verdict,
    pub took: Duration,
}

/// Runs `case`; its output goes to `log`.
pub fn run(suite: Suite, case: &Case, place: &Place, limit: Duration, log: &Path) -> Result<Ending, String> {
    let explain = |e: std::io::Error| format!("{}: {e}", log.display());
    let output = File::create(log).map_err(explain)?;
    let mut command = command(case, place);
    command.stdin(Stdio::null()).stdout(output.try_clone().map_err(explain)?).stderr(output);
    // A group of its own: whatever is left at the deadline goes with it.
    command.process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(explain)? {
            break Some(status);
        }
        if start.elapsed() >= limit {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = start.elapsed();
    let Some(status) = status else {
        let _ =
            nix::sys::signal::killpg(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::SIGKILL);
        let _ = child.wait();
        return Ok(Ending { verdict: Verdict::Late, took });
    };
    Ok(Ending { verdict: judge(suite, place, status, log), took })
}

fn judge(suite: Suite, place: &Place, status: ExitStatus, log: &Path) -> Verdict {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(log) {
        let _ = file.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
    }
    let output = String::from_utf8_lossy(&bytes);
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    if matches!(place, Place::Machine { .. }) && (status == PANICKED || output.contains("guest kernel panic")) {
        return Verdict::Broken;
    }
    suite.judge(status, &output)
}

fn command(case: &Case, place: &Place) -> Command {
    let script = format!("umask 022; cd \"$(mktemp -d)\" || exit 99; chmod 755 .; {}", case.line);
    let mut command;
    match place {
        Place::Host { isolated: true } => {
            command = Command::new("unshare");
            command.args(["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
            // The script is not process 1: that one does not get signals.
            let outer = "mount -t tmpfs tmpfs /tmp && { /bin/sh -c \"$0\"; exit $?; }";
            command.args(["/bin/sh", "-c", outer, &script]);
        }
        Place::Host { isolated: false } => {
            command = Command::new("/bin/sh");
            command.args(["-c", &script]);
        }
        Place::Machine { umbel, options } => {
            command = Command::new(umbel);
            command.args(["run", "--cpus", "2"]).args(options).args(["--", "/bin/sh", "-c", &script]);
        }
    }
    command
}
