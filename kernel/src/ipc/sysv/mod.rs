//! System V IPC: shared memory, semaphores, message queues. Source: sysvipc(7).
//!
//! A [`Namespace`] has one [`Table`] of each kind. An object is found by id (table index and sequence number, so that
//! an old id does not find a new object) or by key. [`Perm`] is who may do what with it.
//!
//! * [`shm`], [`sem`], [`msg`]: the objects. `syscall::sysv`: the calls. `fs::proc::sysvipc`: their lists.
//!
//! Locks (spinning): a table's (`InodeState`), then an object's state (`Endpoint`).

pub mod msg;
pub mod sem;
pub mod shm;

use crate::task::{Cred, cap};
use crate::{Errno, Result, time};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_smp::lock::{Once, Rank, SpinLock};

/// Bits of an id that are the table's index.
const INDEX_BITS: u32 = 15;
/// Bytes of the kernel's heap that new objects leave to others.
const HEAP_MARGIN: u64 = 2 << 20;

/// `IPC_CREAT`, `IPC_EXCL`, `IPC_NOWAIT`.
pub const IPC_CREAT: u32 = 0o1000;
pub const IPC_EXCL: u32 = 0o2000;
pub const IPC_NOWAIT: u32 = 0o4000;

/// The key of objects that have none.
pub const PRIVATE: i32 = 0;

/// Limits that /proc/sys/kernel changes.
pub struct Limits {
    pub shmmax: AtomicU64,
    pub shmall: AtomicU64,
    pub shmmni: AtomicU64,
    pub msgmax: AtomicU64,
    pub msgmnb: AtomicU64,
    pub msgmni: AtomicU64,
    /// `SEMMSL`, `SEMMNS`, `SEMOPM`, `SEMMNI`.
    pub sem: [AtomicU64; 4],
}

/// All objects that a process can see.
pub struct Namespace {
    /// Number of the namespace (`/proc/PID/ns/ipc`).
    pub id: u64,
    pub shm: Table<shm::Segment>,
    pub sem: Table<sem::Set>,
    /// Who has adjustments in which sets.
    pub undo: sem::Undo,
    pub msg: Table<msg::Queue>,
    /// POSIX message queues.
    pub queues: super::mqueue::Names,
    pub limits: Limits,
}

impl Namespace {
    /// An empty name space with Linux's limits.
    pub fn new() -> Arc<Namespace> {
        Namespace::with(crate::fs::next_ino())
    }

    fn with(id: u64) -> Arc<Namespace> {
        const HUGE: u64 = u64::MAX - (1 << 24);
        Arc::new(Namespace {
            id,
            shm: Table::new(),
            sem: Table::new(),
            undo: sem::Undo::default(),
            msg: Table::new(),
            queues: super::mqueue::Names::new(),
            limits: Limits {
                shmmax: AtomicU64::new(HUGE),
                shmall: AtomicU64::new(HUGE),
                shmmni: AtomicU64::new(4096),
                msgmax: AtomicU64::new(8192),
                msgmnb: AtomicU64::new(16384),
                msgmni: AtomicU64::new(32000),
                sem: [32000, 1_024_000_000, 500, 32000].map(AtomicU64::new),
            },
        })
    }
}

/// The name space that the machine boots with.
pub fn first() -> Arc<Namespace> {
    /// `PROC_IPC_INIT_INO`.
    const FIRST_ID: u64 = 0xefff_ffff;
    static FIRST: Once<Arc<Namespace>> = Once::new();
    FIRST.call_once(|| Namespace::with(FIRST_ID)).clone()
}

/// The name space of the running process.
pub fn namespace() -> Arc<Namespace> {
    crate::task::current().ns().ipc.ns.clone()
}

/// Seconds since the epoch.
pub fn now() -> i64 {
    (time::realtime_ns() / 1_000_000_000) as i64
}

/// Who owns an object and who may use it.
#[derive(Clone, Copy, Debug)]
pub struct Perm {
    pub key: i32,
    pub id: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    /// When it was last changed.
    pub ctime: i64,
}

impl Perm {
    fn new(key: i32, id: i32, cred: &Cred, flags: u32) -> Perm {
        let (uid, gid) = (cred.euid, cred.egid);
        Perm { key, id, uid, gid, cuid: uid, cgid: gid, mode: flags & 0o777, ctime: now() }
    }

