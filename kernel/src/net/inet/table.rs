//! Who has which port, and which connections there are: the demultiplexer.
//!
//! A [`Binding`] is one claim on a port; accepted connections share their listener's. A [`Table`] holds those of one protocol;
//! [`TcpTable`] also listeners, and connections by both their addresses: those with a socket, and those that outlive it (`FIN_WAIT2`,
//! `TIME_WAIT`) until their time is over, which is looked at when something is added.

use super::tcp::TcpSocket;
use crate::net::socket::{Common, Socket};
use crate::net::uapi::so;
use crate::room::TryList;
use crate::{Errno, Result, random, time};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::ops::Bound;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};

/// How long `TIME_WAIT` and an orphan's `FIN_WAIT2` last.
const LINGER_NS: u64 = 60 * time::SEC_NS;
/// Age at which a connection in `TIME_WAIT` may be replaced by a new one (`net.ipv4.tcp_tw_reuse`).
const REUSE_NS: u64 = time::SEC_NS;
/// Most connections without a socket.
const LINGERING_MAX: usize = 4096;

/// A claim on a port.
pub struct Binding {
    id: u64,
    pub addr: IpAddr,
    pub port: u16,
    /// The claim of [`::`] does not extend to IPv4.
    v6_only: bool,
    /// Made by connect(2): others may share the port if their connections differ.
    pub automatic: bool,
    uid: u32,
    device: u32,
    /// `SO_REUSEADDR`, `SO_REUSEPORT` of its sockets now.
    pub reuse: AtomicBool,
    pub reuse_port: AtomicBool,
    listening: AtomicBool,
    /// Sockets and connections that have it. Changed under the table's lock.
    users: AtomicUsize,
}

/// What a socket asks for.
#[derive(Clone, Copy)]
pub struct Claim {
    pub addr: IpAddr,
    /// 0 = any.
    pub port: u16,
    pub v6_only: bool,
    pub reuse: bool,
    pub reuse_port: bool,
    pub uid: u32,
    pub device: u32,
    /// First and last port that it may be given.
    pub range: (u16, u16),
}

impl Claim {
    /// The claim of a socket to `to`.
    pub fn of(common: &Common, v6_only: bool, to: SocketAddr) -> Claim {
        Claim {
            addr: to.ip(),
            port: to.port(),
            v6_only,
            reuse: common.switches.get(so::REUSEADDR),
            reuse_port: common.switches.get(so::REUSEPORT),
            uid: common.uid,
            device: common.device.load(Relaxed),
            range: common.namespace.settings.ports(),
        }
    }

    fn binding(&self, port: u16, automatic: bool) -> Arc<Binding> {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        Arc::new(Binding {
            id: LAST_ID.fetch_add(1, Relaxed) + 1,
            addr: self.addr,
            port,
            v6_only: self.v6_only,
            automatic,
            uid: self.uid,
            device: self.device,
            reuse: AtomicBool::new(self.reuse),
            reuse_port: AtomicBool::new(self.reuse_port),
            listening: AtomicBool::new(false),
            users: AtomicUsize::new(1),
        })
    }

    /// Whether it cannot stand beside `other`, on the same port.
    fn conflicts(&self, other: &Binding) -> bool {
        let apart = self.device != other.device && self.device != 0 && other.device != 0;
        let reuse = self.reuse && other.reuse.load(Relaxed) && !other.listening.load(Relaxed);
        let reuse_port = self.reuse_port && other.reuse_port.load(Relaxed) && self.uid == other.uid;
        !apart && !reuse && !reuse_port && overlap((self.addr, self.v6_only), (other.addr, other.v6_only))
    }
}

/// Whether two claims of addresses, each with whether it is of IPv6 only, have an address in common.
fn overlap(a: (IpAddr, bool), b: (IpAddr, bool)) -> bool {
    let both = |(addr, v6_only): (IpAddr, bool)| addr.is_ipv6() && addr.is_unspecified() && !v6_only;
    if a.0.is_ipv4() != b.0.is_ipv4() {
        return both(a) || both(b);
    }
    a.0 == b.0 || a.0.is_unspecified() || b.0.is_unspecified()
}

/// How well a socket bound to `own` fits a packet to `to`; `None` if not at all.
fn fit(own: &Binding, to: IpAddr) -> Option<u32> {
    if own.addr == to {
        return Some(3);
    }
    let reaches =
        own.addr.is_unspecified() && (own.addr.is_ipv4() == to.is_ipv4() || !own.v6_only && own.addr.is_ipv6());
    reaches.then(|| if own.addr.is_ipv4() == to.is_ipv4() { 2 } else { 1 })
}

struct Entry {
    binding: Arc<Binding>,
    /// `None` in TCP, where connections have other places.
    socket: Option<Weak<dyn Socket>>,
}

