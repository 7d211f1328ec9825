//! Control messages of datagrams, options of the level UDP, and the queue of errors. Sources: ip(7), ipv6(7), udp(7).

use super::{Datagram, ERRORS_MAX, Failure, Message};
use crate::fs::IoDst;
use crate::net::inet::addr;
use crate::net::inet::ip::{v4, v6};
use crate::net::option::{bytes, number, stamp, words};
use crate::net::socket::{Control, Incoming};
use crate::net::uapi::*;
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::sync::atomic::Ordering::Relaxed;

/// Options of SOL_UDP, and of SOL_UDPLITE.
const UDP_CORK: u32 = 1;
const UDPLITE_SEND_CSCOV: u32 = 10;
const UDPLITE_RECV_CSCOV: u32 = 11;
const UDP_ENCAP: u32 = 100;
const UDP_SEGMENT: u32 = 103;
const UDP_GRO: u32 = 104;

/// What control messages of a send call ask for.
#[derive(Default)]
pub(super) struct Sending {
    /// `IP_PKTINFO`: the source address, and the device.
    pub source: Option<IpAddr>,
    pub device: u32,
    pub ttl: Option<u8>,
    pub tos: Option<u8>,
    /// `UDP_SEGMENT`: bytes of each datagram that the payload is cut into.
    pub segment: Option<usize>,
}

