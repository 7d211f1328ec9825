//! Who may look into whom, as a debugger could. Source: ptrace(2), "Ptrace access mode checking".
//!
//! Used by: ptrace, pidfd_getfd, process_vm_readv, /proc.

use super::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

/// Which of the caller's ids and capabilities count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creds {
    /// `PTRACE_MODE_FSCREDS`: what accesses files.
    Fs,
    /// `PTRACE_MODE_REALCREDS`: for calls that name a process.
    Real,
}

/// `SUID_DUMP_USER` of `PR_SET_DUMPABLE`.
const DUMPABLE_BY_USER: u32 = 1;

/// Whether others of its user may look into `target`: not if it has no memory, either.
pub fn is_dumpable(target: &Task) -> bool {
    target.process().dumpable.load(Relaxed) == DUMPABLE_BY_USER && target.space().is_some()
}

/// Whether `task` may look into `target`.
///
/// # Errors
/// `EPERM`.
pub fn may_access(task: &Task, target: &Task, creds: Creds) -> Result<()> {
    if Arc::ptr_eq(task.process(), target.process()) {
        return Ok(());
    }
    let (own, their) = (task.cred(), target.cred());
    if !own.sandbox.covers(&their.sandbox) {
        return Err(Errno::EPERM);
    }
    let (uid, gid, caps) = match creds {
        Creds::Fs => (own.fsuid, own.fsgid, own.effective),
        Creds::Real => (own.uid, own.gid, own.permitted),
    };
    let privileged = own.capable_in(&their.user_ns, cap::SYS_PTRACE);
    let same_user = [their.uid, their.euid, their.suid].iter().all(|&id| id == uid)
        && [their.gid, their.egid, their.sgid].iter().all(|&id| id == gid);
    // What somebody brought into a namespace is not for those who are privileged no further than there.
    let dumpable = is_dumpable(target)
        || target.space().is_none()
        || own.capable_in(&target.process().memory_owner(), cap::SYS_PTRACE);
    let weaker = own.user_ns == their.user_ns && their.permitted & !caps == 0;
    if dumpable && (privileged || same_user && weaker) { Ok(()) } else { Err(Errno::EPERM) }
}
