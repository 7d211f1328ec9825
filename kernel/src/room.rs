//! Lists and texts as long as guests make them: refused when memory is short, where those of `alloc` would end the machine.

use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Bound;
use umbel_smp::lock::SpinLock;

/// Iterators whose items may be too many for the memory that is left.
pub trait TryList: Iterator + Sized {
    /// All items.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn try_list(self) -> Result<Vec<Self::Item>> {
        let mut list = Vec::new();
        for item in self {
            push(&mut list, item)?;
        }
        Ok(list)
    }
}

impl<I: Iterator> TryList for I {}

/// Adds an item to a list.
///
/// # Errors
/// `ENOMEM`.
pub fn push<T>(list: &mut Vec<T>, item: T) -> Result<()> {
    list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    list.push(item);
    Ok(())
}

/// All that `table` knows and that still is there, by number: each as it is when its turn comes. Takes no memory.
pub fn one_by_one<K: Copy + Ord, T>(table: &'static SpinLock<BTreeMap<K, Weak<T>>>) -> impl Iterator<Item = Arc<T>> {
    let mut last = Bound::Unbounded;
    core::iter::from_fn(move || {
        let table = table.lock();
        let later = table.range((last, Bound::Unbounded));
        let (number, item) = later.filter_map(|(number, item)| Some((*number, item.upgrade()?))).next()?;
        last = Bound::Excluded(number);
        Some(item)
    })
}

/// A text that is written piece by piece: the first for which there is no room, and what comes behind it, is left out, and
/// [`Text::finish`] tells.
#[derive(Debug, Default)]
pub struct Text {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Text {
    /// Adds a piece.
    pub fn push_str(&mut self, piece: &str) {
        self.push(piece.as_bytes());
    }

    /// Adds bytes.
    pub fn push(&mut self, piece: &[u8]) {
        self.is_cut |= self.bytes.try_reserve(piece.len()).is_err();
        if !self.is_cut {
            self.bytes.extend_from_slice(piece);
        }
    }

    /// The whole text.
    ///
    /// # Errors
    /// `ENOMEM` if there was no room for it.
    pub fn finish(self) -> Result<Vec<u8>> {
        if self.is_cut { Err(Errno::ENOMEM) } else { Ok(self.bytes) }
    }
}

impl From<&str> for Text {
    fn from(start: &str) -> Text {
        let mut text = Text::default();
        text.push_str(start);
        text
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.push_str(piece);
        if self.is_cut { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;

    #[test]
    fn a_text_is_what_was_written_or_nothing() {
        let mut text = Text::default();
        text.push_str("one ");
        write!(text, "{}", 2).unwrap();
        assert_eq!(text.finish().unwrap(), b"one 2");
        let mut cut = Text { is_cut: true, ..Text::default() };
        cut.push_str("x");
        assert!(write!(cut, "y").is_err());
        assert_eq!(cut.finish(), Err(Errno::ENOMEM));
    }

    #[test]
    fn a_list_has_all_items() {
        assert_eq!((0..100).try_list().unwrap(), (0..100).collect::<Vec<_>>());
    }
}
