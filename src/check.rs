//! `umbel check`: what the host offers; for each thing that is missing, what it costs and the remedy.

use crate::limits;
use crate::manage::shares::{self, Trouble};
use crate::os::probe;
use crate::out;
use std::path::Path;
use std::process::ExitCode;

/// How serious a finding is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grade {
    /// As Umbel wants it.
    Good,
    /// Umbel runs, slower or with less.
    Weak,
    /// Umbel does not run.
    Missing,
}

/// One line of the report.
struct Finding {
    what: &'static str,
    grade: Grade,
    detail: String,
    /// Cost and remedy, where not good.
    remedy: &'static str,
}

/// Most the host's slots need: descriptors, processes.
const DESCRIPTORS: u64 = 4096;
const PROCESSES: u64 = 512;
const MAPS: u64 = 65_530;
/// Slots of a machine of two virtual CPUs that lacks none.
const SLOTS: u32 = 128;
/// A host call that costs more than this goes through a long filter, ns.
const CALL_NS: f64 = 350.0;

/// Prints the report. Fails if Umbel cannot run here.
pub fn check() -> ExitCode {
    let findings = findings();
    let mut text = String::new();
    for finding in &findings {
        let mark = match finding.grade {
            Grade::Good => "ok",
            Grade::Weak => "weak",
            Grade::Missing => "MISSING",
        };
        text += &format!("{:<8}{:<26}{}\n", mark, finding.what, finding.detail);
        if finding.grade != Grade::Good {
            text += &format!("{:<8}{:<26}-> {}\n", "", "", finding.remedy);
        }
    }
    let missing = findings.iter().any(|finding| finding.grade == Grade::Missing);
    let (last, status) = match missing {
        true => ("umbel cannot run on this host\n", ExitCode::FAILURE),
        false => ("umbel can run on this host\n", ExitCode::SUCCESS),
    };
    out::show(&(text + last));
    status
}

fn findings() -> Vec<Finding> {
    let mut all = Vec::from(features());
    all.extend(limits());
    all.extend(shares());
    all.push(overcommit());
    all
}

fn features() -> [Finding; 6] {
    let outcome = |result: std::io::Result<()>| result.err().map(|error| error.to_string());
    let required = |what, trouble: Option<String>, remedy| Finding {
        what,
        grade: if trouble.is_some() { Grade::Missing } else { Grade::Good },
        detail: trouble.unwrap_or_else(|| "available".into()),
        remedy,
    };
    let unless = |there: bool| (!there).then(|| "not available".to_owned());
    let collapse = outcome(probe::collapse());
    let cost = probe::call_cost_ns();
    [
        required(
            "user dispatch",
            outcome(probe::user_dispatch()),
            "Linux 5.11 or later with CONFIG_GENERIC_ENTRY; a container may forbid prctl",
        ),
        required(
            "seccomp filters",
            outcome(probe::seccomp_filter()),
            "a kernel with CONFIG_SECCOMP_FILTER; a container may forbid it",
        ),
        required(
            "FSGSBASE",
            unless(probe::fsgsbase()),
            "a processor and kernel with FSGSBASE (Linux 5.9, no nofsgsbase)",
        ),
        required("membarrier", unless(probe::membarrier()), "Linux 4.16 or later; a container may forbid membarrier"),
        Finding {
            what: "huge pages on demand",
            grade: if collapse.is_some() { Grade::Weak } else { Grade::Good },
            detail: collapse.unwrap_or_else(|| "available".into()),
            remedy: "each system call costs some microseconds more; Linux 6.1 or later with transparent huge pages has them",
        },
        Finding {
            what: "host call",
            grade: if cost > CALL_NS { Grade::Weak } else { Grade::Good },
            detail: format!("{cost:.0} ns"),
            remedy: "an outer seccomp filter or tracer makes every host call slow; run outside it",
        },
    ]
}

fn limits() -> Vec<Finding> {
    let rlimit = |what, resource, wanted: u64, remedy| {
        let (_, hard) = probe::limit(resource);
        enough(what, hard, wanted, remedy)
    };
    vec![
        rlimit(
            "open files",
            libc::RLIMIT_NOFILE,
            DESCRIPTORS,
            "few files of the host's directory can be open at once; raise ulimit -Hn",
        ),
        rlimit(
            "processes",
            libc::RLIMIT_NPROC,
            PROCESSES,
            "few slots: switching between many processes is slower; raise ulimit -u",
        ),
        rlimit(
            "pending signals",
            libc::RLIMIT_SIGPENDING,
            PROCESSES,
            "each slot needs one for its timer; raise ulimit -i",
        ),
        rlimit(
            "address space",
            libc::RLIMIT_AS,
            1 << 40,
            "kernel memory needs room for its addresses; ulimit -v unlimited",
        ),
        enough(
            "mappings",
            limits::number(Path::new("/proc/sys/vm/max_map_count")),
            MAPS,
            "guests with many mappings lose cached ones; sysctl vm.max_map_count",
        ),
        enough("pids.max", group("pids.max"), PROCESSES, "few slots; raise the pids limit of this cgroup or container"),
        enough(
            "memory.max",
            group("memory.max"),
            256 << 20,
            "--mem must stay below it; raise the memory limit of this cgroup",
        ),
        slots(),
    ]
}

/// What the limits come to.
fn slots() -> Finding {
    let slots = limits::slots(1);
    let grade = match slots {
        _ if limits::processes().is_some_and(|most| most < limits::needed(1)) => Grade::Missing,
        few if few < SLOTS => Grade::Weak,
        _ => Grade::Good,
    };
    Finding {
        what: "slots",
        grade,
        detail: if slots == u32::MAX {
            "as many as wanted".into()
        } else {
            format!("{slots} in all machines together")
        },
        remedy: "processes beyond them share slots, which costs some 100 us a switch; raise the least of the limits above",
    }
}

fn enough(what: &'static str, value: Option<u64>, wanted: u64, remedy: &'static str) -> Finding {
    let grade = if value.is_none_or(|v| v >= wanted) { Grade::Good } else { Grade::Weak };
    Finding { what, grade, detail: value.map_or("unlimited".into(), |v| v.to_string()), remedy }
}

/// One line, or one for each reason why not.
fn shares() -> Vec<Finding> {
    let what = "shares by virtual CPUs";
    let troubles = shares::troubles();
    if troubles.is_empty() {
        return vec![Finding { what, grade: Grade::Good, detail: "proportional".into(), remedy: "" }];
    }
    let weak = |trouble: Trouble| Finding { what, grade: Grade::Weak, detail: trouble.why, remedy: trouble.remedy };
    troubles.into_iter().map(weak).collect()
}

fn overcommit() -> Finding {
    let overcommit = limits::number(Path::new("/proc/sys/vm/overcommit_memory")) != Some(2);
    Finding {
        what: "overcommit",
        grade: if overcommit { Grade::Good } else { Grade::Weak },
        detail: if overcommit { "allowed" } else { "strict" }.into(),
        remedy: "the machine's memory is charged when it starts; sysctl vm.overcommit_memory=0",
    }
}

/// The least limit of our control groups; `None` where there is none.
fn group(file: &str) -> Option<u64> {
    limits::groups(file).map(|(_, limit)| limit).min()
}