/// Claims on ports, by port.
#[derive(Default)]
pub struct Table {
    bound: BTreeMap<(u16, u64), Entry>,
}

impl Table {
    /// Binds a socket.
    ///
    /// # Errors
    /// `EADDRINUSE`.
    pub fn bind(&mut self, claim: Claim, socket: Option<Weak<dyn Socket>>) -> Result<Arc<Binding>> {
        let free = |port: &u16| !self.on(*port).any(|entry| claim.conflicts(&entry.binding));
        let port = match claim.port {
            0 => ports(claim.range).find(free).ok_or(Errno::EADDRINUSE)?,
            port if free(&port) => port,
            _ => return Err(Errno::EADDRINUSE),
        };
        Ok(self.insert(claim.binding(port, false), socket))
    }

    /// Lists a socket without a port of its own: `port` is only what it is found by.
    pub fn add(&mut self, claim: Claim, socket: Weak<dyn Socket>) -> Arc<Binding> {
        self.insert(claim.binding(claim.port, false), Some(socket))
    }

    fn insert(&mut self, binding: Arc<Binding>, socket: Option<Weak<dyn Socket>>) -> Arc<Binding> {
        self.bound.insert((binding.port, binding.id), Entry { binding: binding.clone(), socket });
        binding
    }

    fn on(&self, port: u16) -> impl Iterator<Item = &Entry> {
        self.bound.range((port, 0)..=(port, u64::MAX)).map(|(_, entry)| entry)
    }

    /// A user of the binding is gone.
    pub fn release(&mut self, binding: &Binding) {
        if binding.users.fetch_sub(1, AcqRel) == 1 {
            self.bound.remove(&(binding.port, binding.id));
        }
    }

    /// The sockets that a packet to `to` could be for, which has come in by `device`, with how well their bindings fit.
    pub fn find(&self, to: SocketAddr, device: u32) -> Vec<(u32, Arc<dyn Socket>)> {
        let candidate = |entry: &Entry| {
            let fit = fit(&entry.binding, to.ip())?;
            let socket = entry.socket.as_ref()?.upgrade()?;
            socket.common().takes_from(device).then_some((fit, socket))
        };
        self.on(to.port()).filter_map(candidate).collect()
    }

    /// All sockets.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn sockets(&self) -> Result<Vec<Arc<dyn Socket>>> {
        self.bound.values().filter_map(|entry| entry.socket.as_ref()?.upgrade()).try_list()
    }
}

/// Ports to give out, in random order.
fn ports((first, last): (u16, u16)) -> impl Iterator<Item = u16> {
    let count = u64::from(last.saturating_sub(first)) + 1;
    let start = random::next_u64() % count;
    (0..count).map(move |step| first + ((start + step) % count) as u16)
}

/// What is left of a connection whose socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lingering {
    FinWait,
    TimeWait,
}

/// A connection.
pub struct Connection {
    binding: Arc<Binding>,
    pub socket: Weak<TcpSocket>,
    /// How it lives on without a socket, and since when.
    pub lingering: Option<(Lingering, u64)>,
}

/// A connection as it is listed: its addresses, its socket, how it lingers.
pub type Listed = (Pair, Option<Arc<TcpSocket>>, Option<(Lingering, u64)>);

/// Local and remote address.
pub type Pair = (SocketAddr, SocketAddr);

/// The ports, listeners and connections of TCP.
#[derive(Default)]
pub struct TcpTable {
    ports: Table,
    listeners: BTreeMap<(u16, u64), (Arc<Binding>, Weak<TcpSocket>)>,
    connections: BTreeMap<Pair, Connection>,
    lingering: usize,
}

impl TcpTable {
    /// Binds a socket.
    ///
    /// # Errors
    /// `EADDRINUSE`.
    pub fn bind(&mut self, claim: Claim) -> Result<Arc<Binding>> {
        self.purge();
        self.ports.bind(claim, None)
    }

    /// Makes a bound socket a listener.
    ///
    /// # Errors
    /// `EADDRINUSE`: another one listens there.
    pub fn listen(&mut self, binding: &Arc<Binding>, socket: &Weak<TcpSocket>) -> Result<()> {
        let claim = Claim {
            addr: binding.addr,
            port: binding.port,
            v6_only: binding.v6_only,
            reuse: binding.reuse.load(Relaxed),
            reuse_port: binding.reuse_port.load(Relaxed),
            uid: binding.uid,
            device: binding.device,
            range: (binding.port, binding.port),
        };
        if self.ports.on(binding.port).any(|entry| entry.binding.id != binding.id && claim.conflicts(&entry.binding)) {
            return Err(Errno::EADDRINUSE);
        }
        binding.listening.store(true, Relaxed);
        self.listeners.insert((binding.port, binding.id), (binding.clone(), socket.clone()));
        Ok(())
    }

