//! Sockets: from registers and guest structures to [`crate::net::Socket`] and back. [`message`]: those with `struct msghdr`.

mod message;

use super::Fd;
use super::ipc::{install, install_pair};
use crate::fs::{File, IoDst, IoSrc, OpenFlags};
use crate::net::socket::{self, Call, Outgoing, Socket};
use crate::net::uapi::*;
use crate::net::{self, netlink, option};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general as nr;
use message::{recvmmsg, recvmsg, sendmmsg, sendmsg};
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_socket, socket(family: u32, kind: u32, protocol: u32) => socket_call, Partial("AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET without TCP's packets");
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
    nr::__NR_sendmmsg, sendmmsg(fd: Fd, messages: u64, count: u32, flags: u32) => sendmmsg, Full;
    nr::__NR_recvmmsg, recvmmsg(fd: Fd, messages: u64, count: u32, flags: u32, timeout: u64) => recvmmsg, Full;
    nr::__NR_shutdown, shutdown(fd: Fd, how: u32) => shutdown, Full;
    nr::__NR_getsockopt, getsockopt(fd: Fd, level: u32, name: u32, value: u64, len: u64) => getsockopt, Full;
    nr::__NR_setsockopt, setsockopt(fd: Fd, level: u32, name: u32, value: u64, len: u32) => setsockopt, Partial("filters on TCP let everything through, no SO_TIMESTAMPING");
}

/// Bytes of a `struct sockaddr_storage`.
const ADDRESS_MAX: usize = 128;
/// Longest value of an option that is read.
const OPTION_MAX: usize = 4096;

/// The socket behind a descriptor, with its file.
fn find(task: &Task, fd: Fd) -> Result<(Arc<File>, Arc<dyn Socket>)> {
    let file = task.files()?.get(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let socket = socket::of(&file)?.clone();
    Ok((file, socket))
}

fn call<'a>(task: &'a Arc<Task>, file: &File, flags: u32) -> Call<'a> {
    Call { task, nonblock: file.nonblocking() || flags & MSG_DONTWAIT != 0, flags }
}

/// Splits the type argument: the kind, `O_NONBLOCK` and `O_CLOEXEC`.
fn split(raw: u32) -> Result<(u32, OpenFlags)> {
    const FLAGS: OpenFlags = OpenFlags::NONBLOCK.union(OpenFlags::CLOEXEC);
    if raw & !(0xf | FLAGS.bits()) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((raw & 0xf, OpenFlags::from_bits_truncate(raw & FLAGS.bits())))
}

fn socket_call(task: &Arc<Task>, family: u32, kind: u32, protocol: u32) -> Result<Fd> {
    let (kind, flags) = split(kind)?;
    let socket = net::create(task, family, kind, protocol)?;
    install(task, socket::file(socket, flags & OpenFlags::NONBLOCK), flags)
}

fn socketpair(task: &Arc<Task>, family: u32, kind: u32, protocol: u32, fds: u64) -> Result<()> {
    let (kind, flags) = split(kind)?;
    let (a, b) = net::create_pair(task, family, kind, protocol)?;
    let kept = flags & OpenFlags::NONBLOCK;
    install_pair(task, (socket::file(a, kept), socket::file(b, kept)), flags, fds)
}

/// Reads an address of the guest's.
fn read_address(addr: u64, len: u32) -> Result<Vec<u8>> {
    match len as usize {
        0 => Ok(Vec::new()),
        len if len <= ADDRESS_MAX => user::read_vec(UserAddr(addr), len),
        _ => Err(Errno::EINVAL),
    }
}

/// Writes an address, cut to the guest's room, and its whole length.
fn write_address(addr: u64, len: u64, name: &[u8]) -> Result<()> {
    if addr == 0 {
        return Ok(());
    }
    let room: i32 = user::read_val(UserAddr(len))?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    // Where there is no name, the place for it is not looked at.
    if let Some(shown) = name.get(..name.len().min(room)).filter(|shown| !shown.is_empty()) {
        user::copy_out(UserAddr(addr), shown)?;
    }
    user::write_val(UserAddr(len), &(name.len() as u32))
}

fn bind(task: &Arc<Task>, fd: Fd, addr: u64, len: u32) -> Result<()> {
    let (file, socket) = find(task, fd)?;
    socket.bind(&call(task, &file, 0), &read_address(addr, len)?)
}

