//! Leases: who holds one is told before another opens or truncates the file, who waits meanwhile. Source: fcntl(2),
//! "Leases".
//!
//! A lease belongs to an open file and goes with it. Its break begins with a signal to the file's owner; the breaker
//! waits until the lease is given up or reduced, or fs.lease-break-time is over and the kernel does it.
//!
//! Lock: one table (rank Leaf, spinning) by inode, which the open files keep alive. Users: `names`, `syscall::fd`.

use super::{File, Inode, InodeRef, Kind, OpenFlags, Path, sigio};
use crate::setting::Setting;
use crate::task::{Task, cap};
use crate::{Errno, Fd, Result, time};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// fs.lease-break-time.
pub static BREAK_SECONDS: Setting = Setting::new(45, 0, i32::MAX as u64);

/// What a lease allows its holder to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Nobody writes (`F_RDLCK`).
    Read,
    /// Nobody else has the file open (`F_WRLCK`).
    Write,
}

struct Held {
    file: Weak<File>,
    file_id: u64,
    fd: Fd,
    lease: Lease,
    /// What a break leaves of it, and when that is enforced (0 = never); `None` while nobody breaks it.
    breaking: Option<(Option<Lease>, u64)>,
}

type Table = BTreeMap<usize, Vec<Held>>;

static TABLE: SpinLock<Table> = SpinLock::new(Rank::Leaf, BTreeMap::new());
/// Leases in the table: without any, an open looks no further.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Those who wait for a lease to go.
static CHANGED: WaitQueue = WaitQueue::new();

fn key(inode: &InodeRef) -> usize {
    Arc::as_ptr(inode).cast::<()>().addr()
}

impl Held {
    /// What it is, once a break that has begun is over.
    fn target(&self) -> Option<Lease> {
        self.breaking.map_or(Some(self.lease), |(left, _)| left)
    }

    fn bites(&self, writes: bool) -> bool {
        writes || self.lease == Lease::Write
    }
}

/// The lease of `file` (`F_GETLEASE`): what it will be, if somebody breaks it.
pub fn of(file: &File) -> Option<Lease> {
    let inode = file.inode()?;
    let table = TABLE.lock();
    table.get(&key(&inode))?.iter().find(|held| held.file_id == file.id())?.target()
}

/// Takes, changes or gives up (`None`) the lease of `file`, open as `fd` (`F_SETLEASE`).
///
/// # Errors
/// `EINVAL` for what is no regular file, `EACCES` for files of others, `EAGAIN` if others have it open.
pub fn set(task: &Arc<Task>, file: &Arc<File>, fd: Fd, wanted: Option<Lease>) -> Result<()> {
    let inode = file.inode().filter(|inode| inode.kind() == Kind::Regular).ok_or(Errno::EINVAL)?;
    let Some(lease) = wanted else {
        return if release(file) { Ok(()) } else { Err(Errno::EAGAIN) };
    };
    let cred = task.cred();
    if inode.owner()?.uid != cred.fsuid && !cred.capable(cap::LEASE) {
        return Err(Errno::EACCES);
    }
    check_opens(file, &*inode, lease)?;
    let mut table = TABLE.lock();
    let list = table.entry(key(&inode)).or_default();
    let others = list.iter().filter(|held| held.file_id != file.id());
    let gone = |held: &Held| held.breaking.is_some_and(|(left, _)| left.is_none());
    let refused = others.clone().any(|held| lease == Lease::Write || gone(held));
    if refused {
        return Err(Errno::EAGAIN);
    }
    list.retain(|held| held.file_id != file.id());
    let file_id = file.id();
    list.push(Held { file: Arc::downgrade(file), file_id, fd, lease, breaking: None });
    recount(&table);
    drop(table);
    sigio::claim(task, file);
    CHANGED.wake_all();
    Ok(())
}

