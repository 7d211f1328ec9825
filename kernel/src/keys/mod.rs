//! Keys that the kernel keeps for programs, and keyrings that hold them. Source: keyrings(7), keyctl(2), add_key(2).
//!
//! * [`Key`]: one key; what kind it is, whom it is charged to. A keyring is a key whose payload are other keys.
//! * [`ring`]: linking and searching. [`own`]: the keyrings of threads, processes, sessions and users, and who possesses what.
//! * [`request`]: making and requesting keys. [`collect`]: the end of those that expired or were revoked.
//! * [`show`]: /proc/keys and /proc/key-users.
//!
//! A key lives as long as a keyring or a set of credentials refers to it; rings cannot hold themselves. Its owner is charged
//! for it until then: `kernel.keys.*` limits number and bytes.
//!
//! Locks: [`operations`] (sleeping, rank `Ipc`) is held by each call for as long as it runs, so that checks and changes are one;
//! a key's state and the table by number (rank `Leaf`), each alone. No key is dropped under one of those.

pub mod collect;
pub mod own;
pub mod request;
pub mod ring;
pub mod show;

use crate::setting::Setting;
use crate::task::{Charge, Count, Cred, User};
use crate::{Errno, Result, random, room, time};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use umbel_mm::heap;
use umbel_smp::lock::{Mutex, MutexGuard, Rank, SpinLock};

/// `kernel.keys.*`: keys and bytes of one user, the same for root, and seconds for which dead keys stay to be seen.
pub static MAX_KEYS: Setting = limit(200);
pub static MAX_BYTES: Setting = limit(20_000);
pub static ROOT_MAX_KEYS: Setting = limit(1_000_000);
pub static ROOT_MAX_BYTES: Setting = limit(25_000_000);
pub static GC_DELAY: Setting = limit(300);

const fn limit(value: u64) -> Setting {
    Setting::new(value, 0, i32::MAX as u64)
}

/// What a link costs the owner of the keyring, bytes.
pub const LINK_BYTES: u64 = 4;

/// Permissions of one class: possessor << 24, user << 16, group << 8, others.
pub mod perm {
    pub const VIEW: u32 = 1;
    pub const READ: u32 = 2;
    pub const WRITE: u32 = 4;
    pub const SEARCH: u32 = 8;
    pub const LINK: u32 = 0x10;
    pub const SETATTR: u32 = 0x20;
    pub const ALL: u32 = 0x3f;
    /// Bits that may be set at all.
    pub const VALID: u32 = 0x3f3f_3f3f;
}

/// Types of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Keyring,
    User,
    Logon,
    BigKey,
}

impl Kind {
    /// By name.
    pub fn find(name: &[u8]) -> Option<Kind> {
        [Kind::Keyring, Kind::User, Kind::Logon, Kind::BigKey].into_iter().find(|kind| kind.name().as_bytes() == name)
    }

    /// Linux's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Keyring => "keyring",
            Kind::User => "user",
            Kind::Logon => "logon",
            Kind::BigKey => "big_key",
        }
    }

    /// Whether its payload may be read, and changed.
    pub fn readable(self) -> bool {
        self != Kind::Logon
    }

    /// See [`Self::readable`].
    pub fn updatable(self) -> bool {
        self != Kind::Keyring
    }

    /// What a new key permits if nobody says otherwise.
    pub fn default_perm(self) -> u32 {
        let mut possessor = perm::ALL & !(perm::READ | perm::WRITE);
        possessor |= if self.readable() { perm::READ } else { 0 };
        (possessor | perm::WRITE) << 24 | perm::VIEW << 16
    }

    /// Refuses payloads and descriptions that the type does not take.
    pub fn check(self, description: &[u8], payload: &[u8]) -> Result<()> {
        let fits = match self {
            Kind::Keyring => payload.is_empty(),
            Kind::User | Kind::Logon => (1..=32_767).contains(&payload.len()),
            Kind::BigKey => (1..=1 << 20).contains(&payload.len()),
        };
        // A logon key's name begins with whose it is.
        let named = self != Kind::Logon || description.iter().position(|&byte| byte == b':').is_some_and(|at| at > 0);
        if fits && named && !description.is_empty() { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

/// What is in a key.
#[derive(Debug)]
pub enum Payload {
    Bytes(Vec<u8>),
    Keys(Vec<Arc<Key>>),
    /// Nothing: a request that was answered so.
    Negative(Errno),
}

/// Protected by `Key::state`.
#[derive(Debug)]
pub struct State {
    pub uid: u32,
    pub gid: u32,
    pub perm: u32,
    /// CLOCK_MONOTONIC.
    pub expiry_ns: Option<u64>,
    pub revoked_ns: Option<u64>,
    /// Invalidated: as good as gone.
    pub invalid: bool,
    /// A keyring that takes no more links.
    pub restricted: bool,
    pub payload: Payload,
    /// What the owner is charged: one key, and its bytes.
    pub counted: Charge,
    pub bytes: Charge,
}

/// One key.
#[derive(Debug)]
pub struct Key {
    serial: i32,
    kind: Kind,
    description: Vec<u8>,
    pub state: SpinLock<State>,
}

/// Keys by number.
static KEYS: SpinLock<BTreeMap<i32, Weak<Key>>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

/// A call's turn.
pub fn operations() -> MutexGuard<'static, ()> {
    static OPERATIONS: Mutex<()> = Mutex::new(Rank::Ipc, ());
    OPERATIONS.lock()
}

/// The key `serial`; `ENOKEY`.
pub fn find(serial: i32) -> Result<Arc<Key>> {
    KEYS.lock().get(&serial).and_then(Weak::upgrade).ok_or(Errno::ENOKEY)
}

/// All keys, by number: each as it is when its turn comes. Takes no memory.
pub fn all() -> impl Iterator<Item = Arc<Key>> {
    room::one_by_one(&KEYS)
}

/// Whether limits hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    Checked,
    /// Counted, never refused: rings that each thread has one of.
    Overrun,
}

