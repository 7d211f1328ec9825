//! The contents of a file in RAM: frames by page number, holes where there are none.
//!
//! # Invariants
//! * Bytes of a frame beyond the file's size are zero.
//! * While `lower` is set there are no frames: the host's file is the contents.
//!
//! `pages` is locked for look-ups and insertions only; frames are read and written outside, as their reference keeps
//! them. Everything that changes contents or size holds `write`, a sleeping lock.

use super::file::Mapping;
use super::pages::Pages;
use super::seals::Seals;
use crate::{Errno, Result};
use alloc::sync::Weak;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use umbel_mm::frame::FrameRef;
use umbel_smp::lock::{Mutex, Rank, SpinLock};

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;

/// Most pages of one transfer: an active section of a user copy.
const RUN: usize = 16;

/// Pages in all files in RAM.
pub(super) static TOTAL: AtomicU64 = AtomicU64::new(0);

/// A file's contents.
pub(super) struct Content {
    pub write: Mutex<()>,
    pages: SpinLock<Pages>,
    size: AtomicU64,
    lower: AtomicBool,
    pub seals: Seals,
    /// The object that mappings map, while there are any.
    pub mapping: SpinLock<Weak<Mapping>>,
}

impl Content {
    pub fn new(size: u64, lower: bool) -> Content {
        Content {
            write: Mutex::new(Rank::Inode, ()),
            pages: SpinLock::new(Rank::InodeState, Pages::new()),
            size: AtomicU64::new(size),
            lower: AtomicBool::new(lower),
            seals: Seals::sealed(),
            mapping: SpinLock::new(Rank::InodeState, Weak::new()),
        }
    }

    /// Whether the host's file is the contents.
    pub fn is_lower(&self) -> bool {
        self.lower.load(Acquire)
    }

    /// From now on the frames are the contents. Under `write`.
    pub fn copied(&self, size: u64) {
        self.size.store(size, Release);
        self.lower.store(false, Release);
    }

    pub fn lower_size_changed(&self, size: u64) {
        if self.is_lower() {
            self.size.store(size, Release);
        }
    }

    pub fn size(&self) -> u64 {
        self.size.load(Acquire)
    }

    /// Under `write`.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Release);
    }

    /// Under `write`.
    pub fn grow(&self, size: u64) {
        if size > self.size() {
            self.set_size(size);
        }
    }

    pub fn size_and_blocks(&self) -> (u64, u64) {
        let size = self.size();
        let blocks = if self.is_lower() { Self::lower_blocks(size) } else { self.pages.lock().len() * (PAGE / 512) };
        (size, blocks)
    }

    /// Blocks of 512 bytes that the host's file counts for.
    pub fn lower_blocks(size: u64) -> u64 {
        size.div_ceil(PAGE) * (PAGE / 512)
    }

    pub fn page(&self, index: u64) -> Option<FrameRef> {
        self.pages.lock().get(index)
    }

    /// Frames from `index` that lie side by side on the host, at most `max` pages; `None` = a hole.
    pub fn run(&self, index: u64, max: u64) -> Option<Run> {
        let pages = self.pages.lock();
        let mut run = Run { frames: Default::default(), count: 0 };
        let mut last = None;
        for (at, place) in (index..index.saturating_add(max)).zip(run.frames.iter_mut()) {
            let Some(pfn) = pages.pfn(at) else { break };
            if last.is_some_and(|last| !umbel_mm::frame::follows(last, pfn)) {
                break;
            }
            *place = Some(FrameRef::from_held(pfn));
            (run.count, last) = (run.count + 1, Some(pfn));
        }
        (run.count > 0).then_some(run)
    }

    /// Pages from `index` that are a hole, at most `max`.
    pub fn hole(&self, index: u64, max: u64) -> u64 {
        self.next_data(index).map_or(max, |at| (at - index).min(max))
    }

    /// The first page with data at `index` or behind it.
    pub fn next_data(&self, index: u64) -> Option<u64> {
        self.pages.lock().next(index)
    }

    /// Puts `frame` where there is none.
    pub fn insert(&self, index: u64, frame: FrameRef) -> Inserted {
        let refused = self.pages.lock().insert(index, frame);
        if refused.is_err() {
            return Inserted::No;
        }
        TOTAL.fetch_add(1, Relaxed);
        Inserted::Yes
    }

    /// Drops the pages `from..to`; returns how many there were.
    pub fn remove(&self, from: u64, to: u64) -> u64 {
        let mut gone = Pages::new();
        let count = self.pages.lock().take(from, to, &mut gone);
        TOTAL.fetch_sub(count, Relaxed);
        count
    }

    /// Drops everything; returns the number of pages.
    pub fn drop_all(&mut self) -> u64 {
        self.remove(0, u64::MAX)
    }

    /// Zeroes the bytes of the page at `size` from `size` on. Under `write`.
    pub fn zero_tail(&self, size: u64) -> Result<()> {
        let within = (size % PAGE) as usize;
        let Some(frame) = self.page(size / PAGE).filter(|_| within != 0) else { return Ok(()) };
        let zeroes = [0; 512];
        let mut at = within;
        while at < PAGE as usize {
            let count = (PAGE as usize - at).min(zeroes.len());
            frame.write(at, &zeroes[..count])?;
            at += count;
        }
        Ok(())
    }
}

/// Frames side by side, held.
pub(super) struct Run {
    frames: [Option<FrameRef>; RUN],
    count: u64,
}

impl Run {
    /// Host descriptor and offset of the first byte, and the number of bytes.
    pub fn host(&self) -> Result<(i32, u64, u64)> {
        let first = self.frames.first().and_then(Option::as_ref).ok_or(Errno::EIO)?;
        let (fd, base) = first.host()?;
        Ok((fd, base, self.count * PAGE))
    }
}

/// Whether a frame was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    Yes,
    No,
}
