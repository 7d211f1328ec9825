//! Options of the levels IP and IPv6, for all sockets of both families. Sources: ip(7), ipv6(7).
//!
//! What has not been set has its default and takes no memory. Locks: `values`, `groups` (rank Leaf).

use crate::net::option::{bytes, number, words};
use crate::net::socket::Common;
use crate::net::sysctl;
use crate::net::uapi::*;
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering::*};
use umbel_smp::lock::{Rank, SpinLock};

/// Options of SOL_IP.
pub mod v4 {
    pub const TOS: u32 = 1;
    pub const TTL: u32 = 2;
    pub const HDRINCL: u32 = 3;
    pub const OPTIONS: u32 = 4;
    pub const PKTINFO: u32 = 8;
    pub const RECVERR: u32 = 11;
    pub const RECVTTL: u32 = 12;
    pub const RECVTOS: u32 = 13;
    pub const MTU: u32 = 14;
    pub const FREEBIND: u32 = 15;
    pub const TRANSPARENT: u32 = 19;
    pub const ORIGDSTADDR: u32 = 20;
    pub const MULTICAST_IF: u32 = 32;
    pub const MULTICAST_TTL: u32 = 33;
    pub const MULTICAST_LOOP: u32 = 34;
    pub const ADD_MEMBERSHIP: u32 = 35;
    pub const DROP_MEMBERSHIP: u32 = 36;
    pub const MULTICAST_ALL: u32 = 49;
}

/// Options of SOL_IPV6.
pub mod v6 {
    pub const ADDRFORM: u32 = 1;
    pub const CHECKSUM: u32 = 7;
    pub const UNICAST_HOPS: u32 = 16;
    pub const MULTICAST_IF: u32 = 17;
    pub const MULTICAST_HOPS: u32 = 18;
    pub const MULTICAST_LOOP: u32 = 19;
    pub const ADD_MEMBERSHIP: u32 = 20;
    pub const DROP_MEMBERSHIP: u32 = 21;
    pub const MTU: u32 = 24;
    pub const RECVERR: u32 = 25;
    pub const V6ONLY: u32 = 26;
    pub const HDRINCL: u32 = 36;
    pub const RECVPKTINFO: u32 = 49;
    pub const PKTINFO: u32 = 50;
    pub const RECVHOPLIMIT: u32 = 51;
    pub const HOPLIMIT: u32 = 52;
    pub const RECVTCLASS: u32 = 66;
    pub const TCLASS: u32 = 67;
    pub const TRANSPARENT: u32 = 75;
    pub const FREEBIND: u32 = 78;
}

/// `MCAST_JOIN_GROUP`, `MCAST_LEAVE_GROUP`: of both levels.
const MCAST_JOIN_GROUP: u32 = 42;
const MCAST_LEAVE_GROUP: u32 = 45;
/// Most groups of a socket (`net.ipv4.igmp_max_memberships`).
const GROUPS_MAX: usize = 20;

/// A number: its default and its bounds.
type Number = (u32, i32, i32, i32);

/// Those of SOL_IP.
const V4: &[Number] = &[
    (v4::TOS, 0, 0, 255),
    (v4::TTL, 64, -1, 255),
    (v4::HDRINCL, 0, 0, 1),
    (5, 0, 0, 1),
    (6, 0, 0, 1),
    (7, 0, 0, 1),
    (v4::PKTINFO, 0, 0, 1),
    (10, 1, 0, 5),
    (v4::RECVERR, 0, 0, 1),
    (v4::RECVTTL, 0, 0, 1),
    (v4::RECVTOS, 0, 0, 1),
    (v4::FREEBIND, 0, 0, 1),
    (18, 0, 0, 1),
    (v4::TRANSPARENT, 0, 0, 1),
    (v4::ORIGDSTADDR, 0, 0, 1),
    (21, 0, 0, 255),
    (22, 0, 0, 1),
    (23, 0, 0, 1),
    (24, 0, 0, 1),
    (25, 0, 0, 1),
    (26, 0, 0, 1),
    (v4::MULTICAST_TTL, 1, -1, 255),
    (v4::MULTICAST_LOOP, 1, 0, 1),
    (v4::MULTICAST_ALL, 1, 0, 1),
    (50, 0, 0, i32::MAX),
    (51, 0, i32::MIN, i32::MAX),
];

