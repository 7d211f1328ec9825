//! Processes and threads: clone, exec, exit, wait, ids, groups, sessions, limits, times.

use super::{Fd, Pid, UserStr};
use crate::cgroup;
use crate::fs::OnExec;
use crate::loader::open::{EmptyPath, Link, open_exec, open_exec_at};
use crate::loader::stack::{STRING_MAX, Strings};
use crate::task::clone::{self, CloneArgs, CloneFlags};
use crate::task::limits::Limit;
use crate::task::ns::pid::{LEVELS_MAX, of_caller};
use crate::task::wait::{self, WaitFor, WaitOptions, WaitResult};
use crate::task::{self, Task, Usage, WaitStatus, cap, exec, exit, ids, session};
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as nr;
use umbel_mm::UserAddr;
use umbel_mm::user::{read_cstr, read_val, read_vec, write_val};

rows! {
    nr::__NR_getpid, getpid() => getpid, Full;
    nr::__NR_gettid, gettid() => gettid, Full;
    nr::__NR_getppid, getppid() => getppid, Full;
    nr::__NR_clone, clone(flags: u64, stack: UserAddr, parent_tid: UserAddr, child_tid: UserAddr, tls: u64) => clone, Full;
    nr::__NR_clone3, clone3(args: UserAddr, size: usize) => clone3, Full;
    nr::__NR_fork, fork() => fork, Full;
    nr::__NR_vfork, vfork() => vfork, Full;
    nr::__NR_execve, execve(path: UserStr, argv: UserAddr, envp: UserAddr) => execve, Full;
    nr::__NR_execveat, execveat(dir: Fd, path: UserStr, argv: UserAddr, envp: UserAddr, flags: u32) => execveat, Full;
    nr::__NR_exit, exit(code: i32) => exit, Full;
    nr::__NR_exit_group, exit_group(code: i32) => exit_group, Full;
    nr::__NR_wait4, wait4(pid: Pid, status: UserAddr, options: WaitOptions, usage: UserAddr) => wait4, Full;
    nr::__NR_waitid, waitid(which: u32, id: i32, info: UserAddr, options: WaitOptions, usage: UserAddr) => waitid, Full;
    nr::__NR_set_tid_address, set_tid_address(addr: UserAddr) => set_tid_address, Full;
    nr::__NR_set_robust_list, set_robust_list(head: UserAddr, len: usize) => set_robust_list, Full;
    nr::__NR_get_robust_list, get_robust_list(pid: Pid, head: UserAddr, len: UserAddr) => get_robust_list, Full;
    nr::__NR_rseq, rseq(addr: UserAddr, len: u32, flags: u32, signature: u32) => rseq, Full;
    nr::__NR_setpgid, setpgid(pid: Pid, pgid: Pid) => setpgid, Full;
    nr::__NR_getpgid, getpgid(pid: Pid) => getpgid, Full;
    nr::__NR_getpgrp, getpgrp() => getpgrp, Full;
    nr::__NR_setsid, setsid() => setsid, Full;
    nr::__NR_getsid, getsid(pid: Pid) => getsid, Full;
    nr::__NR_getrlimit, getrlimit(resource: u32, limit: UserAddr) => getrlimit, Full;
    nr::__NR_setrlimit, setrlimit(resource: u32, limit: UserAddr) => setrlimit, Full;
    nr::__NR_prlimit64, prlimit64(pid: Pid, resource: u32, new: UserAddr, old: UserAddr) => prlimit64, Full;
    nr::__NR_getrusage, getrusage(who: i32, usage: UserAddr) => getrusage, Full;
    nr::__NR_times, times(buf: UserAddr) => times, Full;
    nr::__NR_arch_prctl, arch_prctl(code: u32, addr: u64) => arch_prctl, Partial("no CPUID faulting, no shadow stacks");
    nr::__NR_personality, personality(persona: u32) => personality, Partial("remembered; only ADDR_NO_RANDOMIZE has an effect");
}

fn getpid(task: &Arc<Task>) -> Result<Pid> {
    Ok(task.process().pid())
}

fn gettid(task: &Arc<Task>) -> Result<Pid> {
    Ok(task.tid())
}

fn getppid(task: &Arc<Task>) -> Result<Pid> {
    Ok(ids::table().node(task.process().pid())?.parent)
}

