//! Attributes: stat, access, modes, owners, times, sizes, file-system facts.
//! Semantics: [`crate::fs`]; sources: the calls' man pages, inode(7).

use super::fs::{AtFlags, Caller, name_at, path_at};
use super::{Fd, UserStr};
use crate::fs::ahead::{self, Asked};
use crate::fs::notify::{self, Events};
use crate::fs::walk::Sight;
use crate::fs::{
    Attr, Dev, File, InodeFlags, Kind, Mode, Mount, MountFlags, OpenFlags, Path, SetAttr, StatFs, Time, perm,
};
use crate::task::ns::user::Which;
use crate::task::{Cred, Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi;
use umbel_abi::linux::uapi as nr;
use umbel_mm::user::{UserAddr, read_val, write_val};

rows! {
    nr::__NR_stat, stat(path: UserStr, buf: UserAddr) => stat, Full;
    nr::__NR_lstat, lstat(path: UserStr, buf: UserAddr) => lstat, Full;
    nr::__NR_fstat, fstat(fd: Fd, buf: UserAddr) => fstat, Full;
    nr::__NR_newfstatat, newfstatat(dir: Fd, path: UserStr, buf: UserAddr, flags: AtFlags) => newfstatat, Full;
    nr::__NR_statx, statx(dir: Fd, path: UserStr, flags: AtFlags, mask: u32, buf: UserAddr) => statx, Full;
    nr::__NR_statfs, statfs(path: UserStr, buf: UserAddr) => statfs, Full;
    nr::__NR_fstatfs, fstatfs(fd: Fd, buf: UserAddr) => fstatfs, Full;
    NR_FILE_GETATTR, file_getattr(dir: Fd, path: UserStr, to: UserAddr, size: u64, flags: AtFlags) => file_getattr, Full;
    NR_FILE_SETATTR, file_setattr(dir: Fd, path: UserStr, from: UserAddr, size: u64, flags: AtFlags) => file_setattr,
        Partial("no projects, no extent sizes");
    nr::__NR_ustat, ustat(dev: u64, buf: UserAddr) => ustat, Full;
    nr::__NR_access, access(path: UserStr, mode: u32) => access, Full;
    nr::__NR_faccessat, faccessat(dir: Fd, path: UserStr, mode: u32) => faccessat, Full;
    nr::__NR_faccessat2, faccessat2(dir: Fd, path: UserStr, mode: u32, flags: AtFlags) => faccessat2, Full;
    nr::__NR_chmod, chmod(path: UserStr, mode: u32) => chmod, Full;
    nr::__NR_fchmod, fchmod(fd: Fd, mode: u32) => fchmod, Full;
    nr::__NR_fchmodat, fchmodat(dir: Fd, path: UserStr, mode: u32) => fchmodat, Full;
    nr::__NR_fchmodat2, fchmodat2(dir: Fd, path: UserStr, mode: u32, flags: AtFlags) => fchmodat2, Full;
    nr::__NR_chown, chown(path: UserStr, uid: u32, gid: u32) => chown, Full;
    nr::__NR_lchown, lchown(path: UserStr, uid: u32, gid: u32) => lchown, Full;
    nr::__NR_fchown, fchown(fd: Fd, uid: u32, gid: u32) => fchown, Full;
    nr::__NR_fchownat, fchownat(dir: Fd, path: UserStr, uid: u32, gid: u32, flags: AtFlags) => fchownat, Full;
    nr::__NR_utime, utime(path: UserStr, times: UserAddr) => utime, Full;
    nr::__NR_utimes, utimes(path: UserStr, times: UserAddr) => utimes, Full;
    nr::__NR_futimesat, futimesat(dir: Fd, path: UserStr, times: UserAddr) => futimesat, Full;
    nr::__NR_utimensat, utimensat(dir: Fd, path: UserStr, times: UserAddr, flags: AtFlags) => utimensat, Full;
}

/// Numbers that are missing in older headers.
const NR_FILE_GETATTR: u32 = 468;
const NR_FILE_SETATTR: u32 = 469;

/// What a descriptor or a name stands for.
enum Object {
    File(Arc<File>),
    Path(Path),
    /// Looked at only: its attributes, and the directory in which it is.
    Seen(Path, Attr),
}

impl Object {
    /// As [`path_at`]; an empty or null name with `AT_EMPTY_PATH` means the open file, which may have no name.
    fn at(task: &Task, dir: Fd, path: UserStr, flags: AtFlags) -> Result<Object> {
        if flags.contains(AtFlags::EMPTY_PATH) && dir != Fd::CWD && (path.0.is_null() || path.read()?.is_empty()) {
            return task.files()?.get(dir).map(Object::File);
        }
        path_at(task, dir, path, flags).map(Object::Path)
    }

    /// As [`Self::at`], for calls that show it and change nothing.
    fn look(task: &Task, dir: Fd, path: UserStr, flags: AtFlags) -> Result<Object> {
        if flags.contains(AtFlags::EMPTY_PATH) {
            return Object::at(task, dir, path, flags);
        }
        Object::look_at(task, &Caller::new(task)?, dir, &path.read()?, flags)
    }

    /// As [`Self::look`], with a name that is not empty.
    fn look_at(task: &Task, caller: &Caller, dir: Fd, text: &[u8], flags: AtFlags) -> Result<Object> {
        Ok(match caller.names().look(&name_at(task, dir, text)?, flags.follow())? {
            Sight::Path(path) => Object::Path(path),
            Sight::Attr(dir, attr) => Object::Seen(dir, attr),
        })
    }

    fn attr(&self) -> Result<Attr> {
        match self {
            Object::File(file) => file.attr(),
            Object::Path(path) => path.attr(),
            Object::Seen(dir, attr) => Ok(dir.mount().shown(*attr)),
        }
    }

    /// The directory in which it is, if it is neither a directory nor a link.
    fn dir(self) -> Option<Path> {
        match self {
            Object::Seen(dir, _) => Some(dir),
            Object::Path(path) if path.inode().kind() == Kind::Regular => {
                Path::new(path.mount().clone(), path.dentry().parent()?).ok()
            }
            _ => None,
        }
    }

    fn mount_id(&self) -> u32 {
        match self {
            Object::File(file) => file.path().map_or(0, |path| path.mount().id()),
            Object::Path(path) => path.mount().id(),
            Object::Seen(dir, _) => dir.mount().id(),
        }
    }

    fn flags(&self) -> InodeFlags {
        match self {
            Object::File(file) => file.inode().map_or(InodeFlags::empty(), |inode| inode.flags()),
            Object::Path(path) => path.inode().flags(),
            // What has any has an inode.
            Object::Seen(..) => InodeFlags::empty(),
        }
    }

    fn is_mount_root(&self) -> bool {
        let is_root = |path: &Path| path.is_mount_root();
        match self {
            Object::File(file) => file.path().is_some_and(is_root),
            Object::Path(path) => is_root(path),
            Object::Seen(..) => false,
        }
    }

    /// The place, for changes. Files without a name have none.
    fn path(self) -> Result<Path> {
        match self {
            Object::File(file) => file.path().cloned().ok_or(Errno::EINVAL),
            Object::Path(path) => Ok(path),
            Object::Seen(..) => Err(Errno::EINVAL),
        }
    }
}

/// `STATX_MNT_ID_UNIQUE`.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;
const STAT_FLAGS: AtFlags = NOFOLLOW.union(AtFlags::EMPTY_PATH).union(AtFlags::NO_AUTOMOUNT);

fn stat(task: &Arc<Task>, path: UserStr, buf: UserAddr) -> Result<()> {
    newfstatat(task, Fd::CWD, path, buf, AtFlags::empty())
}

fn lstat(task: &Arc<Task>, path: UserStr, buf: UserAddr) -> Result<()> {
    newfstatat(task, Fd::CWD, path, buf, NOFOLLOW)
}

fn fstat(task: &Arc<Task>, fd: Fd, buf: UserAddr) -> Result<()> {
    write_val(buf, &task.files()?.get(fd)?.attr()?.shown_to(&task.cred()).to_stat())
}

fn newfstatat(task: &Arc<Task>, dir: Fd, path: UserStr, buf: UserAddr, flags: AtFlags) -> Result<()> {
    flags.only(STAT_FLAGS)?;
    if flags.contains(AtFlags::EMPTY_PATH) {
        return write_val(buf, &Object::at(task, dir, path, flags)?.attr()?.shown_to(&task.cred()).to_stat());
    }
    let (text, caller) = (path.read()?, Caller::new(task)?);
    let object = Object::look_at(task, &caller, dir, &text, flags)?;
    write_val(buf, &object.attr()?.shown_to(&caller.cred).to_stat())?;
    if let Some(within) = object.dir().filter(|_| dir == Fd::CWD) {
        let name = text.rsplit(|byte| *byte == b'/').next().unwrap_or(&[]);
        ahead::prepare(&Asked { task, cred: &caller.cred, dir: &within, text: &text, name, flags: flags.bits() });
    }
    Ok(())
}

fn statx(task: &Arc<Task>, dir: Fd, path: UserStr, flags: AtFlags, mask: u32, buf: UserAddr) -> Result<()> {
    let sync = AtFlags::STATX_FORCE_SYNC | AtFlags::STATX_DONT_SYNC;
    flags.only(STAT_FLAGS | sync)?;
    if flags.contains(sync) || mask & uapi::STATX__RESERVED != 0 {
        return Err(Errno::EINVAL);
    }
    let object = Object::look(task, dir, path, flags)?;
    let mut out = object.attr()?.shown_to(&task.cred()).to_statx();
    let unique = mask & STATX_MNT_ID_UNIQUE;
    out.stx_mask |= if unique != 0 { unique } else { uapi::STATX_MNT_ID };
    let id = u64::from(object.mount_id());
    out.stx_mnt_id = if unique != 0 && id != 0 { crate::fs::Mount::UNIQUE_BASE + id } else { id };
    let known = InodeFlags::FIXED | InodeFlags::NODUMP;
    // The three have the same bits in both.
    out.stx_attributes_mask = u64::from(uapi::STATX_ATTR_MOUNT_ROOT | known.bits());
    out.stx_attributes |= u64::from((object.flags() & known).bits());
    if object.is_mount_root() {
        out.stx_attributes |= u64::from(uapi::STATX_ATTR_MOUNT_ROOT);
    }
    write_val(buf, &out)
}

fn statfs(task: &Arc<Task>, path: UserStr, buf: UserAddr) -> Result<()> {
    let path = path_at(task, Fd::CWD, path, AtFlags::empty())?;
    write_val(buf, &encode_statfs(&path.mount().fs().statfs()?, mount_flags(path.mount())))
}

fn fstatfs(task: &Arc<Task>, fd: Fd, buf: UserAddr) -> Result<()> {
    let file = task.files()?.get(fd)?;
    let flags = file.path().map_or(0, |path| mount_flags(path.mount()));
    write_val(buf, &encode_statfs(&file.ops().statfs(&file)?, flags))
}

/// What chattr(1) does: `FS_IOC_SETFLAGS`.
///
/// # Errors
/// `ENOTTY` for what has no such flags, `EOPNOTSUPP` for flags that there are not, `EPERM`, `EROFS`.
pub(super) fn set_inode_flags(task: &Task, path: &Path, raw: u32) -> Result<()> {
    let inode = path.inode();
    if !matches!(inode.kind(), Kind::Regular | Kind::Directory) {
        return Err(Errno::ENOTTY);
    }
    let cred = task.cred();
    path.mount().check_writable()?;
    perm::check_owner(&**inode, &cred)?;
    let new = InodeFlags::from_bits(raw).ok_or(Errno::EOPNOTSUPP)?;
    let changed = (new ^ inode.flags()).intersects(InodeFlags::FIXED);
    if changed && !cred.capable(cap::LINUX_IMMUTABLE) {
        return Err(Errno::EPERM);
    }
    inode.set_flags(new)?;
    notify::changed(path.dentry(), Events::ATTRIB);
    Ok(())
}

/// Flags and their names in `struct file_attr`.
const XFLAGS: [(InodeFlags, u32); 4] = [
    (InodeFlags::IMMUTABLE, uapi::FS_XFLAG_IMMUTABLE),
    (InodeFlags::APPEND, uapi::FS_XFLAG_APPEND),
    (InodeFlags::NOATIME, uapi::FS_XFLAG_NOATIME),
    (InodeFlags::NODUMP, uapi::FS_XFLAG_NODUMP),
];
/// Bytes of `struct file_attr`: the flags, and three words that no file system here knows.
const FILE_ATTR: u64 = 24;

fn check_file_attr(size: u64, flags: AtFlags) -> Result<()> {
    flags.only(NOFOLLOW | AtFlags::EMPTY_PATH)?;
    match size {
        0..FILE_ATTR => Err(Errno::EINVAL),
        4097.. => Err(Errno::E2BIG),
        _ => Ok(()),
    }
}

fn file_getattr(task: &Arc<Task>, dir: Fd, path: UserStr, to: UserAddr, size: u64, flags: AtFlags) -> Result<()> {
    check_file_attr(size, flags)?;
    let path = Object::at(task, dir, path, flags)?.path()?;
    if !has_flags(&path) {
        return Err(Errno::EOPNOTSUPP);
    }
    let set = path.inode().flags();
    let all = XFLAGS.iter().filter(|(flag, _)| set.contains(*flag)).fold(0, |all, (_, xflag)| all | u64::from(*xflag));
    write_val(to, &[all, 0, 0])?;
    // What a newer caller has room for beyond that is zero.
    umbel_mm::user::copy_out(to.add(FILE_ATTR), &alloc::vec![0; (size - FILE_ATTR) as usize])
}

fn file_setattr(task: &Arc<Task>, dir: Fd, path: UserStr, from: UserAddr, size: u64, flags: AtFlags) -> Result<()> {
    check_file_attr(size, flags)?;
    let [wanted, first, second] = read_val::<[u64; 3]>(from)?;
    let rest: alloc::vec::Vec<u8> = umbel_mm::user::read_vec(from.add(FILE_ATTR), (size - FILE_ATTR) as usize)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let path = Object::at(task, dir, path, flags)?.path()?;
    let known = XFLAGS.iter().fold(0, |all, (_, xflag)| all | u64::from(*xflag));
    if wanted & !known != 0 || first != 0 || second != 0 || !has_flags(&path) {
        return Err(Errno::EOPNOTSUPP);
    }
    let named = XFLAGS.iter().filter(|(_, xflag)| wanted & u64::from(*xflag) != 0);
    let new = named.fold(InodeFlags::empty(), |all, (flag, _)| all | *flag);
    set_inode_flags(task, &path, new.bits())
}

/// Whether it is an object of a file system with inode flags.
fn has_flags(path: &Path) -> bool {
    matches!(path.mount().fs().name(), "tmpfs" | "overlay")
        && matches!(path.inode().kind(), Kind::Regular | Kind::Directory)
}

fn ustat(task: &Arc<Task>, dev: u64, buf: UserAddr) -> Result<()> {
    let dev = Dev::decode(dev).encode();
    let space = task.fs()?.namespace().ok_or(Errno::EINVAL)?;
    let mount = space.mounts()?.into_iter().find(|mount| mount.fs().dev() == dev).ok_or(Errno::EINVAL)?;
    let facts = mount.fs().statfs()?;
    // Free blocks (32 bits and a gap), free inodes, two names that nobody fills in.
    write_val(buf, &[u64::from(facts.free as u32), facts.files_free, 0, 0])
}

/// A mount's flags as statfs(2) shows them (`ST_*`).
fn mount_flags(mount: &Mount) -> u32 {
    const SAME: MountFlags = MountFlags::RDONLY
        .union(MountFlags::NOSUID)
        .union(MountFlags::NODEV)
        .union(MountFlags::NOEXEC)
        .union(MountFlags::NOATIME)
        .union(MountFlags::NODIRATIME);
    const RELATIME: u32 = 0x1000;
    const NOSYMFOLLOW: u32 = 0x2000;
    let flags = mount.flags();
    let mut shown = (flags & SAME).bits();
    if mount.fs_read_only() {
        shown |= MountFlags::RDONLY.bits();
    }
    if !flags.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME) {
        shown |= RELATIME;
    }
    if flags.contains(MountFlags::NOSYMFOLLOW) {
        shown |= NOSYMFOLLOW;
    }
    shown
}

