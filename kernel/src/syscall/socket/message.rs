//! Messages: `struct msghdr` with its pieces, its address and its control messages.

use super::{call, find};
use crate::fs::{File, IoDst, IoSrc, OpenFlags};
use crate::net::socket::{self, Control, Incoming, Outgoing, Socket};
use crate::net::uapi::*;
use crate::syscall::Fd;
use crate::syscall::ipc::install;
use crate::task::Task;
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_mm::io::{IoVec, MAX_PIECES, read_iovecs};
use umbel_mm::user::{self, UserAddr};

/// Most descriptors of a message.
const FILES_MAX: usize = 253;
/// Most bytes of control messages (`net.core.optmem_max`).
const CONTROL_MAX: usize = 128 << 10;
/// Bytes of `struct cmsghdr`.
const CONTROL_HEADER: usize = 16;
/// Bytes of `struct mmsghdr`, and where its length lies.
const MANY_LEN: u64 = 64;
const MANY_COUNT: u64 = 56;

/// `struct msghdr`.
struct Header {
    name: u64,
    name_len: u32,
    pieces: Vec<IoVec>,
    control: u64,
    control_len: usize,
}

fn read_header(addr: u64) -> Result<Header> {
    let [name, name_len, pieces, count, control, control_len, _]: [u64; 7] = user::read_val(UserAddr(addr))?;
    if count > MAX_PIECES as u64 {
        return Err(Errno::EMSGSIZE);
    }
    if (name_len as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let pieces = read_iovecs(UserAddr(pieces), count as usize)?;
    let name_len = if name == 0 { 0 } else { (name_len as u32).min(super::ADDRESS_MAX as u32) };
    Ok(Header { name, name_len, pieces, control, control_len: control_len as usize })
}

pub(super) fn sendmsg(task: &Arc<Task>, fd: Fd, message: u64, flags: u32) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    send_one(task, &file, &socket, message, flags)
}

fn send_one(task: &Arc<Task>, file: &File, socket: &Arc<dyn Socket>, message: u64, flags: u32) -> Result<usize> {
    let header = read_header(message)?;
    let mut outgoing = Outgoing { to: super::read_address(header.name, header.name_len)?, ..Outgoing::default() };
    read_control(task, socket, &header, &mut outgoing)?;
    socket::send(socket, &call(task, file, flags), &mut IoSrc::user_pieces(header.pieces), outgoing)
}

pub(super) fn sendmmsg(task: &Arc<Task>, fd: Fd, messages: u64, count: u32, flags: u32) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    let mut done = 0;
    for index in 0..count.min(MAX_PIECES as u32) {
        let at = messages.wrapping_add(u64::from(index) * MANY_LEN);
        let sent = send_one(task, &file, &socket, at, flags)
            .and_then(|sent| user::write_val(UserAddr(at.wrapping_add(MANY_COUNT)), &(sent as u32)));
        match sent {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        crate::sched::cond_resched();
    }
    Ok(done)
}

/// Takes descriptors out of control messages, and leaves the rest to the family.
fn read_control(task: &Task, socket: &Arc<dyn Socket>, header: &Header, outgoing: &mut Outgoing) -> Result<()> {
    if header.control == 0 || header.control_len == 0 {
        return Ok(());
    }
    if header.control_len > CONTROL_MAX {
        return Err(Errno::ENOBUFS);
    }
    let bytes: Vec<u8> = user::read_vec(UserAddr(header.control), header.control_len)?;
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes(core::array::from_fn(|i| b[i])));
    let mut at = 0;
    while at + CONTROL_HEADER <= bytes.len() {
        let (Some(len), Some(level), Some(kind)) = (word(at), word(at + 8), word(at + 12)) else { break };
        let len = len as usize;
        let body = at + CONTROL_HEADER;
        let end = at.checked_add(len).filter(|end| *end >= body && *end <= bytes.len()).ok_or(Errno::EINVAL)?;
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS) {
            if socket.common().family() != AF_UNIX {
                return Err(Errno::EINVAL);
            }
            for slot in (body..end).step_by(4) {
                if outgoing.files.len() == FILES_MAX {
                    return Err(Errno::EINVAL);
                }
                let fd = word(slot).ok_or(Errno::EINVAL)?;
                let files = task.files()?;
                let file = files.get(Fd(fd as i32))?;
                files.spoil(&file);
                outgoing.files.push(file);
            }
        } else {
            let bytes = bytes.get(body..end).unwrap_or(&[]).to_vec();
            outgoing.control.push(Control { level, kind, bytes });
        }
        at += len.next_multiple_of(8);
    }
    Ok(())
}

