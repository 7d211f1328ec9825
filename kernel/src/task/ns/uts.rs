//! The machine's names. Source: uname(2), uts_namespaces(7).

use super::{UserNs, first};
use crate::fs;
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_smp::lock::{Once, Rank, SpinLock};

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
}

impl Uts {
    /// The machine's own.
    pub fn first() -> Arc<Uts> {
        static FIRST: Once<Arc<Uts>> = Once::new();
        let names = Names { host: name(b"umbel"), domain: name(b"(none)") };
        FIRST.call_once(|| Uts::with(first::UTS, UserNs::first(), names)).clone()
    }

    fn with(id: u64, owner: Arc<UserNs>, names: Names) -> Arc<Uts> {
        Arc::new(Uts { id, owner, names: SpinLock::new(Rank::Leaf, names) })
    }

    /// A new one with the same names.
    pub fn copy(&self, owner: &Arc<UserNs>) -> Arc<Uts> {
        Uts::with(fs::next_ino(), owner.clone(), self.names())
    }

    /// The names now.
    pub fn names(&self) -> Names {
        *self.names.lock()
    }

    /// Changes them.
    pub fn set(&self, change: impl FnOnce(&mut Names)) {
        change(&mut self.names.lock());
    }

    /// The host name's bytes.
    pub fn host_name(&self) -> Vec<u8> {
        self.names().host.iter().copied().take_while(|&byte| byte != 0).collect()
    }
}
