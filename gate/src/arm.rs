//! Preparing a slot's host task for guest code.

use crate::asm::label;
use crate::filter::{self, Insn};
use crate::{Errno, SlotBlock};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};
use umbel_abi::linux::uapi::*;
use umbel_abi::machine::SlotPage;
use umbel_abi::machine::layout::{PAGE, SLOT_PAGE};
use umbel_host::raw::syscall;

/// Which step of arming a slot failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArmError {
    /// The host call, in words for one line on the console.
    pub step: &'static str,
    pub errno: Errno,
}

/// How to arm.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArmOptions {
    /// Slots stay dumpable and may leave cores (`--debug-host`).
    pub debug_host: bool,
}

/// Signals that the gate handles.
const HANDLED: [u32; 10] = [SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGALRM, SIGUSR1, SIGIO, SIGUSR2];
/// Signals that must not disturb a slot: the machine speaks for the terminal.
const IGNORED: [u32; 9] = [SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU, SIGXCPU, SIGXFSZ];

/// The asynchronous signals that kernel code masks now and then. SIGUSR2 is not among them: the machine sends it to a virtual
/// CPU that hangs, wherever that is.
pub const ASYNC_MASK: u64 = bit(SIGALRM) | bit(SIGUSR1) | bit(SIGIO);

const SA_FLAGS: u64 = 0x4 | 0x0800_0000 | 0x4000_0000 | 0x0400_0000; // SIGINFO, ONSTACK, NODEFER, RESTORER
const PR_SET_DUMPABLE: u64 = 4;
const PR_SET_NO_NEW_PRIVS: u64 = 38;
const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
const SECCOMP_SET_MODE_FILTER: u64 = 1;
const SECCOMP_FILTER_FLAG_SPEC_ALLOW: u64 = 4;
const RLIMIT_CORE_NR: u64 = 4;

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// `struct sigaction` as the host takes it.
#[repr(C)]
struct SigAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    insns: *const Insn,
}

/// The filter, assembled once.
static FILTER: AtomicPtr<Insn> = AtomicPtr::new(core::ptr::null_mut());
static FILTER_LEN: AtomicUsize = AtomicUsize::new(0);

/// Assembles the filter. Once, when the heap works and before the first slot is armed.
pub(crate) fn init() {
    let program = Box::leak(filter::program().into_boxed_slice());
    FILTER_LEN.store(program.len(), Relaxed);
    FILTER.store(program.as_mut_ptr(), Release);
}

/// Arms the calling host task as a slot: limits, handlers, mask, signal stack, user dispatch, seccomp filter.
///
/// The slot's address space must be complete (image, KDATA, slot page, entry page, signal stack) and `in_kernel` 1; [`crate::init`] has run. Afterwards asynchronous signals are masked until the first exit, and
/// only what [`crate::filter`] lists can be called.
pub fn arm_slot(options: &ArmOptions) -> core::result::Result<(), ArmError> {
    allow_calls();
    if !options.debug_host {
        let none = [0u64; 2];
        call("RLIMIT_CORE", __NR_prlimit64, [0, RLIMIT_CORE_NR, none.as_ptr() as u64, 0, 0, 0])?;
        call("PR_SET_DUMPABLE", __NR_prctl, [PR_SET_DUMPABLE, 0, 0, 0, 0, 0])?;
    }
    for signal in IGNORED {
        set_action(signal, &SigAction { handler: 1, flags: 0, restorer: 0, mask: 0 })?;
    }
    let action = SigAction {
        handler: label::gate_signal_entry(),
        flags: SA_FLAGS,
        restorer: label::gate_restorer(),
        mask: ASYNC_MASK,
    };
    for signal in HANDLED {
        set_action(signal, &action)?;
    }
    let mask = ASYNC_MASK;
    call("rt_sigprocmask", __NR_rt_sigprocmask, [2, &raw const mask as u64, 0, 8, 0, 0])?;
    let stack = &raw const SlotBlock::this().stack as u64;
    call("sigaltstack", __NR_sigaltstack, [stack, 0, 0, 0, 0, 0])?;
    let gate = label::gate_start();
    let dispatch = [PR_SET_SYSCALL_USER_DISPATCH, 1, gate + 2, PAGE - 2, SLOT_PAGE, 0];
    call("PR_SET_SYSCALL_USER_DISPATCH", __NR_prctl, dispatch)?;
    call("PR_SET_NO_NEW_PRIVS", __NR_prctl, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0])?;
    let program = Program { len: FILTER_LEN.load(Relaxed) as u16, insns: FILTER.load(Acquire) };
    let install = [SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &raw const program as u64, 0, 0, 0];
    call("seccomp", __NR_seccomp, install)
}

/// A slot that was killed in guest mode left its selector at "block".
fn allow_calls() {
    let page = SLOT_PAGE as *const SlotPage;
    // SAFETY: the slot's page is mapped; `self_ptr` is its writable address in KDATA.
    unsafe { &*((*page).self_ptr as *const SlotPage) }.selector.store(0, Relaxed);
}

fn set_action(signal: u32, action: &SigAction) -> core::result::Result<(), ArmError> {
    let action = action as *const SigAction as u64;
    call("rt_sigaction", __NR_rt_sigaction, [u64::from(signal), action, 0, 8, 0, 0])
}

fn call(step: &'static str, nr: u32, args: [u64; 6]) -> core::result::Result<(), ArmError> {
    // SAFETY: every call here changes only the state of the calling task; pointers are to live locals or KDATA.
    unsafe { syscall(nr, args) }.map(drop).map_err(|errno| ArmError { step, errno })
}
