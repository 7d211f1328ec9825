//! One run of a suite: every test natively, those that pass also in a machine, several at a time.

use crate::cases::{Case, Suite, Verdict};
use crate::report::{self, Known, Row, Sums};
use crate::run::{self, Ending, Place};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// What to run and how.
#[derive(Clone, Debug)]
pub struct Options {
    pub suite: Suite,
    pub dir: PathBuf,
    /// LTP's scenario file.
    pub scenario: String,
    /// Only tests whose names contain this.
    pub only: Option<String>,
    /// Tests at a time.
    pub jobs: usize,
    /// Deadline of a test on the host.
    pub limit: Duration,
    /// Deadline in a machine, to which five times the time on the host is added.
    pub inside_limit: Duration,
    /// Where logs and results go.
    pub out: PathBuf,
    /// Native results of an earlier run.
    pub native: Option<PathBuf>,
    /// Further options of `umbel run`.
    pub machine: Vec<String>,
    /// The `umbel` binary.
    pub umbel: PathBuf,
}

impl Options {
    pub fn new(suite: Suite, dir: PathBuf) -> Options {
        Options {
            suite,
            dir,
            scenario: "syscalls".into(),
            only: None,
            jobs: 1,
            limit: Duration::from_secs(120),
            inside_limit: Duration::from_secs(30),
            out: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../suites"),
            native: None,
            machine: Vec::new(),
            umbel: PathBuf::from(env!("CARGO_BIN_EXE_umbel")),
        }
    }
}

/// Runs it, prints the table, writes the results.
pub fn run(options: &Options) -> Result<Sums, String> {
    let known = Known::parse(options.suite.known());
    let mut cases = options.suite.cases(&options.dir, &options.scenario)?;
    cases.retain(|case| options.only.as_ref().is_none_or(|text| case.name.contains(text)));
    for place in ["native", "inside"] {
        fs::create_dir_all(options.out.join(place)).map_err(|e| format!("{}: {e}", options.out.display()))?;
    }
    let earlier = match &options.native {
        Some(file) => report::parse_native(&fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?),
        None => BTreeMap::new(),
    };
    let rows = run_all(options, &cases, &earlier)?;
    let table = report::table(&rows, &known);
    print!("{table}");
    let write = |name: &str, text: &str| {
        let file = options.out.join(name);
        fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))
    };
    write("results.json", &report::json(options.suite.name(), &rows, &known))?;
    write("table.txt", &table)?;
    if options.native.is_none() {
        write("native.txt", &report::native_lines(&rows))?;
    }
    Ok(report::sums(&rows, &known))
}

fn run_all(options: &Options, cases: &[Case], earlier: &BTreeMap<String, Ending>) -> Result<Vec<Row>, String> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while let Some((index, case)) = Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, cases.get(i)?)))
                {
                    let row = run_one(options, case, earlier.get(&case.name).copied());
                    done.lock().expect("no panic under it").push((index, row));
                }
            });
        }
    });
    let mut rows = done.into_inner().expect("no panic under it");
    rows.sort_by_key(|&(index, _)| index);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn run_one(options: &Options, case: &Case, earlier: Option<Ending>) -> Result<Row, String> {
    let log = |place: &str| options.out.join(place).join(format!("{}.log", case.name.replace('/', ".")));
    let native = match earlier {
        Some(ending) => ending,
        None => {
            let isolated = nix::unistd::geteuid().is_root();
            run::run(options.suite, case, &Place::Host { isolated }, options.limit, &log("native"))?
        }
    };
    let mut row = Row { name: case.name.clone(), native, inside: None };
    if native.verdict == Verdict::Pass {
        let place = Place::Machine { umbel: options.umbel.clone(), options: options.machine.clone() };
        let limit = options.inside_limit + native.took * 5;
        let inside = run::run(options.suite, case, &place, limit, &log("inside"))?;
        row.inside = Some(inside);
        if inside.verdict != Verdict::Pass {
            eprintln!("{:6} {}", inside.verdict.word(), case.name);
        }
    }
    Ok(row)
}
