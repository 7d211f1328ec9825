//! The command line: options, their checks, one line for what is wrong.

use crate::out;
use clap::builder::{OsStringValueParser, PathBufValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Exit status for wrong arguments.
pub const STATUS_USAGE: u8 = 2;

const MIB: u64 = 1 << 20;
/// Least memory of a machine, bytes.
const MEM_MIN: u64 = 32 * MIB;
/// Most memory of a machine, bytes.
const MEM_MAX: u64 = 1 << 40;

/// Virtual machines that are sets of ordinary Linux processes.
#[derive(Parser, Debug)]
#[command(name = "umbel", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What umbel is asked to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start a machine, run a command in it, stop it
    ///
    /// The exit status is the command's; 128+n if signal n killed it; 127 if there is no such command, 126 if it cannot be
    /// executed; 2 for wrong arguments; 125 if the machine cannot be set up; 70 if the guest kernel panicked.
    Run(RunOptions),
    /// Tell what this host offers, what is missing and what to do about it
    Check,
    /// Run a command on growing numbers of virtual CPUs and tell how it scales
    ///
    /// The command should do the same work whatever nproc(1) says. Each run is a machine of its own; its standard output
    /// is thrown away. The time is the guest's, from the command's start to its end; of several runs the median counts.
    Scale(ScaleOptions),
    /// List the running machines of this user: processor time, average number of CPUs used, memory, state
    Ps,
    /// Show what the running machines of this user use, again and again
    ///
    /// CPU and STOLEN (waiting for a host CPU) are per cent of one CPU; SHARE is the machine's part of what all machines
    /// used, BY-CPUS the part it would have by its number of virtual CPUs. DEVICES is the machine's own threads.
    Top(TopOptions),
    /// Add virtual CPUs to a running machine, remove them, list them
    #[command(subcommand)]
    Cpu(CpuAction),
}

/// What `umbel cpu` is asked to do.
#[derive(Subcommand, Debug)]
pub enum CpuAction {
    /// Bring one more virtual CPU up: the lowest number that is offline, or one that never was there, up to --max-cpus
    Add(CpuChange),
    /// Take a virtual CPU down: its threads go on elsewhere. It may be added again. CPU 0 cannot be removed
    Remove(CpuChange),
    /// List the virtual CPUs of a machine: state, host process of their slots' parent, processor time
    List {
        /// Name or process id as in umbel ps
        #[arg(value_name = "MACHINE", value_parser = text(machine))]
        machine: String,
    },
}

/// Arguments of `umbel cpu add` and `remove`.
#[derive(Args, Debug)]
pub struct CpuChange {
    /// Name or process id as in umbel ps
    #[arg(value_name = "MACHINE", value_parser = text(machine))]
    pub machine: String,
    /// Number of the virtual CPU [default: the lowest that is offline; to remove, the highest that is online]
    #[arg(value_name = "CPU", value_parser = text(cpu_number))]
    pub cpu: Option<u32>,
}

/// Options of `umbel top`.
#[derive(Args, Debug)]
pub struct TopOptions {
    /// Seconds between two looks, 0.1 to 3600
    #[arg(long, short, value_name = "SECONDS", value_parser = text(interval), default_value = "2")]
    pub delay: Duration,
    /// Look this many times, then end [default: until interrupted]
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = text(looks))]
    pub count: Option<u32>,
}

