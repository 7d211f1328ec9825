//! Memory policies and the node of pages: all of it on node 0. Source: numa(7) and the man pages of the calls.

use super::Pid;
use crate::task::access::{Creds, may_access};
use crate::task::{Task, cap, find_task};
use crate::vm::Space;
use crate::vm::policy::{self, Nodes, Policy};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as nr;
use umbel_mm::PAGE;
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_mbind, mbind(addr: UserAddr, len: u64, mode: u32, nodes: UserAddr, max: u64, flags: u32) => mbind, Full;
    nr::__NR_set_mempolicy, set_mempolicy(mode: u32, nodes: UserAddr, max: u64) => set_mempolicy, Full;
    nr::__NR_get_mempolicy, get_mempolicy(mode: UserAddr, nodes: UserAddr, max: u64, addr: u64, flags: u32) => get_mempolicy, Full;
    nr::__NR_set_mempolicy_home_node, set_mempolicy_home_node(addr: UserAddr, len: u64, node: u64, flags: u64) => set_home_node, Full;
    nr::__NR_migrate_pages, migrate_pages(pid: Pid, max: u64, old: UserAddr, new: UserAddr) => migrate_pages, Full;
    nr::__NR_move_pages, move_pages(pid: Pid, count: u64, pages: u64, nodes: u64, status: u64, flags: u32) => move_pages, Full;
}

/// Nodes that a mask may name at all (`MAX_NUMNODES`).
const NODES_MAX: u64 = 1024;
/// `MPOL_F_NODE`, `MPOL_F_ADDR`, `MPOL_F_MEMS_ALLOWED`.
const F_NODE: u32 = 1;
const F_ADDR: u32 = 2;
const F_MEMS_ALLOWED: u32 = 4;
/// `MPOL_MF_STRICT`, `MPOL_MF_MOVE`, `MPOL_MF_MOVE_ALL`.
const MF_STRICT: u32 = 1;
const MF_MOVE: u32 = 2;
const MF_MOVE_ALL: u32 = 4;
/// Pages that are looked up at once.
const CHUNK: usize = 256;

/// Reads a set of nodes; `max` is one more than the highest bit that counts.
fn read_nodes(addr: UserAddr, max: u64) -> Result<Nodes> {
    let bits = max.wrapping_sub(1);
    if bits == 0 || addr.is_null() {
        return Ok(Nodes::default());
    }
    if bits > PAGE * 8 {
        return Err(Errno::EINVAL);
    }
    let mut words: Vec<u64> = user::read_vec(addr, bits.div_ceil(64) as usize)?;
    if let (Some(last), true) = (words.last_mut(), !bits.is_multiple_of(64)) {
        *last &= (1 << (bits % 64)) - 1;
    }
    let beyond = words.iter().skip((NODES_MAX / 64) as usize).any(|word| *word != 0);
    if beyond {
        return Err(Errno::EINVAL);
    }
    let first = words.first().copied().unwrap_or(0);
    let others = first & !policy::NODES != 0 || words.iter().skip(1).any(|word| *word != 0);
    Ok(Nodes { zero: first & policy::NODES != 0, others })
}

/// Writes a set of nodes of which `max` - 1 bits are wanted.
fn write_nodes(addr: UserAddr, max: u64, nodes: u64) -> Result<()> {
    let bytes = max.wrapping_sub(1).checked_next_multiple_of(64).ok_or(Errno::EINVAL)? / 8;
    if bytes > 8 {
        if bytes > PAGE {
            return Err(Errno::EINVAL);
        }
        user::clear(UserAddr(addr.0.wrapping_add(8)), bytes as usize - 8)?;
    }
    if bytes == 0 { Ok(()) } else { user::write_val(addr, &nodes) }
}

fn space(task: &Task) -> Result<Arc<Space>> {
    task.space().ok_or(Errno::EINVAL)
}

fn set_mempolicy(task: &Arc<Task>, mode: u32, nodes: UserAddr, max: u64) -> Result<()> {
    // The mode is checked before the mask is looked at.
    check_mode(mode)?;
    let policy = Policy::new(mode, read_nodes(nodes, max)?)?;
    task.mem_policy.store(policy.word(), Relaxed);
    Ok(())
}

