//! The line discipline: what happens to bytes between a terminal and its programs (Linux's n_tty).
//!
//! Pure: no locks, no waiting, no devices. [`Discipline::input`] takes what the terminal sent and yields input to
//! read, bytes to echo and signals to send; [`Discipline::process`] turns a program's output into what the terminal
//! gets. Used by `tty::Tty` under its lock.
//!
//! Source: termios(3), POSIX.1 chapter 11, Linux drivers/tty/n_tty.c.

mod echo;
mod erase;
#[cfg(test)]
mod tests;

use super::termios::{DISABLED, Termios};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use umbel_abi::linux::uapi;

/// Bytes of unread input that a terminal holds (`N_TTY_BUF_SIZE`).
pub const INPUT_MAX: usize = 4096;

/// A signal that a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// VINTR: SIGINT.
    Interrupt,
    /// VQUIT: SIGQUIT.
    Quit,
    /// VSUSP: SIGTSTP.
    Suspend,
}

/// What [`Discipline::input`] asks of its caller.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Bytes for the terminal, in order.
    pub echo: Vec<u8>,
    /// Signals for the foreground process group, in order.
    pub keys: Vec<Key>,
    /// Output that waits for the terminal is to be dropped (a signal without NOFLSH).
    pub flush_output: bool,
}

/// One byte of unread input.
#[derive(Clone, Copy, Debug)]
struct Char {
    byte: u8,
    mark: Mark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Inside a line.
    None,
    /// Last byte of a line.
    End,
    /// VEOF: ends a line and is not part of it.
    Eof,
}

/// State of one terminal's line discipline.
#[derive(Debug)]
pub struct Discipline {
    termios: Termios,
    /// Unread input: complete lines first, then the line under edit.
    chars: VecDeque<Char>,
    /// How many of `chars` belong to complete lines. Meaningful in canonical mode.
    committed: usize,
    /// The next byte is taken literally (VLNEXT).
    literal_next: bool,
    /// Inside a `\`…`/` run of ECHOPRT.
    erasing: bool,
    /// Output column of the cursor, as far as it can be known.
    column: usize,
    /// Column where the line under edit began.
    line_column: usize,
    /// VSTOP was typed (or TCOOFF): programs' output waits.
    stopped: bool,
}

impl Default for Discipline {
    fn default() -> Self {
        Self::new(Termios::standard())
    }
}

impl Discipline {
    /// A discipline with nothing to read.
    pub fn new(termios: Termios) -> Self {
        Self {
            termios,
            chars: VecDeque::new(),
            committed: 0,
            literal_next: false,
            erasing: false,
            column: 0,
            line_column: 0,
            stopped: false,
        }
    }

    /// The settings.
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Changes the settings. Input that waits when lines are switched on counts as one line.
    pub fn set_termios(&mut self, termios: Termios) {
        let changed = |flag| self.termios.local(flag) != termios.local(flag);
        let other_lines = changed(uapi::ICANON) || changed(uapi::EXTPROC);
        self.termios = termios;
        if other_lines {
            self.chars.iter_mut().for_each(|c| c.mark = Mark::None);
            self.committed = 0;
            if let (true, Some(last)) = (termios.reads_lines(), self.chars.back_mut()) {
                last.mark = Mark::End;
                self.committed = self.chars.len();
            }
            self.erasing = false;
            self.literal_next = false;
        }
        if !termios.input(uapi::IXON) {
            self.stopped = false;
        }
    }

    /// Output is held back.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Holds output back or lets it go (TCXONC).
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// How many more bytes [`Self::input`] should be given. In canonical mode without a complete line it never falls
    /// to 0: what does not fit is dropped, so that the line can still be ended or erased.
    pub fn room(&self) -> usize {
        let room = (INPUT_MAX - 1).saturating_sub(self.chars.len());
        if room == 0 && self.termios.reads_lines() && self.committed == 0 { 1 } else { room }
    }

    /// Takes what the terminal sent. May fail to keep bytes beyond [`Self::room`].
    pub fn input(&mut self, bytes: &[u8], effects: &mut Effects) {
        for byte in bytes {
            self.input_byte(*byte, effects);
        }
    }

