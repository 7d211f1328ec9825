//! `umbel cpu`: virtual CPUs added to a running machine, removed from it, listed; and the machine's end of that.

use super::ps;
use super::registry::{self, Description, RegistryError};
use super::server::{Reply, Request};
use super::status::CpuState;
use crate::cli::{CpuAction, CpuChange};
use crate::control;
use crate::out;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::thread::sleep;
use std::time::{Duration, Instant};
use thiserror::Error;
use umbel_abi::linux::Errno;
use umbel_abi::machine::{Control, CpuRequest, Mailbox};

/// How long the guest kernel may take: what runs on a virtual CPU that goes must first leave the kernel.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks for its answer.
const LOOK: Duration = Duration::from_millis(1);

/// Why nothing was changed.
#[derive(Debug, Error)]
pub enum CpuError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("no machine of this user is named {0:?} (see umbel ps)")]
    NoMachine(String),
    #[error("machine {0} does not answer: it is stopped, or about to end")]
    Silent(String),
    #[error("all {0} virtual CPUs that this machine may have are online (umbel run --max-cpus sets how many)")]
    Full(usize),
    #[error("virtual CPU 0 is the last one, and the machine's devices need it: it cannot be removed")]
    Last,
    #[error("this machine may have {1} virtual CPUs: there can be no number {0}")]
    Impossible(u32, usize),
    #[error("virtual CPU {0} is {1} already")]
    Already(u32, &'static str),
    #[error("virtual CPU {0} cannot be the next one: {1} was never there")]
    Gap(u32, usize),
    #[error("{0}")]
    Refused(String),
}

impl CpuError {
    /// Whether the command line asked for what cannot be.
    pub fn is_usage(&self) -> bool {
        !matches!(self, CpuError::Registry(_) | CpuError::Silent(_) | CpuError::Refused(_))
    }
}

/// Does it.
pub fn obey(action: &CpuAction) -> Result<(), CpuError> {
    match action {
        CpuAction::List { machine } => list(&find(machine)?),
        CpuAction::Add(change) => set(change, true),
        CpuAction::Remove(change) => set(change, false),
    }
}

fn find(name: &str) -> Result<Description, CpuError> {
    let found =
        registry::machines()?.into_iter().find(|machine| machine.name == name || machine.pid.to_string() == name);
    found.ok_or_else(|| CpuError::NoMachine(name.into()))
}

fn ask(machine: &Description, request: &Request) -> Result<Reply, CpuError> {
    match registry::ask(machine, request) {
        Some(Reply::Refused(why)) => Err(CpuError::Refused(why)),
        Some(reply) => Ok(reply),
        None => Err(CpuError::Silent(machine.name.clone())),
    }
}

fn states(machine: &Description) -> Result<Vec<CpuState>, CpuError> {
    match ask(machine, &Request::Cpus)? {
        Reply::Cpus(states) => Ok(states),
        _ => Err(CpuError::Silent(machine.name.clone())),
    }
}

fn list(machine: &Description) -> Result<(), CpuError> {
    let mut lines = vec![["CPU", "STATE", "PARENT", "SLOTS", "CPU-TIME", "STOLEN"].map(String::from).to_vec()];
    for (cpu, state) in states(machine)?.iter().enumerate() {
        let word = match (state.parent, state.online) {
            (0, _) => "absent",
            (_, true) => "online",
            (_, false) => "offline",
        };
        lines.push(vec![
            cpu.to_string(),
            word.into(),
            if state.parent == 0 { "-".into() } else { state.parent.to_string() },
            state.slots.to_string(),
            ps::seconds(state.cpu_ns),
            ps::seconds(state.wait_ns),
        ]);
    }
    out::show(&ps::table(&lines));
    Ok(())
}

fn set(change: &CpuChange, online: bool) -> Result<(), CpuError> {
    let machine = find(&change.machine)?;
    let states = states(&machine)?;
    let cpu = if online { to_add(&states, change.cpu)? } else { to_remove(&states, change.cpu)? };
    ask(&machine, &Request::SetCpu { cpu, online })?;
    out::show(&format!("virtual CPU {cpu} is {}\n", word(online)));
    Ok(())
}

