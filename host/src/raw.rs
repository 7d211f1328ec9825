//! The `syscall` instruction with up to six arguments.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, Ordering::*};
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
    if ret > -4096_i64 as u64 { failed(nr, args, ret) } else { Ok(ret) }
}

/// Makes the caller's own memory accessible; whether anything was not.
static OPENER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// The host cannot read or write kernel memory that is locked: before a call fails for an address, `open` is asked to
/// make all of it accessible, and if something was locked the call is made once more.
pub fn set_opener(open: fn() -> bool) {
    OPENER.store(open as *mut (), Release);
}

#[cold]
fn failed(nr: u32, args: [u64; 6], ret: u64) -> Result<u64, Errno> {
    let errno = Errno::from_raw(-(ret as i64) as i32);
    let open = OPENER.load(Acquire);
    if errno != Errno::EFAULT || open.is_null() {
        return Err(errno);
    }
    // SAFETY: `set_opener` stores such a function, nobody anything else.
    let open = unsafe { core::mem::transmute::<*mut (), fn() -> bool>(open) };
    if !open() {
        return Err(errno);
    }
    // SAFETY: the call that failed was sound, and has done nothing.
    unsafe { syscall(nr, args) }
}
