//! Judging the host signal that took the CPU from guest code.
//!
//! Every frame is hostile: guest code can jump to the signal entry with a frame of its own making. It is copied into
//! KDATA once; only the copy is believed, and only as far as a guest may decide.

use crate::asm::{EntrySave, StatSave, label};
use crate::{Exception, FaultInfo, Kill, Regs, SlotBlock, Trap, UserContext, image};
use core::ops::Range;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use umbel_abi::linux::uapi::__NR_time;
use umbel_abi::linux::uapi::{__NR_close, __NR_epoll_ctl, __NR_fcntl, __NR_getcpu, __NR_gettimeofday, __NR_newfstatat};
use umbel_abi::linux::uapi::{SIGALRM, SIGBUS, SIGFPE, SIGILL, SIGIO, SIGSEGV, SIGSYS, SIGTRAP, SIGUSR1, SIGUSR2};
use umbel_abi::linux::{KernelSigInfo, SigContext, UContext};
use umbel_abi::machine::layout::{AHEAD_SAVED, ENTRY_PAGE, SIGNAL_STACK, SIGNAL_STACK_LEN};
use umbel_abi::machine::{Mailbox, VcpuShared};

/// `si_code` of exceptions without a better one.
pub(crate) const SI_KERNEL: i32 = 0x80;
/// Vector of #GP.
pub(crate) const TRAP_GENERAL_PROTECTION: u32 = 13;
/// Vector of #PF.
const TRAP_PAGE_FAULT: u64 = 14;
/// `si_code` of SIGSYS by the filter.
const SYS_SECCOMP: i32 = 1;
/// `si_code` of SIGSYS by user dispatch.
const SYS_USER_DISPATCH: i32 = 2;
/// `si_arch` of 64-bit calls.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// A signal's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Caused by the instruction at hand.
    Synchronous,
    /// Timer, cross-call, device.
    Asynchronous,
    /// None that a slot handles.
    Unknown,
}

/// The class of a signal number.
pub(crate) fn class(signal: u32) -> Class {
    match signal {
        SIGSEGV | SIGBUS | SIGFPE | SIGILL | SIGTRAP | SIGSYS => Class::Synchronous,
        SIGALRM | SIGUSR1 | SIGIO | SIGUSR2 => Class::Asynchronous,
        _ => Class::Unknown,
    }
}

/// The copy of a frame.
struct Frame {
    signal: u32,
    code: i32,
    addr: u64,
    arch: u32,
    cpu: SigContext,
}

/// Takes the frame of the signal that ended guest mode and says what it was.
pub(crate) fn judge(context: &UserContext, block: &SlotBlock) -> Trap {
    block.live.store(0, Relaxed);
    let [signal, info, ucontext] = [0, 1, 2].map(|i: usize| block.entry_args[i].load(Relaxed));
    let Some(frame) = copy_frame(signal as u32, info, ucontext) else {
        context.load_fpu_image(&[]);
        return Trap::BadFrame(Kill::ForgedFrame);
    };
    // Before anything can fault: the next signal overwrites the frame.
    if !copy_fpu(context, frame.cpu.fpstate) {
        context.load_fpu_image(&[]);
        return Trap::BadFrame(Kill::ForgedFrame);
    }
    let class = class(frame.signal);
    if class == Class::Asynchronous {
        note(block, frame.signal);
    }
    if in_exit_window(frame.cpu.rip) {
        // The registers to leave with are still in `context`.
        return if class == Class::Asynchronous { Trap::Interrupt } else { Trap::BadFrame(Kill::ExitWindow) };
    }
    let trap = context.update(|regs| {
        *regs = guest_regs(&frame.cpu);
        classify(&frame, class, regs)
    });
    if trap == Trap::Syscall {
        context.count_call(frame.cpu.rip);
    }
    trap
}

/// Records in the mailbox what nobody else records.
pub(crate) fn note(block: &SlotBlock, signal: u32) {
    if signal == SIGALRM {
        // SAFETY: `shared` points to the virtual CPU's block in KDATA for as long as the slot lives.
        let shared = unsafe { &*(block.shared.load(Relaxed) as *const VcpuShared) };
        shared.mailbox.pending.fetch_or(Mailbox::TIMER, SeqCst);
    }
}

