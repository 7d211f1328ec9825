//! Extended attributes: who may see and change which, and a store for file systems in RAM.
//!
//! Four name spaces: `user.` for whoever may read or write a file or directory, `trusted.` and `security.` for
//! administrators, and `system.`, of which there are access control lists ([`super::acl`]), kept here but not as text.
//! Attributes of the host's own files are not shown. Users: `syscall::xattr`, `tmpfs`. Source: xattr(7).

use super::acl::{Acl, Which};
use super::inode::Inode;
use super::perm::{self, Want};
use super::types::Kind;
use crate::task::{Cred, cap};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_smp::lock::{Rank, SpinLock};

/// Longest name, its prefix included.
pub const NAME_MAX: usize = 255;
/// Longest value.
pub const SIZE_MAX: usize = 65536;
/// Longest list of names.
pub const LIST_MAX: usize = 65536;
/// Bytes of the kernel's heap that attributes leave to others.
const HEAP_MARGIN: u64 = 2 << 20;

/// What a change wants of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Any,
    /// `XATTR_CREATE`.
    New,
    /// `XATTR_REPLACE`.
    Replace,
    /// Both at once: never fulfilled, an error of one or the other.
    Both,
}

/// Checks that `cred` may get (`Want::READ`) or change (`Want::WRITE`) the attribute `name`.
///
/// # Errors
/// `EPERM`, `EACCES`; `ENODATA` where the name is hidden from the caller.
pub fn check(inode: &dyn Inode, cred: &Cred, name: &[u8], want: Want) -> Result<()> {
    let write = want == Want::WRITE;
    if write {
        perm::check_free(inode)?;
    }
    let hidden = if write { Errno::EPERM } else { Errno::ENODATA };
    if name.starts_with(b"security.") || name.starts_with(b"system.") {
        return if write { check_security(cred, name) } else { Ok(()) };
    }
    if name.starts_with(b"trusted.") {
        return if cred.capable(cap::SYS_ADMIN) { Ok(()) } else { Err(hidden) };
    }
    if name.starts_with(b"user.") {
        let kind = inode.kind();
        if !matches!(kind, Kind::Regular | Kind::Directory) {
            return Err(hidden);
        }
        let sticky = kind == Kind::Directory && inode.owner()?.mode & 0o1000 != 0;
        if write && sticky {
            perm::check_owner(inode, cred)?;
        }
    }
    perm::check(inode, cred, want)
}

