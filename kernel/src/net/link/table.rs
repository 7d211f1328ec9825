//! The devices of a namespace, their addresses, and the routes that follow from both.
//!
//! One lock guards them all (rank Leaf, see [`Namespace::links`]); never two namespaces' at once. An address of IPv4 is local whether its
//! device is up or not, as are the routes to it; all other routes go when their device goes down.

use super::super::namespace::Namespace;
use super::super::route::{KERNEL, ONLINK, Route, Routes, TABLE_LOCAL, kind};
use super::{ADDRESSES_MAX, Assigned, Device, Kind, LOOPBACK, Name, Traffic, masked, scope};
use crate::{Errno, Result};
use alloc::sync::Weak;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most devices of a namespace.
const DEVICES_MAX: usize = 256;
/// Most namespaces that one has numbers for.
const NUMBERS_MAX: usize = 256;
/// Routes that follow from an address at most.
const ROUTES_EACH: usize = 3;

/// See the module.
pub struct Links {
    devices: Vec<Device>,
    pub routes: Routes,
    last_index: u32,
    /// Other namespaces, by the numbers that they have here.
    numbers: Vec<(u32, Weak<Namespace>)>,
}

impl Links {
    /// With a loopback device that is down.
    pub fn down() -> Links {
        let lo = Device { index: LOOPBACK, ..Device::new(Name::label(b"lo"), Kind::Loopback) };
        Links { devices: alloc::vec![lo], routes: Routes::initial(), last_index: LOOPBACK, numbers: Vec::new() }
    }

    /// With a loopback device that is up.
    pub fn up() -> Links {
        let mut links = Links::down();
        // There is memory at boot.
        let _ = links.set_up(LOOPBACK, true);
        links
    }

