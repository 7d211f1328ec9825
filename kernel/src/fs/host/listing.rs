//! Directory records of the host, read whole: the guest's positions are indices into the list.

use super::super::types::Kind;
use crate::{Errno, Result};
use alloc::vec;
use alloc::vec::Vec;
use umbel_host::file::{self, HostFd};

/// Bytes asked for at once.
const CHUNK: usize = 16 << 10;
/// Bytes of a record before its name: inode (8), offset (8), length (2), type (1).
const NAME_AT: usize = 19;

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    /// `None` where the host does not say.
    pub kind: Option<Kind>,
}

/// The names in a directory but `.` and `..`, back to back: a large directory is two allocations, not one a name.
#[derive(Default)]
pub struct Listing {
    names: Vec<u8>,
    places: Vec<Place>,
}

/// An entry whose name stands in [`Listing::names`].
struct Place {
    ino: u64,
    start: u32,
    len: u16,
    kind: Option<Kind>,
}

impl Listing {
    /// Entry `index`.
    pub fn get(&self, index: usize) -> Option<Entry<'_>> {
        self.places.get(index).map(|place| self.entry(place))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// The name of entry `index`.
    pub fn name(&self, index: u32) -> &[u8] {
        self.get(index as usize).map_or(&[], |entry| entry.name)
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.places.iter().map(|place| self.entry(place))
    }

    fn entry(&self, place: &Place) -> Entry<'_> {
        let start = place.start as usize;
        let name = self.names.get(start..start + usize::from(place.len)).unwrap_or(&[]);
        Entry { name, ino: place.ino, kind: place.kind }
    }

    pub(super) fn push(&mut self, entry: &Entry<'_>) -> Result<()> {
        let start = u32::try_from(self.names.len()).map_err(|_| Errno::ENOMEM)?;
        let len = u16::try_from(entry.name.len()).map_err(|_| Errno::ENAMETOOLONG)?;
        self.names.try_reserve(entry.name.len()).map_err(|_| Errno::ENOMEM)?;
        self.places.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.names.extend_from_slice(entry.name);
        self.places.push(Place { ino: entry.ino, start, len, kind: entry.kind });
        Ok(())
    }
}

/// The names in `dir`, a description for reading whose position is the start.
pub(super) fn read(dir: HostFd) -> Result<Listing> {
    let mut chunk = vec![0; CHUNK];
    let mut listing = Listing::default();
    loop {
        let filled = file::read_dir(dir, &mut chunk)?;
        if filled == 0 {
            return Ok(listing);
        }
        let mut rest = &chunk[..filled.min(CHUNK)];
        while let Some((entry, after)) = split(rest) {
            if !matches!(entry.name, b"." | b"..") {
                listing.push(&entry)?;
            }
            rest = after;
        }
    }
}

/// The first record and what follows it; `None` at the end and for a record that does not hold together.
fn split(records: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let ino = u64::from_ne_bytes(records.get(..8)?.try_into().ok()?);
    let len = usize::from(u16::from_ne_bytes(records.get(16..18)?.try_into().ok()?));
    let kind = Kind::from_mode(u32::from(*records.get(18)?) << 12);
    let name = records.get(NAME_AT..len)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some((Entry { name, ino, kind }, records.get(len..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ino: u64, kind: u8, name: &[u8]) -> Vec<u8> {
        let len = (NAME_AT + name.len() + 1).next_multiple_of(8);
        let mut bytes = Vec::new();
        bytes.extend(ino.to_ne_bytes());
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend((len as u16).to_ne_bytes());
        bytes.push(kind);
        bytes.extend(name);
        bytes.resize(len, 0);
        bytes
    }

    #[test]
    fn records_are_split_one_by_one() {
        let mut bytes = record(5, 8, b"file");
        bytes.extend(record(6, 4, b"a directory"));
        let (first, rest) = split(&bytes).expect("a record");
        assert_eq!(first, Entry { name: b"file", ino: 5, kind: Some(Kind::Regular) });
        let (second, rest) = split(rest).expect("a record");
        assert_eq!((second.kind, second.name), (Some(Kind::Directory), &b"a directory"[..]));
        assert!(split(rest).is_none());
        let mut listing = Listing::default();
        listing.push(&first).and_then(|()| listing.push(&second)).expect("memory");
        assert!(listing.iter().eq([first, second]));
        assert_eq!((listing.get(1), listing.get(2)), (Some(second), None));
    }

    #[test]
    fn broken_records_end_the_list() {
        let mut bytes = record(5, 8, b"file");
        bytes[16] = 3;
        assert!(split(&bytes).is_none());
        bytes[16] = 0xff;
        assert!(split(&bytes).is_none());
    }
}
