//! Keyrings: links to keys, and searches through rings within rings.

use super::{Key, Kind, LINK_BYTES, Payload, perm};
use crate::task::Cred;
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// Rings inside rings that a search descends.
const DEPTH_MAX: usize = 6;

/// What is looked for, and for whom.
#[derive(Clone, Copy)]
pub struct Search<'a> {
    pub cred: &'a Cred,
    pub wanted: Wanted<'a>,
    /// Keys that were revoked or have expired, and negative ones, are errors.
    pub check_state: bool,
    /// Expired ones are not there instead.
    pub skip_expired: bool,
}

/// A key by name, or one itself.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    Named(Kind, &'a [u8]),
    This(&'a Arc<Key>),
}

impl Wanted<'_> {
    fn is(&self, key: &Arc<Key>) -> bool {
        match self {
            Wanted::Named(kind, description) => key.kind() == *kind && key.description() == *description,
            Wanted::This(this) => Arc::ptr_eq(this, key),
        }
    }
}

/// The keys of a ring, those only that `choose` wants.
///
/// # Errors
/// `ENOTDIR` if it is none.
pub fn keys(ring: &Key, mut choose: impl FnMut(&Arc<Key>) -> bool) -> Result<Vec<Arc<Key>>> {
    match &ring.state.lock().payload {
        Payload::Keys(keys) => Ok(keys.iter().filter(|key| choose(key)).cloned().collect()),
        _ => Err(Errno::ENOTDIR),
    }
}

/// Searches `ring`, which the caller possesses or not, and the rings in it.
///
/// # Errors
/// `EAGAIN` if there is no such key; `ENOTDIR`, `EACCES`; what [`Search::check_state`] says.
pub fn search(ring: &Arc<Key>, possessed: bool, search: &Search<'_>) -> Result<Arc<Key>> {
    if ring.kind() != Kind::Keyring {
        return Err(Errno::ENOTDIR);
    }
    ring.permit(search.cred, possessed, perm::SEARCH)?;
    if search.wanted.is(ring) {
        return Ok(ring.clone());
    }
    let mut error = Errno::EAGAIN;
    let mut rings = vec![(ring.clone(), 0)];
    while let Some((ring, depth)) = rings.pop() {
        for key in keys(&ring, |key| search.wanted.is(key))? {
            match search.usable(&key, possessed) {
                Ok(()) => return Ok(key),
                Err(Errno::EAGAIN) => {}
                Err(errno) => error = errno,
            }
        }
        if depth < DEPTH_MAX {
            let inner = keys(&ring, |key| key.kind() == Kind::Keyring)?;
            let open = inner.into_iter().rev().filter(|key| key.permit(search.cred, possessed, perm::SEARCH).is_ok());
            rings.extend(open.map(|key| (key, depth + 1)));
        }
    }
    Err(error)
}

impl Search<'_> {
    /// Whether a key that was found may be given out.
    fn usable(&self, key: &Arc<Key>, possessed: bool) -> Result<()> {
        if self.check_state {
            match key.validate() {
                Err(Errno::ENOKEY) => return Err(Errno::EKEYREVOKED),
                Err(Errno::EKEYEXPIRED) if self.skip_expired => return Err(Errno::EAGAIN),
                result => result?,
            }
        }
        key.permit(self.cred, possessed, perm::SEARCH)?;
        match key.negative() {
            Some(errno) if self.check_state => Err(errno),
            _ => Ok(()),
        }
    }
}

/// Links `key` into `ring`, in the place of one of the same type and name.
///
/// # Errors
/// `ENOTDIR`, `EPERM` if the ring takes no more, `EDEADLK` if it would be in itself, `ELOOP`, `EDQUOT`.
pub fn link(ring: &Arc<Key>, key: &Arc<Key>) -> Result<()> {
    if ring.kind() != Kind::Keyring {
        return Err(Errno::ENOTDIR);
    }
    if ring.state.lock().restricted {
        return Err(Errno::EPERM);
    }
    check_circle(ring, key)?;
    let same = Wanted::Named(key.kind(), key.description());
    let replaces = !keys(ring, |old| same.is(old))?.is_empty();
    if !replaces {
        charge_links(ring, 1)?;
    }
    let old = {
        let mut state = ring.state.lock();
        let Payload::Keys(keys) = &mut state.payload else { return Err(Errno::ENOTDIR) };
        match keys.iter_mut().find(|old| same.is(old)) {
            Some(place) => Some(core::mem::replace(place, key.clone())),
            None => {
                keys.push(key.clone());
                None
            }
        }
    };
    drop(old);
    Ok(())
}

fn charge_links(ring: &Key, count: i64) -> Result<()> {
    let charged = ring.state.lock().bytes.amount();
    ring.charge(charged.saturating_add_signed(count * LINK_BYTES as i64))
}

/// Refuses to put a ring into itself, or rings too deep.
fn check_circle(ring: &Arc<Key>, key: &Arc<Key>) -> Result<()> {
    let mut rings = vec![(key.clone(), 0)];
    while let Some((key, depth)) = rings.pop() {
        if key.kind() != Kind::Keyring {
            continue;
        }
        if Arc::ptr_eq(&key, ring) {
            return Err(Errno::EDEADLK);
        }
        let inner = keys(&key, |key| key.kind() == Kind::Keyring)?;
        if depth >= DEPTH_MAX && !inner.is_empty() {
            return Err(Errno::ELOOP);
        }
        rings.extend(inner.into_iter().map(|key| (key, depth + 1)));
    }
    Ok(())
}

/// Takes the keys out of `ring` that `choose` wants; how many that were.
///
/// # Errors
/// `ENOTDIR`.
pub fn unlink(ring: &Key, mut choose: impl FnMut(&Arc<Key>) -> bool) -> Result<usize> {
    let gone: Vec<Arc<Key>> = {
        let mut state = ring.state.lock();
        let Payload::Keys(keys) = &mut state.payload else { return Err(Errno::ENOTDIR) };
        let (gone, kept) = core::mem::take(keys).into_iter().partition(|key| choose(key));
        *keys = kept;
        gone
    };
    // Less than before: never refused.
    let _ = charge_links(ring, -(gone.len() as i64));
    Ok(gone.len())
}

/// The keyring of this name that anybody may join, if `cred` may search it.
pub fn find_by_name(cred: &Cred, name: &[u8]) -> Option<Arc<Key>> {
    let joinable = |key: &Arc<Key>| {
        key.kind() == Kind::Keyring
            && key.description() == name
            && key.permit(cred, false, perm::SEARCH).is_ok()
            && key.validate().is_ok()
    };
    super::all().find(joinable)
}

/// Lets a key be found for `seconds` more (0 = for ever).
pub fn set_timeout(key: &Key, seconds: u32) {
    let expiry = (seconds != 0).then(|| time::deadline_in(u64::from(seconds) * time::SEC_NS));
    key.state.lock().expiry_ns = expiry;
    super::collect::schedule(expiry);
}
