//! The virtual CPUs: one block each, in hot KDATA, found through the slot page.
//!
//! A virtual CPU is a host thread of execution that moves between slots; at any instant one slot of it runs. Everything
//! here is written by the virtual CPU itself, except what [`umbel_abi::machine::VcpuShared`] holds, and `owner`, which
//! the parent of the slots compares and swaps when a slot dies ([`crate::zygote`]).
//!
//! Used by: locks (held ranks), the scheduler, `mm` (per-CPU caches), [`crate::slot`] and [`crate::switch`].

use crate::handover::Owner;
use crate::hotplug::Life;
use crate::lock::HeldLocks;
use crate::placement::Whereabouts;
use crate::slot::{SLOTS_PER_CPU, Slot};
use crate::vtime::Meter;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};
use umbel_abi::machine::{Control, ControlState, MAX_CPUS, Mailbox, VcpuShared, layout};
use umbel_host::futex;
#[cfg(not(feature = "image"))]
use umbel_host::process;

/// What one virtual CPU keeps for itself.
#[repr(C, align(128))]
pub struct Vcpu {
    /// Host process that stands for it in unit tests; unused in slots.
    host_owner: AtomicI32,
    /// Whether it is there.
    pub life: Life,
    /// 1 = the zygote shall fork the parent of its slots.
    pub(crate) parent_wanted: AtomicU32,
    /// Spinning locks that this virtual CPU holds, for the rank check.
    pub held: HeldLocks,
    /// Its slots; entries are only ever added.
    pub(crate) slots: [AtomicPtr<Slot>; SLOTS_PER_CPU],
    /// What each of them is bound to: an address space, [`crate::slot::FREE`] or [`crate::slot::RETIRED`].
    pub(crate) spaces: [AtomicU64; SLOTS_PER_CPU],
    /// Number of entries.
    pub(crate) slot_count: AtomicU32,
    /// Entry that runs this virtual CPU, or was handed it.
    pub(crate) owner: Owner,
    /// Stack pointer at which the slot that is handed to goes on.
    pub(crate) next_sp: AtomicU64,
    /// Stack pointer of the context that sleeps at the doorbell ([`crate::idle`]).
    pub(crate) idle_sp: AtomicU64,
    /// Number of slot changes, the clock of "least recently used".
    pub(crate) turns: AtomicU64,
    /// When the host may be asked again for a slot that it refused.
    pub(crate) ask_again_ns: AtomicU64,
    /// On which host CPU it is.
    pub(crate) whereabouts: Whereabouts,
    /// When the next timer interrupt is wanted, CLOCK_MONOTONIC, 0 = never.
    pub(crate) deadline_ns: AtomicU64,
    /// Its clock in virtual time.
    pub(crate) meter: Meter,
    /// Hand-overs between slots.
    pub teleports: AtomicU64,
    /// Slots emptied for another address space.
    pub recycles: AtomicU64,
    /// Slots that the host killed, and the CPU time that they had used.
    pub dead_slots: AtomicU64,
    pub(crate) dead_ns: AtomicU64,
    /// Opaque words of the layers above, by index: 0 scheduler, 1 memory, 2 statistics, 3 spare.
    pub cookies: [AtomicU64; 4],
}

static VCPUS: [Vcpu; MAX_CPUS] = [const { Vcpu::new() }; MAX_CPUS];
static COUNT: AtomicU32 = AtomicU32::new(1);

/// The running virtual CPU. Stale as soon as the caller blocks.
#[inline(always)]
pub fn this() -> &'static Vcpu {
    #[cfg(feature = "image")]
    {
        let page = layout::SLOT_PAGE as *const umbel_abi::machine::SlotPage;
        // SAFETY: every slot (and the zygote) maps its page there for life, and `vcpu` points into `VCPUS`. Volatile,
        // because the caller may have been moved to another slot since the last read.
        unsafe { &*((&raw const (*page).vcpu).read_volatile() as *const Vcpu) }
    }
    #[cfg(not(feature = "image"))]
    host_thread()
}

