//! Routes and rules of a network namespace, and what they say about an address. Sources: rtnetlink(7), ip-route(8), ip-rule(8).
//!
//! [`Routes`] is part of [`super::link::Links`], which puts in what follows from addresses; [`way`] goes from one namespace to the next. Lists are
//! short and are searched whole.

pub mod way;

pub use way::{End, Far, Query, Way, find};

use super::link::{contains, scope};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::IpAddr;

/// Tables (`RT_TABLE_*`).
pub const TABLE_DEFAULT: u32 = 253;
pub const TABLE_MAIN: u32 = 254;
pub const TABLE_LOCAL: u32 = 255;
/// Who made a route (`RTPROT_*`).
pub const KERNEL: u8 = 2;
/// `RTNH_F_ONLINK`.
pub const ONLINK: u32 = 4;
/// Most routes, and rules, of a namespace.
const ROUTES_MAX: usize = 1024;
const RULES_MAX: usize = 256;

/// Types of routes (`RTN_*`).
pub mod kind {
    pub const UNICAST: u8 = 1;
    pub const LOCAL: u8 = 2;
    pub const BROADCAST: u8 = 3;
    pub const MULTICAST: u8 = 5;
    pub const BLACKHOLE: u8 = 6;
    pub const UNREACHABLE: u8 = 7;
    pub const PROHIBIT: u8 = 8;
    pub const THROW: u8 = 9;
}

/// Where what goes to a network goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub table: u32,
    pub to: IpAddr,
    pub prefix: u8,
    pub tos: u8,
    pub metric: u32,
    pub kind: u8,
    pub protocol: u8,
    pub scope: u8,
    /// 0: of a kind that needs none.
    pub device: u32,
    pub gateway: Option<IpAddr>,
    /// Address that packets come from, unless the socket has one.
    pub source: Option<IpAddr>,
    pub flags: u32,
}

impl Route {
    /// One of the kernel's, that follows from an address of `device`.
    pub fn own(kind: u8, (to, prefix): (IpAddr, u8), device: u32) -> Route {
        let table = if kind == kind::UNICAST { TABLE_MAIN } else { TABLE_LOCAL };
        let scope = match kind {
            kind::LOCAL => scope::HOST,
            _ => scope::LINK,
        };
        let (v6, local) = (to.is_ipv6(), kind == kind::LOCAL);
        let metric = if v6 && !local { 256 } else { 0 };
        Route {
            table,
            to,
            prefix,
            tos: 0,
            metric,
            kind,
            protocol: KERNEL,
            scope: if v6 { scope::UNIVERSE } else { scope },
            device,
            gateway: None,
            source: None,
            flags: 0,
        }
    }

    /// The order in which they are listed, and among which they are looked up.
    fn key(&self) -> (bool, u32, IpAddr, u8, u32) {
        (self.to.is_ipv6(), self.table, self.to, self.prefix, self.metric)
    }

    /// Whether it goes through a device.
    pub fn needs_device(&self) -> bool {
        matches!(self.kind, kind::UNICAST | kind::LOCAL | kind::BROADCAST | kind::MULTICAST | 4)
    }
}

/// Which table is asked about what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub v6: bool,
    pub priority: u32,
    pub from: Option<(IpAddr, u8)>,
    pub to: Option<(IpAddr, u8)>,
    /// Mark of the socket, and its bits that count.
    pub mark: Option<(u32, u32)>,
    /// Device that the socket is bound to; by name, which may be none's yet.
    pub device: Option<super::link::Name>,
    /// `FR_ACT_*`: 1 = look into `table`; blackhole, unreachable, prohibit as with routes.
    pub action: u8,
    pub table: u32,
    pub protocol: u8,
    /// `FIB_RULE_INVERT`.
    pub inverted: bool,
}

/// Those of a namespace.
pub struct Routes {
    routes: Vec<Route>,
    rules: Vec<Rule>,
}

impl Routes {
    /// No routes, and the rules that every namespace begins with.
    pub fn initial() -> Routes {
        let rule = |v6, priority, table| Rule {
            v6,
            priority,
            from: None,
            to: None,
            mark: None,
            device: None,
            action: 1,
            table,
            protocol: KERNEL,
            inverted: false,
        };
        let rules = alloc::vec![
            rule(false, 0, TABLE_LOCAL),
            rule(false, 32_766, TABLE_MAIN),
            rule(false, 32_767, TABLE_DEFAULT),
            rule(true, 0, TABLE_LOCAL),
            rule(true, 32_766, TABLE_MAIN),
        ];
        Routes { routes: Vec::new(), rules }
    }

    /// All routes.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// All rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Makes room for more routes, so that adding them cannot fail.
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub fn reserve(&mut self, more: usize) -> Result<()> {
        if self.routes.len() + more > ROUTES_MAX || self.routes.try_reserve(more).is_err() {
            return Err(Errno::ENOBUFS);
        }
        Ok(())
    }

    /// Adds a route behind its equals, or `first` of them.
    ///
    /// # Errors
    /// `EEXIST`, `ENOBUFS`.
    pub fn add(&mut self, new: Route, first: bool) -> Result<()> {
        if self.routes.contains(&new) {
            return Err(Errno::EEXIST);
        }
        self.reserve(1)?;
        let at = self.routes.partition_point(|old| if first { old.key() < new.key() } else { old.key() <= new.key() });
        self.routes.insert(at, new);
        Ok(())
    }

    /// The place of the first route to the same network, of the same metric and type of service.
    pub fn equal(&self, of: &Route) -> Option<usize> {
        self.routes.iter().position(|old| old.key() == of.key() && old.tos == of.tos)
    }

    /// Puts a route in the place of another one.
    pub fn replace(&mut self, at: usize, new: Route) {
        if let Some(old) = self.routes.get_mut(at) {
            *old = new;
        }
    }

