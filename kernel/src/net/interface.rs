//! The loopback device of a namespace: its addresses, which of all addresses are local, and ioctl(2)s about it.
//! Source: netdevice(7).

use super::inet::packet::{IPV4_HEADER, IPV6_HEADER};
use super::namespace::Namespace;
use super::uapi::*;
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use umbel_mm::user::{self, UserAddr};

/// Index and name of the only device.
pub const INDEX: u32 = 1;
pub const NAME: &[u8] = b"lo";
/// `IFF_UP | IFF_RUNNING`, `IFF_LOOPBACK`, `IFF_LOWER_UP`.
pub const IFF_UP: u32 = 0x1;
pub const IFF_LOOPBACK: u32 = 0x8;
const IFF_RUNNING: u32 = 0x40;
const IFF_LOWER_UP: u32 = 0x1_0000;
/// Most addresses of a device.
const ADDRESSES_MAX: usize = 256;

/// An address of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub addr: IpAddr,
    pub prefix: u8,
}

/// The device.
pub struct Interface {
    pub up: bool,
    /// Whether it has addresses of IPv6 (`disable_ipv6`).
    v6: bool,
    pub mtu: u32,
    pub addresses: Vec<Assigned>,
    /// What went through it beside connections, by family.
    pub traffic: [Traffic; 2],
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
}

const V4: Assigned = Assigned { addr: IpAddr::V4(Ipv4Addr::LOCALHOST), prefix: 8 };
const V6: Assigned = Assigned { addr: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 };

impl Interface {
    /// Without addresses.
    pub fn down() -> Interface {
        Interface { up: false, v6: true, mtu: 65_536, addresses: Vec::new(), traffic: Default::default() }
    }

    /// With its two addresses.
    pub fn up() -> Interface {
        Interface { up: true, addresses: vec![V4, V6], ..Interface::down() }
    }

    /// Takes it up or down. It gets its own addresses when it comes up.
    pub fn set_up(&mut self, up: bool) {
        if up && !self.up {
            for own in [V4, V6] {
                // The list is short, and these two are expected there.
                let _ = self.assign(own);
            }
        }
        self.up = up;
    }

    /// Lets it have addresses of IPv6, or takes them away for good.
    pub fn set_v6(&mut self, v6: bool) {
        if !v6 {
            self.addresses.retain(|own| own.addr.is_ipv4());
        }
        let was = core::mem::replace(&mut self.v6, v6);
        if v6 && !was && self.up {
            // As when it comes up.
            let _ = self.assign(V6);
        }
    }

    /// `IFF_*`.
    pub fn flags(&self) -> u32 {
        IFF_LOOPBACK | if self.up { IFF_UP | IFF_RUNNING | IFF_LOWER_UP } else { 0 }
    }

