//! Which instances are in which, so that none is in itself, and that neither depth nor number of the ways along which one wakes
//! others grows without bounds: both are walked on a kernel stack, with locks held. Source: `ep_loop_check`, `reverse_path_check`
//! of Linux.
//!
//! A [`Link`] lives as long as the registration. Locks: [`CHANGE`] (sleeping), under which links are made; the lists of a
//! [`Nest`] (rank Leaf), one at a time.

use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use umbel_smp::lock::{Mutex, Rank, SpinLock};

/// Most instances above one another.
const DEPTH_MAX: usize = 5;
/// Most ways that lead up from an instance.
const WAYS_MAX: u64 = 500;

static CHANGE: Mutex<()> = Mutex::new(Rank::SleepLeaf, ());

/// An instance's place among others.
pub struct Nest {
    /// Links to the instances that it is in.
    above: SpinLock<Vec<Weak<Link>>>,
    /// Links to those in it.
    below: SpinLock<Vec<Weak<Link>>>,
}

/// One instance is in another one.
pub struct Link {
    outer: Weak<Nest>,
    inner: Weak<Nest>,
}

/// Instances at some distance, and how many ways lead there.
type Level = BTreeMap<usize, (Arc<Nest>, u64)>;

/// Which way a walk goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Up,
    Down,
}

impl Nest {
    /// That of a new instance.
    pub fn new() -> Arc<Nest> {
        let list = || SpinLock::new(Rank::Leaf, Vec::new());
        Arc::new(Nest { above: list(), below: list() })
    }

    fn next(&self, way: Way) -> Vec<Arc<Nest>> {
        let (list, end): (_, fn(&Link) -> &Weak<Nest>) = match way {
            Way::Up => (&self.above, |link| &link.outer),
            Way::Down => (&self.below, |link| &link.inner),
        };
        list.lock().iter().filter_map(|link| end(&*link.upgrade()?).upgrade()).collect()
    }

    /// What lies above or below, by distance; this is at 0.
    ///
    /// # Errors
    /// `ELOOP` if that is too deep.
    fn levels(self: &Arc<Nest>, way: Way) -> Result<Vec<Level>> {
        let mut levels = Vec::from([Level::from([(Arc::as_ptr(self) as usize, (self.clone(), 1))])]);
        while let Some(last) = levels.last().filter(|level| !level.is_empty()) {
            if levels.len() > DEPTH_MAX {
                return Err(Errno::ELOOP);
            }
            let mut level = Level::new();
            for (nest, ways) in last.values() {
                for next in nest.next(way) {
                    let entry = level.entry(Arc::as_ptr(&next) as usize).or_insert((next, 0));
                    entry.1 = entry.1.saturating_add(*ways);
                }
            }
            levels.push(level);
        }
        levels.pop();
        Ok(levels)
    }
}

fn ways(levels: &[Level]) -> u64 {
    levels.iter().flat_map(|level| level.values()).fold(0, |sum, (_, ways)| sum.saturating_add(*ways))
}

/// Notes that `inner` is in `outer` from now on, as long as what is returned lives.
///
/// # Errors
/// `EINVAL` for an instance in itself or with too many ways up, `ELOOP` for circles and what is too deep.
pub fn link(outer: &Arc<Nest>, inner: &Arc<Nest>) -> Result<Arc<Link>> {
    if Arc::ptr_eq(outer, inner) {
        return Err(Errno::EINVAL);
    }
    let _change = CHANGE.lock();
    let (up, down) = (outer.levels(Way::Up)?, inner.levels(Way::Down)?);
    let is_circle = down.iter().any(|level| level.contains_key(&(Arc::as_ptr(outer) as usize)));
    if is_circle || up.len() + down.len() > DEPTH_MAX {
        return Err(Errno::ELOOP);
    }
    let (new, old) = (ways(&up), ways(&inner.levels(Way::Up)?) - 1);
    let most = down.iter().flat_map(|level| level.values()).map(|(_, ways)| *ways).max().unwrap_or(1);
    if new.saturating_mul(most) > WAYS_MAX || new.saturating_add(old) > WAYS_MAX {
        return Err(Errno::EINVAL);
    }
    let link = Arc::new(Link { outer: Arc::downgrade(outer), inner: Arc::downgrade(inner) });
    for list in [&outer.below, &inner.above] {
        let mut list = list.lock();
        list.retain(|link| link.strong_count() > 0);
        list.push(Arc::downgrade(&link));
    }
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_bounded_from_whichever_end_they_grow() {
        let nests: Vec<_> = (0..7).map(|_| Nest::new()).collect();
        let down: Vec<_> = (0..4).map(|i| link(&nests[i], &nests[i + 1]).unwrap()).collect();
        assert_eq!(link(&nests[4], &nests[5]).err(), Some(Errno::ELOOP));
        assert_eq!(link(&nests[5], &nests[0]).err(), Some(Errno::ELOOP));
        assert_eq!(link(&nests[3], &nests[0]).err(), Some(Errno::ELOOP));
        assert_eq!(link(&nests[0], &nests[0]).err(), Some(Errno::EINVAL));
        drop(down);
        assert!(link(&nests[3], &nests[0]).is_ok());
    }

    #[test]
    fn ways_up_are_bounded() {
        let layers: Vec<Vec<_>> = (0..3).map(|_| (0..23).map(|_| Nest::new()).collect()).collect();
        let mut links = Vec::new();
        for (outer, inner) in layers[0].iter().flat_map(|outer| layers[1].iter().map(move |inner| (outer, inner))) {
            links.push(link(outer, inner).unwrap());
        }
        let result: Result<Vec<_>> = layers[1].iter().map(|outer| link(outer, &layers[2][0])).collect();
        assert_eq!(result.err(), Some(Errno::EINVAL));
    }
}
