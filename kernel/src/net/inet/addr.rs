//! `struct sockaddr_in` and `sockaddr_in6`.

use crate::net::socket::Address;
use crate::net::uapi::*;
use crate::{Errno, Result};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Least bytes of a `struct sockaddr_in6`: without the scope, as in RFC 2133.
pub const V6_MIN: usize = 24;
const V4_LEN: usize = 16;

/// The address family of a structure.
///
/// # Errors
/// `EINVAL` if it is too short.
pub fn family(addr: &[u8]) -> Result<u16> {
    addr.first_chunk().map(|bytes| u16::from_le_bytes(*bytes)).ok_or(Errno::EINVAL)
}

/// Reads an address for a socket of `own` family. A mapped IPv4 address becomes one of IPv4.
///
/// # Errors
/// `EINVAL` if it is too short, `EAFNOSUPPORT`.
pub fn parse(own: u16, addr: &[u8]) -> Result<SocketAddr> {
    let wanted = if own == AF_INET { V4_LEN } else { V6_MIN };
    let family = family(addr)?;
    if addr.len() < wanted && !(own == AF_INET6 && family == AF_INET && addr.len() >= V4_LEN) {
        return Err(Errno::EINVAL);
    }
    match family {
        AF_INET => parse_v4(addr),
        AF_INET6 if own == AF_INET6 => parse_v6(addr),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// Reads a `struct sockaddr_in`.
///
/// # Errors
/// `EINVAL` if it is too short.
pub fn parse_v4(addr: &[u8]) -> Result<SocketAddr> {
    let bytes: &[u8; 8] = addr.first_chunk().ok_or(Errno::EINVAL)?;
    let [_, _, high, low, ip @ ..] = *bytes;
    Ok(SocketAddr::new(Ipv4Addr::from(ip).into(), u16::from_be_bytes([high, low])))
}

fn parse_v6(addr: &[u8]) -> Result<SocketAddr> {
    let bytes: &[u8; V6_MIN] = addr.first_chunk().ok_or(Errno::EINVAL)?;
    let [_, _, high, low, _, _, _, _, ip @ ..] = *bytes;
    Ok(SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), u16::from_be_bytes([high, low])))
}

/// An address as a socket of `own` family shows it.
pub fn format(own: u16, addr: SocketAddr) -> Address {
    let port = addr.port().to_be_bytes();
    let mut bytes = own.to_le_bytes().to_vec();
    bytes.extend_from_slice(&port);
    match (own, addr.ip()) {
        (AF_INET, IpAddr::V4(ip)) => {
            bytes.extend_from_slice(&ip.octets());
            bytes.resize(V4_LEN, 0);
        }
        (AF_INET, IpAddr::V6(_)) => bytes.resize(V4_LEN, 0),
        (_, ip) => {
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&as_v6(ip).octets());
            bytes.resize(28, 0);
        }
    }
    bytes
}

/// An address as IPv6 shows it: the unspecified one stays so, others of IPv4 are mapped.
pub fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V6(ip) => ip,
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
    }
}

/// No address and no port, of the family.
pub fn none(family: u16) -> SocketAddr {
    let ip: IpAddr = if family == AF_INET { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(ip, 0)
}

/// Where something sent to `addr` goes: to this machine, if no address is given.
pub fn destination(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), addr.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), addr.port()),
        _ => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_kept_as_ipv4_and_shown_by_family() {
        let addr: SocketAddr = "[::ffff:127.0.0.1]:80".parse().unwrap();
        let bytes = format(AF_INET6, addr);
        let parsed = parse(AF_INET6, &bytes).unwrap();
        assert_eq!(parsed, "127.0.0.1:80".parse().unwrap());
        assert_eq!(format(AF_INET6, parsed), bytes);
        assert_eq!(parse(AF_INET, &format(AF_INET, parsed)), Ok(parsed));
    }

    #[test]
    fn short_and_foreign_addresses_are_refused() {
        let bytes = format(AF_INET, none(AF_INET));
        assert_eq!(parse(AF_INET, &bytes[..15]), Err(Errno::EINVAL));
        assert_eq!(parse(AF_INET, &[]), Err(Errno::EINVAL));
        assert_eq!(parse(AF_INET, &format(AF_INET6, none(AF_INET6))), Err(Errno::EAFNOSUPPORT));
        assert_eq!(parse(AF_INET6, &format(AF_INET6, none(AF_INET6))[..23]), Err(Errno::EINVAL));
    }
}
