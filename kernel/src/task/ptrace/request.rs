//! What ptrace(2) asks for, request by request. Source: ptrace(2), `kernel/ptrace.c` of Linux (behaviour).

use super::relation::{self, Start};
use super::{Event, Mode, Options, State, Stop, memory, registers};
use crate::signal::{self, SigInfo, UNBLOCKABLE};
use crate::task::{self, Task};
use crate::{Errno, Pid, Result, sched};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_mm::UserAddr;
use umbel_mm::io::IoVec;
use umbel_mm::user::{copy_out, read_val, read_vec, write_val};

/// `PTRACE_*`.
mod op {
    pub const TRACEME: u32 = 0;
    pub const PEEKTEXT: u32 = 1;
    pub const PEEKDATA: u32 = 2;
    pub const PEEKUSER: u32 = 3;
    pub const POKETEXT: u32 = 4;
    pub const POKEDATA: u32 = 5;
    pub const POKEUSER: u32 = 6;
    pub const CONT: u32 = 7;
    pub const KILL: u32 = 8;
    pub const SINGLESTEP: u32 = 9;
    pub const GETREGS: u32 = 12;
    pub const SETREGS: u32 = 13;
    pub const GETFPREGS: u32 = 14;
    pub const SETFPREGS: u32 = 15;
    pub const ATTACH: u32 = 16;
    pub const DETACH: u32 = 17;
    pub const SYSCALL: u32 = 24;
    pub const ARCH_PRCTL: u32 = 30;
    pub const SYSEMU: u32 = 31;
    pub const SETOPTIONS: u32 = 0x4200;
    pub const GETEVENTMSG: u32 = 0x4201;
    pub const GETSIGINFO: u32 = 0x4202;
    pub const SETSIGINFO: u32 = 0x4203;
    pub const GETREGSET: u32 = 0x4204;
    pub const SETREGSET: u32 = 0x4205;
    pub const SEIZE: u32 = 0x4206;
    pub const INTERRUPT: u32 = 0x4207;
    pub const LISTEN: u32 = 0x4208;
    pub const GETSIGMASK: u32 = 0x420a;
    pub const SETSIGMASK: u32 = 0x420b;
}

/// ptrace(2), by the raw call's conventions: what is peeked goes to `data`.
///
/// # Errors
/// See ptrace(2).
pub fn ptrace(task: &Arc<Task>, request: u32, pid: Pid, addr: u64, data: u64) -> Result<()> {
    if request == op::TRACEME {
        return relation::trace_me(task);
    }
    let target = task::find_task(pid).ok_or(Errno::ESRCH)?;
    match request {
        op::ATTACH => return relation::attach(task, &target, Start::default()),
        op::SEIZE => return seize(task, &target, addr, data),
        _ => {}
    }
    if !target.trace.tracer_task().is_some_and(|tracer| Arc::ptr_eq(&tracer, task)) {
        return Err(Errno::ESRCH);
    }
    match request {
        op::INTERRUPT => return interrupt(&target),
        op::KILL => {
            signal::send_to_task(
                &target,
                SigInfo::kill(signal::SIGKILL, target.process().sees(task.process().pid()), task.cred().uid),
            );
            return Ok(());
        }
        _ => {}
    }
    if !with_stop(&target, |_, stop| Ok(!stop.listening))? {
        return Err(Errno::ESRCH);
    }
    resume(&target, request, data).unwrap_or_else(|| inspect(&target, request, addr, data))
}

/// Runs `work` on the stop that stands.
///
/// # Errors
/// `ESRCH` if there is none.
pub(super) fn with_stop<R>(target: &Task, work: impl FnOnce(&mut State, &mut Stop) -> Result<R>) -> Result<R> {
    target.trace.with(|state| {
        let mut stop = state.stop.take().ok_or(Errno::ESRCH)?;
        let result = work(state, &mut stop);
        state.stop = Some(stop);
        result
    })
}

fn seize(task: &Arc<Task>, target: &Arc<Task>, addr: u64, data: u64) -> Result<()> {
    if addr != 0 {
        return Err(Errno::EIO);
    }
    let options = u32::try_from(data).ok().and_then(Options::from_bits).ok_or(Errno::EIO)?;
    relation::attach(task, target, Start { seized: true, options, trap: false })
}

fn interrupt(target: &Arc<Task>) -> Result<()> {
    let seized = target.trace.with(|state| {
        state.trap |= state.seized;
        state.seized
    });
    if !seized {
        return Err(Errno::EIO);
    }
    sched::interrupt(target);
    target.trace.wake();
    // It may be frozen.
    target.process().stop_queue.wake_all();
    Ok(())
}

/// The requests after which the tracee runs; `None` for others.
fn resume(target: &Arc<Task>, request: u32, data: u64) -> Option<Result<()>> {
    let mode = match request {
        op::CONT => Mode::Run,
        op::SYSCALL => Mode::Syscall,
        op::SINGLESTEP => Mode::Step,
        op::SYSEMU => Mode::Emulate,
        op::DETACH => {
            return Some(check_signal(data).map(|signo| relation::detach(target, signo)));
        }
        op::LISTEN => return Some(listen(target)),
        _ => return None,
    };
    Some(check_signal(data).map(|signo| {
        target.trace.with(|state| {
            state.info = state.stop.take().and_then(|stop| stop.info);
            (state.signal, state.mode) = (signo, mode);
        });
        target.trace.wake();
    }))
}

