//! Files and directories of the host: descriptors, and the calls that never leave a directory's tree.
//!
//! All functions here are safe: they touch only memory that their arguments own. Users: the kernel's host-directory
//! file system. Source: openat2(2), statx(2), getdents64(2), preadv2(2).

use crate::raw::syscall;
use core::mem::MaybeUninit;
use umbel_abi::linux::{Errno, uapi};

/// A descriptor of the shared table, by number. Copying it copies no ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostFd(pub i32);

/// A descriptor that is closed when dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnedFd(HostFd);

impl OwnedFd {
    /// Takes over a descriptor that nobody else closes.
    pub const fn new(fd: HostFd) -> Self {
        Self(fd)
    }

    /// The number, valid while `self` lives.
    pub const fn fd(&self) -> HostFd {
        self.0
    }
}

impl Drop for OwnedFd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours; closing it touches no memory.
        let _ = unsafe { syscall(uapi::__NR_close, [self.0.arg(), 0, 0, 0, 0, 0]) };
    }
}

impl HostFd {
    fn arg(self) -> u64 {
        self.0 as i64 as u64
    }
}

/// A NUL-terminated name, copied to the stack: at most 255 bytes, no slash.
struct CName([u8; 256]);

impl CName {
    fn new(name: &[u8]) -> Result<Self, Errno> {
        let mut buf = [0; 256];
        if name.len() > 255 {
            return Err(Errno::ENAMETOOLONG);
        }
        if name.is_empty() || name.contains(&0) || name.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        buf[..name.len()].copy_from_slice(name);
        Ok(Self(buf))
    }

    fn arg(&self) -> u64 {
        self.0.as_ptr() as u64
    }
}

/// Opens `name` in `dir` without following any link or leaving `dir`. `flags` are those of open(2).
pub fn open_beneath(dir: HostFd, name: &[u8], flags: u32) -> Result<OwnedFd, Errno> {
    let name = CName::new(name)?;
    let beneath = uapi::RESOLVE_NO_MAGICLINKS | uapi::RESOLVE_BENEATH;
    // An O_PATH descriptor of a link itself may be wanted, and takes no flag that is about files.
    let (more, resolve) =
        if flags & uapi::O_PATH != 0 { (0, beneath) } else { (uapi::O_NOCTTY, beneath | uapi::RESOLVE_NO_SYMLINKS) };
    let how = uapi::open_how {
        flags: u64::from(flags | uapi::O_NOFOLLOW | uapi::O_CLOEXEC | more),
        mode: 0,
        resolve: u64::from(resolve),
    };
    let args = [dir.arg(), name.arg(), &raw const how as u64, size_of_val(&how) as u64, 0, 0];
    // SAFETY: name and how are live and as long as the call reads.
    let fd = unsafe { syscall(uapi::__NR_openat2, args) }?;
    Ok(OwnedFd(HostFd(fd as i32)))
}

/// A second, readable description of the directory `dir`.
pub fn reopen_dir(dir: HostFd) -> Result<OwnedFd, Errno> {
    let how = uapi::open_how {
        flags: u64::from(uapi::O_RDONLY | uapi::O_DIRECTORY | uapi::O_CLOEXEC | uapi::O_NOFOLLOW),
        mode: 0,
        resolve: u64::from(uapi::RESOLVE_BENEATH | uapi::RESOLVE_NO_MAGICLINKS),
    };
    let args = [dir.arg(), c".".as_ptr() as u64, &raw const how as u64, size_of_val(&how) as u64, 0, 0];
    // SAFETY: name and how are live and as long as the call reads.
    let fd = unsafe { syscall(uapi::__NR_openat2, args) }?;
    Ok(OwnedFd(HostFd(fd as i32)))
}

/// Attributes of `name` in `dir`, or of `dir` itself if `name` is empty; links are not followed.
pub fn stat_at(dir: HostFd, name: &[u8]) -> Result<uapi::statx, Errno> {
    let mut flags = uapi::AT_SYMLINK_NOFOLLOW | uapi::AT_NO_AUTOMOUNT;
    let name = if name.is_empty() {
        flags |= uapi::AT_EMPTY_PATH;
        CName([0; 256])
    } else {
        CName::new(name)?
    };
    let mask = uapi::STATX_BASIC_STATS | uapi::STATX_BTIME;
    let mut out = MaybeUninit::<uapi::statx>::zeroed();
    let args = [dir.arg(), name.arg(), u64::from(flags), u64::from(mask), out.as_mut_ptr() as u64, 0];
    // SAFETY: the name is live, the buffer is as large as the call writes.
    unsafe { syscall(uapi::__NR_statx, args) }?;
    // SAFETY: zeroed, then written by the host; any bytes are a valid value.
    Ok(unsafe { out.assume_init() })
}

