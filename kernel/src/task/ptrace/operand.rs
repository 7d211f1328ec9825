//! Which memory an instruction reads or writes: for watchpoints, which step through a program.
//!
//! Knows the forms of x86-64 by their operands, not by what they do: a memory operand, the stack, the strings, absolute
//! addresses. Of gathers and of what saves whole register files it knows the beginning, of AVX-512 nothing.
//! Source: the opcode maps of Intel's manual, volume 2, appendix A.

use umbel_gate::Regs;

/// Longest instruction.
pub const LONGEST: usize = 15;

/// Up to three places: address and length.
pub type Places = [(u64, u64); 3];

/// An instruction on its way: what the bytes so far have said.
struct Decoder<'a> {
    code: &'a [u8],
    /// Bytes in the beginning.
    all: usize,
    regs: &'a Regs,
    /// Base of the segment override.
    base: u64,
    rex: u8,
    /// Bytes of an operand: by prefixes, `REX.W` and vector length.
    word: u64,
    vector: u64,
    /// `F2`, `F3`, as prefix or folded into VEX.
    scalar: u8,
    narrow_addr: bool,
    /// The instruction that follows, to which some addresses are relative; `None`: it follows the memory operand at once.
    next: Option<u64>,
}

/// The places that the instruction at `regs.rip`, whose bytes are `code`, touches; lengths of 0 are none. `bases`: of fs and
/// gs. `next`: where it led.
pub fn places(code: &[u8], regs: &Regs, bases: (u64, u64), next: u64) -> Places {
    let new = Decoder {
        code,
        all: code.len(),
        regs,
        base: 0,
        rex: 0,
        word: 4,
        vector: 16,
        scalar: 0,
        narrow_addr: false,
        next: Some(next),
    };
    new.run(bases).unwrap_or_default()
}

