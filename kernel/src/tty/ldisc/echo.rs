//! Echo and output processing.

use super::Discipline;
use alloc::vec::Vec;
use umbel_abi::linux::uapi;

impl Discipline {
    /// Turns a program's output into what the terminal gets (OPOST and its companions).
    pub fn process(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if !self.termios.output(uapi::OPOST) {
            out.extend_from_slice(bytes);
            return;
        }
        for byte in bytes {
            self.process_byte(*byte, out);
        }
    }

    fn process_byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        let termios = self.termios;
        match byte {
            b'\n' => {
                if termios.output(uapi::ONLRET) {
                    self.column = 0;
                }
                if termios.output(uapi::ONLCR) {
                    self.column = 0;
                    out.push(b'\r');
                }
                self.line_column = self.column;
                out.push(b'\n');
            }
            b'\r' if termios.output(uapi::ONOCR) && self.column == 0 => {}
            b'\r' if termios.output(uapi::OCRNL) => {
                if termios.output(uapi::ONLRET) {
                    (self.column, self.line_column) = (0, 0);
                }
                out.push(b'\n');
            }
            b'\r' => {
                (self.column, self.line_column) = (0, 0);
                out.push(b'\r');
            }
            b'\t' => {
                let spaces = 8 - self.column % 8;
                self.column += spaces;
                if termios.0.c_oflag & uapi::TABDLY == uapi::XTABS {
                    out.extend(core::iter::repeat_n(b' ', spaces));
                } else {
                    out.push(b'\t');
                }
            }
            b'\x08' => {
                self.column = self.column.saturating_sub(1);
                out.push(byte);
            }
            other => {
                let shown = if termios.output(uapi::OLCUC) { other.to_ascii_uppercase() } else { other };
                if !is_control(shown) && !self.is_continuation(shown) {
                    self.column += 1;
                }
                out.push(shown);
            }
        }
    }

    /// Echoes a byte that was typed: control characters as `^X` under ECHOCTL.
    pub(super) fn echo(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.termios.local(uapi::ECHOCTL) && is_control(byte) && byte != b'\t' {
            self.column += 2;
            out.extend_from_slice(&[b'^', byte ^ 0o100]);
        } else {
            self.echo_raw(byte, out);
        }
    }

    /// Sends a byte to the terminal as the discipline's own output.
    pub(super) fn echo_raw(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.termios.output(uapi::OPOST) {
            self.process_byte(byte, out);
        } else {
            out.push(byte);
        }
    }

    /// Remembers where a line under edit begins, when its first byte comes.
    pub(super) fn note_line_column(&mut self) {
        if self.chars.len() == self.committed {
            self.line_column = self.column;
        }
    }

    /// A byte inside a character of UTF-8, if the terminal speaks it.
    pub(super) fn is_continuation(&self, byte: u8) -> bool {
        self.termios.input(uapi::IUTF8) && byte & 0xc0 == 0x80
    }
}

/// A control character of ASCII.
pub(super) fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}
