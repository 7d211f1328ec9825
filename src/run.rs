//! `umbel run`: builds a machine, starts it, waits for its end.

use crate::balance;
use crate::canary::Canary;
use crate::cli::{self, RunOptions};
use crate::console;
use crate::image::{Image, ImageError};
use crate::limits;
use crate::manage::registry::{self, Description, Entry, RegistryError};
use crate::manage::server;
use crate::memory::{Memory, MemoryError};
use crate::os::{cpu, streams, zygote};
use crate::out;
use crate::supervisor::{Supervisor, SupervisorError};
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use thiserror::Error;
use umbel_abi::machine::{BootInfo, MAX_CPUS, StdioKind, StdioStat, layout};

/// Descriptors that the machine and all slots share at most. Growing a shared table later costs milliseconds.
const DESCRIPTORS: u64 = 1 << 16;
/// Says how often the machine has started anew because its place was taken.
const RETRY_VARIABLE: &str = "UMBEL_ADDRESS_RETRY";
const RETRIES: u32 = 16;
/// Virtual CPUs that every machine may have unless it is told otherwise.
const MAX_CPUS_LEAST: u32 = 8;
/// Memory devices that the guest has, too: null, zero, full, random, urandom. `makedev(1, minor)` each.
const MEMORY_DEVICES: [u64; 5] = [0x103, 0x105, 0x107, 0x108, 0x109];

/// Why a machine cannot run.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("cannot open the root directory {0}: {1}")]
    Root(String, nix::Error),
    #[error("the command and its environment are {0} bytes, more than the {1} that a machine takes")]
    Strings(usize, usize),
    #[error("--max-cpus {0} is less than the {1} virtual CPUs that the machine starts with")]
    MaxCpus(u32, u32),
    #[error("{0} virtual CPUs need {1} processes and threads, and the host allows {2} more (ulimit -u, pids.max)")]
    Processes(u32, u64, u64),
    #[error("no place for the kernel in this process's address space")]
    NoPlace,
    #[error("cannot {0}: {1}")]
    Host(&'static str, io::Error),
    #[error("cannot write --report {0}: {1}")]
    Report(String, io::Error),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Runs a machine; returns its exit status.
pub fn run(options: &RunOptions) -> Result<u8, RunError> {
    ensure_place()?;
    let cpus = options.cpus.unwrap_or_else(host_cpus);
    let possible = possible(options, cpus)?;
    let slots = limits::slots(cpus);
    check_processes(cpus)?;
    let mut memory = Memory::new(options.mem, cpus)?;
    let image = Image::load(&mut memory)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(&options.root, flags, Mode::empty())
        .map_err(|error| RunError::Root(options.root.display().to_string(), error))?;
    let boot = describe(options, (cpus, possible, slots), &memory, &root)?;
    memory.shared.fill(boot);
    console::look_at_outputs(memory.shared.control());
    grow_descriptor_table().map_err(|error| RunError::Host("prepare the descriptor table", error))?;
    let host = |step| move |error| RunError::Host(step, error);
    let seed = cpu::seed().map_err(host("get random bytes"))?;
    let canary = Canary::plant(memory.shared.control(), &memory.kdata, &seed).map_err(host("map kernel memory"))?;
    let supervisor = Supervisor::prepare(memory.shared.control(), canary)?;
    let entry = register(options)?;
    let zygote = zygote::fork(&image, &memory.kdata, layout::hot_len(memory.ram_pages))
        .map_err(|error| RunError::Host("fork the zygote", error))?;
    let _listed = entry.map(|(entry, listener)| {
        server::start(listener, memory.shared.control(), memory.all_files());
        balance::start(memory.shared.control(), zygote);
        entry
    });
    let end = supervisor.run(zygote)?;
    report(options, &end.report)?;
    Ok(end.status)
}

/// Counters go where the user wants them.
fn report(options: &RunOptions, text: &str) -> Result<(), RunError> {
    match &options.report {
        Some(path) => std::fs::write(path, text).map_err(|error| RunError::Report(path.display().to_string(), error)),
        None => {
            out::say(text);
            Ok(())
        }
    }
}

/// Makes the machine known to `umbel ps`. A machine that nobody asked to be named runs without, too.
fn register(options: &RunOptions) -> Result<Option<(Entry, UnixListener)>, RegistryError> {
    let pid = std::process::id() as i32;
    let words: Vec<_> = options.command.iter().map(|word| word.to_string_lossy()).collect();
    let description = Description {
        pid,
        name: options.name.clone().unwrap_or_else(|| pid.to_string()),
        mem: options.mem,
        command: words.join(" "),
        started: registry::now(),
    };
    match Entry::make(&description) {
        Ok(made) => Ok(Some(made)),
        Err(error) if options.name.is_some() => Err(error),
        Err(error) => {
            out::say(&format!("umbel: this machine is not listed by umbel ps: {error}\n"));
            Ok(None)
        }
    }
}

/// Image and KDATA have fixed addresses. Where address-space randomisation put something of ours there (about one start in
/// fifty), a new start finds another layout.
fn ensure_place() -> Result<(), RunError> {
    if zygote::range_is_free() {
        return Ok(());
    }
    let tries = std::env::var(RETRY_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0_u32);
    if tries >= RETRIES {
        return Err(RunError::NoPlace);
    }
    for fd in (0..3).filter(|fd| streams::was_closed(*fd)) {
        // What the standard library put in its place.
        let _ = nix::unistd::close(fd);
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let error = std::process::Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .env(RETRY_VARIABLE, (tries + 1).to_string())
        .exec();
    Err(RunError::Host("start anew", error))
}

/// A machine that the host leaves no room for is not begun.
fn check_processes(cpus: u32) -> Result<(), RunError> {
    let needed = limits::needed(cpus);
    match limits::processes() {
        Some(most) if most < needed => Err(RunError::Processes(cpus, needed, most)),
        _ => Ok(()),
    }
}

/// How many virtual CPUs the machine may ever have.
fn possible(options: &RunOptions, cpus: u32) -> Result<u32, RunError> {
    let most = options.max_cpus.unwrap_or_else(|| (2 * cpus).max(MAX_CPUS_LEAST).min(MAX_CPUS as u32));
    if most < cpus { Err(RunError::MaxCpus(most, cpus)) } else { Ok(most) }
}

fn host_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(256) as u32)
}

