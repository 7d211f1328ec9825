//! Settings of a network namespace: what they are, where below `/proc/sys/net` they lie, what values they take.
//! Source: Documentation/networking/ip-sysctl, and what Linux accepts.
//!
//! Those that have a constant here are heeded, each where it is used. The others steer what cannot happen inside a machine (loss,
//! reordering, congestion, questions for neighbours): they are kept for who writes and reads them.
//! `fs::proc::net` makes files of [`KNOBS`]. No locks.

use super::Namespace;
use super::link::LOOPBACK;
use crate::{Errno, Result};
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// A file: one to three numbers, or one for each of [`DEVICES`].
pub struct Knob {
    /// Below `/proc/sys/net`; `*` stands for a device.
    pub path: &'static str,
    first: [i32; 3],
    count: usize,
    least: i32,
    most: i32,
}

/// What has settings of its own: all devices, those that come, the loopback device.
pub const DEVICES: [&str; 3] = ["all", "default", "lo"];

/// Any number.
const ANY: (i32, i32) = (i32::MIN, i32::MAX);
const SWITCH: (i32, i32) = (0, 1);
const BYTE: (i32, i32) = (0, 255);
const NATURAL: (i32, i32) = (0, i32::MAX);
const POSITIVE: (i32, i32) = (1, i32::MAX);

const fn one(path: &'static str, value: i32, (least, most): (i32, i32)) -> Knob {
    Knob { path, first: [value, 0, 0], count: 1, least, most }
}

const fn several(path: &'static str, first: [i32; 3], count: usize, (least, most): (i32, i32)) -> Knob {
    Knob { path, first, count, least, most }
}

/// With a value for each of [`DEVICES`].
const fn each(path: &'static str, first: [i32; 3]) -> Knob {
    Knob { path, first, count: 3, least: i32::MIN, most: i32::MAX }
}

