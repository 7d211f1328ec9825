//! What each suite consists of: its tests, how one is started, and when it has passed.
//!
//! A suite is a directory that a user has built; nothing of it is part of this repository.

use std::fs;
use std::path::{Path, PathBuf};

/// The suites that the runner knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// The Linux Test Project, installed: `runtest/`, `testcases/bin/`.
    Ltp,
    /// gVisor's system-call tests: a directory of googletest programs.
    Gvisor,
    /// musl's libc-test, built: `src/*/*.exe`.
    LibcTest,
    /// pjdfstest, built: `pjdfstest` and `tests/**/*.t`.
    Pjdfstest,
    /// Any directory of executables: exit status 0 is a pass.
    Plain,
}

/// LTP's tests that would change the host for everyone else (its clock, swap, modules): not run on it, so not counted.
const CHANGE_THE_HOST: [&str; 13] = [
    "adjtimex",
    "clock_adjtime",
    "clock_settime",
    "settimeofday",
    "stime",
    "swapoff",
    "swapon",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec",
    "leapsec",
    "reboot",
];

/// How one run of a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Fail,
    /// The test says that it does not apply here.
    Skip,
    /// Still running at the deadline.
    Late,
    /// The guest kernel panicked or the machine failed.
    Broken,
}

/// One test.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// A line for `sh -c`, which runs in an empty directory of its own.
    pub line: String,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Skip => "skip",
            Verdict::Late => "late",
            Verdict::Broken => "broken",
        }
    }

    pub fn from_word(word: &str) -> Option<Verdict> {
        [Verdict::Pass, Verdict::Fail, Verdict::Skip, Verdict::Late, Verdict::Broken]
            .into_iter()
            .find(|verdict| verdict.word() == word)
    }
}

impl Suite {
    pub const ALL: [Suite; 5] = [Suite::Ltp, Suite::Gvisor, Suite::LibcTest, Suite::Pjdfstest, Suite::Plain];

    pub fn name(self) -> &'static str {
        match self {
            Suite::Ltp => "ltp",
            Suite::Gvisor => "gvisor",
            Suite::LibcTest => "libc-test",
            Suite::Pjdfstest => "pjdfstest",
            Suite::Plain => "plain",
        }
    }

    /// The differences that are known, one file a suite; see [`crate::report::Known`].
    pub fn known(self) -> &'static str {
        match self {
            Suite::Ltp => include_str!("differs/ltp.txt"),
            Suite::Gvisor => include_str!("differs/gvisor.txt"),
            Suite::LibcTest => include_str!("differs/libc-test.txt"),
            Suite::Pjdfstest => include_str!("differs/pjdfstest.txt"),
            Suite::Plain => "",
        }
    }

    /// The tests of the suite in `dir`; of LTP those of the scenario file `runtest/SCENARIO`.
    pub fn cases(self, dir: &Path, scenario: &str) -> Result<Vec<Case>, String> {
        let mut cases = match self {
            Suite::Ltp => return ltp(dir, scenario),
            Suite::Gvisor => googletests(dir)?,
            Suite::LibcTest => programs(&dir.join("src"), ".exe", quote)?,
            Suite::Pjdfstest => programs(&dir.join("tests"), ".t", |path| format!("exec /bin/sh {}", quote(path)))?,
            Suite::Plain => programs(dir, "", quote)?,
        };
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(cases)
    }

    /// What the exit status (as a shell shows it) and the output say.
    pub fn judge(self, status: i32, output: &str) -> Verdict {
        let has = |prefix: &str| output.lines().any(|line| line.starts_with(prefix));
        match (self, status) {
            (Suite::Ltp, 32) => Verdict::Skip,
            (Suite::Gvisor, 0) if output.contains("[  SKIPPED ]") => Verdict::Skip,
            (Suite::Pjdfstest, 0) if has("1..0") => Verdict::Skip,
            // Lines marked as to be done do not count, as prove(1) has it.
            (Suite::Pjdfstest, 0) => {
                let bad = output.lines().any(|line| line.starts_with("not ok") && !line.contains("# TODO"));
                if bad || !has("ok ") { Verdict::Fail } else { Verdict::Pass }
            }
            (_, 0) => Verdict::Pass,
            _ => Verdict::Fail,
        }
    }
}

/// `runtest/SCENARIO`: a name and a shell line each.
fn ltp(dir: &Path, scenario: &str) -> Result<Vec<Case>, String> {
    let file = dir.join("runtest").join(scenario);
    let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let root = quote(dir);
    let mut cases = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, command) = line.split_once(char::is_whitespace).unwrap_or((line, line));
        let line = format!(
            "export LTPROOT={root}; export PATH=\"$LTPROOT/testcases/bin:$PATH\" TMPDIR=\"$PWD\" LTP_COLORIZE_OUTPUT=n; {}",
            command.trim()
        );
        if !CHANGE_THE_HOST.iter().any(|start| name.starts_with(start)) {
            cases.push(Case { name: name.to_owned(), line });
        }
    }
    Ok(cases)
}

/// One case for each test of each googletest program.
fn googletests(dir: &Path) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for program in programs(dir, "_test", quote)? {
        let listing = std::process::Command::new("/bin/sh")
            .args(["-c", &format!("{} --gtest_list_tests", program.line)])
            .output()
            .map_err(|e| format!("{}: {e}", program.name))?;
        let mut group = String::new();
        for line in String::from_utf8_lossy(&listing.stdout).lines() {
            // A group ends in a dot; its tests are indented; `#` introduces the value of a parameter.
            let word = line.split('#').next().unwrap_or("").trim_end();
            if !word.starts_with(' ') {
                group = word.to_owned();
            } else {
                let test = format!("{group}{}", word.trim());
                let line = format!("exec {} --gtest_filter={}", program.line, quote(Path::new(&test)));
                cases.push(Case { name: format!("{}:{test}", program.name), line });
            }
        }
    }
    Ok(cases)
}

/// Every executable (or script, by its suffix) below `dir` whose name ends in `suffix`.
fn programs(dir: &Path, suffix: &str, line: impl Fn(&Path) -> String) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let mut open = vec![PathBuf::from(dir)];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).map_err(|e| format!("{}: {e}", at.display()))? {
            let path = entry.map_err(|e| e.to_string())?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
                cases.push(Case { name, line: line(&path) });
            }
        }
    }
    Ok(cases)
}

/// `path` as one word of a shell.
pub fn quote(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}
