//! What a machine uses: processor time of its virtual CPUs and of its devices, memory of the host.
//!
//! The time of a virtual CPU is that of its slots, the living ones to the nanosecond (`/proc/PID/schedstat`, sched-stats of
//! the host's documentation), those that ended to the clock tick (`cutime` of their parent, proc_pid_stat(5)).

use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Acquire;
use umbel_abi::machine::{Control, VcpuShared, VcpuState};

/// Nanoseconds of a clock tick: USER_HZ is 100 on this architecture.
const TICK_NS: u64 = 10_000_000;

/// A machine at an instant.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Status {
    /// Virtual CPUs that are online.
    pub cpus: u32,
    /// Processor time of all virtual CPUs since the start, ns.
    pub cpu_ns: u64,
    /// Time in which they were runnable and waited for a host CPU, ns (of living slots).
    pub wait_ns: u64,
    /// Processor time of the machine's own threads (devices), ns.
    pub device_ns: u64,
    /// Host memory behind guest RAM and kernel memory, bytes.
    pub memory: u64,
    /// Slots that are there.
    pub slots: u32,
    /// What it does: running, ending, stopped.
    pub state: String,
}

/// A virtual CPU at an instant.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct CpuState {
    pub online: bool,
    /// Host process id of its slots' parent, 0 if it was never there.
    pub parent: i32,
    /// Processor time since the machine's start, ns.
    pub cpu_ns: u64,
    /// Time in which it was runnable and waited for a host CPU, ns (of living slots).
    pub wait_ns: u64,
    /// Slots that are there.
    pub slots: u32,
}

/// Measures all virtual CPUs that this machine may have.
pub fn cpus(control: &Control) -> Vec<CpuState> {
    let children = children();
    let measure = |vcpu: &VcpuShared| {
        let parent = vcpu.parent_pid.load(Acquire) as i32;
        if parent <= 1 {
            return CpuState::default();
        }
        let online = vcpu.state.load(Acquire) != VcpuState::Offline as u32;
        let mut state = CpuState { online, parent, cpu_ns: ended_ns(parent), ..CpuState::default() };
        for slot in children.get(&parent).into_iter().flatten() {
            let (ran, waited) = schedstat(&slot.to_string());
            state.cpu_ns += ran;
            state.wait_ns += waited;
            state.slots += 1;
        }
        state
    };
    control.vcpus[..control.boot.possible as usize].iter().map(measure).collect()
}

/// Measures this machine; `memory_files` are KDATA and RAM.
pub fn measure(control: &Control, memory_files: &[OwnedFd]) -> Status {
    let mut status = Status::default();
    for cpu in cpus(control) {
        status.cpus += u32::from(cpu.online);
        status.cpu_ns += cpu.cpu_ns;
        status.wait_ns += cpu.wait_ns;
        status.slots += cpu.slots;
    }
    status.device_ns = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
    status.memory =
        memory_files.iter().filter_map(|file| fstat(file).ok()).map(|stat| stat.st_blocks as u64 * 512).sum();
    status.state = if control.shutdown.load(Acquire) == 0 { "running" } else { "ending" }.into();
    status
}

/// Process ids by parent, of all processes of the host.
fn children() -> HashMap<i32, Vec<i32>> {
    let mut found: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = stat_fields(pid).and_then(|fields| fields.get(1).copied()) {
            found.entry(parent as i32).or_default().push(pid);
        }
    }
    found
}

/// Processor time of the children of `parent` that it has waited for, and its own, ns.
fn ended_ns(parent: i32) -> u64 {
    // utime, stime, cutime, cstime: fields 14 to 17, the state being 3.
    stat_fields(parent).and_then(|fields| Some(fields.get(11..15)?.iter().sum::<u64>() * TICK_NS)).unwrap_or(0)
}

/// The fields of `/proc/PID/stat` from the third on; what is not a number, as the state, is 0.
fn stat_fields(pid: i32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = text.rsplit(')').next()?;
    Some(fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

/// The host CPU on which a process ran last.
pub fn last_host_cpu(pid: i32) -> Option<u32> {
    // Field 39, the state being 3.
    stat_fields(pid)?.get(36).map(|cpu| *cpu as u32)
}

/// Time on a processor and time waiting for one, ns.
pub fn schedstat(pid: &str) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_a_child_of_its_parent_and_has_run() {
        let parent = nix::unistd::getppid().as_raw();
        let own = std::process::id() as i32;
        assert!(children().get(&parent).is_some_and(|pids| pids.contains(&own)));
        assert!(schedstat("self").0 > 0);
    }
}
