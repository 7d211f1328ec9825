//! What the end-to-end tests share: running `umbel`, compiling guest programs, comparing with the host.
//!
//! Every run has a deadline, for what hangs: it is far longer than anything takes on a busy host, and nothing is measured by it.
//! What is still alive then is killed by process id.
#![allow(dead_code)] // each test binary uses its own part

pub mod session;

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that is no longer than seconds on a quiet host.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What a finished program left behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status as a shell shows it: 128+n for a death by signal n.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// What `--stats` counts under this name.
    pub fn counted(&self, name: &str) -> u64 {
        let line = self.stderr.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("{name}: {self:#?}"))
    }
}

/// The `umbel` binary under test.
pub fn umbel() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_umbel"))
}

/// A run of a program, on the host or in a machine, under a deadline.
pub struct Run {
    command: Command,
    input: Vec<u8>,
    limit: Duration,
}

impl Run {
    /// `program` on the host itself.
    pub fn on_host(program: impl AsRef<Path>, args: &[&str]) -> Run {
        let mut command = Command::new(program.as_ref());
        command.args(args);
        Run::with(command)
    }

    /// `umbel` with these arguments.
    pub fn umbel(args: &[&str]) -> Run {
        let mut command = Command::new(umbel());
        command.args(args);
        Run::with(command)
    }

    /// `program` in a machine of `cpus` virtual CPUs.
    pub fn in_machine(cpus: u32, program: impl AsRef<Path>, args: &[&str]) -> Run {
        let mut command = Command::new(umbel());
        command.args(["run", "--cpus", &cpus.to_string(), "--"]).arg(program.as_ref()).args(args);
        Run::with(command)
    }

    fn with(command: Command) -> Run {
        Run { command, input: Vec::new(), limit: PATIENCE }
    }