/// Options of `umbel scale`.
#[derive(Args, Debug)]
pub struct ScaleOptions {
    /// Numbers of virtual CPUs, 1 to 256 each
    #[arg(long, value_name = "N,…", value_parser = text(cpus), value_delimiter = ',', default_value = "1,2,4,8")]
    pub cpus: Vec<u32>,
    /// In virtual time: predict what it takes on as many processors, cache effects aside, however few the host has.
    ///
    /// MODE is words with commas between: handover=NS adds a cost to each lock that another virtual CPU held last; quantum=US
    /// is how far virtual CPUs may drift apart [default: 1000]; model lets time pass by fixed costs of system calls, page
    /// faults, switches and locks only, and with the same seed=N the same schedule comes out; look=US is how often the host
    /// interrupts a model to find code that computes without any of these [default: 10000]
    #[arg(long = "virtual", value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "",
        value_parser = text(virtual_time))]
    pub virtual_time: Option<VirtualTime>,
    /// Runs at each number
    #[arg(long, value_name = "R", value_parser = text(runs), default_value = "3", allow_negative_numbers = true)]
    pub repeat: u32,
    /// Memory of each machine, as for run
    #[arg(long, value_name = "SIZE", value_parser = text(size), default_value = "1G", allow_hyphen_values = true)]
    pub mem: u64,
    /// Root directory of each machine, as for run
    #[arg(long, value_name = "DIR", value_parser = PathBufValueParser::new().try_map(directory), default_value = "/")]
    pub root: PathBuf,
    /// Write all measurements and the fitted law into this file
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(output))]
    pub json: Option<PathBuf>,
    /// Draw speed-up and law into this file
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(output))]
    pub svg: Option<PathBuf>,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// Options of `umbel run`.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// Number of virtual CPUs, 1 to 256 [default: the host's number]
    #[arg(long, value_name = "N", value_parser = text(cpus), allow_negative_numbers = true)]
    pub cpus: Option<u32>,
    /// Most virtual CPUs that `umbel cpu add` may give it, 1 to 256 [default: twice --cpus, at least 8]
    #[arg(long, value_name = "N", value_parser = text(cpus), allow_negative_numbers = true)]
    pub max_cpus: Option<u32>,
    /// Memory of the machine: bytes, or with suffix K, M, G; at least 32M
    #[arg(long, value_name = "SIZE", value_parser = text(size), default_value = "1G", allow_hyphen_values = true)]
    pub mem: u64,
    /// Directory that is the guest's root, read-only under a layer in the guest's memory
    #[arg(long, value_name = "DIR", value_parser = PathBufValueParser::new().try_map(directory), default_value = "/")]
    pub root: PathBuf,
    /// User and group of the command; GID is UID if left out
    #[arg(long, value_name = "UID[:GID]", value_parser = text(user), default_value = "0:0", allow_hyphen_values = true)]
    pub user: (u32, u32),
    /// Set an environment variable; without =V pass the host's value. TERM, LANG, LC_*, TZ, PATH, HOME, USER, LOGNAME and
    /// SHELL are passed anyway
    #[arg(long, value_name = "K=V", value_parser = OsStringValueParser::new().try_map(variable))]
    pub env: Vec<OsString>,
    /// Directory of the guest in which the command starts
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub workdir: PathBuf,
    /// Name of the machine in `umbel ps` [default: its process id]
    #[arg(long, value_name = "NAME", value_parser = text(name))]
    pub name: Option<String>,
    /// Keep each virtual CPU on one host CPU
    #[arg(long)]
    pub pin: bool,
    /// Print each system call on standard error
    #[arg(long)]
    pub strace: bool,
    /// Print counters on standard error at the end
    #[arg(long)]
    pub stats: bool,
    /// Count what the kernel's locks cost (also in /proc/lock_stat) and print it on standard error at the end
    #[arg(long)]
    pub lockstat: bool,
    /// Write what --stats and --lockstat print into this file instead
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(output))]
    pub report: Option<PathBuf>,
    /// Print the guest kernel's log on standard error, down to this level
    #[arg(long, value_name = "LEVEL", default_value = "off", allow_negative_numbers = true)]
    pub log: LogLevel,
    /// Let virtual time pass: what `umbel scale --virtual` runs
    #[arg(long = "virtual", hide = true, value_name = "MODE", num_args = 0..=1, require_equals = true,
        default_missing_value = "", value_parser = text(virtual_time))]
    pub virtual_time: Option<VirtualTime>,
    /// Let the guest's root harm the kernel through /proc/sysrq-trigger, to test what is said of that: z makes a virtual CPU hang for
    /// three times /proc/sys/kernel/watchdog_thresh, c is a panic, y writes to memory that nobody may write to, w leaves out what
    /// makes other virtual CPUs forget old mappings
    #[arg(long)]
    pub debug_stall: bool,
    /// Leave slots open to debuggers of the host: gives up a protection
    #[arg(long)]
    pub debug_host: bool,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// How virtual time passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualTime {
    /// The words on the command line.
    pub words: String,
    /// By fixed costs of events instead of the processor time that is used.
    pub model: bool,
    /// How far the clocks of virtual CPUs that run may drift apart, us.
    pub quantum_us: u32,
    /// What taking a lock costs that another virtual CPU held last, ns.
    pub hand_over_ns: u32,
    /// How often a model is interrupted to look for code that computes without end, us.
    pub look_us: u32,
    /// What is arbitrary in a model is drawn from it.
    pub seed: u64,
}