fn clone(
    task: &Arc<Task>,
    flags: u64,
    stack: UserAddr,
    parent_tid: UserAddr,
    child_tid: UserAddr,
    tls: u64,
) -> Result<i32> {
    let known = CloneFlags::from_bits_truncate(flags & 0xffff_ff00);
    if known.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
        // Both would go to the same place.
        return Err(Errno::EINVAL);
    }
    let args = CloneArgs {
        // The low byte is the exit signal; unknown bits are ignored, as on Linux.
        flags: known,
        exit_signal: (flags & 0xff) as u32,
        stack: stack.0,
        tls,
        parent_tid: parent_tid.0,
        child_tid: child_tid.0,
        pidfd: parent_tid.0,
        set_tid: Vec::new(),
        group: None,
    };
    clone::clone(task, &args)
}

/// `struct clone_args`, as words.
const CLONE_ARGS_WORDS: usize = 11;
const CLONE_ARGS_MIN: usize = 64;
/// With the member `cgroup`.
const CLONE_ARGS_CGROUP: usize = 88;
fn clone3(task: &Arc<Task>, args: UserAddr, size: usize) -> Result<i32> {
    if size < CLONE_ARGS_MIN {
        return Err(Errno::EINVAL);
    }
    if size > umbel_mm::PAGE as usize {
        return Err(Errno::E2BIG);
    }
    let bytes: Vec<u8> = read_vec(args, size)?;
    let mut words = [0_u64; CLONE_ARGS_WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.try_into().map_or(0, u64::from_le_bytes);
    }
    if bytes.iter().skip(CLONE_ARGS_WORDS * 8).any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let [flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup] =
        words;
    let known = CloneFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let bad_stack = (stack == 0) != (stack_size == 0);
    let bad_thread = known.intersects(CloneFlags::THREAD | CloneFlags::PARENT) && exit_signal != 0;
    if bad_stack
        || bad_thread
        || exit_signal > 64
        || known.contains(CloneFlags::DETACHED)
        || (set_tid == 0) != (set_tid_size == 0)
        || set_tid_size > LEVELS_MAX as u64
        || (known.contains(CloneFlags::INTO_CGROUP) && (size < CLONE_ARGS_CGROUP || cgroup > i32::MAX as u64))
    {
        return Err(Errno::EINVAL);
    }
    let group = match known.contains(CloneFlags::INTO_CGROUP) {
        true => Some(cgroup::enter::asked(task, &*task.files()?.get(Fd(cgroup as i32))?)?),
        false => None,
    };
    let stack = stack.checked_add(stack_size).ok_or(Errno::EINVAL)?;
    let set_tid = wanted_tids(task, known, UserAddr(set_tid), set_tid_size as usize)?;
    let exit_signal = exit_signal as u32;
    clone::clone(
        task,
        &CloneArgs { flags: known, exit_signal, stack, tls, parent_tid, child_tid, pidfd, set_tid, group },
    )
}

/// The numbers that `set_tid` asks for, from the child's own PID namespace outwards.
fn wanted_tids(task: &Task, flags: CloneFlags, list: UserAddr, count: usize) -> Result<Vec<i32>> {
    const CHECKPOINT_RESTORE: u32 = 40;
    let ns = task.ns().pid_for_children.clone();
    let levels = ns.level() + 1 + usize::from(flags.contains(CloneFlags::NEWPID));
    if count > levels {
        return Err(Errno::EINVAL);
    }
    let mut wanted = Vec::new();
    for index in 0..count {
        let number: i32 = read_val(list.add(index as u64 * 4))?;
        if !(1..ids::PID_MAX).contains(&number) {
            return Err(Errno::EINVAL);
        }
        wanted.push(number);
    }
    let cred = task.cred();
    // The first may be that of a namespace that is yet to be made, which its maker rules.
    let made = usize::from(flags.contains(CloneFlags::NEWPID));
    let refused = |owner| !cred.capable_in(owner, cap::SYS_ADMIN) && !cred.capable_in(owner, CHECKPOINT_RESTORE);
    let outer = count.saturating_sub(made);
    if ns.lineage().take(outer).any(|ns| refused(&ns.owner)) { Err(Errno::EPERM) } else { Ok(wanted) }
}

const SIGCHLD: u32 = crate::signal::SIGCHLD;

fn fork(task: &Arc<Task>) -> Result<i32> {
    clone::clone(task, &plain(CloneFlags::empty()))
}

