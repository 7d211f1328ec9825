//! `/proc/net`: the sockets, devices and routes of a namespace as text. Source: proc(5).

use super::Namespace;
use super::inet::addr::{as_v6, none};
use super::inet::datagram::{Datagram, Protocol};
use super::inet::table::Lingering;
use super::inet::tcp::{TcpSocket, state_number};
use super::link::{Traffic, scope};
use super::netlink::Netlink;
use super::packet::PacketSocket;
use super::route::{TABLE_DEFAULT, TABLE_MAIN, kind};
use super::snmp;
use super::socket::{Common, Socket};
use super::uapi::*;
use crate::ipc::unix;
use crate::room::{Text, push};
use crate::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Writes a file's text.
pub type Make = fn(&Namespace, &mut Text) -> Result<()>;

/// The text of a file.
///
/// # Errors
/// `ENOMEM`.
pub fn text(namespace: &Namespace, make: Make) -> Result<Vec<u8>> {
    let mut out = Text::default();
    make(namespace, &mut out)?;
    out.finish()
}

/// A file whose length does not depend on how many sockets there are.
macro_rules! small {
    ($text:expr) => {
        |namespace, out| {
            let make: fn(&Namespace) -> String = $text;
            out.push_str(&make(namespace));
            Ok(())
        }
    };
}

/// The same, by what makes it in one piece, or refuses to.
macro_rules! said {
    ($text:expr) => {
        |namespace, out| {
            let make: fn(&Namespace) -> Result<String> = $text;
            out.push_str(&make(namespace)?);
            Ok(())
        }
    };
}

/// The files, by name.
pub const FILES: &[(&str, Make)] = &[
    ("arp", small!(|_| "IP address       HW type     Flags       HW address            Mask     Device\n".into())),
    ("dev", said!(dev)),
    ("dev_mcast", small!(|_| String::new())),
    ("icmp", |namespace, out| datagrams(namespace, AF_INET, Protocol::Ping, out)),
    ("icmp6", |namespace, out| datagrams(namespace, AF_INET6, Protocol::Ping, out)),
    ("if_inet6", said!(if_inet6)),
    ("igmp", small!(|_| "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n".into())),
    ("ipv6_route", said!(ipv6_route)),
    ("netlink", netlink),
    ("netstat", small!(snmp::netstat)),
    ("packet", packets),
    ("protocols", small!(protocols)),
    ("raw", |namespace, out| datagrams(namespace, AF_INET, Protocol::Raw, out)),
    ("raw6", |namespace, out| datagrams(namespace, AF_INET6, Protocol::Raw, out)),
    ("route", said!(route)),
    ("snmp", small!(snmp::snmp)),
    ("snmp6", small!(snmp::snmp6)),
    ("sockstat", small!(sockstat)),
    ("sockstat6", small!(sockstat6)),
    ("softnet_stat", small!(snmp::softnet_stat)),
    ("tcp", |namespace, out| tcp(namespace, AF_INET, out)),
    ("tcp6", |namespace, out| tcp(namespace, AF_INET6, out)),
    ("udp", |namespace, out| datagrams(namespace, AF_INET, Protocol::Udp, out)),
    ("udp6", |namespace, out| datagrams(namespace, AF_INET6, Protocol::Udp, out)),
    ("unix", unix_sockets),
    ("wireless", small!(|_| WIRELESS.into())),
];

const DEV_HEAD: &str = "Inter-|   Receive                                                |  Transmit\n \
     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";