/// Those of SOL_IPV6.
const V6: &[Number] = &[
    (2, 0, 0, 1),
    (3, 0, 0, 1),
    (4, 0, 0, 1),
    (5, 0, 0, 1),
    (8, 0, 0, 1),
    (v6::CHECKSUM, -1, i32::MIN, i32::MAX),
    (v6::UNICAST_HOPS, 64, -1, 255),
    (v6::MULTICAST_IF, 0, 0, i32::MAX),
    (v6::MULTICAST_HOPS, 1, -1, 255),
    (v6::MULTICAST_LOOP, 1, 0, 1),
    (11, 0, 0, 1),
    (23, 1, 0, 5),
    (v6::RECVERR, 0, 0, 1),
    (v6::V6ONLY, 0, 0, 1),
    (29, 1, 0, 1),
    (31, 0, 0, 1),
    (33, 0, 0, 1),
    (v6::HDRINCL, 0, 0, 1),
    (v6::RECVPKTINFO, 0, 0, 1),
    (v6::RECVHOPLIMIT, 0, 0, 1),
    (53, 0, 0, 1),
    (56, 0, 0, 1),
    (58, 0, 0, 1),
    (60, 0, 0, 1),
    (62, 0, 0, 1),
    (v6::RECVTCLASS, 0, 0, 1),
    (v6::TCLASS, 0, -1, 255),
    (70, 1, 0, 1),
    (72, 0, 0, i32::MAX),
    (73, 0, 0, 255),
    (74, 0, 0, 1),
    (v6::TRANSPARENT, 0, 0, 1),
    (76, 0, 0, i32::MAX),
    (77, 0, 0, 1),
    (v6::FREEBIND, 0, 0, 1),
];

/// See the module.
pub struct Options {
    /// Whether `values` has any: to look at without the lock.
    any: AtomicBool,
    values: SpinLock<Vec<(u32, u32, i32)>>,
    groups: SpinLock<Vec<IpAddr>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            any: AtomicBool::new(false),
            values: SpinLock::new(Rank::Leaf, Vec::new()),
            groups: SpinLock::new(Rank::Leaf, Vec::new()),
        }
    }
}

fn known(level: u32, name: u32) -> Option<&'static Number> {
    let list = match level {
        SOL_IP => V4,
        SOL_IPV6 => V6,
        _ => return None,
    };
    list.iter().find(|(own, ..)| *own == name)
}

impl Options {
    /// Those of a new socket: what the settings of its namespace say.
    pub fn new(common: &Common) -> Options {
        let (options, settings) = (Options::default(), &common.namespace.settings);
        let wanted = [
            (SOL_IP, v4::TTL, settings.get(sysctl::DEFAULT_TTL)),
            (SOL_IPV6, v6::UNICAST_HOPS, settings.get(sysctl::HOP_LIMIT)),
            (SOL_IPV6, v6::V6ONLY, settings.get(sysctl::BIND_V6_ONLY)),
        ];
        for (level, name, value) in wanted {
            if value != options.value(level, name) {
                // Without memory it has what all others have.
                let _ = options.store(level, name, value);
            }
        }
        options
    }

    /// Takes over what a listener has set.
    pub fn copy(&self, from: &Options) {
        if from.any.load(Acquire) {
            let values = from.values.lock().clone();
            *self.values.lock() = values;
            self.any.store(true, Release);
        }
    }

    /// The number that an option has.
    pub fn value(&self, level: u32, name: u32) -> i32 {
        let default = known(level, name).map_or(0, |known| known.1);
        if !self.any.load(Acquire) {
            return default;
        }
        let values = self.values.lock();
        values.iter().find(|(l, n, _)| (*l, *n) == (level, name)).map_or(default, |(.., value)| *value)
    }

    /// Whether an option is on.
    pub fn is_on(&self, level: u32, name: u32) -> bool {
        self.any.load(Acquire) && self.value(level, name) != 0
    }

    /// `IPV6_V6ONLY`.
    pub fn v6_only(&self) -> bool {
        self.is_on(SOL_IPV6, v6::V6ONLY)
    }

    /// Whether it may be bound to an address that is not local.
    pub fn may_be_foreign(&self) -> bool {
        let any =
            [(SOL_IP, v4::FREEBIND), (SOL_IP, v4::TRANSPARENT), (SOL_IPV6, v6::FREEBIND), (SOL_IPV6, v6::TRANSPARENT)];
        any.iter().any(|&(level, name)| self.is_on(level, name))
    }

    /// Whether errors about what was sent to `to` are wanted even by a socket without a peer.
    pub fn wants_errors_of(&self, to: SocketAddr) -> bool {
        if to.is_ipv4() { self.is_on(SOL_IP, v4::RECVERR) } else { self.is_on(SOL_IPV6, v6::RECVERR) }
    }

    /// Whether it has joined the group.
    pub fn is_member(&self, group: IpAddr) -> bool {
        self.groups.lock().contains(&group)
    }

    /// Keeps the number of an option.
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub fn store(&self, level: u32, name: u32, value: i32) -> Result<()> {
        let mut values = self.values.lock();
        match values.iter_mut().find(|(l, n, _)| (*l, *n) == (level, name)) {
            Some((.., old)) => *old = value,
            None => {
                values.try_reserve(1).map_err(|_| Errno::ENOBUFS)?;
                values.push((level, name, value));
            }
        }
        self.any.store(true, Release);
        Ok(())
    }

