//! Asking for a connection, at the end of the way to where it leads: at once, and again by a timer while nobody answers.

use super::super::table::TcpTable;
use super::connect::Offer;
use super::{Phase, TcpSocket};
use crate::net::counters::Tcp;
use crate::net::link::LOOPBACK;
use crate::net::route::{self, End, Far, Query, Way};
use crate::net::sysctl;
use crate::{Errno, time};
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::sync::atomic::Ordering::*;

impl TcpSocket {
    /// Asks for a connection at the end of the way.
    pub(super) fn knock(&self, way: &Way, local: SocketAddr, remote: SocketAddr) {
        let (namespace, device) = match &way.end {
            End::Here => (&self.common.namespace, LOOPBACK),
            End::There(far) if self.is_answered_from(far, local, remote) => (&far.namespace, far.device),
            End::There(_) | End::Lost(None) => return self.knock_again(None),
            End::Lost(error) => return self.knock_again(*error),
        };
        if device != LOOPBACK {
            self.state.lock().far = Some(Arc::downgrade(namespace));
        }
        let listener = namespace.tcp.lock().listener(remote, local, device);
        match listener.map_or(Offer::Refused, |listener| listener.offer(self, device)) {
            Offer::Refused => {
                namespace.counters.tcp(Tcp::OutRsts);
                self.count_segments(1);
                self.refuse();
            }
            Offer::Accepted | Offer::Full => {}
        }
    }

    /// Whether what the far end says comes back.
    fn is_answered_from(&self, far: &Far, local: SocketAddr, remote: SocketAddr) -> bool {
        let query = Query { from: Some(remote.ip()), ..Query::to(local.ip()) };
        match route::find(&far.namespace, &query) {
            Ok(Way { end: End::There(back), .. }) => Arc::ptr_eq(&back.namespace, &self.common.namespace),
            Ok(Way { end: End::Here, .. }) => Arc::ptr_eq(&far.namespace, &self.common.namespace),
            _ => false,
        }
    }

    /// Nobody has answered: tries again in a while, each time in twice of it, or gives up. `error`: what it hears of that.
    fn knock_again(&self, error: Option<Errno>) {
        /// Attempts until a neighbour that does not answer is given up.
        const NEIGHBOUR: u32 = 2;
        let attempts = {
            let mut state = self.state.lock();
            state.attempts += 1;
            state.attempts
        };
        let most = self.common.namespace.settings.get(sysctl::SYN_RETRIES) as u32 + 1;
        if attempts > most || error.is_some() && attempts > NEIGHBOUR {
            return self.give_up(error.unwrap_or(Errno::ETIMEDOUT));
        }
        let delay_ns = time::SEC_NS << (attempts - 1).min(20);
        let at_ns = time::deadline_in(delay_ns);
        self.arrival.knocks_at_ns.store(at_ns, Release);
        if self.arm(at_ns).is_err() {
            self.give_up(Errno::ENOBUFS);
        }
    }

    /// The timer's call: asks again, if nobody has answered yet.
    pub(super) fn attempt_expired(&self, now_ns: u64) {
        let at_ns = self.arrival.knocks_at_ns.load(Acquire);
        if at_ns == 0 || now_ns < at_ns {
            return;
        }
        self.arrival.knocks_at_ns.store(0, Release);
        let (local, remote) = {
            let state = self.state.lock();
            match (state.phase, state.remote) {
                (Phase::SynSent, Some(remote)) => (state.local, remote),
                _ => return,
            }
        };
        match route::find(&self.common.namespace, &self.common.query(remote.ip(), Some(local.ip()))) {
            Ok(way) => {
                self.count_segments(1);
                self.knock(&way, local, remote);
            }
            Err(error) => self.knock_again(Some(error)),
        }
    }

    /// Calls `change` with the table of connections that the peer is in.
    pub(super) fn with_far_table(&self, change: impl FnOnce(&mut TcpTable)) {
        let far = self.state.lock().far.clone();
        match far {
            None => change(&mut self.common.namespace.tcp.lock()),
            Some(far) => {
                if let Some(far) = far.upgrade() {
                    change(&mut far.tcp.lock());
                }
            }
        }
    }
}
