//! Names: open, make, link, remove, rename; current and root directory; listings. Semantics: [`crate::fs`].

use super::{ArgFmt, Fd, FromArg, UserStr};
use crate::fs::walk::{Follow, Resolve};
use crate::fs::{
    Dev, DirEntry, Existing, File, FsContext, Kind, Name, Names, NewNode, OnExec, OpenFlags, Path, Removal, Whence,
    perm,
};
use crate::task::{Cred, Task, cap};
use crate::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_abi::linux::uapi;
use umbel_abi::linux::uapi as nr;
use umbel_mm::user::{UserAddr, copy_out, copy_out_partial, read_val, read_vec};

rows! {
    nr::__NR_open, open(path: UserStr, flags: OpenFlags, mode: u32) => open, Full;
    nr::__NR_openat, openat(dir: Fd, path: UserStr, flags: OpenFlags, mode: u32) => openat, Full;
    nr::__NR_openat2, openat2(dir: Fd, path: UserStr, how: UserAddr, size: u64) => openat2, Full;
    nr::__NR_memfd_create, memfd_create(name: UserStr, flags: u32) => memfd_create, Partial("no huge pages");
    nr::__NR_memfd_secret, memfd_secret(flags: u32) => memfd_secret, Partial("direct and spliced I/O reach its pages");
    nr::__NR_creat, creat(path: UserStr, mode: u32) => creat, Full;
    nr::__NR_mkdir, mkdir(path: UserStr, mode: u32) => mkdir, Full;
    nr::__NR_mkdirat, mkdirat(dir: Fd, path: UserStr, mode: u32) => mkdirat, Full;
    nr::__NR_mknod, mknod(path: UserStr, mode: u32, dev: u64) => mknod, Full;
    nr::__NR_mknodat, mknodat(dir: Fd, path: UserStr, mode: u32, dev: u64) => mknodat, Full;
    nr::__NR_symlink, symlink(target: UserStr, path: UserStr) => symlink, Full;
    nr::__NR_symlinkat, symlinkat(target: UserStr, dir: Fd, path: UserStr) => symlinkat, Full;
    nr::__NR_link, link(old: UserStr, new: UserStr) => link, Full;
    nr::__NR_linkat, linkat(old_dir: Fd, old: UserStr, new_dir: Fd, new: UserStr, flags: AtFlags) => linkat, Full;
    nr::__NR_unlink, unlink(path: UserStr) => unlink, Full;
    nr::__NR_unlinkat, unlinkat(dir: Fd, path: UserStr, flags: AtFlags) => unlinkat, Full;
    nr::__NR_rmdir, rmdir(path: UserStr) => rmdir, Full;
    nr::__NR_rename, rename(old: UserStr, new: UserStr) => rename, Full;
    nr::__NR_renameat, renameat(old_dir: Fd, old: UserStr, new_dir: Fd, new: UserStr) => renameat, Full;
    nr::__NR_renameat2, renameat2(old_dir: Fd, old: UserStr, new_dir: Fd, new: UserStr, flags: u32) => renameat2, Full;
    nr::__NR_readlink, readlink(path: UserStr, buf: UserAddr, len: i32) => readlink, Full;
    nr::__NR_readlinkat, readlinkat(dir: Fd, path: UserStr, buf: UserAddr, len: i32) => readlinkat, Full;
    nr::__NR_getdents, getdents(fd: Fd, buf: UserAddr, len: u32) => getdents, Full;
    nr::__NR_getdents64, getdents64(fd: Fd, buf: UserAddr, len: u32) => getdents64, Full;
    nr::__NR_getcwd, getcwd(buf: UserAddr, len: u64) => getcwd, Full;
    nr::__NR_chdir, chdir(path: UserStr) => chdir, Full;
    nr::__NR_fchdir, fchdir(fd: Fd) => fchdir, Full;
    nr::__NR_chroot, chroot(path: UserStr) => chroot, Full;
    nr::__NR_umask, umask(mask: u32) => umask, Full;
}

