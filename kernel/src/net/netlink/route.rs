//! NETLINK_ROUTE: the device, its addresses, and the routes that follow from them. Source: rtnetlink(7).

use super::message::{Answer, Request};
use crate::net::Namespace;
use crate::net::interface::{Assigned, HARDWARE, IFF_UP, INDEX, Interface, Traffic};
use crate::net::uapi::*;
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

/// `RTM_*`.
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const GETNEIGH: u16 = 30;
const NEWRULE: u16 = 32;
const GETRULE: u16 = 34;
const GETQDISC: u16 = 38;
/// Bytes of `struct ifinfomsg`, `ifaddrmsg`, `rtmsg`.
const LINK: usize = 16;
const ADDR: usize = 8;
const ROUTE: usize = 12;
/// `IFLA_IFNAME`, `IFA_ADDRESS`, `IFA_LOCAL`, `RTA_DST`, `RTA_TABLE`.
const IFNAME: u16 = 3;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const DST: u16 = 1;
const TABLE: u16 = 15;
/// Tables of routes.
const TABLE_LOCAL: u32 = 255;
const TABLE_MAIN: u32 = 254;
const TABLE_DEFAULT: u32 = 253;
const SCOPE_HOST: u8 = 254;
/// `RTM_F_CLONED`: found for one address.
const CLONED: u32 = 0x200;
/// Groups that are told (`RTNLGRP_*`).
const GROUP_LINK: u32 = 1;
const GROUP_V4_ADDRESSES: u32 = 5;
const GROUP_V6_ADDRESSES: u32 = 9;

/// Answers a request.
///
/// # Errors
/// `EOPNOTSUPP`, `EPERM`, `ENODEV`, `EINVAL`, …
pub fn answer(task: &Arc<Task>, namespace: &Namespace, request: &Request<'_>, out: &mut Answer) -> Result<()> {
    if matches!(request.kind, NEWLINK | DELLINK | SETLINK | NEWADDR | DELADDR) {
        if !task.net_capable(cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        change(namespace, request)?;
        announce(namespace, request);
        return Ok(());
    }
    match request.kind {
        GETLINK => links(namespace, request, out),
        GETADDR => {
            for assigned in selected(namespace, request.byte(0)) {
                address(NEWADDR, assigned, out);
            }
            Ok(())
        }
        GETROUTE if request.dumps() => {
            let table = request.attribute(ROUTE, TABLE).map_or(0, word);
            if matches!(table, 0 | TABLE_LOCAL) && matches!(request.byte(4), 0 | 255) {
                for assigned in selected(namespace, request.byte(0)) {
                    route(assigned.addr, assigned, 0, out);
                }
            }
            Ok(())
        }
        GETROUTE => {
            let to = request.attribute(ROUTE, DST).and_then(parse_ip).ok_or(Errno::EINVAL)?;
            let source = namespace.interface.lock().source(to)?;
            let prefix = if to.is_ipv4() { 32 } else { 128 };
            route(source, Assigned { addr: to, prefix }, CLONED, out);
            Ok(())
        }
        GETRULE => {
            rules(request.byte(0), out);
            Ok(())
        }
        // There is nobody to resolve, and nothing to schedule.
        GETNEIGH | GETQDISC if request.dumps() => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET as u8 } else { AF_INET6 as u8 }
}

/// The addresses of a family; 0 = all.
fn selected(namespace: &Namespace, wanted: u8) -> Vec<Assigned> {
    let all = namespace.interface.lock().addresses.clone();
    all.into_iter().filter(|own| wanted == 0 || family(own.addr) == wanted).collect()
}

/// The device that a request about links names.
fn names_device(request: &Request<'_>) -> Result<()> {
    let index = request.word(4);
    let name = request.attribute(LINK, IFNAME).map(|name| name.split(|&byte| byte == 0).next().unwrap_or(&[]));
    match (index, name) {
        (INDEX, _) | (0, Some(b"lo")) => Ok(()),
        (0, None) => Err(Errno::EINVAL),
        _ => Err(Errno::ENODEV),
    }
}

fn links(namespace: &Namespace, request: &Request<'_>, out: &mut Answer) -> Result<()> {
    if !request.dumps() {
        names_device(request)?;
    }
    let traffic = namespace.all_traffic();
    link(&namespace.interface.lock(), traffic, out);
    Ok(())
}

/// The device.
fn link(device: &Interface, traffic: Traffic, out: &mut Answer) {
    let mut fixed = alloc::vec![0, 0];
    fixed.extend_from_slice(&HARDWARE.to_le_bytes());
    for word in [INDEX, device.flags(), 0] {
        fixed.extend_from_slice(&word.to_le_bytes());
    }
    out.begin(NEWLINK, &fixed);
    out.attribute(IFNAME, b"lo\0");
    // TXQLEN, OPERSTATE, LINKMODE, MTU, MIN_MTU, MAX_MTU, GROUP, PROMISCUITY, queues.
    out.number(13, 1000);
    out.attribute(16, &[0]);
    out.attribute(17, &[0]);
    out.number(4, device.mtu);
    for (kind, value) in [(50, 0), (51, 0), (27, 0), (30, 0), (31, 1), (32, 1)] {
        out.number(kind, value);
    }
    // CARRIER, QDISC, the hardware addresses.
    out.attribute(33, &[1]);
    out.attribute(6, if device.up { b"noqueue\0" } else { b"noop\0\0\0\0" });
    out.attribute(1, &[0; 6]);
    out.attribute(2, &[0; 6]);
    statistics(traffic, out);
    out.end();
}

/// Tells the group of links what the device has become.
pub fn announce_link(namespace: &Namespace) {
    let mut notice = Answer::notice();
    let traffic = namespace.all_traffic();
    link(&namespace.interface.lock(), traffic, &mut notice);
    super::announce(namespace, GROUP_LINK, notice);
}

/// Tells whoever listens what a request has changed.
fn announce(namespace: &Namespace, request: &Request<'_>) {
    if !matches!(request.kind, NEWADDR | DELADDR) {
        return announce_link(namespace);
    }
    let value = request.attribute(ADDR, LOCAL).or_else(|| request.attribute(ADDR, ADDRESS));
    let Some(addr) = value.and_then(parse_ip) else { return };
    let mut notice = Answer::notice();
    address(request.kind, Assigned { addr, prefix: request.byte(1) }, &mut notice);
    super::announce(namespace, if addr.is_ipv4() { GROUP_V4_ADDRESSES } else { GROUP_V6_ADDRESSES }, notice);
}

/// `IFLA_STATS64`: what is sent is received.
fn statistics(traffic: Traffic, out: &mut Answer) {
    let mut counters = [0; 25];
    (counters[0], counters[1], counters[2], counters[3]) =
        (traffic.packets, traffic.packets, traffic.bytes, traffic.bytes);
    let wide: Vec<u8> = counters.iter().flat_map(|count| count.to_le_bytes()).collect();
    let narrow: Vec<u8> = counters.iter().take(24).flat_map(|count| (*count as u32).to_le_bytes()).collect();
    out.attribute(23, &wide);
    out.attribute(7, &narrow);
}

fn address(kind: u16, own: Assigned, out: &mut Answer) {
    /// `IFA_F_PERMANENT`.
    const PERMANENT: u8 = 0x80;
    let octets = octets(own.addr);
    let mut fixed = alloc::vec![family(own.addr), own.prefix, PERMANENT, SCOPE_HOST];
    fixed.extend_from_slice(&INDEX.to_le_bytes());
    out.begin(kind, &fixed);
    out.attribute(ADDRESS, &octets);
    if own.addr.is_ipv4() {
        out.attribute(LOCAL, &octets);
        out.attribute(3, b"lo\0");
    }
    out.number(8, u32::from(PERMANENT));
    let for_ever: Vec<u8> = [u32::MAX, u32::MAX, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    out.attribute(6, &for_ever);
    out.end();
}

/// The local route to the network of `to`, from `source`. `flags`: `RTM_F_*`.
fn route(source: IpAddr, to: Assigned, flags: u32, out: &mut Answer) {
    // Protocol "kernel", type "local".
    let mut fixed = alloc::vec![family(to.addr), to.prefix, 0, 0, TABLE_LOCAL as u8, 2, SCOPE_HOST, 2];
    fixed.extend_from_slice(&flags.to_le_bytes());
    let network = match to.addr {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(to.prefix)).unwrap_or(0);
            (ip.to_bits() & mask).to_be_bytes().to_vec()
        }
        ip => octets(ip),
    };
    out.begin(NEWROUTE, &fixed);
    out.number(TABLE, TABLE_LOCAL);
    out.attribute(DST, &network);
    out.attribute(7, &octets(source));
    out.number(4, INDEX);
    out.end();
}

