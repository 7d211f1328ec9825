//! `/proc/sys/net`: settings of the network, as the kernel has them. Source: Documentation/networking/ip-sysctl.

use super::sysctl::{Settings, settings};
use crate::fs::InodeRef;
use crate::fs::pseudo::{Dir, Meta, PseudoFs, StaticDir, TextFile};
use crate::net::inet::table::{FIRST_PORT, LAST_PORT};
use crate::net::{namespace, option};
use crate::{Errno, task};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

const CORE: &[(&str, &str)] = &[
    ("bpf_jit_enable", "0"),
    ("default_qdisc", "pfifo_fast"),
    ("netdev_max_backlog", "1000"),
    ("optmem_max", "131072"),
    ("somaxconn", "4096"),
];
/// Those that others heed.
const CORE_SETTINGS: Settings = &[
    ("rmem_default", &option::RECEIVE_DEFAULT),
    ("rmem_max", &option::RECEIVE_MAX),
    ("wmem_default", &option::SEND_DEFAULT),
    ("wmem_max", &option::SEND_MAX),
];
const UNIX: &[(&str, &str)] = &[("max_dgram_qlen", "512")];
const IPV4: &[(&str, &str)] = &[
    ("icmp_echo_ignore_all", "0"),
    ("icmp_echo_ignore_broadcasts", "1"),
    ("igmp_max_memberships", "20"),
    ("ip_default_ttl", "64"),
    ("ip_forward", "0"),
    ("ip_local_reserved_ports", ""),
    ("ip_nonlocal_bind", "0"),
    ("ip_unprivileged_port_start", "1024"),
    ("ping_group_range", "0\t2147483647"),
    ("tcp_abort_on_overflow", "0"),
    ("tcp_allowed_congestion_control", "reno cubic"),
    ("tcp_available_congestion_control", "reno cubic"),
    ("tcp_congestion_control", "cubic"),
    ("tcp_ecn", "0"),
    ("tcp_fastopen", "0"),
    ("tcp_fin_timeout", "60"),
    ("tcp_keepalive_intvl", "75"),
    ("tcp_keepalive_probes", "9"),
    ("tcp_keepalive_time", "7200"),
    ("tcp_max_syn_backlog", "4096"),
    ("tcp_max_tw_buckets", "4096"),
    ("tcp_mem", "1024\t2048\t4096"),
    ("tcp_moderate_rcvbuf", "0"),
    ("tcp_notsent_lowat", "4294967295"),
    ("tcp_retries2", "15"),
    ("tcp_rmem", "4096\t131072\t425984"),
    ("tcp_sack", "1"),
    ("tcp_slow_start_after_idle", "1"),
    ("tcp_syn_retries", "6"),
    ("tcp_synack_retries", "5"),
    ("tcp_syncookies", "1"),
    ("tcp_timestamps", "1"),
    ("tcp_tw_reuse", "2"),
    ("tcp_window_scaling", "1"),
    ("tcp_wmem", "4096\t16384\t425984"),
    ("udp_mem", "1024\t2048\t4096"),
    ("udp_rmem_min", "4096"),
    ("udp_wmem_min", "4096"),
];
const IPV4_DEVICE: &[(&str, &str)] = &[
    ("accept_redirects", "1"),
    ("accept_source_route", "0"),
    ("forwarding", "0"),
    ("rp_filter", "0"),
    ("send_redirects", "1"),
];
const IPV6: &[(&str, &str)] = &[("bindv6only", "0"), ("ip_nonlocal_bind", "0")];
const IPV6_DEVICE: &[(&str, &str)] =
    &[("accept_ra", "1"), ("disable_ipv6", "0"), ("forwarding", "0"), ("mtu", "65536")];

/// `tag` of a device: the caller's namespace has its own for its device.
fn add_tag(fs: &Arc<PseudoFs>, device: &str, dir: StaticDir) -> StaticDir {
    if device != "lo" {
        return dir.add("tag", TextFile::new(Meta::new(fs, 0o444), || Ok(b"0\n".to_vec())));
    }
    let own = || namespace::of(&task::current());
    let read = move || Ok(format!("{}\n", own().tag.load(Relaxed)).into_bytes());
    let write = move |text: &[u8]| {
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        own().tag.store(text.trim().parse().map_err(|_| Errno::EINVAL)?, Relaxed);
        Ok(())
    };
    dir.add("tag", TextFile::writable(Meta::new(fs, 0o644), read, write))
}

/// The directory.
pub fn dir(fs: &Arc<PseudoFs>) -> InodeRef {
    let sub = |dir: StaticDir| -> InodeRef { Dir::new(Meta::new(fs, 0o555), dir) };
    let text =
        |make: String| -> InodeRef { TextFile::new(Meta::new(fs, 0o444), move || Ok(make.clone().into_bytes())) };
    let fixed = |entries: &[(&str, &str)]| {
        entries.iter().fold(StaticDir::new(), |dir, (name, value)| dir.add(name, text(format!("{value}\n"))))
    };
    let devices = |entries: &[(&str, &str)], more: fn(&Arc<PseudoFs>, &str, StaticDir) -> StaticDir| {
        let names = ["all", "default", "lo"];
        sub(names.iter().fold(StaticDir::new(), |dir, name| dir.add(name, sub(more(fs, name, fixed(entries))))))
    };
    let ports = text(format!("{FIRST_PORT}\t{LAST_PORT}\n"));
    let ipv4 = fixed(IPV4).add("conf", devices(IPV4_DEVICE, add_tag)).add("ip_local_port_range", ports);
    let ipv6 = fixed(IPV6).add("conf", devices(IPV6_DEVICE, |_, _, dir| dir));
    sub(StaticDir::new()
        .add("core", sub(settings(fs, fixed(CORE), CORE_SETTINGS)))
        .add("ipv4", sub(ipv4))
        .add("ipv6", sub(ipv6))
        .add("unix", sub(fixed(UNIX))))
}
