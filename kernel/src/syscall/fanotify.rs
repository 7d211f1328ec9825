//! Groups and marks of fanotify. Semantics: [`crate::fs::fanotify`]; sources: fanotify_init(2), fanotify_mark(2).

use super::fs::{AtFlags, path_at};
use super::{Fd, UserStr};
use crate::fs::fanotify::{self, Change, Group, Object, flag, mask};
use crate::fs::{MountFlags, OpenFlags, Path, handle, notify};
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi as nr;

rows! {
    nr::__NR_fanotify_init, fanotify_init(flags: u32, event_flags: u32) => fanotify_init,
        Partial("no FAN_ENABLE_AUDIT, no FAN_REPORT_MNT");
    nr::__NR_fanotify_mark, fanotify_mark(group: Fd, flags: u32, mask: u64, dir: Fd, path: UserStr) => fanotify_mark,
        Partial("evictable marks stay; no FAN_PRE_ACCESS");
}

/// `FAN_CLOEXEC`, `FAN_NONBLOCK`.
const CLOEXEC: u32 = 1;
const NONBLOCK: u32 = 2;
/// What takes a privilege.
const ADMIN: u32 = flag::CLASS
    | flag::UNLIMITED_QUEUE
    | flag::UNLIMITED_MARKS
    | flag::REPORT_TID
    | flag::REPORT_PIDFD
    | flag::REPORT_FD_ERROR;
const KNOWN: u32 = CLOEXEC | NONBLOCK | ADMIN | flag::FIDS;

/// Flags of fanotify_mark(2).
mod how {
    pub const ADD: u32 = 1;
    pub const REMOVE: u32 = 2;
    pub const DONT_FOLLOW: u32 = 4;
    pub const ONLYDIR: u32 = 8;
    pub const MOUNT: u32 = 0x10;
    pub const IGNORED_MASK: u32 = 0x20;
    pub const IGNORED_SURV_MODIFY: u32 = 0x40;
    pub const FLUSH: u32 = 0x80;
    pub const FILESYSTEM: u32 = 0x100;
    pub const EVICTABLE: u32 = 0x200;
    pub const IGNORE: u32 = 0x400;
    /// What is marked; neither = an inode.
    pub const OBJECT: u32 = MOUNT | FILESYSTEM;
    /// About what is ignored: without and with options of its own.
    pub const IGNORES: u32 = IGNORED_MASK | IGNORE;
    pub const KNOWN: u32 =
        ADD | REMOVE | DONT_FOLLOW | ONLYDIR | OBJECT | IGNORES | IGNORED_SURV_MODIFY | FLUSH | EVICTABLE;
}

fn fanotify_init(task: &Arc<Task>, flags: u32, event_flags: u32) -> Result<Fd> {
    let privileged = task.capable(cap::SYS_ADMIN);
    // Others are only told by handles.
    if !privileged && (flags & ADMIN != 0 || flags & flag::FIDS == 0) {
        return Err(Errno::EPERM);
    }
    check_init(flags)?;
    let allowed = OpenFlags::WRONLY
        | OpenFlags::RDWR
        | OpenFlags::APPEND
        | OpenFlags::NONBLOCK
        | OpenFlags::SYNC
        | OpenFlags::DSYNC
        | OpenFlags::CLOEXEC
        | OpenFlags::LARGEFILE
        | OpenFlags::NOATIME;
    let event_flags =
        OpenFlags::from_bits(event_flags).filter(|flags| allowed.contains(*flags)).ok_or(Errno::EINVAL)?;
    if event_flags.contains(OpenFlags::WRONLY | OpenFlags::RDWR) {
        return Err(Errno::EINVAL);
    }
    let mut own = OpenFlags::empty();
    own.set(OpenFlags::NONBLOCK, flags & NONBLOCK != 0);
    let kept = if privileged { flags } else { flags | flag::UNPRIVILEGED };
    let group = fanotify::new(kept, event_flags, own)?;
    own.set(OpenFlags::CLOEXEC, flags & CLOEXEC != 0);
    super::ipc::install(task, group, own)
}

/// Whether the flags of a group go together.
fn check_init(flags: u32) -> Result<()> {
    let has = |all: u32| flags & all == all;
    let wrong = flags & !KNOWN != 0
        || has(flag::REPORT_PIDFD | flag::REPORT_TID)
        || has(flag::CLASS)
        || flags & flag::FIDS != 0 && flags & flag::CLASS != 0
        || has(flag::REPORT_NAME) && !has(flag::REPORT_DIR_FID)
        || has(flag::REPORT_TARGET_FID) && !has(flag::REPORT_NAME | flag::REPORT_FID);
    if wrong { Err(Errno::EINVAL) } else { Ok(()) }
}

