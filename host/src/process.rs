//! Host tasks: making, ending and placing them. Used by the zygote, the slots' parents and the slots.

use crate::raw::syscall;
use core::arch::naked_asm;
use umbel_abi::linux::Errno;

const NR_RT_SIGACTION: u32 = 13;
const NR_RT_SIGPROCMASK: u32 = 14;
const NR_GETPID: u32 = 39;
const NR_WAIT4: u32 = 61;
const NR_KILL: u32 = 62;
const NR_GETPPID: u32 = 110;
const NR_SETSID: u32 = 112;
const NR_PRCTL: u32 = 157;
const NR_SCHED_SETAFFINITY: u32 = 203;
const NR_EXIT_GROUP: u32 = 231;
const NR_GETCPU: u32 = 309;
const NR_GETTID: u32 = 186;
const NR_MEMBARRIER: u32 = 324;
const NR_RSEQ: u32 = 334;

const CLONE_FILES_SIGCHLD: u64 = 0x400 | 17;
const PR_SET_PDEATHSIG: u64 = 1;
const PR_SET_NAME: u64 = 15;
const PR_SET_TSC: u64 = 26;
const PR_TSC_ENABLE: u64 = 1;
const PR_TSC_SIGSEGV: u64 = 2;
const SA_RESTORER: u64 = 0x0400_0000;
const RSEQ_UNREGISTER: u64 = 1;
const RSEQ_SIGNATURE: u64 = 0x5305_3053;

/// Signal numbers.
pub const SIGKILL: i32 = 9;
pub const SIGALRM: i32 = 14;
pub const SIGCHLD: i32 = 17;

/// Makes a host task with an address space of its own and the caller's descriptors; it runs `entry(arg)` on the stack that
/// ends at `stack_top`. Returns its process id.
///
/// # Safety
/// The stack is 16-byte aligned, mapped in both tasks and used by nobody else; `entry` finds in the copied address space
/// what it needs.
pub unsafe fn fork_onto(stack_top: u64, entry: extern "C" fn(u64) -> !, arg: u64) -> Result<i32, Errno> {
    // SAFETY: the caller vouches for stack and entry.
    let ret = unsafe { clone_onto(CLONE_FILES_SIGCHLD, stack_top, entry as usize as u64, arg) };
    match ret {
        ..0 => Err(Errno::from_raw(-ret as i32)),
        pid => Ok(pid as i32),
    }
}

/// clone(flags, stack): the child calls `entry(arg)`.
#[unsafe(naked)]
unsafe extern "C" fn clone_onto(flags: u64, stack: u64, entry: u64, arg: u64) -> i64 {
    naked_asm!(
        "push r12",
        "push r13",
        "mov r12, rdx",
        "mov r13, rcx",
        "xor edx, edx",
        "xor r10d, r10d",
        "xor r8d, r8d",
        "mov eax, 56",
        "syscall",
        "test rax, rax",
        "jz 2f",
        "pop r13",
        "pop r12",
        "ret",
        "2:",
        "xor ebp, ebp",
        "mov rdi, r13",
        "call r12",
        "ud2",
    )
}

/// The caller's process id.
pub fn getpid() -> i32 {
    // SAFETY: touches no memory.
    unsafe { syscall(NR_GETPID, [0; 6]) }.unwrap_or(0) as i32
}

/// The calling thread's id.
pub fn gettid() -> i32 {
    // SAFETY: touches no memory.
    unsafe { syscall(NR_GETTID, [0; 6]) }.unwrap_or(0) as i32
}

/// The process id of the caller's parent.
pub fn getppid() -> i32 {
    // SAFETY: touches no memory.
    unsafe { syscall(NR_GETPPID, [0; 6]) }.unwrap_or(0) as i32
}

/// Starts a session; an error means the caller led one already.
pub fn setsid() -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall(NR_SETSID, [0; 6]) }.map(drop)
}

/// Dies with the thread that made the caller. The caller must compare [`getppid`] afterwards.
pub fn die_with_parent() -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall(NR_PRCTL, [PR_SET_PDEATHSIG, SIGKILL as u64, 0, 0, 0, 0]) }.map(drop)
}

/// Whether reading the time-stamp counter is a fault from now on, for the calling task.
pub fn trap_counter(on: bool) {
    let mode = if on { PR_TSC_SIGSEGV } else { PR_TSC_ENABLE };
    // SAFETY: touches no memory. It cannot fail on a host with a counter.
    let _ = unsafe { syscall(NR_PRCTL, [PR_SET_TSC, mode, 0, 0, 0, 0]) };
}

