//! Parsing of ELF headers: pure, over bytes that a guest may have written.
//!
//! Everything is checked before it is believed; a file that makes no sense is `ENOEXEC`. Source: elf(5), Linux's
//! fs/binfmt_elf.c.

use crate::{Errno, Result};
use alloc::vec::Vec;
use umbel_abi::machine::layout::{PAGE, USER_TOP};

/// Bytes of the file header.
pub const HEADER_LEN: usize = 64;
/// Bytes of a program header.
pub const PHDR_LEN: usize = 56;
/// Most bytes of program headers, as on Linux.
const PHDRS_MAX: usize = 65536;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;

/// The file header's part that loading needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Position-independent: may be loaded anywhere.
    pub is_dyn: bool,
    pub entry: u64,
    /// Where the program headers lie in the file, and how many there are.
    pub phoff: u64,
    pub phnum: u16,
}

/// A segment to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub vaddr: u64,
    pub memsz: u64,
    pub offset: u64,
    pub filesz: u64,
    pub align: u64,
    pub read: bool,
    pub write: bool,
    pub exec: bool,
}

/// What the program headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// In the file's order; they may overlap.
    pub segments: Vec<Segment>,
    /// One cannot be mapped. Linux finds that out when the old program is gone.
    pub broken: bool,
    /// Offset and length of the interpreter's path.
    pub interp: Option<(u64, u64)>,
    pub exec_stack: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let bytes = bytes.get(at..at + 2).ok_or(Errno::ENOEXEC)?;
    Ok(u16::from_le_bytes(bytes.try_into().map_err(|_| Errno::ENOEXEC)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..at + 4).ok_or(Errno::ENOEXEC)?;
    Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| Errno::ENOEXEC)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + 8).ok_or(Errno::ENOEXEC)?;
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| Errno::ENOEXEC)?))
}

impl Header {
    /// Parses the first bytes of a file.
    ///
    /// # Errors
    /// `ENOEXEC` unless this is a 64-bit x86 program.
    pub fn parse(bytes: &[u8]) -> Result<Header> {
        let magic = bytes.get(..7).ok_or(Errno::ENOEXEC)?;
        // Magic number, 64 bits, little-endian, version 1.
        if magic != b"\x7fELF\x02\x01\x01" || u16_at(bytes, 18)? != EM_X86_64 {
            return Err(Errno::ENOEXEC);
        }
        let kind = u16_at(bytes, 16)?;
        let header = Header {
            is_dyn: kind == ET_DYN,
            entry: u64_at(bytes, 24)?,
            phoff: u64_at(bytes, 32)?,
            phnum: u16_at(bytes, 56)?,
        };
        let sane = (kind == ET_EXEC || kind == ET_DYN)
            && usize::from(u16_at(bytes, 54)?) == PHDR_LEN
            && header.phnum > 0
            && header.phdrs_len() <= PHDRS_MAX;
        if sane { Ok(header) } else { Err(Errno::ENOEXEC) }
    }

    /// Bytes of all program headers.
    pub fn phdrs_len(&self) -> usize {
        usize::from(self.phnum) * PHDR_LEN
    }
}

impl Program {
    /// Parses the program headers.
    ///
    /// # Errors
    /// `ENOEXEC` if there is nothing to map.
    pub fn parse(phdrs: &[u8]) -> Result<Program> {
        let mut program = Program { exec_stack: true, ..Program::default() };
        for phdr in phdrs.chunks_exact(PHDR_LEN) {
            let flags = u32_at(phdr, 4)?;
            match u32_at(phdr, 0)? {
                PT_LOAD => program.add(phdr, flags)?,
                PT_INTERP if program.interp.is_none() => {
                    program.interp = Some((u64_at(phdr, 8)?, u64_at(phdr, 32)?));
                }
                PT_GNU_STACK => program.exec_stack = flags & 1 != 0,
                _ => {}
            }
        }
        if program.segments.is_empty() && !program.broken { Err(Errno::ENOEXEC) } else { Ok(program) }
    }

    fn add(&mut self, phdr: &[u8], flags: u32) -> Result<()> {
        let segment = Segment {
            offset: u64_at(phdr, 8)?,
            vaddr: u64_at(phdr, 16)?,
            filesz: u64_at(phdr, 32)?,
            memsz: u64_at(phdr, 40)?,
            align: u64_at(phdr, 48)?,
            read: flags & 4 != 0,
            write: flags & 2 != 0,
            exec: flags & 1 != 0,
        };
        if segment.memsz == 0 {
            return Ok(());
        }
        // Where nothing is of the file, the place in the file does not matter.
        let aligned = segment.filesz == 0 || (segment.vaddr ^ segment.offset) & (PAGE - 1) == 0;
        let fits = segment.vaddr.checked_add(segment.memsz).is_some_and(|end| end <= USER_TOP)
            && segment.filesz <= segment.memsz
            && segment.offset.checked_add(segment.filesz).is_some_and(|end| end < i64::MAX as u64);
        if !fits || !aligned {
            self.broken = true;
            return Ok(());
        }
        self.segments.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.segments.push(segment);
        Ok(())
    }

