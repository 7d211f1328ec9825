//! From a send call to the queues of those it is for, in the namespace where the way ends ([`carry`]).

use super::super::packet::{self, Packet};
use super::control::Sending;
use super::{Datagram, Message, Protocol};
use crate::net::counters::Udp;
use crate::net::inet::ip::{v4, v6};
use crate::net::inet::table::Table;
use crate::net::link::{LOOPBACK, Traffic};
use crate::net::packet::{Seen, tap};
use crate::net::route::{self, End, Query, Way};
use crate::net::socket::Socket;
use crate::net::uapi::*;
use crate::net::{Namespace, sysctl};
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
            device: LOOPBACK,
            at_ns: time::realtime_ns(),
        }
    }

    /// The way of something to `to`, and the address that it comes from.
    pub(super) fn way_from(&self, to: IpAddr, sending: &Sending) -> Result<(Way, IpAddr)> {
        let way = self.way(to, sending)?;
        let own = self.addresses().0.ip();
        let foreign = own.is_unspecified() || own.is_multicast() || own.is_ipv4() != to.is_ipv4();
        let from = match sending.source {
            Some(source) => source,
            None if foreign || self.common.namespace.links().is_broadcast(own) => way.source,
            None => own,
        };
        Ok((way, from))
    }

    pub(super) fn send_udp(&self, to: SocketAddr, bytes: Vec<u8>, sending: &Sending) -> Result<()> {
        let (way, from) = self.way_from(to.ip(), sending)?;
        self.bind_automatically()?;
        let from = SocketAddr::new(from, self.addresses().0.port());
        let Some(size) = sending.segment.filter(|size| *size > 0 && *size < bytes.len()) else {
            self.deliver_udp(&way, self.message(from, to, bytes, sending));
            return Ok(());
        };
        if bytes.len().div_ceil(size) > SEGMENTS_MAX {
            return Err(Errno::EINVAL);
        }
        for piece in bytes.chunks(size) {
            self.deliver_udp(&way, self.message(from, to, piece.to_vec(), sending));
        }
        Ok(())
    }

    fn deliver_udp(&self, way: &Way, mut message: Message) {
        let here = &self.common.namespace;
        let kind = (self.common.protocol == IPPROTO_UDPLITE, message.to.is_ipv6());
        let payload = |message: &Message| packet::udp(message.from, message.to, &message.bytes).ok();
        here.counters.udp(kind, Udp::Out);
        let len = message.bytes.len() + packet::UDP_HEADER;
        let end = carry(here, way, self.common.protocol, &mut message, len, &payload);
        let message = Arc::new(message);
        if way.device != LOOPBACK && self.hears_itself(message.to.ip()) {
            deliver_udp(here, self.table_of(here), &message);
        }
        let Some(end) = end else { return };
        raw_copies(end, self.common.protocol, &message, payload);
        if !deliver_udp(end, self.table_of(end), &message) && refuse(here, end, kind, &message) {
            self.unreachable(message.to, message.bytes.clone());
        }
    }

    /// Whether what it sends to a group comes back to its own namespace (`IP_MULTICAST_LOOP`).
    fn hears_itself(&self, to: IpAddr) -> bool {
        let (level, name) = if to.is_ipv4() { (SOL_IP, v4::MULTICAST_LOOP) } else { (SOL_IPV6, v6::MULTICAST_LOOP) };
        match to.is_multicast() {
            true => self.ip.value(level, name) != 0,
            false => self.common.namespace.links().is_broadcast(to),
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
        let (way, from) = self.way_from(to.ip(), sending)?;
        self.bind_automatically()?;
        let ident = self.addresses().0.port();
        packet::complete_icmp(&mut bytes, Some(ident), from, to.ip());
        let message = self.message(SocketAddr::new(from, 0), SocketAddr::new(to.ip(), 0), bytes, sending);
        deliver_icmp(&self.common.namespace, &way, message);
        Ok(())
    }
}

/// Takes a packet to where its way ends: counts it at the devices on both sides, and shows it there. The namespace where it comes in,
/// if it does. `len`: bytes behind the header of IP, which `payload` makes.
pub(super) fn carry<'a>(
    here: &'a Namespace,
    way: &'a Way,
    protocol: u32,
    message: &mut Message,
    len: usize,
    payload: &dyn Fn(&Message) -> Option<Vec<u8>>,
) -> Option<&'a Namespace> {
    let shown = if crate::net::packet::is_used() { payload(message) } else { None };
    let show = |namespace: &Namespace, device, message: &Message, seen| {
        if let Some(shown) = &shown {
            tap(namespace, device, &message.packet(protocol, shown), seen);
        }
    };
    let far = match &way.end {
        End::Here => {
            message.device = way.device;
            show(here, way.device, message, Seen::Both);
            return Some(here);
        }
        End::There(far) => Some(far),
        End::Lost(_) => None,
    };
    here.links().count_at(way.device, message.to.is_ipv6(), Traffic::packet(message.to.is_ipv6(), len), false);
    message.device = way.device;
    show(here, way.device, message, Seen::Leaving);
    let far = far.filter(|far| message.ttl > far.hops)?;
    message.ttl -= far.hops;
    message.device = far.device;
    show(&far.namespace, far.device, message, Seen::Coming);
    Some(&far.namespace)
}

