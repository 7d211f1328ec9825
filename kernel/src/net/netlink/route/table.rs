//! `RTM_*ROUTE`: tables of routes.

use super::super::message::{Answer, attribute, word};
use super::{Asker, DELROUTE, NEWROUTE, bits, family_of, nowhere, octets, parse_of};
use crate::net::link::{change, masked, scope};
use crate::net::route::{self, End, Query, Route, TABLE_MAIN, kind};
use crate::net::uapi::*;
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::IpAddr;

/// Bytes of `struct rtmsg`.
const HEAD: usize = 12;
/// `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_ROUTE`.
const GROUP_V4: u32 = 7;
const GROUP_V6: u32 = 11;
/// `RTM_F_CLONED`: found for one address.
const CLONED: u32 = 0x200;
/// `RTCF_LOCAL`.
const LOCAL: u32 = 0x8000_0000;
/// Metric of routes of IPv6 that have none.
const METRIC_V6: u32 = 1024;

/// Attributes: `RTA_*`.
mod rta {
    pub const DST: u16 = 1;
    pub const SRC: u16 = 2;
    pub const OIF: u16 = 4;
    pub const GATEWAY: u16 = 5;
    pub const PRIORITY: u16 = 6;
    pub const PREFSRC: u16 = 7;
    pub const METRICS: u16 = 8;
    pub const MULTIPATH: u16 = 9;
    pub const CACHEINFO: u16 = 12;
    pub const TABLE: u16 = 15;
    pub const MARK: u16 = 16;
    pub const VIA: u16 = 18;
    pub const PREF: u16 = 20;
    pub const ENCAP: u16 = 22;
    pub const UID: u16 = 25;
    pub const NH_ID: u16 = 30;
}

/// A request's route, and the metric if it names one.
struct Wanted {
    route: Route,
    metric: Option<u32>,
}

fn parse(asker: &Asker<'_>) -> Result<Wanted> {
    let request = asker.request;
    let attributes = request.body.get(HEAD..).ok_or(Errno::EINVAL)?;
    let get = |kind| attribute(attributes, kind);
    let (family, prefix) = (request.byte(0), request.byte(1));
    if !matches!(u16::from(family), AF_INET | AF_INET6) {
        return Err(Errno::EOPNOTSUPP);
    }
    // Several ways, tunnels, limits of one route, sources of IPv6: there are none of these.
    let foreign = [rta::METRICS, rta::MULTIPATH, rta::VIA, rta::ENCAP, rta::NH_ID];
    if foreign.iter().any(|kind| get(*kind).is_some()) || request.byte(2) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let address = |kind| get(kind).map(|addr| parse_of(family, addr)).transpose();
    let to = address(rta::DST)?.unwrap_or(nowhere(family));
    if prefix > bits(family) || masked(to, prefix) != to {
        return Err(Errno::EINVAL);
    }
    let metric = get(rta::PRIORITY).map(word);
    let v6 = to.is_ipv6();
    let table = get(rta::TABLE).map_or(u32::from(request.byte(4)), word);
    let unspecified = |addr: &IpAddr| addr.is_unspecified();
    let route = Route {
        table: if table == 0 { TABLE_MAIN } else { table },
        to,
        prefix,
        tos: request.byte(3),
        metric: metric.filter(|metric| !v6 || *metric != 0).unwrap_or(if v6 { METRIC_V6 } else { 0 }),
        kind: request.byte(7),
        protocol: request.byte(5),
        scope: if v6 { scope::UNIVERSE } else { request.byte(6) },
        device: get(rta::OIF).map_or(0, word),
        gateway: address(rta::GATEWAY)?.filter(|addr| !unspecified(addr)),
        source: address(rta::PREFSRC)?,
        flags: request.word(8) & route::ONLINK,
    };
    Ok(Wanted { route, metric })
}

/// `RTM_NEWROUTE`, `RTM_DELROUTE`.
pub(super) fn change(asker: &Asker<'_>) -> Result<()> {
    let _alone = change::alone();
    let wanted = parse(asker)?;
    let done = if asker.request.kind == DELROUTE { remove(asker, &wanted)? } else { add(asker, wanted.route)? };
    let mut notice = Answer::notice();
    describe(asker.request.kind, &done, 0, &mut notice);
    let group = if done.to.is_ipv4() { GROUP_V4 } else { GROUP_V6 };
    super::super::announce(asker.namespace, group, notice);
    Ok(())
}