fn vfork(task: &Arc<Task>) -> Result<i32> {
    clone::clone(task, &plain(CloneFlags::VM | CloneFlags::VFORK))
}

fn plain(flags: CloneFlags) -> CloneArgs {
    CloneArgs { flags, exit_signal: SIGCHLD, ..CloneArgs::default() }
}

fn execve(task: &Arc<Task>, path: UserStr, argv: UserAddr, envp: UserAddr) -> Result<()> {
    let name = path.read()?;
    let file = open_exec(task, &name)?;
    let strings = Strings { args: read_strings(argv)?, envs: read_strings(envp)? };
    exec::exec(task, exec::Program { file, name, unreachable: false }, with_name(strings))
}

/// `AT_EXECVE_CHECK`: only say whether it could run.
const AT_EXECVE_CHECK: u32 = 0x10000;
const AT_EMPTY_PATH: u32 = nr::AT_EMPTY_PATH;
const AT_SYMLINK_NOFOLLOW: u32 = nr::AT_SYMLINK_NOFOLLOW;

fn execveat(task: &Arc<Task>, dir: Fd, path: UserStr, argv: UserAddr, envp: UserAddr, flags: u32) -> Result<()> {
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_EXECVE_CHECK) != 0 {
        return Err(Errno::EINVAL);
    }
    let empty = if flags & AT_EMPTY_PATH != 0 { EmptyPath::Allowed } else { EmptyPath::Refused };
    let link = if flags & AT_SYMLINK_NOFOLLOW != 0 { Link::Refused } else { Link::Followed };
    let name = path.read()?;
    let file = open_exec_at(task, dir, &name, empty, link)?;
    let strings = Strings { args: read_strings(argv)?, envs: read_strings(envp)? };
    if flags & AT_EXECVE_CHECK != 0 {
        return Ok(());
    }
    let by_descriptor = !(name.starts_with(b"/") || dir == Fd::CWD);
    let unreachable = by_descriptor && task.files()?.on_exec(dir) == Ok(OnExec::Close);
    let name = if !by_descriptor {
        name
    } else {
        let mut full = alloc::format!("/dev/fd/{}", dir.0).into_bytes();
        if !name.is_empty() {
            full.push(b'/');
            full.extend(&name);
        }
        full
    };
    exec::exec(task, exec::Program { file, name, unreachable }, with_name(strings))
}

/// Linux gives a program without arguments an empty name.
fn with_name(mut strings: Strings) -> Strings {
    if strings.args.is_empty() {
        strings.args.push(Vec::new());
    }
    strings
}

/// A null-terminated vector of strings.
fn read_strings(vector: UserAddr) -> Result<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    let mut total = 0;
    if vector.is_null() {
        return Ok(strings);
    }
    for index in 0_u64.. {
        let addr: u64 = read_val(vector.add(index * 8))?;
        if addr == 0 {
            break;
        }
        let string = read_cstr(UserAddr(addr), STRING_MAX).map_err(|errno| match errno {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            other => other,
        })?;
        total += string.len() + 9;
        if total > 8 << 20 {
            return Err(Errno::E2BIG);
        }
        strings.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        strings.push(string);
        if index % 64 == 0 {
            crate::sched::cond_resched();
        }
    }
    Ok(strings)
}

fn exit(task: &Arc<Task>, code: i32) -> Result<()> {
    exit::exit(task, code);
    Ok(())
}

fn exit_group(task: &Arc<Task>, code: i32) -> Result<()> {
    task::group_exit(task.process(), WaitStatus::exited(code));
    Ok(())
}

fn wait4(task: &Arc<Task>, pid: Pid, status: UserAddr, options: WaitOptions, usage: UserAddr) -> Result<i32> {
    if options.intersects(WaitOptions::WNOWAIT | WaitOptions::WEXITED) {
        return Err(Errno::EINVAL);
    }
    let which = match pid.0 {
        -1 => WaitFor::Any,
        i32::MIN => return Err(Errno::ESRCH),
        0 => WaitFor::Pgrp(session::getpgid(task, Pid(0))?),
        pgid if pgid < 0 => WaitFor::Pgrp(Pid(-pgid)),
        _ => WaitFor::Pid(pid),
    };
    let Some(found) = wait::wait(task, which, options | WaitOptions::WEXITED)? else { return Ok(0) };
    if !status.is_null() {
        write_val(status, &found.status.0)?;
    }
    if !usage.is_null() {
        write_usage(usage, &found.usage)?;
    }
    Ok(found.number)
}