    /// Takes the first route away that fits.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn remove(&mut self, fits: impl Fn(&Route) -> bool) -> Result<Route> {
        let at = self.routes.iter().position(fits).ok_or(Errno::ESRCH)?;
        Ok(self.routes.remove(at))
    }

    /// Keeps those routes only that fit.
    pub fn retain(&mut self, fits: impl Fn(&Route) -> bool) {
        self.routes.retain(fits);
    }

    /// Adds a rule behind those of its priority; without one, before all but the first.
    ///
    /// # Errors
    /// `EEXIST`, `ENOBUFS`.
    pub fn add_rule(&mut self, mut new: Rule, priority: Option<u32>, exclusive: bool) -> Result<Rule> {
        let second = || self.rules.iter().filter(|rule| rule.v6 == new.v6).nth(1).map_or(0, |rule| rule.priority);
        new.priority = priority.unwrap_or_else(|| second().saturating_sub(1));
        if exclusive && self.rules.contains(&new) {
            return Err(Errno::EEXIST);
        }
        if self.rules.len() >= RULES_MAX || self.rules.try_reserve(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        let at = self.rules.partition_point(|old| (old.v6, old.priority) <= (new.v6, new.priority));
        self.rules.insert(at, new);
        Ok(new)
    }

    /// Takes the first rule away that fits.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn remove_rule(&mut self, fits: impl Fn(&Rule) -> bool) -> Result<Rule> {
        let at = self.rules.iter().position(fits).ok_or(Errno::ENOENT)?;
        Ok(self.rules.remove(at))
    }

    /// The route in `table` whose network is the smallest around `to`; among equals the one of least metric, which was there first.
    pub fn search(&self, table: u32, to: IpAddr, usable: impl Fn(&Route) -> bool) -> Option<&Route> {
        let fits = |route: &&Route| route.table == table && contains(route.to, route.prefix, to) && usable(route);
        let mut best: Option<&Route> = None;
        for route in self.routes.iter().filter(fits) {
            if best.is_none_or(|best| route.prefix > best.prefix) {
                best = Some(route);
            }
        }
        best
    }

    /// What the rules say about a packet.
    ///
    /// # Errors
    /// `ENETUNREACH`; `EHOSTUNREACH`, `EACCES`, `EINVAL` where a route or a rule says so.
    pub fn lookup(
        &self,
        query: &Query,
        device: Option<super::link::Name>,
        usable: impl Fn(&Route) -> bool,
    ) -> Result<&Route> {
        for rule in self.rules.iter().filter(|rule| rule.v6 == query.to.is_ipv6() && rule.applies(query, device)) {
            if rule.action != 1 {
                return Err(refusal(rule.action));
            }
            match self.search(rule.table, query.to, &usable) {
                None => {}
                Some(route) if route.kind == kind::THROW => {}
                Some(route) if route.needs_device() => return Ok(route),
                Some(route) => return Err(refusal(route.kind)),
            }
        }
        Err(Errno::ENETUNREACH)
    }
}

/// The error of a route or rule that leads nowhere.
fn refusal(kind: u8) -> Errno {
    match kind {
        kind::BLACKHOLE => Errno::EINVAL,
        kind::UNREACHABLE => Errno::EHOSTUNREACH,
        kind::PROHIBIT => Errno::EACCES,
        _ => Errno::ENETUNREACH,
    }
}

impl Rule {
    fn applies(&self, query: &Query, device: Option<super::link::Name>) -> bool {
        let inside = |network: Option<(IpAddr, u8)>, addr: Option<IpAddr>| match (network, addr) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((network, prefix)), Some(addr)) => contains(network, prefix, addr),
        };
        let marked = self.mark.is_none_or(|(mark, mask)| query.mark & mask == mark & mask);
        let bound = self.device.is_none() || self.device == device;
        (inside(self.from, query.from) && inside(self.to, Some(query.to)) && marked && bound) != self.inverted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_smallest_network_and_the_least_metric_win() {
        let mut routes = Routes::initial();
        let plain = Route::own(kind::UNICAST, (ip("10.0.0.0"), 8), 2);
        routes.add(plain, false).unwrap();
        assert_eq!(routes.add(plain, false), Err(Errno::EEXIST));
        routes.add(Route { metric: 9, device: 3, ..plain }, false).unwrap();
        routes.add(Route::own(kind::UNICAST, (ip("10.1.0.0"), 16), 4), false).unwrap();
        let device = |to: &str| routes.lookup(&Query::to(ip(to)), None, |_| true).map(|route| route.device);
        assert_eq!((device("10.2.0.1"), device("10.1.0.1")), (Ok(2), Ok(4)));
        assert_eq!((device("11.0.0.1"), device("::1")), (Err(Errno::ENETUNREACH), Err(Errno::ENETUNREACH)));
    }

    #[test]
    fn rules_choose_tables() {
        let mut routes = Routes::initial();
        let to = (ip("0.0.0.0"), 0);
        routes.add(Route { table: 7, ..Route::own(kind::UNICAST, to, 5) }, false).unwrap();
        routes.add(Route::own(kind::UNICAST, to, 6), false).unwrap();
        let rule = Rule { mark: Some((1, u32::MAX)), table: 7, ..routes.rules()[0] };
        assert_eq!(routes.add_rule(rule, None, true).map(|rule| rule.priority), Ok(32_765));
        let query = Query::to(ip("9.9.9.9"));
        assert_eq!(routes.lookup(&query, None, |_| true).map(|route| route.device), Ok(6));
        assert_eq!(routes.lookup(&Query { mark: 1, ..query }, None, |_| true).map(|route| route.device), Ok(5));
    }
}
