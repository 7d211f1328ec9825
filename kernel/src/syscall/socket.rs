//! Sockets: those of AF_UNIX; others are `EAFNOSUPPORT`. Semantics: [`crate::ipc::unix`].

use super::Fd;
use super::fs::{Caller, name_at};
use super::ipc::{install, install_pair};
use crate::fs::walk::Follow;
use crate::fs::{File, IoDst, IoSrc, Kind as Inode, OpenFlags, perm};
use crate::ipc::unix::{self, Bound, Extras, Kind, Options, Received, Sender, Socket, sender};
use crate::task::Task;
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;
use linux_raw_sys::general as nr;
use umbel_mm::io::{IoVec, read_iovecs};
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_socket, socket(family: u32, kind: u32, protocol: u32) => socket, Partial("AF_UNIX");
    nr::__NR_socketpair, socketpair(family: u32, kind: u32, protocol: u32, fds: u64) => socketpair, Full;
    nr::__NR_bind, bind(fd: Fd, addr: u64, len: u32) => bind, Full;
    nr::__NR_listen, listen(fd: Fd, backlog: u32) => listen, Full;
    nr::__NR_connect, connect(fd: Fd, addr: u64, len: u32) => connect, Full;
    nr::__NR_accept, accept(fd: Fd, addr: u64, len: u64) => accept, Full;
    nr::__NR_accept4, accept4(fd: Fd, addr: u64, len: u64, flags: u32) => accept4, Full;
    nr::__NR_getsockname, getsockname(fd: Fd, addr: u64, len: u64) => getsockname, Full;
    nr::__NR_getpeername, getpeername(fd: Fd, addr: u64, len: u64) => getpeername, Full;
    nr::__NR_sendto, sendto(fd: Fd, buf: u64, len: usize, flags: u32, addr: u64, addr_len: u32) => sendto, Full;
    nr::__NR_recvfrom, recvfrom(fd: Fd, buf: u64, len: usize, flags: u32, addr: u64, addr_len: u64) => recvfrom, Full;
    nr::__NR_sendmsg, sendmsg(fd: Fd, message: u64, flags: u32) => sendmsg, Full;
    nr::__NR_recvmsg, recvmsg(fd: Fd, message: u64, flags: u32) => recvmsg, Full;
    nr::__NR_shutdown, shutdown(fd: Fd, how: u32) => shutdown, Full;
    nr::__NR_getsockopt, getsockopt(fd: Fd, level: u32, name: u32, value: u64, len: u64) => getsockopt, Partial("SOL_SOCKET");
    nr::__NR_setsockopt, setsockopt(fd: Fd, level: u32, name: u32, value: u64, len: u32) => setsockopt, Partial("SOL_SOCKET");
}

const AF_UNIX: u16 = 1;
/// Longest `sun_path`.
const PATH_MAX: usize = 108;
const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
const SCM_CREDENTIALS: u32 = 2;
/// Most descriptors of a message.
const FILES_MAX: usize = 253;

const MSG_PEEK: u32 = 2;
const MSG_CTRUNC: u32 = 8;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;

/// The socket behind a descriptor, with its file.
fn find(task: &Task, fd: Fd) -> Result<(Arc<File>, Arc<Socket>)> {
    let file = task.files()?.get(fd)?;
    let socket = unix::of(&file)?;
    Ok((file, socket))
}

fn options(file: &File, flags: u32) -> Options {
    Options {
        nonblock: file.nonblocking() || flags & MSG_DONTWAIT != 0,
        peek: flags & MSG_PEEK != 0,
        all: flags & MSG_WAITALL != 0,
        quiet: flags & MSG_NOSIGNAL != 0,
    }
}

/// Splits the type argument: the kind, `O_NONBLOCK` and `O_CLOEXEC`.
fn split(family: u32, raw: u32) -> Result<(Kind, OpenFlags)> {
    const FLAGS: OpenFlags = OpenFlags::NONBLOCK.union(OpenFlags::CLOEXEC);
    if family != u32::from(AF_UNIX) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if raw & !(0xf | FLAGS.bits()) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((Kind::from_raw(raw & 0xf)?, OpenFlags::from_bits_truncate(raw & FLAGS.bits())))
}

