//! Where bytes of a read go and where bytes of a write come from: guest memory (in pieces) or kernel memory.
//!
//! Host files are read straight into guest memory with preadv2(RWF_NOWAIT) inside an active section, since no host call
//! that can block may be given a guest address; when the host would block, through a kernel buffer.

use crate::user::{UserAddr, access_ok, clear_partial, copy_in_partial, copy_out_partial, fault_in, in_section};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use umbel_host::mem;

/// Longest transfer of one call (source: read(2), notes): bytes.
pub const MAX_RW: usize = 0x7fff_f000;
/// Most pieces (`UIO_MAXIOV`).
pub const MAX_PIECES: usize = 1024;
/// Bytes that one host call moves at most: the length of an active section.
const STEP: usize = 64 << 10;

/// One piece of guest memory: `struct iovec`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct IoVec {
    /// Where.
    pub addr: UserAddr,
    /// Bytes.
    pub len: u64,
}

// SAFETY: two words.
unsafe impl crate::user::Pod for IoVec {}

/// Reads an iovec array of the guest's. `EINVAL` beyond [`MAX_PIECES`] or if the lengths overflow.
pub fn read_iovecs(addr: UserAddr, count: usize) -> Result<Vec<IoVec>> {
    if count > MAX_PIECES {
        return Err(Errno::EINVAL);
    }
    let mut pieces: Vec<IoVec> = crate::user::read_vec(addr, count)?;
    let mut total = 0usize;
    for piece in &mut pieces {
        if piece.len > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        piece.len = piece.len.min((MAX_RW - total) as u64);
        access_ok(piece.addr, piece.len as usize)?;
        total += piece.len as usize;
    }
    Ok(pieces)
}

/// Pieces of guest memory with a position.
#[derive(Debug)]
struct Pieces {
    first: IoVec,
    rest: Vec<IoVec>,
    next: usize,
}

impl Pieces {
    fn one(addr: UserAddr, len: usize) -> Self {
        Pieces { first: IoVec { addr, len: len.min(MAX_RW) as u64 }, rest: Vec::new(), next: 0 }
    }

    fn many(rest: Vec<IoVec>) -> Self {
        Pieces { first: IoVec::default(), rest, next: 0 }
    }

    fn remaining(&self) -> usize {
        let rest: u64 = self.rest.iter().skip(self.next).map(|piece| piece.len).sum();
        (self.first.len + rest) as usize
    }

    /// The piece at the position, at most `max` bytes of it.
    fn current(&mut self, max: usize) -> Option<(UserAddr, usize)> {
        while self.first.len == 0 {
            self.first = *self.rest.get(self.next)?;
            self.next += 1;
        }
        Some((self.first.addr, (self.first.len as usize).min(max)))
    }

    fn advance(&mut self, bytes: usize) {
        self.first.addr = self.first.addr.add(bytes as u64);
        self.first.len -= bytes as u64;
    }

    /// Applies `step` to pieces until `len` bytes are done or it stops short. An error counts only if nothing is done.
    fn walk(
        &mut self,
        len: usize,
        mut step: impl FnMut(UserAddr, usize, usize) -> (usize, Result<()>),
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            let Some((addr, room)) = self.current(len - done) else {
                break;
            };
            let (moved, result) = step(addr, done, room);
            self.advance(moved);
            done += moved;
            if let Err(error) = result {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
            if moved < room {
                break;
            }
        }
        Ok(done)
    }
}

#[derive(Debug)]
enum Target<'a> {
    Kernel(&'a mut [u8], usize),
    User(Pieces),
}

/// Where the bytes of a read go.
#[derive(Debug)]
pub struct IoDst<'a>(Target<'a>);

impl<'a> IoDst<'a> {
    /// Into kernel memory.
    pub fn kernel(buf: &'a mut [u8]) -> Self {
        IoDst(Target::Kernel(buf, 0))
    }

