//! User and group ids, capabilities. Source: credentials(7), setresuid(2), capset(2).

use super::Pid;
use crate::task::ns::pid::of_caller;
use crate::task::ns::user::{Which, may_set_groups};
use crate::task::{self, Cred, Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general as nr;
use umbel_mm::UserAddr;
use umbel_mm::user::{read_val, read_vec, write_val};

rows! {
    nr::__NR_getuid, getuid() => getuid, Full;
    nr::__NR_geteuid, geteuid() => geteuid, Full;
    nr::__NR_getgid, getgid() => getgid, Full;
    nr::__NR_getegid, getegid() => getegid, Full;
    nr::__NR_setuid, setuid(uid: u32) => setuid, Full;
    nr::__NR_setgid, setgid(gid: u32) => setgid, Full;
    nr::__NR_setreuid, setreuid(ruid: i32, euid: i32) => setreuid, Full;
    nr::__NR_setregid, setregid(rgid: i32, egid: i32) => setregid, Full;
    nr::__NR_setresuid, setresuid(ruid: i32, euid: i32, suid: i32) => setresuid, Full;
    nr::__NR_setresgid, setresgid(rgid: i32, egid: i32, sgid: i32) => setresgid, Full;
    nr::__NR_getresuid, getresuid(ruid: UserAddr, euid: UserAddr, suid: UserAddr) => getresuid, Full;
    nr::__NR_getresgid, getresgid(rgid: UserAddr, egid: UserAddr, sgid: UserAddr) => getresgid, Full;
    nr::__NR_setfsuid, setfsuid(uid: u32) => setfsuid, Full;
    nr::__NR_setfsgid, setfsgid(gid: u32) => setfsgid, Full;
    nr::__NR_getgroups, getgroups(size: i32, list: UserAddr) => getgroups, Full;
    nr::__NR_setgroups, setgroups(size: i32, list: UserAddr) => setgroups, Full;
    nr::__NR_capget, capget(header: UserAddr, data: UserAddr) => capget, Full;
    nr::__NR_capset, capset(header: UserAddr, data: UserAddr) => capset, Full;
}

/// Most supplementary groups.
const NGROUPS_MAX: i32 = 65536;

fn getuid(task: &Arc<Task>) -> Result<u32> {
    let cred = task.cred();
    Ok(cred.show_uid(cred.uid))
}

fn geteuid(task: &Arc<Task>) -> Result<u32> {
    let cred = task.cred();
    Ok(cred.show_uid(cred.euid))
}

fn getgid(task: &Arc<Task>) -> Result<u32> {
    let cred = task.cred();
    Ok(cred.show_gid(cred.gid))
}

fn getegid(task: &Arc<Task>) -> Result<u32> {
    let cred = task.cred();
    Ok(cred.show_gid(cred.egid))
}

fn setuid(task: &Arc<Task>, uid: u32) -> Result<()> {
    let mut cred = (*task.cred()).clone();
    let uid = cred.user_ns.take(Which::Users, uid)?;
    let old = cred.clone();
    if cred.capable_here(cap::SETUID) {
        (cred.uid, cred.suid) = (uid, uid);
    } else if uid != cred.uid && uid != cred.suid {
        return Err(Errno::EPERM);
    }
    (cred.euid, cred.fsuid) = (uid, uid);
    commit_uids(task, cred, &old)
}

fn setgid(task: &Arc<Task>, gid: u32) -> Result<()> {
    let mut cred = (*task.cred()).clone();
    let gid = cred.user_ns.take(Which::Groups, gid)?;
    if cred.capable_here(cap::SETGID) {
        (cred.gid, cred.sgid) = (gid, gid);
    } else if gid != cred.gid && gid != cred.sgid {
        return Err(Errno::EPERM);
    }
    (cred.egid, cred.fsgid) = (gid, gid);
    task.set_cred(cred);
    Ok(())
}

/// An id to set: -1 means "leave it".
fn wanted(cred: &Cred, which: Which, id: i32) -> Result<Option<u32>> {
    if id == -1 { Ok(None) } else { cred.user_ns.take(which, id as u32).map(Some) }
}

fn setreuid(task: &Arc<Task>, ruid: i32, euid: i32) -> Result<()> {
    let mut cred = (*task.cred()).clone();
    let old = cred.clone();
    let privileged = cred.capable_here(cap::SETUID);
    let (ruid, euid) = (wanted(&cred, Which::Users, ruid)?, wanted(&cred, Which::Users, euid)?);
    if ruid.is_some_and(|uid| !privileged && uid != old.uid && uid != old.euid)
        || euid.is_some_and(|uid| !privileged && ![old.uid, old.euid, old.suid].contains(&uid))
    {
        return Err(Errno::EPERM);
    }
    cred.uid = ruid.unwrap_or(old.uid);
    cred.euid = euid.unwrap_or(old.euid);
    if ruid.is_some() || euid.is_some_and(|uid| uid != old.uid) {
        cred.suid = cred.euid;
    }
    cred.fsuid = cred.euid;
    commit_uids(task, cred, &old)
}

fn setregid(task: &Arc<Task>, rgid: i32, egid: i32) -> Result<()> {
    let mut cred = (*task.cred()).clone();
    let (gid, old_egid, sgid) = (cred.gid, cred.egid, cred.sgid);
    let privileged = cred.capable_here(cap::SETGID);
    let (rgid, egid) = (wanted(&cred, Which::Groups, rgid)?, wanted(&cred, Which::Groups, egid)?);
    if rgid.is_some_and(|new| !privileged && new != gid && new != old_egid)
        || egid.is_some_and(|new| !privileged && ![gid, old_egid, sgid].contains(&new))
    {
        return Err(Errno::EPERM);
    }
    cred.gid = rgid.unwrap_or(gid);
    cred.egid = egid.unwrap_or(old_egid);
    if rgid.is_some() || egid.is_some_and(|new| new != gid) {
        cred.sgid = cred.egid;
    }
    cred.fsgid = cred.egid;
    task.set_cred(cred);
    Ok(())
}

fn setresuid(task: &Arc<Task>, ruid: i32, euid: i32, suid: i32) -> Result<()> {
    let mut cred = (*task.cred()).clone();
    let old = cred.clone();
    let wanted = |id| wanted(&cred, Which::Users, id);
    let ids = [wanted(ruid)?, wanted(euid)?, wanted(suid)?];
    check_three(&ids, [old.uid, old.euid, old.suid], old.capable_here(cap::SETUID))?;
    cred.uid = ids[0].unwrap_or(old.uid);
    cred.euid = ids[1].unwrap_or(old.euid);
    cred.suid = ids[2].unwrap_or(old.suid);
    cred.fsuid = cred.euid;
    commit_uids(task, cred, &old)
}

fn setresgid(task: &Arc<Task>, rgid: i32, egid: i32, sgid: i32) -> Result<()> {
    let mut cred = (*task.cred()).clone();
    let wanted = |id| wanted(&cred, Which::Groups, id);
    let ids = [wanted(rgid)?, wanted(egid)?, wanted(sgid)?];
    check_three(&ids, [cred.gid, cred.egid, cred.sgid], cred.capable_here(cap::SETGID))?;
    cred.gid = ids[0].unwrap_or(cred.gid);
    cred.egid = ids[1].unwrap_or(cred.egid);
    cred.sgid = ids[2].unwrap_or(cred.sgid);
    cred.fsgid = cred.egid;
    task.set_cred(cred);
    Ok(())
}

/// Each new id must be one of the old ones, unless privileged.
fn check_three(new: &[Option<u32>; 3], old: [u32; 3], privileged: bool) -> Result<()> {
    let allowed = privileged || new.iter().flatten().all(|id| old.contains(id));
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

/// Sets new user ids with what they do to capabilities.
fn commit_uids(task: &Task, mut cred: Cred, old: &Cred) -> Result<()> {
    cred.adjust_caps(old);
    task.set_cred(cred);
    Ok(())
}

fn getresuid(task: &Arc<Task>, ruid: UserAddr, euid: UserAddr, suid: UserAddr) -> Result<()> {
    let cred = task.cred();
    write_val(ruid, &cred.show_uid(cred.uid))?;
    write_val(euid, &cred.show_uid(cred.euid))?;
    write_val(suid, &cred.show_uid(cred.suid))
}

fn getresgid(task: &Arc<Task>, rgid: UserAddr, egid: UserAddr, sgid: UserAddr) -> Result<()> {
    let cred = task.cred();
    write_val(rgid, &cred.show_gid(cred.gid))?;
    write_val(egid, &cred.show_gid(cred.egid))?;
    write_val(sgid, &cred.show_gid(cred.sgid))
}

fn setfsuid(task: &Arc<Task>, uid: u32) -> Result<u32> {
    let mut cred = (*task.cred()).clone();
    let old = cred.clone();
    // What is not mapped is refused without a word, as all else.
    let uid = cred.user_ns.take(Which::Users, uid).unwrap_or(u32::MAX);
    let allowed = cred.capable_here(cap::SETUID) || [cred.uid, cred.euid, cred.suid, cred.fsuid].contains(&uid);
    if uid != u32::MAX && allowed {
        cred.fsuid = uid;
        cred.adjust_fs_caps(&old);
        task.set_cred(cred);
    }
    Ok(old.show_uid(old.fsuid))
}

fn setfsgid(task: &Arc<Task>, gid: u32) -> Result<u32> {
    let mut cred = (*task.cred()).clone();
    let old = cred.show_gid(cred.fsgid);
    let gid = cred.user_ns.take(Which::Groups, gid).unwrap_or(u32::MAX);
    let allowed = cred.capable_here(cap::SETGID) || [cred.gid, cred.egid, cred.sgid, cred.fsgid].contains(&gid);
    if gid != u32::MAX && allowed {
        cred.fsgid = gid;
        task.set_cred(cred);
    }
    Ok(old)
}

fn getgroups(task: &Arc<Task>, size: i32, list: UserAddr) -> Result<usize> {
    let cred = task.cred();
    let count = cred.groups.len();
    if size < 0 || (size > 0 && (size as usize) < count) {
        return Err(Errno::EINVAL);
    }
    if size > 0 {
        for (index, gid) in cred.groups.iter().enumerate() {
            write_val(list.add(index as u64 * 4), gid)?;
        }
    }
    Ok(count)
}

fn setgroups(task: &Arc<Task>, size: i32, list: UserAddr) -> Result<()> {
    let own = task.cred();
    if !own.capable_here(cap::SETGID) || !may_set_groups(&own.user_ns) {
        return Err(Errno::EPERM);
    }
    if !(0..=NGROUPS_MAX).contains(&size) {
        return Err(Errno::EINVAL);
    }
    let groups: Vec<u32> = read_vec(list, size as usize)?;
    let groups = groups.iter().map(|&gid| own.user_ns.take(Which::Groups, gid));
    let mut groups = groups.collect::<Result<Vec<u32>>>()?;
    groups.sort_unstable();
    let mut cred = (*task.cred()).clone();
    cred.groups = Arc::from(groups);
    task.set_cred(cred);
    Ok(())
}

const CAP_VERSION_1: u32 = 0x1998_0330;
const CAP_VERSION_2: u32 = 0x2007_1026;
const CAP_VERSION_3: u32 = 0x2008_0522;

/// Reads the header; returns how many 32-bit words a set has, and whom it is about.
fn cap_header(header: UserAddr) -> Result<(usize, Pid)> {
    let [version, pid]: [u32; 2] = read_val(header)?;
    let words = match version {
        CAP_VERSION_1 => 1,
        CAP_VERSION_2 | CAP_VERSION_3 => 2,
        _ => {
            write_val(header, &CAP_VERSION_3)?;
            return Err(Errno::EINVAL);
        }
    };
    if (pid as i32) < 0 { Err(Errno::EINVAL) } else { Ok((words, of_caller(pid as i32))) }
}

fn capget(task: &Arc<Task>, header: UserAddr, data: UserAddr) -> Result<()> {
    let (words, pid) = match cap_header(header) {
        // Asking for the version only.
        Err(Errno::EINVAL) if data.is_null() => return Ok(()),
        other => other?,
    };
    let target = if pid.0 == 0 { task.clone() } else { task::find_task(pid).ok_or(Errno::ESRCH)? };
    if data.is_null() {
        return Ok(());
    }
    let cred = target.cred();
    for word in 0..words {
        let part = |set: u64| (set >> (word * 32)) as u32;
        let sets = [part(cred.effective), part(cred.permitted), part(cred.inheritable)];
        write_val(data.add(word as u64 * 12), &sets)?;
    }
    Ok(())
}

fn capset(task: &Arc<Task>, header: UserAddr, data: UserAddr) -> Result<()> {
    let (words, pid) = cap_header(header)?;
    if pid.0 != 0 && pid != task.tid() {
        return Err(Errno::EPERM);
    }
    let mut sets = [0_u64; 3];
    for word in 0..words {
        let parts: [u32; 3] = read_val(data.add(word as u64 * 12))?;
        for (set, part) in sets.iter_mut().zip(parts) {
            *set |= u64::from(part) << (word * 32);
        }
    }
    let [effective, permitted, inheritable] = sets.map(|set| set & cap::ALL);
    let mut cred = (*task.cred()).clone();
    let may_inherit = cred.inheritable | cred.permitted;
    let refused = permitted & !cred.permitted != 0
        || effective & !permitted != 0
        || (inheritable & !may_inherit != 0 && !cred.capable_here(cap::SETPCAP))
        || inheritable & !(cred.inheritable | cred.bounding) != 0;
    if refused {
        return Err(Errno::EPERM);
    }
    (cred.effective, cred.permitted, cred.inheritable) = (effective, permitted, inheritable);
    cred.ambient &= permitted & inheritable;
    task.set_cred(cred);
    Ok(())
}
