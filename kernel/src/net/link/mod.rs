//! Devices of a network namespace: the loopback device, `dummy` ones, and pairs (`veth`). Sources: netdevice(7), veth(4).
//!
//! * [`Device`]: one of them. [`table`]: those of a namespace, with the addresses they have and the routes that follow.
//! * [`change`]: makes, moves and removes them; [`ioctl`]: requests on sockets. netlink's `route` does the same by messages.
//!
//! A pair has an end in each of two namespaces (or twice in one): what one sends the other receives, by a call. Each end holds the
//! namespace of the other weakly, and is gone as soon as that is. A device that leaves the machine would be another [`Kind`].

pub mod change;
pub mod ioctl;
mod table;

pub use table::Links;

use super::inet::packet::{IPV4_HEADER, IPV6_HEADER};
use super::namespace::Namespace;
use crate::{Errno, Result, random};
use alloc::sync::Weak;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Index of the loopback device, which every namespace has.
pub const LOOPBACK: u32 = 1;
/// `IFF_*`.
pub const IFF_UP: u32 = 0x1;
pub const IFF_BROADCAST: u32 = 0x2;
pub const IFF_LOOPBACK: u32 = 0x8;
const IFF_RUNNING: u32 = 0x40;
pub const IFF_NOARP: u32 = 0x80;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;
pub const IFF_MULTICAST: u32 = 0x1000;
const IFF_LOWER_UP: u32 = 0x1_0000;
/// Flags that programs switch, beside that it is up.
const SETTABLE: u32 = IFF_NOARP | IFF_PROMISC | IFF_ALLMULTI | IFF_MULTICAST | 0x4 | 0x20 | 0x4000 | 0x8000;
/// Protocols above a link.
pub const ETH_P_IP: u16 = 0x800;
pub const ETH_P_IPV6: u16 = 0x86dd;
/// Most addresses of a device.
const ADDRESSES_MAX: usize = 256;
/// Least bytes of a packet of IPv6 that a device must take.
const V6_MTU_MIN: u32 = 1280;
/// Bytes of an Ethernet header.
pub const LINK_HEADER: usize = 14;

/// Scopes of addresses and routes (`RT_SCOPE_*`).
pub mod scope {
    pub const UNIVERSE: u8 = 0;
    pub const LINK: u8 = 253;
    pub const HOST: u8 = 254;
    pub const NOWHERE: u8 = 255;
}

/// The name of a device or of an address, padded with zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Name([u8; Name::SIZE]);

impl Name {
    /// `IFNAMSIZ`.
    pub const SIZE: usize = 16;

    /// Takes the bytes before the first zero, if that is a name.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(bytes: &[u8]) -> Result<Name> {
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or(&[]);
        let odd = |byte: &u8| matches!(byte, b'/' | b':') || byte.is_ascii_whitespace() || *byte == 0xb;
        if text.is_empty() || text.len() >= Name::SIZE || matches!(text, b"." | b"..") || text.iter().any(odd) {
            return Err(Errno::EINVAL);
        }
        Ok(Name::label(text))
    }

    /// The label of an address, which may be anything.
    pub fn label(bytes: &[u8]) -> Name {
        let mut name = Name::default();
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or(&[]);
        for (to, from) in name.0.iter_mut().zip(text.iter().take(Name::SIZE - 1)) {
            *to = *from;
        }
        name
    }

    /// Without the zeros.
    pub fn text(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or(&[])
    }

    /// With a zero at the end.
    pub fn c_string(&self) -> &[u8] {
        self.0.get(..=self.text().len()).unwrap_or(&self.0)
    }

    /// As text for files.
    pub fn shown(&self) -> alloc::borrow::Cow<'_, str> {
        alloc::string::String::from_utf8_lossy(self.text())
    }
}

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub addr: IpAddr,
    pub prefix: u8,
    /// Whose network it is in: that of the far end, if the device leads to one host only, else its own.
    pub peer: IpAddr,
    pub broadcast: Option<Ipv4Addr>,
    pub scope: u8,
    /// Another address of its network was there before it.
    pub secondary: bool,
    /// No route to its network follows from it (`IFA_F_NOPREFIXROUTE`).
    pub alone: bool,
    pub label: Name,
}

impl Assigned {
    /// One with nothing special.
    pub fn new(addr: IpAddr, prefix: u8, scope: u8) -> Assigned {
        let label = Name::default();
        Assigned { addr, prefix, peer: addr, broadcast: None, scope, secondary: false, alone: false, label }
    }

    /// Whether `addr` is in its network.
    pub fn covers(&self, addr: IpAddr) -> bool {
        contains(self.peer, self.prefix, addr)
    }
}

/// Whether the network of `network` with this many bits has `addr`.
pub fn contains(network: IpAddr, prefix: u8, addr: IpAddr) -> bool {
    network.is_ipv4() == addr.is_ipv4() && masked(network, prefix) == masked(addr, prefix)
}

/// The first address of a network.
pub fn masked(addr: IpAddr, prefix: u8) -> IpAddr {
    match addr {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

impl Traffic {
    /// More of it.
    pub fn add(&mut self, more: Traffic) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }

    /// A packet of IP with `payload` bytes behind its header.
    pub fn packet(v6: bool, payload: usize) -> Traffic {
        let header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
        Traffic { packets: 1, bytes: (payload + header) as u64 }
    }
}

/// What a device is.
pub enum Kind {
    Loopback,
    /// Takes everything and gives nothing.
    Dummy,
    /// One end of a pair: where the other one is, and its index there.
    Veth {
        peer: Weak<Namespace>,
        index: u32,
    },
}

impl Kind {
    /// Its name in requests; the loopback device has none.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Kind::Loopback => None,
            Kind::Dummy => Some("dummy"),
            Kind::Veth { .. } => Some("veth"),
        }
    }

    /// `ARPHRD_*`: a loopback device or Ethernet.
    pub fn hardware(&self) -> u16 {
        if matches!(self, Kind::Loopback) { 772 } else { 1 }
    }

    /// Least and greatest `mtu`; 0 = no bound.
    pub fn mtu_bounds(&self) -> (u32, u32) {
        if matches!(self, Kind::Veth { .. }) { (68, 65_535) } else { (0, 0) }
    }
}

