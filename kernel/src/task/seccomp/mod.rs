//! Filters on system calls. Source: seccomp(2), `kernel/seccomp.c` of Linux (behaviour).
//!
//! A filter is immutable; the filters of a thread are a list that its children share and only add to. The run loop asks
//! [`Seccomp::is_on`] at every call and then [`check`]. A thread with filters is not answered without entering the
//! kernel (`SlotPage::fast_reads`). [`notify`]: filters whose calls another process answers.
//!
//! Lock: the thread's list (rank `Leaf`).

pub mod notify;

use super::ptrace::stops;
use super::{Task, WaitStatus, cap, exit, ids};
use crate::bpf::{self, CallData, Kind, Program};
use crate::signal::{self, SIGKILL, SIGSYS, SigInfo, code};
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::*};
use linux_raw_sys::general as nr;
use notify::{Attached, Listener};
use umbel_gate::Regs;
use umbel_mm::UserAddr;
use umbel_mm::user::read_val;
use umbel_smp::lock::{Rank, SpinLock};

/// `SECCOMP_RET_*` without data, the strongest first.
mod ret {
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
    pub const ACTION: u32 = 0xffff_0000;
}

/// `SECCOMP_FILTER_FLAG_*`.
mod flag {
    pub const TSYNC: u32 = 1;
    pub const LOG: u32 = 2;
    pub const SPEC_ALLOW: u32 = 4;
    pub const NEW_LISTENER: u32 = 8;
    pub const TSYNC_ESRCH: u32 = 16;
    pub const WAIT_KILLABLE_RECV: u32 = 32;
    pub const ALL: u32 = TSYNC | LOG | SPEC_ALLOW | NEW_LISTENER | TSYNC_ESRCH | WAIT_KILLABLE_RECV;
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Make,
    /// Its result is in the registers.
    Done,
    /// A signal came first: as [`Verdict::Done`], and the call may be made again.
    Restart,
}

const STRICT: u32 = 1;
const FILTER: u32 = 2;
/// Most instructions of all filters of a thread, each counted with four more.
const TOTAL_MAX: usize = 1 << 15;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const MAX_ERRNO: u32 = 4095;

/// A filter and those that were there before it.
#[derive(Debug)]
struct Filter {
    program: Program,
    previous: Option<Arc<Filter>>,
    /// Instructions of the whole list.
    total: usize,
    /// Filters of the whole list.
    count: u32,
    /// Who answers calls that it notifies of.
    listener: Option<Attached>,
}

impl Drop for Filter {
    /// One after the other: a long list must not use up the stack.
    fn drop(&mut self) {
        let mut next = self.previous.take();
        while let Some(mut filter) = next.and_then(Arc::into_inner) {
            next = filter.previous.take();
        }
    }
}

/// What a thread has.
#[derive(Debug)]
pub struct Seccomp {
    mode: AtomicU32,
    filter: SpinLock<Option<Arc<Filter>>>,
}

impl Default for Seccomp {
    fn default() -> Self {
        Self::with(0, None)
    }
}

impl Seccomp {
    fn with(mode: u32, filter: Option<Arc<Filter>>) -> Seccomp {
        Seccomp { mode: AtomicU32::new(mode), filter: SpinLock::new(Rank::Leaf, filter) }
    }

    /// For a child.
    pub fn copy(&self) -> Seccomp {
        Self::with(self.mode(), self.filter.lock().clone())
    }

    /// Whether calls are to be checked.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.mode.load(Relaxed) != 0
    }

    /// 0, 1 = strict, 2 = filters: as `PR_GET_SECCOMP` and /proc say.
    pub fn mode(&self) -> u32 {
        self.mode.load(Relaxed)
    }

    /// Number of filters.
    pub fn filters(&self) -> u32 {
        self.filter.lock().as_ref().map_or(0, |filter| filter.count)
    }

    fn set(&self, filter: Arc<Filter>) {
        let old = self.filter.lock().replace(filter);
        self.mode.store(FILTER, Relaxed);
        drop(old);
    }

    /// What the filters say, and the listener of the one that says it.
    fn run(&self, data: &CallData) -> (u32, Option<Arc<Listener>>) {
        let first = self.filter.lock().clone();
        let (mut strongest, mut listener) = (ret::ALLOW, None);
        let mut next = first.as_deref();
        while let Some(filter) = next {
            let value = filter.program.run(data);
            // As signed numbers the actions are ordered.
            if ((value & ret::ACTION) as i32) < (strongest & ret::ACTION) as i32 {
                (strongest, listener) = (value, filter.listener.as_ref());
            }
            next = filter.previous.as_deref();
        }
        (strongest, listener.map(|attached| attached.0.clone()))
    }

    /// Gives the filters up: the thread has ended.
    pub fn release(&self) {
        let old = self.filter.lock().take();
        drop(old);
    }
}

