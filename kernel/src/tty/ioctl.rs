//! The requests of a terminal. Source: tty_ioctl(2), termios(3), tcsetpgrp(3).

use super::termios::Termios;
use super::{Tty, job};
use crate::fs::{Dev, File};
use crate::signal::SIGTTOU;
use crate::task::ns::pid::{caller_sees, of_caller};
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::ioctl as nr;
use umbel_abi::linux::uapi::{self, winsize};
use umbel_mm::user::{UserAddr, read_val, write_val};

/// `struct termios` and `struct termios2` as bytes: both begin alike.
const TERMIOS_LEN: usize = 36;
const TERMIOS2_LEN: usize = 44;
/// `struct termio` of System V: the lower halves of the flags, and the first characters.
const TERMIO_LEN: usize = 18;

/// When a change of settings happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Now,
    /// Once the output is out.
    Drained,
    /// Then, and unread input is dropped.
    Flushed,
}

/// From which end of a pair a request comes; a terminal that is none has one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Terminal,
    /// Asks about the terminal behind the master, without job control.
    Master,
}

/// Does request `cmd`.
///
/// # Errors
/// `ENOTTY` for requests that terminals do not have, and those of the man pages.
pub fn ioctl(task: &Arc<Task>, tty: &Arc<Tty>, file: &File, cmd: u32, arg: u64, side: Side) -> Result<u64> {
    let addr = UserAddr(arg);
    match cmd {
        nr::TCGETS => put(addr, first_bytes::<TERMIOS_LEN>(&tty.termios())),
        nr::TCGETS2 => put(addr, first_bytes::<TERMIOS2_LEN>(&tty.termios())),
        nr::TCSETS => set(task, tty, addr, TERMIOS_LEN, When::Now),
        nr::TCSETSW => set(task, tty, addr, TERMIOS_LEN, When::Drained),
        nr::TCSETSF => set(task, tty, addr, TERMIOS_LEN, When::Flushed),
        nr::TCSETS2 => set(task, tty, addr, TERMIOS2_LEN, When::Now),
        nr::TCSETSW2 => set(task, tty, addr, TERMIOS2_LEN, When::Drained),
        nr::TCSETSF2 => set(task, tty, addr, TERMIOS2_LEN, When::Flushed),
        nr::TCGETA => put(addr, old_bytes(&tty.termios())),
        nr::TCSETA => set(task, tty, addr, TERMIO_LEN, When::Now),
        nr::TCSETAW => set(task, tty, addr, TERMIO_LEN, When::Drained),
        nr::TCSETAF => set(task, tty, addr, TERMIO_LEN, When::Flushed),
        nr::TIOCGWINSZ => put(addr, window_words(&tty.window())),
        nr::TIOCSWINSZ => {
            let [ws_row, ws_col, ws_xpixel, ws_ypixel] = read_val(addr)?;
            tty.set_window(winsize { ws_row, ws_col, ws_xpixel, ws_ypixel });
            Ok(0)
        }
        nr::FIONREAD => put(addr, tty.readable() as i32),
        nr::TIOCOUTQ => put(addr, 0_i32),
        nr::TCSBRK | nr::TCSBRKP | nr::TCFLSH | nr::TCXONC => flow(task, tty, cmd, arg),
        nr::TIOCGETD => put(addr, 0_i32),
        nr::TIOCSETD => (read_val::<i32>(addr)? == 0).then_some(0).ok_or(Errno::EINVAL),
        nr::TIOCGDEV => put(addr, Dev::new(tty.rdev.0, tty.rdev.1).encode() as u32),
        nr::TIOCEXCL => Ok(exclusive(tty, true)),
        nr::TIOCNXCL => Ok(exclusive(tty, false)),
        nr::TIOCGEXCL => put(addr, i32::from(tty.is_exclusive())),
        // Linux since 6.2, unless dev.tty.legacy_tiocsti says otherwise.
        nr::TIOCSTI => Err(Errno::EIO),
        _ if side == Side::Master && !matches!(cmd, nr::TIOCSCTTY | nr::TIOCSPGRP) => master_request(tty, addr, cmd),
        _ => job_request(task, tty, file, cmd, arg),
    }
}

