//! Sockets that send and receive whole messages: UDP, ICMP echo ("ping") and raw sockets.
//!
//! What is sent becomes a [`Message`] in the queue of each socket that it is for ([`deliver`]), in the context of the sender; there is
//! no wire on which it could be lost, only a full queue. [`control`]: control messages, and the queue of errors.
//!
//! Locks: `state` (rank `Endpoint`), never two of them, and never together with the namespace's tables. Guest memory is copied
//! without either.

mod control;
mod deliver;
mod raw;

pub use raw::input;

use super::table::{Binding, Claim, Table};
use super::tcp::{check_bind, parse_bind};
use super::{addr, ip, packet};
use crate::bpf;
use crate::fs::{IoDst, IoSrc, PollEvents};
use crate::net::Namespace;
use crate::net::counters::Udp;
use crate::net::link::{ETH_P_IP, ETH_P_IPV6, LOOPBACK};
use crate::net::route::{self, Query, Way};
use crate::net::socket::{Address, Call, Common, Incoming, Outgoing, Socket};
use crate::net::sysctl;
use crate::net::truesize;
use crate::net::uapi::*;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use control::Sending;
use core::any::Any;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering::*};
use umbel_mm::user::{self, UserAddr};
use umbel_smp::lock::{Rank, SpinLock};

/// What a socket speaks. UDP-Lite is UDP with ports of its own: no checksum is ever wrong here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Ping,
    Raw,
}

/// Longest payload of UDP over IPv4.
const UDP_MAX: usize = packet::PACKET_MAX - packet::IPV4_HEADER - packet::UDP_HEADER;
/// Most errors that wait.
const ERRORS_MAX: usize = 64;

/// A message on its way.
pub struct Message {
    /// What the socket shows of it: the payload of UDP, an ICMP message, a whole IPv4 packet.
    pub bytes: Vec<u8>,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub ttl: u8,
    pub tos: u8,
    /// By which it has come in.
    pub device: u32,
    /// CLOCK_REALTIME.
    pub at_ns: u64,
}

impl Message {
    /// It as a packet of IP with this payload.
    fn packet<'a>(&self, protocol: u32, payload: &'a [u8]) -> packet::Packet<'a> {
        let (from, to) = (self.from.ip(), self.to.ip());
        packet::Packet { from, to, protocol: protocol as u8, ttl: self.ttl, tos: self.tos, payload }
    }

    /// What it takes of the receive buffer of a socket that speaks `what`.
    fn cost(&self, what: Protocol) -> usize {
        let headers = match (what, self.to.is_ipv4()) {
            (Protocol::Udp, true) => packet::UDP_HEADER + packet::IPV4_HEADER,
            (Protocol::Ping, true) => packet::IPV4_HEADER,
            (Protocol::Raw, true) => 0,
            // Less than the header: Linux counts on fewer bytes before it.
            (Protocol::Udp, false) => packet::UDP_HEADER + 33,
            (_, false) => 33,
        };
        truesize(self.bytes.len() + headers)
    }
}

/// An error about something that was sent (`IP_RECVERR`).
struct Failure {
    errno: Errno,
    /// What was sent, where to.
    bytes: Vec<u8>,
    to: SocketAddr,
}

struct State {
    binding: Option<Arc<Binding>>,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    /// bind(2) named its port.
    port_is_own: bool,
    receive_shut: bool,
    send_shut: bool,
    queue: VecDeque<Arc<Message>>,
    /// Bytes of the receive buffer in use.
    used: usize,
    /// Messages that found no room.
    drops: u32,
    errors: VecDeque<Failure>,
    /// What waits for more (`UDP_CORK`, `MSG_MORE`).
    corked: Vec<u8>,
}

/// See the module.
pub struct Datagram {
    common: Common,
    me: Weak<Datagram>,
    what: Protocol,
    ip: ip::Options,
    state: SpinLock<State>,
    /// Whether something waits: to look at without the lock.
    ready: AtomicBool,
    /// `ICMP_FILTER`, `ICMPV6_FILTER`: types that a raw socket does not want, bit by bit.
    filter: SpinLock<[u32; 8]>,
}

/// Whether one of the caller's groups may make echo sockets (`net.ipv4.ping_group_range`).
pub fn may_ping(task: &Task) -> bool {
    let settings = &crate::net::namespace::of(task).settings;
    let [first, last] = [0, 1].map(|i| settings.get(sysctl::PING_GROUPS + i) as u32);
    let cred = task.cred();
    cred.groups.iter().chain([&cred.egid]).any(|gid| (first..=last).contains(gid))
}

