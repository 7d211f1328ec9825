//! The machine's names. Source: uname(2), uts_namespaces(7).

use super::count::Ticket;
use super::{UserNs, first};
use crate::fs;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::*};
use umbel_smp::lock::{Once, Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

/// Bytes of a name, its NUL included.
pub const LEN: usize = 65;

/// A name, NUL-padded.
pub type Name = [u8; LEN];

/// `text` as a name, cut to its length.
pub fn name(text: &[u8]) -> Name {
    let mut name = [0; LEN];
    for (to, from) in name.iter_mut().take(LEN - 1).zip(text) {
        *to = *from;
    }
    name
}

/// Host and domain name.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub host: Name,
    pub domain: Name,
}

/// A namespace of them.
#[derive(Debug)]
pub struct Uts {
    pub id: u64,
    pub owner: Arc<UserNs>,
    names: SpinLock<Names>,
    _counts: Option<Ticket>,
    /// How often they changed.
    changes: AtomicU64,
}

/// Woken when names of some namespace have changed.
pub fn changed() -> Arc<WaitQueue> {
    static CHANGED: Once<Arc<WaitQueue>> = Once::new();
    CHANGED.call_once(|| Arc::new(WaitQueue::new())).clone()
}

impl Uts {
    /// The machine's own.
    pub fn first() -> Arc<Uts> {
        static FIRST: Once<Arc<Uts>> = Once::new();
        let names = Names { host: name(b"umbel"), domain: name(b"(none)") };
        FIRST.call_once(|| Uts::with(first::UTS, UserNs::first(), names, None)).clone()
    }

    fn with(id: u64, owner: Arc<UserNs>, names: Names, counts: Option<Ticket>) -> Arc<Uts> {
        let names = SpinLock::new(Rank::Leaf, names);
        Arc::new(Uts { id, owner, names, _counts: counts, changes: AtomicU64::new(0) })
    }

    /// A new one with the same names.
    pub fn copy(&self, owner: &Arc<UserNs>, counts: Ticket) -> Arc<Uts> {
        Uts::with(fs::next_ino(), owner.clone(), self.names(), Some(counts))
    }

    /// The names now.
    pub fn names(&self) -> Names {
        *self.names.lock()
    }

    /// Changes them.
    pub fn set(&self, change: impl FnOnce(&mut Names)) {
        change(&mut self.names.lock());
        self.changes.fetch_add(1, Release);
        changed().wake_all();
    }

    /// How often they changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// The host name's bytes.
    pub fn host_name(&self) -> Vec<u8> {
        self.names().host.iter().copied().take_while(|&byte| byte != 0).collect()
    }
}
