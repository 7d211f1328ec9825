//! Raw sockets: packets as programs make them. Sources: raw(7), icmp(7).

use super::super::packet::{self, Packet};
use super::control::Sending;
use super::deliver::{accept_icmp, carry, count, deliver_udp, raw_copies};
use super::{Datagram, Message};
use crate::net::Namespace;
use crate::net::inet::ip::{v4, v6};
use crate::net::route::Way;
use crate::net::uapi::*;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::sync::atomic::Ordering::Relaxed;

/// `ICMP_FILTER`, `ICMPV6_FILTER`.
const FILTER: u32 = 1;

/// A packet comes in by `device` from a packet socket, which everybody has seen: where it is for a local address.
pub fn input(namespace: &Namespace, device: u32, packet: &Packet<'_>) {
    if !namespace.links().is_local(packet.to) {
        return;
    }
    let (from, to) = (SocketAddr::new(packet.from, 0), SocketAddr::new(packet.to, 0));
    let at_ns = crate::time::realtime_ns();
    let Packet { ttl, tos, .. } = *packet;
    let message = Message { bytes: packet.payload.to_vec(), from, to, ttl, tos, device, at_ns };
    dispatch(namespace, u32::from(packet.protocol), message);
}

/// A packet goes its way.
fn transmit(namespace: &Namespace, way: &Way, protocol: u32, mut message: Message) {
    if matches!(protocol, IPPROTO_ICMP | IPPROTO_ICMPV6) {
        namespace.counters.icmp_sent(message.to.is_ipv6(), message.bytes.first().copied().unwrap_or(0));
    }
    let len = message.bytes.len();
    if let Some(end) = carry(namespace, way, protocol, &mut message, len, &|message| Some(message.bytes.clone())) {
        dispatch(end, protocol, message);
    }
}