/// All of them.
pub static KNOBS: &[Knob] = &[
    one("core/optmem_max", 131_072, NATURAL),
    one("core/somaxconn", 4096, NATURAL),
    one("core/txrehash", 1, SWITCH),
    one("ipv4/icmp_echo_ignore_all", 0, SWITCH),
    one("ipv4/icmp_echo_ignore_broadcasts", 1, SWITCH),
    one("ipv4/icmp_ignore_bogus_error_responses", 1, SWITCH),
    one("ipv4/icmp_ratelimit", 1000, ANY),
    one("ipv4/icmp_ratemask", 6168, ANY),
    one("ipv4/ip_default_ttl", 64, (1, 255)),
    one("ipv4/ip_dynaddr", 0, BYTE),
    one("ipv4/ip_early_demux", 1, BYTE),
    one("ipv4/ip_forward", 0, ANY),
    several("ipv4/ip_local_port_range", [32_768, 60_999, 0], 2, (1, 65_535)),
    one("ipv4/ip_no_pmtu_disc", 0, (0, 3)),
    one("ipv4/ip_nonlocal_bind", 0, SWITCH),
    one("ipv4/ip_unprivileged_port_start", 1024, (0, 65_535)),
    several("ipv4/ping_group_range", [0, i32::MAX, 0], 2, NATURAL),
    one("ipv4/tcp_adv_win_scale", 1, (-31, 31)),
    one("ipv4/tcp_app_win", 31, (0, 31)),
    one("ipv4/tcp_autocorking", 1, SWITCH),
    one("ipv4/tcp_base_mss", 1024, ANY),
    one("ipv4/tcp_dsack", 1, BYTE),
    one("ipv4/tcp_early_retrans", 3, (0, 4)),
    one("ipv4/tcp_ecn", 2, (0, 2)),
    one("ipv4/tcp_ecn_fallback", 1, SWITCH),
    one("ipv4/tcp_fin_timeout", 60, ANY),
    one("ipv4/tcp_frto", 2, BYTE),
    one("ipv4/tcp_keepalive_intvl", 75, ANY),
    one("ipv4/tcp_keepalive_probes", 9, BYTE),
    one("ipv4/tcp_keepalive_time", 7200, ANY),
    one("ipv4/tcp_limit_output_bytes", 4 << 20, ANY),
    one("ipv4/tcp_max_reordering", 300, ANY),
    one("ipv4/tcp_max_syn_backlog", 4096, ANY),
    one("ipv4/tcp_mtu_probing", 0, BYTE),
    one("ipv4/tcp_no_metrics_save", 0, BYTE),
    one("ipv4/tcp_orphan_retries", 0, BYTE),
    one("ipv4/tcp_recovery", 1, BYTE),
    one("ipv4/tcp_reordering", 3, ANY),
    one("ipv4/tcp_retries1", 3, (0, 255)),
    one("ipv4/tcp_retries2", 15, BYTE),
    one("ipv4/tcp_rfc1337", 0, BYTE),
    several("ipv4/tcp_rmem", [4096, 131_072, 33_554_432], 3, POSITIVE),
    one("ipv4/tcp_sack", 1, BYTE),
    one("ipv4/tcp_slow_start_after_idle", 1, BYTE),
    one("ipv4/tcp_stdurg", 0, BYTE),
    one("ipv4/tcp_syn_retries", 6, (1, 127)),
    one("ipv4/tcp_synack_retries", 5, BYTE),
    one("ipv4/tcp_syncookies", 1, BYTE),
    one("ipv4/tcp_timestamps", 1, BYTE),
    one("ipv4/tcp_tw_reuse", 2, (0, 2)),
    one("ipv4/tcp_window_scaling", 1, BYTE),
    several("ipv4/tcp_wmem", [4096, 16_384, 4_194_304], 3, POSITIVE),
    one("ipv4/udp_early_demux", 1, BYTE),
    one("ipv4/udp_rmem_min", 4096, POSITIVE),
    one("ipv4/udp_wmem_min", 4096, POSITIVE),
    each("ipv4/conf/*/accept_local", [0, 0, 0]),
    each("ipv4/conf/*/accept_redirects", [1, 1, 1]),
    each("ipv4/conf/*/accept_source_route", [0, 1, 1]),
    each("ipv4/conf/*/arp_accept", [0, 0, 0]),
    each("ipv4/conf/*/arp_announce", [0, 0, 0]),
    each("ipv4/conf/*/arp_filter", [0, 0, 0]),
    each("ipv4/conf/*/arp_ignore", [0, 0, 0]),
    each("ipv4/conf/*/arp_notify", [0, 0, 0]),
    each("ipv4/conf/*/disable_policy", [0, 0, 1]),
    each("ipv4/conf/*/disable_xfrm", [0, 0, 1]),
    each("ipv4/conf/*/forwarding", [0, 0, 0]),
    each("ipv4/conf/*/log_martians", [0, 0, 0]),
    each("ipv4/conf/*/promote_secondaries", [0, 0, 0]),
    each("ipv4/conf/*/proxy_arp", [0, 0, 0]),
    each("ipv4/conf/*/route_localnet", [0, 0, 0]),
    each("ipv4/conf/*/rp_filter", [0, 0, 0]),
    each("ipv4/conf/*/secure_redirects", [1, 1, 1]),
    each("ipv4/conf/*/send_redirects", [1, 1, 1]),
    each("ipv4/conf/*/shared_media", [1, 1, 1]),
    each("ipv4/conf/*/src_valid_mark", [0, 0, 0]),
    each("ipv4/conf/*/tag", [0, 0, 0]),
    one("ipv6/auto_flowlabels", 1, (0, 3)),
    one("ipv6/bindv6only", 0, SWITCH),
    one("ipv6/flowlabel_consistency", 1, SWITCH),
    one("ipv6/idgen_delay", 1, ANY),
    one("ipv6/idgen_retries", 3, ANY),
    one("ipv6/ip6frag_high_thresh", 4 << 20, NATURAL),
    one("ipv6/ip6frag_low_thresh", 3 << 20, NATURAL),
    one("ipv6/ip6frag_time", 60, ANY),
    one("ipv6/ip_nonlocal_bind", 0, SWITCH),
    one("ipv6/icmp/echo_ignore_all", 0, SWITCH),
    each("ipv6/conf/*/accept_dad", [0, 1, -1]),
    each("ipv6/conf/*/accept_ra", [1, 1, 1]),
    each("ipv6/conf/*/accept_redirects", [1, 1, 1]),
    each("ipv6/conf/*/accept_source_route", [0, 0, 0]),
    each("ipv6/conf/*/addr_gen_mode", [0, 0, 0]),
    each("ipv6/conf/*/autoconf", [1, 1, 1]),
    each("ipv6/conf/*/dad_transmits", [1, 1, 1]),
    each("ipv6/conf/*/disable_ipv6", [0, 0, 0]),
    each("ipv6/conf/*/forwarding", [0, 0, 0]),
    each("ipv6/conf/*/hop_limit", [64, 64, 64]),
    each("ipv6/conf/*/proxy_ndp", [0, 0, 0]),
    each("ipv6/conf/*/router_solicitations", [-1, -1, -1]),
    each("ipv6/conf/*/use_tempaddr", [0, 0, -1]),
];

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// Where the numbers of a file begin. At compile time: a name that is not in the table does not compile.
const fn slot(path: &str) -> usize {
    let (mut at, mut slot) = (0, 0);
    while !same(KNOBS[at].path, path) {
        slot += KNOBS[at].count;
        at += 1;
    }
    slot
}

