//! The memory functions that compiled code calls; this target's compiler_builtins has none.
//!
//! Written around string instructions so that the compiler cannot turn a loop back into a call of the same function.

use core::arch::asm;

/// Below this many bytes a plain loop beats the start-up cost of `rep`.
const SMALL: usize = 64;

/// C's memcpy.
///
/// # Safety
/// As memcpy(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        if n < SMALL {
            copy_small(dst, src, n);
        } else {
            asm!("rep movsb", inout("rcx") n => _, inout("rdi") dst => _, inout("rsi") src => _,
                options(nostack, preserves_flags));
        }
    }
    dst
}

/// Copies words, then the bytes that are left.
unsafe fn copy_small(dst: *mut u8, src: *const u8, n: usize) {
    // SAFETY: the caller vouches for both ranges; each step stays below `n`.
    unsafe {
        asm!(
            "2:", "cmp {n}, 8", "jb 3f",
            "mov {t}, [{s}]", "mov [{d}], {t}", "add {s}, 8", "add {d}, 8", "sub {n}, 8", "jmp 2b",
            "3:", "test {n}, {n}", "jz 4f",
            "mov {t:l}, [{s}]", "mov [{d}], {t:l}", "inc {s}", "inc {d}", "dec {n}", "jmp 3b",
            "4:",
            n = inout(reg) n => _, s = inout(reg) src => _, d = inout(reg) dst => _, t = out(reg_abcd) _,
            options(nostack),
        );
    }
}

/// C's memmove.
///
/// # Safety
/// As memmove(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        if (dst as usize).wrapping_sub(src as usize) >= n {
            return memcpy(dst, src, n);
        }
        // The destination begins inside the source: go down.
        asm!(
            "2:", "cmp {n}, 8", "jb 3f",
            "sub {n}, 8", "mov {t}, [{s} + {n}]", "mov [{d} + {n}], {t}", "jmp 2b",
            "3:", "test {n}, {n}", "jz 4f",
            "dec {n}", "mov {t:l}, [{s} + {n}]", "mov [{d} + {n}], {t:l}", "jmp 3b",
            "4:",
            n = inout(reg) n => _, s = in(reg) src, d = in(reg) dst, t = out(reg_abcd) _,
            options(nostack),
        );
    }
    dst
}

/// C's memset.
///
/// # Safety
/// As memset(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(dst: *mut u8, byte: i32, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range.
    unsafe {
        asm!("rep stosb", inout("rcx") n => _, inout("rdi") dst => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    dst
}

/// C's memcmp.
///
/// # Safety
/// As memcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    let mut i = 0;
    // SAFETY: the caller vouches for both ranges; `i` stays below `n`.
    unsafe {
        while n - i >= 8 {
            let (x, y) = (a.add(i).cast::<u64>().read_unaligned(), b.add(i).cast::<u64>().read_unaligned());
            if x != y {
                return if x.swap_bytes() < y.swap_bytes() { -1 } else { 1 };
            }
            i += 8;
        }
        while i < n {
            let (x, y) = (a.add(i).read_volatile(), b.add(i).read_volatile());
            if x != y {
                return i32::from(x) - i32::from(y);
            }
            i += 1;
        }
    }
    0
}

/// BSD's bcmp.
///
/// # Safety
/// As memcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller vouches for both ranges.
    unsafe { memcmp(a, b, n) }
}

/// C's strlen.
///
/// # Safety
/// As strlen(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(s: *const u8) -> usize {
    let mut n = 0;
    // SAFETY: the caller vouches for a terminated string.
    while unsafe { s.add(n).read_volatile() } != 0 {
        n += 1;
    }
    n
}
