//! The `syscall` instruction with up to six arguments.

use core::arch::asm;
use umbel_abi::linux::Errno;

/// Calls the host. Returns the raw value, `-errno` folded into [`Errno`].
///
/// # Safety
/// The call must be sound for this process: pointers valid for what the call reads and writes, mappings not in use.
#[inline(always)]
pub unsafe fn syscall(nr: u32, args: [u64; 6]) -> Result<u64, Errno> {
    let ret: u64;
    // SAFETY: the caller vouches for the call; the instruction clobbers rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") u64::from(nr) => ret,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    if ret > -4096_i64 as u64 { Err(Errno::from_raw(-(ret as i64) as i32)) } else { Ok(ret) }
}
