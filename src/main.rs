//! The machine: the process that the user starts, which plays the hardware for the guest kernel.

mod check;
mod cli;
#[allow(dead_code)] // until there is a machine to serve
mod console;
#[allow(dead_code)]
mod os;
#[allow(dead_code)]
mod report;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(cli::Command::Check) => check::check(),
        Ok(cli::Command::Run(_)) => ExitCode::FAILURE,
        Err(status) => status,
    }
}
