//! How connections begin and end.

use super::super::table::{Lingering, Pair};
use super::{Phase, State, TcpSocket};
use crate::net::counters::Tcp;
use crate::net::route;
use crate::net::socket::{Call, Socket};
use crate::net::sysctl;
use crate::{Errno, Result, task, time};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::net::SocketAddr;
use core::sync::atomic::Ordering::*;

/// What a listener says to a new connection.
pub(super) enum Offer {
    Accepted,
    Refused,
    /// No room: the client waits.
    Full,
}

impl TcpSocket {
    /// listen(2).
    pub(super) fn start_listening(&self, backlog: u32) -> Result<()> {
        let (phase, bound) = {
            let state = self.state.lock();
            (state.phase, state.binding.is_some())
        };
        match phase {
            Phase::Listening => {}
            Phase::Closed => {
                if !bound {
                    let any = super::addr::none(self.common.family());
                    self.bind_to(any)?;
                }
                let binding = self.state.lock().binding.clone().ok_or(Errno::EINVAL)?;
                self.common.namespace.tcp.lock().listen(&binding, &self.me)?;
            }
            _ => return Err(Errno::EINVAL),
        }
        let mut state = self.state.lock();
        state.phase = Phase::Listening;
        state.backlog_max = backlog.min(self.common.namespace.settings.get(sysctl::SOMAXCONN) as u32) as usize;
        self.receive_shut.store(false, Release);
        self.send_shut.store(false, Release);
        Ok(())
    }

    /// connect(2).
    pub(super) fn connect_to(&self, call: &Call<'_>, remote: SocketAddr) -> Result<()> {
        let phase = {
            let mut state = self.state.lock();
            let reported = !core::mem::take(&mut state.unreported);
            match state.phase {
                Phase::Listening => return Err(Errno::EISCONN),
                Phase::Connected if reported => return Err(Errno::EISCONN),
                Phase::Connected => return Ok(()),
                Phase::Closed if !reported => {
                    drop(state);
                    return Err(self.common.take_error().unwrap_or(Errno::ECONNABORTED));
                }
                Phase::SynSent => state.unreported = true,
                Phase::Closed => {}
            }
            state.phase
        };
        if phase == Phase::SynSent {
            return if call.nonblock { Err(Errno::EALREADY) } else { self.wait_connected() };
        }
        self.begin(call, remote)
    }

    fn begin(&self, call: &Call<'_>, remote: SocketAddr) -> Result<()> {
        let namespace = &self.common.namespace;
        let (bound, named) = {
            let state = self.state.lock();
            (state.binding.clone(), state.local)
        };
        if remote.is_ipv4() && self.common.family() == crate::net::uapi::AF_INET6 && self.ip.v6_only() {
            return Err(Errno::ENETUNREACH);
        }
        if remote.ip().is_multicast() || namespace.links().is_broadcast(remote.ip()) {
            return Err(Errno::ENETUNREACH);
        }
        let from = (!named.ip().is_unspecified()).then_some(named.ip());
        let way = route::find(namespace, &self.common.query(remote.ip(), from))?;
        let own = from.unwrap_or(way.source);
        if own.is_ipv4() != remote.is_ipv4() {
            return Err(Errno::EINVAL);
        }
        let claim = self.claim(SocketAddr::new(own, 0));
        let (binding, local) = namespace.tcp.lock().connect(bound.as_ref(), claim, remote, &self.me)?;
        self.common.link.store(way.device, Relaxed);
        {
            let mut state = self.state.lock();
            state.attempts = 0;
            state.local = local;
            state.remote = Some(remote);
            state.phase = Phase::SynSent;
            state.unreported = true;
            if bound.is_none() {
                state.binding = Some(binding);
            }
        }
        self.reopen();
        self.count(Tcp::ActiveOpens);
        self.count_segments(1);
        if local == remote {
            self.connect_to_self();
            return Ok(());
        }
        self.knock(&way, local, remote);
        if call.nonblock {
            return Err(Errno::EINPROGRESS);
        }
        self.wait_connected()
    }