/// Number of virtual CPUs that were ever made: all numbers below it, some of which may be offline.
pub fn count() -> u32 {
    COUNT.load(Relaxed)
}

/// Virtual CPU number `cpu`.
pub fn get(cpu: u32) -> Option<&'static Vcpu> {
    VCPUS.get(cpu as usize).filter(|_| cpu < count())
}

/// Virtual CPU number `cpu`, which the caller knows to be below [`MAX_CPUS`].
pub(crate) fn at(cpu: u32) -> &'static Vcpu {
    &VCPUS[cpu as usize % MAX_CPUS]
}

/// All virtual CPUs.
pub fn all() -> impl Iterator<Item = &'static Vcpu> {
    VCPUS.iter().take(count() as usize)
}

/// The control block that the machine shares with this image. In the image only.
pub fn control() -> &'static Control {
    // SAFETY: the machine maps and fills it before the first instruction of the image; all that changes is atomic.
    unsafe { &*((layout::HOT_BASE + layout::CONTROL_OFF) as *const Control) }
}

/// Arms the timer interrupt of the running virtual CPU for `deadline_ns` (CLOCK_MONOTONIC); 0 = none.
///
/// An interrupt may come early: the receiver looks at the clock and sets the timer anew.
pub fn set_timer(deadline_ns: u64) {
    let vcpu = this();
    vcpu.deadline_ns.store(deadline_ns, Relaxed);
    if let Some(slot) = vcpu.active() {
        slot.arm_timer(deadline_ns);
    }
}

/// Parks the caller until the machine ends everything; the other virtual CPUs are told to do the same.
pub fn stop_for_ever() -> ! {
    for vcpu in all().filter(|vcpu| !core::ptr::eq(*vcpu, this())) {
        crate::ipi::send(vcpu.id(), Mailbox::STOP);
    }
    static NEVER: AtomicU32 = AtomicU32::new(0);
    loop {
        let _ = futex::wait(&NEVER, 0, None);
    }
}

impl Vcpu {
    const fn new() -> Vcpu {
        Vcpu {
            host_owner: AtomicI32::new(0),
            life: Life::new(),
            parent_wanted: AtomicU32::new(0),
            held: HeldLocks::new(),
            slots: [const { AtomicPtr::new(core::ptr::null_mut()) }; SLOTS_PER_CPU],
            spaces: [const { AtomicU64::new(0) }; SLOTS_PER_CPU],
            slot_count: AtomicU32::new(0),
            owner: Owner::new(0),
            next_sp: AtomicU64::new(0),
            idle_sp: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            ask_again_ns: AtomicU64::new(0),
            whereabouts: Whereabouts::new(),
            deadline_ns: AtomicU64::new(0),
            meter: Meter::new(),
            teleports: AtomicU64::new(0),
            recycles: AtomicU64::new(0),
            dead_slots: AtomicU64::new(0),
            dead_ns: AtomicU64::new(0),
            cookies: [const { AtomicU64::new(0) }; 4],
        }
    }

    /// Whether it runs threads, or could.
    pub fn is_online(&self) -> bool {
        self.life.takes_threads()
    }

    /// Its number, `0..count()`.
    #[inline]
    pub fn id(&self) -> u32 {
        let offset = self as *const Vcpu as usize - VCPUS.as_ptr() as usize;
        (offset / size_of::<Vcpu>()) as u32
    }

