//! POSIX access control lists: what users and groups beside the owner's may do, and what new files of a directory inherit.
//!
//! A list is an extended attribute of a fixed form, and in part the file's mode: the mode's group bits are its mask. The
//! file system keeps it ([`Inode::acl`], [`Inode::set_acl`]); ids are those of the first user namespace. Users:
//! `syscall::xattr`, [`super::perm`], `tmpfs`. Source: acl(5), Linux's fs/posix_acl.c.

use super::inode::Inode;
use super::perm::{self, Want};
use super::types::{Kind, Mode, Owner};
use crate::task::ns::user;
use crate::task::{Cred, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// `ACL_UNDEFINED_ID`.
const NOBODY: u32 = u32::MAX;

/// Which of a file's two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Who may do what with it.
    Access,
    /// Of a directory: what is made in it gets this one.
    Default,
}

impl Which {
    /// The list that is the extended attribute `name`.
    pub fn named(name: &[u8]) -> Option<Which> {
        [Which::Access, Which::Default].into_iter().find(|which| which.name() == name)
    }

    /// The extended attribute.
    pub fn name(self) -> &'static [u8] {
        match self {
            Which::Access => b"system.posix_acl_access",
            Which::Default => b"system.posix_acl_default",
        }
    }
}

/// Whom an entry is about, in the order in which they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    UserObj = 1,
    User = 2,
    GroupObj = 4,
    Group = 8,
    Mask = 16,
    Other = 32,
}

impl Tag {
    const ALL: [Tag; 6] = [Tag::UserObj, Tag::User, Tag::GroupObj, Tag::Group, Tag::Mask, Tag::Other];

    /// Whether the entry has an id, and there may be several.
    fn is_named(self) -> bool {
        matches!(self, Tag::User | Tag::Group)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    perm: u16,
    id: u32,
}

/// A list. Valid: tags ascend, each of the four others is there at most once, owner, group and others are there, and the
/// mask too if somebody is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Arc<[Entry]>);

impl Acl {
    /// The list as a program gives it, in ids of its namespace; `None` = no list.
    ///
    /// # Errors
    /// `EINVAL`, `EOPNOTSUPP` for another version.
    pub fn parse(bytes: &[u8], cred: &Cred) -> Result<Option<Acl>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (version, rest) = bytes.split_first_chunk().ok_or(Errno::EINVAL)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        let (chunks, odd) = rest.as_chunks::<8>();
        if !odd.is_empty() {
            return Err(Errno::EINVAL);
        }
        let entries: Vec<Entry> = chunks.iter().map(|chunk| parse_entry(chunk, cred)).collect::<Result<_>>()?;
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Acl(entries.into());
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Errno::EINVAL) }
    }

    fn is_valid(&self) -> bool {
        let ascends = self.0.is_sorted_by(|a, b| a.tag < b.tag || a.tag == b.tag && a.tag.is_named());
        let has = |tag| self.0.iter().any(|entry| entry.tag == tag);
        let complete = [Tag::UserObj, Tag::GroupObj, Tag::Other].into_iter().all(has);
        ascends && complete && (has(Tag::Mask) || !self.0.iter().any(|entry| entry.tag.is_named()))
    }

    /// As [`Self::parse`] takes it.
    pub fn bytes(&self, cred: &Cred) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in self.0.iter() {
            let id = match entry.tag {
                Tag::User => cred.user_ns.show(user::Which::Users, entry.id),
                Tag::Group => cred.user_ns.show(user::Which::Groups, entry.id),
                _ => NOBODY,
            };
            out.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            out.extend_from_slice(&entry.perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    fn perm(&self, tag: Tag) -> Option<u16> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm)
    }

    /// Whether it lets `cred`, which is not the owner, do `want`.
    pub fn allows(&self, owner: &Owner, cred: &Cred, want: Want) -> bool {
        let wanted = want.bits() as u16;
        let masked = |perm: u16| perm & self.perm(Tag::Mask).unwrap_or(7) & wanted == wanted;
        if let Some(own) = self.0.iter().find(|entry| entry.tag == Tag::User && entry.id == cred.fsuid) {
            return masked(own.perm);
        }
        let mut in_some = false;
        for entry in self.0.iter() {
            let group = match entry.tag {
                Tag::GroupObj => owner.gid,
                Tag::Group => entry.id,
                _ => continue,
            };
            if cred.in_group(group) {
                in_some = true;
                // The first that grants it all decides.
                if entry.perm & wanted == wanted {
                    return masked(entry.perm);
                }
            }
        }
        !in_some && self.perm(Tag::Other).is_some_and(|perm| perm & wanted == wanted)
    }

    /// The permission bits that it amounts to, and whether they say it all.
    fn mode(&self) -> (Mode, bool) {
        let bits = |tag| u32::from(self.perm(tag).unwrap_or(0));
        let mask = self.perm(Tag::Mask);
        let group = mask.map_or_else(|| bits(Tag::GroupObj), u32::from);
        let mode = bits(Tag::UserObj) << 6 | group << 3 | bits(Tag::Other);
        (mode, mask.is_none())
    }

    /// What is left of it after a chmod to `mode`.
    pub fn with_mode(&self, mode: Mode) -> Acl {
        self.changed(mode, |_, bits| bits)
    }

    /// What a new file of `mode` has where this is the directory's default list: its mode, and its list if that says more.
    pub fn inherited(&self, mode: Mode) -> (Mode, Option<Acl>) {
        let acl = self.changed(mode, |perm, bits| perm & bits);
        let (bits, all) = acl.mode();
        (mode & !0o777 | bits, (!all).then_some(acl))
    }

    /// `change(old, bits of the mode)` for each class that the mode stands for.
    fn changed(&self, mode: Mode, change: impl Fn(u16, u16) -> u16) -> Acl {
        let group = if self.perm(Tag::Mask).is_some() { Tag::Mask } else { Tag::GroupObj };
        let entries = self.0.iter().map(|entry| {
            let shift = match entry.tag {
                Tag::UserObj => 6,
                tag if tag == group => 3,
                Tag::Other => 0,
                _ => return *entry,
            };
            Entry { perm: change(entry.perm, (mode >> shift & 7) as u16), ..*entry }
        });
        Acl(entries.collect())
    }
}