/// How much of the kernel's log is shown.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Off = 0,
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
    Trace = 5,
}

/// Reads the command line. `Err` is the exit status: help and version are printed, a mistake is named in one line.
pub fn parse() -> Result<Command, ExitCode> {
    Cli::try_parse().map(|cli| cli.command).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            out::show(&error.to_string());
            ExitCode::SUCCESS
        }
        _ => {
            out::say(&format!("umbel: {}\n", first_line(&error)));
            ExitCode::from(STATUS_USAGE)
        }
    })
}

/// Clap's first line without its prefix; its usage text goes beyond one line.
fn first_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing: umbel run CMD, scale CMD, check, ps, top or cpu (see umbel --help)".into();
    }
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    // "the following required arguments were not provided:" is followed by their names.
    match lines.next() {
        Some(second) if first.ends_with(':') => format!("{first} {second} (see umbel run --help)"),
        Some(second) if second.starts_with("[possible values") => format!("{first} {second}"),
        _ => first,
    }
}

/// A parser of values that are text, so that one that is not is named with its option.
fn text<T: Clone + Send + Sync + 'static>(parse: fn(&str) -> Result<T, String>) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(move |value| match value.to_str() {
        Some(value) => parse(value),
        None => Err("not UTF-8".into()),
    })
}

fn machine(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn looks(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "give a number from 1 on".into())
}

fn runs(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|count| (1..=1000).contains(count)).ok_or_else(|| "give a number from 1 to 1000".into())
}

fn cpus(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count @ 1..=256) => Ok(count),
        _ => Err("give a number from 1 to 256".into()),
    }
}

fn cpu_number(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|cpu| *cpu < 256).ok_or_else(|| "give a number from 0 to 255".into())
}

/// A word for lists and paths: letters, digits and `._-`, not a number (that is a process id).
fn name(text: &str) -> Result<String, String> {
    let letters = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = (1..=64).contains(&text.len()) && text.chars().all(letters) && text.parse::<u64>().is_err();
    good.then(|| text.to_owned()).ok_or_else(|| "give at most 64 letters, digits and . _ -, not only digits".into())
}

/// Seconds with decimals.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give seconds from 0.1 to 3600".into())
}

/// Bytes with an optional suffix.
fn size(text: &str) -> Result<u64, String> {
    let usage = || "give bytes or a number with K, M or G, at least 32M".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => MIB,
        "G" | "GB" | "GIB" => 1 << 30,
        _ => return Err(usage()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(usage)?;
    match bytes {
        MEM_MIN..=MEM_MAX => Ok(bytes),
        _ => Err(usage()),
    }
}

fn virtual_time(text: &str) -> Result<VirtualTime, String> {
    let usage = || {
        "give model, seed=N (not 0), quantum=MICROSECONDS, handover=NANOSECONDS, look=MICROSECONDS with commas between"
            .to_owned()
    };
    let number = |value: &str, most: u32| value.parse::<u32>().ok().filter(|n| *n <= most).ok_or_else(usage);
    let mut time =
        VirtualTime { words: text.into(), model: false, quantum_us: 1000, hand_over_ns: 0, look_us: 10_000, seed: 1 };
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            None if word == "model" => time.model = true,
            Some(("seed", value)) => time.seed = value.parse().ok().filter(|seed| *seed != 0).ok_or_else(usage)?,
            Some(("quantum", value)) => time.quantum_us = number(value, 100_000)?.max(1),
            Some(("look", value)) => time.look_us = number(value, 1_000_000)?.max(10),
            Some(("handover", value)) => time.hand_over_ns = number(value, 1_000_000)?,
            _ => return Err(usage()),
        }
    }
    Ok(time)
}

