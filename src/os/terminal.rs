//! The host's terminal: raw mode, window size, and its restoration on every way out.

use nix::sys::termios::{self, SetArg, Termios};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// The terminal that raw mode was set on, and how it was before. For [`restore`], which any way out may call.
static SAVED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);
static RAW: AtomicBool = AtomicBool::new(false);

/// Puts the terminal into raw mode: keys arrive one by one and unchanged, nothing is echoed, no key makes a signal.
///
/// # Errors
/// The terminal refuses.
pub fn make_raw(terminal: BorrowedFd<'_>) -> nix::Result<()> {
    let before = termios::tcgetattr(terminal)?;
    let mut raw = before.clone();
    termios::cfmakeraw(&mut raw);
    termios::tcsetattr(terminal, SetArg::TCSADRAIN, &raw)?;
    let kept = terminal.try_clone_to_owned().map_err(|_| nix::Error::EMFILE)?;
    *SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some((kept, before));
    RAW.store(true, Ordering::Release);
    Ok(())
}

/// Gives the terminal back as it was. Harmless when there is nothing to give back.
pub fn restore() {
    if RAW.swap(false, Ordering::AcqRel) {
        let saved = SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((terminal, before)) = saved.as_ref() {
            // Not DRAIN: a terminal that takes no output must not keep us here.
            let _ = termios::tcsetattr(terminal.as_fd(), SetArg::TCSANOW, before);
        }
    }
}

/// Rows and columns, `rows << 16 | columns`; 24 by 80 where the terminal does not say.
pub fn window(terminal: BorrowedFd<'_>) -> u32 {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize through the pointer.
    let got = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if got != 0 || size.ws_row == 0 || size.ws_col == 0 {
        return 24 << 16 | 80;
    }
    u32::from(size.ws_row) << 16 | u32::from(size.ws_col)
}
