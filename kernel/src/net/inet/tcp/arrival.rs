//! What has arrived at a socket: bytes that can be read, and bytes that their sender holds back for more (`MSG_MORE`, `TCP_CORK`).
//!
//! Bytes held back lie at the end of the receiver's ring already. They are let go by the sender's next bytes without `MSG_MORE`, when the
//! option goes, when they fill a segment, when the stream ends, or by a timer, which is why their number is kept outside the ring's lock.

use super::TcpSocket;
use super::option::SEGMENT;
use crate::time::timer::{Expire, Target, Timer, arm};
use crate::time::{self, deadline_in};
use alloc::sync::Weak;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

/// How long bytes are held back at most.
const HOLD_NS: u64 = time::SEC_NS / 5;

/// Two counts in one word: bytes to be read, and those held back (in the upper half).
#[derive(Default)]
struct Counts(AtomicU64);

impl Counts {
    fn get(&self) -> (usize, usize) {
        let word = self.0.load(Acquire);
        (word as u32 as usize, (word >> 32) as usize)
    }

    fn change(&self, change: impl Fn(usize, usize) -> (usize, usize)) {
        let _ = self.0.fetch_update(AcqRel, Acquire, |word| {
            let (ready, held) = change(word as u32 as usize, (word >> 32) as usize);
            Some(ready as u64 | (held as u64) << 32)
        });
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Arrival {
    counts: Counts,
    /// Since when bytes are held back; whether the timer is armed.
    held_since_ns: AtomicU64,
    is_armed: AtomicBool,
    /// When a listener with `TCP_DEFER_ACCEPT` gets the connection even without bytes.
    pub deferred_until_ns: AtomicU64,
    /// When a connection is asked for again; 0: it is not.
    pub knocks_at_ns: AtomicU64,
}

impl Arrival {
    /// Bytes to be read.
    pub fn ready(&self) -> usize {
        self.counts.get().0
    }

    /// Bytes held back.
    pub fn held(&self) -> usize {
        self.counts.get().1
    }

    /// Bytes of both kinds: those in the ring.
    pub fn all(&self) -> usize {
        let (ready, held) = self.counts.get();
        ready + held
    }

    /// `count` bytes were taken.
    pub fn take(&self, count: usize) {
        self.counts.change(|ready, held| (ready.saturating_sub(count), held));
    }

    /// The ring was emptied.
    pub fn clear(&self) {
        self.counts.change(|_, _| (0, 0));
    }
}

impl TcpSocket {
    /// `count` bytes have come, and more will (`more`), or not. Whether there is something new to read.
    pub(super) fn arrived(&self, count: usize, more: bool) -> bool {
        let arrival = &self.arrival;
        let most = (SEGMENT as usize).min(self.capacity.load(Relaxed) / 2);
        if more && arrival.held() + count < most {
            let first = arrival.held() == 0;
            arrival.counts.change(|ready, held| (ready, held + count));
            if first {
                arrival.held_since_ns.store(time::monotonic_ns(), Relaxed);
                self.watch_held(deadline_in(HOLD_NS));
            }
            return false;
        }
        arrival.counts.change(|ready, held| (ready + held + count, 0));
        true
    }

    /// Lets go what is held back here.
    pub(super) fn let_go(&self) {
        if self.arrival.held() > 0 {
            self.arrival.counts.change(|ready, held| (ready + held, 0));
            self.tell_reader();
        }
    }

    fn watch_held(&self, deadline_ns: u64) {
        if self.arrival.is_armed.swap(true, AcqRel) {
            return;
        }
        if self.arm(deadline_ns).is_err() {
            self.arrival.is_armed.store(false, Release);
            self.let_go();
        }
    }

    /// Has [`Expire::expired`] called.
    pub(super) fn arm(&self, deadline_ns: u64) -> crate::Result<Timer> {
        let me: Weak<dyn Expire> = self.me.clone();
        arm(deadline_ns, Target::Owner(me))
    }
}

impl Expire for TcpSocket {
    fn expired(&self, now_ns: u64) {
        let arrival = &self.arrival;
        arrival.is_armed.store(false, Release);
        if arrival.held() > 0 {
            let due_ns = arrival.held_since_ns.load(Relaxed).saturating_add(HOLD_NS);
            if now_ns >= due_ns { self.let_go() } else { self.watch_held(due_ns) }
        }
        let until_ns = arrival.deferred_until_ns.load(Relaxed);
        if until_ns != 0 && now_ns >= until_ns {
            self.end_deferral();
        }
        self.attempt_expired(now_ns);
        self.keepalive_expired(now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_do_not_touch_each_other() {
        let counts = Counts::default();
        counts.change(|ready, held| (ready + 3, held + 7));
        counts.change(|ready, held| (ready - 1, held));
        assert_eq!(counts.get(), (2, 7));
        counts.change(|ready, held| (ready + held, 0));
        assert_eq!(counts.get(), (9, 0));
    }
}
