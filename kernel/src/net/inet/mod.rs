//! AF_INET and AF_INET6. Sources: ip(7), ipv6(7), tcp(7), udp(7), icmp(7), raw(7).
//!
//! * [`addr`]: addresses between guests' structures and ours. [`table`]: who has which port, and which connection.
//! * Connections are [`tcp`]'s; [`datagram`] has UDP, ICMP and raw sockets, [`packet`] packets as bytes.
//! * [`ip`]: options of the levels IP and IPv6.
//!
//! An IPv4 address that is mapped into IPv6 is kept as an IPv4 address; only the socket's family says how it is shown.
//! The only device is the loopback one, so both ends of all traffic are sockets of one namespace.

pub mod addr;
pub mod datagram;
pub mod ip;
pub mod packet;
pub mod table;
pub mod tcp;

use super::option::default_buffers;
use super::socket::{Common, Socket};
use super::sysctl;
use super::uapi::*;
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use datagram::{Datagram, Protocol};

/// A new socket.
///
/// # Errors
/// `EINVAL`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, `EPERM`.
pub fn create(task: &Arc<Task>, family: u16, kind: u32, protocol: u32) -> Result<Arc<dyn Socket>> {
    if protocol >= IPPROTO_MAX {
        return Err(Errno::EINVAL);
    }
    let echo = if family == AF_INET { IPPROTO_ICMP } else { IPPROTO_ICMPV6 };
    let (protocol, what) = match (kind, protocol) {
        (SOCK_STREAM, 0 | IPPROTO_TCP) => {
            let settings = &super::namespace::of(task).settings;
            let buffers = (settings.get(sysctl::TCP_RECEIVE + 1) as u32, settings.get(sysctl::TCP_SEND + 1) as u32);
            return Ok(tcp::TcpSocket::new(Common::new(task, (family, kind, IPPROTO_TCP), buffers)));
        }
        (SOCK_DGRAM, 0 | IPPROTO_UDP) => (IPPROTO_UDP, Protocol::Udp),
        (SOCK_DGRAM, IPPROTO_UDPLITE) => (IPPROTO_UDPLITE, Protocol::Udp),
        (SOCK_DGRAM, protocol) if protocol == echo => {
            if !datagram::may_ping(task) {
                return Err(Errno::EACCES);
            }
            (echo, Protocol::Ping)
        }
        (SOCK_RAW, 0) | (SOCK_STREAM | SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
        (SOCK_RAW, protocol) => {
            if !task.net_capable(cap::NET_RAW) {
                return Err(Errno::EPERM);
            }
            (protocol, Protocol::Raw)
        }
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    let socket = Datagram::create(Common::new(task, (family, kind, protocol), default_buffers()), what);
    if kind == SOCK_RAW && protocol == IPPROTO_RAW {
        socket.include_header()?;
    }
    Ok(socket)
}
