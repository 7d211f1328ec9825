//! `RTM_*LINK`: devices.

use super::super::message::{Answer, attribute, word};
use super::{Asker, DELLINK, NEWLINK, namespaces};
use crate::net::Namespace;
use crate::net::link::change::{self, New, Wanted};
use crate::net::link::{Device, Kind, Name, Traffic};
use crate::task::cap;
use crate::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// Bytes of `struct ifinfomsg`.
const HEAD: usize = 16;
/// `RTNLGRP_LINK`.
const GROUP: u32 = 1;
/// `IFALIASZ`.
const ALIAS_MAX: usize = 256;

/// Attributes: `IFLA_*`.
mod ifla {
    pub const ADDRESS: u16 = 1;
    pub const BROADCAST: u16 = 2;
    pub const IFNAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const LINK: u16 = 5;
    pub const QDISC: u16 = 6;
    pub const STATS: u16 = 7;
    pub const MASTER: u16 = 10;
    pub const TXQLEN: u16 = 13;
    pub const OPERSTATE: u16 = 16;
    pub const LINKMODE: u16 = 17;
    pub const LINKINFO: u16 = 18;
    pub const NET_NS_PID: u16 = 19;
    pub const IFALIAS: u16 = 20;
    pub const STATS64: u16 = 23;
    pub const GROUP: u16 = 27;
    pub const NET_NS_FD: u16 = 28;
    pub const PROMISCUITY: u16 = 30;
    pub const NUM_TX_QUEUES: u16 = 31;
    pub const NUM_RX_QUEUES: u16 = 32;
    pub const CARRIER: u16 = 33;
    pub const LINK_NETNSID: u16 = 37;
    pub const TARGET_NETNSID: u16 = 46;
    pub const MIN_MTU: u16 = 50;
    pub const MAX_MTU: u16 = 51;
    /// Inside `LINKINFO`; inside its data, of a pair.
    pub const KIND: u16 = 1;
    pub const DATA: u16 = 2;
    pub const PEER: u16 = 1;
}

/// A request about a device: `struct ifinfomsg` and what follows it.
struct Link<'a> {
    head: &'a [u8],
    attributes: &'a [u8],
}

impl<'a> Link<'a> {
    fn parse(body: &'a [u8]) -> Result<Link<'a>> {
        let (head, attributes) = body.split_at_checked(HEAD).ok_or(Errno::EINVAL)?;
        let link = Link { head, attributes };
        if i32::try_from(link.index()).is_err() { Err(Errno::EINVAL) } else { Ok(link) }
    }

    fn get(&self, kind: u16) -> Option<&'a [u8]> {
        attribute(self.attributes, kind)
    }

    fn index(&self) -> u32 {
        word(self.head.get(4..).unwrap_or(&[]))
    }

    fn name(&self) -> Option<&'a [u8]> {
        self.get(ifla::IFNAME).map(|name| name.split(|&byte| byte == 0).next().unwrap_or(&[]))
    }

    /// The device that it names.
    fn find(&self, namespace: &Namespace) -> Result<u32> {
        let links = namespace.links();
        match (self.index(), self.name()) {
            (0, None | Some(b"")) => Err(Errno::EINVAL),
            (0, Some(name)) => links.named(name).map(|device| device.index).ok_or(Errno::ENODEV),
            (index, _) => links.device(index).map(|device| device.index).ok_or(Errno::ENODEV),
        }
    }

    /// What it asks for, but for the name.
    fn wanted(&self) -> Result<Wanted> {
        let number = |kind| self.get(kind).map(word);
        let mac = match self.get(ifla::ADDRESS) {
            Some(mac) => Some(*mac.first_chunk::<6>().ok_or(Errno::EINVAL)?),
            None => None,
        };
        let alias = match self.get(ifla::IFALIAS) {
            Some(alias) if alias.len() >= ALIAS_MAX => return Err(Errno::EINVAL),
            Some(alias) => Some(alias.strip_suffix(b"\0").unwrap_or(alias).to_vec()),
            None => None,
        };
        if self.get(ifla::MASTER).is_some_and(|master| word(master) != 0) {
            return Err(Errno::EOPNOTSUPP);
        }
        let (flags, mask) = (word(self.head.get(8..).unwrap_or(&[])), word(self.head.get(12..).unwrap_or(&[])));
        Ok(Wanted {
            name: None,
            mac,
            mtu: number(ifla::MTU),
            queue: number(ifla::TXQLEN),
            group: number(ifla::GROUP),
            alias,
            flags,
            // Programs of old leave the mask out.
            mask: if mask == 0 && flags != 0 { u32::MAX } else { mask },
        })
    }

    /// The namespace where it shall be, if that is another one, in which the caller must have the privilege.
    fn target(&self, asker: &Asker<'_>) -> Result<Option<Arc<Namespace>>> {
        if self.get(ifla::TARGET_NETNSID).is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let named = match (self.get(ifla::NET_NS_PID), self.get(ifla::NET_NS_FD)) {
            (Some(pid), _) => namespaces::of_process(asker.task, word(pid))?,
            (_, Some(fd)) => namespaces::of_descriptor(asker.task, word(fd))?,
            _ => return Ok(None),
        };
        if !asker.task.cred().capable_in(&named.owner, cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        Ok(Some(named.ns))
    }

    /// A device that it asks for, with a name of `pattern` if it says none.
    fn new_in(&self, namespace: &'a Arc<Namespace>, pattern: &'static [u8]) -> Result<New<'a>> {
        let name = self.name().filter(|name| !name.is_empty()).unwrap_or(pattern);
        Ok(New { namespace, name, index: self.index(), wanted: self.wanted()? })
    }

    /// Kind and data of a device that is to be made.
    fn info(&self) -> (Option<&'a [u8]>, &'a [u8]) {
        let info = self.get(ifla::LINKINFO).unwrap_or(&[]);
        let kind = attribute(info, ifla::KIND).map(|kind| kind.split(|&byte| byte == 0).next().unwrap_or(&[]));
        (kind, attribute(info, ifla::DATA).unwrap_or(&[]))
    }
}

