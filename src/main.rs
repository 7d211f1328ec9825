//! The machine: the process that the user starts, which plays the hardware for the guest kernel.

mod check;
mod cli;
mod console;
mod control;
mod image;
mod memory;
mod os;
mod report;
mod run;
mod supervisor;

use std::process::ExitCode;

/// Exit status when the machine could not be made.
const STATUS_MACHINE: u8 = 125;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(cli::Command::Check) => check::check(),
        Ok(cli::Command::Run(options)) => match run::run(&options) {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                eprintln!("umbel: {error}");
                ExitCode::from(STATUS_MACHINE)
            }
        },
        Err(status) => status,
    }
}
