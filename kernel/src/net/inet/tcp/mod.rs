//! TCP: a connection is two streams between two sockets, of one namespace or of two.
//!
//! No packet can be lost, reordered or forged between them, so nothing is cut into segments: what a socket sends goes into
//! its peer's `incoming` at once, and a FIN or RST is a call on the peer. What programs see is TCP's: the backlog, refusal, half
//! closing, resets (data that nobody can read any more, unread data at close, linger 0), `TIME_WAIT`, the states of tcp(7).
//! [`connect`] makes and ends connections, [`knock`] finds who answers, [`stream`] moves bytes, [`arrival`] holds them back, [`keepalive`] probes, [`option`] has the options of its level.
//!
//! ```text
//! Closed ─listen─▶ Listening        Closed ─connect─▶ SynSent (backlog full) ─▶ Connected ─both FIN, or RST─▶ Closed
//! ```
//!
//! Peers hold each other weakly. Locks: `incoming` (sleeping, rank Stream) while guest memory is copied; `state` (rank `Endpoint`);
//! the namespace's tables (rank `Endpoint`). Of the latter never two at once.

mod arrival;
mod connect;
mod keepalive;
mod knock;
mod option;
mod stream;

pub use option::state_number;

use super::table::{Binding, Claim};
use super::{addr, ip, packet};
use crate::fs::{IoDst, IoSrc, PollEvents};
use crate::ipc::ring::ByteRing;
use crate::landlock;
use crate::net::Namespace;
use crate::net::counters::{self, Tcp};
use crate::net::link::{LOOPBACK, Traffic};
use crate::net::option::stamp;
use crate::net::socket::{Address, Call, Common, Control, Incoming, Outgoing, Socket};
use crate::net::sysctl;
use crate::net::uapi::*;
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arrival::Arrival;
use core::any::Any;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use keepalive::Keepalive;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::lock::{Mutex, Rank, SpinLock};

/// Where a socket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Listening,
    /// Waits for room in a backlog.
    SynSent,
    Connected,
}

struct State {
    phase: Phase,
    binding: Option<Arc<Binding>>,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    /// bind(2) named its port.
    port_is_own: bool,
    peer: Weak<TcpSocket>,
    /// The namespace of the peer, if that is another one.
    far: Option<Weak<Namespace>>,
    /// Attempts to reach a peer that nobody has answered.
    attempts: u32,
    /// A connect(2) that did not wait has not been told how it ended.
    unreported: bool,
    /// Our FIN is sent; the peer's has come.
    fin_sent: bool,
    fin_received: bool,
    /// Connections that accept(2) has not taken, and clients that wait for room here, with the devices by which they come in.
    backlog: VecDeque<Arc<TcpSocket>>,
    backlog_max: usize,
    waiting_clients: VecDeque<(Weak<TcpSocket>, u32)>,
    /// `TCP_DEFER_ACCEPT`: a listener's connections that have sent nothing yet; such a connection's listener.
    deferred: Vec<Arc<TcpSocket>>,
    listener: Weak<TcpSocket>,
}

/// See the module.
pub struct TcpSocket {
    common: Common,
    me: Weak<TcpSocket>,
    state: SpinLock<State>,
    incoming: Mutex<ByteRing>,
    keepalive: Keepalive,
    /// Bytes in `incoming`, and how many it takes: to look at without the lock.
    arrival: Arrival,
    capacity: AtomicUsize,
    /// The peer's close(2) waits until what it sent has been read here (`SO_LINGER`).
    is_lingered_for: AtomicBool,
    /// Nothing more comes (`RCV_SHUTDOWN`); nothing more is sent (`SEND_SHUTDOWN`).
    receive_shut: AtomicBool,
    send_shut: AtomicBool,
    /// The stream has ended properly: reads give nothing, whatever error waits (`SOCK_DONE`).
    ended: AtomicBool,
    /// Nobody reads what arrives here: closed.
    gone: AtomicBool,
    ip: ip::Options,
    options: option::Options,
    /// When bytes last came, while somebody wants to know.
    arrived_ns: AtomicU64,
    /// For `TCP_INFO`.
    received: AtomicU64,
    sent: AtomicU64,
    /// Segments sent through the loopback device that are not in the namespace's counters yet.
    segments: AtomicU64,
}

