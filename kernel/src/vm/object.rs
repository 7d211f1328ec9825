//! What a file must offer to be mapped, and shared anonymous memory.

use crate::Result;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::Range;
use umbel_abi::linux::Errno;
use umbel_mm::FrameRef;
use umbel_mm::frame::{self, MAX_RUN};
use umbel_smp::lock::{Rank, SpinLock};

use super::account::has_bytes;
use super::commit;
use super::mapping_set::MappingSet;

/// A descriptor of the host, in the shared table.
pub type HostFd = i32;

/// Where the bytes of one page of an object are.
#[derive(Debug)]
pub enum PageSource {
    /// In RAM.
    Frame(FrameRef),
    /// In a host file, from this byte on. Mapped read-only; a write goes to a copy.
    Host {
        /// The file; stays open as long as the object lives.
        fd: HostFd,
        /// A multiple of the page size.
        offset: u64,
    },
}

/// Something with pages that can be mapped: a file's contents, a memory object.
pub trait Mappable: Send + Sync {
    /// The page `index`, allocated if it is a hole and `write` says that it will be written through the mapping.
    /// May sleep; called under the space's lock (`Rank::Space`).
    ///
    /// # Errors
    /// `EFAULT` beyond the end (a guest sees SIGBUS), `ENOMEM`.
    fn page(&self, index: u64, write: bool) -> Result<PageSource>;

    /// The page `index` if a frame holds it already, and it may be mapped before it is asked for. Makes nothing, does not sleep; called as [`Self::page`] is.
    fn ready(&self, index: u64) -> Option<FrameRef> {
        let _ = index;
        None
    }

    /// The host's descriptor and offset of page `index`, if a host file holds it. Makes nothing, does not sleep.
    fn host_page(&self, index: u64) -> Option<(HostFd, u64)> {
        let _ = index;
        None
    }

    /// How many of the pages from `first` to `end`, which is not beyond the object's, are in memory or as good as.
    fn cached(&self, first: u64, end: u64) -> u64 {
        end.saturating_sub(first)
    }

    /// Length in bytes, now.
    fn size(&self) -> u64;

    /// Whether page `index` is in memory, for mincore(2).
    fn is_resident(&self, index: u64) -> bool {
        index < self.size().div_ceil(umbel_mm::PAGE)
    }

    /// A page is about to be written through a shared mapping: a file's times say so.
    fn written(&self) {}

    /// Whether each first write of a page is such a moment, and again each after an msync(2): pages that were read are not
    /// writable then. Source: Linux's file systems on disks do so, those in memory tell only of pages that a write made.
    fn notes_writes(&self) -> bool {
        false
    }

    /// The spaces that map the object, for objects whose pages can go away (truncation).
    fn mappings(&self) -> Option<&MappingSet> {
        None
    }

    /// Whether no new shared mapping may write, or be made writable later (fcntl(2), `F_SEAL_WRITE`).
    fn write_sealed(&self) -> bool {
        false
    }

    /// Makes a hole of a range of bytes, whole pages (madvise(2), `MADV_REMOVE`).
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Err(Errno::EOPNOTSUPP)
    }

    /// The object that this one is mapped in the place of, if it is.
    fn stands_for(&self) -> Option<&Arc<dyn Mappable>> {
        None
    }

    /// Pages from `index` on that lie one behind the other in the same host file, if the first one does: `limit` at
    /// most. Lets one host call map them all.
    fn host_run(&self, index: u64, limit: u64) -> u64 {
        let _ = (index, limit);
        1
    }
}

/// A page, whether it was asked for or allocated along with another, and whether it may be mapped along with another.
#[derive(Debug)]
struct SharedPage {
    frame: FrameRef,
    touched: bool,
    eager: bool,
}

#[derive(Debug, Default)]
struct SharedPages {
    by_index: BTreeMap<u64, SharedPage>,
    /// The page behind the last run that was allocated, and how many it was to have.
    end: u64,
    want: u64,
}