    /// Both ends are this one: what is sent is received here.
    fn connect_to_self(&self) {
        self.set_capacity(self);
        self.grow_send_buffer();
        let mut state = self.state.lock();
        state.phase = Phase::Connected;
        state.peer = self.me.clone();
        state.unreported = false;
    }

    /// Forgets how an earlier connection ended.
    fn reopen(&self) {
        for flag in [&self.receive_shut, &self.send_shut, &self.ended, &self.gone] {
            flag.store(false, Release);
        }
    }

    /// Waits until a connection is made or refused.
    fn wait_connected(&self) -> Result<()> {
        let settled = || (self.state.lock().phase != Phase::SynSent).then_some(());
        self.common.wait_writable(false, settled).map_err(|error| match error {
            // The time for sending is over; the attempt goes on.
            Errno::EAGAIN => Errno::EINPROGRESS,
            error => error,
        })?;
        let connected = {
            let mut state = self.state.lock();
            state.unreported = false;
            state.phase == Phase::Connected
        };
        if connected { Ok(()) } else { Err(self.common.take_error().unwrap_or(Errno::ECONNABORTED)) }
    }

    /// Takes a connection from `client`, which comes in by `device`, or lets it wait.
    pub(super) fn offer(&self, client: &TcpSocket, device: u32) -> Offer {
        {
            let mut state = self.state.lock();
            if state.phase != Phase::Listening {
                return Offer::Refused;
            }
            if state.backlog.len() + state.deferred.len() > state.backlog_max {
                if state.waiting_clients.try_reserve(1).is_err() {
                    return Offer::Refused;
                }
                state.waiting_clients.push_back((client.me.clone(), device));
                drop(state);
                self.count(Tcp::ListenOverflows);
                return Offer::Full;
            }
        }
        self.establish(client, device)
    }

    /// Makes the connection's other end and puts it into the backlog.
    fn establish(&self, client: &TcpSocket, device: u32) -> Offer {
        let (client_local, remote) = {
            let state = client.state.lock();
            match (state.phase, state.remote) {
                (Phase::SynSent, Some(remote)) => (state.local, remote),
                _ => return Offer::Refused,
            }
        };
        let Some(binding) = self.state.lock().binding.clone() else { return Offer::Refused };
        if crate::net::room().is_err() {
            return Offer::Refused;
        }
        let server = TcpSocket::new(self.common.inherit());
        server.ip.copy(&self.ip);
        server.options.copy(&self.options);
        {
            let mut state = server.state.lock();
            state.phase = Phase::Connected;
            state.local = remote;
            state.remote = Some(client_local);
            state.peer = client.me.clone();
            let same = Arc::ptr_eq(&client.common.namespace, &self.common.namespace);
            state.far = (!same).then(|| Arc::downgrade(&client.common.namespace));
        }
        server.common.link.store(device, Relaxed);
        for (to, from) in [(&*server, client), (client, &*server)] {
            to.set_capacity(from);
            to.grow_send_buffer();
        }
        {
            let mut state = client.state.lock();
            if state.phase != Phase::SynSent {
                return Offer::Refused;
            }
            state.phase = Phase::Connected;
            state.peer = Arc::downgrade(&server);
        }
        self.count(Tcp::PassiveOpens);
        client.count_segments(1);
        server.count_segments(1);
        self.common.namespace.tcp.lock().insert((remote, client_local), &binding, &server.me);
        if !self.queue_connection(&server) {
            server.reset_peer();
            return Offer::Accepted;
        }
        client.watch_idleness();
        server.watch_idleness();
        client.common.wake();
        Offer::Accepted
    }