/// Checks the call that `task` is about to make.
pub fn check(task: &Arc<Task>) -> Verdict {
    if task.seccomp.mode() == STRICT {
        return check_strict(task);
    }
    let data = data_of(&task.user.regs());
    let (action, listener) = task.seccomp.run(&data);
    match action & ret::ACTION {
        ret::ALLOW => Verdict::Make,
        ret::LOG => {
            log::info!("seccomp: thread {} calls {}", task.tid(), task.user.regs().orig_rax);
            Verdict::Make
        }
        ret::TRACE => traced(task, action as u16),
        ret::USER_NOTIF => notify::ask(task, listener, data),
        other => refuse(task, other, action & !ret::ACTION),
    }
}

fn data_of(regs: &Regs) -> CallData {
    let mut data = [0; bpf::CALL_WORDS];
    let words = [regs.rip].into_iter().chain(regs.args()).flat_map(|word| [word as u32, (word >> 32) as u32]);
    let all = [regs.orig_rax as u32, AUDIT_ARCH_X86_64].into_iter().chain(words);
    for (place, word) in data.iter_mut().zip(all) {
        *place = word;
    }
    data
}

fn check_strict(task: &Arc<Task>) -> Verdict {
    let allowed = [nr::__NR_read, nr::__NR_write, nr::__NR_exit, nr::__NR_rt_sigreturn].map(u64::from);
    if allowed.contains(&task.user.regs().orig_rax) {
        return Verdict::Make;
    }
    end_thread(task, SIGKILL);
    Verdict::Done
}

/// `SECCOMP_RET_TRACE`: the tracer decides; what it makes of the call is checked again.
fn traced(task: &Arc<Task>, data: u16) -> Verdict {
    if !stops::seccomp(task, data) {
        set_result(task, Errno::ENOSYS.as_return());
        return Verdict::Done;
    }
    let regs = task.user.regs();
    if task.must_exit() || (regs.orig_rax as i64) < 0 {
        return Verdict::Done;
    }
    let data = data_of(&regs);
    let (action, listener) = task.seccomp.run(&data);
    match action & ret::ACTION {
        ret::ALLOW | ret::LOG | ret::TRACE => Verdict::Make,
        ret::USER_NOTIF => notify::ask(task, listener, data),
        other => refuse(task, other, action & !ret::ACTION),
    }
}

fn refuse(task: &Arc<Task>, action: u32, data: u32) -> Verdict {
    match action {
        ret::ERRNO => set_result(task, i64::from(data.min(MAX_ERRNO)).wrapping_neg() as u64),
        ret::TRAP => send_sigsys(task, code::SYS_SECCOMP, data),
        ret::KILL_THREAD => end_thread(task, SIGSYS),
        _ => exit::group_exit(task.process(), WaitStatus::signaled(SIGSYS, false)),
    }
    Verdict::Done
}

fn set_result(task: &Task, value: u64) {
    task.user.update(|regs| regs.rax = value);
}

/// SIGSYS with the call as it was asked for, the reason `code`, and `data` as its `si_errno`.
pub(super) fn send_sigsys(task: &Arc<Task>, code: i32, data: u32) {
    let regs = task.user.regs();
    set_result(task, regs.orig_rax);
    let call = u64::from(regs.orig_rax as u32) | u64::from(AUDIT_ARCH_X86_64) << 32;
    let mut info = SigInfo::raw(SIGSYS, code, &[regs.rip, call]);
    info.0.errno = data as i32;
    task.user.update(|regs| regs.orig_rax = Regs::NO_SYSCALL);
    signal::force_fault(task, info);
}

/// Ends the thread by `signo`; with it the process, if it was the only one.
fn end_thread(task: &Arc<Task>, signo: u32) {
    let status = WaitStatus::signaled(signo, false);
    if task.process().live_threads() == 1 {
        exit::group_exit(task.process(), status);
    } else {
        exit::exit(task, 0);
    }
}

/// `SECCOMP_SET_MODE_STRICT`.
///
/// # Errors
/// `EINVAL` if there are filters.
pub fn set_strict(task: &Task) -> Result<()> {
    if task.seccomp.mode() == FILTER {
        return Err(Errno::EINVAL);
    }
    task.seccomp.mode.store(STRICT, Relaxed);
    task.change_identity();
    Ok(())
}

