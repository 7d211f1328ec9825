//! The machine's byte rings as the kernel's drivers use them: locked, with a wait queue, the machine woken on demand.
//!
//! Locks: the ring's (rank `Ring`), never held across a wait.

use crate::Result;
use alloc::sync::Arc;
use umbel_abi::machine::RingIndex;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::ring::{Consumer, Input, Producer, Words, of_machine};
use umbel_smp::sync::{AtomicU32, futex_wake};
use umbel_smp::wait::{WaitQueue, Wake};

/// Kernel to machine.
pub struct OutRing {
    end: SpinLock<Producer<'static>>,
    /// Woken when there is room, or never will be.
    pub writers: Arc<WaitQueue>,
}

/// Machine to kernel.
pub struct InRing {
    end: SpinLock<Consumer<'static>>,
    /// Woken when there is data, or never will be.
    pub readers: Arc<WaitQueue>,
}

impl OutRing {
    /// A ring over `words`.
    pub fn new(words: Words<'static>) -> Self {
        Self { end: SpinLock::new(Rank::Ring, Producer::new(words)), writers: Arc::new(WaitQueue::new()) }
    }

    /// One of the machine's rings; the caller is its only user in the kernel.
    pub fn of_machine(index: RingIndex) -> Self {
        Self::new(of_machine(index))
    }

    /// Bytes that fit now. Announces that the kernel waits if there is no room.
    ///
    /// # Errors
    /// `EPIPE` once the machine closed its end, or the error that the host gave it.
    pub fn room(&self) -> Result<usize> {
        let end = self.end.lock();
        match end.room()? {
            0 if end.arm() => Ok(0),
            _ => end.room(),
        }
    }

    /// Sends what fits and returns how much that was.
    ///
    /// # Errors
    /// `EPIPE` once the machine closed its end, or the error that the host gave it.
    pub fn push(&self, bytes: &[u8]) -> Result<usize> {
        let mut end = self.end.lock();
        let count = end.push(bytes)?;
        let word = end.kick();
        drop(end);
        wake_machine(word);
        Ok(count)
    }

    /// Sends all of `bytes` if they fit, else nothing.
    pub fn push_or_drop(&self, bytes: &[u8]) {
        if self.room().is_ok_and(|room| room >= bytes.len()) {
            // Two writers may both have seen the room: then the second line is cut.
            let _ = self.push(bytes);
        }
    }

    /// Sends all of `bytes`, waiting for room; gives up when the machine closed its end or the thread is interrupted.
    pub fn push_all(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.push(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(_) => return,
            }
            if !rest.is_empty() && self.wait_room().is_err() {
                return;
            }
        }
    }

    /// Sleeps until there is room or never will be.
    ///
    /// # Errors
    /// Interrupted.
    pub fn wait_room(&self) -> core::result::Result<(), Wake> {
        self.writers.wait_interruptible(None, || (self.room() != Ok(0)).then_some(()))
    }

    /// The machine has taken everything, or takes no more.
    pub fn is_drained(&self) -> bool {
        self.end.lock().is_drained()
    }

    /// No more will come.
    pub fn close(&self) {
        let end = self.end.lock();
        end.close();
        let word = end.kick();
        drop(end);
        wake_machine(word);
    }

    /// Device interrupt: the machine may have taken something.
    pub fn interrupt(&self) {
        if !self.writers.is_empty() && self.room() != Ok(0) {
            self.writers.wake_all();
        }
    }
}

impl InRing {
    /// A ring over `words`.
    pub fn new(words: Words<'static>) -> Self {
        Self { end: SpinLock::new(Rank::Ring, Consumer::new(words)), readers: Arc::new(WaitQueue::new()) }
    }

    /// One of the machine's rings; the caller is its only user in the kernel.
    pub fn of_machine(index: RingIndex) -> Self {
        Self::new(of_machine(index))
    }

    /// What is there. Announces that the kernel waits if that is nothing.
    pub fn look(&self) -> Input {
        let end = self.end.lock();
        match end.look() {
            Input::Empty if end.arm() => Input::Empty,
            _ => end.look(),
        }
    }

    /// Takes up to `bytes.len()` bytes.
    pub fn pop(&self, bytes: &mut [u8]) -> usize {
        let mut end = self.end.lock();
        let count = end.pop(bytes);
        let word = end.kick();
        drop(end);
        wake_machine(word);
        count
    }

    /// No more will be taken.
    pub fn close(&self) {
        let end = self.end.lock();
        end.close();
        let word = end.kick();
        drop(end);
        wake_machine(word);
    }

    /// Device interrupt: the machine may have sent something.
    pub fn interrupt(&self) {
        if !self.readers.is_empty() && self.look() != Input::Empty {
            self.readers.wake_all();
        }
    }
}

fn wake_machine(word: Option<&AtomicU32>) {
    if let Some(word) = word {
        futex_wake(word, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Errno;
    use std::boxed::Box;
    use umbel_smp::ring::Cell;
    use umbel_smp::sync::AtomicU64;

    fn words() -> Words<'static> {
        let data: &'static [Cell] = Box::leak((0..16).map(|_| Cell::new(0)).collect::<std::vec::Vec<_>>().into());
        let word = || -> &'static AtomicU32 { Box::leak(Box::default()) };
        let count = || -> &'static AtomicU64 { Box::leak(Box::default()) };
        Words {
            head: count(),
            tail: count(),
            consumer_waiting: word(),
            consumer_closed: word(),
            producer_waiting: word(),
            producer_closed: word(),
            error: word(),
            data,
        }
    }

    #[test]
    fn what_does_not_fit_stays_with_the_caller() {
        let words = words();
        let (out, input) = (OutRing::new(words), InRing::new(words));
        assert_eq!(out.push(b"0123456789abcdefXY"), Ok(16));
        assert_eq!(out.room(), Ok(0));
        assert!(!out.is_drained());
        let mut got = [0; 32];
        assert_eq!(input.pop(&mut got), 16);
        assert_eq!(&got[..16], b"0123456789abcdef");
        assert!(out.is_drained());
        assert_eq!(input.look(), Input::Empty);
    }

    #[test]
    fn a_log_line_is_kept_whole_or_dropped() {
        let words = words();
        let (out, input) = (OutRing::new(words), InRing::new(words));
        out.push_or_drop(b"0123456789");
        out.push_or_drop(b"0123456789");
        assert_eq!(input.look(), Input::Ready(10));
        input.close();
        assert_eq!(out.push(b"x"), Err(Errno::EPIPE));
        out.push_all(b"gives up");
    }
}
