//! The sequence lock: readers never wait for a lock, they read again when a writer came between.
//!
//! The value is kept as words that are atomics themselves, so a reader that overlaps a writer reads garbage but
//! races with nothing, and throws it away. Model: `loom-tests/tests/seqlock.rs`.

use super::rank::Rank;
use super::spin::SpinLock;
use crate::sync::{AtomicU32, AtomicU64, Ordering::*, fence, mutant, spin_hint};

/// A value that is an array of words.
pub trait SeqData: Copy {
    /// The array.
    type Words: SeqWords;
    /// Takes the value apart.
    fn to_words(self) -> Self::Words;
    /// Puts it together again; `words` come from [`Self::to_words`].
    fn from_words(words: Self::Words) -> Self;
}

/// An array of words: `[u64; N]`.
pub trait SeqWords: Copy {
    /// The same as atomics.
    type Cells: core::fmt::Debug;
    /// All zero.
    #[cfg(not(loom))]
    const ZERO: Self::Cells;
    /// All zero.
    fn zero() -> Self::Cells;
    /// Reads every word, relaxed.
    fn load(cells: &Self::Cells) -> Self;
    /// Writes every word, relaxed.
    fn store(self, cells: &Self::Cells);
}

impl<const N: usize> SeqWords for [u64; N] {
    type Cells = [AtomicU64; N];
    #[cfg(not(loom))]
    #[expect(clippy::declare_interior_mutable_const, reason = "an initial value, copied by its one user")]
    const ZERO: Self::Cells = [const { AtomicU64::new(0) }; N];

    fn zero() -> Self::Cells {
        core::array::from_fn(|_| AtomicU64::new(0))
    }

    fn load(cells: &Self::Cells) -> Self {
        core::array::from_fn(|i| cells[i].load(Relaxed))
    }

    fn store(self, cells: &Self::Cells) {
        for (cell, word) in cells.iter().zip(self) {
            cell.store(word, Relaxed);
        }
    }
}

impl<const N: usize> SeqData for [u64; N] {
    type Words = Self;

    fn to_words(self) -> Self {
        self
    }

    fn from_words(words: Self) -> Self {
        words
    }
}

/// A small value that is read much more often than it is written.
#[derive(Debug)]
pub struct SeqLock<T: SeqData> {
    /// Odd while a writer is at work.
    seq: AtomicU32,
    /// Serialises writers, who keep the count here for themselves. (Loom misses interleavings with readers of a word that
    /// its writer reads first.)
    writers: SpinLock<u32>,
    cells: <T::Words as SeqWords>::Cells,
}

impl<T: SeqData> SeqLock<T> {
    /// A lock whose words are all zero.
    #[cfg(not(loom))]
    pub const fn zeroed(rank: Rank) -> Self {
        Self { seq: AtomicU32::new(0), writers: SpinLock::new(rank, 0), cells: T::Words::ZERO }
    }

    /// A lock whose words are all zero.
    #[cfg(loom)]
    pub fn zeroed(rank: Rank) -> Self {
        Self { seq: AtomicU32::new(0), writers: SpinLock::new(rank, 0), cells: T::Words::zero() }
    }

    /// A lock that holds `value`.
    pub fn new(rank: Rank, value: T) -> Self {
        let lock = Self::zeroed(rank);
        value.to_words().store(&lock.cells);
        lock
    }

    /// A copy of the value as some writer left it.
    pub fn read(&self) -> T {
        loop {
            if let Some(value) = self.try_read() {
                return value;
            }
            spin_hint();
        }
    }

    /// One attempt at [`Self::read`]; `None` if a writer was at work.
    pub fn try_read(&self) -> Option<T> {
        let before = self.seq.load(Acquire);
        if before & 1 != 0 {
            return None;
        }
        let words = T::Words::load(&self.cells);
        // Pairs with the writer's release fence: having read one of its words, we see its odd count.
        if !mutant("seq-no-acquire-fence") {
            fence(Acquire);
        }
        (self.seq.load(Relaxed) == before).then(|| T::from_words(words))
    }

    /// Replaces the value.
    pub fn write(&self, value: T) {
        self.update(|_| value);
    }

    /// Replaces the value by a function of it.
    pub fn update(&self, change: impl FnOnce(T) -> T) {
        let mut seq = self.writers.lock();
        let value = change(T::from_words(T::Words::load(&self.cells)));
        self.seq.store(seq.wrapping_add(1), Relaxed);
        if !mutant("seq-no-release-fence") {
            fence(Release);
        }
        value.to_words().store(&self.cells);
        *seq = seq.wrapping_add(2);
        self.seq.store(*seq, Release);
    }
}
