//! NETLINK_ROUTE: devices ([`link`]), their addresses ([`address`]), routes ([`table`]), rules ([`rule`]) and namespaces
//! ([`namespaces`]). Source: rtnetlink(7). Each module answers a request, changes what it asks to be changed, and tells the groups.

mod address;
mod link;
mod namespaces;
mod rule;
mod table;

pub use link::{announce_link, announce_link_gone};

use super::message::{Answer, Request};
use crate::net::Namespace;
use crate::net::uapi::*;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

/// `RTM_*`: the first of each four makes, then come removing, asking and setting.
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const GETNEIGH: u16 = 30;
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
const GETRULE: u16 = 34;
const GETQDISC: u16 = 38;
const GETNSID: u16 = 90;

/// Who asks, and about what.
struct Asker<'a> {
    task: &'a Arc<Task>,
    namespace: &'a Arc<Namespace>,
    request: &'a Request<'a>,
}

/// Answers a request.
///
/// # Errors
/// `EOPNOTSUPP`, `EPERM`, `ENODEV`, `EINVAL`, …
pub fn answer(task: &Arc<Task>, namespace: &Arc<Namespace>, request: &Request<'_>, out: &mut Answer) -> Result<()> {
    let asker = Asker { task, namespace, request };
    // Everything but questions is for administrators.
    if !request.asks() && !namespace.is_administered_by(task) {
        return Err(Errno::EPERM);
    }
    // Nothing is removed in bulk (`NLM_F_BULK`).
    if request.kind % 4 == 1 && request.excludes() {
        return Err(Errno::EOPNOTSUPP);
    }
    match request.kind {
        NEWLINK => link::make_or_set(&asker),
        SETLINK => link::set(&asker),
        DELLINK => link::remove(&asker),
        GETLINK => link::list(&asker, out),
        NEWADDR | DELADDR => address::change(&asker),
        GETADDR => {
            address::list(&asker, out);
            Ok(())
        }
        NEWROUTE | DELROUTE => table::change(&asker),
        GETROUTE if request.dumps() => {
            table::list(&asker, out);
            Ok(())
        }
        GETROUTE => table::look_up(&asker, out),
        NEWRULE | DELRULE => rule::change(&asker),
        GETRULE => {
            rule::list(&asker, out);
            Ok(())
        }
        GETNSID => namespaces::number(&asker, out),
        // Nobody has to be asked for, and there is nothing to schedule.
        GETNEIGH | GETQDISC if request.dumps() => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

/// An address of the family that the request's first byte says.
fn parse_of(family: u8, bytes: &[u8]) -> Result<IpAddr> {
    let addr = parse_ip(bytes).ok_or(Errno::EINVAL)?;
    if family_of(addr) == family { Ok(addr) } else { Err(Errno::EINVAL) }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET as u8 } else { AF_INET6 as u8 }
}

/// Bits of an address of the family.
fn bits(family: u8) -> u8 {
    if family == AF_INET as u8 { 32 } else { 128 }
}

/// No address, of the family.
fn nowhere(family: u8) -> IpAddr {
    crate::net::inet::addr::none(u16::from(family)).ip()
}