/// Collects everything the kernel is told; the result fills the block in shared memory.
fn describe<'a>(
    options: &'a RunOptions,
    (cpus, possible, slots): (u32, u32, u32),
    memory: &Memory,
    root: &OwnedFd,
) -> Result<impl FnOnce(&mut BootInfo) + use<'a>, RunError> {
    let strings = strings(options);
    let environment = strings.environment;
    let limit = size_of::<BootInfo>() - std::mem::offset_of!(BootInfo, strings);
    if strings.bytes.len() > limit {
        return Err(RunError::Strings(strings.bytes.len(), limit));
    }
    let seed = cpu::seed().map_err(|error| RunError::Host("get random bytes", error))?;
    let stdio = [stdio(io::stdin().as_fd()), stdio(io::stdout().as_fd()), stdio(io::stderr().as_fd())];
    let pins = core_affinity::get_core_ids().unwrap_or_default();
    let (files, arena_count) = (memory.files(root), memory.arenas.len() as u32);
    let (ram_pages, arena_pages) = (memory.ram_pages, memory.arena_pages);
    Ok(move |info: &mut BootInfo| {
        info.cpus = cpus;
        info.possible = possible;
        info.slots = slots;
        info.slot_areas = limits::areas();
        info.ram_pages = ram_pages;
        info.arena_count = arena_count;
        info.arena_pages = arena_pages;
        info.files = files;
        info.stdio = stdio;
        info.options = option_bits(options);
        info.log_level = options.log as u32;
        (info.uid, info.gid) = options.user;
        (info.xsave_mask, info.xsave_len) = cpu::xsave();
        info.huge = umbel_abi::machine::layout::HUGE as u32;
        info.tsc_khz = cpu::tsc_khz();
        (info.hwcap, info.hwcap2) = cpu::hwcaps();
        info.seed = seed;
        info.host_cpus = if pins.is_empty() { [!0; 16] } else { [0; 16] };
        for core in &pins {
            if let Some(word) = info.host_cpus.get_mut(core.id / 64) {
                *word |= 1 << (core.id % 64);
            }
        }
        // In virtual time one virtual CPU runs at a time: all on the last host CPU, which interrupts least.
        let cores =
            if options.virtual_time.is_some() { pins.get(pins.len().saturating_sub(1)..) } else { pins.get(..) };
        for (pin, core) in info.pin.iter_mut().zip(cores.unwrap_or_default().iter().cycle()) {
            *pin = core.id as u16;
        }
        if let Some(time) = &options.virtual_time {
            (info.virtual_quantum_us, info.virtual_hand_over_ns) = (time.quantum_us, time.hand_over_ns);
            (info.virtual_look_us, info.virtual_seed) = (time.look_us, time.seed);
            if time.model {
                info.seed = std::array::from_fn(|i| time.seed.to_le_bytes()[i % 8]);
            }
        }
        info.argc = options.command.len() as u32;
        info.envc = environment;
        info.strings_len = strings.bytes.len() as u32;
        info.strings[..strings.bytes.len()].copy_from_slice(&strings.bytes);
    })
}