const fn slots() -> usize {
    let (mut at, mut slots) = (0, 0);
    while at < KNOBS.len() {
        slots += KNOBS[at].count;
        at += 1;
    }
    slots
}

/// Those that are heeded, by their place.
pub const SOMAXCONN: usize = const { slot("core/somaxconn") };
pub const ECHO_IGNORE_ALL: usize = const { slot("ipv4/icmp_echo_ignore_all") };
pub const ECHO_IGNORE_ALL_V6: usize = const { slot("ipv6/icmp/echo_ignore_all") };
pub const DEFAULT_TTL: usize = const { slot("ipv4/ip_default_ttl") };
pub const HOP_LIMIT: usize = const { slot("ipv6/conf/*/hop_limit") + LO };
pub const PORT_RANGE: usize = const { slot("ipv4/ip_local_port_range") };
pub const NONLOCAL_BIND: usize = const { slot("ipv4/ip_nonlocal_bind") };
pub const NONLOCAL_BIND_V6: usize = const { slot("ipv6/ip_nonlocal_bind") };
pub const UNPRIVILEGED_START: usize = const { slot("ipv4/ip_unprivileged_port_start") };
pub const PING_GROUPS: usize = const { slot("ipv4/ping_group_range") };
pub const FIN_TIMEOUT: usize = const { slot("ipv4/tcp_fin_timeout") };
pub const KEEPALIVE_TIME: usize = const { slot("ipv4/tcp_keepalive_time") };
pub const KEEPALIVE_INTERVAL: usize = const { slot("ipv4/tcp_keepalive_intvl") };
pub const KEEPALIVE_PROBES: usize = const { slot("ipv4/tcp_keepalive_probes") };
pub const SYN_RETRIES: usize = const { slot("ipv4/tcp_syn_retries") };
pub const TCP_RECEIVE: usize = const { slot("ipv4/tcp_rmem") };
pub const TCP_SEND: usize = const { slot("ipv4/tcp_wmem") };
pub const BIND_V6_ONLY: usize = const { slot("ipv6/bindv6only") };
pub const DISABLE_V6: usize = const { slot("ipv6/conf/*/disable_ipv6") + LO };
pub const FORWARD: usize = const { slot("ipv4/ip_forward") };
const FORWARDING: usize = const { slot("ipv4/conf/*/forwarding") };
pub const FORWARD_V6: usize = const { slot("ipv6/conf/*/forwarding") };
const DISABLE: usize = const { slot("ipv6/conf/*/disable_ipv6") };

/// Places in [`DEVICES`].
const ALL: usize = 0;
const LO: usize = 2;

/// The settings of a namespace.
pub struct Settings([AtomicI32; const { slots() }]);

impl Default for Settings {
    fn default() -> Settings {
        let mut firsts = KNOBS.iter().flat_map(|knob| knob.first.iter().take(knob.count).copied());
        Settings(core::array::from_fn(|_| AtomicI32::new(firsts.next().unwrap_or(0))))
    }
}

impl Settings {
    /// What it is now.
    pub fn get(&self, slot: usize) -> i32 {
        self.0.get(slot).map_or(0, |value| value.load(Relaxed))
    }

    fn set(&self, slot: usize, value: i32) {
        if let Some(place) = self.0.get(slot) {
            place.store(value, Relaxed);
        }
    }

    /// First and last port that are given out.
    pub fn ports(&self) -> (u16, u16) {
        (self.get(PORT_RANGE) as u16, self.get(PORT_RANGE + 1) as u16)
    }
}

