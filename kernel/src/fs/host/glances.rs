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
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

/// Looks that are noted: about as many names as [`super::super::dcache`] keeps. By their hash; others forget them.
const NOTED: usize = 1024;
/// Answers that are kept, and the longest name of one.
const KEPT: usize = 32;
const NAME: usize = 48;

static LOOKS: [AtomicU32; NOTED] = [const { AtomicU32::new(0) }; NOTED];
static ANSWERS: [SpinLock<Option<Answer>>; KEPT] = [const { SpinLock::new(Rank::Leaf, None) }; KEPT];

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

/// Of a name in a directory (FNV-1a).
fn hash(dir: u64, name: &[u8]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = name.iter().fold(step(0xcbf2_9ce4_8422_2325 ^ dir, 0), |hash, &byte| step(hash, byte));
    hash ^ hash >> 32
}

/// Notes a look at `name`; whether it is the second lately.
pub(super) fn seen_before(dir: u64, name: &[u8]) -> bool {
    let hash = hash(dir, name);
    // Never 0, which is nobody's.
    let tag = (hash >> 32) as u32 | 1;
    LOOKS[hash as usize % NOTED].swap(tag, Relaxed) == tag
}

/// Keeps what the host said of `name`.
pub(super) fn keep(dir: u64, name: &[u8], found: &Found) {
    let Some(place) = ANSWERS.get(hash(dir, name) as usize % KEPT) else { return };
    let mut kept = Answer { dir, name: [0; NAME], len: name.len() as u8, found: *found };
    if let Some(to) = kept.name.get_mut(..name.len()) {
        to.copy_from_slice(name);
        *place.lock() = Some(kept);
    }
}

/// What the host said of `name`, if that is kept and young enough at `now_ns` to be believed.
pub(super) fn recall(dir: u64, name: &[u8], now_ns: u64) -> Option<Found> {
    let place = ANSWERS.get(hash(dir, name) as usize % KEPT)?.lock();
    let kept = place.as_ref().filter(|kept| kept.dir == dir)?;
    let young = now_ns.saturating_sub(kept.found.at_ns) < TRUST_NS;
    (young && kept.name.get(..usize::from(kept.len)) == Some(name)).then_some(kept.found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Kind;

    #[test]
    fn the_second_look_is_known_until_others_came() {
        // No other test has these directories.
        const DIR: u64 = 1 << 50;
        assert!(!seen_before(DIR, b"a"));
        assert!(seen_before(DIR, b"a"));
        assert!(!seen_before(DIR + 1, b"a") && !seen_before(DIR, b"b"));
        let others = (0..20 * NOTED as u64).filter(|dir| seen_before(DIR + 2 + dir, b"x")).count();
        assert_eq!(others, 0);
        assert!(!seen_before(DIR, b"a"));
    }

    #[test]
    fn answers_are_for_one_name_and_grow_old() {
        const DIR: u64 = 1 << 51;
        let found = Found { attr: Attr::new(Kind::Regular, 0o644, 77), at_ns: 5 };
        keep(DIR, b"name", &found);
        assert_eq!(recall(DIR, b"name", 5 + TRUST_NS - 1).map(|found| found.attr.ino), Some(77));
        assert!(recall(DIR, b"name", 5 + TRUST_NS).is_none());
        assert!(recall(DIR, b"nam", 6).is_none() && recall(DIR, b"name\0", 6).is_none());
        assert!(recall(DIR + 1, b"name", 6).is_none());
        keep(DIR, &[b'x'; NAME + 1], &found);
        assert!(recall(DIR, &[b'x'; NAME + 1], 6).is_none());
    }
}