    /// getsockopt(2) of these levels.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EOPNOTSUPP`, `ENOTCONN`.
    pub fn get(&self, common: &Common, level: u32, name: u32, room: usize) -> Result<Vec<u8>> {
        // What no level knows, the two families refuse in their own ways.
        if !matches!(level, SOL_IP | SOL_IPV6) || (level == SOL_IPV6 && common.family() == AF_INET) {
            return Err(if common.family() == AF_INET { Errno::EOPNOTSUPP } else { Errno::ENOPROTOOPT });
        }
        match (level, name) {
            (SOL_IP, _) if common.family() == AF_INET6 && common.kind == SOCK_RAW => return Err(Errno::ENOPROTOOPT),
            (SOL_IP, v4::OPTIONS) => return Ok(Vec::new()),
            (SOL_IP, v4::MULTICAST_IF) => return Ok(words(&[self.value(level, 1032) as u32])),
            (SOL_IP, v4::MTU) | (SOL_IPV6, v6::MTU) => {
                let links = common.namespace.links();
                return Ok(bytes(links.device(common.link.load(Relaxed)).map_or(0, |device| device.mtu)));
            }
            _ => {}
        }
        known(level, name).ok_or(Errno::ENOPROTOOPT)?;
        let value = self.value(level, name);
        // Small values of IP go into a byte, if there is no more room.
        match u8::try_from(value) {
            Ok(byte) if level == SOL_IP && (1..4).contains(&room) => Ok(alloc::vec![byte]),
            _ => Ok(bytes(value as u32)),
        }
    }

    /// setsockopt(2) of these levels. `bound`: whether the socket has a port.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EINVAL`, `EPERM`, `EADDRINUSE`, …
    pub fn set(
        &self,
        task: &Arc<Task>,
        common: &Common,
        level: u32,
        name: u32,
        value: &[u8],
        bound: bool,
    ) -> Result<()> {
        let mixed = match level {
            SOL_IP => common.family() == AF_INET6 && common.kind == SOCK_RAW,
            SOL_IPV6 => common.family() == AF_INET,
            _ => true,
        };
        if mixed {
            return Err(Errno::ENOPROTOOPT);
        }
        match (level, name) {
            (SOL_IP, v4::ADD_MEMBERSHIP | v4::DROP_MEMBERSHIP) if common.kind == SOCK_STREAM => {
                return Err(Errno::EPROTO);
            }
            (SOL_IP, v4::ADD_MEMBERSHIP | v4::DROP_MEMBERSHIP) => {
                let group: [u8; 4] = *value.first_chunk::<8>().and_then(|v| v.first_chunk()).ok_or(Errno::EINVAL)?;
                return self.member(Ipv4Addr::from(group).into(), name == v4::ADD_MEMBERSHIP);
            }
            (SOL_IPV6, v6::ADD_MEMBERSHIP | v6::DROP_MEMBERSHIP) => {
                let group: [u8; 16] = *value.first_chunk::<20>().and_then(|v| v.first_chunk()).ok_or(Errno::EINVAL)?;
                return self.member(Ipv6Addr::from(group).into(), name == v6::ADD_MEMBERSHIP);
            }
            (_, MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP) => {
                let own = if level == SOL_IP { AF_INET } else { AF_INET6 };
                let group = super::addr::parse(own, value.get(8..).ok_or(Errno::EINVAL)?)?;
                return self.member(group.ip(), name == MCAST_JOIN_GROUP);
            }
            (SOL_IP, v4::MULTICAST_IF) => return self.set_multicast_device(common, value),
            (SOL_IP, v4::OPTIONS) => return if value.is_empty() { Ok(()) } else { Err(Errno::EINVAL) },
            _ => {}
        }
        let (_, default, min, max) = *known(level, name).ok_or(Errno::ENOPROTOOPT)?;
        let number = match value {
            [] if level == SOL_IP => 0,
            [byte, rest @ ..] if rest.len() < 3 && level == SOL_IP => i32::from(*byte),
            value => number(value)?,
        };
        let number = match (level, name) {
            (SOL_IPV6, v6::V6ONLY) if bound => return Err(Errno::EINVAL),
            (SOL_IPV6, v6::CHECKSUM) if number > 0 && number % 2 != 0 || common.protocol == IPPROTO_ICMPV6 => {
                return Err(Errno::EINVAL);
            }
            (SOL_IP, v4::HDRINCL) | (SOL_IPV6, v6::HDRINCL | v6::CHECKSUM) if common.kind != SOCK_RAW => {
                return Err(Errno::ENOPROTOOPT);
            }
            (SOL_IP, v4::TRANSPARENT) | (SOL_IPV6, v6::TRANSPARENT) if number != 0 => {
                if !task.net_capable(cap::NET_ADMIN) && !task.net_capable(cap::NET_RAW) {
                    return Err(Errno::EPERM);
                }
                1
            }
            (SOL_IPV6, v6::MULTICAST_IF) if number > 0 && common.namespace.links().device(number as u32).is_none() => {
                return Err(Errno::ENODEV);
            }
            (SOL_IP, v4::TTL) if number == 0 => return Err(Errno::EINVAL),
            (SOL_IP, v4::TOS) => number & 0xff,
            _ if (min, max) == (0, 1) => i32::from(number != 0),
            _ if !(min..=max).contains(&number) => return Err(Errno::EINVAL),
            _ if number == -1 => default,
            _ => number,
        };
        self.store(level, name, number)
    }

