//! `umbel ps`: the running machines of this user.

use super::registry::{self, Description, RegistryError};
use super::server::{Reply, Request};
use super::status::Status;
use crate::out;
use std::fs;

/// A machine with what it answered.
pub struct Row {
    pub machine: Description,
    /// Default values where it did not answer.
    pub status: Status,
}

/// Asks all machines of this user.
pub fn rows() -> Result<Vec<Row>, RegistryError> {
    let machines = registry::machines()?;
    Ok(machines
        .into_iter()
        .filter_map(|machine| {
            let unanswered = |state: &str| Status { state: state.into(), ..Status::default() };
            let status = match silent(machine.pid) {
                Some("stopped") => unanswered("stopped"),
                _ => match registry::ask(&machine, &Request::Status) {
                    Some(Reply::Status(status)) => status,
                    _ => unanswered(silent(machine.pid)?),
                },
            };
            Some(Row { machine, status })
        })
        .collect())
}

/// Why a machine does not answer, if it does not; `None` if it has ended and only its slots, which share its descriptors, are about to.
fn silent(pid: i32) -> Option<&'static str> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    match state {
        Some("T" | "t") => Some("stopped"),
        Some("Z" | "X") => None,
        _ => Some("silent"),
    }
}

/// Prints the list.
pub fn ps() -> Result<(), RegistryError> {
    let header =
        ["MACHINE", "PID", "CPUS", "CPU-TIME", "USED", "DEVICES", "MEMORY", "LIMIT", "STATE", "AGE", "COMMAND"];
    let mut lines = vec![header.map(String::from).to_vec()];
    for Row { machine, status } in rows()? {
        let used = status.cpu_ns as f64 / 1e9 / machine.age().max(1) as f64;
        lines.push(vec![
            machine.name.clone(),
            machine.pid.to_string(),
            status.cpus.to_string(),
            seconds(status.cpu_ns),
            format!("{used:.2}"),
            seconds(status.device_ns),
            bytes(status.memory),
            bytes(machine.mem),
            status.state,
            duration(machine.age()),
            machine.command,
        ]);
    }
    out::show(&table(&lines));
    Ok(())
}

/// Columns as wide as their widest cell; the last is not padded. Numbers are not told from words: all stand left.
pub fn table(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Seconds with two decimals.
pub fn seconds(ns: u64) -> String {
    format!("{:.2}s", ns as f64 / 1e9)
}

/// Bytes in the largest unit that leaves a number of at least 1.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["K", "M", "G", "T"];
    let mut value = count as f64 / 1024.0;
    for unit in UNITS {
        if value < 1024.0 || unit == "T" {
            return if value < 10.0 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") };
        }
        value /= 1024.0;
    }
    String::new()
}

/// Hours, minutes, seconds.
fn duration(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short() {
        assert_eq!(bytes(0), "0.0K");
        assert_eq!(bytes(1 << 30), "1.0G");
        assert_eq!(bytes(300 << 20), "300M");
        assert_eq!(seconds(1_230_000_000), "1.23s");
        assert_eq!(duration(3_725), "1:02:05");
    }

    #[test]
    fn columns_line_up() {
        let lines = [vec!["A".into(), "LONG".into()], vec!["xyz".into(), "b".into()]];
        assert_eq!(table(&lines), "A    LONG\nxyz  b\n");
    }
}