/// The requests of job control that a master may make.
fn master_request(tty: &Arc<Tty>, addr: UserAddr, cmd: u32) -> Result<u64> {
    match cmd {
        nr::TIOCGPGRP => put(addr, tty.foreground().map_or(0, caller_sees)),
        nr::TIOCGSID => put(addr, caller_sees(tty.session().ok_or(Errno::ENOTTY)?)),
        _ => Err(Errno::ENOTTY),
    }
}

/// The requests of job control.
fn job_request(task: &Arc<Task>, tty: &Arc<Tty>, file: &File, cmd: u32, arg: u64) -> Result<u64> {
    let addr = UserAddr(arg);
    match cmd {
        nr::TIOCSCTTY => {
            if !file.flags().readable() && !task.cred().capable(cap::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            job::set_controlling(task, tty, arg == 1).map(|()| 0)
        }
        nr::TIOCNOTTY => job::give_up(task, tty).map(|()| 0),
        nr::TIOCGPGRP => {
            own(task, tty)?;
            put(addr, tty.foreground().map_or(0, caller_sees))
        }
        nr::TIOCSPGRP => job::set_foreground(task, tty, of_caller(read_val(addr)?)).map(|()| 0),
        nr::TIOCGSID => {
            own(task, tty)?;
            put(addr, caller_sees(tty.session().ok_or(Errno::ENOTTY)?))
        }
        nr::TIOCVHANGUP => {
            if !task.cred().capable(cap::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            tty.hang_up();
            Ok(0)
        }
        _ => Err(Errno::ENOTTY),
    }
}

fn put<T: umbel_mm::user::Pod>(addr: UserAddr, value: T) -> Result<u64> {
    write_val(addr, &value).map(|()| 0)
}

fn exclusive(tty: &Tty, on: bool) -> u64 {
    tty.set_exclusive(on);
    0
}

/// `ENOTTY` unless `tty` is the caller's controlling terminal.
fn own(task: &Arc<Task>, tty: &Arc<Tty>) -> Result<()> {
    if job::is_own(&*job::session_of(task)?, tty) { Ok(()) } else { Err(Errno::ENOTTY) }
}

fn window_words(window: &winsize) -> [u16; 4] {
    [window.ws_row, window.ws_col, window.ws_xpixel, window.ws_ypixel]
}

fn set(task: &Arc<Task>, tty: &Arc<Tty>, addr: UserAddr, len: usize, when: When) -> Result<u64> {
    job::check(task, tty, SIGTTOU)?;
    let old = tty.termios();
    let mut bytes = first_bytes::<TERMIOS2_LEN>(&old);
    match len {
        TERMIO_LEN => put_old(&mut bytes, &read_val(addr)?),
        TERMIOS_LEN => bytes[..TERMIOS_LEN].copy_from_slice(&read_val::<[u8; TERMIOS_LEN]>(addr)?),
        _ => bytes = read_val(addr)?,
    }
    let mut new = from_bytes(&bytes);
    let speed = speed_of(new.0.c_cflag & uapi::CBAUD, new.0.c_ospeed);
    (new.0.c_ispeed, new.0.c_ospeed) = (speed, speed);
    if when != When::Now {
        tty.drain()?;
    }
    if when == When::Flushed {
        tty.flush_input();
    }
    tty.set_termios(new);
    Ok(0)
}

fn first_bytes<const N: usize>(termios: &Termios) -> [u8; N] {
    let raw = &termios.0;
    let mut bytes = [0; N];
    let words = [raw.c_iflag, raw.c_oflag, raw.c_cflag, raw.c_lflag].into_iter().flat_map(u32::to_le_bytes);
    let tail = [raw.c_line].into_iter().chain(raw.c_cc);
    let speeds = [raw.c_ispeed, raw.c_ospeed].into_iter().flat_map(u32::to_le_bytes);
    for (slot, byte) in bytes.iter_mut().zip(words.chain(tail).chain(speeds)) {
        *slot = byte;
    }
    bytes
}

/// Where the bytes of `struct termio` stand in those of `struct termios`: pairs of offsets, and their length.
const OLD_PLACES: [(usize, usize, usize); 5] = [(0, 0, 2), (2, 4, 2), (4, 8, 2), (6, 12, 2), (8, 16, 9)];

fn old_bytes(termios: &Termios) -> [u8; TERMIO_LEN] {
    let bytes = first_bytes::<TERMIOS_LEN>(termios);
    let mut old = [0; TERMIO_LEN];
    for (to, from, len) in OLD_PLACES {
        old[to..to + len].copy_from_slice(&bytes[from..from + len]);
    }
    old
}

fn put_old(bytes: &mut [u8; TERMIOS2_LEN], old: &[u8; TERMIO_LEN]) {
    for (from, to, len) in OLD_PLACES {
        bytes[to..to + len].copy_from_slice(&old[from..from + len]);
    }
}

fn from_bytes(bytes: &[u8; TERMIOS2_LEN]) -> Termios {
    let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
    Termios(uapi::termios2 {
        c_iflag: word(0),
        c_oflag: word(4),
        c_cflag: word(8),
        c_lflag: word(12),
        c_line: bytes[16],
        c_cc: core::array::from_fn(|i| bytes[17 + i]),
        c_ispeed: word(36),
        c_ospeed: word(40),
    })
}

/// The speed that `code` (of `c_cflag`) stands for; `other` for BOTHER.
fn speed_of(code: u32, other: u32) -> u32 {
    const LOW: [u32; 16] = [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400];
    const HIGH: [u32; 16] = [
        0, 57600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000,
        2_500_000, 3_000_000, 3_500_000, 4_000_000,
    ];
    let index = (code & 0xf) as usize;
    match code {
        uapi::BOTHER => other,
        _ if code & uapi::CBAUDEX != 0 => HIGH[index],
        _ => LOW[index],
    }
}

/// Breaks, draining, flushing and flow control.
fn flow(task: &Arc<Task>, tty: &Arc<Tty>, cmd: u32, arg: u64) -> Result<u64> {
    job::check(task, tty, SIGTTOU)?;
    match (cmd, arg as u32) {
        // A break is nothing that this line has; tcdrain(3) is TCSBRK with an argument that is not 0.
        (nr::TCSBRK | nr::TCSBRKP, _) => tty.drain()?,
        (nr::TCFLSH, uapi::TCIFLUSH) => tty.flush_input(),
        (nr::TCFLSH, uapi::TCOFLUSH) => tty.flush_output(),
        (nr::TCFLSH, uapi::TCIOFLUSH) => {
            tty.flush_input();
            tty.flush_output();
        }
        (nr::TCXONC, uapi::TCOOFF) => tty.set_stopped(true),
        (nr::TCXONC, uapi::TCOON) => tty.set_stopped(false),
        (nr::TCXONC, uapi::TCIOFF) => tty.send_now(tty.termios().control(uapi::VSTOP)),
        (nr::TCXONC, uapi::TCION) => tty.send_now(tty.termios().control(uapi::VSTART)),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_trip_to_a_guest() {
        let mut termios = Termios::standard();
        termios.0.c_cc[18] = 9;
        let bytes = first_bytes::<TERMIOS2_LEN>(&termios);
        assert_eq!(first_bytes::<TERMIOS2_LEN>(&from_bytes(&bytes)), bytes);
        assert_eq!(bytes[17 + 18], 9);
        assert_eq!(&first_bytes::<TERMIOS_LEN>(&termios)[..], &bytes[..TERMIOS_LEN]);
    }

    #[test]
    fn old_settings_are_the_lower_halves_of_new_ones() {
        let mut termios = Termios::standard();
        (termios.0.c_iflag, termios.0.c_lflag) = (0x12_3456, 0x78_9abc);
        let old = old_bytes(&termios);
        assert_eq!((&old[..2], &old[6..8], old[9]), (&[0x56, 0x34][..], &[0xbc, 0x9a][..], 3));
        let mut bytes = first_bytes::<TERMIOS2_LEN>(&termios);
        put_old(&mut bytes, &[1; TERMIO_LEN]);
        let new = from_bytes(&bytes);
        assert_eq!((new.0.c_iflag, new.0.c_lflag, new.0.c_line), (0x12_0101, 0x78_0101, 1));
        assert_eq!((new.0.c_cc[7], new.0.c_cc[8]), (1, Termios::standard().0.c_cc[8]));
    }

    #[test]
    fn speeds_follow_their_codes() {
        assert_eq!(speed_of(uapi::B38400, 0), 38400);
        assert_eq!(speed_of(uapi::B115200, 0), 115_200);
        assert_eq!(speed_of(uapi::BOTHER, 77), 77);
    }
}
