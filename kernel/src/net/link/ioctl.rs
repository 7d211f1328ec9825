//! Requests about devices on any socket (`SIOC*`). Source: netdevice(7).

use super::super::namespace::Namespace;
use super::super::uapi::*;
use super::change::{self, Wanted};
use super::{Assigned, Device, LOOPBACK, Links, Name, masked, scope};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use umbel_mm::user::{self, UserAddr};

/// Requests, on `struct ifreq`.
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCSIFADDR: u32 = 0x8916;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCSIFBRDADDR: u32 = 0x891a;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCSIFNETMASK: u32 = 0x891c;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCSIFNAME: u32 = 0x8923;
const SIOCSIFHWADDR: u32 = 0x8924;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCSIFTXQLEN: u32 = 0x8943;
const SIOCETHTOOL: u32 = 0x8946;
const SIOCGIFMAP: u32 = 0x8970;
/// Those that ask, and those that change.
const QUESTIONS: [u32; 11] = [
    SIOCGIFFLAGS,
    SIOCGIFADDR,
    SIOCGIFDSTADDR,
    SIOCGIFBRDADDR,
    SIOCGIFNETMASK,
    SIOCGIFMETRIC,
    SIOCGIFMTU,
    SIOCGIFHWADDR,
    SIOCGIFINDEX,
    SIOCGIFTXQLEN,
    SIOCGIFMAP,
];
const CHANGES: [u32; 8] =
    [SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFBRDADDR, SIOCSIFNETMASK, SIOCSIFMTU, SIOCSIFNAME, SIOCSIFHWADDR, SIOCSIFTXQLEN];
/// Bytes of `struct ifreq`.
const REQUEST: usize = 40;
/// Flags that fit into it.
const FLAGS: u32 = 0xffff;

/// A request about the devices of `namespace`.
///
/// # Errors
/// `ENOTTY`, `ENODEV`, `EPERM`, `EADDRNOTAVAIL`, `EFAULT`.
pub fn ioctl(task: &Arc<Task>, namespace: &Namespace, cmd: u32, arg: u64) -> Result<u64> {
    match cmd {
        SIOCGIFCONF => return list(namespace, arg),
        SIOCGIFNAME | SIOCETHTOOL => {}
        _ if QUESTIONS.contains(&cmd) || CHANGES.contains(&cmd) => {}
        _ => return Err(Errno::ENOTTY),
    }
    let mut request = [0; REQUEST];
    user::copy_in(&mut request, UserAddr(arg))?;
    let value = Value(core::array::from_fn(|i| request[Name::SIZE + i]));
    if cmd == SIOCGIFNAME {
        let name = namespace.links().device(value.word(0)).ok_or(Errno::ENODEV)?.name;
        user::copy_out(UserAddr(arg), name.c_string())?;
        return Ok(0);
    }
    let label = Name::label(&request[..Name::SIZE]);
    // `lo:1` names an address of `lo`.
    let own = label.text().split(|&byte| byte == b':').next().unwrap_or(&[]);
    let index = namespace.links().named(own).ok_or(Errno::ENODEV)?.index;
    if CHANGES.contains(&cmd) {
        if !namespace.is_administered_by(task) {
            return Err(Errno::EPERM);
        }
        return change(namespace, (index, label), cmd, &value).map(|()| 0);
    }
    let answer = answer(&namespace.links(), (index, label), cmd)?;
    user::copy_out(UserAddr(arg.wrapping_add(Name::SIZE as u64)), &answer)?;
    Ok(0)
}

/// What follows the name in a request.
struct Value([u8; REQUEST - Name::SIZE]);

impl Value {
    fn word(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(core::array::from_fn(|i| bytes[i])))
    }

    /// The address of a `struct sockaddr_in`.
    fn address(&self) -> Result<Ipv4Addr> {
        if self.word(0) as u16 != AF_INET {
            return Err(Errno::EINVAL);
        }
        Ok(Ipv4Addr::from_bits(self.word(4).swap_bytes()))
    }
}

fn address(addr: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[..2].copy_from_slice(&AF_INET.to_le_bytes());
    bytes[4..8].copy_from_slice(&addr.octets());
    bytes
}

/// The address of IPv4 that a request is about: the one with the label, or the first.
fn named(device: &Device, label: Name) -> Option<&Assigned> {
    let mut all = device.addresses.iter().filter(|own| own.addr.is_ipv4());
    let exact = all.clone().find(|own| own.label == label);
    exact.or_else(|| all.next())
}

fn answer(links: &Links, (index, label): (u32, Name), cmd: u32) -> Result<Vec<u8>> {
    let device = links.device(index).ok_or(Errno::ENODEV)?;
    let v4 = |pick: fn(&Assigned) -> Option<Ipv4Addr>| {
        let own = named(device, label).ok_or(Errno::EADDRNOTAVAIL)?;
        Ok::<_, Errno>(address(pick(own).unwrap_or(Ipv4Addr::UNSPECIFIED)))
    };
    Ok(match cmd {
        SIOCGIFFLAGS => ((device.flags() & FLAGS) as u16).to_le_bytes().to_vec(),
        SIOCGIFADDR => v4(|own| v4_of(own.addr))?,
        SIOCGIFDSTADDR => v4(|own| v4_of(own.peer))?,
        SIOCGIFBRDADDR => v4(|own| own.broadcast)?,
        SIOCGIFNETMASK => v4(|own| v4_of(masked(Ipv4Addr::BROADCAST.into(), own.prefix)))?,
        SIOCGIFMETRIC => 0_u32.to_le_bytes().to_vec(),
        SIOCGIFMTU => device.mtu.to_le_bytes().to_vec(),
        SIOCGIFINDEX => index.to_le_bytes().to_vec(),
        SIOCGIFTXQLEN => device.queue.to_le_bytes().to_vec(),
        SIOCGIFHWADDR => {
            let mut bytes = device.kind.hardware().to_le_bytes().to_vec();
            bytes.extend_from_slice(&device.mac);
            bytes.resize(16, 0);
            bytes
        }
        _ => vec![0; 24],
    })
}

