//! Slots: host tasks with address spaces of their own, each bound to one guest address space, or free.
//!
//! A slot is a virtual CPU's page-table-plus-TLB for one address space. Its parent ([`crate::zygote`]) forks the host
//! task; from then on it sleeps on its park word until the virtual CPU is handed to it ([`hand_over`]), runs kernel and
//! guest code, and hands on. Slots are never destroyed: a binding is given up by [`retire_space`] or taken from the least
//! recently used slot, and the slot empties itself when it is next woken.
//!
//! Used by [`crate::switch`], [`crate::placement`], `vm` (`retire_space`). The layers above give [`Hooks`].
//!
//! Bindings: `spaces` of [`Table`] is written by the virtual CPU itself, except bound → [`RETIRED`], which anybody may do
//! once no thread can run in the space any more. No locks.

use crate::cpu::{self, Vcpu};
use crate::handover::Park;
use crate::placement::Place;
use crate::vtime;
use alloc::alloc::{Layout, alloc_zeroed};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};
use umbel_abi::linux::Errno;
use umbel_abi::machine::{Mailbox, SlotPage, SlotPhase, layout};
use umbel_host::{futex, process, timer};

/// Most slots of a virtual CPU.
pub const SLOTS_PER_CPU: usize = 64;
/// Most slots of a machine with many virtual CPUs, and the fewest that each of them has all the same.
const SLOTS_TOTAL: u32 = 1024;
const SLOTS_FLOOR: u32 = 4;
/// The part of RAM that the memory of all slots may be: nobody is charged for it, and it is never given back.
const RAM_SHARE: u64 = 32;

/// How long after the host refused a slot it is asked again, ns.
const ASK_AGAIN_NS: u64 = 1_000_000_000;

/// Binding of a slot that runs no address space.
pub const FREE: u64 = 0;
/// Binding of a slot whose address space is gone: to be emptied.
pub const RETIRED: u64 = u64::MAX;

/// Bytes reserved for the gate's block of a slot.
pub const GATE_BLOCK_LEN: usize = 2048;
const STACK_LEN: usize = 8192;
/// How far our clock may be behind the host's when a timer fires.
const CLOCK_SLACK_NS: u64 = 100_000;

/// SIGALRM, SIGUSR1 and SIGIO as a signal set.
const ASYNCHRONOUS: u64 = 1 << 13 | 1 << 9 | 1 << 28;

