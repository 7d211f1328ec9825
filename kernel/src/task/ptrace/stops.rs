//! The tracee's side: where it stops and how it goes on.

use super::{Event, Stop, flag};
use crate::Pid;
use crate::cgroup::freezer;
use crate::signal::{self, SIGKILL, SIGTRAP, SigInfo, code};
use crate::task::clone::{CloneArgs, CloneFlags};
use crate::task::{Process, Task, stop};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use umbel_gate::Regs;

/// Message of a stop at the entry of a system call; the exit's is one more.
const CALL_ENTRY: u64 = 1;
/// Bit of a stop's code that `PTRACE_O_TRACESYSGOOD` sets.
const SYSGOOD: u32 = 0x80;

/// What ends a stop besides the tracer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The end of the process or the thread.
    End,
    /// SIGKILL only: the thread is ending already.
    Kill,
}

/// Stops for `stop`; returns the signal that the tracer wants it to have, 0 = none. At once if nobody traces it.
fn stand(task: &Arc<Task>, stop: Stop, cause: i32, until: Until) -> u32 {
    umbel_gate::save_before_switch();
    let status = stop.code & 0x7f;
    let tracer = task.trace.with(|state| {
        let tracer = state.tracer.clone()?;
        (state.signal, state.info) = (0, stop.info);
        state.stop = Some(stop);
        Some(tracer.process)
    });
    let Some(tracer) = tracer else { return 0 };
    tell(&tracer, task, cause, status);
    let over = || {
        let state = task.trace.state.0.lock();
        let ends = match until {
            Until::End => task.must_exit(),
            Until::Kill => task.process().is_killed(),
        };
        let goes_on = state.stop.as_ref().is_none_or(|stop| stop.listening && state.trap);
        (ends || goes_on).then_some(())
    };
    freezer::rest(task, || task.trace.queue.wait_until(over));
    task.trace.with(|state| {
        state.stop = None;
        state.signal
    })
}

/// SIGCHLD and the wake-up of waits.
fn tell(tracer: &Arc<Process>, task: &Task, cause: i32, status: u32) {
    if !signal::ignores_child_stops(tracer) {
        let uid = task.cred().uid;
        let info = SigInfo::child(signal::SIGCHLD, cause, tracer.sees(task.tid()), uid, status as i32, 0, 0);
        signal::send_to_process(tracer, info);
    }
    tracer.child_events.wake_all();
}

/// A stop that the tracer sees as a trap with this code.
fn trap_stop(task: &Arc<Task>, code: u32, message: u64, until: Until) -> u32 {
    let info = SigInfo::raw(SIGTRAP, code as i32, &[own_ids(task)]);
    let stop = Stop { code, info: Some(info), message, reported: false, listening: false };
    stand(task, stop, code::CLD_TRAPPED, until)
}

fn own_ids(task: &Task) -> u64 {
    let tracer = task.trace.tracer().unwrap_or_else(|| task.process().clone());
    u64::from(tracer.sees(task.tid()) as u32) | u64::from(task.cred().uid) << 32
}

fn event_stop(task: &Arc<Task>, event: Event, message: u64, until: Until) -> u32 {
    trap_stop(task, SIGTRAP | (event as u32) << 8, message, until)
}

fn wants(task: &Task, event: Event) -> bool {
    task.trace.is_traced() && task.trace.state.0.lock().options.contains(event.option())
}

/// Stops for `event` if the tracer asked for it; returns whether it did.
pub fn event(task: &Arc<Task>, event: Event, message: u64) -> bool {
    let wanted = wants(task, event);
    if wanted {
        event_stop(task, event, message, Until::End);
    }
    wanted
}

/// The number that `id` has for the tracer of `task`: the message of an event.
pub fn seen_by_tracer(task: &Task, id: Pid) -> u64 {
    task.trace.tracer().map_or(0, |tracer| tracer.sees(id) as u64)
}

/// The event that a clone means, if the tracer asked for it.
pub fn clone_event(task: &Task, args: &CloneArgs) -> Option<Event> {
    if args.flags.contains(CloneFlags::UNTRACED) {
        return None;
    }
    let event = if args.flags.contains(CloneFlags::VFORK) {
        Event::Vfork
    } else if args.exit_signal != signal::SIGCHLD {
        Event::Clone
    } else {
        Event::Fork
    };
    wants(task, event).then_some(event)
}

/// After execve(2): the event, or the signal of those who did not ask for it.
pub fn exec(task: &Arc<Task>, old_tid: u64) {
    if !task.trace.is_traced() || event(task, Event::Exec, old_tid) {
        return;
    }
    if !task.trace.state.0.lock().seized {
        signal::send_to_task(task, SigInfo::kill(SIGTRAP, task.process().sees(task.process().pid()), task.cred().uid));
    }
}

/// Before a thread ends; `status` is what wait(2) will show. Only SIGKILL ends this stop.
pub fn exit(task: &Arc<Task>, status: u32) {
    if wants(task, Event::Exit) && !task.process().is_killed() {
        event_stop(task, Event::Exit, u64::from(status), Until::Kill);
    }
}

