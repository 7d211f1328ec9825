//! A directory of the host as a read-only file system: the lower layer of the guest's root.
//!
//! Names are walked a component at a time and links are never followed by the host. Only regular files and directories
//! are ever opened; a device node, fifo or socket of the host is shown by its mode and opened as the guest's own. File
//! systems that are windows into the host (proc, sysfs, cgroup, …) look like empty directories at any depth: reading
//! `/proc/self/mem` there would read locked kernel memory.
//!
//! * [`node`]: inodes, remembering their parent and name, so that descriptors can be closed and opened again.
//! * [`descriptors`]: how many are open at once.
//! * [`glances`]: names that were looked at once. [`order`]: directories whose names are looked at one after the other.
//! * [`listing`]: directory records. [`data`]: open regular files and what mmap(2) maps.
//!
//! The host's files may change under the guest: attributes and listings are trusted for [`TRUST_NS`].

mod data;
mod descriptors;
mod glances;
mod listing;
mod node;
mod order;

use super::inode::{FileSystem, InodeRef};
use super::types::{Attr, StatFs};
use crate::{Errno, Result};
use alloc::sync::{Arc, Weak};
pub use data::HostData;
use glances::Glances;
pub use listing::{Entry, Listing};
pub use node::HostNode;
pub use order::Following;
use order::Orders;

use umbel_abi::linux::uapi;
use umbel_host::file::{self, HostFd};

/// What [`HostNode::glance`] finds.
pub enum Glance {
    Node(Arc<HostNode>),
    Attr(Attr),
}

/// How long what the host said about a name is believed, ns.
const TRUST_NS: u64 = 1_000_000_000;

/// Magic numbers of file systems that show the host's own state (source: statfs(2), linux/magic.h).
const REFUSED: [u64; 22] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x1cd1,      // devpts
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinux
    0x6165_676c, // pstore
    0xcafe_4a11, // bpf
    0x4249_4e4d, // binfmt_misc
    0x1980_0202, // mqueue
    0x6e73_6673, // nsfs
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0x6e66_7364, // nfsd
    0x6759_6969, // rpc_pipefs
    0x6573_5543, // fusectl
    0x4341_5d53, // smackfs
    0x0765_5821, // resctrl
    0x0187,      // autofs: a look would mount
];

/// A host directory as a file system.
pub struct HostFs {
    dev: u64,
    root: HostFd,
    /// What the root was when it was first looked at.
    found: uapi::statx,
    glances: Glances,
    orders: Orders,
    me: Weak<HostFs>,
}

impl HostFs {
    /// The tree below `root`, a directory descriptor that stays open.
    ///
    /// # Errors
    /// `EINVAL` if it is itself on a file system that is refused.
    pub fn new(root: HostFd) -> Result<Arc<HostFs>> {
        if is_refused(root)? {
            return Err(Errno::EINVAL);
        }
        let found = file::stat_at(root, b"")?;
        let dev = super::next_dev();
        Ok(Arc::new_cyclic(|me| HostFs {
            dev,
            root,
            found,
            glances: Glances::new(),
            orders: Orders::new(),
            me: me.clone(),
        }))
    }

    /// Its root.
    pub fn root_node(&self) -> Arc<HostNode> {
        // Nodes hold the file system, not the other way round.
        let (dev, root, found) = (self.dev, self.root, self.found);
        let another =
            || Arc::new(HostFs { dev, root, found, glances: Glances::new(), orders: Orders::new(), me: Weak::new() });
        let me = self.me.upgrade().unwrap_or_else(another);
        HostNode::root(me, self.root, &self.found)
    }
}

impl FileSystem for HostFs {
    fn name(&self) -> &'static str {
        "hostfs"
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> InodeRef {
        self.root_node()
    }

    fn statfs(&self) -> Result<StatFs> {
        let facts = file::statfs(self.root)?;
        Ok(StatFs {
            magic: 0x00c0_ffee,
            block_size: facts.f_bsize as u32,
            blocks: facts.f_blocks,
            free: facts.f_bfree,
            files: facts.f_files,
            files_free: facts.f_ffree,
            fsid: 0,
        })
    }
}

/// Whether what `fd` is on must not be shown.
fn is_refused(fd: HostFd) -> Result<bool> {
    // The low 32 bits: some magic numbers come sign-extended.
    let magic = file::statfs(fd)?.f_type as u64 & 0xffff_ffff;
    Ok(REFUSED.contains(&magic))
}
