//! The run loop: one door into guest code, one way out of the kernel.

use super::ids::{self, WaitStatus};
use super::ns::time::Offset;
use super::seccomp::Verdict;
use super::task::Task;
use super::{dispatch, exit, oom, ptrace, rseq, seccomp, stop};
use crate::cgroup::freezer;
use crate::keys;
use crate::signal::{self, FaultRegs, SigInfo};
use crate::syscall;
use crate::vm::{self, Access, Detour, Space};
use crate::{Errno, fs, sched, stats, time};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use umbel_abi::machine::{BootInfo, SlotPage};
use umbel_gate::{self as gate, Exception, FaultInfo, HotSite, Kill, Regs, Trap};
use umbel_host::process::trap_counter;
use umbel_smp::vtime::{self, Event};

/// Where every guest thread starts, on its own kernel stack, after the first switch to it.
pub extern "C" fn task_main(_: u64) -> ! {
    sched::finish_switch();
    {
        let task = sched::current();
        match task.body {
            Some(body) => body(&task),
            None => run(&task),
        }
        exit::leave(&task);
    }
    sched::exit_current()
}

/// Runs guest code until the thread ends.
fn run(task: &Arc<Task>) {
    let strace = crate::machine::option(BootInfo::STRACE);
    let virtual_time = crate::machine::option(BootInfo::VIRTUAL);
    leave_kernel(task, false);
    while !task.must_exit() {
        let Some(space) = task.space() else { return };
        if space.activate() {
            space.warm();
        }
        if space.is_unpatched() && task.own_text_of.load(Relaxed) != space.id() {
            task.own_text_of.store(space.id(), Relaxed);
            lead_back(task, &space);
            exit_to_user(task, false);
            continue;
        }
        drop(space);
        publish_identity(task, umbel_smp::slot::this().page());
        show_descriptors(task, umbel_smp::slot::this().page());
        time::clock::refresh(umbel_smp::slot::this().page(), task.time_offset_ns(Offset::Monotonic));
        fs::ahead::show(task, umbel_smp::slot::this());
        sched::program_timer();
        let mut look = None;
        if task.trace.watches() {
            look = ptrace::watch::before(task);
            if look.is_none() {
                leave_kernel(task, false);
                continue;
            }
        }
        let before_ns = time::monotonic_ns();
        let steps = (look.is_some() || task.trace.steps()) && single_step(task, true);
        // Who may not read the counter would, with virtual time, be answered: see below.
        let no_counter = task.no_counter.load(Relaxed);
        if virtual_time {
            vtime::enter_guest();
        } else if no_counter {
            trap_counter(true);
        }
        task.sched.enters_guest(before_ns);
        let trap = gate::enter_user(&task.user);
        if virtual_time {
            vtime::left_guest();
        } else if no_counter {
            trap_counter(false);
        }
        task.sched.leaves_guest(time::monotonic_ns());
        if steps {
            single_step(task, false);
        }
        let mut restart = false;
        let exception = if let Trap::Exception(exception) = &trap { Some(exception) } else { None };
        let silent = look.is_some_and(|look| ptrace::watch::after(task, &look, exception));
        if trap == Trap::Syscall {
            if virtual_time {
                vtime::event(Event::Call);
            }
            count_call(task);
        }
        stats::count_reads();
        fs::plain::make_good(task);
        fs::ahead::hide(umbel_smp::slot::this().page());
        match trap {
            Trap::Exception(_) if silent => {}
            Trap::Syscall => {
                restart = traced_call(task, strace);
            }
            Trap::Fault(fault) => page_fault(task, &fault),
            Trap::Exception(exception) if virtual_time && !no_counter && sched::emulate_counter(task, &exception) => {}
            Trap::Exception(exception) => raise(task, &exception),
            Trap::Interrupt if virtual_time => vtime::interrupted(),
            Trap::Interrupt => {}
            Trap::SlotDied => exit::group_exit(task.process(), WaitStatus::signaled(signal::SIGKILL, false)),
            Trap::BadFrame(kill) => refuse(task, kill),
        }
        if virtual_time {
            sched::take_turns();
        }
        leave_kernel(task, restart);
    }
}

