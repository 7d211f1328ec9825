//! From the machine's jump to the first line of the kernel proper.

use core::arch::naked_asm;
use umbel_abi::linux::Errno;
use umbel_abi::linux::uapi::__NR_pwrite64;
use umbel_abi::machine::{Control, layout};
use umbel_host::raw::syscall;
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
    umbel_mm::slotmap::init(&cpu::control().boot);
    umbel_mm::percpu::enter_slots();
    umbel_gate::init();
    // Without it guests enter the kernel for the time: nothing to report.
    let _ = make_vdso();
    slot::set_hooks(&super::hooks::HOOKS);
    let inherited =
        zygote::Inheritance { rseq, rseq_len: rseq_len as u32, image_end: image_end(), machine: machine as i32 };
    // SAFETY: called once, by the machine's fresh child, on the boot stack.
    unsafe { zygote::run(inherited, boot) }
}

/// Puts the guest's vDSO into a memory file, which every slot maps.
fn make_vdso() -> Result<(), Errno> {
    const NR_MEMFD_CREATE: u32 = 319;
    const MFD_CLOEXEC: u64 = 1;
    let image = umbel_gate::vdso::image();
    // SAFETY: the name is a string, and the image is read only.
    let fd = unsafe {
        let fd = syscall(NR_MEMFD_CREATE, [c"umbel-vdso".as_ptr() as u64, MFD_CLOEXEC, 0, 0, 0, 0])?;
        syscall(__NR_pwrite64, [fd, image.as_ptr() as u64, image.len() as u64, 0, 0, 0])?;
        fd
    };
    let control = (layout::HOT_BASE + layout::CONTROL_OFF) as *mut Control;
    // SAFETY: the zygote is alone; nobody has read the field.
    unsafe { (*control).boot.files.vdso = fd as i32 };
    Ok(())
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
