//! The gate's state of one slot.

use crate::{arm, cold, fpu, image, thin};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use umbel_abi::linux::StackT;
use umbel_abi::machine::layout::{SIGNAL_STACK, SIGNAL_STACK_LEN};
use umbel_abi::machine::{SlotPage, VcpuShared, layout};

/// `SS_AUTODISARM` of sigaltstack(2).
const SS_AUTODISARM: i32 = 1 << 31;

/// Per-slot gate state, in hot KDATA, pointed to by [`SlotPage::block`]. Offsets are known to `gate.s`.
///
/// # Invariants
/// Written only by the slot itself, except `park_word` (whoever hands over to the slot) and [`Self::bind`] before the
/// slot's host task exists. All pointers are KDATA addresses that outlive the slot.
#[repr(C, align(64))]
pub struct SlotBlock {
    /// 1 while kernel code runs. The mode: nothing else decides it. Offset 0.
    pub in_kernel: AtomicU32,
    /// An asynchronous signal hit kernel mode. Offset 4.
    pub pending: AtomicU32,
    /// Kernel stack pointer inside `enter_user`. Offset 8.
    pub(crate) ksp: AtomicU64,
    /// The `UserContext` whose guest code this slot runs. Offset 16.
    pub(crate) context: AtomicU64,
    /// Top of the interrupt stack (in KDATA). Offset 24.
    pub(crate) irq_sp: AtomicU64,
    /// The virtual CPU's [`VcpuShared`]. Offset 32.
    pub(crate) shared: AtomicU64,
    /// Address of the running space's update-log count; of `log_applied` itself if there is none. Offset 40.
    pub(crate) log_head: AtomicU64,
    /// The count that this slot has applied. Offset 48.
    pub(crate) log_applied: AtomicU64,
    /// The `UserContext` whose extended FPU state is in the registers, 0 if none. Offset 56.
    pub(crate) live: AtomicU64,
    /// [`Self::MASKED`] and [`Self::DISARMED`]: what the next exit, a slow one, has to undo. Offset 64.
    pub(crate) slow: AtomicU32,
    /// 1 = cold KDATA is open, or about to be: the exit must lock it first. Offset 68.
    pub(crate) cold: AtomicU32,
    /// Lowest address of kernel residue on the signal stack, 0 if none. Offset 72.
    pub(crate) scrub: AtomicU64,
    /// The signal stack as sigaltstack(2) takes it. Offset 80.
    pub(crate) stack: StackT,
    /// The empty signal set. Offset 104.
    pub(crate) empty_set: u64,
    /// The last signal entry's arguments: number, siginfo, ucontext. Untrusted. Offset 112.
    pub(crate) entry_args: [AtomicU64; 3],
    /// The `UserContext` whose fs and gs bases are in the registers, 0 if none. Offset 136.
    pub(crate) bases: AtomicU64,
    /// Top of the park stack (in KDATA). Offset 144.
    pub park_sp: AtomicU64,
    /// Futex word of a parked slot. Offset 152.
    pub park_word: AtomicU32,
    /// A [`umbel_abi::machine::SlotPhase`]. Offset 156.
    pub phase: AtomicU32,
    /// Host thread id of the slot.
    pub tid: AtomicU32,
    /// When cold KDATA is opened ahead of a fault.
    pub(crate) ahead: cold::Ahead,
    /// When the mappings of hot KDATA are dropped.
    pub(crate) thin: thin::Thin,
}

impl SlotBlock {
    /// Asynchronous signals may be masked.
    pub(crate) const MASKED: u32 = 1;
    /// The signal stack may be disarmed: a signal ended the last stay in guest mode.
    pub(crate) const DISARMED: u32 = 2;

    /// A block for a slot that does not run yet.
    pub const fn new() -> SlotBlock {
        SlotBlock {
            in_kernel: AtomicU32::new(1),
            pending: AtomicU32::new(0),
            ksp: AtomicU64::new(0),
            context: AtomicU64::new(0),
            irq_sp: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            log_head: AtomicU64::new(0),
            log_applied: AtomicU64::new(0),
            live: AtomicU64::new(0),
            slow: AtomicU32::new(SlotBlock::MASKED | SlotBlock::DISARMED),
            cold: AtomicU32::new(0),
            scrub: AtomicU64::new(0),
            stack: StackT { sp: SIGNAL_STACK, flags: SS_AUTODISARM, pad: 0, size: SIGNAL_STACK_LEN },
            empty_set: 0,
            entry_args: [const { AtomicU64::new(0) }; 3],
            bases: AtomicU64::new(0),
            park_sp: AtomicU64::new(0),
            park_word: AtomicU32::new(0),
            phase: AtomicU32::new(0),
            tid: AtomicU32::new(0),
            ahead: cold::Ahead::new(),
            thin: thin::Thin::new(),
        }
    }