/// Does what is to be done before guest code runs, in a model as long as others are too far behind then: guest code runs
/// only while it may go on, so that an interrupt of it, which comes when the host likes, is no other point at which to give way.
fn leave_kernel(task: &Arc<Task>, restart: bool) {
    exit_to_user(task, restart);
    if vtime::is_model() {
        vtime::stop_charging();
        while !task.must_exit() && sched::take_turns() {
            exit_to_user(task, false);
            vtime::stop_charging();
        }
    }
}

/// Sets or clears the CPU's trap flag for a tracee. Returns true.
fn single_step(task: &Task, on: bool) -> bool {
    task.user.update(|regs| {
        let flags = regs.rflags & !Regs::TRAP_FLAG;
        regs.rflags = if on { flags | Regs::TRAP_FLAG } else { flags };
    });
    true
}

/// A system call, unless it is the program's own affair, with the stops of a tracee and the checks of filters before it.
fn traced_call(task: &Arc<Task>, strace: bool) -> bool {
    if task.dispatch.is_on() && dispatch::takes(task) {
        return false;
    }
    if !task.trace.is_traced() && !task.seccomp.is_on() {
        return system_call(task, strace);
    }
    task.user.update(|regs| regs.rax = Errno::ENOSYS.as_return());
    let verdict = match ptrace::stops::call_entry(task) && !task.must_exit() {
        true if task.seccomp.is_on() => seccomp::check(task),
        true => Verdict::Make,
        false => Verdict::Done,
    };
    let restart = match verdict {
        Verdict::Make => !task.must_exit() && system_call(task, strace),
        Verdict::Done => false,
        Verdict::Restart => true,
    };
    if !task.must_exit() {
        ptrace::stops::call_exit(task);
    }
    restart
}

/// Which way the call came; a site that trapped often is patched.
fn count_call(task: &Task) {
    if task.user.came_by_patch() {
        stats::SYSCALLS_PATCHED.add(1);
        return;
    }
    stats::SYSCALLS_SIGNAL.add(1);
    if let (Some(site), Some(space)) = (task.user.take_hot_site(), task.space()) {
        let nr = task.user.regs().orig_rax as u32;
        match site {
            HotSite::First(back) => space.count_call(back, nr),
            HotSite::Hot(back) => space.patch_call(back, nr),
        }
    }
}

/// Shows guest code in this slot who it is, so that trampolines can answer without entering the kernel.
fn publish_identity(task: &Task, page: &SlotPage) {
    let identity = task.identity();
    if page.identity.load(Relaxed) == identity {
        return;
    }
    let cred = task.cred();
    let process = task.process();
    let seen = crate::machine::option(BootInfo::STRACE) || task.seccomp.is_on() || task.dispatch.is_on();
    let words = [
        (&page.pid, process.sees(process.pid()) as u32),
        (&page.tid, process.sees(task.tid()) as u32),
        (&page.ppid, ids::table().node(process.pid()).map_or(0, |node| process.sees(node.parent) as u32)),
        (&page.uid, cred.show_uid(cred.uid)),
        (&page.euid, cred.show_uid(cred.euid)),
        (&page.gid, cred.show_gid(cred.gid)),
        (&page.egid, cred.show_gid(cred.egid)),
        (&page.identity, identity),
        (&page.fast_reads, u32::from(!seen)),
    ];
    for (word, value) in words {
        word.store(value, Relaxed);
    }
}

/// Shows guest code in this slot which descriptors the gate may answer for. Who traces or filters sees every call.
fn show_descriptors(task: &Task, page: &SlotPage) {
    fs::plain::publish(task, page, page.fast_reads.load(Relaxed) != 0 && !task.trace.is_traced());
}

/// Interrupts, rescheduling, stops, signals: here and nowhere else.
fn exit_to_user(task: &Arc<Task>, mut restart: bool) {
    loop {
        sched::serve_interrupts();
        fs::sigio::deliver();
        if sched::need_resched() {
            sched::schedule();
        }
        if task.must_exit() {
            return;
        }
        if !task.thread.interrupted() && !restart {
            match rseq::update(task) {
                Ok(false) => return,
                Ok(true) => continue,
                // One that is being killed is given no memory.
                Err(_) if task.must_exit() => return,
                Err(_) => signal::force_fault(task, SigInfo::kernel(signal::SIGSEGV)),
            }
        }
        task.thread.clear_interrupt();
        if let Some(space) = task.space() {
            lead_back(task, &space);
        }
        ptrace::stops::trap(task);
        stop::park(task);
        freezer::park(task);
        keys::own::take_session(task);
        if task.must_exit() {
            return;
        }
        restart = false;
        let mut regs = task.user.regs();
        signal::deliver(task, &mut regs);
        task.user.set_regs(&regs);
    }
}