fn fanotify_mark(task: &Arc<Task>, group: Fd, flags: u32, wanted: u64, dir: Fd, path: UserStr) -> Result<()> {
    let mut wanted = u32::try_from(wanted).map_err(|_| Errno::EINVAL)?;
    check(flags, wanted)?;
    let ignores = flags & how::IGNORES;
    if ignores == how::IGNORED_MASK {
        wanted &= !mask::OPTIONS;
    }
    let file = task.files()?.get(group)?;
    let group = file.ops_as::<Group>().ok_or(Errno::EINVAL)?;
    check_group(task, group, flags, wanted)?;
    let path = find(task, flags, dir, path)?;
    let object = match flags & how::OBJECT {
        how::MOUNT => Object::Mount(path.mount().clone()),
        how::FILESYSTEM => Object::System(path.mount().fs().dev()),
        _ => Object::Inode(path.clone()),
    };
    if flags & how::FLUSH != 0 {
        group.flush(&object);
        return Ok(());
    }
    let add = flags & how::ADD != 0;
    check_object(group, flags, wanted, &path)?;
    if flags & how::OBJECT != 0 || !path.is_dir() {
        // These have no children; with a group that names directories it is implied.
        wanted &= !mask::EVENT_ON_CHILD;
    }
    handle::keep(path.dentry());
    let survives = flags & how::IGNORED_SURV_MODIFY != 0;
    let evictable = flags & how::EVICTABLE != 0;
    let options = ignores == how::IGNORE;
    group.mark(&object, Change { add, mask: wanted, ignored: ignores != 0, survives, options, evictable })
}

/// What is wrong whatever is marked.
fn check(flags: u32, wanted: u32) -> Result<()> {
    let both = |all: u32| flags & all == all;
    let fits = match flags & (how::ADD | how::REMOVE | how::FLUSH) {
        how::ADD | how::REMOVE => wanted != 0,
        how::FLUSH => flags & !(how::OBJECT | how::FLUSH) == 0,
        _ => false,
    };
    let wrong =
        flags & !how::KNOWN != 0 || both(how::OBJECT) || both(how::IGNORES) || !fits || wanted & !mask::VALID != 0;
    if wrong { Err(Errno::EINVAL) } else { Ok(()) }
}

/// What is wrong for this group.
fn check_group(task: &Arc<Task>, group: &Group, flags: u32, wanted: u32) -> Result<()> {
    let (has, object) = (group.flags(), flags & how::OBJECT);
    if object != 0 && (has & flag::UNPRIVILEGED != 0 || !task.capable(cap::SYS_ADMIN)) {
        return Err(Errno::EPERM);
    }
    // Who is told by descriptor, or of a mount, needs a path.
    let pathless = wanted & !(mask::PATHS | mask::PERMISSIONS | mask::OPTIONS) != 0;
    let wrong = wanted & mask::PERMISSIONS != 0 && group.class() == 0
        || wanted & mask::FS_ERROR != 0 && object != how::FILESYSTEM
        || flags & how::EVICTABLE != 0 && object != 0
        || pathless && (has & flag::FIDS == 0 || object == how::MOUNT)
        || wanted & mask::RENAME != 0 && has & flag::REPORT_NAME == 0;
    if wrong { Err(Errno::EINVAL) } else { Ok(()) }
}

/// What is wrong for what is to be marked.
fn check_object(group: &Group, flags: u32, wanted: u32, path: &Path) -> Result<()> {
    let (mount, inode) = (path.mount(), flags & how::OBJECT == 0);
    let add = flags & how::ADD != 0;
    let ignores = flags & how::IGNORE != 0;
    if add {
        let asks = wanted & mask::PERMISSIONS != 0 && mount.fs().name() == "proc";
        if asks || !inode && mount.flags().contains(MountFlags::INTERNAL) {
            return Err(Errno::EINVAL);
        }
        let strict = group.flags() & flag::REPORT_TARGET_FID != 0 || wanted & mask::RENAME != 0 || ignores;
        if strict && inode && !path.is_dir() && wanted & mask::DIRECTORIES != 0 {
            return Err(Errno::ENOTDIR);
        }
    }
    if group.flags() & flag::FIDS != 0 && !inode && !handle::has_handles(&**mount.fs()) {
        return Err(Errno::EOPNOTSUPP);
    }
    if add && ignores && flags & how::IGNORED_SURV_MODIFY == 0 && (!inode || path.is_dir()) {
        return Err(if inode { Errno::EISDIR } else { Errno::EINVAL });
    }
    Ok(())
}

/// What a mark is to be put on; the caller must be able to read it.
fn find(task: &Arc<Task>, flags: u32, dir: Fd, path: UserStr) -> Result<Path> {
    let path = if path.0.is_null() {
        task.files()?.get(dir)?.path().cloned().ok_or(Errno::EINVAL)?
    } else {
        let follow = if flags & how::DONT_FOLLOW != 0 { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
        path_at(task, dir, path, follow)?
    };
    if flags & how::ONLYDIR != 0 && !path.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    notify::check(&**path.inode(), &task.cred())?;
    Ok(path)
}