bitflags::bitflags! {
    /// `AT_*` flags.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AtFlags: u32 {
        const SYMLINK_NOFOLLOW = uapi::AT_SYMLINK_NOFOLLOW;
        /// Also `AT_EACCESS`.
        const REMOVEDIR = uapi::AT_REMOVEDIR;
        const SYMLINK_FOLLOW = uapi::AT_SYMLINK_FOLLOW;
        const NO_AUTOMOUNT = uapi::AT_NO_AUTOMOUNT;
        const EMPTY_PATH = uapi::AT_EMPTY_PATH;
        const STATX_FORCE_SYNC = uapi::AT_STATX_FORCE_SYNC;
        const STATX_DONT_SYNC = uapi::AT_STATX_DONT_SYNC;
    }
}

crate::flag_args!(AtFlags);

impl AtFlags {
    /// `EINVAL` if any flag but `allowed` is set.
    pub(super) fn only(self, allowed: AtFlags) -> Result<AtFlags> {
        if allowed.contains(self) { Ok(self) } else { Err(Errno::EINVAL) }
    }

    /// What to do with a link at the end.
    pub(super) fn follow(self) -> Follow {
        if self.contains(AtFlags::SYMLINK_NOFOLLOW) { Follow::No } else { Follow::Yes }
    }
}

impl FromArg for OpenFlags {
    /// open(2) ignores flags that it does not know.
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(OpenFlags::from_bits_truncate(raw as u32))
    }
}

impl ArgFmt for OpenFlags {
    fn arg_fmt(&self, _: &Task, out: &mut String) {
        out.push_str(match self.bits() & uapi::O_ACCMODE {
            uapi::O_RDONLY => "O_RDONLY",
            uapi::O_WRONLY => "O_WRONLY",
            _ => "O_RDWR",
        });
        for (name, flag) in self.iter_names() {
            if !matches!(flag, OpenFlags::WRONLY | OpenFlags::RDWR) {
                out.push_str("|O_");
                out.push_str(name);
            }
        }
    }
}

/// Who calls, for operations on names.
pub(super) struct Caller {
    pub context: Arc<FsContext>,
    pub cred: Arc<Cred>,
}

impl Caller {
    pub fn new(task: &Task) -> Result<Caller> {
        Ok(Caller { context: task.fs()?, cred: task.cred() })
    }

    pub fn names(&self) -> Names<'_> {
        Names { context: &self.context, cred: &self.cred }
    }
}

/// The name `text` relative to `dir`, whose descriptor is looked at only if it matters.
pub(super) fn name_at<'a>(task: &Task, dir: Fd, text: &'a [u8]) -> Result<Name<'a>> {
    if text.is_empty() {
        return Err(Errno::ENOENT);
    }
    if dir == Fd::CWD || text.first() == Some(&b'/') {
        return Ok(Name::new(text));
    }
    let file = task.files()?.get(dir)?;
    let start = file.path().ok_or(Errno::ENOTDIR)?.clone();
    Ok(Name { start: Some(start), text })
}

/// Walks to `path` relative to `dir`; with `AT_EMPTY_PATH` an empty one means `dir` itself.
pub(super) fn path_at(task: &Task, dir: Fd, path: UserStr, flags: AtFlags) -> Result<Path> {
    let text = path.read()?;
    if text.is_empty() && flags.contains(AtFlags::EMPTY_PATH) {
        if dir == Fd::CWD {
            return Ok(task.fs()?.cwd());
        }
        return task.files()?.get(dir)?.path().cloned().ok_or(Errno::EBADF);
    }
    let caller = Caller::new(task)?;
    caller.names().find(&name_at(task, dir, &text)?, flags.follow())
}

fn open(task: &Arc<Task>, path: UserStr, flags: OpenFlags, mode: u32) -> Result<Fd> {
    openat(task, Fd::CWD, path, flags, mode)
}

fn creat(task: &Arc<Task>, path: UserStr, mode: u32) -> Result<Fd> {
    openat(task, Fd::CWD, path, OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC, mode)
}

fn openat(task: &Arc<Task>, dir: Fd, path: UserStr, flags: OpenFlags, mode: u32) -> Result<Fd> {
    let text = path.read()?;
    let caller = Caller::new(task)?;
    let flags = if flags.contains(OpenFlags::PATH) { flags & PATH_FLAGS } else { flags | OpenFlags::LARGEFILE };
    check_flags(flags)?;
    let file = caller.names().open(&name_at(task, dir, &text)?, flags, mode, Some(task))?;
    install(task, file, flags)
}

