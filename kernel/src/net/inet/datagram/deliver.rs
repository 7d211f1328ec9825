//! From a send call to the queues of those it is for.

use super::super::packet::{self, Packet};
use super::control::Sending;
use super::{Datagram, Message, Protocol};
use crate::net::counters::Udp;
use crate::net::inet::ip::{v4, v6};
use crate::net::inet::table::Table;
use crate::net::packet::tap;
use crate::net::socket::Socket;
use crate::net::uapi::*;
use crate::net::{Namespace, interface, sysctl};
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use umbel_smp::lock::SpinLock;

/// Most datagrams that one call with `UDP_SEGMENT` makes.
const SEGMENTS_MAX: usize = 64;

impl Datagram {
    /// A message of this socket's, with the options that it sends with.
    pub(super) fn message(&self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, sending: &Sending) -> Message {
        let group = to.ip().is_multicast();
        let (ttl, tos) = match to {
            SocketAddr::V4(_) => (self.ip.value(SOL_IP, if group { v4::MULTICAST_TTL } else { v4::TTL }), v4::TOS),
            SocketAddr::V6(_) => {
                (self.ip.value(SOL_IPV6, if group { v6::MULTICAST_HOPS } else { v6::UNICAST_HOPS }), v6::TCLASS)
            }
        };
        let level = if to.is_ipv4() { SOL_IP } else { SOL_IPV6 };
        Message {
            bytes,
            from,
            to,
            ttl: sending.ttl.unwrap_or(ttl as u8),
            tos: sending.tos.unwrap_or(self.ip.value(level, tos) as u8),
            at_ns: time::realtime_ns(),
        }
    }

    /// The address that something to `to` comes from.
    pub(super) fn sender_address(&self, to: IpAddr, sending: &Sending) -> Result<IpAddr> {
        let source = self.source(to)?;
        let own = self.addresses().0.ip();
        Ok(match sending.source {
            Some(source) => source,
            None if own.is_unspecified()
                || own.is_multicast()
                || interface::is_broadcast(own)
                || own.is_ipv4() != to.is_ipv4() =>
            {
                source
            }
            None => own,
        })
    }

    pub(super) fn send_udp(&self, to: SocketAddr, bytes: Vec<u8>, sending: &Sending) -> Result<()> {
        let from = self.sender_address(to.ip(), sending)?;
        self.bind_automatically()?;
        let from = SocketAddr::new(from, self.addresses().0.port());
        let Some(size) = sending.segment.filter(|size| *size > 0 && *size < bytes.len()) else {
            self.deliver_udp(self.message(from, to, bytes, sending));
            return Ok(());
        };
        if bytes.len().div_ceil(size) > SEGMENTS_MAX {
            return Err(Errno::EINVAL);
        }
        for piece in bytes.chunks(size) {
            self.deliver_udp(self.message(from, to, piece.to_vec(), sending));
        }
        Ok(())
    }

    fn deliver_udp(&self, message: Message) {
        let namespace = &self.common.namespace;
        raw_copies(namespace, self.common.protocol, &message, |message| {
            packet::udp(message.from, message.to, &message.bytes).ok()
        });
        if crate::net::packet::is_used()
            && let Ok(bytes) = packet::udp(message.from, message.to, &message.bytes)
        {
            tap(namespace, &message.packet(self.common.protocol, &bytes));
        }
        let kind = (self.common.protocol == IPPROTO_UDPLITE, message.to.is_ipv6());
        namespace.counters.udp(kind, Udp::Out);
        let message = Arc::new(message);
        if !deliver_udp(namespace, self.table(), &message) {
            refuse(namespace, kind, &message);
            self.unreachable(message.to, message.bytes.clone());
        }
    }

    /// How well it fits as the receiver of a message, beyond its address.
    fn fit(&self, message: &Message) -> Option<u32> {
        match self.state.lock().remote {
            None => Some(0),
            Some(remote) if remote == message.from => Some(4),
            Some(_) => None,
        }
    }

    fn wants_group(&self, group: IpAddr) -> bool {
        let (level, all) = if group.is_ipv4() { (SOL_IP, v4::MULTICAST_ALL) } else { (SOL_IPV6, 29) };
        self.ip.is_member(group) || self.ip.value(level, all) != 0
    }