/// `RTM_NEWLINK`: changes a device that is there, or makes one.
pub(super) fn make_or_set(asker: &Asker<'_>) -> Result<()> {
    let link = Link::parse(asker.request.body)?;
    let found = match link.find(asker.namespace) {
        // None is named: the kernel finds a name for a new one. iproute2 knows by this error that devices can be made.
        Err(Errno::EINVAL) => Err(Errno::ENODEV),
        found => found,
    };
    match found {
        Ok(_) if asker.request.excludes() => Err(Errno::EEXIST),
        Ok(index) => set_found(asker, &link, index),
        Err(Errno::ENODEV) if asker.request.creates() => make(asker, &link),
        Err(error) => Err(error),
    }
}

/// `RTM_SETLINK`.
pub(super) fn set(asker: &Asker<'_>) -> Result<()> {
    let link = Link::parse(asker.request.body)?;
    set_found(asker, &link, link.find(asker.namespace)?)
}

fn set_found(asker: &Asker<'_>, link: &Link<'_>, index: u32) -> Result<()> {
    let mut wanted = link.wanted()?;
    // With an index the name is a new one.
    if let Some(name) = link.name().filter(|name| !name.is_empty() && link.index() != 0) {
        wanted.name = Some(Name::new(name)?);
    }
    match link.target(asker)? {
        Some(target) => change::relocate(asker.namespace, index, &target, wanted),
        None => change::set(asker.namespace, index, wanted),
    }
}

