//! Which frames of one arena are free, and which of those hold old bytes.
//!
//! A bit a frame, and a summary bit a word of 64 frames. Runs are powers of two up to [`MAX_RUN`], aligned to their
//! size. Hints make the search start where the last one of that size ended; freeing moves them back. Lowest first:
//! used frames are used again before untouched ones, which keeps the host's memory small.

use alloc::vec::Vec;

/// Longest run, in frames: a huge page.
pub const MAX_RUN: u32 = 512;
const ORDERS: usize = 10;

/// Frames handed out: contiguous, all of one arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// First frame, relative to the arena.
    pub first: u32,
    /// Number of frames.
    pub count: u32,
    /// Whether any of them may hold old bytes.
    pub dirty: bool,
}

/// The state of an arena. Protected by the arena's lock.
#[derive(Debug, Default)]
pub struct Bitmap {
    free: Vec<u64>,
    dirty: Vec<u64>,
    summary: Vec<u64>,
    /// By order: no free run of that order begins in a word below.
    hints: [u32; ORDERS],
    pages: u32,
    free_pages: u32,
    dirty_free: u32,
}

impl Bitmap {
    /// All `pages` frames free and zero.
    pub fn new(pages: u32) -> Self {
        let words = pages.div_ceil(64) as usize;
        let mut free = alloc::vec![u64::MAX; words];
        if !pages.is_multiple_of(64)
            && let Some(last) = free.last_mut()
        {
            *last = (1 << (pages % 64)) - 1;
        }
        let mut map = Bitmap {
            free,
            dirty: alloc::vec![0; words],
            summary: alloc::vec![0; words.div_ceil(64)],
            hints: [0; ORDERS],
            pages,
            free_pages: pages,
            dirty_free: 0,
        };
        for word in 0..words {
            map.summarize(word);
        }
        map
    }

    /// Frames free now.
    #[cfg(test)]
    pub fn free_pages(&self) -> u32 {
        self.free_pages
    }

    /// Free frames that hold old bytes.
    pub fn dirty_free(&self) -> u32 {
        self.dirty_free
    }

    /// Takes a run of `count` frames that begins as an aligned run of the next power of two would.
    pub fn take(&mut self, count: u32) -> Option<Grant> {
        if self.free_pages < count || !(1..=MAX_RUN).contains(&count) {
            return None;
        }
        let order = count.next_power_of_two().ilog2();
        let first = if count <= 64 { self.find_in_word(order)? } else { self.find_words(order)? };
        let dirty = self.mark_used(first, count);
        Some(Grant { first, count, dirty })
    }

    /// Gives frames back, dirty.
    pub fn give(&mut self, first: u32, count: u32) {
        debug_assert!(first + count <= self.pages);
        let mut at = first;
        let end = first + count;
        while at < end {
            let word = (at / 64) as usize;
            let mask = mask_of(at % 64, (end - at).min(64 - at % 64));
            debug_assert_eq!(self.free[word] & mask, 0);
            self.free[word] |= mask;
            self.dirty[word] |= mask;
            at += mask.count_ones();
        }
        self.free_pages += count;
        self.dirty_free += count;
        for word in first / 64..=(end - 1) / 64 {
            self.summarize(word as usize);
        }
        self.move_hints_back(first / 64);
    }

    /// Takes a stretch of dirty free frames out, highest first, at most `limit`, for giving their bytes back to the host.
    pub fn take_dirty(&mut self, limit: u32) -> Option<(u32, u32)> {
        let word = (0..self.free.len()).rev().find(|&w| self.free[w] & self.dirty[w] != 0)?;
        let bits = self.free[word] & self.dirty[word];
        let mut first = word as u32 * 64 + (63 - bits.leading_zeros());
        let mut count = 1;
        while count < limit && first > 0 && self.is_dirty_free(first - 1) {
            first -= 1;
            count += 1;
        }
        self.mark_used(first, count);
        Some((first, count))
    }

    /// Gives frames back that read as zero.
    pub fn give_clean(&mut self, first: u32, count: u32) {
        self.give(first, count);
        for at in first..first + count {
            self.dirty[(at / 64) as usize] &= !(1 << (at % 64));
        }
        self.dirty_free -= count;
    }

    fn is_dirty_free(&self, at: u32) -> bool {
        let word = (at / 64) as usize;
        (self.free[word] & self.dirty[word]) >> (at % 64) & 1 == 1
    }

    fn find_in_word(&mut self, order: u32) -> Option<u32> {
        let mut word = self.next_nonempty(self.hints[order as usize] as usize)?;
        loop {
            let starts = run_starts(self.free[word], order);
            if starts != 0 {
                self.hints[order as usize] = word as u32;
                return Some(word as u32 * 64 + starts.trailing_zeros());
            }
            match self.next_nonempty(word + 1) {
                Some(next) => word = next,
                None => {
                    self.hints[order as usize] = self.free.len() as u32;
                    return None;
                }
            }
        }
    }

