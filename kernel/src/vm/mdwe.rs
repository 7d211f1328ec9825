//! Memory that was written is not run: `PR_SET_MDWE`. Source: prctl(2), `include/linux/mman.h` of Linux (behaviour).

use super::space::{Inner, Space};
use super::vma::Prot;
use crate::{Errno, Result};
use bitflags::bitflags;

bitflags! {
    /// What the program in a space promised, `PR_MDWE_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Mdwe: u64 {
        /// No memory is writable and executable, and none becomes executable.
        const REFUSE_EXEC_GAIN = 1;
        /// Children and new programs promise nothing.
        const NO_INHERIT = 2;
    }
}

impl Mdwe {
    /// For a copy of the space, and the next program.
    pub(super) fn inherited(self) -> Mdwe {
        if self.contains(Mdwe::NO_INHERIT) { Mdwe::empty() } else { self }
    }
}

impl Inner {
    /// Whether memory may have `after` that had `before`; a new area has had it from the start.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn check_exec_gain(&self, before: Prot, after: Prot) -> Result<()> {
        let gains = after.contains(Prot::EXEC) && (after.contains(Prot::WRITE) || !before.contains(Prot::EXEC));
        if gains && self.mdwe.contains(Mdwe::REFUSE_EXEC_GAIN) { Err(Errno::EACCES) } else { Ok(()) }
    }
}

impl Space {
    /// What was promised.
    pub fn mdwe(&self) -> Mdwe {
        self.inner.read().mdwe
    }

    /// # Errors
    /// `EPERM`: something else was promised before.
    pub fn promise(&self, mdwe: Mdwe) -> Result<()> {
        let mut inner = self.inner.write();
        if !inner.mdwe.is_empty() && inner.mdwe != mdwe {
            return Err(Errno::EPERM);
        }
        inner.mdwe = mdwe;
        Ok(())
    }

    /// What the program before promised holds for that of this space, too.
    pub fn inherit_promise(&self, before: &Space) {
        let mdwe = before.mdwe().inherited();
        self.inner.write().mdwe = mdwe;
    }
}
