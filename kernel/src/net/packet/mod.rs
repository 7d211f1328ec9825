//! AF_PACKET: the packets of devices, as they are on the wire. Source: packet(7).
//!
//! What goes through a device is shown to each of these sockets by [`wire`]: once on its way out (to those of all protocols
//! only) and once as it comes in, here or at the other end. What they send comes in as if from the wire. Connections have no packets here, so TCP is not seen.
//! [`ring`]: packets in memory that the program shares (`PACKET_RX_RING`).
//!
//! Locks: `state` (rank `Endpoint`); `ring` (sleeping, rank `PacketRing`) while a frame is written.

mod ring;
mod wire;

pub use wire::{Seen, tap};

use super::link::LINK_HEADER;
use super::option::{bytes, default_buffers, number, words};
use super::socket::{Address, Call, Common, Control, Incoming, Outgoing, Socket};
use super::uapi::*;
use crate::bpf;
use crate::fs::{IoDst, IoSrc, PollEvents};
use crate::task::{Task, cap};
use crate::vm::Mappable;
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use ring::{Ring, Settings};
use umbel_smp::lock::{Mutex, Rank, SpinLock};

/// Bytes of `struct sockaddr_ll`.
const ADDRESS: usize = 20;
/// `ETH_P_ALL`.
const ALL: u16 = 3;
/// `PACKET_HOST`, `PACKET_BROADCAST`, `PACKET_MULTICAST`, `PACKET_OTHERHOST`, `PACKET_OUTGOING`.
const HOST: u8 = 0;
const BROADCAST: u8 = 1;
const MULTICAST: u8 = 2;
const OTHERHOST: u8 = 3;
const OUTGOING: u8 = 4;

/// `SOL_PACKET`, and its options.
const SOL_PACKET: u32 = 263;
const ADD_MEMBERSHIP: u32 = 1;
const DROP_MEMBERSHIP: u32 = 2;
const RX_RING: u32 = 5;
const STATISTICS: u32 = 6;
const AUXDATA: u32 = 8;
const ORIGDEV: u32 = 9;
const VERSION: u32 = 10;
const HDRLEN: u32 = 11;
const RESERVE: u32 = 12;
const LOSS: u32 = 14;
const VNET_HDR: u32 = 15;
const TIMESTAMP: u32 = 17;
const QDISC_BYPASS: u32 = 20;

/// Packet sockets of the machine: to look at without a lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A packet as it is seen.
#[derive(Clone)]
struct Frame {
    /// From the link's header on.
    bytes: Arc<Vec<u8>>,
    direction: u8,
    protocol: u16,
    /// The device, and what it is (`ARPHRD_*`).
    device: u32,
    hardware: u16,
    at_ns: u64,
}

impl Frame {
    fn cost(&self) -> usize {
        super::truesize(self.bytes.len().saturating_sub(LINK_HEADER))
    }

    /// Where it comes from, as a `struct sockaddr_ll`.
    fn address(&self) -> Address {
        let sender = self.bytes.get(6..).and_then(|at| at.first_chunk()).copied().unwrap_or_default();
        address(self.protocol, self.device, self.hardware, self.direction, sender)
    }
}

struct State {
    /// `ETH_P_*`; 0 = nothing is received. Bound to the device, or to all.
    protocol: u16,
    device: u32,
    queue: VecDeque<Frame>,
    used: usize,
    /// `PACKET_STATISTICS`.
    seen: u32,
    drops: u32,
    auxdata: bool,
    settings: Settings,
    /// Groups that it has joined: `struct packet_mreq`.
    groups: Vec<[u8; 16]>,
    flags: u32,
}

/// See the module.
pub struct PacketSocket {
    common: Common,
    state: SpinLock<State>,
    ring: Mutex<Option<Ring>>,
    has_ring: AtomicBool,
}

/// socket(2). `protocol` is in the network's order.
///
/// # Errors
/// `EPERM`, `ESOCKTNOSUPPORT`.
pub fn create(task: &Arc<Task>, kind: u32, protocol: u32) -> Result<Arc<dyn Socket>> {
    if !task.net_capable(cap::NET_RAW) {
        return Err(Errno::EPERM);
    }
    if !matches!(kind, SOCK_RAW | SOCK_DGRAM) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    let common = Common::new(task, (AF_PACKET, kind, protocol), default_buffers());
    let state = State {
        protocol: (protocol as u16).swap_bytes(),
        device: 0,
        queue: VecDeque::new(),
        used: 0,
        seen: 0,
        drops: 0,
        auxdata: false,
        settings: Settings::default(),
        groups: Vec::new(),
        flags: 0,
    };
    let socket = Arc::new(PacketSocket {
        common,
        state: SpinLock::new(Rank::Endpoint, state),
        ring: Mutex::new(Rank::PacketRing, None),
        has_ring: AtomicBool::new(false),
    });
    let weak: Weak<PacketSocket> = Arc::downgrade(&socket);
    let mut list = socket.common.namespace.packet.lock();
    list.try_reserve(1).map_err(|_| Errno::ENOBUFS)?;
    list.push(weak);
    drop(list);
    COUNT.fetch_add(1, Relaxed);
    Ok(socket)
}

