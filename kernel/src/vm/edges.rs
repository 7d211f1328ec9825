//! Where what the guest maps or gives back begins and ends, as far as remembered: runs of anonymous memory do not go beyond.
//!
//! Areas that lie side by side are one area, but often belong to different threads. A run that one allocates across the border is
//! mapped in its slot, so the other could not give its pages back without telling ([`umbel_mm::holders`]).
//!
//! Hints: page numbers modulo 2^32 in a table by hash, where newer ones take the place of older ones. Used by [`super::fault`],
//! [`super::map`] and [`super::advise`]; atomics, because faults are readers of the space.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

const EDGES: usize = 256;

/// The edges of one space. 0 = none.
#[derive(Debug)]
pub(super) struct Edges([AtomicU32; EDGES]);

impl Default for Edges {
    fn default() -> Self {
        Edges([const { AtomicU32::new(0) }; EDGES])
    }
}

impl Edges {
    /// Something begins and ends here.
    pub fn note(&self, pages: &Range<u64>) {
        for vpn in [pages.start, pages.end] {
            let place = (vpn as u32).wrapping_mul(0x9e37_79b9) >> 24;
            self.0[place as usize % EDGES].store(vpn as u32, Relaxed);
        }
    }

    /// The part of `window` around `vpn` that has no edge inside.
    pub fn clip(&self, window: Range<u64>, vpn: u64) -> Range<u64> {
        let (mut below, mut above) = (vpn - window.start, window.end - vpn);
        for edge in self.0.iter().map(|edge| edge.load(Relaxed)).filter(|edge| *edge != 0) {
            let ahead = i64::from(edge.wrapping_sub(vpn as u32) as i32);
            match u64::try_from(ahead) {
                Ok(ahead @ 1..) => above = above.min(ahead),
                _ => below = below.min(ahead.unsigned_abs()),
            }
        }
        vpn - below..vpn + above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_at_the_nearest_edges() {
        let edges = Edges::default();
        assert_eq!(edges.clip(64..128, 70), 64..128);
        edges.note(&(66..100));
        assert_eq!(edges.clip(64..128, 70), 66..100);
        assert_eq!(edges.clip(64..128, 66), 66..100);
        assert_eq!(edges.clip(64..128, 99), 66..100);
        assert_eq!(edges.clip(64..128, 100), 100..128);
        assert_eq!(edges.clip(64..128, 65), 64..66);
        let high = 0x7_ffff_f000;
        edges.note(&(high..high + 8));
        assert_eq!(edges.clip(high - 16..high + 48, high), high..high + 8);
    }
}
