//! mount(2) for guests: new file systems, bind mounts, moves, remounts, propagation. Source: mount(2), tmpfs(5).

use super::mount::{self, Mount, MountFlags, Path};
use super::names::{Name, Names};
use super::tmpfs::{self, TmpFs};
use super::tree::{self, Kind};
use super::walk::Follow;
use super::{FileSystem, overlay, proc, sys};
use crate::cgroup;
use crate::ipc::sysv;
use crate::task::ns::UserNs;
use crate::task::ns::user::Which;
use crate::task::{self, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi;

/// The arguments of mount(2).
pub struct MountRequest<'a> {
    pub source: &'a [u8],
    pub kind: &'a [u8],
    pub data: &'a [u8],
    /// `MS_*`.
    pub flags: u32,
}

/// What each call of mount(2) does at most one of.
const PROPAGATION: u32 = uapi::MS_SHARED | uapi::MS_PRIVATE | uapi::MS_SLAVE | uapi::MS_UNBINDABLE;

/// Mounts on `target`, or changes its mount.
///
/// # Errors
/// `ENODEV` for unknown types, `EINVAL` for options that are not understood.
pub fn mount(names: &Names<'_>, target: Path, request: &MountRequest<'_>) -> Result<()> {
    /// The magic number of old in the upper half.
    const MAGIC: u32 = 0xc0ed_0000;
    let raw = if request.flags >> 16 == MAGIC >> 16 { request.flags & 0xffff } else { request.flags };
    let set = |flag| raw & flag != 0;
    let mut flags = mount_flags(raw);
    let times = uapi::MS_NOATIME | uapi::MS_NODIRATIME | uapi::MS_RELATIME | uapi::MS_STRICTATIME;
    if set(uapi::MS_REMOUNT) && !set(times) {
        // What is not said stays.
        flags |= target.mount().flags() & mount_flags(times);
    }
    if set(uapi::MS_REMOUNT) && set(uapi::MS_BIND) {
        return remount_one(&target, flags);
    }
    if set(uapi::MS_REMOUNT) {
        return remount(&target, flags, request.data);
    }
    if set(uapi::MS_BIND) {
        let source = names.find(&Name::new(request.source), Follow::Yes)?;
        // Those of namespaces are nobody's.
        if source.mount().fs().name() != "nsfs" {
            check_own(names, &source)?;
        }
        return tree::attach(&tree::clone_tree(&source, set(uapi::MS_REC))?, target);
    }
    if set(PROPAGATION) {
        return tree::set_propagation(&target, propagation(raw)?, set(uapi::MS_REC));
    }
    if set(uapi::MS_MOVE) {
        let source = names.find(&Name::new(request.source), Follow::Yes)?;
        check_own(names, &source)?;
        return tree::relocate(&source, target);
    }
    if !target.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let mount = new_mount(request.kind, request.source, request.data, flags)?;
    if let Some(space) = names.context.namespace() {
        tree::check_revealing(&space, &mount, flags)?;
    }
    // A new file system is read-only as a whole.
    if flags.contains(MountFlags::RDONLY) && !matches!(request.kind, b"devpts" | b"devtmpfs") {
        mount.set_fs_read_only(true);
    }
    let target = target.top();
    // Each devpts would be another one.
    let same = request.kind != b"devpts" && Arc::ptr_eq(mount.fs(), target.mount().fs());
    if same && target.is_mount_root() {
        return Err(Errno::EBUSY);
    }
    tree::attach(&mount, target)
}