fn check_signal(data: u64) -> Result<u32> {
    if data == 0 || signal::is_valid(data) { Ok(data as u32) } else { Err(Errno::EIO) }
}

fn listen(target: &Arc<Task>) -> Result<()> {
    with_stop(target, |state, stop| {
        if !state.seized || stop.code >> 8 != Event::Stop as u32 {
            return Err(Errno::EIO);
        }
        stop.listening = true;
        Ok(())
    })?;
    target.trace.wake();
    Ok(())
}

/// The requests that look at a stopped tracee, or change it.
fn inspect(target: &Arc<Task>, request: u32, addr: u64, data: u64) -> Result<()> {
    let out = UserAddr(data);
    match request {
        op::PEEKTEXT | op::PEEKDATA => write_val(out, &memory::peek(target, addr)?),
        op::POKETEXT | op::POKEDATA => memory::poke(target, addr, data),
        op::PEEKUSER => write_val(out, &registers::peek(target, addr)?),
        op::POKEUSER => registers::poke(target, addr, data),
        op::GETREGS => write_val(out, &registers::get(target)),
        op::SETREGS => registers::set(target, &read_val(out)?),
        op::GETFPREGS => copy_out(out, registers::xstate(target)?.get(..registers::FPREGS_LEN).unwrap_or(&[])),
        op::SETFPREGS => {
            let image: Vec<u8> = read_vec(out, registers::FPREGS_LEN)?;
            registers::set_fpregs(target, &image)
        }
        op::GETREGSET => get_set(target, addr, out),
        op::SETREGSET => set_set(target, addr, out),
        op::ARCH_PRCTL => arch_prctl(target, addr, data),
        op::SETOPTIONS => {
            let options = u32::try_from(data).ok().and_then(Options::from_bits).ok_or(Errno::EINVAL)?;
            target.trace.with(|state| state.options = options);
            Ok(())
        }
        op::GETEVENTMSG => write_val(out, &with_stop(target, |_, stop| Ok(stop.message))?),
        op::GETSIGINFO => {
            let info = with_stop(target, |_, stop| stop.info.ok_or(Errno::EINVAL))?;
            copy_out(out, &info.to_bytes())
        }
        op::SETSIGINFO => {
            let bytes: [u8; 128] = read_val(out)?;
            let signo = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            with_stop(target, |_, stop| {
                let info = stop.info.as_mut().ok_or(Errno::EINVAL)?;
                *info = SigInfo::from_bytes(signo, &bytes);
                Ok(())
            })
        }
        op::GETSIGMASK if addr == 8 => write_val(out, &target.signal.mask()),
        op::SETSIGMASK if addr == 8 => {
            signal::set_mask(target, read_val::<u64>(out)? & !UNBLOCKABLE);
            Ok(())
        }
        op::GETSIGMASK | op::SETSIGMASK => Err(Errno::EINVAL),
        _ => Err(Errno::EIO),
    }
}

/// `PTRACE_ARCH_PRCTL`: the reading and writing of the bases; here `addr` is the value and `data` the code.
fn arch_prctl(target: &Task, addr: u64, code: u64) -> Result<()> {
    let mut words = registers::get(target);
    const FS: usize = 21;
    const GS: usize = 22;
    match code {
        0x1001 => words[GS] = addr,
        0x1002 => words[FS] = addr,
        0x1003 => return write_val(UserAddr(addr), &words[FS]),
        0x1004 => return write_val(UserAddr(addr), &words[GS]),
        _ => return Err(Errno::EINVAL),
    }
    registers::set(target, &words)
}

/// Types of core-file notes.
mod note {
    pub const PRSTATUS: u64 = 1;
    pub const PRFPREG: u64 = 2;
    pub const X86_XSTATE: u64 = 0x202;
}

fn get_set(target: &Task, kind: u64, iov: UserAddr) -> Result<()> {
    let place: IoVec = read_val(iov)?;
    let bytes: Vec<u8> = match kind {
        note::PRSTATUS => registers::get(target).iter().flat_map(|word| word.to_ne_bytes()).collect(),
        note::PRFPREG => {
            let mut image = registers::xstate(target)?;
            image.truncate(registers::FPREGS_LEN);
            image
        }
        note::X86_XSTATE => registers::xstate(target)?,
        _ => return Err(Errno::EINVAL),
    };
    if !place.len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let len = bytes.len().min(place.len as usize);
    copy_out(place.addr, bytes.get(..len).unwrap_or(&[]))?;
    write_val(iov.add(8), &(len as u64))
}

fn set_set(target: &Task, kind: u64, iov: UserAddr) -> Result<()> {
    let place: IoVec = read_val(iov)?;
    let most = match kind {
        note::PRSTATUS => 8 * registers::COUNT,
        note::PRFPREG => registers::FPREGS_LEN,
        note::X86_XSTATE => umbel_gate::fpu::len(),
        _ => return Err(Errno::EINVAL),
    };
    if !place.len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let bytes: Vec<u8> = read_vec(place.addr, most.min(place.len as usize))?;
    match kind {
        note::PRSTATUS => {
            let mut words = registers::get(target);
            for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = chunk.try_into().map_or(0, u64::from_ne_bytes);
            }
            registers::set(target, &words)?;
        }
        note::PRFPREG => registers::set_fpregs(target, &bytes)?,
        _ => registers::set_xstate(target, &bytes)?,
    }
    write_val(iov.add(8), &(bytes.len() as u64))
}
