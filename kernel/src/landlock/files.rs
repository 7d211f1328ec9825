//! What a sandbox lets its processes do to files. Source: `security/landlock/fs.c` of Linux (behaviour).

use super::{LAYERS_MAX, Sandbox, inode_key, right};
use crate::fs::{Kind, MountFlags, OpenFlags, Path};
use crate::{Errno, Result};

/// Rights that are missing, by layer.
type Missing = [u32; LAYERS_MAX];

/// The right to make a file of a kind.
pub fn to_make(kind: Kind) -> u32 {
    match kind {
        Kind::Regular => right::MAKE_REG,
        Kind::Directory => right::MAKE_DIR,
        Kind::Symlink => right::MAKE_SYM,
        Kind::Char => right::MAKE_CHAR,
        Kind::Block => right::MAKE_BLOCK,
        Kind::Fifo => right::MAKE_FIFO,
        Kind::Socket => right::MAKE_SOCK,
    }
}

/// The right to remove a file of a kind.
pub fn to_remove(kind: Kind) -> u32 {
    if kind == Kind::Directory { right::REMOVE_DIR } else { right::REMOVE_FILE }
}

/// The rights to open a file.
pub fn to_open(path: &Path, flags: OpenFlags) -> u32 {
    let reads = if path.is_dir() { right::READ_DIR } else { right::READ_FILE };
    let truncates = flags.contains(OpenFlags::TRUNC);
    let asked = [(flags.readable(), reads), (flags.writable(), right::WRITE_FILE), (truncates, right::TRUNCATE)];
    asked.iter().filter(|(asked, _)| *asked).fold(0, |all, (_, right)| all | right)
}

/// Rights to a file of a kind that calls with its descriptor ask for.
pub fn asked_later(kind: Kind) -> u32 {
    right::TRUNCATE | if matches!(kind, Kind::Char | Kind::Block) { right::IOCTL_DEV } else { 0 }
}

/// A file that a link or a rename is to put into another directory.
#[derive(Clone, Copy)]
pub struct Moved<'a> {
    pub file: &'a Path,
    /// Where it lies, and where it is to.
    pub from: &'a Path,
    pub to: &'a Path,
}

impl Sandbox {
    /// Whether `path` may be used in these ways.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check(&self, path: &Path, wanted: u32) -> Result<()> {
        if self.is_none() || self.refuses(path, wanted) == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Which of `wanted` are refused for `path`. Not inlined: an exec is deep in its stack where it asks.
    #[inline(never)]
    pub fn refuses(&self, path: &Path, wanted: u32) -> u32 {
        self.missing(path).iter().fold(0, |all, missing| all | missing) & wanted
    }

    /// Whether a file may get a further name in another directory (`request` of the new one), or move there (`given_up`: what the old
    /// directory must allow).
    ///
    /// # Errors
    /// `EACCES`; `EXDEV` if only that it would lie elsewhere is refused.
    #[inline(never)]
    pub fn check_move(&self, moved: Moved<'_>, given_up: u32, request: u32) -> Result<()> {
        if !self.handles_files() {
            return Ok(());
        }
        if moved.from.same(moved.to) {
            return self.check(moved.to, given_up | request);
        }
        let (from, to) = (self.missing(moved.from), self.missing(moved.to));
        let refused = |missing: &Missing, rights: u32| missing.iter().any(|missing| missing & rights != 0);
        if refused(&from, given_up) || refused(&to, request) {
            return Err(Errno::EACCES);
        }
        if refused(&from, right::REFER) || refused(&to, right::REFER) || self.gains(moved, &from, &to) {
            return Err(Errno::EXDEV);
        }
        Ok(())
    }

    /// Whether the file could be used in more ways where it is to than where it lies.
    fn gains(&self, moved: Moved<'_>, from: &Missing, to: &Missing) -> bool {
        let all = if moved.file.is_dir() { right::ALL } else { right::OF_FILES };
        let own = self.granted_to(moved.file);
        from.iter().zip(to).zip(own).any(|((from, to), own)| from & !own & !to & all != 0)
    }

    /// What rules about the file itself grant.
    fn granted_to(&self, path: &Path) -> Missing {
        let mut granted = [0; LAYERS_MAX];
        for layer in self.layers() {
            if let (Some((_, rights)), Some(place)) =
                (layer.rules.files.get(&inode_key(path)), granted.get_mut(layer.depth))
            {
                *place = *rights;
            }
        }
        granted
    }

    /// What each layer handles and grants neither to `path` nor to anything above it.
    fn missing(&self, path: &Path) -> Missing {
        let mut missing = [0; LAYERS_MAX];
        // What has no place in the tree of names is nobody's to name.
        if !self.handles_files() || path.mount().flags().contains(MountFlags::INTERNAL) {
            return missing;
        }
        for layer in self.layers() {
            if let Some(place) = missing.get_mut(layer.depth) {
                *place = layer.handled.files | right::REFER;
            }
        }
        let mut at = path.clone();
        loop {
            for (place, granted) in missing.iter_mut().zip(self.granted_to(&at)) {
                *place &= !granted;
            }
            // What a mount covers grants nothing.
            while at.is_mount_root() {
                match at.mount().mountpoint() {
                    Some(below) => at = below,
                    None => return missing,
                }
            }
            let parent = at.dentry().parent().and_then(|dir| Path::new(at.mount().clone(), dir).ok());
            match parent {
                Some(parent) => at = parent,
                None => return missing,
            }
        }
    }
}