fn encode_statfs(facts: &StatFs, flags: u32) -> uapi::statfs {
    /// `ST_VALID`: the flags mean something.
    const VALID: u32 = 0x20;
    uapi::statfs {
        f_type: i64::from(facts.magic),
        f_bsize: i64::from(facts.block_size),
        f_blocks: facts.blocks as i64,
        f_bfree: facts.free as i64,
        f_bavail: facts.free as i64,
        f_files: facts.files as i64,
        f_ffree: facts.files_free as i64,
        f_fsid: uapi::__kernel_fsid_t { val: [facts.fsid as i32, (facts.fsid >> 32) as i32] },
        f_namelen: 255,
        f_frsize: i64::from(facts.block_size),
        f_flags: i64::from(flags | VALID),
        f_spare: [0; 4],
    }
}

fn access(task: &Arc<Task>, path: UserStr, mode: u32) -> Result<()> {
    faccessat2(task, Fd::CWD, path, mode, AtFlags::empty())
}

fn faccessat(task: &Arc<Task>, dir: Fd, path: UserStr, mode: u32) -> Result<()> {
    faccessat2(task, dir, path, mode, AtFlags::empty())
}

fn faccessat2(task: &Arc<Task>, dir: Fd, path: UserStr, mode: u32, flags: AtFlags) -> Result<()> {
    /// `AT_EACCESS`, which shares its bit with `AT_REMOVEDIR`.
    const EFFECTIVE: AtFlags = AtFlags::REMOVEDIR;
    flags.only(NOFOLLOW | AtFlags::EMPTY_PATH | EFFECTIVE)?;
    let want = perm::Want::from_bits(mode).ok_or(Errno::EINVAL)?;
    let text = path.read()?;
    let mut caller = Caller::new(task)?;
    if !flags.contains(EFFECTIVE) {
        caller.cred = real(&caller.cred);
    }
    let path = if text.is_empty() {
        path_at(task, dir, path, flags)?
    } else {
        caller.names().find(&super::fs::name_at(task, dir, &text)?, flags.follow())?
    };
    let no_exec = path.inode().kind() == Kind::Regular && path.mount().flags().contains(MountFlags::NOEXEC);
    if want.contains(perm::Want::EXEC) && no_exec {
        return Err(Errno::EACCES);
    }
    perm::check(&**path.inode(), &caller.cred, want)?;
    let special = !matches!(path.inode().kind(), Kind::Regular | Kind::Directory | Kind::Symlink);
    if want.contains(perm::Want::WRITE) && !special { path.mount().check_writable() } else { Ok(()) }
}