fn socket(task: &Arc<Task>, family: u32, kind: u32, protocol: u32) -> Result<Fd> {
    let (kind, flags) = split(family, kind)?;
    if protocol > 1 {
        return Err(Errno::EPROTONOSUPPORT);
    }
    install(task, unix::file(Socket::new(kind), flags & OpenFlags::NONBLOCK), flags)
}

fn socketpair(task: &Arc<Task>, family: u32, kind: u32, protocol: u32, fds: u64) -> Result<()> {
    let (kind, flags) = split(family, kind).map_err(|error| match error {
        Errno::EAFNOSUPPORT if family == 2 => Errno::EOPNOTSUPP,
        error => error,
    })?;
    if protocol > 1 {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let (a, b) = Socket::pair(kind, sender(task));
    let kept = flags & OpenFlags::NONBLOCK;
    install_pair(task, (unix::file(a, kept), unix::file(b, kept)), flags, fds)
}

/// Reads a `struct sockaddr_un`: a path, or a NUL and an abstract name; empty if it names nothing.
fn read_name(addr: u64, len: u32) -> Result<Vec<u8>> {
    let len = len as usize;
    if !(2..=2 + PATH_MAX).contains(&len) {
        return Err(Errno::EINVAL);
    }
    let bytes: Vec<u8> = user::read_vec(UserAddr(addr), len)?;
    if bytes.get(..2) != Some(&AF_UNIX.to_le_bytes()) {
        return Err(Errno::EINVAL);
    }
    let name = bytes.get(2..).unwrap_or(&[]);
    let end = match name.first() {
        Some(0) => name.len(),
        _ => name.iter().position(|&byte| byte == 0).unwrap_or(name.len()),
    };
    Ok(name.get(..end).unwrap_or(&[]).to_vec())
}

/// Writes a name as a `struct sockaddr_un`, cut to the guest's room.
fn write_name(addr: u64, len: u64, name: &[u8]) -> Result<()> {
    if addr == 0 {
        return Ok(());
    }
    let room: i32 = user::read_val(UserAddr(len))?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let full = write_name_in(addr, room, name)?;
    user::write_val(UserAddr(len), &(full as u32))
}

fn write_name_in(addr: u64, room: usize, name: &[u8]) -> Result<usize> {
    let mut bytes = AF_UNIX.to_le_bytes().to_vec();
    bytes.extend_from_slice(name);
    if name.first().is_some_and(|&first| first != 0) {
        bytes.push(0);
    }
    user::copy_out(UserAddr(addr), bytes.get(..bytes.len().min(room)).unwrap_or(&[]))?;
    Ok(bytes.len())
}

/// The socket that a name leads to.
fn look_up(task: &Task, name: &[u8]) -> Result<Arc<Socket>> {
    if name.first() == Some(&0) {
        return Socket::find_abstract(name).ok_or(Errno::ECONNREFUSED);
    }
    let caller = Caller::new(task)?;
    let path = caller.names().find(&name_at(task, Fd::CWD, name)?, Follow::Yes)?;
    perm::check(&**path.inode(), &task.cred(), perm::Want::WRITE)?;
    let bound = path.inode().extra().and_then(|extra| extra.get::<Bound>());
    bound.and_then(|bound| bound.socket()).ok_or(Errno::ECONNREFUSED)
}

fn bind(task: &Arc<Task>, fd: Fd, addr: u64, len: u32) -> Result<()> {
    let (_, socket) = find(task, fd)?;
    let name = read_name(addr, len)?;
    if !socket.name().is_empty() {
        return Err(Errno::EINVAL);
    }
    match name.first() {
        None => bind_any(&socket),
        Some(0) => socket.bind_abstract(name),
        Some(_) => {
            let caller = Caller::new(task)?;
            let names = caller.names();
            let node = names.node(Inode::Socket, 0o777);
            let made = names.create(&name_at(task, Fd::CWD, &name)?, &node);
            let path = made.map_err(|error| if error == Errno::EEXIST { Errno::EADDRINUSE } else { error })?;
            let extra = path.inode().extra().ok_or(Errno::EOPNOTSUPP)?;
            extra.get_or_insert(|| Arc::new(Bound::new(&socket)));
            socket.set_name(name)
        }
    }
}

/// Gives a socket an abstract name that nobody has (autobind).
fn bind_any(socket: &Arc<Socket>) -> Result<()> {
    let first = socket.id as u32;
    for step in 0..0x10_0000_u32 {
        let number = first.wrapping_add(step) & 0xf_ffff;
        let mut name = alloc::vec![0];
        name.extend_from_slice(alloc::format!("{number:05x}").as_bytes());
        match socket.bind_abstract(name) {
            Err(Errno::EADDRINUSE) => {}
            result => return result,
        }
    }
    Err(Errno::ENOSPC)
}

fn listen(task: &Arc<Task>, fd: Fd, backlog: u32) -> Result<()> {
    find(task, fd)?.1.listen(backlog, sender(task))
}

fn connect(task: &Arc<Task>, fd: Fd, addr: u64, len: u32) -> Result<()> {
    let (file, socket) = find(task, fd)?;
    let target = look_up(task, &read_name(addr, len)?)?;
    socket.connect(&target, file.nonblocking(), sender(task))
}

fn accept(task: &Arc<Task>, fd: Fd, addr: u64, len: u64) -> Result<Fd> {
    accept4(task, fd, addr, len, 0)
}

fn accept4(task: &Arc<Task>, fd: Fd, addr: u64, len: u64, flags: u32) -> Result<Fd> {
    let flags = OpenFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let (file, socket) = find(task, fd)?;
    let accepted = socket.accept(file.nonblocking())?;
    let name = accepted.peer_name().unwrap_or_default();
    write_name(addr, len, &name)?;
    install(task, unix::file(accepted, flags & OpenFlags::NONBLOCK), flags)
}

fn getsockname(task: &Arc<Task>, fd: Fd, addr: u64, len: u64) -> Result<()> {
    write_name(addr, len, &find(task, fd)?.1.name())
}

fn getpeername(task: &Arc<Task>, fd: Fd, addr: u64, len: u64) -> Result<()> {
    write_name(addr, len, &find(task, fd)?.1.peer_name()?)
}

fn shutdown(task: &Arc<Task>, fd: Fd, how: u32) -> Result<()> {
    let (_, socket) = find(task, fd)?;
    match how {
        0 => socket.shutdown(true, false),
        1 => socket.shutdown(false, true),
        2 => socket.shutdown(true, true),
        _ => Err(Errno::EINVAL),
    }
}

/// Where a call with an address sends to. A connected stream refuses one.
fn destination(task: &Task, socket: &Socket, addr: u64, len: u32) -> Result<Option<Arc<Socket>>> {
    if addr == 0 || len == 0 {
        return Ok(None);
    }
    if socket.kind.connects() {
        return Err(if socket.peer_name().is_ok() { Errno::EISCONN } else { Errno::EOPNOTSUPP });
    }
    let target = look_up(task, &read_name(addr, len)?)?;
    if target.kind == socket.kind { Ok(Some(target)) } else { Err(Errno::EPROTOTYPE) }
}

fn sendto(task: &Arc<Task>, fd: Fd, buf: u64, len: usize, flags: u32, addr: u64, addr_len: u32) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    let to = destination(task, &socket, addr, addr_len)?;
    let extras = Extras { sender: sender(task), ..Extras::default() };
    socket.send(&mut IoSrc::user(UserAddr(buf), len), to, extras, options(&file, flags))
}

