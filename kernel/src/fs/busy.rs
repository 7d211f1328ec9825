//! Programs that run are not written to, files that are written to do not run (`ETXTBSY`). Source: execve(2), open(2).
//!
//! Each inode that can be both has one signed count: descriptors open for writing, or programs that run it; and one of
//! open files, for leases.

use super::inode::InodeRef;
use crate::{Errno, Result};
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::*};

/// The counts of an inode: the first above zero = open for writing so often, below = running so often; open files.
#[derive(Debug, Default)]
pub struct Busy(AtomicI32, AtomicU32);

/// An inode that is open for writing, until dropped.
pub struct Writing(InodeRef);

/// An inode that runs, until dropped.
pub struct Running(InodeRef);

impl Busy {
    /// Descriptors open for writing.
    pub fn writers(&self) -> u32 {
        self.0.load(Acquire).max(0) as u32
    }

    /// Open files.
    pub fn opens(&self) -> u32 {
        self.1.load(Acquire)
    }

    /// A file was opened, or its last reference goes.
    pub(super) fn opened(&self) {
        self.1.fetch_add(1, AcqRel);
    }

    /// See [`Self::opened`].
    pub(super) fn closed(&self) {
        self.1.fetch_sub(1, AcqRel);
    }

    fn change(&self, step: i32) -> Result<()> {
        let next = |count: i32| if count.signum() == -step { None } else { count.checked_add(step) };
        self.0.fetch_update(AcqRel, Acquire, next).map(drop).map_err(|_| Errno::ETXTBSY)
    }

    fn undo(&self, step: i32) {
        self.0.fetch_sub(step, Release);
    }
}

impl Writing {
    /// Notes a writer of `inode`, if it is of a kind that can run.
    ///
    /// # Errors
    /// `ETXTBSY` if it runs.
    pub fn new(inode: &InodeRef) -> Result<Option<Writing>> {
        let Some(busy) = inode.busy() else { return Ok(None) };
        busy.change(1)?;
        Ok(Some(Writing(inode.clone())))
    }
}

impl Running {
    /// Notes that `inode` runs.
    ///
    /// # Errors
    /// `ETXTBSY` if it is open for writing.
    pub fn new(inode: &InodeRef) -> Result<Option<Running>> {
        let Some(busy) = inode.busy() else { return Ok(None) };
        busy.change(-1)?;
        Ok(Some(Running(inode.clone())))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.busy().into_iter().for_each(|busy| busy.undo(1));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.busy().into_iter().for_each(|busy| busy.undo(-1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_and_programs_exclude_each_other() {
        let busy = Busy::default();
        assert_eq!((busy.change(1), busy.change(1)), (Ok(()), Ok(())));
        assert_eq!(busy.change(-1), Err(Errno::ETXTBSY));
        busy.undo(1);
        busy.undo(1);
        assert_eq!(busy.change(-1), Ok(()));
        assert_eq!(busy.change(1), Err(Errno::ETXTBSY));
    }
}