/// Whose a new key is, what it permits, whether limits hold for it.
#[derive(Clone, Copy, Debug)]
pub struct NewKey<'a> {
    pub kind: Kind,
    pub description: &'a [u8],
    pub owner: (u32, u32),
    pub perm: u32,
    pub quota: Quota,
}

impl Key {
    /// A key with `payload`.
    ///
    /// # Errors
    /// `EDQUOT`, `ENOMEM`.
    pub fn new(new: NewKey<'_>, payload: Payload) -> Result<Arc<Key>> {
        let NewKey { kind, description, owner, perm, quota } = new;
        let len = if let Payload::Bytes(bytes) = &payload { bytes.len() as u64 } else { 0 };
        heap::room_for(len)?;
        let charged = description.len() as u64 + 1 + len;
        let (counted, bytes) = charges(owner.0, charged, quota)?;
        let state = State {
            uid: owner.0,
            gid: owner.1,
            perm,
            expiry_ns: None,
            revoked_ns: None,
            invalid: false,
            restricted: false,
            payload,
            counted,
            bytes,
        };
        let state = SpinLock::new(Rank::Leaf, state);
        let build = |serial| Arc::new(Key { serial, kind, description: description.into(), state });
        loop {
            let serial = (random::next_u64() >> 33) as i32;
            let mut keys = KEYS.lock();
            if serial >= 3 && !keys.contains_key(&serial) {
                let key = build(serial);
                keys.insert(serial, Arc::downgrade(&key));
                return Ok(key);
            }
        }
    }

