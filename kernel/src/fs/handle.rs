//! File handles: names of inodes that outlive descriptors. Source: open_by_handle_at(2).
//!
//! A handle is the inode's number and its file system's. What has been given a handle is remembered, up to a number: the
//! dentry of a file that still has a name. Lock: `KNOWN` (rank Leaf, spinning); dentries are dropped outside it.

use super::dentry::Dentry;
use super::{FileSystem, InodeRef, Mount, Path};
use crate::{Errno, Result};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use umbel_smp::lock::{Rank, SpinLock};

/// Bytes of a handle.
pub const SIZE: usize = 16;
/// The kind of all handles.
pub const KIND: i32 = 1;
/// Handles that are remembered.
const MOST: usize = 1024;

/// A handle's bytes.
pub type Handle = [u8; SIZE];

/// Device and inode number.
type Key = (u64, u64);

#[derive(Default)]
struct Known {
    dentries: BTreeMap<Key, Arc<Dentry>>,
    order: VecDeque<Key>,
}

static KNOWN: SpinLock<Known> = SpinLock::new(Rank::Leaf, Known { dentries: BTreeMap::new(), order: VecDeque::new() });

/// The handle of what is at `path`; with `remember` it can be opened later.
///
/// # Errors
/// `EOPNOTSUPP` for file systems whose inodes come and go.
pub fn of(path: &Path, remember: bool) -> Result<Handle> {
    let fs = path.mount().fs();
    if remember && !has_handles(&**fs) {
        return Err(Errno::EOPNOTSUPP);
    }
    let key = (fs.dev(), path.attr()?.ino);
    if remember {
        self::remember(key, path.dentry().clone());
    }
    Ok(encode(key))
}

fn encode((dev, ino): Key) -> Handle {
    let mut handle = [0; SIZE];
    handle[..8].copy_from_slice(&dev.to_le_bytes());
    handle[8..].copy_from_slice(&ino.to_le_bytes());
    handle
}

/// Whether inodes of a file system can be found again by their numbers.
pub fn has_handles(fs: &dyn FileSystem) -> bool {
    matches!(fs.name(), "tmpfs" | "overlay")
}

/// The handle of `inode`; opened later only if it is [kept](keep).
pub fn of_inode(inode: &InodeRef) -> Handle {
    encode((inode.fs().dev(), inode.attr().map_or(0, |attr| attr.ino)))
}

/// What is called `dentry` can be opened by its handle.
pub fn keep(dentry: &Arc<Dentry>) {
    let Some(inode) = dentry.inode().filter(|inode| !dentry.is_unhashed() && has_handles(&*inode.fs())) else { return };
    if let Ok(attr) = inode.attr() {
        remember((inode.fs().dev(), attr.ino), dentry.clone());
    }
}

fn remember(key: Key, dentry: Arc<Dentry>) {
    let mut known = KNOWN.lock();
    let old = known.dentries.insert(key, dentry);
    let mut oldest = None;
    if old.is_none() {
        known.order.push_back(key);
        if known.order.len() > MOST {
            oldest = known.order.pop_front().and_then(|key| known.dentries.remove(&key));
        }
    }
    drop(known);
    drop((old, oldest));
}

/// The place on `mount` that a handle names.
///
/// # Errors
/// `ESTALE` if it is gone, or of another file system.
pub fn find(mount: &Arc<Mount>, handle: &Handle) -> Result<Path> {
    let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| handle[at + i]));
    let key = (word(0), word(8));
    if key.0 != mount.fs().dev() {
        return Err(Errno::ESTALE);
    }
    let found = KNOWN.lock().dentries.get(&key).cloned().ok_or(Errno::ESTALE)?;
    let path = Path::new(mount.clone(), found).map_err(|_| Errno::ESTALE)?;
    if path.attr()?.nlink == 0 { Err(Errno::ESTALE) } else { Ok(path) }
}

/// A name was removed: what it named is not kept for its handle's sake.
pub fn forget(dentry: &Arc<Dentry>) {
    let mut known = KNOWN.lock();
    if known.dentries.is_empty() {
        return;
    }
    let key = known.dentries.iter().find(|(_, own)| Arc::ptr_eq(own, dentry)).map(|(key, _)| *key);
    let gone = key.and_then(|key| known.dentries.remove(&key));
    known.order.retain(|own| Some(*own) != key);
    drop(known);
    drop(gone);
}