/// Whether there are any such sockets.
pub fn is_used() -> bool {
    COUNT.load(Relaxed) > 0
}

/// Writes a `struct sockaddr_ll`, with the sender's address of the hardware.
fn address(protocol: u16, device: u32, hardware: u16, direction: u8, sender: [u8; 6]) -> Address {
    let mut bytes = AF_PACKET.to_le_bytes().to_vec();
    bytes.extend_from_slice(&protocol.to_be_bytes());
    bytes.extend_from_slice(&device.to_le_bytes());
    let hardware = if device == 0 { 0 } else { hardware };
    bytes.extend_from_slice(&hardware.to_le_bytes());
    bytes.extend_from_slice(&[direction, if device == 0 { 0 } else { 6 }]);
    if device != 0 {
        bytes.extend_from_slice(&sender);
    }
    bytes
}

/// Reads one: protocol and device.
fn parse(addr: &[u8]) -> Result<(u16, u32)> {
    let bytes: &[u8; ADDRESS] = addr.first_chunk().ok_or(Errno::EINVAL)?;
    if bytes.first_chunk() != Some(&AF_PACKET.to_le_bytes()) {
        return Err(Errno::EINVAL);
    }
    let [_, _, a, b, c, d, e, f, ..] = *bytes;
    Ok((u16::from_be_bytes([a, b]), u32::from_le_bytes([c, d, e, f])))
}

impl PacketSocket {
    /// For `/proc/net/packet`: protocol, device, bytes in use.
    pub fn view(&self) -> (u16, u32, usize) {
        let state = self.state.lock();
        (state.protocol, state.device, state.used)
    }

    /// Bytes of a frame that the socket does not show.
    fn hidden(&self) -> usize {
        if self.common.kind == SOCK_RAW { 0 } else { LINK_HEADER }
    }

    fn take_in(&self, frame: Frame) {
        {
            let state = self.state.lock();
            let comes_in = frame.direction != OUTGOING;
            let wanted = state.protocol == ALL || (state.protocol == frame.protocol && comes_in);
            if state.protocol == 0 || !wanted || state.device != 0 && state.device != frame.device {
                return;
            }
        }
        let Some(length) = self.filter(&frame) else { return };
        if self.has_ring.load(Acquire) {
            return self.put_in_ring(&frame, length);
        }
        let frame = match length < frame.bytes.len() {
            true => Frame { bytes: Arc::new(frame.bytes.get(..length).unwrap_or(&[]).to_vec()), ..frame },
            false => frame,
        };
        let room = self.common.receive_buffer.load(Relaxed) as usize;
        {
            let mut state = self.state.lock();
            state.seen = state.seen.saturating_add(1);
            // The last one may go beyond the end.
            if state.used >= room || state.queue.try_reserve(1).is_err() {
                state.drops = state.drops.saturating_add(1);
                return;
            }
            state.used += frame.cost();
            state.queue.push_back(frame);
        }
        self.common.readers.wake_all();
    }

    /// How many bytes the socket's filter leaves of a frame; `None`: it does not want it.
    fn filter(&self, frame: &Frame) -> Option<usize> {
        let all = frame.bytes.len();
        let Some(program) = self.common.filter() else { return Some(all) };
        let hidden = self.hidden();
        let kept = program.run(&bpf::Packet {
            bytes: frame.bytes.get(hidden..)?,
            protocol: frame.protocol,
            direction: u32::from(frame.direction),
            device: frame.device,
            hardware: u32::from(frame.hardware),
            network: LINK_HEADER - hidden,
        });
        (kept > 0).then(|| (kept as usize).saturating_add(hidden).min(all))
    }

    fn put_in_ring(&self, frame: &Frame, length: usize) {
        let written = match self.ring.lock().as_mut() {
            Some(ring) => {
                let sender = frame.address();
                ring.put(
                    frame.bytes.get(..length).unwrap_or(&[]),
                    frame.bytes.len(),
                    self.hidden(),
                    &sender,
                    frame.at_ns,
                )
            }
            None => false,
        };
        {
            let mut state = self.state.lock();
            state.seen = state.seen.saturating_add(1);
            state.drops = state.drops.saturating_add(u32::from(!written));
        }
        if written {
            self.common.readers.wake_all();
        }
    }