    /// Gives it an address.
    ///
    /// # Errors
    /// `EEXIST`, `ENOBUFS`, `EACCES` if it has no IPv6.
    pub fn assign(&mut self, new: Assigned) -> Result<()> {
        if new.addr.is_ipv6() && !self.v6 {
            return Err(Errno::EACCES);
        }
        if self.addresses.contains(&new) {
            return Err(Errno::EEXIST);
        }
        if self.addresses.len() >= ADDRESSES_MAX || self.addresses.try_reserve(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        self.addresses.push(new);
        Ok(())
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`.
    pub fn remove(&mut self, addr: IpAddr) -> Result<()> {
        let at = self.addresses.iter().position(|own| own.addr == addr).ok_or(Errno::EADDRNOTAVAIL)?;
        self.addresses.remove(at);
        Ok(())
    }

    /// The assigned address that makes `addr` local: a network of the loopback device is local as a whole.
    fn local(&self, addr: IpAddr) -> Option<IpAddr> {
        if !self.up {
            return None;
        }
        let covers = |own: &&Assigned| match (own.addr, addr) {
            (IpAddr::V4(own_addr), IpAddr::V4(addr)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(own.prefix)).unwrap_or(0);
                (own_addr.to_bits() ^ addr.to_bits()) & mask == 0
            }
            (own, addr) => own == addr,
        };
        self.addresses.iter().filter(covers).max_by_key(|own| own.prefix).map(|own| own.addr)
    }

    /// Whether a socket may be bound to `addr`.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        addr.is_unspecified() || addr.is_multicast() || is_broadcast(addr) || self.local(addr).is_some()
    }

    /// The source address of what is sent to `to`, a local address.
    ///
    /// # Errors
    /// `ENETUNREACH`: there is no other network.
    pub fn source(&self, to: IpAddr) -> Result<IpAddr> {
        self.local(to).ok_or(Errno::ENETUNREACH)
    }

    /// The first address of the family.
    pub fn first(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.iter().map(|own| own.addr).find(|addr| addr.is_ipv6() == v6)
    }

    /// Counts a packet with `payload` bytes behind the header of IP.
    pub fn count(&mut self, v6: bool, payload: usize) {
        super::counters::process(1);
        let header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
        self.traffic[usize::from(v6)].add(Traffic { packets: 1, bytes: (payload + header) as u64 });
    }
}

/// Whether `addr` is the broadcast address of a network of the device.
pub fn is_broadcast(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V4(v4) if v4.is_broadcast() || v4 == Ipv4Addr::new(127, 255, 255, 255))
}

/// `SIOCGIF*`, on `struct ifreq`.
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCETHTOOL: u32 = 0x8946;
const SIOCGIFMAP: u32 = 0x8970;
/// Bytes of `struct ifreq`, and of the name that it begins with.
const REQUEST: usize = 40;
const NAME_LEN: usize = 16;
/// Protocols above a link.
pub const ETH_P_IP: u16 = 0x800;
pub const ETH_P_IPV6: u16 = 0x86dd;
/// `ARPHRD_LOOPBACK`.
pub const HARDWARE: u16 = 772;

/// A request about the devices of `namespace`.
///
/// # Errors
/// `ENOTTY`, `ENODEV`, `EPERM`, `EADDRNOTAVAIL`, `EFAULT`.
pub fn ioctl(task: &Arc<Task>, namespace: &Namespace, cmd: u32, arg: u64) -> Result<u64> {
    match cmd {
        SIOCGIFCONF => return list(namespace, arg),
        SIOCGIFNAME..=SIOCGIFMAP => {}
        _ => return Err(Errno::ENOTTY),
    }
    let mut request = [0; REQUEST];
    user::copy_in(&mut request, UserAddr(arg))?;
    if cmd == SIOCGIFNAME {
        let index = request.get(16..20).map_or(0, |bytes| u32::from_le_bytes(core::array::from_fn(|i| bytes[i])));
        if index != INDEX {
            return Err(Errno::ENODEV);
        }
        user::copy_out(UserAddr(arg), b"lo\0")?;
        return Ok(0);
    }
    let answer = answer(task, namespace, cmd, &request)?;
    if matches!(cmd, SIOCSIFFLAGS | SIOCSIFMTU) {
        super::netlink::announce_link(namespace);
    }
    user::copy_out(UserAddr(arg.wrapping_add(NAME_LEN as u64)), &answer)?;
    Ok(0)
}

fn answer(task: &Arc<Task>, namespace: &Namespace, cmd: u32, request: &[u8; REQUEST]) -> Result<Vec<u8>> {
    let known = [
        SIOCGIFFLAGS,
        SIOCSIFFLAGS,
        SIOCGIFADDR,
        SIOCGIFDSTADDR,
        SIOCGIFBRDADDR,
        SIOCGIFNETMASK,
        SIOCGIFMETRIC,
        SIOCGIFMTU,
        SIOCSIFMTU,
        SIOCGIFHWADDR,
        SIOCGIFINDEX,
        SIOCGIFTXQLEN,
        SIOCETHTOOL,
        SIOCGIFMAP,
    ];
    if !known.contains(&cmd) {
        return Err(Errno::ENOTTY);
    }
    let name = request.split(|&byte| byte == 0).next().unwrap_or(&[]);
    // `lo:1` names an address of `lo`.
    if name.split(|&byte| byte == b':').next() != Some(NAME) {
        return Err(Errno::ENODEV);
    }
    let privileged = task.net_capable(cap::NET_ADMIN);
    let mut device = namespace.interface.lock();
    let value = request.get(NAME_LEN..NAME_LEN + 4).map_or(0, |b| u32::from_le_bytes(core::array::from_fn(|i| b[i])));
    let address = |addr: u32| {
        let mut bytes = vec![0; 16];
        bytes[..2].copy_from_slice(&AF_INET.to_le_bytes());
        bytes[4..8].copy_from_slice(&addr.to_be_bytes());
        bytes
    };
    let first = device.addresses.iter().find(|own| own.addr.is_ipv4()).copied();
    let v4 = || match first.ok_or(Errno::EADDRNOTAVAIL)? {
        Assigned { addr: IpAddr::V4(addr), prefix } => Ok((addr.to_bits(), prefix)),
        _ => Err(Errno::EADDRNOTAVAIL),
    };
    Ok(match cmd {
        SIOCGIFFLAGS => (device.flags() as u16).to_le_bytes().to_vec(),
        SIOCGIFADDR | SIOCGIFDSTADDR => address(v4()?.0),
        SIOCGIFBRDADDR => v4().map(|_| address(0))?,
        SIOCGIFNETMASK => address(u32::MAX.checked_shl(32 - u32::from(v4()?.1)).unwrap_or(0)),
        SIOCGIFMETRIC => 0_u32.to_le_bytes().to_vec(),
        SIOCGIFMTU => device.mtu.to_le_bytes().to_vec(),
        SIOCGIFINDEX => INDEX.to_le_bytes().to_vec(),
        SIOCGIFTXQLEN => 1000_u32.to_le_bytes().to_vec(),
        SIOCGIFMAP => vec![0; 24],
        SIOCGIFHWADDR => {
            let mut bytes = vec![0; 16];
            bytes[..2].copy_from_slice(&HARDWARE.to_le_bytes());
            bytes
        }
        SIOCETHTOOL => return Err(Errno::EOPNOTSUPP),
        _ if !privileged => return Err(Errno::EPERM),
        SIOCSIFFLAGS => {
            device.set_up(value & IFF_UP != 0);
            Vec::new()
        }
        _ if value < 68 => return Err(Errno::EINVAL),
        _ => {
            device.mtu = value;
            Vec::new()
        }
    })
}

/// `SIOCGIFCONF`: a `struct ifreq` for each IPv4 address.
fn list(namespace: &Namespace, arg: u64) -> Result<u64> {
    let [room, at]: [u64; 2] = user::read_val(UserAddr(arg))?;
    let room = usize::try_from(room as i32).map_err(|_| Errno::EINVAL)?;
    let mut bytes = Vec::new();
    for own in &namespace.interface.lock().addresses {
        let IpAddr::V4(addr) = own.addr else { continue };
        let mut request = [0; REQUEST];
        request[..2].copy_from_slice(NAME);
        request[16..18].copy_from_slice(&AF_INET.to_le_bytes());
        request[20..24].copy_from_slice(&addr.octets());
        bytes.extend_from_slice(&request);
    }
    if at != 0 {
        bytes.truncate(room / REQUEST * REQUEST);
        user::copy_out(UserAddr(at), &bytes)?;
    }
    user::write_val(UserAddr(arg), &(bytes.len() as u32))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_the_device_are_local_as_a_whole() {
        let mut device = Interface::up();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(device.is_local(ip("127.1.2.3")) && !device.is_local(ip("10.0.0.1")) && !device.is_local(ip("::2")));
        assert_eq!(device.source(ip("127.9.9.9")), Ok(ip("127.0.0.1")));
        device.assign(Assigned { addr: ip("10.0.0.1"), prefix: 24 }).unwrap();
        assert_eq!(device.source(ip("10.0.0.7")), Ok(ip("10.0.0.1")));
        device.set_up(false);
        assert_eq!(device.source(ip("127.0.0.1")), Err(Errno::ENETUNREACH));
    }
}