    /// Puts a new connection where accept(2) finds it, now or when bytes come (`TCP_DEFER_ACCEPT`). False: it listens no more.
    fn queue_connection(&self, server: &Arc<TcpSocket>) -> bool {
        let deferral_sec = self.deferral_sec();
        {
            let mut state = self.state.lock();
            // Room for all of those that are deferred, which come into the backlog where nothing can fail.
            let coming = state.deferred.len() + 1;
            let room = state.backlog.try_reserve(coming).is_ok() && state.deferred.try_reserve(1).is_ok();
            if state.phase != Phase::Listening || !room {
                return false;
            }
            if deferral_sec == 0 {
                state.backlog.push_back(server.clone());
            } else {
                state.deferred.push(server.clone());
            }
        }
        if deferral_sec == 0 {
            self.common.readers.wake_one();
            return true;
        }
        server.state.lock().listener = self.me.clone();
        let until_ns = time::deadline_in(deferral_sec * time::SEC_NS);
        server.arrival.deferred_until_ns.store(until_ns, Release);
        if server.arm(until_ns).is_err() {
            server.end_deferral();
        }
        true
    }

    /// A connection with `TCP_DEFER_ACCEPT` has got bytes, or has waited long enough: accept(2) may have it.
    pub(super) fn end_deferral(&self) {
        self.arrival.deferred_until_ns.store(0, Release);
        let listener = core::mem::take(&mut self.state.lock().listener);
        let Some(listener) = listener.upgrade() else { return };
        {
            let mut state = listener.state.lock();
            let Some(at) = state.deferred.iter().position(|new| core::ptr::eq(&**new, self)) else { return };
            let new = state.deferred.swap_remove(at);
            state.backlog.push_back(new);
        }
        listener.common.readers.wake_one();
    }

    /// A connection attempt failed.
    pub(super) fn refuse(&self) {
        self.give_up(Errno::ECONNREFUSED);
    }

    /// An attempt ends by an error.
    pub(super) fn give_up(&self, error: Errno) {
        self.unlist();
        {
            let mut state = self.state.lock();
            if state.phase != Phase::SynSent {
                return;
            }
            state.phase = Phase::Closed;
        }
        self.count(Tcp::AttemptFails);
        self.forget_addresses();
        self.shut_both();
        self.common.fail(error);
    }

    /// Gives up the peer's address, and its own if connect(2) gave it.
    fn forget_addresses(&self) {
        let binding = {
            let mut state = self.state.lock();
            state.remote = None;
            state.peer = Weak::new();
            state.far = None;
            let own = state.port_is_own;
            let automatic = state.binding.take_if(|binding| binding.automatic || !own);
            if automatic.is_some() {
                state.local = super::addr::none(self.common.family());
            }
            automatic
        };
        if let Some(binding) = binding {
            self.common.namespace.tcp.lock().release(&binding);
        }
    }

    /// Takes a connection out of the backlog.
    pub(super) fn take_connection(&self, call: &Call<'_>) -> Result<Arc<TcpSocket>> {
        let take = || {
            let mut state = self.state.lock();
            if state.phase != Phase::Listening {
                return Some(Err(Errno::EINVAL));
            }
            state.backlog.pop_front().map(Ok)
        };
        let new = self.common.wait_readable(call.nonblock, take)??;
        self.admit();
        let listed: Arc<dyn Socket> = new.clone();
        self.common.namespace.register(&listed);
        Ok(new)
    }

    /// There is room in the backlog: lets in who waits.
    fn admit(&self) {
        let next = || {
            let mut state = self.state.lock();
            let waiting = state.backlog.len() + state.deferred.len();
            if waiting > state.backlog_max { None } else { state.waiting_clients.pop_front() }
        };
        while let Some((client, device)) = next() {
            if let Some(client) = client.upgrade() {
                self.establish(&client, device);
            }
        }
    }

    /// The peer, while it is open.
    pub(super) fn peer(&self) -> Option<Arc<TcpSocket>> {
        self.state.lock().peer.upgrade()
    }

