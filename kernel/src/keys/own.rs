//! Whose keyrings: of threads, processes, sessions and users; which key a number means, and whether the caller possesses it.
//!
//! A thread's [`Rings`] are part of its credentials. A thread's ring is its own, a process's ring goes to its new threads, a
//! session's to children too; exec drops the first two. Who has no session ring uses its user's. Source: keyrings(7).

use super::ring::{Search, Wanted, search};
use super::{Key, Kind, NewKey, Payload, Quota, perm, ring};
use crate::sched;
use crate::task::{Cred, Task, ids};
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_smp::lock::{Rank, SpinLock};

/// The keyrings of one thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    pub thread: Option<Arc<Key>>,
    pub process: Option<Arc<Key>>,
    pub session: Option<Arc<Key>>,
    /// `KEYCTL_SET_REQKEY_KEYRING`: where requested keys go.
    pub default: i32,
}

/// Numbers that mean a ring of the caller.
pub mod special {
    pub const THREAD: i32 = -1;
    pub const PROCESS: i32 = -2;
    pub const SESSION: i32 = -3;
    pub const USER: i32 = -4;
    pub const USER_SESSION: i32 = -5;
    pub const REQUEST_AUTH: i32 = -7;
    pub const REQUESTOR: i32 = -8;
}

/// Whether a ring of the caller that is not there is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Make,
    Refuse,
}

/// How much of a key must be in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds something and is valid.
    Complete,
    /// It is valid.
    Partial,
    /// Nothing is asked.
    Any,
}

/// A key, and whether the caller possesses it.
#[derive(Clone, Debug)]
pub struct Found {
    pub key: Arc<Key>,
    pub possessed: bool,
}

impl Rings {
    /// Those of a new thread (of the same process if `thread`), from its maker's credentials.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn for_child(cred: Arc<Cred>, thread: bool) -> Result<Arc<Cred>> {
        let rings = &cred.keys;
        if rings.thread.is_none() && (thread || rings.process.is_none()) {
            return Ok(cred);
        }
        let mut new = (*cred).clone();
        new.keys.thread = match thread && rings.thread.is_some() {
            true => Some(new_ring(&cred, b"_tid", OWN_PERM, Quota::Overrun)?),
            false => None,
        };
        if !thread {
            new.keys.process = None;
        }
        Ok(Arc::new(new))
    }

    /// After exec.
    pub fn exec(&mut self) {
        (self.thread, self.process) = (None, None);
    }
}

const OWN_PERM: u32 = perm::ALL << 24 | perm::VIEW << 16;
const SESSION_PERM: u32 = OWN_PERM | perm::READ << 16;
const NAMED_PERM: u32 = SESSION_PERM | perm::LINK << 16;
const USER_PERM: u32 = (perm::ALL & !perm::SETATTR) << 24 | perm::ALL << 16;

fn new_ring(cred: &Cred, name: &[u8], perm: u32, quota: Quota) -> Result<Arc<Key>> {
    let owner = (cred.uid, cred.gid);
    Key::new(NewKey { kind: Kind::Keyring, description: name, owner, perm, quota }, Payload::Keys(Vec::new()))
}

/// Replaces the caller's rings.
fn change(task: &Task, change: impl FnOnce(&mut Rings)) {
    let mut cred = (*task.cred()).clone();
    change(&mut cred.keys);
    task.set_cred(cred);
}

/// The thread's ring, made if need be.
pub fn thread_ring(task: &Task) -> Result<Arc<Key>> {
    let cred = task.cred();
    if let Some(ring) = &cred.keys.thread {
        return Ok(ring.clone());
    }
    let ring = new_ring(&cred, b"_tid", OWN_PERM, Quota::Overrun)?;
    change(task, |rings| rings.thread = Some(ring.clone()));
    Ok(ring)
}

/// The process's ring, made if need be.
pub fn process_ring(task: &Task) -> Result<Arc<Key>> {
    let cred = task.cred();
    if let Some(ring) = &cred.keys.process {
        return Ok(ring.clone());
    }
    let ring = new_ring(&cred, b"_pid", OWN_PERM, Quota::Overrun)?;
    change(task, |rings| rings.process = Some(ring.clone()));
    Ok(ring)
}

