//! Programs of the host's Debian, unmodified: each script of `tests/programs/` prints the same and ends with the same
//! status on the host and in a machine.
//!
//! What a host lacks is skipped by name on standard error; `.ci/run` installs what it can.

mod common;

use common::{Outcome, Run, gdb_calls, is_root};
use std::path::{Path, PathBuf};

/// Where programs are looked for, as in the scripts' prelude.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The identity for programs that refuse to be root.
const NOBODY: u32 = 65534;

/// One script, what it needs of the host and how it is to be run.
struct Script {
    name: &'static str,
    /// Commands or absolute paths.
    needs: &'static [&'static str],
    /// As a user without rights.
    as_nobody: bool,
    variables: Vec<(&'static str, String)>,
}

impl Script {
    fn new(name: &'static str, needs: &'static [&'static str]) -> Script {
        Script { name, needs, as_nobody: false, variables: Vec::new() }
    }

    fn variable(mut self, key: &'static str, value: impl Into<String>) -> Script {
        self.variables.push((key, value.into()));
        self
    }

    fn by_nobody(mut self) -> Script {
        self.as_nobody = true;
        self
    }

    fn text(&self) -> String {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("a script of this repository");
        read("prelude.sh") + &read(&format!("{}.sh", self.name))
    }

    fn on_host(&self) -> Outcome {
        let mut run = Run::on_host("/bin/bash", &["-c", &self.text()]).limit(900);
        for (key, value) in &self.variables {
            run = run.env(key, value);
        }
        if self.as_nobody && is_root() { run.user(NOBODY) } else { run }.finish()
    }

    fn in_machine(&self) -> Outcome {
        let settings: Vec<String> = self.variables.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let text = self.text();
        let mut args = vec!["run", "--cpus", "2", "--mem", "2G"];
        settings.iter().for_each(|setting| args.extend(["--env", setting]));
        if self.as_nobody {
            args.extend(["--user", "65534:65534"]);
        }
        args.extend(["--", "/bin/bash", "-c", &text]);
        Run::umbel(&args).limit(900).finish()
    }

    /// Runs the script on both sides; what it says on standard error is shown only when the rest differs.
    #[track_caller]
    fn same(&self) {
        if let Some(missing) = self.needs.iter().find(|need| !is_there(need)) {
            return skip(self.name, &format!("{missing} is not on this host"));
        }
        let (host, guest) = (self.on_host(), self.in_machine());
        let (shown, wanted) = ((guest.status, lines(&guest.stdout)), (host.status, lines(&host.stdout)));
        if shown != wanted {
            eprintln!("{}\nin the machine: {}\non the host: {}", self.name, guest.stderr, host.stderr);
        }
        assert_eq!(shown, wanted, "{}", self.name);
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn skip(name: &str, why: &str) {
    eprintln!("skipped: {name}: {why}");
}

/// True if a command is on the path, or something has this absolute path (`*` stands for the rest of a name).
fn is_there(need: &str) -> bool {
    let Some(pattern) = need.strip_prefix('/') else {
        return PATH.split(':').any(|dir| Path::new(dir).join(need).exists());
    };
    let mut places = vec![PathBuf::from("/")];
    for part in pattern.split('/') {
        let matches = |name: &str| part.strip_suffix('*').map_or(name == part, |start| name.starts_with(start));
        let below = |dir: &PathBuf| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
            entries.filter(|path| path.file_name().is_some_and(|name| matches(&name.to_string_lossy()))).collect()
        };
        places = places.iter().flat_map(|dir| -> Vec<PathBuf> { below(dir) }).collect();
    }
    !places.is_empty()
}

#[test]
fn perl() {
    Script::new("perl", &["perl"]).same();
}

#[test]
fn git() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The guest has a /tmp of its own.
    let real = if own.join(".git").exists() && !own.starts_with("/tmp") { own.to_string_lossy() } else { "".into() };
    Script::new("git", &["git"]).variable("GIT_REAL", real).same();
}

#[test]
fn gcc_and_make_build_sqlite() {
    Script::new("make", &["gcc", "make", "tclsh", "/usr/src/sqlite3-3*/main.mk"]).same();
}

#[test]
fn sqlite() {
    Script::new("sqlite", &["sqlite3"]).same();
}

#[test]
fn java() {
    Script::new("java", &["java", "javac"]).same();
}

#[test]
fn go() {
    Script::new("go", &["go"]).same();
}

#[test]
fn lisp() {
    Script::new("lisp", &["sbcl"]).same();
}

#[test]
fn valgrind() {
    Script::new("valgrind", &["valgrind", "gcc"]).same();
}

#[test]
fn node() {
    Script::new("node", &["node"]).same();
}

#[test]
fn cargo_builds_offline() {
    let cargo = std::env::var("CARGO").unwrap_or_default();
    let rustc = Path::new(&cargo).with_file_name("rustc").to_string_lossy().into_owned();
    if !Path::new(&rustc).exists() || rustc.starts_with("/tmp") {
        return skip("cargo", "no toolchain that a guest can reach");
    }
    Script::new("cargo", &["gcc"]).variable("CARGO", cargo).variable("RUSTC", rustc).same();
}

#[test]
fn node_serves_http_on_loopback() {
    Script::new("node_http", &["node", "curl"]).same();
}

#[test]
fn redis() {
    Script::new("redis", &["redis-server", "redis-cli", "redis-benchmark"]).same();
}

#[test]
fn postgresql() {
    Script::new("postgres", &["/usr/lib/postgresql/*/bin/initdb", "/usr/lib/postgresql/*/bin/pgbench"])
        .by_nobody()
        .same();
}

#[test]
fn nginx() {
    Script::new("nginx", &["nginx", "curl", "wrk", "ab"]).same();
}

#[test]
fn ssh() {
    if !is_root() {
        return skip("ssh", "sshd needs root to log anybody in");
    }
    Script::new("ssh", &["ssh", "ssh-keygen", "sftp", "/usr/sbin/sshd"]).same();
}

#[test]
fn strace_and_gdb() {
    let script = Script::new("debug", &["gcc", "strace", "gdb"]);
    let call = if is_there("gdb") && gdb_calls() { "print step(100)" } else { "echo" };
    script.variable("CALL", call).same();
}
