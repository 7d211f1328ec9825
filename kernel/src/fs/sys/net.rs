//! `/sys/class/net`: the loopback device. Source: Documentation/ABI/testing/sysfs-class-net.

use super::Tree;
use crate::fs::InodeRef;
use crate::fs::pseudo::{Link, Meta, StaticDir, Target};
use crate::net::interface::{HARDWARE, INDEX, Interface, Traffic};
use crate::net::namespace;
use crate::task;
use alloc::format;
use alloc::string::{String, ToString};

/// `/sys/class/net`: a link for each device.
pub(super) fn class(tree: Tree<'_>) -> InodeRef {
    let target = || Ok(Target::text("../../devices/virtual/net/lo"));
    tree.dir(StaticDir::new().add("lo", Link::new(Meta::new(tree.0, 0o777), target)))
}

/// `/sys/devices/virtual/net`.
pub(super) fn devices(tree: Tree<'_>) -> InodeRef {
    let mut lo = StaticDir::new();
    for (name, make) in FILES {
        lo = lo.add(name, tree.text(move || shown(make)));
    }
    let mut statistics = StaticDir::new();
    for name in COUNTERS {
        let count = move || counter(name, namespace::of(&task::current()).all_traffic());
        statistics = statistics.add(name, tree.text(count));
    }
    let back = || Ok(Target::text("../../../../class/net"));
    let lo = lo.add("statistics", tree.dir(statistics)).add("subsystem", Link::new(Meta::new(tree.0, 0o777), back));
    tree.dir(StaticDir::new().add("lo", tree.dir(lo)))
}

fn shown(make: impl Fn(&Interface) -> String) -> String {
    let namespace = namespace::of(&task::current());
    let device = namespace.interface.lock();
    make(&device)
}

/// Makes a text from the device.
type OfDevice = fn(&Interface) -> String;

const FILES: [(&str, OfDevice); 15] = [
    ("addr_len", |_| "6".into()),
    ("address", |_| "00:00:00:00:00:00".into()),
    ("broadcast", |_| "00:00:00:00:00:00".into()),
    ("carrier", |_| "1".into()),
    ("dev_id", |_| "0x0".into()),
    ("dormant", |_| "0".into()),
    ("flags", |device| format!("{:#x}", device.flags() & 0xffff & !0x40)),
    ("ifindex", |_| INDEX.to_string()),
    ("iflink", |_| INDEX.to_string()),
    ("link_mode", |_| "0".into()),
    ("mtu", |device| device.mtu.to_string()),
    ("operstate", |device| if device.up { "unknown".into() } else { "down".into() }),
    ("tx_queue_len", |_| "1000".into()),
    ("type", |_| HARDWARE.to_string()),
    ("uevent", |_| "INTERFACE=lo\nIFINDEX=1".into()),
];

const COUNTERS: [&str; 12] = [
    "collisions",
    "multicast",
    "rx_bytes",
    "rx_dropped",
    "rx_errors",
    "rx_packets",
    "rx_over_errors",
    "tx_bytes",
    "tx_carrier_errors",
    "tx_dropped",
    "tx_errors",
    "tx_packets",
];

/// What is sent is received.
fn counter(name: &str, traffic: Traffic) -> String {
    match name {
        "rx_bytes" | "tx_bytes" => traffic.bytes,
        "rx_packets" | "tx_packets" => traffic.packets,
        _ => 0,
    }
    .to_string()
}
