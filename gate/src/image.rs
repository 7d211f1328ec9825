//! Where the image's parts lie.

use core::arch::global_asm;
use core::ops::Range;
use umbel_abi::machine::Control;
use umbel_abi::machine::layout::{CONTROL_OFF, HOT_BASE, IMAGE_BASE, IMAGE_MAX, PAGE};

global_asm!(".weak __text_end");

unsafe extern "C" {
    /// End of executable sections, set by the linker script.
    safe static __text_end: u8;
}

/// Executable part of the image, the gate page included.
pub fn text() -> Range<u64> {
    let end = &raw const __text_end as u64;
    IMAGE_BASE..if end == 0 { IMAGE_BASE + IMAGE_MAX } else { end }
}

/// Kernel text: the executable part without the gate page.
pub fn kernel_text() -> Range<u64> {
    text().start + PAGE..text().end
}

/// The control block. Only in the image.
pub(crate) fn control() -> &'static Control {
    // SAFETY: the machine maps and initialises it before it starts the image.
    unsafe { &*((HOT_BASE + CONTROL_OFF) as *const Control) }
}
