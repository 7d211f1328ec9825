//! What names were looked at lately for their attributes alone.
//!
//! Many programs look at each of thousands of names once, and a node for each would only push out others. So the first look at a
//! name is answered with what the host says, and is noted; a second one soon after makes a node. What the last looks found is kept
//! for a while: who looks at a file often opens it next, and need not ask again.
//!
//! Directories are known by the serial number of their node, which no other has. Locks: one a kept answer (`Rank::Leaf`).
//! Used by [`super::node`].

use super::super::types::Attr;
use super::TRUST_NS;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

/// Looks that are noted: about as many names as [`super::super::dcache`] keeps. By their hash; others forget them.
const NOTED: usize = 1024;
/// Answers that are kept, and the longest name of one.
const KEPT: usize = 32;
const NAME: usize = 48;

/// What is noted of one file system.
pub(super) struct Glances {
    looks: Box<[AtomicU32]>,
    answers: Box<[SpinLock<Option<Answer>>]>,
}

/// What the host said of a name.
#[derive(Clone, Copy)]
struct Answer {
    dir: u64,
    name: [u8; NAME],
    len: u8,
    found: Found,
}

/// Attributes on the host, and when it told them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub attr: Attr,
    pub at_ns: u64,
}

/// A name in a directory.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    dir: u64,
    pub name: &'a [u8],
    hash: u64,
}

impl Key<'_> {
    /// `name` in the directory with this serial number.
    pub fn new(dir: u64, name: &[u8]) -> Key<'_> {
        // FNV-1a.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let hash = name.iter().fold(step(0xcbf2_9ce4_8422_2325 ^ dir, 0), |hash, &byte| step(hash, byte));
        Key { dir, name, hash: hash ^ hash >> 32 }
    }
}

impl Glances {
    /// Nothing is noted.
    pub fn new() -> Glances {
        Glances {
            looks: (0..NOTED).map(|_| AtomicU32::new(0)).collect(),
            answers: (0..KEPT).map(|_| SpinLock::new(Rank::Leaf, None)).collect(),
        }
    }

    /// Notes a look at a name; whether it is the second lately.
    pub fn seen_before(&self, key: &Key<'_>) -> bool {
        // Never 0, which is nobody's.
        let tag = (key.hash >> 32) as u32 | 1;
        self.looks.get(key.hash as usize % NOTED).is_some_and(|look| look.swap(tag, Relaxed) == tag)
    }

    /// Keeps what the host said of a name.
    pub fn keep(&self, key: &Key<'_>, found: &Found) {
        let Some(place) = self.answers.get(key.hash as usize % KEPT) else { return };
        let mut kept = Answer { dir: key.dir, name: [0; NAME], len: key.name.len() as u8, found: *found };
        if let Some(to) = kept.name.get_mut(..key.name.len()) {
            to.copy_from_slice(key.name);
            *place.lock() = Some(kept);
        }
    }

    /// What the host said of a name, if that is kept and young enough at `now_ns` to be believed.
    pub fn recall(&self, key: &Key<'_>, now_ns: u64) -> Option<Found> {
        let place = self.answers.get(key.hash as usize % KEPT)?.lock();
        let kept = place.as_ref().filter(|kept| kept.dir == key.dir)?;
        let young = now_ns.saturating_sub(kept.found.at_ns) < TRUST_NS;
        (young && kept.name.get(..usize::from(kept.len)) == Some(key.name)).then_some(kept.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Kind;

    #[test]
    fn the_second_look_is_known_until_others_came() {
        let glances = Glances::new();
        let seen = |dir, name| glances.seen_before(&Key::new(dir, name));
        assert!(!seen(1, b"a"));
        assert!(seen(1, b"a"));
        assert!(!seen(2, b"a") && !seen(1, b"b"));
        let others = (3..20 * NOTED as u64).filter(|dir| seen(*dir, b"x")).count();
        assert_eq!(others, 0);
        assert!(!seen(1, b"a"));
    }

    #[test]
    fn answers_are_for_one_name_and_grow_old() {
        let glances = Glances::new();
        let found = Found { attr: Attr::new(Kind::Regular, 0o644, 77), at_ns: 5 };
        let recall = |dir, name, now_ns| glances.recall(&Key::new(dir, name), now_ns).map(|found| found.attr.ino);
        glances.keep(&Key::new(1, b"name"), &found);
        assert_eq!(recall(1, b"name", 5 + TRUST_NS - 1), Some(77));
        assert_eq!(recall(1, b"name", 5 + TRUST_NS), None);
        assert!(recall(1, b"nam", 6).is_none() && recall(1, b"name\0", 6).is_none() && recall(2, b"name", 6).is_none());
        let long = [b'x'; NAME + 1];
        glances.keep(&Key::new(1, &long), &found);
        assert_eq!(recall(1, &long, 6), None);
    }
}
