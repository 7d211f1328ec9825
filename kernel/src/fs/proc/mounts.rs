//! `/proc/PID/mounts`, `mountinfo` and `mountstats`: mounts of the task's name space below its root. Source:
//! proc_pid_mounts(5), proc_pid_mountinfo(5), proc_pid_mountstats(5).

use super::process::Subject;
use crate::Result;
use crate::fs::pseudo::Watched;
use crate::fs::{Dev, Mount, MountFlags, Path, tree};
use crate::room::{Text, TryList};
use crate::task::Task;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

/// What the first mount lies on: Linux's own root, which is not shown.
const HIDDEN_ROOT: u32 = 1;

/// Mounts with their places below the task's root, by number.
fn visible(task: &Task) -> Result<Vec<(Arc<Mount>, Vec<u8>)>> {
    let context = task.fs()?;
    let (root, space) = (context.root(), context.namespace());
    let mut all = space.map_or(Ok(Vec::new()), |space| space.mounts())?;
    all.sort_unstable_by_key(|mount| mount.id());
    let place = |mount: &Arc<Mount>| -> Option<Vec<u8>> {
        let at: Path = mount.root_path().ok()?;
        at.is_below(&root).then(|| at.display(&root))
    };
    all.into_iter().filter_map(|mount| place(&mount).map(|at| (mount, at))).try_list()
}

/// How to wait for changes of the name space that `subject` is in now.
pub fn watched(subject: &Subject) -> Watched {
    let changes = subject.task().ok().and_then(|task| Some(task.fs().ok()?.namespace()?.changes()));
    let read = move || changes.as_ref().map_or(0, |changes| changes.load(Relaxed));
    Watched { changes: Box::new(read), queue: tree::changed() }
}

/// Options of the mount, without the first, which says whether it may be written to.
fn options(mount: &Mount) -> String {
    const NAMES: [(MountFlags, &str); 6] = [
        (MountFlags::NOSUID, ",nosuid"),
        (MountFlags::NODEV, ",nodev"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NODIRATIME, ",nodiratime"),
        (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
    ];
    let flags = mount.flags();
    let mut out = String::new();
    for (flag, name) in NAMES {
        if flags.contains(flag) {
            out.push_str(name);
        }
    }
    if !flags.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME) {
        out.push_str(",relatime");
    }
    out
}

fn access(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
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
    let mut out = Text::default();
    for (mount, at) in visible(task)? {
        out.push(&escape(mount.source()));
        out.push(b" ");
        out.push(&escape(&at));
        let read_only = mount.fs_read_only() || mount.flags().contains(MountFlags::RDONLY);
        let (name, access) = (mount.fs().name(), access(read_only));
        out.push_str(&format!(" {name} {access}{}{} 0 0\n", options(&mount), mount.fs().options()));
    }
    out.finish()
}

/// `mountinfo`.
///
/// # Errors
/// As [`mounts`].
pub fn mountinfo(task: &Task) -> Result<Vec<u8>> {
    let mut out = Text::default();
    for (mount, at) in visible(task)? {
        let parent = mount.mountpoint().map_or(HIDDEN_ROOT, |place| place.mount().id());
        let dev = Dev::decode(mount.fs().dev());
        out.push_str(&format!("{} {parent} {}:{} ", mount.id(), dev.major, dev.minor));
        out.push(&escape(&mount.root_name()));
        out.push(b" ");
        out.push(&escape(&at));
        out.push_str(&format!(" {}{}", access(mount.flags().contains(MountFlags::RDONLY)), options(&mount)));
        out.push_str(&propagation(&mount));
        out.push_str(&format!(" - {} ", mount.fs().name()));
        out.push(&escape(mount.source()));
        out.push_str(&format!(" {}{}\n", access(mount.fs_read_only()), mount.fs().options()));
    }
    out.finish()
}

/// The optional fields of `mountinfo`.
fn propagation(mount: &Mount) -> String {
    let propagation = mount.propagation();
    let mut out = String::new();
    for (name, group) in [("shared", propagation.group), ("master", propagation.master)] {
        if group != 0 {
            out.push_str(&format!(" {name}:{group}"));
        }
    }
    if propagation.unbindable {
        out.push_str(" unbindable");
    }
    out
}

/// `mountstats`.
///
/// # Errors
/// As [`mounts`].
pub fn mountstats(task: &Task) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (mount, at) in visible(task)? {
        out.extend_from_slice(b"device ");
        out.extend(escape(mount.source()));
        out.extend_from_slice(b" mounted on ");
        out.extend(escape(&at));
        out.extend(format!(" with fstype {}\n", mount.fs().name()).into_bytes());
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
