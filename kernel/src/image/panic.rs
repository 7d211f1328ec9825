//! The end of the kernel.

use core::panic::PanicInfo;
use umbel_gate::panic::fatal;
use umbel_mm::heap;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let frame: u64;
    // SAFETY: reads a register; the image keeps frame pointers.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack)) };
    fatal(format_args!("{info}{}", heap::Shortage), 0, frame)
}

/// Named by the prebuilt alloc, never called: panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Named by the prebuilt alloc, never called: panics abort.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    fatal(format_args!("unwinding"), 0, 0)
}