fn classify(frame: &Frame, class: Class, regs: &mut Regs) -> Trap {
    if class == Class::Unknown {
        return Trap::BadFrame(Kill::ForgedFrame);
    }
    if u64::from(frame.cpu.cs) != Regs::USER_CS {
        return Trap::BadFrame(Kill::Segment);
    }
    if class == Class::Synchronous && frame.code <= 0 {
        return Trap::BadFrame(Kill::External);
    }
    let in_gate = (label::gate_start()..label::gate_end()).contains(&frame.cpu.rip);
    match (in_gate, class) {
        (false, Class::Asynchronous) => Trap::Interrupt,
        (false, _) => synchronous(frame, regs),
        (true, Class::Asynchronous) => {
            rewind(regs);
            Trap::Interrupt
        }
        (true, _) if frame.signal == SIGTRAP => {
            regs.rflags &= !Regs::TRAP_FLAG;
            rewind(regs);
            Trap::Interrupt
        }
        (true, _) if in_stat_window(frame.cpu.rip) && matches!(frame.signal, SIGSEGV | SIGBUS) => {
            rewind(regs);
            Trap::Interrupt
        }
        (true, _) if frame.signal == SIGSYS => Trap::BadFrame(Kill::Filtered),
        (true, _) if epoll_window().contains(&frame.cpu.rip) => {
            // The event: the call itself reads it, and may fail.
            rewind_plain(regs, label::gate_fast_entry(), __NR_epoll_ctl);
            Trap::Interrupt
        }
        (true, _) => Trap::BadFrame(Kill::EntryWindow),
    }
}

fn synchronous(frame: &Frame, regs: &mut Regs) -> Trap {
    match frame.signal {
        SIGSYS => system_call(frame, regs),
        SIGSEGV if frame.cpu.trapno == TRAP_PAGE_FAULT => Trap::Fault(FaultInfo {
            addr: frame.cpu.cr2,
            code: frame.code,
            write: frame.cpu.err & 2 != 0,
            exec: frame.cpu.err & 16 != 0,
            trapno: frame.cpu.trapno as u32,
            ip: frame.cpu.rip,
        }),
        signal => Trap::Exception(Exception {
            signal: signal as i32,
            code: frame.code,
            addr: frame.addr,
            trapno: frame.cpu.trapno as u32,
            err: frame.cpu.err as u32,
        }),
    }
}

fn system_call(frame: &Frame, regs: &mut Regs) -> Trap {
    if frame.code == SYS_SECCOMP
        && let Some(nr) = vsyscall(frame.addr)
        && !image::text().contains(&frame.cpu.rip)
    {
        // The host has popped the return address: what is left is an ordinary call that returns there.
        regs.orig_rax = nr;
        return Trap::Syscall;
    }
    if frame.code != SYS_USER_DISPATCH || image::text().contains(&frame.cpu.rip) {
        return Trap::BadFrame(Kill::Filtered);
    }
    if frame.arch != AUDIT_ARCH_X86_64 {
        return Trap::BadFrame(Kill::Arch);
    }
    regs.orig_rax = regs.rax;
    Trap::Syscall
}

/// The system call that a call of the vsyscall page stands for: such calls bypass user dispatch, and the filter traps them
/// with the entry's address. Source: Linux's `vsyscall_64.c`.
fn vsyscall(addr: u64) -> Option<u64> {
    const PAGE_START: u64 = 0xffff_ffff_ff60_0000;
    let nr = match addr.checked_sub(PAGE_START)? {
        0 => __NR_gettimeofday,
        0x400 => __NR_time,
        0x800 => __NR_getcpu,
        _ => return None,
    };
    Some(nr.into())
}

