//! "Not now" for interrupt work.
//!
//! Signals that hit kernel code are only noted; what they stand for is done at the exit to the guest, in the idle loop
//! and in `schedule()`. An [`IrqGuard`] says that none of these places may run interrupt work on this virtual CPU until it is
//! dropped. It is a count in memory and costs no host call.

use super::rank::cpu_held;
use core::marker::PhantomData;
use core::sync::atomic::{Ordering::Relaxed, compiler_fence};

/// While it lives, interrupt work does not run on this virtual CPU. Stays on its CPU: the holder may not block.
#[derive(Debug)]
#[must_use]
pub struct IrqGuard(PhantomData<*mut ()>);

impl IrqGuard {
    /// Holds interrupt work off.
    #[inline]
    pub fn new() -> Self {
        if let Some(cpu) = cpu_held() {
            cpu.irq_off.store(cpu.irq_off.load(Relaxed) + 1, Relaxed);
        }
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        Self(PhantomData)
    }

    /// Whether interrupt work is held off on this virtual CPU.
    pub fn active() -> bool {
        cpu_held().is_some_and(|cpu| cpu.irq_off.load(Relaxed) != 0)
    }
}

impl Default for IrqGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for IrqGuard {
    #[inline]
    fn drop(&mut self) {
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        if let Some(cpu) = cpu_held() {
            cpu.irq_off.store(cpu.irq_off.load(Relaxed) - 1, Relaxed);
        }
    }
}