    /// Into one piece of guest memory.
    pub fn user(addr: UserAddr, len: usize) -> Self {
        IoDst(Target::User(Pieces::one(addr, len)))
    }

    /// Into pieces of guest memory.
    pub fn user_pieces(pieces: Vec<IoVec>) -> Self {
        IoDst(Target::User(Pieces::many(pieces)))
    }

    /// Bytes that still have room.
    pub fn remaining(&self) -> usize {
        match &self.0 {
            Target::Kernel(buf, done) => buf.len() - done,
            Target::User(pieces) => pieces.remaining(),
        }
    }

    /// Takes as many of `bytes` as there is room for; the number taken. `EFAULT` only if none could be.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match &mut self.0 {
            Target::Kernel(buf, done) => {
                let len = bytes.len().min(buf.len() - *done);
                buf[*done..*done + len].copy_from_slice(&bytes[..len]);
                *done += len;
                Ok(len)
            }
            Target::User(pieces) => {
                pieces.walk(bytes.len(), |addr, done, room| copy_out_partial(addr, &bytes[done..done + room]))
            }
        }
    }

    /// Takes `len` zeroes, or as many as there is room for.
    pub fn zero(&mut self, len: usize) -> Result<usize> {
        match &mut self.0 {
            Target::Kernel(buf, done) => {
                let len = len.min(buf.len() - *done);
                buf[*done..*done + len].fill(0);
                *done += len;
                Ok(len)
            }
            Target::User(pieces) => pieces.walk(len, |addr, _, room| clear_partial(addr, room)),
        }
    }

    /// Takes up to `len` bytes of the host file `fd` from `offset`; 0 at its end.
    pub fn fill_from_host(&mut self, fd: i32, offset: u64, len: usize) -> Result<usize> {
        match &mut self.0 {
            Target::Kernel(buf, done) => {
                let len = len.min(buf.len() - *done);
                let got = mem::pread(fd, &mut buf[*done..*done + len], offset)?;
                *done += got;
                Ok(got)
            }
            Target::User(pieces) => {
                pieces.walk(len, |addr, done, room| host_to_user(fd, offset + done as u64, addr, room))
            }
        }
    }
}

#[derive(Debug)]
enum Origin<'a> {
    Kernel(&'a [u8]),
    User(Pieces),
}

/// Where the bytes of a write come from.
#[derive(Debug)]
pub struct IoSrc<'a>(Origin<'a>);

impl<'a> IoSrc<'a> {
    /// From kernel memory.
    pub fn kernel(bytes: &'a [u8]) -> Self {
        IoSrc(Origin::Kernel(bytes))
    }

    /// From one piece of guest memory.
    pub fn user(addr: UserAddr, len: usize) -> Self {
        IoSrc(Origin::User(Pieces::one(addr, len)))
    }

    /// From pieces of guest memory.
    pub fn user_pieces(pieces: Vec<IoVec>) -> Self {
        IoSrc(Origin::User(Pieces::many(pieces)))
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        match &self.0 {
            Origin::Kernel(bytes) => bytes.len(),
            Origin::User(pieces) => pieces.remaining(),
        }
    }

