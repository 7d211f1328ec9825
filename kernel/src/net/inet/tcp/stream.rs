//! Moving bytes between the two sockets of a connection, and what is ready.

use super::option::SEGMENT;
use super::{Phase, TcpSocket};
use crate::fs::{IoDst, IoSrc, PollEvents};
use crate::ipc::ring::PAGE;
use crate::net::counters::Tcp;
use crate::net::socket::Call;
use crate::net::sysctl;
use crate::net::uapi::*;
use crate::{Errno, Result, sched, time};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::*;

/// What either side adds to the room between two sockets, unless its buffer was set by hand.
const SHARE: u32 = 128 << 10;
/// Most room between two sockets, whatever they ask for.
const ROOM_MAX: usize = 16 << 20;
/// What `SO_SNDBUF` grows to with a connection: ten segments, doubled, with what Linux allocates for each.
const GROWN: u32 = 20 * (131_072 + 256);
/// `SO_BUF_LOCK`: the buffer was set by hand.
const SEND_LOCKED: u32 = 1;
const RECEIVE_LOCKED: u32 = 2;

impl TcpSocket {
    /// How much the peer `from` may have under way to here.
    pub(super) fn set_capacity(&self, from: &TcpSocket) {
        let own = &self.common;
        let receive = match own.buffer_locks.load(Relaxed) & RECEIVE_LOCKED {
            0 => SHARE,
            _ => own.receive_buffer.load(Relaxed),
        };
        let send = match from.common.buffer_locks.load(Relaxed) & SEND_LOCKED {
            0 => SHARE,
            _ => from.common.send_buffer.load(Relaxed),
        };
        let capacity = (receive as usize + send as usize).min(ROOM_MAX).next_multiple_of(PAGE);
        self.capacity.store(capacity, Release);
    }

    /// There is a connection: the send buffer is as large as its segments ask for, unless it was set by hand.
    pub(super) fn grow_send_buffer(&self) {
        if self.common.buffer_locks.load(Relaxed) & SEND_LOCKED == 0 {
            let most = self.common.namespace.settings.get(sysctl::TCP_SEND + 2) as u32;
            self.common.send_buffer.fetch_max(GROWN.min(most), Relaxed);
        }
    }

    fn room(&self) -> usize {
        self.capacity.load(Acquire).saturating_sub(self.arrival.all())
    }

    /// Whether a sender that waits has reason to wake up.
    fn is_roomy(&self) -> bool {
        self.room() * 3 >= self.capacity.load(Acquire)
    }

    /// Bytes sent that the peer's receive buffer has not taken.
    pub(super) fn unsent(&self) -> usize {
        let waits = |peer: Arc<TcpSocket>| {
            let (taken, room) = (peer.arrival.ready(), peer.common.receive_buffer.load(Relaxed) as usize);
            taken.saturating_sub(room) + peer.arrival.held()
        };
        self.peer().map_or(0, waits)
    }

    /// Bytes that wait at the peer for more to come.
    pub(super) fn held_back(&self) -> usize {
        self.peer().map_or(0, |peer| peer.arrival.held())
    }