/// Credentials as access(2) takes them: the real ids.
fn real(cred: &Arc<Cred>) -> Arc<Cred> {
    if cred.fsuid == cred.uid && cred.fsgid == cred.gid {
        return cred.clone();
    }
    let effective = if cred.uid == 0 { cred.permitted } else { 0 };
    Arc::new(Cred { fsuid: cred.uid, fsgid: cred.gid, effective, ..(**cred).clone() })
}

fn chmod(task: &Arc<Task>, path: UserStr, mode: u32) -> Result<()> {
    fchmodat2(task, Fd::CWD, path, mode, AtFlags::empty())
}

fn fchmod(task: &Arc<Task>, fd: Fd, mode: u32) -> Result<()> {
    change_mode(task, &open_path(task, fd)?, mode)
}

fn fchmodat(task: &Arc<Task>, dir: Fd, path: UserStr, mode: u32) -> Result<()> {
    fchmodat2(task, dir, path, mode, AtFlags::empty())
}

fn fchmodat2(task: &Arc<Task>, dir: Fd, path: UserStr, mode: u32, flags: AtFlags) -> Result<()> {
    flags.only(NOFOLLOW | AtFlags::EMPTY_PATH)?;
    let path = Object::at(task, dir, path, flags)?.path()?;
    if path.inode().kind() == Kind::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    change_mode(task, &path, mode)
}