impl Datagram {
    /// A socket without name and peer.
    pub fn create(common: Common, what: Protocol) -> Arc<Datagram> {
        let state = State {
            binding: None,
            local: addr::none(common.family()),
            remote: None,
            port_is_own: false,
            receive_shut: false,
            send_shut: false,
            queue: VecDeque::new(),
            used: 0,
            drops: 0,
            errors: VecDeque::new(),
            corked: Vec::new(),
        };
        let ip = ip::Options::new(&common);
        let socket = Arc::new_cyclic(|me| Datagram {
            common,
            me: me.clone(),
            what,
            ip,
            state: SpinLock::new(Rank::Endpoint, state),
            ready: AtomicBool::new(false),
            filter: SpinLock::new(Rank::Leaf, [0; 8]),
        });
        if what == Protocol::Raw {
            let own: Arc<dyn Socket> = socket.clone();
            // A raw socket is found by its protocol.
            let mut claim = socket.claim(addr::none(socket.common.family()));
            claim.port = socket.common.protocol as u16;
            let binding = socket.table().lock().add(claim, Arc::downgrade(&own));
            socket.state.lock().binding = Some(binding);
        }
        socket
    }

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.what
    }

    /// Its addresses now.
    pub fn addresses(&self) -> (SocketAddr, Option<SocketAddr>) {
        let state = self.state.lock();
        (state.local, state.remote)
    }

    /// Bytes of its receive buffer in use, and messages lost.
    pub fn queue(&self) -> (usize, u32) {
        let state = self.state.lock();
        (state.used, state.drops)
    }

    fn table(&self) -> &SpinLock<Table> {
        self.table_of(&self.common.namespace)
    }

    /// The table of its protocol in a namespace.
    fn table_of<'a>(&self, namespace: &'a Namespace) -> &'a SpinLock<Table> {
        match self.what {
            Protocol::Udp if self.common.protocol == IPPROTO_UDPLITE => &namespace.udp_lite,
            Protocol::Udp => &namespace.udp,
            Protocol::Ping => &namespace.ping,
            Protocol::Raw => &namespace.raw,
        }
    }

    fn claim(&self, to: SocketAddr) -> Claim {
        Claim::of(&self.common, self.ip.v6_only(), to)
    }

    /// Gives it an address; its port, if it has none.
    fn bind_to(&self, to: SocketAddr) -> Result<()> {
        let me: Arc<dyn Socket> = self.me.upgrade().ok_or(Errno::EINVAL)?;
        let binding = match self.what {
            Protocol::Raw => {
                let mut claim = self.claim(to);
                claim.port = self.common.protocol as u16;
                self.table().lock().add(claim, Arc::downgrade(&me))
            }
            _ => self.table().lock().bind(self.claim(to), Some(Arc::downgrade(&me)))?,
        };
        let mut state = self.state.lock();
        let old = match self.what {
            Protocol::Raw => {
                state.local = SocketAddr::new(to.ip(), 0);
                state.binding.replace(binding)
            }
            _ if state.binding.is_some() => Some(binding),
            _ => {
                state.local = SocketAddr::new(to.ip(), binding.port);
                state.port_is_own = to.port() != 0;
                state.binding = Some(binding);
                return Ok(());
            }
        };
        drop(state);
        if let Some(old) = old {
            self.table().lock().release(&old);
        }
        if self.what == Protocol::Raw { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Binds it to any port, if it is not bound.
    fn bind_automatically(&self) -> Result<()> {
        let local = {
            let state = self.state.lock();
            if state.binding.is_some() {
                return Ok(());
            }
            state.local
        };
        match self.bind_to(SocketAddr::new(local.ip(), 0)) {
            // Another thread was faster.
            Err(Errno::EINVAL) => Ok(()),
            Err(Errno::EADDRINUSE) => Err(Errno::EAGAIN),
            result => result,
        }
    }

    /// The way of what goes to `to`.
    ///
    /// # Errors
    /// `ENETUNREACH`, …; `EACCES` for broadcasts.
    fn way(&self, to: IpAddr, sending: &Sending) -> Result<Way> {
        let own = self.addresses().0.ip();
        let namespace = &self.common.namespace;
        let is_broadcast = namespace.links().is_broadcast(to);
        if is_broadcast && !self.common.switches.get(so::BROADCAST) {
            return Err(Errno::EACCES);
        }
        let usable = !own.is_unspecified() && !own.is_multicast() && own.is_ipv4() == to.is_ipv4();
        let mut query = self.common.query(to, sending.source.or(usable.then_some(own)));
        if sending.device != 0 {
            query.device = sending.device;
        }
        if query.device == 0 && to.is_multicast() {
            query.device = self.ip.multicast_device(to.is_ipv6());
        }
        match route::find(namespace, &query) {
            // Where there is no other network, everybody is here.
            Err(Errno::ENETUNREACH) if is_broadcast => route::find(namespace, &Query { device: LOOPBACK, ..query }),
            found => found,
        }
    }

    fn take(&self, peek: bool) -> Option<Arc<Message>> {
        let mut state = self.state.lock();
        if peek {
            return state.queue.front().cloned();
        }
        let message = state.queue.pop_front()?;
        state.used -= message.cost(self.what);
        self.ready.store(!state.queue.is_empty(), Release);
        Some(message)
    }

    /// What the socket's filter leaves of a message. It sees the header of UDP, too.
    fn filtered(&self, message: &Arc<Message>) -> Option<Arc<Message>> {
        let Some(program) = self.common.filter() else { return Some(message.clone()) };
        let header = if self.what == Protocol::Udp { packet::UDP_HEADER } else { 0 };
        let whole = match header {
            0 => None,
            _ => packet::udp(message.from, message.to, &message.bytes).ok(),
        };
        let kept = program.run(&bpf::Packet {
            bytes: whole.as_deref().unwrap_or(&message.bytes),
            protocol: if message.to.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 },
            direction: 0,
            device: message.device,
            hardware: if message.device == LOOPBACK { 772 } else { 1 },
            network: 0,
        });
        if kept == 0 {
            return None;
        }
        let kept = (kept as usize).saturating_sub(header);
        if kept >= message.bytes.len() {
            return Some(message.clone());
        }
        let bytes = message.bytes.get(..kept)?.to_vec();
        Some(Arc::new(Message { bytes, ..**message }))
    }

    /// Puts a message into the queue, or loses it.
    fn push(&self, message: &Arc<Message>) {
        let Some(message) = self.filtered(message) else {
            let mut state = self.state.lock();
            state.drops = state.drops.saturating_add(1);
            return;
        };
        let room = self.common.receive_buffer.load(Relaxed) as usize;
        {
            let mut state = self.state.lock();
            let cost = message.cost(self.what);
            let is_full = match self.what {
                Protocol::Udp => state.used > 0 && state.used + cost > room,
                // The last one may go beyond the end.
                _ => state.used >= room,
            };
            if is_full || state.queue.try_reserve(1).is_err() {
                state.drops = state.drops.saturating_add(1);
                drop(state);
                self.count(&message, Udp::Overflows);
                return;
            }
            state.used += cost;
            state.queue.push_back(message);
        }
        self.ready.store(true, Release);
        self.common.readers.wake_all();
    }

    /// Counts what happened to a message here, if this is a socket of UDP.
    fn count(&self, message: &Message, what: Udp) {
        if self.what == Protocol::Udp {
            let kind = (self.common.protocol == IPPROTO_UDPLITE, message.to.is_ipv6());
            self.common.namespace.counters.udp(kind, what);
        }
    }

    /// Where a call sends to.
    fn destination(&self, to: &[u8]) -> Result<SocketAddr> {
        if to.is_empty() {
            return self.state.lock().remote.ok_or(Errno::EDESTADDRREQ);
        }
        if self.what != Protocol::Udp && self.common.family() == AF_INET6 && addr::family(to)? == AF_INET {
            return Err(if to.len() < addr::V6_MIN { Errno::EINVAL } else { Errno::EAFNOSUPPORT });
        }
        let to = match addr::family(to)? {
            // Programs of old left the family out.
            AF_UNSPEC if self.common.family() == AF_INET && to.len() >= 16 => addr::parse_v4(to)?,
            _ => addr::parse(self.common.family(), to)?,
        };
        if self.what == Protocol::Udp && to.port() == 0 {
            return Err(Errno::EINVAL);
        }
        if to.is_ipv4() && self.common.family() == AF_INET6 && (self.ip.v6_only() || self.what != Protocol::Udp) {
            return Err(Errno::ENETUNREACH);
        }
        Ok(addr::destination(to))
    }

    fn read_payload(&self, src: &mut IoSrc<'_>) -> Result<Vec<u8>> {
        let len = src.remaining();
        let most = if self.what == Protocol::Udp { UDP_MAX } else { packet::PACKET_MAX };
        if len > most {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
        bytes.resize(len, 0);
        let got = src.read(&mut bytes)?;
        if got < len { Err(Errno::EFAULT) } else { Ok(bytes) }
    }

    /// Puts bytes to those that wait for more (`UDP_CORK`, `MSG_MORE`); all of them once they are to go.
    fn uncork(&self, bytes: Vec<u8>, more: bool) -> Result<Option<Vec<u8>>> {
        let waits = self.what == Protocol::Udp && (more || self.is_corked());
        let mut state = self.state.lock();
        if state.corked.is_empty() && !waits {
            return Ok(Some(bytes));
        }
        if state.corked.len() + bytes.len() > UDP_MAX {
            return Err(Errno::EMSGSIZE);
        }
        state.corked.try_reserve(bytes.len()).map_err(|_| Errno::ENOBUFS)?;
        state.corked.extend_from_slice(&bytes);
        Ok(if waits { None } else { Some(core::mem::take(&mut state.corked)) })
    }

    fn connect_to(&self, to: SocketAddr) -> Result<()> {
        let way = self.way(to.ip(), &Sending::default())?;
        self.common.link.store(way.device, Relaxed);
        if self.what != Protocol::Raw {
            self.bind_automatically()?;
        }
        let mut state = self.state.lock();
        if state.local.ip().is_unspecified() {
            state.local.set_ip(way.source);
        }
        state.remote = Some(to);
        Ok(())
    }

    /// connect(2) with AF_UNSPEC: the peer is forgotten, and the address that it gave.
    fn disconnect(&self) {
        let none = addr::none(self.common.family());
        let given = {
            let mut state = self.state.lock();
            state.remote = None;
            let bound = state.binding.as_ref().map(|binding| binding.addr);
            state.local.set_ip(bound.unwrap_or(none.ip()));
            // A port that nobody asked for is given back.
            let loses = self.what == Protocol::Udp && !state.port_is_own;
            let given = if loses { state.binding.take() } else { None };
            if given.is_some() {
                state.local.set_port(0);
            }
            given
        };
        if let Some(binding) = given {
            self.table().lock().release(&binding);
        }
    }

    fn wait_message(&self, call: &Call<'_>) -> Result<Option<Arc<Message>>> {
        let peek = call.has(MSG_PEEK);
        let look = || {
            if let Some(message) = self.take(peek) {
                return Some(Ok(Some(message)));
            }
            if let Err(error) = self.common.check_error() {
                return Some(Err(error));
            }
            // Only a wait is ended by that.
            (!call.nonblock && self.state.lock().receive_shut).then_some(Ok(None))
        };
        self.common.wait_readable(call.nonblock, look)?
    }
}

impl Socket for Datagram {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, call: &Call<'_>, bytes: &[u8]) -> Result<()> {
        let to = parse_bind(self.common.family(), bytes)?;
        // The port of an echo socket is its identifier: none is privileged.
        let checked = if self.what == Protocol::Udp { to } else { SocketAddr::new(to.ip(), 0) };
        check_bind(call, &self.common, &self.ip, checked)?;
        if self.what != Protocol::Raw && self.state.lock().binding.is_some() {
            return Err(Errno::EINVAL);
        }
        self.bind_to(to)
    }

    fn connect(&self, _: &Call<'_>, bytes: &[u8]) -> Result<()> {
        if addr::family(bytes)? == AF_UNSPEC {
            self.disconnect();
            return Ok(());
        }
        let to = addr::parse(self.common.family(), bytes)?;
        if self.what != Protocol::Udp && addr::family(bytes)? != self.common.family() {
            return Err(Errno::EAFNOSUPPORT);
        }
        if to.is_ipv4() && self.common.family() == AF_INET6 && self.ip.v6_only() {
            return Err(Errno::ENETUNREACH);
        }
        self.connect_to(addr::destination(to))
    }

    fn name(&self) -> Result<Address> {
        let (local, _) = self.addresses();
        // A raw socket shows its protocol as port, where it has an address.
        let shown = match self.what {
            Protocol::Raw => SocketAddr::new(local.ip(), self.common.protocol as u16),
            _ => local,
        };
        Ok(addr::format(self.common.family(), shown))
    }

    fn peer_name(&self) -> Result<Address> {
        let known = |remote: &SocketAddr| remote.port() != 0;
        let remote = self.addresses().1.filter(known).ok_or(Errno::ENOTCONN)?;
        Ok(addr::format(self.common.family(), remote))
    }

    fn send(&self, call: &Call<'_>, src: &mut IoSrc<'_>, message: Outgoing) -> Result<usize> {
        if call.has(MSG_OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.common.check_error()?;
        let to = self.destination(&message.to)?;
        // A raw socket has nothing that could be shut.
        if self.what != Protocol::Raw && self.state.lock().send_shut {
            return Err(Errno::EPIPE);
        }
        let sending = Sending::read(self, &message.control)?;
        let bytes = self.read_payload(src)?;
        let count = bytes.len();
        let Some(bytes) = self.uncork(bytes, call.has(MSG_MORE))? else { return Ok(count) };
        match self.what {
            Protocol::Udp => self.send_udp(to, bytes, &sending)?,
            Protocol::Ping => self.send_ping(to, bytes, &sending)?,
            Protocol::Raw => self.send_raw(to, bytes, &sending)?,
        }
        Ok(count)
    }

    fn receive(&self, call: &Call<'_>, dst: &mut IoDst<'_>) -> Result<Incoming> {
        if call.has(MSG_OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if call.has(MSG_ERRQUEUE) {
            return self.receive_error(dst);
        }
        let Some(message) = self.wait_message(call)? else { return Ok(Incoming::default()) };
        if !call.has(MSG_PEEK) {
            self.count(&message, Udp::In);
        }
        let full = message.bytes.len();
        let count = dst.write(message.bytes.get(..full.min(dst.remaining())).unwrap_or(&[]))?;
        let from = addr::format(self.common.family(), message.from);
        Ok(Incoming { count, full, from, control: self.control_of(&message), ..Incoming::default() })
    }

    fn shutdown(&self, receiving: bool, sending: bool) -> Result<()> {
        {
            let mut state = self.state.lock();
            // Without a peer it is an error, and done all the same.
            state.receive_shut |= receiving;
            state.send_shut |= sending;
            if state.remote.is_none() {
                return Err(Errno::ENOTCONN);
            }
        }
        self.common.wake();
        Ok(())
    }

    fn option(&self, _: &Arc<Task>, level: u32, name: u32, room: usize) -> Result<Vec<u8>> {
        match level {
            SOL_SOCKET => Err(Errno::ENOPROTOOPT),
            SOL_UDP | SOL_UDPLITE if self.what == Protocol::Udp => self.udp_option(name),
            SOL_RAW | SOL_ICMPV6 if self.what != Protocol::Udp => self.raw_option(level, name),
            _ => self.ip.get(&self.common, level, name, room),
        }
    }

    fn set_option(&self, task: &Arc<Task>, level: u32, name: u32, value: &[u8]) -> Result<()> {
        match level {
            SOL_SOCKET if matches!(name, so::REUSEADDR | so::REUSEPORT) => {
                if let Some(binding) = &self.state.lock().binding {
                    binding.reuse.store(self.common.switches.get(so::REUSEADDR), Relaxed);
                    binding.reuse_port.store(self.common.switches.get(so::REUSEPORT), Relaxed);
                }
                Ok(())
            }
            SOL_SOCKET => Err(Errno::ENOPROTOOPT),
            SOL_UDP | SOL_UDPLITE if self.what == Protocol::Udp => self.set_udp_option(name, value),
            SOL_RAW | SOL_ICMPV6 if self.what != Protocol::Udp => self.set_raw_option(level, name, value),
            SOL_IPV6 if name == ip::v6::ADDRFORM && self.what == Protocol::Udp => {
                self.ip.change_form(&self.common, self.addresses().1, value)
            }
            _ => {
                let bound = self.what != Protocol::Raw && self.state.lock().binding.is_some();
                self.ip.set(task, &self.common, level, name, value, bound)
            }
        }
    }

    fn poll(&self) -> PollEvents {
        let state = self.state.lock();
        let mut events = PollEvents::WRITABLE;
        if !state.queue.is_empty() || state.receive_shut {
            events |= PollEvents::READABLE;
        }
        if state.receive_shut {
            events |= PollEvents::RDHUP;
        }
        if state.receive_shut && state.send_shut {
            events |= PollEvents::HUP;
        }
        if self.common.has_error() || !state.errors.is_empty() {
            events |= PollEvents::ERR;
        }
        events
    }

    fn ioctl(&self, _: &Arc<Task>, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            TIOCOUTQ => user::write_val(UserAddr(arg), &0).map(|()| 0),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn waiting(&self) -> usize {
        self.state.lock().queue.front().map_or(0, |message| message.bytes.len())
    }

    fn close(&self) {
        let binding = self.state.lock().binding.take();
        if let Some(binding) = binding {
            self.table().lock().release(&binding);
        }
        self.common.namespace.forget(self.common.id);
        self.common.wake();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
