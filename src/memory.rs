//! The machine's memory: KDATA and RAM as memory files, and the part of KDATA that machine and kernel share.

use crate::limits;
use crate::os::shared::{self, SharedKdata};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};
use thiserror::Error;
use umbel_abi::machine::layout::{COLD_LEN, HOT_MAX, PAGE};
use umbel_abi::machine::{HostFiles, MAX_ARENAS};

/// Why there is no memory for a machine.
#[derive(Debug, Error)]
pub enum MemoryError {
    #[error("cannot make the memory file {name}: {source}")]
    Create { name: String, source: nix::Error },
    #[error("cannot map kernel memory: {0}")]
    Map(std::io::Error),
    #[error("--mem {asked} MiB is more than this host or its control group has ({limit} MiB)")]
    TooMuch { asked: u64, limit: u64 },
}

/// All memory files of a machine.
pub struct Memory {
    /// KDATA: the hot range, then the cold range.
    pub kdata: OwnedFd,
    /// RAM.
    pub arenas: Vec<OwnedFd>,
    /// Pages of an arena (the last may hold fewer).
    pub arena_pages: u64,
    /// RAM in pages.
    pub ram_pages: u64,
    /// The start of KDATA: statics and control block.
    pub shared: SharedKdata,
}

impl Memory {
    /// Makes the files for `ram` bytes, one arena a virtual CPU up to [`MAX_ARENAS`].
    pub fn new(ram: u64, cpus: u32) -> Result<Memory, MemoryError> {
        if let Some(limit) = host_limit().filter(|limit| *limit < ram) {
            return Err(MemoryError::TooMuch { asked: ram >> 20, limit: limit >> 20 });
        }
        let ram_pages = ram / PAGE;
        let count = u64::from(cpus).min(MAX_ARENAS as u64);
        let arena_pages = ram_pages.div_ceil(count);
        let kdata = memory_file(c"umbel-kdata", HOT_MAX + COLD_LEN)?;
        let arenas = (0..count)
            .map(|index| {
                let pages = arena_pages.min(ram_pages - (index * arena_pages).min(ram_pages));
                memory_file(c"umbel-ram", pages * PAGE)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let shared = shared::map(&kdata).map_err(MemoryError::Map)?;
        Ok(Memory { kdata, arenas, arena_pages, ram_pages, shared })
    }

    /// All files behind this memory, for those that measure it; without those that cannot be duplicated.
    pub fn all_files(&self) -> Vec<OwnedFd> {
        self.arenas.iter().chain([&self.kdata]).filter_map(|file| file.try_clone().ok()).collect()
    }

    /// The descriptors, as the kernel takes them.
    pub fn files(&self, root: &OwnedFd) -> HostFiles {
        let mut arenas = [-1; MAX_ARENAS];
        for (slot, fd) in arenas.iter_mut().zip(&self.arenas) {
            *slot = fd.as_raw_fd();
        }
        HostFiles { kdata: self.kdata.as_raw_fd(), arenas, root: root.as_raw_fd(), vdso: -1 }
    }
}

/// A memory file of `len` bytes that no program executed later inherits.
pub fn memory_file(name: &CStr, len: u64) -> Result<OwnedFd, MemoryError> {
    let error = |source| MemoryError::Create { name: name.to_string_lossy().into_owned(), source };
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).map_err(error)?;
    ftruncate(&fd, len as i64).map_err(error)?;
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(error)?;
    Ok(fd)
}

/// Bytes that the host, or a control group, can ever give: the least of both.
fn host_limit() -> Option<u64> {
    let groups = limits::groups("memory.max").map(|(_, most)| most);
    let host = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?;
        Some(kib.parse::<u64>().ok()? << 10)
    });
    groups.chain(host).min()
}
