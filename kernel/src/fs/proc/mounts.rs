//! `/proc/PID/mounts` and `mountinfo`, below the task's root. Source: proc_pid_mounts(5), proc_pid_mountinfo(5).

use crate::Result;
use crate::fs::{self, Dev, Mount, MountFlags, Path};
use crate::task::Task;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Mounts with their places below the task's root, the first one first.
fn visible(task: &Task) -> Result<Vec<(Arc<Mount>, Vec<u8>)>> {
    let root = task.fs()?.root();
    let mut all = Vec::from([fs::root()?.mount().clone()]);
    all.extend(fs::list());
    let place = |mount: &Arc<Mount>| -> Option<Vec<u8>> {
        let at: Path = mount.root_path().ok()?;
        at.is_below(&root).then(|| at.display(&root))
    };
    Ok(all.into_iter().filter_map(|mount| place(&mount).map(|at| (mount, at))).collect())
}

fn options(mount: &Mount) -> String {
    let flags = mount.flags();
    let mut out = String::from(if flags.contains(MountFlags::RDONLY) { "ro" } else { "rw" });
    for (flag, name) in
        [(MountFlags::NOSUID, ",nosuid"), (MountFlags::NODEV, ",nodev"), (MountFlags::NOEXEC, ",noexec")]
    {
        if flags.contains(flag) {
            out.push_str(name);
        }
    }
    out.push_str(",relatime");
    out
}

/// Blanks, backslashes and line ends as octal.
fn escape(name: &[u8]) -> Vec<u8> {
    let escaped = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
        other => Vec::from([*other]),
    };
    name.iter().flat_map(escaped).collect()
}

/// `mounts`.
///
/// # Errors
/// `ENOENT` for tasks without a root.
pub fn mounts(task: &Task) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (mount, at) in visible(task)? {
        out.extend(escape(mount.source()));
        out.push(b' ');
        out.extend(escape(&at));
        out.extend(format!(" {} {} 0 0\n", mount.fs().name(), options(&mount)).into_bytes());
    }
    Ok(out)
}

/// `mountinfo`.
///
/// # Errors
/// As [`mounts`].
pub fn mountinfo(task: &Task) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (mount, at) in visible(task)? {
        let parent = mount.mountpoint().map_or(mount.id(), |place| place.mount().id());
        let dev = Dev::decode(mount.fs().dev());
        out.extend(format!("{} {parent} {}:{} / ", mount.id(), dev.major, dev.minor).into_bytes());
        out.extend(escape(&at));
        out.extend(format!(" {} - {} ", options(&mount), mount.fs().name()).into_bytes());
        out.extend(escape(mount.source()));
        out.extend_from_slice(b" rw\n");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape(b"/a b\\c"), b"/a\\040b\\134c");
    }
}