/// Bytes of a segment's headers, with time stamps.
fn header(v6: bool) -> u64 {
    32 + if v6 { packet::IPV6_HEADER } else { packet::IPV4_HEADER } as u64
}

impl TcpSocket {
    /// A socket without name and peer.
    pub fn new(common: Common) -> Arc<TcpSocket> {
        let state = State {
            phase: Phase::Closed,
            binding: None,
            local: addr::none(common.family()),
            remote: None,
            port_is_own: false,
            peer: Weak::new(),
            far: None,
            attempts: 0,
            unreported: false,
            fin_sent: false,
            fin_received: false,
            backlog: VecDeque::new(),
            backlog_max: 0,
            waiting_clients: VecDeque::new(),
            deferred: Vec::new(),
            listener: Weak::new(),
        };
        let (ip, options) = (ip::Options::new(&common), option::Options::new(&common.namespace.settings));
        Arc::new_cyclic(|me| TcpSocket {
            common,
            me: me.clone(),
            state: SpinLock::new(Rank::Endpoint, state),
            incoming: Mutex::new(Rank::Stream, ByteRing::default()),
            keepalive: Keepalive::default(),
            arrival: Arrival::default(),
            capacity: AtomicUsize::new(0),
            is_lingered_for: AtomicBool::new(false),
            receive_shut: AtomicBool::new(false),
            send_shut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            ip,
            options,
            arrived_ns: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            segments: AtomicU64::new(0),
        })
    }

    /// Its addresses now.
    pub fn addresses(&self) -> (SocketAddr, Option<SocketAddr>) {
        let state = self.state.lock();
        (state.local, state.remote)
    }

    /// Connections that wait for accept(2), and how many may.
    pub fn backlog(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.backlog.len(), state.backlog_max)
    }

    /// Whether it is of IPv6, and what it has sent through the loopback device.
    pub fn traffic(&self) -> (bool, Traffic) {
        let v6 = self.state.lock().local.is_ipv6();
        if self.common.link.load(Relaxed) != LOOPBACK {
            return (v6, Traffic::default());
        }
        let packets = self.segments.load(Relaxed);
        (v6, Traffic { packets, bytes: self.sent.load(Relaxed) + packets * header(v6) })
    }

    /// Segments without bytes were sent.
    fn count_segments(&self, count: u64) {
        self.count_sent(count, 0);
    }

    /// Segments were sent, with so many bytes in all. What goes through a loopback device is added up later ([`Self::traffic`]).
    fn count_sent(&self, segments: u64, bytes: u64) {
        counters::process(segments);
        let device = self.common.link.load(Relaxed);
        if device == LOOPBACK {
            self.segments.fetch_add(segments, Relaxed);
            return;
        }
        let (v6, peer) = {
            let state = self.state.lock();
            (state.local.is_ipv6(), state.peer.upgrade())
        };
        let traffic = Traffic { packets: segments, bytes: bytes + segments * header(v6) };
        self.common.namespace.links().count_at(device, v6, traffic, false);
        if let Some(peer) = peer {
            let device = peer.common.link.load(Relaxed);
            peer.common.namespace.links().count_at(device, v6, traffic, true);
        }
    }

    fn count(&self, what: Tcp) {
        self.common.namespace.counters.tcp(what);
    }

    /// It is closed: what it has sent is the namespace's.
    fn hand_over_counts(&self) {
        let (v6, sent) = self.traffic();
        let all = &self.common.namespace.counters;
        let (packets, bytes) = if v6 { (Tcp::Segments6, Tcp::Bytes6) } else { (Tcp::Segments, Tcp::Bytes) };
        all.tcp_by(packets, sent.packets);
        all.tcp_by(bytes, sent.bytes);
    }

    /// What it asks the table of ports for.
    fn claim(&self, to: SocketAddr) -> Claim {
        Claim::of(&self.common, self.ip.v6_only(), to)
    }

    fn bind_to(&self, to: SocketAddr) -> Result<()> {
        let binding = self.common.namespace.tcp.lock().bind(self.claim(to))?;
        let mut state = self.state.lock();
        if state.binding.is_some() || state.phase != Phase::Closed {
            drop(state);
            self.common.namespace.tcp.lock().release(&binding);
            return Err(Errno::EINVAL);
        }
        state.local = SocketAddr::new(to.ip(), binding.port);
        state.port_is_own = to.port() != 0;
        state.binding = Some(binding);
        Ok(())
    }
}