    /// Whether `cred` may do what `wanted` (mode bits, of any class) asks. `EACCES`.
    pub fn check(&self, cred: &Cred, wanted: u32) -> Result<()> {
        let wanted = (wanted >> 6 | wanted >> 3 | wanted) & 7;
        let in_group = |gid| cred.egid == gid || cred.groups.binary_search(&gid).is_ok();
        let granted = if cred.euid == self.cuid || cred.euid == self.uid {
            self.mode >> 6
        } else if in_group(self.cgid) || in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !granted & 7 == 0 || cred.capable(cap::IPC_OWNER) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Whether `cred` may change or remove the object. `EPERM`.
    pub fn check_owner(&self, cred: &Cred) -> Result<()> {
        let owns = cred.euid == self.cuid || cred.euid == self.uid;
        if owns || cred.capable(cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`.
    pub fn set(&mut self, uid: u32, gid: u32, mode: u32) {
        (self.uid, self.gid, self.ctime) = (uid, gid, now());
        self.mode = self.mode & !0o777 | mode & 0o777;
    }
}

/// What a table holds.
pub trait Object: Send + Sync {
    /// Who owns it, now.
    fn perm(&self) -> Perm;
}

/// Objects of one kind by index.
pub struct Table<T>(SpinLock<Slots<T>>);

struct Slots<T> {
    by_index: BTreeMap<i32, Arc<T>>,
    /// Where those are that have a key.
    by_key: BTreeMap<i32, i32>,
    /// No lower index is free.
    lowest: i32,
    sequence: i32,
    last: i32,
    /// What the next object's number is to be (kernel.*_next_id); -1 = whatever comes.
    next: i32,
}

/// What the get calls are given.
#[derive(Clone, Copy, Debug)]
pub struct GetRequest {
    pub key: i32,
    /// `IPC_CREAT`, `IPC_EXCL` and mode bits.
    pub flags: u32,
    /// Most objects of this kind.
    pub limit: u64,
}

impl<T: Object> Table<T> {
    fn new() -> Table<T> {
        Table(SpinLock::new(Rank::InodeState, Slots::new()))
    }

    /// Finds the object of a key, which `check` must accept, or has `make` make it.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EACCES`, `ENOSPC`, and what `check` and `make` say.
    pub fn get(
        &self,
        request: &GetRequest,
        cred: &Cred,
        check: impl FnOnce(&T) -> Result<()>,
        make: impl FnOnce(Perm) -> Result<T>,
    ) -> Result<i32> {
        let GetRequest { key, flags, limit } = *request;
        umbel_mm::heap::room_for(HEAP_MARGIN).map_err(|_| Errno::ENOSPC)?;
        let mut slots = self.0.lock();
        let known = slots.by_key.get(&key).and_then(|index| slots.by_index.get(index)).cloned();
        if let Some(object) = known {
            drop(slots);
            if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                return Err(Errno::EEXIST);
            }
            check(&object)?;
            object.perm().check(cred, flags)?;
            return Ok(object.perm().id);
        }
        if key != PRIVATE && flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT);
        }
        if slots.by_index.len() as u64 >= limit {
            return Err(Errno::ENOSPC);
        }
        let id = slots.free_id().ok_or(Errno::ENOSPC)?;
        let object = Arc::new(make(Perm::new(key, id, cred, flags))?);
        slots.by_index.insert(index_of(id), object);
        if key != PRIVATE {
            slots.by_key.insert(key, index_of(id));
        }
        Ok(id)
    }

    /// The number that the next object is to have; -1 = any.
    pub fn next_id(&self) -> i32 {
        self.0.lock().next
    }

    /// See [`Self::next_id`].
    ///
    /// # Errors
    /// `EINVAL` for negative ones.
    pub fn set_next_id(&self, id: i32) -> Result<()> {
        if id < 0 {
            return Err(Errno::EINVAL);
        }
        self.0.lock().next = id;
        Ok(())
    }

    /// The object `id`. `EINVAL` if there is none.
    pub fn find(&self, id: i32) -> Result<Arc<T>> {
        if id < 0 {
            return Err(Errno::EINVAL);
        }
        let found = self.0.lock().by_index.get(&index_of(id)).cloned();
        found.filter(|object| object.perm().id == id).ok_or(Errno::EINVAL)
    }

    /// The object at a table index. `EINVAL` if there is none.
    pub fn at(&self, index: i32) -> Result<Arc<T>> {
        self.0.lock().by_index.get(&index).cloned().ok_or(Errno::EINVAL)
    }

    /// The highest index in use, 0 if none is.
    pub fn highest(&self) -> i32 {
        self.0.lock().by_index.keys().next_back().copied().unwrap_or(0)
    }

    /// All objects, by index.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.0.lock().by_index.values().cloned().collect()
    }

    /// Nobody finds the object `id` by its key any more.
    pub fn unname(&self, id: i32) {
        let mut slots = self.0.lock();
        if let Some(perm) = slots.by_index.get(&index_of(id)).map(|object| object.perm()).filter(|perm| perm.id == id) {
            slots.by_key.remove(&perm.key);
        }
    }

    /// Takes the object `id` out; `None` if somebody else has.
    pub fn remove(&self, id: i32) -> Option<Arc<T>> {
        let mut slots = self.0.lock();
        let perm = slots.by_index.get(&index_of(id)).map(|object| object.perm()).filter(|perm| perm.id == id)?;
        slots.by_key.remove(&perm.key);
        slots.lowest = slots.lowest.min(index_of(id));
        slots.by_index.remove(&index_of(id))
    }
}

