//! Mappings and memory files. Used by `mm` for guest memory and the heap; the numbers here are on the slots' whitelist.

use crate::raw::syscall;
use umbel_abi::linux::Errno;

const NR_MMAP: u32 = 9;
const NR_MPROTECT: u32 = 10;
const NR_MUNMAP: u32 = 11;
const NR_PREAD64: u32 = 17;
const NR_PWRITE64: u32 = 18;
const NR_MADVISE: u32 = 28;
const NR_FALLOCATE: u32 = 285;
const NR_MEMBARRIER: u32 = 324;
const NR_PREADV2: u32 = 327;
const RWF_NOWAIT: u64 = 8;

/// `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
pub const PROT_READ: u32 = 1;
pub const PROT_WRITE: u32 = 2;
pub const PROT_EXEC: u32 = 4;

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_FIXED: u64 = 0x10;
const MAP_POPULATE: u64 = 0x8000;
const FALLOC_KEEP_SIZE_PUNCH_HOLE: u64 = 1 | 2;

/// Advice numbers.
pub const MADV_COLLAPSE: u32 = 25;
/// `MEMBARRIER_CMD_GLOBAL_EXPEDITED` and its registration.
pub const MEMBARRIER_GLOBAL_EXPEDITED: u32 = 1 << 1;
pub const MEMBARRIER_REGISTER_GLOBAL_EXPEDITED: u32 = 1 << 2;

/// How a file is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `MAP_SHARED | MAP_POPULATE`: pages of a memfd that exist.
    SharedPopulated,
    /// `MAP_SHARED`, faulted in on demand.
    Shared,
    /// `MAP_PRIVATE`: only ever with a protection without write.
    Private,
}

/// Maps `len` bytes of `fd` from `offset` at exactly `addr`, over whatever is there.
///
/// # Safety
/// Nothing that Rust references lies in the range.
pub unsafe fn map_fixed(addr: u64, len: u64, prot: u32, kind: MapKind, fd: i32, offset: u64) -> Result<(), Errno> {
    let flags = match kind {
        MapKind::SharedPopulated => MAP_SHARED | MAP_POPULATE,
        MapKind::Shared => MAP_SHARED,
        MapKind::Private => MAP_PRIVATE,
    };
    let args = [addr, len, u64::from(prot), flags | MAP_FIXED, fd as u64, offset];
    // SAFETY: the caller vouches for the range.
    unsafe { syscall(NR_MMAP, args) }.map(drop)
}

/// Unmaps a range.
///
/// # Safety
/// Nothing that Rust references lies in the range.
pub unsafe fn unmap(addr: u64, len: u64) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the range.
    unsafe { syscall(NR_MUNMAP, [addr, len, 0, 0, 0, 0]) }.map(drop)
}

/// Changes the protection of a range.
///
/// # Safety
/// Nothing that Rust references lies in the range.
pub unsafe fn protect(addr: u64, len: u64, prot: u32) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the range.
    unsafe { syscall(NR_MPROTECT, [addr, len, u64::from(prot), 0, 0, 0]) }.map(drop)
}

/// Advises the host about a range.
///
/// # Safety
/// The advice must keep the contents of everything that Rust references.
pub unsafe fn advise(addr: u64, len: u64, advice: u32) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the advice.
    unsafe { syscall(NR_MADVISE, [addr, len, u64::from(advice), 0, 0, 0]) }.map(drop)
}

/// Reads from a file at `offset` into kernel memory; the number of bytes read.
pub fn pread(fd: i32, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let args = [fd as u64, buf.as_mut_ptr() as u64, buf.len() as u64, offset, 0, 0];
    // SAFETY: the buffer is ours for the call and as long as it says.
    unsafe { syscall(NR_PREAD64, args) }.map(|n| n as usize)
}

/// Reads from a file at `offset` to the address `to` unless that would block (`EAGAIN`); the number of bytes read.
///
/// # Safety
/// Nothing that Rust references lies at `to`; it may be unmapped (`EFAULT`).
pub unsafe fn preadv2_nowait(fd: i32, to: u64, len: usize, offset: u64) -> Result<usize, Errno> {
    let iovec = [to, len as u64];
    let args = [fd as u64, iovec.as_ptr() as u64, 1, offset, 0, RWF_NOWAIT];
    // SAFETY: the vector is ours; the caller vouches for the target.
    unsafe { syscall(NR_PREADV2, args) }.map(|n| n as usize)
}

/// Writes kernel memory to a file at `offset`; the number of bytes written.
pub fn pwrite(fd: i32, buf: &[u8], offset: u64) -> Result<usize, Errno> {
    let args = [fd as u64, buf.as_ptr() as u64, buf.len() as u64, offset, 0, 0];
    // SAFETY: the buffer is readable for as long as it says.
    unsafe { syscall(NR_PWRITE64, args) }.map(|n| n as usize)
}

/// Gives a range of a memory file back to the host: it reads as zero afterwards.
///
/// # Safety
/// Nothing that Rust references lives in that range of the file.
pub unsafe fn punch_hole(fd: i32, offset: u64, len: u64) -> Result<(), Errno> {
    let args = [fd as u64, FALLOC_KEEP_SIZE_PUNCH_HOLE, offset, len, 0, 0];
    // SAFETY: the caller vouches for the range.
    unsafe { syscall(NR_FALLOCATE, args) }.map(drop)
}

/// Makes the host allocate a range of a memory file.
pub fn allocate(fd: i32, offset: u64, len: u64) -> Result<(), Errno> {
    // SAFETY: allocation changes no contents.
    unsafe { syscall(NR_FALLOCATE, [fd as u64, 0, offset, len, 0, 0]) }.map(drop)
}

/// A full memory barrier on every running, registered host task.
pub fn membarrier(command: u32) -> Result<(), Errno> {
    // SAFETY: no memory is touched.
    unsafe { syscall(NR_MEMBARRIER, [u64::from(command), 0, 0, 0, 0, 0]) }.map(drop)
}
