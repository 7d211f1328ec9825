//! Kernel instructions that may fault, and where to go on when they do.
//!
//! A fixup is three 32-bit words in the section `.fixup_table` (flags "a"), each relative to its own address: first
//! instruction, end of the range, landing place. Assembly writes `.long a - .; .long b - .; .long landing - .`.
//! image.ld bounds the section with `__fixup_start` and `__fixup_end`.
//!
//! Used by: user copies (mm), XRSTOR (here), host-backed windows.

use core::arch::global_asm;

global_asm!(".weak __fixup_start", ".weak __fixup_end");

unsafe extern "C" {
    safe static __fixup_start: Fixup;
    safe static __fixup_end: Fixup;
}

#[repr(C)]
struct Fixup {
    start: i32,
    end: i32,
    landing: i32,
}

/// Address that a relative word of the table stands for.
fn target(word: &i32) -> u64 {
    (word as *const i32 as u64).wrapping_add_signed(i64::from(*word))
}

fn search(table: &[Fixup], ip: u64) -> Option<u64> {
    let entry = table.iter().find(|f| (target(&f.start)..target(&f.end)).contains(&ip))?;
    Some(target(&entry.landing))
}

/// Where to go on after a fault at `ip`, if the instruction was expected to fault.
pub(crate) fn find(ip: u64) -> Option<u64> {
    let start = &raw const __fixup_start;
    let end = &raw const __fixup_end;
    let bytes = (end as usize).checked_sub(start as usize)?;
    if start.is_null() {
        return None;
    }
    // SAFETY: the linker script bounds an array of `Fixup` in read-only memory.
    let table = unsafe { core::slice::from_raw_parts(start, bytes / size_of::<Fixup>()) };
    search(table, ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_relative_to_itself() {
        let mut table = [Fixup { start: 0, end: 0, landing: 0 }];
        let base = &raw const table[0].start as u64;
        table[0] = Fixup { start: 100, end: 200, landing: -8 };
        assert_eq!(search(&table, base + 100), Some(base + 8 - 8));
        assert_eq!(search(&table, base + 203), Some(base));
        assert_eq!(search(&table, base + 204), None, "the end word lies 4 bytes further on");
        assert_eq!(search(&table, base + 99), None);
    }
}
