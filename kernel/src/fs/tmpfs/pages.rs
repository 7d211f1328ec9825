//! A sparse array of frames: four bytes a page, as the kernel's heap is small. Small files, which are many, need nothing else.
//!
//! # Invariants
//! A slot that is not [`NONE`] owns one reference on its frame; `used` counts those slots; no chunk is empty. The slots of
//! `first` are the only ones of their pages: those in chunk 0 stay [`NONE`].

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use umbel_mm::frame::{FrameRef, Pfn};
use umbel_mm::heap;

/// Pages of a chunk.
const CHUNK: u64 = 64;
/// Pages without a chunk.
const FIRST: u64 = 4;
const NONE: u32 = u32::MAX;

struct Chunk {
    slots: [u32; CHUNK as usize],
    used: u32,
}

/// Frames by page number.
pub(super) struct Pages {
    first: [u32; FIRST as usize],
    chunks: BTreeMap<u64, Box<Chunk>>,
    count: u64,
}

impl Pages {
    pub const fn new() -> Pages {
        Pages { first: [NONE; FIRST as usize], chunks: BTreeMap::new(), count: 0 }
    }

    /// Number of frames.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// The frame number of page `index`.
    pub fn pfn(&self, index: u64) -> Option<Pfn> {
        let slot = match self.first.get(index as usize) {
            Some(slot) => *slot,
            None => *self.chunks.get(&(index / CHUNK))?.slots.get((index % CHUNK) as usize)?,
        };
        (slot != NONE).then_some(Pfn(slot))
    }

    /// The frame of page `index`.
    pub fn get(&self, index: u64) -> Option<FrameRef> {
        self.pfn(index).map(FrameRef::from_held)
    }

    /// Puts `frame` at `index`, or gives it back if there is one.
    pub fn insert(&mut self, index: u64, frame: FrameRef) -> Result<(), FrameRef> {
        if let Some(slot) = self.first.get_mut(index as usize) {
            if *slot != NONE {
                return Err(frame);
            }
            *slot = frame.into_raw().0;
            self.count += 1;
            return Ok(());
        }
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
        let mut first = self.first.iter().enumerate().skip(index.min(FIRST) as usize);
        if let Some((at, _)) = first.find(|(_, slot)| **slot != NONE) {
            return Some(at as u64);
        }
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
            if let Some(slot) = self.first.get_mut(index as usize) {
                let frame = FrameRef::from_raw(Pfn(core::mem::replace(slot, NONE)));
                self.count -= 1;
                // `gone` has had no such page.
                let _ = gone.insert(index, frame);
                next = self.next(index + 1);
                continue;
            }
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
        let rest = self.chunks.values().flat_map(|chunk| &chunk.slots);
        for &slot in self.first.iter().chain(rest).filter(|&&slot| slot != NONE) {
            drop(FrameRef::from_raw(Pfn(slot)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn small_files_and_the_first_pages_of_large_ones() {
        umbel_mm::frame::init_for_tests(4096);
        let mut pages = Pages::new();
        let frames: Vec<FrameRef> = (0..130).map(|_| FrameRef::zeroed().unwrap()).collect();
        for (at, frame) in frames.iter().enumerate().rev() {
            assert!(pages.insert(at as u64, frame.clone()).is_ok());
            assert_eq!(pages.next(0), Some(at as u64));
        }
        assert!((0..130).all(|at| pages.insert(at, FrameRef::zeroed().unwrap()).is_err()));
        assert!((0..130).all(|at| pages.pfn(at) == Some(frames[at as usize].pfn())));
        let mut gone = Pages::new();
        assert_eq!(pages.take(1, 3, &mut gone), 2);
        assert_eq!((pages.next(0), pages.next(1), pages.next(4), pages.pfn(2)), (Some(0), Some(3), Some(4), None));
        assert_eq!((pages.take(0, u64::MAX, &mut gone), pages.next(0), pages.len()), (128, None, 0));
        assert!((0..130).all(|at| gone.pfn(at) == Some(frames[at as usize].pfn())));
        drop((pages, gone));
        assert!(frames.iter().all(|frame| frame.count() == 1));
    }

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
