//! Overlay file systems: directories seen as one, of which only the first is written to. Source: Linux's Documentation/filesystems/overlayfs.
//!
//! A mount names directories, lower ones and perhaps an upper one. A name shows the first layer's object; directories of the same
//! name are merged. What is changed is copied into the upper directory first ([`copy`]); what is removed there and still below leaves a
//! whiteout (a device 0:0), a new directory over one below is marked opaque. Merged directories are not renamed (`EXDEV`).
//!
//! Unlike the layered root (`tmpfs`), which writes to its own memory, this is on top of what the guest sees: layers are paths, reached
//! by their dentries, so that the upper directory shows at once what is done here. What is done to a layer by itself while it is
//! mounted here is not looked for, as on Linux.
//!
//! The mounter's rights are what the upper directory is written with; who uses the mount needs those of the objects as well.
//!
//! Locks: an overlay's directory, then `copying` (both rank Directory, nested), then the layers' directories (nested).

mod copy;
mod layer;
mod node;

use super::tmpfs::TmpFs;
use super::walk::Follow;
use super::{FileSystem, InodeRef, Mount, MountFlags, Name, Names, Path, StatFs, perm, tree};
use crate::task::{self, Cred, cap};
use crate::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use layer::Layers;
use node::Node;
use umbel_smp::lock::{Mutex, Once, Rank};

const MAGIC: u32 = 0x794c_7630;
/// Lower directories of one mount at most.
const LOWER_MAX: usize = 500;
/// Overlays on overlays at most (`FILESYSTEM_MAX_STACK_DEPTH`).
const DEPTH_MAX: u32 = 2;

/// A mounted stack of directories.
pub struct OverlayFs {
    dev: u64,
    /// The file system whose inode numbers are kept.
    base_dev: u64,
    upper: Option<Path>,
    lowers: Vec<Path>,
    mounter: Arc<Cred>,
    /// Whether marks are the user's attributes (`userxattr`).
    user_marks: bool,
    depth: u32,
    /// The options, for /proc/PID/mounts.
    shown: String,
    root: Once<Arc<Node>>,
    /// One copy at a time.
    copying: Mutex<()>,
}

/// What a mount says.
#[derive(Default)]
struct Options {
    lowers: Vec<Vec<u8>>,
    upper: Option<Vec<u8>>,
    work: Option<Vec<u8>>,
    user_marks: bool,
}