    /// Makes the block of a slot of the virtual CPU `shared` whose host task does not exist yet, or died. `irq_sp` and
    /// `park_sp` are stack tops in KDATA, 16-byte aligned, used by this slot alone.
    ///
    /// # Safety
    /// `at` points to aligned memory with room for a block, zero or a block, that only this slot uses and that stays.
    pub unsafe fn prepare(at: *mut SlotBlock, shared: &'static VcpuShared, irq_sp: u64, park_sp: u64) {
        // SAFETY: by the contract.
        unsafe {
            // A slot that takes over from a dead one goes on there.
            let ksp = (*at).ksp.load(Relaxed);
            at.write(SlotBlock::new());
            (*at).ksp.store(ksp, Relaxed);
            (*at).bind(shared, irq_sp, park_sp);
        }
    }

    fn bind(&self, shared: &'static VcpuShared, irq_sp: u64, park_sp: u64) {
        self.irq_sp.store(irq_sp, Relaxed);
        self.park_sp.store(park_sp, Relaxed);
        self.shared.store(shared as *const VcpuShared as u64, Relaxed);
        self.watch_nothing();
    }

    /// Makes the exit watch the update log of the space that the slot is bound to: it does not leave while the log's count
    /// differs from the slot's.
    pub(crate) fn watch_log(&self) {
        match umbel_mm::view::watched() {
            Some((head, applied)) => {
                self.log_applied.store(applied, Relaxed);
                self.log_head.store(head as u64, Relaxed);
            }
            None => self.watch_nothing(),
        }
    }

    fn watch_nothing(&self) {
        self.log_applied.store(0, Relaxed);
        self.log_head.store(&raw const self.log_applied as u64, Relaxed);
    }

    /// The next exit of this slot must unmask signals. Call after masking them.
    pub fn demand_slow_exit(&self) {
        self.slow.fetch_or(SlotBlock::MASKED, Relaxed);
    }

    /// The block of the running slot.
    ///
    /// Only in kernel mode in a slot (in the image after `SLOT_PAGE` is mapped).
    pub fn this() -> &'static SlotBlock {
        let page = layout::SLOT_PAGE as *const SlotPage;
        // SAFETY: every slot maps its page there for life; `block` points to a SlotBlock in KDATA that outlives it. Volatile,
        // because the caller may have been moved to another slot since the last read.
        unsafe { &*((&raw const (*page).block).read_volatile() as *const SlotBlock) }
    }
}

/// Whether this is the kernel image in a slot, not a unit test on the host.
static IN_SLOT: AtomicBool = AtomicBool::new(false);

/// Reads what the gate needs from the boot information. Once, in the image, when the heap works and before the
/// first slot is armed.
pub fn init() {
    let boot = &image::control().boot;
    fpu::init(boot.xsave_mask, boot.xsave_len);
    arm::init();
    IN_SLOT.store(true, Relaxed);
}

pub(crate) fn in_slot() -> bool {
    IN_SLOT.load(Relaxed)
}

/// The block of the running slot, `None` in unit tests on the host.
pub(crate) fn try_this() -> Option<&'static SlotBlock> {
    in_slot().then(SlotBlock::this)
}

impl Default for SlotBlock {
    fn default() -> Self {
        SlotBlock::new()
    }
}

macro_rules! offsets {
    ($($field:ident = $offset:literal),* $(,)?) => {
        $(const _: () = assert!(core::mem::offset_of!(SlotBlock, $field) == $offset);)*
    };
}
offsets!(in_kernel = 0, pending = 4, ksp = 8, context = 16, irq_sp = 24, shared = 32, log_head = 40, log_applied = 48);
offsets!(live = 56, slow = 64, cold = 68, scrub = 72, stack = 80, empty_set = 104, entry_args = 112, bases = 136);
offsets!(park_sp = 144, park_word = 152, phase = 156);
const _: () = assert!(core::mem::offset_of!(SlotPage, self_ptr) == 8);
const _: () = assert!(core::mem::offset_of!(SlotPage, block) == 16);
const _: () = assert!(core::mem::offset_of!(VcpuShared, state) == 0);
const _: () = assert!(core::mem::offset_of!(VcpuShared, mailbox) == 8);