fn listen(task: &Arc<Task>, fd: Fd, backlog: u32) -> Result<()> {
    let (file, socket) = find(task, fd)?;
    socket.listen(&call(task, &file, 0), backlog)
}

fn connect(task: &Arc<Task>, fd: Fd, addr: u64, len: u32) -> Result<()> {
    let (file, socket) = find(task, fd)?;
    socket.connect(&call(task, &file, 0), &read_address(addr, len)?)
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
    let accepted = socket.accept(&call(task, &file, 0))?;
    // One that is reset already has no peer any more.
    let name = accepted.peer_name().unwrap_or_else(|_| accepted.common().family().to_le_bytes().to_vec());
    let file = socket::file(accepted, flags & OpenFlags::NONBLOCK);
    write_address(addr, len, &name)?;
    install(task, file, flags)
}

fn getsockname(task: &Arc<Task>, fd: Fd, addr: u64, len: u64) -> Result<()> {
    let name = find(task, fd)?.1.name()?;
    if addr == 0 { Err(Errno::EFAULT) } else { write_address(addr, len, &name) }
}

fn getpeername(task: &Arc<Task>, fd: Fd, addr: u64, len: u64) -> Result<()> {
    let name = find(task, fd)?.1.peer_name()?;
    if addr == 0 { Err(Errno::EFAULT) } else { write_address(addr, len, &name) }
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

fn sendto(task: &Arc<Task>, fd: Fd, buf: u64, len: usize, flags: u32, addr: u64, addr_len: u32) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    user::access_ok(UserAddr(buf), len)?;
    let to = if addr == 0 { Vec::new() } else { read_address(addr, addr_len)? };
    let message = Outgoing { to, ..Outgoing::default() };
    socket::send(&socket, &call(task, &file, flags), &mut IoSrc::user(UserAddr(buf), len), message)
}

fn recvfrom(task: &Arc<Task>, fd: Fd, buf: u64, len: usize, flags: u32, addr: u64, addr_len: u64) -> Result<usize> {
    let (file, socket) = find(task, fd)?;
    user::access_ok(UserAddr(buf), len)?;
    let got = socket.receive(&call(task, &file, flags), &mut IoDst::user(UserAddr(buf), len))?;
    write_address(addr, addr_len, &got.from)?;
    Ok(if flags & MSG_TRUNC != 0 { got.full } else { got.count })
}

fn getsockopt(task: &Arc<Task>, fd: Fd, level: u32, name: u32, value: u64, len: u64) -> Result<()> {
    let (_, socket) = find(task, fd)?;
    let room: i32 = user::read_val(UserAddr(len))?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let bytes = option::get(task, &socket, level, name, room)?;
    if (level, name) == (SOL_SOCKET, so::ATTACH_FILTER) {
        return write_filter(value, len, room, &bytes);
    }
    if (level, name) == (SOL_NETLINK, netlink::LIST_MEMBERSHIPS) {
        // Whole words that fit; the length is that of them all.
        let room = room.min(bytes.len()) / 4 * 4;
        user::copy_out(UserAddr(value), bytes.get(..room).unwrap_or(&[]))?;
        return user::write_val(UserAddr(len), &(bytes.len() as u32));
    }
    let room = room.min(bytes.len());
    user::copy_out(UserAddr(value), bytes.get(..room).unwrap_or(&[]))?;
    user::write_val(UserAddr(len), &(room as u32))
}

/// `SO_GET_FILTER`: lengths are numbers of instructions; without room only theirs is told.
fn write_filter(value: u64, len: u64, room: usize, bytes: &[u8]) -> Result<()> {
    if room != 0 {
        user::copy_out(UserAddr(value), bytes)?;
    }
    user::write_val(UserAddr(len), &((bytes.len() / 8) as u32))
}

fn setsockopt(task: &Arc<Task>, fd: Fd, level: u32, name: u32, value: u64, len: u32) -> Result<()> {
    let (_, socket) = find(task, fd)?;
    let len = usize::try_from(len as i32).map_err(|_| Errno::EINVAL)?;
    let bytes: Vec<u8> = user::read_vec(UserAddr(value), len.min(OPTION_MAX))?;
    option::set(task, &socket, level, name, &bytes)
}
