//! `/sys/block`: the loop devices, the only block devices there are. Source: Documentation/ABI/testing/sysfs-block,
//! sysfs-block-loop.

use super::Tree;
use crate::Result;
use crate::drivers::loops::{self, Bound, DEVICES};
use crate::fs::InodeRef;
use crate::fs::pseudo::{DirSource, Meta, PseudoFs, StaticDir, TextFile};
use crate::fs::{Kind, next_ino};
use crate::{Errno, task};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `/sys/block`.
pub fn block(tree: Tree<'_>) -> InodeRef {
    let devices = DEVICES.iter().enumerate().fold(StaticDir::new(), |dir, (index, name)| {
        dir.add(name, tree.dir(Device { fs: tree.0.clone(), index, ino: next_ino() }))
    });
    tree.dir(devices)
}

/// The directory of a device: `loop` is in it while a file is bound to the device.
struct Device {
    fs: Arc<PseudoFs>,
    index: usize,
    /// Of its first entry; the others follow in the listing only.
    ino: u64,
}

/// What a file about a bound device says.
type OfBound = fn(&Bound) -> String;

const FILES: [(&str, OfBound); 5] = [
    ("autoclear", |bound| format!("{}", u32::from(bound.autoclear))),
    ("dio", |_| String::from("0")),
    ("offset", |bound| format!("{}", bound.offset)),
    ("partscan", |bound| format!("{}", u32::from(bound.partscan))),
    ("sizelimit", |bound| format!("{}", bound.limit)),
];

impl Device {
    fn bound(index: usize) -> Result<Bound> {
        loops::shown(index).bound.ok_or(Errno::ENOENT)
    }

    fn loop_dir(&self) -> InodeRef {
        let (tree, index) = (Tree(&self.fs), self.index);
        let backing = move || -> Result<Vec<u8>> {
            let root = task::current().fs()?.root();
            let mut name = Self::bound(index)?.path.map(|path| path.display(&root)).unwrap_or_default();
            name.push(b'\n');
            Ok(name)
        };
        let dir = StaticDir::new().add("backing_file", TextFile::new(Meta::new(&self.fs, 0o444), backing));
        let dir = FILES.iter().fold(dir, |dir, &(name, text)| {
            let read = move || Ok(format!("{}\n", text(&Self::bound(index)?)).into_bytes());
            dir.add(name, TextFile::new(Meta::new(&self.fs, 0o444), read))
        });
        tree.dir(dir)
    }
}

impl DirSource for Device {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let (tree, index) = (Tree(&self.fs), self.index);
        match name {
            b"dev" => Ok(tree.text(move || format!("7:{index}"))),
            b"ro" => Ok(tree.text(move || format!("{}", u32::from(loops::shown(index).read_only)))),
            b"size" => Ok(tree.text(move || format!("{}", loops::shown(index).size))),
            b"loop" if Self::bound(index).is_ok() => Ok(self.loop_dir()),
            _ => Err(Errno::ENOENT),
        }
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        let mut entries = Vec::from([("dev", Kind::Regular), ("ro", Kind::Regular), ("size", Kind::Regular)]);
        if Self::bound(self.index).is_ok() {
            entries.push(("loop", Kind::Directory));
        }
        for (at, (name, kind)) in (0..).zip(entries).skip(from as usize) {
            if !emit(at, name.as_bytes(), self.ino, kind) {
                break;
            }
        }
        Ok(())
    }
}
