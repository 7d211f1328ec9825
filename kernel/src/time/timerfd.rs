//! Timers with a descriptor. Source: timerfd_create(2).
//!
//! One that repeats stops when it has expired, until somebody asks for it: what it missed is counted then. However short its
//! period, it costs an interrupt for each look at it, and no more. Who waits is woken once for each look, as on Linux.

use super::interval::{Interval, Setting, cyclic};
use super::timer::Expire;
use super::{ClockId, monotonic_ns};
use crate::fs::{File, FileOps, IoDst, OpenFlags, PollEvents, PollTable};
use crate::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering::*};
use umbel_smp::wait::WaitQueue;

/// A timer that counts its expirations until they are read.
pub struct TimerFd {
    clock: ClockId,
    interval: Interval,
    expirations: AtomicU64,
    queue: Arc<WaitQueue>,
}

impl TimerFd {
    /// The setting now. Lets it go on, as reading does.
    pub fn get(&self) -> Setting {
        self.expirations.fetch_add(self.interval.go_on(monotonic_ns(), 0), AcqRel);
        self.interval.get()
    }

    /// Sets it, as [`super::posix::ProcessTimer::set`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set(&self, new: Setting, absolute: bool) -> Result<Setting> {
        let deadline_ns = match new.value_ns {
            0 => None,
            value if absolute => Some(self.clock.to_monotonic(value)),
            value => Some(monotonic_ns().saturating_add(value)),
        };
        let old = self.interval.set(deadline_ns, new.interval_ns)?;
        self.expirations.store(0, Release);
        Ok(old)
    }

    fn take(&self) -> Option<u64> {
        let count = self.expirations.swap(0, AcqRel);
        // Only what expired is counted on: a race with the timer leaves the rest to the next look.
        (count > 0).then(|| count.saturating_add(self.interval.go_on(monotonic_ns(), 0)))
    }
}

impl Expire for TimerFd {
    fn expired(&self, now_ns: u64) {
        if self.interval.due(now_ns) {
            self.expirations.fetch_add(1, AcqRel);
            self.queue.wake_all();
        }
    }
}

/// What the descriptor does.
struct Ops(Arc<TimerFd>);

impl FileOps for Ops {
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let count = match self.0.take() {
            Some(count) => count,
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => {
                let wait = self.0.queue.wait_interruptible(None, || self.0.take());
                wait.map_err(|_| Errno::ERESTARTSYS)?
            }
        };
        dst.write(&count.to_le_bytes())
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if table.is_some_and(|table| table.register(&self.0.queue).is_err()) {
            return PollEvents::ERR;
        }
        if self.0.expirations.load(Acquire) > 0 { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[timerfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes one. `flags`: `O_NONBLOCK`.
pub fn new(clock: ClockId, flags: OpenFlags) -> Arc<File> {
    let timer = cyclic(|interval| TimerFd {
        clock,
        interval,
        expirations: AtomicU64::new(0),
        queue: Arc::new(WaitQueue::new()),
    });
    File::anonymous(Arc::new(Ops(timer)), flags | OpenFlags::RDWR)
}

/// The timer behind an open file.
///
/// # Errors
/// `EINVAL` if it is not one.
pub fn of(file: &File) -> Result<Arc<TimerFd>> {
    file.ops_as::<Ops>().map(|ops| ops.0.clone()).ok_or(Errno::EINVAL)
}
