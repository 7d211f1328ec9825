//! What is particular to x86-64: segment bases. Source: arch_prctl(2).

use super::task::Task;
use crate::{Errno, Result};
use umbel_abi::machine::layout::USER_TOP;
use umbel_mm::user::{UserAddr, write_val};

const ARCH_SET_GS: u32 = 0x1001;
const ARCH_SET_FS: u32 = 0x1002;
const ARCH_GET_FS: u32 = 0x1003;
const ARCH_GET_GS: u32 = 0x1004;
const ARCH_GET_CPUID: u32 = 0x1011;
const ARCH_SET_CPUID: u32 = 0x1012;

/// # Errors
/// `EPERM` for bases outside guest memory.
pub fn check_base(base: u64) -> Result<u64> {
    if base < USER_TOP { Ok(base) } else { Err(Errno::EPERM) }
}

/// arch_prctl(2).
///
/// # Errors
/// `EINVAL` for unknown codes, `EPERM` for bad bases, `EFAULT`.
pub fn arch_prctl(task: &Task, code: u32, addr: u64) -> Result<u64> {
    let mut bases = task.user.bases();
    match code {
        ARCH_SET_FS => bases.fs = check_base(addr)?,
        ARCH_SET_GS => bases.gs = check_base(addr)?,
        ARCH_GET_FS => return write_val(UserAddr(addr), &bases.fs).map(|()| 0),
        ARCH_GET_GS => return write_val(UserAddr(addr), &bases.gs).map(|()| 0),
        ARCH_GET_CPUID => return Ok(1),
        ARCH_SET_CPUID => return Err(Errno::ENODEV),
        _ => return Err(Errno::EINVAL),
    }
    task.user.set_bases(bases);
    Ok(0)
}