    /// Bytes for standard input (empty otherwise).
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.input = bytes.into();
        self
    }

    /// Another deadline than [`PATIENCE`].
    pub fn limit(mut self, seconds: u64) -> Run {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// An environment variable of the host program.
    pub fn env(mut self, key: &str, value: &str) -> Run {
        self.command.env(key, value);
        self
    }

    /// As another user, where the tests run as root.
    pub fn user(mut self, id: u32) -> Run {
        let mut command = Command::new(open_to_all(Path::new(self.command.get_program())));
        command.args(self.command.get_args());
        command.envs(self.command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.uid(id).gid(id).current_dir("/");
        self.command = command;
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// When the program cannot be started or misses the deadline.
    pub fn finish(mut self) -> Outcome {
        let what = format!("{:?}", self.command);
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut stdin = child.stdin.take().expect("piped");
        let input = std::mem::take(&mut self.input);
        // A program that stops reading early is not an error.
        let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
        let out = collect(child.stdout.take().expect("piped"));
        let err = collect(child.stderr.take().expect("piped"));
        let status = wait_until(&mut child, self.limit);
        let late = status.is_none();
        let status = status.unwrap_or_else(|| {
            child.kill().expect("our own child");
            child.wait().expect("our own child")
        });
        let _ = feeder.join();
        let outcome = Outcome {
            status: shell_status(status),
            stdout: out.join().expect("reader"),
            stderr: err.join().expect("reader"),
        };
        assert!(!late, "{what}: still running after {:?}\n{outcome:#?}", self.limit);
        outcome
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child, at most `limit`.
pub fn wait_until(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// 128+n for a death by signal n.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Compiles `tests/guest/NAME.c` with the host's C compiler and returns the program.
///
/// Static unless `dynamic`; the result is cached by the compiler's inputs' time stamps.
pub fn guest_program(name: &str, dynamic: bool) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest").join(format!("{name}.c"));
    let mut dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("guest");
    // The guest has a /tmp of its own: what is built there is not seen by it.
    if dir.starts_with("/tmp") || dir.starts_with("/dev/shm") {
        dir = PathBuf::from(format!("/var/tmp/umbel-tests-{}", user_id())).join("guest");
    }
    std::fs::create_dir_all(&dir).expect("target directory");
    let program = dir.join(if dynamic { format!("{name}.dyn") } else { name.to_owned() });
    let partial = dir.join(format!("{name}.{}.{:?}", std::process::id(), thread::current().id()));
    let mut cc = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
    cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    if !dynamic {
        cc.arg("-static");
    }
    let status = cc.arg("-o").arg(&partial).arg(&source).status().expect("a C compiler");
    assert!(status.success(), "{} does not compile", source.display());
    // The rename makes two tests that compile the same program at once harmless.
    std::fs::rename(&partial, &program).expect("target directory");
    program
}

/// The program, or a copy of it where it lies in a directory that other users may not enter (a clone in a home, say).
pub fn open_to_all(program: &Path) -> PathBuf {
    let closed = |dir: &Path| std::fs::metadata(dir).is_ok_and(|metadata| metadata.mode() & 1 == 0);
    if program.is_relative() || !program.ancestors().skip(1).any(closed) {
        return program.to_owned();
    }
    let dir = PathBuf::from(format!("/var/tmp/umbel-tests-{}", user_id())).join("open");
    std::fs::create_dir_all(&dir).expect("a directory for programs");
    let copy = dir.join(program.file_name().expect("a program"));
    let partial = dir.join(format!("{}.{:?}", std::process::id(), thread::current().id()));
    std::fs::copy(program, &partial).expect("room for a copy");
    std::fs::rename(&partial, &copy).expect("our own directory");
    copy
}

/// Runs a guest program on the host, then in machines of 1, 2 and 4 virtual CPUs, and wants the same outcome.
pub fn same_as_host(name: &str) {
    let program = guest_program(name, false);
    let host = Run::on_host(&program, &[]).finish();
    assert_eq!(host.status, 0, "{name} fails on the host itself:\n{host:#?}");
    for cpus in [1, 2, 4] {
        let guest = Run::in_machine(cpus, &program, &[]).finish();
        assert_eq!(guest, host, "{name} on {cpus} virtual CPUs");
    }
}

/// Runs a bash script on the host and in a machine, and wants the same outcome.
pub fn script_same_as_host(cpus: u32, script: &str) {
    let host = Run::on_host("/bin/bash", &["-c", script]).finish();
    let guest = Run::in_machine(cpus, "/bin/bash", &["-c", script]).finish();
    assert_eq!(guest, host, "on {cpus} virtual CPUs: {script}");
}

/// The user that the tests run as.
pub fn user_id() -> u32 {
    std::fs::metadata("/proc/self").map_or(u32::MAX, |m| std::os::unix::fs::MetadataExt::uid(&m))
}

/// True where the tests run as root.
pub fn is_root() -> bool {
    user_id() == 0
}

/// Whether the host's gdb can call functions of what it debugs. Older ones cannot write the registers of newer processors ("Couldn't
/// write extended state status").
pub fn gdb_calls() -> bool {
    let write =
        ["-ex", "starti", "-ex", "set var $xmm0.v4_int32[0] = 7", "-ex", "print $xmm0.v4_int32[0]", "-ex", "kill"];
    let args = ["-q", "-nx", "-batch"].iter().chain(&write).chain(&["/bin/true"]).copied().collect::<Vec<_>>();
    let can = Run::on_host("gdb", &args).finish().stdout.contains("$1 = 7");
    if !can {
        eprintln!("skipped: calls by gdb: that of this host cannot write the registers of this processor");
    }
    can
}

/// Children that are killed when the test ends, however it does.
pub struct Ended(pub Vec<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Children of all threads of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Zygote, parents and slots, in generations.
pub fn generations(machine: u32) -> Vec<Vec<u32>> {
    let mut generations = vec![vec![machine]];
    while let Some(last) = generations.last()
        && !last.is_empty()
    {
        let next = last.iter().flat_map(|pid| children(*pid)).collect();
        generations.push(next);
    }
    generations
}

/// The state of a process, as ps(1) shows it; `X` if it is gone.
pub fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('X')
}

/// The slots of a machine that has nothing to do: zygote, parents and slots sleep at look after look.
pub fn slots_at_rest(machine: u32) -> Vec<u32> {
    let look = || {
        let all = generations(machine);
        let slots = all.get(3).filter(|slots| !slots.is_empty())?.clone();
        all[1..].iter().flatten().all(|pid| state(*pid) == 'S').then_some(slots)
    };
    until(|| {
        let slots = look()?;
        let still = (0..10).all(|_| {
            thread::sleep(Duration::from_millis(10));
            look().as_ref() == Some(&slots)
        });
        still.then_some(slots)
    })
}

/// Asks again and again.
pub fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "what was waited for did not come");
        thread::sleep(Duration::from_millis(20));
    }
}
