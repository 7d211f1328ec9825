//! Extended attributes. Semantics: [`crate::fs::xattr`]; sources: setxattr(2), getxattr(2), listxattr(2), removexattr(2).

use super::fs::{AtFlags, path_at};
use super::{Fd, UserStr};
use crate::fs::Path;
use crate::fs::acl::{self, Acl, Which};
use crate::fs::notify::{self, Events};
use crate::fs::perm::Want;
use crate::fs::xattr::{self, Put};
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_abi::linux::uapi as nr;
use umbel_mm::user::{UserAddr, copy_in, copy_out, read_cstr};

rows! {
    nr::__NR_getxattr, getxattr(path: UserStr, name: UserStr, buf: UserAddr, size: u64) => getxattr, Full;
    nr::__NR_lgetxattr, lgetxattr(path: UserStr, name: UserStr, buf: UserAddr, size: u64) => lgetxattr, Full;
    nr::__NR_fgetxattr, fgetxattr(fd: Fd, name: UserStr, buf: UserAddr, size: u64) => fgetxattr, Full;
    nr::__NR_listxattr, listxattr(path: UserStr, buf: UserAddr, size: u64) => listxattr, Full;
    nr::__NR_llistxattr, llistxattr(path: UserStr, buf: UserAddr, size: u64) => llistxattr, Full;
    nr::__NR_flistxattr, flistxattr(fd: Fd, buf: UserAddr, size: u64) => flistxattr, Full;
    nr::__NR_setxattr, setxattr(path: UserStr, name: UserStr, value: UserAddr, size: u64, flags: u32) => setxattr, Full;
    nr::__NR_lsetxattr, lsetxattr(path: UserStr, name: UserStr, value: UserAddr, size: u64, flags: u32) => lsetxattr, Full;
    nr::__NR_fsetxattr, fsetxattr(fd: Fd, name: UserStr, value: UserAddr, size: u64, flags: u32) => fsetxattr, Full;
    nr::__NR_removexattr, removexattr(path: UserStr, name: UserStr) => removexattr, Full;
    nr::__NR_lremovexattr, lremovexattr(path: UserStr, name: UserStr) => lremovexattr, Full;
    nr::__NR_fremovexattr, fremovexattr(fd: Fd, name: UserStr) => fremovexattr, Full;
}

const XATTR_CREATE: u32 = 1;
const XATTR_REPLACE: u32 = 2;

/// The path of a call that follows links at the end.
fn followed(task: &Task, path: UserStr) -> Result<Path> {
    path_at(task, Fd::CWD, path, AtFlags::empty())
}