/// The place of an open file, for calls that change it: not with `O_PATH`.
fn open_path(task: &Task, fd: Fd) -> Result<Path> {
    let file = task.files()?.get(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    file.path().cloned().ok_or(Errno::EINVAL)
}

fn change_mode(task: &Task, path: &Path, mode: Mode) -> Result<()> {
    path.mount().check_writable()?;
    perm::check_free(&**path.inode())?;
    let cred = task.cred();
    perm::check_owner(&**path.inode(), &cred)?;
    let mut mode = mode & 0o7777;
    if !cred.in_group(path.inode().owner()?.gid) && !cred.capable(cap::FSETID) {
        mode &= !0o2000;
    }
    path.inode().set_attr(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
    notify::changed(path.dentry(), Events::ATTRIB);
    Ok(())
}

fn chown(task: &Arc<Task>, path: UserStr, uid: u32, gid: u32) -> Result<()> {
    fchownat(task, Fd::CWD, path, uid, gid, AtFlags::empty())
}

fn lchown(task: &Arc<Task>, path: UserStr, uid: u32, gid: u32) -> Result<()> {
    fchownat(task, Fd::CWD, path, uid, gid, NOFOLLOW)
}

fn fchown(task: &Arc<Task>, fd: Fd, uid: u32, gid: u32) -> Result<()> {
    change_owner(task, &open_path(task, fd)?, uid, gid)
}

fn fchownat(task: &Arc<Task>, dir: Fd, path: UserStr, uid: u32, gid: u32, flags: AtFlags) -> Result<()> {
    flags.only(NOFOLLOW | AtFlags::EMPTY_PATH)?;
    change_owner(task, &Object::at(task, dir, path, flags)?.path()?, uid, gid)
}

/// Changes the owners that are not -1; takes the set-id bits of files that can be executed away.
fn change_owner(task: &Task, path: &Path, uid: u32, gid: u32) -> Result<()> {
    path.mount().check_writable()?;
    perm::check_free(&**path.inode())?;
    let cred = task.cred();
    let owner = path.inode().owner()?;
    let given = |which, id: u32| {
        if id == u32::MAX { Ok(None) } else { cred.user_ns.take(which, id).map(Some) }
    };
    let (uid, gid) = (given(Which::Users, uid)?, given(Which::Groups, gid)?);
    let capable = |cap| cred.capable_for((owner.uid, owner.gid), cap);
    let mut mode = owner.mode & !0o4000;
    if owner.mode & 0o010 != 0 || !cred.in_group(owner.gid) && !capable(cap::FSETID) {
        mode &= !0o2000;
    }
    let changes = path.inode().kind() != Kind::Directory && mode != owner.mode;
    // Who asks for nothing, of a file that nothing is taken from, may do that to any.
    let asks = uid.is_some() || gid.is_some() || changes;
    if asks && !capable(cap::CHOWN) {
        let keeps = uid.is_none_or(|uid| uid == owner.uid);
        let allowed = gid.is_none_or(|gid| gid == owner.gid || cred.in_group(gid));
        if owner.uid != cred.fsuid || !keeps || !allowed {
            return Err(Errno::EPERM);
        }
    }
    path.inode().set_attr(&SetAttr { uid, gid, mode: changes.then_some(mode), ..SetAttr::default() })?;
    notify::changed(path.dentry(), Events::ATTRIB);
    Ok(())
}

/// What to set a time to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NewTime {
    Now,
    Keep,
    Is(Time),
}

fn utime(task: &Arc<Task>, path: UserStr, times: UserAddr) -> Result<()> {
    let new = if times.is_null() {
        [NewTime::Now; 2]
    } else {
        read_val::<[i64; 2]>(times)?.map(|sec| NewTime::Is(Time { sec, ns: 0 }))
    };
    set_times(task, &path_at(task, Fd::CWD, path, AtFlags::empty())?, new)
}

fn utimes(task: &Arc<Task>, path: UserStr, times: UserAddr) -> Result<()> {
    futimesat(task, Fd::CWD, path, times)
}

fn futimesat(task: &Arc<Task>, dir: Fd, path: UserStr, times: UserAddr) -> Result<()> {
    let mut new = [NewTime::Now; 2];
    if !times.is_null() {
        let raw: [[i64; 2]; 2] = read_val(times)?;
        for (place, [sec, us]) in new.iter_mut().zip(raw) {
            let us = u32::try_from(us).ok().filter(|&us| us < 1_000_000).ok_or(Errno::EINVAL)?;
            *place = NewTime::Is(Time { sec, ns: us * 1000 });
        }
    }
    let flags = if path.0.is_null() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    set_times(task, &Object::at(task, dir, path, flags)?.path()?, new)
}

fn utimensat(task: &Arc<Task>, dir: Fd, path: UserStr, times: UserAddr, flags: AtFlags) -> Result<()> {
    flags.only(NOFOLLOW | AtFlags::EMPTY_PATH)?;
    let mut new = [NewTime::Now; 2];
    if !times.is_null() {
        let raw: [[i64; 2]; 2] = read_val(times)?;
        for (place, [sec, ns]) in new.iter_mut().zip(raw) {
            *place = match u32::try_from(ns).map_err(|_| Errno::EINVAL)? {
                uapi::UTIME_NOW => NewTime::Now,
                uapi::UTIME_OMIT => NewTime::Keep,
                ns if ns < 1_000_000_000 => NewTime::Is(Time { sec, ns }),
                _ => return Err(Errno::EINVAL),
            };
        }
    }
    if new == [NewTime::Keep; 2] {
        return Ok(());
    }
    // A null name stands for the descriptor itself.
    if path.0.is_null() && dir != Fd::CWD {
        return set_times(task, &open_path(task, dir)?, new);
    }
    set_times(task, &Object::at(task, dir, path, flags)?.path()?, new)
}

fn set_times(task: &Task, path: &Path, new: [NewTime; 2]) -> Result<()> {
    path.mount().check_writable()?;
    let fixed = if new == [NewTime::Now; 2] { InodeFlags::IMMUTABLE } else { InodeFlags::FIXED };
    if path.inode().flags().intersects(fixed) {
        return Err(Errno::EPERM);
    }
    let cred = task.cred();
    if perm::check_owner(&**path.inode(), &cred).is_err() {
        // Others who may write may set the times to now.
        if new != [NewTime::Now; 2] {
            return Err(Errno::EPERM);
        }
        perm::check(&**path.inode(), &cred, perm::Want::WRITE)?;
    }
    let now = Time::now();
    let time = |new| match new {
        NewTime::Now => Some(now),
        NewTime::Keep => None,
        NewTime::Is(time) => Some(time),
    };
    let [atime, mtime] = new.map(time);
    path.inode().set_attr(&SetAttr { atime, mtime, ..SetAttr::default() })?;
    let events = match (atime, mtime) {
        (Some(_), None) => Events::ACCESS,
        (None, Some(_)) => Events::MODIFY,
        _ => Events::ATTRIB,
    };
    notify::changed(path.dentry(), events);
    Ok(())
}