    /// shutdown(2).
    pub(super) fn shut(&self, receiving: bool, sending: bool) -> Result<()> {
        let phase = self.state.lock().phase;
        match phase {
            Phase::Closed => return Err(Errno::ENOTCONN),
            Phase::Listening => {
                if receiving {
                    self.stop_listening();
                    self.shut_both();
                    self.common.wake();
                }
                return Ok(());
            }
            Phase::SynSent => {
                self.refuse();
                return Ok(());
            }
            Phase::Connected => {}
        }
        if receiving {
            self.receive_shut.store(true, Release);
        }
        if sending {
            self.send_shut.store(true, Release);
            self.send_fin();
        }
        self.common.wake();
        Ok(())
    }

    pub(super) fn shut_both(&self) {
        self.receive_shut.store(true, Release);
        self.send_shut.store(true, Release);
    }

    fn pair(state: &State) -> Option<Pair> {
        Some((state.local, state.remote?))
    }

    /// Tells the peer that nothing more comes.
    fn send_fin(&self) {
        let (peer, pair, both) = {
            let mut state = self.state.lock();
            if state.fin_sent || state.phase != Phase::Connected {
                return;
            }
            state.fin_sent = true;
            (state.peer.upgrade(), Self::pair(&state), state.fin_received)
        };
        let Some((local, remote)) = pair else { return };
        // It, and what acknowledges it.
        self.count_segments(2);
        match peer {
            Some(peer) => {
                peer.let_go();
                peer.receive_fin();
            }
            // An orphan was waiting for this.
            None => self.with_far_table(|table| table.linger(&(remote, local), Lingering::TimeWait)),
        }
        if both {
            self.common.namespace.tcp.lock().remove(&(local, remote));
            self.finish();
        }
    }

    /// The peer sends no more.
    fn receive_fin(&self) {
        let (both, pair) = {
            let mut state = self.state.lock();
            if state.phase != Phase::Connected || state.fin_received {
                return;
            }
            state.fin_received = true;
            (state.fin_sent, Self::pair(&state))
        };
        self.ended.store(true, Release);
        self.receive_shut.store(true, Release);
        if self.arrival.deferred_until_ns.load(Acquire) != 0 {
            self.end_deferral();
        }
        if let Some(pair) = pair.filter(|_| both) {
            // Whose FIN was first waits for what may still be on its way.
            self.common.namespace.tcp.lock().linger(&pair, Lingering::TimeWait);
            self.finish();
        }
        self.common.wake();
    }

    /// Both directions have ended.
    fn finish(&self) {
        self.state.lock().phase = Phase::Closed;
        self.shut_both();
        self.common.wake();
    }

    /// Sends an RST.
    pub(super) fn reset_peer(&self) {
        let (peer, pair, established) = {
            let mut state = self.state.lock();
            if state.phase != Phase::Connected {
                return;
            }
            state.phase = Phase::Closed;
            (state.peer.upgrade(), Self::pair(&state), !state.fin_sent)
        };
        self.stop_probing();
        self.count(Tcp::OutRsts);
        self.count_segments(1);
        if established {
            self.count(Tcp::EstabResets);
        }
        if let Some((local, remote)) = pair {
            self.common.namespace.tcp.lock().remove(&(local, remote));
            if peer.is_none() {
                self.with_far_table(|table| table.remove(&(remote, local)));
            }
        }
        self.shut_both();
        if let Some(peer) = peer {
            peer.receive_reset();
        }
    }

    /// An RST has come.
    pub(super) fn receive_reset(&self) {
        self.end_by(None);
    }

    /// The connection is over at once, by an error: that of a reset, if none is given.
    pub(super) fn end_by(&self, error: Option<Errno>) {
        let (reset, pair, established) = {
            let mut state = self.state.lock();
            if state.phase != Phase::Connected {
                return;
            }
            state.phase = Phase::Closed;
            let reset = if state.fin_received { Errno::EPIPE } else { Errno::ECONNRESET };
            (reset, Self::pair(&state), !state.fin_sent)
        };
        self.stop_probing();
        if established {
            self.count(Tcp::EstabResets);
        }
        if let Some(pair) = pair {
            self.common.namespace.tcp.lock().remove(&pair);
        }
        self.shut_both();
        self.common.fail(error.unwrap_or(reset));
    }