/// What the layers above do for slots. Set once in the zygote, before the first slot.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Prepares the gate's block of a slot whose host task does not exist yet.
    pub prepare: fn(&'static Slot),
    /// In the new slot: arms it for guest code. An error is one line for the console.
    pub arm: fn(&'static Slot) -> Result<(), (&'static str, Errno)>,
    /// In the running slot, before a switch: saves what the CPU holds of the guest thread.
    pub save: fn(),
    /// In the running slot: signals are masked, the next exit to guest code must unmask them.
    pub masked: fn(),
    /// In the slot that runs: it is now bound to the space; `residue` says that it must be emptied first.
    pub enter_space: fn(&'static Slot, u64, Residue),
    /// The host's CLOCK_MONOTONIC, without a host call if possible.
    pub now_ns: fn() -> u64,
    /// Whether the slot was killed in guest mode (or in the windows beside it).
    pub in_guest: fn(&'static Slot) -> bool,
    /// In a fresh slot, on its park stack: goes on where the killed one was entered from, with "the slot died".
    pub resume_dead: fn() -> !,
}

/// What a slot that changes its binding has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residue {
    /// The host task is new: nothing is mapped.
    None,
    /// Mappings, frames and registers of another address space.
    Guest,
}

static HOOKS: AtomicPtr<Hooks> = AtomicPtr::new(core::ptr::null_mut());
static NEXT_INDEX: AtomicU32 = AtomicU32::new(0);

/// One slot.
#[repr(C, align(64))]
pub struct Slot {
    /// Address of its page in KDATA, and of the gate's block after it.
    page: u64,
    /// Address of its stacks.
    stacks: u64,
    /// Number among the slots of its virtual CPU.
    local: u32,
    cpu: u32,
    /// Rung when the virtual CPU may be this slot's.
    doorbell: Park,
    /// A [`SlotPhase`]; futex word.
    pub(crate) phase: AtomicU32,
    /// Host process (and thread) id, 0 if none.
    pub(crate) tid: AtomicI32,
    /// 1 = the parent shall fork the host task.
    pub(crate) wanted: AtomicU32,
    /// The slot must call `enter_space` before it goes on: 0 no, 1 nothing mapped, 2 residue.
    stale: AtomicU32,
    /// 1 = its predecessor was killed in guest mode.
    pub(crate) died: AtomicU32,
    /// [`Vcpu::turns`] when it last took over.
    pub(crate) used: AtomicU64,
    pub(crate) place: Place,
    timer: AtomicI32,
    /// Deadline that its timer is armed for, 0 = none.
    armed_ns: AtomicU64,
}

/// What a slot has in KDATA that each call touches.
#[repr(C, align(4096))]
pub(crate) struct SlotMemory {
    page: SlotPage,
    gate: [u8; GATE_BLOCK_LEN],
    slot: Slot,
    _pad: [u8; 4096 - GATE_BLOCK_LEN - size_of::<Slot>()],
}

/// What it has for signals in kernel mode and for switches.
#[repr(C, align(16))]
pub(crate) struct SlotStacks {
    irq: [u8; STACK_LEN],
    park: [u8; STACK_LEN],
}

/// Both, of a slot that is added alone.
#[repr(C)]
struct Whole {
    memory: SlotMemory,
    stacks: SlotStacks,
}

/// Sets the hooks. Once, in the zygote.
pub fn set_hooks(hooks: &'static Hooks) {
    HOOKS.store(hooks as *const Hooks as *mut Hooks, Release);
}

/// The hooks.
///
/// # Panics
/// Before [`set_hooks`]: nothing switches that early.
pub(crate) fn hooks() -> &'static Hooks {
    // SAFETY: `set_hooks` stores a reference that lives for ever.
    unsafe { HOOKS.load(Acquire).as_ref() }.expect("hooks are set in the zygote")
}

/// The running slot. In the image only.
pub fn this() -> &'static Slot {
    let page = layout::SLOT_PAGE as *const SlotPage;
    // SAFETY: every slot maps its page there; it is the head of a `SlotMemory` in KDATA that lives for ever.
    unsafe {
        let memory = (&raw const (*page).self_ptr).read_volatile() as *const SlotMemory;
        &(*memory).slot
    }
}

/// Gives up all bindings to an address space in which no thread will run again.
pub fn retire_space(space: u64) {
    for vcpu in cpu::all() {
        for binding in &vcpu.spaces {
            let _ = binding.compare_exchange(space, RETIRED, AcqRel, Relaxed);
        }
    }
}

/// The running thread leaves its address space and nobody else runs in it: the running slot is free for another one.
/// In the image only.
pub fn give_up() {
    let me = this();
    let binding = &me.vcpu().spaces[me.local as usize % SLOTS_PER_CPU];
    if binding.load(Relaxed) != FREE {
        binding.store(RETIRED, Release);
    }
}

/// Every slot bound to `space`: for shootdowns and statistics.
pub fn bound_to(space: u64) -> impl Iterator<Item = &'static Slot> {
    cpu::all().flat_map(|vcpu| vcpu.slots()).filter(move |slot| slot.space() == space)
}

/// Where the virtual CPU must go on to run `space`: `None` = in the slot that it is in.
///
/// Binds a slot if there is none, which may empty the running one; the caller has saved the guest state.
pub(crate) fn for_space(space: u64) -> Option<&'static Slot> {
    let vcpu = cpu::this();
    let me = this();
    if space == FREE || me.space() == space {
        return None;
    }
    if let Some(slot) = vcpu.slots().find(|slot| slot.space() == space) {
        return Some(slot);
    }
    if matches!(me.space(), FREE | RETIRED) {
        me.bind(space);
        me.settle();
        return None;
    }
    let slot = vacant(vcpu).unwrap_or_else(|| least_recently_used(vcpu, me));
    slot.bind(space);
    if slot.local == me.local {
        me.settle();
        return None;
    }
    Some(slot)
}

