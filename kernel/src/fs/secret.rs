//! Memory that only those who map it can look at (memfd_secret(2)): the file behind the descriptor. Its pages are a file's in RAM;
//! whoever maps them has them locked, and neither /proc/PID/mem nor process_vm_readv(2) nor a tracer reaches them
//! ([`crate::vm::VmaFlags::SECRET`]).

use super::tmpfs::memory_file;
use super::types::Attr;
use super::{File, FileOps, Names, OpenFlags};
use crate::vm::Mappable;
use crate::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;

/// An open one.
pub struct Secret {
    pages: Arc<File>,
}

/// A new, empty one of `owner`'s.
///
/// # Errors
/// `ENOMEM`, `ENOSPC`.
pub fn new(owner: &Names<'_>) -> Result<Arc<File>> {
    let pages = memory_file(b"secret", owner, 0o600, umbel_abi::linux::uapi::F_SEAL_SEAL)?;
    Ok(File::anonymous(Arc::new(Secret { pages }), OpenFlags::RDWR | OpenFlags::LARGEFILE))
}

impl FileOps for Secret {
    fn mappable(&self, _: &File) -> Result<Arc<dyn Mappable>> {
        self.pages.mappable()
    }

    fn pollable(&self, _: &File) -> bool {
        false
    }

    fn attr(&self, _: &File) -> Result<Attr> {
        self.pages.attr()
    }

    /// Its size is given once.
    fn truncate(&self, _: &File, size: u64) -> Result<()> {
        if self.pages.attr()?.size != 0 {
            return Err(Errno::EINVAL);
        }
        self.pages.ops().truncate(&self.pages, size)
    }

    fn describe(&self, _: &File) -> String {
        String::from("/secretmem (deleted)")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