/// What the machine does with a packet that has come in.
fn dispatch(namespace: &Namespace, protocol: u32, message: Message) {
    match protocol {
        IPPROTO_ICMP | IPPROTO_ICMPV6 => accept_icmp(namespace, message),
        IPPROTO_UDP => {
            raw_copies(namespace, protocol, &message, |message| Some(message.bytes.clone()));
            if let Some((from, to, payload)) = packet::parse_udp(&message.bytes) {
                let (from, to) = (SocketAddr::new(message.from.ip(), from), SocketAddr::new(message.to.ip(), to));
                let message = Message { bytes: payload.to_vec(), from, to, ..message };
                deliver_udp(namespace, &namespace.udp, &Arc::new(message));
            }
        }
        // Connections know no packets: a segment of TCP goes to raw sockets alone.
        _ => {
            count(namespace, &message, message.bytes.len());
            let found = raw_copies(namespace, protocol, &message, |message| Some(message.bytes.clone()));
            if !found && protocol != IPPROTO_TCP {
                namespace.counters.unknown_protocols.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Datagram {
    /// Sends a packet: the IP header is made here, or is in `bytes` (`IP_HDRINCL`).
    pub(super) fn send_raw(&self, to: SocketAddr, mut bytes: Vec<u8>, sending: &Sending) -> Result<()> {
        let (way, from) = self.way_from(to.ip(), sending)?;
        let (from, to) = (SocketAddr::new(from, 0), SocketAddr::new(to.ip(), 0));
        let (protocol, namespace) = (self.common.protocol, &self.common.namespace);
        if self.has_header(to) {
            let packet = match to {
                SocketAddr::V4(_) => {
                    packet::complete_v4(&mut bytes, from.ip())?;
                    packet::parse_v4(&bytes)?
                }
                SocketAddr::V6(_) => packet::parse_v6(&bytes)?,
            };
            let (from, to) = (SocketAddr::new(packet.from, 0), SocketAddr::new(packet.to, 0));
            let mut message = self.message(from, to, packet.payload.to_vec(), sending);
            (message.ttl, message.tos) = (packet.ttl, packet.tos);
            transmit(namespace, &way, u32::from(packet.protocol), message);
            return Ok(());
        }
        if to.is_ipv6() {
            self.complete_checksum(&mut bytes, from, to)?;
        }
        transmit(namespace, &way, protocol, self.message(from, to, bytes, sending));
        Ok(())
    }

    /// Programs send whole packets on it.
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub fn include_header(&self) -> Result<()> {
        let v6 = self.common.family() == AF_INET6;
        let (level, name) = if v6 { (SOL_IPV6, v6::HDRINCL) } else { (SOL_IP, v4::HDRINCL) };
        self.ip.store(level, name, 1)
    }

    fn has_header(&self, to: SocketAddr) -> bool {
        match to {
            SocketAddr::V4(_) => self.ip.is_on(SOL_IP, v4::HDRINCL),
            SocketAddr::V6(_) => self.ip.is_on(SOL_IPV6, v6::HDRINCL),
        }
    }

    /// ICMPv6 always has its checksum made; other protocols where the program says it lies.
    fn complete_checksum(&self, bytes: &mut [u8], from: SocketAddr, to: SocketAddr) -> Result<()> {
        if self.common.protocol == IPPROTO_ICMPV6 {
            packet::complete_icmp(bytes, None, from.ip(), to.ip());
        } else if let Some(at) = self.checksum_offset() {
            let protocol = self.common.protocol as u8;
            bytes.get_mut(at..at.saturating_add(2)).ok_or(Errno::EINVAL)?.fill(0);
            let sum = match packet::checksum_v6(bytes, protocol, from.ip(), to.ip()) {
                // None would mean that there is no checksum.
                0 if self.common.protocol == IPPROTO_UDP => 0xffff,
                sum => sum,
            };
            bytes.get_mut(at..at.saturating_add(2)).ok_or(Errno::EINVAL)?.copy_from_slice(&sum.to_be_bytes());
        }
        Ok(())
    }

    /// `IPV6_CHECKSUM`: where in what it sends the checksum lies.
    fn checksum_offset(&self) -> Option<usize> {
        usize::try_from(self.ip.value(SOL_IPV6, v6::CHECKSUM)).ok()
    }

    /// Whether the socket looks at checksums, and this payload's is wrong.
    pub(super) fn is_corrupt(&self, payload: &[u8], message: &Message) -> bool {
        let (from, to) = (message.from.ip(), message.to.ip());
        to.is_ipv6()
            && self.checksum_offset().is_some()
            && packet::checksum_v6(payload, self.common.protocol as u8, from, to) != 0
    }

    /// Whether the socket does not want this ICMP message.
    pub(super) fn filters(&self, payload: &[u8]) -> bool {
        if !matches!(self.common.protocol, IPPROTO_ICMP | IPPROTO_ICMPV6) {
            return false;
        }
        let kind = usize::from(payload.first().copied().unwrap_or(0));
        let filter = self.filter.lock();
        filter.get(kind / 32).is_some_and(|word| word >> (kind % 32) & 1 != 0)
    }

    fn has_filter(&self, level: u32) -> bool {
        match level {
            SOL_RAW => self.common.protocol == IPPROTO_ICMP,
            _ => self.common.protocol == IPPROTO_ICMPV6,
        }
    }

    pub(super) fn raw_option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        if name != FILTER || !self.has_filter(level) {
            return Err(Errno::ENOPROTOOPT);
        }
        let words = *self.filter.lock();
        let count = if level == SOL_RAW { 1 } else { words.len() };
        Ok(words.iter().take(count).flat_map(|word| word.to_le_bytes()).collect())
    }

    pub(super) fn set_raw_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if name != FILTER || !self.has_filter(level) {
            return Err(Errno::ENOPROTOOPT);
        }
        let mut words = self.filter.lock();
        for (word, bytes) in words.iter_mut().zip(value.chunks_exact(4)) {
            *word = u32::from_le_bytes(core::array::from_fn(|i| bytes[i]));
        }
        Ok(())
    }
}
