//! Who may do what. Source: path_resolution(7), capabilities(7), inode(7).

use super::acl;
use super::inode::Inode;
use super::types::{InodeFlags, Kind, Owner};
use crate::task::{Cred, cap};
use crate::{Errno, Result};

bitflags::bitflags! {
    /// What is wanted, as access(2) has it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Want: u32 {
        const EXEC = 1;
        const WRITE = 2;
        const READ = 4;
    }
}

/// Checks `want` on an inode. `EACCES`.
pub fn check(inode: &dyn Inode, cred: &Cred, want: Want) -> Result<()> {
    if want.contains(Want::WRITE) && inode.flags().contains(InodeFlags::IMMUTABLE) {
        return Err(Errno::EPERM);
    }
    let privileged = cred.capable(cap::DAC_OVERRIDE);
    // For root nothing but execution of files needs the attributes.
    if privileged && (!want.contains(Want::EXEC) || inode.kind() == Kind::Directory) {
        return Ok(());
    }
    let owner = inode.owner()?;
    let allowed = match acl_of(inode, &owner, cred) {
        Some(acl) => acl.allows(&owner, cred, want),
        None => allows(&owner, cred, want),
    };
    if allowed {
        return Ok(());
    }
    let directory = inode.kind() == Kind::Directory;
    let capable = |cap| cred.capable_for((owner.uid, owner.gid), cap);
    if capable(cap::DAC_OVERRIDE) && (!want.contains(Want::EXEC) || directory || owner.mode & 0o111 != 0) {
        return Ok(());
    }
    if capable(cap::DAC_READ_SEARCH) && (want == Want::READ || directory && !want.contains(Want::WRITE)) {
        return Ok(());
    }
    if inode.admits_caller() { Ok(()) } else { Err(Errno::EACCES) }
}

/// The list that decides in the place of the mode: not for the owner, nor where the mode's group bits, its mask, are clear.
fn acl_of(inode: &dyn Inode, owner: &Owner, cred: &Cred) -> Option<acl::Acl> {
    if cred.fsuid == owner.uid || owner.mode & 0o070 == 0 {
        return None;
    }
    inode.acl(acl::Which::Access).ok().flatten()
}

/// What the mode bits alone allow.
fn allows(owner: &Owner, cred: &Cred, want: Want) -> bool {
    let shift = if cred.fsuid == owner.uid {
        6
    } else if cred.in_group(owner.gid) {
        3
    } else {
        0
    };
    owner.mode >> shift & want.bits() == want.bits()
}

/// Checks that `cred` owns the inode, or may act as if. `EPERM`.
pub fn check_owner(inode: &dyn Inode, cred: &Cred) -> Result<()> {
    if cred.capable(cap::FOWNER) {
        return Ok(());
    }
    let owner = inode.owner()?;
    let allowed = owner.uid == cred.fsuid || cred.capable_for((owner.uid, owner.gid), cap::FOWNER);
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

/// Checks that what is fixed (chattr(1)) is not changed: `EPERM` for inodes that are immutable or may only grow.
pub fn check_free(inode: &dyn Inode) -> Result<()> {
    if inode.flags().intersects(InodeFlags::FIXED) { Err(Errno::EPERM) } else { Ok(()) }
}

/// Checks that a name may be taken out of `dir`: write and search permission, and ownership in sticky directories.
pub fn check_remove(dir: &dyn Inode, victim: &dyn Inode, cred: &Cred) -> Result<()> {
    check(dir, cred, Want::WRITE | Want::EXEC)?;
    if dir.flags().contains(InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    check_free(victim)?;
    let owner = dir.owner()?;
    let sticky = owner.mode & 0o1000 != 0;
    if sticky && owner.uid != cred.fsuid && victim.owner()?.uid != cred.fsuid && !cred.capable(cap::FOWNER) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(mode: u32) -> Owner {
        Owner { mode, uid: 1000, gid: 100 }
    }

    #[test]
    fn the_first_matching_class_decides() {
        let mut cred = Cred::new(1000, 100);
        assert!(!allows(&owner(0o077), &cred, Want::READ));
        cred.fsuid = 1;
        assert!(allows(&owner(0o070), &cred, Want::READ | Want::EXEC));
        assert!(!allows(&owner(0o707), &cred, Want::READ));
        cred.fsgid = 1;
        assert!(allows(&owner(0o704), &cred, Want::READ));
        assert!(!allows(&owner(0o770), &cred, Want::READ));
    }
}