/// A file: its knob, and its device, if it is one of a device.
#[derive(Clone, Copy)]
pub struct Place {
    knob: &'static Knob,
    slot: usize,
    count: usize,
}

/// All files, with the parts of their paths: directory, device, name.
pub fn places() -> impl Iterator<Item = (Place, &'static str, Option<&'static str>, &'static str)> {
    let mut next = 0;
    KNOBS.iter().flat_map(move |knob| {
        let slot = next;
        next += knob.count;
        let (dir, name) = knob.path.rsplit_once('/').unwrap_or(("", knob.path));
        let parts = dir.strip_suffix("/*");
        let files = if parts.is_some() { knob.count } else { 1 };
        (0..files).map(move |device| match parts {
            Some(dir) => (Place { knob, slot: slot + device, count: 1 }, dir, DEVICES.get(device).copied(), name),
            None => (Place { knob, slot, count: knob.count }, dir, None, name),
        })
    })
}

impl Place {
    /// What the file shows.
    pub fn show(&self, settings: &Settings) -> alloc::string::String {
        let values: alloc::vec::Vec<_> =
            (0..self.count).map(|i| alloc::format!("{}", settings.get(self.slot + i))).collect();
        alloc::format!("{}\n", values.join("\t"))
    }

    /// What is written into it: as many numbers as it has, or fewer.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn write(&self, namespace: &Namespace, text: &[u8]) -> Result<()> {
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let mut values: [i32; 3] = core::array::from_fn(|i| namespace.settings.get(self.slot + i));
        let mut given = 0;
        for (value, word) in values.iter_mut().take(self.count).zip(text.split_whitespace()) {
            *value = word.parse().map_err(|_| Errno::EINVAL)?;
            if !(self.knob.least..=self.knob.most).contains(value) {
                return Err(Errno::EINVAL);
            }
            given += 1;
        }
        if given == 0 {
            return Err(Errno::EINVAL);
        }
        self.check(&namespace.settings, &values)?;
        for (i, value) in values.into_iter().enumerate().take(self.count) {
            namespace.settings.set(self.slot + i, value);
        }
        self.spread(namespace, values[0]);
        Ok(())
    }

    /// What settings demand of each other.
    fn check(&self, settings: &Settings, values: &[i32; 3]) -> Result<()> {
        let fits = match self.slot {
            PORT_RANGE => values[0] <= values[1] && values[0] >= settings.get(UNPRIVILEGED_START),
            UNPRIVILEGED_START => values[0] <= settings.get(PORT_RANGE),
            _ => true,
        };
        if fits { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// What settings change beside themselves.
    fn spread(&self, namespace: &Namespace, value: i32) {
        let settings = &namespace.settings;
        let to_devices = |slot: usize| (0..DEVICES.len()).for_each(|device| settings.set(slot + device, value));
        match self.slot {
            FORWARD | FORWARDING => {
                settings.set(FORWARD, value);
                to_devices(FORWARDING);
            }
            FORWARD_V6 => to_devices(FORWARD_V6),
            DISABLE => to_devices(DISABLE),
            _ => {}
        }
        if self.slot == DISABLE + ALL || self.slot == DISABLE_V6 {
            namespace.links().set_v6(value == 0, |device| self.slot == DISABLE + ALL || device == LOOPBACK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_numbers_of_their_own() {
        let settings = Settings::default();
        let shown = |path: &str| {
            let found = places().find(|(_, dir, device, name)| match device {
                Some(device) => std::format!("{dir}/{device}/{name}") == path,
                None => std::format!("{dir}/{name}") == path,
            });
            found.map(|(place, ..)| place.show(&settings))
        };
        assert_eq!(shown("ipv4/ip_local_port_range").as_deref(), Some("32768\t60999\n"));
        assert_eq!(shown("ipv4/tcp_wmem").as_deref(), Some("4096\t16384\t4194304\n"));
        assert_eq!(shown("ipv6/conf/lo/accept_dad").as_deref(), Some("-1\n"));
        assert_eq!(shown("ipv6/conf/default/accept_dad").as_deref(), Some("1\n"));
        assert_eq!(shown("ipv6/conf/lo/use_tempaddr").as_deref(), Some("-1\n"));
        assert_eq!((settings.get(SOMAXCONN), settings.ports()), (4096, (32_768, 60_999)));
    }
}