/// Joins a session ring: a new one without a name, else the one of that name, made if nobody has it. 0 if that is its own already.
///
/// # Errors
/// `EDQUOT`, `ENOMEM`.
pub fn join_session(task: &Task, name: Option<&[u8]>) -> Result<i32> {
    let cred = task.cred();
    let quota = if cred.keys.session.is_some() { Quota::Checked } else { Quota::Overrun };
    let ring = match name {
        None => new_ring(&cred, b"_ses", SESSION_PERM, quota)?,
        Some(name) => match ring::find_by_name(&cred, name) {
            Some(ring) if cred.keys.session.as_ref() == Some(&ring) => return Ok(0),
            Some(ring) => ring,
            None => new_ring(&cred, name, NAMED_PERM, Quota::Checked)?,
        },
    };
    let serial = ring.serial();
    change(task, |rings| rings.session = Some(ring));
    Ok(serial)
}

/// The session ring of `task`, the caller, becomes its parent's once that leaves the kernel.
///
/// # Errors
/// `EPERM` unless the parent is an ordinary process of one thread and both run as the same user in all respects, who owns the rings;
/// `ENOKEY`, `EACCES` for the ring.
pub fn session_to_parent(task: &Task) -> Result<()> {
    let ring = lookup(task, special::SESSION, Missing::Refuse, State::Complete, perm::LINK)?.key;
    let parent = {
        let table = ids::table();
        let node = table.node(table.node(task.process().pid())?.parent).map_err(|_| Errno::EPERM)?;
        match node.threads.as_slice() {
            [only] if only.body.is_none() => only.clone(),
            _ => return Err(Errno::EPERM),
        }
    };
    let (own, other) = (task.cred(), parent.cred());
    if other.keys.session.as_ref() == Some(&ring) {
        return Ok(());
    }
    let same_user = [other.uid, other.euid, other.suid].iter().all(|uid| *uid == own.euid);
    let same_group = [other.gid, other.egid, other.sgid].iter().all(|gid| *gid == own.egid);
    let owns = |ring: &Arc<Key>| ring.state.lock().uid == own.euid;
    if !same_user || !same_group || !owns(&ring) || !other.keys.session.iter().all(owns) {
        return Err(Errno::EPERM);
    }
    drop(parent.replace_next_session(Some(ring)));
    sched::interrupt(&parent);
    Ok(())
}

/// Takes what a child gave `task`, the caller. Called on the way out of the kernel.
pub fn take_session(task: &Task) {
    if let Some(ring) = task.replace_next_session(None) {
        change(task, |rings| rings.session = Some(ring));
    }
}

/// A user's own ring and session ring.
type UserRings = (Arc<Key>, Arc<Key>);

static USER_RINGS: SpinLock<BTreeMap<u32, UserRings>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

/// The caller's user's ring and session ring, which come to be when somebody asks.
///
/// # Errors
/// `EDQUOT`, `ENOMEM`.
pub fn user_rings(cred: &Cred) -> Result<UserRings> {
    let known = USER_RINGS.lock().get(&cred.uid).cloned();
    if let Some(rings) = known {
        return Ok(rings);
    }
    sweep_user_rings();
    let make = |name: &str| {
        let owner = (cred.uid, u32::MAX);
        let new =
            NewKey { kind: Kind::Keyring, description: name.as_bytes(), owner, perm: USER_PERM, quota: Quota::Checked };
        Key::new(new, Payload::Keys(Vec::new()))
    };
    let user = make(&format!("_uid.{}", cred.uid))?;
    let session = make(&format!("_uid_ses.{}", cred.uid))?;
    ring::link(&session, &user)?;
    USER_RINGS.lock().insert(cred.uid, (user.clone(), session.clone()));
    Ok((user, session))
}

