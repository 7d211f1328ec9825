//! Opening programs.

use crate::fs::{self, File, Path};
use crate::syscall::Fd;
use crate::task::Task;
use crate::vm::MappedFile;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Opens the program `name` for `task`.
///
/// # Errors
/// `EACCES` unless it is a regular file that the task may execute; those of the path walk.
pub fn open_exec(task: &Arc<Task>, name: &[u8]) -> Result<Arc<File>> {
    open_exec_at(task, Fd::CWD, name, EmptyPath::Refused, Link::Followed)
}

/// Whether an empty name means the directory descriptor itself (`AT_EMPTY_PATH`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyPath {
    Allowed,
    Refused,
}

/// Whether a symbolic link as the last component is followed (`AT_SYMLINK_NOFOLLOW`: `ELOOP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Followed,
    Refused,
}

/// As [`open_exec`], relative to `dir`.
///
/// # Errors
/// As [`open_exec`].
pub fn open_exec_at(task: &Arc<Task>, dir: Fd, name: &[u8], empty: EmptyPath, link: Link) -> Result<Arc<File>> {
    let _ = (task, dir, name, empty, link);
    Err(Errno::ENOSYS)
}

/// The directory `name`.
///
/// # Errors
/// `ENOTDIR`; those of the path walk.
pub fn find_dir(task: &Arc<Task>, name: &[u8]) -> Result<Path> {
    let _ = (task, name);
    Err(Errno::ENOSYS)
}

impl MappedFile for File {
    fn path(&self) -> Vec<u8> {
        match (File::path(self), fs::root()) {
            (Some(path), Ok(root)) => path.display(&root),
            _ => Vec::new(),
        }
    }

    fn identity(&self) -> (u64, u64) {
        self.attr().map_or((0, 0), |attr| (attr.dev, attr.ino))
    }
}
