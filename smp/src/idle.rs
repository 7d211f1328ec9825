//! Sleeping at the doorbell so that the death of the slot costs nothing.
//!
//! A virtual CPU that sleeps has its whole context in KDATA: what the CPU held of the guest thread is saved, and so are the
//! callee-saved registers and the stack pointer, before the state says [`VcpuState::Idle`] or `Offline`. If the host kills
//! the slot while the state says so, its parent lets a fresh one return from the sleep ([`crate::zygote`]); the caller finds out by
//! itself whether it was woken for something, as after any sleep.
//!
//! Between the saved context and the end of the sleep nothing may be done that cannot be left undone or done twice.
//! Used by the scheduler. Model: `loom-tests/tests/teleport.rs`.

use crate::switch::{self, save_context};
use crate::{cpu, ipi, slot};
use core::arch::naked_asm;
use core::sync::atomic::Ordering::{Relaxed, Release};
use umbel_abi::machine::VcpuState;

/// Sleeps until the virtual CPU is rung or CLOCK_MONOTONIC reaches `deadline_ns`; not at all if a cause is pending or
/// `busy` says that there is work. May return early, and in a fresh host task of the same slot. Holds no lock.
pub fn sleep(deadline_ns: Option<u64>, mut busy: impl FnMut() -> bool) {
    (slot::hooks().save)();
    let mut nap = || ipi::line(cpu::this().shared()).idle(deadline_ns, &mut busy);
    sleep_resumably(&mut nap);
}

/// Runs `nap`, which sleeps at the doorbell and says so. May return early, in a fresh host task of the same slot.
pub(crate) fn rest(mut nap: impl FnMut()) {
    (slot::hooks().save)();
    sleep_resumably(&mut nap);
}

/// Sleeps while the virtual CPU is offline. As [`sleep`]: may return early.
pub fn sleep_offline() {
    rest(|| {
        let vcpu = cpu::this();
        vcpu.shared().state.store(VcpuState::Offline as u32, Release);
        vcpu.life.rest();
        vcpu.shared().state.store(VcpuState::Kernel as u32, Release);
    });
}

fn sleep_resumably<F: FnMut()>(nap: &mut F) {
    extern "C" fn call<F: FnMut()>(nap: &mut F) {
        nap();
    }
    // SAFETY: `call` takes what it is given, which outlives it; the word belongs to the running virtual CPU, which does not
    // change while it sleeps.
    unsafe { keep_context(cpu::this().idle_sp.as_ptr(), call::<F> as *const () as u64, nap as *mut F as u64) }
}

/// Stores a context that returns from here at `save`, then calls `function(arg)`.
#[unsafe(naked)]
unsafe extern "C" fn keep_context(save: *mut u64, function: u64, arg: u64) {
    naked_asm!(
        save_context!(),
        "sub rsp, 8",
        "mov rdi, rdx",
        "call rsi",
        "lea rdi, [rsp + 8]",
        "jmp {resume}",
        resume = sym switch::resume,
    )
}

/// By the parent, when a slot died whose virtual CPU slept: the fresh slot returns from the sleep.
pub(crate) fn wake_elsewhere(vcpu: &cpu::Vcpu) {
    vcpu.next_sp.store(vcpu.idle_sp.load(Relaxed), Relaxed);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn a_kept_context_can_be_gone_on_with_from_another_stack() {
        static SAVED: AtomicU64 = AtomicU64::new(0);
        static CALLS: AtomicU64 = AtomicU64::new(0);
        extern "C" fn leave(arg: u64) -> u64 {
            CALLS.fetch_add(arg, Relaxed);
            let sp = SAVED.load(Relaxed);
            // SAFETY: the context that `keep_context` stored below this very frame.
            unsafe { crate::switch::resume(sp) }
        }
        // SAFETY: `leave` takes one word.
        unsafe { keep_context(SAVED.as_ptr(), leave as *const () as u64, 7) };
        assert_eq!(CALLS.load(Relaxed), 7);
    }
}
