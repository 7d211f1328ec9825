//! Dentries kept alive although nobody uses them: whoever asks for the name again finds it without the file system.
//!
//! A second-chance ring. It is small: more inodes that are touched now and then make each lock and unlock of kernel memory dearer
//! than asking the host for a name again.
//!
//! Used by `dentry` (new names), `notify` (removed names), `mount`, and by whoever lacks memory ([`reclaim`]). Lock: the ring (spinning, Dentry); dentries are dropped after it,
//! as the last reference to an inode may have much to do.

use super::dentry::Dentry;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use umbel_mm::heap;
use umbel_smp::lock::{Rank, SpinLock};

/// Dentries kept.
const KEPT: usize = 1024;
/// Most dentries looked at for one that may go.
const SCAN: usize = 8;

static RING: SpinLock<Ring> = SpinLock::new(Rank::Dentry, Ring::new());

/// A mount went: what the ring keeps of it nobody will find.
static STALE: AtomicBool = AtomicBool::new(false);

struct Ring {
    /// Each knows its place: `Dentry::kept_at`.
    list: Vec<Arc<Dentry>>,
    /// Where the next one that may go is looked for.
    hand: usize,
}

impl Ring {
    const fn new() -> Ring {
        Ring { list: Vec::new(), hand: 0 }
    }

    /// Adds `dentry`; returns what had to make room among `most`.
    fn add(&mut self, dentry: Arc<Dentry>, most: usize) -> Option<Arc<Dentry>> {
        if self.list.len() < most && self.list.try_reserve(1).is_ok() {
            dentry.kept_at.store(self.list.len(), Relaxed);
            self.list.push(dentry);
            return None;
        }
        for _ in 0..SCAN {
            self.hand = if self.hand + 1 < self.list.len() { self.hand + 1 } else { 0 };
            match self.list.get(self.hand) {
                Some(old) if old.used.swap(false, Relaxed) => {}
                _ => break,
            }
        }
        let Some(place) = self.list.get_mut(self.hand) else { return Some(dentry) };
        dentry.kept_at.store(self.hand, Relaxed);
        Some(core::mem::replace(place, dentry))
    }

    /// Takes `dentry` out, if it is there.
    fn take(&mut self, dentry: &Arc<Dentry>) -> Option<Arc<Dentry>> {
        let at = dentry.kept_at.load(Relaxed);
        self.list.get(at).filter(|kept| Arc::ptr_eq(kept, dentry))?;
        let gone = self.list.swap_remove(at);
        if let Some(moved) = self.list.get(at) {
            moved.kept_at.store(at, Relaxed);
        }
        Some(gone)
    }
}

/// Keeps a new dentry, and lets go of an old one that was not used lately.
pub(super) fn keep(dentry: Arc<Dentry>) {
    let victim = RING.lock().add(dentry, KEPT);
    drop(victim);
}

/// Lets go of `dentry`, whose name was removed, and of names known to be missing in it: they would keep an inode that
/// nobody can find.
pub fn evict(dentry: &Arc<Dentry>) {
    for child in dentry.live_children().iter().chain([dentry]) {
        let gone = RING.lock().take(child);
        drop(gone);
    }
}

/// Notes that a mount went; for [`settle`], since a mount may go under locks.
pub fn mount_gone() {
    STALE.store(true, Relaxed);
}

/// Lets go of what is kept, if a mount went.
pub fn settle() {
    if STALE.load(Relaxed) && STALE.swap(false, Relaxed) {
        shrink();
    }
}

/// Lets go of all dentries that only the ring keeps.
pub fn shrink() {
    let all = core::mem::replace(&mut *RING.lock(), Ring::new());
    drop(all);
}

/// The same where memory lacks, by somebody who holds no lock: after many objects have gone, names that were looked up among them
/// keep whole steps of the heap. Whether RAM came back.
#[cold]
pub fn reclaim() -> bool {
    if RING.lock().list.is_empty() {
        return false;
    }
    shrink();
    heap::trim_now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FileSystem;
    use crate::fs::tmpfs::TmpFs;

    fn dentries(count: usize) -> Vec<Arc<Dentry>> {
        let fs = TmpFs::new("tmpfs", 0o755, 0);
        let root = Dentry::root(fs.root());
        (0..count).map(|_| Dentry::unnamed(&root, b"name", fs.root())).collect()
    }

    #[test]
    fn those_used_lately_stay() {
        let (mut ring, all) = (Ring::new(), dentries(20));
        for dentry in &all[..10] {
            assert!(ring.add(dentry.clone(), 10).is_none());
            dentry.used.store(false, Relaxed);
        }
        all[1].used.store(true, Relaxed);
        let victim = ring.add(all[10].clone(), 10).unwrap();
        assert!(!Arc::ptr_eq(&victim, &all[1]));
        assert!(ring.take(&all[1]).is_some() && ring.take(&victim).is_none());
    }

    #[test]
    fn each_is_found_whatever_was_taken_before() {
        let (mut ring, all) = (Ring::new(), dentries(9));
        all.iter().for_each(|dentry| assert!(ring.add(dentry.clone(), 9).is_none()));
        for index in [8, 0, 4, 1, 7, 3, 2, 6, 5] {
            assert!(ring.take(&all[index]).is_some_and(|taken| Arc::ptr_eq(&taken, &all[index])));
            assert!(ring.take(&all[index]).is_none());
        }
        assert!(ring.list.is_empty());
    }

    #[test]
    fn a_ring_that_may_keep_nothing_gives_back_what_it_gets() {
        let (mut ring, all) = (Ring::new(), dentries(1));
        assert!(ring.add(all[0].clone(), 0).is_some_and(|back| Arc::ptr_eq(&back, &all[0])));
    }
}
