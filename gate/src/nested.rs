//! A host signal that hit kernel code.
//!
//! Runs on the slot's interrupt stack with the host's asynchronous signals masked, then returns into the interrupted
//! code. Such a frame is the host's own: no guest code runs while `in_kernel` is 1.

use crate::signal::{Class, class, note};
use crate::{Regs, SlotBlock, fixup, panic};
use core::sync::atomic::Ordering::Relaxed;
use umbel_abi::linux::uapi::{SIGBUS, SIGSEGV, SIGSYS, SIGTRAP, SIGUSR2};
use umbel_abi::linux::{KernelSigInfo, UContext};
use umbel_abi::machine::layout::{SIGNAL_STACK, SIGNAL_STACK_LEN};

/// Bytes that a frame may hold below its ucontext.
const BELOW_UCONTEXT: u64 = 64;

/// Called by the gate's signal entry when it finds `in_kernel` set.
#[unsafe(no_mangle)]
extern "C" fn gate_nested(signal: u32, info: *const KernelSigInfo, ucontext: *mut UContext) {
    let block = SlotBlock::this();
    // SAFETY: the host has just written both, for kernel mode.
    let (info, frame) = unsafe { (&*info, &mut *ucontext) };
    remember_residue(block, ucontext as u64);
    match class(signal) {
        Class::Asynchronous if signal == SIGUSR2 => panic::tell_where(frame.mcontext.rip, frame.mcontext.rbp),
        Class::Asynchronous => {
            block.pending.store(1, Relaxed);
            note(block, signal);
        }
        // Somebody's kill(2): ignored in kernel mode.
        Class::Synchronous if info.code <= 0 => {}
        Class::Synchronous => exception(signal, info, frame),
        Class::Unknown => {}
    }
}

/// The frame holds kernel registers: the signal stack must be wiped before guest code can read it.
fn remember_residue(block: &SlotBlock, ucontext: u64) {
    if (SIGNAL_STACK..SIGNAL_STACK + SIGNAL_STACK_LEN).contains(&ucontext) {
        let low = ucontext.saturating_sub(BELOW_UCONTEXT).max(SIGNAL_STACK);
        let seen = block.scrub.load(Relaxed);
        if seen == 0 || low < seen {
            block.scrub.store(low, Relaxed);
        }
    }
}

fn exception(signal: u32, info: &KernelSigInfo, frame: &mut UContext) {
    let ip = frame.mcontext.rip;
    if signal == SIGTRAP {
        // A guest's trap flag came along through the fast entry; its own copy is in r11.
        frame.mcontext.eflags &= !Regs::TRAP_FLAG;
        return;
    }
    if matches!(signal, SIGSEGV | SIGBUS) {
        // A copy may be between guest memory and locked KDATA: that first.
        if crate::cold::fault(SlotBlock::this(), info.fields[0]) {
            return;
        }
        if let Some(landing) = fixup::find(ip) {
            frame.mcontext.rip = landing;
            return;
        }
    }
    if signal == SIGSYS {
        let cpu = &frame.mcontext;
        let nr = info.fields[1] as u32;
        panic::fatal(format_args!("host call {nr} at {ip:#x} is not in the filter's whitelist"), ip, cpu.rbp);
    }
    panic::fatal_exception(signal, info.fields[0], &frame.mcontext);
}
