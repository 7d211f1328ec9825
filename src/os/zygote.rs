//! The jump from the machine into the kernel image.

use crate::image::Image;
use region::Protection;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use umbel_abi::machine::layout::{COLD_BASE, COLD_LEN, HOT_BASE, HOT_MAX, IMAGE_BASE, USER_TOP};

/// Whether something of this process lies where image and KDATA must go.
pub fn range_is_free() -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return false };
    let end = COLD_BASE + COLD_LEN;
    maps.lines()
        .filter_map(|line| {
            let (start, rest) = line.split_once('-')?;
            let (stop, _) = rest.split_once(' ')?;
            Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(stop, 16).ok()?))
        })
        .all(|(start, stop)| stop <= USER_TOP || start >= end)
}

/// Forks the zygote: a process with the machine's descriptors and nothing else of it. Returns its process id.
///
/// # Errors
/// clone(2) failed. What fails in the zygote is told through the control block.
pub fn fork(image: &Image, kdata: &OwnedFd, hot_len: u64) -> io::Result<i32> {
    let machine = std::process::id();
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: the machine has one thread, so its copy may go on with everything it has; no pointers are passed.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => become_zygote(image, kdata, hot_len, machine),
        pid => Ok(pid as i32),
    }
}

fn become_zygote(image: &Image, kdata: &OwnedFd, hot_len: u64, machine: u32) -> ! {
    if let Err(error) = map_image(image, kdata, hot_len) {
        crate::out::say(&format!("umbel: cannot map the kernel: {error}\n"));
        // SAFETY: ends the process without running the machine's exit handlers twice.
        unsafe { libc::_exit(1) };
    }
    let (rseq, rseq_len) = rseq_area();
    // SAFETY: the image's entry is mapped; it never returns.
    unsafe {
        core::arch::asm!(
            "jmp {entry}",
            entry = in(reg) image.entry,
            in("rdi") rseq,
            in("rsi") rseq_len,
            in("rdx") u64::from(machine),
            options(noreturn),
        )
    }
}

fn map_image(image: &Image, kdata: &OwnedFd, hot_len: u64) -> io::Result<()> {
    for segment in &image.segments {
        map(segment.start, segment.len, libc::PROT_READ, &image.file, segment.start - IMAGE_BASE)?;
        let protection = if segment.exec { Protection::READ_EXECUTE } else { Protection::READ };
        // SAFETY: the segment was just mapped and nothing refers to it.
        unsafe { region::protect(segment.start as *const u8, segment.len as usize, protection) }
            .map_err(io::Error::other)?;
        if segment.exec {
            // SAFETY: collapsing keeps contents. Where it fails, the code stays on small pages.
            unsafe { libc::madvise(segment.start as *mut libc::c_void, segment.len as usize, libc::MADV_COLLAPSE) };
        }
    }
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    map(HOT_BASE, hot_len, prot, kdata, 0)?;
    map(COLD_BASE, COLD_LEN, libc::PROT_NONE, kdata, HOT_MAX)
}

/// Maps a part of a memory file in its place, kept out of core dumps.
fn map(start: u64, len: u64, prot: i32, file: &OwnedFd, offset: u64) -> io::Result<()> {
    let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
    let (address, len) = (start as *mut libc::c_void, len as usize);
    // SAFETY: MAP_FIXED_NOREPLACE maps over nothing, and the advice keeps contents.
    let failed = unsafe {
        libc::mmap(address, len, prot, flags, file.as_raw_fd(), offset as i64) != address
            || libc::madvise(address, len, libc::MADV_DONTDUMP) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The area that the C library registered for restartable sequences, and its length; 0 if it did not.
fn rseq_area() -> (u64, u64) {
    let Some((offset, size)) = symbol(c"__rseq_offset").zip(symbol(c"__rseq_size")) else { return (0, 0) };
    // SAFETY: glibc documents the types: ptrdiff_t and unsigned int, constant after start-up.
    let (offset, size) = unsafe { (*offset.cast::<i64>(), *size.cast::<u32>()) };
    if size == 0 {
        return (0, 0);
    }
    let thread: u64;
    // SAFETY: the first word at fs is the thread pointer itself (x86-64 psABI).
    unsafe { core::arch::asm!("mov {}, fs:[0]", out(reg) thread, options(nostack, readonly)) };
    (thread.wrapping_add_signed(offset), u64::from(size.max(32)))
}

fn symbol(name: &CStr) -> Option<*mut libc::c_void> {
    // SAFETY: the name is terminated.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}
