//! The machine: the process that the user starts, which plays the hardware for the guest kernel.

mod balance;
mod canary;
mod check;
mod cli;
mod console;
mod control;
mod image;
mod limits;
mod manage;
mod memory;
mod os;
mod out;
mod report;
mod run;
mod scale;
mod stats;
mod supervisor;
mod watchdog;

use manage::registry::RegistryError;
use run::RunError;
use std::process::ExitCode;

/// Exit status when the machine could not be made or asked.
const STATUS_MACHINE: u8 = 125;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(command) => obey(command).unwrap_or_else(|(message, status)| {
            out::say(&format!("umbel: {message}\n"));
            ExitCode::from(status)
        }),
        Err(status) => status,
    }
}

/// Does it; an error is one line and the exit status.
fn obey(command: cli::Command) -> Result<ExitCode, (String, u8)> {
    let failed = |error: RegistryError| (error.to_string(), STATUS_MACHINE);
    match command {
        cli::Command::Check => Ok(check::check()),
        cli::Command::Run(options) => run::run(&options).map(ExitCode::from).map_err(|error| match error {
            RunError::Registry(RegistryError::NameTaken(_)) | RunError::MaxCpus(..) | RunError::Strings(..) => {
                (error.to_string(), cli::STATUS_USAGE)
            }
            _ => (error.to_string(), STATUS_MACHINE),
        }),
        cli::Command::Scale(options) => {
            scale::scale(&options).map(|()| ExitCode::SUCCESS).map_err(|error| (error.to_string(), STATUS_MACHINE))
        }
        cli::Command::Ps => manage::ps::ps().map(|()| ExitCode::SUCCESS).map_err(failed),
        cli::Command::Cpu(action) => manage::cpu::obey(&action).map(|()| ExitCode::SUCCESS).map_err(|error| {
            let status = if error.is_usage() { cli::STATUS_USAGE } else { STATUS_MACHINE };
            (error.to_string(), status)
        }),
        cli::Command::Top(options) => {
            manage::top::top(options.delay, options.count).map(|()| ExitCode::SUCCESS).map_err(failed)
        }
    }
}
