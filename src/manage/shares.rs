//! Whether machines get processor time in proportion to their virtual CPUs on this host.
//!
//! They do where the host's scheduler groups tasks by session (autogroup, sched(7)), because each virtual CPU is a session
//! of its own. The host groups by session only what lies in the root of its cpu cgroups. On several host CPUs the machines must
//! besides agree where each virtual CPU is ([`crate::balance`]), which only those in one [`registry`] directory do. Others are
//! found by their sockets, as far as they are in this network namespace.

use super::registry::{self, Description};
use std::fs;
use std::path::{Path, PathBuf};

/// A reason why shares are not proportional.
pub struct Trouble {
    pub why: String,
    pub remedy: &'static str,
}

impl Trouble {
    fn new(why: impl Into<String>, remedy: &'static str) -> Trouble {
        Trouble { why: why.into(), remedy }
    }
}

/// Why they are not, the gravest first; none if they are.
pub fn troubles() -> Vec<Trouble> {
    [host_trouble(), others_trouble()].into_iter().flatten().collect()
}

/// What the host does to all machines.
fn host_trouble() -> Option<Trouble> {
    let enabled = fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled");
    if enabled.is_ok_and(|text| text.trim() != "1") || !Path::new("/proc/self/autogroup").exists() {
        return Some(Trouble::new("the host does not schedule by session", "sysctl kernel.sched_autogroup_enabled=1"));
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own_cpu_group(&groups, Path::new("/sys/fs/cgroup")).then(|| {
        Trouble::new(
            "this process is in a cpu control group, in which the host does not schedule by session",
            "start machines outside it, or let that group and its parents have no cpu controller",
        )
    })
}

/// What machines do that do not know of ours. On one host CPU there is nothing to agree about.
fn others_trouble() -> Option<Trouble> {
    if host_cpus() == 1 {
        return None;
    }
    let known = registry::machines().unwrap_or_default();
    let others = others(&fs::read_to_string("/proc/net/unix").unwrap_or_default(), &known);
    let who = match others {
        0 => return None,
        1 => "1 machine runs that is not listed here; it does".into(),
        many => format!("{many} machines run that are not listed here; they do"),
    };
    Some(Trouble::new(
        format!("{who} not agree with these on which host CPU each virtual CPU is"),
        "run them as one user with one XDG_RUNTIME_DIR, or under taskset on host CPUs of their own",
    ))
}

/// How many sockets of machines a `/proc/net/unix` (proc_net_unix(5)) shows that are not those of `known` ones. A process number
/// names one machine only, whatever the directory.
fn others(sockets: &str, known: &[Description]) -> usize {
    let listening = sockets.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // __SO_ACCEPTCON
        (*fields.get(3)? == "00010000").then_some(*fields.get(7)?)
    });
    listening.filter_map(registry::machine_of).filter(|pid| known.iter().all(|machine| machine.pid != *pid)).count()
}

/// All that the host has: others may be allowed more of them than this process.
pub fn host_cpus() -> usize {
    fs::read_dir("/sys/devices/system/cpu").map_or(1, |entries| {
        let number = |name: &str| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u32>().is_ok());
        entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(number)).count()
    })
}

/// Whether a `/proc/PID/cgroup` (cgroups(7)) names a cpu cgroup other than the root; `mount` is where version 2 is mounted.
fn own_cpu_group(groups: &str, mount: &Path) -> bool {
    groups.lines().any(|line| {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            return false;
        };
        if controllers.is_empty() {
            // Version 2: a group is one for the scheduler if it, or one above it, has a weight. The root has none.
            let relative = PathBuf::from(path.trim_start_matches('/'));
            relative.ancestors().any(|group| mount.join(group).join("cpu.weight").exists())
        } else {
            controllers.split(',').any(|name| name == "cpu") && path != "/"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_groups_count_unless_they_are_the_root() {
        let nowhere = Path::new("/no/such/mount");
        assert!(!own_cpu_group("4:memory:/x\n1:cpu,cpuacct:/\n0::/\n", nowhere));
        assert!(own_cpu_group("1:cpu,cpuacct:/docker/7\n0::/\n", nowhere));
        assert!(!own_cpu_group("1:cpuset:/docker/7\n", nowhere));
    }

    #[test]
    fn version_2_groups_count_where_a_weight_stands_above_them() {
        let mount = std::env::temp_dir().join(format!("umbel-shares-{}", std::process::id()));
        let group = mount.join("user.slice/session");
        fs::create_dir_all(&group).expect("a directory");
        assert!(!own_cpu_group("0::/user.slice/session\n", &mount));
        fs::write(mount.join("user.slice/cpu.weight"), "100").expect("a file");
        assert!(own_cpu_group("0::/user.slice/session\n", &mount));
        assert!(!own_cpu_group("0::/\n", &mount));
        fs::remove_dir_all(&mount).expect("our own directory");
    }

    #[test]
    fn machines_that_are_not_listed_are_counted_by_their_sockets() {
        let sockets = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 21 /run/user/1000/umbel/17.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 22 /run/user/1000/umbel/17.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 23 /tmp/umbel-0/18.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 24 /tmp/umbel-0/19.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 25 /run/else/20.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 26 @umbel/21.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 27\n";
        let listed = |pid| Description { pid, name: pid.to_string(), mem: 0, command: String::new(), started: 0 };
        assert_eq!(others(sockets, &[]), 3);
        assert_eq!(others(sockets, &[listed(18), listed(20)]), 2);
        assert_eq!(others(sockets, &[17, 18, 19].map(listed)), 0);
        assert_eq!(others("", &[]), 0);
    }
}
