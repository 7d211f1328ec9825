//! Memory: mmap and its kin. The semantics are in `vm`; here arguments are decoded and checked as Linux does.

use super::Fd;
use crate::fs::{File, MountFlags, OpenFlags};
use crate::task::access::{Creds, may_access};
use crate::task::{Task, find_task};
use crate::vm::map::Place;
use crate::vm::remap::Move;
use crate::vm::{Backing, MapRequest, Prot, SharedMemory, Space, VmaFlags};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as nr;
use umbel_mm::io::IoVec;
use umbel_mm::{PAGE, UserAddr, user};

rows! {
    nr::__NR_mmap, mmap(addr: UserAddr, len: u64, prot: MapProt, flags: MapFlags, fd: Fd, offset: u64) => mmap, Partial("no huge pages, no MAP_SYNC");
    nr::__NR_munmap, munmap(addr: UserAddr, len: u64) => munmap, Full;
    nr::__NR_mprotect, mprotect(addr: UserAddr, len: u64, prot: MapProt) => mprotect, Full;
    nr::__NR_mremap, mremap(addr: UserAddr, old_len: u64, new_len: u64, flags: u32, to: UserAddr) => mremap, Full;
    nr::__NR_brk, brk(to: UserAddr) => brk, Full;
    nr::__NR_madvise, madvise(addr: UserAddr, len: u64, advice: u32) => madvise, Partial("no hwpoison, no MADV_REMOVE; caching advice has no effect");
    nr::__NR_msync, msync(addr: UserAddr, len: u64, flags: u32) => msync, Full;
    nr::__NR_mincore, mincore(addr: UserAddr, len: u64, vec: UserAddr) => mincore, Partial("all pages of the host's files count as resident");
    nr::__NR_mlock, mlock(addr: UserAddr, len: u64) => mlock, Full;
    nr::__NR_mlock2, mlock2(addr: UserAddr, len: u64, flags: u32) => mlock2, Full;
    nr::__NR_munlock, munlock(addr: UserAddr, len: u64) => munlock, Full;
    nr::__NR_mlockall, mlockall(flags: u32) => mlockall, Full;
    nr::__NR_munlockall, munlockall() => munlockall, Full;
    nr::__NR_membarrier, membarrier(command: i32, flags: u32, cpu: i32) => membarrier, Partial("no SYNC_CORE, no RSEQ");
    nr::__NR_process_vm_readv, process_vm_readv(pid: super::Pid, local: UserAddr, local_count: usize, remote: UserAddr, remote_count: usize, flags: u64) => process_vm_readv, Full;
    nr::__NR_process_vm_writev, process_vm_writev(pid: super::Pid, local: UserAddr, local_count: usize, remote: UserAddr, remote_count: usize, flags: u64) => process_vm_writev, Full;
}

bitflags::bitflags! {
    /// `PROT_*`. Growing directions are accepted and ignored as Linux does for areas that do not grow.
    #[derive(Clone, Copy, Debug)]
    struct MapProt: u32 {
        const PROT_READ = nr::PROT_READ;
        const PROT_WRITE = nr::PROT_WRITE;
        const PROT_EXEC = nr::PROT_EXEC;
        const PROT_SEM = nr::PROT_SEM;
        const PROT_GROWSDOWN = nr::PROT_GROWSDOWN;
        const PROT_GROWSUP = nr::PROT_GROWSUP;
    }

    /// `MAP_*`. Unknown bits are ignored, except with `MAP_SHARED_VALIDATE`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct MapFlags: u32 {
        const MAP_SHARED = nr::MAP_SHARED;
        const MAP_PRIVATE = nr::MAP_PRIVATE;
        const MAP_FIXED = nr::MAP_FIXED;
        const MAP_ANONYMOUS = nr::MAP_ANONYMOUS;
        const MAP_32BIT = 0x40;
        const MAP_GROWSDOWN = nr::MAP_GROWSDOWN;
        const MAP_DENYWRITE = nr::MAP_DENYWRITE;
        const MAP_EXECUTABLE = nr::MAP_EXECUTABLE;
        const MAP_LOCKED = nr::MAP_LOCKED;
        const MAP_NORESERVE = nr::MAP_NORESERVE;
        const MAP_POPULATE = nr::MAP_POPULATE;
        const MAP_NONBLOCK = nr::MAP_NONBLOCK;
        const MAP_STACK = nr::MAP_STACK;
        const MAP_HUGETLB = nr::MAP_HUGETLB;
        const MAP_SYNC = nr::MAP_SYNC;
        const MAP_FIXED_NOREPLACE = nr::MAP_FIXED_NOREPLACE;
        const _ = !0;
    }
}
crate::flag_args!(MapProt, MapFlags);

