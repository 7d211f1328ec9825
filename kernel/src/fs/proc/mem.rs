//! `/proc/PID/mem`: another process's memory as a file. Source: proc_pid_mem(5).
//!
//! Who may open it is asked once, with ptrace's rule; it stays the memory of the program that ran then.

use super::may_inspect;
use super::process::{Subject, owned};
use crate::fs::pseudo::{Meta, PseudoFs};
use crate::fs::{Attr, File, FileOps, FileSystem, Inode, InodeRef, IoDst, IoSrc, Kind, OpenContext, SetAttr};
use crate::vm::Space;
use crate::{Errno, Result};
use alloc::sync::{Arc, Weak};
use core::any::Any;
use umbel_mm::UserAddr;

/// Bytes moved at a time.
const CHUNK: usize = 1024;

/// The file of `subject`.
pub fn file(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    Arc::new(MemFile { meta: owned(fs, subject, 0o600), subject: subject.clone() })
}

struct MemFile {
    meta: Meta,
    subject: Subject,
}

impl Inode for MemFile {
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
        let space = task.space().map(|space| Arc::downgrade(&space)).unwrap_or_default();
        Ok(Arc::new(Memory(space)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open one.
struct Memory(Weak<Space>);

impl FileOps for Memory {
    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        let Some(space) = self.0.upgrade() else { return Ok(0) };
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while dst.remaining() > 0 {
            let len = dst.remaining().min(CHUNK);
            let count = match space.read_remote(UserAddr(offset.wrapping_add(done as u64)), &mut chunk[..len]) {
                Ok(count) => dst.write(&chunk[..count])?,
                Err(_) if done > 0 => break,
                Err(_) => return Err(Errno::EIO),
            };
            done += count;
            if count < len {
                break;
            }
        }
        Ok(done)
    }

    fn write_at(&self, _: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<usize> {
        let Some(space) = self.0.upgrade() else { return Ok(0) };
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while src.remaining() > 0 {
            let len = src.remaining().min(CHUNK);
            let len = src.read(&mut chunk[..len])?;
            let count = match space.write_remote(UserAddr(offset.wrapping_add(done as u64)), &chunk[..len]) {
                Ok(count) => count,
                Err(_) if done > 0 => break,
                Err(_) => return Err(Errno::EIO),
            };
            done += count;
            if count < len {
                break;
            }
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
