//! What an overlay does in one of its layers: looking up, marks, making and removing names. All by dentries, under their directory's lock.

use super::super::inode::{DirEntry, NewNode};
use super::super::xattr::Put;
use super::super::{Dentry, Dev, InodeRef, Kind, Path, notify};
use super::OverlayFs;
use super::node::Node;
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Marks of a directory that hides those below, as names of attributes; privileged or the user's.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const USER_OPAQUE: &[u8] = b"user.overlay.opaque";
/// What a mark's value is.
const YES: &[u8] = b"y";

/// Where an object is: for directories everywhere that is merged.
#[derive(Default)]
pub(super) struct Layers {
    pub upper: Option<Path>,
    pub lowers: Vec<Path>,
}

/// The overlay whose directory is at `path`, if it is one.
pub(super) fn overlay_of(path: &Path) -> Option<Arc<OverlayFs>> {
    path.inode().as_any().downcast_ref::<Node>().and_then(|node| node.system().ok())
}

/// What `name` is in the layer's directory `dir`.
pub(super) fn find(dir: &Path, name: &[u8]) -> Result<Option<Path>> {
    let _lock = dir.dentry().lock_dir_nested();
    let dentry = dir.dentry().lookup_locked(name)?;
    if dentry.inode().is_none() { Ok(None) } else { Path::new(dir.mount().clone(), dentry).map(Some) }
}

/// Whether it says that nothing is there.
pub(super) fn is_whiteout(path: &Path) -> bool {
    path.inode().kind() == Kind::Char && path.attr().is_ok_and(|attr| attr.rdev == Dev::new(0, 0))
}

/// Whether the device `name` in a listing of `dir` says that nothing is there. A position is locked while a directory is listed, so
/// this asks the file system, not the dentries; an overlay lists no whiteouts.
pub(super) fn hides(dir: &Path, name: &[u8]) -> bool {
    let is_zero = |inode: InodeRef| inode.attr().is_ok_and(|attr| attr.rdev == Dev::new(0, 0));
    overlay_of(dir).is_none() && dir.inode().lookup(name).is_ok_and(is_zero)
}

/// Whether it hides directories below.
pub(super) fn is_opaque(fs: &OverlayFs, path: &Path) -> bool {
    let mark = if fs.user_marks { USER_OPAQUE } else { OPAQUE };
    path.inode().get_xattr(mark).is_ok_and(|value| *value == *YES)
}

pub(super) fn make_opaque(fs: &OverlayFs, path: &Path) -> Result<()> {
    let mark = if fs.user_marks { USER_OPAQUE } else { OPAQUE };
    path.inode().set_xattr(mark, YES, Put::Any)
}

/// What attributes of the overlay's own begin with, in the layers.
fn prefix(fs: &OverlayFs) -> &'static [u8] {
    if fs.user_marks { b"user.overlay." } else { b"trusted.overlay." }
}

/// Whether an attribute of a layer is the overlay's own.
pub(super) fn is_mark(fs: &OverlayFs, name: &[u8]) -> bool {
    name.starts_with(prefix(fs)) && shown(fs, name).is_none()
}

/// What the user's attribute `name` is called in the layers: `overlay.` comes twice where once would make a mark of it.
pub(super) fn stored(fs: &OverlayFs, name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(prefix(fs)) {
        Some(rest) => [prefix(fs), b"overlay.", rest].concat(),
        None => name.to_vec(),
    }
}

/// The reverse, for names that have it twice.
pub(super) fn shown(fs: &OverlayFs, name: &[u8]) -> Option<Box<[u8]>> {
    let rest = name.strip_prefix(prefix(fs))?.strip_prefix(b"overlay.")?;
    Some([prefix(fs), rest].concat().into())
}