fn v4_of(addr: IpAddr) -> Option<Ipv4Addr> {
    match addr {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    }
}

fn change(namespace: &Namespace, (index, label): (u32, Name), cmd: u32, value: &Value) -> Result<()> {
    let wanted = match cmd {
        SIOCSIFFLAGS => Wanted { flags: value.word(0) & FLAGS, mask: FLAGS, ..Wanted::default() },
        SIOCSIFMTU if value.word(0) < 68 && index != LOOPBACK => return Err(Errno::EINVAL),
        SIOCSIFMTU => Wanted { mtu: Some(value.word(0)), ..Wanted::default() },
        SIOCSIFTXQLEN if value.word(0) > i32::MAX as u32 => return Err(Errno::EINVAL),
        SIOCSIFTXQLEN => Wanted { queue: Some(value.word(0)), ..Wanted::default() },
        SIOCSIFNAME => Wanted { name: Some(Name::new(&value.0[..Name::SIZE])?), ..Wanted::default() },
        SIOCSIFHWADDR => {
            if namespace
                .links()
                .device(index)
                .is_some_and(|own| u32::from(own.kind.hardware()) != value.word(0) & 0xffff)
            {
                return Err(Errno::EINVAL);
            }
            Wanted { mac: Some(core::array::from_fn(|i| value.0[2 + i])), ..Wanted::default() }
        }
        _ => return set_address(namespace, (index, label), cmd, value.address()?),
    };
    change::set(namespace, index, wanted)
}

/// `SIOCSIFADDR` and what belongs to it: the address with the label is taken away and comes back changed.
fn set_address(namespace: &Namespace, (index, label): (u32, Name), cmd: u32, to: Ipv4Addr) -> Result<()> {
    let alone = change::alone();
    let mut links = namespace.links();
    let device = links.device(index).ok_or(Errno::ENODEV)?;
    let old = device.addresses.iter().find(|own| own.addr.is_ipv4() && own.label == label).copied();
    let mut new = match (cmd, old) {
        (SIOCSIFADDR, _) => {
            // The network that the first octet says.
            let prefix = match to.octets()[0] {
                0..=127 => 8,
                128..=191 => 16,
                192..=223 => 24,
                _ => 32,
            };
            let scope = if to.is_loopback() { scope::HOST } else { scope::UNIVERSE };
            Assigned { label, ..Assigned::new(to.into(), prefix, scope) }
        }
        (_, None) => return Err(Errno::EADDRNOTAVAIL),
        (SIOCSIFBRDADDR, Some(old)) => Assigned { broadcast: Some(to), ..old },
        (_, Some(old)) => {
            let bits = to.to_bits();
            if bits.leading_ones() + bits.trailing_zeros() != 32 {
                return Err(Errno::EINVAL);
            }
            Assigned { prefix: bits.leading_ones() as u8, ..old }
        }
    };
    if let Some(old) = old {
        links.unassign(index, |own| *own == old)?;
    }
    if to.is_unspecified() && cmd == SIOCSIFADDR {
        return Ok(());
    }
    if cmd != SIOCSIFBRDADDR
        && new.prefix < 31
        && !links.device(index).is_some_and(Device::is_loopback)
        && let Some(addr) = v4_of(new.addr)
    {
        new.broadcast =
            Some(Ipv4Addr::from_bits(addr.to_bits() | u32::MAX.checked_shr(new.prefix.into()).unwrap_or(0)));
    }
    new.secondary = false;
    links.assign(index, new)?;
    // An address is for use: the device goes up with it.
    drop(links);
    drop(alone);
    if cmd == SIOCSIFADDR && label.text().iter().all(|&byte| byte != b':') {
        let up = Wanted { flags: super::IFF_UP, mask: super::IFF_UP, ..Wanted::default() };
        change::set(namespace, index, up)?;
    }
    Ok(())
}

/// `SIOCGIFCONF`: a `struct ifreq` for each IPv4 address.
fn list(namespace: &Namespace, arg: u64) -> Result<u64> {
    let [room, at]: [u64; 2] = user::read_val(UserAddr(arg))?;
    let room = usize::try_from(room as i32).map_err(|_| Errno::EINVAL)?;
    let mut bytes = Vec::new();
    {
        let links = namespace.links();
        for device in links.devices() {
            for own in &device.addresses {
                let Some(addr) = v4_of(own.addr) else { continue };
                bytes.try_reserve(REQUEST).map_err(|_| Errno::ENOMEM)?;
                let mut request = [0; REQUEST];
                request[..own.label.text().len()].copy_from_slice(own.label.text());
                request[16..18].copy_from_slice(&AF_INET.to_le_bytes());
                request[20..24].copy_from_slice(&addr.octets());
                bytes.extend_from_slice(&request);
            }
        }
    }
    if at != 0 {
        bytes.truncate(room / REQUEST * REQUEST);
        user::copy_out(UserAddr(at), &bytes)?;
    }
    user::write_val(UserAddr(arg), &(bytes.len() as u32))?;
    Ok(0)
}
