//! `/proc/PID/map_files`: links to the files that are mapped, by their addresses; and `/proc/PID/attr`. Source: proc_pid_map_files(5),
//! proc_pid_attr(5).

use super::may_inspect;
use super::process::{Subject, owned};
use crate::fs::inode::LinkTarget;
use crate::fs::pseudo::{Dir, DirSource, Meta, PseudoFs, StaticDir, TextFile};
use crate::fs::{Attr, File, FileSystem, Inode, InodeRef, Kind};
use crate::room::push;
use crate::task::{self, cap};
use crate::vm::{MappedFile, Prot, Space, VmaFlags, VmaInfo};
use crate::{Errno, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;

/// The directory of links.
pub fn dir(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    Dir::new(owned(fs, subject, 0o500), MapFiles { fs: fs.clone(), subject: subject.clone() })
}

/// Labels of security modules, of which there is none that labels.
pub fn attributes(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    const NAMES: [&str; 6] = ["current", "exec", "fscreate", "keycreate", "prev", "sockcreate"];
    let dir = NAMES.into_iter().fold(StaticDir::new(), |dir, name| {
        let about = subject.clone();
        let write = move |_: &[u8]| {
            let own = Arc::ptr_eq(about.task()?.process(), task::current().process());
            Err(if own { Errno::EINVAL } else { Errno::EPERM })
        };
        let mode = if name == "prev" { 0o444 } else { 0o666 };
        dir.add(name, TextFile::writable(owned(fs, subject, mode), || Err(Errno::EINVAL), write))
    });
    Dir::new(owned(fs, subject, 0o555), dir)
}

struct MapFiles {
    fs: Arc<PseudoFs>,
    subject: Subject,
}

/// The area that is exactly `range`, if it shows a file.
fn find(space: &Space, range: &Range<u64>) -> Option<VmaInfo> {
    let mut found = None;
    space.for_each_vma(|area| {
        if (area.start..area.end) == *range && area.file.is_some() {
            found = Some(area.clone());
        }
    });
    found
}

/// `START-END`, in hexadecimal digits without leading zeros.
fn parse(name: &[u8]) -> Option<Range<u64>> {
    let (start, end) = core::str::from_utf8(name).ok()?.split_once('-')?;
    let number = |word: &str| u64::from_str_radix(word, 16).ok().filter(|number| format!("{number:x}") == word);
    Some(number(start)?..number(end)?)
}

impl MapFiles {
    fn space(&self) -> Result<Arc<Space>> {
        let task = self.subject.task().map_err(|_| Errno::ENOENT)?;
        may_inspect(&task)?;
        task.space().ok_or(Errno::ENOENT)
    }
}

impl DirSource for MapFiles {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let range = parse(name).ok_or(Errno::ENOENT)?;
        let area = find(&*self.space()?, &range).ok_or(Errno::ENOENT)?;
        let writes = area.flags.contains(VmaFlags::SHARED) && area.prot.contains(Prot::WRITE);
        let mode = if writes { 0o600 } else { 0o400 };
        let meta = owned(&self.fs, &self.subject, mode);
        Ok(Arc::new(FileLink { meta, subject: self.subject.clone(), range }))
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        let space = self.space()?;
        // Areas whose number is the position, so that a listing goes on where it was.
        umbel_mm::heap::room_for(space.areas() as u64 * 64)?;
        let (mut ranges, mut all) = (Vec::new(), Ok(()));
        space.for_each_vma(|area| {
            if area.file.is_some() && area.start >= from {
                all = all.and_then(|()| push(&mut ranges, area.start..area.end));
            }
        });
        all?;
        let base = super::process::ino(self.subject.tid) << 20;
        for range in ranges {
            let name = format!("{:x}-{:x}", range.start, range.end);
            if !emit(range.start, name.as_bytes(), base ^ range.start >> 12, Kind::Symlink) {
                break;
            }
        }
        Ok(())
    }
}

/// A link to the file of the area that is `range`.
struct FileLink {
    meta: Meta,
    subject: Subject,
    range: Range<u64>,
}

impl FileLink {
    fn file(&self) -> Result<Arc<dyn MappedFile>> {
        let task = self.subject.task().map_err(|_| Errno::ENOENT)?;
        may_inspect(&task)?;
        let area = task.space().and_then(|space| find(&space, &self.range));
        area.and_then(|area| area.file).ok_or(Errno::ENOENT)
    }
}

impl Inode for FileLink {
    fn kind(&self) -> Kind {
        Kind::Symlink
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        self.meta.fs()
    }

    fn attr(&self) -> Result<Attr> {
        Ok(self.meta.attr(Kind::Symlink))
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        self.file().map(|file| file.path())
    }

    /// Only who may look at everything gets at the file itself, whatever its name leads to now.
    fn follow(&self) -> Result<LinkTarget> {
        let (own, file) = (task::current(), self.file()?);
        if !own.capable(cap::SYS_ADMIN) && !own.capable(cap::CHECKPOINT_RESTORE) {
            return Err(Errno::EPERM);
        }
        let path = file.as_any().downcast_ref::<File>().and_then(File::path);
        path.cloned().map(LinkTarget::Jump).ok_or(Errno::ENOENT)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_strictly() {
        assert_eq!(parse(b"1000-2f00"), Some(0x1000..0x2f00));
        for name in ["", "-", "1000", "01000-2000", "1000-0x2000", "1000-2000 ", "+1-2", "G-2"] {
            assert_eq!(parse(name.as_bytes()), None, "{name}");
        }
    }
}
