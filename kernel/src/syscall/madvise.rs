//! Memory that is in use: madvise and its kin, locking, sealing. The semantics are in `vm::advise`; here arguments are
//! checked as Linux does, and limits.

use super::Fd;
use super::mm::space;
use crate::ipc::userfaultfd;
use crate::task::access::{Creds, may_access};
use crate::task::pidfd::PidFd;
use crate::task::{Task, cap};
use crate::vm::Space;
use crate::vm::advise::LockMode;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi as nr;
use umbel_mm::{PAGE, UserAddr, user};

rows! {
    nr::__NR_madvise, madvise(addr: UserAddr, len: u64, advice: u32) => madvise, Partial("no merging, no huge pages, no poison; caching advice has no effect");
    nr::__NR_process_madvise, process_madvise(pidfd: Fd, pieces: UserAddr, count: usize, advice: u32, flags: u32) => process_madvise, Partial("the advice of madvise");
    nr::__NR_msync, msync(addr: UserAddr, len: u64, flags: u32) => msync, Full;
    nr::__NR_mincore, mincore(addr: UserAddr, len: u64, vec: UserAddr) => mincore, Partial("all pages of the host's files count as resident");
    nr::__NR_mlock, mlock(addr: UserAddr, len: u64) => mlock, Full;
    nr::__NR_mlock2, mlock2(addr: UserAddr, len: u64, flags: u32) => mlock2, Full;
    nr::__NR_munlock, munlock(addr: UserAddr, len: u64) => munlock, Full;
    nr::__NR_mlockall, mlockall(flags: u32) => mlockall, Full;
    nr::__NR_munlockall, munlockall() => munlockall, Full;
    nr::__NR_userfaultfd, userfaultfd(flags: u32) => userfaultfd, Partial("no events of fork, mremap and munmap; writes of shared memory are not watched");
    nr::__NR_mseal, mseal(addr: UserAddr, len: u64, flags: u64) => mseal, Full;
}

fn madvise(task: &Arc<Task>, addr: UserAddr, len: u64, advice: u32) -> Result<()> {
    space(task)?.advise(addr, len, advice)
}

/// Advice for another process: only what cannot change what it reads. Source: process_madvise(2).
fn process_madvise(
    task: &Arc<Task>,
    pidfd: Fd,
    pieces: UserAddr,
    count: usize,
    advice: u32,
    flags: u32,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let pieces = umbel_mm::io::read_iovecs(pieces, count)?;
    let own = space(task)?;
    let file = task.files()?.get(pidfd)?;
    let target = file.ops_as::<PidFd>().ok_or(Errno::EBADF)?.task()?;
    may_access(task, &target, Creds::Fs)?;
    let other = target.space().ok_or(Errno::ESRCH)?;
    let remote = !Arc::ptr_eq(&own, &other);
    if remote && !matches!(advice, nr::MADV_COLD | nr::MADV_PAGEOUT | nr::MADV_WILLNEED) {
        return Err(Errno::EINVAL);
    }
    if remote && !task.capable(cap::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let mut done = 0;
    for piece in pieces {
        match other.advise(piece.addr, piece.len, advice) {
            Ok(()) => done += piece.len as usize,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

fn msync(task: &Arc<Task>, addr: UserAddr, len: u64, flags: u32) -> Result<()> {
    const BOTH: u32 = nr::MS_ASYNC | nr::MS_SYNC;
    if flags & !(BOTH | nr::MS_INVALIDATE) != 0 || flags & BOTH == BOTH {
        return Err(Errno::EINVAL);
    }
    space(task)?.sync(addr, len, flags & nr::MS_INVALIDATE != 0, flags & nr::MS_SYNC != 0)
}

fn mincore(task: &Arc<Task>, addr: UserAddr, len: u64, vec: UserAddr) -> Result<()> {
    let pages = space(task)?.resident(addr, len)?;
    user::copy_out(vec, &pages)
}

fn mlock(task: &Arc<Task>, addr: UserAddr, len: u64) -> Result<()> {
    lock(task, addr, len, LockMode::Now)
}

fn mlock2(task: &Arc<Task>, addr: UserAddr, len: u64, flags: u32) -> Result<()> {
    if flags & !nr::MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    lock(task, addr, len, if flags == 0 { LockMode::Now } else { LockMode::OnFault })
}

fn lock(task: &Arc<Task>, addr: UserAddr, len: u64, mode: LockMode) -> Result<()> {
    let space = space(task)?;
    let (locked, more) = space.locked(addr, len);
    check_lock_limit(task, locked.saturating_add(more))?;
    space.lock_range(addr, len, mode)
}

/// `RLIMIT_MEMLOCK`, unless privileged: `EPERM` if nothing may be locked, `ENOMEM` beyond.
fn check_lock_limit(task: &Arc<Task>, bytes: u64) -> Result<()> {
    let limit = task.process().limit(nr::RLIMIT_MEMLOCK);
    if task.capable(cap::IPC_LOCK) || (limit > 0 && bytes <= limit) {
        return Ok(());
    }
    Err(if limit == 0 { Errno::EPERM } else { Errno::ENOMEM })
}

/// The same for memory that is mapped locked: `EAGAIN` beyond.
pub(super) fn check_future_lock(task: &Arc<Task>, space: &Space, len: u64) -> Result<()> {
    let (locked, _) = space.locked(UserAddr::NULL, 0);
    let bytes = locked.saturating_add(len.div_ceil(PAGE).saturating_mul(PAGE));
    check_lock_limit(task, bytes).map_err(|errno| if errno == Errno::ENOMEM { Errno::EAGAIN } else { errno })
}

fn munlock(task: &Arc<Task>, addr: UserAddr, len: u64) -> Result<()> {
    space(task)?.lock_range(addr, len, LockMode::Unlocked)
}

fn mlockall(task: &Arc<Task>, flags: u32) -> Result<()> {
    const ALL: u32 = nr::MCL_CURRENT | nr::MCL_FUTURE | nr::MCL_ONFAULT;
    if flags == 0 || flags & !ALL != 0 || flags == nr::MCL_ONFAULT {
        return Err(Errno::EINVAL);
    }
    let space = space(task)?;
    let has = |flag| flags & flag != 0;
    check_lock_limit(task, if has(nr::MCL_CURRENT) { space.usage().size } else { 0 })?;
    let mode = if has(nr::MCL_ONFAULT) { LockMode::OnFault } else { LockMode::Now };
    let future = if has(nr::MCL_FUTURE) { mode } else { LockMode::Unlocked };
    space.lock_all(has(nr::MCL_CURRENT).then_some(mode), future);
    Ok(())
}

fn munlockall(task: &Arc<Task>) -> Result<()> {
    space(task)?.lock_all(Some(LockMode::Unlocked), LockMode::Unlocked);
    Ok(())
}

fn userfaultfd(task: &Arc<Task>, flags: u32) -> Result<Fd> {
    let (file, flags) = userfaultfd::new(task, flags)?;
    super::ipc::install(task, file, flags)
}

fn mseal(task: &Arc<Task>, addr: UserAddr, len: u64, flags: u64) -> Result<()> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    space(task)?.seal(addr, len)
}
