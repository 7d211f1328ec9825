//! `RTM_*RULE`: rules, which say what table is asked. Source: ip-rule(8).

use super::super::message::{Answer, attribute, word};
use super::{Asker, DELRULE, NEWRULE, bits, octets, parse_of};
use crate::net::link::{Name, masked};
use crate::net::route::Rule;
use crate::net::uapi::*;
use crate::{Errno, Result};
use core::net::IpAddr;

/// Bytes of `struct fib_rule_hdr`.
const HEAD: usize = 12;
/// `RTNLGRP_IPV4_RULE`, `RTNLGRP_IPV6_RULE`.
const GROUP_V4: u32 = 8;
const GROUP_V6: u32 = 19;
/// `FIB_RULE_INVERT`.
const INVERT: u32 = 2;
/// Actions: look into a table; blackhole, unreachable, prohibit.
const TO_TABLE: u8 = 1;
const REFUSALS: core::ops::RangeInclusive<u8> = 6..=8;

/// Attributes: `FRA_*`.
mod fra {
    pub const DST: u16 = 1;
    pub const SRC: u16 = 2;
    pub const IIFNAME: u16 = 3;
    pub const GOTO: u16 = 4;
    pub const PRIORITY: u16 = 6;
    pub const FWMARK: u16 = 10;
    pub const TUN_ID: u16 = 12;
    pub const SUPPRESS_PREFIXLEN: u16 = 14;
    pub const TABLE: u16 = 15;
    pub const FWMASK: u16 = 16;
    pub const OIFNAME: u16 = 17;
    pub const L3MDEV: u16 = 19;
    pub const UID_RANGE: u16 = 20;
    pub const PROTOCOL: u16 = 21;
    pub const IP_PROTO: u16 = 22;
    pub const SPORT_RANGE: u16 = 23;
    pub const DPORT_RANGE: u16 = 24;
}

fn parse(asker: &Asker<'_>) -> Result<(Rule, Option<u32>)> {
    let request = asker.request;
    let attributes = request.body.get(HEAD..).ok_or(Errno::EINVAL)?;
    let get = |kind| attribute(attributes, kind);
    let family = request.byte(0);
    if !matches!(u16::from(family), AF_INET | AF_INET6) {
        return Err(Errno::EAFNOSUPPORT);
    }
    // Nothing is asked about what comes in, about users, ports, types of service and tunnels.
    let foreign = [
        fra::IIFNAME,
        fra::GOTO,
        fra::TUN_ID,
        fra::L3MDEV,
        fra::UID_RANGE,
        fra::IP_PROTO,
        fra::SPORT_RANGE,
        fra::DPORT_RANGE,
    ];
    let suppresses = get(fra::SUPPRESS_PREFIXLEN).is_some_and(|len| word(len) != u32::MAX);
    if foreign.iter().any(|kind| get(*kind).is_some()) || suppresses || request.byte(3) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let network = |kind, prefix: u8| match get(kind) {
        _ if prefix > bits(family) => Err(Errno::EINVAL),
        None if prefix != 0 => Err(Errno::EINVAL),
        None => Ok(None),
        Some(addr) => parse_of(family, addr).map(|addr| Some((masked(addr, prefix), prefix))),
    };
    let mark = match (get(fra::FWMARK), get(fra::FWMASK)) {
        (None, None) => None,
        (mark, mask) => Some((mark.map_or(0, word), mask.map_or(u32::MAX, word))),
    };
    let rule = Rule {
        v6: family == AF_INET6 as u8,
        priority: 0,
        from: network(fra::SRC, request.byte(2))?,
        to: network(fra::DST, request.byte(1))?,
        mark,
        device: get(fra::OIFNAME).map(Name::new).transpose()?,
        action: request.byte(7),
        table: get(fra::TABLE).map_or(u32::from(request.byte(4)), word),
        protocol: get(fra::PROTOCOL).and_then(|value| value.first().copied()).unwrap_or(0),
        inverted: request.word(8) & INVERT != 0,
    };
    Ok((rule, get(fra::PRIORITY).map(word)))
}

/// `RTM_NEWRULE`, `RTM_DELRULE`.
pub(super) fn change(asker: &Asker<'_>) -> Result<()> {
    let (mut wanted, priority) = parse(asker)?;
    let done = if asker.request.kind == DELRULE {
        asker.namespace.links().routes.remove_rule(|rule| {
            rule.v6 == wanted.v6
                && priority.is_none_or(|priority| rule.priority == priority)
                && (wanted.action == 0 || rule.action == wanted.action)
                && (wanted.table == 0 || rule.table == wanted.table)
                && (wanted.from.is_none() || rule.from == wanted.from)
                && (wanted.to.is_none() || rule.to == wanted.to)
                && (wanted.mark.is_none() || rule.mark == wanted.mark)
                && (wanted.device.is_none() || rule.device == wanted.device)
        })?
    } else {
        if wanted.action == 0 {
            wanted.action = TO_TABLE;
        }
        let known = wanted.action == TO_TABLE || REFUSALS.contains(&wanted.action);
        if !known || wanted.action == TO_TABLE && wanted.table == 0 {
            return Err(if known { Errno::EINVAL } else { Errno::EOPNOTSUPP });
        }
        asker.namespace.links().routes.add_rule(wanted, priority, asker.request.excludes())?
    };
    let mut notice = Answer::notice();
    describe(asker.request.kind, &done, &mut notice);
    super::super::announce(asker.namespace, if done.v6 { GROUP_V6 } else { GROUP_V4 }, notice);
    Ok(())
}

/// `RTM_GETRULE`: all of a family, 0 = both.
pub(super) fn list(asker: &Asker<'_>, out: &mut Answer) {
    let family = u16::from(asker.request.byte(0));
    for rule in asker.namespace.links().routes.rules() {
        if family == 0 || (family == AF_INET6) == rule.v6 {
            describe(NEWRULE, rule, out);
        }
    }
}

fn describe(message: u16, rule: &Rule, out: &mut Answer) {
    let family = if rule.v6 { AF_INET6 } else { AF_INET } as u8;
    let prefix = |network: Option<(IpAddr, u8)>| network.map_or(0, |(_, prefix)| prefix);
    let short = u8::try_from(rule.table).unwrap_or(0);
    let flags = if rule.inverted { INVERT as u8 } else { 0 };
    out.begin(message, &[family, prefix(rule.to), prefix(rule.from), 0, short, 0, 0, rule.action, flags, 0, 0, 0]);
    out.number(fra::TABLE, rule.table);
    out.number(fra::SUPPRESS_PREFIXLEN, u32::MAX);
    if rule.priority != 0 {
        out.number(fra::PRIORITY, rule.priority);
    }
    for (kind, network) in [(fra::DST, rule.to), (fra::SRC, rule.from)] {
        if let Some((addr, _)) = network {
            out.attribute(kind, &octets(addr));
        }
    }
    if let Some((mark, mask)) = rule.mark {
        out.number(fra::FWMARK, mark);
        out.number(fra::FWMASK, mask);
    }
    if let Some(name) = &rule.device {
        out.attribute(fra::OIFNAME, name.c_string());
    }
    out.attribute(fra::PROTOCOL, &[rule.protocol]);
    out.end();
}
