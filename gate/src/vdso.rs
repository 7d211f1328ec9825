//! The guest's vDSO: a small shared object with clocks and the CPU number, answered from the slot page.
//!
//! Built once at boot: ELF header, two program headers, dynamic section, hash table, symbols with their version and text in one
//! page. The C libraries would take symbols without versions; Go's runtime, which every Go program contains, follows the list of
//! versions without asking whether there is one. Source: vdso(7), System V ABI, LSB 5 "Symbol Versioning".

use alloc::vec::Vec;
use core::arch::global_asm;
use core::mem::offset_of;
use umbel_abi::machine::SlotPage;
use umbel_abi::machine::layout::{CLOCK_READS, ENTRY_PAGE, PAGE, SLOT_PAGE};

global_asm!(
    include_str!("asm/vdso.s"),
    SLOT_PAGE = const SLOT_PAGE,
    SEQ = const offset_of!(SlotPage, seq),
    FAST_READS = const offset_of!(SlotPage, fast_reads),
    MULT = const offset_of!(SlotPage, mult),
    SHIFT = const offset_of!(SlotPage, shift),
    BASE_TSC = const offset_of!(SlotPage, base_tsc),
    MONO_NS = const offset_of!(SlotPage, mono_ns),
    REAL_OFFSET = const offset_of!(SlotPage, real_offset_ns),
    CPU = const offset_of!(SlotPage, cpu),
    CLOCK_READS = const ENTRY_PAGE - SLOT_PAGE + CLOCK_READS,
);

unsafe extern "C" {
    safe static vdso_text: u8;
    safe static vdso_text_end: u8;
    safe static vdso_clock_gettime: u8;
    safe static vdso_gettimeofday: u8;
    safe static vdso_time: u8;
    safe static vdso_getcpu: u8;
}

/// Offsets in the image.
const DYNAMIC: u64 = 0x100;
const HASH: u64 = 0x1c0;
const VERSIONS_OF_SYMBOLS: u64 = 0x1e0;
const VERSIONS: u64 = 0x1f0;
const SYMBOLS: u64 = 0x240;
const STRINGS: u64 = 0x300;
const TEXT: u64 = 0x400;
const DYNAMIC_LEN: u64 = 10 * 16;
const SYMBOL_LEN: u64 = 24;

const SONAME: &str = "linux-vdso.so.1";
/// The version of all functions, as Linux has it.
const VERSION: &str = "LINUX_2.6";

