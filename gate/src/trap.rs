//! Why guest code stopped running.

/// What ended a stay in guest mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A system call: number in `orig_rax`, arguments in the registers, `rip` after the instruction.
    Syscall,
    /// A page fault on guest memory.
    Fault(FaultInfo),
    /// Any other exception of the CPU.
    Exception(Exception),
    /// A timer, cross-call or device interrupt: look at the mailbox. Also returned without having left at all.
    Interrupt,
    /// The host killed the slot while it ran this guest; a fresh one goes on. Kill the guest process.
    SlotDied,
    /// The guest attacked the gate or used what no guest may use. Kill the guest process.
    BadFrame(Kill),
}

/// A page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultInfo {
    /// The faulting address.
    pub addr: u64,
    /// The host's `si_code` (`SEGV_MAPERR`, `SEGV_ACCERR`): a hint only, the host's mappings are a cache.
    pub code: i32,
    pub write: bool,
    pub exec: bool,
    pub trapno: u32,
    /// Instruction pointer.
    pub ip: u64,
}

/// An exception that is a signal to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// `SIGBUS`, `SIGFPE`, `SIGILL`, `SIGTRAP` or `SIGSEGV`.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub addr: u64,
    /// Exception vector.
    pub trapno: u32,
    /// Error code of the exception.
    pub err: u32,
}

/// Why a guest process must die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// A signal frame that the host did not write.
    ForgedFrame,
    /// A call that the seccomp filter refused: a jump into the gate or kernel text, or the vsyscall page.
    Filtered,
    /// A synchronous exception in the gate's entry window.
    EntryWindow,
    /// A synchronous exception in the exit window.
    ExitWindow,
    /// Code outside 64-bit mode.
    Segment,
    /// A 32-bit system call.
    Arch,
    /// A synchronous signal sent by some host process.
    External,
    /// FPU state that the CPU refused.
    Fpu,
}
