//! Steps inside a region that are not backed: free blocks that talc thinks are in use.
//!
//! A hole is a block of [`HOLE`]: all of a step but its last page, which holds the block's tag. Protected by the lock of the
//! region's growth.

use core::alloc::Layout;
use umbel_abi::machine::layout::{COLD_LEN, HUGE, PAGE};

/// What talc is asked for to make a hole.
pub const HOLE: Layout = match Layout::from_size_align((HUGE - PAGE) as usize, HUGE as usize) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

const WORDS: usize = (COLD_LEN / HUGE).div_ceil(64) as usize;

/// A set of steps, by number.
pub struct Holes([u64; WORDS]);

impl Holes {
    /// None.
    pub const fn new() -> Holes {
        Holes([0; WORDS])
    }

    /// The lowest one.
    pub fn first(&self) -> Option<u64> {
        let index = self.0.iter().position(|&word| word != 0)?;
        Some(index as u64 * 64 + u64::from(self.0[index].trailing_zeros()))
    }

    /// Adds a step.
    pub fn insert(&mut self, step: u64) {
        if let Some(word) = self.0.get_mut(step as usize / 64) {
            *word |= 1 << (step % 64);
        }
    }

    /// Takes a step out.
    pub fn remove(&mut self, step: u64) {
        if let Some(word) = self.0.get_mut(step as usize / 64) {
            *word &= !(1 << (step % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_hole_is_filled_first() {
        let mut holes = Holes::new();
        assert_eq!(holes.first(), None);
        [700, 3, 64].into_iter().for_each(|step| holes.insert(step));
        assert_eq!(holes.first(), Some(3));
        holes.remove(3);
        assert_eq!(holes.first(), Some(64));
        holes.remove(64);
        assert_eq!(holes.first(), Some(700));
    }
}
