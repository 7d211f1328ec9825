//! Do the threads of one process run at the same time on several virtual CPUs? Goal: two threads, 1.8 times one.

mod common;

use std::process::Command;

fn main() {
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
