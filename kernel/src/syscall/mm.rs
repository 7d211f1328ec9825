//! Memory: mmap and its kin. The semantics are in `vm`; here arguments are decoded and checked as Linux does.

use super::Fd;
use super::madvise::check_future_lock;
use crate::fs::secret::Secret;
use crate::fs::{File, Kind, MountFlags, OpenFlags};
use crate::task::access::{Creds, may_access};
use crate::task::{Task, find_task, rseq};
use crate::vm::commit;
use crate::vm::map::Place;
use crate::vm::remap::Move;
use crate::vm::{Backing, MapRequest, Prot, SharedMemory, Space, VmaFlags};
use crate::{Errno, Result, signal};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as nr;
use umbel_mm::io::IoVec;
use umbel_mm::{PAGE, UserAddr, user};

rows! {
    nr::__NR_mmap, mmap(addr: UserAddr, len: u64, prot: MapProt, flags: MapFlags, fd: Fd, offset: u64) => mmap, Partial("no huge pages; MAP_SYNC is refused");
    nr::__NR_munmap, munmap(addr: UserAddr, len: u64) => munmap, Full;
    nr::__NR_mprotect, mprotect(addr: UserAddr, len: u64, prot: MapProt) => mprotect, Full;
    nr::__NR_mremap, mremap(addr: UserAddr, old_len: u64, new_len: u64, flags: u32, to: UserAddr) => mremap, Full;
    nr::__NR_remap_file_pages, remap_file_pages(addr: u64, len: u64, prot: u64, page: u64, flags: u64) => remap_file_pages, Full;
    nr::__NR_pkey_alloc, pkey_alloc(flags: u64, rights: u64) => pkey_alloc, Partial("no keys, as on a processor without them");
    nr::__NR_pkey_free, pkey_free(key: i32) => pkey_free, Partial("no keys");
    nr::__NR_pkey_mprotect, pkey_mprotect(addr: UserAddr, len: u64, prot: MapProt, key: i32) => pkey_mprotect, Partial("no keys but -1");
    nr::__NR_brk, brk(to: UserAddr) => brk, Full;
    nr::__NR_membarrier, membarrier(command: i32, flags: u32, cpu: i32) => membarrier, Full;
    nr::__NR_process_vm_readv, process_vm_readv(pid: super::Pid, local: UserAddr, local_count: usize, remote: UserAddr, remote_count: usize, flags: u64) => process_vm_readv, Full;
    nr::__NR_process_vm_writev, process_vm_writev(pid: super::Pid, local: UserAddr, local_count: usize, remote: UserAddr, remote_count: usize, flags: u64) => process_vm_writev, Full;
}

