//! Packets as bytes, for raw and ICMP sockets: headers made and read by smoltcp's wire formats.

use super::addr::as_v6;
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket,
};

/// Bytes of the headers without options.
pub const IPV4_HEADER: usize = 20;
pub const IPV6_HEADER: usize = 40;
pub const UDP_HEADER: usize = 8;
pub const ICMP_HEADER: usize = 8;
/// Longest packet.
pub const PACKET_MAX: usize = 65_535;

/// A packet that has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub payload: &'a [u8],
}

fn buffer(len: usize) -> Result<Vec<u8>> {
    if len > PACKET_MAX {
        return Err(Errno::EMSGSIZE);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

impl Packet<'_> {
    /// The packet with its header.
    ///
    /// # Errors
    /// `EMSGSIZE`, `ENOBUFS`; `EINVAL` if the addresses are of different families.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let len = IPV4_HEADER + self.payload.len();
                let mut bytes = buffer(len)?;
                let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
                packet.set_version(4);
                packet.set_header_len(IPV4_HEADER as u8);
                packet.set_dscp(self.tos >> 2);
                packet.set_ecn(self.tos & 3);
                packet.set_total_len(len as u16);
                packet.set_dont_frag(true);
                packet.set_hop_limit(self.ttl);
                packet.set_next_header(IpProtocol::from(self.protocol));
                packet.set_src_addr(from);
                packet.set_dst_addr(to);
                packet.fill_checksum();
                packet.payload_mut().copy_from_slice(self.payload);
                Ok(bytes)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut bytes = buffer(IPV6_HEADER + self.payload.len())?;
                let mut packet = Ipv6Packet::new_unchecked(&mut bytes[..]);
                packet.set_version(6);
                packet.set_traffic_class(self.tos);
                packet.set_payload_len(self.payload.len() as u16);
                packet.set_hop_limit(self.ttl);
                packet.set_next_header(IpProtocol::from(self.protocol));
                packet.set_src_addr(from);
                packet.set_dst_addr(to);
                packet.payload_mut().copy_from_slice(self.payload);
                Ok(bytes)
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Reads an IPv4 packet that a program has made (`IP_HDRINCL`).
///
/// # Errors
/// `EINVAL`.
pub fn parse_v4(bytes: &[u8]) -> Result<Packet<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).map_err(|_| Errno::EINVAL)?;
    let payload = bytes.get(usize::from(packet.header_len())..).ok_or(Errno::EINVAL)?;
    Ok(Packet {
        from: packet.src_addr().into(),
        to: packet.dst_addr().into(),
        protocol: packet.next_header().into(),
        ttl: packet.hop_limit(),
        tos: packet.dscp() << 2 | packet.ecn(),
        payload,
    })
}

/// Completes the header of such a packet: what the kernel always fills in, and the source if it is left out.
///
/// # Errors
/// `EINVAL` if it is no header.
pub fn complete_v4(bytes: &mut [u8], source: IpAddr) -> Result<()> {
    let len = bytes.len();
    let header = bytes.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    if len < IPV4_HEADER || header < IPV4_HEADER || header > len {
        return Err(Errno::EINVAL);
    }
    let mut packet = Ipv4Packet::new_unchecked(bytes);
    packet.set_total_len(len as u16);
    if let (true, IpAddr::V4(source)) = (packet.src_addr().is_unspecified(), source) {
        packet.set_src_addr(source);
    }
    packet.fill_checksum();
    Ok(())
}

/// Reads an IPv6 packet that a program has made (`IPV6_HDRINCL`).
///
/// # Errors
/// `EINVAL`.
pub fn parse_v6(bytes: &[u8]) -> Result<Packet<'_>> {
    let packet = Ipv6Packet::new_checked(bytes).map_err(|_| Errno::EINVAL)?;
    Ok(Packet {
        from: packet.src_addr().into(),
        to: packet.dst_addr().into(),
        protocol: packet.next_header().into(),
        ttl: packet.hop_limit(),
        tos: packet.traffic_class(),
        payload: bytes.get(IPV6_HEADER..).ok_or(Errno::EINVAL)?,
    })
}