/// The path of a call that does not.
fn itself(task: &Task, path: UserStr) -> Result<Path> {
    path_at(task, Fd::CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

/// The place of an open file; files without a name have no attributes.
fn opened(task: &Task, fd: Fd) -> Result<Path> {
    let file = task.files()?.get(fd)?;
    if file.flags().contains(crate::fs::OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    file.path().cloned().ok_or(Errno::EOPNOTSUPP)
}

/// The name. `ERANGE` if it is empty or too long.
fn read_name(name: UserStr) -> Result<Vec<u8>> {
    match read_cstr(name.0, xattr::NAME_MAX + 1) {
        Ok(name) if name.is_empty() => Err(Errno::ERANGE),
        Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
        read => read,
    }
}

/// Gives `bytes` to a buffer of `size`; how many there are if `size` is 0.
fn give(bytes: &[u8], buf: UserAddr, size: u64) -> Result<usize> {
    if size == 0 {
        return Ok(bytes.len());
    }
    if bytes.len() as u64 > size {
        return Err(Errno::ERANGE);
    }
    copy_out(buf, bytes)?;
    Ok(bytes.len())
}

fn get(task: &Task, path: &Path, name: &[u8], buf: UserAddr, size: u64) -> Result<usize> {
    if let Some(which) = Which::named(name) {
        return give(&acl::get(&**path.inode(), &task.cred(), which)?, buf, size);
    }
    xattr::check(&**path.inode(), &task.cred(), name, Want::READ)?;
    give(&path.inode().get_xattr(name)?, buf, size)
}

fn getxattr(task: &Arc<Task>, path: UserStr, name: UserStr, buf: UserAddr, size: u64) -> Result<usize> {
    let name = read_name(name)?;
    get(task, &followed(task, path)?, &name, buf, size)
}

fn lgetxattr(task: &Arc<Task>, path: UserStr, name: UserStr, buf: UserAddr, size: u64) -> Result<usize> {
    let name = read_name(name)?;
    get(task, &itself(task, path)?, &name, buf, size)
}

fn fgetxattr(task: &Arc<Task>, fd: Fd, name: UserStr, buf: UserAddr, size: u64) -> Result<usize> {
    let path = opened(task, fd)?;
    get(task, &path, &read_name(name)?, buf, size)
}

/// Names one after the other, each with its NUL; `trusted.` ones for administrators only.
fn list(task: &Task, path: &Path, buf: UserAddr, size: u64) -> Result<usize> {
    let all = task.capable(cap::SYS_ADMIN);
    let mut out = Vec::new();
    for name in path.inode().list_xattr()? {
        if all || !name.starts_with(b"trusted.") {
            out.extend_from_slice(&name);
            out.push(0);
        }
    }
    if out.len() > xattr::LIST_MAX {
        return Err(Errno::E2BIG);
    }
    give(&out, buf, size)
}

fn listxattr(task: &Arc<Task>, path: UserStr, buf: UserAddr, size: u64) -> Result<usize> {
    list(task, &followed(task, path)?, buf, size)
}

fn llistxattr(task: &Arc<Task>, path: UserStr, buf: UserAddr, size: u64) -> Result<usize> {
    list(task, &itself(task, path)?, buf, size)
}

fn flistxattr(task: &Arc<Task>, fd: Fd, buf: UserAddr, size: u64) -> Result<usize> {
    list(task, &opened(task, fd)?, buf, size)
}

/// What a call sets: name, value, and what it wants of what is there.
struct New {
    name: Vec<u8>,
    value: Vec<u8>,
    put: Put,
}

impl New {
    fn read(name: UserStr, value: UserAddr, size: u64, flags: u32) -> Result<New> {
        let put = match flags {
            0 => Put::Any,
            XATTR_CREATE => Put::New,
            XATTR_REPLACE => Put::Replace,
            f if f == XATTR_CREATE | XATTR_REPLACE => Put::Both,
            _ => return Err(Errno::EINVAL),
        };
        let name = read_name(name)?;
        if size > xattr::SIZE_MAX as u64 {
            return Err(Errno::E2BIG);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size as usize).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(size as usize, 0);
        copy_in(&mut bytes, value)?;
        Ok(New { name, value: bytes, put })
    }

    fn set(&self, task: &Task, path: &Path) -> Result<()> {
        path.mount().check_writable()?;
        let cred = task.cred();
        if let Some(which) = Which::named(&self.name) {
            acl::set(&**path.inode(), &cred, which, Acl::parse(&self.value, &cred)?)?;
        } else {
            xattr::check(&**path.inode(), &cred, &self.name, Want::WRITE)?;
            path.inode().set_xattr(&self.name, &self.value, self.put)?;
        }
        notify::changed(path.dentry(), Events::ATTRIB);
        Ok(())
    }
}

fn setxattr(task: &Arc<Task>, path: UserStr, name: UserStr, value: UserAddr, size: u64, flags: u32) -> Result<()> {
    let new = New::read(name, value, size, flags)?;
    new.set(task, &followed(task, path)?)
}

fn lsetxattr(task: &Arc<Task>, path: UserStr, name: UserStr, value: UserAddr, size: u64, flags: u32) -> Result<()> {
    let new = New::read(name, value, size, flags)?;
    new.set(task, &itself(task, path)?)
}

fn fsetxattr(task: &Arc<Task>, fd: Fd, name: UserStr, value: UserAddr, size: u64, flags: u32) -> Result<()> {
    let path = opened(task, fd)?;
    New::read(name, value, size, flags)?.set(task, &path)
}

fn remove(task: &Task, path: &Path, name: &[u8]) -> Result<()> {
    path.mount().check_writable()?;
    let cred = task.cred();
    if let Some(which) = Which::named(name) {
        acl::set(&**path.inode(), &cred, which, None)?;
    } else {
        xattr::check(&**path.inode(), &cred, name, Want::WRITE)?;
        path.inode().remove_xattr(name)?;
    }
    notify::changed(path.dentry(), Events::ATTRIB);
    Ok(())
}

fn removexattr(task: &Arc<Task>, path: UserStr, name: UserStr) -> Result<()> {
    let name = read_name(name)?;
    remove(task, &followed(task, path)?, &name)
}

fn lremovexattr(task: &Arc<Task>, path: UserStr, name: UserStr) -> Result<()> {
    let name = read_name(name)?;
    remove(task, &itself(task, path)?, &name)
}

fn fremovexattr(task: &Arc<Task>, fd: Fd, name: UserStr) -> Result<()> {
    let path = opened(task, fd)?;
    remove(task, &path, &read_name(name)?)
}
