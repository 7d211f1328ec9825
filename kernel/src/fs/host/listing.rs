//! Directory records of the host, read whole: the guest's positions are indices into the list.

use super::super::types::Kind;
use crate::Result;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use umbel_host::file::{self, HostFd};

/// Bytes asked for at once.
const CHUNK: usize = 16 << 10;
/// Bytes of a record before its name: inode (8), offset (8), length (2), type (1).
const NAME_AT: usize = 19;

/// One name in a directory.
pub struct Entry {
    pub name: Box<[u8]>,
    pub ino: u64,
    /// `None` where the host does not say.
    pub kind: Option<Kind>,
}

/// All names in `dir` but `.` and `..`.
pub(super) fn read(dir: HostFd) -> Result<Vec<Entry>> {
    let handle = file::reopen_dir(dir)?;
    let mut chunk = vec![0; CHUNK];
    let mut entries = Vec::new();
    loop {
        let filled = file::read_dir(handle.fd(), &mut chunk)?;
        if filled == 0 {
            return Ok(entries);
        }
        let mut rest = &chunk[..filled.min(CHUNK)];
        while let Some((entry, after)) = split(rest) {
            if !matches!(&*entry.name, b"." | b"..") {
                entries.push(entry);
            }
            rest = after;
        }
    }
}

/// The first record and what follows it; `None` at the end and for a record that does not hold together.
fn split(records: &[u8]) -> Option<(Entry, &[u8])> {
    let ino = u64::from_ne_bytes(records.get(..8)?.try_into().ok()?);
    let len = usize::from(u16::from_ne_bytes(records.get(16..18)?.try_into().ok()?));
    let kind = Kind::from_mode(u32::from(*records.get(18)?) << 12);
    let name = records.get(NAME_AT..len)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some((Entry { name: name.into(), ino, kind }, records.get(len..)?))
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
        assert_eq!((first.ino, first.kind, &*first.name), (5, Some(Kind::Regular), &b"file"[..]));
        let (second, rest) = split(rest).expect("a record");
        assert_eq!((second.kind, &*second.name), (Some(Kind::Directory), &b"a directory"[..]));
        assert!(split(rest).is_none());
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
