//! An open terminal, and who gets one: `/dev/tty`, `/dev/console`.

use super::{Tty, console, ioctl, job};
use crate::fs::devtmpfs::register_char;
use crate::fs::{Dev, File, FileOps, IoDst, IoSrc, OpenContext, OpenFlags, PollEvents, PollTable};
use crate::signal::{SIGTTIN, SIGTTOU};
use crate::task::{self, Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec;
use core::any::Any;
use umbel_abi::linux::uapi;

/// Bytes that one step of a read or a write moves.
const CHUNK: usize = 4096;

/// Major number of `/dev/tty` and `/dev/console`.
const TTYAUX_MAJOR: u32 = 5;

/// Registers the nodes. Called once, before the file systems are made.
pub fn register_nodes() {
    register_char(TTYAUX_MAJOR, 0, "tty", 0o666, open_controlling);
    register_char(TTYAUX_MAJOR, 1, "console", 0o600, open_console);
    super::pty::register_nodes();
}

/// The operations of an open terminal.
pub struct TtyFile {
    tty: Arc<Tty>,
}

impl TtyFile {
    /// Operations on `tty`.
    pub fn new(tty: Arc<Tty>) -> Arc<TtyFile> {
        tty.line().opened();
        Arc::new(TtyFile { tty })
    }

    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }
}

fn open_controlling(context: &OpenContext<'_>, _: Dev) -> Result<Arc<dyn FileOps>> {
    let task = context.task.ok_or(Errno::ENXIO)?;
    let tty = job::controlling(task).ok_or(Errno::ENXIO)?;
    check_exclusive(task, &tty)?;
    Ok(TtyFile::new(tty))
}

/// The console never becomes a controlling terminal by being opened.
fn open_console(context: &OpenContext<'_>, _: Dev) -> Result<Arc<dyn FileOps>> {
    let tty = console().ok_or(Errno::ENODEV)?;
    if let Some(task) = context.task {
        check_exclusive(task, tty)?;
    }
    Ok(TtyFile::new(tty.clone()))
}

pub(super) fn check_exclusive(task: &Task, tty: &Tty) -> Result<()> {
    if tty.is_exclusive() && !task.cred().capable(cap::SYS_ADMIN) { Err(Errno::EBUSY) } else { Ok(()) }
}

/// Makes a terminal that was opened without `O_NOCTTY` the caller's controlling one, where open(2) does that.
pub(super) fn adopt(context: &OpenContext<'_>, tty: &Arc<Tty>) {
    if let Some(task) = context.task
        && !context.flags.contains(OpenFlags::NOCTTY)
        && context.flags.readable()
        && tty.session().is_none()
    {
        // Not a session's leader, or one that has a terminal: nothing changes.
        let _ = job::set_controlling(task, tty, false);
    }
}

impl FileOps for TtyFile {
    fn splices(&self) -> bool {
        true
    }

    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        job::check(&task::current(), &self.tty, SIGTTIN)?;
        let bytes = self.tty.read(dst.remaining().min(CHUNK), file.nonblocking())?;
        dst.write(&bytes)
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        if self.tty.termios().local(uapi::TOSTOP) {
            job::check(&task::current(), &self.tty, SIGTTOU)?;
        }
        let mut chunk = vec![0; src.remaining().min(CHUNK)];
        let mut done = 0;
        while src.remaining() > 0 {
            let step = src.read(&mut chunk).and_then(|count| {
                let written = self.tty.write(chunk.get(..count).unwrap_or_default(), file.nonblocking())?;
                Ok((written, written == count))
            });
            match step {
                Ok((written, true)) => done += written,
                Ok((written, false)) => return Ok(done + written),
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table
            && (table.register(&self.tty.readers).is_err() || table.register(&self.tty.writers).is_err())
        {
            return PollEvents::ERR;
        }
        let mut events = PollEvents::empty();
        if self.tty.can_read() {
            events |= PollEvents::READABLE;
        }
        if self.tty.is_hung_up() {
            return events | PollEvents::HUP | PollEvents::ERR | PollEvents::READABLE | PollEvents::WRITABLE;
        }
        if self.tty.can_write() {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    fn ioctl(&self, task: &Arc<Task>, file: &File, cmd: u32, arg: u64) -> Result<u64> {
        ioctl::ioctl(task, &self.tty, file, cmd, arg, ioctl::Side::Terminal)
    }

    fn release(&self, _: &File) {
        self.tty.line().closed();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