    /// Sends an echo request; the kernel answers at once.
    pub(super) fn send_ping(&self, to: SocketAddr, mut bytes: Vec<u8>, sending: &Sending) -> Result<()> {
        let (kind, _) = packet::parse_icmp(&bytes).ok_or(Errno::EINVAL)?;
        if kind != packet::echo_types(to.is_ipv6()).0 || bytes.get(1) != Some(&0) {
            return Err(Errno::EINVAL);
        }
        let from = self.sender_address(to.ip(), sending)?;
        self.bind_automatically()?;
        let ident = self.addresses().0.port();
        packet::complete_icmp(&mut bytes, Some(ident), from, to.ip());
        let message = self.message(SocketAddr::new(from, 0), SocketAddr::new(to.ip(), 0), bytes, sending);
        deliver_icmp(&self.common.namespace, message);
        Ok(())
    }
}

/// Nobody is at the port of a datagram: counts it, and the message that tells its sender.
fn refuse(namespace: &Namespace, (lite, v6): (bool, bool), message: &Message) {
    /// Most bytes of a datagram that the message shows, with its headers.
    const SHOWN: usize = 548;
    let (kind, header) = if v6 { (1, packet::IPV6_HEADER) } else { (3, packet::IPV4_HEADER) };
    namespace.counters.udp((lite, v6), Udp::NoPorts);
    namespace.counters.icmp_sent(v6, kind);
    namespace.counters.icmp_received(v6, kind);
    let shown = (message.bytes.len() + packet::UDP_HEADER + header).min(SHOWN);
    namespace.interface.lock().count(v6, packet::ICMP_HEADER + shown);
}

/// The type of a socket of the tables here.
fn datagram(socket: &Arc<dyn Socket>) -> Option<&Datagram> {
    socket.as_any().downcast_ref()
}

/// Whether any socket has joined a group; everybody is in those of all hosts.
fn is_joined(namespace: &Namespace, group: IpAddr) -> bool {
    let family = match group {
        IpAddr::V4(ip) if ip.octets() == [224, 0, 0, 1] => return true,
        IpAddr::V6(ip) if matches!(ip.segments(), [0xff01 | 0xff02, 0, 0, 0, 0, 0, 0, 1]) => return true,
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    };
    // A socket of IPv6 may have joined a group of IPv4, too.
    let mut sockets = namespace.sockets(family);
    if family == AF_INET {
        sockets.extend(namespace.sockets(AF_INET6));
    }
    sockets.iter().filter_map(datagram).any(|socket| socket.ip.is_member(group))
}

/// Delivers to the sockets of a port: all of those that are in the group, or the one that fits best. False if there is none.
pub(super) fn deliver_udp(namespace: &Namespace, table: &SpinLock<Table>, message: &Arc<Message>) -> bool {
    namespace.interface.lock().count(message.to.is_ipv6(), message.bytes.len() + packet::UDP_HEADER);
    let to = message.to;
    if to.ip().is_multicast() || interface::is_broadcast(to.ip()) {
        // What goes to a group goes through the device, whatever `IP_MULTICAST_LOOP` says, and comes in if the device is in the group.
        if to.ip().is_multicast() && !is_joined(namespace, to.ip()) {
            return true;
        }
        // A socket that is bound to any address, or to the group's.
        let candidates = table.lock().find(to);
        for (_, socket) in &candidates {
            let Some(socket) = datagram(socket).filter(|socket| socket.fit(message).is_some()) else { continue };
            if !to.ip().is_multicast() || socket.wants_group(to.ip()) {
                socket.push(message);
            }
        }
        return true;
    }
    let candidates = table.lock().find(to);
    let scored = candidates.iter().filter_map(|(fit, socket)| {
        let socket = datagram(socket)?;
        Some((fit + socket.fit(message)?, socket))
    });
    let best: Vec<(u32, &Datagram)> = scored.collect();
    let Some(top) = best.iter().map(|(score, _)| *score).max() else { return false };
    let equals = || best.iter().filter(|(score, _)| *score == top).map(|(_, socket)| *socket);
    // Those that share a port share its senders; of those that only reuse an address, the last one gets all.
    let shared = equals().all(|socket| socket.common.switches.get(so::REUSEPORT));
    let hash = (u32::from(message.from.port()).wrapping_mul(0x9e37_79b9) >> 16) as usize;
    let chosen = if shared { equals().nth(hash % equals().count().max(1)) } else { equals().next_back() };
    if let Some(socket) = chosen {
        socket.push(message);
    }
    true
}

