//! Putting an address space together and reading back what it holds. Used by the zygote and by starting slots.

use crate::raw::syscall;
use umbel_abi::linux::Errno;

const NR_READ: u32 = 0;
const NR_CLOSE: u32 = 3;
const NR_MMAP: u32 = 9;
const NR_MUNMAP: u32 = 11;
const NR_MADVISE: u32 = 28;
const NR_OPENAT: u32 = 257;
const AT_FDCWD: u64 = -100_i64 as u64;
const O_CLOEXEC: u64 = 0x8_0000;

/// `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
pub const READ: u64 = 1;
pub const WRITE: u64 = 2;
pub const EXEC: u64 = 4;

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const NO_FD: u64 = u64::MAX;

/// Maps `len` private, zero bytes at `addr`, over whatever is there.
///
/// # Safety
/// Nothing that Rust references lies in the range.
pub unsafe fn map_private(addr: u64, len: u64) -> Result<(), Errno> {
    let flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS;
    // SAFETY: the caller vouches for the range.
    unsafe { syscall(NR_MMAP, [addr, len, READ | WRITE, flags, NO_FD, 0]) }.map(drop)
}

/// Maps `len` bytes of the memory file `fd` from `offset` at `addr`, shared, over whatever is there.
///
/// # Safety
/// Nothing that Rust references lies in the range.
pub unsafe fn map_shared(addr: u64, len: u64, prot: u64, fd: i32, offset: u64) -> Result<(), Errno> {
    let args = [addr, len, prot, MAP_SHARED | MAP_FIXED, fd as u64, offset];
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

/// Puts a range of a memory file on huge pages (`MADV_COLLAPSE`).
///
/// # Safety
/// The range is mapped; contents stay.
pub unsafe fn collapse(addr: u64, len: u64) -> Result<(), Errno> {
    const COLLAPSE: u64 = 25;
    // SAFETY: the caller vouches for the range.
    unsafe { syscall(NR_MADVISE, [addr, len, COLLAPSE, 0, 0, 0]) }.map(drop)
}

/// Opens a file for reading.
pub fn open(path: &core::ffi::CStr) -> Result<i32, Errno> {
    let args = [AT_FDCWD, path.as_ptr() as u64, O_CLOEXEC, 0, 0, 0];
    // SAFETY: the path is terminated.
    unsafe { syscall(NR_OPENAT, args) }.map(|fd| fd as i32)
}

/// Reads from a descriptor; the number of bytes read, 0 at the end.
pub fn read(fd: i32, buf: &mut [u8]) -> Result<usize, Errno> {
    let args = [fd as u64, buf.as_mut_ptr() as u64, buf.len() as u64, 0, 0, 0];
    // SAFETY: the buffer is ours and as long as it says.
    unsafe { syscall(NR_READ, args) }.map(|n| n as usize)
}

/// Closes a descriptor.
pub fn close(fd: i32) {
    // SAFETY: touches no memory.
    let _ = unsafe { syscall(NR_CLOSE, [fd as u64, 0, 0, 0, 0, 0]) };
}
