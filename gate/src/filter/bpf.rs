//! An assembler for classic BPF, and an interpreter for tests.

use alloc::vec::Vec;
pub use umbel_abi::linux::SockFilter as Insn;

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

/// A program being written. Jumps go forward only.
pub(super) struct Builder {
    items: Vec<Item>,
    /// Item that each label stands before.
    labels: Vec<usize>,
}

/// An instruction whose targets are still labels.
#[derive(Clone, Copy)]
enum Item {
    Plain(u16, u32),
    /// Jump always.
    Go(Label),
    /// Jump if the condition holds, or if it does not.
    Branch {
        op: u16,
        value: u32,
        holds: bool,
        to: Label,
    },
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder { items: Vec::new(), labels: Vec::new() }
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    /// The label stands for the next instruction.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = self.items.len();
    }

    /// Loads the 32-bit field of `seccomp_data` at `offset`.
    pub(super) fn load(&mut self, offset: u32) {
        self.items.push(Item::Plain(LD_ABS, offset));
    }

    pub(super) fn load_memory(&mut self, cell: u32) {
        self.items.push(Item::Plain(LD_MEM, cell));
    }

    pub(super) fn store(&mut self, cell: u32) {
        self.items.push(Item::Plain(ST, cell));
    }

    pub(super) fn copy_to_x(&mut self) {
        self.items.push(Item::Plain(TAX, 0));
    }

    pub(super) fn add(&mut self, value: u32) {
        self.items.push(Item::Plain(ADD_K, value));
    }

    pub(super) fn add_x(&mut self) {
        self.items.push(Item::Plain(ADD_X, 0));
    }

    pub(super) fn ret(&mut self, value: u32) {
        self.items.push(Item::Plain(RET, value));
    }

    pub(super) fn go(&mut self, to: Label) {
        self.items.push(Item::Go(to));
    }

    pub(super) fn if_eq(&mut self, value: u32, to: Label) {
        self.branch(JEQ, value, true, to);
    }

    pub(super) fn if_ge(&mut self, value: u32, to: Label) {
        self.branch(JGE, value, true, to);
    }

    pub(super) fn if_gt(&mut self, value: u32, to: Label) {
        self.branch(JGT, value, true, to);
    }

    pub(super) fn if_ge_x(&mut self, to: Label) {
        self.branch(JGE_X, 0, true, to);
    }

    pub(super) fn unless_eq(&mut self, value: u32, to: Label) {
        self.branch(JEQ, value, false, to);
    }

    pub(super) fn unless_ge(&mut self, value: u32, to: Label) {
        self.branch(JGE, value, false, to);
    }

    /// Goes to `to` if none of `bits` is set.
    pub(super) fn unless_bits(&mut self, bits: u32, to: Label) {
        self.branch(JSET, bits, false, to);
    }

    fn branch(&mut self, op: u16, value: u32, holds: bool, to: Label) {
        self.items.push(Item::Branch { op, value, holds, to });
    }

    /// Resolves the jumps. All labels have been placed, behind the jumps to them. A branch too far for its eight bits
    /// becomes a branch around a jump.
    pub(super) fn finish(self) -> Vec<Insn> {
        let mut long: Vec<bool> = self.items.iter().map(|_| false).collect();
        loop {
            let starts = positions(&long);
            let distance = |at: usize, to: Label| starts[self.labels[to.0]] - starts[at + 1];
            let mut changed = false;
            for (at, item) in self.items.iter().enumerate() {
                if let Item::Branch { to, .. } = *item
                    && !long[at]
                    && distance(at, to) > usize::from(u8::MAX)
                {
                    long[at] = true;
                    changed = true;
                }
            }
            if !changed {
                let emit = |(at, item): (usize, &Item)| item.emit(long[at], |to| distance(at, to) as u32);
                return self.items.iter().enumerate().flat_map(emit).flatten().collect();
            }
        }
    }
}

/// Where each item starts, and the end.
fn positions(long: &[bool]) -> Vec<usize> {
    let mut at = 0;
    let mut starts = Vec::with_capacity(long.len() + 1);
    for &is_long in long {
        starts.push(at);
        at += 1 + usize::from(is_long);
    }
    starts.push(at);
    starts
}

impl Item {
    fn emit(self, long: bool, distance: impl Fn(Label) -> u32) -> [Option<Insn>; 2] {
        let insn = |code, jt, jf, k| Some(Insn { code, jt, jf, k });
        match self {
            Item::Plain(code, k) => [insn(code, 0, 0, k), None],
            Item::Go(to) => [insn(JA, 0, 0, distance(to)), None],
            Item::Branch { op, value, holds, to } if long => {
                let (jt, jf) = if holds { (0, 1) } else { (1, 0) };
                [insn(op, jt, jf, value), insn(JA, 0, 0, distance(to))]
            }
            Item::Branch { op, value, holds, to } => {
                let far = distance(to) as u8;
                let (jt, jf) = if holds { (far, 0) } else { (0, far) };
                [insn(op, jt, jf, value), None]
            }
        }
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