impl<T> Slots<T> {
    const fn new() -> Slots<T> {
        Slots { by_index: BTreeMap::new(), by_key: BTreeMap::new(), lowest: 0, sequence: 0, last: -1, next: -1 }
    }

    /// The lowest free index behind the last one given out, then from the start with the next sequence number.
    fn free_id(&mut self) -> Option<i32> {
        let end = 1 << INDEX_BITS;
        let free = |index: &i32| !self.by_index.contains_key(index);
        if self.next >= 0 {
            let wanted = self.next;
            let index = (index_of(wanted)..end).find(free)?;
            self.next = -1;
            return Some(wanted >> INDEX_BITS << INDEX_BITS | index);
        }
        let index = (self.lowest..end).find(free)?;
        self.lowest = index;
        if index <= self.last {
            self.sequence = (self.sequence + 1) % (i32::MAX >> INDEX_BITS);
        }
        self.last = index;
        Some(self.sequence << INDEX_BITS | index)
    }
}

fn index_of(id: i32) -> i32 {
    id & ((1 << INDEX_BITS) - 1)
}

/// Whether process `pid` has adjustments of semaphores that its end undoes.
pub fn adjusts(pid: i32) -> bool {
    namespace().undo.of(pid).is_some()
}

/// A process ends: its adjustments of semaphores are undone.
pub fn exit(pid: i32) {
    let namespace = namespace();
    while let Some(id) = namespace.undo.take(pid) {
        if let Ok(set) = namespace.sem.find(id) {
            set.undo(pid);
        }
    }
}

impl Limits {
    /// A limit's value.
    pub fn get(limit: &AtomicU64) -> u64 {
        limit.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(Perm);

    impl Object for Thing {
        fn perm(&self) -> Perm {
            self.0
        }
    }

    fn get(table: &Table<Thing>, key: i32, flags: u32) -> Result<i32> {
        let request = GetRequest { key, flags, limit: 3 };
        table.get(&request, &Cred::new(0, 0), |_| Ok(()), |perm| Ok(Thing(perm)))
    }

    #[test]
    fn keys_find_what_was_made() {
        let table = Table::new();
        assert_eq!(get(&table, 7, 0), Err(Errno::ENOENT));
        let id = get(&table, 7, IPC_CREAT | 0o600).unwrap();
        assert_eq!(get(&table, 7, 0), Ok(id));
        assert_eq!(get(&table, 7, IPC_CREAT | IPC_EXCL), Err(Errno::EEXIST));
        assert_ne!(get(&table, PRIVATE, 0).unwrap(), get(&table, PRIVATE, 0).unwrap());
        assert_eq!(get(&table, PRIVATE, 0), Err(Errno::ENOSPC));
    }

    #[test]
    fn the_lowest_free_index_is_taken_and_a_key_is_free_again() {
        let table = Table::new();
        let all = [5, 6, 7].map(|key| get(&table, key, IPC_CREAT).unwrap());
        assert!(table.remove(all[1]).is_some() && table.remove(all[0]).is_some());
        assert_eq!(get(&table, 6, 0), Err(Errno::ENOENT));
        let again = [5, 6].map(|key| index_of(get(&table, key, IPC_CREAT).unwrap()));
        assert_eq!(again, [0, 1]);
        table.unname(all[2]);
        assert_eq!((get(&table, 7, 0), table.find(all[2]).is_ok()), (Err(Errno::ENOENT), true));
    }

    #[test]
    fn an_old_id_does_not_find_a_new_object() {
        let table = Table::new();
        let old = get(&table, PRIVATE, 0).unwrap();
        assert!(table.remove(old).is_some());
        let new = get(&table, PRIVATE, 0).unwrap();
        assert_ne!(old, new);
        assert!(table.find(old).is_err() && table.find(new).is_ok() && table.remove(old).is_none());
    }

    #[test]
    fn modes_are_checked_for_the_class_of_the_caller() {
        let perm = Perm::new(1, 1, &Cred::new(5, 50), 0o640);
        assert_eq!(perm.check(&Cred::new(5, 1), 0o600), Ok(()));
        assert_eq!(perm.check(&Cred::new(6, 50), 0o400), Ok(()));
        assert_eq!(perm.check(&Cred::new(6, 50), 0o200), Err(Errno::EACCES));
        assert_eq!(perm.check(&Cred::new(6, 51), 0o4), Err(Errno::EACCES));
        assert_eq!(perm.check_owner(&Cred::new(6, 51)), Err(Errno::EPERM));
    }
}