    /// All of them, the loopback device first.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The one with an index.
    pub fn device(&self, index: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.index == index)
    }

    /// The same, to be changed.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn device_mut(&mut self, index: u32) -> Result<&mut Device> {
        self.devices.iter_mut().find(|device| device.index == index).ok_or(Errno::ENODEV)
    }

    /// The one with a name.
    pub fn named(&self, name: &[u8]) -> Option<&Device> {
        self.devices.iter().find(|device| device.name.text() == name)
    }

    /// The loopback device.
    pub fn loopback(&mut self) -> Option<&mut Device> {
        self.devices.first_mut()
    }

    /// The first free name of a pattern with `%d`; the pattern itself if it is none.
    ///
    /// # Errors
    /// `EINVAL`, `EEXIST`, `ENFILE`.
    pub fn free_name(&self, pattern: &[u8]) -> Result<Name> {
        let pattern = Name::new(pattern)?;
        let Some(at) = pattern.text().iter().position(|&byte| byte == b'%') else {
            return if self.named(pattern.text()).is_some() { Err(Errno::EEXIST) } else { Ok(pattern) };
        };
        let rest = pattern.text().get(at + 1..).and_then(|rest| rest.strip_prefix(b"d")).ok_or(Errno::EINVAL)?;
        for number in 0..=DEVICES_MAX {
            let digits = alloc::format!("{number}");
            let parts = [pattern.text().get(..at).unwrap_or(&[]), digits.as_bytes(), rest];
            let name = Name::new(&parts.concat())?;
            if self.named(name.text()).is_none() {
                return Ok(name);
            }
        }
        Err(Errno::ENFILE)
    }

    /// Whether there is room for one more.
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub fn reserve(&mut self, more: usize) -> Result<()> {
        if self.devices.len() + more > DEVICES_MAX || self.devices.try_reserve(more).is_err() {
            return Err(Errno::ENOBUFS);
        }
        Ok(())
    }

    /// Puts a device here: at its index, if that is free and not 0, else behind the last one ever given.
    ///
    /// # Errors
    /// `ENOBUFS`; the device is lost.
    pub fn add(&mut self, mut device: Device) -> Result<u32> {
        self.reserve(1)?;
        if device.index == 0 || self.device(device.index).is_some() {
            let taken = |index: &u32| self.devices.iter().any(|other| other.index == *index);
            let mut next = (self.last_index + 1..i32::MAX as u32).chain(LOOPBACK + 1..=self.last_index);
            device.index = next.find(|index| !taken(index)).ok_or(Errno::ENFILE)?;
            self.last_index = device.index;
        }
        let index = device.index;
        let at = self.devices.partition_point(|other| other.index < index);
        self.devices.insert(at, device);
        Ok(index)
    }

    /// Takes a device away, with its addresses and routes.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn remove(&mut self, index: u32) -> Result<Device> {
        let at = self.devices.iter().position(|device| device.index == index).ok_or(Errno::ENODEV)?;
        self.routes.retain(|route| route.device != index);
        let mut device = self.devices.remove(at);
        device.addresses.clear();
        device.up = false;
        Ok(device)
    }

    /// The indices of pairs whose other end's namespace is gone.
    pub fn remove_orphans(&mut self) {
        let gone = |device: &&Device| matches!(&device.kind, Kind::Veth { peer, .. } if peer.strong_count() == 0);
        while let Some(index) = self.devices.iter().find(gone).map(|device| device.index) {
            let _ = self.remove(index);
        }
    }

    /// The number of another namespace here; it gets one.
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub fn number_of(&mut self, other: &Weak<Namespace>) -> Result<u32> {
        if let Some((number, _)) = self.numbers.iter().find(|(_, known)| known.ptr_eq(other)) {
            return Ok(*number);
        }
        self.numbers.retain(|(_, known)| known.strong_count() > 0);
        if self.numbers.len() >= NUMBERS_MAX || self.numbers.try_reserve(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        let number =
            (0..).find(|number| self.numbers.iter().all(|(taken, _)| taken != number)).ok_or(Errno::ENOBUFS)?;
        self.numbers.push((number, other.clone()));
        Ok(number)
    }

    /// The number that another namespace has here, if it has one.
    pub fn known_number(&self, other: &Weak<Namespace>) -> Option<u32> {
        self.numbers.iter().find(|(_, known)| known.ptr_eq(other)).map(|(number, _)| *number)
    }

    /// Takes a device up or down, with what follows from it.
    ///
    /// # Errors
    /// `ENODEV`, `ENOBUFS`.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        let device = self.device_mut(index)?;
        if device.up == up {
            return Ok(());
        }
        if !up {
            device.up = false;
            device.addresses.retain(|own| own.addr.is_ipv4());
            self.routes.retain(|route| route.device != index || route.to.is_ipv4() && route.kind == kind::LOCAL);
            return Ok(());
        }
        self.routes.reserve(ROUTES_EACH)?;
        let device = self.device_mut(index)?;
        device.up = true;
        if device.is_loopback() && !device.addresses.iter().any(|own| own.addr.is_ipv4()) {
            let own = Assigned { label: device.name, ..Assigned::new(Ipv4Addr::LOCALHOST.into(), 8, scope::HOST) };
            self.assign(index, own)?;
        } else {
            self.derive(index)?;
        }
        self.begin_v6(index)
    }

    /// The other end of a link has gone up or down.
    ///
    /// # Errors
    /// `ENODEV`, `ENOBUFS`.
    pub fn set_carrier(&mut self, index: u32, carrier: bool) -> Result<()> {
        self.device_mut(index)?.carrier = carrier;
        self.begin_v6(index)
    }

    /// Lets devices have addresses of IPv6, or takes them away for good.
    pub fn set_v6(&mut self, v6: bool, which: impl Fn(u32) -> bool) {
        for at in 0..self.devices.len() {
            let Some(device) = self.devices.get_mut(at).filter(|device| which(device.index)) else { continue };
            let index = device.index;
            device.v6 = v6;
            if !v6 {
                device.addresses.retain(|own| own.addr.is_ipv4());
                self.routes.retain(|route| route.device != index || route.to.is_ipv4());
            }
            // Without memory for its address a device has none.
            let _ = self.begin_v6(index);
        }
    }

    /// What a device has of IPv6 as soon as it runs: an address, and a route for groups.
    fn begin_v6(&mut self, index: u32) -> Result<()> {
        let device = self.device_mut(index)?;
        if !device.has_v6() || !device.is_running() {
            return Ok(());
        }
        let own = match device.is_loopback() {
            true => Assigned { alone: true, ..Assigned::new(Ipv6Addr::LOCALHOST.into(), 128, scope::HOST) },
            false => device.link_local(),
        };
        let has = device.addresses.iter().any(|other| other.addr == own.addr);
        if !device.is_loopback() {
            let groups = Route::own(kind::MULTICAST, (Ipv6Addr::from_bits(0xff << 120).into(), 8), index);
            match self.routes.add(groups, false) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        if has { Ok(()) } else { self.assign(index, own) }
    }

    /// Gives a device an address.
    ///
    /// # Errors
    /// `ENODEV`, `EEXIST`, `EINVAL`, `ENOBUFS`, `EACCES` if it has no IPv6.
    pub fn assign(&mut self, index: u32, mut new: Assigned) -> Result<()> {
        self.routes.reserve(ROUTES_EACH)?;
        let device = self.device_mut(index)?;
        if new.addr.is_ipv6() && !device.has_v6() {
            return Err(Errno::EACCES);
        }
        if new.addr.is_ipv6() && device.addresses.iter().any(|own| own.addr == new.addr) {
            return Err(Errno::EEXIST);
        }
        for own in device.addresses.iter().filter(|_| new.addr.is_ipv4()) {
            if own.prefix == new.prefix && own.covers(new.peer) {
                if own.addr == new.addr {
                    return Err(Errno::EEXIST);
                }
                if own.scope != new.scope {
                    return Err(Errno::EINVAL);
                }
                new.secondary = true;
            }
        }
        if device.addresses.len() >= ADDRESSES_MAX || device.addresses.try_reserve(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        device.addresses.push(new);
        self.derive(index)
    }

    /// Takes the first address away that fits, with those that are secondary to it.
    ///
    /// # Errors
    /// `ENODEV`, `EADDRNOTAVAIL`.
    pub fn unassign(&mut self, index: u32, fits: impl Fn(&Assigned) -> bool) -> Result<Assigned> {
        let device = self.device_mut(index)?;
        let at = device.addresses.iter().position(fits).ok_or(Errno::EADDRNOTAVAIL)?;
        let gone = device.addresses.remove(at);
        if gone.addr.is_ipv4() && !gone.secondary {
            device.addresses.retain(|own| !own.secondary || own.prefix != gone.prefix || !gone.covers(own.peer));
        }
        let v6 = gone.addr.is_ipv6();
        let any = device.addresses.iter().any(|own| own.addr.is_ipv6() == v6);
        let groups = |route: &Route| route.kind == kind::MULTICAST;
        self.routes.retain(|route| {
            let own = route.device == index && route.to.is_ipv6() == v6;
            let follows = route.protocol == KERNEL || route.source == Some(gone.addr) || !any && !v6;
            !own || !follows || groups(route)
        });
        // There is room: what is put back was there.
        self.derive(index)?;
        Ok(gone)
    }

    /// Puts in the routes that follow from the addresses of a device.
    fn derive(&mut self, index: u32) -> Result<()> {
        let Some(device) = self.devices.iter().find(|device| device.index == index) else { return Err(Errno::ENODEV) };
        let (up, loopback) = (device.up, device.is_loopback());
        let mut add = |route: Route| match self.routes.add(route, false) {
            Err(Errno::EEXIST) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        };
        for own in &device.addresses {
            let network = (masked(own.peer, own.prefix), own.prefix);
            if own.addr.is_ipv6() {
                add(Route::own(kind::LOCAL, (own.addr, 128), index))?;
                if !own.alone {
                    add(Route::own(kind::UNICAST, network, index))?;
                }
                continue;
            }
            let primary = device
                .addresses
                .iter()
                .find(|first| !first.secondary && first.prefix == own.prefix && first.covers(own.peer));
            let source = Some(primary.map_or(own.addr, |first| first.addr));
            add(Route { source, ..Route::own(kind::LOCAL, (own.addr, 32), index) })?;
            if !up || own.secondary || own.alone || network == (own.addr, 32) {
                continue;
            }
            let how = if loopback { kind::LOCAL } else { kind::UNICAST };
            add(Route { source, ..Route::own(how, network, index) })?;
            if let (IpAddr::V4(first), true) = (network.0, own.prefix < 31) {
                let last = Ipv4Addr::from_bits(first.to_bits() | u32::MAX.checked_shr(own.prefix.into()).unwrap_or(0));
                add(Route { source, ..Route::own(kind::BROADCAST, (last.into(), 32), index) })?;
            }
        }
        Ok(())
    }

    /// Checks a route that a program makes, and completes it.
    ///
    /// # Errors
    /// `ENODEV`, `ENETDOWN`, `ENETUNREACH`, `EINVAL`.
    pub fn complete(&self, route: &mut Route) -> Result<()> {
        if !route.needs_device() {
            return if route.gateway.is_some() { Err(Errno::EINVAL) } else { Ok(()) };
        }
        if let Some(gateway) = route.gateway.filter(|_| route.flags & ONLINK == 0) {
            // IPv6 knows its neighbours by their own addresses, too.
            let usable = |way: &Route| (route.device == 0 || way.device == route.device) && way.gateway.is_none();
            let query = super::super::route::Query::to(gateway);
            let way = self.routes.lookup(&query, None, usable).map_err(|_| Errno::ENETUNREACH)?;
            if way.kind != kind::UNICAST {
                return Err(Errno::EINVAL);
            }
            route.device = way.device;
        }
        let device = self.device(route.device).ok_or(Errno::ENODEV)?;
        if !device.up {
            return Err(Errno::ENETDOWN);
        }
        match route.source {
            Some(source) if !self.is_own(source) => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }

    /// Whether packets to `addr` are for this namespace.
    pub fn is_own(&self, addr: IpAddr) -> bool {
        let found = self.routes.search(TABLE_LOCAL, addr, |_| true);
        found.is_some_and(|route| matches!(route.kind, kind::LOCAL | kind::BROADCAST))
    }

    /// Whether `addr` is that of all hosts of a network.
    pub fn is_broadcast(&self, addr: IpAddr) -> bool {
        let IpAddr::V4(v4) = addr else { return false };
        v4.is_broadcast()
            || self.routes.search(TABLE_LOCAL, addr, |_| true).is_some_and(|route| route.kind == kind::BROADCAST)
    }

    /// Whether a socket may be bound to `addr`.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        addr.is_unspecified() || addr.is_multicast() || self.is_broadcast(addr) || self.is_own(addr)
    }

    /// The device that has an address.
    pub fn holder(&self, addr: IpAddr) -> Option<u32> {
        let has = |device: &&Device| device.addresses.iter().any(|own| own.addr == addr);
        let own = self.devices.iter().find(has).map(|device| device.index);
        own.or_else(|| self.routes.search(TABLE_LOCAL, addr, |_| true).map(|route| route.device))
    }

    /// The address that something comes from which leaves by a device to `to`: one of the same network, else the first that may be seen there.
    pub fn source(&self, device: u32, to: IpAddr) -> Option<IpAddr> {
        let first = |device: &Device| {
            let family = |own: &&Assigned| own.addr.is_ipv6() == to.is_ipv6();
            let narrow = matches!(to, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast());
            let seen = |own: &&Assigned| own.scope < scope::LINK || device.is_loopback() || narrow;
            let all = || device.addresses.iter().filter(family);
            let same = all().find(|own| !own.secondary && own.covers(to));
            same.or_else(|| all().find(seen)).or_else(|| all().next()).map(|own| own.addr)
        };
        let own = self.device(device).and_then(first);
        own.or_else(|| self.devices.iter().filter(|device| !device.is_loopback()).find_map(first))
    }

    /// A packet with `payload` bytes behind the header of IP goes through the loopback device.
    pub fn count(&mut self, v6: bool, payload: usize) {
        super::super::counters::process(1);
        if let Some(lo) = self.loopback() {
            lo.received[usize::from(v6)].add(Traffic::packet(v6, payload));
        }
    }

    /// Packets have come in by a device, or have left by it. Links carry their own header.
    pub fn count_at(&mut self, index: u32, v6: bool, traffic: Traffic, received: bool) {
        let Ok(device) = self.device_mut(index) else { return };
        let bytes = traffic.bytes + traffic.packets * super::LINK_HEADER as u64;
        let counts = if received { &mut device.received } else { &mut device.sent };
        counts[usize::from(v6)].add(Traffic { bytes, ..traffic });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn with_dummy() -> (Links, u32) {
        let mut links = Links::up();
        let index = links.add(Device::new(Name::new(b"dummy0").unwrap(), Kind::Dummy)).unwrap();
        (links, index)
    }

    #[test]
    fn networks_of_the_loopback_device_are_local_as_a_whole() {
        let mut links = Links::up();
        assert!(links.is_local(ip("127.1.2.3")) && !links.is_local(ip("10.0.0.1")) && !links.is_local(ip("::2")));
        assert!(links.is_local(ip("::1")) && links.is_broadcast(ip("127.255.255.255")));
        links.assign(LOOPBACK, Assigned::new(ip("10.0.0.1"), 24, 0)).unwrap();
        assert!(links.is_own(ip("10.0.0.7")));
        links.set_up(LOOPBACK, false).unwrap();
        assert!(!links.is_local(ip("::1")) && links.is_local(ip("127.0.0.1")));
        assert!(!Links::down().is_local(ip("127.0.0.1")));
    }

    #[test]
    fn addresses_make_routes_and_take_them_away() {
        let (mut links, index) = with_dummy();
        links.assign(index, Assigned::new(ip("10.1.0.1"), 24, 0)).unwrap();
        let to_network = |links: &Links| links.routes.routes().iter().any(|route| route.to == ip("10.1.0.0"));
        assert!(links.is_own(ip("10.1.0.1")) && !links.is_own(ip("10.1.0.2")) && !to_network(&links));
        links.set_up(index, true).unwrap();
        assert!(to_network(&links) && links.is_broadcast(ip("10.1.0.255")));
        links.assign(index, Assigned::new(ip("10.1.0.9"), 24, 0)).unwrap();
        assert!(links.device(index).unwrap().addresses.iter().any(|own| own.secondary));
        assert_eq!(links.assign(index, Assigned::new(ip("10.1.0.9"), 24, 0)), Err(Errno::EEXIST));
        links.unassign(index, |own| own.addr == ip("10.1.0.1")).unwrap();
        assert!(!to_network(&links) && !links.is_own(ip("10.1.0.9")));
    }

    #[test]
    fn gateways_must_be_neighbours() {
        let (mut links, index) = with_dummy();
        links.assign(index, Assigned::new(ip("10.1.0.1"), 24, 0)).unwrap();
        let via =
            |to: &str| Route { device: 0, gateway: Some(ip(to)), ..Route::own(kind::UNICAST, (ip("0.0.0.0"), 0), 0) };
        assert_eq!(links.complete(&mut via("10.1.0.7")), Err(Errno::ENETUNREACH));
        links.set_up(index, true).unwrap();
        let mut route = via("10.1.0.7");
        assert_eq!((links.complete(&mut route), route.device), (Ok(()), index));
        assert_eq!(links.complete(&mut via("10.2.0.7")), Err(Errno::ENETUNREACH));
    }

    #[test]
    fn patterns_give_the_first_free_name() {
        let (links, _) = with_dummy();
        assert_eq!(links.free_name(b"dummy%d").unwrap().text(), b"dummy1");
        assert_eq!(links.free_name(b"dummy0"), Err(Errno::EEXIST));
        assert_eq!(links.free_name(b"x%s"), Err(Errno::EINVAL));
    }
}