fn functions() -> [(&'static str, u64); 4] {
    [
        ("__vdso_clock_gettime", &raw const vdso_clock_gettime as u64),
        ("__vdso_gettimeofday", &raw const vdso_gettimeofday as u64),
        ("__vdso_time", &raw const vdso_time as u64),
        ("__vdso_getcpu", &raw const vdso_getcpu as u64),
    ]
}

/// A growing file of little-endian words.
struct Image(Vec<u8>);

impl Image {
    fn pad_to(&mut self, offset: u64) {
        debug_assert!(self.0.len() as u64 <= offset);
        self.0.resize(offset as usize, 0);
    }

    fn words<const N: usize>(&mut self, words: [u64; N]) {
        words.iter().for_each(|word| self.0.extend(word.to_le_bytes()));
    }

    fn halves<const N: usize>(&mut self, halves: [u32; N]) {
        halves.iter().for_each(|half| self.0.extend(half.to_le_bytes()));
    }

    /// A version: number, flags (1: the object's own), its name as offset in the strings and as text; whether another one follows.
    fn version(&mut self, number: u32, flags: u32, name: u32, text: &str, more: bool) {
        self.halves([1 | flags << 16, number | 1 << 16, elf_hash(text), 20, if more { 28 } else { 0 }, name, 0]);
    }

    /// Type and flags, then offset = address, size in file = size in memory, alignment.
    fn program_header(&mut self, kind: u32, flags: u32, at: u64, len: u64, align: u64) {
        self.halves([kind, flags]);
        self.words([at, at, at, len, len, align]);
    }
}

/// The hash of a name by which versions are found (System V ABI, "Hash Table").
fn elf_hash(name: &str) -> u32 {
    name.bytes().fold(0, |hash: u32, byte| {
        let sum = (hash << 4).wrapping_add(u32::from(byte));
        let high = sum & 0xf000_0000;
        (sum ^ high >> 24) & !high
    })
}

/// The shared object, one page.
pub fn image() -> Vec<u8> {
    let mut image = Image(Vec::with_capacity(PAGE as usize));
    // e_ident: 64-bit, little-endian, version 1; ET_DYN, EM_X86_64.
    image.0.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0");
    image.halves([1]);
    image.words([0, 64, 0]);
    image.halves([0, 64 | 56 << 16, 2 | 64 << 16, 0]);
    image.program_header(1, 5, 0, PAGE, PAGE);
    image.program_header(2, 4, DYNAMIC, DYNAMIC_LEN, 8);
    let mut strings = Vec::from(&b"\0"[..]);
    let mut add = |name: &str| {
        let at = strings.len() as u32;
        strings.extend(name.bytes());
        strings.push(0);
        at
    };
    let soname = add(SONAME);
    let version = add(VERSION);
    let names = functions().map(|(name, _)| add(name));
    image.pad_to(DYNAMIC);
    let strings_len = strings.len() as u64;
    // DT_HASH, DT_SYMTAB, DT_SYMENT, DT_STRTAB, DT_STRSZ, DT_SONAME, DT_VERSYM, DT_VERDEF, DT_VERDEFNUM, DT_NULL.
    image.words([4, HASH, 6, SYMBOLS, 11, SYMBOL_LEN, 5, STRINGS, 10, strings_len, 14, u64::from(soname)]);
    image.words([0x6fff_fff0, VERSIONS_OF_SYMBOLS, 0x6fff_fffc, VERSIONS, 0x6fff_fffd, 2, 0, 0]);
    image.pad_to(HASH);
    // One bucket; a chain of all symbols: 1, 2, 3, 4, end.
    image.halves([1, 5, 1, 0, 2, 3, 4, 0]);
    image.pad_to(VERSIONS_OF_SYMBOLS);
    // Two bytes each: none for the symbol 0, the second version for the functions.
    image.halves([2 << 16, 2 | 2 << 16, 2]);
    image.pad_to(VERSIONS);
    image.version(1, 1, soname, SONAME, true);
    image.version(2, 0, version, VERSION, false);
    image.pad_to(SYMBOLS);
    image.words([0, 0, 0]);
    let text = &raw const vdso_text as u64;
    for ((_, address), name) in functions().into_iter().zip(names) {
        // Global function in section 1 (any but "undefined").
        image.halves([name, 0x12 | 1 << 16]);
        image.words([TEXT + (address - text), 16]);
    }
    image.pad_to(STRINGS);
    image.0.extend(strings);
    image.pad_to(TEXT);
    let len = (&raw const vdso_text_end as u64 - text) as usize;
    // SAFETY: the labels bound read-only memory.
    image.0.extend(unsafe { core::slice::from_raw_parts(&raw const vdso_text, len) });
    image.pad_to(PAGE);
    image.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dynamic_linker_finds_the_functions() {
        let path = std::env::temp_dir().join(format!("umbel-vdso-{}.so", std::process::id()));
        std::fs::write(&path, image()).unwrap();
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        unsafe extern "C" {
            fn dlopen(name: *const core::ffi::c_char, flags: i32) -> *mut u8;
            fn dlvsym(library: *mut u8, name: *const core::ffi::c_char, version: *const core::ffi::c_char) -> *mut u8;
        }
        // SAFETY: loads the object just written, which runs nothing; looks names up.
        let library = unsafe { dlopen(name.as_ptr(), 2) };
        assert!(!library.is_null());
        let look = |name: &str, version: &std::ffi::CStr| {
            let name = std::ffi::CString::new(name).unwrap();
            // SAFETY: as above.
            unsafe { dlvsym(library, name.as_ptr(), version.as_ptr()) as u64 % 4096 }
        };
        for (name, _) in functions() {
            assert!(look(name, c"LINUX_2.6") >= TEXT, "{name}");
            assert_eq!(look(name, c"LINUX_2.5"), 0, "{name}");
        }
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn the_image_is_one_page() {
        assert_eq!(image().len() as u64, PAGE);
    }
}
