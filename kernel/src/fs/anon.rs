//! Places for open files that have no name (pipes, sockets): where `/proc/PID/fd/N` of such a file leads.
//!
//! A pipe can be opened there, for reading or writing, whatever its end is open for; of the machine's own streams that gives the
//! open file itself; nothing else can.

use super::dentry::Dentry;
use super::file::File;
use super::inode::{FileSystem, Inode, InodeRef};
use super::mount::{Mount, MountFlags, Path};
use super::pseudo::PseudoFs;
use super::types::{Attr, Kind, OpenFlags};
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::any::Any;
use umbel_smp::lock::Once;

const ANON_INODE_FS_MAGIC: u32 = 0x0904_1934;

/// The inode of an open file without a name.
struct AnonInode {
    file: Arc<File>,
    kind: Kind,
}

impl Inode for AnonInode {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        mount().fs().clone()
    }

    fn attr(&self) -> Result<Attr> {
        self.file.attr()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn mount() -> &'static Arc<Mount> {
    static MOUNT: Once<Arc<Mount>> = Once::new();
    MOUNT.call_once(|| Mount::new(PseudoFs::new("anon_inodefs", ANON_INODE_FS_MAGIC), b"none", MountFlags::INTERNAL))
}

/// The place of `file`, which has none of its own.
pub fn path_of(file: &Arc<File>) -> Result<Path> {
    let mount = mount();
    let inode: InodeRef = Arc::new(AnonInode { file: file.clone(), kind: file.attr()?.kind });
    Path::new(mount.clone(), Dentry::unnamed(mount.root_path()?.dentry(), b"anon", inode))
}

/// A new open file of what is behind `path`, if it is such a place.
pub(super) fn reopen(path: &Path, flags: OpenFlags) -> Option<Result<Arc<File>>> {
    let anon: &AnonInode = path.inode().as_any().downcast_ref()?;
    Some(anon.file.ops().reopen(&anon.file, flags))
}

/// `file` itself, for what can only be open once; `EACCES` if it is not open for what `flags` ask.
pub fn same(file: &Arc<File>, flags: OpenFlags) -> Result<Arc<File>> {
    let open = file.flags();
    let lacks = flags.readable() && !open.readable() || flags.writable() && !open.writable();
    if lacks { Err(Errno::EACCES) } else { Ok(file.clone()) }
}