    /// Fills `buf` with the next bytes; the number copied. `EFAULT` only if none could be.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        match &mut self.0 {
            Origin::Kernel(bytes) => {
                let len = buf.len().min(bytes.len());
                buf[..len].copy_from_slice(&bytes[..len]);
                *bytes = &bytes[len..];
                Ok(len)
            }
            Origin::User(pieces) => {
                pieces.walk(buf.len(), |addr, done, room| copy_in_partial(&mut buf[done..done + room], addr))
            }
        }
    }

    /// Writes up to `len` bytes to the host file `fd` at `offset`; the number written.
    pub fn drain_to_host(&mut self, fd: i32, offset: u64, len: usize) -> Result<usize> {
        let mut done = 0;
        let mut buffer = bounce(len.min(self.remaining()))?;
        while done < len {
            let want = buffer.len().min(len - done);
            let got = match self.read(&mut buffer[..want]) {
                Ok(0) => break,
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            // What the host does not take is lost to the caller's position only: the count says what was written.
            match mem::pwrite(fd, &buffer[..got], offset + done as u64) {
                Ok(put) if put == got => done += put,
                Ok(put) => return Ok(done + put),
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

fn bounce(len: usize) -> Result<Vec<u8>> {
    let len = len.min(STEP);
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(len, 0);
    Ok(buffer)
}

/// Descriptors whose files cannot be read without blocking: a bit each, a hint only (numbers are used again).
static BLOCKING: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

fn blocking_bit(fd: i32) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((BLOCKING.get(fd / 64)?, 1 << (fd % 64)))
}

/// Reads up to `len` bytes of a host file into guest memory.
fn host_to_user(fd: i32, offset: u64, addr: UserAddr, len: usize) -> (usize, Result<()>) {
    if let Err(error) = access_ok(addr, len) {
        return (0, Err(error));
    }
    let mut done = 0;
    while done < len {
        let at = addr.add(done as u64);
        let step = (len - done).min(STEP);
        match read_step(fd, offset + done as u64, at, step) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

fn read_step(fd: i32, offset: u64, addr: UserAddr, len: usize) -> Result<usize> {
    let blocking = blocking_bit(fd).is_none_or(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0);
    if !blocking && len > 256 {
        let got = in_section(|| {
            // SAFETY: guest memory; the host reports what it cannot write as EFAULT and, without waiting, returns.
            unsafe { mem::preadv2_nowait(fd, addr.0, len, offset) }
        });
        match got {
            Ok(got) => return Ok(got),
            Err(Errno::EFAULT) => {
                fault_in(addr.0, true)?;
            }
            Err(Errno::EOPNOTSUPP) => {
                if let Some((word, bit)) = blocking_bit(fd) {
                    word.fetch_or(bit, Ordering::Relaxed);
                }
            }
            Err(_) => {}
        }
    }
    // Small, or the host would block: through kernel memory.
    if len <= 512 {
        return through(fd, offset, addr, &mut [0; 512][..len]);
    }
    through(fd, offset, addr, &mut bounce(len)?)
}

fn through(fd: i32, offset: u64, addr: UserAddr, buffer: &mut [u8]) -> Result<usize> {
    let got = mem::pread(fd, buffer, offset)?;
    match copy_out_partial(addr, &buffer[..got]) {
        (0, Err(error)) => Err(error),
        (put, _) => Ok(put),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_filled_in_order() {
        let (mut a, mut b) = ([0u8; 3], [0u8; 5]);
        let piece = |bytes: &mut [u8]| IoVec { addr: UserAddr(bytes.as_mut_ptr() as u64), len: bytes.len() as u64 };
        let empty = IoVec::default();
        let mut dst = IoDst::user_pieces(std::vec![piece(&mut a), empty, piece(&mut b)]);
        assert_eq!(dst.remaining(), 8);
        assert_eq!(dst.write(b"hello"), Ok(5));
        assert_eq!(dst.zero(1), Ok(1));
        assert_eq!(dst.write(b"wide world"), Ok(2));
        assert_eq!(dst.remaining(), 0);
        assert_eq!((&a, &b), (b"hel", b"lo\0wi"));
    }

    #[test]
    fn a_source_is_read_to_its_end() {
        let bytes = *b"0123456789";
        let mut src = IoSrc::user(UserAddr(bytes.as_ptr() as u64), 10);
        let mut buf = [0; 7];
        assert_eq!(src.read(&mut buf), Ok(7));
        assert_eq!(src.read(&mut buf), Ok(3));
        assert_eq!(&buf[..3], b"789");
        assert_eq!(src.read(&mut buf), Ok(0));
    }
}
