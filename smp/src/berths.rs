//! Where the first slots and boot threads of many virtual CPUs lie.
//!
//! The exit's TLB flush covers all from the statics to the last huge page of hot KDATA that a slot has touched, so what each call
//! touches is to be near the statics: the slots' own blocks, and the memory of processes in between. Behind it come stacks
//! for switches, idling and nested signals, and the idle threads: the room for processes is kept until these are there
//! ([`open_rooms`]). Allocated one virtual CPU after the other, all of that would lie before the memory of processes, with a hole
//! behind each block, which draws small objects far apart.

use crate::cpu::Vcpu;
use crate::slot::{self, SlotMemory, SlotStacks};
use crate::zygote;
use alloc::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use umbel_abi::machine::MAX_CPUS;
use umbel_abi::machine::layout::{KERNEL_STACK_LEN, PAGE};

/// Bytes of the boot stack and the slot's stacks of a virtual CPU, in this order.
const STACKS: u64 = KERNEL_STACK_LEN + size_of::<SlotStacks>() as u64;
/// Virtual CPUs whose slots lie in one piece, and bytes for processes between two pieces: the heap fills its smallest holes first,
/// before what is free behind all.
const GROUP: u32 = 16;
const ROOM: u64 = 0x4_0000;
const GROUPS: usize = MAX_CPUS.div_ceil(GROUP as usize);
/// What is kept between the pieces until [`open_rooms`].
static ROOMS: [AtomicPtr<u8>; GROUPS] = [const { AtomicPtr::new(null_mut()) }; GROUPS];
/// Not that of single slots, which the heap gives only while enough of what it has without RAM is left: it does not know RAM yet.
const ALIGN: u64 = 2 * PAGE;

/// Memory for a slot and a boot thread of each of the first virtual CPUs.
pub(crate) struct Berths {
    /// Slots of each group.
    slots: [*mut SlotMemory; GROUPS],
    /// The boot stack of virtual CPU 0.
    stacks: u64,
    cpus: u32,
}

impl Berths {
    /// For virtual CPUs 0 to `cpus` - 1; `None` if there is not that much memory.
    pub(crate) fn new(cpus: u32) -> Option<Berths> {
        let groups = ..cpus.div_ceil(GROUP) as usize;
        let slots = block(u64::from(GROUP) * size_of::<SlotMemory>() as u64)?;
        // Virtual CPU 0 boots the machine, on a stack twice as long.
        let stacks = block(KERNEL_STACK_LEN + u64::from(cpus) * STACKS)?;
        let room = block(ROOM)?;
        let (mut taken, mut left) = ([null_mut(); GROUPS], [null_mut(); GROUPS]);
        for (taken, left) in taken.get_mut(groups)?.iter_mut().zip(&mut left) {
            // SAFETY: neither size is zero.
            (*taken, *left) = unsafe { (alloc_zeroed(slots), alloc(room)) };
        }
        // SAFETY: the size is not zero.
        let base = unsafe { alloc(stacks) };
        if base.is_null() || taken.get(groups)?.contains(&null_mut()) {
            give_back(&left, room);
            give_back(&taken, slots);
            give_back(&[base], stacks);
            return None;
        }
        for (kept, at) in ROOMS.iter().zip(left) {
            kept.store(at, Relaxed);
        }
        Some(Berths { slots: taken.map(|at| at.cast()), stacks: base as u64 + KERNEL_STACK_LEN, cpus })
    }

    /// Gives a virtual CPU its first slot and its boot thread, which runs `boot`. Once.
    pub(crate) fn settle(&self, vcpu: &'static Vcpu, boot: extern "C" fn(u64) -> !) {
        let cpu = vcpu.id();
        assert!(cpu < self.cpus && vcpu.slot(0).is_none(), "each virtual CPU of the start has one berth");
        let boot_top = self.stacks + u64::from(cpu) * STACKS + KERNEL_STACK_LEN;
        // SAFETY: the stack below is nobody else's, and none of this is ever freed.
        unsafe { zygote::prepare_boot(vcpu, boot_top, boot) };
        let group = self.slots[(cpu / GROUP) as usize];
        // SAFETY: its group has an entry for each of its virtual CPUs, zero, used once; the slot's stacks follow the boot stack.
        let slot = unsafe { slot::add_at(vcpu, group.add((cpu % GROUP) as usize), boot_top as *mut SlotStacks) };
        slot.wanted.store(1, Relaxed);
    }
}

/// Frees the room for processes. By virtual CPU 0, when it has made the idle threads.
pub fn open_rooms() {
    if let Some(room) = block(ROOM) {
        ROOMS.iter().for_each(|kept| give_back(&[kept.swap(null_mut(), Relaxed)], room));
    }
}

/// Frees those of `blocks` that were there to be had.
fn give_back(blocks: &[*mut u8], layout: Layout) {
    for &at in blocks.iter().filter(|at| !at.is_null()) {
        // SAFETY: allocated with this layout, and used by nobody.
        unsafe { dealloc(at, layout) };
    }
}

fn block(len: u64) -> Option<Layout> {
    Layout::from_size_align(len as usize, ALIGN as usize).ok()
}