/// `idtype_t` of a pidfd.
const P_PIDFD: u32 = 3;

fn waitid(task: &Arc<Task>, which: u32, id: i32, info: UserAddr, options: WaitOptions, usage: UserAddr) -> Result<()> {
    let wanted = WaitOptions::WEXITED | WaitOptions::WUNTRACED | WaitOptions::WCONTINUED;
    if !options.intersects(wanted) {
        return Err(Errno::EINVAL);
    }
    let mut nonblock = false;
    let which = match which {
        0 => WaitFor::Any,
        1 if id > 0 => WaitFor::Pid(of_caller(id)),
        2 if id == 0 => WaitFor::Pgrp(session::getpgid(task, Pid(0))?),
        2 if id > 0 => WaitFor::Pgrp(of_caller(id)),
        P_PIDFD if id >= 0 => {
            let file = task.files()?.get(Fd(id))?;
            nonblock = file.nonblocking();
            let pidfd = file.ops_as::<task::pidfd::PidFd>().ok_or(Errno::EBADF)?;
            WaitFor::Process(pidfd.any_process().clone())
        }
        _ => return Err(Errno::EINVAL),
    };
    let hang = if nonblock { options | WaitOptions::WNOHANG } else { options };
    let found = wait::wait(task, which, hang)?;
    if nonblock && found.is_none() && !options.contains(WaitOptions::WNOHANG) {
        return Err(Errno::EAGAIN);
    }
    if !info.is_null() {
        write_info(info, found.as_ref())?;
    }
    if let Some(found) = &found
        && !usage.is_null()
    {
        write_usage(usage, &found.usage)?;
    }
    Ok(())
}

/// The `siginfo_t` of waitid(2): zero if nothing happened.
fn write_info(info: UserAddr, found: Option<&WaitResult>) -> Result<()> {
    let words: [i32; 7] = match found {
        Some(found) => {
            let (code, value) = wait::code_of(found.status);
            let uid = task::current().cred().show_uid(found.uid);
            [SIGCHLD as i32, 0, code, 0, found.number, uid as i32, value]
        }
        None => [0; 7],
    };
    // si_errno comes second, padding fourth: the fields begin at byte 16.
    write_val(info, &words)
}

fn set_tid_address(task: &Arc<Task>, addr: UserAddr) -> Result<Pid> {
    task.clear_child_tid.store(addr.0, Relaxed);
    Ok(task.tid())
}

/// Bytes of `struct robust_list_head`.
const ROBUST_HEAD_LEN: usize = 24;

fn set_robust_list(task: &Arc<Task>, head: UserAddr, len: usize) -> Result<()> {
    if len != ROBUST_HEAD_LEN {
        return Err(Errno::EINVAL);
    }
    task.robust_list.store(head.0, Relaxed);
    Ok(())
}

fn rseq(task: &Arc<Task>, addr: UserAddr, len: u32, flags: u32, signature: u32) -> Result<()> {
    task::rseq::register(task, addr.0, len, flags, signature)
}

