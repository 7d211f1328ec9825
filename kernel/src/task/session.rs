//! Process groups and sessions. Source: setpgid(2), setsid(2), credentials(7).

use super::ids::{self, Session};
use super::task::Task;
use crate::{Errno, Pid, Result, sched};
use alloc::sync::Arc;

/// Moves process `pid` (0 = the caller) to group `pgid` (0 = its own).
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EPERM`, `EACCES`: see setpgid(2).
pub fn setpgid(task: &Task, pid: Pid, pgid: Pid) -> Result<()> {
    let own = task.process().pid();
    let pid = if pid.0 == 0 { own } else { pid };
    let pgid = if pgid.0 == 0 { pid } else { pgid };
    if pgid.0 < 0 {
        return Err(Errno::EINVAL);
    }
    let mut table = ids::table();
    let caller = table.node(own)?.pgrp.session.id;
    let node = table.node(pid)?;
    if pid != own {
        if node.parent != own {
            return Err(Errno::ESRCH);
        }
        if node.pgrp.session.id != caller {
            return Err(Errno::EPERM);
        }
        if node.execed {
            return Err(Errno::EACCES);
        }
    }
    let session = node.pgrp.session.clone();
    if session.id == pid {
        return Err(Errno::EPERM);
    }
    let pgrp = match table.pgrp(pgid) {
        Some(pgrp) if pgrp.session.id == session.id => pgrp,
        Some(_) => return Err(Errno::EPERM),
        None if pgid == pid => table.new_pgrp(pgid, session),
        None => return Err(Errno::EPERM),
    };
    table.node_mut(pid)?.pgrp = pgrp;
    Ok(())
}

/// Makes the caller the leader of a new session without a controlling terminal.
///
/// # Errors
/// `EPERM` if it leads a group already.
pub fn setsid(task: &Task) -> Result<Pid> {
    let pid = task.process().pid();
    let mut table = ids::table();
    if table.pgrp(pid).is_some() {
        return Err(Errno::EPERM);
    }
    let pgrp = table.new_session(pid);
    table.node_mut(pid)?.pgrp = pgrp;
    drop(table);
    sched::group::begin_session(task);
    Ok(pid)
}

/// The group of process `pid` (0 = the caller).
///
/// # Errors
/// `ESRCH`.
pub fn getpgid(task: &Task, pid: Pid) -> Result<Pid> {
    let pid = if pid.0 == 0 { task.process().pid() } else { pid };
    Ok(ids::table().node(pid)?.pgrp.id)
}

/// The session of process `pid` (0 = the caller).
///
/// # Errors
/// `ESRCH`.
pub fn getsid(task: &Task, pid: Pid) -> Result<Pid> {
    let pid = if pid.0 == 0 { task.process().pid() } else { pid };
    Ok(ids::table().node(pid)?.pgrp.session.id)
}

/// The session that the caller is in.
///
/// # Errors
/// `ESRCH` for threads outside the tree.
pub fn session_of(task: &Task) -> Result<Arc<Session>> {
    Ok(ids::table().node(task.process().pid())?.pgrp.session.clone())
}

/// The leader of `session` is gone: its terminal hangs up for the foreground group and is free again.
pub(super) fn leader_exit(session: &Arc<Session>) {
    let Some(tty) = session.tty() else { return };
    session.set_tty(None);
    tty.session_leader_exit(session.id);
}