/// Arguments, environment, working directory, host name: each ends with a zero byte.
struct Strings {
    bytes: Vec<u8>,
    environment: u32,
}

fn strings(options: &RunOptions) -> Strings {
    let environment = cli::guest_environment(&options.env);
    let mut bytes = Vec::new();
    let mut push = |text: &OsStr| {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    };
    options.command.iter().for_each(|argument| push(argument));
    environment.iter().for_each(|variable| push(variable));
    push(options.workdir.as_os_str());
    push(OsStr::new("umbel"));
    Strings { bytes, environment: environment.len() as u32 }
}

fn option_bits(options: &RunOptions) -> u32 {
    [
        (options.strace, BootInfo::STRACE),
        (options.stats, BootInfo::STATS),
        (options.debug_host, BootInfo::DEBUG_HOST),
        (options.pin, BootInfo::PIN),
        (options.lockstat, BootInfo::LOCKSTAT),
        (options.debug_stall, BootInfo::DEBUG_STALL),
        (options.virtual_time.is_some(), BootInfo::VIRTUAL | BootInfo::PIN),
        (options.virtual_time.as_ref().is_some_and(|time| time.model), BootInfo::VIRTUAL_MODEL),
    ]
    .iter()
    .filter(|(set, _)| *set)
    .fold(0, |bits, (_, bit)| bits | bit)
}

/// What one of our standard streams is.
fn stdio(fd: BorrowedFd<'_>) -> StdioStat {
    let closed = StdioStat { kind: StdioKind::Closed as u32, fd: -1, mode: 0, flags: 0 };
    if streams::was_closed(fd.as_raw_fd()) {
        return closed;
    }
    let Ok(stat) = fstat(fd) else { return closed };
    let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => StdioKind::File,
        SFlag::S_IFCHR if MEMORY_DEVICES.contains(&stat.st_rdev) => StdioKind::Memory,
        SFlag::S_IFCHR if fd.is_terminal() => StdioKind::Tty,
        _ => StdioKind::Stream,
    };
    let flags = fcntl(fd, FcntlArg::F_GETFL).unwrap_or(0) as u32;
    StdioStat { kind: kind as u32, fd: fd.as_raw_fd(), mode: stat.st_mode, flags }
}

/// Raises the limit and makes the table its final size now.
fn grow_descriptor_table() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = hard.min(DESCRIPTORS);
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
    // The highest number that is free: the table grows to hold it, and stays that large.
    let top = fcntl(io::stderr().as_fd(), FcntlArg::F_DUPFD_CLOEXEC((limit - 1) as i32));
    match top {
        Ok(fd) => Ok(nix::unistd::close(fd)?),
        // Standard error is closed: nothing to copy, the table grows later.
        Err(nix::Error::EBADF) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
