//! Landlock: processes that restrict themselves, for good. Source: landlock(7), `Documentation/userspace-api/landlock.rst`.
//!
//! A [`Ruleset`] is being written, behind a descriptor; landlock_restrict_self(2) makes a [`Domain`] of it, one more layer of the
//! caller's [`Sandbox`], which is part of its credentials and so goes to its children. An action needs the right in every layer that handles
//! it. [`files`]: actions on files. A rule about a file is about all that lies below it, too; it keeps the directory entry, and
//! with it the inode by whose address it is found.
//!
//! Users: `fs::names`, `net::inet::tcp`, `ipc::unix`, `signal`, `task::access`, `syscall`. Lock: a ruleset's rules (rank `Leaf`).

pub mod files;

use crate::fs::{Dentry, File, FileOps, OpenFlags, Path};
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use umbel_smp::lock::{Rank, SpinLock};

/// Version of the interface: with rights to devices, ports and scopes, without those to log.
pub const VERSION: u64 = 6;
/// Most layers.
pub const LAYERS_MAX: usize = 16;

/// Rights to files: `LANDLOCK_ACCESS_FS_*`.
pub mod right {
    pub const EXECUTE: u32 = 1;
    pub const WRITE_FILE: u32 = 1 << 1;
    pub const READ_FILE: u32 = 1 << 2;
    pub const READ_DIR: u32 = 1 << 3;
    pub const REMOVE_DIR: u32 = 1 << 4;
    pub const REMOVE_FILE: u32 = 1 << 5;
    pub const MAKE_CHAR: u32 = 1 << 6;
    pub const MAKE_DIR: u32 = 1 << 7;
    pub const MAKE_REG: u32 = 1 << 8;
    pub const MAKE_SOCK: u32 = 1 << 9;
    pub const MAKE_FIFO: u32 = 1 << 10;
    pub const MAKE_BLOCK: u32 = 1 << 11;
    pub const MAKE_SYM: u32 = 1 << 12;
    pub const REFER: u32 = 1 << 13;
    pub const TRUNCATE: u32 = 1 << 14;
    pub const IOCTL_DEV: u32 = 1 << 15;
    pub const ALL: u32 = (1 << 16) - 1;
    /// Those that a file can have which is no directory.
    pub const OF_FILES: u32 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
}

/// Rights to ports: `LANDLOCK_ACCESS_NET_*`.
pub const BIND_TCP: u32 = 1;
pub const CONNECT_TCP: u32 = 2;
/// What may not leave the domain: `LANDLOCK_SCOPE_*`.
pub const ABSTRACT_UNIX: u32 = 1;
pub const SIGNAL: u32 = 2;

/// What a ruleset handles: refuses, but for its rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    pub files: u32,
    pub ports: u32,
    pub scopes: u32,
}

/// Rights by file and by port.
#[derive(Clone, Default)]
struct Rules {
    files: BTreeMap<usize, (Arc<Dentry>, u32)>,
    ports: BTreeMap<u16, u32>,
}

/// Rules that are being collected.
pub struct Ruleset {
    handled: Handled,
    rules: SpinLock<Rules>,
}

/// Rules that hold: one layer, and those below it.
pub struct Domain {
    handled: Handled,
    rules: Rules,
    parent: Option<Arc<Domain>>,
    depth: usize,
}

/// The domain of a process, if it has one.
#[derive(Clone, Default)]
pub struct Sandbox(Option<Arc<Domain>>);

fn inode_key(path: &Path) -> usize {
    Arc::as_ptr(path.inode()).cast::<()>().addr()
}

impl Ruleset {
    /// An open file of a new one.
    pub fn open(handled: Handled) -> Arc<File> {
        let ruleset = Ruleset { handled, rules: SpinLock::new(Rank::Leaf, Rules::default()) };
        File::anonymous(Arc::new(ruleset), OpenFlags::RDWR)
    }

    /// Whether these rights to files are among those that it refuses.
    pub fn handles(&self, rights: u32) -> bool {
        rights & !self.handled.files == 0
    }

    /// Grants `rights` to what lies at and below `path`.
    ///
    /// # Errors
    /// `EINVAL` for rights that are not handled, or that the file cannot have; `ENOMEM`.
    pub fn allow_path(&self, path: &Path, rights: u32) -> Result<()> {
        if !self.handles(rights) || (!path.is_dir() && rights & !right::OF_FILES != 0) {
            return Err(Errno::EINVAL);
        }
        umbel_mm::heap::room().map_err(|_| Errno::ENOMEM)?;
        let dentry = path.dentry().clone();
        let mut rules = self.rules.lock();
        let rule = rules.files.entry(inode_key(path)).or_insert((dentry, 0));
        rule.1 |= rights;
        Ok(())
    }

    /// Grants `rights` to a port.
    ///
    /// # Errors
    /// `EINVAL` for rights that are not handled, and for what is no port; `ENOMEM`.
    pub fn allow_port(&self, port: u64, rights: u32) -> Result<()> {
        let port = u16::try_from(port).ok().filter(|_| rights & !self.handled.ports == 0).ok_or(Errno::EINVAL)?;
        umbel_mm::heap::room().map_err(|_| Errno::ENOMEM)?;
        *self.rules.lock().ports.entry(port).or_default() |= rights;
        Ok(())
    }
}

