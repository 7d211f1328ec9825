//! The way out to guest code: taking signals, restarting calls, stopping, dying.

use super::state::{NO_STACK, PrivateState};
use super::*;
use crate::task::{Task, WaitStatus, coredump, exit, ids, ptrace, rseq, stop};
use crate::{Errno, Pid, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;
use linux_raw_sys::general::__NR_restart_syscall;
use umbel_abi::linux::StackT;
use umbel_gate::{Regs, fpu};
use umbel_mm::user::{self, UserAddr};

/// Bytes of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

/// Whether [`deliver`] has something to do. One load.
#[inline]
pub fn pending(task: &Task) -> bool {
    task.thread.interrupted()
}

/// Whether a signal is pending that will end the process: for waits that only such a one may end.
pub fn fatal_pending(task: &Task) -> bool {
    if task.must_exit() {
        return true;
    }
    let shared = task.process().signal.state.lock();
    let set = (shared.pending.set() | task.signal.pending_set()) & !task.signal.mask();
    (1..=NSIG as u32).filter(|&signo| set & bit(signo) != 0).any(|signo| {
        let ends = matches!(default_action(signo), number::Default::Terminate | number::Default::Core);
        ends && shared.actions.get(signo).handler == SIG_DFL
    })
}

/// For long loops of a call: gives way to others.
///
/// # Errors
/// `EINTR` once a signal will end the process.
pub fn go_on(task: &Task) -> Result<()> {
    crate::sched::cond_resched();
    if pending(task) && fatal_pending(task) { Err(Errno::EINTR) } else { Ok(()) }
}

/// Delivers what is pending and settles interrupted calls. Called on the way out to guest code when the thread was
/// interrupted or a call returned an `ERESTART` code, and again while that is so; returns early where the process stops
/// or ends. The caller clears the interruption before: who comes later sets it again, and the caller looks once more.
pub fn deliver(task: &Arc<Task>, regs: &mut Regs) {
    loop {
        let continues = task.process().signal.continues.load(Acquire);
        let Some(info) = take(task) else { break };
        let Some(info) = ptrace::stops::delivery(task, regs, info) else {
            if must_leave(task) {
                return;
            }
            continue;
        };
        if task.trace.is_traced() && task.signal.mask() & bit(info.signo()) != 0 {
            // The tracer put another signal in, which is blocked.
            send::send_to_task(task, info);
            continue;
        }
        let action = take_action(task, info.signo());
        if action.handler > SIG_IGN {
            handle(task, regs, &info, &action);
        } else if action.handler == SIG_DFL {
            by_default(task, &info, continues);
        }
        if must_leave(task) {
            // The flag is set again by whoever decided so; what is left is delivered after the stop.
            return;
        }
    }
    settle(regs, None);
    restore_mask(task);
}

/// Whether the thread ends or stops before it can take another signal.
fn must_leave(task: &Task) -> bool {
    task.must_exit() || stop::due(task).is_some()
}

/// Signals that the thread would take now.
pub(super) fn deliverable(task: &Task) -> SigSet {
    let shared = task.process().signal.state.lock().pending.set();
    (shared | task.signal.pending_set()) & !task.signal.mask()
}

/// Takes the next signal.
fn take(task: &Task) -> Option<SigInfo> {
    let mask = task.signal.mask();
    let mut shared = task.process().signal.state.lock();
    let mut info = take_pending(&mut task.signal.state.lock(), &mut shared.pending, mask)?;
    drop(shared);
    crate::time::posix::delivered(task.process(), &mut info);
    Some(info.shown_to(&task.cred()))
}

/// The action of a signal that was taken; one with SA_RESETHAND is default from now on.
fn take_action(task: &Task, signo: Signo) -> Action {
    let mut shared = task.process().signal.state.lock();
    let action = shared.actions.get(signo);
    if action.handler > SIG_IGN && action.has(sa::RESETHAND) {
        shared.actions.set(signo, Action { handler: SIG_DFL, ..action });
    }
    action
}

/// The thread's own signals come first, as Linux has it; faults before all.
pub(super) fn take_pending(private: &mut PrivateState, shared: &mut Pending, blocked: SigSet) -> Option<SigInfo> {
    private.pending.take(blocked).or_else(|| shared.take(blocked))
}

/// The action of a signal without a handler. `continues`: the count of SIGCONTs when it was taken.
fn by_default(task: &Arc<Task>, info: &SigInfo, continues: u64) {
    let signo = info.signo();
    let process = task.process();
    if process.unkillable.load(Relaxed) && bit(signo) & UNBLOCKABLE == 0 {
        return;
    }
    match default_action(signo) {
        number::Default::Ignore | number::Default::Continue => {}
        number::Default::Stop => begin_stop(task, signo, continues),
        number::Default::Terminate => exit::group_exit(process, WaitStatus::signaled(signo, false)),
        number::Default::Core => coredump::end(task, info),
    }
}

/// Starts a group stop, unless a SIGCONT came since the signal was taken or nobody is left to continue the group.
fn begin_stop(task: &Arc<Task>, signo: Signo, continues: u64) {
    let process = task.process();
    if signo != SIGSTOP {
        let table = ids::table();
        let pgrp = table.node(process.pid()).map(|node| node.pgrp.id);
        if !pgrp.is_ok_and(|pgrp| table.has_job_control(pgrp, Pid(0))) {
            return;
        }
    }
    stop::begin(task, signo);
    if process.signal.continues.load(Acquire) != continues {
        stop::resume(process);
    }
}

/// Runs `action`'s handler next: builds its frame.
fn handle(task: &Arc<Task>, regs: &mut Regs, info: &SigInfo, action: &Action) {
    settle(regs, Some(action));
    let signo = info.signo();
    if push_frame(task, regs, info, action).is_err() {
        // The handler cannot run. Where that was SIGSEGV's own handler, nothing is left to try.
        if signo == SIGSEGV {
            task.process().signal.state.lock().actions.set(SIGSEGV, Action::default());
        }
        force_fault(task, SigInfo::kernel(SIGSEGV));
        return;
    }
    let own = if action.has(sa::NODEFER) { 0 } else { bit(signo) };
    let mask = task.signal.mask() | action.mask | own;
    task.signal.state.lock().saved_mask = None;
    set_mask(task, mask);
    ptrace::stops::handler_entered(task, regs);
}

/// Writes the frame and points the registers at the handler.
fn push_frame(task: &Arc<Task>, regs: &mut Regs, info: &SigInfo, action: &Action) -> Result<()> {
    if !action.has(sa::RESTORER) {
        return Err(Errno::EFAULT);
    }
    let (stack, fault, saved) = {
        let state = task.signal.state.lock();
        (state.altstack, state.fault, state.saved_mask)
    };
    rseq::abort(task, regs).map_err(|_| Errno::EFAULT)?;
    let place = frame::place(regs.rsp, action, &stack, fpu::len()).ok_or(Errno::EFAULT)?;
    let mask = saved.unwrap_or(task.signal.mask());
    let context = frame::Context { info, action, stack, mask, fault };
    let words = frame::build(regs, &context, place);
    write_fpu(task, place.fpu)?;
    user::write_val(UserAddr(place.frame), &words)?;
    frame::enter(regs, info.signo(), action, place);
    // A handler starts with the FPU as a new program does.
    task.user.load_fpu_image(&[]);
    if stack.flags & SS_AUTODISARM != 0 {
        task.signal.state.lock().altstack = NO_STACK;
    }
    Ok(())
}

fn write_fpu(task: &Task, addr: u64) -> Result<()> {
    let mut image = Vec::new();
    image.try_reserve_exact(fpu::len() + 8).map_err(|_| Errno::ENOMEM)?;
    task.user.with_fpu_image(|bytes| image.extend_from_slice(bytes));
    frame::seal_fpu(&mut image, fpu::mask());
    user::copy_out(UserAddr(addr), &image)
}

/// Settles an interrupted call: goes back to its instruction, or makes its result `EINTR`. `handler`: the action that runs
/// before it would go on.
fn settle(regs: &mut Regs, handler: Option<&Action>) {
    if regs.orig_rax == Regs::NO_SYSCALL {
        return;
    }
    let code = Errno::from_raw((regs.rax as i64).wrapping_neg().clamp(0, 4096) as i32);
    let restarts = match (code, handler) {
        (Errno::ERESTARTNOINTR, _) => true,
        (Errno::ERESTARTSYS, Some(action)) => action.has(sa::RESTART),
        (Errno::ERESTARTSYS | Errno::ERESTARTNOHAND, None) => true,
        (Errno::ERESTART_RESTARTBLOCK, None) => {
            regs.orig_rax = u64::from(__NR_restart_syscall);
            true
        }
        (Errno::ERESTARTNOHAND | Errno::ERESTART_RESTARTBLOCK, Some(_)) => false,
        _ => return,
    };
    if restarts {
        regs.rax = regs.orig_rax;
        regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
    } else {
        regs.rax = Errno::EINTR.as_return();
    }
    regs.orig_rax = Regs::NO_SYSCALL;
}

/// Replaces the caller's mask; other threads take what it does not any more.
pub fn set_mask(task: &Arc<Task>, mask: SigSet) {
    let old = task.signal.mask();
    task.signal.store_mask(mask);
    let blocked = mask & !old;
    if blocked != 0 {
        send::retarget(task, blocked);
    }
    if old & !mask != 0 && deliverable(task) != 0 {
        let _ = task.thread.interrupt();
    }
}

/// Sets a mask for the length of one call (ppoll, pselect6, epoll_pwait, sigsuspend). A call that is interrupted returns
/// `ERESTARTNOHAND` or `EINTR` with the mask still set: [`deliver`] goes back to the old one, after a handler if one runs.
/// Any other way out of the call is through [`restore_mask`].
pub fn set_mask_for_call(task: &Arc<Task>, mask: SigSet) {
    task.signal.state.lock().saved_mask = Some(task.signal.mask());
    set_mask(task, mask);
}

/// Puts the mask of [`set_mask_for_call`] back where the call was not interrupted.
pub fn restore_mask(task: &Arc<Task>) {
    let saved = task.signal.state.lock().saved_mask.take();
    if let Some(mask) = saved {
        set_mask(task, mask);
    }
}

/// rt_sigreturn(2): takes registers, mask, FPU and stack from the frame that `regs` point to.
///
/// # Errors
/// `EFAULT`: the frame is not there; the caller forces SIGSEGV.
pub fn sigreturn(task: &Arc<Task>, regs: &mut Regs) -> Result<()> {
    let base = regs.rsp.wrapping_sub(8);
    let words: [u64; frame::UCONTEXT_WORDS] = user::read_val(UserAddr(base.wrapping_add(8)))?;
    let restored = frame::restore(regs, &words);
    set_mask(task, restored.mask & !UNBLOCKABLE);
    let image = read_fpu(restored.fpu)?;
    task.user.load_fpu_image(&image);
    // A stack that sigaltstack(2) would refuse is left as it is.
    let _ = set_altstack(task, restored.stack, regs.rsp);
    Ok(())
}

fn read_fpu(addr: u64) -> Result<Vec<u8>> {
    if addr == 0 {
        return Ok(Vec::new());
    }
    if !addr.is_multiple_of(64) {
        return Err(Errno::EFAULT);
    }
    let mut image: Vec<u8> = user::read_vec(UserAddr(addr), frame::FX_LEN)?;
    if let Some((len, mask)) = frame::extended_len(&image, fpu::len()) {
        let mut whole: Vec<u8> = user::read_vec(UserAddr(addr), len + 4)?;
        if frame::unseal_fpu(&mut whole, mask) {
            return Ok(whole);
        }
    }
    frame::legacy_fpu(&mut image);
    Ok(image)
}

/// The alternate stack as sigaltstack(2) shows it, with stack pointer `sp`.
pub fn altstack(task: &Task, sp: u64) -> StackT {
    frame::shown(&task.signal.state.lock().altstack, sp)
}

/// Replaces the alternate stack.
///
/// # Errors
/// `EPERM` while on it, `EINVAL` for unknown flags, `ENOMEM` if it is too small.
pub fn set_altstack(task: &Task, new: StackT, sp: u64) -> Result<()> {
    let mut state = task.signal.state.lock();
    if frame::on_stack(&state.altstack, sp) {
        return Err(Errno::EPERM);
    }
    let mode = new.flags & !SS_AUTODISARM;
    state.altstack = match mode {
        SS_DISABLE => NO_STACK,
        0 | SS_ONSTACK if new.size < MINSIGSTKSZ => return Err(Errno::ENOMEM),
        0 | SS_ONSTACK => StackT { pad: 0, flags: new.flags & SS_AUTODISARM, ..new },
        _ => return Err(Errno::EINVAL),
    };
    Ok(())
}

/// Least bytes of an alternate stack.
const MINSIGSTKSZ: u64 = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupted(code: Errno) -> Regs {
        Regs { rax: code.as_return(), orig_rax: 7, rip: 100, ..Regs::default() }
    }

    fn settled(code: Errno, flags: Option<u64>) -> (u64, u64) {
        let mut regs = interrupted(code);
        let action = flags.map(|flags| Action { flags, ..Action::default() });
        settle(&mut regs, action.as_ref());
        (regs.rax, regs.rip)
    }

    #[test]
    fn calls_restart_as_signal_7_says() {
        let eintr = (Errno::EINTR.as_return(), 100);
        assert_eq!(settled(Errno::ERESTARTSYS, Some(sa::RESTART)), (7, 98));
        assert_eq!(settled(Errno::ERESTARTSYS, Some(0)), eintr);
        assert_eq!(settled(Errno::ERESTARTSYS, None), (7, 98));
        assert_eq!(settled(Errno::ERESTARTNOINTR, Some(0)), (7, 98));
        assert_eq!(settled(Errno::ERESTARTNOHAND, Some(sa::RESTART)), eintr);
        assert_eq!(settled(Errno::ERESTARTNOHAND, None), (7, 98));
        assert_eq!(settled(Errno::ERESTART_RESTARTBLOCK, Some(sa::RESTART)), eintr);
        assert_eq!(settled(Errno::ERESTART_RESTARTBLOCK, None), (219, 98));
    }

    #[test]
    fn other_results_stay_and_a_call_is_settled_once() {
        assert_eq!(settled(Errno::EPERM, None), (Errno::EPERM.as_return(), 100));
        let mut regs = interrupted(Errno::ERESTARTSYS);
        settle(&mut regs, None);
        regs.rax = Errno::ERESTARTSYS.as_return();
        settle(&mut regs, None);
        assert_eq!(regs.rip, 98);
    }
}
