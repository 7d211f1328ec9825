//! The way of a packet: out of its namespace by a device, through others that forward, to the one that has its address.

use super::super::link::{Kind, LOOPBACK, Links};
use super::super::namespace::Namespace;
use super::super::sysctl;
use super::{Route, kind};
use crate::{Errno, Result};
use alloc::sync::{Arc, Weak};
use core::net::{IpAddr, Ipv4Addr};

/// Most devices on the way.
const HOPS_MAX: u8 = 32;

/// What is asked: where a packet goes.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    pub to: IpAddr,
    /// The address that it comes from, if that is settled.
    pub from: Option<IpAddr>,
    /// The device that it must leave by; 0 = any.
    pub device: u32,
    pub mark: u32,
}

impl Query {
    /// To an address, no matter how.
    pub fn to(to: IpAddr) -> Query {
        Query { to, from: None, device: 0, mark: 0 }
    }
}

/// Where a packet ends.
pub enum End {
    /// In the namespace that it comes from.
    Here,
    /// In another one, where it comes in by a device, after as many hops.
    There(Far),
    /// Nowhere: it is lost, and its sender may hear that nobody answers.
    Lost(Option<Errno>),
}

/// Another namespace, and the device by which something comes into it.
pub struct Far {
    pub namespace: Arc<Namespace>,
    pub device: u32,
    pub hops: u8,
}

/// See the module.
pub struct Way {
    /// The address that it comes from, if the sender has none; the device by which it leaves.
    pub source: IpAddr,
    pub device: u32,
    /// Who takes it on the device's link, if that is not whom it is for.
    pub gateway: Option<IpAddr>,
    pub end: End,
}

/// What a namespace does with a packet.
struct Step {
    kind: u8,
    device: u32,
    /// Who takes it on the link.
    next: IpAddr,
    source: IpAddr,
    /// The other end of the device's link, if it has one.
    peer: Option<(Weak<Namespace>, u32)>,
    /// Whether the device carries packets.
    runs: bool,
}

/// The way from `namespace`.
///
/// # Errors
/// `ENETUNREACH`; `EHOSTUNREACH`, `EACCES`, `EINVAL` where a route says so.
pub fn find(namespace: &Namespace, query: &Query) -> Result<Way> {
    let step = step(&namespace.links(), query)?;
    let (source, device) = (step.source, step.device);
    let gateway = (step.next != query.to).then_some(step.next);
    if step.kind == kind::LOCAL {
        let end = if step.runs { End::Here } else { End::Lost(None) };
        return Ok(Way { source, device: LOOPBACK, gateway: None, end });
    }
    if device == LOOPBACK {
        return Ok(Way { source, device, gateway, end: if step.runs { End::Here } else { End::Lost(None) } });
    }
    Ok(Way { source, device, gateway, end: follow(step, query.to) })
}

/// The one step of a way that lies in the namespace of `links`.
fn step(links: &Links, query: &Query) -> Result<Step> {
    let (device, next, source, kind) = match group_device(links, query) {
        Some(device) => (device, query.to, None, kind::MULTICAST),
        None => match lookup(links, query) {
            Ok(Route { device, gateway, source, kind, .. }) => (device, gateway.unwrap_or(query.to), source, kind),
            // Who names a device means that the address is on its link.
            Err(Errno::ENETUNREACH) if query.device != 0 && query.to.is_ipv4() => {
                (query.device, query.to, None, kind::UNICAST)
            }
            Err(error) => return Err(error),
        },
    };
    let runs = |device: u32| links.device(device).is_some_and(|device| device.is_running());
    if kind == kind::LOCAL {
        let source = source.unwrap_or(query.to);
        return Ok(Step { kind, device, next, source, peer: None, runs: runs(LOOPBACK) });
    }
    let source = source.or_else(|| links.source(device, next)).or(query.from).ok_or(Errno::ENETUNREACH)?;
    let peer = links.device(device).and_then(|device| match &device.kind {
        Kind::Veth { peer, index } => Some((peer.clone(), *index)),
        _ => None,
    });
    Ok(Step { kind, device, next, source, peer, runs: runs(device) })
}

fn lookup(links: &Links, query: &Query) -> Result<Route> {
    let bound = links.device(query.device).map(|device| device.name);
    let usable = |route: &Route| {
        let named = query.device == 0 || route.device == query.device;
        named && (route.kind == kind::LOCAL || links.device(route.device).is_none_or(|device| device.up))
    };
    links.routes.lookup(query, bound, usable).copied()
}

/// The device for a group or for everybody, where no route needs to say it.
fn group_device(links: &Links, query: &Query) -> Option<u32> {
    let everybody = query.to == IpAddr::V4(Ipv4Addr::BROADCAST);
    if !everybody && !query.to.is_multicast() {
        return None;
    }
    match query.device {
        0 => links.holder(query.from?),
        device => Some(device),
    }
}

/// What becomes of a packet to `to` that has been put on a link.
fn follow(mut step: Step, to: IpAddr) -> End {
    for hops in 0..HOPS_MAX {
        let Some((peer, index)) = step.peer.take().filter(|_| step.runs) else { return End::Lost(None) };
        let Some(namespace) = peer.upgrade() else { return End::Lost(None) };
        let far = Far { namespace, device: index, hops };
        let forwards = far.namespace.settings.get(match to {
            IpAddr::V4(_) => sysctl::FORWARD,
            IpAddr::V6(_) => sysctl::FORWARD_V6,
        }) != 0;
        {
            let links = far.namespace.links();
            let groups = matches!(step.kind, kind::BROADCAST | kind::MULTICAST);
            if groups || links.is_own(to) {
                drop(links);
                return End::There(far);
            }
            // Nobody but who has the address answers for it.
            if !links.is_own(step.next) {
                return End::Lost(Some(Errno::EHOSTUNREACH));
            }
            if !forwards {
                return End::Lost(None);
            }
            match self::step(&links, &Query::to(to)) {
                Ok(next) if next.kind == kind::UNICAST => step = next,
                Ok(_) => return End::Lost(None),
                Err(error) => return End::Lost(Some(error)),
            }
        }
    }
    End::Lost(None)
}
