//! Shared memory segments. Source: shmget(2), shmop(2), shmctl(2).
//!
//! Each area that maps a segment holds its [`Attachment`]; the number of areas is the number of references to it. A
//! segment marked for removal leaves the table with its last area.

use super::{Namespace, Object, Perm, now};
use crate::task::{self, Charge, Count, User};
use crate::vm::{MappedFile, SharedMemory};
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use umbel_smp::lock::{Rank, SpinLock};

/// `SHM_DEST`: removed when nobody maps it any more.
pub const DEST: u32 = 0o1000;
/// `SHM_LOCKED`.
pub const LOCKED: u32 = 0o2000;
/// The device number of segments in /proc/PID/maps.
pub const DEV: u64 = 0x1;

/// A segment.
pub struct Segment {
    pub size: u64,
    pub memory: Arc<SharedMemory>,
    pub creator: i32,
    state: SpinLock<State>,
    /// Its bytes, charged to whoever locked it.
    lock: SpinLock<Option<Charge>>,
    namespace: Weak<Namespace>,
    me: SpinLock<Weak<Attachment>>,
}

/// What changes.
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub perm: Perm,
    pub atime: i64,
    pub dtime: i64,
    /// Process that attached or detached last.
    pub last: i32,
}

impl Object for Segment {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

impl Segment {
    /// A segment of `size` zero bytes.
    pub fn new(perm: Perm, size: u64, creator: i32, namespace: &Arc<Namespace>) -> crate::Result<Segment> {
        Ok(Segment {
            size,
            memory: SharedMemory::new(size.next_multiple_of(umbel_mm::PAGE))?,
            creator,
            state: SpinLock::new(Rank::Endpoint, State { perm, atime: 0, dtime: 0, last: 0 }),
            lock: SpinLock::new(Rank::Leaf, None),
            namespace: Arc::downgrade(namespace),
            me: SpinLock::new(Rank::Leaf, Weak::new()),
        })
    }

    /// What there is to know.
    pub fn state(&self) -> State {
        *self.state.lock()
    }

    /// Changes it.
    pub fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
    }

    /// Locks it, charged to `user` up to `limit` bytes in all, or unlocks it (`None`).
    ///
    /// # Errors
    /// `ENOMEM` beyond the limit.
    pub fn set_locked(&self, by: Option<(&Arc<User>, u64)>) -> crate::Result<()> {
        let mut held = self.lock.lock();
        match by {
            Some(_) if held.is_some() => return Ok(()),
            Some((user, limit)) => {
                let bytes = self.size.next_multiple_of(umbel_mm::PAGE);
                *held = Some(user.charge(Count::LockedBytes, bytes, limit).ok_or(crate::Errno::ENOMEM)?);
            }
            None => *held = None,
        }
        drop(held);
        let bit = if by.is_some() { LOCKED } else { 0 };
        self.update(|state| state.perm.mode = state.perm.mode & !LOCKED | bit);
        Ok(())
    }

    /// Areas that map it.
    pub fn attached(&self) -> usize {
        self.me.lock().strong_count()
    }

    /// What an area that maps it holds.
    pub fn attach(self: &Arc<Self>) -> Arc<Attachment> {
        let mut place = self.me.lock();
        if let Some(attachment) = place.upgrade() {
            return attachment;
        }
        let new = Arc::new(Attachment { segment: self.clone() });
        *place = Arc::downgrade(&new);
        new
    }

    /// Marks it for removal; true if nobody maps it, so that it can go at once.
    pub fn doom(&self) -> bool {
        let mut state = self.state.lock();
        state.perm.mode |= DEST;
        state.perm.key = super::PRIVATE;
        drop(state);
        self.attached() == 0
    }
}

/// A reference from an area to a segment.
pub struct Attachment {
    segment: Arc<Segment>,
}

impl MappedFile for Attachment {
    fn path(&self) -> Vec<u8> {
        format!("/SYSV{:08x} (deleted)", self.segment.state().perm.key).into_bytes()
    }

    fn identity(&self) -> (u64, u64) {
        (DEV, self.segment.state().perm.id as u64)
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }

    fn is_leaving(&self) -> bool {
        self.segment.state().perm.mode & DEST != 0
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut state = self.segment.state.lock();
        state.dtime = now();
        state.last = task::current().process().pid().0;
        let (id, doomed) = (state.perm.id, state.perm.mode & DEST != 0);
        drop(state);
        if doomed && let Some(namespace) = self.segment.namespace.upgrade() {
            drop(namespace.shm.remove(id));
        }
    }
}
