//! Classic BPF programs: checking and running, over a system call's data (seccomp(2)) or over a packet (`SO_ATTACH_FILTER`).
//! Sources: seccomp(2), socket(7), `linux/filter.h`.

use crate::{Errno, Result};
use alloc::vec::Vec;
pub use umbel_abi::linux::SockFilter as Insn;
use umbel_mm::user::{UserAddr, read_vec};

/// What programs are for: each may do what the other may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Calls,
    Packets,
}

/// What a program looks at.
pub trait Data {
    /// Bytes of it.
    fn size(&self) -> u32;

    /// A number of `size` bytes at `at`. `None`: there is none, which ends the program with 0.
    fn load(&self, at: u32, size: u32) -> Option<u32>;
}

/// Words of `struct seccomp_data`.
pub const CALL_WORDS: usize = 16;
/// A system call.
pub type CallData = [u32; CALL_WORDS];

impl Data for CallData {
    fn size(&self) -> u32 {
        4 * CALL_WORDS as u32
    }

    fn load(&self, at: u32, _: u32) -> Option<u32> {
        self.get(at as usize / 4).copied()
    }
}

/// A packet, as a socket sees it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub bytes: &'a [u8],
    /// `ETH_P_*`, and `PACKET_*` for where it goes.
    pub protocol: u16,
    pub direction: u32,
    /// The index and the kind of its device.
    pub device: u32,
    pub hardware: u32,
    /// Where its network header begins.
    pub network: usize,
}

/// `SKF_*`: places that are no places in a packet.
mod place {
    pub const ANCILLARY: u32 = 0xffff_f000;
    pub const NETWORK: u32 = 0xfff0_0000;
    pub const LINK: u32 = 0xffe0_0000;
    /// Of the ancillary ones: `A ^= X`, and the last.
    pub const XOR_X: u32 = ANCILLARY + 40;
    pub const LAST: u32 = ANCILLARY + 60;
}

impl Packet<'_> {
    fn ancillary(&self, what: u32) -> Option<u32> {
        Some(match what {
            0 => u32::from(self.protocol),
            4 => self.direction,
            8 => self.device,
            28 => self.hardware,
            36 => umbel_smp::cpu::this().id(),
            52 => self.network as u32,
            56 => crate::random::next_u64() as u32,
            // No netlink attributes, marks, queues, hashes, VLANs.
            _ => 0,
        })
    }
}

impl Data for Packet<'_> {
    fn size(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn load(&self, at: u32, size: u32) -> Option<u32> {
        let start = match at {
            place::ANCILLARY.. => return self.ancillary(at - place::ANCILLARY),
            place::NETWORK.. => self.network + (at - place::NETWORK) as usize,
            place::LINK.. => (at - place::LINK) as usize,
            at => at as usize,
        };
        let bytes = self.bytes.get(start..start.checked_add(size as usize)?)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }
}

/// Most instructions of a program.
pub const LEN_MAX: usize = 4096;
const MEM_WORDS: u32 = 16;

/// Instruction classes (low three bits) and their parts.
mod op {
    pub const LD_W_ABS: u16 = 0x20;
    pub const LD_H_ABS: u16 = 0x28;
    pub const LD_B_ABS: u16 = 0x30;
    pub const LD_W_IND: u16 = 0x40;
    pub const LD_H_IND: u16 = 0x48;
    pub const LD_B_IND: u16 = 0x50;
    pub const LDX_B_MSH: u16 = 0xb1;
    pub const LD_W_LEN: u16 = 0x80;
    pub const LDX_W_LEN: u16 = 0x81;
    pub const LD_IMM: u16 = 0x00;
    pub const LDX_IMM: u16 = 0x01;
    pub const LD_MEM: u16 = 0x60;
    pub const LDX_MEM: u16 = 0x61;
    pub const ST: u16 = 0x02;
    pub const STX: u16 = 0x03;
    pub const ALU: u16 = 0x04;
    pub const JMP: u16 = 0x05;
    pub const JA: u16 = 0x05;
    pub const RET_K: u16 = 0x06;
    pub const RET_A: u16 = 0x16;
    pub const TAX: u16 = 0x07;
    pub const TXA: u16 = 0x87;
    pub const NEG: u16 = 0x84;
    /// The second operand is X, not the constant.
    pub const X: u16 = 0x08;
    pub const CLASS: u16 = 0x07;
}

