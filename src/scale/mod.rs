//! `umbel scale`: one workload on growing numbers of virtual CPUs; speed-up, efficiency, the locks that cost most.
//!
//! * [`measure`] runs the machines. [`law`] fits the universal scalability law. [`plot`] draws both.
//!
//! The workload is a command that does the same amount of work whatever the number of virtual CPUs (it finds that by
//! nproc(1)). What is measured is the time from its start to its end, by the guest's clock; in virtual time that is what as many
//! processors would take.

mod law;
mod measure;
mod plot;

use crate::cli::ScaleOptions;
use crate::manage::ps;
use crate::out;
use law::Law;
use measure::Point;
use serde::Serialize;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why there is no result.
#[derive(Debug, Error)]
pub enum ScaleError {
    #[error("cannot {0}: {1}")]
    Host(&'static str, io::Error),
    #[error("with {cpus} virtual CPUs the command ended with status {status}: give one that succeeds")]
    Command { cpus: u32, status: i32 },
    #[error("the machine left no report")]
    Report,
    #[error("cannot write {0}: {1}")]
    Write(PathBuf, String),
}

/// All that is known in the end; what `--json` writes.
#[derive(Serialize)]
struct Outcome<'a> {
    command: Vec<String>,
    /// The mode of virtual time; `null` where time was the host's.
    #[serde(rename = "virtual")]
    virtual_time: Option<&'a str>,
    points: &'a [Point],
    law: &'a Option<Law>,
}

/// Measures, prints the table, writes the files that were asked for.
pub fn scale(options: &ScaleOptions) -> Result<(), ScaleError> {
    let points = measure::measure(options)?;
    let law = law::fit(&points.iter().map(|point| (f64::from(point.cpus), point.speed())).collect::<Vec<_>>());
    let mut text = table(&points);
    if let Some(law) = &law {
        text += &format!("{}\n", describe(law));
    }
    let model = options.virtual_time.as_ref().is_some_and(|time| time.model);
    if model && !points.iter().all(|point| point.reproducible) {
        text += "not reproducible: the command computes long without a system call\n";
    }
    if let Some(path) = &options.json {
        let command = options.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let virtual_time = options.virtual_time.as_ref().map(|time| time.words.as_str());
        let text = serde_json::to_string_pretty(&Outcome { command, virtual_time, points: &points, law: &law })
            .unwrap_or_default();
        std::fs::write(path, text + "\n").map_err(|error| ScaleError::Write(path.clone(), error.to_string()))?;
    }
    if let Some(path) = &options.svg {
        plot::draw(path, &points, law.as_ref()).map_err(|error| ScaleError::Write(path.clone(), error))?;
    }
    out::show(&text);
    Ok(())
}

/// One line a count. Speed-up is relative to the first count, efficiency that over the ratio of counts.
fn table(points: &[Point]) -> String {
    let header = ["CPUS", "TIME", "RUNS/S", "SPEED-UP", "EFFICIENCY", "LOCKS THAT COST MOST (WAITED)"];
    let mut lines = vec![header.map(String::from).to_vec()];
    let Some(first) = points.first() else { return String::new() };
    for point in points {
        let speed_up = point.speed() / first.speed();
        let efficiency = speed_up * f64::from(first.cpus) / f64::from(point.cpus);
        let locks: Vec<_> =
            point.locks.iter().map(|lock| format!("{} {}", lock.class, ps::seconds(lock.wait_ns))).collect();
        lines.push(vec![
            point.cpus.to_string(),
            ps::seconds(point.time_ns),
            format!("{:.3}", point.speed()),
            format!("{speed_up:.2}"),
            format!("{:.0}%", 100.0 * efficiency),
            locks.join(", "),
        ]);
    }
    ps::table(&lines)
}

fn describe(law: &Law) -> String {
    let peak = match law.peak() {
        Some(cpus) => format!("fastest at {cpus:.0} CPUs"),
        None => "no slowdown seen".into(),
    };
    format!("universal scalability law: contention {:.4}, coherency {:.6}; {peak}", law.contention, law.coherency)
}
