//! Core files: what a process was when a signal ended it. Sources: core(5), elf(5).
//!
//! The thread that takes the signal decides the end of the process, waits until the other threads have left, and writes the
//! file before it leaves itself. Each thread that leaves meanwhile notes its registers ([`leaving`]). The name is made by
//! [`pattern`], the contents by [`elf`]. No helper is started for a core: a pattern that begins with `|` is not taken.
//!
//! Locks: `Process::cores` (rank `Leaf`), [`pattern`]'s own.

mod elf;
pub mod pattern;

use super::ptrace::registers;
use super::{Process, Task, WaitStatus, exit};
use crate::fs::{File, IoSrc, Kind, Name, Names, OpenFlags, SetAttr};
use crate::signal::SigInfo;
use crate::{Errno, Result, sched};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general::RLIMIT_CORE;

/// A core smaller than this is not begun.
const LEAST: u64 = 4096;
/// Bytes written at a time.
const CHUNK: usize = 32 << 10;

/// What a thread leaves for the core.
pub struct Thread {
    tid: i32,
    regs: [u64; registers::COUNT],
    /// FPU image; empty if there was no memory for it.
    fpu: Vec<u8>,
    mask: u64,
    pending: u64,
    /// User and system time, ns.
    times: [u64; 2],
}

impl Thread {
    fn of(task: &Task) -> Thread {
        let usage = task.sched.usage();
        Thread {
            tid: task.process().sees(task.tid()),
            regs: registers::get(task),
            fpu: registers::xstate(task).unwrap_or_default(),
            mask: task.signal.mask(),
            pending: task.signal.pending_set(),
            times: [usage.user_ns, usage.system_ns],
        }
    }
}

/// The process of `task` ends by the signal `info`, and leaves a core if it may.
pub fn end(task: &Arc<Task>, info: &SigInfo) {
    let process = task.process();
    let status = WaitStatus::signaled(info.signo(), false);
    let wanted = process.limit(RLIMIT_CORE) >= LEAST && process.dumpable.load(Relaxed) == 1;
    if !wanted {
        return exit::group_exit(process, status);
    }
    *process.cores.lock() = Some(Vec::new());
    exit::group_exit(process, status);
    let first = process.group_exit() == Some(status) && !process.is_killed();
    if first && wait_alone(process) && write(task, info).is_ok() {
        process.note_core();
    }
    let threads = process.cores.lock().take();
    drop(threads);
}

/// A thread leaves: its registers go into the core that is being written, if any.
pub fn leaving(task: &Task) {
    let process = task.process();
    if !process.is_exiting() || process.cores.lock().is_none() {
        return;
    }
    let thread = Thread::of(task);
    if let Some(threads) = process.cores.lock().as_mut()
        && threads.try_reserve(1).is_ok()
    {
        threads.push(thread);
    }
}

/// Waits for the other threads to leave; false if SIGKILL was faster.
fn wait_alone(process: &Process) -> bool {
    process.child_events.wait_until(|| (process.live_threads() <= 1 || process.is_killed()).then_some(()));
    !process.is_killed()
}

fn write(task: &Arc<Task>, info: &SigInfo) -> Result<()> {
    let process = task.process();
    let others = process.cores.lock().as_mut().map(core::mem::take).unwrap_or_default();
    let file = open(task, info)?;
    let threads: Vec<Thread> = core::iter::once(Thread::of(task)).chain(others).collect();
    let mut out = Out { file: &file, process, at: 0, limit: process.limit(RLIMIT_CORE) };
    let written = elf::write(&mut out, task, info, &threads);
    if out.at == 0 {
        return written;
    }
    // What is cut off, at the limit or where there is no more room, is a core all the same, as on Linux. What was left out at the
    // end belongs to the file, too.
    let path = file.path().ok_or(Errno::EIO)?;
    path.inode().set_attr(&SetAttr { size: Some(out.at), ..SetAttr::default() })
}

/// The file that the pattern names: a regular one of the user's own, with no other name.
fn open(task: &Arc<Task>, info: &SigInfo) -> Result<Arc<File>> {
    let name = pattern::expand(task, info.signo());
    let (context, cred) = (task.fs()?, task.cred());
    let names = Names { context: &context, cred: &cred };
    let flags = OpenFlags::CREAT | OpenFlags::RDWR | OpenFlags::NOFOLLOW;
    let file = names.open(&Name::new(&name), flags, 0o600, Some(task))?;
    let path = file.path().ok_or(Errno::EINVAL)?;
    let attr = path.attr()?;
    if path.inode().kind() != Kind::Regular || attr.nlink > 1 || attr.uid != cred.fsuid || path.is_deleted() {
        return Err(Errno::EPERM);
    }
    path.inode().set_attr(&SetAttr { size: Some(0), ..SetAttr::default() })?;
    Ok(file.clone())
}

/// The file while it is written.
struct Out<'a> {
    file: &'a File,
    process: &'a Process,
    at: u64,
    /// `RLIMIT_CORE`.
    limit: u64,
}

impl Out<'_> {
    /// Writes `bytes`.
    ///
    /// # Errors
    /// `EFBIG` at the limit, `EINTR` if SIGKILL came, what the file system says.
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > self.limit.saturating_sub(self.at) {
            return Err(Errno::EFBIG);
        }
        if self.process.is_killed() {
            return Err(Errno::EINTR);
        }
        let mut src = IoSrc::kernel(bytes);
        while src.remaining() > 0 {
            match self.file.write_at(&mut src, self.at)? {
                0 => return Err(Errno::EIO),
                count => self.at += count as u64,
            }
        }
        Ok(())
    }

    /// Leaves `len` bytes out: they read as zeroes.
    fn skip(&mut self, len: u64) -> Result<()> {
        if len > self.limit.saturating_sub(self.at) {
            return Err(Errno::EFBIG);
        }
        self.at += len;
        Ok(())
    }

    /// Leaves out what is missing to a multiple of `unit`.
    fn align(&mut self, unit: u64) -> Result<()> {
        self.skip(self.at.next_multiple_of(unit) - self.at)
    }

    /// Writes guest memory; pages of zeroes are left out.
    fn memory(&mut self, task: &Task, start: u64, len: u64) -> Result<()> {
        let space = task.space().ok_or(Errno::ESRCH)?;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(CHUNK).map_err(|_| Errno::ENOMEM)?;
        let mut done = 0;
        while done < len {
            let want = (len - done).min(CHUNK as u64) as usize;
            buffer.clear();
            buffer.resize(want, 0);
            // What cannot be read (a file that has shrunk) is zeroes.
            let _ = space.read_remote(umbel_mm::UserAddr(start + done), &mut buffer);
            for page in buffer.chunks(umbel_mm::PAGE as usize) {
                if page.iter().any(|&byte| byte != 0) {
                    self.put(page)?;
                } else {
                    self.skip(page.len() as u64)?;
                }
            }
            done += want as u64;
            sched::cond_resched();
        }
        Ok(())
    }
}