/// A device.
pub struct Device {
    pub index: u32,
    pub name: Name,
    pub kind: Kind,
    pub up: bool,
    /// The other end is up, too.
    pub carrier: bool,
    /// Whether it has addresses of IPv6 (`disable_ipv6`).
    v6: bool,
    pub mtu: u32,
    /// `tx_queue_len`.
    pub queue: u32,
    pub group: u32,
    flags: u32,
    /// Of the hardware.
    pub mac: [u8; 6],
    pub alias: Vec<u8>,
    pub addresses: Vec<Assigned>,
    /// What went through the loopback device beside connections, and in from others; by family.
    pub received: [Traffic; 2],
    /// What left by others.
    pub sent: [Traffic; 2],
    /// What found nobody at the other end.
    pub dropped: u64,
}

impl Device {
    /// A new one, down, without addresses. Its index comes with its place.
    pub fn new(name: Name, kind: Kind) -> Device {
        let (mtu, flags) = match kind {
            Kind::Loopback => (65_536, IFF_LOOPBACK),
            Kind::Dummy => (1500, IFF_BROADCAST | IFF_NOARP),
            Kind::Veth { .. } => (1500, IFF_BROADCAST | IFF_MULTICAST),
        };
        let mut mac = [0; 6];
        if !matches!(kind, Kind::Loopback) {
            random::fill(&mut mac);
            // Nobody's in particular, and no group's.
            mac[0] = mac[0] & !1 | 2;
        }
        Device {
            index: 0,
            name,
            carrier: !matches!(kind, Kind::Veth { .. }),
            kind,
            up: false,
            v6: true,
            mtu,
            queue: 1000,
            group: 0,
            flags,
            mac,
            alias: Vec::new(),
            addresses: Vec::new(),
            received: Default::default(),
            sent: Default::default(),
            dropped: 0,
        }
    }

    /// Whether it is the loopback device.
    pub fn is_loopback(&self) -> bool {
        matches!(self.kind, Kind::Loopback)
    }

    /// Whether packets go through it.
    pub fn is_running(&self) -> bool {
        self.up && self.carrier
    }

    /// Whether it may have addresses of IPv6.
    pub fn has_v6(&self) -> bool {
        self.v6 && self.mtu >= V6_MTU_MIN
    }

    /// `IFF_*`.
    pub fn flags(&self) -> u32 {
        let running = if self.is_running() { IFF_RUNNING | IFF_LOWER_UP } else { 0 };
        self.flags | running | if self.up { IFF_UP } else { 0 }
    }

    /// Switches those flags of `mask` that can be, but for whether it is up.
    pub fn set_flags(&mut self, flags: u32, mask: u32) {
        let mask = mask & SETTABLE;
        self.flags = self.flags & !mask | flags & mask;
    }

    /// `IF_OPER_*`: unknown, down, lower layer down, up.
    pub fn state(&self) -> (u8, &'static str) {
        match (self.up, self.carrier, &self.kind) {
            (false, ..) => (2, "down"),
            (_, false, _) => (3, "lowerlayerdown"),
            (_, _, Kind::Veth { .. }) => (6, "up"),
            _ => (0, "unknown"),
        }
    }

    /// Address of all hosts of its link.
    pub fn everybody(&self) -> [u8; 6] {
        [if self.is_loopback() { 0 } else { 0xff }; 6]
    }

    /// The address of IPv6 that follows from that of the hardware (RFC 4291, appendix A).
    fn link_local(&self) -> Assigned {
        let [a, b, c, d, e, f] = self.mac;
        let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        let ip = Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(low));
        Assigned::new(ip.into(), 64, scope::LINK)
    }

    /// The first address of a family that is not a secondary one.
    pub fn first(&self, v6: bool) -> Option<&Assigned> {
        self.addresses.iter().find(|own| own.addr.is_ipv6() == v6 && !own.secondary)
    }

    /// Everything that came in, and everything that went out.
    pub fn traffic(&self) -> [Traffic; 2] {
        [self.received, self.sent].map(|[mut all, v6]| {
            all.add(v6);
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        assert_eq!(Name::new(b"veth0\0rest").unwrap().text(), b"veth0");
        assert_eq!(Name::new(b"fifteen-letters").unwrap().c_string(), b"fifteen-letters\0");
        for bad in [&b""[..], b".", b"..", b"a/b", b"a b", b"a:1", b"sixteen-letters!"] {
            assert_eq!(Name::new(bad), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn networks_contain_what_shares_their_bits() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(contains(ip("10.1.0.1"), 24, ip("10.1.0.77")) && !contains(ip("10.1.0.1"), 24, ip("10.1.1.1")));
        assert!(contains(ip("10.1.0.1"), 0, ip("9.9.9.9")) && !contains(ip("10.1.0.1"), 0, ip("::1")));
        assert!(contains(ip("2001:db8::1"), 64, ip("2001:db8::2")) && !contains(ip("::1"), 128, ip("::2")));
    }
}