/// What `O_PATH` leaves of other flags.
const PATH_FLAGS: OpenFlags =
    OpenFlags::PATH.union(OpenFlags::DIRECTORY).union(OpenFlags::NOFOLLOW).union(OpenFlags::CLOEXEC);

/// `O_TMPFILE` without the `O_DIRECTORY` that is part of it.
const TMPFILE_BIT: u32 = uapi::O_TMPFILE & !uapi::O_DIRECTORY;

/// Combinations that cannot be.
fn check_flags(flags: OpenFlags) -> Result<()> {
    let creates_directory = flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY);
    let half_tmpfile = flags.bits() & TMPFILE_BIT != 0 && !flags.contains(OpenFlags::DIRECTORY);
    if creates_directory || half_tmpfile { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Gives `file` a descriptor.
fn install(task: &Task, file: Arc<File>, flags: OpenFlags) -> Result<Fd> {
    let on_exec = OnExec::close_if(flags.contains(OpenFlags::CLOEXEC));
    task.files()?.install_opened(file, on_exec, task.process().limit(uapi::RLIMIT_NOFILE))
}

fn openat2(task: &Arc<Task>, dir: Fd, path: UserStr, how: UserAddr, size: u64) -> Result<Fd> {
    let [flags, mode, resolve] = read_how(how, size)?;
    let flags = u32::try_from(flags).ok().and_then(OpenFlags::from_bits).ok_or(Errno::EINVAL)?;
    let resolve = u32::try_from(resolve).ok().and_then(Resolve::from_bits).ok_or(Errno::EINVAL)?;
    let makes = flags.contains(OpenFlags::CREAT) || flags.bits() & TMPFILE_BIT != 0;
    let foreign = flags.contains(OpenFlags::PATH) && !PATH_FLAGS.contains(flags);
    let twice = resolve.contains(Resolve::BENEATH | Resolve::IN_ROOT);
    if twice || foreign || mode > 0o7777 || mode != 0 && !makes {
        return Err(Errno::EINVAL);
    }
    check_flags(flags)?;
    if resolve.contains(Resolve::CACHED) && (makes || flags.contains(OpenFlags::TRUNC)) {
        return Err(Errno::EAGAIN);
    }
    let text = path.read()?;
    let caller = Caller::new(task)?;
    let file = caller.names().open_limited(
        &scoped_name(task, dir, &text, resolve)?,
        flags,
        mode as u32,
        Some(task),
        resolve,
    )?;
    install(task, file, flags)
}

/// As [`name_at`]; where `dir` is the root of the walk, it counts for absolute names too.
fn scoped_name<'a>(task: &Task, dir: Fd, text: &'a [u8], resolve: Resolve) -> Result<Name<'a>> {
    if dir == Fd::CWD || !resolve.contains(Resolve::IN_ROOT) {
        return name_at(task, dir, text);
    }
    let file = task.files()?.get(dir)?;
    Ok(Name { start: Some(file.path().ok_or(Errno::ENOTDIR)?.clone()), text })
}

