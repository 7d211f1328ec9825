//! Whether machines get processor time in proportion to their virtual CPUs on this host.
//!
//! They do where the host's scheduler groups tasks by session (autogroup, sched(7)), because each virtual CPU is a session
//! of its own. The host groups by session only what lies in the root of its cpu cgroups.

use std::fs;
use std::path::{Path, PathBuf};

/// Why they do not, and what can be done; `None` if they do.
pub fn trouble() -> Option<(&'static str, &'static str)> {
    let enabled = fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled");
    if enabled.is_ok_and(|text| text.trim() != "1") || !Path::new("/proc/self/autogroup").exists() {
        return Some(("the host does not schedule by session", "sysctl kernel.sched_autogroup_enabled=1"));
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own_cpu_group(&groups, Path::new("/sys/fs/cgroup")).then_some((
        "this process is in a cpu control group, in which the host does not schedule by session",
        "start machines outside it, or let that group and its parents have no cpu controller",
    ))
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
}
