//! Copying up: what is changed comes into the upper directory first, with the directories above it.
//!
//! A file is complete before it has its name. What was open for reading before goes on to read the lower one, as on Linux.

use super::super::acl::Which;
use super::super::types::SetAttr;
use super::super::xattr::Put;
use super::super::{Attr, Dentry, Inode, IoDst, IoSrc, Kind, NewNode, OpenFlags, Path, names, perm};
use super::node::Node;
use super::{OverlayFs, layer};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Bytes copied together.
const STEP: usize = 64 << 10;
/// All of a file.
pub(super) const ALL: u64 = u64::MAX;

impl Node {
    /// The object in the upper layer, copied there if it is not: of a file the first `limit` bytes.
    ///
    /// # Errors
    /// `EROFS` without an upper layer, `EACCES` where the mounter may not write, `ENOSPC`.
    pub fn writable(&self, limit: u64) -> Result<&Path> {
        if let Some(upper) = self.upper.get() {
            return Ok(upper);
        }
        let mut chain = Vec::from([self.me.upgrade().ok_or(Errno::EIO)?]);
        while let Some(parent) = chain.last().and_then(|node| node.place()).map(|(parent, _)| parent)
            && parent.upper.get().is_none()
        {
            chain.push(parent);
        }
        while let Some(node) = chain.pop() {
            node.copy_up(if chain.is_empty() { limit } else { ALL })?;
        }
        self.upper.get().ok_or(Errno::EROFS)
    }

    fn copy_up(&self, limit: u64) -> Result<()> {
        let fs = self.system()?;
        let _copying = fs.copying.lock_nested();
        if self.upper.get().is_some() {
            return Ok(());
        }
        let lower = self.lowers.first().ok_or(Errno::EIO)?;
        let place = self.place();
        let dir = match &place {
            Some((parent, _)) => parent.upper.get(),
            None => fs.upper.as_ref(),
        };
        let dir = dir.ok_or(Errno::EROFS)?;
        dir.mount().check_writable()?;
        perm::check(&**dir.inode(), &fs.mounter, perm::Want::WRITE | perm::Want::EXEC)?;
        fs.check_owner(lower)?;
        umbel_mm::heap::room_for(1 << 20).map_err(|_| Errno::ENOSPC)?;
        let name = place.as_ref().map(|(_, name)| name.clone());
        let copy = match self.kind() {
            Kind::Regular => copy_file(&fs, lower, dir, name, limit)?,
            _ => copy_other(&fs, lower, dir, &name.ok_or(Errno::ENOENT)?)?,
        };
        // Nobody else copies it meanwhile.
        let _ = self.upper.set(copy);
        Ok(())
    }
}

/// What a copy of an object with these attributes is made with.
fn like<'a>(attr: &Attr, target: &'a [u8]) -> NewNode<'a> {
    NewNode { kind: attr.kind, mode: attr.mode, uid: attr.uid, gid: attr.gid, rdev: attr.rdev, target }
}

fn copy_file(fs: &OverlayFs, lower: &Path, dir: &Path, name: Option<Box<[u8]>>, limit: u64) -> Result<Path> {
    let attr = lower.attr()?;
    let inode = dir.inode().create_unnamed(&like(&attr, &[]), true)?;
    let unnamed = Dentry::unnamed(dir.dentry(), name.as_deref().unwrap_or(b"#"), inode.clone());
    let copy = Path::new(dir.mount().clone(), unnamed)?;
    copy_bytes(lower, &copy, attr.size.min(limit))?;
    copy_attributes(fs, lower, &copy, &attr)?;
    let Some(name) = name else { return Ok(copy) };
    layer::add(dir, &name, |parent| {
        parent.link(&name, &inode)?;
        Ok(inode.clone())
    })
}

fn copy_other(fs: &OverlayFs, lower: &Path, dir: &Path, name: &[u8]) -> Result<Path> {
    let attr = lower.attr()?;
    let target = if attr.kind == Kind::Symlink { lower.inode().readlink()? } else { Vec::new() };
    let copy = layer::add(dir, name, |parent| parent.create(name, &like(&attr, &target)))?;
    copy_attributes(fs, lower, &copy, &attr)?;
    Ok(copy)
}

fn copy_bytes(lower: &Path, copy: &Path, size: u64) -> Result<()> {
    let from = names::open_quietly(lower, OpenFlags::RDONLY)?;
    let to = names::open_quietly(copy, OpenFlags::RDWR)?;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(STEP).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(STEP, 0);
    let mut at = 0;
    while at < size {
        let want = (size - at).min(STEP as u64) as usize;
        let room = buffer.get_mut(..want).ok_or(Errno::EIO)?;
        let count = from.ops().read_at(&from, &mut IoDst::kernel(room), at)?;
        if count == 0 {
            break;
        }
        let bytes = room.get(..count).ok_or(Errno::EIO)?;
        // Holes stay holes.
        if bytes.iter().any(|&byte| byte != 0) && to.ops().write_at(&to, &mut IoSrc::kernel(bytes), at)? != count {
            return Err(Errno::ENOSPC);
        }
        at += count as u64;
    }
    to.ops().truncate(&to, at)
}

/// Everything but contents and owner.
fn copy_attributes(fs: &OverlayFs, lower: &Path, copy: &Path, attr: &Attr) -> Result<()> {
    let (from, to) = (lower.inode(), copy.inode());
    for name in from.list_xattr()? {
        if !layer::is_mark(fs, &name) && !name.starts_with(b"system.") {
            to.set_xattr(&name, &from.get_xattr(&name)?, Put::Any)?;
        }
    }
    let mut change = SetAttr { atime: Some(attr.atime), mtime: Some(attr.mtime), ..SetAttr::default() };
    if attr.kind != Kind::Symlink {
        change.mode = Some(attr.mode);
        // The directory it is in may have given it others.
        for which in [Which::Access, Which::Default] {
            match from.acl(which) {
                Ok(acl) if acl.is_some() || to.acl(which).is_ok_and(|own| own.is_some()) => {
                    to.set_acl(which, acl, None)?
                }
                _ => {}
            }
        }
    }
    to.set_attr(&change)
}

/// A node's place: the directory above and its name there; `None` for the root, and what has no name any more.
pub(super) type Place = (Arc<Node>, Box<[u8]>);