fn add(asker: &Asker<'_>, mut new: Route) -> Result<Route> {
    let request = asker.request;
    if !(kind::UNICAST..=kind::THROW).contains(&new.kind) {
        return Err(Errno::EINVAL);
    }
    let mut links = asker.namespace.links();
    links.complete(&mut new)?;
    let first = links.routes.equal(&new);
    let same = links.routes.routes().contains(&new);
    match first {
        Some(_) if request.excludes() => return Err(Errno::EEXIST),
        Some(at) if request.replaces() => {
            if same && links.routes.routes().get(at) != Some(&new) {
                return Err(Errno::EEXIST);
            }
            links.routes.replace(at, new);
            return Ok(new);
        }
        None if !request.creates() => return Err(Errno::ENOENT),
        _ => {}
    }
    // In IPv6 another way to the same network is one of several, which there are not.
    if new.to.is_ipv6() && first.is_some() && !request.appends() {
        return Err(Errno::EEXIST);
    }
    links.routes.add(new, !request.appends())?;
    Ok(new)
}

fn remove(asker: &Asker<'_>, wanted: &Wanted) -> Result<Route> {
    let (like, metric) = (&wanted.route, wanted.metric);
    asker.namespace.links().routes.remove(|route| {
        route.table == like.table
            && (route.to, route.prefix) == (like.to, like.prefix)
            && (like.tos == 0 || route.tos == like.tos)
            && (like.kind == 0 || route.kind == like.kind)
            && (like.protocol == 0 || route.protocol == like.protocol)
            && (like.scope == scope::NOWHERE || like.to.is_ipv6() || route.scope == like.scope)
            && metric.is_none_or(|metric| route.metric == metric)
            && (like.device == 0 || route.device == like.device)
            && (like.gateway.is_none() || route.gateway == like.gateway)
            && (like.source.is_none() || route.source == like.source)
    })
}

/// `RTM_GETROUTE` of all: those of a family (0 = both), of a table, of a device, of a protocol.
pub(super) fn list(asker: &Asker<'_>, out: &mut Answer) {
    let request = asker.request;
    let number = |kind| request.attribute(HEAD, kind).map_or(0, word);
    let (table, device) = (number(rta::TABLE).max(u32::from(request.byte(4))), number(rta::OIF));
    // Who says no more than the family means all.
    let (protocol, of_kind) = (request.byte(5), request.byte(7));
    let links = asker.namespace.links();
    for route in links.routes.routes() {
        let fits = (request.byte(0) == 0 || family_of(route.to) == request.byte(0))
            && (table == 0 || table == route.table)
            && (device == 0 || device == route.device)
            && (protocol == 0 || protocol == route.protocol)
            && (of_kind == 0 || of_kind == route.kind);
        if fits {
            describe(NEWROUTE, route, 0, out);
        }
    }
}

/// `RTM_GETROUTE` of one address: the way there.
pub(super) fn look_up(asker: &Asker<'_>, out: &mut Answer) -> Result<()> {
    let family = asker.request.byte(0);
    let get = |kind| asker.request.attribute(HEAD, kind);
    let to = parse_of(family, get(rta::DST).ok_or(Errno::EINVAL)?)?;
    let from = get(rta::SRC).map(|addr| parse_of(family, addr)).transpose()?;
    let query = Query { from, device: get(rta::OIF).map_or(0, word), mark: get(rta::MARK).map_or(0, word), to };
    let way = route::find(asker.namespace, &query)?;
    let is_here = matches!(way.end, End::Here) || asker.namespace.links().is_own(to);
    let kind = if is_here { kind::LOCAL } else { kind::UNICAST };
    let route = Route {
        table: TABLE_MAIN,
        protocol: 0,
        scope: scope::UNIVERSE,
        gateway: way.gateway,
        source: Some(from.unwrap_or(way.source)),
        metric: 0,
        ..Route::own(kind, (to, bits(family)), way.device)
    };
    describe(NEWROUTE, &route, CLONED | if is_here { LOCAL } else { 0 }, out);
    Ok(())
}

/// A route. `flags`: `RTM_F_*`.
fn describe(message: u16, route: &Route, flags: u32, out: &mut Answer) {
    let (family, v6) = (family_of(route.to), route.to.is_ipv6());
    let short = u8::try_from(route.table).unwrap_or(0);
    let mut fixed = alloc::vec![family, route.prefix, 0, route.tos, short, route.protocol, route.scope, route.kind];
    fixed.extend_from_slice(&(flags | route.flags).to_le_bytes());
    out.begin(message, &fixed);
    out.number(rta::TABLE, route.table);
    if route.prefix > 0 {
        out.attribute(rta::DST, &octets(route.to));
    }
    if route.metric != 0 || v6 {
        out.number(rta::PRIORITY, route.metric);
    }
    if let Some(gateway) = route.gateway {
        out.attribute(rta::GATEWAY, &octets(gateway));
    }
    if let Some(source) = route.source {
        out.attribute(rta::PREFSRC, &octets(source));
    }
    if route.device != 0 {
        out.number(rta::OIF, route.device);
    }
    if flags & CLONED != 0 {
        out.number(rta::UID, 0);
    }
    if v6 || flags & CLONED != 0 {
        let unused: Vec<u8> = alloc::vec![0; 32];
        out.attribute(rta::CACHEINFO, &unused);
    }
    if v6 {
        out.attribute(rta::PREF, &[0]);
    }
    out.end();
}