/// The checksum of a payload of IPv6 whose own field is zero; 0 if it is there and right.
pub fn checksum_v6(payload: &[u8], protocol: u8, from: IpAddr, to: IpAddr) -> u16 {
    let (from, to) = (as_v6(from).octets(), as_v6(to).octets());
    let length = (payload.len() as u32).to_be_bytes();
    let parts: [&[u8]; 5] = [&from, &to, &length, &[0, 0, 0, protocol], payload];
    let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u64 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A UDP header with its payload.
///
/// # Errors
/// `EMSGSIZE`, `ENOBUFS`.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<Vec<u8>> {
    let len = UDP_HEADER + payload.len();
    let mut bytes = buffer(len)?;
    bytes[UDP_HEADER..].copy_from_slice(payload);
    let mut packet = UdpPacket::new_unchecked(&mut bytes[..]);
    packet.set_src_port(from.port());
    packet.set_dst_port(to.port());
    packet.set_len(len as u16);
    packet.fill_checksum(&from.ip().into(), &to.ip().into());
    Ok(bytes)
}

/// The ports and the payload of a UDP packet.
pub fn parse_udp(bytes: &[u8]) -> Option<(u16, u16, &[u8])> {
    let packet = UdpPacket::new_checked(bytes).ok()?;
    Some((packet.src_port(), packet.dst_port(), packet.payload()))
}

/// The type and the identifier of an ICMP message.
pub fn parse_icmp(bytes: &[u8]) -> Option<(u8, u16)> {
    let header: &[u8; ICMP_HEADER] = bytes.first_chunk()?;
    Some((header[0], u16::from_be_bytes([header[4], header[5]])))
}

/// Types of echo messages: request and reply.
pub const fn echo_types(v6: bool) -> (u8, u8) {
    if v6 { (128, 129) } else { (8, 0) }
}

/// Sets the identifier of an echo message and its checksum.
pub fn complete_icmp(bytes: &mut [u8], ident: Option<u16>, from: IpAddr, to: IpAddr) {
    if bytes.len() < ICMP_HEADER {
        return;
    }
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut packet = Icmpv6Packet::new_unchecked(bytes);
            if let Some(ident) = ident {
                packet.set_echo_ident(ident);
            }
            packet.fill_checksum(&from, &to);
        }
        _ => {
            let mut packet = Icmpv4Packet::new_unchecked(bytes);
            if let Some(ident) = ident {
                packet.set_echo_ident(ident);
            }
            packet.fill_checksum();
        }
    }
}

/// The answer to an echo request that came from `from`, if it is one.
pub fn echo_reply(request: &[u8], from: IpAddr, to: IpAddr) -> Option<Vec<u8>> {
    let (kind, _) = parse_icmp(request)?;
    if kind != echo_types(from.is_ipv6()).0 {
        return None;
    }
    let mut bytes = buffer(request.len()).ok()?;
    bytes.copy_from_slice(request);
    match from {
        IpAddr::V6(_) => Icmpv6Packet::new_unchecked(&mut bytes[..]).set_msg_type(Icmpv6Message::EchoReply),
        IpAddr::V4(_) => Icmpv4Packet::new_unchecked(&mut bytes[..]).set_msg_type(Icmpv4Message::EchoReply),
    }
    complete_icmp(&mut bytes, None, to, from);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_were_made() {
        let (from, to): (SocketAddr, SocketAddr) = ("127.0.0.1:5".parse().unwrap(), "127.0.0.2:7".parse().unwrap());
        let udp = udp(from, to, b"hello").unwrap();
        let packet = Packet { from: from.ip(), to: to.ip(), protocol: 17, ttl: 64, tos: 8, payload: &udp };
        let bytes = packet.bytes().unwrap();
        assert_eq!(parse_v4(&bytes), Ok(packet));
        assert_eq!(parse_udp(&udp), Some((5, 7, &b"hello"[..])));
        assert_eq!(parse_v4(&bytes[..19]), Err(Errno::EINVAL));
    }

    #[test]
    fn a_checksum_makes_its_payload_right() {
        let (from, to): (IpAddr, IpAddr) = ("::1".parse().unwrap(), "fe80::2".parse().unwrap());
        let mut payload = *b"ab\0\0xyz";
        let sum = checksum_v6(&payload, 17, from, to);
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum_v6(&payload, 17, from, to), 0);
        payload[0] ^= 1;
        assert_ne!(checksum_v6(&payload, 17, from, to), 0);
    }

    #[test]
    fn an_echo_request_is_answered_with_its_payload() {
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        let mut request = std::vec![8, 0, 0, 0, 0, 1, 0, 2, b'x'];
        complete_icmp(&mut request, Some(77), ip, ip);
        let reply = echo_reply(&request, ip, ip).unwrap();
        assert_eq!((parse_icmp(&reply), reply[8]), (Some((0, 77)), b'x'));
        assert!(Icmpv4Packet::new_checked(&reply[..]).unwrap().verify_checksum());
        assert_eq!(echo_reply(&reply, ip, ip), None);
    }
}
