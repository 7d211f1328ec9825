//! Frames on their way: shown to packet sockets at both ends of a link, and sent by them.

use super::super::inet::datagram::input;
use super::super::inet::packet::{self, Packet};
use super::super::link::{ETH_P_IP, ETH_P_IPV6, LINK_HEADER, LOOPBACK, Traffic, change};
use super::super::namespace::Namespace;
use super::{BROADCAST, Frame, HOST, MULTICAST, OTHERHOST, OUTGOING, PacketSocket, is_used};
use crate::time;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// Where on its way a packet is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Leaving,
    Coming,
    Both,
}

/// Shows a packet of IP that goes through a device.
pub fn tap(namespace: &Namespace, device: u32, packet: &Packet<'_>, seen: Seen) {
    if !is_used() || namespace.packet.lock().is_empty() {
        return;
    }
    let protocol = if packet.to.is_ipv6() { ETH_P_IPV6 } else { ETH_P_IP };
    let Ok(packet) = packet.bytes() else { return };
    let macs = hardware_addresses(namespace, device, seen == Seen::Leaving);
    let mut bytes = Vec::new();
    if bytes.try_reserve_exact(LINK_HEADER + packet.len()).is_err() {
        return;
    }
    bytes.extend_from_slice(&macs);
    bytes.extend_from_slice(&protocol.to_be_bytes());
    bytes.extend_from_slice(&packet);
    show(namespace, device, Arc::new(bytes), seen);
}

/// The addresses of a link's header, of what leaves by a device or comes in: receiver and sender.
fn hardware_addresses(namespace: &Namespace, device: u32, leaves: bool) -> [u8; 12] {
    let own = namespace.links().device(device).map_or([0; 6], |device| device.mac);
    let far = change::other_end(namespace, device)
        .and_then(|(peer, index)| peer.links().device(index).map(|device| device.mac))
        .unwrap_or([0; 6]);
    let (to, from) = if leaves { (far, own) } else { (own, far) };
    core::array::from_fn(|i| if i < 6 { to[i] } else { from[i - 6] })
}

/// Shows a frame to all who want it.
fn show(namespace: &Namespace, device: u32, bytes: Arc<Vec<u8>>, seen: Seen) {
    let sockets: Vec<Arc<PacketSocket>> = namespace.packet.lock().iter().filter_map(Weak::upgrade).collect();
    let Some((hardware, mac)) = namespace.links().device(device).map(|own| (own.kind.hardware(), own.mac)) else {
        return;
    };
    let protocol = bytes.get(LINK_HEADER - 2..).and_then(|at| at.first_chunk()).map_or(0, |at| u16::from_be_bytes(*at));
    let coming = direction(&bytes, mac);
    let frame = Frame { bytes, direction: OUTGOING, protocol, device, hardware, at_ns: time::realtime_ns() };
    let directions: &[u8] = match seen {
        Seen::Leaving => &[OUTGOING],
        Seen::Coming => &[coming],
        Seen::Both => &[OUTGOING, coming],
    };
    for direction in directions {
        for socket in &sockets {
            socket.take_in(Frame { direction: *direction, ..frame.clone() });
        }
    }
}

/// Whom a frame that comes in is for, where the device has the address `own`.
fn direction(bytes: &[u8], own: [u8; 6]) -> u8 {
    match bytes.first_chunk() {
        Some(to) if *to == own => HOST,
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => BROADCAST,
        Some([first, ..]) if first & 1 != 0 => MULTICAST,
        _ => OTHERHOST,
    }
}

/// A frame leaves by a device, as it is.
pub(super) fn send(here: &Namespace, device: u32, bytes: Vec<u8>) {
    let bytes = Arc::new(bytes);
    if device == LOOPBACK {
        show(here, device, bytes.clone(), Seen::Both);
        return take(here, device, &bytes);
    }
    let v6 = bytes.get(LINK_HEADER - 2..LINK_HEADER) == Some(&ETH_P_IPV6.to_be_bytes());
    let traffic = Traffic { packets: 1, bytes: (bytes.len() - LINK_HEADER) as u64 };
    here.links().count_at(device, v6, traffic, false);
    show(here, device, bytes.clone(), Seen::Leaving);
    let runs = here.links().device(device).is_some_and(|own| own.is_running());
    let Some((far, index)) = change::other_end(here, device).filter(|_| runs) else { return };
    show(&far, index, bytes.clone(), Seen::Coming);
    take(&far, index, &bytes);
}

/// A frame comes in from a packet socket. What is no packet of IPv4 is nobody's.
fn take(namespace: &Namespace, device: u32, bytes: &[u8]) {
    let mac = namespace.links().device(device).map_or([0; 6], |own| own.mac);
    let is_ip = bytes.get(LINK_HEADER - 2..LINK_HEADER) == Some(&ETH_P_IP.to_be_bytes());
    let payload = bytes.get(LINK_HEADER..).unwrap_or(&[]);
    match packet::parse_v4(payload) {
        Ok(packet) if is_ip && direction(bytes, mac) == HOST => input(namespace, device, &packet),
        _ if device != LOOPBACK => {
            let traffic = Traffic { packets: 1, bytes: payload.len() as u64 };
            namespace.links().count_at(device, false, traffic, true);
        }
        _ => {}
    }
}