fn check_security(cred: &Cred, name: &[u8]) -> Result<()> {
    let needed = if name == b"security.capability" { cap::SETFCAP } else { cap::SYS_ADMIN };
    let system = name.starts_with(b"system.");
    if system || cred.capable(needed) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Whether a file system in RAM keeps attributes of this name.
///
/// # Errors
/// `EOPNOTSUPP` for other name spaces, `EINVAL` for a name space without a name.
pub fn check_kept(name: &[u8]) -> Result<()> {
    const KEPT: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let space = KEPT.into_iter().find(|space| name.starts_with(space)).ok_or(Errno::EOPNOTSUPP)?;
    if name.len() == space.len() { Err(Errno::EINVAL) } else { Ok(()) }
}

/// The attributes of one inode in RAM. Lock: its own (rank InodeState), nothing taken under it.
pub struct Store(SpinLock<Option<Box<Kept>>>);

type Map = BTreeMap<Box<[u8]>, Arc<[u8]>>;

#[derive(Default)]
struct Kept {
    map: Map,
    access: Option<Acl>,
    default: Option<Acl>,
}

impl Kept {
    fn acl(&mut self, which: Which) -> &mut Option<Acl> {
        match which {
            Which::Access => &mut self.access,
            Which::Default => &mut self.default,
        }
    }
}

impl Store {
    /// None.
    pub const fn new() -> Store {
        Store(SpinLock::new(Rank::InodeState, None))
    }

    /// The value of `name`. `ENODATA`.
    pub fn get(&self, name: &[u8]) -> Result<Arc<[u8]>> {
        check_kept(name)?;
        self.0.lock().as_ref().and_then(|kept| kept.map.get(name).cloned()).ok_or(Errno::ENODATA)
    }

    /// Gives `name` a value.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA` as `put` wants it, `ENOSPC`.
    pub fn set(&self, name: &[u8], value: &[u8], put: Put) -> Result<()> {
        check_kept(name)?;
        umbel_mm::heap::room_for(HEAP_MARGIN + value.len() as u64).map_err(|_| Errno::ENOSPC)?;
        let (key, value): (Box<[u8]>, Arc<[u8]>) = (name.into(), value.into());
        let mut store = self.0.lock();
        let exists = store.as_ref().is_some_and(|kept| kept.map.contains_key(name));
        match put {
            Put::New | Put::Both if exists => return Err(Errno::EEXIST),
            Put::Replace | Put::Both if !exists => return Err(Errno::ENODATA),
            _ => {}
        }
        let _old = store.get_or_insert_default().map.insert(key, value);
        Ok(())
    }

    /// Takes `name` away. `ENODATA`.
    pub fn remove(&self, name: &[u8]) -> Result<()> {
        check_kept(name)?;
        let mut store = self.0.lock();
        let old = store.as_mut().and_then(|kept| kept.map.remove(name));
        old.map(drop).ok_or(Errno::ENODATA)
    }

    /// All names.
    pub fn names(&self) -> Vec<Box<[u8]>> {
        let mut store = self.0.lock();
        let Some(kept) = store.as_mut() else { return Vec::new() };
        let mut names: Vec<Box<[u8]>> = Vec::new();
        for which in [Which::Access, Which::Default] {
            names.extend(kept.acl(which).is_some().then(|| which.name().into()));
        }
        names.extend(kept.map.keys().cloned());
        names
    }

    /// An access control list.
    pub fn acl(&self, which: Which) -> Option<Acl> {
        self.0.lock().as_mut().and_then(|kept| kept.acl(which).clone())
    }

    /// Keeps an access control list, or none. `ENOSPC`.
    pub fn set_acl(&self, which: Which, acl: Option<Acl>) -> Result<()> {
        let mut store = self.0.lock();
        let old = match (store.as_mut(), acl) {
            (None, None) => return Ok(()),
            (Some(kept), acl) => core::mem::replace(kept.acl(which), acl),
            (None, acl) => {
                umbel_mm::heap::room_for(HEAP_MARGIN).map_err(|_| Errno::ENOSPC)?;
                core::mem::replace(store.get_or_insert_default().acl(which), acl)
            }
        };
        drop(store);
        drop(old);
        Ok(())
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_made_and_replaced_as_asked() {
        let store = Store::new();
        assert_eq!(store.set(b"user.a", b"1", Put::Replace), Err(Errno::ENODATA));
        assert_eq!(store.set(b"user.a", b"1", Put::New), Ok(()));
        assert_eq!(store.set(b"user.a", b"2", Put::New), Err(Errno::EEXIST));
        assert_eq!(store.set(b"user.a", b"2", Put::Any), Ok(()));
        assert_eq!(store.get(b"user.a").as_deref(), Ok(b"2".as_slice()));
        assert_eq!((store.remove(b"user.a"), store.remove(b"user.a")), (Ok(()), Err(Errno::ENODATA)));
    }

    #[test]
    fn other_name_spaces_are_refused() {
        let store = Store::new();
        assert_eq!(store.set(b"system.posix_acl_access", b"", Put::Any), Err(Errno::EOPNOTSUPP));
        assert_eq!(store.set(b"foo.bar", b"", Put::Any), Err(Errno::EOPNOTSUPP));
        assert_eq!(store.set(b"user.", b"", Put::Any), Err(Errno::EINVAL));
    }
}
