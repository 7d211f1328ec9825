//! Keys and keyrings. Source: add_key(2), request_key(2), keyctl(2).

use crate::keys::own::{self, Found, Missing, State};
use crate::keys::ring::{self, Search, Wanted};
use crate::keys::{self, Kind, perm, request, show};
use crate::task::ns::user::Which;
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use linux_raw_sys::general as nr;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::lock::MutexGuard;

rows! {
    nr::__NR_add_key, add_key(kind: UserAddr, description: UserAddr, payload: UserAddr, len: usize, ring: i32) => add_key, Full;
    nr::__NR_request_key, request_key(kind: UserAddr, description: UserAddr, callout: UserAddr, ring: i32) => request_key, Partial("nobody is asked to make the key");
    nr::__NR_keyctl, keyctl(command: u32, first: u64, second: u64, third: u64, fourth: u64) => keyctl, Partial("no instantiation by requests, no persistent keyrings, no public-key operations, no notification");
}

/// Longest payload of any type.
const PAYLOAD_MAX: usize = (1 << 20) - 1;
/// Longest description, its NUL included, and longest name of a type.
const DESCRIPTION_MAX: usize = 4096;
const TYPE_MAX: usize = 32;
/// Longest payload of an update.
const UPDATE_MAX: usize = 4096;
/// `KEYCTL_CAPS*` that hold here: the call itself, big keys, invalidation, restriction, moving.
const CAPABILITIES: [u8; 2] = [0x01 | 0x10 | 0x20 | 0x40 | 0x80, 0];
/// `KEYCTL_MOVE_EXCL`.
const MOVE_EXCL: u32 = 1;

/// Commands of keyctl(2) (`KEYCTL_*`).
mod command {
    pub const GET_KEYRING_ID: u32 = 0;
    pub const JOIN_SESSION_KEYRING: u32 = 1;
    pub const UPDATE: u32 = 2;
    pub const REVOKE: u32 = 3;
    pub const CHOWN: u32 = 4;
    pub const SETPERM: u32 = 5;
    pub const DESCRIBE: u32 = 6;
    pub const CLEAR: u32 = 7;
    pub const LINK: u32 = 8;
    pub const UNLINK: u32 = 9;
    pub const SEARCH: u32 = 10;
    pub const READ: u32 = 11;
    pub const INSTANTIATE: u32 = 12;
    pub const NEGATE: u32 = 13;
    pub const SET_REQKEY_KEYRING: u32 = 14;
    pub const SET_TIMEOUT: u32 = 15;
    pub const ASSUME_AUTHORITY: u32 = 16;
    pub const GET_SECURITY: u32 = 17;
    pub const SESSION_TO_PARENT: u32 = 18;
    pub const REJECT: u32 = 19;
    pub const INSTANTIATE_IOV: u32 = 20;
    pub const INVALIDATE: u32 = 21;
    pub const RESTRICT_KEYRING: u32 = 29;
    pub const MOVE: u32 = 30;
    pub const CAPABILITIES: u32 = 31;
}

fn text(addr: UserAddr, max: usize) -> Result<Vec<u8>> {
    user::read_cstr(addr, max).map_err(|errno| if errno == Errno::ENAMETOOLONG { Errno::EINVAL } else { errno })
}

/// The name of a type; those with a dot are the kernel's own.
fn type_name(addr: UserAddr) -> Result<Vec<u8>> {
    let name = text(addr, TYPE_MAX)?;
    match name.first() {
        None => Err(Errno::EINVAL),
        Some(b'.') => Err(Errno::EPERM),
        Some(_) => Ok(name),
    }
}

fn read_payload(addr: UserAddr, len: usize) -> Result<Vec<u8>> {
    if len == 0 { Ok(Vec::new()) } else { user::read_vec(addr, len) }
}

fn add_key(task: &Arc<Task>, kind: UserAddr, name: UserAddr, payload: UserAddr, len: usize, ring: i32) -> Result<i32> {
    if len > PAYLOAD_MAX {
        return Err(Errno::EINVAL);
    }
    let kind = type_name(kind)?;
    let name = if name.is_null() { Vec::new() } else { text(name, DESCRIPTION_MAX)? };
    if name.first() == Some(&b'.') && kind.starts_with(b"keyring") {
        return Err(Errno::EPERM);
    }
    let payload = read_payload(payload, len)?;
    let _turn = turn();
    let ring = own::lookup(task, ring, Missing::Make, State::Complete, perm::WRITE)?;
    let kind = Kind::find(&kind).ok_or(Errno::ENODEV)?;
    request::add(task, &ring, kind, &name, payload)
}