impl Options {
    fn parse(data: &[u8]) -> Result<Options> {
        let mut options = Options::default();
        for option in split(data, b',').into_iter().filter(|option| !option.is_empty()) {
            let equals = option.iter().position(|&byte| byte == b'=').unwrap_or(option.len());
            let (key, value) = option.split_at(equals);
            let value = value.get(1..).unwrap_or(&[]);
            match key {
                b"lowerdir" => options.lowers = split(value, b':').into_iter().map(|name| plain(&name)).collect(),
                b"lowerdir+" => options.lowers.push(plain(value)),
                b"upperdir" => options.upper = Some(plain(value)),
                b"workdir" => options.work = Some(plain(value)),
                b"userxattr" => options.user_marks = true,
                // What is not done anyway, or changes nothing where all is in memory.
                b"index" | b"redirect_dir" | b"metacopy" | b"nfs_export" if matches!(value, b"off" | b"nofollow") => {}
                b"xino" | b"uuid" | b"volatile" | b"default_permissions" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        let lone =
            options.upper.is_none() && options.lowers.len() < 2 || options.upper.is_some() && options.work.is_none();
        if lone || options.lowers.is_empty() || options.lowers.iter().any(Vec::is_empty) {
            return Err(Errno::EINVAL);
        }
        if options.lowers.len() > LOWER_MAX { Err(Errno::EINVAL) } else { Ok(options) }
    }
}

/// Pieces between separators that no backslash precedes; the backslashes stay.
fn split(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut pieces = Vec::from([Vec::new()]);
    let mut escaped = false;
    for &byte in text {
        if byte == separator && !escaped {
            pieces.push(Vec::new());
        } else if let Some(last) = pieces.last_mut() {
            last.push(byte);
        }
        escaped = byte == b'\\' && !escaped;
    }
    pieces
}

/// Without the backslashes.
fn plain(text: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    let mut out = Vec::new();
    for &byte in text {
        escaped = byte == b'\\' && !escaped;
        if !escaped {
            out.push(byte);
        }
    }
    out
}

/// A detached mount of the directories that `data` names, for the running task.
///
/// # Errors
/// `EINVAL` for options that are not understood or do not fit, `ENOENT`, `ENOTDIR`.
pub fn mount(source: &[u8], data: &[u8], flags: MountFlags) -> Result<Arc<Mount>> {
    let task = task::current();
    let (context, cred) = (task.fs()?, task.cred());
    let names = Names { context: &context, cred: &cred };
    let options = Options::parse(data)?;
    let find = |name: &Vec<u8>| {
        let path = names.find(&Name::new(name), Follow::Yes)?;
        if !path.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        tree::check_layer(&context, &path).map(|()| path)
    };
    let lowers = options.lowers.iter().map(find).collect::<Result<Vec<Path>>>()?;
    let upper = options.upper.as_ref().map(find).transpose()?;
    let work = options.work.as_ref().map(find).transpose()?;
    let read_only = match (&upper, &work) {
        (Some(upper), Some(work)) => check_upper(upper, work, &cred)?,
        _ => true,
    };
    let depth = |path: &Path| layer::overlay_of(path).map_or(0, |fs| fs.depth);
    let depth = lowers.iter().map(depth).max().unwrap_or(0) + 1;
    if depth > DEPTH_MAX {
        return Err(Errno::EINVAL);
    }
    let base = upper.as_ref().or(lowers.first()).ok_or(Errno::EINVAL)?;
    let fs = Arc::new(OverlayFs {
        dev: super::next_dev(),
        base_dev: base.mount().fs().dev(),
        mounter: cred.clone(),
        user_marks: options.user_marks,
        depth,
        shown: shown(&options, data),
        root: Once::new(),
        copying: Mutex::new(Rank::Directory, ()),
        upper: upper.clone(),
        lowers: lowers.clone(),
    });
    let root = Node::new(&fs, Layers { upper, lowers }, None)?;
    // A new cell takes its first value.
    let _ = fs.root.set(root);
    let mount = Mount::new(fs, source, flags);
    if read_only {
        mount.set_fs_read_only(true);
    }
    Ok(mount)
}

/// Whether nothing can be written: where the mounter may not use `work`, as on Linux.
///
/// # Errors
/// `EINVAL` unless both are apart on one mount of a file system that can be written to.
fn check_upper(upper: &Path, work: &Path, cred: &Cred) -> Result<bool> {
    let (one, other) = (upper.dentry(), work.dentry());
    let apart = !one.is_ancestor_of(other) && !other.is_ancestor_of(one);
    let known = upper.mount().fs().root().as_any().is::<super::tmpfs::Node>();
    if !Arc::ptr_eq(upper.mount(), work.mount()) || !apart || !known {
        return Err(Errno::EINVAL);
    }
    upper.mount().check_writable().map_err(|_| Errno::EINVAL)?;
    Ok(perm::check(&**work.inode(), cred, perm::Want::WRITE | perm::Want::EXEC).is_err())
}

fn shown(options: &Options, data: &[u8]) -> String {
    let mut out = String::new();
    for option in split(data, b',') {
        let own = [b"lowerdir".as_slice(), b"upperdir=", b"workdir="].iter().any(|key| option.starts_with(key));
        if own {
            out.push(',');
            out.push_str(&String::from_utf8_lossy(&option));
        }
    }
    if options.user_marks {
        out.push_str(",userxattr");
    }
    out
}

impl OverlayFs {
    /// Whether the mounter may look names up, or list them, in the layer's directory `dir`: what it may not is not shown to others
    /// either, whatever the directory above it in the stack allows.
    fn check_layer(&self, dir: &Path, want: perm::Want) -> Result<()> {
        perm::check(&**dir.inode(), &self.mounter, want)
    }

    /// What `name` is in the layer's directory `dir`, as far as the mounter may know.
    fn find(&self, dir: &Path, name: &[u8]) -> Result<Option<Path>> {
        self.check_layer(dir, perm::Want::EXEC)?;
        layer::find(dir, name)
    }

    /// Whether the mounter may make files of the owner of what is at `path`.
    fn check_owner(&self, path: &Path) -> Result<()> {
        let (owner, cred) = (path.inode().owner()?, &self.mounter);
        let own = owner.uid == cred.fsuid && cred.in_group(owner.gid);
        let may = own || cred.capable_for((owner.uid, owner.gid), cap::CHOWN);
        if may { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// The inode number here of what is at `path` in a layer.
    fn ino(&self, path: &Path) -> Result<u64> {
        let (dev, ino) = (path.mount().fs().dev(), path.attr()?.ino);
        Ok(if dev == self.base_dev { ino } else { ino ^ dev.rotate_left(40) })
    }
}

impl FileSystem for OverlayFs {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> InodeRef {
        match self.root.get() {
            Some(root) => root.clone(),
            // Never: it is set before anybody has the file system.
            None => TmpFs::new("tmpfs", 0o755, 0).root(),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        let layer = self.upper.as_ref().or(self.lowers.first()).ok_or(Errno::EIO)?;
        Ok(StatFs { magic: MAGIC, fsid: self.dev, ..layer.mount().fs().statfs()? })
    }

    fn options(&self) -> String {
        self.shown.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_where_no_backslash_is() {
        let options = Options::parse(b"lowerdir=/a\\:b:/c,upperdir=/u\\,v,workdir=/w,userxattr").unwrap();
        assert_eq!(options.lowers, [b"/a:b".to_vec(), b"/c".to_vec()]);
        assert_eq!((options.upper, options.work), (Some(b"/u,v".to_vec()), Some(b"/w".to_vec())));
        for bad in ["", "lowerdir=/a", "lowerdir=/a,upperdir=/u", "lowerdir=/a:/b,what=1", "upperdir=/u,workdir=/w"] {
            assert!(Options::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
