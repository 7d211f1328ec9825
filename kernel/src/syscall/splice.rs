//! Moving data through pipes. Sources: splice(2), tee(2), vmsplice(2).

use super::Fd;
use super::args::non_negative;
use super::io::{span, within_limit};
use crate::fs::{File, IoDst, IoSrc, OpenFlags, PollEvents, Whence};
use crate::ipc::pipe::PipeEnd;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_abi::linux::uapi as nr;
use umbel_mm::io::read_iovecs;
use umbel_mm::user::{UserAddr, read_val, write_val};

rows! {
    nr::__NR_splice, splice(input: Fd, in_at: UserAddr, out: Fd, out_at: UserAddr, count: usize, flags: u32) => splice,
        Partial("copies");
    nr::__NR_tee, tee(input: Fd, out: Fd, count: usize, flags: u32) => tee, Partial("copies");
    nr::__NR_vmsplice, vmsplice(fd: Fd, iov: UserAddr, count: usize, flags: u32) => vmsplice, Partial("copies");
}

/// Bytes moved by one call.
const CHUNK: usize = 64 << 10;
/// Bytes that a pipe takes whole or not at all (`PIPE_BUF`).
const ATOMIC: usize = 4096;

const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_FLAGS: u32 = 0xf;

fn splice(
    task: &Arc<Task>,
    input: Fd,
    in_at: UserAddr,
    out: Fd,
    out_at: UserAddr,
    count: usize,
    flags: u32,
) -> Result<usize> {
    let files = task.files()?;
    let (input, out) = (files.get(input)?, files.get(out)?);
    if !input.flags().readable() || !out.flags().writable() {
        return Err(Errno::EBADF);
    }
    let (from_pipe, to_pipe) = (is_pipe(&input), is_pipe(&out));
    if (from_pipe && !in_at.is_null()) || (to_pipe && !out_at.is_null()) {
        return Err(Errno::ESPIPE);
    }
    let appends = out.flags().contains(OpenFlags::APPEND);
    if !(from_pipe || to_pipe) || appends || flags & !SPLICE_FLAGS != 0 || same_pipe(&input, &out) {
        return Err(Errno::EINVAL);
    }
    if !input.ops().splices() || !out.ops().splices() {
        return Err(Errno::EINVAL);
    }
    if count == 0 {
        return Ok(0);
    }
    let nonblock = flags & SPLICE_F_NONBLOCK != 0;
    if nonblock && from_pipe && !input.poll(None).intersects(PollEvents::IN | PollEvents::HUP) {
        return Err(Errno::EAGAIN);
    }
    // What has been taken from a pipe cannot be put back: with nobody to wait, take only what surely fits.
    let waits = !nonblock && !out.nonblocking();
    if to_pipe && !waits && !out.poll(None).contains(PollEvents::OUT) {
        return Err(Errno::EAGAIN);
    }
    let (from, to) = (position(in_at)?, position(out_at)?);
    for at in [from, to].into_iter().flatten() {
        span(at as i64, count)?;
    }
    let mut chunk = count.min(if to_pipe && !waits { ATOMIC } else { CHUNK });
    if let Some(end) = out.ops_as::<PipeEnd>().filter(|_| waits) {
        chunk = chunk.min(end.pipe().wait_some_room()?);
    } else if !to_pipe {
        // Before anything is taken from the pipe.
        chunk = within_limit(task, &out, Some(to.unwrap_or(out.position())), chunk)?;
    }
    move_once(&input, in_at, &out, out_at, chunk)
}

fn same_pipe(one: &File, other: &File) -> bool {
    match (one.ops_as::<PipeEnd>(), other.ops_as::<PipeEnd>()) {
        (Some(one), Some(other)) => Arc::ptr_eq(one.pipe(), other.pipe()),
        _ => false,
    }
}

/// Copies what is in one pipe to another and leaves it.
fn tee(task: &Arc<Task>, input: Fd, out: Fd, count: usize, flags: u32) -> Result<usize> {
    let files = task.files()?;
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if count == 0 {
        return Ok(0);
    }
    let (input, out) = (files.get(input)?, files.get(out)?);
    if !input.flags().readable() || !out.flags().writable() {
        return Err(Errno::EBADF);
    }
    let from = input.ops_as::<PipeEnd>().ok_or(Errno::EINVAL)?;
    if !is_pipe(&out) || same_pipe(&input, &out) {
        return Err(Errno::EINVAL);
    }
    let nonblock = flags & SPLICE_F_NONBLOCK != 0;
    let out_waits = !nonblock && !out.nonblocking();
    if !out_waits && !out.poll(None).contains(PollEvents::OUT) {
        return Err(Errno::EAGAIN);
    }
    let mut chunk = count.min(if out_waits { CHUNK } else { ATOMIC });
    if let Some(end) = out.ops_as::<PipeEnd>().filter(|_| out_waits) {
        chunk = chunk.min(end.pipe().wait_some_room()?);
    }
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(chunk).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(chunk, 0);
    let got = from.pipe().peek(&mut IoDst::kernel(&mut buffer), nonblock || input.nonblocking())?;
    if got == 0 {
        return Ok(0);
    }
    out.write(&mut IoSrc::kernel(buffer.get(..got).unwrap_or(&[])))
}

fn is_pipe(file: &File) -> bool {
    file.ops_as::<PipeEnd>().is_some()
}

/// Reads once, and writes what was read.
fn move_once(input: &File, in_at: UserAddr, out: &File, out_at: UserAddr, count: usize) -> Result<usize> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(count, 0);
    let (from, to) = (position(in_at)?, position(out_at)?);
    let mut dst = IoDst::kernel(&mut buffer);
    let got = match from {
        Some(at) => input.read_at(&mut dst, at)?,
        None => input.read(&mut dst)?,
    };
    let mut done = 0;
    while let Some(rest) = buffer.get(done..got).filter(|rest| !rest.is_empty()) {
        let mut src = IoSrc::kernel(rest);
        let put = match to {
            Some(at) => out.write_at(&mut src, at + done as u64),
            None => out.write(&mut src),
        };
        match put {
            Ok(0) => break,
            Ok(put) => done += put,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    if from.is_none() && input.ops().seekable() && done < got {
        input.ops().seek(input, Whence::Current, -((got - done) as i64))?;
    }
    for (at, start) in [(in_at, from), (out_at, to)] {
        if let Some(start) = start {
            write_val(at, &(start + done as u64))?;
        }
    }
    Ok(done)
}

/// An offset that the guest passes by reference.
pub(super) fn position(at: UserAddr) -> Result<Option<u64>> {
    if at.is_null() {
        return Ok(None);
    }
    non_negative(read_val(at)?).map(Some)
}

fn vmsplice(task: &Arc<Task>, fd: Fd, iov: UserAddr, count: usize, flags: u32) -> Result<usize> {
    let file = task.files()?.get(fd)?;
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let pipe = file.ops_as::<PipeEnd>().ok_or(Errno::EBADF)?.pipe();
    let pieces = read_iovecs(iov, count)?;
    let ready =
        if file.flags().writable() { PollEvents::OUT | PollEvents::ERR } else { PollEvents::IN | PollEvents::HUP };
    let nonblock = flags & SPLICE_F_NONBLOCK != 0;
    if nonblock && pieces.iter().any(|piece| piece.len > 0) && !file.poll(None).intersects(ready) {
        return Err(Errno::EAGAIN);
    }
    if file.flags().writable() {
        pipe.write_part(&mut IoSrc::user_pieces(pieces), nonblock)
    } else {
        file.read(&mut IoDst::user_pieces(pieces))
    }
}