/// Names the caller for ps(1).
pub fn set_name(name: &core::ffi::CStr) {
    // SAFETY: the host copies at most 16 bytes of a terminated string.
    let _ = unsafe { syscall(NR_PRCTL, [PR_SET_NAME, name.as_ptr() as u64, 0, 0, 0, 0]) };
}

/// Sends a signal to a process.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: touches no memory of this process.
    unsafe { syscall(NR_KILL, [pid as u64, signal as u64, 0, 0, 0, 0]) }.map(drop)
}

/// A child that died.
#[derive(Clone, Copy, Debug)]
pub struct Dead {
    pub pid: i32,
    /// Wait status.
    pub status: i32,
    /// CPU time that it used, ns.
    pub cpu_ns: u64,
}

/// Reaps a dead child without waiting.
pub fn reap() -> Option<Dead> {
    const WNOHANG: u64 = 1;
    let mut status = 0_i32;
    // `struct rusage`: seconds and microseconds in user mode and in the kernel first.
    let mut usage = [0_u64; 18];
    let args = [u64::MAX, &raw mut status as u64, WNOHANG, usage.as_mut_ptr() as u64, 0, 0];
    // SAFETY: status and usage are ours and large enough.
    match unsafe { syscall(NR_WAIT4, args) } {
        Ok(0) | Err(_) => None,
        Ok(pid) => {
            let cpu_ns = (usage[0] + usage[2]) * 1_000_000_000 + (usage[1] + usage[3]) * 1000;
            Some(Dead { pid: pid as i32, status, cpu_ns })
        }
    }
}

/// Ends the calling process.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: does not return.
        let _ = unsafe { syscall(NR_EXIT_GROUP, [status as u64, 0, 0, 0, 0, 0]) };
    }
}

/// Allows a task (0 = the caller) the host CPUs of `mask` only.
pub fn set_affinity(tid: i32, mask: &[u64]) -> Result<(), Errno> {
    let args = [tid as u64, size_of_val(mask) as u64, mask.as_ptr() as u64, 0, 0, 0];
    // SAFETY: the mask is readable for as long as it says.
    unsafe { syscall(NR_SCHED_SETAFFINITY, args) }.map(drop)
}

/// The host CPU that runs the caller.
pub fn current_cpu() -> u32 {
    let mut cpu = 0_u32;
    // SAFETY: the word is ours.
    let _ = unsafe { syscall(NR_GETCPU, [&raw mut cpu as u64, 0, 0, 0, 0, 0]) };
    cpu
}

/// Sets the handler of a signal: 0 = default, 1 = ignore, else a function; `restorer` must call rt_sigreturn.
///
/// # Safety
/// The handler must be sound whenever the signal comes.
pub unsafe fn set_handler(signal: i32, handler: u64, restorer: u64) -> Result<(), Errno> {
    let action = [handler, SA_RESTORER, restorer, 0];
    let args = [signal as u64, action.as_ptr() as u64, 0, 8, 0, 0];
    // SAFETY: the action is readable; the caller vouches for the handler.
    unsafe { syscall(NR_RT_SIGACTION, args) }.map(drop)
}

/// Adds (`how` = 0), removes (1) or sets (2) blocked signals.
pub fn mask_signals(how: u64, set: u64) {
    // SAFETY: the set is readable.
    let _ = unsafe { syscall(NR_RT_SIGPROCMASK, [how, &raw const set as u64, 0, 8, 0, 0]) };
}

/// Lets this address space take part in `MEMBARRIER_CMD_GLOBAL_EXPEDITED`.
pub fn register_membarrier() -> Result<(), Errno> {
    const REGISTER_GLOBAL_EXPEDITED: u64 = 1 << 2;
    // SAFETY: touches no memory.
    unsafe { syscall(NR_MEMBARRIER, [REGISTER_GLOBAL_EXPEDITED, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Ends the registration of a restartable-sequences area that the C library made.
pub fn unregister_rseq(area: u64, len: u32) -> Result<(), Errno> {
    let args = [area, u64::from(len), RSEQ_UNREGISTER, RSEQ_SIGNATURE, 0, 0];
    // SAFETY: the host writes the area's CPU fields at most, and the registration vouches for it.
    unsafe { syscall(NR_RSEQ, args) }.map(drop)
}
