//! A counter with a descriptor. Source: eventfd(2).

use crate::fs::{File, FileOps, IoDst, IoSrc, OpenFlags, PollEvents, PollTable};
use crate::room::Text;
use crate::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicU64, Ordering::*};
use umbel_smp::wait::WaitQueue;

/// Highest value.
const MAX: u64 = u64::MAX - 1;

/// What a read takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// All of it.
    All,
    /// One (`EFD_SEMAPHORE`).
    One,
}

/// See the module.
pub struct EventFd {
    count: AtomicU64,
    take: Take,
    /// Readers and writers: whoever waits for a change.
    queue: Arc<WaitQueue>,
}

impl EventFd {
    fn new(count: u64, take: Take) -> EventFd {
        EventFd { count: AtomicU64::new(count), take, queue: Arc::new(WaitQueue::new()) }
    }

    fn try_take(&self) -> Option<u64> {
        let rest = |count: u64| match (count, self.take) {
            (0, _) => None,
            (_, Take::All) => Some(0),
            (_, Take::One) => Some(count - 1),
        };
        let old = self.count.fetch_update(AcqRel, Acquire, rest).ok()?;
        Some(if self.take == Take::All { old } else { 1 })
    }

    fn try_add(&self, value: u64) -> Option<()> {
        let sum = |count: u64| count.checked_add(value).filter(|sum| *sum <= MAX);
        self.count.fetch_update(AcqRel, Acquire, sum).ok().map(drop)
    }

    /// Adds one from within the kernel, never waiting: beyond [`MAX`] it has overflowed, which polls see as an error.
    pub fn signal(&self) {
        let add = |count: u64| Some(count.saturating_add(1));
        let _ = self.count.fetch_update(AcqRel, Acquire, add);
        self.queue.wake_all();
    }

    fn wait<R>(&self, nonblock: bool, mut attempt: impl FnMut() -> Option<R>) -> Result<R> {
        let done = match attempt() {
            Some(done) => done,
            None if nonblock => return Err(Errno::EAGAIN),
            None => self.queue.wait_interruptible(None, attempt).map_err(|_| Errno::ERESTARTSYS)?,
        };
        self.queue.wake_taker();
        Ok(done)
    }
}

impl FileOps for EventFd {
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = self.wait(file.nonblocking(), || self.try_take())?;
        dst.write(&value.to_le_bytes())
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let mut bytes = [0; 8];
        // More was accepted before Linux 6.9.
        if src.remaining() != 8 {
            return Err(Errno::EINVAL);
        }
        src.read(&mut bytes)?;
        let value = u64::from_le_bytes(bytes);
        if value > MAX {
            return Err(Errno::EINVAL);
        }
        self.wait(file.nonblocking(), || self.try_add(value))?;
        Ok(8)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if table.is_some_and(|table| table.register(&self.queue).is_err()) {
            return PollEvents::ERR;
        }
        let count = self.count.load(Acquire);
        let mut events = PollEvents::empty();
        if count > 0 {
            events |= PollEvents::READABLE;
        }
        if count < MAX {
            events |= PollEvents::WRITABLE;
        }
        if count > MAX {
            events |= PollEvents::ERR;
        }
        events
    }

    fn fdinfo(&self, _: &File, out: &mut Text) {
        let semaphore = i32::from(self.take == Take::One);
        let _ = write!(out, "eventfd-count: {:16x}\neventfd-semaphore: {semaphore}\n", self.count.load(Relaxed));
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[eventfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes one. `flags`: `O_NONBLOCK`.
pub fn new(count: u64, take: Take, flags: OpenFlags) -> Arc<File> {
    File::anonymous(Arc::new(EventFd::new(count, take)), flags | OpenFlags::RDWR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_take_all_or_one() {
        let all = EventFd::new(3, Take::All);
        assert_eq!((all.try_take(), all.try_take()), (Some(3), None));
        let one = EventFd::new(2, Take::One);
        assert_eq!((one.try_take(), one.try_take(), one.try_take()), (Some(1), Some(1), None));
    }

    #[test]
    fn the_counter_does_not_overflow() {
        let event = EventFd::new(MAX - 1, Take::All);
        assert_eq!(event.try_add(2), None);
        assert_eq!(event.try_add(1), Some(()));
        assert_eq!(event.wait(true, || event.try_add(1)), Err(Errno::EAGAIN));
    }
}
