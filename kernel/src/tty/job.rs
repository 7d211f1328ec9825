//! Job control: who may use a terminal now, and whose it is. Source: POSIX.1 chapter 11, credentials(7), tty_ioctl(2).

use super::Tty;
use crate::signal::{self, SIGCONT, SIGHUP, SIGTTIN, SIGTTOU, SigInfo, Signo};
use crate::task::ids::{self, Session};
use crate::task::{Task, cap};
use crate::{Errno, Pid, Result};
use alloc::sync::Arc;

/// Where a caller stands towards a terminal.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// It is the caller's controlling terminal.
    controlling: bool,
    group: Pid,
    foreground: Option<Pid>,
    /// The caller blocks or ignores the signal that would stop it.
    shielded: bool,
    /// Nobody in the session could continue the group.
    orphaned: bool,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Go,
    /// `EIO`.
    Fail,
    /// Stop the group and try again.
    Stop,
}

fn judge(standing: &Standing, signo: Signo) -> Verdict {
    let in_front = standing.foreground.is_none_or(|group| group == standing.group);
    if !standing.controlling || in_front {
        Verdict::Go
    } else if standing.shielded {
        if signo == SIGTTIN { Verdict::Fail } else { Verdict::Go }
    } else if standing.orphaned {
        Verdict::Fail
    } else {
        Verdict::Stop
    }
}

/// Lets `task` read (`SIGTTIN`) or change (`SIGTTOU`) the terminal, or stops its group first.
///
/// # Errors
/// `EIO`; `ERESTARTSYS` when the group is stopped: the call comes again afterwards.
pub fn check(task: &Arc<Task>, tty: &Tty, signo: Signo) -> Result<()> {
    let Ok(session) = session_of(task) else { return Ok(()) };
    if tty.session() != Some(session.id) {
        return Ok(());
    }
    let (group, orphaned) = {
        let table = ids::table();
        let Ok(node) = table.node(task.process().pid()) else { return Ok(()) };
        let group = node.pgrp.id;
        (group, !table.has_job_control(group, Pid(0)))
    };
    let (_, ignored, _) = task.process().signal.sets();
    let shielded = (task.signal.mask() | ignored) & signal::bit(signo) != 0;
    let standing = Standing { controlling: true, group, foreground: tty.foreground(), shielded, orphaned };
    match judge(&standing, signo) {
        Verdict::Go => Ok(()),
        Verdict::Fail => Err(Errno::EIO),
        Verdict::Stop => {
            signal::send_to_pgrp(group, SigInfo::kernel(signo));
            Err(Errno::ERESTARTSYS)
        }
    }
}

/// The session of `task`.
///
/// # Errors
/// `ESRCH` for threads outside the tree.
pub fn session_of(task: &Task) -> Result<Arc<Session>> {
    Ok(ids::table().node(task.process().pid())?.pgrp.session.clone())
}

/// The controlling terminal of `task`.
pub fn controlling(task: &Task) -> Option<Arc<Tty>> {
    session_of(task).ok()?.tty()
}

/// Makes `tty` the controlling terminal of the session that `task` leads, with its group in the foreground.
///
/// # Errors
/// `ESRCH`.
pub fn attach(task: &Task, tty: &Arc<Tty>) -> Result<()> {
    let (session, group) = {
        let table = ids::table();
        let node = table.node(task.process().pid())?;
        (node.pgrp.session.clone(), node.pgrp.id)
    };
    session.set_tty(Some(tty.clone()));
    tty.set_session(Some(session.id), Some(group));
    Ok(())
}

/// TIOCSCTTY.
///
/// # Errors
/// `EPERM` unless the caller leads a session without terminal and the terminal has no session; root may take one away.
pub fn set_controlling(task: &Arc<Task>, tty: &Arc<Tty>, steal: bool) -> Result<()> {
    let session = session_of(task)?;
    let leads = session.id == task.process().pid();
    let owner = tty.session();
    if leads && owner == Some(session.id) {
        return Ok(());
    }
    if !leads || session.tty().is_some() {
        return Err(Errno::EPERM);
    }
    if let Some(owner) = owner {
        if !steal || !task.cred().capable(cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let robbed = ids::table().session(owner);
        if let Some(robbed) = robbed {
            robbed.set_tty(None);
        }
    }
    attach(task, tty)
}

/// TIOCNOTTY: a session's leader gives the terminal up for all of it; others have nothing of their own to give.
///
/// # Errors
/// `ENOTTY` if it is not the caller's.
pub fn give_up(task: &Arc<Task>, tty: &Arc<Tty>) -> Result<()> {
    let session = session_of(task)?;
    if !session.tty().is_some_and(|own| Arc::ptr_eq(&own, tty)) {
        return Err(Errno::ENOTTY);
    }
    if session.id == task.process().pid() {
        session.set_tty(None);
        let foreground = tty.foreground();
        tty.set_session(None, None);
        if let Some(group) = foreground {
            signal::send_to_pgrp(group, SigInfo::kernel(SIGHUP));
            signal::send_to_pgrp(group, SigInfo::kernel(SIGCONT));
        }
    }
    Ok(())
}

/// TIOCSPGRP.
///
/// # Errors
/// `ENOTTY`, `EINVAL`, `ESRCH`, `EPERM`: see tcsetpgrp(3).
pub fn set_foreground(task: &Arc<Task>, tty: &Arc<Tty>, group: Pid) -> Result<()> {
    match check(task, tty, SIGTTOU) {
        Err(Errno::EIO) => return Err(Errno::ENOTTY),
        other => other?,
    }
    let session = session_of(task)?;
    if !is_own(&session, tty) || tty.session() != Some(session.id) {
        return Err(Errno::ENOTTY);
    }
    if group.0 < 0 {
        return Err(Errno::EINVAL);
    }
    let found = ids::table().pgrp(group).ok_or(Errno::ESRCH)?;
    if found.session.id != session.id {
        return Err(Errno::EPERM);
    }
    tty.set_foreground(group);
    Ok(())
}

/// Whether `tty` is the controlling terminal of `session`.
pub fn is_own(session: &Session, tty: &Arc<Tty>) -> bool {
    session.tty().is_some_and(|own| Arc::ptr_eq(&own, tty))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEHIND: Standing =
        Standing { controlling: true, group: Pid(5), foreground: Some(Pid(9)), shielded: false, orphaned: false };

    #[test]
    fn a_background_group_is_stopped_unless_it_cannot_be_continued() {
        assert_eq!(judge(&BEHIND, SIGTTIN), Verdict::Stop);
        assert_eq!(judge(&BEHIND, SIGTTOU), Verdict::Stop);
        assert_eq!(judge(&Standing { orphaned: true, ..BEHIND }, SIGTTOU), Verdict::Fail);
        assert_eq!(judge(&Standing { foreground: Some(Pid(5)), ..BEHIND }, SIGTTIN), Verdict::Go);
        assert_eq!(judge(&Standing { controlling: false, ..BEHIND }, SIGTTIN), Verdict::Go);
    }

    #[test]
    fn who_blocks_the_signal_may_write_and_not_read() {
        let shielded = Standing { shielded: true, ..BEHIND };
        assert_eq!(judge(&shielded, SIGTTIN), Verdict::Fail);
        assert_eq!(judge(&shielded, SIGTTOU), Verdict::Go);
    }
}
