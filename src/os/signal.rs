//! Signals to slots.

/// Device interrupt to the slot with host thread (and process) id `tid`.
pub fn device_interrupt(tid: i32) {
    // SAFETY: sends a signal; a slot that is gone meanwhile is no error.
    unsafe { libc::syscall(libc::SYS_tgkill, tid, tid, libc::SIGIO) };
}
