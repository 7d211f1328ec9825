//! Namespaces as files: `/proc/PID/ns/*`, what setns(2) takes. Source: namespaces(7), ioctl_ns(2).

use super::{Ns, PidNs};
use crate::fs::pseudo::PseudoFs;
use crate::fs::{
    Attr, Dentry, File, FileOps, FileSystem, Inode, InodeRef, Kind, Mount, MountFlags, OpenContext, OpenFlags, Path,
};
use crate::task::{self, Task};
use crate::{Errno, Fd, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use umbel_mm::UserAddr;
use umbel_mm::user::write_val;
use umbel_smp::lock::Once;

/// `NSFS_MAGIC`.
const MAGIC: u32 = 0x6e73_6673;
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;
const NS_GET_MNTNS_ID: u32 = 0x8008_b705;
const NS_GET_PID_FROM_PIDNS: u32 = 0x8004_b706;
const NS_GET_TGID_FROM_PIDNS: u32 = 0x8004_b707;
const NS_GET_PID_IN_PIDNS: u32 = 0x8004_b708;
const NS_GET_TGID_IN_PIDNS: u32 = 0x8004_b709;

fn mount() -> &'static Arc<Mount> {
    static MOUNT: Once<Arc<Mount>> = Once::new();
    MOUNT.call_once(|| Mount::new(PseudoFs::new("nsfs", MAGIC), b"nsfs", MountFlags::INTERNAL))
}

/// What the link in /proc shows: `uts:[4026531838]`.
pub fn name(ns: &Ns) -> String {
    format!("{}:[{}]", ns.kind().0, ns.id())
}

/// The place of `ns`.
///
/// # Errors
/// `ENOMEM`.
pub fn path_of(ns: Ns) -> Result<Path> {
    let mount = mount();
    let name = name(&ns);
    let inode: InodeRef = Arc::new(NsInode(ns));
    Path::new(mount.clone(), Dentry::unnamed(mount.root_path()?.dentry(), name.as_bytes(), inode))
}

struct NsInode(Ns);

impl Inode for NsInode {
    fn kind(&self) -> Kind {
        Kind::Regular
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        mount().fs().clone()
    }

    fn attr(&self) -> Result<Attr> {
        Ok(Attr::new(Kind::Regular, 0o444, self.0.id()))
    }

    fn open(self: Arc<Self>, _: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(NsFile(self.0.clone())))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open one.
pub struct NsFile(pub Ns);

impl FileOps for NsFile {
    fn ioctl(&self, task: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            NS_GET_NSTYPE => Ok(self.0.kind().1),
            NS_GET_USERNS => match &self.0 {
                Ns::User(user) => open(task, Ns::User(user.parent().ok_or(Errno::EPERM)?)),
                other => open(task, Ns::User(other.owner())),
            },
            NS_GET_PARENT => match &self.0 {
                Ns::User(user) => open(task, Ns::User(user.parent().ok_or(Errno::EPERM)?)),
                Ns::Pid(pid) => {
                    let parent = pid.parent().filter(|parent| parent.is_within(task.process().pid_ns()));
                    open(task, Ns::Pid(parent.ok_or(Errno::EPERM)?.clone()))
                }
                _ => Err(Errno::EINVAL),
            },
            NS_GET_MNTNS_ID => match &self.0 {
                Ns::Mounts(_) => write_val(UserAddr(arg), &self.0.id()).map(|()| 0),
                _ => Err(Errno::EINVAL),
            },
            NS_GET_OWNER_UID => match &self.0 {
                Ns::User(user) => write_val(UserAddr(arg), &task.cred().show_uid(user.owner())).map(|()| 0),
                _ => Err(Errno::EINVAL),
            },
            NS_GET_PID_FROM_PIDNS | NS_GET_TGID_FROM_PIDNS | NS_GET_PID_IN_PIDNS | NS_GET_TGID_IN_PIDNS => {
                let Ns::Pid(ns) = &self.0 else { return Err(Errno::EINVAL) };
                translate(task, ns, cmd, arg as i32)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A thread's number in the caller's namespace from that in `ns`, or the other way round; of its process for the `TGID` requests.
fn translate(task: &Arc<Task>, ns: &Arc<PidNs>, cmd: u32, number: i32) -> Result<u64> {
    let own = task.process().pid_ns();
    let (from, to) = if matches!(cmd, NS_GET_PID_FROM_PIDNS | NS_GET_TGID_FROM_PIDNS) { (ns, own) } else { (own, ns) };
    let found = from.find(number).and_then(task::find_task).ok_or(Errno::ESRCH)?;
    let of_process = matches!(cmd, NS_GET_TGID_FROM_PIDNS | NS_GET_TGID_IN_PIDNS);
    match to.number_of(if of_process { found.process().pid() } else { found.tid() }) {
        0 => Err(Errno::ESRCH),
        number => Ok(number as u64),
    }
}

/// A descriptor of `ns` for `task`.
///
/// # Errors
/// `EMFILE`, `ENOMEM`.
pub fn open(task: &Arc<Task>, ns: Ns) -> Result<u64> {
    let file = File::new(path_of(ns.clone())?, Arc::new(NsFile(ns)), OpenFlags::empty());
    let Fd(fd) = crate::syscall::ipc::install(task, file, OpenFlags::CLOEXEC)?;
    Ok(fd as u64)
}