/// An ICMP message goes through the device.
pub(super) fn deliver_icmp(namespace: &Namespace, message: Message) {
    let protocol = if message.to.is_ipv6() { IPPROTO_ICMPV6 } else { IPPROTO_ICMP };
    tap(namespace, &message.packet(protocol, &message.bytes));
    namespace.counters.icmp_sent(message.to.is_ipv6(), message.bytes.first().copied().unwrap_or(0));
    accept_icmp(namespace, message);
}

/// Delivers an ICMP message, and the answer to it.
pub(super) fn accept_icmp(namespace: &Namespace, message: Message) {
    let v6 = message.to.is_ipv6();
    let protocol = if v6 { IPPROTO_ICMPV6 } else { IPPROTO_ICMP };
    namespace.interface.lock().count(v6, message.bytes.len());
    namespace.counters.icmp_received(v6, message.bytes.first().copied().unwrap_or(0));
    raw_copies(namespace, protocol, &message, |message| Some(message.bytes.clone()));
    let (kind, ident) = packet::parse_icmp(&message.bytes).unwrap_or((0xff, 0));
    if kind == packet::echo_types(v6).1 {
        let to = SocketAddr::new(message.to.ip(), ident);
        let sockets = namespace.ping.lock().find(to);
        let message = Arc::new(message);
        for (_, socket) in sockets {
            if let Some(socket) = datagram(&socket).filter(|socket| (socket.common.family() == AF_INET6) == v6) {
                socket.push(&message);
            }
        }
        return;
    }
    let settings = &namespace.settings;
    let (mute, ttl) = match v6 {
        false => (sysctl::ECHO_IGNORE_ALL, sysctl::DEFAULT_TTL),
        true => (sysctl::ECHO_IGNORE_ALL_V6, sysctl::HOP_LIMIT),
    };
    if settings.get(mute) != 0 {
        return;
    }
    if let Some(bytes) = packet::echo_reply(&message.bytes, message.from.ip(), message.to.ip()) {
        let (from, to, ttl) = (message.to, message.from, settings.get(ttl) as u8);
        deliver_icmp(namespace, Message { bytes, from, to, ttl, tos: message.tos, at_ns: time::realtime_ns() });
    }
}

/// Gives raw sockets of a protocol a copy of a packet; `payload` makes what follows the IP header. Whether there was any.
pub(super) fn raw_copies(
    namespace: &Namespace,
    protocol: u32,
    message: &Message,
    payload: impl Fn(&Message) -> Option<Vec<u8>>,
) -> bool {
    let key = SocketAddr::new(message.to.ip(), protocol as u16);
    let sockets = namespace.raw.lock().find(key);
    let (from, to) = (SocketAddr::new(message.from.ip(), 0), SocketAddr::new(message.to.ip(), 0));
    let mut found = false;
    for (_, socket) in sockets {
        let Some(socket) = datagram(&socket).filter(|socket| socket.what == Protocol::Raw) else { continue };
        let family = if to.is_ipv4() { AF_INET } else { AF_INET6 };
        let elsewhere = socket.addresses().1.is_some_and(|remote| remote.ip() != from.ip());
        if socket.common.family() != family || elsewhere {
            continue;
        }
        found = true;
        let Some(payload) = payload(message) else { continue };
        if socket.filters(&payload) || socket.is_corrupt(&payload, message) {
            continue;
        }
        // IPv4 is shown with its header, IPv6 without.
        let (ttl, tos) = (message.ttl, message.tos);
        let whole = Packet { from: from.ip(), to: to.ip(), protocol: protocol as u8, ttl, tos, payload: &payload };
        let bytes = if to.is_ipv4() { whole.bytes().ok() } else { Some(payload.clone()) };
        if let Some(bytes) = bytes {
            socket.push(&Arc::new(Message { bytes, from, to, ttl, tos, at_ns: message.at_ns }));
        }
    }
    found
}
