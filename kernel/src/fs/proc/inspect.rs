//! Files of another process's memory: `/proc/PID/mem`, `/proc/PID/pagemap`.
//!
//! Who may open one is asked once, with ptrace's rule; it stays the memory of the program that ran then. Locks: none.

use super::may_inspect;
use super::process::{Subject, owned};
use crate::fs::pseudo::{Meta, PseudoFs};
use crate::fs::{Attr, FileOps, FileSystem, Inode, InodeRef, Kind, OpenContext, SetAttr};
use crate::vm::Space;
use crate::{Errno, Result};
use alloc::sync::{Arc, Weak};
use core::any::Any;

/// Makes what is behind an open file of an address space.
type Open = fn(Weak<Space>) -> Arc<dyn FileOps>;

/// A file of `subject`'s memory with permissions `mode`.
pub fn file(fs: &Arc<PseudoFs>, subject: &Subject, mode: u32, open: Open) -> InodeRef {
    Arc::new(Inspected { meta: owned(fs, subject, mode), subject: subject.clone(), open })
}

struct Inspected {
    meta: Meta,
    subject: Subject,
    open: Open,
}

impl Inode for Inspected {
    fn kind(&self) -> Kind {
        Kind::Regular
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        self.meta.fs()
    }

    fn attr(&self) -> Result<Attr> {
        Ok(self.meta.attr(Kind::Regular))
    }

    fn set_attr(&self, _: &SetAttr) -> Result<()> {
        Err(Errno::EPERM)
    }

    fn open(self: Arc<Self>, _: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        let task = self.subject.task()?;
        may_inspect(&task)?;
        Ok((self.open)(task.space().map(|space| Arc::downgrade(&space)).unwrap_or_default()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