/// Moves a thread interrupted in an entry window back to the window's start.
///
/// The fast entry has by then put registers on the entry page, which another thread may use before this one goes on,
/// so they are taken back from there; what the guest may have written instead is its own business.
fn rewind(regs: &mut Regs) {
    let ip = regs.rip;
    if (label::gate_signal_restart()..label::gate_signal_end()).contains(&ip) {
        regs.rip = label::gate_signal_restart();
    } else if (label::gate_fast_entry() + 1..label::gate_fast_end()).contains(&ip) {
        // SAFETY: the entry page is mapped in every slot for life.
        let saved = unsafe { (ENTRY_PAGE as *const EntrySave).read_volatile() };
        regs.rax = saved.rax;
        if ip >= label::gate_fast_restart() {
            regs.rcx = saved.rcx;
            regs.rdx = saved.rdx;
            regs.rsi = saved.rsi;
            regs.rdi = saved.rdi;
            regs.rsp = saved.rsp;
        }
        regs.rip = label::gate_fast_entry();
    } else if (label::gate_close_entry() + 1..label::gate_close_end()).contains(&ip) {
        rewind_plain(regs, label::gate_close_entry(), __NR_close);
    } else if (label::gate_fcntl_entry() + 1..label::gate_fcntl_end()).contains(&ip) {
        rewind_plain(regs, label::gate_fcntl_entry(), __NR_fcntl);
    } else if epoll_window().contains(&ip) {
        rewind_plain(regs, label::gate_epoll_entry(), __NR_epoll_ctl);
    } else if in_stat_window(ip) {
        rewind_stat(regs);
    }
}

/// Where epoll_ctl(2) is being noted.
fn epoll_window() -> Range<u64> {
    label::gate_epoll_entry() + 1..label::gate_epoll_end()
}

/// Where newfstatat(2) is being answered: at bad addresses of the guest's that faults.
fn in_stat_window(ip: u64) -> bool {
    (label::gate_stat_entry() + 1..label::gate_stat_end()).contains(&ip)
}

/// Makes what was being answered a call of the kernel.
fn rewind_stat(regs: &mut Regs) {
    const CARRIES: u64 = 0xd5;
    const OVERFLOW: u64 = 1 << 11;
    if regs.rip >= label::gate_stat_saved() {
        // SAFETY: the entry page is mapped in every slot for life.
        let saved = unsafe { ((ENTRY_PAGE + AHEAD_SAVED) as *const StatSave).read_volatile() };
        (regs.r8, regs.r9, regs.rdx) = (saved.r8, saved.r9, saved.rdx);
        let flags = ((saved.flags >> 8) & CARRIES) | ((saved.flags & 1) * OVERFLOW);
        regs.rflags = (regs.rflags & !(CARRIES | OVERFLOW)) | flags;
    }
    rewind_plain(regs, label::gate_fast_entry(), __NR_newfstatat);
}

/// The windows of calls that the gate answers keep the return address in r11.
fn rewind_plain(regs: &mut Regs, entry: u64, nr: u32) {
    regs.rax = nr.into();
    regs.rcx = regs.r11;
    regs.rip = entry;
}

fn in_exit_window(ip: u64) -> bool {
    (label::gate_exit_start()..label::gate_exit_end()).contains(&ip)
        || (label::gate_fast_window()..label::gate_fast_window_end()).contains(&ip)
        || (label::gate_slow_window()..label::gate_slow_window_end()).contains(&ip)
}

fn guest_regs(cpu: &SigContext) -> Regs {
    let mut regs = Regs {
        r15: cpu.r15,
        r14: cpu.r14,
        r13: cpu.r13,
        r12: cpu.r12,
        rbp: cpu.rbp,
        rbx: cpu.rbx,
        r11: cpu.r11,
        r10: cpu.r10,
        r9: cpu.r9,
        r8: cpu.r8,
        rax: cpu.rax,
        rcx: cpu.rcx,
        rdx: cpu.rdx,
        rsi: cpu.rsi,
        rdi: cpu.rdi,
        orig_rax: Regs::NO_SYSCALL,
        rip: cpu.rip,
        cs: 0,
        rflags: cpu.eflags,
        rsp: cpu.rsp,
        ss: 0,
    };
    regs.sanitize();
    regs
}

/// Whether `len` bytes at `at`, a multiple of `align`, lie in the signal stack.
fn in_signal_stack(at: u64, len: usize, align: u64) -> bool {
    at.is_multiple_of(align)
        && at >= SIGNAL_STACK
        && at.checked_add(len as u64).is_some_and(|end| end <= SIGNAL_STACK + SIGNAL_STACK_LEN)
}

