//! Opening programs.

use crate::fs::fanotify::{self, mask};
use crate::fs::perm::{self, Want};
use crate::fs::walk::Follow;
use crate::fs::{self, File, Kind, MountFlags, Name, Names, OpenFlags, Path};
use crate::landlock::right;
use crate::task::{Cred, Task};
use crate::vm::MappedFile;
use crate::{Errno, Fd, Result};
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
    let context = task.fs()?;
    let cred = task.cred();
    let names = Names { context: &context, cred: &cred };
    let path = match (name, empty) {
        ([], EmptyPath::Refused) => return Err(Errno::ENOENT),
        ([], EmptyPath::Allowed) => start(task, dir)?,
        ([b'/', ..], _) => names.find(&Name::new(name), follow(link))?,
        _ if dir == Fd::CWD => names.find(&Name::new(name), follow(link))?,
        _ => names.find(&Name { start: Some(start(task, dir)?), text: name }, follow(link))?,
    };
    match path.inode().kind() {
        Kind::Regular => {}
        Kind::Symlink => return Err(Errno::ELOOP),
        _ => return Err(Errno::EACCES),
    }
    if path.mount().flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    perm::check(&**path.inode(), &cred, Want::EXEC)?;
    cred.sandbox.check(&path, right::EXECUTE | right::READ_FILE)?;
    fanotify::permit(&path, mask::OPEN_EXEC_PERM)?;
    // Who may execute need not be allowed to read: the kernel reads.
    let kernel = Cred::new(0, 0);
    let file = Names { context: &context, cred: &kernel }.open_path(path.clone(), OpenFlags::empty(), None)?;
    fanotify::event(&path, mask::OPEN_EXEC);
    Ok(file)
}

fn follow(link: Link) -> Follow {
    match link {
        Link::Followed => Follow::Yes,
        Link::Refused => Follow::No,
    }
}

/// What the descriptor `dir` is open on.
fn start(task: &Task, dir: Fd) -> Result<Path> {
    task.files()?.get(dir)?.path().cloned().ok_or(Errno::EACCES)
}

/// The directory `name`.
///
/// # Errors
/// `ENOTDIR`; those of the path walk.
pub fn find_dir(task: &Arc<Task>, name: &[u8]) -> Result<Path> {
    let context = task.fs()?;
    let cred = task.cred();
    let path = Names { context: &context, cred: &cred }.find(&Name::new(name), Follow::Yes)?;
    if path.is_dir() { Ok(path) } else { Err(Errno::ENOTDIR) }
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

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