/// Whether the file is open in no way that the lease excludes.
fn check_opens(file: &File, inode: &dyn Inode, lease: Lease) -> Result<()> {
    let busy = inode.busy().ok_or(Errno::EINVAL)?;
    let conflict = match lease {
        Lease::Read => file.flags().writable() || busy.writers() > 0,
        Lease::Write => busy.opens() > 1,
    };
    if conflict { Err(Errno::EAGAIN) } else { Ok(()) }
}

fn recount(table: &Table) {
    COUNT.store(table.values().map(Vec::len).sum(), Relaxed);
}

/// Takes the lease of `file` away; false if there is none.
pub fn release(file: &File) -> bool {
    let Some(path) = file.path().filter(|_| COUNT.load(Relaxed) != 0) else { return false };
    let key = key(path.inode());
    let mut table = TABLE.lock();
    let Some(list) = table.get_mut(&key) else { return false };
    let before = list.len();
    list.retain(|held| held.file_id != file.id());
    let removed = list.len() < before;
    if list.is_empty() {
        table.remove(&key);
    }
    recount(&table);
    drop(table);
    if removed {
        CHANGED.wake_all();
    }
    removed
}

/// Breaks the leases that opening or truncating `path` with `flags` conflicts with.
///
/// # Errors
/// `EAGAIN` with `O_NONBLOCK`, `ERESTARTSYS`.
pub fn break_for(path: &Path, flags: OpenFlags) -> Result<()> {
    if COUNT.load(Relaxed) == 0 || path.inode().kind() != Kind::Regular {
        return Ok(());
    }
    let writes = flags.writable() || flags.contains(OpenFlags::TRUNC);
    let key = key(path.inode());
    tell(begin(key, writes));
    loop {
        let Some(deadline) = enforce(key, writes) else { return Ok(()) };
        if flags.contains(OpenFlags::NONBLOCK) {
            return Err(Errno::EAGAIN);
        }
        let limit = (deadline != 0).then_some(deadline);
        let free = || enforce(key, writes).is_none().then_some(());
        match CHANGED.wait_interruptible(limit, free) {
            Ok(()) => return Ok(()),
            Err(Wake::TimedOut) => {}
            Err(Wake::Interrupted) => return Err(Errno::ERESTARTSYS),
        }
    }
}

/// Notes the break; returns whom to tell.
fn begin(key: usize, writes: bool) -> Vec<(Arc<File>, Fd)> {
    let left = if writes { None } else { Some(Lease::Read) };
    let deadline = match BREAK_SECONDS.get() {
        0 => 0,
        seconds => time::deadline_in(seconds.saturating_mul(time::SEC_NS)),
    };
    let mut table = TABLE.lock();
    let list = table.get_mut(&key).map_or(&mut [][..], Vec::as_mut_slice);
    let mut told = Vec::new();
    for held in list.iter_mut().filter(|held| held.bites(writes)) {
        let news = held.breaking.is_none_or(|(before, _)| writes && before.is_some());
        if news {
            held.breaking = Some((left, deadline));
            told.extend(held.file.upgrade().map(|file| (file, held.fd)));
        }
    }
    told
}

/// Does what is due; the earliest deadline of those leases that still conflict, if any does.
fn enforce(key: usize, writes: bool) -> Option<u64> {
    let now = time::monotonic_ns();
    let mut table = TABLE.lock();
    let list = table.get_mut(&key)?;
    list.retain_mut(|held| match held.breaking {
        Some((left, deadline)) if deadline != 0 && deadline <= now => {
            held.breaking = None;
            left.map(|left| held.lease = left).is_some()
        }
        _ => true,
    });
    let deadlines = list.iter().filter(|held| held.bites(writes)).map(|held| held.breaking.map_or(0, |(_, at)| at));
    let first = deadlines.min();
    if list.is_empty() {
        table.remove(&key);
    }
    recount(&table);
    first
}

/// Signals the owners of leases that are being broken.
fn tell(told: Vec<(Arc<File>, Fd)>) {
    for (file, fd) in told {
        sigio::send(&file, fd, sigio::code::POLL_MSG);
    }
}
