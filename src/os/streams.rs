//! Which standard streams were closed when the process began: the standard library opens /dev/null in their place before `main`.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// A bit for each.
static CLOSED: AtomicU8 = AtomicU8::new(0);

// SAFETY: the section is a list of functions that the C library calls, with arguments that a function may ignore, before `main`.
#[unsafe(link_section = ".init_array")]
#[used]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    for fd in 0..3 {
        // SAFETY: asks for a descriptor's flags.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            CLOSED.fetch_or(1 << fd, Relaxed);
        }
    }
}

/// Whether standard stream `fd` was closed.
pub fn was_closed(fd: i32) -> bool {
    CLOSED.load(Relaxed) & 1 << fd != 0
}
