//! Just enough of x86-64's instruction lengths to walk from a system call to the padding behind its function.
//!
//! Unknown instructions (VEX, EVEX, 16-bit addresses) end the walk. Source: Intel SDM volume 2, appendix A.

/// Longest way that a short jump can go.
const REACH: usize = 127;
/// Bytes of the jump that the padding must hold.
const NEEDED: usize = 5;
/// Functions and loop heads are aligned to this; padding ends there.
const ALIGN: usize = 16;

/// Offset of padding that is never executed, at most [`REACH`] bytes behind `start` (the start of an instruction).
pub(super) fn padding_after(code: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while at <= start + REACH {
        let rest = code.get(at..)?;
        let len = length(rest)?;
        let ends = is_end(rest);
        at += len;
        if ends {
            let padding = no_ops(code.get(at..)?);
            if padding >= NEEDED && (at + padding).is_multiple_of(ALIGN) && at <= start + REACH {
                return Some(at);
            }
        }
    }
    None
}

/// Whether control never passes the instruction: a return or an unconditional jump.
fn is_end(code: &[u8]) -> bool {
    match code {
        [0xc3 | 0xc2 | 0xe9 | 0xeb, ..] | [0xf3 | 0xf2, 0xc3, ..] | [0x0f, 0x0b, ..] => true,
        [0xff, modrm, ..] | [0x3e, 0xff, modrm, ..] => (modrm >> 3) & 7 == 4,
        _ => false,
    }
}

/// Bytes of no-ops at the start of `code`, in whole instructions.
fn no_ops(code: &[u8]) -> usize {
    let mut at = 0;
    while let Some(rest) = code.get(at..) {
        let prefixes = rest.iter().take_while(|&&byte| matches!(byte, 0x66 | 0x2e)).count();
        let is_no_op = matches!(&rest[prefixes..], [0x90, ..] | [0x0f, 0x1f, ..]) || rest.first() == Some(&0xcc);
        match length(rest) {
            Some(len) if is_no_op => at += len,
            _ => break,
        }
    }
    at
}

/// Bytes of the instruction at the start of `code`.
fn length(code: &[u8]) -> Option<usize> {
    let prefixes =
        code.iter().take_while(|&&b| matches!(b, 0x66 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65));
    let mut at = prefixes.count();
    let short = code[..at].contains(&0x66);
    let wide = code.get(at).is_some_and(|&b| matches!(b, 0x48..=0x4f));
    if code.get(at).is_some_and(|&b| matches!(b, 0x40..=0x4f)) {
        at += 1;
    }
    let word = if short { 2 } else { 4 };
    let opcode = *code.get(at)?;
    at += 1;
    let (modrm, immediate) = match opcode {
        0x0f => {
            let second = *code.get(at)?;
            at += 1;
            match second {
                0x38 => (Some(at + 1), 0),
                0x3a => (Some(at + 1), 1),
                0x80..=0x8f => (None, 4),
                0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => (Some(at), 1),
                0x05 | 0x06 | 0x08 | 0x09 | 0x0b | 0x30..=0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => {
                    (None, 0)
                }
                _ => (Some(at), 0),
            }
        }
        0x00..=0x3f => match opcode & 7 {
            0..=3 => (Some(at), 0),
            4 => (None, 1),
            5 => (None, word),
            _ => return None,
        },
        0x50..=0x5f
        | 0x90..=0x99
        | 0x9b..=0x9f
        | 0xa4..=0xa7
        | 0xaa..=0xaf
        | 0xc3
        | 0xc9
        | 0xcc
        | 0xf4
        | 0xf8..=0xfd => (None, 0),
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => (Some(at), 0),
        0x68 | 0xa9 | 0xe8 | 0xe9 => (None, if matches!(opcode, 0xe8 | 0xe9) { 4 } else { word }),
        0x69 | 0x81 | 0xc7 => (Some(at), word),
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe0..=0xe3 | 0xeb => (None, 1),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => (Some(at), 1),
        0xa0..=0xa3 => (None, 8),
        0xb8..=0xbf => (None, if wide { 8 } else { word }),
        0xc2 => (None, 2),
        0xf6 => (Some(at), if has_test_immediate(code, at)? { 1 } else { 0 }),
        0xf7 => (Some(at), if has_test_immediate(code, at)? { word } else { 0 }),
        _ => return None,
    };
    let end = match modrm {
        Some(modrm) => modrm + operand(code, modrm)?,
        None => at,
    };
    Some(end + immediate).filter(|&end| end <= code.len())
}

/// Of opcodes f6 and f7, only `test` has an immediate operand.
fn has_test_immediate(code: &[u8], modrm: usize) -> Option<bool> {
    Some((code.get(modrm)? >> 3) & 7 < 2)
}

/// Bytes of the ModRM byte at `at` and what belongs to it.
fn operand(code: &[u8], at: usize) -> Option<usize> {
    let modrm = *code.get(at)?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return Some(1);
    }
    let (sib, base) = if rm == 4 { (1, *code.get(at + 1)? & 7) } else { (0, rm) };
    let displacement = match mode {
        0 if base == 5 => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    Some(1 + sib + displacement)
}

#[cfg(test)]
mod tests {
    use super::length;

    #[test]
    fn lengths_are_the_assemblers() {
        let cases: [&[u8]; 16] = [
            &[0x90],
            &[0x0f, 0x05],
            &[0x31, 0xc0],
            &[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff],
            &[0x77, 0x05],
            &[0x0f, 0x87, 1, 2, 3, 4],
            &[0x48, 0x8b, 0x0d, 1, 2, 3, 4],
            &[0xf7, 0xd8],
            &[0x64, 0x89, 0x01],
            &[0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff],
            &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
            &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x8b, 0x44, 0x24, 0x08],
            &[0xf6, 0x05, 1, 2, 3, 4, 5],
            &[0x66, 0xc7, 0x00, 1, 2],
            &[0xe8, 1, 2, 3, 4],
        ];
        for case in cases {
            let mut code = case.to_vec();
            code.extend([0xf4; 16]);
            assert_eq!(length(&code), Some(case.len()), "{case:x?}");
        }
        assert_eq!(length(&[0xc5, 0xf8, 0x77]), None, "VEX");
    }
}
