//! Debug registers: breakpoints and watchpoints of a tracee, without the processor's help.
//!
//! While one is set the tracee runs instruction by instruction: before each one [`before`] looks whether it is one to stop at,
//! after it [`after`] whether it wrote or touched what is watched. A write that puts the same value there is seen where the
//! instruction's operands tell ([`super::operand`]). What system calls do to memory is not seen, as with Linux where it is
//! asked for user mode only. Source: ptrace(2), Intel's manual, volume 3, chapter "Debug" (registers).

use super::operand::{self, LONGEST};
use super::{Traced, flag};
use crate::signal::{self, SIGTRAP, SigInfo};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use umbel_gate::{Exception, Regs};
use umbel_mm::UserAddr;

/// `u_debugreg` that cannot be used.
const ALIASES: core::ops::RangeInclusive<usize> = 4..=5;
const STATUS: usize = 6;
const CONTROL: usize = 7;
/// Bits of the status that read as ones.
const STATUS_ONES: u64 = 0xffff_0ff0;
/// The status bit of a single step.
const STEPPED: u64 = 1 << 14;
/// Bits of the control register that are not kept.
const CONTROL_RESERVED: u64 = 0xffff_ffff_0000_fc00;
/// First address that is no user's on Linux.
const USER_END: u64 = 0x7fff_ffff_f000;
/// The exception's number: a step, as against `int3`.
const DEBUG_TRAP: u32 = 1;
/// `TRAP_HWBKPT`.
const TRAP_HWBKPT: i32 = 4;
const COUNT: usize = 4;

/// Kinds of access, in the control register.
mod kind {
    pub const EXECUTE: u64 = 0;
    #[cfg(test)]
    pub const WRITE: u64 = 1;
    pub const PORT: u64 = 2;
    pub const ACCESS: u64 = 3;
}

/// The registers of a tracee.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    addr: [u64; COUNT],
    status: u64,
    control: u64,
    /// The breakpoint here has been reported: the instruction runs.
    passed: Option<u64>,
}

/// One that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    index: usize,
    addr: u64,
    kind: u64,
    len: u64,
}

impl Registers {
    /// Register `index` as a debugger reads it.
    pub fn get(&self, index: usize) -> u64 {
        match index {
            STATUS => self.status ^ STATUS_ONES,
            CONTROL => self.control,
            _ => self.addr.get(index).copied().unwrap_or(0),
        }
    }

    /// Replaces register `index`.
    ///
    /// # Errors
    /// `EIO` for one that is none; `EINVAL` for the kernel's addresses, and for kinds and lengths that there are not.
    pub fn set(&mut self, index: usize, value: u64) -> Result<()> {
        let mut new = *self;
        match index {
            STATUS => new.status = value ^ STATUS_ONES,
            CONTROL => new.control = value & !CONTROL_RESERVED,
            _ if ALIASES.contains(&index) => return Err(Errno::EIO),
            _ => {
                *new.addr.get_mut(index).ok_or(Errno::EIO)? = value;
                if value >= USER_END {
                    return Err(Errno::EINVAL);
                }
            }
        }
        for point in new.points() {
            let aligned = point.addr.is_multiple_of(point.len);
            let known = point.kind != kind::PORT && (point.kind != kind::EXECUTE || point.len == 1);
            if !aligned || !known {
                return Err(Errno::EINVAL);
            }
        }
        *self = new;
        Ok(())
    }

    /// Whether any is set.
    pub fn any(&self) -> bool {
        self.control & 0xff != 0
    }

    fn points(&self) -> impl Iterator<Item = Point> {
        let Registers { addr, control, .. } = *self;
        addr.into_iter().enumerate().filter(move |(index, _)| control >> (2 * index) & 3 != 0).map(
            move |(index, addr)| {
                let bits = control >> (16 + 4 * index);
                let len = [1, 2, 8, 4][(bits >> 2 & 3) as usize];
                Point { index, addr, kind: bits & 3, len }
            },
        )
    }
}

/// What an instruction is looked at for, before it runs.
pub struct Look {
    registers: Registers,
    before: [u64; COUNT],
    regs: Regs,
}

