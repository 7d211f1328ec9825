//! Namespaces. Source: unshare(2), setns(2).

use super::Fd;
use crate::task::Task;
use crate::task::access::{Creds, may_access};
use crate::task::clone::CloneFlags;
use crate::task::ns::file::NsFile;
use crate::task::ns::{self, KINDS, Ns};
use crate::task::pidfd::PidFd;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general as nr;

rows! {
    nr::__NR_unshare, unshare(flags: u64) => unshare, Full;
    nr::__NR_setns, setns(fd: Fd, kind: u32) => setns, Full;
}

fn unshare(task: &Arc<Task>, flags: u64) -> Result<()> {
    ns::unshare(task, CloneFlags::from_bits(flags & 0xffff_ffff).ok_or(Errno::EINVAL)?)
}

fn setns(task: &Arc<Task>, fd: Fd, kind: u32) -> Result<()> {
    let file = task.files()?.get(fd)?;
    let kind = u64::from(kind);
    if let Some(pidfd) = file.ops_as::<PidFd>() {
        let target = pidfd.task()?;
        may_access(task, &target, Creds::Real)?;
        let known = |flags: u64| CloneFlags::from_bits(flags).is_some_and(|flags| ns::ALL.contains(flags));
        if kind == 0 || !known(kind) {
            return Err(Errno::EINVAL);
        }
        let own = KINDS.iter().filter(|(name, _)| !name.ends_with("_for_children"));
        let wanted = own.map(|(_, of)| of(&target)).filter(|ns| ns.kind().1 & kind != 0);
        // The privileges for the others may come from the user namespace.
        let (user, others): (Vec<Ns>, Vec<Ns>) = wanted.partition(|ns| matches!(ns, Ns::User(_)));
        return user.into_iter().chain(others).try_for_each(|wanted| ns::setns(task, wanted));
    }
    let ns = &file.ops_as::<NsFile>().ok_or(Errno::EINVAL)?.0;
    if kind != 0 && kind != ns.kind().1 {
        return Err(Errno::EINVAL);
    }
    ns::setns(task, ns.clone())
}