fn get_robust_list(task: &Arc<Task>, pid: Pid, head: UserAddr, len: UserAddr) -> Result<()> {
    let other = if pid.0 == 0 { task.clone() } else { task::find_task(pid).ok_or(Errno::ESRCH)? };
    if other.cred().uid != task.cred().euid && !task.capable(cap::SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    write_val(len, &(ROBUST_HEAD_LEN as u64))?;
    write_val(head, &other.robust_list.load(Relaxed))
}

fn setpgid(task: &Arc<Task>, pid: Pid, pgid: Pid) -> Result<()> {
    session::setpgid(task, pid, pgid)
}

fn getpgid(task: &Arc<Task>, pid: Pid) -> Result<Pid> {
    session::getpgid(task, pid)
}

fn getpgrp(task: &Arc<Task>) -> Result<Pid> {
    session::getpgid(task, Pid(0))
}

fn setsid(task: &Arc<Task>) -> Result<Pid> {
    session::setsid(task)
}

fn getsid(task: &Arc<Task>, pid: Pid) -> Result<Pid> {
    session::getsid(task, pid)
}

fn getrlimit(task: &Arc<Task>, resource: u32, limit: UserAddr) -> Result<()> {
    let value = task.process().limits().get(resource)?;
    write_val(limit, &[value.soft, value.hard])
}

fn setrlimit(task: &Arc<Task>, resource: u32, limit: UserAddr) -> Result<()> {
    let [soft, hard] = read_val(limit)?;
    let privileged = task.capable(cap::SYS_RESOURCE);
    task.process().with_limits(|limits| limits.set(resource, Limit { soft, hard }, privileged))?;
    limits_changed(task);
    Ok(())
}

fn prlimit64(task: &Arc<Task>, pid: Pid, resource: u32, new: UserAddr, old: UserAddr) -> Result<()> {
    let target = if pid.0 == 0 { task.clone() } else { task::find_task(pid).ok_or(Errno::ESRCH)? };
    if !Arc::ptr_eq(target.process(), task.process()) && !may_limit(task, &target) {
        return Err(Errno::EPERM);
    }
    let new: Option<[u64; 2]> = if new.is_null() { None } else { Some(read_val(new)?) };
    let privileged = task.capable(cap::SYS_RESOURCE);
    let before = target.process().with_limits(|limits| {
        let before = limits.get(resource)?;
        if let Some([soft, hard]) = new {
            limits.set(resource, Limit { soft, hard }, privileged)?;
        }
        Ok(before)
    })?;
    if new.is_some() {
        limits_changed(&target);
    }
    if old.is_null() { Ok(()) } else { write_val(old, &[before.soft, before.hard]) }
}

/// Tells the address space of its process's limits.
fn limits_changed(task: &Task) {
    // Without memory for its timer the limit is noted, no more.
    let _ = time::posix::watch_cpu_limit(task.process());
    if let Some(space) = task.space() {
        space.set_limits(crate::loader::memory_limits(&task.process().limits()));
    }
}

fn may_limit(task: &Task, target: &Task) -> bool {
    let (own, other) = (task.cred(), target.cred());
    let same = [other.uid, other.euid, other.suid].iter().all(|&uid| uid == own.uid)
        && [other.gid, other.egid, other.sgid].iter().all(|&gid| gid == own.gid);
    same || own.capable(cap::SYS_RESOURCE)
}

fn getrusage(task: &Arc<Task>, who: i32, usage: UserAddr) -> Result<()> {
    let value = match who {
        0 => own_usage(task),
        -1 => task.process().times.lock().children,
        1 => task.sched.usage(),
        _ => return Err(Errno::EINVAL),
    };
    write_usage(usage, &value)
}

/// The process so far: threads that ended and threads that live.
fn own_usage(task: &Task) -> Usage {
    let mut usage = time::process_usage(task.process());
    if let Some(space) = task.space() {
        usage.max_rss_kib = usage.max_rss_kib.max(space.peak() / 1024);
    }
    usage
}

/// `struct rusage`: two timevals, then 14 longs.
fn write_usage(addr: UserAddr, usage: &Usage) -> Result<()> {
    let timeval = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000 / 1000];
    let mut words = [0_u64; 18];
    let [user_s, user_us] = timeval(usage.user_ns);
    let [system_s, system_us] = timeval(usage.system_ns);
    words[..5].copy_from_slice(&[user_s, user_us, system_s, system_us, usage.max_rss_kib]);
    words[8] = usage.minor_faults;
    words[9] = usage.major_faults;
    words[16] = usage.voluntary_switches;
    words[17] = usage.involuntary_switches;
    write_val(addr, &words)
}

/// A tick of times(2), ns.
const TICK_NS: u64 = 10_000_000;

fn times(task: &Arc<Task>, buf: UserAddr) -> Result<u64> {
    if !buf.is_null() {
        let own = own_usage(task);
        let children = task.process().times.lock().children;
        let ticks = [own.user_ns, own.system_ns, children.user_ns, children.system_ns].map(|ns| ns / TICK_NS);
        write_val(buf, &ticks)?;
    }
    Ok(time::monotonic_ns() / TICK_NS)
}

fn arch_prctl(task: &Arc<Task>, code: u32, addr: u64) -> Result<u64> {
    task::arch_prctl(task, code, addr)
}

fn personality(task: &Arc<Task>, persona: u32) -> Result<u32> {
    let current = &task.process().personality;
    Ok(if persona == u32::MAX { current.load(Relaxed) } else { current.swap(persona, Relaxed) })
}
