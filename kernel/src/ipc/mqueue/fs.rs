//! The file system that shows the queues of an IPC namespace: a directory in which each queue is a file. Source: mq_overview(7).
//!
//! The table of queues is its: mq_open(3) and open(2) look into the same one. A cached name asks each time whether its queue is
//! still the one of that name. Locks (spinning): the table (InodeState), then a queue's `meta` (Leaf).

use super::{Mq, QUEUES_MAX, Queue, Size, charge, checked};
use crate::fs::{
    Attr, DirEntry, DirSink, FileOps, FileSystem, Inode, InodeRef, Kind, NewNode, OpenContext, OpenFlags, Owner,
    SetAttr, StatFs, Time,
};
use crate::task::{self, Cred, Task, User, cap};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use umbel_abi::linux::uapi::RLIMIT_MSGQUEUE;
use umbel_smp::lock::{Rank, SpinLock};

const MAGIC: u32 = 0x1980_0202;
/// Bytes that a queue's file and a name seem to have.
pub(super) const FILE_SIZE: u64 = 80;
const NAME_SIZE: u64 = 20;

/// See the module.
pub struct MqFs {
    dev: u64,
    ino: u64,
    made: Time,
    queues: SpinLock<BTreeMap<Box<[u8]>, Arc<Queue>>>,
    /// Its namespace has ended: there will be no more queues.
    closed: AtomicBool,
    me: Weak<MqFs>,
}

/// What a new queue is to be.
pub(super) struct New<'a> {
    pub name: &'a [u8],
    pub mode: u32,
    pub size: Option<Size>,
}

impl MqFs {
    /// Without any queue.
    pub(super) fn new() -> Arc<MqFs> {
        let (dev, ino, made) = (crate::fs::next_dev(), crate::fs::next_ino(), Time::now());
        let queues = SpinLock::new(Rank::InodeState, BTreeMap::new());
        let closed = AtomicBool::new(false);
        Arc::new_cyclic(|me| MqFs { dev, ino, made, queues, closed, me: me.clone() })
    }

    /// Lets nobody make queues any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// The queue `name`, made if `O_CREAT` says so; whether it was made.
    pub(super) fn open(&self, task: &Task, new: &New<'_>, flags: OpenFlags) -> Result<(Arc<Queue>, bool)> {
        let cred = &*task.cred();
        let payer = (User::of(cred.uid), task.process().limit(RLIMIT_MSGQUEUE));
        umbel_mm::heap::room_for(super::HEAP_MARGIN).map_err(|_| Errno::ENOSPC)?;
        let mut queues = self.queues.lock();
        match queues.get(new.name).cloned() {
            Some(_) if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) => return Err(Errno::EEXIST),
            Some(queue) => return Ok((queue, false)),
            None if !flags.contains(OpenFlags::CREAT) => return Err(Errno::ENOENT),
            None if self.closed.load(Relaxed) => return Err(Errno::EACCES),
            None => {}
        }
        if queues.len() as u64 >= QUEUES_MAX.get() && !cred.capable(cap::SYS_RESOURCE) {
            return Err(Errno::ENOSPC);
        }
        let size = checked(new.size, cred)?;
        let charge = charge(&payer, size)?;
        let queue = Queue::new(self.me.clone(), new, (size, charge), cred);
        queues.insert(new.name.into(), queue.clone());
        Ok((queue, true))
    }

    /// Takes a name away, if it is `only`'s when that is given; `allow` says whether it may go.
    pub(super) fn remove(
        &self,
        name: &[u8],
        only: Option<&Arc<Queue>>,
        allow: impl FnOnce(&Owner) -> Result<()>,
    ) -> Result<()> {
        let mut queues = self.queues.lock();
        let same = |queue: &&Arc<Queue>| only.is_none_or(|only| Arc::ptr_eq(queue, only));
        let owner = queues.get(name).filter(same).ok_or(Errno::ENOENT)?.owner();
        allow(&owner)?;
        let gone = queues.remove(name);
        drop(queues);
        drop(gone);
        Ok(())
    }

    /// Whether `queue` has its name still.
    fn names(&self, queue: &Queue) -> bool {
        self.queues.lock().get(&queue.name).is_some_and(|own| core::ptr::eq(&**own, queue))
    }
}

