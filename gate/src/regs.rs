//! General registers of a guest thread.

/// The guest's general registers, in the order in which the exit pops them.
///
/// Offsets are known to `gate.s`. `orig_rax` is the system-call number, or [`Regs::NO_SYSCALL`] after any other trap.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Regs {
    /// `orig_rax` outside system calls.
    pub const NO_SYSCALL: u64 = u64::MAX;
    /// Code segment of 64-bit user code.
    pub const USER_CS: u64 = 0x33;
    /// Stack segment of user code.
    pub const USER_SS: u64 = 0x2b;
    /// Flags that a guest owns.
    pub const USER_FLAGS: u64 = 0x0024_4dd5;
    /// Interrupt flag and the bit that is always one.
    pub const FIXED_FLAGS: u64 = 0x202;
    /// Trap flag: single step.
    pub const TRAP_FLAG: u64 = 0x100;

    /// Registers of a program about to run its first instruction.
    pub fn start(rip: u64, rsp: u64) -> Regs {
        Regs {
            rip,
            rsp,
            orig_rax: Regs::NO_SYSCALL,
            cs: Regs::USER_CS,
            ss: Regs::USER_SS,
            rflags: Regs::FIXED_FLAGS,
            ..Regs::default()
        }
    }

    /// The six system-call arguments.
    pub fn args(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// Forces segments and privileged flags to what guest code may have.
    pub fn sanitize(&mut self) {
        self.cs = Regs::USER_CS;
        self.ss = Regs::USER_SS;
        self.rflags = (self.rflags & Regs::USER_FLAGS) | Regs::FIXED_FLAGS;
    }
}

#[cfg(test)]
mod tests {
    use super::Regs;

    #[test]
    fn sanitize_keeps_guest_flags_and_drops_privileged_ones() {
        let mut regs = Regs { rflags: !0, cs: 0x10, ss: 0, ..Regs::default() };
        regs.sanitize();
        assert_eq!(regs.rflags & 0x3000, 0, "IOPL");
        assert_eq!(regs.rflags & Regs::FIXED_FLAGS, Regs::FIXED_FLAGS);
        assert_eq!((regs.cs, regs.ss), (0x33, 0x2b));
        assert_eq!(regs.rflags & Regs::TRAP_FLAG, Regs::TRAP_FLAG);
    }
}
