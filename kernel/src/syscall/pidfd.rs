//! Descriptors of processes. Source: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2).

use super::ipc::install;
use super::{Fd, Pid};
use crate::fs::proc::process_of;
use crate::fs::{OpenFlags, plain};
use crate::ipc::epoll::Epoll;
use crate::signal::{self, SigInfo, code};
use crate::task::access::{Creds, may_access};
use crate::task::pidfd::{self, PidFd, Scope};
use crate::task::{self, Task, ids};
use crate::{Errno, Result};
use alloc::sync::Arc;
use linux_raw_sys::general as nr;
use umbel_mm::UserAddr;
use umbel_mm::user::read_val;

rows! {
    nr::__NR_pidfd_open, pidfd_open(pid: Pid, flags: u32) => pidfd_open, Full;
    nr::__NR_pidfd_send_signal, pidfd_send_signal(pidfd: Fd, signo: u64, info: UserAddr, flags: u32) => pidfd_send_signal, Full;
    nr::__NR_pidfd_getfd, pidfd_getfd(pidfd: Fd, fd: Fd, flags: u32) => pidfd_getfd, Full;
}

/// `PIDFD_THREAD` (`O_EXCL`).
const PIDFD_THREAD: u32 = 0o200;
const PIDFD_NONBLOCK: u32 = 0o4000;

fn pidfd_open(task: &Arc<Task>, pid: Pid, flags: u32) -> Result<Fd> {
    if flags & !(PIDFD_THREAD | PIDFD_NONBLOCK) != 0 || pid.0 <= 0 {
        return Err(Errno::EINVAL);
    }
    let open = OpenFlags::from_bits_truncate(flags & PIDFD_NONBLOCK);
    let file = if flags & PIDFD_THREAD != 0 {
        pidfd::new(&task::find_task(pid).ok_or(Errno::ESRCH)?, Scope::Thread, open)
    } else {
        match (task::find_process(pid), task::find_task(pid)) {
            (Some(process), _) => pidfd::of_process(process, open),
            (None, Some(_)) => return Err(Errno::ENOENT),
            (None, None) => return Err(Errno::ESRCH),
        }
    };
    install(task, file, OpenFlags::CLOEXEC)
}

/// Where a signal goes, whatever the pidfd is about (`PIDFD_SIGNAL_*`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Thread,
    Process,
    Group,
}

fn pidfd_send_signal(task: &Arc<Task>, pidfd: Fd, signo: u64, info: UserAddr, flags: u32) -> Result<()> {
    let explicit = match flags {
        0 => None,
        1 => Some(Target::Thread),
        2 => Some(Target::Process),
        4 => Some(Target::Group),
        _ => return Err(Errno::EINVAL),
    };
    let file = task.files()?.get(pidfd)?;
    let by_directory = file.inode().and_then(|inode| process_of(&inode)).transpose()?;
    let opened;
    let pidfd = match (file.ops_as::<PidFd>(), by_directory) {
        (Some(pidfd), _) => pidfd,
        (None, Some(process)) => {
            opened = pidfd::of_process(process, OpenFlags::empty());
            opened.ops_as::<PidFd>().ok_or(Errno::EBADF)?
        }
        (None, None) => return Err(Errno::EBADF),
    };
    let target = explicit.unwrap_or(if pidfd.is_thread() { Target::Thread } else { Target::Process });
    let info = read_info(task, pidfd, signo, info, target)?;
    super::signal::check_signo(signo)?;
    match target {
        Target::Group => {
            let pgrp = ids::table().node(pidfd.process()?.pid())?.pgrp.id;
            super::signal::send_info_to_group(task, pgrp, signo, info)
        }
        Target::Thread => {
            let thread = pidfd.task()?;
            super::signal::check_permission(task, thread.process(), signo)?;
            if signo == 0 { Ok(()) } else { signal::queue_to_task(&thread, info).map(drop) }
        }
        Target::Process => {
            let process = pidfd.process()?;
            super::signal::check_permission(task, process, signo)?;
            if signo == 0 { Ok(()) } else { signal::queue_to_process(process, info).map(drop) }
        }
    }
}

/// The caller's own information about the signal, or that of kill(2). Nobody may pretend to be the kernel towards others.
fn read_info(task: &Task, pidfd: &PidFd, signo: u64, info: UserAddr, target: Target) -> Result<SigInfo> {
    let (own, uid) = (task.process().pid(), task.cred().uid);
    if info.is_null() {
        let plain = if target == Target::Thread { SigInfo::tkill } else { SigInfo::kill };
        return Ok(plain(signo as u32, pidfd.any_process().sees(own), uid));
    }
    let bytes: [u8; 128] = read_val(info)?;
    let [a, b, c, d, ..] = bytes;
    if u64::from(u32::from_le_bytes([a, b, c, d])) != signo {
        return Err(Errno::EINVAL);
    }
    let info = SigInfo::from_bytes(signo as u32, &bytes).said_by(&task.cred());
    let pretends = info.code() >= 0 || info.code() == code::SI_TKILL;
    let to_self = pidfd.any_process().pid() == own && target != Target::Group;
    if pretends && !to_self { Err(Errno::EPERM) } else { Ok(info) }
}

fn pidfd_getfd(task: &Arc<Task>, pidfd: Fd, fd: Fd, flags: u32) -> Result<Fd> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let file = task.files()?.get(pidfd)?;
    let target = file.ops_as::<PidFd>().ok_or(Errno::EBADF)?.task()?;
    may_access(task, &target, Creds::Real)?;
    let files = target.files().map_err(|_| Errno::ESRCH)?;
    // What the target was told is closed, is; and what it was told of an instance of epoll is done before somebody else has it.
    plain::settle();
    let wanted = files.get(fd)?;
    files.spoil(&wanted);
    if wanted.ops_as::<Epoll>().is_some() {
        plain::settle();
    }
    install(task, wanted, OpenFlags::CLOEXEC)
}