fn request_key(task: &Arc<Task>, kind: UserAddr, name: UserAddr, callout: UserAddr, ring: i32) -> Result<i32> {
    let kind = type_name(kind)?;
    let name = text(name, DESCRIPTION_MAX)?;
    let ask = !callout.is_null();
    if ask {
        text(callout, DESCRIPTION_MAX)?;
    }
    let _turn = turn();
    let to = match ring {
        0 => None,
        ring => Some(own::lookup(task, ring, Missing::Make, State::Complete, perm::WRITE)?.key),
    };
    let kind = Kind::find(&kind).ok_or(Errno::ENOKEY)?;
    request::request(task, kind, &name, ask, to.as_ref())
}

/// The caller's turn, with what is due collected.
fn turn() -> MutexGuard<'static, ()> {
    let turn = keys::operations();
    keys::collect::run();
    turn
}

fn keyctl(task: &Arc<Task>, what: u32, first: u64, second: u64, third: u64, fourth: u64) -> Result<u64> {
    let id = first as i32;
    let buf = UserAddr(second);
    let done = |result: Result<()>| result.map(|()| 0);
    match what {
        command::GET_KEYRING_ID => {
            let missing = if second as i32 != 0 { Missing::Make } else { Missing::Refuse };
            let _turn = turn();
            number(own::lookup(task, id, missing, State::Complete, perm::SEARCH)?.key.serial())
        }
        command::JOIN_SESSION_KEYRING => join(task, UserAddr(first)),
        command::UPDATE => done(update(task, id, buf, third as usize)),
        command::REVOKE => done(revoke(task, id)),
        command::CHOWN => done(chown(task, id, second as u32, third as u32)),
        command::SETPERM => done(set_perm(task, id, second as u32)),
        command::DESCRIBE => describe(task, id, buf, third as usize),
        command::CLEAR => done(clear(task, id)),
        command::LINK => done(link(task, id, second as i32)),
        command::UNLINK => done(unlink(task, id, second as i32)),
        command::SEARCH => search(task, id, buf, UserAddr(third), fourth as i32),
        command::READ => read(task, id, buf, third as usize),
        command::INSTANTIATE | command::INSTANTIATE_IOV if too_long(what, third) => Err(Errno::EINVAL),
        // Nobody has the authority that a request would have given.
        command::INSTANTIATE | command::NEGATE | command::REJECT | command::INSTANTIATE_IOV => Err(Errno::EPERM),
        command::SET_REQKEY_KEYRING => {
            let _turn = turn();
            number(request::set_default(task, id)?)
        }
        command::SET_TIMEOUT => done(set_timeout(task, id, second as u32)),
        command::ASSUME_AUTHORITY => match id {
            0 => Ok(0),
            1.. => Err(Errno::ENOKEY),
            _ => Err(Errno::EINVAL),
        },
        command::GET_SECURITY => security(task, id, buf, third as usize),
        command::SESSION_TO_PARENT => {
            let _turn = turn();
            done(own::session_to_parent(task))
        }
        command::INVALIDATE => done(invalidate(task, id)),
        command::RESTRICT_KEYRING => done(restrict(task, id, buf)),
        command::MOVE => done(move_key(task, id, second as i32, third as i32, fourth as u32)),
        command::CAPABILITIES => capabilities(UserAddr(first), second as usize),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn number(serial: i32) -> Result<u64> {
    Ok(serial as u64)
}

fn too_long(what: u32, len: u64) -> bool {
    what == command::INSTANTIATE && len > PAYLOAD_MAX as u64
}

fn join(task: &Task, name: UserAddr) -> Result<u64> {
    let name = if name.is_null() { None } else { Some(text(name, DESCRIPTION_MAX)?) };
    if name.as_ref().is_some_and(|name| name.first() == Some(&b'.')) {
        return Err(Errno::EPERM);
    }
    let _turn = turn();
    number(own::join_session(task, name.as_deref())?)
}

fn update(task: &Task, id: i32, payload: UserAddr, len: usize) -> Result<()> {
    if len > UPDATE_MAX {
        return Err(Errno::EINVAL);
    }
    let payload = read_payload(payload, len)?;
    let _turn = turn();
    let key = own::lookup(task, id, Missing::Refuse, State::Complete, perm::WRITE)?.key;
    if !key.kind().updatable() {
        return Err(Errno::EOPNOTSUPP);
    }
    key.kind().check(key.description(), &payload)?;
    key.update(payload)
}

fn revoke(task: &Task, id: i32) -> Result<()> {
    let _turn = turn();
    let look = |wanted| own::lookup(task, id, Missing::Refuse, State::Complete, wanted);
    let found = match look(perm::WRITE) {
        Err(Errno::EACCES) => look(perm::SETATTR),
        found => found,
    }?;
    found.key.revoke();
    keys::collect::schedule(found.key.state.lock().revoked_ns);
    Ok(())
}

fn attributes(task: &Task, id: i32) -> Result<Arc<keys::Key>> {
    Ok(own::lookup(task, id, Missing::Make, State::Partial, perm::SETATTR)?.key)
}

fn chown(task: &Task, id: i32, uid: u32, gid: u32) -> Result<()> {
    let cred = task.cred();
    let given = |which, id| if id == u32::MAX { Ok(None) } else { cred.user_ns.take(which, id).map(Some) };
    let (uid, gid) = (given(Which::Users, uid)?, given(Which::Groups, gid)?);
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    let _turn = turn();
    let key = attributes(task, id)?;
    let (old_uid, old_gid) = {
        let state = key.state.lock();
        (state.uid, state.gid)
    };
    let foreign = uid.is_some_and(|uid| uid != old_uid) || gid.is_some_and(|gid| gid != old_gid && !cred.in_group(gid));
    if foreign && !task.capable(cap::SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    if let Some(uid) = uid {
        key.give(uid)?;
    }
    if let Some(gid) = gid {
        key.state.lock().gid = gid;
    }
    Ok(())
}

fn set_perm(task: &Task, id: i32, perm: u32) -> Result<()> {
    if perm & !keys::perm::VALID != 0 {
        return Err(Errno::EINVAL);
    }
    let _turn = turn();
    let key = attributes(task, id)?;
    let (own, capable) = (task.cred().fsuid, task.capable(cap::SYS_ADMIN));
    let mut state = key.state.lock();
    if state.uid != own && !capable {
        return Err(Errno::EACCES);
    }
    state.perm = perm;
    Ok(())
}

/// Copies out what fits as a whole; its length.
fn give(bytes: &[u8], to: UserAddr, room: usize) -> Result<u64> {
    if !to.is_null() && room >= bytes.len() {
        user::copy_out(to, bytes)?;
    }
    Ok(bytes.len() as u64)
}

fn describe(task: &Task, id: i32, to: UserAddr, room: usize) -> Result<u64> {
    let text = {
        let _turn = turn();
        show::description(&own::lookup(task, id, Missing::Refuse, State::Partial, perm::VIEW)?.key)
    };
    give(&text, to, room)
}

fn security(task: &Task, id: i32, to: UserAddr, room: usize) -> Result<u64> {
    {
        let _turn = turn();
        own::lookup(task, id, Missing::Refuse, State::Partial, perm::VIEW)?;
    }
    give(&[0], to, room)
}

fn clear(task: &Task, id: i32) -> Result<()> {
    let _turn = turn();
    let ring = own::lookup(task, id, Missing::Make, State::Complete, perm::WRITE)?.key;
    ring::unlink(&ring, |_| true).map(drop)
}

fn link(task: &Task, id: i32, ring: i32) -> Result<()> {
    let _turn = turn();
    let ring = own::lookup(task, ring, Missing::Make, State::Complete, perm::WRITE)?.key;
    let key = own::lookup(task, id, Missing::Make, State::Complete, perm::LINK)?.key;
    ring::link(&ring, &key)
}

fn unlink(task: &Task, id: i32, ring: i32) -> Result<()> {
    let _turn = turn();
    let ring = own::lookup(task, ring, Missing::Refuse, State::Complete, perm::WRITE)?.key;
    let key = own::lookup(task, id, Missing::Refuse, State::Any, 0)?.key;
    match ring::unlink(&ring, |other| Arc::ptr_eq(other, &key))? {
        0 => Err(Errno::ENOENT),
        _ => Ok(()),
    }
}

fn search(task: &Task, ring: i32, kind: UserAddr, name: UserAddr, to: i32) -> Result<u64> {
    let kind = type_name(kind)?;
    let name = text(name, DESCRIPTION_MAX)?;
    let _turn = turn();
    let Found { key: ring, possessed } = own::lookup(task, ring, Missing::Refuse, State::Complete, perm::SEARCH)?;
    let to = match to {
        0 => None,
        to => Some(own::lookup(task, to, Missing::Make, State::Complete, perm::WRITE)?.key),
    };
    let wanted = Wanted::Named(Kind::find(&kind).ok_or(Errno::ENOKEY)?, &name);
    let cred = task.cred();
    let find = Search { cred: &cred, wanted, check_state: true, skip_expired: false };
    // That there is none and that there is a negative one are the same.
    let key = ring::search(&ring, possessed, &find)
        .map_err(|errno| if errno == Errno::EAGAIN { Errno::ENOKEY } else { errno })?;
    if let Some(to) = to {
        key.permit(&cred, possessed, perm::LINK)?;
        ring::link(&to, &key)?;
    }
    number(key.serial())
}

fn read(task: &Task, id: i32, to: UserAddr, room: usize) -> Result<u64> {
    let bytes = {
        let _turn = turn();
        // What is wrong with the key is not told to those who may not know it.
        let found = own::lookup(task, id, Missing::Refuse, State::Any, 0).map_err(|_| Errno::ENOKEY)?;
        let Found { key, possessed } = found;
        if let Some(errno) = key.negative() {
            return Err(errno);
        }
        // A key that can be found can be read.
        match key.permit(&task.cred(), possessed, perm::READ) {
            Err(_) if possessed => {}
            result => result?,
        }
        if !key.kind().readable() {
            return Err(Errno::EOPNOTSUPP);
        }
        key.validate()?;
        show::payload(&key)
    };
    give(&bytes, to, room)
}

fn set_timeout(task: &Task, id: i32, seconds: u32) -> Result<()> {
    let _turn = turn();
    ring::set_timeout(&*attributes(task, id)?, seconds);
    Ok(())
}

fn invalidate(task: &Task, id: i32) -> Result<()> {
    let _turn = turn();
    let key = own::lookup(task, id, Missing::Refuse, State::Complete, perm::SEARCH)?.key;
    key.state.lock().invalid = true;
    keys::collect::unlink_everywhere(&key);
    Ok(())
}

/// Without a type all links are refused from now on; no type restricts further.
fn restrict(task: &Task, id: i32, kind: UserAddr) -> Result<()> {
    let kind = if kind.is_null() { None } else { Some(type_name(kind)?) };
    let _turn = turn();
    let ring = own::lookup(task, id, Missing::Refuse, State::Complete, perm::SETATTR)?.key;
    if ring.kind() != Kind::Keyring {
        return Err(Errno::ENOTDIR);
    }
    match kind.map(|kind| Kind::find(&kind)) {
        Some(None) => return Err(Errno::ENOKEY),
        Some(Some(_)) => return Err(Errno::ENOENT),
        None => {}
    }
    let mut state = ring.state.lock();
    if core::mem::replace(&mut state.restricted, true) { Err(Errno::EEXIST) } else { Ok(()) }
}

fn move_key(task: &Task, id: i32, from: i32, to: i32, flags: u32) -> Result<()> {
    if flags & !MOVE_EXCL != 0 {
        return Err(Errno::EINVAL);
    }
    let _turn = turn();
    let key = own::lookup(task, id, Missing::Make, State::Complete, perm::LINK)?.key;
    let from = own::lookup(task, from, Missing::Refuse, State::Complete, perm::WRITE)?.key;
    let to = own::lookup(task, to, Missing::Make, State::Complete, perm::WRITE)?.key;
    if Arc::ptr_eq(&from, &to) {
        return Ok(());
    }
    if ring::keys(&from, |other| Arc::ptr_eq(other, &key))?.is_empty() {
        return Err(Errno::ENOENT);
    }
    let same = |other: &Arc<keys::Key>| other.kind() == key.kind() && other.description() == key.description();
    if flags & MOVE_EXCL != 0 && !ring::keys(&to, same)?.is_empty() {
        return Err(Errno::EEXIST);
    }
    ring::link(&to, &key)?;
    ring::unlink(&from, |other| Arc::ptr_eq(other, &key)).map(drop)
}

fn capabilities(to: UserAddr, room: usize) -> Result<u64> {
    if room > 0 {
        let mut bytes = vec![0; room.min(4096)];
        for (byte, value) in bytes.iter_mut().zip(CAPABILITIES) {
            *byte = value;
        }
        user::copy_out(to, &bytes)?;
        let rest = room - bytes.len();
        user::clear(UserAddr(to.0.wrapping_add(bytes.len() as u64)), rest)?;
    }
    Ok(CAPABILITIES.len() as u64)
}
