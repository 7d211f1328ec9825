//! `umbel top`: the running machines of this user, measured again and again.

use super::ps::{self, Row};
use super::registry::RegistryError;
use super::shares;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Processor time of a machine at an earlier look.
struct Before {
    cpu_ns: u64,
    wait_ns: u64,
    device_ns: u64,
}

/// Prints the list `count` times (for ever if `None`), measured over `interval` each.
pub fn top(interval: Duration, count: Option<u32>) -> Result<(), RegistryError> {
    let mut before = HashMap::new();
    remember(&mut before, &ps::rows()?);
    let mut left = count;
    while left != Some(0) {
        let start = Instant::now();
        sleep(interval);
        let rows = ps::rows()?;
        let text = render(&rows, &before, start.elapsed());
        let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
        // Nobody reads any more: nothing to do.
        if write!(std::io::stdout(), "{clear}{text}").and_then(|()| std::io::stdout().flush()).is_err() {
            break;
        }
        before.clear();
        remember(&mut before, &rows);
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn remember(before: &mut HashMap<i32, Before>, rows: &[Row]) {
    for Row { machine, status } in rows {
        let seen = Before { cpu_ns: status.cpu_ns, wait_ns: status.wait_ns, device_ns: status.device_ns };
        before.insert(machine.pid, seen);
    }
}

/// One screen: machines, what they used in the interval, their part of what all used, and what proportion would give.
fn render(rows: &[Row], before: &HashMap<i32, Before>, interval: Duration) -> String {
    let since = |row: &Row| match before.get(&row.machine.pid) {
        Some(old) => (
            row.status.cpu_ns.saturating_sub(old.cpu_ns),
            row.status.wait_ns.saturating_sub(old.wait_ns),
            row.status.device_ns.saturating_sub(old.device_ns),
        ),
        None => (0, 0, 0),
    };
    let all_ns: u64 = rows.iter().map(|row| since(row).0).sum();
    let all_cpus: u32 = rows.iter().map(|row| row.status.cpus).sum();
    let percent = |part: f64, whole: f64| format!("{:.1}%", 100.0 * part / whole.max(f64::MIN_POSITIVE));
    let interval_ns = interval.as_nanos() as f64;
    let header =
        ["MACHINE", "CPUS", "CPU", "SHARE", "BY-CPUS", "STOLEN", "DEVICES", "MEMORY", "SLOTS", "STATE", "COMMAND"];
    let mut lines = vec![header.map(String::from).to_vec()];
    for row in rows {
        let (cpu_ns, wait_ns, device_ns) = since(row);
        lines.push(vec![
            row.machine.name.clone(),
            row.status.cpus.to_string(),
            percent(cpu_ns as f64, interval_ns),
            percent(cpu_ns as f64, all_ns as f64),
            percent(f64::from(row.status.cpus), f64::from(all_cpus)),
            percent(wait_ns as f64, interval_ns),
            percent(device_ns as f64, interval_ns),
            ps::bytes(row.status.memory),
            row.status.slots.to_string(),
            row.status.state.clone(),
            row.machine.command.clone(),
        ]);
    }
    let mut text = format!("{} machines, {all_cpus} virtual CPUs", rows.len());
    let troubles: Vec<String> = shares::troubles().into_iter().map(|trouble| trouble.why).collect();
    if !troubles.is_empty() {
        text += &format!("; shares are not proportional to virtual CPUs: {}", troubles.join("; "));
    }
    text + "\n" + &ps::table(&lines)
}