/// Lets go of the rings of users when they are many: those that nobody uses and that hold nothing.
fn sweep_user_rings() {
    const MANY: usize = 64;
    let rings: Vec<(u32, UserRings)> = {
        let table = USER_RINGS.lock();
        if table.len() < MANY {
            return;
        }
        table.iter().map(|(uid, rings)| (*uid, rings.clone())).collect()
    };
    for (uid, (user, session)) in rings {
        let holds = |ring: &Key| ring::keys(ring, |key| *key != user).is_ok_and(|keys| !keys.is_empty());
        // The table, this list, and for the user's ring the session's link.
        if Arc::strong_count(&user) == 3 && Arc::strong_count(&session) == 2 && !holds(&user) && !holds(&session) {
            let gone = USER_RINGS.lock().remove(&uid);
            drop(gone);
        }
    }
}

/// The rings that the caller searches, in order.
fn searched(cred: &Cred) -> Vec<Arc<Key>> {
    let rings = &cred.keys;
    let session = rings.session.clone().or_else(|| {
        let known = USER_RINGS.lock().get(&cred.uid).cloned();
        known.map(|(_, session)| session)
    });
    [rings.thread.clone(), rings.process.clone(), session].into_iter().flatten().collect()
}

/// Searches all rings of the caller.
///
/// # Errors
/// `EAGAIN` if there is no such key; `ENOKEY` if a negative one was all there was; what is wrong with the key if no ring says that it is
/// not there.
pub fn search_all(find: &Search<'_>) -> Result<Arc<Key>> {
    let (mut none, mut error) = (None, Errno::EAGAIN);
    for ring in searched(find.cred) {
        match search(&ring, true, find) {
            Ok(key) => return Ok(key),
            Err(Errno::EAGAIN) => none = none.or(Some(Errno::EAGAIN)),
            Err(Errno::ENOKEY) => none = Some(Errno::ENOKEY),
            Err(errno) => error = errno,
        }
    }
    // That one ring does not have it hides what is wrong in another.
    Err(none.unwrap_or(error))
}

/// The key that `id` means to the caller; it must permit `wanted` (0 = whatever it permits).
///
/// # Errors
/// `EINVAL`, `ENOKEY`, `EACCES`, and those of [`Key::validate`].
pub fn lookup(task: &Task, id: i32, missing: Missing, state: State, wanted: u32) -> Result<Found> {
    let found = named(task, id, missing)?;
    if state != State::Any {
        if state == State::Complete
            && let Some(errno) = found.key.negative()
        {
            return Err(errno);
        }
        found.key.validate()?;
    }
    if wanted != 0 {
        found.key.permit(&task.cred(), found.possessed, wanted)?;
    }
    Ok(found)
}

fn named(task: &Task, id: i32, missing: Missing) -> Result<Found> {
    let cred = task.cred();
    let own = |key| Ok(Found { key, possessed: true });
    match id {
        special::THREAD if missing == Missing::Make => own(thread_ring(task)?),
        special::THREAD => own(cred.keys.thread.clone().ok_or(Errno::ENOKEY)?),
        special::PROCESS if missing == Missing::Make => own(process_ring(task)?),
        special::PROCESS => own(cred.keys.process.clone().ok_or(Errno::ENOKEY)?),
        special::SESSION => own(session_ring(task, missing)?),
        special::USER => own(user_rings(&cred)?.0),
        special::USER_SESSION => own(user_rings(&cred)?.1),
        special::REQUEST_AUTH | special::REQUESTOR => Err(Errno::ENOKEY),
        1.. => {
            let key = super::find(id)?;
            let this = Search { cred: &cred, wanted: Wanted::This(&key), check_state: false, skip_expired: false };
            let possessed = search_all(&this).is_ok();
            Ok(Found { key, possessed })
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The session ring: the user's for those who have none, unless something is to be put there.
fn session_ring(task: &Task, missing: Missing) -> Result<Arc<Key>> {
    let cred = task.cred();
    let user = user_rings(&cred)?.1;
    match &cred.keys.session {
        Some(ring) if *ring != user || missing == Missing::Refuse => return Ok(ring.clone()),
        _ => {}
    }
    match missing {
        Missing::Make => {
            join_session(task, None)?;
        }
        Missing::Refuse => change(task, |rings| rings.session = Some(user)),
    }
    task.cred().keys.session.clone().ok_or(Errno::ENOKEY)
}