const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       \n";
const WIRELESS: &str = "Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE\n \
face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22\n";
/// Protocols: name, size of a socket, what it may do; family and protocol of its sockets.
const PROTOCOLS: &[(&str, u32, &str, u16, u32)] = &[
    ("PACKET", 1600, "n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n", AF_PACKET, 0),
    ("PINGv6", 1344, "y  y  y  n  n  y  n  n  y  y  y  y  n  y  y  y  y  y  n", AF_INET6, IPPROTO_ICMPV6),
    ("RAWv6", 1344, "y  y  y  n  y  y  y  n  y  y  y  y  n  y  y  y  y  n  n", AF_INET6, IPPROTO_RAW),
    ("UDPLITEv6", 1472, "y  y  y  n  y  y  y  n  y  y  y  y  n  n  n  y  y  y  n", AF_INET6, IPPROTO_UDPLITE),
    ("UDPv6", 1472, "y  y  y  n  y  y  y  n  y  y  y  y  n  n  n  y  y  y  n", AF_INET6, IPPROTO_UDP),
    ("TCPv6", 2432, "y  y  y  y  y  y  y  y  y  y  y  y  y  n  y  y  y  y  y", AF_INET6, IPPROTO_TCP),
    ("UNIX", 1088, "n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n", AF_UNIX, 0),
    ("UDP-Lite", 1344, "y  y  y  n  y  y  y  n  y  y  y  y  y  n  n  y  y  y  n", AF_INET, IPPROTO_UDPLITE),
    ("PING", 1016, "y  y  y  n  n  y  n  n  y  y  y  y  n  y  y  y  y  y  n", AF_INET, IPPROTO_ICMP),
    ("RAW", 1152, "y  y  y  n  y  y  y  n  y  y  y  y  n  y  y  y  y  n  n", AF_INET, IPPROTO_RAW),
    ("UDP", 1152, "y  y  y  n  y  y  y  n  y  y  y  y  y  n  n  y  y  y  n", AF_INET, IPPROTO_UDP),
    ("TCP", 2240, "y  y  y  y  y  y  y  y  y  y  y  y  y  n  y  y  y  y  y", AF_INET, IPPROTO_TCP),
    ("NETLINK", 1088, "n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n", AF_NETLINK, 0),
];

/// The protocols, with the number of their sockets.
fn protocols(namespace: &Namespace) -> String {
    let mut out = String::from(
        "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi br ha uh gp em\n",
    );
    for (name, size, can, family, protocol) in PROTOCOLS {
        let sockets = match *family {
            AF_INET | AF_INET6 => count(namespace, *family, *protocol),
            family => count_all(namespace, family),
        };
        let (memory, press, header) = match *protocol {
            IPPROTO_TCP => (0, "no", 320),
            IPPROTO_UDP | IPPROTO_UDPLITE => (0, "NI", 0),
            _ => (-1, "NI", 0),
        };
        let slab = if matches!(*family, AF_NETLINK | AF_PACKET) { "no" } else { "yes" };
        let _ = writeln!(
            out,
            "{name:<9} {size:>4} {sockets:>6}  {memory:>6}   {press:<3}  {header:>5}   {slab:<4} kernel      {can}"
        );
    }
    out
}

/// Room for so many lines of so many bytes.
fn lines(count: usize, width: usize) -> Result<String> {
    let mut out = String::new();
    out.try_reserve(count.saturating_add(4).saturating_mul(width)).map_err(|_| Errno::ENOMEM)?;
    Ok(out)
}

fn dev(namespace: &Namespace) -> Result<String> {
    let streams = namespace.all_traffic();
    let links = namespace.links();
    let mut out = lines(links.devices().len(), 192)?;
    out.push_str(DEV_HEAD);
    for device in links.devices() {
        let [received, sent] = if device.is_loopback() { [streams; 2] } else { device.traffic() };
        let (Traffic { packets, bytes }, name) = (received, device.name.shown());
        let (sent_packets, sent_bytes) = (sent.packets, sent.bytes);
        let _ = writeln!(
            out,
            "{name:>6}: {bytes:7} {packets:7}    0    0    0     0          0         0 {sent_bytes:8} {sent_packets:7}    0 {:4}    0     0       0          0",
            device.dropped
        );
    }
    Ok(out)
}

