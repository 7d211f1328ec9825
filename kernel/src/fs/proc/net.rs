//! `/proc/sys/net`: settings of the network: those of the caller's namespace (`net::sysctl`), those of the machine, and constants.
//! Source: Documentation/networking/ip-sysctl.

use super::sysctl::{Settings, constant, meta, settings};
use crate::fs::InodeRef;
use crate::fs::pseudo::{Dir, Meta, PseudoFs, StaticDir, TextFile};
use crate::net::link::LOOPBACK;
use crate::net::sysctl::{DEVICES, Place, places};
use crate::net::{namespace, option};
use crate::task;
use alloc::format;
use alloc::sync::Arc;

const CORE: &[(&str, &str)] =
    &[("bpf_jit_enable", "0"), ("default_qdisc", "pfifo_fast"), ("netdev_max_backlog", "1000")];
/// Those that others heed.
const CORE_SETTINGS: Settings = &[
    ("rmem_default", &option::RECEIVE_DEFAULT),
    ("rmem_max", &option::RECEIVE_MAX),
    ("wmem_default", &option::SEND_DEFAULT),
    ("wmem_max", &option::SEND_MAX),
];
const UNIX: &[(&str, &str)] = &[("max_dgram_qlen", "512")];
const IPV4: &[(&str, &str)] = &[
    ("igmp_max_memberships", "20"),
    ("ip_local_reserved_ports", ""),
    ("tcp_abort_on_overflow", "0"),
    ("tcp_allowed_congestion_control", "reno cubic"),
    ("tcp_available_congestion_control", "reno cubic"),
    ("tcp_congestion_control", "cubic"),
    ("tcp_fastopen", "0"),
    ("tcp_max_tw_buckets", "4096"),
    ("tcp_mem", "1024\t2048\t4096"),
    ("tcp_moderate_rcvbuf", "0"),
    ("tcp_notsent_lowat", "4294967295"),
    ("udp_mem", "1024\t2048\t4096"),
];

/// A setting of the caller's namespace.
fn file(fs: &Arc<PseudoFs>, place: Place) -> InodeRef {
    let own = || namespace::of(&task::current());
    let read = move || Ok(place.show(&own().settings).into_bytes());
    let write = move |text: &[u8]| place.write(&own(), text);
    TextFile::writable(meta(fs, 0o644), read, write)
}

/// The settings that lie in directory `dir`, those of `device` if it has some for devices.
fn files(fs: &Arc<PseudoFs>, dir: &str, device: Option<&str>, before: StaticDir) -> StaticDir {
    let inside = places().filter(|(_, own, of, _)| *own == dir && *of == device);
    inside.fold(before, |before, (place, _, _, name)| before.add(name, file(fs, place)))
}

/// Bytes that a packet of IPv6 may have: the loopback device's own, and the least there is for others.
fn mtu(fs: &Arc<PseudoFs>, device: &str) -> InodeRef {
    if device != "lo" {
        return constant(fs, "1280");
    }
    let own = || namespace::of(&task::current()).links().device(LOOPBACK).map_or(0, |lo| lo.mtu);
    TextFile::new(meta(fs, 0o444), move || Ok(format!("{}\n", own()).into_bytes()))
}

/// The directory.
pub fn dir(fs: &Arc<PseudoFs>) -> InodeRef {
    let sub = |dir: StaticDir| -> InodeRef { Dir::new(Meta::new(fs, 0o555), dir) };
    let fixed = |entries: &[(&str, &'static str)]| {
        entries.iter().fold(StaticDir::new(), |dir, (name, value)| dir.add(name, constant(fs, value)))
    };
    let devices = |dir: &str, more: fn(&Arc<PseudoFs>, &str, StaticDir) -> StaticDir| {
        sub(DEVICES.iter().fold(StaticDir::new(), |all, name| {
            all.add(name, sub(more(fs, name, files(fs, dir, Some(name), StaticDir::new()))))
        }))
    };
    let core = settings(fs, files(fs, "core", None, fixed(CORE)), CORE_SETTINGS);
    let ipv4 = files(fs, "ipv4", None, fixed(IPV4)).add("conf", devices("ipv4/conf", |_, _, dir| dir));
    let ipv6 = files(fs, "ipv6", None, StaticDir::new())
        .add("conf", devices("ipv6/conf", |fs, name, dir| dir.add("mtu", mtu(fs, name))))
        .add("icmp", sub(files(fs, "ipv6/icmp", None, StaticDir::new())));
    sub(StaticDir::new()
        .add("core", sub(core))
        .add("ipv4", sub(ipv4))
        .add("ipv6", sub(ipv6))
        .add("unix", sub(fixed(UNIX))))
}
