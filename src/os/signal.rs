//! Signals to slots.

/// Device interrupt to the slot with host thread (and process) id `tid`.
pub fn device_interrupt(tid: i32) {
    // SAFETY: sends a signal; a slot that is gone meanwhile is no error.
    unsafe { libc::syscall(libc::SYS_tgkill, tid, tid, libc::SIGIO) };
}

/// Makes the slot with host thread id `tid` tell where it is, if it is in the kernel.
pub fn ask_where(tid: i32) {
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_tgkill, tid, tid, libc::SIGUSR2) };
}
