//! An assembler for classic BPF, and an interpreter for tests.

use alloc::vec::Vec;

/// `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

const LD_ABS: u16 = 0x20;
const LD_MEM: u16 = 0x60;
const ST: u16 = 0x02;
const TAX: u16 = 0x07;
const ADD_K: u16 = 0x04;
const ADD_X: u16 = 0x0c;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JGE_X: u16 = 0x3d;
const JSET: u16 = 0x45;
const RET: u16 = 0x06;

/// A place in the program, known at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program being written. Conditional jumps are two instructions, so no distance is too far.
pub(super) struct Builder {
    code: Vec<Insn>,
    /// Position of each label.
    labels: Vec<usize>,
    /// Unconditional jumps and where they go.
    jumps: Vec<(usize, Label)>,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder { code: Vec::new(), labels: Vec::new(), jumps: Vec::new() }
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    /// The label stands for the next instruction.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = self.code.len();
    }

    /// Loads the 32-bit field of `seccomp_data` at `offset`.
    pub(super) fn load(&mut self, offset: u32) {
        self.push(LD_ABS, 0, 0, offset);
    }

    pub(super) fn load_memory(&mut self, cell: u32) {
        self.push(LD_MEM, 0, 0, cell);
    }

    pub(super) fn store(&mut self, cell: u32) {
        self.push(ST, 0, 0, cell);
    }

    pub(super) fn copy_to_x(&mut self) {
        self.push(TAX, 0, 0, 0);
    }

    pub(super) fn add(&mut self, value: u32) {
        self.push(ADD_K, 0, 0, value);
    }

    pub(super) fn add_x(&mut self) {
        self.push(ADD_X, 0, 0, 0);
    }

    pub(super) fn ret(&mut self, value: u32) {
        self.push(RET, 0, 0, value);
    }

    pub(super) fn go(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JA, 0, 0, 0);
    }

    pub(super) fn if_eq(&mut self, value: u32, to: Label) {
        self.when(JEQ, value, to);
    }

    pub(super) fn if_ge(&mut self, value: u32, to: Label) {
        self.when(JGE, value, to);
    }

    pub(super) fn if_gt(&mut self, value: u32, to: Label) {
        self.when(JGT, value, to);
    }

    pub(super) fn if_ge_x(&mut self, to: Label) {
        self.when(JGE_X, 0, to);
    }

    pub(super) fn unless_eq(&mut self, value: u32, to: Label) {
        self.unless(JEQ, value, to);
    }

    pub(super) fn unless_ge(&mut self, value: u32, to: Label) {
        self.unless(JGE, value, to);
    }

    /// Goes to `to` if none of `bits` is set.
    pub(super) fn unless_bits(&mut self, bits: u32, to: Label) {
        self.unless(JSET, bits, to);
    }

    fn when(&mut self, op: u16, value: u32, to: Label) {
        self.push(op, 0, 1, value);
        self.go(to);
    }

    fn unless(&mut self, op: u16, value: u32, to: Label) {
        self.push(op, 1, 0, value);
        self.go(to);
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.code.push(Insn { code, jt, jf, k });
    }

    /// Resolves the jumps. All labels have been placed, behind the jumps to them.
    pub(super) fn finish(mut self) -> Vec<Insn> {
        for (at, to) in self.jumps {
            self.code[at].k = (self.labels[to.0] - at - 1) as u32;
        }
        self.code
    }
}

/// Runs a program on a `seccomp_data`.
#[cfg(test)]
pub(super) fn run(program: &[Insn], data: &[u8]) -> u32 {
    let (mut a, mut x, mut memory, mut pc) = (0u32, 0u32, [0u32; 16], 0usize);
    loop {
        let Insn { code, jt, jf, k } = program[pc];
        pc += 1;
        let mut branch = |taken: bool| pc += usize::from(if taken { jt } else { jf });
        match code {
            LD_ABS => a = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            LD_MEM => a = memory[k as usize],
            ST => memory[k as usize] = a,
            TAX => x = a,
            ADD_K => a = a.wrapping_add(k),
            ADD_X => a = a.wrapping_add(x),
            JEQ => branch(a == k),
            JGT => branch(a > k),
            JGE => branch(a >= k),
            JGE_X => branch(a >= x),
            JSET => branch(a & k != 0),
            JA => pc += k as usize,
            RET => return k,
            _ => panic!("code {code:#x}"),
        }
    }
}