    pub(super) fn send_bytes(&self, call: &Call<'_>, src: &mut IoSrc<'_>) -> Result<usize> {
        let total = src.remaining();
        let mut done = 0;
        loop {
            match self.send_some(call, src) {
                Ok(count) => done += count,
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
            if done >= total {
                return Ok(done);
            }
            sched::cond_resched();
        }
    }

    /// Sends what fits now; waits for a connection or for room, if there is none, and sends nothing then.
    fn send_some(&self, call: &Call<'_>, src: &mut IoSrc<'_>) -> Result<usize> {
        self.common.check_error()?;
        if self.send_shut.load(Acquire) {
            return Err(Errno::EPIPE);
        }
        let (phase, peer) = {
            let state = self.state.lock();
            (state.phase, state.peer.upgrade())
        };
        match phase {
            Phase::Connected => {}
            Phase::SynSent => {
                let settled = || (self.state.lock().phase != Phase::SynSent).then_some(());
                return self.common.wait_writable(call.nonblock, settled).map(|()| 0);
            }
            _ => return Err(Errno::EPIPE),
        }
        if src.remaining() == 0 {
            return Ok(0);
        }
        let Some(peer) = peer.filter(|peer| !peer.gone.load(Acquire)) else {
            // Nobody can read it any more: it is sent, and answered by an RST.
            let lost = src.remaining();
            self.receive_reset_from_orphan();
            return Ok(lost);
        };
        let count = peer.put(src, call.has(MSG_MORE) || self.is_corked())?;
        if count > 0 {
            self.sent.fetch_add(count as u64, Relaxed);
            self.heard();
            peer.heard();
            self.count_sent(count.div_ceil(SEGMENT as usize) as u64, count as u64);
            return Ok(count);
        }
        // What is held back must not keep out what it waits for.
        peer.let_go();
        if call.nonblock && peer.room() > 0 {
            return Ok(0);
        }
        let roomy = || (peer.is_roomy() || self.send_shut.load(Acquire) || peer.gone.load(Acquire)).then_some(());
        self.common.wait_writable(call.nonblock, roomy).map(|()| 0)
    }

    /// Takes bytes that the peer sends, as many as fit. `more`: they wait for others.
    fn put(&self, src: &mut IoSrc<'_>, more: bool) -> Result<usize> {
        let mut ring = self.incoming.lock();
        let capacity = self.capacity.load(Relaxed);
        if ring.capacity() != capacity {
            // Only at the first byte, and after a socket was connected again.
            let least = ring.len();
            ring.resize(capacity.max(least))?;
        }
        let count = ring.fill(src)?;
        let ready = count > 0 && self.arrived(count, more);
        drop(ring);
        self.received.fetch_add(count as u64, Relaxed);
        if self.common.switches.get(so::TIMESTAMP) || self.common.switches.get(so::TIMESTAMPNS) {
            self.arrived_ns.store(time::realtime_ns(), Relaxed);
        }
        if ready {
            self.tell_reader();
        }
        Ok(count)
    }

    /// There is something new to read.
    pub(super) fn tell_reader(&self) {
        if self.arrival.deferred_until_ns.load(Acquire) != 0 {
            self.end_deferral();
        }
        self.common.readers.wake_all();
    }

    /// The peer is closed, and we sent.
    fn receive_reset_from_orphan(&self) {
        let pair = {
            let state = self.state.lock();
            state.remote.map(|remote| (remote, state.local))
        };
        if let Some(pair) = pair {
            self.with_far_table(|table| table.remove(&pair));
        }
        // From the orphan.
        self.count(Tcp::OutRsts);
        self.count_segments(1);
        self.receive_reset();
    }

    pub(super) fn receive_bytes(&self, call: &Call<'_>, dst: &mut IoDst<'_>) -> Result<usize> {
        let wanted = match call.has(MSG_WAITALL) {
            true => dst.remaining(),
            false => dst.remaining().min(self.common.receive_low.load(Relaxed) as usize).max(1),
        };
        let mut done = 0;
        loop {
            if self.arrival.ready() > 0 {
                let left = wanted.saturating_sub(done);
                let peeks = call.has(MSG_PEEK);
                // What is peeked at is looked at again from its beginning.
                if peeks && self.arrival.ready() < left && self.goes_on(call) {
                    self.wait_bytes(call, left)?;
                }
                match self.take(call, dst) {
                    Ok(count) => done += count,
                    Err(_) if done > 0 => return Ok(done),
                    Err(error) => return Err(error),
                }
                if peeks || done >= wanted || dst.remaining() == 0 {
                    return Ok(done);
                }
                continue;
            }
            if done > 0 && (call.nonblock || self.common.has_error() || self.receive_shut.load(Acquire)) {
                return Ok(done);
            }
            if !self.check_receiving()? {
                return Ok(done);
            }
            match self.wait_bytes(call, 1) {
                Ok(()) => {}
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }

    fn goes_on(&self, call: &Call<'_>) -> bool {
        !call.nonblock && !self.receive_shut.load(Acquire) && !self.common.has_error()
    }

    /// Whether bytes may still come; there are none now.
    fn check_receiving(&self) -> Result<bool> {
        if self.ended.load(Acquire) {
            return Ok(false);
        }
        self.common.check_error()?;
        if self.receive_shut.load(Acquire) {
            return Ok(false);
        }
        match self.state.lock().phase {
            Phase::Connected | Phase::SynSent => Ok(true),
            _ => Err(Errno::ENOTCONN),
        }
    }

    fn wait_bytes(&self, call: &Call<'_>, count: usize) -> Result<()> {
        let count = count.min(self.capacity.load(Relaxed).max(1));
        let ready = || {
            let over = self.receive_shut.load(Acquire) || self.common.has_error();
            (self.arrival.ready() >= count || over).then_some(())
        };
        self.common.wait_readable(call.nonblock, ready)
    }

    /// Takes bytes, peeks at them, or throws them away.
    fn take(&self, call: &Call<'_>, dst: &mut IoDst<'_>) -> Result<usize> {
        let mut ring = self.incoming.lock();
        let was_roomy = self.is_roomy();
        let ready = self.arrival.ready();
        let count = if call.has(MSG_PEEK | MSG_TRUNC) {
            return Ok(ready.min(dst.remaining()));
        } else if call.has(MSG_PEEK) {
            return ring.peek_at_most(dst, ready);
        } else if call.has(MSG_TRUNC) {
            let count = ready.min(dst.remaining());
            ring.discard(count);
            // The caller's buffer counts, and is not touched.
            *dst = IoDst::kernel(&mut []);
            count
        } else {
            ring.drain_at_most(dst, ready)?
        };
        self.arrival.take(count);
        ring.trim();
        drop(ring);
        if (!was_roomy && self.is_roomy() || self.is_lingered_for.load(Acquire))
            && let Some(peer) = self.peer()
        {
            peer.common.writers.wake_all();
        }
        Ok(count)
    }

    pub(super) fn readiness(&self) -> PollEvents {
        let (phase, offers, peer) = {
            let state = self.state.lock();
            (state.phase, !state.backlog.is_empty(), state.peer.upgrade())
        };
        let mut events = PollEvents::empty();
        if phase == Phase::Listening {
            return if offers { PollEvents::READABLE } else { events };
        }
        let (receive_shut, send_shut) = (self.receive_shut.load(Acquire), self.send_shut.load(Acquire));
        if phase == Phase::Closed || (receive_shut && send_shut) {
            events |= PollEvents::HUP;
        }
        if receive_shut {
            events |= PollEvents::READABLE | PollEvents::RDHUP;
        }
        if phase != Phase::SynSent {
            if self.arrival.ready() >= self.common.receive_low.load(Relaxed) as usize {
                events |= PollEvents::READABLE;
            }
            if send_shut || peer.is_none_or(|peer| peer.is_roomy()) {
                events |= PollEvents::WRITABLE;
            }
        }
        if self.common.has_error() {
            events |= PollEvents::ERR;
        }
        events
    }
}
