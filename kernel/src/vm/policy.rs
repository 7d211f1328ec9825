//! NUMA memory policies on a machine of one node. Source: set_mempolicy(2), mbind(2), numa(7).
//!
//! All memory is node 0's, so a policy decides nothing; but programs set policies and ask for them. A [`Policy`] fits in six bits: a
//! task keeps one, an area has it among its flags ([`VmaFlags::POLICY`]), where splitting, merging and fork treat it as any flag.

use super::map::page_range;
use super::space::Space;
use super::vma::VmaFlags;
use crate::{Errno, Result};
use alloc::vec::Vec;
use umbel_mm::{PAGE, UserAddr};

/// Modes.
pub const DEFAULT: u32 = 0;
pub const PREFERRED: u32 = 1;
pub const BIND: u32 = 2;
pub const INTERLEAVE: u32 = 3;
pub const LOCAL: u32 = 4;
pub const PREFERRED_MANY: u32 = 5;
pub const WEIGHTED_INTERLEAVE: u32 = 6;
/// Flags of a mode: `MPOL_F_NUMA_BALANCING`, `MPOL_F_RELATIVE_NODES`, `MPOL_F_STATIC_NODES`.
const BALANCING: u32 = 1 << 13;
const RELATIVE: u32 = 1 << 14;
const STATIC: u32 = 1 << 15;
const MODE_FLAGS: u32 = BALANCING | RELATIVE | STATIC;
/// Where an area's flags have the policy.
const SHIFT: u32 = VmaFlags::POLICY.bits().trailing_zeros();

/// Node 0, as set of nodes.
pub const NODES: u64 = 1;

/// A set of nodes as a guest gives it: those that exist, and whether there are others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    pub zero: bool,
    pub others: bool,
}

/// A policy: mode and flags, bits 0-2 and 3-5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy(u32);

impl Policy {
    /// What a guest asks for.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(mode: u32, nodes: Nodes) -> Result<Policy> {
        let (flags, mut mode) = (mode & MODE_FLAGS, mode & !MODE_FLAGS);
        let placed = flags & (STATIC | RELATIVE) != 0;
        let both = flags & STATIC != 0 && flags & RELATIVE != 0;
        let balanced = matches!(mode, BIND | PREFERRED_MANY);
        if mode > WEIGHTED_INTERLEAVE || both || flags & BALANCING != 0 && !balanced {
            return Err(Errno::EINVAL);
        }
        let empty = !nodes.zero && !nodes.others;
        let fits = match mode {
            DEFAULT => return if empty { Ok(Policy::default()) } else { Err(Errno::EINVAL) },
            PREFERRED if empty => {
                mode = LOCAL;
                !placed
            }
            LOCAL => empty && !placed,
            // Relative nodes are counted among those that there are.
            _ => nodes.zero || nodes.others && flags & RELATIVE != 0,
        };
        if fits { Ok(Policy(mode | flags >> 13 << 3)) } else { Err(Errno::EINVAL) }
    }

    /// From a task's word.
    pub fn from_word(word: u32) -> Policy {
        Policy(word & 0x3f)
    }

    /// For a task's word.
    pub fn word(self) -> u32 {
        self.0
    }

    /// Of an area.
    pub fn of(flags: VmaFlags) -> Policy {
        Policy((flags & VmaFlags::POLICY).bits() >> SHIFT)
    }

    fn put(self, flags: &mut VmaFlags) {
        flags.remove(VmaFlags::POLICY);
        *flags |= VmaFlags::from_bits_retain(self.0 << SHIFT);
    }

    /// The mode without flags.
    pub fn mode(self) -> u32 {
        self.0 & 7
    }

    /// Mode and flags, as a guest reads them.
    pub fn raw(self) -> u32 {
        self.mode() | self.0 >> 3 << 13
    }

    /// Its nodes.
    pub fn nodes(self) -> u64 {
        if matches!(self.mode(), DEFAULT | LOCAL) { 0 } else { NODES }
    }

    /// As /proc/PID/numa_maps writes it.
    pub fn name(self) -> &'static str {
        match self.mode() {
            PREFERRED => "prefer:0",
            BIND => "bind:0",
            INTERLEAVE => "interleave:0",
            LOCAL => "local",
            PREFERRED_MANY => "prefer (many):0",
            WEIGHTED_INTERLEAVE => "weighted interleave:0",
            _ => "default",
        }
    }
}

impl Space {
    /// The policy of the area at `addr`.
    ///
    /// # Errors
    /// `EFAULT` if there is none.
    pub fn policy(&self, addr: u64) -> Result<Policy> {
        self.inner.read().vmas.find(addr).map(|vma| Policy::of(vma.flags)).ok_or(Errno::EFAULT)
    }

    /// Sets the policy of a range.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT` if part of it is not mapped.
    pub fn set_policy(&self, addr: UserAddr, len: u64, policy: Policy) -> Result<()> {
        if len == 0 && addr.is_page_aligned() {
            return Ok(());
        }
        let range = page_range(addr.0, len).map_err(|_| Errno::EINVAL)?;
        let mut inner = self.inner.write();
        if !inner.vmas.covers(&range) {
            return Err(Errno::EFAULT);
        }
        inner.vmas.update(&range, |vma| policy.put(&mut vma.flags));
        Ok(())
    }

    /// Checks a home node for a range. Source: set_mempolicy_home_node(2).
    ///
    /// # Errors
    /// `EINVAL`; `ENOENT` if no area has a policy; `EOPNOTSUPP` for policies that know no home.
    pub fn check_home(&self, addr: UserAddr, len: u64) -> Result<()> {
        if len == 0 && addr.is_page_aligned() {
            return Ok(());
        }
        let range = page_range(addr.0, len).map_err(|_| Errno::EINVAL)?;
        let inner = self.inner.read();
        let mut found = Err(Errno::ENOENT);
        for vma in inner.vmas.within(&range) {
            match Policy::of(vma.flags).mode() {
                DEFAULT => {}
                BIND | PREFERRED_MANY => found = Ok(()),
                _ => return Err(Errno::EOPNOTSUPP),
            }
        }
        found
    }

    /// The node of each page, or what move_pages(2) says of it: `EFAULT` where nothing is mapped, `ENOENT` where no page is yet.
    pub fn nodes(&self, pages: &[u64]) -> Vec<Result<i32>> {
        let inner = self.inner.read();
        let node = |&addr: &u64| match inner.vmas.find(addr) {
            None => Err(Errno::EFAULT),
            Some(_) if !inner.table.lock().get(addr / PAGE).is_present() => Err(Errno::ENOENT),
            Some(_) => Ok(0),
        };
        pages.iter().map(node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_keep_mode_and_flags() {
        let zero = Nodes { zero: true, others: false };
        let policy = Policy::new(BIND | STATIC, zero).unwrap();
        assert_eq!((policy.raw(), policy.nodes()), (BIND | STATIC, 1));
        let mut flags = VmaFlags::LOCKED;
        policy.put(&mut flags);
        assert_eq!((Policy::of(flags), flags.contains(VmaFlags::LOCKED)), (policy, true));
        Policy::default().put(&mut flags);
        assert_eq!(flags, VmaFlags::LOCKED);
        assert_eq!(Policy::new(PREFERRED, Nodes::default()).map(Policy::mode), Ok(LOCAL));
        assert!(Policy::new(INTERLEAVE, Nodes::default()).is_err());
        assert!(Policy::new(BIND, Nodes { zero: false, others: true }).is_err());
        assert!(Policy::new(BIND | RELATIVE, Nodes { zero: false, others: true }).is_ok());
    }
}
