//! `RTM_*ADDR`: addresses of devices.

use super::super::message::{Answer, attribute, word};
use super::{Asker, DELADDR, NEWADDR, bits, family_of, octets, parse_of};
use crate::net::Namespace;
use crate::net::link::{Assigned, Name, change};
use crate::net::uapi::*;
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::IpAddr;

/// Bytes of `struct ifaddrmsg`.
const HEAD: usize = 8;
/// `IFA_*`.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LABEL: u16 = 3;
const BROADCAST: u16 = 4;
const CACHEINFO: u16 = 6;
const FLAGS: u16 = 8;
/// `IFA_F_SECONDARY`, `IFA_F_PERMANENT`, `IFA_F_NOPREFIXROUTE`.
const SECONDARY: u32 = 0x1;
const PERMANENT: u32 = 0x80;
const NOPREFIXROUTE: u32 = 0x200;
/// `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`.
const GROUP_V4: u32 = 5;
const GROUP_V6: u32 = 9;

/// The address that a request describes, and its device.
fn parse(asker: &Asker<'_>) -> Result<(u32, Assigned)> {
    let request = asker.request;
    let attributes = request.body.get(HEAD..).ok_or(Errno::EINVAL)?;
    let (family, prefix, scope, index) = (request.byte(0), request.byte(1), request.byte(3), request.word(4));
    if !matches!(u16::from(family), AF_INET | AF_INET6) {
        return Err(Errno::EOPNOTSUPP);
    }
    let (local, address) = (attribute(attributes, LOCAL), attribute(attributes, ADDRESS));
    let addr = parse_of(family, local.or(address).ok_or(Errno::EINVAL)?)?;
    let peer = parse_of(family, address.or(local).ok_or(Errno::EINVAL)?)?;
    if prefix > bits(family) || addr.is_multicast() && family == AF_INET6 as u8 {
        return Err(Errno::EINVAL);
    }
    // Nothing takes an address away when its time is over.
    if attribute(attributes, CACHEINFO).and_then(|info| info.get(4..8)).is_some_and(|valid| word(valid) != u32::MAX) {
        return Err(Errno::EOPNOTSUPP);
    }
    let flags = attribute(attributes, FLAGS).map_or(u32::from(request.byte(2)), word);
    let broadcast = match attribute(attributes, BROADCAST).map(|addr| parse_of(family, addr)) {
        Some(Ok(IpAddr::V4(addr))) => Some(addr),
        Some(_) => return Err(Errno::EINVAL),
        None => None,
    };
    let label = attribute(attributes, LABEL).map_or(Name::default(), Name::label);
    let scope = match addr {
        IpAddr::V4(_) => scope,
        IpAddr::V6(ip) if ip.is_loopback() => crate::net::link::scope::HOST,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => crate::net::link::scope::LINK,
        IpAddr::V6(_) => 0,
    };
    let alone = flags & NOPREFIXROUTE != 0;
    Ok((index, Assigned { addr, prefix, peer, broadcast, scope, secondary: false, alone, label }))
}

/// `RTM_NEWADDR`, `RTM_DELADDR`.
pub(super) fn change(asker: &Asker<'_>) -> Result<()> {
    let _alone = change::alone();
    let (index, mut own) = parse(asker)?;
    let changed = {
        let mut links = asker.namespace.links();
        let device = links.device(index).ok_or(Errno::ENODEV)?;
        if asker.request.kind == DELADDR {
            let named = own.label != Name::default();
            let network = attribute(asker.request.body.get(HEAD..).unwrap_or(&[]), ADDRESS).is_some();
            links.unassign(index, |old| {
                let same = old.prefix == own.prefix && old.covers(own.peer);
                old.addr == own.addr && (!named || old.label == own.label) && (!network || same)
            })?
        } else {
            if own.label == Name::default() && own.addr.is_ipv4() {
                own.label = device.name;
            }
            let same = |old: &&Assigned| old.addr == own.addr && old.prefix == own.prefix;
            match device.addresses.iter().find(same).copied() {
                Some(old) if asker.request.replaces() => old,
                _ => {
                    links.assign(index, own)?;
                    own
                }
            }
        }
    };
    announce(asker.namespace, asker.request.kind, index, &changed);
    Ok(())
}

/// Tells the groups of addresses.
fn announce(namespace: &Namespace, kind: u16, index: u32, own: &Assigned) {
    let mut notice = Answer::notice();
    describe(kind, index, own, &mut notice);
    super::super::announce(namespace, if own.addr.is_ipv4() { GROUP_V4 } else { GROUP_V6 }, notice);
}

/// `RTM_GETADDR`: all of a family (0 = both), of one device or of all.
pub(super) fn list(asker: &Asker<'_>, out: &mut Answer) {
    let (family, wanted) = (asker.request.byte(0), asker.request.word(4));
    let links = asker.namespace.links();
    for v6 in [false, true] {
        for device in links.devices().iter().filter(|device| wanted == 0 || device.index == wanted) {
            let of = |own: &&Assigned| own.addr.is_ipv6() == v6 && (family == 0 || family_of(own.addr) == family);
            for own in device.addresses.iter().filter(of) {
                describe(NEWADDR, device.index, own, out);
            }
        }
    }
}

fn describe(kind: u16, index: u32, own: &Assigned, out: &mut Answer) {
    let flags = PERMANENT | if own.secondary { SECONDARY } else { 0 } | if own.alone { NOPREFIXROUTE } else { 0 };
    let v4 = own.addr.is_ipv4();
    // ::1 is made without a route, which nobody sees.
    let flags = if !v4 && own.addr.is_loopback() { PERMANENT } else { flags };
    let mut fixed = alloc::vec![family_of(own.addr), own.prefix, flags as u8, own.scope];
    fixed.extend_from_slice(&index.to_le_bytes());
    out.begin(kind, &fixed);
    if v4 {
        out.attribute(ADDRESS, &octets(own.peer));
        out.attribute(LOCAL, &octets(own.addr));
        if let Some(broadcast) = own.broadcast {
            out.attribute(BROADCAST, &broadcast.octets());
        }
        out.attribute(LABEL, own.label.c_string());
    } else {
        if own.peer != own.addr {
            out.attribute(LOCAL, &octets(own.addr));
        }
        out.attribute(ADDRESS, &octets(own.peer));
    }
    out.number(FLAGS, flags);
    let for_ever: Vec<u8> = [u32::MAX, u32::MAX, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    out.attribute(CACHEINFO, &for_ever);
    out.end();
}
