//! Restartable sequences. Source: rseq(2), `include/uapi/linux/rseq.h`.
//!
//! On the way out to guest code a registered thread finds its virtual CPU in its `struct rseq`; if it was switched away from,
//! moved or is about to run a handler, a critical section that it stands in goes on at its abort address.
//!
//! Used by: the run loop ([`update`]), signal delivery ([`abort`]), exec and clone. No locks.

use super::{Process, Task, ids};
use crate::fs::plain;
use crate::{Errno, Result};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use umbel_gate::Regs;
use umbel_mm::user::{read_val, write_val};
use umbel_mm::{UserAddr, user};
use umbel_smp::cpu;

/// Bytes of the first version of `struct rseq`; the least that is registered.
const LEN_MIN: u32 = 32;
const ALIGN: u64 = 32;
/// Members that this kernel fills, up to `mm_cid`: `AT_RSEQ_FEATURE_SIZE`.
pub const FEATURE_LEN: u64 = 28;
const UNREGISTER: u32 = 1;
/// Offset of `rseq_cs`.
const CS: u64 = 8;
/// `cpu_id` of a thread that is not registered.
const CPU_UNINITIALIZED: u32 = u32::MAX;

/// A thread's registration. Touched by the thread itself.
#[derive(Debug, Default)]
pub struct Rseq {
    /// 0 = none.
    addr: AtomicU64,
    len: AtomicU32,
    signature: AtomicU32,
    /// Switches of the thread when its CPU was last shown, and that CPU + 1.
    switches: AtomicU64,
    shown: AtomicU32,
}

/// `struct rseq_cs`.
struct Section {
    start: u64,
    len: u64,
    abort: u64,
}

impl Rseq {
    /// For a child that gets a copy of the address space.
    pub fn copy(&self) -> Rseq {
        Rseq {
            addr: AtomicU64::new(self.addr.load(Relaxed)),
            len: AtomicU32::new(self.len.load(Relaxed)),
            signature: AtomicU32::new(self.signature.load(Relaxed)),
            switches: AtomicU64::new(0),
            shown: AtomicU32::new(0),
        }
    }

    /// execve(2): the registration goes with the memory.
    pub fn clear(&self) {
        self.addr.store(0, Relaxed);
    }

    /// What a tracer is told: `struct ptrace_rseq_configuration`.
    pub fn configuration(&self) -> [u8; 24] {
        let addr = self.addr.load(Relaxed);
        let (len, signature) = if addr == 0 { (0, 0) } else { (self.len.load(Relaxed), self.signature.load(Relaxed)) };
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&addr.to_ne_bytes());
        bytes[8..12].copy_from_slice(&len.to_ne_bytes());
        bytes[12..16].copy_from_slice(&signature.to_ne_bytes());
        bytes
    }

    fn section(&self, addr: u64) -> Result<Option<Section>> {
        let at: u64 = read_val(UserAddr(addr + CS))?;
        if at == 0 {
            return Ok(None);
        }
        let [head, start, len, abort]: [u64; 4] = read_val(UserAddr(at))?;
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        let version = head as u32;
        if version != 0 || user::access_ok(UserAddr(end), 0).is_err() || abort.wrapping_sub(start) < len {
            return Err(Errno::EINVAL);
        }
        let signature: u32 = read_val(UserAddr(abort.checked_sub(4).ok_or(Errno::EINVAL)?))?;
        if signature != self.signature.load(Relaxed) {
            return Err(Errno::EINVAL);
        }
        Ok(Some(Section { start, len, abort }))
    }
}