fn rules(wanted: u8, out: &mut Answer) {
    for (own, tables) in [
        (AF_INET as u8, &[(0, TABLE_LOCAL), (32_766, TABLE_MAIN), (32_767, TABLE_DEFAULT)][..]),
        (AF_INET6 as u8, &[(0, TABLE_LOCAL), (32_766, TABLE_MAIN)]),
    ] {
        for (priority, table) in tables.iter().filter(|_| wanted == 0 || wanted == own) {
            out.begin(NEWRULE, &[own, 0, 0, 0, *table as u8, 0, 0, 1, 0, 0, 0, 0]);
            out.number(TABLE, *table);
            out.number(14, u32::MAX);
            if *priority != 0 {
                out.number(6, *priority);
            }
            out.attribute(21, &[2]);
            out.end();
        }
    }
}

fn change(namespace: &Namespace, request: &Request<'_>) -> Result<()> {
    match request.kind {
        DELLINK => names_device(request).and(Err(Errno::EOPNOTSUPP)),
        NEWLINK | SETLINK => {
            names_device(request).map_err(|error| match error {
                // Making a device.
                Errno::ENODEV if request.kind == NEWLINK => Errno::EOPNOTSUPP,
                error => error,
            })?;
            let (flags, mask) = (request.word(8), request.word(12));
            if mask & IFF_UP != 0 || flags & IFF_UP != 0 {
                namespace.interface.lock().set_up(flags & IFF_UP != 0);
            }
            if let Some(mtu) = request.attribute(LINK, 4) {
                namespace.interface.lock().mtu = word(mtu).max(68);
            }
            Ok(())
        }
        NEWADDR | DELADDR => {
            if request.word(4) != INDEX {
                return Err(Errno::ENODEV);
            }
            let value = request.attribute(ADDR, LOCAL).or_else(|| request.attribute(ADDR, ADDRESS));
            let addr = value.and_then(parse_ip).ok_or(Errno::EINVAL)?;
            let prefix = request.byte(1);
            if prefix > if addr.is_ipv4() { 32 } else { 128 } {
                return Err(Errno::EINVAL);
            }
            let mut device = namespace.interface.lock();
            match request.kind {
                NEWADDR if request.replaces() && device.addresses.contains(&Assigned { addr, prefix }) => Ok(()),
                NEWADDR => device.assign(Assigned { addr, prefix }),
                _ => device.remove(addr),
            }
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}