/// A checked program: it ends, and touches nothing but its own memory and the data.
#[derive(Debug)]
pub struct Program(Vec<Insn>);

impl Program {
    /// Checks `code`.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(code: Vec<Insn>, kind: Kind) -> Result<Program> {
        if code.is_empty() || code.len() > LEN_MAX {
            return Err(Errno::EINVAL);
        }
        for (at, insn) in code.iter().enumerate() {
            if !is_allowed(insn, kind) || !jumps_within(insn, at, code.len()) {
                return Err(Errno::EINVAL);
            }
        }
        let returns = code.last().is_some_and(|insn| matches!(insn.code, op::RET_K | op::RET_A));
        if returns && memory_is_set(&code) { Ok(Program(code)) } else { Err(Errno::EINVAL) }
    }

    /// Reads and checks a program of the guest's: what `struct sock_fprog` names.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT`.
    pub fn read(len: u16, code: UserAddr, kind: Kind) -> Result<Program> {
        let len = usize::from(len);
        if len == 0 || len > LEN_MAX || code.is_null() {
            return Err(Errno::EINVAL);
        }
        let words: Vec<u64> = read_vec(code, len)?;
        let insn = |word: &u64| Insn {
            code: *word as u16,
            jt: (*word >> 16) as u8,
            jf: (*word >> 24) as u8,
            k: (*word >> 32) as u32,
        };
        Program::new(words.iter().map(insn).collect(), kind)
    }

    /// Number of instructions.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The program as it was read.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|insn| {
            u64::from(insn.code) | u64::from(insn.jt) << 16 | u64::from(insn.jf) << 24 | u64::from(insn.k) << 32
        })
    }

    /// What the program returns for `data`.
    pub fn run(&self, data: &impl Data) -> u32 {
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
        let mut memory = [0_u32; MEM_WORDS as usize];
        while let Some(&insn) = self.0.get(at) {
            at += 1;
            let k = insn.k;
            let slot = k as usize % memory.len();
            match insn.code {
                op::LD_W_ABS | op::LD_H_ABS | op::LD_B_ABS if k == place::XOR_X => a ^= x,
                op::LD_W_ABS | op::LD_H_ABS | op::LD_B_ABS | op::LD_W_IND | op::LD_H_IND | op::LD_B_IND => {
                    match data.load(place_of(&insn, x), size_of(insn.code)) {
                        Some(value) => a = value,
                        None => return 0,
                    }
                }
                op::LDX_B_MSH => match data.load(k, 1) {
                    Some(value) => x = 4 * (value & 0xf),
                    None => return 0,
                },
                op::LD_W_LEN => a = data.size(),
                op::LDX_W_LEN => x = data.size(),
                op::LD_IMM => a = k,
                op::LDX_IMM => x = k,
                op::LD_MEM => a = memory[slot],
                op::LDX_MEM => x = memory[slot],
                op::ST => memory[slot] = a,
                op::STX => memory[slot] = x,
                op::TAX => x = a,
                op::TXA => a = x,
                op::RET_K => return k,
                op::RET_A => return a,
                op::JA => at += k as usize,
                op::NEG => a = a.wrapping_neg(),
                code => {
                    let operand = if code & op::X != 0 { x } else { k };
                    if code & op::CLASS == op::JMP {
                        at += usize::from(if holds(code, a, operand) { insn.jt } else { insn.jf });
                    } else {
                        match compute(code, a, operand) {
                            Some(value) => a = value,
                            None => return 0,
                        }
                    }
                }
            }
        }
        0
    }
}

