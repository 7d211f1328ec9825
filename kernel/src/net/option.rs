//! Options of `SOL_SOCKET`: those that mean the same for every family. Source: socket(7).

use super::socket::{Common, Control, Socket};
use super::uapi::*;
use crate::bpf::{Kind, Program};
use crate::setting::Setting;
use crate::task::{Task, cap};
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use umbel_mm::user::UserAddr;

/// Options that are on or off, by number.
#[derive(Default)]
pub struct Switches(AtomicU64, AtomicU64);

impl Switches {
    /// Whether the option is on.
    pub fn get(&self, option: u32) -> bool {
        self.word(option).load(Relaxed) >> (option % 64) & 1 != 0
    }

    /// Turns it on or off.
    pub fn set(&self, option: u32, on: bool) {
        let bit = 1 << (option % 64);
        match on {
            true => self.word(option).fetch_or(bit, Relaxed),
            false => self.word(option).fetch_and(!bit, Relaxed),
        };
    }

    /// Takes over those of another socket.
    pub fn copy(&self, from: &Switches) {
        self.0.store(from.0.load(Relaxed), Relaxed);
        self.1.store(from.1.load(Relaxed), Relaxed);
    }

    fn word(&self, option: u32) -> &AtomicU64 {
        if option < 64 { &self.0 } else { &self.1 }
    }
}

/// Options that only are on or off.
const SWITCHES: &[u32] = &[
    so::DEBUG,
    so::REUSEADDR,
    so::DONTROUTE,
    so::BROADCAST,
    so::KEEPALIVE,
    so::OOBINLINE,
    so::NO_CHECK,
    so::REUSEPORT,
    so::PASSCRED,
    so::TIMESTAMP,
    so::PASSSEC,
    so::TIMESTAMPNS,
    so::RXQ_OVFL,
    so::WIFI_STATUS,
    so::NOFCS,
    so::LOCK_FILTER,
    so::SELECT_ERR_QUEUE,
    so::ZEROCOPY,
    so::TIMESTAMP_NEW,
    so::TIMESTAMPNS_NEW,
    so::PREFER_BUSY_POLL,
    so::RCVMARK,
    so::PASSPIDFD,
];

/// Least `SO_RCVBUF`, `SO_SNDBUF`.
const RECEIVE_MIN: u32 = 2304;
const SEND_MIN: u32 = 4608;
/// Most that `SO_*BUFFORCE` gives, before it is doubled.
const FORCED_MAX: u64 = i32::MAX as u64 / 2;
/// `net.core.*mem_max`: most that `SO_RCVBUF`, `SO_SNDBUF` give, before it is doubled.
pub static RECEIVE_MAX: Setting = Setting::new(4 << 20, RECEIVE_MIN as u64, i32::MAX as u64);
pub static SEND_MAX: Setting = Setting::new(4 << 20, SEND_MIN as u64, i32::MAX as u64);
/// `net.core.*mem_default`: buffers of a new socket.
pub static RECEIVE_DEFAULT: Setting = Setting::new(212_992, RECEIVE_MIN as u64, i32::MAX as u64);
pub static SEND_DEFAULT: Setting = Setting::new(212_992, SEND_MIN as u64, i32::MAX as u64);

/// Buffers of a new socket, but for one of TCP.
pub fn default_buffers() -> (u32, u32) {
    (RECEIVE_DEFAULT.get() as u32, SEND_DEFAULT.get() as u32)
}

/// The number that a value begins with.
///
/// # Errors
/// `EINVAL` if it is shorter.
pub fn number(value: &[u8]) -> Result<i32> {
    value.first_chunk().map(|bytes| i32::from_le_bytes(*bytes)).ok_or(Errno::EINVAL)
}