    /// Its number.
    pub fn serial(&self) -> i32 {
        self.serial
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name.
    pub fn description(&self) -> &[u8] {
        &self.description
    }

    /// Whether it may be used at all.
    ///
    /// # Errors
    /// `ENOKEY` if invalidated, `EKEYREVOKED`, `EKEYEXPIRED`.
    pub fn validate(&self) -> Result<()> {
        let state = self.state.lock();
        match (state.invalid, state.revoked_ns, state.expiry_ns) {
            (true, ..) => Err(Errno::ENOKEY),
            (_, Some(_), _) => Err(Errno::EKEYREVOKED),
            (.., Some(expiry_ns)) if time::monotonic_ns() >= expiry_ns => Err(Errno::EKEYEXPIRED),
            _ => Ok(()),
        }
    }

    /// What a request for it was answered with, if that was no.
    pub fn negative(&self) -> Option<Errno> {
        if let Payload::Negative(errno) = self.state.lock().payload { Some(errno) } else { None }
    }

    /// Whether `cred` has all permissions of `wanted`.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn permit(&self, cred: &Cred, possessed: bool, wanted: u32) -> Result<()> {
        let state = self.state.lock();
        let class = match () {
            () if state.uid == cred.fsuid => 16,
            () if state.perm >> 8 & perm::ALL != 0 && cred.in_group(state.gid) => 8,
            () => 0,
        };
        let granted = state.perm >> class | if possessed { state.perm >> 24 } else { 0 };
        if granted & wanted == wanted { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Replaces the payload.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for keyrings, `EDQUOT`, `ENOMEM`.
    pub fn update(&self, bytes: Vec<u8>) -> Result<()> {
        if !self.kind.updatable() {
            return Err(Errno::EOPNOTSUPP);
        }
        heap::room_for(bytes.len() as u64)?;
        self.charge(self.description.len() as u64 + 1 + bytes.len() as u64)?;
        let mut state = self.state.lock();
        state.expiry_ns = None;
        let old = core::mem::replace(&mut state.payload, Payload::Bytes(bytes));
        drop(state);
        drop(old);
        Ok(())
    }

    /// Takes the payload away: it will be refused from now on.
    pub fn revoke(&self) {
        let empty = if self.kind == Kind::Keyring { Payload::Keys(Vec::new()) } else { Payload::Bytes(Vec::new()) };
        let old = {
            let mut state = self.state.lock();
            state.revoked_ns.get_or_insert(time::monotonic_ns());
            core::mem::replace(&mut state.payload, empty)
        };
        drop(old);
        // Less than before: never refused.
        let _ = self.charge(self.description.len() as u64 + 1);
    }

    /// Gives it to another user.
    ///
    /// # Errors
    /// `EDQUOT`.
    pub fn give(&self, uid: u32) -> Result<()> {
        let (old, bytes) = {
            let state = self.state.lock();
            (state.uid, state.bytes.amount())
        };
        if old != uid {
            let (counted, bytes) = charges(uid, bytes, Quota::Checked)?;
            let mut state = self.state.lock();
            (state.uid, state.counted, state.bytes) = (uid, counted, bytes);
        }
        Ok(())
    }

    /// Charges the owner `bytes` in all.
    ///
    /// # Errors
    /// `EDQUOT`.
    pub fn charge(&self, bytes: u64) -> Result<()> {
        let mut state = self.state.lock();
        let (_, limit) = limits(state.uid);
        if state.bytes.resize(bytes, limit) { Ok(()) } else { Err(Errno::EDQUOT) }
    }
}

impl Key {
    /// Takes its keys out, and itself out of the table.
    fn leave(&mut self) -> Vec<Arc<Key>> {
        let mut state = self.state.lock();
        let payload = core::mem::replace(&mut state.payload, Payload::Bytes(Vec::new()));
        drop(state);
        let gone = KEYS.lock().remove(&self.serial);
        drop(gone);
        if let Payload::Keys(keys) = payload { keys } else { Vec::new() }
    }
}

impl Drop for Key {
    /// Rings may hold rings in a long row: their keys go one after the other, not one inside the other.
    fn drop(&mut self) {
        let mut doomed = self.leave();
        while let Some(key) = doomed.pop() {
            if let Some(mut key) = Arc::into_inner(key) {
                doomed.extend(key.leave());
            }
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Key {}

/// What a user has: keys and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub keys: u64,
    pub bytes: u64,
}

/// All users that have keys.
pub fn users() -> BTreeMap<u32, Counts> {
    let of = |user: Arc<User>| {
        let counts = Counts { keys: user.count(Count::Keys), bytes: user.count(Count::KeyBytes) };
        (counts.keys > 0).then_some((user.uid(), counts))
    };
    User::all().into_iter().filter_map(of).collect()
}

/// The most keys and bytes that `uid` may have.
pub fn limits(uid: u32) -> (u64, u64) {
    match uid {
        0 => (ROOT_MAX_KEYS.get(), ROOT_MAX_BYTES.get()),
        _ => (MAX_KEYS.get(), MAX_BYTES.get()),
    }
}

/// Charges a user one more key of `bytes`; `EDQUOT` if that is more than limits allow.
fn charges(uid: u32, bytes: u64, quota: Quota) -> Result<(Charge, Charge)> {
    let (max_keys, max_bytes) = if quota == Quota::Checked { limits(uid) } else { (u64::MAX, u64::MAX) };
    let user = User::of(uid);
    let counted = user.charge(Count::Keys, 1, max_keys).ok_or(Errno::EDQUOT)?;
    let bytes = user.charge(Count::KeyBytes, bytes, max_bytes).ok_or(Errno::EDQUOT)?;
    Ok((counted, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(uid: u32, name: &[u8]) -> Arc<Key> {
        let new = NewKey { kind: Kind::Keyring, description: name, owner: (uid, 0), perm: 0, quota: Quota::Checked };
        Key::new(new, Payload::Keys(Vec::new())).unwrap()
    }

    #[test]
    fn what_a_key_costs_is_given_back_with_it() {
        let top = ring(4711, b"top");
        let key = ring(4711, b"key");
        ring::link(&top, &key).unwrap();
        let counts = users()[&4711];
        assert_eq!((counts.keys, counts.bytes), (2, 4 + 4 + LINK_BYTES));
        drop(key);
        assert_eq!(users()[&4711].keys, 2);
        drop(top);
        assert!(!users().contains_key(&4711));
    }

    #[test]
    fn long_rows_of_rings_end_without_a_deep_stack() {
        let first = ring(0, b"first");
        let mut last = first.clone();
        for _ in 0..50_000 {
            let next = ring(0, b"next");
            if let Payload::Keys(keys) = &mut last.state.lock().payload {
                keys.push(next.clone());
            }
            last = next;
        }
        drop((last, first));
    }

    #[test]
    fn rings_do_not_hold_themselves() {
        let (outer, inner) = (ring(4712, b"outer"), ring(4712, b"inner"));
        ring::link(&outer, &inner).unwrap();
        assert_eq!(ring::link(&inner, &outer), Err(Errno::EDEADLK));
        assert_eq!(ring::link(&inner, &inner), Err(Errno::EDEADLK));
    }
}