impl FileOps for Ruleset {
    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[landlock-ruleset]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Domain {
    fn layers(&self) -> impl Iterator<Item = &Domain> {
        core::iter::successors(Some(self), |domain| domain.parent.as_deref())
    }
}

impl Sandbox {
    /// This one with the rules of `ruleset` as one more layer.
    ///
    /// # Errors
    /// `E2BIG` if there are too many, `ENOMEM`.
    pub fn restrict(&self, ruleset: &Ruleset) -> Result<Sandbox> {
        let depth = self.0.as_ref().map_or(0, |domain| domain.depth + 1);
        if depth >= LAYERS_MAX {
            return Err(Errno::E2BIG);
        }
        umbel_mm::heap::room().map_err(|_| Errno::ENOMEM)?;
        let rules = ruleset.rules.lock().clone();
        Ok(Sandbox(Some(Arc::new(Domain { handled: ruleset.handled, rules, parent: self.0.clone(), depth }))))
    }

    /// Whether there is nothing that it could refuse.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    fn layers(&self) -> impl Iterator<Item = &Domain> {
        self.0.iter().flat_map(|domain| domain.layers())
    }

    /// Whether actions on files are refused at all.
    pub fn handles_files(&self) -> bool {
        self.layers().any(|layer| layer.handled.files != 0)
    }

    /// Whether TCP may do this with a port.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check_port(&self, port: u16, right: u32) -> Result<()> {
        let granted = |layer: &Domain| layer.rules.ports.get(&port).is_some_and(|rights| rights & right != 0);
        let refuses = |layer: &Domain| layer.handled.ports & right != 0 && !granted(layer);
        if self.layers().any(refuses) { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Whether something of the kind `scope` may go to a process in `other`: each layer that keeps it in must be one of the other's, too.
    pub fn reaches(&self, other: &Sandbox, scope: u32) -> bool {
        self.layers().filter(|layer| layer.handled.scopes & scope != 0).all(|layer| other.is_within(layer))
    }

    /// Whether it may look into a process in `other`: one with all its own restrictions.
    pub fn covers(&self, other: &Sandbox) -> bool {
        self.0.as_ref().is_none_or(|domain| other.is_within(domain))
    }

    fn is_within(&self, layer: &Domain) -> bool {
        self.layers().any(|own| core::ptr::eq(own, layer))
    }
}

impl PartialEq for Sandbox {
    fn eq(&self, other: &Sandbox) -> bool {
        match (&self.0, &other.0) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        }
    }
}

impl Eq for Sandbox {}

impl core::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Sandbox").field(&self.layers().count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(ports: u32, scopes: u32) -> Ruleset {
        let handled = Handled { ports, scopes, ..Handled::default() };
        Ruleset { handled, rules: SpinLock::new(Rank::Leaf, Rules::default()) }
    }

    #[test]
    fn each_layer_must_grant_what_it_handles() {
        let (one, two) = (ruleset(BIND_TCP, 0), ruleset(BIND_TCP | CONNECT_TCP, 0));
        one.allow_port(80, BIND_TCP).unwrap();
        two.allow_port(81, BIND_TCP).unwrap();
        assert_eq!(one.allow_port(80, CONNECT_TCP), Err(Errno::EINVAL));
        assert_eq!(one.allow_port(65_536, BIND_TCP), Err(Errno::EINVAL));
        let first = Sandbox::default().restrict(&one).unwrap();
        assert_eq!((first.check_port(80, BIND_TCP), first.check_port(9, CONNECT_TCP)), (Ok(()), Ok(())));
        let both = first.restrict(&two).unwrap();
        assert_eq!(both.check_port(80, BIND_TCP), Err(Errno::EACCES));
        assert_eq!(both.check_port(9, CONNECT_TCP), Err(Errno::EACCES));
    }

    #[test]
    fn scopes_and_depth_follow_the_layers() {
        let none = Sandbox::default();
        let scoped = none.restrict(&ruleset(0, SIGNAL)).unwrap();
        let inner = scoped.restrict(&ruleset(BIND_TCP, 0)).unwrap();
        assert!(!scoped.reaches(&none, SIGNAL) && scoped.reaches(&inner, SIGNAL) && inner.reaches(&scoped, SIGNAL));
        assert!(none.reaches(&scoped, SIGNAL) && scoped.reaches(&none, ABSTRACT_UNIX));
        assert!(scoped.covers(&inner) && !inner.covers(&scoped) && none.covers(&inner));
        let mut deep = none;
        for _ in 0..LAYERS_MAX {
            deep = deep.restrict(&ruleset(0, SIGNAL)).unwrap();
        }
        assert_eq!(deep.restrict(&ruleset(0, SIGNAL)).err(), Some(Errno::E2BIG));
    }
}