/// Returns whether the call is to be restarted or to fail with `EINTR`.
fn system_call(task: &Arc<Task>, strace: bool) -> bool {
    let (orig_rax, args) = task.user.update(|regs| (regs.orig_rax, regs.args()));
    // Linux looks at the lower half only.
    let nr = u64::from(orig_rax as u32);
    if orig_rax == Regs::NO_SYSCALL {
        // Call number -1 was asked for, and looks like no call at all.
        task.user.update(|regs| regs.rax = Errno::ENOSYS.as_return());
        return false;
    }
    let result = if strace { syscall::dispatch_traced(task, nr, &args) } else { syscall::dispatch(task, nr, &args) };
    let (value, restart) = match result {
        Ok(value) => (value, false),
        Err(errno) => (errno.as_return(), errno.raw() >= Errno::ERESTARTSYS.raw()),
    };
    // rt_sigreturn and execve put new registers in place: then there is no call to answer.
    task.user.update(|regs| {
        if regs.orig_rax != Regs::NO_SYSCALL {
            regs.rax = value;
        }
    });
    restart
}

/// Puts a thread that a trap found on the way from a patched call to the gate back to the call: whoever looks at its registers
/// finds it in its own text, and it goes on if the patch is not there any more.
fn lead_back(task: &Task, space: &Space) -> Option<Detour> {
    let regs = task.user.regs();
    if regs.orig_rax != Regs::NO_SYSCALL {
        return None;
    }
    let detour = space.detour(&regs)?;
    task.user.update(|regs| {
        regs.rip = detour.rip;
        regs.rax = detour.rax.unwrap_or(regs.rax);
    });
    Some(detour)
}

fn page_fault(task: &Arc<Task>, fault: &FaultInfo) {
    stats::FAULTS.add(1);
    let Some(space) = task.space() else { return };
    task.sched.minor_faults.fetch_add(1, Relaxed);
    let access = match fault {
        FaultInfo { exec: true, .. } => Access::Exec,
        FaultInfo { write: true, .. } => Access::Write,
        _ => Access::Read,
    };
    let Err(refused) = space.handle_fault(fault.addr, access, vm::Origin::Guest) else { return };
    let (signo, code) = match refused {
        vm::Fault::Segv(code) => (signal::SIGSEGV, code),
        vm::Fault::Bus => (signal::SIGBUS, signal::code::BUS_ADRERR),
        vm::Fault::Oom => {
            // The access is made again.
            if !fs::dcache::reclaim() {
                oom::out_of_memory(task);
            }
            return;
        }
    };
    let err =
        4 | u64::from(fault.write) << 1 | u64::from(fault.exec) << 4 | u64::from(code == signal::code::SEGV_ACCERR);
    task.signal.set_fault(FaultRegs { trapno: u64::from(fault.trapno), err, cr2: fault.addr });
    signal::force_fault(task, SigInfo::fault(signo, code, fault.addr));
}

fn raise(task: &Arc<Task>, exception: &Exception) {
    const DEBUG: u32 = 1;
    let mut exception = *exception;
    if exception.trapno == DEBUG
        && let Some(space) = task.space()
    {
        // Who single-steps itself, or breaks at addresses, is to see its own text, too.
        space.unpatch();
        if let Some(detour) = lead_back(task, &space) {
            if !detour.is_step {
                return;
            }
            exception.addr = detour.rip;
        }
    }
    let cr2 = if exception.trapno == 14 { exception.addr } else { 0 };
    let regs = FaultRegs { trapno: u64::from(exception.trapno), err: u64::from(exception.err), cr2 };
    task.signal.set_fault(regs);
    signal::force_fault(task, SigInfo::fault(exception.signal as u32, exception.code, exception.addr));
}

/// The guest attacked the gate, or did what no guest can do here.
fn refuse(task: &Arc<Task>, kill: Kill) {
    log::warn!("process {} killed: {kill:?}", task.process().pid());
    let signo = match kill {
        Kill::Arch | Kill::Filtered => signal::SIGSYS,
        Kill::External => signal::SIGKILL,
        _ => signal::SIGSEGV,
    };
    exit::group_exit(task.process(), WaitStatus::signaled(signo, false));
}
