//! A tracee's registers, in the layouts of `struct user` and of core files' notes.

use crate::task::Task;
use crate::task::arch::check_base;
use crate::{Errno, Result};
use alloc::vec::Vec;
use umbel_gate::{Regs, fpu};

/// Words of `struct user_regs_struct`.
pub const COUNT: usize = 27;
/// Offset and end of `u_debugreg` in `struct user`.
const DEBUG_REGS: core::ops::Range<u64> = 848..912;
/// Bytes of `struct user`.
const USER_LEN: u64 = 912;
/// Bytes of the legacy FPU image (`struct user_fpregs_struct`).
pub const FPREGS_LEN: usize = 512;
/// Where the components in use stand in an extended image.
const XCR0_AT: usize = 464;

const FS_BASE: usize = 21;
const GS_BASE: usize = 22;

/// The registers before the bases, in the order of `struct user_regs_struct`.
fn in_order(r: &mut Regs) -> [&mut u64; FS_BASE] {
    [
        &mut r.r15,
        &mut r.r14,
        &mut r.r13,
        &mut r.r12,
        &mut r.rbp,
        &mut r.rbx,
        &mut r.r11,
        &mut r.r10,
        &mut r.r9,
        &mut r.r8,
        &mut r.rax,
        &mut r.rcx,
        &mut r.rdx,
        &mut r.rsi,
        &mut r.rdi,
        &mut r.orig_rax,
        &mut r.rip,
        &mut r.cs,
        &mut r.rflags,
        &mut r.rsp,
        &mut r.ss,
    ]
}

/// All registers.
pub fn get(task: &Task) -> [u64; COUNT] {
    let mut words = [0; COUNT];
    let mut regs = task.user.regs();
    for (word, register) in words.iter_mut().zip(in_order(&mut regs)) {
        *word = *register;
    }
    let bases = task.user.bases();
    (words[FS_BASE], words[GS_BASE]) = (bases.fs, bases.gs);
    words
}

/// Replaces all registers; segments and privileged flags stay what guests have.
///
/// # Errors
/// `EIO` for bases outside guest memory.
pub fn set(task: &Task, words: &[u64; COUNT]) -> Result<()> {
    let base = |index: usize| check_base(words[index]).map_err(|_| Errno::EIO);
    let (fs, gs) = (base(FS_BASE)?, base(GS_BASE)?);
    let mut regs = task.user.regs();
    for (register, word) in in_order(&mut regs).into_iter().zip(words) {
        *register = *word;
    }
    regs.sanitize();
    task.user.set_regs(&regs);
    let mut bases = task.user.bases();
    if (bases.fs, bases.gs) != (fs, gs) {
        (bases.fs, bases.gs) = (fs, gs);
        task.user.set_bases(bases);
    }
    Ok(())
}

/// A word of `struct user`.
///
/// # Errors
/// `EIO` outside it.
pub fn peek(task: &Task, offset: u64) -> Result<u64> {
    if !offset.is_multiple_of(8) || offset >= USER_LEN {
        return Err(Errno::EIO);
    }
    if DEBUG_REGS.contains(&offset) {
        return Ok(task.trace.with(|state| state.debug.get(((offset - DEBUG_REGS.start) / 8) as usize)));
    }
    Ok(get(task).get((offset / 8) as usize).copied().unwrap_or(0))
}

/// Replaces a word of `struct user`.
///
/// # Errors
/// `EIO` outside the registers, `EINVAL` for what a debug register cannot be.
pub fn poke(task: &Task, offset: u64, value: u64) -> Result<()> {
    if !offset.is_multiple_of(8) || offset >= USER_LEN {
        return Err(Errno::EIO);
    }
    if DEBUG_REGS.contains(&offset) {
        return task.trace.with(|state| state.debug.set(((offset - DEBUG_REGS.start) / 8) as usize, value));
    }
    let mut words = get(task);
    *words.get_mut((offset / 8) as usize).ok_or(Errno::EIO)? = value;
    set(task, &words)
}

/// The FPU image in the XSAVE format, with the components in use where debuggers look for them.
///
/// # Errors
/// `ENOMEM`.
pub fn xstate(task: &Task) -> Result<Vec<u8>> {
    let mut image = Vec::new();
    image.try_reserve_exact(fpu::len()).map_err(|_| Errno::ENOMEM)?;
    task.user.with_fpu_image(|bytes| image.extend_from_slice(bytes));
    if let Some(place) = image.get_mut(XCR0_AT..XCR0_AT + 8) {
        place.copy_from_slice(&fpu::mask().to_le_bytes());
    }
    Ok(image)
}

/// Replaces the FPU state by an image in the XSAVE format.
///
/// # Errors
/// `EFAULT` if it is not whole.
pub fn set_xstate(task: &Task, image: &[u8]) -> Result<()> {
    if image.len() < fpu::len() {
        return Err(Errno::EFAULT);
    }
    task.user.load_fpu_image(image);
    Ok(())
}

/// Replaces x87 and SSE registers.
///
/// # Errors
/// `EINVAL` unless `legacy` is [`FPREGS_LEN`] bytes; `ENOMEM`.
pub fn set_fpregs(task: &Task, legacy: &[u8]) -> Result<()> {
    let mut image = xstate(task)?;
    image
        .get_mut(..FPREGS_LEN)
        .ok_or(Errno::EINVAL)?
        .get_mut(..legacy.len())
        .ok_or(Errno::EINVAL)?
        .copy_from_slice(legacy);
    if let Some(components) = image.get_mut(umbel_abi::linux::XSAVE_HEADER) {
        *components |= 3;
    }
    task.user.load_fpu_image(&image);
    Ok(())
}
