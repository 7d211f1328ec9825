//! Signals read from a descriptor. Source: signalfd(2).

use super::number::*;
use super::{SigInfo, take_of};
use crate::fs::{File, FileOps, IoDst, OpenFlags, PollEvents, PollTable};
use crate::room::Text;
use crate::{Errno, Result, task};
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU64, Ordering::*};

/// Bytes of `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// See the module. Reads take signals of the reading thread, whoever made the descriptor.
pub struct SignalFd {
    set: AtomicU64,
}

impl SignalFd {
    /// Replaces the set of signals.
    pub fn set(&self, set: SigSet) {
        self.set.store(set & !UNBLOCKABLE, Release);
    }
}

impl FileOps for SignalFd {
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        if dst.remaining() < RECORD {
            return Err(Errno::EINVAL);
        }
        let task = task::current();
        let take = || take_of(&task, self.set.load(Acquire));
        let first = match take() {
            Some(info) => info,
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => {
                let queue = &task.process().signal.watchers;
                queue.wait_interruptible(None, take).map_err(|_| Errno::ERESTARTSYS)?
            }
        };
        let mut done = dst.write(&record(&first))?;
        while dst.remaining() >= RECORD
            && let Some(info) = take()
        {
            done += dst.write(&record(&info))?;
        }
        Ok(done)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        let task = task::current();
        let shared = &task.process().signal;
        if table.is_some_and(|table| table.register(&shared.watchers).is_err()) {
            return PollEvents::ERR;
        }
        let pending = shared.sets().0 | task.signal.pending_set();
        if pending & self.set.load(Acquire) != 0 { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn fdinfo(&self, _: &File, out: &mut Text) {
        let _ = writeln!(out, "sigmask:\t{:016x}", self.set.load(Acquire));
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[signalfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes one. `flags`: `O_NONBLOCK`.
pub fn new(set: SigSet, flags: OpenFlags) -> Arc<File> {
    let ops = SignalFd { set: AtomicU64::new(set & !UNBLOCKABLE) };
    File::anonymous(Arc::new(ops), flags | OpenFlags::RDWR)
}

/// `struct signalfd_siginfo` from a siginfo.
fn record(info: &SigInfo) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(to) = bytes.get_mut(at..at + value.len()) {
            to.copy_from_slice(value);
        }
    };
    let [first, second, third, fourth, ..] = info.0.fields;
    put(0, &info.0.signo.to_le_bytes());
    put(4, &info.0.errno.to_le_bytes());
    put(8, &info.0.code.to_le_bytes());
    match info.signo() {
        SIGCHLD => {
            put(12, &first.to_le_bytes());
            put(40, &(second as u32).to_le_bytes());
            put(56, &third.to_le_bytes());
            put(64, &fourth.to_le_bytes());
        }
        SIGSEGV | SIGBUS | SIGILL | SIGFPE | SIGTRAP => put(72, &first.to_le_bytes()),
        SIGIO => {
            put(28, &(first as u32).to_le_bytes());
            put(20, &(second as u32).to_le_bytes());
        }
        _ if info.code() == super::code::SI_TIMER => {
            put(24, &(first as u32).to_le_bytes());
            put(32, &((first >> 32) as u32).to_le_bytes());
            put(44, &(second as u32).to_le_bytes());
            put(48, &second.to_le_bytes());
        }
        _ => {
            put(12, &first.to_le_bytes());
            put(44, &(second as u32).to_le_bytes());
            put(48, &second.to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::code;

    #[test]
    fn records_lie_where_c_has_them() {
        let bytes = record(&SigInfo::raw(SIGUSR1, code::SI_QUEUE, &[7 | 8 << 32, 9]));
        let at = |offset: usize| u32::from_le_bytes(core::array::from_fn(|i| bytes[offset + i]));
        assert_eq!((at(0), at(8) as i32, at(12), at(16)), (10, -1, 7, 8));
        assert_eq!((at(44), at(48)), (9, 9));
        let bytes = record(&SigInfo::child(SIGCHLD, 1, 5, 6, 3, 0, 0));
        assert_eq!((bytes[12], bytes[16], bytes[40]), (5, 6, 3));
    }
}