/// Gives the new name `name` in `dir` to what `make` makes.
pub(super) fn add(dir: &Path, name: &[u8], make: impl FnOnce(&InodeRef) -> Result<InodeRef>) -> Result<Path> {
    let _lock = dir.dentry().lock_dir_nested();
    let dentry = dir.dentry().lookup_locked(name)?;
    if dentry.inode().is_some() {
        return Err(Errno::EEXIST);
    }
    dentry.instantiate(make(dir.inode())?);
    Path::new(dir.mount().clone(), dentry)
}

/// Removes the name of `victim`, which is in `dir`; a directory is empty but for whiteouts.
pub(super) fn remove(dir: &Path, victim: Path) -> Result<()> {
    let name = victim.dentry().name();
    if victim.is_dir() {
        for inner in entries(&victim)? {
            match find(&victim, &inner.name)? {
                Some(path) if is_whiteout(&path) => remove(&victim, path)?,
                Some(_) => return Err(Errno::ENOTEMPTY),
                None => {}
            }
        }
    }
    let _lock = dir.dentry().lock_dir_nested();
    if victim.is_dir() {
        let _victim = victim.dentry().lock_dir_nested();
        dir.inode().rmdir(&name, victim.inode())?;
    } else {
        dir.inode().unlink(&name, victim.inode())?;
    }
    victim.dentry().unhash();
    notify::removed(victim.dentry().clone());
    Ok(())
}

/// Says that nothing is there.
pub(super) fn whiteout(dir: &Path, name: &[u8]) -> Result<()> {
    let node = NewNode { kind: Kind::Char, mode: 0, uid: 0, gid: 0, rdev: Dev::new(0, 0), target: &[] };
    add(dir, name, |inode| inode.create(name, &node)).map(|_| ())
}

/// Moves names of the upper layer, in which `target` may be.
pub(super) fn rename(from: (&Path, &[u8]), to: (&Path, &[u8]), exchange: bool) -> Result<()> {
    use super::super::inode::RenameMode;
    let ((old_dir, old_name), (new_dir, new_name)) = (from, to);
    let same = Arc::ptr_eq(old_dir.dentry(), new_dir.dentry());
    let old_first = !new_dir.dentry().is_ancestor_of(old_dir.dentry());
    let (first, second) = if old_first { (old_dir, new_dir) } else { (new_dir, old_dir) };
    let _first = first.dentry().lock_dir_nested();
    let _second = (!same).then(|| second.dentry().lock_dir_nested());
    let source: Arc<Dentry> = old_dir.dentry().lookup_locked(old_name)?;
    let target = new_dir.dentry().lookup_locked(new_name)?;
    let inode = source.inode().ok_or(Errno::ENOENT)?;
    let mode = if exchange { RenameMode::Exchange } else { RenameMode::Replace };
    old_dir.inode().rename(old_name, inode, new_dir.inode(), new_name, target.inode(), mode)?;
    if exchange {
        target.move_to(old_dir.dentry(), old_name);
        source.move_to(new_dir.dentry(), new_name);
    } else {
        target.unhash();
        source.move_to(new_dir.dentry(), new_name);
        notify::removed(target);
    }
    Ok(())
}

/// One entry of a listing.
pub(super) struct Listed {
    pub name: Box<[u8]>,
    pub ino: u64,
    pub kind: Kind,
}

/// All that a layer's directory lists.
pub(super) fn entries(dir: &Path) -> Result<Vec<Listed>> {
    let mut list = Vec::new();
    let mut pos = 2;
    loop {
        let before = list.len();
        let mut short = false;
        pos = dir.inode().readdir(pos, &mut |entry: &DirEntry<'_>| {
            if list.try_reserve(1).is_err() || umbel_mm::heap::room().is_err() {
                short = true;
                return false;
            }
            list.push(Listed { name: entry.name.into(), ino: entry.ino, kind: entry.kind });
            true
        })?;
        if short {
            return Err(Errno::ENOMEM);
        }
        if list.len() == before {
            return Ok(list);
        }
    }
}