fn word(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

/// Which one comes.
fn to_add(states: &[CpuState], asked: Option<u32>) -> Result<u32, CpuError> {
    let lowest = states.iter().position(|state| !state.online).ok_or(CpuError::Full(states.len()));
    let Some(cpu) = asked else { return Ok(lowest? as u32) };
    let absent = states.iter().position(|state| state.parent == 0).unwrap_or(states.len());
    match states.get(cpu as usize) {
        None => Err(CpuError::Impossible(cpu, states.len())),
        Some(state) if state.online => Err(CpuError::Already(cpu, word(true))),
        Some(_) if cpu as usize > absent => Err(CpuError::Gap(cpu, absent)),
        Some(_) => Ok(cpu),
    }
}

/// Which one goes.
fn to_remove(states: &[CpuState], asked: Option<u32>) -> Result<u32, CpuError> {
    let highest = states.iter().rposition(|state| state.online).unwrap_or(0) as u32;
    let cpu = asked.unwrap_or(highest);
    match states.get(cpu as usize) {
        None => Err(CpuError::Impossible(cpu, states.len())),
        Some(_) if cpu == 0 => Err(CpuError::Last),
        Some(state) if !state.online => Err(CpuError::Already(cpu, word(false))),
        Some(_) => Ok(cpu),
    }
}

/// In the machine: has the guest kernel do it, and waits until it has.
pub fn change(control: &Control, cpu: u32, online: bool) -> Result<(), String> {
    let word = &control.cpu_request;
    if cpu >= control.boot.possible {
        return Err(format!("there can be no virtual CPU {cpu}"));
    }
    if CpuRequest(word.load(Acquire)).answer().is_some() {
        // To a request that nobody waited for any more.
        word.store(0, Release);
    }
    if word.compare_exchange(0, CpuRequest::new(cpu, online).0, AcqRel, Acquire).is_err() {
        return Err("the machine is still busy with an earlier request".into());
    }
    control::interrupt(control, 0, Mailbox::DEVICE);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(errno) = CpuRequest(word.load(Acquire)).answer() {
            word.store(0, Release);
            return verdict(cpu, errno);
        }
        if Instant::now() >= deadline {
            return Err(format!("virtual CPU {cpu} does not follow: what runs there does not leave the guest kernel"));
        }
        sleep(LOOK);
    }
}

/// The guest kernel's answer in words.
fn verdict(cpu: u32, errno: u32) -> Result<(), String> {
    let why = match Errno::from_raw(errno as i32) {
        _ if errno == 0 => return Ok(()),
        Errno::EBUSY => "it is needed",
        Errno::ENODEV => "there is none of that number",
        Errno::EOPNOTSUPP => "in virtual time they are fixed",
        Errno::ENOMEM => "the guest kernel has no memory for it",
        Errno::EAGAIN => "the host has no room for its processes",
        _ => "the guest kernel refuses",
    };
    Err(format!("cannot change virtual CPU {cpu}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(text: &str) -> Vec<CpuState> {
        let state = |c| CpuState { online: c == '1', parent: i32::from(c != '-'), ..CpuState::default() };
        text.chars().map(state).collect()
    }

    #[test]
    fn the_lowest_that_is_not_online_comes() {
        assert_eq!(to_add(&machine("101-"), None).ok(), Some(1));
        assert_eq!(to_add(&machine("11--"), None).ok(), Some(2));
        assert_eq!(to_add(&machine("1-"), Some(1)).ok(), Some(1));
        for (cpus, asked) in [("11", None), ("11", Some(1)), ("1--", Some(2)), ("1-", Some(2))] {
            assert!(to_add(&machine(cpus), asked).is_err_and(|error| error.is_usage()), "{cpus} {asked:?}");
        }
    }

    #[test]
    fn the_highest_that_is_online_goes_but_never_the_first() {
        assert_eq!(to_remove(&machine("1110-"), None).ok(), Some(2));
        assert_eq!(to_remove(&machine("111"), Some(1)).ok(), Some(1));
        for (cpus, asked) in [("1", None), ("11", Some(0)), ("10", Some(1)), ("11", Some(2))] {
            assert!(to_remove(&machine(cpus), asked).is_err_and(|error| error.is_usage()), "{cpus} {asked:?}");
        }
    }
}
