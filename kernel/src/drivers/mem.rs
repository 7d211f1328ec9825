//! The memory devices: null, zero, full, random, urandom, kmsg. Source: null(4), full(4), random(4), Linux's dev-kmsg.

use crate::fs::devtmpfs::register_char;
use crate::fs::{Dev, File, FileOps, IoDst, IoSrc, OpenContext, PollEvents, PollTable, Whence};
use crate::task::{self, Task, cap};
use crate::vm::{Mappable, SharedMemory};
use crate::{Errno, Result, log, random, signal};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_abi::linux::ioctl::{RNDADDENTROPY, RNDADDTOENTCNT, RNDCLEARPOOL, RNDGETENTCNT, RNDRESEEDCRNG, RNDZAPENTCNT};
use umbel_mm::user::{UserAddr, read_val, read_vec, write_val};

/// Major number of the memory devices.
const MAJOR: u32 = 1;
/// Bytes moved between looks at interrupts.
const CHUNK: usize = 4096;

/// Registers them all.
pub fn register() {
    register_char(MAJOR, 3, "null", 0o666, |_, _| Ok(Arc::new(Null)));
    register_char(MAJOR, 5, "zero", 0o666, |_, _| Ok(Arc::new(Zeroes::ZERO)));
    register_char(MAJOR, 7, "full", 0o666, |_, _| Ok(Arc::new(Zeroes::FULL)));
    register_char(MAJOR, 8, "random", 0o666, |_, _| Ok(Arc::new(Random)));
    register_char(MAJOR, 9, "urandom", 0o666, |_, _| Ok(Arc::new(Random)));
    register_char(MAJOR, 11, "kmsg", 0o644, open_kmsg);
}

/// Takes all of `src` and forgets it.
fn swallow(src: &mut IoSrc<'_>) -> usize {
    // Linux does not look at the bytes either: a bad address is no error here.
    src.remaining()
}

/// `/dev/null`.
struct Null;

