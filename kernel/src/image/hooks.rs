//! What slots need from the gate and from memory.

use umbel_abi::linux::Errno;
use umbel_abi::machine::BootInfo;
use umbel_gate::{ArmOptions, SlotBlock};
use umbel_smp::cpu;
use umbel_smp::slot::{GATE_BLOCK_LEN, Hooks, Residue, Slot};

pub static HOOKS: Hooks = Hooks {
    prepare,
    arm,
    save: umbel_gate::save_before_switch,
    now_ns: umbel_kernel::time::clock::host_ns,
    masked,
    enter_space,
    in_guest,
    resume_dead,
};

const _: () = assert!(size_of::<SlotBlock>() <= GATE_BLOCK_LEN);

fn block(slot: &Slot) -> *mut SlotBlock {
    slot.gate_block() as *mut SlotBlock
}

fn prepare(slot: &'static Slot) {
    let shared = &cpu::control().vcpus[slot.cpu() as usize];
    // SAFETY: the slot has no host task, so the block is ours; it has room and alignment for the type.
    unsafe { SlotBlock::prepare(block(slot), shared, slot.irq_top(), slot.park_top()) }
}

fn arm(_slot: &'static Slot) -> Result<(), (&'static str, Errno)> {
    let debug_host = cpu::control().boot.options & BootInfo::DEBUG_HOST != 0;
    umbel_gate::arm_slot(&ArmOptions { debug_host }).map_err(|error| (error.step, error.errno))
}

fn masked() {
    SlotBlock::this().demand_slow_exit();
}

fn enter_space(slot: &'static Slot, _space: u64, residue: Residue) {
    umbel_kernel::fs::ahead::clear(slot.page());
    if residue == Residue::Guest {
        umbel_gate::clear_residue();
        umbel_mm::view::recycle();
    }
}

fn in_guest(slot: &'static Slot) -> bool {
    // SAFETY: written in `prepare` before the slot's host task existed; what changes in it is atomic.
    let block = unsafe { &*block(slot) };
    block.in_kernel.load(core::sync::atomic::Ordering::Acquire) == 0
}

fn resume_dead() -> ! {
    umbel_gate::resume_dead()
}
