//! The end of keys: those that were invalidated leave all rings at once, those that expired or were revoked after `kernel.keys.gc_delay`.
//!
//! There is no thread for it: whoever begins an operation when the earliest time has come does the work.

use super::{GC_DELAY, Key, Kind, ring};
use crate::time;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// When the next key may have to go; `u64::MAX` = none.
static NEXT_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// A key dies at `at_ns`: it goes some time later.
pub fn schedule(at_ns: Option<u64>) {
    if let Some(at_ns) = at_ns {
        NEXT_NS.fetch_min(at_ns.saturating_add(delay_ns()), Relaxed);
    }
}

fn delay_ns() -> u64 {
    GC_DELAY.get().saturating_mul(time::SEC_NS)
}

/// Takes out of all rings what is due. The caller holds the turn ([`super::operations`]).
pub fn run() {
    let now_ns = time::monotonic_ns();
    if now_ns < NEXT_NS.load(Relaxed) {
        return;
    }
    NEXT_NS.store(u64::MAX, Relaxed);
    for key in super::all() {
        let dies_ns = {
            let state = key.state.lock();
            state.revoked_ns.or(state.expiry_ns)
        };
        match dies_ns {
            Some(dies_ns) if dies_ns.saturating_add(delay_ns()) <= now_ns => unlink_everywhere(&key),
            later => schedule(later),
        }
    }
}

/// Takes `key` out of every ring.
pub fn unlink_everywhere(key: &Arc<Key>) {
    for ring in super::all() {
        if ring.kind() == Kind::Keyring {
            // It is a ring: nothing can fail.
            let _ = ring::unlink(&ring, |other| Arc::ptr_eq(other, key));
        }
    }
}
