//! The signal frame of x86-64, as the host builds it for the kernel image and as the kernel builds it for guests.
//!
//! Source: `arch/x86/include/uapi/asm/sigcontext.h` and `ucontext.h` (layout only).

/// A set of signals: bit `n - 1` stands for signal `n`.
pub type SigSet = u64;

/// `stack_t`: an alternate signal stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackT {
    pub sp: u64,
    pub flags: i32,
    pub pad: i32,
    pub size: u64,
}

/// `struct sigcontext`: the interrupted registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SigContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    pub fpstate: u64,
    pub reserved: [u64; 8],
}

/// `struct ucontext`: what the third argument of a signal handler points to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct UContext {
    pub flags: u64,
    pub link: u64,
    pub stack: StackT,
    pub mcontext: SigContext,
    pub sigmask: SigSet,
}

/// The first 128 bytes of `siginfo_t`, untyped: the union is read by offset.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct KernelSigInfo {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pub pad: i32,
    pub fields: [u64; 14],
}

/// Byte offset of the XSAVE header (`xstate_bv`, `xcomp_bv`, 48 reserved bytes) in an FPU image.
pub const XSAVE_HEADER: usize = 512;

const _: () = assert!(size_of::<KernelSigInfo>() == 128);
const _: () = assert!(size_of::<SigContext>() == 256);
const _: () = assert!(core::mem::offset_of!(UContext, sigmask) == 296);