pub(super) fn recvmsg(task: &Arc<Task>, fd: Fd, message: u64, flags: u32) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    receive_one(task, &file, &socket, message, flags)
}

fn receive_one(task: &Arc<Task>, file: &File, socket: &Arc<dyn Socket>, message: u64, flags: u32) -> Result<usize> {
    let header = read_header(message)?;
    let got = socket.receive(&call(task, file, flags), &mut IoDst::user_pieces(header.pieces.clone()))?;
    let mut out_flags = got.flags | if got.full > got.count { MSG_TRUNC } else { 0 } | flags & MSG_CMSG_CLOEXEC;
    if header.name != 0 {
        let room = got.from.len().min(header.name_len as usize);
        user::copy_out(UserAddr(header.name), got.from.get(..room).unwrap_or(&[]))?;
        user::write_val(UserAddr(message.wrapping_add(8)), &(got.from.len() as u32))?;
    }
    let control_len = write_control(task, &header, &got, flags, &mut out_flags)?;
    user::write_val(UserAddr(message.wrapping_add(40)), &(control_len as u64))?;
    user::write_val(UserAddr(message.wrapping_add(48)), &out_flags)?;
    Ok(if flags & MSG_TRUNC != 0 { got.full } else { got.count })
}

pub(super) fn recvmmsg(task: &Arc<Task>, fd: Fd, messages: u64, count: u32, flags: u32, timeout: u64) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    let deadline_ns = match timeout {
        0 => None,
        at => Some(time::deadline_in(time::read_timespec(at)?)),
    };
    socket.common().check_error()?;
    let (mut done, mut flags) = (0, flags);
    for index in 0..count.min(MAX_PIECES as u32) {
        let at = messages.wrapping_add(u64::from(index) * MANY_LEN);
        let got = receive_one(task, &file, &socket, at, flags & !MSG_WAITFORONE)
            .and_then(|got| user::write_val(UserAddr(at.wrapping_add(MANY_COUNT)), &(got as u32)));
        match got {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if flags & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT;
        }
        // The time is looked at between messages only, as Linux does it.
        if deadline_ns.is_some_and(|deadline| time::monotonic_ns() >= deadline) {
            break;
        }
        crate::sched::cond_resched();
    }
    if let Some(deadline) = deadline_ns {
        time::write_timespec(timeout, deadline.saturating_sub(time::monotonic_ns()))?;
    }
    Ok(done)
}

/// Writes control messages; returns their length. What does not fit is dropped, with `MSG_CTRUNC`.
fn write_control(task: &Task, header: &Header, got: &Incoming, flags: u32, out_flags: &mut u32) -> Result<usize> {
    let mut used = 0;
    for Control { level, kind, bytes } in &got.control {
        used += write_piece(header, used, (*level, *kind), bytes, out_flags)?;
    }
    if got.files.is_empty() {
        return Ok(used);
    }
    let room = header.control_len.saturating_sub(used + CONTROL_HEADER) / 4;
    if room < got.files.len() {
        *out_flags |= MSG_CTRUNC;
    }
    let on_exec = if flags & MSG_CMSG_CLOEXEC != 0 { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
    let mut body = Vec::new();
    for file in got.files.iter().take(room) {
        match install(task, file.clone(), on_exec) {
            Ok(fd) => body.extend_from_slice(&fd.0.to_le_bytes()),
            Err(_) => {
                *out_flags |= MSG_CTRUNC;
                break;
            }
        }
    }
    if !body.is_empty() {
        used += write_piece(header, used, (SOL_SOCKET, SCM_RIGHTS), &body, out_flags)?;
    }
    Ok(used)
}

/// Writes one control message at `used`, cut to the room there is; returns the room it takes.
fn write_piece(header: &Header, used: usize, what: (u32, u32), body: &[u8], out_flags: &mut u32) -> Result<usize> {
    let room = if header.control == 0 { 0 } else { header.control_len.saturating_sub(used) };
    if room < CONTROL_HEADER {
        *out_flags |= MSG_CTRUNC;
        return Ok(0);
    }
    let len = (CONTROL_HEADER + body.len()).min(room);
    if len < CONTROL_HEADER + body.len() {
        *out_flags |= MSG_CTRUNC;
    }
    let mut bytes = (len as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&what.0.to_le_bytes());
    bytes.extend_from_slice(&what.1.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.truncate(len);
    user::copy_out(UserAddr(header.control.wrapping_add(used as u64)), &bytes)?;
    Ok(len.next_multiple_of(8).min(room))
}
