//! What the host's limits leave for slots: processes of the user and of the control groups, their memory, areas of an address
//! space. For `umbel run`, which sizes the pool of slots by it, and for `umbel check`. Sources: getrlimit(2), the kernel's
//! Documentation/admin-guide/cgroup-v2.rst and cgroup-v1.

use crate::os::probe;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Host memory that one slot costs at most while it is idle: page tables, stack, task.
const SLOT_BYTES: u64 = 100 << 10;
/// The share of a control group's memory that slots may take.
const MEMORY_SHARE: u64 = 8;
/// Host areas that a slot may hold, of 100 that the host allows.
const AREAS_PERCENT: u64 = 75;
/// A limit of processes from which on those that the user has already are not looked at: looking takes time.
const PLENTY: u64 = 4096;

/// Processes beside slots: the machine's threads, the zygote, and a parent for each virtual CPU.
fn beside_slots(cpus: u32) -> u64 {
    10 + u64::from(cpus)
}

/// Processes that a machine of `cpus` virtual CPUs must have.
pub fn needed(cpus: u32) -> u64 {
    beside_slots(cpus) + u64::from(cpus)
}

/// How many more processes the host allows now; `None` if nothing limits them.
pub fn processes() -> Option<u64> {
    let user = user_limit();
    let groups =
        groups("pids.max").map(|(path, most)| most.saturating_sub(number(&path.join("pids.current")).unwrap_or(0)));
    user.into_iter().chain(groups).min()
}

/// Slots that a machine of `cpus` virtual CPUs may have: half of what the host allows, for others shall find room, too. At
/// most `u32::MAX`.
pub fn slots(cpus: u32) -> u32 {
    let processes = processes().map(|most| most.saturating_sub(beside_slots(cpus)) / 2);
    let memory = groups("memory.max").map(|(_, most)| most / MEMORY_SHARE / SLOT_BYTES);
    let least = processes.into_iter().chain(memory).min();
    least.map_or(u32::MAX, |slots| slots.min(u32::MAX.into()) as u32)
}

/// Host areas that a slot may hold.
pub fn areas() -> u32 {
    let most = number(Path::new("/proc/sys/vm/max_map_count")).unwrap_or(65_530);
    (most.saturating_mul(AREAS_PERCENT) / 100).min(u32::MAX.into()) as u32
}

/// `RLIMIT_NPROC` less what the user has; `None` for those whom it does not bind.
fn user_limit() -> Option<u64> {
    /// `CAP_SYS_ADMIN` or `CAP_SYS_RESOURCE`.
    const EXEMPT: u64 = 1 << 21 | 1 << 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let effective = field("CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
    let uid = field("Uid:")?.split_whitespace().next()?;
    if uid == "0" || effective & EXEMPT != 0 {
        return None;
    }
    let (most, _) = probe::limit(libc::RLIMIT_NPROC);
    let most = most?;
    let taken = if most < PLENTY { threads_of(uid) } else { 0 };
    Some(most.saturating_sub(taken))
}

/// Threads of all processes of a user.
fn threads_of(uid: &str) -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let of = |status: String| {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next();
        if field("Uid:")? == uid { field("Threads:")?.parse::<u64>().ok() } else { None }
    };
    // Not `self` and `thread-self`.
    let is_process = |name: &OsStr| name.as_bytes().iter().all(u8::is_ascii_digit);
    entries
        .filter(|entry| entry.as_ref().is_ok_and(|entry| is_process(&entry.file_name())))
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok())
        .filter_map(of)
        .sum()
}

/// The control groups, our own and those around it, that set a limit in `file` (version 2's name of it); with the limit.
pub fn groups(file: &str) -> impl Iterator<Item = (PathBuf, u64)> {
    /// What version 1 says for "no limit", and less.
    const ENDLESS: u64 = 1 << 62;
    let ours = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = |path: PathBuf| Some((path.parent()?.to_owned(), number(&path).filter(|limit| *limit < ENDLESS)?));
    let all: Vec<_> = files(&ours, file).into_iter().filter_map(limit).collect();
    all.into_iter()
}

/// The files that may set that limit for those whose `/proc/PID/cgroup` is `ours`, where both versions are usually mounted.
fn files(ours: &str, file: &str) -> Vec<PathBuf> {
    const ROOT: &str = "/sys/fs/cgroup";
    let controller = file.split('.').next().unwrap_or(file);
    let of_first = if file == "memory.max" { "memory.limit_in_bytes" } else { file };
    let place = |line: &str| {
        let (controllers, group) = line.split_once(':')?.1.split_once(":/")?;
        let (root, file) = match controllers {
            "" => (PathBuf::from(ROOT), file),
            list if list.split(',').any(|one| one == controller) => (Path::new(ROOT).join(controller), of_first),
            _ => return None,
        };
        Some(Path::new(group).ancestors().map(|group| root.join(group).join(file)).collect::<Vec<_>>())
    };
    ours.lines().filter_map(place).flatten().collect()
}

/// A file that holds one number; `None` for "max", too.
pub fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions_are_looked_at_up_to_the_root() {
        let ours = "8:pids:/a/b\n7:cpu,cpuacct:/\n4:memory:/m\n0::/unified\n";
        let names = |file| files(ours, file).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let pids = ["pids/a/b/pids.max", "pids/a/pids.max", "pids/pids.max", "unified/pids.max", "pids.max"];
        assert_eq!(names("pids.max"), pids.map(|name| format!("/sys/fs/cgroup/{name}")));
        assert_eq!(names("memory.max")[0], "/sys/fs/cgroup/memory/m/memory.limit_in_bytes");
        assert_eq!(files("0::/\n", "memory.max"), [Path::new("/sys/fs/cgroup/memory.max")]);
    }
}