fn recvfrom(task: &Arc<Task>, fd: Fd, buf: u64, len: usize, flags: u32, addr: u64, addr_len: u64) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    let got = socket.receive(&mut IoDst::user(UserAddr(buf), len), options(&file, flags))?;
    match got.extras.from.is_empty() {
        // A sender without a name: no address at all.
        true if addr != 0 => user::write_val(UserAddr(addr_len), &0_u32)?,
        _ => write_name(addr, addr_len, &got.extras.from)?,
    }
    Ok(if flags & MSG_TRUNC != 0 { got.full } else { got.count })
}

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
    let pieces = read_iovecs(UserAddr(pieces), count as usize).map_err(|error| match error {
        Errno::EINVAL if count > 1024 => Errno::EMSGSIZE,
        error => error,
    })?;
    Ok(Header { name, name_len: name_len as u32, pieces, control, control_len: control_len as usize })
}

fn sendmsg(task: &Arc<Task>, fd: Fd, message: u64, flags: u32) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    let header = read_header(message)?;
    let to = destination(task, &socket, header.name, header.name_len)?;
    let mut extras = Extras { sender: sender(task), ..Extras::default() };
    extras.files = read_control(task, &header)?;
    socket.send(&mut IoSrc::user_pieces(header.pieces), to, extras, options(&file, flags))
}

