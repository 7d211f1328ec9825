//! A sparse array of frames: four bytes a page, as the kernel's heap is small.
//!
//! # Invariants
//! A slot that is not [`NONE`] owns one reference on its frame; `used` counts those slots; no chunk is empty.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use umbel_mm::frame::{FrameRef, Pfn};
use umbel_mm::heap;

/// Pages of a chunk.
const CHUNK: u64 = 64;
const NONE: u32 = u32::MAX;

struct Chunk {
    slots: [u32; CHUNK as usize],
    used: u32,
}

/// Frames by page number.
#[derive(Default)]
pub(super) struct Pages {
    chunks: BTreeMap<u64, Box<Chunk>>,
    count: u64,
}

impl Pages {
    pub const fn new() -> Pages {
        Pages { chunks: BTreeMap::new(), count: 0 }
    }

    /// Number of frames.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// The frame number of page `index`.
    pub fn pfn(&self, index: u64) -> Option<Pfn> {
        let slot = *self.chunks.get(&(index / CHUNK))?.slots.get((index % CHUNK) as usize)?;
        (slot != NONE).then_some(Pfn(slot))
    }

    /// The frame of page `index`.
    pub fn get(&self, index: u64) -> Option<FrameRef> {
        self.pfn(index).map(FrameRef::from_held)
    }

    /// Puts `frame` at `index`, or gives it back if there is one.
    pub fn insert(&mut self, index: u64, frame: FrameRef) -> Result<(), FrameRef> {
        let empty = || Box::new(Chunk { slots: [NONE; CHUNK as usize], used: 0 });
        let chunk = heap::cold(|| self.chunks.entry(index / CHUNK).or_insert_with(empty));
        match chunk.slots.get_mut((index % CHUNK) as usize) {
            Some(slot) if *slot == NONE => *slot = frame.into_raw().0,
            _ => return Err(frame),
        }
        chunk.used += 1;
        self.count += 1;
        Ok(())
    }

    /// The first page with a frame at `index` or behind it.
    pub fn next(&self, index: u64) -> Option<u64> {
        for (&number, chunk) in self.chunks.range(index / CHUNK..) {
            let from = if number == index / CHUNK { index % CHUNK } else { 0 };
            let found = chunk.slots.iter().skip(from as usize).position(|&slot| slot != NONE);
            if let Some(offset) = found {
                return Some(number * CHUNK + from + offset as u64);
            }
        }
        None
    }

    /// Takes the pages `from..to` out into `gone`; returns how many there were.
    pub fn take(&mut self, from: u64, to: u64, gone: &mut Pages) -> u64 {
        let before = self.count;
        let mut next = self.next(from);
        while let Some(index) = next.filter(|&index| index < to) {
            let number = index / CHUNK;
            let whole = index % CHUNK == 0 && to - index >= CHUNK;
            match self.chunks.get_mut(&number) {
                Some(_) if whole => self.move_chunk(number, gone),
                Some(chunk) => {
                    if let Some(slot) = chunk.slots.get_mut((index % CHUNK) as usize) {
                        let frame = FrameRef::from_raw(Pfn(core::mem::replace(slot, NONE)));
                        chunk.used -= 1;
                        self.count -= 1;
                        // `gone` has had no such page.
                        let _ = gone.insert(index, frame);
                    }
                    if chunk.used == 0 {
                        self.chunks.remove(&number);
                    }
                }
                None => break,
            }
            next = self.next(index + 1);
        }
        before - self.count
    }

    fn move_chunk(&mut self, number: u64, gone: &mut Pages) {
        if let Some(chunk) = self.chunks.remove(&number) {
            self.count -= u64::from(chunk.used);
            gone.count += u64::from(chunk.used);
            gone.chunks.insert(number, chunk);
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for chunk in self.chunks.values() {
            for &slot in chunk.slots.iter().filter(|&&slot| slot != NONE) {
                drop(FrameRef::from_raw(Pfn(slot)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn pages_are_found_taken_and_freed() {
        umbel_mm::frame::init_for_tests(4096);
        let mut pages = Pages::new();
        let frames: Vec<FrameRef> = (0..200).map(|_| FrameRef::zeroed().unwrap()).collect();
        for (at, frame) in frames.iter().enumerate() {
            assert!(pages.insert(at as u64 * 3, frame.clone()).is_ok());
        }
        assert!(pages.insert(3, FrameRef::zeroed().unwrap()).is_err());
        assert_eq!((pages.len(), pages.next(1), pages.next(598)), (200, Some(3), None));
        assert_eq!(pages.get(6).map(|frame| frame.pfn()), Some(frames[2].pfn()));
        let mut gone = Pages::new();
        assert_eq!(pages.take(10, 500, &mut gone), 163);
        assert_eq!((pages.next(10), pages.len(), gone.len()), (Some(501), 37, 163));
        drop(gone);
        assert!((4..167).all(|at| frames[at].count() == 1) && frames[3].count() == 2);
        drop(pages);
        assert!(frames.iter().all(|frame| frame.count() == 1));
    }
}