fn if_inet6(namespace: &Namespace) -> Result<String> {
    let links = namespace.links();
    let mut out = lines(links.devices().iter().map(|device| device.addresses.len()).sum(), 64)?;
    for device in links.devices() {
        for own in &device.addresses {
            let IpAddr::V6(ip) = own.addr else { continue };
            let scope = match own.scope {
                scope::HOST => 0x10,
                scope::LINK => 0x20,
                _ => 0,
            };
            let (index, name) = (device.index, device.name.shown());
            let _ = writeln!(out, "{:032x} {index:02x} {:02x} {scope:02x} 80 {name:>8}", ip.to_bits(), own.prefix);
        }
    }
    Ok(out)
}

/// Flags of routes: it is up, by a gateway, to a host; of a local address.
const RTF_UP: u32 = 1;
const RTF_GATEWAY: u32 = 2;
const RTF_HOST: u32 = 4;
const RTF_REJECT: u32 = 0x200;
const RTF_LOCAL: u32 = 0x8000_0000;
const RTF_NONEXTHOP: u32 = 0x20_0000;

fn route(namespace: &Namespace) -> Result<String> {
    let links = namespace.links();
    let mut out = lines(links.routes.routes().len(), 144)?;
    out.push_str(ROUTE);
    for route in links.routes.routes() {
        let (IpAddr::V4(to), TABLE_MAIN | TABLE_DEFAULT) = (route.to, route.table) else { continue };
        let gateway = match route.gateway {
            Some(IpAddr::V4(gateway)) => gateway,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let flags = RTF_UP
            | if route.gateway.is_some() { RTF_GATEWAY } else { 0 }
            | if route.prefix == 32 { RTF_HOST } else { 0 }
            | if route.needs_device() { 0 } else { RTF_REJECT };
        let mask = u32::MAX.checked_shl(32 - u32::from(route.prefix)).unwrap_or(0);
        let number = |bits: u32| bits.swap_bytes();
        let name = links.device(route.device).map(|device| device.name.shown());
        let line = format!(
            "{}\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{}\t{:08X}\t0\t0\t0",
            name.as_deref().unwrap_or("*"),
            number(to.to_bits()),
            number(gateway.to_bits()),
            route.metric,
            number(mask)
        );
        let _ = writeln!(out, "{line:<127}");
    }
    Ok(out)
}

fn ipv6_route(namespace: &Namespace) -> Result<String> {
    let links = namespace.links();
    let mut out = lines(links.routes.routes().len(), 160)?;
    for route in links.routes.routes() {
        let IpAddr::V6(to) = route.to else { continue };
        let gateway = match route.gateway {
            Some(IpAddr::V6(gateway)) => gateway.to_bits(),
            _ => 0,
        };
        let flags = RTF_UP
            | if route.gateway.is_some() { RTF_GATEWAY } else { 0 }
            | if route.kind == kind::LOCAL { RTF_LOCAL | RTF_NONEXTHOP } else { 0 }
            | if route.needs_device() { 0 } else { RTF_REJECT };
        let (prefix, metric) = (route.prefix, route.metric);
        let name = links.device(route.device).map(|device| device.name.shown());
        let _ = writeln!(
            out,
            "{:032x} {prefix:02x} {:032x} 00 {gateway:032x} {metric:08x} 00000001 00000000 {flags:08x} {:>8}",
            to.to_bits(),
            0,
            name.as_deref().unwrap_or("lo")
        );
    }
    Ok(out)
}

/// An address as these files show it: words of four bytes in the machine's order.
fn shown(family: u16, addr: SocketAddr) -> String {
    let mut out = String::new();
    let port = addr.port();
    let _ = match (family, addr.ip()) {
        (AF_INET, IpAddr::V4(ip)) => write!(out, "{:08X}:{port:04X}", u32::from_le_bytes(ip.octets())),
        (_, ip) => {
            for word in as_v6(ip).octets().chunks_exact(4) {
                let _ = write!(out, "{:08X}", u32::from_le_bytes(core::array::from_fn(|i| word[i])));
            }
            write!(out, ":{port:04X}")
        }
    };
    out
}

const TCP_HEAD: [&str; 2] = [
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     ",
    "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
];
const UDP_HEAD: [&str; 2] = [
    "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops             ",
    "   sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops",
];

fn tcp(namespace: &Namespace, family: u16, out: &mut Text) -> Result<()> {
    let mut lines = Vec::new();
    let (listeners, connections) = {
        let mut table = namespace.tcp.lock();
        (table.listeners()?, table.connections()?)
    };
    let live = |socket: &Arc<TcpSocket>| {
        let (local, remote) = socket.addresses();
        let listens = socket.is_listening();
        let queue = if listens { socket.backlog().0 } else { socket.waiting() };
        let state = socket.state_number();
        (socket.common().family() == family).then(|| {
            let common = socket.common();
            (local, remote.unwrap_or(none(family)), state, queue, common.uid, common.id)
        })
    };
    for line in listeners.iter().filter_map(live) {
        push(&mut lines, line)?;
    }
    for ((local, remote), socket, lingering) in connections {
        match (socket.filter(|_| lingering.is_none()), lingering) {
            (Some(socket), _) => {
                if let Some(line) = live(&socket) {
                    push(&mut lines, line)?;
                }
            }
            (None, Some((how, _))) if local.is_ipv4() == (family == AF_INET) => {
                let state = if how == Lingering::TimeWait { state_number::TIME_WAIT } else { state_number::FIN_WAIT2 };
                push(&mut lines, (local, remote, state, 0, 0, 0))?;
            }
            _ => {}
        }
    }
    out.push_str(TCP_HEAD[usize::from(family == AF_INET6)]);
    out.push_str("\n");
    for (at, (local, remote, state, queue, uid, id)) in lines.into_iter().enumerate() {
        let (local, remote) = (shown(family, local), shown(family, remote));
        let line = format!(
            "{at:4}: {local} {remote} {state:02X} 00000000:{queue:08X} 00:00000000 00000000 {uid:5}        0 {id} 1 0000000000000000 100 0 0 10 0"
        );
        let _ = writeln!(out, "{line:<149}");
    }
    Ok(())
}

fn datagrams(namespace: &Namespace, family: u16, protocol: Protocol, out: &mut Text) -> Result<()> {
    let table = match protocol {
        Protocol::Udp => &namespace.udp,
        Protocol::Ping => &namespace.ping,
        Protocol::Raw => &namespace.raw,
    };
    let sockets = table.lock().sockets()?;
    out.push_str(UDP_HEAD[usize::from(family == AF_INET6)]);
    out.push_str("\n");
    for socket in sockets.iter().filter_map(|socket| socket.as_any().downcast_ref::<Datagram>()) {
        let common = socket.common();
        if common.family() != family {
            continue;
        }
        let (mut local, remote) = socket.addresses();
        if protocol == Protocol::Raw {
            local.set_port(common.protocol as u16);
        }
        let state = if remote.is_some() { state_number::ESTABLISHED } else { state_number::CLOSE };
        let (used, drops) = socket.queue();
        let (at, uid, id) = (local.port(), common.uid, common.id);
        let (local, remote) = (shown(family, local), shown(family, remote.unwrap_or(none(family))));
        let _ = writeln!(
            out,
            "{at:5}: {local} {remote} {state:02X} 00000000:{used:08X} 00:00000000 00000000 {uid:5}        0 {id} 2 0000000000000000 {drops}"
        );
    }
    Ok(())
}

fn packets(namespace: &Namespace, out: &mut Text) -> Result<()> {
    out.push_str("sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n");
    namespace.each_socket(AF_PACKET, |socket| {
        let Some(packet) = socket.as_any().downcast_ref::<PacketSocket>() else { return };
        let (protocol, device, used) = packet.view();
        let Common { kind, uid, id, .. } = socket.common();
        let _ = writeln!(
            out,
            "0000000000000000 3      {kind:<4} {protocol:04x}   {device:<5} 1 {used:<6} {uid:<6} {id:<6}"
        );
    });
    Ok(())
}

fn unix_sockets(namespace: &Namespace, out: &mut Text) -> Result<()> {
    out.push_str("Num       RefCount Protocol Flags    Type St Inode Path\n");
    namespace.each_socket(AF_UNIX, |socket| {
        let Some(unix) = socket.as_any().downcast_ref::<unix::Socket>() else { return };
        let Common { id, kind, .. } = socket.common();
        let view = unix.view();
        let flags = if view.listening { 0x1_0000 } else { 0 };
        let state = if view.connected { 3 } else { 1 };
        let _ = write!(out, "0000000000000000: 00000002 00000000 {flags:08X} {kind:04X} {state:02X} {id:5}");
        if !view.name.is_empty() {
            // An abstract name's zeros are shown as `@`.
            let shown: Vec<u8> = view.name.iter().map(|&byte| if byte == 0 { b'@' } else { byte }).collect();
            let _ = write!(out, " {}", String::from_utf8_lossy(&shown));
        }
        out.push_str("\n");
    });
    Ok(())
}

fn netlink(namespace: &Namespace, out: &mut Text) -> Result<()> {
    out.push_str("sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n");
    namespace.each_socket(AF_NETLINK, |socket| {
        if let Some(netlink) = socket.as_any().downcast_ref::<Netlink>() {
            let (port, groups, protocol) = netlink.identity();
            let id = socket.common().id;
            let _ = writeln!(
                out,
                "0000000000000000 {protocol:<3} {port:<10} {groups:08x} 0        0        0     2        0        {id:<8}"
            );
        }
    });
    Ok(())
}

/// Sockets of a protocol; those of `IPPROTO_RAW` are all raw ones.
fn count(namespace: &Namespace, family: u16, protocol: u32) -> usize {
    let mut count = 0;
    namespace.each_socket(family, |socket| {
        let common = socket.common();
        let raw = common.kind == SOCK_RAW;
        count += usize::from(if protocol == IPPROTO_RAW { raw } else { !raw && common.protocol == protocol });
    });
    count
}

fn count_all(namespace: &Namespace, family: u16) -> usize {
    let mut count = 0;
    namespace.each_socket(family, |_| count += 1);
    count
}

fn sockstat(namespace: &Namespace) -> String {
    let families = [AF_INET, AF_INET6, AF_UNIX, AF_NETLINK, AF_PACKET];
    let all: usize = families.iter().map(|family| count_all(namespace, *family)).sum();
    let [orphans, waits] = namespace.tcp.lock().count_lingering();
    let [tcp, udp, lite, raw] =
        [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_RAW].map(|one| count(namespace, AF_INET, one));
    format!(
        "sockets: used {all}\nTCP: inuse {tcp} orphan {orphans} tw {waits} alloc {tcp} mem 0\nUDP: inuse {udp} mem 0\n\
         UDPLITE: inuse {lite}\nRAW: inuse {raw}\nFRAG: inuse 0 memory 0\n"
    )
}

fn sockstat6(namespace: &Namespace) -> String {
    let [tcp, udp, lite, raw] =
        [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_RAW].map(|one| count(namespace, AF_INET6, one));
    format!(
        "TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse {lite}\nRAW6: inuse {raw}\nFRAG6: inuse 0 memory 0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_words_of_this_machine() {
        assert_eq!(shown(AF_INET, "127.0.0.1:80".parse().unwrap()), "0100007F:0050");
        assert_eq!(shown(AF_INET6, "[::1]:1".parse().unwrap()), "00000000000000000000000001000000:0001");
        assert_eq!(shown(AF_INET6, "127.0.0.1:1".parse().unwrap()), "0000000000000000FFFF00000100007F:0001");
    }

    #[test]
    fn names_are_sorted() {
        assert!(FILES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