    fn take(&self, peek: bool) -> Option<Frame> {
        let mut state = self.state.lock();
        if peek {
            return state.queue.front().cloned();
        }
        let frame = state.queue.pop_front()?;
        state.used -= frame.cost();
        Some(frame)
    }

    /// Where a send call sends: the protocol, the device and its `mtu`.
    fn destination(&self, to: &[u8]) -> Result<(u16, u32, usize)> {
        let (protocol, device) = match to {
            [] => {
                let state = self.state.lock();
                (state.protocol, state.device)
            }
            to => parse(to)?,
        };
        let links = self.common.namespace.links();
        let own = links.device(device).ok_or(Errno::ENXIO)?;
        if !own.up {
            return Err(Errno::ENETDOWN);
        }
        Ok((protocol, device, own.mtu as usize))
    }

    fn set_packet_option(&self, name: u32, value: &[u8]) -> Result<()> {
        match name {
            ADD_MEMBERSHIP | DROP_MEMBERSHIP => return self.set_member(value, name == ADD_MEMBERSHIP),
            RX_RING => return self.set_ring(value),
            _ => {}
        }
        let number = number(value)?;
        let ring = self.ring.lock();
        let mut state = self.state.lock();
        match name {
            VERSION | RESERVE | VNET_HDR if ring.is_some() => Err(Errno::EBUSY),
            VERSION if !(0..=2).contains(&number) => Err(Errno::EINVAL),
            VERSION => {
                state.settings.version = number as u32;
                Ok(())
            }
            RESERVE => {
                state.settings.reserve = u32::try_from(number).map_err(|_| Errno::EINVAL)?;
                Ok(())
            }
            VNET_HDR if self.common.kind != SOCK_RAW => Err(Errno::EINVAL),
            VNET_HDR => {
                state.settings.vnet_header = number != 0;
                Ok(())
            }
            AUXDATA => {
                state.auxdata = number != 0;
                Ok(())
            }
            // There is one device, its time is the kernel's, and it has no queue to go round.
            ORIGDEV | LOSS | QDISC_BYPASS => {
                let bit = 1 << name;
                state.flags = if number != 0 { state.flags | bit } else { state.flags & !bit };
                Ok(())
            }
            TIMESTAMP if number == 0 => Ok(()),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_member(&self, value: &[u8], joins: bool) -> Result<()> {
        const KINDS: u16 = 3;
        let group: [u8; 16] = *value.first_chunk().ok_or(Errno::EINVAL)?;
        let [a, b, c, d, e, f, ..] = group;
        if joins && self.common.namespace.links().device(u32::from_le_bytes([a, b, c, d])).is_none() {
            return Err(Errno::ENODEV);
        }
        if u16::from_le_bytes([e, f]) > KINDS {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        let at = state.groups.iter().position(|own| *own == group);
        match (joins, at) {
            (true, None) => {
                state.groups.try_reserve(1).map_err(|_| Errno::ENOBUFS)?;
                state.groups.push(group);
            }
            (false, Some(at)) => drop(state.groups.swap_remove(at)),
            _ => {}
        }
        Ok(())
    }

    fn set_ring(&self, value: &[u8]) -> Result<()> {
        let mut ring = self.ring.lock();
        let settings = self.state.lock().settings;
        let new = Ring::new(settings, value, ring.is_some())?;
        self.has_ring.store(new.is_some(), Release);
        *ring = new;
        Ok(())
    }
}

impl Socket for PacketSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, _: &Call<'_>, addr: &[u8]) -> Result<()> {
        let (protocol, device) = parse(addr)?;
        let up = match device {
            0 => true,
            device => self.common.namespace.links().device(device).ok_or(Errno::ENODEV)?.up,
        };
        {
            let mut state = self.state.lock();
            if protocol != 0 {
                state.protocol = protocol;
            }
            state.device = device;
        }
        if !up {
            self.common.fail(Errno::ENETDOWN);
        }
        Ok(())
    }

    fn name(&self) -> Result<Address> {
        let (protocol, device) = {
            let state = self.state.lock();
            (state.protocol, state.device)
        };
        let links = self.common.namespace.links();
        let (hardware, mac) = links.device(device).map_or((0, [0; 6]), |own| (own.kind.hardware(), own.mac));
        Ok(address(protocol, device, hardware, 0, mac))
    }

    fn peer_name(&self) -> Result<Address> {
        Err(Errno::EOPNOTSUPP)
    }

    fn send(&self, _: &Call<'_>, src: &mut IoSrc<'_>, message: Outgoing) -> Result<usize> {
        let (wanted, device, mtu) = self.destination(&message.to)?;
        let (len, hidden) = (src.remaining(), self.hidden());
        if len + hidden > mtu + LINK_HEADER {
            return Err(Errno::EMSGSIZE);
        }
        if len + hidden < LINK_HEADER {
            return Err(Errno::EINVAL);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len + hidden).map_err(|_| Errno::ENOBUFS)?;
        bytes.resize(len + hidden, 0);
        if hidden > 0 {
            bytes[hidden - 2..hidden].copy_from_slice(&wanted.to_be_bytes());
            if let Some(to) = message.to.get(12..18) {
                bytes[..6].copy_from_slice(to);
            }
            if let Some(own) = self.common.namespace.links().device(device) {
                bytes[6..12].copy_from_slice(&own.mac);
            }
        }
        if src.read(&mut bytes[hidden..])? < len {
            return Err(Errno::EFAULT);
        }
        wire::send(&self.common.namespace, device, bytes);
        Ok(len)
    }

    fn receive(&self, call: &Call<'_>, dst: &mut IoDst<'_>) -> Result<Incoming> {
        const KNOWN: u32 = MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_ERRQUEUE | MSG_CMSG_CLOEXEC | MSG_NOSIGNAL;
        if call.flags & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        if call.has(MSG_ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        let look = || match self.take(call.has(MSG_PEEK)) {
            Some(frame) => Some(Ok(frame)),
            None => self.common.take_error().map(Err),
        };
        let frame = self.common.wait_readable(call.nonblock, look)??;
        let shown = frame.bytes.get(self.hidden()..).unwrap_or(&[]);
        let full = shown.len();
        let count = dst.write(shown.get(..full.min(dst.remaining())).unwrap_or(&[]))?;
        let mut control = Vec::new();
        if self.state.lock().auxdata {
            // tp_status: user; lengths; where the link's and the network's header begin; no VLAN.
            let mut bytes = words(&[1, full as u32, full as u32]);
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&((LINK_HEADER - self.hidden()) as u16).to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            control.push(Control { level: SOL_PACKET, kind: AUXDATA, bytes });
        }
        let mut from = frame.address();
        from.resize(ADDRESS, 0);
        Ok(Incoming { count, full, from, control, ..Incoming::default() })
    }

    fn option(&self, _: &Arc<Task>, level: u32, name: u32, room: usize) -> Result<Vec<u8>> {
        if level != SOL_PACKET {
            return Err(Errno::ENOPROTOOPT);
        }
        let mut state = self.state.lock();
        Ok(match name {
            STATISTICS => {
                let counts = [core::mem::take(&mut state.seen), core::mem::take(&mut state.drops), 0];
                let shown = if state.settings.version == 2 { 3 } else { 2 };
                words(counts.get(..shown).unwrap_or(&counts))
            }
            AUXDATA => bytes(u32::from(state.auxdata)),
            VERSION => bytes(state.settings.version),
            RESERVE => bytes(state.settings.reserve),
            VNET_HDR => bytes(u32::from(state.settings.vnet_header)),
            HDRLEN if room < 4 => return Err(Errno::EINVAL),
            // The length that the version has which the caller asks about; it lies in the value, which is not read: the present one.
            HDRLEN => bytes(state.settings.header()),
            ORIGDEV | LOSS | QDISC_BYPASS => bytes(state.flags >> name & 1),
            TIMESTAMP => bytes(0),
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    fn set_option(&self, _: &Arc<Task>, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level == SOL_PACKET { self.set_packet_option(name, value) } else { Err(Errno::ENOPROTOOPT) }
    }

    fn poll(&self) -> PollEvents {
        let mut events = PollEvents::WRITABLE;
        let filled = self.has_ring.load(Acquire) && self.ring.lock().as_ref().is_some_and(Ring::has_packets);
        if filled || !self.state.lock().queue.is_empty() {
            events |= PollEvents::READABLE;
        }
        if self.common.has_error() {
            events |= PollEvents::ERR;
        }
        events
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        self.ring.lock().as_ref().ok_or(Errno::EINVAL)?.mappable()
    }

    fn waiting(&self) -> usize {
        let hidden = self.hidden();
        self.state.lock().queue.front().map_or(0, |frame| frame.bytes.len().saturating_sub(hidden))
    }

    fn close(&self) {
        self.common.namespace.packet.lock().retain(|other| !core::ptr::eq(other.as_ptr(), self));
        COUNT.fetch_sub(1, Relaxed);
        self.common.namespace.forget(self.common.id);
        self.common.wake();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let mut bytes = address(0x800, 1, 772, OUTGOING, [0; 6]);
        assert_eq!((bytes.len(), bytes[10], bytes[11]), (18, OUTGOING, 6));
        assert_eq!(parse(&bytes), Err(Errno::EINVAL));
        bytes.resize(ADDRESS, 0);
        assert_eq!(parse(&bytes), Ok((0x800, 1)));
    }
}