/// Checks that `path` is in the caller's own tree: other name spaces keep their mounts, and what is hidden there.
fn check_own(names: &Names<'_>, path: &Path) -> Result<()> {
    let own = names.context.namespace().map(|space| space.id());
    if own == Some(path.mount().namespace()) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn mount_flags(raw: u32) -> MountFlags {
    let known = MountFlags::all() - MountFlags::INTERNAL;
    MountFlags::from_bits_truncate(raw) & known
}

/// Exactly one kind, and nothing else but `MS_REC` and `MS_SILENT`.
fn propagation(raw: u32) -> Result<Kind> {
    match raw & !(uapi::MS_REC | uapi::MS_SILENT) {
        uapi::MS_SHARED => Ok(Kind::Shared),
        uapi::MS_PRIVATE => Ok(Kind::Private),
        uapi::MS_SLAVE => Ok(Kind::Slave),
        uapi::MS_UNBINDABLE => Ok(Kind::Unbindable),
        _ => Err(Errno::EINVAL),
    }
}

/// The user namespace in which the running task must be privileged to mount `kind`: that of what is shown.
fn owner_of(kind: &[u8]) -> Arc<UserNs> {
    let task = task::current();
    match kind {
        b"proc" => task.process().pid_ns().owner.clone(),
        b"sysfs" => task.ns().net.owner.clone(),
        b"mqueue" => task.ns().ipc.owner.clone(),
        b"cgroup2" => task.ns().cgroup.owner(),
        b"devtmpfs" => UserNs::first(),
        _ => task.cred().user_ns.clone(),
    }
}

/// A detached mount of a new file system of type `kind`, or of the kernel's own.
///
/// # Errors
/// `ENODEV` for unknown types, `EINVAL` for options that are not understood, `EPERM`.
pub fn new_mount(kind: &[u8], source: &[u8], data: &[u8], flags: MountFlags) -> Result<Arc<Mount>> {
    let owner = owner_of(kind);
    if !task::current().cred().capable_in(&owner, cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let mount = make(kind, source, data, flags)?;
    mount.set_fs_owner(&owner);
    Ok(mount)
}

fn make(kind: &[u8], source: &[u8], data: &[u8], flags: MountFlags) -> Result<Arc<Mount>> {
    let fs: Arc<dyn FileSystem> = match kind {
        b"" => return Err(Errno::EINVAL),
        b"tmpfs" | b"ramfs" => {
            let cred = task::current().cred();
            let mut options = tmpfs::Options::parse(data)?;
            let outside = |which, id: Option<u32>| id.map(|id| cred.user_ns.take(which, id)).transpose();
            (options.uid, options.gid) = (outside(Which::Users, options.uid)?, outside(Which::Groups, options.gid)?);
            TmpFs::with("tmpfs", &options, (cred.fsuid, cred.fsgid))
        }
        b"proc" => proc::new(task::current().process().pid_ns()),
        b"sysfs" => sys::new(),
        b"mqueue" => sysv::namespace().queues.fs(),
        b"cgroup2" => return cgroup::fs::mount(data, flags),
        b"overlay" => return overlay::mount(source, data, flags),
        // There is one of each; a further mount shows the same.
        b"devpts" | b"devtmpfs" => {
            let same = |mount: &Arc<Mount>| mount.fs().name().as_bytes() == kind;
            let known = mount::all().find(same).ok_or(Errno::ENODEV)?;
            return Ok(known.fresh(flags));
        }
        _ => return Err(Errno::ENODEV),
    };
    Ok(Mount::new(fs, source, flags))
}

/// `MS_REMOUNT | MS_BIND`: the flags of this mount alone.
fn remount_one(target: &Path, flags: MountFlags) -> Result<()> {
    check_remount(target, flags)?;
    target.mount().set_flags(flags);
    Ok(())
}

/// `MS_REMOUNT`: the file system's options, and the flags of this mount.
fn remount(target: &Path, flags: MountFlags, data: &[u8]) -> Result<()> {
    check_remount(target, flags)?;
    let mount = target.mount();
    check_reconfigure(mount)?;
    mount.fs().reconfigure(data)?;
    mount.set_fs_read_only(flags.contains(MountFlags::RDONLY));
    mount.set_flags(flags);
    Ok(())
}

/// Whether the running task may change the file system of `mount`.
///
/// # Errors
/// `EPERM`.
pub fn check_reconfigure(mount: &Mount) -> Result<()> {
    let allowed = task::current().cred().capable_in(&mount.fs_owner(), cap::SYS_ADMIN) && !mount.is_foreign();
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

fn check_remount(target: &Path, flags: MountFlags) -> Result<()> {
    if !target.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    target.mount().check_flags(flags)?;
    let busy = flags.contains(MountFlags::RDONLY) && target.mount().has_writers();
    if busy { Err(Errno::EBUSY) } else { Ok(()) }
}

/// Flags and their new-style names (`MOUNT_ATTR_*`).
const PAIRS: [(u32, MountFlags); 6] = [
    (uapi::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
    (uapi::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
    (uapi::MOUNT_ATTR_NODEV, MountFlags::NODEV),
    (uapi::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
    (uapi::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
    (uapi::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
];

/// The reverse of [`flags_of_attributes`].
pub fn attributes_of_flags(flags: MountFlags) -> u64 {
    let times = match () {
        () if flags.contains(MountFlags::NOATIME) => uapi::MOUNT_ATTR_NOATIME,
        () if flags.contains(MountFlags::STRICTATIME) => uapi::MOUNT_ATTR_STRICTATIME,
        () => uapi::MOUNT_ATTR_RELATIME,
    };
    let set = PAIRS.iter().filter(|(_, flag)| flags.contains(*flag)).map(|(attribute, _)| attribute);
    u64::from(set.fold(times, |all, attribute| all | attribute))
}

/// Flags of new-style calls (`MOUNT_ATTR_*`).
///
/// # Errors
/// `EINVAL` for unknown ones.
pub fn flags_of_attributes(attributes: u64) -> Result<MountFlags> {
    let raw = u32::try_from(attributes).map_err(|_| Errno::EINVAL)?;
    let mut flags = MountFlags::empty();
    let mut known = uapi::MOUNT_ATTR__ATIME;
    for (attribute, flag) in PAIRS {
        flags.set(flag, raw & attribute != 0);
        known |= attribute;
    }
    match raw & uapi::MOUNT_ATTR__ATIME {
        uapi::MOUNT_ATTR_RELATIME => {}
        uapi::MOUNT_ATTR_NOATIME => flags |= MountFlags::NOATIME,
        uapi::MOUNT_ATTR_STRICTATIME => flags |= MountFlags::STRICTATIME,
        _ => return Err(Errno::EINVAL),
    }
    if raw & !known != 0 { Err(Errno::EINVAL) } else { Ok(flags) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_of_propagation_is_asked_for() {
        assert_eq!(propagation(uapi::MS_SHARED | uapi::MS_REC), Ok(Kind::Shared));
        assert_eq!(propagation(uapi::MS_SHARED | uapi::MS_SLAVE), Err(Errno::EINVAL));
        assert_eq!(propagation(uapi::MS_PRIVATE | uapi::MS_RDONLY), Err(Errno::EINVAL));
    }

    #[test]
    fn attributes_become_flags() {
        assert_eq!(flags_of_attributes(0x11), Ok(MountFlags::RDONLY | MountFlags::NOATIME));
        assert_eq!(flags_of_attributes(0x30), Err(Errno::EINVAL));
        assert_eq!(flags_of_attributes(0x100), Err(Errno::EINVAL));
    }
}