/// The stop that seccomp's `SECCOMP_RET_TRACE` asks for; false if nobody asked to see it.
pub fn seccomp(task: &Arc<Task>, data: u16) -> bool {
    event(task, Event::Seccomp, u64::from(data))
}

/// At the entry of a system call. Returns whether the call is to be made.
pub fn call_entry(task: &Arc<Task>) -> bool {
    let emulated = task.trace.has(flag::EMULATE);
    if task.trace.stops_at_calls() {
        call_stop(task, CALL_ENTRY);
    }
    !emulated && task.user.regs().orig_rax != Regs::NO_SYSCALL
}

/// At the exit of a system call.
pub fn call_exit(task: &Arc<Task>) {
    if task.trace.has(flag::SYSCALL) {
        call_stop(task, CALL_ENTRY + 1);
    } else if task.trace.steps() {
        const TRAP_BRKPT: i32 = 1;
        signal::force_fault(task, SigInfo::fault(SIGTRAP, TRAP_BRKPT, task.user.regs().rip));
    }
}

fn call_stop(task: &Arc<Task>, message: u64) {
    let good = task.trace.state.0.lock().options.contains(super::Options::SYSGOOD);
    let signo = trap_stop(task, SIGTRAP | if good { SYSGOOD } else { 0 }, message, Until::End);
    if signo != 0 {
        signal::send_to_task(task, SigInfo::kernel(signo));
    }
}

/// A signal is about to be delivered: the tracer decides what becomes of it. `None`: nothing.
pub fn delivery(task: &Arc<Task>, regs: &mut Regs, info: SigInfo) -> Option<SigInfo> {
    let signo = info.signo();
    if signo == SIGKILL || !task.trace.is_traced() {
        return Some(info);
    }
    task.user.set_regs(regs);
    let stop = Stop { code: signo, info: Some(info), message: 0, reported: false, listening: false };
    let traced = |task: &Task| task.trace.state.0.lock().tracer.is_some();
    let wanted = stand(task, stop, code::CLD_TRAPPED, Until::End);
    *regs = task.user.regs();
    if task.must_exit() {
        return None;
    }
    let changed = task.trace.with(|state| state.info.take());
    match wanted {
        0 => None,
        same if same == signo => changed.or(Some(info)),
        // Another one: from the tracer, as kill(2) would have it.
        other => {
            let (pid, uid) = task.trace.tracer().filter(|_| traced(task)).map_or((0, 0), |tracer| {
                (task.process().sees(tracer.pid()), task.cred().show_uid(tracer.uid.load(Relaxed)))
            });
            Some(SigInfo::kill(other, pid, uid))
        }
    }
}

/// A handler's frame was built while single-stepping: stops before its first instruction.
pub fn handler_entered(task: &Arc<Task>, regs: &mut Regs) {
    if task.trace.steps() {
        task.user.set_regs(regs);
        trap_stop(task, SIGTRAP, 0, Until::End);
        *regs = task.user.regs();
    }
}

/// On the way out: the stop that `PTRACE_INTERRUPT` or a seizing asked for.
pub fn trap(task: &Arc<Task>) {
    while task.trace.traps() && !task.must_exit() {
        if stop::due(task).is_some() {
            // The group stop that follows shows itself.
            task.trace.with(|state| state.trap = false);
            return;
        }
        // First: a SIGCONT from here on asks for another stop.
        task.trace.with(|state| state.trap = false);
        let in_effect = task.process().stop.lock().signal;
        seized_stop(task, in_effect.unwrap_or(SIGTRAP));
    }
}

/// Stops with the event that seized tracees show.
fn seized_stop(task: &Arc<Task>, signo: u32) {
    let code = signo | (Event::Stop as u32) << 8;
    let info = SigInfo::raw(signo, code as i32, &[own_ids(task)]);
    let stop = Stop { code, info: Some(info), message: 0, reported: false, listening: false };
    stand(task, stop, code::CLD_STOPPED, Until::End);
}

/// The process stops for `signo`, in its stop number `generation`.
pub fn group_stop(task: &Arc<Task>, signo: u32, generation: u64) {
    let seized = task.trace.with(|state| {
        state.group_stop = generation;
        state.trap &= !state.seized;
        state.seized
    });
    if seized {
        if stop::stands(task, generation) {
            seized_stop(task, signo);
        } else {
            // SIGCONT was faster: its trap, which was just taken back, is all there is to show.
            task.trace.with(|state| state.trap = true);
        }
        // Who listened hears of the end of the stop before its SIGCONT is delivered.
        return trap(task);
    }
    let stop = Stop { code: signo, info: None, message: 0, reported: false, listening: false };
    stand(task, stop, code::CLD_STOPPED, Until::End);
}

/// Whether the tracee has stopped for the process's stop number `generation` already.
pub fn has_shown(task: &Task, generation: u64) -> bool {
    task.trace.is_traced() && task.trace.state.0.lock().group_stop == generation
}

/// SIGCONT ended a group stop: those who listen hear of it.
pub fn continued(task: &Arc<Task>) {
    let seized = task.trace.is_traced()
        && task.trace.with(|state| {
            state.trap = state.seized;
            state.seized
        });
    if seized {
        crate::sched::interrupt(task);
        task.trace.wake();
    }
}