/// `MAP_SHARED_VALIDATE`: both type bits.
const SHARED_VALIDATE: MapFlags = MapFlags::MAP_SHARED.union(MapFlags::MAP_PRIVATE);

fn space(task: &Arc<Task>) -> Result<Arc<Space>> {
    task.space().ok_or(Errno::ESRCH)
}

fn prot_of(prot: MapProt) -> Prot {
    Prot::from_bits_truncate(prot.bits())
}

fn mmap(
    task: &Arc<Task>,
    addr: UserAddr,
    len: u64,
    prot: MapProt,
    flags: MapFlags,
    fd: Fd,
    offset: u64,
) -> Result<UserAddr> {
    let kind = flags & SHARED_VALIDATE;
    if kind.is_empty() || !offset.is_multiple_of(PAGE) || len == 0 {
        return Err(Errno::EINVAL);
    }
    if flags.contains(MapFlags::MAP_HUGETLB) {
        return Err(Errno::ENOMEM);
    }
    if flags.contains(MapFlags::MAP_SYNC) && kind == SHARED_VALIDATE {
        return Err(Errno::EOPNOTSUPP);
    }
    let shared = kind.contains(MapFlags::MAP_SHARED);
    let prot = prot_of(prot);
    let mut area = VmaFlags::empty();
    area.set(VmaFlags::SHARED, shared);
    area.set(VmaFlags::GROWSDOWN, flags.contains(MapFlags::MAP_GROWSDOWN) && !shared);
    area.set(VmaFlags::LOCKED, flags.contains(MapFlags::MAP_LOCKED));
    let backing = if flags.contains(MapFlags::MAP_ANONYMOUS) {
        area.insert(VmaFlags::MAYWRITE);
        anonymous(len, shared)
    } else {
        let file = task.files()?.get(fd)?;
        area.set(VmaFlags::MAYWRITE, file.flags().writable());
        let no_exec = file.path().is_some_and(|path| path.mount().flags().contains(MountFlags::NOEXEC));
        if no_exec && prot.contains(Prot::EXEC) {
            return Err(Errno::EPERM);
        }
        area.set(VmaFlags::NOEXEC, no_exec);
        of_file(file, len, offset, prot, shared)?
    };
    let place = if flags.contains(MapFlags::MAP_FIXED_NOREPLACE) {
        Place::FixedFree
    } else if flags.contains(MapFlags::MAP_FIXED) {
        Place::Fixed
    } else if flags.contains(MapFlags::MAP_32BIT) {
        Place::Low
    } else {
        Place::Anywhere
    };
    let space = space(task)?;
    let at = space.map(MapRequest { addr, len, place, prot, flags: area, backing })?;
    if prot.contains(Prot::EXEC) {
        space.adopt_text(at);
    }
    if flags.contains(MapFlags::MAP_POPULATE) && !flags.contains(MapFlags::MAP_NONBLOCK) {
        space.populate(at.0, at.0 + len.next_multiple_of(PAGE));
    } else {
        space.prefault(at.0, len);
    }
    Ok(at)
}

fn anonymous(len: u64, shared: bool) -> Backing {
    if !shared {
        return Backing::Anonymous;
    }
    Backing::File { object: SharedMemory::new(len), offset: 0, file: None }
}

fn of_file(file: Arc<File>, len: u64, offset: u64, prot: Prot, shared: bool) -> Result<Backing> {
    if offset.checked_add(len).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let flags = file.flags();
    if flags.contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    if !flags.readable() || (shared && prot.contains(Prot::WRITE) && !flags.writable()) {
        return Err(Errno::EACCES);
    }
    Ok(Backing::File { object: file.mappable()?, offset, file: Some(file) })
}

