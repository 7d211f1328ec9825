//! `/sys/class/net`: the devices of the caller's network namespace. Source: Documentation/ABI/testing/sysfs-class-net.

use super::Tree;
use crate::fs::pseudo::{Dir, DirSource, Link, Meta, PseudoFs, StaticDir, Target, TextFile};
use crate::fs::{InodeRef, Kind};
use crate::net::link::{Device, Name, Traffic, change};
use crate::net::namespace;
use crate::task;
use crate::{Errno, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

/// `/sys/class/net`: a link for each device.
pub(super) fn class(tree: Tree<'_>) -> InodeRef {
    tree.dir(Devices { fs: tree.0.clone(), links: true })
}

/// `/sys/devices/virtual/net`: a directory for each.
pub(super) fn devices(tree: Tree<'_>) -> InodeRef {
    tree.dir(Devices { fs: tree.0.clone(), links: false })
}

/// Those that are there now.
struct Devices {
    fs: Arc<PseudoFs>,
    links: bool,
}

impl DirSource for Devices {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let (index, name) = {
            let namespace = namespace::of(&task::current());
            let links = namespace.links();
            let device = links.named(name).ok_or(Errno::ENOENT)?;
            (device.index, device.name)
        };
        Ok(if self.links { self.link(name) } else { directory(Tree(&self.fs), index) })
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        let namespace = namespace::of(&task::current());
        let kind = if self.links { Kind::Symlink } else { Kind::Directory };
        let mut from = from;
        loop {
            let next = namespace
                .links()
                .devices()
                .iter()
                .find(|own| u64::from(own.index) >= from)
                .map(|own| (own.index, own.name));
            let Some((index, name)) = next else { return Ok(()) };
            if !emit(index.into(), name.text(), u64::from(index) + 1, kind) {
                return Ok(());
            }
            from = u64::from(index) + 1;
        }
    }
}

impl Devices {
    fn link(&self, name: Name) -> InodeRef {
        let target = move || Ok(Target::text([b"../../devices/virtual/net/", name.text()].concat()));
        Link::new(Meta::new(&self.fs, 0o777), target)
    }
}

/// The directory of a device.
fn directory(tree: Tree<'_>, index: u32) -> InodeRef {
    let file = |make: OfDevice| {
        let text = move || Ok(format!("{}\n", shown(index, make)?).into_bytes());
        TextFile::new(Meta::new(tree.0, 0o444), text)
    };
    let own = FILES.iter().fold(StaticDir::new(), |dir, (name, make)| dir.add(name, file(*make)));
    let far = move || {
        let namespace = namespace::of(&task::current());
        change::other_end(&namespace, index).map_or(index, |(_, far)| far).to_string()
    };
    let mut statistics = StaticDir::new();
    for name in COUNTERS {
        statistics = statistics.add(name, tree.text(move || counter(name, index)));
    }
    let back = || Ok(Target::text("../../../../class/net"));
    let own = own
        .add("iflink", tree.text(far))
        .add("statistics", tree.dir(statistics))
        .add("subsystem", Link::new(Meta::new(tree.0, 0o777), back));
    Dir::new(Meta::new(tree.0, 0o555).numbered(u64::from(index) + 1), own)
}

fn shown(index: u32, make: OfDevice) -> Result<String> {
    let namespace = namespace::of(&task::current());
    let links = namespace.links();
    make(links.device(index).ok_or(Errno::ENODEV)?)
}

/// Makes a text from a device.
type OfDevice = fn(&Device) -> Result<String>;

const FILES: [(&str, OfDevice); 16] = [
    ("addr_len", |_| Ok("6".into())),
    ("address", |device| Ok(mac(device.mac))),
    ("broadcast", |device| Ok(mac(device.everybody()))),
    // Of a device that is down nobody knows.
    ("carrier", |device| if device.up { Ok(u8::from(device.carrier).to_string()) } else { Err(Errno::EINVAL) }),
    ("dev_id", |_| Ok("0x0".into())),
    ("dormant", |device| if device.up { Ok("0".into()) } else { Err(Errno::EINVAL) }),
    ("flags", |device| Ok(format!("{:#x}", device.flags() & 0xffff & !0x40))),
    ("ifalias", |device| Ok(String::from_utf8_lossy(&device.alias).into_owned())),
    ("ifindex", |device| Ok(device.index.to_string())),
    ("link_mode", |_| Ok("0".into())),
    ("mtu", |device| Ok(device.mtu.to_string())),
    ("netdev_group", |device| Ok(device.group.to_string())),
    ("operstate", |device| Ok(device.state().1.into())),
    ("tx_queue_len", |device| Ok(device.queue.to_string())),
    ("type", |device| Ok(device.kind.hardware().to_string())),
    ("uevent", |device| Ok(format!("INTERFACE={}\nIFINDEX={}", device.name.shown(), device.index))),
];

fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

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

fn counter(name: &str, index: u32) -> String {
    let namespace = namespace::of(&task::current());
    let [received, sent]: [Traffic; 2] = match index {
        crate::net::link::LOOPBACK => [namespace.all_traffic(); 2],
        index => namespace.links().device(index).map_or(Default::default(), Device::traffic),
    };
    match name {
        "rx_bytes" => received.bytes,
        "tx_bytes" => sent.bytes,
        "rx_packets" => received.packets,
        "tx_packets" => sent.packets,
        _ => 0,
    }
    .to_string()
}
