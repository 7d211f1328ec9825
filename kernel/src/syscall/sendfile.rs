//! Copies from file to file inside the kernel. Sources: sendfile(2), copy_file_range(2), ioctl_ficlone(2).

use super::Fd;
use super::io::{file, span, within_limit};
use crate::fs::{File, IoDst, IoSrc, Kind, OpenFlags, Whence};
use crate::task::Task;
use crate::{Errno, Result, signal, task};
use alloc::sync::Arc;
use alloc::vec;
use umbel_abi::linux::uapi as nr;
use umbel_mm::io::MAX_RW;
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_sendfile, sendfile(out: Fd, input: Fd, offset: UserAddr, count: usize) => sendfile, Full;
    nr::__NR_copy_file_range, copy_file_range(input: Fd, in_offset: UserAddr, out: Fd, out_offset: UserAddr, count: usize, flags: u32) => copy_file_range, Full;
}

/// Bytes that sendfile(2) and copy_file_range(2) move at once.
const CHUNK: usize = 64 << 10;

fn sendfile(task: &Arc<Task>, out: Fd, input: Fd, at: UserAddr, count: usize) -> Result<usize> {
    let (input, out) = (file(task, input)?, file(task, out)?);
    if !input.flags().readable() || !out.flags().writable() {
        return Err(Errno::EBADF);
    }
    if !input.ops().seekable() || out.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let mut from = Place::read(at)?;
    if matches!(from, Place::Own(at) if span(at as i64, count).is_err()) || isize::try_from(count).is_err() {
        return Err(Errno::EINVAL);
    }
    if input.attr()?.kind == Kind::Directory {
        return Err(Errno::EINVAL);
    }
    let count = within_limit(task, &out, None, count.min(MAX_RW))?;
    let moved = transfer(&input, &mut from, &out, &mut Place::File, count)?;
    from.write_back(at)?;
    Ok(moved)
}

fn copy_file_range(
    task: &Arc<Task>,
    input: Fd,
    in_at: UserAddr,
    out: Fd,
    out_at: UserAddr,
    count: usize,
    flags: u32,
) -> Result<usize> {
    let (input, out) = (file(task, input)?, file(task, out)?);
    if !input.flags().readable() || !out.flags().writable() || out.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    match (input.attr()?.kind, out.attr()?.kind) {
        (Kind::Directory, _) | (_, Kind::Directory) => return Err(Errno::EISDIR),
        (Kind::Regular, Kind::Regular) if flags == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    if !same_file_system(&input, &out) {
        return Err(Errno::EXDEV);
    }
    let (mut from, mut to) = (Place::read(in_at)?, Place::read(out_at)?);
    check_overlap(&input, &from, &out, &to, count)?;
    let start = if let Place::Own(at) = to { Some(at) } else { None };
    let count = within_limit(task, &out, start, count.min(MAX_RW))?;
    let moved = transfer(&input, &mut from, &out, &mut to, count)?;
    from.write_back(in_at)?;
    to.write_back(out_at)?;
    Ok(moved)
}

/// Where a transfer reads or writes: at a position of its own, given and taken back by address, or the file's.
enum Place {
    Own(u64),
    File,
}

impl Place {
    fn read(at: UserAddr) -> Result<Place> {
        Ok(super::splice::position(at)?.map_or(Place::File, Place::Own))
    }

    fn write_back(&self, at: UserAddr) -> Result<()> {
        match self {
            Place::Own(position) => user::write_val(at, &(*position as i64)),
            Place::File => Ok(()),
        }
    }

    fn input(&mut self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        match self {
            Place::File => file.read(dst),
            Place::Own(position) => {
                let count = file.read_at(dst, *position)?;
                *position += count as u64;
                Ok(count)
            }
        }
    }

    fn output(&mut self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        match self {
            Place::File => file.write(src),
            Place::Own(position) => {
                let count = file.write_at(src, *position)?;
                *position += count as u64;
                Ok(count)
            }
        }
    }

    /// Un-reads bytes that could not be written.
    fn step_back(&mut self, file: &File, count: usize) {
        match self {
            Place::Own(position) => *position -= count as u64,
            // A seekable file takes it; of a stream the bytes are gone, as on Linux.
            Place::File => drop(file.ops().seek(file, Whence::Current, -(count as i64))),
        }
    }
}

/// Moves up to `count` bytes. An error counts only if nothing was moved.
fn transfer(input: &File, from: &mut Place, output: &File, to: &mut Place, count: usize) -> Result<usize> {
    let mut chunk = vec![0; CHUNK.min(count)];
    let mut done = 0;
    while done < count {
        let want = chunk.len().min(count - done);
        let got = match from.input(input, &mut IoDst::kernel(&mut chunk[..want])) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        let result = to.output(output, &mut IoSrc::kernel(&chunk[..got]));
        let put = *result.as_ref().unwrap_or(&0);
        done += put;
        if put < got {
            from.step_back(input, got - put);
            match result {
                Err(error) if done == 0 => return Err(error),
                _ => break,
            }
        }
        if signal::go_on(&task::current()).is_err() {
            break;
        }
    }
    Ok(done)
}

/// `FICLONE` and `FICLONERANGE`: no file system here shares blocks between files.
pub(super) fn clone_blocks(task: &Arc<Task>, to: &File, from: Fd) -> Result<u64> {
    let from = file(task, from)?;
    if !from.flags().readable() || !to.flags().writable() || to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    match (from.attr()?.kind, to.attr()?.kind) {
        (Kind::Directory, _) | (_, Kind::Directory) => Err(Errno::EISDIR),
        (Kind::Regular, Kind::Regular) if !same_file_system(&from, to) => Err(Errno::EXDEV),
        (Kind::Regular, Kind::Regular) => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

fn same_file_system(one: &File, other: &File) -> bool {
    match (one.path(), other.path()) {
        (Some(one), Some(other)) => one.mount().fs().dev() == other.mount().fs().dev(),
        _ => false,
    }
}

/// Within one file the ranges may not overlap, and neither may pass the largest offset.
fn check_overlap(input: &File, from: &Place, out: &File, to: &Place, count: usize) -> Result<()> {
    let start = |place: &Place, file: &File| match place {
        Place::Own(at) => *at,
        Place::File => file.position(),
    };
    let (from, to, count) = (start(from, input), start(to, out), count as u64);
    if from.checked_add(count).is_none() || to.checked_add(count).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let same = match (input.inode(), out.inode()) {
        (Some(one), Some(other)) => Arc::ptr_eq(&one, &other),
        _ => false,
    };
    let rest = input.attr()?.size.saturating_sub(from).min(count);
    if same && from < to + rest && to < from + rest { Err(Errno::EINVAL) } else { Ok(()) }
}
