//! What word a futex address stands for.

use super::space::Space;
use super::vma::{Backing, VmaFlags, object_id};
use crate::{Errno, Result};
use umbel_mm::user::UserAddr;

impl Space {
    /// Identity of the object and offset in it, if `addr` lies in memory that other spaces may share; `None` if it is private.
    ///
    /// # Errors
    /// `EFAULT` if nothing is mapped there.
    pub fn shared_word(&self, addr: UserAddr) -> Result<Option<(u64, u64)>> {
        let inner = self.inner.read();
        let vma = inner.vmas.find(addr.0).ok_or(Errno::EFAULT)?;
        Ok(match &vma.backing {
            Backing::File { object, offset, .. } if vma.flags.contains(VmaFlags::SHARED) => {
                Some((object_id(object).addr() as u64, offset + (addr.0 - vma.start)))
            }
            _ => None,
        })
    }
}