/// Whether a socket of these may be bound to `to`.
///
/// # Errors
/// `EADDRNOTAVAIL`, `EACCES`.
pub fn check_bind(call: &Call<'_>, common: &Common, options: &ip::Options, to: SocketAddr) -> Result<()> {
    let settings = &common.namespace.settings;
    let anywhere = settings.get(if to.is_ipv4() { sysctl::NONLOCAL_BIND } else { sysctl::NONLOCAL_BIND_V6 }) != 0;
    let foreign = !anywhere && !common.namespace.links().is_local(to.ip());
    let mapped = options.v6_only() && common.family() == AF_INET6 && to.is_ipv4();
    if (foreign && !options.may_be_foreign()) || mapped {
        return Err(if mapped { Errno::EINVAL } else { Errno::EADDRNOTAVAIL });
    }
    let privileged = (1..settings.get(sysctl::UNPRIVILEGED_START)).contains(&i32::from(to.port()));
    if privileged && !call.task.net_capable(cap::NET_BIND_SERVICE) {
        return Err(Errno::EACCES);
    }
    Ok(())
}

/// Reads the address for bind(2): AF_UNSPEC with no address is one of IPv4.
///
/// # Errors
/// `EINVAL`, `EAFNOSUPPORT`.
pub fn parse_bind(own: u16, bytes: &[u8]) -> Result<SocketAddr> {
    match addr::family(bytes)? {
        AF_UNSPEC if own == AF_INET && bytes.len() >= 16 => {
            let to = addr::parse_v4(bytes)?;
            if to.ip().is_unspecified() { Ok(to) } else { Err(Errno::EAFNOSUPPORT) }
        }
        family if family != own => {
            let short = bytes.len() < if own == AF_INET { 16 } else { 24 };
            Err(if short { Errno::EINVAL } else { Errno::EAFNOSUPPORT })
        }
        _ => addr::parse(own, bytes),
    }
}

