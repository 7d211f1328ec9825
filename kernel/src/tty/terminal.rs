//! One terminal: its discipline, who waits for it, and its foreground process group.

use super::ldisc::{Discipline, Effects, Key};
use super::termios::Termios;
use crate::signal::{self, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGWINCH, SigInfo};
use crate::{Errno, Pid, Result};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_abi::linux::uapi::{self, winsize};
use umbel_smp::lock::{Mutex, Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// What happens at a terminal beside its bytes (`TIOCPKT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    FlushRead = 1,
    FlushWrite = 2,
    Stop = 4,
    Start = 8,
    /// Output is stopped and started by other keys than ^S and ^Q, or by none; by these.
    NoStop = 0x10,
    DoStop = 0x20,
}

impl Status {
    /// What is no longer so.
    pub fn opposite(self) -> u8 {
        match self {
            Status::Stop => Status::Start as u8,
            Status::Start => Status::Stop as u8,
            Status::NoStop => Status::DoStop as u8,
            Status::DoStop => Status::NoStop as u8,
            Status::FlushRead | Status::FlushWrite => 0,
        }
    }
}

/// The device behind a terminal. Called under the terminal's lock: must not sleep or wake.
pub trait Line: Send + Sync {
    /// Sends bytes to the terminal; returns how many it took.
    fn push(&self, bytes: &[u8]) -> usize;
    /// How many bytes it takes now. If none, [`Tty::interrupt`] is called once it takes some again.
    fn room(&self) -> usize;
    /// Takes bytes that the terminal sent. If none, [`Tty::interrupt`] is called once there are some.
    fn pull(&self, bytes: &mut [u8]) -> usize;
    /// Everything that was pushed has been taken.
    fn is_drained(&self) -> bool;
    /// The terminal is gone for ever.
    fn is_gone(&self) -> bool;
    /// Drops what was pushed and not taken yet, where the device can.
    fn flush(&self) {}
    /// Bytes were pushed or room for more to pull was made. Called without the terminal's lock: may wake.
    fn notify(&self) {}
    /// Something has happened. [`Self::notify`] is called later.
    fn tell(&self, _: Status) {}
    /// A file of the terminal was opened. Called without the terminal's lock.
    fn opened(&self) {}
    /// A file of the terminal was closed. Called without the terminal's lock.
    fn closed(&self) {}
}

/// Most echo that waits for the device; beyond it echo is lost.
const ECHO_MAX: usize = 4096;
/// Room below which writers wait: one byte of output becomes at most 8.
const ROOM_MIN: usize = 64;
/// A tenth of a second (VTIME), ns.
const TENTH_NS: u64 = 100_000_000;

/// A terminal.
pub struct Tty {
    /// Device number. Immutable.
    pub rdev: (u32, u32),
    /// Absolute path of its device node. Immutable.
    pub name: String,
    line: Box<dyn Line>,
    state: SpinLock<State>,
    job: SpinLock<Job>,
    /// Held by the thread that reads, over all of its read.
    reading: Mutex<()>,
    /// Held by the thread that writes, over all of its write.
    writing: Mutex<()>,
    /// Woken when there may be input.
    pub readers: Arc<WaitQueue>,
    /// Woken when output may go on.
    pub writers: Arc<WaitQueue>,
}

/// Protected by `Tty::state`.
struct State {
    discipline: Discipline,
    /// Echo that found no room.
    echo: VecDeque<u8>,
    window: winsize,
    hung_up: bool,
    /// TIOCEXCL.
    exclusive: bool,
}

/// Protected by `Tty::job`.
#[derive(Clone, Copy, Debug, Default)]
struct Job {
    session: Option<Pid>,
    foreground: Option<Pid>,
}

/// What a reader finds.
enum Found {
    Bytes(Vec<u8>),
    HungUp,
    Nothing,
}

impl Tty {
    /// The device.
    pub fn line(&self) -> &dyn Line {
        &*self.line
    }