impl FileSystem for MqFs {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> InodeRef {
        Arc::new(Root(self.me.clone()))
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: MAGIC, block_size: 4096, fsid: self.dev, ..StatFs::default() })
    }
}

/// The directory.
struct Root(Weak<MqFs>);

impl Root {
    fn system(&self) -> Result<Arc<MqFs>> {
        self.0.upgrade().ok_or(Errno::EIO)
    }
}

impl Inode for Root {
    fn kind(&self) -> Kind {
        Kind::Directory
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        self.0.upgrade().unwrap_or_else(MqFs::new)
    }

    fn attr(&self) -> Result<Attr> {
        let fs = self.system()?;
        let mut attr = Attr::new(Kind::Directory, 0o1777, fs.ino);
        let names = fs.queues.lock().len() as u64;
        (attr.nlink, attr.size) = (2, (names + 2) * NAME_SIZE);
        (attr.atime, attr.mtime, attr.ctime) = (fs.made, fs.made, fs.made);
        Ok(attr)
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let found = self.system()?.queues.lock().get(name).cloned();
        Ok(found.ok_or(Errno::ENOENT)?)
    }

    fn create(&self, name: &[u8], node: &NewNode<'_>) -> Result<InodeRef> {
        if node.kind != Kind::Regular {
            return Err(Errno::EPERM);
        }
        let new = New { name, mode: node.mode, size: None };
        let (queue, _) = self.system()?.open(&task::current(), &new, OpenFlags::CREAT | OpenFlags::EXCL)?;
        Ok(queue)
    }

    fn unlink(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        let queue = target.as_any().downcast_ref::<Queue>().and_then(|queue| queue.me.upgrade());
        self.system()?.remove(name, Some(&queue.ok_or(Errno::ENOENT)?), |_| Ok(()))
    }

    /// In the order in which they were made, which is their position.
    fn readdir(&self, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        let mut queues: Vec<Arc<Queue>> = self.system()?.queues.lock().values().cloned().collect();
        queues.sort_by_key(|queue| queue.ino);
        let mut at = pos;
        for queue in queues.iter().filter(|queue| queue.ino + 2 > pos) {
            let next = queue.ino + 2;
            if !sink(&DirEntry { name: &queue.name, ino: queue.ino, kind: Kind::Regular, next }) {
                break;
            }
            at = next;
        }
        Ok(at)
    }

    fn stale_negative(&self, _: u64) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Queue {
    /// Who owns it, and who may use it.
    pub(super) fn owner(&self) -> Owner {
        let meta = self.meta.lock();
        Owner { mode: meta.mode, uid: meta.uid, gid: meta.gid }
    }

    /// Whether who has `cred` may open it.
    pub(super) fn check(&self, cred: &Cred, flags: OpenFlags) -> Result<()> {
        use crate::fs::perm::{self, Want};
        let mut wanted = Want::empty();
        wanted.set(Want::READ, flags.readable());
        wanted.set(Want::WRITE, flags.writable());
        perm::check(self, cred, wanted)
    }
}

impl Inode for Queue {
    fn kind(&self) -> Kind {
        Kind::Regular
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        self.fs.upgrade().unwrap_or_else(MqFs::new)
    }

    fn attr(&self) -> Result<Attr> {
        let fs = self.fs.upgrade();
        let named = fs.as_ref().is_some_and(|fs| fs.names(self));
        let mut attr = *self.meta.lock();
        attr.dev = fs.map_or(0, |fs| fs.dev);
        attr.nlink = u32::from(named);
        Ok(attr)
    }

    fn owner(&self) -> Result<Owner> {
        Ok(Queue::owner(self))
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let mut meta = self.meta.lock();
        meta.mode = change.mode.unwrap_or(meta.mode);
        meta.uid = change.uid.unwrap_or(meta.uid);
        meta.gid = change.gid.unwrap_or(meta.gid);
        meta.size = change.size.unwrap_or(meta.size);
        meta.atime = change.atime.unwrap_or(meta.atime);
        meta.mtime = change.mtime.unwrap_or(meta.mtime);
        meta.ctime = Time::now();
        Ok(())
    }

    fn open(self: Arc<Self>, _: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(Mq(self)))
    }

    fn stale(&self) -> bool {
        !self.fs.upgrade().is_some_and(|fs| fs.names(self))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