/// A number as a value.
pub fn bytes(number: u32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

/// Words as a value.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// getsockopt(2). `room`: bytes that the caller takes.
///
/// # Errors
/// `ENOPROTOOPT`, `EOPNOTSUPP`, …
pub fn get(task: &Arc<Task>, socket: &Arc<dyn Socket>, level: u32, name: u32, room: usize) -> Result<Vec<u8>> {
    if level != SOL_SOCKET {
        return socket.option(task, level, name, room);
    }
    let common = socket.common();
    let value = match name {
        name if SWITCHES.contains(&name) && name != so::PASSCRED && name != so::PASSPIDFD && name != so::PASSSEC => {
            u32::from(common.switches.get(name))
        }
        so::PASSCRED | so::PASSSEC | so::PASSPIDFD if !matches!(common.family(), AF_UNIX | AF_NETLINK) => {
            return Err(Errno::EOPNOTSUPP);
        }
        so::PASSCRED | so::PASSSEC | so::PASSPIDFD => u32::from(common.switches.get(name)),
        so::TYPE => common.kind,
        so::ERROR => common.take_error().map_or(0, |error| error.raw() as u32),
        so::SNDBUF => common.send_buffer.load(Relaxed),
        so::RCVBUF => common.receive_buffer.load(Relaxed),
        so::PRIORITY => common.priority.load(Relaxed),
        so::MARK => common.mark.load(Relaxed),
        so::RCVLOWAT => common.receive_low.load(Relaxed),
        so::SNDLOWAT => 1,
        so::ACCEPTCONN => u32::from(socket.is_listening()),
        so::PROTOCOL => common.protocol,
        so::DOMAIN => u32::from(common.family()),
        so::BUSY_POLL | so::INCOMING_NAPI_ID => 0,
        so::BPF_EXTENSIONS => 64,
        so::INCOMING_CPU => crate::net::this_cpu(),
        so::BINDTOIFINDEX => common.device.load(Relaxed),
        so::BUF_LOCK => common.buffer_locks.load(Relaxed),
        so::TXREHASH => 1,
        so::MAX_PACING_RATE if room >= 8 => return Ok(u64::MAX.to_le_bytes().to_vec()),
        so::MAX_PACING_RATE => u32::MAX,
        so::PEEK_OFF if common.family() == AF_UNIX => common.peek_offset.load(Relaxed) as u32,
        so::PEERCRED if common.family() != AF_UNIX => return Ok(words(&[0, u32::MAX, u32::MAX])),
        so::COOKIE if room < 8 => return Err(Errno::EINVAL),
        so::COOKIE => return Ok(common.id.to_le_bytes().to_vec()),
        so::NETNS_COOKIE if room != 8 => return Err(Errno::EINVAL),
        so::NETNS_COOKIE => return Ok(common.namespace.id.to_le_bytes().to_vec()),
        so::LINGER => {
            let seconds = common.linger.load(Relaxed);
            let kept = if seconds < 0 { -1 - seconds } else { seconds };
            return Ok(words(&[u32::from(seconds >= 0), kept as u32]));
        }
        so::RCVTIMEO | so::RCVTIMEO_NEW => return Ok(timeval(&common.receive_timeout_ns)),
        so::SNDTIMEO | so::SNDTIMEO_NEW => return Ok(timeval(&common.send_timeout_ns)),
        so::PEERNAME => return peer_name(socket, room),
        so::BINDTODEVICE => {
            let links = common.namespace.links();
            return Ok(links
                .device(common.device.load(Relaxed))
                .map_or(Vec::new(), |own| own.name.c_string().to_vec()));
        }
        so::MEMINFO => return Ok(memory(socket)),
        so::ATTACH_FILTER => return filter_words(common, room),
        so::PEERGROUPS if common.family() != AF_UNIX => return Err(Errno::ENODATA),
        _ => return socket.option(task, level, name, room),
    };
    Ok(bytes(value))
}

fn timeval(ns: &AtomicU64) -> Vec<u8> {
    let ns = ns.load(Relaxed);
    [ns / time::SEC_NS, ns % time::SEC_NS / 1000].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `SO_GET_FILTER`: `room` is a number of instructions.
fn filter_words(common: &Common, room: usize) -> Result<Vec<u8>> {
    let Some(program) = common.filter() else { return Ok(Vec::new()) };
    if room != 0 && room < program.count() {
        return Err(Errno::EINVAL);
    }
    Ok(program.words().flat_map(u64::to_le_bytes).collect())
}

fn peer_name(socket: &Arc<dyn Socket>, room: usize) -> Result<Vec<u8>> {
    let name = socket.peer_name()?;
    if name.len() < room { Err(Errno::EINVAL) } else { Ok(name) }
}

/// The control message that tells when something came, if the socket wants it.
pub fn stamp(common: &Common, at_ns: u64) -> Option<Control> {
    let [sec, ns] = [at_ns / time::SEC_NS, at_ns % time::SEC_NS];
    let (kind, parts) = match &common.switches {
        switches if switches.get(so::TIMESTAMPNS) => (so::TIMESTAMPNS, [sec, ns]),
        switches if switches.get(so::TIMESTAMP) => (so::TIMESTAMP, [sec, ns / 1000]),
        _ => return None,
    };
    Some(Control { level: SOL_SOCKET, kind, bytes: parts.iter().flat_map(|part| part.to_le_bytes()).collect() })
}

/// `SK_MEMINFO_*`.
fn memory(socket: &Arc<dyn Socket>) -> Vec<u8> {
    let common = socket.common();
    let waiting = socket.waiting() as u32;
    let (receive, send) = (common.receive_buffer.load(Relaxed), common.send_buffer.load(Relaxed));
    words(&[waiting, receive, 0, send, 0, 0, 0, 0, 0])
}

/// setsockopt(2).
///
/// # Errors
/// `ENOPROTOOPT`, `EINVAL`, `EPERM`, `EDOM`, …
pub fn set(task: &Arc<Task>, socket: &Arc<dyn Socket>, level: u32, name: u32, value: &[u8]) -> Result<()> {
    if level != SOL_SOCKET {
        return socket.set_option(task, level, name, value);
    }
    let common = socket.common();
    match name {
        so::BINDTODEVICE => return bind_to_device(common, value),
        so::RCVTIMEO | so::RCVTIMEO_NEW => return set_timeout(&common.receive_timeout_ns, value),
        so::SNDTIMEO | so::SNDTIMEO_NEW => return set_timeout(&common.send_timeout_ns, value),
        _ => {}
    }
    let number = number(value)?;
    match name {
        so::TYPE | so::PROTOCOL | so::DOMAIN | so::ERROR | so::ACCEPTCONN | so::PEERCRED | so::SNDLOWAT => {
            Err(Errno::ENOPROTOOPT)
        }
        so::PASSCRED | so::PASSSEC | so::PASSPIDFD if !matches!(common.family(), AF_UNIX | AF_NETLINK) => {
            Err(Errno::EOPNOTSUPP)
        }
        so::DEBUG if number != 0 && !task.net_capable(cap::NET_ADMIN) => Err(Errno::EACCES),
        so::REUSEPORT if number != 0 && !matches!(common.family(), AF_INET | AF_INET6) => Err(Errno::EOPNOTSUPP),
        so::ZEROCOPY if !matches!(common.family(), AF_INET | AF_INET6) => Err(Errno::EOPNOTSUPP),
        so::ZEROCOPY if !(0..=1).contains(&number) => Err(Errno::EINVAL),
        so::LOCK_FILTER if number == 0 && common.switches.get(name) => Err(Errno::EPERM),
        name if SWITCHES.contains(&name) => {
            common.switches.set(name, number != 0);
            socket.set_option(task, level, name, value).or(Ok(()))
        }
        so::SNDBUF | so::SNDBUFFORCE => {
            set_buffer(task, &common.send_buffer, number, SEND_MIN, (name == so::SNDBUF).then_some(&SEND_MAX))?;
            // The stream's room follows what is set by hand (`SO_BUF_LOCK`).
            common.buffer_locks.fetch_or(1, Relaxed);
            socket.buffers_changed();
            Ok(())
        }
        so::RCVBUF | so::RCVBUFFORCE => {
            set_buffer(
                task,
                &common.receive_buffer,
                number,
                RECEIVE_MIN,
                (name == so::RCVBUF).then_some(&RECEIVE_MAX),
            )?;
            common.buffer_locks.fetch_or(2, Relaxed);
            Ok(())
        }
        so::LINGER => set_linger(common, number, value),
        so::RCVLOWAT => {
            let low = if number < 0 { i32::MAX } else { number.max(1) };
            common.receive_low.store(low as u32, Relaxed);
            Ok(())
        }
        so::PRIORITY => privileged(task, (0..=6).contains(&number), &common.priority, number as u32),
        so::MARK => privileged(task, false, &common.mark, number as u32),
        so::PEEK_OFF if common.family() == AF_UNIX => {
            common.peek_offset.store(number.max(-1), Relaxed);
            Ok(())
        }
        so::BINDTOIFINDEX if number < 0 => Err(Errno::EINVAL),
        so::BINDTOIFINDEX if number != 0 && common.namespace.links().device(number as u32).is_none() => {
            Err(Errno::ENODEV)
        }
        so::BINDTOIFINDEX => {
            common.device.store(number as u32, Relaxed);
            Ok(())
        }
        so::BUSY_POLL if number < 0 => Err(Errno::EINVAL),
        so::BUSY_POLL if number > 0 && !task.net_capable(cap::NET_ADMIN) => Err(Errno::EPERM),
        so::BUF_LOCK if number as u32 & !3 != 0 => Err(Errno::EINVAL),
        so::BUF_LOCK => {
            common.buffer_locks.store(number as u32, Relaxed);
            Ok(())
        }
        // No queue, no pacing, no device to hint at: there is nothing that these would change.
        so::BUSY_POLL | so::MAX_PACING_RATE | so::BSDCOMPAT | so::INCOMING_CPU | so::TXREHASH => Ok(()),
        so::CNX_ADVICE | so::BUSY_POLL_BUDGET => Ok(()),
        so::ATTACH_FILTER if value.len() != 16 => Err(Errno::EINVAL),
        so::ATTACH_FILTER | so::DETACH_FILTER if common.switches.get(so::LOCK_FILTER) => Err(Errno::EPERM),
        so::DETACH_FILTER => common.set_filter(None).map(drop).ok_or(Errno::ENOENT),
        so::ATTACH_FILTER => {
            let code = value.get(8..).and_then(|at| at.first_chunk()).map_or(0, |at| u64::from_le_bytes(*at));
            let program = Program::read(number as u16, UserAddr(code), Kind::Packets)?;
            common.set_filter(Some(Arc::new(program)));
            Ok(())
        }
        _ => socket.set_option(task, level, name, value),
    }
}

fn set_timeout(timeout: &AtomicU64, value: &[u8]) -> Result<()> {
    let word = |at: usize| value.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| i64::from_le_bytes(*bytes));
    let (Some(sec), Some(usec)) = (word(0), word(8)) else { return Err(Errno::EINVAL) };
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    // A negative one is over at once.
    let ns = if sec < 0 { 1 } else { (sec as u64).saturating_mul(time::SEC_NS).saturating_add(usec as u64 * 1000) };
    timeout.store(ns, Relaxed);
    Ok(())
}

/// `limit`: the setting that bounds it, which `SO_*BUFFORCE` does not heed.
fn set_buffer(task: &Task, buffer: &AtomicU32, number: i32, min: u32, limit: Option<&Setting>) -> Result<()> {
    if limit.is_none() && !task.net_capable(cap::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let wanted = match limit {
        // A negative number is a very large one.
        Some(limit) => u64::from(number as u32).min(limit.get()),
        None => number.max(0) as u64,
    };
    buffer.store((wanted.min(FORCED_MAX) as u32 * 2).max(min), Relaxed);
    Ok(())
}

fn set_linger(common: &Common, on: i32, value: &[u8]) -> Result<()> {
    let seconds = value.get(4..).ok_or(Errno::EINVAL).and_then(number)?;
    let old = common.linger.load(Relaxed);
    let new = match on {
        // The time is kept.
        0 if old >= 0 => -1 - old,
        0 => old,
        _ => seconds.max(0),
    };
    common.linger.store(new, Relaxed);
    Ok(())
}

fn privileged(task: &Task, harmless: bool, what: &AtomicU32, value: u32) -> Result<()> {
    if !harmless && !task.net_capable(cap::NET_ADMIN) && !task.net_capable(cap::NET_RAW) {
        return Err(Errno::EPERM);
    }
    what.store(value, Relaxed);
    Ok(())
}

fn bind_to_device(common: &Common, value: &[u8]) -> Result<()> {
    let name = value.split(|&byte| byte == 0).next().unwrap_or(&[]);
    let index = match name {
        b"" => 0,
        name => common.namespace.links().named(name).ok_or(Errno::ENODEV)?.index,
    };
    common.device.store(index, Relaxed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_beyond_a_word_are_their_own() {
        let switches = Switches::default();
        switches.set(so::PASSPIDFD, true);
        switches.set(so::REUSEADDR, true);
        assert!(switches.get(so::PASSPIDFD) && switches.get(so::REUSEADDR) && !switches.get(so::PASSCRED));
        switches.set(so::REUSEADDR, false);
        assert!(switches.get(so::PASSPIDFD) && !switches.get(so::REUSEADDR));
    }

    #[test]
    fn buffers_are_doubled_and_held_within_bounds() {
        let timeout = AtomicU64::new(0);
        let value: Vec<u8> = [1_i64, 500_000].iter().flat_map(|word| word.to_le_bytes()).collect();
        set_timeout(&timeout, &value).unwrap();
        assert_eq!((timeout.load(Relaxed), super::timeval(&timeout)), (1_500_000_000, value));
        assert_eq!(set_timeout(&timeout, &[0xff; 16]), Err(Errno::EDOM));
        assert_eq!(set_timeout(&timeout, &[0; 15]), Err(Errno::EINVAL));
    }
}