impl Sending {
    pub(super) fn read(socket: &Datagram, control: &[Control]) -> Result<Sending> {
        let mut sending = Sending::default();
        for Control { level, kind, bytes } in control {
            let byte = |bytes: &[u8]| {
                let value =
                    if bytes.len() >= 4 { number(bytes)? } else { i32::from(*bytes.first().ok_or(Errno::EINVAL)?) };
                // -1: the socket's own.
                if value == -1 { Ok(None) } else { u8::try_from(value).map(Some).map_err(|_| Errno::EINVAL) }
            };
            match (*level, *kind) {
                (SOL_IP, v4::PKTINFO) => {
                    let info: &[u8; 12] = bytes.first_chunk().ok_or(Errno::EINVAL)?;
                    let ip = Ipv4Addr::from(core::array::from_fn(|i| info[4 + i]));
                    sending.device = u32::from_le_bytes(core::array::from_fn(|i| info[i]));
                    sending.source = (!ip.is_unspecified()).then_some(ip.into());
                }
                (SOL_IPV6, v6::PKTINFO) => {
                    let info: &[u8; 20] = bytes.first_chunk().ok_or(Errno::EINVAL)?;
                    let ip: [u8; 16] = core::array::from_fn(|i| info[i]);
                    let ip = Ipv6Addr::from(ip);
                    sending.device = u32::from_le_bytes(core::array::from_fn(|i| info[16 + i]));
                    sending.source = (!ip.is_unspecified()).then_some(ip.to_canonical());
                }
                (SOL_IP, v4::TTL) | (SOL_IPV6, v6::HOPLIMIT) => sending.ttl = byte(bytes)?,
                (SOL_IP, v4::TOS) | (SOL_IPV6, v6::TCLASS) => sending.tos = byte(bytes)?,
                (SOL_UDP, UDP_SEGMENT) => {
                    let size: &[u8; 2] = bytes.first_chunk().ok_or(Errno::EINVAL)?;
                    sending.segment = Some(usize::from(u16::from_le_bytes(*size)));
                }
                (SOL_SOCKET, so::MARK | so::PRIORITY) => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        if sending.segment.is_none() {
            let segment = socket.ip.value(SOL_UDP, UDP_SEGMENT);
            sending.segment = (segment > 0).then_some(segment as usize);
        }
        if let Some(source) = sending.source
            && !socket.common.namespace.links().is_local(source)
        {
            return Err(Errno::EINVAL);
        }
        Ok(sending)
    }
}

impl Datagram {
    /// The control messages that the socket wants with a message.
    pub(super) fn control_of(&self, message: &Message) -> Vec<Control> {
        let mut control = Vec::new();
        let mut add = |level, kind, bytes| control.push(Control { level, kind, bytes });
        let switches = &self.common.switches;
        match stamp(&self.common, message.at_ns) {
            Some(Control { level, kind, bytes }) => add(level, kind, bytes),
            None => self.common.stamp_ns.store(message.at_ns, Relaxed),
        }
        if switches.get(so::RXQ_OVFL) {
            add(SOL_SOCKET, so::RXQ_OVFL, bytes(self.queue().1));
        }
        if message.to.is_ipv4() {
            if self.ip.is_on(SOL_IP, v4::PKTINFO)
                && let IpAddr::V4(to) = message.to.ip()
            {
                let octets = u32::from_le_bytes(to.octets());
                // The local address is the device's own, if the message was for a group.
                let own = match self.common.namespace.links().source(message.device, message.to.ip()) {
                    Some(IpAddr::V4(own)) if to.is_multicast() => u32::from_le_bytes(own.octets()),
                    _ => octets,
                };
                add(SOL_IP, v4::PKTINFO, words(&[message.device, own, octets]));
            }
            if self.ip.is_on(SOL_IP, v4::RECVTTL) {
                add(SOL_IP, v4::TTL, bytes(u32::from(message.ttl)));
            }
            if self.ip.is_on(SOL_IP, v4::RECVTOS) {
                add(SOL_IP, v4::TOS, alloc::vec![message.tos]);
            }
            if self.ip.is_on(SOL_IP, v4::ORIGDSTADDR) {
                add(SOL_IP, v4::ORIGDSTADDR, addr::format(AF_INET, message.to));
            }
        }
        if self.common.family() == AF_INET6 {
            if self.ip.is_on(SOL_IPV6, v6::RECVPKTINFO) {
                let mut info = addr::as_v6(message.to.ip()).octets().to_vec();
                info.extend_from_slice(&message.device.to_le_bytes());
                add(SOL_IPV6, v6::PKTINFO, info);
            }
            if self.ip.is_on(SOL_IPV6, v6::RECVHOPLIMIT) {
                add(SOL_IPV6, v6::HOPLIMIT, bytes(u32::from(message.ttl)));
            }
            if self.ip.is_on(SOL_IPV6, v6::RECVTCLASS) {
                add(SOL_IPV6, v6::TCLASS, bytes(u32::from(message.tos)));
            }
        }
        control
    }

    /// Something sent to `to` found nobody: the socket learns it if it is connected there, or asks for errors.
    pub(super) fn unreachable(&self, to: SocketAddr, sent: Vec<u8>) {
        let connected = {
            let mut state = self.state.lock();
            if self.ip.wants_errors_of(to) && state.errors.len() < ERRORS_MAX && state.errors.try_reserve(1).is_ok() {
                state.errors.push_back(Failure { errno: Errno::ECONNREFUSED, bytes: sent, to });
            }
            state.remote == Some(to)
        };
        if connected || self.ip.wants_errors_of(to) {
            self.common.fail(Errno::ECONNREFUSED);
        }
    }

    /// `MSG_ERRQUEUE`: `struct sock_extended_err` with the address of who complained, which is always the destination.
    pub(super) fn receive_error(&self, dst: &mut IoDst<'_>) -> Result<Incoming> {
        let (failure, next) = {
            let mut state = self.state.lock();
            let failure = state.errors.pop_front().ok_or(Errno::EAGAIN)?;
            (failure, state.errors.front().map(|next| next.errno))
        };
        // The next one is the socket's error now.
        self.common.take_error();
        if let Some(errno) = next {
            self.common.fail(errno);
        }
        let full = failure.bytes.len();
        let count = dst.write(failure.bytes.get(..full.min(dst.remaining())).unwrap_or(&[]))?;
        let v6 = failure.to.is_ipv6();
        // Origin ICMP or ICMPv6; destination unreachable, port unreachable.
        let (origin, kind, code) = if v6 { (3, 1, 4) } else { (2, 3, 3) };
        let mut bytes = words(&[failure.errno.raw() as u32, u32::from_le_bytes([origin, kind, code, 0]), 0, 0]);
        let family = if v6 { AF_INET6 } else { AF_INET };
        bytes.extend(addr::format(family, SocketAddr::new(failure.to.ip(), 0)));
        let (level, kind) = if v6 { (SOL_IPV6, v6::RECVERR) } else { (SOL_IP, v4::RECVERR) };
        let control = alloc::vec![Control { level, kind, bytes }];
        let from = addr::format(self.common.family(), failure.to);
        Ok(Incoming { count, full, from, control, flags: MSG_ERRQUEUE, ..Incoming::default() })
    }

    /// Whether what is sent waits for more.
    pub(super) fn is_corked(&self) -> bool {
        self.ip.is_on(SOL_UDP, UDP_CORK)
    }

    /// Sends what has waited, to the peer.
    fn send_corked(&self) -> Result<()> {
        let (bytes, remote) = {
            let mut state = self.state.lock();
            (core::mem::take(&mut state.corked), state.remote)
        };
        match remote {
            Some(to) if !bytes.is_empty() => self.send_udp(to, bytes, &Sending::default()),
            _ => Ok(()),
        }
    }

    pub(super) fn udp_option(&self, name: u32) -> Result<Vec<u8>> {
        match name {
            UDP_CORK | UDP_ENCAP | UDP_SEGMENT | UDP_GRO | UDPLITE_SEND_CSCOV | UDPLITE_RECV_CSCOV => {
                Ok(bytes(self.ip.value(SOL_UDP, name) as u32))
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    pub(super) fn set_udp_option(&self, name: u32, value: &[u8]) -> Result<()> {
        let number = number(value)?;
        match name {
            UDP_CORK => {
                self.ip.store(SOL_UDP, name, i32::from(number != 0))?;
                if number != 0 { Ok(()) } else { self.send_corked() }
            }
            UDP_SEGMENT if !(0..=0xffff).contains(&number) => Err(Errno::EINVAL),
            UDP_SEGMENT => self.ip.store(SOL_UDP, name, number),
            // Fewer bytes than a header has are those of the header.
            UDPLITE_SEND_CSCOV | UDPLITE_RECV_CSCOV if self.common.protocol == IPPROTO_UDPLITE => {
                self.ip.store(SOL_UDP, name, if number == 0 { 0 } else { number.clamp(8, 0xffff) })
            }
            UDP_GRO => self.ip.store(SOL_UDP, name, i32::from(number != 0)),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }
}
