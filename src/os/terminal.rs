//! The host's terminal: raw mode, window size, and its restoration on every way out.
//!
//! While it is raw a process waits for the end of this one, to give the terminal back if this one cannot: killed, or crashed
//! ([`Keeper`]). It is a child that wait(2) does not see.

use nix::fcntl::OFlag;
use nix::sys::termios::{self, SetArg, Termios};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// For [`restore`], which any way out may call.
static SAVED: Mutex<Option<Saved>> = Mutex::new(None);
static RAW: AtomicBool = AtomicBool::new(false);

/// The terminal that raw mode was set on, how it was before, and who gives it back if we do not.
struct Saved {
    terminal: OwnedFd,
    before: Termios,
    keeper: Option<Keeper>,
}

/// Puts the terminal into raw mode: keys arrive one by one and unchanged, nothing is echoed, no key makes a signal.
///
/// # Errors
/// The terminal refuses.
pub fn make_raw(terminal: BorrowedFd<'_>) -> nix::Result<()> {
    let before = termios::tcgetattr(terminal)?;
    let mut raw = before.clone();
    termios::cfmakeraw(&mut raw);
    let kept = terminal.try_clone_to_owned().map_err(|_| nix::Error::EMFILE)?;
    let keeper = Keeper::hire(terminal, &before);
    termios::tcsetattr(terminal, SetArg::TCSADRAIN, &raw)?;
    let saved = Saved { terminal: kept, before, keeper };
    *SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(saved);
    RAW.store(true, Ordering::Release);
    Ok(())
}

/// Gives the terminal back as it was. Harmless when there is nothing to give back.
pub fn restore() {
    if RAW.swap(false, Ordering::AcqRel) {
        let mut saved = SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(Saved { terminal, before, keeper }) = saved.as_mut() {
            // Not DRAIN: a terminal that takes no output must not keep us here.
            let _ = termios::tcsetattr(terminal.as_fd(), SetArg::TCSANOW, before);
            // It must not do so later, when the terminal is another program's.
            *keeper = None;
        }
    }
}

/// A process that gives the terminal back when the other end of its pipe, which we hold, is closed.
struct Keeper {
    pid: i32,
    _lifeline: OwnedFd,
}

impl Keeper {
    /// Starts it. Without one the terminal stays as it is when this process is killed.
    fn hire(terminal: BorrowedFd<'_>, before: &Termios) -> Option<Keeper> {
        let (end, lifeline) = nix::unistd::pipe2(OFlag::O_CLOEXEC).ok()?;
        let before: libc::termios = before.clone().into();
        // No signal at its end: then waits for other children do not meet it. A copy of the stack, as fork(2).
        // SAFETY: the child makes host calls only and never returns.
        match unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) } {
            -1 => None,
            0 => keep(end.as_raw_fd(), terminal.as_raw_fd(), &before),
            pid => Some(Keeper { pid: pid as i32, _lifeline: lifeline }),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // SAFETY: our own child, not waited for yet; the status is not wanted.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

/// The keeper's life. Host calls only: other threads of the machine may have held any lock when it was made.
fn keep(end: i32, terminal: i32, before: &libc::termios) -> ! {
    let (low, high) = (end.min(terminal), end.max(terminal));
    let mut byte = 0_u8;
    // SAFETY: host calls on our own descriptors and memory.
    unsafe {
        for signal in [libc::SIGTTOU, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGTSTP] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, c"umbel-terminal".as_ptr());
        for (from, to) in [(0, low), (low + 1, high), (high + 1, i32::MAX)] {
            if from < to {
                libc::close_range(from as u32, to as u32 - 1, 0);
            }
        }
        while libc::read(end, (&raw mut byte).cast(), 1) < 0 && *libc::__errno_location() == libc::EINTR {}
        libc::tcsetattr(terminal, libc::TCSANOW, before);
        libc::_exit(0)
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
