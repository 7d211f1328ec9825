//! Runs a conformance suite that a user has built, on the host and in Umbel, and tells what differs.
//!
//! ```text
//! cargo test --release --test suites -- ltp DIR [--scenario syscalls] [--only TEXT] [--jobs N] [--out DIR] [--native FILE]
//! ```
//!
//! A test that does not pass on the host is not run in a machine. `--out` (default `target/suites`) receives `results.json`, the
//! logs, and `native.txt`, which `--native` takes instead of running on the host again. The exit status is 1 if a
//! test that passes natively does not pass inside and no reason is on file in `differs/`.

mod cases;
mod report;
mod run;
mod session;

use cases::Suite;
use session::Options;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: suites ltp|gvisor|libc-test|pjdfstest|plain DIR [--scenario NAME] [--only TEXT] [--jobs N] \
                     [--timeout SECONDS] [--out DIR] [--native FILE] [--umbel FILE] \
                     [--option UMBEL-RUN-OPTION]...";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = parse(&args).and_then(|options| session::run(&options));
    match outcome {
        Ok(sums) if sums.unexplained == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let [suite, dir, rest @ ..] = args else { return Err(USAGE.into()) };
    let suite = Suite::ALL.into_iter().find(|s| s.name() == suite).ok_or_else(|| USAGE.to_owned())?;
    let dir = std::fs::canonicalize(dir).map_err(|e| format!("{dir}: {e}"))?;
    let mut options = Options::new(suite, dir);
    for pair in rest.chunks(2) {
        let [name, value] = pair else { return Err(USAGE.into()) };
        let number = || value.parse::<u64>().map_err(|e| format!("{name} {value}: {e}"));
        match name.as_str() {
            "--scenario" => options.scenario = value.clone(),
            "--only" => options.only = Some(value.clone()),
            "--jobs" => options.jobs = usize::try_from(number()?.max(1)).unwrap_or(1),
            "--timeout" => options.limit = Duration::from_secs(number()?),
            "--out" => options.out = PathBuf::from(value),
            "--native" => options.native = Some(PathBuf::from(value)),
            "--umbel" => options.umbel = PathBuf::from(value),
            "--option" => options.machine.push(value.clone()),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}
