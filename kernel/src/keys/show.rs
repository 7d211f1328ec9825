//! /proc/keys and /proc/key-users. Source: keyrings(7).

use super::{Key, Kind, Payload, limits, perm};
use crate::Result;
use crate::room::Text;
use crate::task::{self, Cred};
use crate::time;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

/// /proc/keys: those that the reader may view.
///
/// # Errors
/// `ENOMEM`.
pub fn keys() -> Result<Vec<u8>> {
    let _turn = super::operations();
    let task = task::current();
    let cred = task.cred();
    let mut text = Text::default();
    for key in super::all() {
        if visible(&key, &cred) {
            let _ = writeln!(text, "{}", line(&key));
        }
    }
    text.finish()
}

fn visible(key: &Arc<Key>, cred: &Cred) -> bool {
    let this =
        super::ring::Search { cred, wanted: super::ring::Wanted::This(key), check_state: false, skip_expired: false };
    key.permit(cred, false, perm::VIEW).is_ok()
        || super::own::search_all(&this).is_ok() && key.permit(cred, true, perm::VIEW).is_ok()
}

fn line(key: &Arc<Key>) -> String {
    let state = key.state.lock();
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    let negative = matches!(state.payload, Payload::Negative(_));
    let rest = match &state.payload {
        Payload::Negative(_) => String::new(),
        Payload::Bytes(bytes) => format!(": {}", bytes.len()),
        Payload::Keys(keys) if keys.is_empty() => String::from(": empty"),
        Payload::Keys(keys) => format!(": {}", keys.len()),
    };
    format!(
        "{:08x} I{}-Q-{}{} {:5} {:>4} {:08x} {:5} {:5} {:9} {}{rest}",
        key.serial(),
        flag(state.revoked_ns.is_some(), 'R'),
        flag(negative, 'N'),
        flag(state.invalid, 'i'),
        Arc::strong_count(key).saturating_sub(1),
        timeout(state.expiry_ns),
        state.perm,
        state.uid,
        if state.gid == u32::MAX { 65_534 } else { state.gid },
        key.kind().name(),
        String::from_utf8_lossy(key.description()),
    )
}

/// How long it lives, in the largest unit that is not zero.
fn timeout(expiry_ns: Option<u64>) -> String {
    const UNITS: [(u64, char); 5] = [(604_800, 'w'), (86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let Some(expiry_ns) = expiry_ns else { return String::from("perm") };
    let left_ns = expiry_ns.saturating_sub(time::monotonic_ns());
    if left_ns == 0 {
        return String::from("expd");
    }
    let seconds = left_ns / time::SEC_NS;
    let unit = UNITS.into_iter().find(|(length, _)| seconds >= *length);
    unit.map_or_else(|| String::from("0s"), |(length, letter)| format!("{}{letter}", seconds / length))
}

/// /proc/key-users.
pub fn users() -> String {
    let mut text = String::new();
    for (uid, counts) in super::users() {
        let (max_keys, max_bytes) = limits(uid);
        let (keys, bytes) = (counts.keys, counts.bytes);
        let _ = writeln!(text, "{uid:5}: {:5} {keys}/{keys} {keys}/{max_keys} {bytes}/{max_bytes}", keys + 1);
    }
    text
}

/// What `KEYCTL_DESCRIBE` gives: type, owner, permissions, name.
pub fn description(key: &Key) -> Vec<u8> {
    let (uid, gid, perm) = {
        let state = key.state.lock();
        (state.uid, state.gid, state.perm)
    };
    let gid = if gid == u32::MAX { 65_534 } else { gid };
    let mut text = format!("{};{uid};{gid};{perm:08x};", key.kind().name()).into_bytes();
    text.extend_from_slice(key.description());
    text.push(0);
    text
}

/// The payload, as `KEYCTL_READ` gives it: a ring's are the numbers of its keys.
pub fn payload(key: &Key) -> Vec<u8> {
    debug_assert!(key.kind() != Kind::Logon);
    match &key.state.lock().payload {
        Payload::Bytes(bytes) => bytes.clone(),
        Payload::Keys(keys) => keys.iter().flat_map(|key| key.serial().to_le_bytes()).collect(),
        Payload::Negative(_) => Vec::new(),
    }
}