/// Takes descriptors out of control messages; credentials are the kernel's own, whatever the sender says.
fn read_control(task: &Task, header: &Header) -> Result<Vec<Arc<File>>> {
    let mut files = Vec::new();
    if header.control == 0 || header.control_len == 0 {
        return Ok(files);
    }
    if header.control_len > 1 << 16 {
        return Err(Errno::ENOBUFS);
    }
    let bytes: Vec<u8> = user::read_vec(UserAddr(header.control), header.control_len)?;
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes(core::array::from_fn(|i| b[i])));
    let mut at = 0;
    while at + 16 <= bytes.len() {
        let (Some(len), Some(level), Some(kind)) = (word(at), word(at + 8), word(at + 12)) else { break };
        let len = len as usize;
        if len < 16 || at + len > bytes.len() {
            return Err(Errno::EINVAL);
        }
        match (level, kind) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                for slot in (at + 16..at + len).step_by(4) {
                    if files.len() == FILES_MAX {
                        return Err(Errno::EINVAL);
                    }
                    let fd = word(slot).ok_or(Errno::EINVAL)?;
                    files.push(task.files()?.get(Fd(fd as i32))?);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS) => {}
            _ => return Err(Errno::EINVAL),
        }
        at += len.next_multiple_of(8);
    }
    Ok(files)
}

fn recvmsg(task: &Arc<Task>, fd: Fd, message: u64, flags: u32) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    let header = read_header(message)?;
    let got = socket.receive(&mut IoDst::user_pieces(header.pieces.clone()), options(&file, flags))?;
    let mut out_flags = if got.full > got.count { MSG_TRUNC } else { 0 };
    if header.name != 0 {
        let from = &got.extras.from;
        let len = if from.is_empty() { 0 } else { write_name_in(header.name, header.name_len as usize, from)? };
        user::write_val(UserAddr(message.wrapping_add(8)), &(len as u32))?;
    }
    let control_len = write_control(task, &socket, &header, &got, flags, &mut out_flags)?;
    user::write_val(UserAddr(message.wrapping_add(40)), &(control_len as u64))?;
    user::write_val(UserAddr(message.wrapping_add(48)), &out_flags)?;
    Ok(if flags & MSG_TRUNC != 0 { got.full } else { got.count })
}