fn munmap(task: &Arc<Task>, addr: UserAddr, len: u64) -> Result<()> {
    space(task)?.unmap(addr, len)
}

fn mprotect(task: &Arc<Task>, addr: UserAddr, len: u64, prot: MapProt) -> Result<()> {
    space(task)?.protect(addr, len, prot_of(prot))
}

fn mremap(task: &Arc<Task>, addr: UserAddr, old_len: u64, new_len: u64, flags: u32, to: UserAddr) -> Result<UserAddr> {
    const ALL: u32 = nr::MREMAP_MAYMOVE | nr::MREMAP_FIXED | nr::MREMAP_DONTUNMAP;
    let (may, fixed, keep) =
        (flags & nr::MREMAP_MAYMOVE != 0, flags & nr::MREMAP_FIXED != 0, flags & nr::MREMAP_DONTUNMAP != 0);
    if flags & !ALL != 0 || ((fixed || keep) && !may) || (keep && old_len != new_len) {
        return Err(Errno::EINVAL);
    }
    let how = match (fixed, may) {
        (true, _) => Move::To(to),
        (_, true) => Move::May,
        _ => Move::Stay,
    };
    space(task)?.remap(addr, old_len, new_len, how, keep)
}

fn brk(task: &Arc<Task>, to: UserAddr) -> Result<UserAddr> {
    Ok(space(task)?.brk(to))
}

fn madvise(task: &Arc<Task>, addr: UserAddr, len: u64, advice: u32) -> Result<()> {
    space(task)?.advise(addr, len, advice)
}

fn msync(task: &Arc<Task>, addr: UserAddr, len: u64, flags: u32) -> Result<()> {
    const BOTH: u32 = nr::MS_ASYNC | nr::MS_SYNC;
    if flags & !(BOTH | nr::MS_INVALIDATE) != 0 || flags & BOTH == BOTH {
        return Err(Errno::EINVAL);
    }
    space(task)?.sync(addr, len)
}

fn mincore(task: &Arc<Task>, addr: UserAddr, len: u64, vec: UserAddr) -> Result<()> {
    let pages = space(task)?.resident(addr, len)?;
    user::copy_out(vec, &pages)
}

fn mlock(task: &Arc<Task>, addr: UserAddr, len: u64) -> Result<()> {
    lock(task, addr, len, true)
}

fn mlock2(task: &Arc<Task>, addr: UserAddr, len: u64, flags: u32) -> Result<()> {
    if flags & !nr::MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    lock(task, addr, len, flags & nr::MLOCK_ONFAULT == 0)
}

fn lock(task: &Arc<Task>, addr: UserAddr, len: u64, now: bool) -> Result<()> {
    let space = space(task)?;
    let (locked, more) = space.locked(addr, len);
    check_lock_limit(task, locked + more)?;
    space.lock_range(addr, len, true, now)
}

/// `RLIMIT_MEMLOCK`, unless privileged: `EPERM` if nothing may be locked, `ENOMEM` beyond.
fn check_lock_limit(task: &Arc<Task>, bytes: u64) -> Result<()> {
    const CAP_IPC_LOCK: u32 = 14;
    let limit = task.process().limit(nr::RLIMIT_MEMLOCK);
    if task.capable(CAP_IPC_LOCK) || bytes <= limit {
        return Ok(());
    }
    Err(if limit == 0 { Errno::EPERM } else { Errno::ENOMEM })
}

fn munlock(task: &Arc<Task>, addr: UserAddr, len: u64) -> Result<()> {
    space(task)?.lock_range(addr, len, false, false)
}

fn mlockall(task: &Arc<Task>, flags: u32) -> Result<()> {
    const ALL: u32 = nr::MCL_CURRENT | nr::MCL_FUTURE | nr::MCL_ONFAULT;
    if flags == 0 || flags & !ALL != 0 || flags == nr::MCL_ONFAULT {
        return Err(Errno::EINVAL);
    }
    let space = space(task)?;
    check_lock_limit(task, if flags & nr::MCL_CURRENT != 0 { space.usage().size } else { 0 })?;
    let now = flags & nr::MCL_CURRENT != 0;
    space.lock_all(now && flags & nr::MCL_ONFAULT == 0, flags & nr::MCL_FUTURE != 0);
    Ok(())
}