/// Before the next instruction of a tracee that [`Traced::watches`]. `None`: it stands at a breakpoint, and a signal says so.
#[cold]
#[inline(never)]
pub fn before(task: &Arc<Task>) -> Option<Box<Look>> {
    let regs = task.user.regs();
    let (registers, hit) = task.trace.with(|state| {
        let registers = &mut state.debug;
        let here = |point: &Point| point.kind == kind::EXECUTE && point.addr == regs.rip;
        let hit = registers.points().filter(here).fold(0, |bits, point| bits | 1 << point.index);
        // An interrupt may come first: it is passed until a step has been made.
        if hit == 0 || registers.passed == Some(regs.rip) {
            return (*registers, false);
        }
        registers.passed = Some(regs.rip);
        registers.status = hit;
        (*registers, true)
    });
    if hit {
        signal::force_fault(task, SigInfo::fault(SIGTRAP, TRAP_HWBKPT, regs.rip));
        return None;
    }
    Some(Box::new(Look { registers, before: values(task, &registers), regs }))
}

/// After it. Returns whether `exception` is the step alone, of which nobody is to hear.
#[cold]
#[inline(never)]
pub fn after(task: &Arc<Task>, look: &Look, exception: Option<&Exception>) -> bool {
    let mine = exception.is_some_and(|exception| exception.trapno == DEBUG_TRAP);
    if !mine {
        return false;
    }
    let hit = touched(task, look);
    let steps = task.trace.has(flag::STEP);
    task.trace.with(|state| {
        state.debug.status = hit | if steps { STEPPED } else { 0 };
        state.debug.passed = None;
    });
    if hit != 0 && !steps {
        signal::force_fault(task, SigInfo::fault(SIGTRAP, TRAP_HWBKPT, task.user.regs().rip));
    }
    !steps
}

/// The bits of those that the instruction touched.
fn touched(task: &Task, look: &Look) -> u64 {
    let now = values(task, &look.registers);
    let mut code = [0; LONGEST];
    let len = task.space().and_then(|space| space.read_remote(UserAddr(look.regs.rip), &mut code).ok()).unwrap_or(0);
    let bases = task.user.bases();
    let next = task.user.regs().rip;
    let places = operand::places(code.get(..len).unwrap_or(&[]), &look.regs, (bases.fs, bases.gs), next);
    let overlaps = |point: &Point| {
        places.iter().any(|(addr, len)| *addr < point.addr + point.len && point.addr < addr.saturating_add(*len))
    };
    let mut bits = 0;
    for point in look.registers.points().filter(|point| point.kind != kind::EXECUTE) {
        let changed = now.get(point.index) != look.before.get(point.index);
        if changed || point.kind == kind::ACCESS && overlaps(&point) {
            bits |= 1 << point.index;
        }
    }
    bits
}

/// What stands where writes are watched.
fn values(task: &Task, registers: &Registers) -> [u64; COUNT] {
    let mut values = [0; COUNT];
    let Some(space) = task.space() else { return values };
    for point in registers.points().filter(|point| point.kind != kind::EXECUTE) {
        let mut bytes = [0; 8];
        let wanted = bytes.get_mut(..point.len as usize).unwrap_or(&mut []);
        // What is not mapped cannot change.
        let _ = space.read_remote(UserAddr(point.addr), wanted);
        if let Some(value) = values.get_mut(point.index) {
            *value = u64::from_le_bytes(bytes);
        }
    }
    values
}

impl Traced {
    /// Whether it runs instruction by instruction, for its debug registers.
    #[inline]
    pub fn watches(&self) -> bool {
        self.has(flag::WATCH)
    }

    /// execve(2): what they point at is gone.
    pub fn forget_points(&self) {
        if self.watches() {
            self.with(|state| state.debug = Registers::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_hold_what_linux_lets_them_hold() {
        let mut registers = Registers::default();
        assert_eq!(registers.get(STATUS), STATUS_ONES);
        assert_eq!(registers.set(0, 0x1001), Ok(()));
        assert_eq!(registers.set(0, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(registers.set(4, 1), Err(Errno::EIO));
        assert_eq!(registers.set(CONTROL, 0xd_0001), Err(Errno::EINVAL), "four bytes at an odd address");
        assert_eq!(registers.set(CONTROL, 0x2_0001), Err(Errno::EINVAL), "ports");
        assert_eq!(registers.set(CONTROL, 0x4_0001), Err(Errno::EINVAL), "two bytes of code");
        assert_eq!(registers.set(CONTROL, 0x1_0001), Ok(()));
        assert_eq!((registers.get(0), registers.get(CONTROL)), (0x1001, 0x1_0001));
        let point = Point { index: 0, addr: 0x1001, kind: kind::WRITE, len: 1 };
        assert!(registers.points().eq([point]));
    }
}