/// Writes control messages; returns their length. What does not fit is dropped, with `MSG_CTRUNC`.
fn write_control(
    task: &Task,
    socket: &Socket,
    header: &Header,
    got: &Received,
    flags: u32,
    out_flags: &mut u32,
) -> Result<usize> {
    let mut used = 0;
    if socket.pass_cred.load(Relaxed) {
        let Sender { pid, uid, gid } = got.extras.sender;
        let body: Vec<u8> = [pid as u32, uid, gid].iter().flat_map(|word| word.to_le_bytes()).collect();
        used += write_piece(header, used, SCM_CREDENTIALS, &body, out_flags)?;
    }
    let files = &got.extras.files;
    if files.is_empty() {
        return Ok(used);
    }
    let room = header.control_len.saturating_sub(used + 16) / 4;
    if room < files.len() {
        *out_flags |= MSG_CTRUNC;
    }
    let on_exec = if flags & MSG_CMSG_CLOEXEC != 0 { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
    let mut body = Vec::new();
    for file in files.iter().take(room) {
        match install(task, file.clone(), on_exec) {
            Ok(fd) => body.extend_from_slice(&fd.0.to_le_bytes()),
            Err(_) => {
                *out_flags |= MSG_CTRUNC;
                break;
            }
        }
    }
    if !body.is_empty() {
        used += write_piece(header, used, SCM_RIGHTS, &body, out_flags)?;
    }
    Ok(used)
}

/// Writes one control message at `used`; returns the room it takes.
fn write_piece(header: &Header, used: usize, kind: u32, body: &[u8], out_flags: &mut u32) -> Result<usize> {
    let len = 16 + body.len();
    if header.control == 0 || used + len > header.control_len {
        *out_flags |= MSG_CTRUNC;
        return Ok(0);
    }
    let at = header.control.wrapping_add(used as u64);
    let mut bytes = (len as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&SOL_SOCKET.to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(body);
    user::copy_out(UserAddr(at), &bytes)?;
    Ok(len.next_multiple_of(8).min(header.control_len - used))
}

/// Options of `SOL_SOCKET`.
mod so {
    pub const REUSEADDR: u32 = 2;
    pub const TYPE: u32 = 3;
    pub const ERROR: u32 = 4;
    pub const SNDBUF: u32 = 7;
    pub const RCVBUF: u32 = 8;
    pub const KEEPALIVE: u32 = 9;
    pub const PASSCRED: u32 = 16;
    pub const PEERCRED: u32 = 17;
    pub const RCVTIMEO: u32 = 20;
    pub const SNDTIMEO: u32 = 21;
    pub const ACCEPTCONN: u32 = 30;
    pub const PROTOCOL: u32 = 38;
    pub const DOMAIN: u32 = 39;
}

fn getsockopt(task: &Arc<Task>, fd: Fd, level: u32, name: u32, value: u64, len: u64) -> Result<()> {
    let (_, socket) = find(task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let timeval =
        |ns: u64| [ns / time::SEC_NS, ns % time::SEC_NS / 1000].iter().flat_map(|w| w.to_le_bytes()).collect();
    let bytes: Vec<u8> = match name {
        so::PEERCRED => {
            let who = socket.peer_cred();
            let (pid, uid, gid) = who.map_or((0, u32::MAX, u32::MAX), |who| (who.pid as u32, who.uid, who.gid));
            [pid, uid, gid].iter().flat_map(|word| word.to_le_bytes()).collect()
        }
        so::RCVTIMEO => timeval(socket.receive_timeout_ns.load(Relaxed)),
        so::SNDTIMEO => timeval(socket.send_timeout_ns.load(Relaxed)),
        _ => number_option(&socket, name)?.to_le_bytes().to_vec(),
    };
    let room: i32 = user::read_val(UserAddr(len))?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?.min(bytes.len());
    user::copy_out(UserAddr(value), bytes.get(..room).unwrap_or(&[]))?;
    user::write_val(UserAddr(len), &(room as u32))
}

fn number_option(socket: &Socket, name: u32) -> Result<u32> {
    Ok(match name {
        so::TYPE => socket.kind as u32,
        so::ERROR | so::PROTOCOL | so::REUSEADDR | so::KEEPALIVE => 0,
        so::SNDBUF | so::RCVBUF => 212_992,
        so::PASSCRED => u32::from(socket.pass_cred.load(Relaxed)),
        so::ACCEPTCONN => u32::from(socket.is_listening()),
        so::DOMAIN => u32::from(AF_UNIX),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

fn setsockopt(task: &Arc<Task>, fd: Fd, level: u32, name: u32, value: u64, len: u32) -> Result<()> {
    let (_, socket) = find(task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    match name {
        so::RCVTIMEO | so::SNDTIMEO => {
            if len < 16 {
                return Err(Errno::EINVAL);
            }
            let ns = time::read_timeval(value)?;
            let timeout = if name == so::RCVTIMEO { &socket.receive_timeout_ns } else { &socket.send_timeout_ns };
            timeout.store(ns, Relaxed);
        }
        _ if len < 4 => return Err(Errno::EINVAL),
        so::PASSCRED => {
            let on: u32 = user::read_val(UserAddr(value))?;
            socket.pass_cred.store(on != 0, Relaxed);
        }
        so::SNDBUF | so::RCVBUF | so::REUSEADDR | so::KEEPALIVE => {}
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}
