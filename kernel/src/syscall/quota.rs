//! Disk quotas: no file system here has any, which the calls say as Linux does. Source: quotactl(2).

use super::Fd;
use super::args::UserStr;
use crate::fs::walk::Follow;
use crate::fs::{Kind, Name};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use linux_raw_sys::general as nr;
use umbel_mm::UserAddr;

rows! {
    nr::__NR_quotactl, quotactl(command: u32, device: UserAddr, id: u32, addr: UserAddr) => quotactl, Partial("no file system has quotas");
    nr::__NR_quotactl_fd, quotactl_fd(fd: Fd, command: u32, id: u32, addr: UserAddr) => quotactl_fd, Partial("no file system has quotas");
}

/// Bits of a command that say whose quotas are meant, and how many kinds there are.
const KIND_BITS: u32 = 8;
const KINDS: u32 = 3;
/// `Q_SYNC`.
const SYNC: u32 = 0x80_0001;

fn check_kind(command: u32) -> Result<()> {
    if command & ((1 << KIND_BITS) - 1) < KINDS { Ok(()) } else { Err(Errno::EINVAL) }
}

fn quotactl(task: &Arc<Task>, command: u32, device: UserAddr, _id: u32, _addr: UserAddr) -> Result<()> {
    check_kind(command)?;
    if device.is_null() {
        // All quotas are up to date.
        return if command >> KIND_BITS == SYNC { Ok(()) } else { Err(Errno::ENODEV) };
    }
    let name = UserStr(device).read()?;
    let caller = super::fs::Caller::new(task)?;
    let found = caller.names().find(&Name::new(&name), Follow::Yes)?;
    // No device has a file system.
    Err(if found.inode().kind() == Kind::Block { Errno::ENODEV } else { Errno::ENOTBLK })
}

fn quotactl_fd(task: &Arc<Task>, fd: Fd, command: u32, _id: u32, _addr: UserAddr) -> Result<()> {
    task.files()?.get(fd)?;
    check_kind(command)?;
    Err(Errno::ENOSYS)
}