/// A parked slot without an address space, made if there may be one more.
fn vacant(vcpu: &'static Vcpu) -> Option<&'static Slot> {
    // A model takes the same one always, and waits for it if need be.
    let parked = |slot: &&Slot| vtime::is_model() || slot.phase.load(Acquire) == SlotPhase::Parked as u32;
    let with = |space: u64| vcpu.slots().filter(parked).find(|slot| slot.space() == space);
    if let Some(slot) = with(FREE) {
        if !slot.wait_until_parked() {
            return None;
        }
        // Keep one in reserve; its parent makes it while we go on.
        if with_more_free(vcpu, slot) {
            return Some(slot);
        }
        if let Some(reserve) = add(vcpu) {
            reserve.request();
        }
        return Some(slot);
    }
    if let Some(slot) = with(RETIRED) {
        return Some(slot);
    }
    let slot = refused(vcpu)?.or_else(|| add(vcpu))?;
    slot.request();
    slot.wait_until_parked().then_some(slot)
}

/// A slot that the host refused and that may be asked for again; `None` if it is too early for that.
#[expect(clippy::option_option, reason = "nothing refused, or nothing to be asked for")]
fn refused(vcpu: &'static Vcpu) -> Option<Option<&'static Slot>> {
    let Some(slot) = vcpu.slots().find(|slot| slot.phase.load(Acquire) == SlotPhase::Refused as u32) else {
        return Some(None);
    };
    let now_ns = (hooks().now_ns)();
    if now_ns < vcpu.ask_again_ns.load(Relaxed) {
        return None;
    }
    vcpu.ask_again_ns.store(now_ns + ASK_AGAIN_NS, Relaxed);
    Some(Some(slot))
}

fn with_more_free(vcpu: &Vcpu, taken: &Slot) -> bool {
    vcpu.slots().any(|slot| slot.local != taken.local && matches!(slot.space(), FREE | RETIRED))
}

fn least_recently_used(vcpu: &'static Vcpu, me: &'static Slot) -> &'static Slot {
    let there = |slot: &&Slot| slot.local != me.local && slot.phase.load(Acquire) == SlotPhase::Parked as u32;
    vcpu.slots().filter(there).min_by_key(|slot| slot.used.load(Relaxed)).unwrap_or(me)
}

/// Slots of each of `cpus` virtual CPUs, where the host leaves room for `allowed` in all.
fn share(allowed: u32, ram_pages: u64, cpus: u32) -> u32 {
    let fit = ram_pages * layout::PAGE / RAM_SHARE / size_of::<Whole>() as u64;
    let total = fit.min(SLOTS_TOTAL.into()) as u32;
    (total / cpus).clamp(SLOTS_FLOOR, SLOTS_PER_CPU as u32).min((allowed / cpus).max(1))
}

/// Adds a slot to the table of a virtual CPU: `None` if it has its share, or memory is short.
pub(crate) fn add(vcpu: &'static Vcpu) -> Option<&'static Slot> {
    let boot = &cpu::control().boot;
    let share = share(boot.slots, boot.ram_pages, cpu::count());
    if vcpu.slot_count.load(Relaxed) >= share {
        return None;
    }
    // SAFETY: the layout's size is not zero.
    let whole = NonNull::new(unsafe { alloc_zeroed(Layout::new::<Whole>()) })?.cast::<Whole>();
    // SAFETY: zeroed memory of the right layout, for this slot alone.
    Some(unsafe {
        let whole = whole.as_ptr();
        add_at(vcpu, &raw mut (*whole).memory, &raw mut (*whole).stacks)
    })
}

/// Adds a slot in memory that is there.
///
/// # Safety
/// `memory` is zero, both are aligned, nobody else uses them, and they stay for ever. The table of `vcpu` has room.
pub(crate) unsafe fn add_at(vcpu: &'static Vcpu, memory: *mut SlotMemory, stacks: *mut SlotStacks) -> &'static Slot {
    let local = vcpu.slot_count.load(Relaxed);
    // SAFETY: by the contract, ours alone until it is published; all zeroes are valid for every field.
    let slot = unsafe {
        (*memory).page.self_ptr = memory as u64;
        (*memory).page.block = &raw const (*memory).gate as u64;
        (*memory).page.vcpu = vcpu as *const Vcpu as u64;
        (*memory).page.cpu = vcpu.id();
        (*memory).page.index = NEXT_INDEX.fetch_add(1, Relaxed);
        (*memory).page.hot_len = layout::hot_len(cpu::control().boot.ram_pages);
        (*memory).slot.page = memory as u64;
        (*memory).slot.stacks = stacks as u64;
        (*memory).slot.local = local;
        (*memory).slot.cpu = vcpu.id();
        &(*memory).slot
    };
    slot.place.reset();
    slot.stale.store(1, Relaxed);
    vcpu.slots[local as usize].store(slot as *const Slot as *mut Slot, Release);
    vcpu.slot_count.store(local + 1, Release);
    slot
}

/// Hands the virtual CPU to `target` and parks this slot. On the park stack of the running slot.
///
/// Signals are not masked for it. One that comes too late for this slot wakes it for its handler, on the interrupt stack, which changes
/// this slot's own notes and sets bits of the virtual CPU's mailbox; whoever sent it has set its bit there before, and `target` looks
/// before it leaves for guest code.
///
/// Returns when the virtual CPU comes back, with the stack pointer to go on at.
pub(crate) extern "C" fn hand_over(target: &'static Slot) -> u64 {
    let me = this();
    let vcpu = me.vcpu();
    vtime::pause(vcpu);
    target.follow(me, vcpu);
    me.phase.store(SlotPhase::Parked as u32, Release);
    vcpu.teleports.fetch_add(1, Relaxed);
    vcpu.owner.hand(target.local, &target.doorbell);
    me.park()
}

/// The same, where the thread itself goes on at `sp`.
pub(crate) extern "C" fn hand_over_at(target: &'static Slot, sp: u64) -> u64 {
    cpu::this().next_sp.store(sp, Relaxed);
    hand_over(target)
}

pub(crate) fn mask_signals() {
    process::mask_signals(0, ASYNCHRONOUS);
    (hooks().masked)();
}

impl Slot {
    /// The address space it is bound to, [`FREE`] or [`RETIRED`].
    pub fn space(&self) -> u64 {
        self.vcpu().spaces[self.local as usize % SLOTS_PER_CPU].load(Acquire)
    }

    /// Number of its virtual CPU.
    pub fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Number among all slots of the machine.
    pub fn index(&self) -> u32 {
        self.page().index
    }

    /// Its page, as other slots reach it.
    pub fn page(&self) -> &'static SlotPage {
        // SAFETY: set in `add` to a page that lives for ever; what changes in it is atomic.
        unsafe { &*(self.page as *const SlotPage) }
    }

    /// Address of the [`GATE_BLOCK_LEN`] bytes of the gate.
    pub fn gate_block(&self) -> u64 {
        self.page().block
    }

    /// Top of the stack for signals that hit kernel mode.
    pub fn irq_top(&self) -> u64 {
        self.stacks + core::mem::offset_of!(SlotStacks, irq) as u64 + STACK_LEN as u64
    }

    /// Top of the stack on which it starts and parks.
    pub fn park_top(&self) -> u64 {
        self.stacks + core::mem::offset_of!(SlotStacks, park) as u64 + STACK_LEN as u64
    }

    /// Host thread id, 0 if there is no host task.
    pub fn tid(&self) -> i32 {
        self.tid.load(Acquire)
    }

    pub fn local(&self) -> u32 {
        self.local
    }

    pub(crate) fn vcpu(&self) -> &'static Vcpu {
        cpu::at(self.cpu)
    }

    /// Asks the parent for the host task.
    pub(crate) fn request(&self) {
        let _ = self.phase.compare_exchange(SlotPhase::Refused as u32, SlotPhase::Empty as u32, AcqRel, Relaxed);
        self.wanted.store(1, Release);
        let word = &self.vcpu().shared().parent_word;
        word.fetch_add(1, AcqRel);
        futex::wake(word, 1);
    }

    /// By the parent: the host makes no task.
    pub(crate) fn refuse(&self) {
        self.phase.store(SlotPhase::Refused as u32, Release);
        futex::wake(&self.phase, u32::MAX);
    }

    /// The host task exists again, or for the first time: nothing is mapped in it, its timer is gone.
    pub(crate) fn renew(&self) {
        self.stale.store(1, Relaxed);
        self.place.reset();
        self.armed_ns.store(0, Relaxed);
    }

    /// Makes the slot look at the owner word, now or once it is ready.
    pub(crate) fn ring(&self) {
        self.doorbell.ring();
    }

    /// False if the host refused to make it.
    fn wait_until_parked(&self) -> bool {
        loop {
            let phase = self.phase.load(Acquire);
            if phase == SlotPhase::Parked as u32 || phase == SlotPhase::Refused as u32 {
                return phase == SlotPhase::Parked as u32;
            }
            let _ = futex::wait(&self.phase, phase, None);
        }
    }

    fn bind(&'static self, space: u64) {
        let binding = &self.vcpu().spaces[self.local as usize % SLOTS_PER_CPU];
        if binding.swap(space, AcqRel) != FREE {
            self.vcpu().recycles.fetch_add(1, Relaxed);
            self.stale.store(2, Relaxed);
        } else {
            self.stale.fetch_max(1, Relaxed);
        }
    }

    /// In the slot itself: makes the address space what the binding says.
    fn settle(&'static self) {
        let residue = match self.stale.swap(0, Relaxed) {
            0 => return,
            1 => Residue::None,
            _ => Residue::Guest,
        };
        let space = self.space();
        if !matches!(space, FREE | RETIRED) {
            (hooks().enter_space)(self, space, residue);
        }
    }

    /// Sleeps until the virtual CPU is this slot's; returns the stack pointer to go on at. On the park stack.
    pub(crate) fn park(&'static self) -> u64 {
        let vcpu = self.vcpu();
        vcpu.owner.wait(self.local, &self.doorbell);
        vtime::resume(vcpu);
        self.arrive(vcpu);
        self.phase.store(SlotPhase::Kernel as u32, Release);
        // Not by who hands over: that may know the tid of a host task that has died since.
        vcpu.shared().tid.store(self.tid() as u32, Release);
        let turn = vcpu.turns.fetch_add(1, Relaxed);
        self.used.store(turn, Relaxed);
        let deadline_ns = vcpu.deadline_ns.load(Relaxed);
        if deadline_ns != 0 {
            self.arm_timer(deadline_ns);
        }
        self.settle();
        if self.died.swap(0, Relaxed) != 0 {
            (hooks().resume_dead)();
        }
        vcpu.next_sp.load(Relaxed)
    }

    /// In the new host task: makes its timer.
    pub(crate) fn make_timer(&self, tid: i32) -> Result<(), Errno> {
        self.timer.store(timer::create(tid)?, Relaxed);
        Ok(())
    }

    /// In the running slot, in the kernel. A timer that will fire earlier stays: the interrupt comes early, once, and who gets it
    /// arms anew. One that would fire at once is spared the host: the virtual CPU finds the interrupt before it leaves the kernel.
    pub(crate) fn arm_timer(&self, deadline_ns: u64) {
        if deadline_ns == 0 {
            return;
        }
        let now_ns = (hooks().now_ns)();
        if deadline_ns <= now_ns {
            self.vcpu().shared().mailbox.pending.fetch_or(Mailbox::TIMER, AcqRel);
            return;
        }
        let armed_ns = self.armed_ns.load(Relaxed);
        let surely_ahead = armed_ns > now_ns + CLOCK_SLACK_NS;
        if !(surely_ahead && armed_ns <= deadline_ns) {
            self.armed_ns.store(deadline_ns, Relaxed);
            // The timer exists, and a wrong time is not possible.
            let _ = timer::arm(self.timer.load(Relaxed), deadline_ns);
        }
    }

    /// Its timer's interrupt came, by the host's clock: ours may not be there yet.
    pub fn timer_fired(&self) {
        self.armed_ns.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn slots_are_a_small_part_of_ram_and_what_the_host_allows() {
        const MIB: u64 = (1 << 20) / super::layout::PAGE;
        let any = u32::MAX;
        assert_eq!((share(any, 4096 * MIB, 2), share(any, 4096 * MIB, 64)), (64, 16));
        assert!((10..=24).contains(&share(any, 64 * MIB, 4)));
        assert_eq!(share(any, 32 * MIB, 256), 4);
        assert_eq!((share(10, 4096 * MIB, 4), share(2, 4096 * MIB, 4)), (2, 1));
    }
}