impl Socket for TcpSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, call: &Call<'_>, bytes: &[u8]) -> Result<()> {
        let to = parse_bind(self.common.family(), bytes)?;
        call.task.cred().sandbox.check_port(to.port(), landlock::BIND_TCP)?;
        check_bind(call, &self.common, &self.ip, to)?;
        {
            let state = self.state.lock();
            if state.binding.is_some() || state.phase != Phase::Closed {
                return Err(Errno::EINVAL);
            }
        }
        self.bind_to(to)
    }

    fn connect(&self, call: &Call<'_>, bytes: &[u8]) -> Result<()> {
        match addr::family(bytes)? {
            AF_UNSPEC => {
                self.disconnect();
                Ok(())
            }
            family if family != self.common.family() => Err(Errno::EAFNOSUPPORT),
            _ => {
                let to = addr::destination(addr::parse(self.common.family(), bytes)?);
                call.task.cred().sandbox.check_port(to.port(), landlock::CONNECT_TCP)?;
                self.connect_to(call, to)
            }
        }
    }

    fn listen(&self, _: &Call<'_>, backlog: u32) -> Result<()> {
        self.start_listening(backlog)
    }

    fn accept(&self, call: &Call<'_>) -> Result<Arc<dyn Socket>> {
        let new: Arc<dyn Socket> = self.take_connection(call)?;
        Ok(new)
    }

    fn name(&self) -> Result<Address> {
        Ok(addr::format(self.common.family(), self.state.lock().local))
    }

    fn peer_name(&self) -> Result<Address> {
        let state = self.state.lock();
        let remote = state.remote.filter(|_| state.phase == Phase::Connected).ok_or(Errno::ENOTCONN)?;
        Ok(addr::format(self.common.family(), remote))
    }

    fn send(&self, call: &Call<'_>, src: &mut IoSrc<'_>, message: Outgoing) -> Result<usize> {
        if call.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if call.has(MSG_FASTOPEN) && !message.to.is_empty() {
            return Err(Errno::EOPNOTSUPP);
        }
        self.send_bytes(call, src)
    }

    fn receive(&self, call: &Call<'_>, dst: &mut IoDst<'_>) -> Result<Incoming> {
        if call.has(MSG_ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        if call.flags & MSG_OOB != 0 {
            return Err(Errno::EINVAL);
        }
        let count = self.receive_bytes(call, dst)?;
        let mut control: Vec<Control> = stamp(&self.common, self.arrived_ns.load(Relaxed)).into_iter().collect();
        if self.tells_rest() {
            let bytes = (self.arrival.ready() as u32).to_le_bytes().to_vec();
            control.push(Control { level: SOL_TCP, kind: option::INQ, bytes });
        }
        Ok(Incoming { count, full: count, control, ..Incoming::default() })
    }

    fn shutdown(&self, receiving: bool, sending: bool) -> Result<()> {
        self.shut(receiving, sending)
    }

    fn option(&self, _: &Arc<Task>, level: u32, name: u32, room: usize) -> Result<Vec<u8>> {
        match level {
            SOL_TCP => self.tcp_option(name, room),
            SOL_SOCKET => Err(Errno::ENOPROTOOPT),
            SOL_IPV6 if name == ip::v6::ADDRFORM && self.common.family() == AF_INET6 => {
                self.peer_name()?;
                Ok(u32::from(AF_INET6).to_le_bytes().to_vec())
            }
            _ => self.ip.get(&self.common, level, name, room),
        }
    }

    fn set_option(&self, task: &Arc<Task>, level: u32, name: u32, value: &[u8]) -> Result<()> {
        match level {
            SOL_TCP => self.set_tcp_option(task, name, value),
            SOL_SOCKET if matches!(name, so::REUSEADDR | so::REUSEPORT) => {
                if let Some(binding) = &self.state.lock().binding {
                    binding.reuse.store(self.common.switches.get(so::REUSEADDR), Relaxed);
                    binding.reuse_port.store(self.common.switches.get(so::REUSEPORT), Relaxed);
                }
                Ok(())
            }
            SOL_SOCKET if name == so::KEEPALIVE => {
                self.watch_idleness();
                Ok(())
            }
            SOL_SOCKET => Err(Errno::ENOPROTOOPT),
            SOL_IPV6 if name == ip::v6::ADDRFORM => {
                let remote = self.addresses().1.filter(|_| self.state_number() == state_number::ESTABLISHED);
                self.ip.change_form(&self.common, remote, value)
            }
            _ => {
                let bound = self.state.lock().binding.is_some();
                self.ip.set(task, &self.common, level, name, value, bound)
            }
        }
    }

    fn is_listening(&self) -> bool {
        self.state.lock().phase == Phase::Listening
    }

    fn poll(&self) -> PollEvents {
        self.readiness()
    }

    fn ioctl(&self, _: &Arc<Task>, cmd: u32, arg: u64) -> Result<u64> {
        /// `SIOCOUTQNSD`.
        const UNSENT: u32 = 0x894b;
        match cmd {
            FIONREAD | TIOCOUTQ | UNSENT if self.is_listening() => Err(Errno::EINVAL),
            TIOCOUTQ => user::write_val(UserAddr(arg), &(self.unsent() as i32)).map(|()| 0),
            UNSENT => user::write_val(UserAddr(arg), &(self.held_back() as i32)).map(|()| 0),
            SIOCATMARK => user::write_val(UserAddr(arg), &0).map(|()| 0),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn waiting(&self) -> usize {
        self.arrival.ready()
    }

    fn buffers_changed(&self) {
        if let (Some(me), Some(peer)) = (self.me.upgrade(), self.peer()) {
            peer.set_capacity(&me);
            self.common.writers.wake_all();
        }
    }

    fn linger(&self) {
        self.wait_sent();
    }

    fn close(&self) {
        self.close_all();
        self.stop_probing();
        self.common.namespace.forget(self.common.id);
        self.hand_over_counts();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