fn directory(path: PathBuf) -> Result<PathBuf, String> {
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(path),
        Ok(_) => Err("not a directory: give the directory that is to be the guest's root".into()),
        Err(error) => Err(format!("{error}: give a directory that exists")),
    }
}

/// A file that is written in the end: what cannot be is better known before the work.
fn output(path: PathBuf) -> Result<PathBuf, String> {
    let place = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => return Err("a directory: give a file".into()),
        Ok(_) => path.clone(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
        }
        Err(error) => return Err(error.to_string()),
    };
    let allowed = nix::unistd::access(&place, nix::unistd::AccessFlags::W_OK);
    allowed.map_err(|error| format!("{}: give a file that can be written", error.desc()))?;
    Ok(path)
}

fn user(text: &str) -> Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    // -1 means "unchanged" in the calls that set them.
    let number = |t: &str| t.parse::<u32>().ok().filter(|n| *n != u32::MAX);
    number(uid).zip(number(gid)).ok_or_else(|| "give numbers: UID or UID:GID".into())
}

fn variable(setting: OsString) -> Result<OsString, String> {
    match setting.as_bytes().first() {
        None => Err("give NAME=VALUE".into()),
        Some(b'=') => Err("the name is missing: give NAME=VALUE".into()),
        Some(_) => Ok(setting),
    }
}

/// The environment of the command: what is passed anyway, then `--env` in order.
pub fn guest_environment(settings: &[OsString]) -> Vec<OsString> {
    const PASSED: [&str; 8] = ["TERM", "LANG", "TZ", "PATH", "HOME", "USER", "LOGNAME", "SHELL"];
    let mut variables: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(|n| PASSED.contains(&n) || n.starts_with("LC_")))
        .collect();
    if !variables.iter().any(|(name, _)| name == "PATH") {
        variables.push(("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()));
    }
    for setting in settings {
        let bytes = setting.as_bytes();
        let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (OsStr::from_bytes(&bytes[..at]), Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
            None => (setting.as_os_str(), std::env::var_os(setting)),
        };
        variables.retain(|(known, _)| known != name);
        variables.extend(value.map(|value| (name.to_owned(), value)));
    }
    variables
        .into_iter()
        .map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            variable
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_virtual_time_are_words() {
        let time = virtual_time("model,seed=7,quantum=50,handover=90,look=30").expect("a mode");
        assert_eq!((time.model, time.seed, time.quantum_us, time.hand_over_ns, time.look_us), (true, 7, 50, 90, 30));
        assert!(virtual_time("").is_ok_and(|time| !time.model));
        for wrong in ["modal", "seed=0", "seed=x", "quantum=100001", "model=1", "handover=-1", "look="] {
            assert!(virtual_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_take_suffixes_and_bounds() {
        assert_eq!(size("32M"), Ok(32 * MIB));
        assert_eq!(size("2g"), Ok(2 << 30));
        assert_eq!(size("33554432"), Ok(32 * MIB));
        for wrong in ["1", "31M", "M", "", "-5M", "12Q", "99999999999G", "1.5G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!(user("7"), Ok((7, 7)));
        assert_eq!(user("7:8"), Ok((7, 8)));
        for wrong in ["", "root", "7:", ":7", "-1", "4294967295"] {
            assert!(user(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn later_settings_win() {
        let environment = guest_environment(&["A=1".into(), "B=2".into(), "A=3=4".into(), "NO_SUCH_VARIABLE".into()]);
        assert!(environment.contains(&"A=3=4".into()) && environment.contains(&"B=2".into()));
        assert!(!environment.contains(&"A=1".into()));
    }
}
