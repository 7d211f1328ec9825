//! A guest thread's registers, and the call that runs it.

use crate::asm::{Kind, gate_go_on, gate_leave, gate_save_extended};
use crate::block::{in_slot, try_this};
use crate::fpu::{self, FpuArea};
use crate::sites::{CallSites, HotSite};
use crate::{Exception, Kill, Regs, Result, SlotBlock, Trap, signal};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::*};
use umbel_abi::linux::uapi;
use umbel_abi::machine::layout::{ENTRY_PAGE, PAGE, SIGNAL_STACK, SIGNAL_STACK_LEN};

/// Everything of a guest thread that the CPU holds while it runs: general registers, FPU, fs and gs bases.
///
/// Lives in hot KDATA at a fixed address (inside the task). Offsets are known to `gate.s`.
///
/// # Invariants
/// Touched only by the thread it belongs to, or before that thread runs for the first time, or while it is blocked
/// and its state was saved by [`save_before_switch`]. `borrowed` catches breaches. What the CPU of a slot still holds
/// of it is said by that slot's `live` (FPU) and `bases` (fs, gs).
#[repr(C)]
pub struct UserContext {
    regs: UnsafeCell<Regs>,
    fpu_ptr: u64,
    bases: UnsafeCell<Bases>,
    fpu: UnsafeCell<FpuArea>,
    borrowed: AtomicBool,
    sites: CallSites,
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
    pub(crate) const FPU_OFFSET: usize = core::mem::offset_of!(UserContext, fpu_ptr);

