//! A file's text with the patches known so far, in RAM, as an object that is mapped in the place of the file's: programs
//! that live for a few milliseconds find their system calls patched from the first one.
//!
//! [`super::patch`] makes one when text that has patches is mapped, and a new one when enough patches have come since.
//! Frames lie side by side, so one host call maps all of it. They go with the last area that maps them, after the
//! shootdown that took it away.

use super::mapping_set::MappingSet;
use super::object::{HostFd, Mappable, PageSource};
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_mm::frame::{self, FrameRef, MAX_RUN, Run};
use umbel_mm::{PAGE, Pfn};

/// See the module.
///
/// # Invariants
/// One reference on each frame of `run`, which holds `pages` of `base`. Nobody writes them.
pub(super) struct PatchedText {
    base: Arc<dyn Mappable>,
    pages: Range<u64>,
    run: Run,
    /// Where the first frame is on the host.
    host: (HostFd, u64),
    /// Patches in it.
    pub patches: usize,
}

impl PatchedText {
    /// Copies `pages` of the host file `base`, with `patched` pages in their places; it has so many `patches`.
    ///
    /// # Errors
    /// `ENOMEM` if RAM is short or in pieces, `ETXTBSY` if the host's file is not the contents any more.
    pub fn new<'a>(
        base: &Arc<dyn Mappable>,
        pages: Range<u64>,
        patched: impl Iterator<Item = (u64, &'a FrameRef)>,
        patches: usize,
    ) -> Result<PatchedText> {
        let count = pages.end - pages.start;
        let usage = frame::usage();
        if count > u64::from(MAX_RUN) || usage.free < usage.total / 4 {
            return Err(Errno::ENOMEM);
        }
        let (fd, offset) = base.host_page(pages.start).ok_or(Errno::ETXTBSY)?;
        let run = frame::alloc_run(count as u32)?;
        let base = &base.stands_for().unwrap_or(base).clone();
        let text = PatchedText { base: base.clone(), pages, run, host: frame::host(run.first)?, patches };
        if u64::from(run.count) != count {
            return Err(Errno::ENOMEM);
        }
        frame::copy_from_host(fd, offset, run.first, run.count)?;
        for (page, frame) in patched {
            if let Some(at) = text.pages.contains(&page).then(|| page - text.pages.start) {
                frame::copy(frame.pfn(), Pfn(run.first.0 + at as u32), 1)?;
            }
        }
        Ok(text)
    }
}

/// Text that nobody need map.
pub(super) struct Kept(Arc<PatchedText>);

/// Pages of all kept texts, and the part of RAM that they may be.
static KEPT: AtomicU64 = AtomicU64::new(0);
const KEPT_PART: u64 = 128;

impl Kept {
    /// `None` if all would be more than [`KEPT_PART`].
    pub fn new(text: &Arc<PatchedText>) -> Option<Kept> {
        let before = KEPT.fetch_add(text.page_count(), Relaxed);
        let kept = Kept(text.clone());
        (before + text.page_count() <= frame::usage().total / KEPT_PART).then_some(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0.page_count(), Relaxed);
    }
}

impl PatchedText {
    /// Pages of RAM that it takes.
    fn page_count(&self) -> u64 {
        self.pages.end - self.pages.start
    }
}

impl Mappable for PatchedText {
    fn page(&self, index: u64, write: bool) -> Result<PageSource> {
        match self.host_page(index) {
            Some((fd, offset)) => Ok(PageSource::Host { fd, offset }),
            None => self.base.page(index, write),
        }
    }

    fn host_page(&self, index: u64) -> Option<(HostFd, u64)> {
        // A file that was copied to RAM may have other contents by now, one that was cut off none.
        let place = self.base.host_page(index)?;
        if !self.pages.contains(&index) {
            return Some(place);
        }
        Some((self.host.0, self.host.1 + (index - self.pages.start) * PAGE))
    }

    fn size(&self) -> u64 {
        self.base.size()
    }

    fn mappings(&self) -> Option<&MappingSet> {
        self.base.mappings()
    }

    fn host_run(&self, index: u64, limit: u64) -> u64 {
        let end = match index {
            _ if index < self.pages.start => self.pages.start,
            _ if index < self.pages.end => self.pages.end,
            _ => u64::MAX,
        };
        self.base.host_run(index, limit).min(end - index)
    }

    fn stands_for(&self) -> Option<&Arc<dyn Mappable>> {
        Some(&self.base)
    }
}

impl Drop for PatchedText {
    fn drop(&mut self) {
        frame::put_run(self.run.first, self.run.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A file of 8 pages on the host.
    struct OnHost(HostFd);

    impl Mappable for OnHost {
        fn page(&self, index: u64, _write: bool) -> Result<PageSource> {
            self.host_page(index).map(|(fd, offset)| PageSource::Host { fd, offset }).ok_or(Errno::EFAULT)
        }

        fn host_page(&self, index: u64) -> Option<(HostFd, u64)> {
            (index < 8).then_some((self.0, index * PAGE))
        }

        fn size(&self) -> u64 {
            8 * PAGE
        }

        fn host_run(&self, index: u64, limit: u64) -> u64 {
            8_u64.saturating_sub(index).min(limit)
        }
    }

    #[test]
    fn patched_pages_stand_among_the_files_own_and_go_with_the_object() {
        frame::init_for_tests(8192);
        let file = std::fs::read("/proc/self/exe").expect("a running program has a file");
        let exe = std::fs::File::open("/proc/self/exe").expect("a running program has a file");
        let base: Arc<dyn Mappable> = Arc::new(OnHost(std::os::fd::AsRawFd::as_raw_fd(&exe)));
        let patch = FrameRef::zeroed().unwrap();
        patch.write(0, b"patched").unwrap();
        let text = PatchedText::new(&base, 2..6, [(3, &patch), (7, &patch)].into_iter(), 1).unwrap();
        let byte = |index: u64, len: usize| {
            let (fd, offset) = text.host_page(index).unwrap();
            let mut bytes = std::vec![0; len];
            frame::read_host(fd, offset, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(byte(3, 7), b"patched");
        for own in [1, 2, 5, 7] {
            assert_eq!(byte(own, 64), file[own as usize * 4096..][..64]);
        }
        assert_eq!((text.host_run(0, 8), text.host_run(2, 8), text.host_run(6, 8)), (2, 4, 2));
        assert_eq!(text.host_page(8), None);
        let (first, text) = (text.run.first, Arc::new(text));
        let most = frame::usage().total / KEPT_PART / text.page_count();
        let mut kept: Vec<_> = (0..most).filter_map(|_| Kept::new(&text)).collect();
        assert_eq!((kept.len() as u64, Kept::new(&text).is_some()), (most, false));
        kept.pop();
        assert!(Kept::new(&text).is_some(), "room again");
        drop(kept);
        let held = FrameRef::from_held(first);
        drop(text);
        assert_eq!(held.count(), 1);
    }
}
