//! Known bytes in kernel memory, which nobody has a reason to write: if they change, something reached kernel memory that must
//! not. A page of the control block in the hot range ([`Control::canary`]) and the last page of the cold range.
//!
//! They are random, compared from here through the memory file (not by the kernel, which might be the victim), at each look of
//! the watchdog and at the end. Nobody puts them right again, so no damage is missed, only seen late.

use crate::os::shared::{self, Page};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use umbel_abi::machine::layout::{COLD_LEN, HOT_MAX, PAGE};
use umbel_abi::machine::{CANARY_WORDS, Control};

/// What was written, and where it should still be.
pub struct Canary {
    control: &'static Control,
    cold: Page,
    words: [u64; CANARY_WORDS],
}

impl Canary {
    /// Writes the pages, before the kernel runs. `seed` is secret.
    ///
    /// # Errors
    /// The cold page cannot be mapped.
    pub fn plant(control: &'static Control, kdata: &OwnedFd, seed: &[u8; 32]) -> std::io::Result<Canary> {
        let cold = shared::map_page(kdata, HOT_MAX + COLD_LEN - PAGE)?;
        let mut state = seed.iter().fold(0_u64, |state, byte| state.rotate_left(8) ^ u64::from(*byte)) | 1;
        let words = std::array::from_fn(|_| {
            // xorshift64: what is read of some words does not say what was written over others.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        });
        let canary = Canary { control, cold, words };
        for (index, word) in words.iter().enumerate() {
            control.canary[index].store(*word, Relaxed);
            canary.cold.words()[index].store(*word, Relaxed);
        }
        Ok(canary)
    }

    /// What has changed, if anything.
    pub fn damage(&self) -> Option<String> {
        let places = [("hot", &self.control.canary[..]), ("cold", self.cold.words())];
        places.into_iter().find_map(|(name, cells)| {
            let at = cells.iter().zip(&self.words).position(|(cell, word)| cell.load(Relaxed) != *word)?;
            let (now, before) = (cells[at].load(Relaxed), self.words[at]);
            Some(format!("kernel memory was written to: {name} canary at {:#x}, {before:#x} became {now:#x}", 8 * at))
        })
    }
}