fn place_of(insn: &Insn, x: u32) -> u32 {
    if insn.code & 0xe0 == op::LD_W_IND { x.wrapping_add(insn.k) } else { insn.k }
}

fn size_of(code: u16) -> u32 {
    match code & 0x18 {
        0x08 => 2,
        0x10 => 1,
        _ => 4,
    }
}

fn holds(code: u16, a: u32, operand: u32) -> bool {
    match code & 0xf0 {
        0x10 => a == operand,
        0x20 => a > operand,
        0x30 => a >= operand,
        _ => a & operand != 0,
    }
}

/// `None`: a division by zero, which ends the program with 0.
fn compute(code: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match code & 0xf0 {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => a.checked_div(operand)?,
        0x40 => a | operand,
        0x50 => a & operand,
        0x60 => a.checked_shl(operand & 31).unwrap_or(0),
        0x70 => a.checked_shr(operand & 31).unwrap_or(0),
        0x90 => a.checked_rem(operand)?,
        _ => a ^ operand,
    })
}

fn is_allowed(insn: &Insn, kind: Kind) -> bool {
    let (k, packets) = (insn.k, kind == Kind::Packets);
    match insn.code {
        op::LD_W_ABS if !packets => k.is_multiple_of(4) && k < 4 * CALL_WORDS as u32,
        op::LD_W_ABS | op::LD_H_ABS | op::LD_B_ABS if packets => {
            k < place::ANCILLARY || (k <= place::LAST && k.is_multiple_of(4))
        }
        op::LD_W_IND | op::LD_H_IND | op::LD_B_IND | op::LDX_B_MSH => packets,
        op::LD_MEM | op::LDX_MEM | op::ST | op::STX => k < MEM_WORDS,
        op::LD_W_LEN | op::LDX_W_LEN | op::LD_IMM | op::LDX_IMM | op::TAX | op::TXA => true,
        op::RET_K | op::RET_A | op::NEG | op::JA => true,
        code if code & !0xf8 == op::ALU => match code & 0xf0 {
            0x30 => code & op::X != 0 || k != 0,
            0x90 => packets && (code & op::X != 0 || k != 0),
            0x60 | 0x70 => code & op::X != 0 || k < 32,
            0x00 | 0x10 | 0x20 | 0x40 | 0x50 | 0xa0 => true,
            _ => false,
        },
        code if code & !0xf8 == op::JMP => matches!(code & 0xf0, 0x10 | 0x20 | 0x30 | 0x40),
        _ => false,
    }
}

fn jumps_within(insn: &Insn, at: usize, len: usize) -> bool {
    let lands = |distance: usize| at + 1 + distance < len;
    match insn.code {
        op::JA => lands(insn.k as usize),
        code if code & op::CLASS == op::JMP => lands(insn.jt.into()) && lands(insn.jf.into()),
        _ => true,
    }
}