fn parse_entry(chunk: &[u8; 8], cred: &Cred) -> Result<Entry> {
    let [t0, t1, p0, p1, id @ ..] = *chunk;
    let (number, perm, id) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]), u32::from_le_bytes(id));
    let tag = Tag::ALL.into_iter().find(|tag| *tag as u16 == number).ok_or(Errno::EINVAL)?;
    if perm > 7 {
        return Err(Errno::EINVAL);
    }
    let id = match tag {
        Tag::User => cred.user_ns.take(user::Which::Users, id)?,
        Tag::Group => cred.user_ns.take(user::Which::Groups, id)?,
        _ => NOBODY,
    };
    Ok(Entry { tag, perm, id })
}

/// The list of `inode` as `cred` sees it. `ENODATA`, `EOPNOTSUPP`.
pub fn get(inode: &dyn Inode, cred: &Cred, which: Which) -> Result<Vec<u8>> {
    let acl = inode.acl(which)?.ok_or(Errno::ENODATA)?;
    Ok(acl.bytes(cred))
}

/// Gives `inode` the list, or takes it away; the mode follows.
///
/// # Errors
/// `EOPNOTSUPP`, `EPERM` for others than the owner, `EACCES` for a default list of what is not a directory.
pub fn set(inode: &dyn Inode, cred: &Cred, which: Which, acl: Option<Acl>) -> Result<()> {
    perm::check_free(inode)?;
    inode.acl(which)?;
    if which == Which::Default && inode.kind() != Kind::Directory {
        return if acl.is_some() { Err(Errno::EACCES) } else { Ok(()) };
    }
    perm::check_owner(inode, cred)?;
    if which == Which::Default {
        return inode.set_acl(which, acl, None);
    }
    let owner = inode.owner()?;
    let (bits, all) = acl.as_ref().map_or((owner.mode & 0o777, true), Acl::mode);
    let mut mode = owner.mode & !0o777 | bits;
    if !cred.in_group(owner.gid) && !cred.capable_for((owner.uid, owner.gid), cap::FSETID) {
        mode &= !0o2000;
    }
    inode.set_acl(which, acl.filter(|_| !all), Some(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: Tag, perm: u16, id: u32) -> Entry {
        Entry { tag, perm, id }
    }

    fn list(named: &[Entry], mask: Option<u16>) -> Acl {
        let mut entries = alloc::vec![entry(Tag::UserObj, 6, NOBODY), entry(Tag::GroupObj, 4, NOBODY)];
        entries.extend_from_slice(named);
        entries.extend(mask.map(|perm| entry(Tag::Mask, perm, NOBODY)));
        entries.push(entry(Tag::Other, 0, NOBODY));
        entries.sort_by_key(|entry| entry.tag);
        Acl(entries.into())
    }

    #[test]
    fn only_well_formed_lists_are_taken() {
        let cred = Cred::new(0, 0);
        let good = list(&[entry(Tag::User, 4, 5)], Some(6));
        assert_eq!(Acl::parse(&good.bytes(&cred), &cred), Ok(Some(good.clone())));
        assert_eq!(Acl::parse(&[2, 0, 0, 0], &cred), Ok(None));
        assert_eq!(Acl::parse(&[3, 0, 0, 0], &cred), Err(Errno::EOPNOTSUPP));
        assert_eq!(Acl::parse(&[2, 0, 0], &cred), Err(Errno::EINVAL));
        assert!(!list(&[entry(Tag::User, 4, 5)], None).is_valid());
        assert!(!list(&[entry(Tag::Other, 4, NOBODY)], None).is_valid());
        assert!(list(&[], None).is_valid());
    }

    #[test]
    fn the_mask_limits_the_named_and_the_group() {
        let acl = list(&[entry(Tag::User, 7, 5), entry(Tag::Group, 6, 9)], Some(4));
        let owner = Owner { mode: 0o640, uid: 1, gid: 2 };
        let allows = |uid, gid, want| acl.allows(&owner, &Cred::new(uid, gid), want);
        assert!(allows(5, 5, Want::READ) && !allows(5, 5, Want::WRITE));
        assert!(allows(6, 9, Want::READ) && !allows(6, 9, Want::WRITE));
        assert!(allows(6, 2, Want::READ) && !allows(6, 6, Want::READ));
    }

    #[test]
    fn mode_and_list_follow_each_other() {
        let acl = list(&[entry(Tag::User, 7, 5)], Some(4));
        assert_eq!(acl.mode(), (0o640, false));
        assert_eq!(acl.with_mode(0o771).mode(), (0o771, false));
        let (mode, inherited) = acl.inherited(0o1600);
        assert_eq!((mode, inherited.map(|acl| acl.mode())), (0o1600, Some((0o600, false))));
        assert_eq!(list(&[], None).inherited(0o666), (0o640, None));
    }
}
