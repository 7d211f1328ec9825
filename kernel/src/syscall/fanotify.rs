//! Groups and marks of fanotify. Semantics: [`crate::fs::fanotify`]; sources: fanotify_init(2), fanotify_mark(2).

use super::fs::{AtFlags, path_at};
use super::{Fd, UserStr};
use crate::fs::fanotify::{self, Change, Group, Object, mask};
use crate::fs::{OpenFlags, Path, notify};
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi as nr;

rows! {
    nr::__NR_fanotify_init, fanotify_init(flags: u32, event_flags: u32) => fanotify_init,
        Partial("objects are reported by descriptor: no FAN_REPORT_FID and what builds on it, no FAN_REPORT_PIDFD");
    nr::__NR_fanotify_mark, fanotify_mark(group: Fd, flags: u32, mask: u64, dir: Fd, path: UserStr) => fanotify_mark,
        Partial("no evictable marks, no FAN_MARK_IGNORE");
}

/// `FAN_CLOEXEC`, `FAN_NONBLOCK`.
const CLOEXEC: u32 = 1;
const NONBLOCK: u32 = 2;
const KNOWN: u32 =
    CLOEXEC | NONBLOCK | fanotify::CLASS | fanotify::UNLIMITED_QUEUE | fanotify::UNLIMITED_MARKS | fanotify::REPORT_TID;

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
    pub const KNOWN: u32 =
        ADD | REMOVE | DONT_FOLLOW | ONLYDIR | MOUNT | IGNORED_MASK | IGNORED_SURV_MODIFY | FLUSH | FILESYSTEM;
}

fn fanotify_init(task: &Arc<Task>, flags: u32, event_flags: u32) -> Result<Fd> {
    // Others may only be told of what they name themselves, by file handles.
    if !task.capable(cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
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
    let both = event_flags.contains(OpenFlags::WRONLY | OpenFlags::RDWR);
    if flags & !KNOWN != 0 || both || flags & fanotify::CLASS == fanotify::CLASS {
        return Err(Errno::EINVAL);
    }
    let mut own = OpenFlags::empty();
    own.set(OpenFlags::NONBLOCK, flags & NONBLOCK != 0);
    let group = fanotify::new(flags, event_flags, own)?;
    own.set(OpenFlags::CLOEXEC, flags & CLOEXEC != 0);
    super::ipc::install(task, group, own)
}

fn fanotify_mark(task: &Arc<Task>, group: Fd, flags: u32, wanted: u64, dir: Fd, path: UserStr) -> Result<()> {
    let wanted = u32::try_from(wanted).map_err(|_| Errno::EINVAL)?;
    check(flags, wanted)?;
    let file = task.files()?.get(group)?;
    let group = file.ops_as::<Group>().ok_or(Errno::EINVAL)?;
    if wanted & mask::PERMISSIONS != 0 && !group.asks() {
        return Err(Errno::EINVAL);
    }
    let path = find(task, flags, dir, path)?;
    let object = match flags & (how::MOUNT | how::FILESYSTEM) {
        how::MOUNT => Object::Mount(path.mount().clone()),
        how::FILESYSTEM => Object::System(path.mount().fs().dev()),
        _ => Object::Inode(path),
    };
    if flags & how::FLUSH != 0 {
        group.flush(&object);
        return Ok(());
    }
    let ignored = flags & how::IGNORED_MASK != 0;
    let survives = flags & how::IGNORED_SURV_MODIFY != 0;
    group.mark(&object, Change { add: flags & how::ADD != 0, mask: wanted, ignored, survives })
}

/// What is wrong whatever is marked.
fn check(flags: u32, wanted: u32) -> Result<()> {
    let both = flags & how::MOUNT != 0 && flags & how::FILESYSTEM != 0;
    let fits = match flags & (how::ADD | how::REMOVE | how::FLUSH) {
        how::ADD | how::REMOVE => wanted != 0,
        how::FLUSH => flags & !(how::MOUNT | how::FILESYSTEM | how::FLUSH) == 0,
        _ => false,
    };
    if flags & !how::KNOWN != 0 || both || !fits || wanted & !mask::VALID != 0 { Err(Errno::EINVAL) } else { Ok(()) }
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
