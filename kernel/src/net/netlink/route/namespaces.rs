//! Other namespaces, as requests name them: by a process that is there, by a descriptor, or by the number that they have here.

use super::super::message::{Answer, attribute, word};
use super::Asker;
use crate::net::Namespace;
use crate::task::ns::file::NsFile;
use crate::task::ns::{Ns, Owned};
use crate::task::{self, Task};
use crate::{Errno, Fd, Result};
use alloc::sync::Arc;

/// `RTM_NEWNSID`; `NETNSA_NSID`, `NETNSA_PID`, `NETNSA_FD`.
const NEWNSID: u16 = 88;
const NUMBER: u16 = 1;
const PID: u16 = 2;
const FD: u16 = 3;
/// Bytes of `struct rtgenmsg`, padded.
const HEAD: usize = 4;

/// The namespace of a process.
///
/// # Errors
/// `ESRCH`.
pub(super) fn of_process(task: &Task, number: u32) -> Result<Owned<Namespace>> {
    let pid = task.process().pid_ns().find(number as i32).ok_or(Errno::ESRCH)?;
    Ok(task::find_task(pid).ok_or(Errno::ESRCH)?.ns().net.clone())
}

/// The namespace behind a descriptor.
///
/// # Errors
/// `EBADF`, `EINVAL`.
pub(super) fn of_descriptor(task: &Task, fd: u32) -> Result<Owned<Namespace>> {
    let file = task.files()?.get(Fd(fd as i32))?;
    match file.ops_as::<NsFile>() {
        Some(NsFile(Ns::Net(net))) => Ok(net.clone()),
        _ => Err(Errno::EINVAL),
    }
}

/// The number that a namespace has here; -1 if it has none.
pub(super) fn number(asker: &Asker<'_>, out: &mut Answer) -> Result<()> {
    if asker.request.dumps() {
        return Ok(());
    }
    let attributes = asker.request.body.get(HEAD..).ok_or(Errno::EINVAL)?;
    let other = match (attribute(attributes, PID), attribute(attributes, FD)) {
        (Some(pid), _) => of_process(asker.task, word(pid))?,
        (_, Some(fd)) => of_descriptor(asker.task, word(fd))?,
        _ => return Err(Errno::EINVAL),
    };
    let known = asker.namespace.links().known_number(&Arc::downgrade(&other.ns));
    out.begin(NEWNSID, &[0; HEAD]);
    out.number(NUMBER, known.unwrap_or(u32::MAX));
    out.end();
    Ok(())
}
