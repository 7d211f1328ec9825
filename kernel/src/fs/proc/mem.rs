//! `/proc/PID/mem`: another process's memory as a file. Source: proc_pid_mem(5).
//!
//! Who may open it: [`super::inspect`].

use super::inspect;
use super::process::Subject;
use crate::fs::pseudo::PseudoFs;
use crate::fs::{File, FileOps, InodeRef, IoDst, IoSrc, Whence};
use crate::vm::Space;
use crate::{Errno, Result, signal, task};
use alloc::sync::{Arc, Weak};
use core::any::Any;
use umbel_mm::UserAddr;

/// Bytes moved at a time.
const CHUNK: usize = 1024;

/// The file of `subject`.
pub fn file(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    inspect::file(fs, subject, 0o600, |space| Arc::new(Memory(space)))
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
            let at = UserAddr(offset.wrapping_add(done as u64));
            let moved = signal::go_on(&task::current()).and_then(|()| space.read_remote(at, &mut chunk[..len]));
            let count = match moved {
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
            let at = UserAddr(offset.wrapping_add(done as u64));
            let moved = signal::go_on(&task::current()).and_then(|()| space.write_remote(at, &chunk[..len]));
            let count = match moved {
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

    fn seek(&self, file: &File, whence: Whence, offset: i64) -> Result<u64> {
        file.seek_endless(whence, offset)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