fn munlockall(task: &Arc<Task>) -> Result<()> {
    space(task)?.lock_all(false, false);
    Ok(())
}

/// Source: membarrier(2). A host barrier on all virtual CPUs serves every command.
fn membarrier(task: &Arc<Task>, command: i32, flags: u32, _cpu: i32) -> Result<u32> {
    const GLOBAL: i32 = 1;
    const GLOBAL_EXPEDITED: i32 = 1 << 1;
    const REGISTER_GLOBAL: i32 = 1 << 2;
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    const REGISTER_PRIVATE: i32 = 1 << 4;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    match command {
        0 => Ok((GLOBAL | GLOBAL_EXPEDITED | REGISTER_GLOBAL | PRIVATE_EXPEDITED | REGISTER_PRIVATE) as u32),
        PRIVATE_EXPEDITED if !task.process().expedites.load(Relaxed) => Err(Errno::EPERM),
        GLOBAL | GLOBAL_EXPEDITED | PRIVATE_EXPEDITED => {
            umbel_mm::view::barrier();
            Ok(0)
        }
        REGISTER_GLOBAL => Ok(0),
        REGISTER_PRIVATE => {
            task.process().expedites.store(true, Relaxed);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn process_vm_readv(
    task: &Arc<Task>,
    pid: super::Pid,
    local: UserAddr,
    local_count: usize,
    remote: UserAddr,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    between(task, pid, (local, local_count), (remote, remote_count), flags, |other, ours, theirs, buf| {
        let got = other.read_remote(theirs, buf)?;
        user::copy_out(ours, &buf[..got])?;
        Ok(got)
    })
}

fn process_vm_writev(
    task: &Arc<Task>,
    pid: super::Pid,
    local: UserAddr,
    local_count: usize,
    remote: UserAddr,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    between(task, pid, (local, local_count), (remote, remote_count), flags, |other, ours, theirs, buf| {
        user::copy_in(buf, ours)?;
        other.write_remote(theirs, buf)
    })
}

/// Walks two lists of pieces side by side. Source: process_vm_readv(2).
fn between(
    task: &Arc<Task>,
    pid: super::Pid,
    local: (UserAddr, usize),
    remote: (UserAddr, usize),
    flags: u64,
    step: impl Fn(&Space, UserAddr, UserAddr, &mut [u8]) -> Result<usize>,
) -> Result<usize> {
    if flags != 0 || remote.1 > umbel_mm::io::MAX_PIECES {
        return Err(Errno::EINVAL);
    }
    let local = umbel_mm::io::read_iovecs(local.0, local.1)?;
    let remote: Vec<IoVec> = user::read_vec(remote.0, remote.1)?;
    let other = memory_of(task, pid)?;
    let mut theirs = remote.into_iter().filter(|piece| piece.len > 0);
    let Some(mut their) = theirs.next() else {
        return Ok(0);
    };
    let mut done = 0;
    let mut buffer = [0; 2048];
    for mut our in local {
        while our.len > 0 {
            let len = (our.len.min(their.len) as usize).min(buffer.len());
            let moved = match step(&other, our.addr, their.addr, &mut buffer[..len]) {
                Ok(moved) if moved == len => moved,
                Ok(moved) => return Ok(done + moved),
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            };
            done += moved;
            our = IoVec { addr: our.addr.add(moved as u64), len: our.len - moved as u64 };
            their = IoVec { addr: their.addr.add(moved as u64), len: their.len - moved as u64 };
            if their.len == 0 {
                let Some(next) = theirs.next() else {
                    return Ok(done);
                };
                their = next;
            }
        }
    }
    Ok(done)
}

/// The space of another process whose memory the caller may touch. Source: ptrace(2), access mode attach.
fn memory_of(task: &Arc<Task>, pid: super::Pid) -> Result<Arc<Space>> {
    let target = find_task(pid).ok_or(Errno::ESRCH)?;
    may_access(task, &target, Creds::Real)?;
    target.space().ok_or(Errno::ESRCH)
}