impl Decoder<'_> {
    /// `None`: it touches none, or is not known here.
    fn run(mut self, bases: (u64, u64)) -> Option<Places> {
        loop {
            match *self.code.first()? {
                0x66 => self.word = 2,
                0x67 => self.narrow_addr = true,
                prefix @ (0xf2 | 0xf3) => self.scalar = prefix,
                0x64 => self.base = bases.0,
                0x65 => self.base = bases.1,
                0x26 | 0x2e | 0x36 | 0x3e | 0xf0 => {}
                _ => break,
            }
            self.byte()?;
        }
        if self.code.first()? >> 4 == 4 {
            self.rex = self.byte()?;
            if self.rex & 8 != 0 {
                self.word = 8;
            }
        }
        match self.byte()? {
            0x0f => match self.byte()? {
                0x38 | 0x3a => self.skip_opcode(),
                opcode => self.two_bytes(opcode),
            },
            0xc5 => self.vex(1),
            0xc4 => self.vex(2),
            opcode => self.one_byte(opcode),
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.code.split_first()?;
        self.code = rest;
        Some(*first)
    }

    fn skip_opcode(mut self) -> Option<Places> {
        self.byte()?;
        let len = self.vector;
        self.operand(len)
    }

    /// VEX with `len` bytes after its first.
    fn vex(mut self, len: usize) -> Option<Places> {
        let first = self.byte()?;
        // R, X and B are inverted; the short form has R only.
        self.rex = (first >> 5 ^ 7) & if len == 1 { 4 } else { 7 };
        let last = if len == 1 { first } else { self.byte()? };
        if len == 2 && last & 0x80 != 0 {
            self.word = 8;
        }
        self.scalar = [0, 0, 0xf3, 0xf2][usize::from(last & 3)];
        self.vector = if last & 4 != 0 { 32 } else { 16 };
        if len == 2 && first & 31 != 1 {
            return self.skip_opcode();
        }
        let opcode = self.byte()?;
        self.two_bytes(opcode)
    }

    fn one_byte(mut self, opcode: u8) -> Option<Places> {
        let word = self.word;
        let sized = if opcode & 1 == 0 { 1 } else { word };
        let (push, pop) = ((self.regs.rsp.wrapping_sub(8), 8), (self.regs.rsp, 8));
        let (source, target) = ((self.base.wrapping_add(self.regs.rsi), sized), (self.regs.rdi, sized));
        let one = |place| Some([place, (0, 0), (0, 0)]);
        match opcode {
            0x00..=0x3f if opcode & 7 < 4 => self.operand(sized),
            0x50..=0x57 | 0x68 | 0x6a | 0x9c | 0xe8 | 0xc8 => one(push),
            0x58..=0x5f | 0x9d | 0xc2 | 0xc3 => one(pop),
            0xc9 => one((self.regs.rbp, 8)),
            0x63 => self.operand(4),
            0x69 | 0x6b => self.operand(word),
            0x8d => None,
            0x8c | 0x8e => self.operand(2),
            0x8f => Some([pop, self.operand(word)?[0], (0, 0)]),
            0x80..=0x8b | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xf6 | 0xf7 | 0xfe => self.operand(sized),
            0xd8..=0xdf => self.operand(if opcode & 1 == 0 { 4 } else { 8 }),
            0xff => match self.code.first()? >> 3 & 7 {
                4 => {
                    self.next = None;
                    self.operand(8)
                }
                2 => {
                    self.next = None;
                    Some([push, self.operand(8)?[0], (0, 0)])
                }
                6 => Some([push, self.operand(8)?[0], (0, 0)]),
                _ => self.operand(word),
            },
            0xa4..=0xa7 => Some([source, target, (0, 0)]),
            0xaa | 0xab | 0xae | 0xaf => one(target),
            0xac | 0xad => one(source),
            0xa0..=0xa3 => {
                let address = self.code.get(..8)?.try_into().map(u64::from_le_bytes).ok()?;
                one((self.base.wrapping_add(address), sized))
            }
            0xd7 => one((self.base.wrapping_add(self.regs.rbx).wrapping_add(self.regs.rax & 0xff), 1)),
            _ => None,
        }
    }

    fn two_bytes(self, opcode: u8) -> Option<Places> {
        let word = self.word;
        let scalar = match self.scalar {
            0xf3 => 4,
            0xf2 => 8,
            _ => self.vector,
        };
        match opcode {
            // Without a memory operand, or one that is only looked up.
            0x05..=0x0b | 0x0d | 0x0e | 0x18..=0x1f | 0x30..=0x37 | 0x77 | 0x80..=0x8f | 0xa2 | 0xaa | 0xc8..=0xcf => {
                None
            }
            0xa0 | 0xa8 => Some([(self.regs.rsp.wrapping_sub(8), 8), (0, 0), (0, 0)]),
            0xa1 | 0xa9 => Some([(self.regs.rsp, 8), (0, 0), (0, 0)]),
            0x90..=0x9f | 0xb0 | 0xc0 | 0xb6 | 0xbe => self.operand(1),
            0xb7 | 0xbf => self.operand(2),
            0x40..=0x4f | 0xa3..=0xa5 | 0xab..=0xad | 0xaf | 0xb1 | 0xb3 | 0xb8 | 0xba..=0xbd | 0xc1 | 0xc3 => {
                self.operand(word)
            }
            0x6e => self.operand(word.max(4)),
            0x7e if self.scalar != 0xf3 => self.operand(word.max(4)),
            0x12 | 0x13 | 0x16 | 0x17 | 0x7e | 0xd6 => self.operand(8),
            0xc7 => self.operand(2 * word.max(4)),
            _ => self.operand(scalar),
        }
    }

    /// The memory operand of the ModRM byte that comes next, of `len` bytes; none if it names a register.
    fn operand(mut self, len: u64) -> Option<Places> {
        let modrm = self.byte()?;
        let (mode, rm) = (modrm >> 6, modrm & 7);
        if mode == 3 {
            return None;
        }
        let mut address = 0_u64;
        let mut relative = false;
        match rm {
            4 => {
                let sib = self.byte()?;
                let (index, base) = ((sib >> 3 & 7) | (self.rex & 2) << 2, sib & 7);
                if index != 4 {
                    address = self.register(index) << (sib >> 6);
                }
                if base == 5 && mode == 0 {
                    address = address.wrapping_add(self.displacement(4)?);
                } else {
                    address = address.wrapping_add(self.register(base | (self.rex & 1) << 3));
                }
            }
            5 if mode == 0 => {
                address = self.displacement(4)?;
                relative = true;
            }
            _ => address = self.register(rm | (self.rex & 1) << 3),
        }
        match mode {
            1 => address = address.wrapping_add(self.displacement(1)?),
            2 => address = address.wrapping_add(self.displacement(4)?),
            _ => {}
        }
        if self.narrow_addr {
            address &= 0xffff_ffff;
        }
        address = address.wrapping_add(self.base);
        if relative {
            let after = self.regs.rip.wrapping_add((self.all - self.code.len()) as u64);
            address = address.wrapping_add(self.next.unwrap_or(after));
        }
        Some([(address, len), (0, 0), (0, 0)])
    }

    fn displacement(&mut self, len: usize) -> Option<u64> {
        let bytes = self.code.get(..len)?;
        let value = match *bytes {
            [one] => i64::from(one.cast_signed()),
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => return None,
        };
        self.code = self.code.get(len..)?;
        Some(value as u64)
    }

    fn register(&self, number: u8) -> u64 {
        let r = self.regs;
        let all = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15,
        ];
        all[usize::from(number & 15)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(code: &[u8]) -> (u64, u64) {
        let regs =
            Regs { rip: 0x1000, rsp: 0x8000, rax: 0x10, rbx: 0x20, r12: 0x400, rdi: 7, rsi: 9, ..Regs::default() };
        places(code, &regs, (0x9_0000, 0), 0x1000 + code.len() as u64)[0]
    }

    #[test]
    fn memory_operands_are_found() {
        assert_eq!(first(&[0x89, 0x03]), (0x20, 4), "mov %eax, (%rbx)");
        assert_eq!(first(&[0x66, 0x8b, 0x43, 0xfe]), (0x1e, 2), "mov -2(%rbx), %ax");
        assert_eq!(first(&[0x48, 0x89, 0x44, 0xc3, 8]), (0xa8, 8), "mov %rax, 8(%rbx,%rax,8)");
        assert_eq!(first(&[0xc6, 0x05, 0, 1, 0, 0, 5]), (0x1107, 1), "movb $5, 0x100(%rip)");
        assert_eq!(first(&[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0]), (0x9_0028, 8), "mov %fs:0x28, %rax");
        assert_eq!(first(&[0x41, 0x8b, 0x04, 0x24]), (0x400, 4), "mov (%r12), %eax");
        assert_eq!(first(&[0xf3, 0x0f, 0x10, 0x03]), (0x20, 4), "movss (%rbx), %xmm0");
        assert_eq!(first(&[0xc5, 0xfd, 0x6f, 0x03]), (0x20, 32), "vmovdqa (%rbx), %ymm0");
        assert_eq!(first(&[0xff, 0x25, 4, 0, 0, 0]), (0x100a, 8), "jmp *4(%rip)");
        assert_eq!(first(&[0x0f, 0xb6, 0x03]), (0x20, 1), "movzbl (%rbx), %eax");
    }

    #[test]
    fn so_are_the_stack_and_strings() {
        assert_eq!(first(&[0x55]), (0x7ff8, 8), "push %rbp");
        assert_eq!(first(&[0xc3]), (0x8000, 8), "ret");
        assert_eq!(first(&[0xf3, 0xaa]), (7, 1), "rep stos %al, (%rdi)");
        assert_eq!(first(&[0x48, 0xa5]), (9, 8), "movsq (%rsi), (%rdi)");
    }

    #[test]
    fn what_touches_no_memory_has_no_place() {
        for code in [&[0x89, 0xc3][..], &[0x48, 0x8d, 0x03], &[0x90], &[0x0f, 0x1f, 0x00], &[0xeb, 0], &[], &[0x66]] {
            assert_eq!(first(code), (0, 0), "{code:x?}");
        }
    }
}
