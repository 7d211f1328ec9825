//! NETLINK_SOCK_DIAG: sockets, as ss(8) asks for them. Source: sock_diag(7).

use super::message::{Answer, Request};
use crate::ipc::unix;
use crate::net::inet::addr::as_v6;
use crate::net::inet::datagram::{Datagram, Protocol};
use crate::net::inet::table::Lingering;
use crate::net::inet::tcp::{TcpSocket, state_number};
use crate::net::socket::Socket;
use crate::net::uapi::*;
use crate::net::{Common, Namespace};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_INFO`, `INET_DIAG_SKMEMINFO`, `INET_DIAG_SHUTDOWN`.
const INFO: u16 = 2;
/// Shortest requests.
const INET_REQUEST: usize = 56;
const UNIX_REQUEST: usize = 24;

/// Answers a request.
///
/// # Errors
/// `EINVAL`, `ENOENT` for families that are not listed.
pub fn answer(namespace: &Namespace, request: &Request<'_>, out: &mut Answer) -> Result<()> {
    if request.kind != BY_FAMILY {
        return Err(Errno::EINVAL);
    }
    let least = if u16::from(request.byte(0)) == AF_UNIX { UNIX_REQUEST } else { INET_REQUEST };
    match u16::from(request.byte(0)) {
        AF_UNIX | AF_INET | AF_INET6 if request.body.len() < least => Err(Errno::EINVAL),
        AF_UNIX => {
            unix_sockets(namespace, request, out);
            Ok(())
        }
        family @ (AF_INET | AF_INET6) => {
            match u32::from(request.byte(1)) {
                IPPROTO_TCP => tcp_sockets(namespace, family, request, out),
                IPPROTO_UDP => datagrams(namespace, family, Protocol::Udp, request, out),
                _ => return Err(Errno::ENOENT),
            }
            Ok(())
        }
        _ => Err(Errno::ENOENT),
    }
}

/// One socket's line.
struct Line<'a> {
    family: u16,
    state: u8,
    local: SocketAddr,
    remote: SocketAddr,
    waiting: (usize, usize),
    common: Option<&'a Common>,
}

fn inet_line(line: &Line<'_>, out: &mut Answer) {
    let mut fixed = alloc::vec![line.family as u8, line.state, 0, 0];
    fixed.extend_from_slice(&line.local.port().to_be_bytes());
    fixed.extend_from_slice(&line.remote.port().to_be_bytes());
    for ip in [line.local.ip(), line.remote.ip()] {
        let mut octets = match (line.family, ip) {
            (AF_INET, IpAddr::V4(ip)) => ip.octets().to_vec(),
            (AF_INET, IpAddr::V6(_)) => Vec::new(),
            (_, ip) => as_v6(ip).octets().to_vec(),
        };
        octets.resize(16, 0);
        fixed.extend(octets);
    }
    let (id, uid) = line.common.map_or((0, 0), |common| (common.id, common.uid));
    let device = line.common.map_or(0, |common| common.device.load(core::sync::atomic::Ordering::Relaxed));
    let words = [device, id as u32, (id >> 32) as u32, 0, line.waiting.0 as u32, line.waiting.1 as u32, uid, id as u32];
    fixed.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    out.begin(BY_FAMILY, &fixed);
}

fn tcp_sockets(namespace: &Namespace, family: u16, request: &Request<'_>, out: &mut Answer) {
    let states = request.word(4);
    // What there is no room for is not listed.
    let Ok(listeners) = namespace.tcp.lock().listeners() else { return };
    for socket in listeners.iter().filter(|_| states >> state_number::LISTEN & 1 != 0) {
        tcp_socket(socket, family, request, out);
    }
    let Ok(connections) = namespace.tcp.lock().connections() else { return };
    for ((local, remote), socket, lingering) in connections {
        match (socket.filter(|_| lingering.is_none()), lingering) {
            (Some(socket), _) => tcp_socket(&socket, family, request, out),
            (None, Some((how, _))) => {
                let state = if how == Lingering::TimeWait { state_number::TIME_WAIT } else { state_number::FIN_WAIT2 };
                if states >> state & 1 != 0 && local.is_ipv4() == (family == AF_INET) {
                    inet_line(&Line { family, state, local, remote, waiting: (0, 0), common: None }, out);
                    out.end();
                }
            }
            (None, None) => {}
        }
    }
}

fn tcp_socket(socket: &TcpSocket, family: u16, request: &Request<'_>, out: &mut Answer) {
    let common = socket.common();
    let state = socket.state_number();
    if common.family() != family || request.word(4) >> state & 1 == 0 {
        return;
    }
    let (local, remote) = socket.addresses();
    let none = SocketAddr::new(local.ip(), 0);
    let waiting = if state == state_number::LISTEN { socket.backlog() } else { (socket.waiting(), 0) };
    let remote = remote.unwrap_or(if family == AF_INET { super::super::inet::addr::none(family) } else { none });
    inet_line(&Line { family, state, local, remote, waiting, common: Some(common) }, out);
    if request.byte(2) >> (INFO - 1) & 1 != 0 {
        out.attribute(INFO, &socket.info());
    }
    out.end();
}

fn datagrams(namespace: &Namespace, family: u16, protocol: Protocol, request: &Request<'_>, out: &mut Answer) {
    let Ok(sockets) = namespace.udp.lock().sockets() else { return };
    for socket in &sockets {
        let Some(socket) = socket.as_any().downcast_ref::<Datagram>() else { continue };
        let (local, remote) = socket.addresses();
        let state = if remote.is_some() { state_number::ESTABLISHED } else { state_number::CLOSE };
        if socket.common().family() != family || socket.protocol() != protocol || request.word(4) >> state & 1 == 0 {
            continue;
        }
        let remote = remote.unwrap_or(super::super::inet::addr::none(family));
        let waiting = (socket.queue().0, 0);
        inet_line(&Line { family, state, local, remote, waiting, common: Some(socket.common()) }, out);
        out.end();
    }
}

fn unix_sockets(namespace: &Namespace, request: &Request<'_>, out: &mut Answer) {
    let states = request.word(4);
    namespace.each_socket(AF_UNIX, |socket| {
        let Some(unix) = socket.as_any().downcast_ref::<unix::Socket>() else { return };
        let view = unix.view();
        let state = if view.listening {
            state_number::LISTEN
        } else if view.connected {
            state_number::ESTABLISHED
        } else {
            state_number::CLOSE
        };
        if states >> state & 1 == 0 {
            return;
        }
        let id = socket.common().id;
        let mut fixed = alloc::vec![AF_UNIX as u8, socket.common().kind as u8, state, 0];
        fixed.extend([id as u32, id as u32, (id >> 32) as u32].iter().flat_map(|word| word.to_le_bytes()));
        out.begin(BY_FAMILY, &fixed);
        if !view.name.is_empty() {
            out.attribute(0, &view.name);
        }
        if let Some(peer) = view.peer {
            out.number(2, peer as u32);
        }
        let queue: Vec<u8> =
            [view.waiting as u32, view.room as u32].iter().flat_map(|word| word.to_le_bytes()).collect();
        out.attribute(4, &queue);
        out.number(7, socket.common().uid);
        out.end();
    });
}
