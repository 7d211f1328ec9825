//! Do the threads of one process run at the same time on several virtual CPUs? Goal: two threads, 1.8 times one. And do
//! many virtual CPUs on few host CPUs get as much done as two? Goal: 0.8 times as much.
//!
//! `cargo bench --bench smp_scaling [-- PART]`, with PART *two* or *many*.

mod common;

use std::process::Command;

fn main() {
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if wanted("two") {
        two_beside_one();
    }
    if wanted("many") {
        many_beside_two();
    }
}

fn two_beside_one() {
    let program = common::compile("parallel");
    let host = common::figures(Command::new(&program).arg("2"));
    let guest = common::figures(common::machine().arg(&program).arg("2"));
    println!("smp_scaling: speed-up of two over one, 2 virtual CPUs");
    println!("{:<22}{:>12}{:>12}", "what", "host", "machine");
    let mut rows = Vec::new();
    for (name, value) in &guest {
        let native = host.get(name).copied().unwrap_or(0.0);
        println!("{name:<22}{native:>12.2}{value:>12.2}");
        rows.push(format!("  {{\"what\": \"{name}\", \"host\": {native:.2}, \"machine\": {value:.2}}}"));
    }
    common::write_json("smp_scaling", &rows);
}

/// Kinds of `storm` in which virtual CPUs get into each other's way.
const STORMS: [&str; 5] = ["lock", "switches", "futex", "faults", "opens"];
/// Processes (or pairs of them) of each, however many virtual CPUs there are.
const PROCESSES: &str = "64";
const SECONDS: &str = "3";
/// Times that all counts of virtual CPUs are measured by turns; the best of each counts.
const ROUNDS: usize = 2;

fn many_beside_two() {
    const COUNTS: [u32; 3] = [2, 64, 256];
    let storm = common::compile("storm");
    println!("smp_scaling: rounds per second with 2 virtual CPUs, and as a share of that with more; goal 0.8");
    println!("{:<10}{:>12}{:>12}{:>12}{:>12}", "storm", "host CPUs", "2", "64", "256");
    let mut rows = Vec::new();
    for cores in ["0", "0,1"] {
        for kind in STORMS {
            let mut best = [0.0_f64; COUNTS.len()];
            for _ in 0..ROUNDS {
                for (best, cpus) in best.iter_mut().zip(COUNTS) {
                    *best = best.max(rate(cores, cpus, &storm, kind));
                }
            }
            let [two, many, most] = best;
            println!("{kind:<10}{cores:>12}{two:>12.0}{:>12.2}{:>12.2}", many / two, most / two);
            rows.push(format!(
                "  {{\"storm\": \"{kind}\", \"host_cpus\": \"{cores}\", \"rate\": {two:.0}, \"share_64\": {:.3}, \"share_256\": {:.3}}}",
                many / two,
                most / two
            ));
        }
    }
    common::write_json("smp_scaling_many", &rows);
}

fn rate(cores: &str, cpus: u32, storm: &std::path::Path, kind: &str) -> f64 {
    let mut machine = Command::new("taskset");
    machine.args(["-c", cores, env!("CARGO_BIN_EXE_umbel"), "run", "--cpus", &cpus.to_string(), "--"]);
    let figures = common::figures(machine.arg(storm).args([kind, PROCESSES, SECONDS]));
    figures.get(kind).copied().unwrap_or(0.0)
}