fn make(asker: &Asker<'_>, link: &Link<'_>) -> Result<()> {
    let target = link.target(asker)?;
    let here = target.as_ref().unwrap_or(asker.namespace);
    match link.info() {
        (None, _) => Err(if link.index() == 0 { Errno::EOPNOTSUPP } else { Errno::ENODEV }),
        (Some(b"dummy"), _) => change::make_dummy(link.new_in(here, b"dummy%d")?),
        (Some(b"veth"), data) => {
            let empty = [0; HEAD];
            let far = Link::parse(attribute(data, ifla::PEER).unwrap_or(&empty))?;
            let there = far.target(asker)?;
            let far = far.new_in(there.as_ref().unwrap_or(asker.namespace), b"veth%d")?;
            change::make_pair(link.new_in(here, b"veth%d")?, far)
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// `RTM_DELLINK`.
pub(super) fn remove(asker: &Asker<'_>) -> Result<()> {
    let link = Link::parse(asker.request.body)?;
    change::remove(asker.namespace, link.find(asker.namespace)?)
}

/// `RTM_GETLINK`: one, or all, or all of a kind.
pub(super) fn list(asker: &Asker<'_>, out: &mut Answer) -> Result<()> {
    let namespace = asker.namespace;
    if !asker.request.dumps() {
        let index = Link::parse(asker.request.body)?.find(namespace)?;
        describe(namespace, index, NEWLINK, out);
        return Ok(());
    }
    // Of a dump's request there may be no more than the family.
    let link = Link { head: &[], attributes: asker.request.body.get(HEAD..).unwrap_or(&[]) };
    let wanted = |device: &Device| match link.info().0 {
        Some(kind) => device.kind.name().is_some_and(|name| name.as_bytes() == kind),
        None => true,
    };
    let mut next = 0;
    loop {
        let found =
            namespace.links().devices().iter().find(|own| own.index >= next && wanted(own)).map(|own| own.index);
        let Some(index) = found else { return Ok(()) };
        describe(namespace, index, NEWLINK, out);
        next = index + 1;
    }
}

/// Tells the group of links what a device has become.
pub fn announce_link(namespace: &Namespace, index: u32) {
    announce(namespace, index, NEWLINK);
}

/// Tells it that a device goes.
pub fn announce_link_gone(namespace: &Namespace, index: u32) {
    announce(namespace, index, DELLINK);
}

fn announce(namespace: &Namespace, index: u32, kind: u16) {
    let mut notice = Answer::notice();
    describe(namespace, index, kind, &mut notice);
    super::super::announce(namespace, GROUP, notice);
}

/// Where the other end of a link is, as a namespace shows it: its index, and the number of its namespace if that is another one.
fn far_end(namespace: &Namespace, index: u32) -> Option<(u32, Option<u32>)> {
    let mut links = namespace.links();
    let (peer, far) = match &links.device(index)?.kind {
        Kind::Veth { peer, index } => (peer.clone(), *index),
        _ => return None,
    };
    let same = core::ptr::eq(Weak::as_ptr(&peer), namespace);
    Some((far, if same { None } else { links.number_of(&peer).ok() }))
}

/// A message about a device.
fn describe(namespace: &Namespace, index: u32, kind: u16, out: &mut Answer) {
    let is_loopback = index == crate::net::link::LOOPBACK;
    let traffic = if is_loopback { Some([namespace.all_traffic(); 2]) } else { None };
    let far = far_end(namespace, index);
    let links = namespace.links();
    let Some(device) = links.device(index) else { return };
    let mut fixed = alloc::vec![0, 0];
    fixed.extend_from_slice(&device.kind.hardware().to_le_bytes());
    for word in [index, device.flags(), 0] {
        fixed.extend_from_slice(&word.to_le_bytes());
    }
    out.begin(kind, &fixed);
    out.attribute(ifla::IFNAME, device.name.c_string());
    let (least, most) = device.kind.mtu_bounds();
    for (kind, value) in [
        (ifla::TXQLEN, device.queue),
        (ifla::MTU, device.mtu),
        (ifla::MIN_MTU, least),
        (ifla::MAX_MTU, most),
        (ifla::GROUP, device.group),
        (ifla::PROMISCUITY, 0),
        (ifla::NUM_TX_QUEUES, 1),
        (ifla::NUM_RX_QUEUES, 1),
    ] {
        out.number(kind, value);
    }
    out.attribute(ifla::OPERSTATE, &[device.state().0]);
    out.attribute(ifla::LINKMODE, &[0]);
    out.attribute(ifla::CARRIER, &[u8::from(device.carrier)]);
    out.attribute(ifla::QDISC, if device.up { b"noqueue\0" } else { b"noop\0" });
    if !device.alias.is_empty() {
        out.attribute(ifla::IFALIAS, &[&device.alias[..], b"\0"].concat());
    }
    out.attribute(ifla::ADDRESS, &device.mac);
    out.attribute(ifla::BROADCAST, &device.everybody());
    if let Some((index, number)) = far {
        out.number(ifla::LINK, index);
        if let Some(number) = number {
            out.number(ifla::LINK_NETNSID, number);
        }
    }
    statistics(traffic.unwrap_or(device.traffic()), device.dropped, out);
    if let Some(name) = device.kind.name() {
        out.nest(ifla::LINKINFO, |out| out.attribute(ifla::KIND, &[name.as_bytes(), b"\0"].concat()));
    }
    out.end();
}

/// `IFLA_STATS64` and `IFLA_STATS`: what came in and what went out.
fn statistics([received, sent]: [Traffic; 2], dropped: u64, out: &mut Answer) {
    let mut counters = [0; 25];
    (counters[0], counters[1], counters[2], counters[3]) = (received.packets, sent.packets, received.bytes, sent.bytes);
    counters[7] = dropped;
    let wide: Vec<u8> = counters.iter().flat_map(|count| count.to_le_bytes()).collect();
    let narrow: Vec<u8> = counters.iter().take(24).flat_map(|count| (*count as u32).to_le_bytes()).collect();
    out.attribute(ifla::STATS64, &wide);
    out.attribute(ifla::STATS, &narrow);
}