    fn unlist(&self) {
        let pair = Self::pair(&self.state.lock());
        if let Some(pair) = pair {
            self.common.namespace.tcp.lock().remove(&pair);
        }
    }

    /// A listener listens no more: who has not been accepted is reset, who waits is refused.
    fn stop_listening(&self) {
        let (binding, backlog, clients) = {
            let mut state = self.state.lock();
            state.phase = Phase::Closed;
            let mut backlog: VecDeque<Arc<TcpSocket>> = core::mem::take(&mut state.backlog);
            backlog.extend(core::mem::take(&mut state.deferred));
            let clients: VecDeque<(Weak<TcpSocket>, u32)> = core::mem::take(&mut state.waiting_clients);
            (state.binding.clone(), backlog, clients)
        };
        if let Some(binding) = binding {
            self.common.namespace.tcp.lock().unlisten(&binding);
        }
        for server in backlog {
            server.gone.store(true, Release);
            server.reset_peer();
        }
        for client in clients.iter().filter_map(|(client, _)| client.upgrade()) {
            client.refuse();
        }
    }

    /// connect(2) with AF_UNSPEC: the connection is reset, the socket is as new but for its port.
    pub(super) fn disconnect(&self) {
        let phase = self.state.lock().phase;
        match phase {
            Phase::Listening => self.stop_listening(),
            Phase::SynSent => self.refuse(),
            Phase::Connected => self.reset_peer(),
            Phase::Closed => {}
        }
        self.common.take_error();
        self.forget_addresses();
        let mut ring = self.incoming.lock();
        let old = ring.len();
        ring.discard(old);
        self.arrival.clear();
        drop(ring);
        let mut state = self.state.lock();
        (state.unreported, state.fin_sent, state.fin_received) = (false, false, false);
    }

    /// `SO_LINGER`: ends the stream, and waits until all of it has left for the peer's buffer, or for the time that was set.
    pub(super) fn wait_sent(&self) {
        let seconds = self.common.linger.load(Relaxed);
        let connected = self.state.lock().phase == Phase::Connected;
        if seconds <= 0 || !connected || self.arrival.all() > 0 || task::current().must_exit() {
            return;
        }
        let Some(peer) = self.peer() else { return };
        self.send_shut.store(true, Release);
        self.send_fin();
        peer.is_lingered_for.store(true, Release);
        let sent = || (self.unsent() == 0 || peer.gone.load(Acquire)).then_some(());
        let deadline_ns = time::deadline_in(seconds as u64 * time::SEC_NS);
        // Whatever ends it: the descriptor is closed.
        let _ = self.common.writers.wait_interruptible(Some(deadline_ns), sent);
    }

    /// The last descriptor is gone.
    pub(super) fn close_all(&self) {
        let phase = self.state.lock().phase;
        match phase {
            Phase::Listening => self.stop_listening(),
            Phase::SynSent => self.refuse(),
            Phase::Connected => self.close_connection(),
            Phase::Closed => {}
        }
        self.gone.store(true, Release);
        let binding = self.state.lock().binding.take();
        if let Some(binding) = binding {
            self.common.namespace.tcp.lock().release(&binding);
        }
        self.shut_both();
        self.common.wake();
    }

    fn close_connection(&self) {
        let unread = self.arrival.all() > 0;
        self.gone.store(true, Release);
        if unread || self.common.linger.load(Relaxed) == 0 {
            self.count(if unread { Tcp::AbortOnClose } else { Tcp::AbortOnData });
            self.reset_peer();
            return;
        }
        let pair = Self::pair(&self.state.lock());
        // Listed as an orphan before the peer can answer.
        if let Some(pair) = pair {
            self.common.namespace.tcp.lock().linger(&pair, Lingering::FinWait);
        }
        self.send_fin();
    }
}