/// Whether every word of memory is stored before it is loaded, whichever way the program goes.
fn memory_is_set(code: &[Insn]) -> bool {
    let mut valid = 0_u16;
    // What is set on all ways that jump to an instruction.
    let mut at_target: Vec<u16> = alloc::vec![u16::MAX; code.len()];
    for (at, insn) in code.iter().enumerate() {
        valid &= at_target.get(at).copied().unwrap_or(0);
        let mut reach = |distance: usize, valid: u16| {
            if let Some(target) = at_target.get_mut(at + 1 + distance) {
                *target &= valid;
            }
        };
        match insn.code {
            op::ST | op::STX => valid |= 1 << (insn.k % MEM_WORDS),
            op::LD_MEM | op::LDX_MEM if valid & 1 << (insn.k % MEM_WORDS) == 0 => return false,
            op::JA => {
                reach(insn.k as usize, valid);
                valid = u16::MAX;
            }
            code if code & op::CLASS == op::JMP => {
                reach(insn.jt.into(), valid);
                reach(insn.jf.into(), valid);
                valid = u16::MAX;
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
        Insn { code, jt, jf, k }
    }

    #[test]
    fn a_program_chooses_by_the_number() {
        let code = Vec::from([insn(0x20, 0, 0, 0), insn(0x15, 0, 1, 39), insn(6, 0, 0, 7), insn(6, 0, 0, 9)]);
        let program = Program::new(code, Kind::Calls).unwrap();
        let mut data = [0; CALL_WORDS];
        assert_eq!(program.run(&data), 9);
        data[0] = 39;
        assert_eq!(program.run(&data), 7);
    }

    #[test]
    fn what_could_run_away_is_refused() {
        let ret = insn(6, 0, 0, 0);
        let refused = |code: &[Insn]| assert!(Program::new(code.to_vec(), Kind::Calls).is_err(), "{code:?}");
        refused(&[]);
        refused(&[insn(0, 0, 0, 1)]);
        refused(&[insn(5, 0, 0, 1), ret]);
        refused(&[insn(0x15, 1, 0, 0), ret]);
        refused(&[insn(0x20, 0, 0, 64), ret]);
        refused(&[insn(0x20, 0, 0, 2), ret]);
        refused(&[insn(0x34, 0, 0, 0), ret]);
        refused(&[insn(0x64, 0, 0, 32), ret]);
        refused(&[insn(0x60, 0, 0, 3), ret]);
        refused(&[insn(0x30, 0, 0, 0), ret]);
        refused(&[insn(0x15, 1, 0, 0), insn(2, 0, 0, 1), insn(0x60, 0, 0, 1), ret]);
        assert!(Program::new(Vec::from([insn(2, 0, 0, 1), insn(0x60, 0, 0, 1), ret]), Kind::Calls).is_ok());
    }

    #[test]
    fn arithmetic_wraps_and_a_division_by_zero_ends_it() {
        let run = |code: &[Insn]| Program::new(code.to_vec(), Kind::Calls).unwrap().run(&[3; CALL_WORDS]);
        assert_eq!(run(&[insn(0x20, 0, 0, 0), insn(0x14, 0, 0, 4), insn(0x16, 0, 0, 0)]), u32::MAX);
        assert_eq!(run(&[insn(0, 0, 0, 9), insn(1, 0, 0, 0), insn(0x3c, 0, 0, 0), insn(6, 0, 0, 5)]), 0);
        assert_eq!(
            run(&[insn(0, 0, 0, 9), insn(0x74, 0, 0, 1), insn(7, 0, 0, 0), insn(0x0c, 0, 0, 0), insn(0x16, 0, 0, 0)]),
            8
        );
    }
    #[test]
    fn packets_are_read_as_the_network_orders_bytes() {
        let ret_a = insn(0x16, 0, 0, 0);
        let packet =
            Packet { bytes: &[0x45, 0, 1, 2, 9], protocol: 0x800, direction: 4, device: 1, hardware: 772, network: 1 };
        let run = |code: &[Insn]| Program::new(code.to_vec(), Kind::Packets).unwrap().run(&packet);
        assert_eq!(run(&[insn(0x28, 0, 0, 2), ret_a]), 0x102);
        assert_eq!(run(&[insn(0x30, 0, 0, 4), ret_a]), 9);
        // Beyond the end.
        assert_eq!(run(&[insn(0x20, 0, 0, 2), insn(6, 0, 0, 7)]), 0);
        // X = 4 * (0x45 & 0xf); the byte at X - 16.
        assert_eq!(run(&[insn(0xb1, 0, 0, 0), insn(0x50, 0, 0, 0xffff_fff0), ret_a]), 9);
        assert_eq!(run(&[insn(0x28, 0, 0, place::ANCILLARY), ret_a]), 0x800);
        assert_eq!(run(&[insn(0x30, 0, 0, place::NETWORK + 2), ret_a]), 2);
        assert!(Program::new(Vec::from([insn(0x30, 0, 0, place::LAST + 4), ret_a]), Kind::Packets).is_err());
    }
}