    /// A context with zero registers and the FPU state after reset.
    pub fn try_new() -> Result<UserContext> {
        let fpu = FpuArea::try_new()?;
        Ok(UserContext {
            regs: UnsafeCell::new(Regs::start(0, 0)),
            fpu_ptr: fpu.as_ptr() as u64,
            bases: UnsafeCell::new(Bases::default()),
            fpu: UnsafeCell::new(fpu),
            borrowed: AtomicBool::new(false),
            sites: CallSites::new(),
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
        assert!(!self.borrowed.swap(true, Acquire), "registers in use");
        // SAFETY: `borrowed` admits one caller at a time, and the thread is not in guest mode.
        let result = f(unsafe { &mut *self.regs.get() });
        self.borrowed.store(false, Release);
        result
    }

    /// fs and gs bases.
    pub fn bases(&self) -> Bases {
        if try_this().is_some_and(|block| block.bases.load(Relaxed) == self.address()) {
            return read_bases();
        }
        // SAFETY: see the type's invariants.
        unsafe { *self.bases.get() }
    }

    /// Sets fs and gs bases (`arch_prctl`, `CLONE_SETTLS`). A base that is not canonical becomes 0.
    pub fn set_bases(&self, bases: Bases) {
        let bases = Bases { fs: canonical(bases.fs), gs: canonical(bases.gs) };
        // SAFETY: see the type's invariants.
        unsafe { *self.bases.get() = bases };
        if let Some(block) = try_this() {
            // The next exit loads them.
            let _ = block.bases.compare_exchange(self.address(), 0, Relaxed, Relaxed);
        }
    }

    /// Shows the FPU image (XSAVE standard format, [`crate::fpu::len`] bytes), for a signal frame.
    pub fn with_fpu_image<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        if let Some(block) = try_this()
            && block.live.load(Relaxed) == self.address()
        {
            save_live(block);
        }
        // SAFETY: see the type's invariants.
        f(unsafe { (*self.fpu.get()).bytes() })
    }

    /// Replaces the FPU state by an image of any origin and length; what the CPU would refuse is masked away.
    pub fn load_fpu_image(&self, image: &[u8]) {
        if let Some(block) = try_this() {
            let _ = block.live.compare_exchange(self.address(), 0, Relaxed, Relaxed);
        }
        // SAFETY: see the type's invariants.
        unsafe { (*self.fpu.get()).load(image) };
    }

    /// Whether the system call at hand came through a patched call site. Right after [`enter_user`].
    pub fn came_by_patch(&self) -> bool {
        try_this().is_some_and(|block| block.live.load(Relaxed) == self.address())
    }

    /// The site of the system call at hand, if this is its first trap or it has trapped often enough to be patched. Once.
    pub fn take_hot_site(&self) -> Option<HotSite> {
        self.sites.take_hot()
    }

    pub(crate) fn count_call(&self, back: u64) {
        self.sites.count(back);
    }

    /// Runs `f` on the saved FPU state of the thread that just left guest mode in this slot.
    pub(crate) fn with_fpu_area(&self, f: impl FnOnce(&mut FpuArea)) {
        // SAFETY: see the type's invariants.
        f(unsafe { &mut *self.fpu.get() });
    }

    fn address(&self) -> u64 {
        self as *const UserContext as u64
    }
}

impl Drop for UserContext {
    fn drop(&mut self) {
        if let Some(block) = try_this() {
            let _ = block.live.compare_exchange(self.address(), 0, Relaxed, Relaxed);
            let _ = block.bases.compare_exchange(self.address(), 0, Relaxed, Relaxed);
        }
    }
}

/// Runs the guest thread `context` in the current slot until its next trap.
///
/// Call from the thread's own kernel stack, in a slot that has its address space, holding no lock. Behaves as a
/// function call. Returns [`Trap::Interrupt`] at once when an interrupt, a cross-call or an update of the address
/// space is waiting; the caller must serve the mailbox and the log, or it never leaves.
pub fn enter_user(context: &UserContext) -> Trap {
    let block = SlotBlock::this();
    if block.pending.load(Relaxed) != 0 {
        block.pending.store(0, Relaxed);
        return Trap::Interrupt;
    }
    let (rip, flags) = context.update(|regs| {
        regs.sanitize();
        (regs.rip, regs.rflags)
    });
    if rip >> 47 != 0 {
        return bad_return_address();
    }
    load_bases(block, context);
    umbel_mm::view::enter_guest();
    block.watch_log();
    scrub_signal_stack(block);
    let live = block.live.load(Relaxed) == context.address();
    let slow = !live || block.slow.load(Relaxed) != 0 || flags & Regs::TRAP_FLAG != 0;
    if slow {
        save_live(block);
    }
    if block.cold.load(Relaxed) != 0 {
        crate::cold::lock(block);
    }
    crate::thin::leaving(block);
    // SAFETY: `context` and `block` are in KDATA and stay; the context's registers are those of a guest.
    let kind = unsafe { gate_leave(context.address(), block as *const SlotBlock as u64, u32::from(slow), fpu::mask()) };
    match Kind::from_raw(kind) {
        Kind::Fast => {
            crate::cold::entered(block);
            Trap::Syscall
        }
        Kind::Signal => signal::judge(context, block),
        Kind::Stay => {
            block.pending.store(0, Relaxed);
            Trap::Interrupt
        }
        Kind::BadFpu => {
            context.load_fpu_image(&[]);
            Trap::BadFrame(Kill::Fpu)
        }
        Kind::SlotDied => Trap::SlotDied,
    }
}

/// Saves what the CPU still holds of the guest thread last run in this slot: FPU state, fs and gs bases.
///
/// Every switch to another kernel stack and every move to another slot calls it first. Cheap if there is nothing.
pub fn save_before_switch() {
    let Some(block) = try_this() else { return };
    let owner = block.bases.swap(0, Relaxed) as *const UserContext;
    if !owner.is_null() {
        // SAFETY: `bases` names a live context whose thread runs in this slot: nobody else touches it.
        unsafe { *(*owner).bases.get() = read_bases() };
    }
    save_live(block);
}

/// Wipes what a guest process left in the slot outside its own mappings, before another one uses it.
pub fn clear_residue() {
    let block = SlotBlock::this();
    save_before_switch();
    block.scrub.store(0, Relaxed);
    // SAFETY: both are mapped for life and hold nothing that the kernel still needs: frames are copied before they are
    // judged, and the exit fills the entry page anew.
    unsafe {
        core::ptr::write_bytes(ENTRY_PAGE as *mut u8, 0, PAGE as usize);
        core::ptr::write_bytes(SIGNAL_STACK as *mut u8, 0, SIGNAL_STACK_LEN as usize);
        asm!("mov ds, {0:e}", "mov es, {0:e}", in(reg) 0, options(nomem, nostack, preserves_flags));
    }
}

/// In a fresh slot: goes on where the one that the host killed in guest mode had left the kernel. That stay in guest mode
/// ends with [`Trap::SlotDied`].
pub fn resume_dead() -> ! {
    let ksp = SlotBlock::this().ksp.load(Relaxed);
    // SAFETY: the kernel context that waits in `gate_leave` at `ksp` is nobody else's: its slot is dead.
    unsafe { gate_go_on(ksp, Kind::SlotDied as u32) }
}

/// Moves the extended state that the registers hold into its owner's area. Low halves are there already.
fn save_live(block: &SlotBlock) {
    let owner = block.live.swap(0, Relaxed) as *mut UserContext;
    if owner.is_null() {
        return;
    }
    // SAFETY: `live` names a live context whose thread runs in this slot: nobody else touches it.
    let area = unsafe { &mut *(*owner).fpu.get() };
    area.keeping_sse(|raw, mask| {
        // SAFETY: the area is aligned and large enough for the components of `mask`; kernel code leaves them alone.
        unsafe { gate_save_extended(raw, mask) }
    });
}

fn load_bases(block: &SlotBlock, context: &UserContext) {
    if block.bases.load(Relaxed) == context.address() || !in_slot() {
        return;
    }
    // SAFETY: see the type's invariants; both are canonical.
    unsafe {
        let bases = *context.bases.get();
        asm!("wrfsbase {}", in(reg) bases.fs, options(nomem, nostack, preserves_flags));
        asm!("wrgsbase {}", in(reg) bases.gs, options(nomem, nostack, preserves_flags));
    }
    block.bases.store(context.address(), Relaxed);
}

fn read_bases() -> Bases {
    let (fs, gs);
    // SAFETY: reads two registers; the host offers FSGSBASE (`umbel check`).
    unsafe {
        asm!("rdfsbase {}", out(reg) fs, options(nomem, nostack, preserves_flags));
        asm!("rdgsbase {}", out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    Bases { fs, gs }
}

/// Wipes what nested signals left of kernel registers on the signal stack.
fn scrub_signal_stack(block: &SlotBlock) {
    let low = block.scrub.load(Relaxed);
    if low == 0 {
        return;
    }
    block.scrub.store(0, Relaxed);
    let len = block.stack.sp + block.stack.size - low;
    // SAFETY: `scrub` is an address in this slot's signal stack, which nothing uses while the kernel runs unsignalled.
    unsafe { core::ptr::write_bytes(low as *mut u8, 0, len as usize) };
}

fn canonical(base: u64) -> u64 {
    if ((base as i64) << 16) >> 16 == base as i64 { base } else { 0 }
}

/// What the CPU would answer to a return to a non-canonical address: a general protection fault.
fn bad_return_address() -> Trap {
    Trap::Exception(Exception {
        signal: uapi::SIGSEGV as i32,
        code: signal::SI_KERNEL,
        addr: 0,
        trapno: signal::TRAP_GENERAL_PROTECTION,
        err: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn only_canonical_bases_reach_the_cpu() {
        assert_eq!(canonical(0x7fff_ffff_ffff), 0x7fff_ffff_ffff);
        assert_eq!(canonical(0xffff_8000_0000_0000), 0xffff_8000_0000_0000);
        assert_eq!(canonical(0x8000_0000_0000), 0);
        assert_eq!(canonical(0x8000_0000_0000_0000), 0);
    }
}