fn copy_frame(signal: u32, info: u64, ucontext: u64) -> Option<Frame> {
    if !in_signal_stack(info, size_of::<KernelSigInfo>(), 8) || !in_signal_stack(ucontext, size_of::<UContext>(), 8) {
        return None;
    }
    // SAFETY: both lie in the slot's signal stack, always mapped, written by nobody while this slot is in kernel mode.
    let (info, cpu) = unsafe {
        let info = (info as *const KernelSigInfo).read_volatile();
        let mcontext = &raw const (*(ucontext as *const UContext)).mcontext;
        (info, mcontext.read_volatile())
    };
    let [addr, call, ..] = info.fields;
    Some(Frame { signal, code: info.code, addr, arch: (call >> 32) as u32, cpu })
}

fn copy_fpu(context: &UserContext, fpstate: u64) -> bool {
    let len = crate::fpu::len();
    if !in_signal_stack(fpstate, len, 64) {
        return false;
    }
    context.with_fpu_area(|area| {
        // SAFETY: in the slot's signal stack, as in `copy_frame`.
        let image = unsafe { core::slice::from_raw_parts(fpstate as *const u8, len) };
        area.take(image);
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(signal: u32, code: i32, rip: u64) -> Frame {
        let cpu = SigContext { rip, cs: 0x33, rax: 39, eflags: 0x346, ..SigContext::default() };
        Frame { signal, code, addr: 0, arch: AUDIT_ARCH_X86_64, cpu }
    }

    fn run(frame: &Frame) -> (Trap, Regs) {
        let mut regs = guest_regs(&frame.cpu);
        let trap = classify(frame, class(frame.signal), &mut regs);
        (trap, regs)
    }

    #[test]
    fn a_dispatched_call_is_a_system_call() {
        let (trap, regs) = run(&frame(SIGSYS, SYS_USER_DISPATCH, 0x40_1000));
        assert_eq!(trap, Trap::Syscall);
        assert_eq!(regs.orig_rax, 39);
    }

    #[test]
    fn calls_by_seccomp_other_arch_or_other_segment_kill() {
        assert_eq!(run(&frame(SIGSYS, 1, 0x40_1000)).0, Trap::BadFrame(Kill::Filtered));
        let mut compat = frame(SIGSYS, SYS_USER_DISPATCH, 0x40_1000);
        compat.arch = 0x4000_0003;
        assert_eq!(run(&compat).0, Trap::BadFrame(Kill::Arch));
        compat.cpu.cs = 0x23;
        assert_eq!(run(&compat).0, Trap::BadFrame(Kill::Segment));
        assert_eq!(run(&frame(SIGSYS, 2, label::gate_fast_unlocked())).0, Trap::BadFrame(Kill::Filtered));
    }

    #[test]
    fn a_call_of_the_vsyscall_page_is_a_system_call() {
        for (offset, nr) in [(0, __NR_gettimeofday), (0x400, __NR_time), (0x800, __NR_getcpu)] {
            let call = Frame { addr: 0xffff_ffff_ff60_0000 + offset, ..frame(SIGSYS, SYS_SECCOMP, 0x40_1000) };
            let (trap, regs) = run(&call);
            assert_eq!((trap, regs.orig_rax), (Trap::Syscall, nr.into()));
        }
        let inside = Frame { addr: 0xffff_ffff_ff60_0001, ..frame(SIGSYS, SYS_SECCOMP, 0x40_1000) };
        assert_eq!(run(&inside).0, Trap::BadFrame(Kill::Filtered));
    }

    #[test]
    fn synchronous_signals_that_somebody_sent_kill() {
        assert_eq!(run(&frame(SIGSEGV, 0, 0x40_1000)).0, Trap::BadFrame(Kill::External));
        assert_eq!(run(&frame(SIGSEGV, -6, 0x40_1000)).0, Trap::BadFrame(Kill::External));
    }

    #[test]
    fn an_interrupt_rewinds_the_signal_window() {
        let (trap, regs) = run(&frame(SIGUSR1, -6, label::gate_signal_unlocked()));
        assert_eq!(trap, Trap::Interrupt);
        assert_eq!(regs.rip, label::gate_signal_restart());
    }

    #[test]
    fn an_interrupt_rewinds_the_windows_of_answered_calls() {
        for (entry, end, nr) in [
            (label::gate_close_entry(), label::gate_close_end(), __NR_close),
            (label::gate_fcntl_entry(), label::gate_fcntl_end(), __NR_fcntl),
            (label::gate_epoll_entry(), label::gate_epoll_end(), __NR_epoll_ctl),
        ] {
            let mut inside = frame(SIGALRM, 0, end - 1);
            (inside.cpu.rcx, inside.cpu.r11, inside.cpu.rax) = (1, 0x40_1002, 2);
            let (trap, regs) = run(&inside);
            assert_eq!((trap, regs.rip, regs.rcx, regs.rax), (Trap::Interrupt, entry, 0x40_1002, nr.into()));
            let (_, regs) = run(&frame(SIGALRM, 0, end));
            assert_eq!(regs.rip, end, "a close that is noted is not begun again");
            let (_, regs) = run(&frame(SIGALRM, 0, entry));
            assert_eq!((regs.rip, regs.rax), (entry, 39));
        }
    }

    #[test]
    fn an_event_that_cannot_be_read_makes_epoll_ctl_enter() {
        for signal in [SIGSEGV, SIGBUS] {
            let mut inside = frame(signal, 1, label::gate_epoll_end() - 1);
            (inside.cpu.rcx, inside.cpu.r11, inside.cpu.rax) = (1, 0x40_1002, 2);
            let (trap, regs) = run(&inside);
            let entered = (label::gate_fast_entry(), 0x40_1002, u64::from(__NR_epoll_ctl));
            assert_eq!((trap, (regs.rip, regs.rcx, regs.rax)), (Trap::Interrupt, entered));
            assert_eq!(run(&frame(signal, 1, label::gate_close_end() - 1)).0, Trap::BadFrame(Kill::EntryWindow));
            assert_eq!(run(&frame(signal, 0, label::gate_epoll_end() - 1)).0, Trap::BadFrame(Kill::External));
        }
    }

    #[test]
    fn whatever_interrupts_an_answer_makes_it_a_call() {
        let before_saved = label::gate_stat_saved() - 1;
        for (signal, code) in [(SIGALRM, 0), (SIGSEGV, 1), (SIGBUS, 1)] {
            let mut inside = frame(signal, code, before_saved);
            (inside.cpu.rcx, inside.cpu.r11, inside.cpu.rax, inside.cpu.r8) = (1, 0x40_1002, 2, 8);
            let (trap, regs) = run(&inside);
            assert_eq!((trap, regs.rip), (Trap::Interrupt, label::gate_fast_entry()));
            assert_eq!((regs.rcx, regs.rax, regs.r8), (0x40_1002, __NR_newfstatat.into(), 8));
        }
        assert_eq!(run(&frame(SIGALRM, 0, label::gate_stat_entry())).1.rip, label::gate_stat_entry());
        let sent = frame(SIGSEGV, 0, before_saved);
        assert_eq!(run(&sent).0, Trap::BadFrame(Kill::External));
    }

    #[test]
    fn a_fault_in_an_entry_window_kills_and_a_step_clears_the_trap_flag() {
        assert_eq!(run(&frame(SIGSEGV, 1, label::gate_signal_unlocked())).0, Trap::BadFrame(Kill::EntryWindow));
        let (trap, regs) = run(&frame(SIGTRAP, 2, label::gate_signal_unlocked()));
        assert_eq!(trap, Trap::Interrupt);
        assert_eq!(regs.rflags & Regs::TRAP_FLAG, 0);
    }

    #[test]
    fn frames_outside_the_signal_stack_are_refused() {
        assert!(in_signal_stack(SIGNAL_STACK, 128, 8));
        assert!(!in_signal_stack(SIGNAL_STACK - 8, 128, 8));
        assert!(!in_signal_stack(SIGNAL_STACK + SIGNAL_STACK_LEN - 120, 128, 8));
        assert!(!in_signal_stack(SIGNAL_STACK + 4, 128, 8));
        assert!(!in_signal_stack(u64::MAX - 7, 128, 8));
    }
}
