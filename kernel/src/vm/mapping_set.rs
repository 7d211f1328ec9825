//! The spaces that map an object: whom to tell when its pages go away.

use super::space::{Handle, Space};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use umbel_smp::lock::{Rank, SpinLock};

/// Spaces that have, or had, an area of the object. Entries that are gone are swept when it grows.
#[derive(Debug)]
pub struct MappingSet {
    spaces: SpinLock<Vec<Weak<Handle>>>,
}

impl Default for MappingSet {
    fn default() -> Self {
        Self::new()
    }
}

impl MappingSet {
    /// An empty set.
    pub const fn new() -> Self {
        MappingSet { spaces: SpinLock::new(Rank::Leaf, Vec::new()) }
    }

    /// Notes a space. Idempotent.
    pub(super) fn add(&self, space: &Arc<Handle>) {
        let mut spaces = self.spaces.lock();
        if spaces.iter().any(|known| known.as_ptr() == Arc::as_ptr(space)) {
            return;
        }
        spaces.retain(|known| known.strong_count() > 0);
        spaces.push(Arc::downgrade(space));
    }

    /// Spaces that have, or had, an area.
    pub fn count(&self) -> usize {
        self.spaces.lock().iter().filter(|space| space.strong_count() > 0).count()
    }

    /// Whether an area of the object (at `object`, by address) is shared, and writable or may become so. Sleeps.
    pub fn has_writer(&self, object: *const ()) -> bool {
        let spaces: Vec<Arc<Space>> =
            self.spaces.lock().iter().filter_map(Weak::upgrade).filter_map(|handle| handle.space()).collect();
        spaces.iter().any(|space| space.may_write_object(object))
    }

    /// The object (at `object`, by address) has no page from `first` on any more: unmaps those pages everywhere, private
    /// copies included (source: truncate(2), mmap(2)). Sleeps; the caller holds no lock that `Mappable::page` takes.
    pub fn truncate(&self, object: *const (), first: u64) {
        let spaces: Vec<Arc<Space>> =
            self.spaces.lock().iter().filter_map(Weak::upgrade).filter_map(|handle| handle.space()).collect();
        for space in spaces {
            space.forget_pages(object, first);
        }
    }
}