/// Nobody is at the port of a datagram: counts it, and the message that tells its sender. False: there is no way back for that.
fn refuse(here: &Arc<Namespace>, end: &Namespace, (lite, v6): (bool, bool), message: &Message) -> bool {
    /// Most bytes of a datagram that the message shows, with its headers.
    const SHOWN: usize = 548;
    let (kind, header) = if v6 { (1, packet::IPV6_HEADER) } else { (3, packet::IPV4_HEADER) };
    end.counters.udp((lite, v6), Udp::NoPorts);
    end.counters.icmp_sent(v6, kind);
    let shown = (message.bytes.len() + packet::UDP_HEADER + header).min(SHOWN) + packet::ICMP_HEADER;
    let query = Query { from: Some(message.to.ip()), ..Query::to(message.from.ip()) };
    match route::find(end, &query) {
        Ok(Way { end: End::There(far), device, .. }) if Arc::ptr_eq(&far.namespace, here) => {
            end.links().count_at(device, v6, Traffic::packet(v6, shown), false);
            here.links().count_at(far.device, v6, Traffic::packet(v6, shown), true);
        }
        Ok(Way { end: End::Here, .. }) => end.links().count(v6, shown),
        _ => return false,
    }
    here.counters.icmp_received(v6, kind);
    true
}

/// A packet comes in: counts it at its device. `len`: bytes behind the header of IP.
pub(super) fn count(namespace: &Namespace, message: &Message, len: usize) {
    let v6 = message.to.is_ipv6();
    let mut links = namespace.links();
    match message.device {
        LOOPBACK => links.count(v6, len),
        device => links.count_at(device, v6, Traffic::packet(v6, len), true),
    }
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
    let families: &[u16] = if family == AF_INET { &[AF_INET, AF_INET6] } else { &[AF_INET6] };
    let mut joined = false;
    for family in families {
        namespace.each_socket(*family, |socket| {
            joined |= datagram(socket).is_some_and(|socket| socket.ip.is_member(group));
        });
    }
    joined
}

/// Delivers to the sockets of a port: all of those that are in the group, or the one that fits best. False if there is none.
pub(super) fn deliver_udp(namespace: &Namespace, table: &SpinLock<Table>, message: &Arc<Message>) -> bool {
    count(namespace, message, message.bytes.len() + packet::UDP_HEADER);
    let to = message.to;
    if to.ip().is_multicast() || namespace.links().is_broadcast(to.ip()) {
        // What goes to a group goes through the device, whatever `IP_MULTICAST_LOOP` says, and comes in if the device is in the group.
        if to.ip().is_multicast() && !is_joined(namespace, to.ip()) {
            return true;
        }
        // A socket that is bound to any address, or to the group's.
        let candidates = table.lock().find(to, message.device);
        for (_, socket) in &candidates {
            let Some(socket) = datagram(socket).filter(|socket| socket.fit(message).is_some()) else { continue };
            if !to.ip().is_multicast() || socket.wants_group(to.ip()) {
                socket.push(message);
            }
        }
        return true;
    }
    let candidates = table.lock().find(to, message.device);
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

/// An ICMP message goes its way.
fn deliver_icmp(namespace: &Namespace, way: &Way, mut message: Message) {
    let protocol = if message.to.is_ipv6() { IPPROTO_ICMPV6 } else { IPPROTO_ICMP };
    namespace.counters.icmp_sent(message.to.is_ipv6(), message.bytes.first().copied().unwrap_or(0));
    let len = message.bytes.len();
    if let Some(end) = carry(namespace, way, protocol, &mut message, len, &|message| Some(message.bytes.clone())) {
        accept_icmp(end, message);
    }
}

/// Delivers an ICMP message, and the answer to it.
pub(super) fn accept_icmp(namespace: &Namespace, message: Message) {
    let v6 = message.to.is_ipv6();
    let protocol = if v6 { IPPROTO_ICMPV6 } else { IPPROTO_ICMP };
    count(namespace, &message, message.bytes.len());
    namespace.counters.icmp_received(v6, message.bytes.first().copied().unwrap_or(0));
    raw_copies(namespace, protocol, &message, |message| Some(message.bytes.clone()));
    let (kind, ident) = packet::parse_icmp(&message.bytes).unwrap_or((0xff, 0));
    if kind == packet::echo_types(v6).1 {
        let to = SocketAddr::new(message.to.ip(), ident);
        let sockets = namespace.ping.lock().find(to, message.device);
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
    // Who was asked among others answers by the address of its own.
    let asked = message.to.ip();
    let own = (!asked.is_multicast() && !namespace.links().is_broadcast(asked)).then_some(asked);
    let device = if message.device == LOOPBACK || own.is_some() { 0 } else { message.device };
    let query = Query { from: own, device, ..Query::to(message.from.ip()) };
    let Ok(way) = route::find(namespace, &query) else { return };
    let from = own.unwrap_or(way.source);
    if let Some(bytes) = packet::echo_reply(&message.bytes, message.from.ip(), from) {
        let (from, to, ttl) = (SocketAddr::new(from, 0), message.from, settings.get(ttl) as u8);
        let (tos, device, at_ns) = (message.tos, LOOPBACK, time::realtime_ns());
        deliver_icmp(namespace, &way, Message { bytes, from, to, ttl, tos, device, at_ns });
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
    let sockets = namespace.raw.lock().find(key, message.device);
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
            socket.push(&Arc::new(Message { bytes, from, to, ttl, tos, device: message.device, at_ns: message.at_ns }));
        }
    }
    found
}