impl FileOps for Null {
    fn pollable(&self, _: &File) -> bool {
        false
    }
    fn read(&self, _: &File, _: &mut IoDst<'_>) -> Result<usize> {
        Ok(0)
    }
    fn read_at(&self, _: &File, _: &mut IoDst<'_>, _: u64) -> Result<usize> {
        Ok(0)
    }
    fn write(&self, _: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        Ok(swallow(src))
    }
    fn write_at(&self, _: &File, src: &mut IoSrc<'_>, _: u64) -> Result<usize> {
        Ok(swallow(src))
    }
    fn seekable(&self) -> bool {
        true
    }
    fn seek(&self, _: &File, _: Whence, _: i64) -> Result<u64> {
        Ok(0)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Zeroes, until there is no more room.
fn read_zeroes(dst: &mut IoDst<'_>) -> Result<usize> {
    const ZEROES: &[u8] = &[0; CHUNK];
    let mut done = 0;
    while dst.remaining() > 0 {
        let count = dst.remaining().min(CHUNK);
        match signal::go_on(&task::current()).and_then(|()| dst.write(&ZEROES[..count])) {
            Ok(written) => done += written,
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// `/dev/zero` and `/dev/full`, which differ in what they do with what is written and whether they can be mapped.
struct Zeroes {
    write: fn(&mut IoSrc<'_>) -> Result<usize>,
    map: fn() -> Result<Arc<dyn Mappable>>,
}

impl Zeroes {
    /// Each mapping is memory of its own.
    const ZERO: Zeroes =
        Zeroes { write: |src| Ok(swallow(src)), map: || Ok(SharedMemory::unreserved(i64::MAX as u64)) };
    const FULL: Zeroes = Zeroes { write: |_| Err(Errno::ENOSPC), map: || Err(Errno::ENODEV) };
}

impl FileOps for Zeroes {
    fn pollable(&self, _: &File) -> bool {
        false
    }
    fn read(&self, _: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        read_zeroes(dst)
    }
    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, _: u64) -> Result<usize> {
        read_zeroes(dst)
    }
    fn write(&self, _: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        (self.write)(src)
    }
    fn write_at(&self, _: &File, src: &mut IoSrc<'_>, _: u64) -> Result<usize> {
        (self.write)(src)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn seek(&self, _: &File, _: Whence, _: i64) -> Result<u64> {
        Ok(0)
    }
    fn mappable(&self, _: &File) -> Result<Arc<dyn Mappable>> {
        (self.map)()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Writes random bytes until `dst` is full; a fault after the first ones ends it early.
fn read_random(dst: &mut IoDst<'_>) -> Result<usize> {
    let mut chunk = [0; 256];
    let mut done = 0;
    while dst.remaining() > 0 {
        let count = dst.remaining().min(chunk.len());
        let bytes = chunk.get_mut(..count).unwrap_or_default();
        random::fill(bytes);
        match signal::go_on(&task::current()).and_then(|()| dst.write(bytes)) {
            Ok(written) => done += written,
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// `/dev/random` and `/dev/urandom`: the same, since the generator is seeded from the start.
struct Random;

impl FileOps for Random {
    fn read(&self, _: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        read_random(dst)
    }
    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, _: u64) -> Result<usize> {
        read_random(dst)
    }
    fn write(&self, _: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let mut done = 0;
        let mut chunk = [0; 256];
        loop {
            match signal::go_on(&task::current()).and_then(|()| src.read(&mut chunk)) {
                Ok(0) => return Ok(done),
                Ok(count) => {
                    random::stir(chunk.get(..count).unwrap_or_default());
                    done += count;
                }
                Err(_) if done > 0 => return Ok(done),
                Err(errno) => return Err(errno),
            }
        }
    }
    fn write_at(&self, file: &File, src: &mut IoSrc<'_>, _: u64) -> Result<usize> {
        self.write(file, src)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn seek(&self, _: &File, _: Whence, _: i64) -> Result<u64> {
        Ok(0)
    }
    fn ioctl(&self, task: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        if cmd == RNDGETENTCNT {
            return write_val(UserAddr(arg), &256_i32).map(|()| 0);
        }
        let known = [RNDADDTOENTCNT, RNDADDENTROPY, RNDZAPENTCNT, RNDCLEARPOOL, RNDRESEEDCRNG];
        if !known.contains(&cmd) {
            return Err(Errno::EINVAL);
        }
        if !task.cred().capable(cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        if cmd == RNDADDENTROPY {
            let [count, size]: [i32; 2] = read_val(UserAddr(arg))?;
            if count < 0 || size < 0 {
                return Err(Errno::EINVAL);
            }
            let bytes: Vec<u8> = read_vec(UserAddr(arg).add(8), (size as usize).min(CHUNK))?;
            random::stir(&bytes);
        }
        Ok(0)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `/dev/kmsg`: a reader of the kernel log with a place of its own.
struct Kmsg {
    next: AtomicU64,
}

fn open_kmsg(context: &OpenContext<'_>, _: Dev) -> Result<Arc<dyn FileOps>> {
    let reads = context.flags.readable();
    if reads && context.task.is_some_and(|task| !task.cred().capable(cap::SYSLOG)) {
        return Err(Errno::EPERM);
    }
    Ok(Arc::new(Kmsg { next: AtomicU64::new(0) }))
}

impl FileOps for Kmsg {
    /// One record a read: `priority,sequence,time µs,-;text`.
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        let seq = self.next.load(Relaxed);
        let range = log::range();
        if seq < range.start {
            self.next.store(range.start, Relaxed);
            // The reader is told once that it missed some; the first read begins with the oldest.
            if seq > 0 {
                return Err(Errno::EPIPE);
            }
        }
        let found = match log::record_from(seq) {
            Some(record) => record,
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => {
                log::readers().wait_interruptible(None, || log::record_from(seq)).map_err(|_| Errno::ERESTARTSYS)?
            }
        };
        let line = kmsg_line(&found);
        if line.len() > dst.remaining() {
            return Err(Errno::EINVAL);
        }
        self.next.store(found.seq + 1, Relaxed);
        dst.write(&line)
    }

    /// A message of a program's own, `<priority>` before it or not.
    fn write(&self, _: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let mut text = [0; 1024];
        let total = src.remaining();
        if total > text.len() {
            return Err(Errno::EINVAL);
        }
        let count = src.read(&mut text)?;
        let (priority, message) = split_priority(text.get(..count).unwrap_or_default());
        let message = alloc::string::String::from_utf8_lossy(message);
        log::write_record(priority, log::shows(priority), format_args!("{message}"));
        Ok(total)
    }

    fn seek(&self, _: &File, whence: Whence, offset: i64) -> Result<u64> {
        if offset != 0 {
            return Err(Errno::ESPIPE);
        }
        let range = log::range();
        match whence {
            Whence::Set | Whence::Data => self.next.store(range.start, Relaxed),
            Whence::End => self.next.store(range.end, Relaxed),
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table
            && table.register(log::readers()).is_err()
        {
            return PollEvents::ERR;
        }
        let ready = self.next.load(Relaxed) < log::range().end;
        if ready { PollEvents::READABLE | PollEvents::WRITABLE } else { PollEvents::WRITABLE }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn kmsg_line(record: &log::Record) -> Vec<u8> {
    let micros = record.time_ns / 1000;
    let mut line = alloc::format!("{},{},{micros},-;", record.priority, record.seq).into_bytes();
    line.extend_from_slice(record.text());
    line.push(b'\n');
    line
}

/// Facility user and level warning unless the text says otherwise.
fn split_priority(text: &[u8]) -> (u8, &[u8]) {
    const USER_WARNING: u8 = 8 + 4;
    let parsed = text.strip_prefix(b"<").and_then(|rest| {
        let end = rest.iter().position(|byte| *byte == b'>')?;
        let number: u8 = core::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()?;
        Some((number, rest.get(end + 1..)?))
    });
    match parsed {
        // Facility 0 is the kernel's own.
        Some((level @ 0..8, rest)) => (8 + level, rest),
        Some(both) => both,
        None => (USER_WARNING, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kmsg_lines_and_priorities() {
        let record = log::Record::new(7, 6, 1_234_567, b"hi");
        assert_eq!(kmsg_line(&record), b"6,7,1234,-;hi\n");
        assert_eq!(split_priority(b"<3>bad"), (11, &b"bad"[..]));
        assert_eq!(split_priority(b"<30>daemon"), (30, &b"daemon"[..]));
        assert_eq!(split_priority(b"<x>y"), (12, &b"<x>y"[..]));
    }
}