    /// What the machine and other virtual CPUs see of it. In the image only.
    pub fn shared(&self) -> &'static VcpuShared {
        &control().vcpus[self.id() as usize % MAX_CPUS]
    }

    /// Slot number `index` of this virtual CPU.
    pub fn slot(&self, index: u32) -> Option<&'static Slot> {
        let slot = self.slots.get(index as usize)?.load(Acquire);
        // SAFETY: entries are null or slots that live for ever.
        unsafe { slot.as_ref() }
    }

    /// Its slots.
    pub fn slots(&self) -> impl Iterator<Item = &'static Slot> + '_ {
        (0..self.slot_count.load(Acquire)).filter_map(|index| self.slot(index))
    }

    /// CPU time that the host has given its slots. A host call a slot.
    pub fn host_ns(&self) -> u64 {
        let living = self.slots().map(Slot::tid).filter(|tid| *tid > 0).map(umbel_host::clock::process_ns);
        living.sum::<u64>() + self.dead_ns.load(Relaxed)
    }

    /// The slot that runs it, or is about to.
    pub fn active(&self) -> Option<&'static Slot> {
        self.slot(self.owner.slot())
    }
}

/// Sets the number of virtual CPUs. Once, in the zygote.
pub(crate) fn set_count(cpus: u32) {
    COUNT.store(cpus.clamp(1, MAX_CPUS as u32), Relaxed);
    crate::lock::register_cpu_held(|| &this().held);
}

/// There is one more.
pub(crate) fn raise_count(cpus: u32) {
    COUNT.fetch_max(cpus.clamp(1, MAX_CPUS as u32), AcqRel);
}

/// Unit tests on the host: every thread claims a virtual CPU of its own; beyond [`MAX_CPUS`] threads they are shared.
#[cfg(not(feature = "image"))]
fn host_thread() -> &'static Vcpu {
    let me = process::gettid();
    let mut index = me as usize % MAX_CPUS;
    for _ in 0..MAX_CPUS {
        let owner = &VCPUS[index].host_owner;
        let claimed = owner.compare_exchange(0, me, AcqRel, Acquire);
        if claimed.is_ok() || claimed == Err(me) {
            break;
        }
        index = (index + 1) % MAX_CPUS;
    }
    &VCPUS[index]
}

/// The text that the machine prints when the kernel ends: a panic's message.
#[derive(Debug)]
pub struct Report {
    len: usize,
}

impl Report {
    /// Starts the report; the caller makes sure that there is one at a time.
    pub fn begin() -> Report {
        Report { len: 0 }
    }

    /// Publishes the text; the machine prints it at the end.
    pub fn publish(self) {
        control().report_len.store(self.len as u32, Release);
    }

    /// Publishes the message with return addresses and tells the machine that the kernel panicked.
    pub fn finish(self, backtrace: &[u64]) {
        let control = control();
        for (slot, address) in control.backtrace.iter().zip(backtrace) {
            slot.store(*address, Relaxed);
        }
        control.report_len.store(self.len as u32, Release);
        set_state(ControlState::Panicked);
    }
}

impl fmt::Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (cell, byte) in control().report[self.len..].iter().zip(text.bytes()) {
            // SAFETY: the kernel owns the report until `report_len` is published.
            unsafe { *cell.get() = byte };
            self.len += 1;
        }
        Ok(())
    }
}

/// What the machine has to say of virtual CPUs that hang: `len` bytes, or what there is room for.
pub fn watch_text(len: usize) -> Vec<u8> {
    let cells = &control().watch.text;
    // SAFETY: each cell is a live byte; the machine writes them only while it has announced no text.
    cells.iter().take(len).map(|cell| unsafe { cell.get().read_volatile() }).collect()
}

/// Tells the machine how its life stands.
pub fn set_state(state: ControlState) {
    let word = &control().state;
    word.store(state as u32, Release);
    futex::wake(word, u32::MAX);
}

#[cfg(all(test, not(feature = "image")))]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn a_host_thread_keeps_its_virtual_cpu_and_shares_it_with_nobody() {
        let mine = this().id();
        assert_eq!(this().id(), mine);
        let other = std::thread::spawn(|| this().id()).join().unwrap();
        assert_ne!(mine, other);
    }
}
