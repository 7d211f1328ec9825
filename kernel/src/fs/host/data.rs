//! Regular files of the host: reading, and what mmap(2) maps.

use super::super::types::Attr;
use super::super::{File, FileOps, Whence};
use super::super::{Inode, IoDst};
use super::node::{Descriptor, HostNode};
use crate::vm::{Mappable, PageSource};
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::any::Any;

const PAGE: u64 = 4096;

/// The contents of one regular file, held open. One per node while anybody uses it: mappings compare by identity.
pub struct HostData {
    node: Arc<HostNode>,
    fd: Arc<Descriptor>,
}

impl HostData {
    /// The contents of `node` through `fd`, which is open for reading.
    pub(super) fn new(node: Arc<HostNode>, fd: Arc<Descriptor>) -> HostData {
        HostData { node, fd }
    }

    /// Reads at `offset`.
    pub fn read_at(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        let fd = self.fd.fd();
        let mut done = 0;
        while dst.remaining() > 0 {
            match dst.fill_from_host(fd.0, offset.saturating_add(done as u64), dst.remaining()) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl Mappable for HostData {
    fn page(&self, index: u64, _write: bool) -> Result<PageSource> {
        let offset = index.checked_mul(PAGE).ok_or(Errno::EFAULT)?;
        if offset >= self.size() {
            return Err(Errno::EFAULT);
        }
        Ok(PageSource::Host { fd: self.fd.fd().0, offset })
    }

    fn host_page(&self, index: u64) -> Option<(i32, u64)> {
        let offset = index.checked_mul(PAGE)?;
        (offset < self.size()).then(|| (self.fd.fd().0, offset))
    }

    fn size(&self) -> u64 {
        self.node.attr().map_or(0, |attr| attr.size)
    }

    fn host_run(&self, index: u64, limit: u64) -> u64 {
        self.size().div_ceil(PAGE).saturating_sub(index).min(limit)
    }
}

/// A regular file, open for reading.
pub(super) struct HostFile(pub(super) Arc<HostData>);

impl FileOps for HostFile {
    fn closes_plainly(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        self.0.read_at(dst, offset)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &File, whence: Whence, offset: i64) -> Result<u64> {
        let size = self.0.size();
        file.seek_within(whence, offset, size)
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        Ok(self.0.clone())
    }

    fn attr(&self, _file: &File) -> Result<Attr> {
        self.0.node.attr()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
