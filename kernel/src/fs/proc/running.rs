//! What a thread is doing: `/proc/PID/sched`, `syscall`, `timers`. Source: proc_pid_syscall(5), proc_pid_timers(5), Linux's
//! Documentation/scheduler/sched-debug.rst.

use super::may_inspect;
use super::process::Subject;
use super::status::{comm_of, scheduling};
use crate::room::Text;
use crate::task;
use crate::time::posix::{self, Notify};
use crate::{Errno, Pid, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;
use umbel_gate::Regs;
use umbel_smp::thread::State;

/// The call that it waits in: number, arguments, stack pointer, program counter. -1 for one that is stopped outside calls.
///
/// # Errors
/// `EPERM` for those who may not look.
pub fn syscall(subject: &Subject) -> Result<Vec<u8>> {
    let task = subject.task()?;
    may_inspect(&task).map_err(|_| Errno::EPERM)?;
    let own = Arc::ptr_eq(&task, &task::current());
    if !own && matches!(task.thread.state(), State::Running | State::Runnable) {
        return Ok(b"running\n".to_vec());
    }
    let (regs, mut out) = (task.user.regs(), String::new());
    let written = if regs.orig_rax == Regs::NO_SYSCALL {
        writeln!(out, "-1 {:#x} {:#x}", regs.rsp, regs.rip)
    } else {
        let [a, b, c, d, e, f] = regs.args();
        let (number, sp, pc) = (regs.orig_rax as i32, regs.rsp, regs.rip);
        writeln!(out, "{number} {a:#x} {b:#x} {c:#x} {d:#x} {e:#x} {f:#x} {sp:#x} {pc:#x}")
    };
    written.map(|()| out.into_bytes()).map_err(|_| Errno::ENOMEM)
}

/// The timers of timer_create(2), the last one made first.
pub fn timers(subject: &Subject) -> Result<Vec<u8>> {
    let process = subject.process()?;
    let mut out = Text::default();
    for (id, clock, notify) in posix::list(&process)? {
        let (how, what, whom, signo, value) = match notify {
            Notify::Nothing { signo, value } => ("none", "pid", process.pid(), signo, value),
            Notify::Process { signo, value } => ("signal", "pid", process.pid(), signo, value),
            Notify::Thread { tid, signo, value } => ("signal", "tid", Pid(tid), signo, value),
            Notify::CpuLimit => continue,
        };
        let whom = subject.ns.number_of(whom);
        let _ = writeln!(out, "ID: {id}\nsignal: {signo}/{value:016x}\nnotify: {how}/{what}.{whom}\nClockID: {clock}");
    }
    out.finish()
}

/// Its time on processors, and how it is scheduled; what this scheduler does not have is left out.
pub fn sched(subject: &Subject) -> Result<Vec<u8>> {
    let (process, task) = (subject.process()?, subject.task()?);
    let name = comm_of(subject);
    let (usage, run_ns) = (task.sched.usage(), task.sched.run_ns());
    let (priority, _, _, policy) = scheduling(task.sched.effective(), task.sched.flags().0);
    let mut out = Text::default();
    let _ = writeln!(
        out,
        "{} ({}, #threads: {})",
        String::from_utf8_lossy(&name),
        subject.ns.number_of(subject.tid),
        process.live_threads()
    );
    let _ = writeln!(out, "{:-<67}", "");
    let _ = writeln!(out, "{:<45}:{:>14}.{:06}", "se.sum_exec_runtime", run_ns / 1_000_000, run_ns % 1_000_000);
    let numbers = [
        ("nr_switches", usage.voluntary_switches + usage.involuntary_switches),
        ("nr_voluntary_switches", usage.voluntary_switches),
        ("nr_involuntary_switches", usage.involuntary_switches),
        ("se.slice", task.sched.slice_ns()),
        ("policy", policy.into()),
    ];
    for (name, number) in numbers {
        let _ = writeln!(out, "{name:<45}:{number:>21}");
    }
    // stat counts from where real-time priorities end.
    let _ = writeln!(out, "{:<45}:{:>21}", "prio", priority + 100);
    out.finish()
}