/// `SECCOMP_SET_MODE_FILTER`: adds the program at `addr` (`struct sock_fprog`). Returns 0, or the descriptor of a listener that
/// was asked for, or with `TSYNC` the thread that stands in the way.
///
/// # Errors
/// `EINVAL`, `EFAULT`, `EACCES`, `EBUSY`, `ENOMEM`, `EMFILE`, `ESRCH`: see seccomp(2).
pub fn add_filter(task: &Arc<Task>, flags: u32, addr: UserAddr) -> Result<u64> {
    let has = |wanted: u32| flags & wanted != 0;
    // A descriptor and a thread's number could not be told apart.
    let unclear = has(flag::TSYNC) && has(flag::NEW_LISTENER) && !has(flag::TSYNC_ESRCH);
    let pointless = has(flag::WAIT_KILLABLE_RECV) && !has(flag::NEW_LISTENER);
    if flags & !flag::ALL != 0 || unclear || pointless || task.seccomp.mode() == STRICT {
        return Err(Errno::EINVAL);
    }
    let program = read_program(addr)?;
    if !task.no_new_privs.load(Relaxed) && !task.cred().capable_here(cap::SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    let previous = task.seccomp.filter.lock().clone();
    let (before, count) = previous.as_ref().map_or((0, 0), |filter| (filter.total, filter.count));
    let total = before + program.count() + 4;
    if total > TOTAL_MAX {
        return Err(Errno::ENOMEM);
    }
    let listens = has(flag::NEW_LISTENER);
    if listens && has_listener(previous.as_ref()) {
        return Err(Errno::EBUSY);
    }
    let listener = listens.then(|| Listener::new(has(flag::WAIT_KILLABLE_RECV)));
    let attached = listener.clone().map(Attached);
    let filter = Filter { program, previous: previous.clone(), total, count: count + 1, listener: attached };
    let filter = Arc::new(filter);
    let fd = listener.map(|listener| notify::install(task, listener)).transpose()?;
    match share(task, flags, filter, previous.as_ref()) {
        Ok(0) => Ok(fd.map_or(0, |fd| fd.0 as u64)),
        other => {
            if let (Some(fd), Ok(files)) = (fd, task.files()) {
                drop(files.remove(fd));
            }
            other
        }
    }
}

/// Gives a new filter to the caller, or to all threads (`TSYNC`).
fn share(task: &Arc<Task>, flags: u32, filter: Arc<Filter>, previous: Option<&Arc<Filter>>) -> Result<u64> {
    if flags & flag::TSYNC == 0 {
        give(task, filter);
        return Ok(0);
    }
    let threads = ids::table().node(task.process().pid())?.threads.clone();
    if let Some(other) = threads.iter().find(|other| !may_follow(task, other, previous)) {
        return if flags & flag::TSYNC_ESRCH != 0 {
            Err(Errno::ESRCH)
        } else {
            Ok(task.process().sees(other.tid()) as u64)
        };
    }
    for other in &threads {
        give(other, filter.clone());
        if task.no_new_privs.load(Relaxed) {
            other.no_new_privs.store(true, Relaxed);
        }
        // What it runs may be answered without entering the kernel: it looks anew.
        crate::sched::interrupt(other);
    }
    Ok(0)
}

fn has_listener(first: Option<&Arc<Filter>>) -> bool {
    let mut next = first;
    while let Some(filter) = next {
        if filter.listener.is_some() {
            return true;
        }
        next = filter.previous.as_ref();
    }
    false
}

fn give(task: &Task, filter: Arc<Filter>) {
    task.seccomp.set(filter);
    task.change_identity();
}

/// Whether the filters of `other` are some of the caller's.
fn may_follow(task: &Arc<Task>, other: &Arc<Task>, own: Option<&Arc<Filter>>) -> bool {
    if Arc::ptr_eq(task, other) {
        return true;
    }
    if other.seccomp.mode() == STRICT {
        return false;
    }
    let Some(theirs) = other.seccomp.filter.lock().clone() else { return true };
    let mut next = own;
    while let Some(filter) = next {
        if Arc::ptr_eq(filter, &theirs) {
            return true;
        }
        next = filter.previous.as_ref();
    }
    false
}

fn read_program(addr: UserAddr) -> Result<Program> {
    let [len, code]: [u64; 2] = read_val(addr)?;
    Program::read(len as u16, UserAddr(code), Kind::Calls)
}

/// `SECCOMP_GET_ACTION_AVAIL`.
///
/// # Errors
/// `EOPNOTSUPP` for actions that are not there.
pub fn is_available(action: u32) -> Result<()> {
    match action {
        ret::KILL_PROCESS
        | ret::KILL_THREAD
        | ret::TRAP
        | ret::ERRNO
        | ret::TRACE
        | ret::LOG
        | ret::ALLOW
        | ret::USER_NOTIF => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}