impl SharedPages {
    /// Pages to be allocated for page `index`, which is absent: more each time when touches go upwards.
    fn run_for(&self, index: u64, limit: u64) -> Range<u64> {
        let usage = frame::usage();
        if usage.free < usage.total / 16 {
            return index..index + 1;
        }
        if self.want != 0 && self.end == index {
            let want = (self.want * 2).min(u64::from(MAX_RUN));
            let end = self.by_index.range(index..index + want).next().map_or(index + want, |(at, _)| *at);
            return index..end.min(limit);
        }
        let start = index / AROUND * AROUND;
        start..(start + AROUND).min(limit)
    }
}

/// Memory shared between processes through fork: `MAP_SHARED | MAP_ANONYMOUS`.
#[derive(Debug)]
pub struct SharedMemory {
    pages: SpinLock<SharedPages>,
    size: u64,
    /// Bytes that count as committed.
    committed: u64,
}

impl SharedMemory {
    /// `size` bytes of zeroes, promised whole.
    ///
    /// # Errors
    /// `ENOMEM` if that may not be.
    pub fn new(size: u64) -> Result<Arc<Self>> {
        commit::check(size)?;
        Ok(Self::build(size, size))
    }

    /// The same, of which nothing is promised.
    pub fn unreserved(size: u64) -> Arc<Self> {
        Self::build(size, 0)
    }

    fn build(size: u64, committed: u64) -> Arc<Self> {
        commit::add(committed);
        Arc::new(SharedMemory { pages: SpinLock::new(Rank::Leaf, SharedPages::default()), size, committed })
    }

    /// Pages that have been touched.
    pub fn resident(&self) -> u64 {
        let next = |from: u64| self.pages.lock().by_index.range(from..).next().map(|(index, _)| *index);
        let present = core::iter::successors(next(0), |index| next(index + 1));
        present.filter(|index| self.is_resident(*index)).count() as u64
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        commit::sub(self.committed);
    }
}

/// Frames that a first touch allocates together at least.
const AROUND: u64 = 16;

impl Mappable for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<PageSource> {
        let limit = self.size.div_ceil(umbel_mm::PAGE);
        if index >= limit {
            return Err(Errno::EFAULT);
        }
        let wanted = {
            let mut pages = self.pages.lock();
            if let Some(page) = pages.by_index.get_mut(&index) {
                page.touched = true;
                return Ok(PageSource::Frame(page.frame.clone()));
            }
            pages.run_for(index, limit)
        };
        let run = FrameRef::alloc_run((wanted.end - wanted.start) as u32)?;
        let mut pages = self.pages.lock();
        // A short run starts at the page itself; pages that came meanwhile win.
        let start = if run.len() as u64 > index - wanted.start { wanted.start } else { index };
        (pages.end, pages.want) = (start + run.len() as u64, wanted.end - wanted.start);
        // A touch here and there is counted as one, also one that leaves the page zero.
        let eager = pages.want > AROUND;
        for (at, frame) in (start..limit).zip(run) {
            pages.by_index.entry(at).or_insert(SharedPage { frame, touched: false, eager });
        }
        let page = pages.by_index.get_mut(&index).ok_or(Errno::ENOMEM)?;
        page.touched = true;
        Ok(PageSource::Frame(page.frame.clone()))
    }

    fn ready(&self, index: u64) -> Option<FrameRef> {
        let pages = self.pages.lock();
        pages.by_index.get(&index).filter(|page| page.touched || page.eager).map(|page| page.frame.clone())
    }

    /// Whoever has a page mapped along with another may have written to it.
    fn is_resident(&self, index: u64) -> bool {
        let untouched = {
            let pages = self.pages.lock();
            let Some(page) = pages.by_index.get(&index) else { return false };
            if page.touched {
                return true;
            }
            page.frame.clone()
        };
        has_bytes(&untouched)
    }

    fn size(&self) -> u64 {
        self.size
    }

    /// The pages stay, as others may map them, and are zero.
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let range = offset / umbel_mm::PAGE..(offset + len) / umbel_mm::PAGE;
        // One after the other, not by a list: there may be many.
        let next = |from: u64| {
            let pages = self.pages.lock();
            pages.by_index.range(from..range.end).next().map(|(index, page)| (*index, page.frame.clone()))
        };
        let mut at = range.start;
        while let Some((index, frame)) = next(at) {
            frame.write(0, &[0; umbel_mm::PAGE as usize])?;
            at = index + 1;
        }
        Ok(())
    }
}
