//! The name space at boot: the layered root over the host's directory, and the guest's own file systems on it.

use super::host::HostFs;
use super::tmpfs::TmpFs;
use super::{
    Dev, FileSystem, FsContext, Kind, Mode, Mount, MountFlags, MountNamespace, Name, Names, NewNode, Path, attach,
    devtmpfs,
};
use crate::task::Cred;
use crate::task::ns::PidNs;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_abi::machine::BootInfo;
use umbel_host::file::HostFd;
use umbel_smp::lock::Once;

static ROOT: Once<Path> = Once::new();
/// The name space of the first process, which never ends.
static FIRST: Once<Arc<MountNamespace>> = Once::new();

/// The root of the name space.
pub fn root() -> Result<Path> {
    ROOT.get().cloned().ok_or(Errno::ENOENT)
}

/// Builds the name space. After the character devices have been registered; before the first process.
pub fn init(boot: &BootInfo) -> Result<()> {
    let host = HostFs::new(HostFd(boot.files.root))?;
    let layered = TmpFs::layered(host.root_node())?;
    let mount = Mount::new(layered, b"overlay", MountFlags::empty());
    // There is one boot.
    let _ = FIRST.set(MountNamespace::new(mount.clone(), 0, None));
    let _ = ROOT.set(mount.root_path()?);
    let half = boot.ram_pages / 2;
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_at(b"/proc", super::proc::new(&PidNs::first()), b"proc", strict)?;
    mount_at(b"/sys", super::sys::new(), b"sysfs", strict)?;
    mount_at(b"/tmp", TmpFs::new("tmpfs", 0o1777, half), b"tmpfs", MountFlags::empty())?;
    mount_at(b"/dev", TmpFs::new("devtmpfs", 0o755, half), b"devtmpfs", MountFlags::NOSUID)?;
    fill_dev()?;
    mount_at(b"/dev/pts", crate::tty::devpts(), b"devpts", MountFlags::NOSUID | MountFlags::NOEXEC)?;
    mount_at(b"/dev/shm", TmpFs::new("tmpfs", 0o1777, half), b"tmpfs", MountFlags::NOSUID | MountFlags::NODEV)
}

/// Mounts `fs` on the directory `place`, which is made if it does not exist.
pub fn mount_at(place: &[u8], fs: Arc<dyn FileSystem>, source: &[u8], flags: MountFlags) -> Result<()> {
    with_kernel_names(|names| {
        let dir = make_dir(names, place, 0o755)?;
        attach(&Mount::new(fs, source, flags), dir)
    })
}

/// Calls `work` with names that start at the root, with root's rights.
pub fn with_kernel_names<R>(work: impl FnOnce(&Names<'_>) -> Result<R>) -> Result<R> {
    let root = root()?;
    let context = FsContext::new(root.clone(), root);
    context.set_umask(0);
    let cred = Cred::new(0, 0);
    work(&Names { context: &context, cred: &cred })
}

fn make_dir(names: &Names<'_>, place: &[u8], mode: Mode) -> Result<Path> {
    let name = Name::new(place);
    match names.create(&name, &names.node(Kind::Directory, mode)) {
        Ok(path) => Ok(path),
        Err(Errno::EEXIST) => names.find(&name, super::walk::Follow::Yes),
        Err(errno) => Err(errno),
    }
}

/// Makes the nodes of the registered devices, and the usual links.
fn fill_dev() -> Result<()> {
    const LINKS: [(&str, &str); 5] = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    with_kernel_names(|names| {
        make_dir(names, b"/dev/shm", 0o1777)?;
        make_dir(names, b"/dev/pts", 0o755)?;
        for (name, kind, mode, dev) in devtmpfs::nodes() {
            make_device(names, name, kind, mode, dev)?;
        }
        for (name, target) in LINKS {
            let node = NewNode { target: target.as_bytes(), ..names.node(Kind::Symlink, 0o777) };
            ignore_existing(names.create(&Name::new(&in_dev(name)), &node))?;
        }
        Ok(())
    })
}

fn make_device(names: &Names<'_>, name: &str, kind: Kind, mode: Mode, dev: Dev) -> Result<()> {
    if let Some((dir, _)) = name.rsplit_once('/') {
        make_dir(names, &in_dev(dir), 0o755)?;
    }
    let node = NewNode { rdev: dev, ..names.node(kind, mode) };
    ignore_existing(names.create(&Name::new(&in_dev(name)), &node))
}

fn in_dev(name: &str) -> Vec<u8> {
    [b"/dev/".as_slice(), name.as_bytes()].concat()
}

fn ignore_existing(made: Result<Path>) -> Result<()> {
    match made {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}