bitflags::bitflags! {
    /// `PROT_*`. mmap(2) ignores unknown bits.
    #[derive(Clone, Copy, Debug)]
    struct MapProt: u32 {
        const PROT_READ = nr::PROT_READ;
        const PROT_WRITE = nr::PROT_WRITE;
        const PROT_EXEC = nr::PROT_EXEC;
        const PROT_SEM = nr::PROT_SEM;
        const PROT_GROWSDOWN = nr::PROT_GROWSDOWN;
        const PROT_GROWSUP = nr::PROT_GROWSUP;
        const _ = !0;
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
/// The bits that say which type of mapping it is.
const TYPE: u32 = nr::MAP_TYPE;
/// Flags that files know when mapped with `MAP_SHARED_VALIDATE`: `MAP_SYNC` and, on Linux too, `MAP_FIXED_NOREPLACE` are
/// none of them.
const VALID: MapFlags = SHARED_VALIDATE
    .union(MapFlags::MAP_FIXED)
    .union(MapFlags::MAP_32BIT)
    .union(MapFlags::MAP_GROWSDOWN)
    .union(MapFlags::MAP_DENYWRITE)
    .union(MapFlags::MAP_EXECUTABLE)
    .union(MapFlags::MAP_LOCKED)
    .union(MapFlags::MAP_NORESERVE)
    .union(MapFlags::MAP_POPULATE)
    .union(MapFlags::MAP_NONBLOCK)
    .union(MapFlags::MAP_STACK);

pub(super) fn space(task: &Arc<Task>) -> Result<Arc<Space>> {
    task.space().ok_or(Errno::ESRCH)
}

fn prot_of(prot: MapProt) -> Prot {
    Prot::from_bits_truncate(prot.bits())
}

/// Whether text that is mapped now is mapped to be run. Only the dynamic linker is sure to: others may translate what they
/// map and are to see the file's own bytes (valgrind). Calls of theirs that are run after all are patched once they are hot.
fn maps_to_run(task: &Arc<Task>, space: &Space) -> bool {
    let (start, end) = space.layout().interpreter;
    (start..end).contains(&task.user.regs().rip)
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
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let file = if flags.contains(MapFlags::MAP_ANONYMOUS) { None } else { Some(task.files()?.get(fd)?) };
    if flags.contains(MapFlags::MAP_HUGETLB) {
        // Pages of the usual size, 2 MiB or 1 GiB. None are in the pool; files are of other file systems.
        let known = matches!(flags.bits() >> nr::MAP_HUGE_SHIFT & nr::MAP_HUGE_MASK, 0 | 21 | 30);
        return Err(if file.is_some() || !known { Errno::EINVAL } else { Errno::ENOMEM });
    }
    let shared = check_type(flags, len, file.as_deref())?;
    let prot = prot_of(prot);
    let mut area = VmaFlags::empty();
    area.set(VmaFlags::SHARED, shared);
    area.set(VmaFlags::GROWSDOWN, flags.contains(MapFlags::MAP_GROWSDOWN));
    area.set(VmaFlags::LOCKED, flags.contains(MapFlags::MAP_LOCKED));
    if file.as_ref().is_some_and(|file| file.ops_as::<Secret>().is_some()) {
        if !shared {
            return Err(Errno::EINVAL);
        }
        area.insert(VmaFlags::LOCKED | VmaFlags::DONTDUMP | VmaFlags::SECRET);
    }
    let strict = commit::MODE.get() == 2;
    area.set(VmaFlags::NORESERVE, flags.contains(MapFlags::MAP_NORESERVE) && !strict);
    let space = space(task)?;
    if area.contains(VmaFlags::LOCKED) || space.locks_future() {
        check_future_lock(task, &space, len)?;
    }
    let backing = if let Some(file) = file {
        area.set(VmaFlags::MAYWRITE, file.flags().writable());
        let no_exec = file.path().is_some_and(|path| path.mount().flags().contains(MountFlags::NOEXEC));
        area.set(VmaFlags::NOEXEC, no_exec);
        of_file(file, len, offset, prot, area)?
    } else {
        area.insert(VmaFlags::MAYWRITE);
        anonymous(len, area)?
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
    let at = space.map(MapRequest { addr, len, place, prot, flags: area, backing })?;
    if prot.contains(Prot::EXEC) && maps_to_run(task, &space) {
        space.adopt_text(at);
    }
    if flags.contains(MapFlags::MAP_POPULATE) && !flags.contains(MapFlags::MAP_NONBLOCK) {
        // What fails now fails again when it is touched.
        let _ = space.populate(at.0, at.0 + len.next_multiple_of(PAGE));
    } else {
        space.prefault(at.0, len);
    }
    Ok(at)
}

fn anonymous(len: u64, area: VmaFlags) -> Result<Backing> {
    if !area.contains(VmaFlags::SHARED) {
        return Ok(Backing::Anonymous);
    }
    let object =
        if area.contains(VmaFlags::NORESERVE) { SharedMemory::unreserved(len) } else { SharedMemory::new(len)? };
    Ok(Backing::File { object, offset: 0, file: None })
}

/// Whether the mapping is shared, if its type and flags go together.
fn check_type(flags: MapFlags, len: u64, file: Option<&File>) -> Result<bool> {
    let kind = MapFlags::from_bits_retain(flags.bits() & TYPE);
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let shared = match file {
        Some(_) if kind == SHARED_VALIDATE && !VALID.contains(flags) => return Err(Errno::EOPNOTSUPP),
        Some(_) if kind == SHARED_VALIDATE => true,
        _ if kind == MapFlags::MAP_SHARED => true,
        _ if kind == MapFlags::MAP_PRIVATE => false,
        _ => return Err(Errno::EINVAL),
    };
    let grows = flags.contains(MapFlags::MAP_GROWSDOWN);
    if grows && (shared || file.is_some()) { Err(Errno::EINVAL) } else { Ok(shared) }
}

fn of_file(file: Arc<File>, len: u64, offset: u64, prot: Prot, area: VmaFlags) -> Result<Backing> {
    let end = offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
    // Offsets of devices may have all bits.
    if end > i64::MAX as u64 && file.inode().is_some_and(|inode| inode.kind() == Kind::Regular) {
        return Err(Errno::EOVERFLOW);
    }
    let flags = file.flags();
    if flags.contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let writes = area.contains(VmaFlags::SHARED) && prot.contains(Prot::WRITE);
    if !flags.readable() || (writes && !flags.writable()) {
        return Err(Errno::EACCES);
    }
    if area.contains(VmaFlags::NOEXEC) && prot.contains(Prot::EXEC) {
        return Err(Errno::EPERM);
    }
    let object = file.mappable()?;
    file.accessed();
    Ok(Backing::File { object, offset, file: Some(file) })
}

fn munmap(task: &Arc<Task>, addr: UserAddr, len: u64) -> Result<()> {
    space(task)?.unmap(addr, len)
}

fn mprotect(task: &Arc<Task>, addr: UserAddr, len: u64, prot: MapProt) -> Result<()> {
    const BOTH: MapProt = MapProt::PROT_GROWSDOWN.union(MapProt::PROT_GROWSUP);
    const KNOWN: u32 = BOTH.bits() | nr::PROT_READ | nr::PROT_WRITE | nr::PROT_EXEC | nr::PROT_SEM;
    if prot.contains(BOTH) || !addr.is_page_aligned() {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(());
    }
    let space = space(task)?;
    match prot {
        _ if prot.bits() & !KNOWN != 0 => Err(Errno::EINVAL),
        // Nothing grows upwards.
        _ if prot.contains(MapProt::PROT_GROWSUP) => Err(Errno::EINVAL),
        _ if prot.contains(MapProt::PROT_GROWSDOWN) => space.protect_down(addr, len, prot_of(prot)),
        _ => space.protect(addr, len, prot_of(prot)),
    }
}

fn remap_file_pages(task: &Arc<Task>, addr: u64, len: u64, prot: u64, page: u64, _flags: u64) -> Result<()> {
    if prot != 0 {
        return Err(Errno::EINVAL);
    }
    space(task)?.remap_pages(addr, len, page)
}

/// Source: pkey_alloc(2).
fn pkey_alloc(_: &Arc<Task>, flags: u64, rights: u64) -> Result<i32> {
    let known = u64::from(nr::PKEY_DISABLE_ACCESS | nr::PKEY_DISABLE_WRITE);
    Err(if flags != 0 || rights & !known != 0 { Errno::EINVAL } else { Errno::ENOSPC })
}

fn pkey_free(_: &Arc<Task>, _key: i32) -> Result<()> {
    Err(Errno::EINVAL)
}

fn pkey_mprotect(task: &Arc<Task>, addr: UserAddr, len: u64, prot: MapProt, key: i32) -> Result<()> {
    if key == -1 { mprotect(task, addr, len, prot) } else { Err(Errno::EINVAL) }
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
    let space = space(task)?;
    let locked = space.is_locked(addr);
    if locked && new_len > old_len {
        // Whoever may lock nothing has locked this before the limit changed.
        check_future_lock(task, &space, new_len - old_len).map_err(|_| Errno::EAGAIN)?;
    }
    let at = space.remap(addr, old_len, new_len, how, keep)?;
    if locked {
        // As mmap(2) with MAP_LOCKED: failures show when pages are touched.
        let _ = space.populate(at.0, at.0 + new_len);
    }
    Ok(at)
}

fn brk(task: &Arc<Task>, to: UserAddr) -> Result<UserAddr> {
    let space = space(task)?;
    let now = space.layout().brk;
    if to.0 > now && space.locks_future() && check_future_lock(task, &space, to.0 - now).is_err() {
        return Ok(UserAddr(now));
    }
    Ok(space.brk(to))
}

/// What a process may register for with membarrier(2): the bits that register it.
mod membarriers {
    pub const GLOBAL: u32 = 1 << 2;
    pub const PRIVATE: u32 = 1 << 4;
    pub const SYNC_CORE: u32 = 1 << 6;
    pub const RSEQ: u32 = 1 << 8;
    /// Not Linux's: `PRIVATE` was asked for by itself, and not for one of the others.
    pub const PRIVATE_ALONE: u32 = 1 << 31;
}

/// Source: membarrier(2). A host barrier on all virtual CPUs serves every command but that about restartable sequences: one that
/// runs guest code is interrupted by the host and returns by iret; one in the kernel has its way out before it, on which kernel memory
/// is locked and translations are invalidated. Both make a core fetch its instructions anew (`SYNC_CORE`).
fn membarrier(task: &Arc<Task>, command: i32, flags: u32, _cpu: i32) -> Result<u32> {
    use membarriers::{GLOBAL, PRIVATE, PRIVATE_ALONE, RSEQ, SYNC_CORE};
    const ALL: u32 = 0x3ff;
    const NOW_GLOBAL: u32 = 1;
    const NOW_GLOBAL_EXPEDITED: u32 = 1 << 1;
    const NOW_PRIVATE: u32 = PRIVATE >> 1;
    const NOW_SYNC_CORE: u32 = SYNC_CORE >> 1;
    const NOW_RSEQ: u32 = RSEQ >> 1;
    const GET: u32 = 1 << 9;
    /// Only on one CPU: there the others' sections may end, too.
    const ONE_CPU: u32 = 1;
    let command = command as u32;
    if flags & !(if command == NOW_RSEQ { ONE_CPU } else { 0 }) != 0 {
        return Err(Errno::EINVAL);
    }
    let registered = &task.process().membarriers;
    let needs = |bit: u32| if registered.load(Relaxed) & bit == 0 { Err(Errno::EPERM) } else { Ok(()) };
    let register = |bits: u32| {
        registered.fetch_or(bits, Relaxed);
        Ok(0)
    };
    match command {
        0 => return Ok(ALL),
        NOW_GLOBAL | NOW_GLOBAL_EXPEDITED => {}
        NOW_PRIVATE => needs(PRIVATE_ALONE)?,
        NOW_SYNC_CORE => needs(SYNC_CORE)?,
        NOW_RSEQ => {
            needs(RSEQ)?;
            rseq::restart_all(task.process());
        }
        GLOBAL => return register(GLOBAL),
        PRIVATE => return register(PRIVATE | PRIVATE_ALONE),
        SYNC_CORE | RSEQ => return register(PRIVATE | command),
        GET => return Ok(registered.load(Relaxed) & !PRIVATE_ALONE),
        _ => return Err(Errno::EINVAL),
    }
    umbel_mm::view::barrier();
    Ok(0)
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
        let got = other.read_mapped(theirs, buf)?;
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
        other.write_mapped(theirs, buf)
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
            let piece = &mut buffer[..len];
            let moved = match signal::go_on(task).and_then(|()| step(&other, our.addr, their.addr, piece)) {
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