    /// A listener listens no more.
    pub fn unlisten(&mut self, binding: &Binding) {
        binding.listening.store(false, Relaxed);
        self.listeners.remove(&(binding.port, binding.id));
    }

    /// The listener for a connection to `to` that comes in by `device`; among equals that reuse a port, one by the sender's address.
    pub fn listener(&self, to: SocketAddr, from: SocketAddr, device: u32) -> Option<Arc<TcpSocket>> {
        let on_port = self.listeners.range((to.port(), 0)..=(to.port(), u64::MAX)).map(|(_, listener)| listener);
        let fits = |(binding, socket): &(Arc<Binding>, Weak<TcpSocket>)| {
            let (fit, socket) = (fit(binding, to.ip())?, socket.upgrade()?);
            socket.common().takes_from(device).then_some((fit, socket))
        };
        let mut found: Vec<_> = on_port.filter_map(fits).collect();
        let best = found.iter().map(|(fit, _)| *fit).max()?;
        found.retain(|(fit, _)| *fit == best);
        // Fibonacci hashing of the one thing that differs between clients of one machine.
        let hash = (u32::from(from.port()).wrapping_mul(0x9e37_79b9) >> 16) as usize;
        let at = hash % found.len();
        Some(found.swap_remove(at).1)
    }

    /// Gives a connecting socket a port of its own, if it is not bound, and lists its connection.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`: there is such a connection, or no port is left.
    pub fn connect(
        &mut self,
        bound: Option<&Arc<Binding>>,
        claim: Claim,
        remote: SocketAddr,
        socket: &Weak<TcpSocket>,
    ) -> Result<(Arc<Binding>, SocketAddr)> {
        self.purge();
        let now_ns = time::monotonic_ns();
        let unused = |port: u16| match self.connections.get(&(SocketAddr::new(claim.addr, port), remote)) {
            None => true,
            Some(old) => old.lingering.is_some_and(|(what, since_ns)| {
                what == Lingering::TimeWait && now_ns.saturating_sub(since_ns) > REUSE_NS
            }),
        };
        let port = match bound {
            Some(binding) if unused(binding.port) => binding.port,
            Some(_) => return Err(Errno::EADDRNOTAVAIL),
            None => {
                let free = |port: &u16| self.ports.on(*port).all(|entry| entry.binding.automatic) && unused(*port);
                ports(claim.range).find(free).ok_or(Errno::EADDRNOTAVAIL)?
            }
        };
        let local = SocketAddr::new(claim.addr, port);
        self.remove(&(local, remote));
        let binding = match bound {
            Some(binding) => binding.clone(),
            None => self.ports.insert(claim.binding(port, true), None),
        };
        self.insert((local, remote), &binding, socket);
        Ok((binding, local))
    }

    /// Lists a connection that uses `binding`.
    pub fn insert(&mut self, pair: Pair, binding: &Arc<Binding>, socket: &Weak<TcpSocket>) {
        binding.users.fetch_add(1, AcqRel);
        let new = Connection { binding: binding.clone(), socket: socket.clone(), lingering: None };
        if let Some(old) = self.connections.insert(pair, new) {
            self.lingering -= usize::from(old.lingering.is_some());
            self.ports.release(&old.binding);
        }
    }

    /// A connection is over.
    pub fn remove(&mut self, pair: &Pair) {
        if let Some(old) = self.connections.remove(pair) {
            self.lingering -= usize::from(old.lingering.is_some());
            self.ports.release(&old.binding);
        }
    }

    /// A connection lives on without its socket; at once over if there are too many of them.
    pub fn linger(&mut self, pair: &Pair, how: Lingering) {
        let full = self.lingering >= LINGERING_MAX;
        let Some(connection) = self.connections.get_mut(pair) else { return };
        if connection.lingering.is_none() {
            if full {
                return self.remove(pair);
            }
            self.lingering += 1;
        }
        connection.lingering = Some((how, time::monotonic_ns()));
    }

    /// A user of a binding is gone.
    pub fn release(&mut self, binding: &Binding) {
        self.ports.release(binding);
    }

    /// Forgets what has lingered long enough.
    fn purge(&mut self) {
        if self.lingering == 0 {
            return;
        }
        let now_ns = time::monotonic_ns();
        let over = |connection: &Connection| {
            connection.lingering.is_some_and(|(_, since_ns)| now_ns.saturating_sub(since_ns) > LINGER_NS)
        };
        // Rarely more than a few, and never more than LINGERING_MAX; looked at once a second.
        static LAST_NS: AtomicU64 = AtomicU64::new(0);
        if now_ns.saturating_sub(LAST_NS.load(Relaxed)) < time::SEC_NS {
            return;
        }
        LAST_NS.store(now_ns, Relaxed);
        let gone: Vec<Pair> = self.connections.iter().filter(|(_, c)| over(c)).map(|(pair, _)| *pair).collect();
        for pair in &gone {
            self.remove(pair);
        }
    }