    fn find_words(&mut self, order: u32) -> Option<u32> {
        let words = (1usize << order) / 64;
        let mut word = (self.hints[order as usize] as usize).next_multiple_of(words);
        while word + words <= self.free.len() {
            if self.free[word..word + words].iter().all(|&bits| bits == u64::MAX) {
                self.hints[order as usize] = word as u32;
                return Some(word as u32 * 64);
            }
            word += words;
        }
        self.hints[order as usize] = self.free.len() as u32;
        None
    }

    fn next_nonempty(&self, from: usize) -> Option<usize> {
        let mut index = from / 64;
        let mut bits = *self.summary.get(index)? & (u64::MAX << (from % 64));
        loop {
            if bits != 0 {
                return Some(index * 64 + bits.trailing_zeros() as usize);
            }
            index += 1;
            bits = *self.summary.get(index)?;
        }
    }

    /// Returns whether any was dirty.
    fn mark_used(&mut self, first: u32, count: u32) -> bool {
        let mut at = first;
        let end = first + count;
        let mut dirty = 0;
        while at < end {
            let word = (at / 64) as usize;
            let mask = mask_of(at % 64, (end - at).min(64 - at % 64));
            self.free[word] &= !mask;
            dirty += (self.dirty[word] & mask).count_ones();
            self.dirty[word] &= !mask;
            self.summarize(word);
            at += mask.count_ones();
        }
        self.free_pages -= count;
        self.dirty_free -= dirty;
        dirty != 0
    }

    fn summarize(&mut self, word: usize) {
        let bit = 1 << (word % 64);
        if self.free[word] != 0 {
            self.summary[word / 64] |= bit;
        } else {
            self.summary[word / 64] &= !bit;
        }
    }

    fn move_hints_back(&mut self, word: u32) {
        for hint in &mut self.hints {
            *hint = (*hint).min(word);
        }
        // A run longer than a word may now begin in an earlier word.
        for order in 7..ORDERS {
            let words = (1u32 << order) / 64;
            self.hints[order] = self.hints[order].min(word / words * words);
        }
    }
}

fn mask_of(shift: u32, count: u32) -> u64 {
    if count == 64 { u64::MAX } else { ((1 << count) - 1) << shift }
}

/// Bits at which an aligned run of `1 << order` set bits begins.
fn run_starts(mut bits: u64, order: u32) -> u64 {
    let mut aligned = u64::MAX;
    for step in 0..order {
        bits &= bits >> (1 << step);
        aligned &= ALIGNED[step as usize];
    }
    bits & aligned
}

/// Bits at multiples of 2, 4, 8 … 64.
const ALIGNED: [u64; 6] = [
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A small generator: the tests' sequence is the same every time.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn no_frame_is_granted_twice_and_none_is_lost() {
        let mut map = Bitmap::new(5000);
        let mut held: Vec<Grant> = Vec::new();
        let mut used = HashSet::new();
        let mut seed = 0x1234_5678_9abc_def1;
        for _ in 0..20_000 {
            if next(&mut seed) % 5 < 3 {
                let order = (next(&mut seed) % 10) as u32;
                let count = (1u32 << order).saturating_sub((next(&mut seed) % 3) as u32).max(1);
                if let Some(grant) = map.take(count) {
                    assert_eq!((grant.first % count.next_power_of_two(), grant.count), (0, count));
                    assert!(grant.first + grant.count <= 5000);
                    for at in grant.first..grant.first + grant.count {
                        assert!(used.insert(at), "{at} granted twice");
                    }
                    held.push(grant);
                }
            } else if !held.is_empty() {
                let index = next(&mut seed) as usize % held.len();
                let grant = held.swap_remove(index);
                for at in grant.first..grant.first + grant.count {
                    used.remove(&at);
                }
                map.give(grant.first, grant.count);
            }
            assert_eq!(map.free_pages() as usize + used.len(), 5000);
        }
        for grant in held {
            map.give(grant.first, grant.count);
        }
        let mut singles = 0;
        while map.take(1).is_some() {
            singles += 1;
        }
        assert_eq!(singles, 5000);
    }

    #[test]
    fn fresh_frames_are_clean_and_returned_ones_dirty() {
        let mut map = Bitmap::new(1024);
        let grant = map.take(16).unwrap();
        assert!(!grant.dirty);
        map.give(grant.first, grant.count);
        assert!(map.take(16).unwrap().dirty);
    }

    #[test]
    fn punched_frames_are_clean_again() {
        let mut map = Bitmap::new(1024);
        let grant = map.take(512).unwrap();
        map.give(grant.first, grant.count);
        let mut punched = 0;
        while let Some((first, count)) = map.take_dirty(100) {
            punched += count;
            map.give_clean(first, count);
        }
        assert_eq!(punched, 512);
        assert_eq!(map.dirty_free(), 0);
        assert!(!map.take(512).unwrap().dirty);
    }
}