/// Facts of the file system that `fd` is on.
pub fn statfs(fd: HostFd) -> Result<uapi::statfs64, Errno> {
    let mut out = MaybeUninit::<uapi::statfs64>::zeroed();
    // SAFETY: the buffer is as large as the call writes.
    unsafe { syscall(uapi::__NR_fstatfs, [fd.arg(), out.as_mut_ptr() as u64, 0, 0, 0, 0]) }?;
    // SAFETY: zeroed, then written by the host; any bytes are a valid value.
    Ok(unsafe { out.assume_init() })
}

/// The target of the link `name` in `dir`; returns its length, which may equal the buffer's (then it was cut).
pub fn readlink_at(dir: HostFd, name: &[u8], buf: &mut [u8]) -> Result<usize, Errno> {
    let name = CName::new(name)?;
    let args = [dir.arg(), name.arg(), buf.as_mut_ptr() as u64, buf.len() as u64, 0, 0];
    // SAFETY: the name is live, the buffer is ours and as long as it says.
    unsafe { syscall(uapi::__NR_readlinkat, args) }.map(|len| len as usize)
}

/// Raw directory records from the position of `dir`; 0 bytes at the end.
pub fn read_dir(dir: HostFd, buf: &mut [u8]) -> Result<usize, Errno> {
    let args = [dir.arg(), buf.as_mut_ptr() as u64, buf.len() as u64, 0, 0, 0];
    // SAFETY: the buffer is ours and as long as it says.
    unsafe { syscall(uapi::__NR_getdents64, args) }.map(|len| len as usize)
}

/// Reads at `offset` into kernel memory.
pub fn read_at(fd: HostFd, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let args = [fd.arg(), buf.as_mut_ptr() as u64, buf.len() as u64, offset, 0, 0];
    // SAFETY: the buffer is ours and as long as it says.
    unsafe { syscall(uapi::__NR_pread64, args) }.map(|len| len as usize)
}

/// Writes kernel memory at `offset`.
pub fn write_at(fd: HostFd, buf: &[u8], offset: u64) -> Result<usize, Errno> {
    let args = [fd.arg(), buf.as_ptr() as u64, buf.len() as u64, offset, 0, 0];
    // SAFETY: the buffer is live and as long as it says.
    unsafe { syscall(uapi::__NR_pwrite64, args) }.map(|len| len as usize)
}

/// "At the descriptor's own position", for the calls that take an offset: slots have these only.
const OWN_POSITION: u64 = u64::MAX;

/// Reads from the descriptor's own position into kernel memory.
pub fn read(fd: HostFd, buf: &mut [u8]) -> Result<usize, Errno> {
    let part = [buf.as_mut_ptr() as u64, buf.len() as u64];
    let args = [fd.arg(), part.as_ptr() as u64, 1, OWN_POSITION, OWN_POSITION, 0];
    // SAFETY: the buffer is ours and as long as it says.
    unsafe { syscall(uapi::__NR_preadv2, args) }.map(|len| len as usize)
}

/// Writes kernel memory at the descriptor's own position.
pub fn write(fd: HostFd, buf: &[u8]) -> Result<usize, Errno> {
    let part = [buf.as_ptr() as u64, buf.len() as u64];
    let args = [fd.arg(), part.as_ptr() as u64, 1, OWN_POSITION, OWN_POSITION, 0];
    // SAFETY: the buffer is live and as long as it says.
    unsafe { syscall(uapi::__NR_pwritev2, args) }.map(|len| len as usize)
}

/// Moves the descriptor's own position.
pub fn seek(fd: HostFd, offset: i64, whence: u32) -> Result<u64, Errno> {
    // SAFETY: no memory is touched.
    unsafe { syscall(uapi::__NR_lseek, [fd.arg(), offset as u64, u64::from(whence), 0, 0, 0]) }
}
