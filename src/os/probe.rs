//! Small trials of host features, each undone before it returns.

use std::io;
use std::time::Instant;

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;
/// `PR_SET_SYSCALL_USER_DISPATCH` and `PR_SYS_DISPATCH_ON`, `OFF`.
const DISPATCH: (libc::c_int, libc::c_ulong, libc::c_ulong) = (59, 1, 0);
/// `MADV_COLLAPSE`.
const COLLAPSE: libc::c_int = 25;
/// `MEMBARRIER_CMD_GLOBAL_EXPEDITED`.
const GLOBAL_EXPEDITED: libc::c_long = 1 << 1;
/// Bit of `AT_HWCAP2` for FSGSBASE.
const HWCAP2_FSGSBASE: libc::c_ulong = 1 << 1;

/// Can this thread have its system calls dispatched to it?
pub fn user_dispatch() -> io::Result<()> {
    let nothing: libc::c_ulong = 0;
    // SAFETY: the allowed range is the whole lower half: no call of ours is dispatched in between.
    let on = unsafe { libc::prctl(DISPATCH.0, DISPATCH.1, nothing, 1_u64 << 47, nothing) };
    if on != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: switches it off again.
    unsafe { libc::prctl(DISPATCH.0, DISPATCH.2, nothing, nothing, nothing) };
    Ok(())
}

/// Can filters be installed? Asks for one at an address that is not there: `EFAULT` means yes.
pub fn seccomp_filter() -> io::Result<()> {
    // SAFETY: a null program is read and refused.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::null::<u8>()) };
    let error = io::Error::last_os_error();
    if result == 0 || error.raw_os_error() == Some(libc::EFAULT) { Ok(()) } else { Err(error) }
}

/// Does the processor let user code set fs and gs, and the kernel know?
pub fn fsgsbase() -> bool {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}

/// Are expedited barriers over all registered processes there?
pub fn membarrier() -> bool {
    // SAFETY: a query.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    commands > 0 && commands & GLOBAL_EXPEDITED != 0
}

/// Can shared memory be put on a huge page on demand?
pub fn collapse() -> io::Result<()> {
    // SAFETY: a new descriptor of our own.
    let fd = unsafe { libc::memfd_create(c"umbel-check".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is ours; room for an aligned huge page.
    let result = unsafe {
        libc::ftruncate(fd, HUGE as i64);
        collapse_mapping(fd)
    };
    // SAFETY: the descriptor is ours and not used again.
    unsafe { libc::close(fd) };
    result
}

/// # Safety
/// `fd` is a memfd of at least one huge page.
unsafe fn collapse_mapping(fd: libc::c_int) -> io::Result<()> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: reserves addresses that nobody uses.
    let room = unsafe {
        libc::mmap(std::ptr::null_mut(), 2 * HUGE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if room == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let aligned = room.map_addr(|address| address.next_multiple_of(HUGE));
    // SAFETY: maps over a part of the reservation, touches it, tries, and gives the whole reservation back.
    unsafe {
        let place = libc::mmap(aligned, HUGE, access, libc::MAP_SHARED | libc::MAP_FIXED, fd, 0);
        let done = if place == libc::MAP_FAILED {
            -1
        } else {
            for offset in (0..HUGE).step_by(PAGE) {
                place.cast::<u8>().add(offset).write_volatile(1);
            }
            libc::madvise(place, HUGE, COLLAPSE)
        };
        let error = io::Error::last_os_error();
        libc::munmap(room, 2 * HUGE);
        if done == 0 { Ok(()) } else { Err(error) }
    }
}

/// Soft and hard value of a resource limit, `None` for unlimited.
pub fn limit(resource: u32) -> (Option<u64>, Option<u64>) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    let known = |value: libc::rlim_t| (value != libc::RLIM_INFINITY).then_some(value);
    (known(limit.rlim_cur), known(limit.rlim_max))
}

/// What a host call costs here, ns: the best of several thousand getppid.
pub fn call_cost_ns() -> f64 {
    const BATCH: u32 = 2000;
    (0..10)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..BATCH {
                // SAFETY: no arguments, no effect.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }
            start.elapsed().as_nanos() as f64 / f64::from(BATCH)
        })
        .fold(f64::INFINITY, f64::min)
}
