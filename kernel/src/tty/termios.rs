//! Terminal settings: the flags and characters of termios(3), as questions instead of bit masks.

use umbel_abi::linux::uapi;

/// Settings of one terminal. The layout is the ABI's `struct termios2`; `struct termios` is its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Termios(pub uapi::termios2);

/// Value of a control character that is switched off (`_POSIX_VDISABLE`).
pub const DISABLED: u8 = 0;

impl Termios {
    /// What a new Linux terminal has (`tty_std_termios`).
    pub const fn standard() -> Self {
        let mut cc = [DISABLED; uapi::NCCS as usize];
        cc[uapi::VINTR as usize] = 0x03;
        cc[uapi::VQUIT as usize] = 0x1c;
        cc[uapi::VERASE as usize] = 0x7f;
        cc[uapi::VKILL as usize] = 0x15;
        cc[uapi::VEOF as usize] = 0x04;
        cc[uapi::VMIN as usize] = 1;
        cc[uapi::VSTART as usize] = 0x11;
        cc[uapi::VSTOP as usize] = 0x13;
        cc[uapi::VSUSP as usize] = 0x1a;
        cc[uapi::VREPRINT as usize] = 0x12;
        cc[uapi::VDISCARD as usize] = 0x0f;
        cc[uapi::VWERASE as usize] = 0x17;
        cc[uapi::VLNEXT as usize] = 0x16;
        Self(uapi::termios2 {
            c_iflag: uapi::ICRNL | uapi::IXON,
            c_oflag: uapi::OPOST | uapi::ONLCR,
            c_cflag: uapi::B38400 | uapi::CS8 | uapi::CREAD | uapi::HUPCL,
            c_lflag: uapi::ISIG
                | uapi::ICANON
                | uapi::ECHO
                | uapi::ECHOE
                | uapi::ECHOK
                | uapi::ECHOCTL
                | uapi::ECHOKE
                | uapi::IEXTEN,
            c_line: 0,
            c_cc: cc,
            c_ispeed: 38400,
            c_ospeed: 38400,
        })
    }

    /// Any of these input flags.
    pub fn input(&self, flags: u32) -> bool {
        self.0.c_iflag & flags != 0
    }

    /// Any of these output flags.
    pub fn output(&self, flags: u32) -> bool {
        self.0.c_oflag & flags != 0
    }

    /// Any of these local flags.
    pub fn local(&self, flags: u32) -> bool {
        self.0.c_lflag & flags != 0
    }

    /// Output is stopped by ^S and started by ^Q.
    pub fn stops_as_usual(&self) -> bool {
        self.input(uapi::IXON) && self.control(uapi::VSTOP) == 0x13 && self.control(uapi::VSTART) == 0x11
    }

    /// Input comes in lines.
    pub fn is_canonical(&self) -> bool {
        self.local(uapi::ICANON)
    }

    /// Reads end where lines do: in canonical mode, unless who is at the other end makes the lines (`EXTPROC`).
    pub fn reads_lines(&self) -> bool {
        self.is_canonical() && !self.local(uapi::EXTPROC)
    }

    /// `byte` is the control character at `index` and that one is on.
    pub fn is(&self, index: u32, byte: u8) -> bool {
        byte != DISABLED && self.control(index) == byte
    }

    /// As [`Self::is`] for the characters that count only under IEXTEN.
    pub fn is_extended(&self, index: u32, byte: u8) -> bool {
        self.local(uapi::IEXTEN) && self.is(index, byte)
    }

    /// The control character at `index`.
    pub fn control(&self, index: u32) -> u8 {
        self.0.c_cc.get(index as usize).copied().unwrap_or(DISABLED)
    }
}