    /// A terminal over `line` with Linux's standard settings.
    pub fn new(name: &str, rdev: (u32, u32), line: Box<dyn Line>) -> Arc<Tty> {
        let state = State {
            discipline: Discipline::default(),
            echo: VecDeque::new(),
            window: winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 },
            hung_up: false,
            exclusive: false,
        };
        Arc::new(Tty {
            rdev,
            name: name.into(),
            line,
            state: SpinLock::new(Rank::Tty, state),
            job: SpinLock::new(Rank::TtyState, Job::default()),
            reading: Mutex::new(Rank::TtyIo, ()),
            writing: Mutex::new(Rank::TtyIo, ()),
            readers: Arc::new(WaitQueue::new()),
            writers: Arc::new(WaitQueue::new()),
        })
    }

    /// Device interrupt: takes what the terminal sent, lets waiting output go on.
    pub fn interrupt(&self) {
        self.receive();
        if self.line.is_gone() {
            self.hang_up();
        }
        if self.can_write() {
            self.writers.wake_all();
        }
    }

    /// Feeds the discipline from the line as far as there is room, then does what the bytes ask for.
    fn receive(&self) {
        let mut chunk = [0; 256];
        loop {
            let mut effects = Effects::default();
            let (count, readable, told) = {
                let mut state = self.state.lock();
                let was_stopped = state.discipline.is_stopped();
                let room = state.discipline.room().min(chunk.len());
                let count = self.line.pull(&mut chunk[..room]);
                state.discipline.input(&chunk[..count], &mut effects);
                if effects.flush_output {
                    state.echo.clear();
                    self.line.flush();
                    self.line.tell(Status::FlushRead);
                    self.line.tell(Status::FlushWrite);
                }
                let stopped = state.discipline.is_stopped();
                if stopped != was_stopped {
                    self.line.tell(if stopped { Status::Stop } else { Status::Start });
                }
                let free = ECHO_MAX.saturating_sub(state.echo.len());
                state.echo.extend(effects.echo.iter().take(free));
                self.send_echo(&mut state);
                let readable = state.discipline.is_pollable() || state.discipline.has_input();
                (count, readable, effects.flush_output || stopped != was_stopped)
            };
            for key in effects.keys {
                self.signal_foreground(match key {
                    Key::Interrupt => SIGINT,
                    Key::Quit => SIGQUIT,
                    Key::Suspend => SIGTSTP,
                });
            }
            if told {
                self.line.notify();
            }
            if count == 0 {
                // Nothing new: nobody is woken, or who is signalled for input would be so by looking.
                return;
            }
            if readable {
                self.readers.wake_all();
            }
            self.line.notify();
        }
    }

    fn send_echo(&self, state: &mut State) {
        while !state.echo.is_empty() && self.line.room() > 0 {
            let (bytes, _) = state.echo.as_slices();
            let count = self.line.push(bytes);
            state.echo.drain(..count);
            if count == 0 {
                break;
            }
        }
    }

    /// Reads as read(2) does: one line, or what VMIN and VTIME ask for. Nothing is an end of file.
    ///
    /// # Errors
    /// `EAGAIN`, `ERESTARTSYS`.
    pub fn read(&self, max: usize, nonblocking: bool) -> Result<Vec<u8>> {
        let _turn = match nonblocking {
            true => self.reading.try_lock().ok_or(Errno::EAGAIN)?,
            false => self.reading.lock_interruptible().map_err(|_| Errno::ERESTARTSYS)?,
        };
        if max == 0 {
            return Ok(Vec::new());
        }
        let settings = *self.state.lock().discipline.termios();
        let (min, between, mut deadline) = timing(&settings);
        let mut got = Vec::new();
        loop {
            self.receive();
            match self.take_input(max - got.len()) {
                Found::HungUp => return Ok(got),
                Found::Bytes(bytes) => {
                    got.extend_from_slice(&bytes);
                    if settings.is_canonical() || got.len() >= min.min(max) {
                        self.receive();
                        return Ok(got);
                    }
                    deadline = between.map(|ns| crate::time::monotonic_ns().saturating_add(ns)).or(deadline);
                }
                Found::Nothing if deadline.is_some_and(|at| at <= crate::time::monotonic_ns()) => return Ok(got),
                Found::Nothing if nonblocking => return if got.is_empty() { Err(Errno::EAGAIN) } else { Ok(got) },
                Found::Nothing => match self.wait_input(deadline) {
                    Ok(()) => {}
                    Err(Wake::TimedOut) => return Ok(got),
                    Err(Wake::Interrupted) if got.is_empty() => return Err(Errno::ERESTARTSYS),
                    Err(Wake::Interrupted) => return Ok(got),
                },
            }
        }
    }

    fn take_input(&self, max: usize) -> Found {
        let mut state = self.state.lock();
        match state.discipline.read(max) {
            Some(bytes) => Found::Bytes(bytes),
            None if state.hung_up => Found::HungUp,
            None => Found::Nothing,
        }
    }

    fn wait_input(&self, deadline: Option<u64>) -> core::result::Result<(), Wake> {
        self.readers.wait_interruptible(deadline, || {
            let state = self.state.lock();
            (state.hung_up || state.discipline.has_input()).then_some(())
        })
    }

    /// Writes all of `bytes`, or what could be written before an error or a signal.
    ///
    /// # Errors
    /// `EIO` after a hangup, `EAGAIN`, `ERESTARTSYS`.
    pub fn write(&self, bytes: &[u8], nonblocking: bool) -> Result<usize> {
        let _turn = match nonblocking {
            true => self.writing.try_lock().ok_or(Errno::EAGAIN)?,
            false => self.writing.lock_interruptible().map_err(|_| Errno::ERESTARTSYS)?,
        };
        let mut done = 0;
        while done < bytes.len() {
            let end = match self.write_some(bytes.get(done..).unwrap_or_default()) {
                Ok(0) if nonblocking => Err(Errno::EAGAIN),
                Ok(0) => self.wait_output().map_err(|_| Errno::ERESTARTSYS),
                Ok(count) => {
                    done += count;
                    Ok(())
                }
                Err(errno) => Err(errno),
            };
            match end {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Processes and sends as much as fits; 0 if output has to wait.
    fn write_some(&self, bytes: &[u8]) -> Result<usize> {
        let mut state = self.state.lock();
        if state.hung_up {
            return Err(Errno::EIO);
        }
        self.send_echo(&mut state);
        if state.discipline.is_stopped() || !state.echo.is_empty() {
            return Ok(0);
        }
        let room = self.line.room();
        let raw = !state.discipline.termios().output(uapi::OPOST);
        let count = bytes.len().min(if raw { room } else { room / 8 });
        let mut out = Vec::with_capacity(2 * count);
        state.discipline.process(&bytes[..count], &mut out);
        self.line.push(&out);
        drop(state);
        self.line.notify();
        Ok(count)
    }

    fn wait_output(&self) -> core::result::Result<(), Wake> {
        self.writers.wait_interruptible(None, || self.can_write().then_some(()))
    }

    /// A write would make progress, or fail.
    pub fn can_write(&self) -> bool {
        let mut state = self.state.lock();
        self.send_echo(&mut state);
        state.hung_up || !state.discipline.is_stopped() && state.echo.is_empty() && self.line.room() >= ROOM_MIN
    }

    /// What poll(2) calls readable.
    pub fn can_read(&self) -> bool {
        self.receive();
        let state = self.state.lock();
        state.hung_up || state.discipline.is_pollable()
    }

    /// The terminal is gone, or was taken away.
    pub fn is_hung_up(&self) -> bool {
        self.state.lock().hung_up
    }

    /// Waits until the device has taken all output (tcdrain(3)).
    ///
    /// # Errors
    /// `ERESTARTSYS`.
    pub fn drain(&self) -> Result<()> {
        let drained = || {
            let mut state = self.state.lock();
            self.send_echo(&mut state);
            // Asking for room is what makes the device report.
            let gone = self.line.room() == 0 && self.line.is_gone();
            (state.hung_up || gone || state.echo.is_empty() && self.line.is_drained()).then_some(())
        };
        // The device reports room, not emptiness: look again from time to time.
        loop {
            let deadline = crate::time::monotonic_ns() + 2_000_000;
            match self.writers.wait_interruptible(Some(deadline), drained) {
                Ok(()) => return Ok(()),
                Err(Wake::TimedOut) => {}
                Err(Wake::Interrupted) => return Err(Errno::ERESTARTSYS),
            }
        }
    }

    /// The device is gone: readers find the end, writers fail, the session is told.
    pub fn hang_up(&self) {
        {
            let mut state = self.state.lock();
            if core::mem::replace(&mut state.hung_up, true) {
                return;
            }
        }
        let job = *self.job.lock();
        for group in [job.session, job.foreground].into_iter().flatten() {
            signal::send_to_pgrp(group, SigInfo::kernel(SIGHUP));
            signal::send_to_pgrp(group, SigInfo::kernel(SIGCONT));
        }
        self.readers.wake_all();
        self.writers.wake_all();
    }

    /// Sends a signal to the foreground group, if there is one.
    pub fn signal_foreground(&self, signo: signal::Signo) {
        let foreground = self.job.lock().foreground;
        if let Some(group) = foreground {
            signal::send_to_pgrp(group, SigInfo::kernel(signo));
        }
    }

    /// The settings.
    pub fn termios(&self) -> Termios {
        *self.state.lock().discipline.termios()
    }

    /// Changes the settings.
    pub fn set_termios(&self, termios: Termios) {
        {
            let mut state = self.state.lock();
            let old = state.discipline.termios().stops_as_usual();
            state.discipline.set_termios(termios);
            let new = termios.stops_as_usual();
            if new != old {
                self.line.tell(if new { Status::DoStop } else { Status::NoStop });
            }
        }
        self.line.notify();
        // Both may find what they wait for under the new settings.
        self.receive();
        self.readers.wake_all();
        self.writers.wake_all();
    }

    /// Drops unread input.
    pub fn flush_input(&self) {
        self.receive();
        self.state.lock().discipline.flush_input();
        self.line.tell(Status::FlushRead);
        // What waited for room comes in now.
        self.receive();
        self.line.notify();
    }

    /// Drops output that the device has not taken, as far as that can be.
    pub fn flush_output(&self) {
        let mut state = self.state.lock();
        state.echo.clear();
        self.line.flush();
        self.line.tell(Status::FlushWrite);
        drop(state);
        self.line.notify();
        self.writers.wake_all();
    }

    /// Holds programs' output back, or lets it go (tcflow(3)).
    pub fn set_stopped(&self, stopped: bool) {
        {
            let mut state = self.state.lock();
            if state.discipline.is_stopped() != stopped {
                state.discipline.set_stopped(stopped);
                self.line.tell(if stopped { Status::Stop } else { Status::Start });
            }
        }
        self.line.notify();
        self.writers.wake_all();
    }

    /// Sends a byte past everything that waits (TCIOFF, TCION).
    pub fn send_now(&self, byte: u8) {
        let state = self.state.lock();
        self.line.push(&[byte]);
        drop(state);
        self.line.notify();
    }

    /// Bytes that a read could get (FIONREAD).
    pub fn readable(&self) -> usize {
        self.receive();
        self.state.lock().discipline.readable()
    }

    /// The size of the window.
    pub fn window(&self) -> winsize {
        self.state.lock().window
    }

    /// Sets the size of the window; SIGWINCH if it changed.
    pub fn set_window(&self, window: winsize) {
        let same = |a: &winsize, b: &winsize| {
            (a.ws_row, a.ws_col, a.ws_xpixel, a.ws_ypixel) == (b.ws_row, b.ws_col, b.ws_xpixel, b.ws_ypixel)
        };
        let old = core::mem::replace(&mut self.state.lock().window, window);
        if !same(&old, &window) {
            self.signal_foreground(SIGWINCH);
        }
    }

    /// TIOCEXCL.
    pub fn is_exclusive(&self) -> bool {
        self.state.lock().exclusive
    }

    /// TIOCEXCL, TIOCNXCL.
    pub fn set_exclusive(&self, exclusive: bool) {
        self.state.lock().exclusive = exclusive;
    }

    /// The session whose controlling terminal this is.
    pub fn session(&self) -> Option<Pid> {
        self.job.lock().session
    }

    /// The foreground process group.
    pub fn foreground(&self) -> Option<Pid> {
        self.job.lock().foreground
    }

    /// Makes `group` the foreground process group; the caller has checked that it may.
    pub fn set_foreground(&self, group: Pid) {
        self.job.lock().foreground = Some(group);
    }

    /// The leader of `session`, whose terminal this was, is gone.
    pub fn session_leader_exit(&self, session: Pid) {
        let old = {
            let mut job = self.job.lock();
            if job.session != Some(session) {
                return;
            }
            core::mem::take(&mut *job)
        };
        if let Some(group) = old.foreground {
            signal::send_to_pgrp(group, SigInfo::kernel(SIGHUP));
            signal::send_to_pgrp(group, SigInfo::kernel(SIGCONT));
        }
    }

    /// Makes this the controlling terminal of `session`, or of none; see `job::attach` for the session's side.
    pub fn set_session(&self, session: Option<Pid>, foreground: Option<Pid>) {
        *self.job.lock() = Job { session, foreground };
    }
}

/// How many bytes end a read, how long may pass between two (VTIME with VMIN), and the deadline of the first.
fn timing(settings: &Termios) -> (usize, Option<u64>, Option<u64>) {
    if settings.is_canonical() {
        return (1, None, None);
    }
    let min = usize::from(settings.control(uapi::VMIN));
    let time_ns = u64::from(settings.control(uapi::VTIME)) * TENTH_NS;
    match (min, time_ns) {
        (0, ns) => (1, None, Some(crate::time::monotonic_ns().saturating_add(ns))),
        (min, 0) => (min, None, None),
        (min, ns) => (min, Some(ns), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device whose two directions are lists.
    struct Wire {
        typed: SpinLock<VecDeque<u8>>,
        shown: SpinLock<Vec<u8>>,
        limit: usize,
    }

    impl Line for Arc<Wire> {
        fn push(&self, bytes: &[u8]) -> usize {
            let count = bytes.len().min(self.room());
            self.shown.lock().extend_from_slice(&bytes[..count]);
            count
        }
        fn room(&self) -> usize {
            self.limit - self.shown.lock().len()
        }
        fn pull(&self, bytes: &mut [u8]) -> usize {
            let mut typed = self.typed.lock();
            let count = bytes.len().min(typed.len());
            for (slot, byte) in bytes.iter_mut().zip(typed.drain(..count)) {
                *slot = byte;
            }
            count
        }
        fn is_drained(&self) -> bool {
            self.shown.lock().is_empty()
        }
        fn is_gone(&self) -> bool {
            false
        }
    }

    fn terminal(limit: usize) -> (Arc<Wire>, Arc<Tty>) {
        let wire = Arc::new(Wire {
            typed: SpinLock::new(Rank::Ring, VecDeque::new()),
            shown: SpinLock::new(Rank::Ring, Vec::new()),
            limit,
        });
        let tty = Tty::new("/dev/console", (5, 1), Box::new(wire.clone()));
        (wire, tty)
    }

    fn keys(wire: &Wire, tty: &Tty, bytes: &[u8]) {
        wire.typed.lock().extend(bytes);
        tty.interrupt();
    }

    #[test]
    fn a_typed_line_is_echoed_and_read() {
        let (wire, tty) = terminal(1000);
        assert_eq!(tty.read(10, true), Err(Errno::EAGAIN));
        keys(&wire, &tty, b"hi\r");
        assert!(tty.can_read());
        assert_eq!(tty.readable(), 3);
        assert_eq!(tty.read(10, true).as_deref(), Ok(&b"hi\n"[..]));
        assert_eq!(*wire.shown.lock(), b"hi\r\n");
    }

    #[test]
    fn output_stops_when_the_device_is_full_and_when_stopped() {
        let (wire, tty) = terminal(100);
        assert_eq!(tty.write(&[b'x'; 200], true).map(|count| count < 200 && count > 50), Ok(true));
        assert!(!tty.can_write());
        wire.shown.lock().clear();
        assert!(tty.can_write());
        keys(&wire, &tty, b"\x13");
        assert_eq!(tty.write(b"y", true), Err(Errno::EAGAIN));
        keys(&wire, &tty, b"\x11");
        assert_eq!(tty.write(b"y", true), Ok(1));
    }

    #[test]
    fn a_raw_read_waits_for_vmin_only() {
        let (wire, tty) = terminal(100);
        let mut raw = tty.termios();
        raw.0.c_lflag &= !(uapi::ICANON | uapi::ECHO);
        raw.0.c_cc[uapi::VMIN as usize] = 0;
        tty.set_termios(raw);
        keys(&wire, &tty, b"ab");
        assert_eq!(tty.read(1, false).as_deref(), Ok(&b"a"[..]));
        assert_eq!(tty.read(9, false).as_deref(), Ok(&b"b"[..]));
        assert_eq!(tty.read(9, true).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn a_hangup_ends_reads_and_fails_writes() {
        let (wire, tty) = terminal(100);
        keys(&wire, &tty, b"last\n");
        tty.hang_up();
        assert_eq!(tty.read(10, false).as_deref(), Ok(&b"last\n"[..]));
        assert_eq!(tty.read(10, false).as_deref(), Ok(&b""[..]));
        assert_eq!(tty.write(b"x", false), Err(Errno::EIO));
    }
}