    /// First page and first page after all segments, as linked.
    pub fn range(&self) -> core::ops::Range<u64> {
        let start = self.segments.iter().map(|segment| page_down(segment.vaddr)).min();
        let end = self.segments.iter().map(|segment| page_up(segment.end())).max();
        start.unwrap_or(0)..end.unwrap_or(0)
    }

    /// Largest alignment that a segment asks for, at least a page.
    pub fn align(&self) -> u64 {
        let wanted = self.segments.iter().map(|segment| segment.align).filter(|align| align.is_power_of_two());
        wanted.max().unwrap_or(PAGE).clamp(PAGE, 1 << 30)
    }

    /// The linked address of the program headers, if a segment holds them.
    pub fn phdr_addr(&self, header: &Header) -> Option<u64> {
        let holds = |segment: &&Segment| {
            segment.offset <= header.phoff
                && header.phoff + header.phdrs_len() as u64 <= segment.offset + segment.filesz
        };
        let segment = self.segments.iter().find(holds)?;
        Some(segment.vaddr + (header.phoff - segment.offset))
    }
}

impl Segment {
    /// First address after it.
    pub fn end(&self) -> u64 {
        self.vaddr + self.memsz
    }
}

/// `addr` rounded down to a page.
pub const fn page_down(addr: u64) -> u64 {
    addr & !(PAGE - 1)
}

/// `addr` rounded up to a page.
pub const fn page_up(addr: u64) -> u64 {
    page_down(addr.saturating_add(PAGE - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn own_file() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    fn phdr(vaddr: u64, memsz: u64, filesz: u64, offset: u64) -> Vec<u8> {
        let mut bytes = vec![];
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(5_u32.to_le_bytes());
        for word in [offset, vaddr, vaddr, filesz, memsz, PAGE] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn this_test_program_parses() {
        let file = own_file();
        let header = Header::parse(&file).unwrap();
        let start = header.phoff as usize;
        let program = Program::parse(&file[start..start + header.phdrs_len()]).unwrap();
        assert!(header.is_dyn && !program.exec_stack);
        assert!(program.segments.len() >= 2);
        let (offset, len) = program.interp.unwrap();
        let name = &file[offset as usize..(offset + len) as usize];
        assert!(name.starts_with(b"/lib"));
        assert_eq!(program.phdr_addr(&header), Some(64));
    }

    #[test]
    fn every_cut_of_a_header_is_refused_and_never_panics() {
        let file = own_file();
        for len in 0..HEADER_LEN {
            assert_eq!(Header::parse(&file[..len.min(57)]), Err(Errno::ENOEXEC));
        }
    }

    #[test]
    fn damaged_headers_never_panic() {
        let file = own_file();
        for at in 0..HEADER_LEN {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = file[..HEADER_LEN].to_vec();
                bytes[at] = value;
                let _ = Header::parse(&bytes);
            }
        }
        let start = Header::parse(&file).unwrap().phoff as usize;
        for at in 0..PHDR_LEN * 12 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = file[start..start + PHDR_LEN * 12].to_vec();
                bytes[at] = value;
                if let Ok(program) = Program::parse(&bytes) {
                    assert!(program.range().end <= USER_TOP && program.align().is_power_of_two());
                }
            }
        }
    }

    #[test]
    fn segments_must_fit() {
        let broken = |phdr: &[u8]| Program::parse(phdr).map(|program| program.broken);
        assert_eq!(broken(&phdr(0x1000, 0x1000, 0x1000, 0)), Ok(false));
        assert_eq!(broken(&phdr(0x1000, 0x1000, 0, 8)), Ok(false));
        assert_eq!(broken(&phdr(USER_TOP, 0x1000, 0, 0)), Ok(true));
        assert_eq!(broken(&phdr(u64::MAX - 4095, 0x1000, 0, 0)), Ok(true));
        assert_eq!(broken(&phdr(0x1000, 0x1000, 0x2000, 0)), Ok(true));
        assert_eq!(broken(&phdr(0x1000, 0x1000, 0x1000, 8)), Ok(true));
        assert_eq!(broken(&[]), Err(Errno::ENOEXEC));
    }

    #[test]
    fn segments_may_be_in_any_order_and_overlap() {
        let overlapping = [phdr(0x2000, 0x2000, 0, 0), phdr(0x1000, 0x2000, 0, 0)].concat();
        assert_eq!(Program::parse(&overlapping).map(|program| program.range()), Ok(0x1000..0x4000));
    }
}