/// `struct open_how`; a longer one is taken if what is not known of it is zero.
fn read_how(how: UserAddr, size: u64) -> Result<[u64; 3]> {
    const KNOWN: u64 = 24;
    if size < KNOWN {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let known = read_val(how)?;
    let rest: Vec<u8> = read_vec(how.add(KNOWN), (size - KNOWN) as usize)?;
    if rest.iter().any(|&byte| byte != 0) { Err(Errno::E2BIG) } else { Ok(known) }
}

fn memfd_create(task: &Arc<Task>, name: UserStr, flags: u32) -> Result<Fd> {
    const MAY_RUN: u32 = uapi::MFD_EXEC | uapi::MFD_ALLOW_SEALING;
    const SEALING: u32 = MAY_RUN | uapi::MFD_NOEXEC_SEAL;
    const HUGE: u32 = uapi::MFD_HUGETLB | uapi::MFD_HUGE_MASK << uapi::MFD_HUGE_SHIFT;
    let huge = if flags & uapi::MFD_HUGETLB != 0 { HUGE } else { 0 };
    let name = name.read().map_err(|errno| if errno == Errno::ENAMETOOLONG { Errno::EINVAL } else { errno })?;
    if flags & !(SEALING | uapi::MFD_CLOEXEC | huge) != 0 || name.len() > 249 {
        return Err(Errno::EINVAL);
    }
    let (mode, seals) = match flags & SEALING {
        0 | uapi::MFD_EXEC => (0o777, uapi::F_SEAL_SEAL),
        uapi::MFD_ALLOW_SEALING | MAY_RUN => (0o777, 0),
        _ if flags & uapi::MFD_EXEC != 0 => return Err(Errno::EINVAL),
        _ => (0o666, uapi::F_SEAL_EXEC),
    };
    if flags & uapi::MFD_HUGETLB != 0 {
        return Err(Errno::ENOSYS);
    }
    let cloexec = if flags & uapi::MFD_CLOEXEC != 0 { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
    let file = crate::fs::tmpfs::memory_file(&name, &Caller::new(task)?.names(), mode, seals)?;
    install(task, file, cloexec)
}

fn memfd_secret(task: &Arc<Task>, flags: u32) -> Result<Fd> {
    if flags & !uapi::O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let cloexec = if flags != 0 { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
    install(task, crate::fs::secret::new(&Caller::new(task)?.names())?, cloexec)
}

/// Makes a node at `path` relative to `dir`.
fn make(task: &Task, dir: Fd, path: UserStr, node: impl FnOnce(&Names<'_>) -> Result<NewNode<'static>>) -> Result<()> {
    let text = path.read()?;
    let caller = Caller::new(task)?;
    let names = caller.names();
    let node = node(&names)?;
    names.create(&name_at(task, dir, &text)?, &node).map(drop)
}

fn mkdir(task: &Arc<Task>, path: UserStr, mode: u32) -> Result<()> {
    mkdirat(task, Fd::CWD, path, mode)
}

fn mkdirat(task: &Arc<Task>, dir: Fd, path: UserStr, mode: u32) -> Result<()> {
    make(task, dir, path, |names| Ok(names.node(Kind::Directory, mode & 0o1777)))
}

fn mknod(task: &Arc<Task>, path: UserStr, mode: u32, dev: u64) -> Result<()> {
    mknodat(task, Fd::CWD, path, mode, dev)
}

fn mknodat(task: &Arc<Task>, dir: Fd, path: UserStr, mode: u32, dev: u64) -> Result<()> {
    let kind = match mode & uapi::S_IFMT {
        0 => Kind::Regular,
        uapi::S_IFDIR => return Err(Errno::EPERM),
        uapi::S_IFLNK => return Err(Errno::EINVAL),
        _ => Kind::from_mode(mode).ok_or(Errno::EINVAL)?,
    };
    let is_whiteout = kind == Kind::Char && Dev::decode(dev) == Dev::new(0, 0);
    if matches!(kind, Kind::Char | Kind::Block) && !is_whiteout && !task.capable(cap::MKNOD) {
        return Err(Errno::EPERM);
    }
    make(task, dir, path, |names| Ok(NewNode { rdev: Dev::decode(dev), ..names.node(kind, mode) }))
}

fn symlink(task: &Arc<Task>, target: UserStr, path: UserStr) -> Result<()> {
    symlinkat(task, target, Fd::CWD, path)
}

fn symlinkat(task: &Arc<Task>, target: UserStr, dir: Fd, path: UserStr) -> Result<()> {
    let (target, text) = (target.read()?, path.read()?);
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let caller = Caller::new(task)?;
    let names = caller.names();
    let node = NewNode { target: &target, mode: 0o777, ..names.node(Kind::Symlink, 0o777) };
    names.create(&name_at(task, dir, &text)?, &node).map(drop)
}

fn link(task: &Arc<Task>, old: UserStr, new: UserStr) -> Result<()> {
    linkat(task, Fd::CWD, old, Fd::CWD, new, AtFlags::empty())
}

fn linkat(task: &Arc<Task>, old_dir: Fd, old: UserStr, new_dir: Fd, new: UserStr, flags: AtFlags) -> Result<()> {
    flags.only(AtFlags::SYMLINK_FOLLOW | AtFlags::EMPTY_PATH)?;
    let follow = !flags.contains(AtFlags::SYMLINK_FOLLOW);
    let walk_flags = if follow { flags | AtFlags::SYMLINK_NOFOLLOW } else { flags };
    let target = path_at(task, old_dir, old, walk_flags)?;
    // An open file may have come from somebody with more rights.
    let given = flags.contains(AtFlags::EMPTY_PATH) && old.read()?.is_empty();
    if given && !task.capable(cap::DAC_READ_SEARCH) && target.inode().owner()?.uid != task.cred().fsuid {
        return Err(Errno::ENOENT);
    }
    let text = new.read()?;
    let caller = Caller::new(task)?;
    caller.names().link(&target, &name_at(task, new_dir, &text)?)
}

fn unlink(task: &Arc<Task>, path: UserStr) -> Result<()> {
    remove(task, Fd::CWD, path, Removal::File)
}

fn rmdir(task: &Arc<Task>, path: UserStr) -> Result<()> {
    remove(task, Fd::CWD, path, Removal::Directory)
}

fn unlinkat(task: &Arc<Task>, dir: Fd, path: UserStr, flags: AtFlags) -> Result<()> {
    let directory = flags.only(AtFlags::REMOVEDIR)?.contains(AtFlags::REMOVEDIR);
    remove(task, dir, path, if directory { Removal::Directory } else { Removal::File })
}

fn remove(task: &Task, dir: Fd, path: UserStr, removal: Removal) -> Result<()> {
    let text = path.read()?;
    let caller = Caller::new(task)?;
    caller.names().remove(&name_at(task, dir, &text)?, removal)
}

fn rename(task: &Arc<Task>, old: UserStr, new: UserStr) -> Result<()> {
    renameat2(task, Fd::CWD, old, Fd::CWD, new, 0)
}

fn renameat(task: &Arc<Task>, old_dir: Fd, old: UserStr, new_dir: Fd, new: UserStr) -> Result<()> {
    renameat2(task, old_dir, old, new_dir, new, 0)
}

fn renameat2(task: &Arc<Task>, old_dir: Fd, old: UserStr, new_dir: Fd, new: UserStr, flags: u32) -> Result<()> {
    const WHITEOUT_REFUSE: u32 = uapi::RENAME_WHITEOUT | uapi::RENAME_NOREPLACE;
    let existing = match flags {
        0 => Existing::Replace,
        uapi::RENAME_NOREPLACE => Existing::Refuse,
        uapi::RENAME_EXCHANGE => Existing::Exchange,
        uapi::RENAME_WHITEOUT => Existing::Whiteout,
        WHITEOUT_REFUSE => Existing::WhiteoutRefuse,
        _ => return Err(Errno::EINVAL),
    };
    let (old, new) = (old.read()?, new.read()?);
    let caller = Caller::new(task)?;
    caller.names().rename(&name_at(task, old_dir, &old)?, &name_at(task, new_dir, &new)?, existing)
}

fn readlink(task: &Arc<Task>, path: UserStr, buf: UserAddr, len: i32) -> Result<usize> {
    readlinkat(task, Fd::CWD, path, buf, len)
}

fn readlinkat(task: &Arc<Task>, dir: Fd, path: UserStr, buf: UserAddr, len: i32) -> Result<usize> {
    let len = usize::try_from(len).ok().filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
    let named = read_val::<u8>(path.0)? != 0;
    let path = path_at(task, dir, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)?;
    if !named && path.inode().kind() != Kind::Symlink {
        return Err(Errno::ENOENT);
    }
    let text = path.inode().readlink()?;
    let text = text.get(..len).unwrap_or(&text);
    copy_out(buf, text)?;
    Ok(text.len())
}

/// Encodes one directory record behind `out`.
type Encode = fn(&mut Vec<u8>, &DirEntry<'_>);

fn getdents(task: &Arc<Task>, fd: Fd, buf: UserAddr, len: u32) -> Result<usize> {
    list(task, fd, buf, len, |out, entry| {
        let length = (18 + entry.name.len() + 2).next_multiple_of(8);
        let start = out.len();
        record_head(out, entry, length);
        out.extend_from_slice(entry.name);
        out.resize(start + length - 1, 0);
        out.push(entry.kind.dirent());
    })
}

fn getdents64(task: &Arc<Task>, fd: Fd, buf: UserAddr, len: u32) -> Result<usize> {
    list(task, fd, buf, len, |out, entry| {
        let length = (19 + entry.name.len() + 1).next_multiple_of(8);
        let start = out.len();
        record_head(out, entry, length);
        out.push(entry.kind.dirent());
        out.extend_from_slice(entry.name);
        out.resize(start + length, 0);
    })
}

fn record_head(out: &mut Vec<u8>, entry: &DirEntry<'_>, length: usize) {
    out.extend_from_slice(&entry.ino.to_ne_bytes());
    out.extend_from_slice(&entry.next.to_ne_bytes());
    out.extend_from_slice(&(length as u16).to_ne_bytes());
}

fn list(task: &Arc<Task>, fd: Fd, buf: UserAddr, len: u32, encode: Encode) -> Result<usize> {
    /// Bytes of records made at once.
    const MOST: usize = 32 << 10;
    let file = super::io::file(task, fd)?;
    if len > i32::MAX as u32 {
        return Err(Errno::EINVAL);
    }
    let start = file.position();
    let mut limit = (len as usize).min(MOST);
    let mut fault = Errno::EINVAL;
    loop {
        let out = encoded(task, &file, limit, encode)?.ok_or(fault)?;
        match copy_out_partial(buf, &out) {
            (_, Ok(())) => return Ok(out.len()),
            // Once more, only the entries that fit into what is mapped.
            (written, Err(error)) if written < limit => (limit, fault) = (written, error),
            (_, Err(error)) => return Err(error),
        }
        file.seek_within(Whence::Set, start as i64, 0)?;
    }
}

/// Records of the next entries, as many as fit into `limit` bytes; `None` if not even one does.
fn encoded(task: &Task, file: &File, limit: usize, encode: Encode) -> Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    out.try_reserve_exact(limit).map_err(|_| Errno::ENOMEM)?;
    let mut cut = false;
    file.list(&task.fs()?.root(), &mut |entry| {
        if out.len() + (19 + entry.name.len() + 1).next_multiple_of(8) > limit {
            cut = true;
            return false;
        }
        encode(&mut out, entry);
        true
    })?;
    Ok(if out.is_empty() && cut { None } else { Some(out) })
}

fn getcwd(task: &Arc<Task>, buf: UserAddr, len: u64) -> Result<usize> {
    let context = task.fs()?;
    let cwd = context.cwd();
    if cwd.is_deleted() {
        return Err(Errno::ENOENT);
    }
    let root = context.root();
    let prefix: &[u8] = if cwd.is_below(&root) { b"" } else { b"(unreachable)" };
    let text = [prefix, &cwd.display(&root), b"\0"].concat();
    if text.len() as u64 > len {
        return Err(Errno::ERANGE);
    }
    copy_out(buf, &text)?;
    Ok(text.len())
}

/// A directory that the caller may enter.
fn directory(task: &Task, path: UserStr) -> Result<Path> {
    let path = path_at(task, Fd::CWD, path, AtFlags::empty())?;
    check_enter(task, &path)?;
    Ok(path)
}

fn check_enter(task: &Task, path: &Path) -> Result<()> {
    if !path.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    perm::check(&**path.inode(), &task.cred(), perm::Want::EXEC)
}

fn chdir(task: &Arc<Task>, path: UserStr) -> Result<()> {
    let path = directory(task, path)?;
    task.fs()?.set_cwd(path);
    Ok(())
}

fn fchdir(task: &Arc<Task>, fd: Fd) -> Result<()> {
    let file = task.files()?.get(fd)?;
    let path = file.path().ok_or(Errno::ENOTDIR)?.clone();
    check_enter(task, &path)?;
    task.fs()?.set_cwd(path);
    Ok(())
}

fn chroot(task: &Arc<Task>, path: UserStr) -> Result<()> {
    let path = directory(task, path)?;
    if !task.cred().capable_here(cap::SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    task.fs()?.set_root(path);
    Ok(())
}

fn umask(task: &Arc<Task>, mask: u32) -> Result<u32> {
    Ok(task.fs()?.set_umask(mask))
}
