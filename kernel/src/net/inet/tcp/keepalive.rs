//! Probes of idle connections (`SO_KEEPALIVE`, `TCP_KEEP*`, `TCP_USER_TIMEOUT`). Source: tcp(7), RFC 9293 3.8.4.
//!
//! A probe is answered while there is a way to the peer. Unanswered ones end the connection with
//! `ETIMEDOUT`; the far end learns it when it next sends. One timer a connection, kept so that it can be cancelled.
//!
//! Locks: `timer` (rank Leaf), never while a timer is armed or cancelled.

use super::option::tcp;
use super::{Phase, TcpSocket};
use crate::net::counters::Tcp;
use crate::net::route::{self, End};
use crate::net::uapi::so;
use crate::time::timer::Timer;
use crate::{Errno, time};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use umbel_smp::lock::{Rank, SpinLock};

/// See the module.
pub(super) struct Keepalive {
    timer: SpinLock<Option<Timer>>,
    /// When the peer was last heard, while probing is on.
    heard_ns: AtomicU64,
    /// When something is due; 0: nothing.
    due_ns: AtomicU64,
    /// Probes since then.
    unanswered: AtomicU32,
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive {
            timer: SpinLock::new(Rank::Leaf, None),
            heard_ns: AtomicU64::new(0),
            due_ns: AtomicU64::new(0),
            unanswered: AtomicU32::new(0),
        }
    }
}

impl TcpSocket {
    fn is_probing(&self) -> bool {
        self.common.switches.get(so::KEEPALIVE)
    }

    /// The peer has sent, or has acknowledged.
    pub(super) fn heard(&self) {
        if self.is_probing() {
            self.keepalive.heard_ns.store(time::monotonic_ns(), Relaxed);
            self.keepalive.unanswered.store(0, Relaxed);
        }
    }

    /// There is a connection, or an option has changed: sets the timer anew, or takes it away.
    pub(super) fn watch_idleness(&self) {
        let connected = self.state.lock().phase == Phase::Connected;
        if !self.is_probing() || !connected {
            return self.stop_probing();
        }
        let heard_ns = match self.keepalive.heard_ns.load(Relaxed) {
            0 => {
                self.heard();
                time::monotonic_ns()
            }
            heard_ns => heard_ns,
        };
        self.probe_at(heard_ns.saturating_add(self.seconds(tcp::KEEPIDLE)));
    }

    /// The connection is over, or not to be probed.
    pub(super) fn stop_probing(&self) {
        self.keepalive.heard_ns.store(0, Relaxed);
        self.keepalive.due_ns.store(0, Release);
        let timer = self.keepalive.timer.lock().take();
        if let Some(timer) = timer {
            timer.cancel();
        }
    }

    fn probe_at(&self, due_ns: u64) {
        self.keepalive.due_ns.store(due_ns, Release);
        // Without memory for a timer nothing is probed until the next change.
        let new = self.arm(due_ns).ok();
        let old = core::mem::replace(&mut *self.keepalive.timer.lock(), new);
        if let Some(old) = old {
            old.cancel();
        }
    }

    fn seconds(&self, name: u32) -> u64 {
        self.number_of(name) as u64 * time::SEC_NS
    }

    /// Whether packets get to the peer.
    fn reaches_peer(&self) -> bool {
        let (local, remote) = self.addresses();
        let way = remote.and_then(|remote| {
            route::find(&self.common.namespace, &self.common.query(remote.ip(), Some(local.ip()))).ok()
        });
        way.is_some_and(|way| !matches!(way.end, End::Lost(_)))
    }

    /// The timer's call: probes, or gives up.
    pub(super) fn keepalive_expired(&self, now_ns: u64) {
        let keepalive = &self.keepalive;
        let due_ns = keepalive.due_ns.load(Acquire);
        if due_ns == 0 || now_ns < due_ns || self.state.lock().phase != Phase::Connected {
            return;
        }
        let idle_ns = self.seconds(tcp::KEEPIDLE);
        let heard_ns = keepalive.heard_ns.load(Relaxed);
        let elapsed_ns = now_ns.saturating_sub(heard_ns);
        if elapsed_ns < idle_ns {
            return self.probe_at(heard_ns.saturating_add(idle_ns));
        }
        let probes = keepalive.unanswered.load(Relaxed);
        let given_up = match u64::from(self.number_of(tcp::USER_TIMEOUT)) * 1_000_000 {
            0 => probes >= self.number_of(tcp::KEEPCNT),
            limit_ns => elapsed_ns >= limit_ns && probes > 0,
        };
        if given_up {
            return self.time_out();
        }
        self.count(Tcp::KeepAlives);
        self.count_segments(1);
        if self.reaches_peer() {
            self.heard();
            return self.probe_at(now_ns.saturating_add(idle_ns));
        }
        keepalive.unanswered.store(probes + 1, Relaxed);
        self.probe_at(now_ns.saturating_add(self.seconds(tcp::KEEPINTVL)));
    }

    /// Nobody answers: the connection ends here. The reset that is sent does not arrive.
    fn time_out(&self) {
        self.count(Tcp::AbortOnTimeout);
        self.count(Tcp::OutRsts);
        // Who sends to here from now on is answered by a reset.
        self.gone.store(true, Release);
        self.end_by(Some(Errno::ETIMEDOUT));
    }
}