/// Refuses modes that no set of nodes makes valid.
fn check_mode(mode: u32) -> Result<()> {
    let any = [Nodes::default(), Nodes { zero: true, others: false }];
    if any.into_iter().any(|nodes| Policy::new(mode, nodes).is_ok()) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn mbind(task: &Arc<Task>, addr: UserAddr, len: u64, mode: u32, nodes: UserAddr, max: u64, flags: u32) -> Result<()> {
    check_mode(mode)?;
    let nodes = read_nodes(nodes, max)?;
    if flags & !(MF_STRICT | MF_MOVE | MF_MOVE_ALL) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MF_MOVE_ALL != 0 && !task.capable(cap::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    if !addr.is_page_aligned() {
        return Err(Errno::EINVAL);
    }
    let policy = Policy::new(mode, nodes)?;
    // Every page is where every policy wants it: there is nothing to move, and nothing that is strict can miss.
    space(task)?.set_policy(addr, len, policy)
}

fn get_mempolicy(task: &Arc<Task>, mode: UserAddr, nodes: UserAddr, max: u64, addr: u64, flags: u32) -> Result<()> {
    if !nodes.is_null() && max < 1 || flags & !(F_NODE | F_ADDR | F_MEMS_ALLOWED) != 0 {
        return Err(Errno::EINVAL);
    }
    let (value, set) = if flags & F_MEMS_ALLOWED != 0 {
        if flags != F_MEMS_ALLOWED {
            return Err(Errno::EINVAL);
        }
        (0, policy::NODES)
    } else {
        asked(task, addr, flags)?
    };
    if !mode.is_null() {
        user::write_val(mode, &value)?;
    }
    if nodes.is_null() { Ok(()) } else { write_nodes(nodes, max, set) }
}

/// The mode, or node, that get_mempolicy(2) is asked for, and the nodes.
fn asked(task: &Task, addr: u64, flags: u32) -> Result<(u32, u64)> {
    let own = Policy::from_word(task.mem_policy.load(Relaxed));
    let policy = match flags & F_ADDR {
        0 if addr != 0 => return Err(Errno::EINVAL),
        0 => own,
        _ => space(task)?.policy(addr)?,
    };
    if flags & F_NODE == 0 {
        return Ok((policy.raw(), policy.nodes()));
    }
    if flags & F_ADDR != 0 {
        // Linux makes the page present to see where it lies; that is node 0 anyhow.
        user::read_val::<u8>(UserAddr(addr))?;
        return Ok((0, policy.nodes()));
    }
    let next = matches!(policy.mode(), policy::INTERLEAVE | policy::WEIGHTED_INTERLEAVE);
    if next { Ok((0, policy.nodes())) } else { Err(Errno::EINVAL) }
}

fn set_home_node(task: &Arc<Task>, addr: UserAddr, len: u64, node: u64, flags: u64) -> Result<()> {
    if !addr.is_page_aligned() || flags != 0 || node != 0 {
        return Err(Errno::EINVAL);
    }
    space(task)?.check_home(addr, len)
}

/// Another process's space, for those who may look into it.
fn other_space(task: &Arc<Task>, pid: Pid) -> Result<Arc<Space>> {
    let target = if pid.0 == 0 { task.clone() } else { find_task(pid).ok_or(Errno::ESRCH)? };
    may_access(task, &target, Creds::Real)?;
    space(&target)
}

fn migrate_pages(task: &Arc<Task>, pid: Pid, max: u64, old: UserAddr, new: UserAddr) -> Result<u64> {
    read_nodes(old, max)?;
    let new = read_nodes(new, max)?;
    other_space(task, pid)?;
    if new.others && !task.capable(cap::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    // There is no second node to leave; that no page stayed behind is what 0 says.
    if new.zero { Ok(0) } else { Err(Errno::EINVAL) }
}

fn move_pages(task: &Arc<Task>, pid: Pid, count: u64, pages: u64, nodes: u64, status: u64, flags: u32) -> Result<u64> {
    if flags & !(MF_MOVE | MF_MOVE_ALL) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MF_MOVE_ALL != 0 && !task.capable(cap::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let space = other_space(task, pid)?;
    let mut done = 0;
    while done < count {
        let some = (count - done).min(CHUNK as u64) as usize;
        let addrs: Vec<u64> = user::read_vec(UserAddr(pages.wrapping_add(8 * done)), some)?;
        if nodes != 0 {
            let wanted: Vec<i32> = user::read_vec(UserAddr(nodes.wrapping_add(4 * done)), some)?;
            if wanted.iter().any(|node| *node != 0) {
                return Err(Errno::ENODEV);
            }
        }
        for (index, found) in space.nodes(&addrs).into_iter().enumerate() {
            let value = found.unwrap_or_else(|errno| errno.as_return() as i32);
            user::write_val(UserAddr(status.wrapping_add(4 * (done + index as u64))), &value)?;
        }
        done += some as u64;
    }
    Ok(0)
}
