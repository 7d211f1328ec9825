//! The scheduler's knobs: policies, priorities, affinity. Source: sched(7), sched_setaffinity(2), getpriority(2).

use super::Pid;
use crate::sched::{self, Affinity, deadline};
use crate::task::{self, Task, cap, ids};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as nr;
use umbel_mm::UserAddr;
use umbel_mm::user::{copy_out, read_val, read_vec, write_val};
use umbel_smp::cpu;
use umbel_smp::runqueue::{BASE_SLICE_NS, Class, RR_SLICE_NS, SLICES_NS};

rows! {
    nr::__NR_sched_yield, sched_yield() => sched_yield, Full;
    nr::__NR_sched_setparam, sched_setparam(pid: Pid, param: UserAddr) => sched_setparam, Full;
    nr::__NR_sched_getparam, sched_getparam(pid: Pid, param: UserAddr) => sched_getparam, Full;
    nr::__NR_sched_setscheduler, sched_setscheduler(pid: Pid, policy: u32, param: UserAddr) => sched_setscheduler, Full;
    nr::__NR_sched_getscheduler, sched_getscheduler(pid: Pid) => sched_getscheduler, Full;
    nr::__NR_sched_get_priority_max, sched_get_priority_max(policy: u32) => sched_get_priority_max, Full;
    nr::__NR_sched_get_priority_min, sched_get_priority_min(policy: u32) => sched_get_priority_min, Full;
    nr::__NR_sched_rr_get_interval, sched_rr_get_interval(pid: Pid, interval: UserAddr) => sched_rr_get_interval, Full;
    nr::__NR_sched_setaffinity, sched_setaffinity(pid: Pid, len: u32, mask: UserAddr) => sched_setaffinity, Full;
    nr::__NR_sched_getaffinity, sched_getaffinity(pid: Pid, len: u32, mask: UserAddr) => sched_getaffinity, Full;
    nr::__NR_sched_setattr, sched_setattr(pid: Pid, attr: UserAddr, flags: u32) => sched_setattr, Partial("unused bandwidth is not reclaimed, deadlines are not lent, no utilization clamping");
    nr::__NR_sched_getattr, sched_getattr(pid: Pid, attr: UserAddr, size: u32, flags: u32) => sched_getattr, Full;
    nr::__NR_getcpu, getcpu(cpu: UserAddr, node: UserAddr) => getcpu, Full;
    nr::__NR_getpriority, getpriority(which: u32, who: Pid) => getpriority, Full;
    nr::__NR_setpriority, setpriority(which: u32, who: Pid, nice: i32) => setpriority, Full;
    nr::__NR_ioprio_get, ioprio_get(which: u32, who: Pid) => ioprio_get, Partial("no disk to schedule: kept and inherited only");
    nr::__NR_ioprio_set, ioprio_set(which: u32, who: Pid, priority: i32) => ioprio_set, Partial("no disk to schedule: kept and inherited only");
}

const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_DEADLINE: u32 = 6;
const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;

fn find(task: &Arc<Task>, pid: Pid) -> Result<Arc<Task>> {
    match pid.0 {
        0 => Ok(task.clone()),
        pid if pid < 0 => Err(Errno::EINVAL),
        _ => task::find_task(pid).ok_or(Errno::ESRCH),
    }
}

/// As [`find`], for the calls to which a negative id is one that does not exist.
fn find_any(task: &Arc<Task>, pid: Pid) -> Result<Arc<Task>> {
    if pid.0 < 0 { Err(Errno::ESRCH) } else { find(task, pid) }
}

