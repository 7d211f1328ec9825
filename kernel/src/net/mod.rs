//! Sockets: what families have in common, AF_INET and AF_INET6 between namespaces of one machine, netlink.
//!
//! * [`socket`]: the trait that each family implements, and sockets as open files. [`option`]: `SOL_SOCKET`.
//! * [`namespace`]: what clone(2)'s `CLONE_NEWNET` makes a new one of. [`link`]: its devices. [`route`]: which way packets
//!   go. [`sysctl`]: its settings. [`counters`]: what it counts.
//! * [`inet`]: TCP, UDP, ICMP and raw sockets. [`packet`]: packets as they are on the wire. [`netlink`]: questions about all of it.
//!   [`procfs`], [`snmp`]: the same as text.
//!
//! AF_UNIX is [`crate::ipc::unix`]. Users: `syscall::socket`, `fs::proc`.

pub mod counters;
pub mod inet;
pub mod link;
pub mod namespace;
pub mod netlink;
pub mod option;
pub mod packet;
pub mod procfs;
pub mod route;
pub mod snmp;
pub mod socket;
pub mod sysctl;
pub mod uapi;

pub use namespace::Namespace;
pub use socket::{Address, Call, Common, Control, Incoming, Outgoing, Socket};

use crate::ipc::unix;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use uapi::*;

/// The virtual CPU that runs this.
fn this_cpu() -> u32 {
    umbel_smp::cpu::this().id()
}

/// socket(2). `kind` is without flags.
///
/// # Errors
/// `EAFNOSUPPORT`, `EINVAL`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, `EPERM`.
pub fn create(task: &Arc<Task>, family: u32, kind: u32, protocol: u32) -> Result<Arc<dyn Socket>> {
    check(family, kind)?;
    room()?;
    let socket: Arc<dyn Socket> = match family as u16 {
        AF_UNIX => unix::create(task, kind, protocol)?,
        AF_INET | AF_INET6 => inet::create(task, family as u16, kind, protocol)?,
        AF_NETLINK => netlink::create(task, kind, protocol)?,
        AF_PACKET => packet::create(task, kind, protocol)?,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    socket.common().namespace.register(&socket);
    Ok(socket)
}

/// socketpair(2).
///
/// # Errors
/// As [`create`]; `EOPNOTSUPP` for families without pairs.
pub fn create_pair(
    task: &Arc<Task>,
    family: u32,
    kind: u32,
    protocol: u32,
) -> Result<(Arc<dyn Socket>, Arc<dyn Socket>)> {
    check(family, kind)?;
    if family as u16 != AF_UNIX {
        create(task, family, kind, protocol)?.close();
        return Err(Errno::EOPNOTSUPP);
    }
    room()?;
    let (a, b) = unix::pair(task, kind, protocol)?;
    let (a, b): (Arc<dyn Socket>, Arc<dyn Socket>) = (a, b);
    for socket in [&a, &b] {
        socket.common().namespace.register(socket);
    }
    Ok((a, b))
}

/// Refuses new sockets while there is still room in the kernel for those that are open.
///
/// # Errors
/// `ENOBUFS`.
pub fn room() -> Result<()> {
    const MARGIN: u64 = 2 << 20;
    umbel_mm::heap::room_for(MARGIN).map_err(|_| Errno::ENOBUFS)
}

/// What a packet of IP of `len` bytes takes of a receive buffer: as much as Linux allocates for it, so that as many fit.
fn truesize(len: usize) -> usize {
    const HEADROOM: usize = 351;
    const DESCRIPTOR: usize = 256;
    const SMALL: usize = 576;
    const LINEAR: usize = 16_384;
    DESCRIPTOR
        + match len + HEADROOM {
            all if all <= SMALL => SMALL,
            all if all <= LINEAR => all.next_power_of_two(),
            // The rest lies on pages, of which only what is used is counted.
            _ => len + 548,
        }
}

fn check(family: u32, kind: u32) -> Result<()> {
    if family >= AF_MAX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if kind >= SOCK_MAX { Err(Errno::EINVAL) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::truesize;

    #[test]
    fn packets_take_what_linux_takes_for_them() {
        assert_eq!(
            [28, 225, 226, 673, 674, 3745, 3746, 59_928].map(truesize),
            [832, 832, 1280, 1280, 2304, 4352, 8448, 60_732]
        );
    }
}
