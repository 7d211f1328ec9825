//! The tree of mounts. Semantics: [`crate::fs::mounting`], [`crate::fs::tree`], [`crate::fs::fsmount`]; sources: mount(2),
//! umount(2), pivot_root(2), fsopen(2), move_mount(2), open_tree(2), mount_setattr(2).

use super::fs::{AtFlags, Caller, path_at};
use super::{Fd, UserStr};
use crate::fs::fsmount::{self, FsConfig, Step};
use crate::fs::tree::{self, Kind, Unmount};
use crate::fs::{MountFlags, MountRequest, OnExec, OpenFlags, Path, mounting, plain};
use crate::task::{self, Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_abi::linux::uapi::{self, self as nr};
use umbel_mm::user::{UserAddr, read_cstr, read_val, read_vec};

rows! {
    nr::__NR_mount, mount(source: UserAddr, target: UserStr, kind: UserAddr, flags: u64, data: UserAddr) => mount,
        Partial("no block devices");
    nr::__NR_umount2, umount2(target: UserStr, flags: u32) => umount2, Full;
    nr::__NR_pivot_root, pivot_root(new: UserStr, old: UserStr) => pivot_root, Full;
    nr::__NR_fsopen, fsopen(kind: UserStr, flags: u32) => fsopen, Partial("the types of mount(2)");
    nr::__NR_fsconfig, fsconfig(fd: Fd, command: u32, key: UserAddr, value: UserAddr, aux: i32) => fsconfig,
        Partial("no binary values, paths or descriptors");
    nr::__NR_fsmount, fsmount(fd: Fd, flags: u32, attributes: u32) => fsmount, Full;
    nr::__NR_fspick, fspick(dir: Fd, path: UserStr, flags: u32) => fspick, Full;
    nr::__NR_open_tree, open_tree(dir: Fd, path: UserStr, flags: u32) => open_tree, Full;
    nr::__NR_move_mount, move_mount(from_dir: Fd, from: UserStr, to_dir: Fd, to: UserStr, flags: u32) => move_mount,
        Partial("no MOVE_MOUNT_SET_GROUP");
    nr::__NR_mount_setattr, mount_setattr(dir: Fd, path: UserStr, flags: u32, attr: UserAddr, size: u64) => mount_setattr,
        Partial("no id-mapped mounts");
}

fn check_admin(task: &Task) -> Result<()> {
    let owner = task.ns().mounts_owner.clone();
    let cred = task.cred();
    // Who may not use files may not change where they lie.
    let allowed = cred.capable_in(&owner, cap::SYS_ADMIN) && !cred.sandbox.handles_files();
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

/// Checks that `path` is in the caller's own tree.
fn check_own(task: &Task, path: &Path) -> Result<()> {
    let own = task.fs()?.namespace().map(|space| space.id());
    if own == Some(path.mount().namespace()) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn mount(
    task: &Arc<Task>,
    source: UserAddr,
    target: UserStr,
    kind: UserAddr,
    flags: u64,
    data: UserAddr,
) -> Result<()> {
    let text = |addr: UserAddr| if addr.is_null() { Ok(Vec::new()) } else { UserStr(addr).read() };
    let (kind, source, data) = (text(kind)?, text(source)?, text(data)?);
    let target = path_at(task, Fd::CWD, target, AtFlags::empty())?;
    check_admin(task)?;
    check_own(task, &target)?;
    let request = MountRequest { source: &source, kind: &kind, data: &data, flags: flags as u32 };
    let caller = Caller::new(task)?;
    mounting::mount(&caller.names(), target, &request)
}

fn umount2(task: &Arc<Task>, target: UserStr, flags: u32) -> Result<()> {
    const FORCE: u32 = uapi::MNT_FORCE;
    const ALL: u32 = FORCE | uapi::MNT_DETACH | uapi::MNT_EXPIRE | uapi::UMOUNT_NOFOLLOW;
    if flags & !ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let nofollow = flags & uapi::UMOUNT_NOFOLLOW != 0;
    let at = if nofollow { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
    let path = path_at(task, Fd::CWD, target, at)?;
    check_admin(task)?;
    check_own(task, &path)?;
    let how = match flags & (uapi::MNT_DETACH | uapi::MNT_EXPIRE) {
        0 => Unmount::Idle,
        uapi::MNT_DETACH => Unmount::Lazy,
        uapi::MNT_EXPIRE if flags & FORCE == 0 => Unmount::Expire,
        _ => return Err(Errno::EINVAL),
    };
    plain::settle();
    // Names kept of an overlay keep its layers' mounts.
    crate::fs::settle();
    tree::detach(path, how)
}

fn pivot_root(task: &Arc<Task>, new: UserStr, old: UserStr) -> Result<()> {
    check_admin(task)?;
    let new = path_at(task, Fd::CWD, new, AtFlags::empty())?;
    let old = path_at(task, Fd::CWD, old, AtFlags::empty())?;
    let context = task.fs()?;
    let before = context.root();
    tree::pivot(&context, &new, old)?;
    // Whoever was in the old root is in the new one.
    let space = context.namespace().map(|space| space.id());
    for other in task::ids::all_tasks() {
        if let Ok(context) = other.fs()
            && context.namespace().map(|space| space.id()) == space
        {
            context.replace(&before, &new);
        }
    }
    Ok(())
}

/// Gives a context a descriptor.
fn install_config(task: &Task, config: Arc<FsConfig>, cloexec: bool) -> Result<Fd> {
    let flags = if cloexec { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
    super::ipc::install(task, crate::fs::File::anonymous(config, OpenFlags::RDWR), flags)
}

fn fsopen(task: &Arc<Task>, kind: UserStr, flags: u32) -> Result<Fd> {
    check_admin(task)?;
    if flags & !uapi::FSOPEN_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    install_config(task, FsConfig::new(&kind.read()?)?, flags & uapi::FSOPEN_CLOEXEC != 0)
}

fn fspick(task: &Arc<Task>, dir: Fd, path: UserStr, flags: u32) -> Result<Fd> {
    const EMPTY: u32 = uapi::FSPICK_EMPTY_PATH;
    const NOFOLLOW: u32 = uapi::FSPICK_SYMLINK_NOFOLLOW;
    check_admin(task)?;
    if flags & !(uapi::FSPICK_CLOEXEC | NOFOLLOW | uapi::FSPICK_NO_AUTOMOUNT | EMPTY) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = place(task, dir, path, flags & EMPTY != 0, flags & NOFOLLOW == 0)?;
    if !path.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    install_config(task, FsConfig::pick(path.mount()), flags & uapi::FSPICK_CLOEXEC != 0)
}

/// A place given by a descriptor and a name, which may be empty or lead through a link at its end as told.
fn place(task: &Task, dir: Fd, path: UserStr, may_be_empty: bool, follow: bool) -> Result<Path> {
    let mut flags = AtFlags::empty();
    flags.set(AtFlags::EMPTY_PATH, may_be_empty);
    flags.set(AtFlags::SYMLINK_NOFOLLOW, !follow);
    path_at(task, dir, path, flags)
}

fn fsconfig(task: &Arc<Task>, fd: Fd, command: u32, key: UserAddr, value: UserAddr, aux: i32) -> Result<()> {
    use uapi::fsconfig_command as cmd;
    let text = |addr: UserAddr| if addr.is_null() { Err(Errno::EINVAL) } else { read_cstr(addr, 256) };
    let file = task.files()?.get(fd)?;
    let config = file.ops_as::<FsConfig>().ok_or(Errno::EINVAL)?;
    let bare = key.is_null() && value.is_null() && aux == 0;
    match command {
        c if c == cmd::FSCONFIG_SET_FLAG as u32 && value.is_null() && aux == 0 => config.step(&Step::Flag(&text(key)?)),
        c if c == cmd::FSCONFIG_SET_STRING as u32 && aux == 0 => config.step(&Step::Text(&text(key)?, &text(value)?)),
        c if c == cmd::FSCONFIG_SET_PATH as u32 || c == cmd::FSCONFIG_SET_PATH_EMPTY as u32 => {
            if value.is_null() || aux < 0 && aux != Fd::CWD.0 {
                return Err(Errno::EINVAL);
            }
            config.step(&Step::Object(&text(key)?))
        }
        c if c == cmd::FSCONFIG_SET_FD as u32 && value.is_null() && aux >= 0 => {
            task.files()?.get(Fd(aux))?;
            config.step(&Step::Object(&text(key)?))
        }
        c if (c == cmd::FSCONFIG_CMD_CREATE as u32 || c == cmd::FSCONFIG_CMD_CREATE_EXCL as u32) && bare => {
            config.step(&Step::Create)
        }
        c if c == cmd::FSCONFIG_CMD_RECONFIGURE as u32 && bare => config.step(&Step::Reconfigure),
        0..=8 => Err(Errno::EINVAL),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn fsmount(task: &Arc<Task>, fd: Fd, flags: u32, attributes: u32) -> Result<Fd> {
    check_admin(task)?;
    if flags & !uapi::FSMOUNT_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let mount_flags = mounting::flags_of_attributes(u64::from(attributes))?;
    let file = task.files()?.get(fd)?;
    let config = file.ops_as::<FsConfig>().ok_or(Errno::EINVAL)?;
    let mount = config.take(mount_flags)?;
    if let Some(space) = task.fs()?.namespace() {
        tree::check_revealing(&space, &mount, mount_flags)?;
    }
    install_mount(task, &mount, flags & uapi::FSMOUNT_CLOEXEC != 0)
}

fn install_mount(task: &Task, mount: &Arc<crate::fs::Mount>, cloexec: bool) -> Result<Fd> {
    let files = task.files()?;
    let limit = task.process().limit(uapi::RLIMIT_NOFILE);
    files.install(fsmount::detached(mount)?, OnExec::close_if(cloexec), limit)
}

fn open_tree(task: &Arc<Task>, dir: Fd, path: UserStr, flags: u32) -> Result<Fd> {
    const CLONE: u32 = uapi::OPEN_TREE_CLONE;
    const CLOEXEC: u32 = uapi::OPEN_TREE_CLOEXEC;
    const RECURSIVE: u32 = uapi::AT_RECURSIVE;
    const AT: u32 = uapi::AT_EMPTY_PATH | uapi::AT_NO_AUTOMOUNT | uapi::AT_SYMLINK_NOFOLLOW;
    if flags & !(CLONE | CLOEXEC | RECURSIVE | AT) != 0 || flags & RECURSIVE != 0 && flags & CLONE == 0 {
        return Err(Errno::EINVAL);
    }
    if flags & CLONE != 0 {
        check_admin(task)?;
    }
    let follow = flags & uapi::AT_SYMLINK_NOFOLLOW == 0;
    let path = place(task, dir, path, flags & uapi::AT_EMPTY_PATH != 0, follow)?;
    if flags & CLONE != 0 {
        check_own(task, &path)?;
        return install_mount(task, &tree::clone_tree(&path, flags & RECURSIVE != 0)?, flags & CLOEXEC != 0);
    }
    let caller = Caller::new(task)?;
    let file = caller.names().open_path(path, OpenFlags::PATH, Some(task))?;
    let flags = if flags & CLOEXEC != 0 { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
    super::ipc::install(task, file, flags)
}

fn move_mount(task: &Arc<Task>, from_dir: Fd, from: UserStr, to_dir: Fd, to: UserStr, flags: u32) -> Result<()> {
    const FROM_LINKS: u32 = uapi::MOVE_MOUNT_F_SYMLINKS;
    const FROM_EMPTY: u32 = uapi::MOVE_MOUNT_F_EMPTY_PATH;
    const TO_LINKS: u32 = uapi::MOVE_MOUNT_T_SYMLINKS;
    const TO_EMPTY: u32 = uapi::MOVE_MOUNT_T_EMPTY_PATH;
    const AUTO: u32 = uapi::MOVE_MOUNT_F_AUTOMOUNTS | uapi::MOVE_MOUNT_T_AUTOMOUNTS;
    check_admin(task)?;
    const BENEATH: u32 = uapi::MOVE_MOUNT_BENEATH;
    if flags & !(FROM_LINKS | FROM_EMPTY | TO_LINKS | TO_EMPTY | AUTO | BENEATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let from = place(task, from_dir, from, flags & FROM_EMPTY != 0, flags & FROM_LINKS != 0)?;
    let to = place(task, to_dir, to, flags & TO_EMPTY != 0, flags & TO_LINKS != 0)?;
    check_own(task, &to)?;
    if from.mount().namespace() != 0 {
        check_own(task, &from)?;
    }
    if flags & BENEATH != 0 { tree::slip_beneath(&from, to) } else { tree::relocate(&from, to) }
}

fn mount_setattr(task: &Arc<Task>, dir: Fd, path: UserStr, flags: u32, attr: UserAddr, size: u64) -> Result<()> {
    const RECURSIVE: u32 = uapi::AT_RECURSIVE;
    const KNOWN: u64 = 32;
    if flags & !(uapi::AT_EMPTY_PATH | RECURSIVE | uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    if size < KNOWN {
        return Err(Errno::EINVAL);
    }
    check_admin(task)?;
    let [set, clear, propagation, user] = read_val::<[u64; 4]>(attr)?;
    let rest: Vec<u8> = read_vec(attr.add(KNOWN), (size - KNOWN) as usize)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    if set == 0 && clear == 0 && propagation == 0 {
        return Ok(());
    }
    let kind = match u32::try_from(propagation).map_err(|_| Errno::EINVAL)? {
        0 => None,
        uapi::MS_SHARED => Some(Kind::Shared),
        uapi::MS_PRIVATE => Some(Kind::Private),
        uapi::MS_SLAVE => Some(Kind::Slave),
        uapi::MS_UNBINDABLE => Some(Kind::Unbindable),
        _ => return Err(Errno::EINVAL),
    };
    // The kind of access times is one value of several bits: it is cleared as a whole, or not changed.
    let times = u64::from(uapi::MOUNT_ATTR__ATIME);
    let changes_times = clear & times == times;
    if user != 0 || clear & times != 0 && !changes_times || set & times != 0 && !changes_times {
        return Err(Errno::EINVAL);
    }
    let all_times = MountFlags::NOATIME | MountFlags::STRICTATIME;
    let cleared =
        mounting::flags_of_attributes(clear & !times)? | if changes_times { all_times } else { MountFlags::empty() };
    let added = mounting::flags_of_attributes(set)?;
    let follow = flags & uapi::AT_SYMLINK_NOFOLLOW == 0;
    let path = place(task, dir, path, flags & uapi::AT_EMPTY_PATH != 0, follow)?;
    if !path.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    if path.mount().namespace() != 0 {
        check_own(task, &path)?;
    }
    let recursive = flags & RECURSIVE != 0;
    let mounts = if recursive { tree::subtree(path.mount())? } else { Vec::from([path.mount().clone()]) };
    if added.contains(MountFlags::RDONLY) && mounts.iter().any(|mount| mount.has_writers()) {
        return Err(Errno::EBUSY);
    }
    let changed = |flags: MountFlags| flags.difference(cleared) | added;
    mounts.iter().try_for_each(|mount| mount.check_flags(changed(mount.flags())))?;
    tree::change_flags(&mounts, changed);
    kind.map_or(Ok(()), |kind| tree::set_propagation(&path, kind, recursive))
}
