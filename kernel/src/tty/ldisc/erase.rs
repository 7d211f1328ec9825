//! Erasing: one character, one word, the whole line, and what the terminal shows of it.

use super::echo::is_control;
use super::{Char, Discipline};
use alloc::vec::Vec;
use umbel_abi::linux::uapi;

const RUB_OUT: [u8; 3] = *b"\x08 \x08";

impl Discipline {
    /// VERASE.
    pub(super) fn erase_char(&mut self, out: &mut Vec<u8>) {
        if let Some(erased) = self.take_last() {
            if self.termios.local(uapi::ECHO) && !self.termios.local(uapi::ECHOE | uapi::ECHOPRT) {
                let key = self.termios.control(uapi::VERASE);
                self.echo(key, out);
            } else {
                self.show_erased(&erased, out);
            }
            self.finish_if_empty(out);
        }
    }

    /// VWERASE: blanks and punctuation, then the word before them.
    pub(super) fn erase_word(&mut self, out: &mut Vec<u8>) {
        let mut inside = false;
        while let Some(erased) = self.take_last() {
            let first = erased.first().copied().unwrap_or(0);
            let in_word = first.is_ascii_alphanumeric() || first == b'_' || first >= 0xc0;
            if inside && !in_word {
                self.chars.extend(erased.iter().map(|byte| Char { byte: *byte, mark: super::Mark::None }));
                break;
            }
            inside |= in_word;
            self.show_erased(&erased, out);
        }
        self.finish_if_empty(out);
    }

    /// VKILL: as a run of erasures where ECHOKE and ECHOE can show it, else with the key and a new line.
    pub(super) fn kill_line(&mut self, out: &mut Vec<u8>) {
        if self.chars.len() == self.committed {
            return;
        }
        if !self.termios.local(uapi::ECHO) {
            self.chars.truncate(self.committed);
            return;
        }
        let wanted = uapi::ECHOK | uapi::ECHOKE | uapi::ECHOE;
        if self.termios.0.c_lflag & wanted == wanted {
            while let Some(erased) = self.take_last() {
                self.show_erased(&erased, out);
            }
            self.finish_if_empty(out);
            return;
        }
        self.chars.truncate(self.committed);
        self.finish_erasing(out);
        let key = self.termios.control(uapi::VKILL);
        self.echo(key, out);
        if self.termios.local(uapi::ECHOK) {
            self.echo_raw(b'\n', out);
        }
    }

    /// VREPRINT: the key, a new line, the line under edit.
    pub(super) fn reprint(&mut self, key: u8, out: &mut Vec<u8>) {
        self.finish_erasing(out);
        self.echo(key, out);
        self.echo_raw(b'\n', out);
        let line: Vec<u8> = self.chars.iter().skip(self.committed).map(|c| c.byte).collect();
        for byte in line {
            self.echo(byte, out);
        }
    }

    /// Closes a `\`…`/` run of ECHOPRT.
    pub(super) fn finish_erasing(&mut self, out: &mut Vec<u8>) {
        if core::mem::take(&mut self.erasing) {
            self.echo_raw(b'/', out);
        }
    }

    fn finish_if_empty(&mut self, out: &mut Vec<u8>) {
        if self.chars.len() == self.committed && self.termios.local(uapi::ECHO) {
            self.finish_erasing(out);
        }
    }

    /// Takes the last character of the line under edit: all its bytes under IUTF8. A line that begins inside a
    /// character stays as it is.
    fn take_last(&mut self) -> Option<Vec<u8>> {
        let mut start = self.chars.len();
        loop {
            if start == self.committed {
                return None;
            }
            start -= 1;
            if !self.is_continuation(self.chars.get(start)?.byte) {
                break;
            }
        }
        Some(self.chars.drain(start..).map(|c| c.byte).collect())
    }

    fn show_erased(&mut self, erased: &[u8], out: &mut Vec<u8>) {
        let Some((&first, rest)) = erased.split_first() else { return };
        if !self.termios.local(uapi::ECHO) {
            return;
        }
        if self.termios.local(uapi::ECHOPRT) {
            if !core::mem::replace(&mut self.erasing, true) {
                self.echo_raw(b'\\', out);
            }
            self.echo(first, out);
            rest.iter().for_each(|byte| self.echo_raw(*byte, out));
        } else if first == b'\t' {
            self.show_erased_tab(out);
        } else {
            let width = match (is_control(first), self.termios.local(uapi::ECHOCTL)) {
                (true, true) => 2,
                (true, false) => 0,
                (false, _) => 1,
            };
            for _ in 0..width {
                out.extend_from_slice(&RUB_OUT);
                self.column = self.column.saturating_sub(1);
            }
        }
    }

    /// Moves the cursor back over a tab: as far as the tab had moved it.
    fn show_erased_tab(&mut self, out: &mut Vec<u8>) {
        let mut before = 0;
        let mut after_tab = false;
        for c in self.chars.iter().skip(self.committed).rev() {
            if c.byte == b'\t' {
                after_tab = true;
                break;
            }
            before += match (is_control(c.byte), self.termios.local(uapi::ECHOCTL)) {
                (true, true) => 2,
                (true, false) => 0,
                (false, _) => usize::from(!self.is_continuation(c.byte)),
            };
        }
        if !after_tab {
            before += self.line_column;
        }
        for _ in 0..8 - before % 8 {
            out.push(b'\x08');
            self.column = self.column.saturating_sub(1);
        }
    }
}