    fn input_byte(&mut self, byte: u8, effects: &mut Effects) {
        let mut byte = byte;
        if self.termios.input(uapi::ISTRIP) {
            byte &= 0x7f;
        }
        if self.termios.input(uapi::IUCLC) && self.termios.local(uapi::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if self.termios.local(uapi::EXTPROC) {
            self.put(byte, Mark::None);
        } else if core::mem::take(&mut self.literal_next) {
            self.ordinary(byte, effects);
        } else if !self.flow_control(byte) && !self.signal_key(byte, effects) {
            self.resume_on_any();
            self.translated(byte, effects);
        }
    }

    /// VSTART and VSTOP; true if `byte` was one.
    fn flow_control(&mut self, byte: u8) -> bool {
        if !self.termios.input(uapi::IXON) {
            return false;
        }
        if self.termios.is(uapi::VSTART, byte) {
            self.stopped = false;
            true
        } else if self.termios.is(uapi::VSTOP, byte) {
            self.stopped = true;
            true
        } else {
            false
        }
    }

    fn signal_key(&mut self, byte: u8, effects: &mut Effects) -> bool {
        if !self.termios.local(uapi::ISIG) {
            return false;
        }
        let key = if self.termios.is(uapi::VINTR, byte) {
            Key::Interrupt
        } else if self.termios.is(uapi::VQUIT, byte) {
            Key::Quit
        } else if self.termios.is(uapi::VSUSP, byte) {
            Key::Suspend
        } else {
            return false;
        };
        if !self.termios.local(uapi::NOFLSH) {
            self.flush_input();
            effects.echo.clear();
            effects.flush_output = true;
        }
        effects.keys.push(key);
        if self.termios.input(uapi::IXON) {
            self.stopped = false;
        }
        if self.termios.local(uapi::ECHO) {
            self.echo(byte, &mut effects.echo);
        }
        true
    }

    fn resume_on_any(&mut self) {
        if self.stopped && self.termios.input(uapi::IXON) && self.termios.input(uapi::IXANY) {
            self.stopped = false;
        }
    }

    /// CR and NL translation, then the editing characters or an ordinary byte.
    fn translated(&mut self, byte: u8, effects: &mut Effects) {
        let byte = match byte {
            b'\r' if self.termios.input(uapi::IGNCR) => return,
            b'\r' if self.termios.input(uapi::ICRNL) => b'\n',
            b'\n' if self.termios.input(uapi::INLCR) => b'\r',
            other => other,
        };
        if self.termios.is_canonical() && self.edit(byte, effects) {
            return;
        }
        if byte == b'\n' && self.termios.local(uapi::ECHO) {
            self.finish_erasing(&mut effects.echo);
            self.echo_raw(b'\n', &mut effects.echo);
            self.put(byte, Mark::None);
            return;
        }
        self.ordinary(byte, effects);
    }

    fn ordinary(&mut self, byte: u8, effects: &mut Effects) {
        // A byte that finds no room is not echoed either.
        if self.chars.len() >= INPUT_MAX - 1 {
            return;
        }
        if self.termios.local(uapi::ECHO) {
            self.finish_erasing(&mut effects.echo);
            self.note_line_column();
            self.echo(byte, &mut effects.echo);
        }
        if byte == 0xff && self.termios.input(uapi::PARMRK) {
            self.put(byte, Mark::None);
        }
        self.put(byte, Mark::None);
    }

    /// The editing characters of canonical mode; true if `byte` was one.
    fn edit(&mut self, byte: u8, effects: &mut Effects) -> bool {
        let termios = self.termios;
        if termios.is(uapi::VERASE, byte) {
            self.erase_char(&mut effects.echo);
        } else if termios.is(uapi::VKILL, byte) {
            self.kill_line(&mut effects.echo);
        } else if termios.is_extended(uapi::VWERASE, byte) {
            self.erase_word(&mut effects.echo);
        } else if termios.is_extended(uapi::VLNEXT, byte) {
            self.literal_next = true;
            if termios.local(uapi::ECHO) {
                self.finish_erasing(&mut effects.echo);
                if termios.local(uapi::ECHOCTL) {
                    self.echo_raw(b'^', &mut effects.echo);
                    self.echo_raw(b'\x08', &mut effects.echo);
                }
            }
        } else if termios.is_extended(uapi::VREPRINT, byte) && termios.local(uapi::ECHO) {
            self.reprint(byte, &mut effects.echo);
        } else {
            return self.end_line(byte, effects);
        }
        true
    }

    /// The characters that end a line; true if `byte` was one.
    fn end_line(&mut self, byte: u8, effects: &mut Effects) -> bool {
        let termios = self.termios;
        if byte == b'\n' {
            if termios.local(uapi::ECHO | uapi::ECHONL) {
                self.echo_raw(b'\n', &mut effects.echo);
            }
            self.commit(byte, Mark::End);
        } else if termios.is(uapi::VEOF, byte) {
            self.commit(DISABLED, Mark::Eof);
        } else if termios.is(uapi::VEOL, byte) || termios.is_extended(uapi::VEOL2, byte) {
            if termios.local(uapi::ECHO) {
                self.note_line_column();
                self.echo(byte, &mut effects.echo);
            }
            self.commit(byte, Mark::End);
        } else {
            return false;
        }
        true
    }

    fn commit(&mut self, byte: u8, mark: Mark) {
        // The one byte that `ordinary` leaves free is for this.
        if self.chars.len() >= INPUT_MAX {
            self.chars.pop_back();
        }
        self.chars.push_back(Char { byte, mark });
        self.committed = self.chars.len();
        self.erasing = false;
    }

    fn put(&mut self, byte: u8, mark: Mark) {
        if self.chars.len() < INPUT_MAX - 1 {
            self.chars.push_back(Char { byte, mark });
        }
    }

    /// Drops all input (TCIFLUSH, signals).
    pub fn flush_input(&mut self) {
        self.chars.clear();
        self.committed = 0;
        self.erasing = false;
        self.literal_next = false;
    }

    /// Bytes that FIONREAD reports.
    pub fn readable(&self) -> usize {
        if self.termios.reads_lines() {
            self.chars.iter().take(self.committed).filter(|c| c.mark != Mark::Eof).count()
        } else {
            self.chars.len()
        }
    }

    /// A read would return at once (canonical mode), or finds at least a byte (else).
    pub fn has_input(&self) -> bool {
        if self.termios.reads_lines() { self.committed > 0 } else { !self.chars.is_empty() }
    }

    /// What poll(2) reports as readable: outside canonical mode VMIN counts if VTIME is 0.
    pub fn is_pollable(&self) -> bool {
        if self.termios.reads_lines() {
            return self.committed > 0;
        }
        let (min, time) = (self.termios.control(uapi::VMIN), self.termios.control(uapi::VTIME));
        let wanted = if time == 0 && min != 0 { usize::from(min) } else { 1 };
        self.chars.len() >= wanted
    }

    /// Takes at most `max` bytes: in canonical mode at most one line. `Some` of nothing is an end of file; `None`
    /// means that there is nothing to read.
    pub fn read(&mut self, max: usize) -> Option<Vec<u8>> {
        if !self.has_input() {
            return None;
        }
        let limit = if self.termios.reads_lines() { self.committed } else { self.chars.len() };
        let mut bytes = Vec::with_capacity(max.min(limit));
        while bytes.len() < max.min(limit) {
            let Some(next) = self.take() else { break };
            match next.mark {
                Mark::Eof => return Some(bytes),
                Mark::End => {
                    bytes.push(next.byte);
                    return Some(bytes);
                }
                Mark::None => bytes.push(next.byte),
            }
        }
        // A read that ends right before an end-of-file mark swallows it: the data was what the key pushed out.
        if self.committed > 0 && self.chars.front().is_some_and(|c| c.mark == Mark::Eof) && !bytes.is_empty() {
            self.take();
        }
        Some(bytes)
    }

    fn take(&mut self) -> Option<Char> {
        if self.termios.reads_lines() {
            self.committed = self.committed.checked_sub(1)?;
        }
        self.chars.pop_front()
    }
}