    /// All listeners.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn listeners(&self) -> Result<Vec<Arc<TcpSocket>>> {
        self.listeners.values().filter_map(|(_, socket)| socket.upgrade()).try_list()
    }

    /// The sockets of some connections behind `after`, and the last of these; `None` when there are no more.
    pub fn some_after<const N: usize>(&self, after: Option<Pair>) -> ([Option<Arc<TcpSocket>>; N], Option<Pair>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut found, mut last) = ([const { None }; N], None);
        for (slot, (pair, connection)) in found.iter_mut().zip(self.connections.range((from, Bound::Unbounded))) {
            *slot = connection.socket.upgrade();
            last = Some(*pair);
        }
        (found, last)
    }

    /// Connections that outlive their socket, in `FIN_WAIT2` and in `TIME_WAIT`.
    pub fn count_lingering(&mut self) -> [usize; 2] {
        self.purge();
        let is = |c: &Connection, how| c.lingering.is_some_and(|(is, _)| is == how);
        [Lingering::FinWait, Lingering::TimeWait].map(|how| self.connections.values().filter(|c| is(c, how)).count())
    }

    /// All connections.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn connections(&mut self) -> Result<Vec<Listed>> {
        self.purge();
        self.connections.iter().map(|(pair, c)| (*pair, c.socket.upgrade(), c.lingering)).try_list()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(addr: &str, port: u16, reuse: bool) -> Claim {
        let addr = addr.parse().unwrap();
        Claim { addr, port, v6_only: false, reuse, reuse_port: false, uid: 0, device: 0, range: (40_000, 40_009) }
    }

    #[test]
    fn claims_conflict_where_their_addresses_overlap() {
        let mut table = Table::default();
        table.bind(claim("127.0.0.1", 80, false), None).unwrap();
        table.bind(claim("127.0.0.2", 80, false), None).unwrap();
        table.bind(claim("::1", 80, false), None).unwrap();
        for addr in ["127.0.0.1", "0.0.0.0", "::"] {
            assert!(table.bind(claim(addr, 80, true), None).is_err(), "{addr}");
        }
        let only = Claim { v6_only: true, ..claim("::", 81, false) };
        table.bind(only, None).unwrap();
        table.bind(claim("0.0.0.0", 81, false), None).unwrap();
    }

    #[test]
    fn reuse_needs_both_and_no_listener() {
        let mut table = TcpTable::default();
        let first = table.bind(claim("0.0.0.0", 80, true)).unwrap();
        let second = table.bind(claim("127.0.0.1", 80, true)).unwrap();
        assert!(table.bind(claim("127.0.0.1", 80, false)).is_err());
        table.listen(&first, &Weak::new()).unwrap();
        assert!(table.listen(&second, &Weak::new()).is_err());
        assert!(table.bind(claim("127.0.0.1", 80, true)).is_err());
        table.unlisten(&first);
        table.listen(&second, &Weak::new()).unwrap();
    }

    #[test]
    fn a_binding_lives_as_long_as_its_connections() {
        let mut table = TcpTable::default();
        let binding = table.bind(claim("127.0.0.1", 80, false)).unwrap();
        let pair: Pair = ("127.0.0.1:80".parse().unwrap(), "127.0.0.1:40000".parse().unwrap());
        table.insert(pair, &binding, &Weak::new());
        table.linger(&pair, Lingering::TimeWait);
        table.release(&binding);
        assert!(table.bind(claim("127.0.0.1", 80, false)).is_err());
        table.remove(&pair);
        assert_eq!(table.lingering, 0);
        table.bind(claim("127.0.0.1", 80, false)).unwrap();
    }

    #[test]
    fn connections_are_walked_in_steps() {
        let mut table = TcpTable::default();
        let binding = table.bind(claim("127.0.0.1", 80, false)).unwrap();
        let remote = |port: u16| SocketAddr::new("127.0.0.1".parse().unwrap(), port);
        for port in 1..=5 {
            table.insert((remote(80), remote(port)), &binding, &Weak::new());
        }
        let (_, two) = table.some_after::<2>(None);
        assert_eq!(two, Some((remote(80), remote(2))));
        let (_, four) = table.some_after::<2>(two);
        let (_, five) = table.some_after::<2>(four);
        assert_eq!((five, table.some_after::<2>(five).1), (Some((remote(80), remote(5))), None));
    }

    #[test]
    fn given_ports_are_in_range_and_differ() {
        let mut table = Table::default();
        let a = table.bind(claim("127.0.0.1", 0, false), None).unwrap();
        let b = table.bind(claim("127.0.0.1", 0, false), None).unwrap();
        assert!(a.port != b.port && (40_000..=40_009).contains(&a.port));
    }
}
