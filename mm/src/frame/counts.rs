//! The reference counts of all frames, in chunks that are allocated when a frame of theirs is first handed out: most of a
//! large machine's RAM is never touched, and kernel memory is dear.

use super::Pfn;
use super::refcount::RefCount;
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use umbel_smp::lock::Once;

/// Counts in a chunk: 128 MiB of RAM.
const CHUNK: usize = 1 << 15;

/// All counts.
pub struct Counts {
    chunks: Box<[Once<Box<[RefCount]>>]>,
    frames: u64,
}

impl Counts {
    /// Counts of 0 for `frames` frames.
    pub fn new(frames: u32) -> Result<Self> {
        let count = (frames as usize).div_ceil(CHUNK);
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        chunks.resize_with(count, Once::new);
        Ok(Counts { chunks: chunks.into_boxed_slice(), frames: u64::from(frames) })
    }

    /// Number of frames.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The count of a frame that was handed out.
    pub fn get(&self, pfn: Pfn) -> Option<&RefCount> {
        self.chunks.get(pfn.0 as usize / CHUNK)?.get()?.get(pfn.0 as usize % CHUNK)
    }

    /// Frames that nobody else has: makes their counts 1. `ENOMEM` when kernel memory is short.
    pub fn init(&self, first: Pfn, count: u32) -> Result<()> {
        let last = Pfn(first.0 + count - 1);
        for chunk in first.0 as usize / CHUNK..=last.0 as usize / CHUNK {
            let once = self.chunks.get(chunk).ok_or(Errno::EINVAL)?;
            if once.get().is_none() {
                let fresh = fresh()?;
                once.call_once(|| fresh);
            }
        }
        for pfn in first.0..=last.0 {
            if let Some(count) = self.get(Pfn(pfn)) {
                count.init();
            }
        }
        Ok(())
    }
}

fn fresh() -> Result<Box<[RefCount]>> {
    let mut chunk = Vec::new();
    chunk.try_reserve_exact(CHUNK).map_err(|_| Errno::ENOMEM)?;
    chunk.resize_with(CHUNK, RefCount::default);
    Ok(chunk.into_boxed_slice())
}
