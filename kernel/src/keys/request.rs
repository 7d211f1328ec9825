//! Making keys, and asking for them. Nobody is asked to make a key: a request that finds none leaves a negative one for a minute.
//! Source: add_key(2), request_key(2).

use super::own::{self, Found, special};
use super::ring::{self, Search, Wanted};
use super::{Key, Kind, NewKey, Payload, Quota, perm};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Seconds for which a request that found nothing is remembered.
const NEGATIVE_SECONDS: u32 = 60;

/// What `KEYCTL_SET_REQKEY_KEYRING` may say.
pub mod default {
    pub const NO_CHANGE: i32 = -1;
    pub const DEFAULT: i32 = 0;
    pub const THREAD: i32 = 1;
    pub const PROCESS: i32 = 2;
    pub const SESSION: i32 = 3;
    pub const USER: i32 = 4;
    pub const USER_SESSION: i32 = 5;
    pub const REQUESTOR: i32 = 7;
}

/// Makes a key in `ring`, or updates the one of that type and name there.
///
/// # Errors
/// `ENOTDIR`, `EINVAL`, `EACCES`, `EDQUOT`, `ENOMEM`.
pub fn add(task: &Task, ring: &Found, kind: Kind, description: &[u8], payload: Vec<u8>) -> Result<i32> {
    let cred = task.cred();
    if ring.key.kind() != Kind::Keyring {
        return Err(Errno::ENOTDIR);
    }
    kind.check(description, &payload)?;
    if kind.updatable() {
        let old = ring::keys(&ring.key, |key| key.kind() == kind && key.description() == description)?;
        if let Some(old) =
            old.into_iter().find(|key| !matches!(key.validate(), Err(Errno::ENOKEY | Errno::EKEYREVOKED)))
        {
            old.permit(&cred, ring.possessed, perm::WRITE)?;
            old.update(payload)?;
            return Ok(old.serial());
        }
    }
    let owner = (cred.fsuid, cred.fsgid);
    let payload = if kind == Kind::Keyring { Payload::Keys(Vec::new()) } else { Payload::Bytes(payload) };
    let new = NewKey { kind, description, owner, perm: kind.default_perm(), quota: Quota::Checked };
    let key = Key::new(new, payload)?;
    ring::link(&ring.key, &key)?;
    Ok(key.serial())
}

/// Finds a key in the caller's rings and links it into `to`. If there is none and `ask`, it becomes a negative one.
///
/// # Errors
/// `ENOKEY` if there is none; `EPERM` for keyrings, which nobody makes; `EACCES`, `EDQUOT`, what [`ring::search`] says.
pub fn request(task: &Task, kind: Kind, description: &[u8], ask: bool, to: Option<&Arc<Key>>) -> Result<i32> {
    let cred = task.cred();
    let wanted = Wanted::Named(kind, description);
    match own::search_all(&Search { cred: &cred, wanted, check_state: true, skip_expired: true }) {
        Ok(key) => {
            if let Some(to) = to {
                key.permit(&cred, true, perm::LINK)?;
                ring::link(to, &key)?;
            }
            key.validate()?;
            Ok(key.serial())
        }
        Err(Errno::EAGAIN) if !ask => Err(Errno::ENOKEY),
        Err(Errno::EAGAIN) if kind == Kind::Keyring => Err(Errno::EPERM),
        Err(Errno::EAGAIN) => refuse(task, kind, description, to),
        Err(errno) => Err(errno),
    }
}

/// Leaves a negative key. Linux says `ENOENT` where no program is there to be asked.
fn refuse(task: &Task, kind: Kind, description: &[u8], to: Option<&Arc<Key>>) -> Result<i32> {
    let cred = task.cred();
    let to = match to {
        Some(to) => Some(to.clone()),
        None => default_ring(task)?,
    };
    let owner = (cred.fsuid, cred.fsgid);
    let new = NewKey { kind, description, owner, perm: kind.default_perm(), quota: Quota::Checked };
    let key = Key::new(new, Payload::Negative(Errno::ENOKEY))?;
    ring::set_timeout(&key, NEGATIVE_SECONDS);
    if let Some(to) = to {
        ring::link(&to, &key)?;
    }
    Err(Errno::ENOENT)
}

/// Where requested keys go if the caller does not say; it must be able to write there.
fn default_ring(task: &Task) -> Result<Option<Arc<Key>>> {
    let cred = task.cred();
    let rings = &cred.keys;
    let first = |rings: &[&Option<Arc<Key>>]| rings.iter().find_map(|ring| (*ring).clone());
    let own = match rings.default {
        default::DEFAULT | default::REQUESTOR | default::THREAD => {
            first(&[&rings.thread, &rings.process, &rings.session])
        }
        default::PROCESS => first(&[&rings.process, &rings.session]),
        default::SESSION => rings.session.clone(),
        default::USER => return Ok(Some(own::user_rings(&cred)?.0)),
        _ => None,
    };
    let ring = match own {
        Some(ring) => ring,
        None => own::user_rings(&cred)?.1,
    };
    ring.permit(&cred, true, perm::WRITE)?;
    Ok(Some(ring))
}

/// `KEYCTL_SET_REQKEY_KEYRING`; what it was.
///
/// # Errors
/// `EINVAL`.
pub fn set_default(task: &Task, choice: i32) -> Result<i32> {
    let old = task.cred().keys.default;
    match choice {
        default::NO_CHANGE => return Ok(old),
        default::THREAD => drop(own::lookup(task, special::THREAD, own::Missing::Make, own::State::Any, 0)?),
        default::PROCESS => drop(own::lookup(task, special::PROCESS, own::Missing::Make, own::State::Any, 0)?),
        default::DEFAULT | default::SESSION | default::USER | default::USER_SESSION | default::REQUESTOR => {}
        _ => return Err(Errno::EINVAL),
    }
    let mut cred = (*task.cred()).clone();
    cred.keys.default = choice;
    task.set_cred(cred);
    Ok(old)
}
