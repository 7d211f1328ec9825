//! The end of the kernel: message and return addresses for the machine, then every vCPU stops.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use umbel_abi::machine::layout::{HOT_BASE, HOT_LEN};
use umbel_smp::cpu;

static PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if !PANICKING.swap(true, SeqCst) {
        let mut report = cpu::Report::begin();
        let _ = write!(report, "{info}");
        report.finish(&backtrace());
    }
    cpu::stop_for_ever()
}

/// Return addresses from frame pointers; a broken chain ends it.
fn backtrace() -> [u64; 63] {
    let mut addresses = [0; 63];
    let mut frame: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack)) };
    for slot in &mut addresses {
        if !(HOT_BASE..HOT_BASE + HOT_LEN - 16).contains(&frame) || !frame.is_multiple_of(8) {
            break;
        }
        // SAFETY: the address is aligned and inside the hot range, which is mapped as a whole.
        let [next, ret] = unsafe { (frame as *const [u64; 2]).read() };
        *slot = ret;
        if next <= frame {
            break;
        }
        frame = next;
    }
    addresses
}

/// Named by the prebuilt alloc, never called: panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Named by the prebuilt alloc, never called: panics abort.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    cpu::stop_for_ever()
}
