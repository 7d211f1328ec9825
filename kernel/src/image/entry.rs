//! From the machine's jump to the first line of the kernel proper.

use core::arch::naked_asm;
use umbel_smp::{cpu, slot, zygote};

/// Where the zygote runs until its parents stand on their own.
const BOOT_STACK_LEN: usize = 0x8000;

#[repr(align(16))]
struct BootStack(#[expect(dead_code)] [u8; BOOT_STACK_LEN]);

static mut BOOT_STACK: BootStack = BootStack([0; BOOT_STACK_LEN]);

/// The ELF entry point: rdi, rsi = the C library's rseq area and its length, rdx = the machine's process id.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn image_entry() -> ! {
    naked_asm!(
        "lea rsp, [rip + {stack} + {len}]",
        "xor ebp, ebp",
        "call {start}",
        "ud2",
        stack = sym BOOT_STACK,
        len = const BOOT_STACK_LEN,
        start = sym start,
    )
}

extern "C" fn start(rseq: u64, rseq_len: u64, machine: u64) -> ! {
    // SAFETY: the first code of the image; nothing allocated yet.
    if unsafe { zygote::adopt_boot_page() }.is_err() {
        umbel_host::process::exit(1);
    }
    umbel_mm::heap::init(&cpu::control().boot);
    umbel_mm::percpu::enter_slots();
    umbel_gate::init();
    slot::set_hooks(&super::hooks::HOOKS);
    let inherited =
        zygote::Inheritance { rseq, rseq_len: rseq_len as u32, image_end: image_end(), machine: machine as i32 };
    // SAFETY: called once, by the machine's fresh child, on the boot stack.
    unsafe { zygote::run(inherited, boot) }
}

fn image_end() -> u64 {
    unsafe extern "C" {
        static __image_end: u8;
    }
    &raw const __image_end as u64
}

/// First code of a virtual CPU, on its idle thread's stack.
extern "C" fn boot(cpu: u64) -> ! {
    match cpu {
        0 => umbel_kernel::boot::boot(),
        _ => umbel_kernel::boot::boot_secondary(),
    }
}
