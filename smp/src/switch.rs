//! Moving a virtual CPU from one kernel stack to another, and from one slot to another.
//!
//! Kernel stacks lie in KDATA at the same address in every slot, so a thread can go on in any slot that has its address
//! space. A switch saves the callee-saved registers and the stack pointer, then either loads the next thread's stack
//! pointer (same slot) or *teleports*: it moves to the slot's own park stack, wakes the target slot and sleeps. The park
//! stack comes first, because the target runs on the next thread's stack at once, and another virtual CPU may soon run
//! the previous thread on its.
//!
//! The caller then calls [`crate::thread::Thread::switched_out`] for the previous thread, from the next one's stack.

use crate::cpu;
use crate::slot::{self, Slot};
use crate::thread::{Thread, ThreadRef};
use alloc::sync::Arc;
use core::arch::naked_asm;
use core::sync::atomic::Ordering::*;

/// Instructions that save a context for [`resume`] on the current stack and its stack pointer where `rdi` points.
macro_rules! save_context {
    () => {
        "push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        mov [rdi], rsp"
    };
}
pub(crate) use save_context;

/// Switches the virtual CPU from the running thread `prev` to `next`; returns when somebody switches back.
///
/// No spinning lock is held. The caller keeps `prev`'s stack alive until `prev` has been switched out, and saw `next`
/// become Runnable, so that its context is saved. Another virtual CPU may be the one on which this returns.
pub fn switch_to(prev: &Thread, next: &Thread) {
    let hooks = slot::hooks();
    (hooks.save)();
    let sp = next.sp.load(Relaxed);
    let space = next.space.load(Relaxed);
    let target = slot::for_space(space);
    // SAFETY: `sp` is a context saved here or made by `prepare`; nobody else runs `next`, and its stack outlives it.
    unsafe {
        match target {
            None => switch_stack(prev.sp.as_ptr(), sp),
            Some(target) => {
                cpu::this().next_sp.store(sp, Relaxed);
                let park = slot::this().park_top();
                teleport(prev.sp.as_ptr(), park, target);
            }
        }
    }
}

/// As [`switch_to`], from a Dead thread, which never comes back: its stack keeps no reference to either.
///
/// The caller holds references elsewhere, which live until `prev` has been switched out.
pub fn switch_away(prev: ThreadRef, next: ThreadRef) -> ! {
    debug_assert!(Arc::strong_count(&prev) > 1 && Arc::strong_count(&next) > 1);
    let (prev_at, next_at) = (Arc::as_ptr(&prev), Arc::as_ptr(&next));
    drop((prev, next));
    // SAFETY: the caller's references keep both alive until the next stack has taken over.
    unsafe { switch_to(&*prev_at, &*next_at) };
    unreachable!("a dead thread was switched to")
}

/// Moves the running thread to a slot of the address space `space` (execve, a kernel thread that adopts a space).
///
/// The thread's `space` field is set, and the slot that it leaves keeps its binding unless that was retired.
pub fn move_to_space(thread: &Thread, space: u64) {
    thread.space.store(space, Relaxed);
    (slot::hooks().save)();
    if let Some(target) = slot::for_space(space) {
        let park = slot::this().park_top();
        // SAFETY: as in `switch_to`; `go_back` stores this very context's stack pointer as the next one.
        unsafe { teleport_self(thread.sp.as_ptr(), park, target) };
    }
}

/// Prepares a new thread's stack so that the first switch to it calls `entry(arg)`; returns the stack pointer for
/// [`Thread::sp`].
///
/// # Safety
/// `stack_top` is 16-byte aligned and ends at least 64 writable bytes of memory that only this thread will use.
pub unsafe fn prepare(stack_top: u64, entry: extern "C" fn(u64) -> !, arg: u64) -> u64 {
    let frame = [0, 0, 0, entry as usize as u64, 0, arg, first_run as *const () as u64];
    let sp = stack_top - 16 - size_of_val(&frame) as u64;
    // SAFETY: the caller vouches for the memory.
    unsafe { (sp as *mut [u64; 7]).write(frame) };
    sp
}

/// Goes on at a saved context, leaving the current stack for good.
///
/// # Safety
/// `sp` is a saved context that nobody else resumes.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn resume(sp: u64) -> ! {
    naked_asm!("mov rsp, rdi", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx", "ret",)
}

/// First instructions of a new thread: `r12` = entry, `rbx` = argument (see [`prepare`]).
#[unsafe(naked)]
unsafe extern "C" fn first_run() {
    naked_asm!("xor ebp, ebp", "mov rdi, rbx", "call r12", "ud2")
}

#[unsafe(naked)]
unsafe extern "C" fn switch_stack(save: *mut u64, next: u64) {
    naked_asm!(
        save_context!(),
        "mov rdi, rsi",
        "jmp {resume}",
        resume = sym resume,
    )
}

/// Saves the context, leaves the kernel stack for `park`, and hands the virtual CPU to `target`.
#[unsafe(naked)]
unsafe extern "C" fn teleport(save: *mut u64, park: u64, target: &'static Slot) {
    naked_asm!(
        save_context!(),
        "mov rsp, rsi",
        "xor ebp, ebp",
        "mov rdi, rdx",
        "call {hand_over}",
        "mov rdi, rax",
        "jmp {resume}",
        hand_over = sym slot::hand_over,
        resume = sym resume,
    )
}

/// The same for a thread that goes on itself, in `target`.
#[unsafe(naked)]
unsafe extern "C" fn teleport_self(save: *mut u64, park: u64, target: &'static Slot) {
    naked_asm!(
        save_context!(),
        "mov rcx, rsp",
        "mov rsp, rsi",
        "xor ebp, ebp",
        "mov rdi, rdx",
        "mov rsi, rcx",
        "call {hand_over_at}",
        "mov rdi, rax",
        "jmp {resume}",
        hand_over_at = sym slot::hand_over_at,
        resume = sym resume,
    )
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::sync::atomic::AtomicU64;

    static BACK: AtomicU64 = AtomicU64::new(0);
    static SEEN: AtomicU64 = AtomicU64::new(0);

    extern "C" fn body(arg: u64) -> ! {
        SEEN.store(arg, Relaxed);
        // SAFETY: the test saved its context there and waits for us.
        unsafe { resume(BACK.load(Relaxed)) }
    }

    #[test]
    fn a_prepared_stack_runs_its_entry_and_switches_back() {
        let mut stack = std::vec![0_u128; 4096];
        let top = stack.as_mut_ptr_range().end as u64;
        // SAFETY: the stack is ours, aligned to 16, and `body` comes back before it is dropped.
        unsafe {
            let sp = prepare(top, body, 42);
            switch_stack(BACK.as_ptr(), sp);
        }
        assert_eq!(SEEN.load(Relaxed), 42);
    }
}