/// Whether `task` may change how `target` is scheduled.
fn may_change(task: &Task, target: &Task) -> Result<()> {
    let (own, other) = (task.cred(), target.cred());
    let allowed = own.euid == other.uid || own.euid == other.euid || own.capable(cap::SYS_NICE);
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

fn sched_yield(_: &Arc<Task>) -> Result<()> {
    sched::yield_now();
    Ok(())
}

/// Policy and priority of a task.
fn policy_of(task: &Task) -> (u32, u32) {
    policy(task.sched.class(), task.sched.flags().0)
}

/// Policy and priority of a class.
fn policy(class: Class, batch: bool) -> (u32, u32) {
    match class {
        Class::Fifo { priority } => (SCHED_FIFO, u32::from(priority)),
        Class::RoundRobin { priority } => (SCHED_RR, u32::from(priority)),
        Class::Fair { idle: true, .. } => (SCHED_IDLE, 0),
        Class::Fair { .. } if batch => (SCHED_BATCH, 0),
        Class::Fair { .. } => (SCHED_OTHER, 0),
        Class::Deadline(_) => (SCHED_DEADLINE, 0),
    }
}

/// Policy and priority of a thread, or of a process that has ended and was not waited for; and whether forks reset it.
fn shown(task: &Arc<Task>, pid: Pid) -> Result<((u32, u32), bool)> {
    let (class, (batch, resets)) = match find(task, pid) {
        Ok(target) => (target.sched.class(), target.sched.flags()),
        Err(Errno::ESRCH) => {
            let ended = task::find_process(pid).ok_or(Errno::ESRCH)?;
            let class = *ended.end_class.lock();
            class.ok_or(Errno::ESRCH)?
        }
        Err(errno) => return Err(errno),
    };
    Ok((policy(class, batch), resets))
}

/// An id and an address that are there at all, which is asked before whether they lead anywhere.
fn given(pid: Pid, param: UserAddr) -> Result<()> {
    if pid.0 < 0 || param.0 == 0 { Err(Errno::EINVAL) } else { Ok(()) }
}

fn sched_setparam(task: &Arc<Task>, pid: Pid, param: UserAddr) -> Result<()> {
    given(pid, param)?;
    let target = find(task, pid)?;
    let reset = if target.sched.flags().1 { SCHED_RESET_ON_FORK } else { 0 };
    set_scheduler(task, &target, policy_of(&target).0 | reset, read_val(param)?)
}

fn sched_getparam(task: &Arc<Task>, pid: Pid, param: UserAddr) -> Result<()> {
    given(pid, param)?;
    let ((_, priority), _) = shown(task, pid)?;
    write_val(param, &priority)
}

fn sched_setscheduler(task: &Arc<Task>, pid: Pid, policy: u32, param: UserAddr) -> Result<()> {
    let target = find(task, pid)?;
    set_scheduler(task, &target, policy, read_val(param)?)
}

fn set_scheduler(task: &Task, target: &Arc<Task>, policy: u32, priority: u32) -> Result<()> {
    let plain = policy & !SCHED_RESET_ON_FORK;
    let range = priorities(plain)?;
    if !range.contains(&priority) {
        return Err(Errno::EINVAL);
    }
    may_change(task, target)?;
    let limit = target.process().limit(nr::RLIMIT_RTPRIO);
    if priority > 0 && u64::from(priority) > limit && !task.capable(cap::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let priority = priority as u8;
    let nice = target.sched.nice();
    let class = match plain {
        SCHED_FIFO => Class::Fifo { priority },
        SCHED_RR => Class::RoundRobin { priority },
        _ => Class::Fair { nice, idle: plain == SCHED_IDLE },
    };
    target.sched.set_flags(plain == SCHED_BATCH, policy & SCHED_RESET_ON_FORK != 0);
    target.sched.set_class(class);
    sched::class_changed(target);
    Ok(())
}

fn sched_getscheduler(task: &Arc<Task>, pid: Pid) -> Result<u32> {
    let ((policy, _), resets) = shown(task, pid)?;
    Ok(policy | if resets { SCHED_RESET_ON_FORK } else { 0 })
}

/// Priorities that a policy knows.
fn priorities(policy: u32) -> Result<core::ops::RangeInclusive<u32>> {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(1..=99),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE => Ok(0..=0),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_get_priority_max(_: &Arc<Task>, policy: u32) -> Result<u32> {
    if policy == SCHED_DEADLINE { Ok(0) } else { Ok(*priorities(policy)?.end()) }
}

fn sched_get_priority_min(_: &Arc<Task>, policy: u32) -> Result<u32> {
    if policy == SCHED_DEADLINE { Ok(0) } else { Ok(*priorities(policy)?.start()) }
}

fn sched_rr_get_interval(task: &Arc<Task>, pid: Pid, interval: UserAddr) -> Result<()> {
    let target = find(task, pid)?;
    let slice_ns = match target.sched.class() {
        Class::RoundRobin { .. } => RR_SLICE_NS,
        Class::Fifo { .. } | Class::Deadline(_) => 0,
        Class::Fair { .. } => target.sched.slice_ns(),
    };
    write_val(interval, &[slice_ns / 1_000_000_000, slice_ns % 1_000_000_000])
}

/// Bytes of `struct sched_attr`: the first version, and all of it.
const ATTR_MIN: usize = 48;
const ATTR_LEN: usize = 56;

/// `SCHED_FLAG_*`.
const FLAG_RESET_ON_FORK: u64 = 1;
const FLAG_RECLAIM: u64 = 2;
const FLAG_KEEP_POLICY: u64 = 8;
const FLAG_KEEP_PARAMS: u64 = 16;

/// What of `struct sched_attr` means something here.
struct Attr {
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Runtime, deadline and period, ns.
    budget: [u64; 3],
}

fn read_attr(addr: UserAddr) -> Result<Attr> {
    let size: u32 = read_val(addr)?;
    let size = if size == 0 { ATTR_MIN } else { size as usize };
    let too_big = || {
        // The size that would do.
        write_val(addr, &(ATTR_LEN as u32))?;
        Err(Errno::E2BIG)
    };
    if size < ATTR_MIN || size > umbel_mm::PAGE as usize {
        return too_big();
    }
    let bytes: Vec<u8> = read_vec(addr, size)?;
    if bytes.iter().skip(ATTR_LEN).any(|&byte| byte != 0) {
        return too_big();
    }
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let flags = u64::from(word(8)) | u64::from(word(12)) << 32;
    let budget = [24, 32, 40].map(|at| u64::from(word(at)) | u64::from(word(at + 4)) << 32);
    Ok(Attr { policy: word(4), flags, nice: word(16) as i32, priority: word(20), budget })
}

fn sched_setattr(task: &Arc<Task>, pid: Pid, attr: UserAddr, flags: u32) -> Result<()> {
    if attr.is_null() || pid.0 < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let attr = read_attr(attr)?;
    let known = FLAG_RESET_ON_FORK | FLAG_RECLAIM | deadline::FLAG_OVERRUN | FLAG_KEEP_POLICY | FLAG_KEEP_PARAMS;
    if attr.flags & !known != 0 || (attr.policy as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let target = find(task, pid)?;
    let (own_policy, own_priority) = policy_of(&target);
    let keeps = |flag| attr.flags & flag != 0;
    let policy = if keeps(FLAG_KEEP_POLICY) { own_policy } else { attr.policy };
    let priority = if keeps(FLAG_KEEP_PARAMS) { own_priority } else { attr.priority };
    let resets = if keeps(FLAG_KEEP_POLICY) { target.sched.flags().1 } else { keeps(FLAG_RESET_ON_FORK) };
    if policy == SCHED_DEADLINE {
        return set_deadline(task, &target, &attr, resets);
    }
    let reset = if resets { SCHED_RESET_ON_FORK } else { 0 };
    let fair = matches!(policy, SCHED_OTHER | SCHED_BATCH | SCHED_IDLE);
    let nice = attr.nice.clamp(-20, 19) as i8;
    if fair && !keeps(FLAG_KEEP_PARAMS) {
        may_renice(task, &target, nice).map_err(|_| Errno::EPERM)?;
    }
    set_scheduler(task, &target, policy | reset, priority)?;
    if fair && !keeps(FLAG_KEEP_PARAMS) {
        target.sched.set_nice(nice);
        target.sched.set_slice_ns(match attr.budget {
            [0, ..] => BASE_SLICE_NS,
            [runtime_ns, ..] => runtime_ns.clamp(*SLICES_NS.start(), *SLICES_NS.end()),
        });
        sched::class_changed(&target);
    }
    Ok(())
}

fn set_deadline(task: &Task, target: &Arc<Task>, attr: &Attr, resets: bool) -> Result<()> {
    let budget = match target.sched.class() {
        Class::Deadline(own) if attr.flags & FLAG_KEEP_PARAMS != 0 => own,
        _ => deadline::budget(attr.budget)?,
    };
    if attr.priority != 0 {
        return Err(Errno::EINVAL);
    }
    if !task.capable(cap::SYS_NICE) || !may_run_anywhere(&target.sched.affinity()) {
        return Err(Errno::EPERM);
    }
    deadline::admit(&target.sched, budget, attr.flags & (FLAG_RECLAIM | deadline::FLAG_OVERRUN))?;
    target.sched.set_flags(false, resets);
    sched::class_changed(target);
    Ok(())
}

/// Whether what is promised to one with this affinity is promised by all processors, as it must be.
fn may_run_anywhere(affinity: &Affinity) -> bool {
    deadline::is_unlimited() || sched::online().all(|cpu| affinity.has(cpu))
}

fn sched_getattr(task: &Arc<Task>, pid: Pid, attr: UserAddr, size: u32, flags: u32) -> Result<()> {
    let size = size as usize;
    if attr.is_null() || pid.0 < 0 || flags != 0 || size < ATTR_MIN || size > umbel_mm::PAGE as usize {
        return Err(Errno::EINVAL);
    }
    let target = find(task, pid)?;
    let (policy, priority) = policy_of(&target);
    let fair = matches!(policy, SCHED_OTHER | SCHED_BATCH | SCHED_IDLE);
    let (nice, slice_ns) = if fair { (target.sched.nice(), target.sched.slice_ns()) } else { (0, 0) };
    let size = size.min(ATTR_LEN);
    let [runtime_ns, deadline_ns, period_ns] = match target.sched.class() {
        Class::Deadline(budget) => [budget.runtime_ns, budget.deadline_ns, budget.period_ns],
        _ => [slice_ns, 0, 0],
    };
    let flags = if policy == SCHED_DEADLINE { target.sched.deadline_flags() } else { 0 };
    let words = [
        size as u64 | u64::from(policy) << 32,
        flags | u64::from(target.sched.flags().1),
        u64::from(i32::from(nice) as u32) | u64::from(priority) << 32,
        runtime_ns,
        deadline_ns,
        period_ns,
        // Utilization is not clamped: from nothing to all.
        1024 << 32,
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    copy_out(attr, bytes.get(..size).unwrap_or(&[]))
}

/// Longest mask that is read.
const MASK_MAX: u32 = 1024;

fn sched_setaffinity(task: &Arc<Task>, pid: Pid, len: u32, mask: UserAddr) -> Result<()> {
    let bytes: Vec<u8> = read_vec(mask, len.min(MASK_MAX) as usize)?;
    let target = find_any(task, pid)?;
    may_change(task, &target)?;
    let affinity = Affinity::from_bytes(&bytes, sched::possible());
    if affinity.and(Affinity::online()).is_empty(sched::possible()) {
        return Err(Errno::EINVAL);
    }
    if policy_of(&target).0 == SCHED_DEADLINE && !may_run_anywhere(&affinity) {
        return Err(Errno::EBUSY);
    }
    target.sched.set_affinity(affinity);
    sched::class_changed(&target);
    Ok(())
}

fn sched_getaffinity(task: &Arc<Task>, pid: Pid, len: u32, mask: UserAddr) -> Result<usize> {
    let bytes: Vec<u8> =
        find_any(task, pid)?.sched.affinity().and(Affinity::online()).to_bytes(sched::possible()).collect();
    if !len.is_multiple_of(8) || (len as usize) < bytes.len() {
        return Err(Errno::EINVAL);
    }
    copy_out(mask, &bytes)?;
    Ok(bytes.len())
}

fn getcpu(_: &Arc<Task>, cpu: UserAddr, node: UserAddr) -> Result<()> {
    if !cpu.is_null() {
        write_val(cpu, &cpu::this().id())?;
    }
    if node.is_null() { Ok(()) } else { write_val(node, &0_u32) }
}

/// The tasks that getpriority(2) and setpriority(2) mean.
fn chosen(task: &Arc<Task>, which: u32, who: Pid) -> Result<Vec<Arc<Task>>> {
    let all = |processes: Vec<Arc<task::Process>>| {
        let table = ids::table();
        let nodes = processes.iter().filter_map(|process| table.node(process.pid()).ok());
        nodes.flat_map(|node| node.threads.iter().cloned()).collect::<Vec<_>>()
    };
    let found = match which {
        0 => Vec::from([find_any(task, who)?]),
        1 => {
            let pgid = if who.0 == 0 { task::session::getpgid(task, Pid(0))? } else { who };
            all(task::find_pgrp(pgid))
        }
        2 => {
            let uid = if who.0 == 0 { task.cred().uid } else { who.0 as u32 };
            let mut tasks = all(task::all_processes().collect());
            tasks.retain(|task| task.cred().uid == uid);
            tasks
        }
        _ => return Err(Errno::EINVAL),
    };
    if found.is_empty() { Err(Errno::ESRCH) } else { Ok(found) }
}

/// Those that ioprio_get(2) and ioprio_set(2) mean, which count from 1.
fn chosen_for_io(task: &Arc<Task>, which: u32, who: Pid) -> Result<Vec<Arc<Task>>> {
    chosen(task, which.checked_sub(1).ok_or(Errno::EINVAL)?, who)
}

/// The highest: the lowest number, where none at all counts as the default of best effort.
fn ioprio_get(task: &Arc<Task>, which: u32, who: Pid) -> Result<u32> {
    const BEST_EFFORT: u32 = 2 << 13 | 4;
    let found = chosen_for_io(task, which, who)?;
    let own = |task: &Arc<Task>| task.io_priority.load(Relaxed);
    match found.as_slice() {
        [one] => Ok(own(one)),
        all => Ok(all.iter().map(own).map(|raw| if raw == 0 { BEST_EFFORT } else { raw }).min().unwrap_or(0)),
    }
}

fn ioprio_set(task: &Arc<Task>, which: u32, who: Pid, priority: i32) -> Result<()> {
    // Between class and level lie hints.
    let (class, level) = (priority >> 13, priority & 7);
    match class {
        1 if !task.capable(cap::SYS_NICE) && !task.capable(cap::SYS_ADMIN) => return Err(Errno::EPERM),
        1..=3 => {}
        0 if level == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    for target in chosen_for_io(task, which, who)? {
        may_change(task, &target)?;
        target.io_priority.store(priority as u32, Relaxed);
    }
    Ok(())
}

fn getpriority(task: &Arc<Task>, which: u32, who: Pid) -> Result<u64> {
    let nice = chosen(task, which, who)?.iter().map(|task| task.sched.nice()).min().unwrap_or(0);
    // The raw call returns 20 - nice, so that no result looks like an error.
    Ok((20 - i64::from(nice)) as u64)
}

fn setpriority(task: &Arc<Task>, which: u32, who: Pid, nice: i32) -> Result<()> {
    let nice = nice.clamp(-20, 19) as i8;
    for target in chosen(task, which, who)? {
        may_change(task, &target)?;
        may_renice(task, &target, nice)?;
        target.sched.set_nice(nice);
        sched::class_changed(&target);
    }
    Ok(())
}

/// Lower values need `RLIMIT_NICE` or a capability.
fn may_renice(task: &Task, target: &Task, nice: i8) -> Result<()> {
    let floor = 20 - target.process().limit(nr::RLIMIT_NICE).min(40) as i64;
    let raises = nice < target.sched.nice() && i64::from(nice) < floor;
    if raises && !task.capable(cap::SYS_NICE) { Err(Errno::EACCES) } else { Ok(()) }
}