    /// `IPV6_ADDRFORM`: makes a socket that is connected to a mapped address one of AF_INET.
    ///
    /// # Errors
    /// `EINVAL`, `ENOTCONN`, `EADDRNOTAVAIL`, `ENOPROTOOPT`.
    pub fn change_form(&self, common: &Common, remote: Option<SocketAddr>, value: &[u8]) -> Result<()> {
        if common.family() != AF_INET6 {
            return Err(Errno::ENOPROTOOPT);
        }
        if number(value)? != i32::from(AF_INET) {
            return Err(Errno::EINVAL);
        }
        if !remote.ok_or(Errno::ENOTCONN)?.is_ipv4() || self.v6_only() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        common.become_v4();
        Ok(())
    }

    fn member(&self, group: IpAddr, joins: bool) -> Result<()> {
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        let mut groups = self.groups.lock();
        let at = groups.iter().position(|own| *own == group);
        match (joins, at) {
            (true, Some(_)) => return Err(Errno::EADDRINUSE),
            (false, None) => return Err(Errno::EADDRNOTAVAIL),
            (false, Some(at)) => drop(groups.swap_remove(at)),
            (true, None) if groups.len() >= GROUPS_MAX || groups.try_reserve(1).is_err() => return Err(Errno::ENOBUFS),
            (true, None) => groups.push(group),
        }
        Ok(())
    }

    /// `struct in_addr`, `ip_mreq` or `ip_mreqn`: kept as the address under a number that no option has.
    fn set_multicast_device(&self, common: &Common, value: &[u8]) -> Result<()> {
        let word = |at: usize| value.get(at..at + 4).map(|b| u32::from_le_bytes(core::array::from_fn(|i| b[i])));
        let (addr, index) = match value.len() {
            4..8 => (word(0), 0),
            8..12 => (word(4), 0),
            12.. => (word(4), word(8).unwrap_or(0)),
            _ => (None, 0),
        };
        let addr = addr.ok_or(Errno::EINVAL)?;
        let ip = IpAddr::from(addr.to_le_bytes());
        let index = {
            let links = common.namespace.links();
            match index {
                0 if ip.is_unspecified() => 0,
                0 => links.holder(ip).filter(|_| links.is_local(ip)).ok_or(Errno::EADDRNOTAVAIL)?,
                index => links.device(index).ok_or(Errno::EADDRNOTAVAIL)?.index,
            }
        };
        self.store(SOL_IP, 1032, addr as i32)?;
        self.store(SOL_IP, 1033, index as i32)
    }

    /// The device that multicast goes to; 0: that which has the sender's address, or a route says.
    pub fn multicast_device(&self, v6: bool) -> u32 {
        (if v6 { self.value(SOL_IPV6, v6::MULTICAST_IF) } else { self.value(SOL_IP, 1033) }) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_has_its_default() {
        let options = Options::default();
        assert_eq!((options.value(SOL_IP, v4::TTL), options.value(SOL_IPV6, v6::V6ONLY)), (64, 0));
        options.store(SOL_IPV6, v6::V6ONLY, 1).unwrap();
        let copy = Options::default();
        copy.copy(&options);
        assert!(copy.v6_only() && copy.value(SOL_IP, v4::TTL) == 64);
    }

    #[test]
    fn groups_are_joined_once() {
        let options = Options::default();
        let group: IpAddr = "224.0.0.9".parse().unwrap();
        assert_eq!(options.member(group, true), Ok(()));
        assert_eq!(options.member(group, true), Err(Errno::EADDRINUSE));
        assert!(options.is_member(group));
        assert_eq!(options.member(group, false), Ok(()));
        assert_eq!(options.member(group, false), Err(Errno::EADDRNOTAVAIL));
        assert_eq!(options.member("10.0.0.1".parse().unwrap(), true), Err(Errno::EINVAL));
    }
}
