//! `siginfo_t`: why a signal was sent. Source: sigaction(2), `include/uapi/asm-generic/siginfo.h` (layout).

use super::number::*;
use crate::task::Cred;
use crate::task::ns::user::{OVERFLOW, Which};
use core::fmt;
use umbel_abi::linux::KernelSigInfo;

/// `si_code` values.
pub mod code {
    pub const SI_USER: i32 = 0;
    pub const SI_KERNEL: i32 = 0x80;
    pub const SI_QUEUE: i32 = -1;
    pub const SI_TIMER: i32 = -2;
    pub const SI_SIGIO: i32 = -5;
    pub const SI_TKILL: i32 = -6;
    pub const SEGV_MAPERR: i32 = 1;
    pub const SEGV_ACCERR: i32 = 2;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_TRAPPED: i32 = 4;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
    pub const POLL_IN: i32 = 1;
    pub const SYS_SECCOMP: i32 = 1;
    pub const SYS_USER_DISPATCH: i32 = 2;
}

/// A clock tick (`USER_HZ`), ns.
const TICK_NS: u64 = 10_000_000;

/// A signal with its reason: the 128 bytes that a handler sees, and whether a timer of the kernel sent it.
#[derive(Clone, Copy)]
pub struct SigInfo(pub KernelSigInfo, bool);

impl SigInfo {
    /// Any signal; `fields` begin at byte 16 of the structure.
    pub fn raw(signo: Signo, code: i32, fields: &[u64]) -> SigInfo {
        let mut info = KernelSigInfo { signo: signo as i32, errno: 0, code, pad: 0, fields: [0; 14] };
        for (to, from) in info.fields.iter_mut().zip(fields) {
            *to = *from;
        }
        SigInfo(info, false)
    }

    /// From the kernel itself (`SI_KERNEL`): Ctrl-C, SIGPIPE, a dying session.
    pub fn kernel(signo: Signo) -> SigInfo {
        Self::raw(signo, code::SI_KERNEL, &[])
    }

    /// From kill(2).
    pub fn kill(signo: Signo, pid: i32, uid: u32) -> SigInfo {
        Self::raw(signo, code::SI_USER, &[pack(pid, uid as i32)])
    }

    /// From tgkill(2), tkill(2).
    pub fn tkill(signo: Signo, pid: i32, uid: u32) -> SigInfo {
        Self::raw(signo, code::SI_TKILL, &[pack(pid, uid as i32)])
    }

    /// A fault at `addr`: SEGV, BUS, FPE, ILL, TRAP.
    pub fn fault(signo: Signo, code: i32, addr: u64) -> SigInfo {
        Self::raw(signo, code, &[addr])
    }

    /// To a parent, about its child `pid`: `code` is `CLD_*`, `status` the exit code or a signal's number; CPU times in ns.
    pub fn child(signo: Signo, code: i32, pid: i32, uid: u32, status: i32, user_ns: u64, system_ns: u64) -> SigInfo {
        let ids = pack(pid, uid as i32);
        Self::raw(signo, code, &[ids, u64::from(status as u32), user_ns / TICK_NS, system_ns / TICK_NS])
    }

    /// From the POSIX timer `id`, with `sigev_value`.
    pub fn timer(signo: Signo, id: i32, value: u64) -> SigInfo {
        SigInfo(Self::raw(signo, code::SI_TIMER, &[pack(id, 0), value]).0, true)
    }

    /// Input or output possible on `fd` (`O_ASYNC`).
    pub fn poll(signo: Signo, code: i32, band: u64, fd: i32) -> SigInfo {
        Self::raw(signo, code, &[band, fd as u32 as u64])
    }

    /// The signal's number.
    pub fn signo(&self) -> Signo {
        self.0.signo as Signo
    }

    /// `si_code`.
    pub fn code(&self) -> i32 {
        self.0.code
    }

    /// The address of a fault.
    pub fn addr(&self) -> u64 {
        self.0.fields[0]
    }

    /// The id of the POSIX timer that sent it; none for what a guest made up.
    pub fn timer_id(&self) -> Option<i32> {
        self.1.then_some(self.0.fields[0] as i32)
    }

    /// Stores `si_pid`.
    pub fn set_pid(&mut self, pid: i32) {
        self.0.fields[0] = pack(pid, (self.0.fields[0] >> 32) as i32);
    }

    /// Whether there is a `si_uid`: `siginfo_layout` of Linux.
    fn has_uid(&self) -> bool {
        match self.0.code {
            code::SI_TIMER | code::SI_SIGIO => false,
            code::CLD_EXITED..=code::CLD_CONTINUED => self.signo() == SIGCHLD,
            code => code <= code::SI_USER,
        }
    }

    fn map_uid(&mut self, map: impl FnOnce(u32) -> u32) {
        if self.has_uid() {
            let uid = map((self.0.fields[0] >> 32) as u32);
            self.0.fields[0] = pack(self.0.fields[0] as i32, uid as i32);
        }
    }

    /// `sender` made it up: from here on `si_uid` is what that user id stands for.
    pub fn said_by(mut self, sender: &Cred) -> SigInfo {
        if !sender.user_ns.is_first() {
            self.map_uid(|uid| sender.user_ns.take(Which::Users, uid).unwrap_or(OVERFLOW));
        }
        self
    }

    /// `si_uid` becomes what the taker knows that user as.
    pub fn shown_to(mut self, taker: &Cred) -> SigInfo {
        if !taker.user_ns.is_first() {
            self.map_uid(|uid| taker.show_uid(uid));
        }
        self
    }

    /// Stores `si_overrun`.
    pub fn set_overrun(&mut self, overrun: i32) {
        self.0.fields[0] = pack(self.0.fields[0] as i32, overrun);
    }

    /// The structure's bytes, as guests read them.
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        let head = [self.0.signo, self.0.errno, self.0.code, self.0.pad];
        for (to, from) in bytes.chunks_exact_mut(4).zip(head) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        for (to, from) in bytes[16..].chunks_exact_mut(8).zip(self.0.fields) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        bytes
    }

    /// From a guest's bytes; the number is the caller's.
    pub fn from_bytes(signo: Signo, bytes: &[u8; 128]) -> SigInfo {
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        let mut info = Self::raw(signo, word(8) as i32, &[]);
        info.0.errno = (word(0) >> 32) as i32;
        for (index, field) in info.0.fields.iter_mut().enumerate() {
            *field = word(16 + 8 * index);
        }
        info
    }
}

impl fmt::Debug for SigInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", name(self.signo()), self.code())
    }
}

fn pack(low: i32, high: i32) -> u64 {
    u64::from(low as u32) | u64::from(high as u32) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_where_c_has_them() {
        let bytes = SigInfo::child(SIGCHLD, code::CLD_EXITED, 7, 8, 9, 10 * TICK_NS, 11 * TICK_NS).to_bytes();
        let at = |offset: usize| i32::from_le_bytes(core::array::from_fn(|i| bytes[offset + i]));
        assert_eq!((at(0), at(4), at(8)), (17, 0, 1));
        assert_eq!((at(16), at(20), at(24), at(32), at(40)), (7, 8, 9, 10, 11));
    }

    #[test]
    fn bytes_round_trip() {
        let mut info = SigInfo::timer(40, 3, 0x1234_5678_9abc);
        info.set_overrun(5);
        let bytes = info.to_bytes();
        let again = SigInfo::from_bytes(41, &bytes);
        assert_eq!(again.signo(), 41);
        assert_eq!(again.to_bytes()[4..], bytes[4..]);
        assert_eq!((info.timer_id(), again.timer_id()), (Some(3), None));
    }
}