/// rseq(2).
///
/// # Errors
/// `EINVAL`, `EFAULT`, `EBUSY` if this is registered already, `EPERM` for another signature.
pub fn register(task: &Task, addr: u64, len: u32, flags: u32, signature: u32) -> Result<()> {
    let rseq = &task.rseq;
    let registered = rseq.addr.load(Relaxed);
    let same = addr == registered && len == rseq.len.load(Relaxed);
    let signed = signature == rseq.signature.load(Relaxed);
    match (flags, registered) {
        (UNREGISTER, 0) => return Err(Errno::EINVAL),
        (UNREGISTER, _) if !same => return Err(Errno::EINVAL),
        (UNREGISTER, _) if !signed => return Err(Errno::EPERM),
        (UNREGISTER, _) => {
            write_val(UserAddr(addr), &[0, CPU_UNINITIALIZED])?;
            rseq.clear();
            return Ok(());
        }
        (0, 0) => {}
        (0, _) if !same => return Err(Errno::EINVAL),
        (0, _) if !signed => return Err(Errno::EPERM),
        (0, _) => return Err(Errno::EBUSY),
        _ => return Err(Errno::EINVAL),
    }
    if len < LEN_MIN || !addr.is_multiple_of(ALIGN) {
        return Err(Errno::EINVAL);
    }
    user::access_ok(UserAddr(addr), len as usize)?;
    write_val(UserAddr(addr + CS), &0_u64)?;
    rseq.len.store(len, Relaxed);
    rseq.signature.store(signature, Relaxed);
    rseq.shown.store(0, Relaxed);
    rseq.addr.store(addr, Relaxed);
    Ok(())
}

/// Shows the thread its CPU, and aborts its critical section, if it was switched or moved. Returns whether there was
/// anything to do: the thread may have been switched again meanwhile.
///
/// # Errors
/// `EFAULT`, `EINVAL`: the structures are not there or make no sense; the caller forces SIGSEGV.
pub fn update(task: &Task) -> Result<bool> {
    let rseq = &task.rseq;
    let addr = rseq.addr.load(Relaxed);
    if addr == 0 {
        return Ok(false);
    }
    let (switches, cpu) = (task.sched.switches(), cpu::this().id());
    if rseq.switches.load(Relaxed) == switches && rseq.shown.load(Relaxed) == cpu + 1 {
        return Ok(false);
    }
    rseq.switches.store(switches, Relaxed);
    rseq.shown.store(cpu + 1, Relaxed);
    abort_section(task, addr)?;
    write_val(UserAddr(addr), &[cpu, cpu])?;
    // No two threads run on one virtual CPU at a time, so its number serves as concurrency id too.
    write_val(UserAddr(addr + 20), &[0, cpu])?;
    Ok(true)
}

/// Every critical section that a thread of `process` is in ends before its next instruction (`MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ`).
pub fn restart_all(process: &Process) {
    let threads = ids::table().node(process.pid()).map(|node| node.threads.clone()).unwrap_or_default();
    for thread in threads {
        // As if it had been moved to another CPU.
        thread.rseq.shown.store(0, SeqCst);
    }
    // Whoever had looked just before, on its way to guest code, is there after the first time; all others come by again.
    plain::settle();
    plain::settle();
}

/// A handler is about to run: the critical section ends first, so that the frame has the abort address.
///
/// # Errors
/// As [`update`].
pub fn abort(task: &Task, regs: &mut Regs) -> Result<()> {
    match task.rseq.addr.load(Relaxed) {
        0 => Ok(()),
        addr => abort_at(task, addr, regs),
    }
}

fn abort_section(task: &Task, addr: u64) -> Result<()> {
    let mut regs = task.user.regs();
    let before = regs.rip;
    abort_at(task, addr, &mut regs)?;
    if regs.rip != before {
        task.user.set_regs(&regs);
    }
    Ok(())
}

fn abort_at(task: &Task, addr: u64, regs: &mut Regs) -> Result<()> {
    let Some(section) = task.rseq.section(addr)? else { return Ok(()) };
    write_val(UserAddr(addr + CS), &0_u64)?;
    if regs.rip.wrapping_sub(section.start) < section.len {
        regs.rip = section.abort;
        regs.orig_rax = Regs::NO_SYSCALL;
    }
    Ok(())
}
