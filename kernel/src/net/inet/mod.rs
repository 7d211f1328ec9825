//! AF_INET and AF_INET6. Sources: ip(7), ipv6(7), tcp(7), udp(7), icmp(7), raw(7).
//!
//! * [`addr`]: addresses between guests' structures and ours. [`table`]: who has which port, and which connection.
//! * Connections are made and used in [`tcp`].
//! * [`ip`]: options of the levels IP and IPv6.
//!
//! An IPv4 address that is mapped into IPv6 is kept as an IPv4 address; only the socket's family says how it is shown.
//! The only device is the loopback one, so both ends of all traffic are sockets of one namespace.

pub mod addr;
pub mod ip;
pub mod table;
pub mod tcp;

use super::socket::{Common, Socket};
use super::uapi::*;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;

/// Buffers of a new socket: `net.core.*mem_default`, `net.ipv4.tcp_*mem`.
const TCP_BUFFERS: (u32, u32) = (131_072, 16_384);

/// A new socket.
///
/// # Errors
/// `EINVAL`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, `EPERM`.
pub fn create(task: &Arc<Task>, family: u16, kind: u32, protocol: u32) -> Result<Arc<dyn Socket>> {
    if protocol >= IPPROTO_MAX {
        return Err(Errno::EINVAL);
    }
    match (kind, protocol) {
        (SOCK_STREAM, 0 | IPPROTO_TCP) => {
            let common = Common::new(task, (family, kind, IPPROTO_TCP), TCP_BUFFERS);
            Ok(tcp::TcpSocket::new(common))
        }
        (SOCK_RAW, _) | (SOCK_STREAM | SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}
