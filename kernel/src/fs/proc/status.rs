//! stat, statm, status and limits of a process. Source: proc_pid_stat(5), proc_pid_status(5), fs/proc/array.c.

use super::may_inspect;
use super::process::Subject;
use super::system::TICK_NS;
use crate::task::ns::time::Offset;
use crate::task::{Count, Image, Limits, Task, Usage, WaitStatus, ids};
use crate::{Pid, Result, sched, time, vm};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering::Relaxed;
use umbel_smp::runqueue::Class;
use umbel_smp::thread::State;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// A process in the tree at one instant.
struct Place {
    pid: Pid,
    /// As the reader's file system shows it.
    parent: i32,
    group: Pid,
    session: Pid,
    threads: usize,
    zombie: Option<WaitStatus>,
    /// Device number and foreground group of the controlling terminal.
    tty: (u32, i32),
}

fn place(subject: &Subject) -> Result<Place> {
    let pid = subject.process()?.pid();
    let sees = |id| subject.ns.number_of(id);
    let (mut place, session) = {
        let table = ids::table();
        let node = table.node(pid)?;
        let place = Place {
            pid,
            parent: sees(node.parent),
            group: node.pgrp.id,
            session: node.pgrp.session.id,
            // A zombie counts itself.
            threads: node.threads.len().max(1),
            zombie: node.zombie,
            tty: (0, -1),
        };
        (place, node.pgrp.session.clone())
    };
    if let Some(tty) = session.tty() {
        let (major, minor) = tty.rdev;
        place.tty = (major << 8 | minor, tty.foreground().map_or(-1, sees));
    }
    Ok(place)
}

/// The letter of a state and its name.
fn state(task: Option<&Arc<Task>>) -> (char, &'static str) {
    let Some(task) = task else { return ('Z', "zombie") };
    if task.trace.is_stopped() {
        return ('t', "tracing stop");
    }
    if task.process().stop.lock().signal.is_some() {
        return ('T', "stopped");
    }
    match task.thread.state() {
        State::Running | State::Runnable => ('R', "running"),
        // One that blocks stays on its virtual CPU for as long as nothing else wants it.
        State::Blocking { interruptible: true } | State::Blocked { interruptible: true } => ('S', "sleeping"),
        State::Blocking { interruptible: false } | State::Blocked { interruptible: false } => ('D', "disk sleep"),
        State::Dead => ('X', "dead"),
    }
}

/// The name without its padding.
pub fn comm_of(subject: &Subject) -> Vec<u8> {
    match subject.task() {
        Ok(task) => task.comm().iter().copied().take_while(|byte| *byte != 0).collect(),
        Err(_) => {
            // A zombie: the name of what it ran.
            let image = subject.process().map(|process| process.image()).unwrap_or_default();
            let name = image.exe.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            name.iter().copied().take(15).collect()
        }
    }
}

/// Own and children's usage: of the thread below `task`, of the whole process else.
fn usage(subject: &Subject, task: Option<&Arc<Task>>) -> (Usage, Usage) {
    if subject.thread {
        return (task.map(|task| task.sched.usage()).unwrap_or_default(), Usage::default());
    }
    let Ok(process) = subject.process() else { return Default::default() };
    let children = process.times.lock().children;
    (time::process_usage(&process), children)
}

/// Priority and nice value as stat shows them, real-time priority and policy.
pub(super) fn scheduling(class: Class, batch: bool) -> (i64, i64, u32, u32) {
    match class {
        Class::Fair { nice, idle } => {
            let policy = if idle {
                5
            } else if batch {
                3
            } else {
                0
            };
            (20 + i64::from(nice), i64::from(nice), 0, policy)
        }
        Class::Fifo { priority } => (-1 - i64::from(priority), 0, u32::from(priority), 1),
        Class::RoundRobin { priority } => (-1 - i64::from(priority), 0, u32::from(priority), 2),
        Class::Deadline(_) => (-101, 0, 0, 6),
    }
}

/// `/proc/PID/stat`.
pub fn stat(subject: &Subject) -> Result<String> {
    let place = place(subject)?;
    let process = subject.process()?;
    let task = subject.task().ok();
    let (own, children) = usage(subject, task.as_ref());
    let name = comm_of(subject);
    let memory = task.as_ref().and_then(|task| task.space()).map(|space| (space.usage(), space.layout()));
    let (sizes, layout) = memory.unwrap_or_default();
    let image: Arc<Image> = if task.is_some() { process.image() } else { Arc::default() };
    // Where things lie in a process is for those who may look into it.
    let may_look = task.as_ref().is_some_and(|task| may_inspect(task).is_ok());
    let [code_start, code_end, stack] = match may_look {
        true => [image.code.start, image.code.end, image.stack_top],
        false => [u64::from(task.is_some()), u64::from(task.is_some()), 0],
    };
    let (data, args, env) = (layout.data, &image.args, &image.env);
    let places = [data.0, data.1, layout.brk_start, args.start, args.end, env.start, env.end];
    let places = if may_look { places } else { [0; 7] };
    let (_, ignored, caught) = process.signal.sets();
    let (pending, blocked) = task.as_ref().map_or((0, 0), |task| (task.signal.pending_set(), task.signal.mask()));
    let class = task.as_ref().map_or(Class::NORMAL, |task| task.sched.effective());
    let batch = task.as_ref().is_some_and(|task| task.sched.flags().0);
    let (priority, nice, rt_priority, policy) = scheduling(class, batch);
    let offset_ns = crate::task::current().time_offset_ns(Offset::Boottime);
    let started_ns = process.start_ns.saturating_add(time::clock::boot_offset_ns());
    let start = started_ns.saturating_add_signed(offset_ns) / TICK_NS;
    let ticks = |ns: u64| ns / TICK_NS;
    let mut out = String::new();
    let _ = write!(
        out,
        "{} ({}) {} ",
        subject.ns.number_of(subject.tid),
        String::from_utf8_lossy(&name),
        state(task.as_ref()).0
    );
    let head: [i64; 6] = [
        i64::from(place.parent),
        i64::from(subject.ns.number_of(place.group)),
        i64::from(subject.ns.number_of(place.session)),
        i64::from(place.tty.0),
        i64::from(place.tty.1),
        // PF_RANDOMIZE, which is all that Linux shows of a plain process.
        0x40_0000,
    ];
    push(&mut out, &head);
    push(&mut out, &[own.minor_faults, children.minor_faults, own.major_faults, children.major_faults]);
    push(&mut out, &[own.user_ns, own.system_ns, children.user_ns, children.system_ns].map(ticks));
    push(&mut out, &[priority, nice, place.threads as i64, 0]);
    let limit = process.limits().soft(umbel_abi::linux::uapi::RLIMIT_RSS);
    push(&mut out, &[start, sizes.size, sizes.resident / PAGE, limit]);
    push(&mut out, &[code_start, code_end, stack, 0, 0]);
    // The old 31-bit sets.
    push(&mut out, &[pending, blocked, ignored, caught].map(|set| set & 0x7fff_ffff));
    push(&mut out, &[0_u64, 0, 0, u64::from(process.exit_signal.load(Relaxed))]);
    let cpu = task.as_ref().map_or(0, |task| task.sched.last_cpu());
    push(&mut out, &[cpu, rt_priority, policy, 0, 0, 0]);
    push(&mut out, &places);
    push(&mut out, &[place.zombie.map_or(0, |status| u64::from(status.0))]);
    out.pop();
    out.push('\n');
    Ok(out)
}

fn push<T: core::fmt::Display>(out: &mut String, values: &[T]) {
    for value in values {
        let _ = write!(out, "{value} ");
    }
}

/// `/proc/PID/statm`: sizes in pages.
pub fn statm(subject: &Subject) -> Result<String> {
    let space = subject.task().ok().and_then(|task| task.space());
    subject.process()?;
    let sizes = space.map(|space| space.usage()).unwrap_or_default();
    let pages = |bytes: u64| bytes / PAGE;
    Ok(format!(
        "{} {} {} {} 0 {} 0\n",
        pages(sizes.size),
        pages(sizes.resident),
        pages(sizes.shared + sizes.file),
        pages(text_bytes(subject)),
        pages(sizes.data + sizes.stack)
    ))
}

/// `/proc/PID/status`.
pub fn status(subject: &Subject) -> Result<String> {
    let place = place(subject)?;
    let task = subject.task().ok();
    let mut out = String::new();
    let _ = identity(&mut out, subject, &place, task.as_ref());
    if let Some(space) = task.as_ref().and_then(|task| task.space()) {
        let _ = memory(&mut out, &space.usage(), text_bytes(subject));
    }
    let _ = writeln!(out, "CoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t{}", place.threads);
    signals(&mut out, subject, task.as_ref())?;
    if let Some(task) = &task {
        let _ = rights(&mut out, task);
    }
    Ok(out)
}

fn identity(out: &mut String, subject: &Subject, place: &Place, task: Option<&Arc<Task>>) -> core::fmt::Result {
    let (letter, word) = state(task);
    writeln!(out, "Name:\t{}", String::from_utf8_lossy(&comm_of(subject)))?;
    if let Some(fs) = task.and_then(|task| task.fs().ok()) {
        writeln!(out, "Umask:\t{:04o}", fs.umask())?;
    }
    writeln!(out, "State:\t{letter} ({word})")?;
    let tracer = task.and_then(|task| task.trace.tracer()).map_or(0, |tracer| subject.ns.number_of(tracer.pid()));
    let [pid, tid] = [place.pid, subject.tid].map(|id| subject.ns.number_of(id));
    writeln!(out, "Tgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{}", place.parent)?;
    writeln!(out, "TracerPid:\t{tracer}")?;
    let cred = task.map(|task| task.cred());
    if let Some(cred) = &cred {
        let viewer = crate::task::current().cred();
        let [uid, euid, suid, fsuid] = [cred.uid, cred.euid, cred.suid, cred.fsuid].map(|id| viewer.show_uid(id));
        let [gid, egid, sgid, fsgid] = [cred.gid, cred.egid, cred.sgid, cred.fsgid].map(|id| viewer.show_gid(id));
        writeln!(out, "Uid:\t{uid}\t{euid}\t{suid}\t{fsuid}")?;
        writeln!(out, "Gid:\t{gid}\t{egid}\t{sgid}\t{fsgid}")?;
    }
    writeln!(out, "FDSize:\t64")?;
    out.push_str("Groups:\t");
    for group in cred.iter().flat_map(|cred| cred.groups.iter()) {
        write!(out, "{group} ")?;
    }
    out.push('\n');
    let titles = ["NStgid", "NSpid", "NSpgid", "NSsid"];
    for (title, id) in titles.into_iter().zip([place.pid, subject.tid, place.group, place.session]) {
        writeln!(out, "{title}:{}", numbers(subject, id))?;
    }
    writeln!(out, "Kthread:\t0")
}

/// The numbers of `id` from the reader's PID namespace to that of the subject.
fn numbers(subject: &Subject, id: Pid) -> String {
    let mut out = String::new();
    let Ok(process) = subject.process() else { return out };
    let inside: Vec<_> = process.pid_ns().lineage().filter(|ns| ns.is_within(&subject.ns)).collect();
    for ns in inside.iter().rev() {
        let _ = write!(out, "\t{}", ns.number_of(id));
    }
    out
}

/// Bytes of the program's own text.
fn text_bytes(subject: &Subject) -> u64 {
    let code = subject.process().map(|process| process.image().code.clone()).unwrap_or_default();
    code.end.next_multiple_of(PAGE).saturating_sub(code.start / PAGE * PAGE)
}

fn memory(out: &mut String, sizes: &vm::Usage, text: u64) -> core::fmt::Result {
    let kib = |bytes: u64| bytes / 1024;
    let lines = [
        ("VmPeak", sizes.size_peak),
        ("VmSize", sizes.size),
        ("VmLck", sizes.locked),
        ("VmPin", 0),
        ("VmHWM", sizes.peak),
        ("VmRSS", sizes.resident),
        ("RssAnon", sizes.resident.saturating_sub(sizes.shared + sizes.file)),
        ("RssFile", sizes.file),
        ("RssShmem", sizes.shared),
        ("VmData", sizes.data),
        ("VmStk", sizes.stack),
        ("VmExe", text),
        ("VmLib", sizes.code.saturating_sub(text)),
        ("VmPTE", sizes.table),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ];
    for (name, bytes) in lines {
        writeln!(out, "{name}:\t{:>8} kB", kib(bytes))?;
    }
    Ok(())
}

fn signals(out: &mut String, subject: &Subject, task: Option<&Arc<Task>>) -> Result<()> {
    let process = subject.process()?;
    let (shared, ignored, caught) = process.signal.sets();
    let (own, blocked) = task.map_or((0, 0), |task| (task.signal.pending_set(), task.signal.mask()));
    let limit = process.limits().soft(umbel_abi::linux::uapi::RLIMIT_SIGPENDING);
    let queued = process.user().count(Count::Signals);
    let _ = writeln!(out, "SigQ:\t{queued}/{limit}");
    for (name, set) in
        [("SigPnd", own), ("ShdPnd", shared), ("SigBlk", blocked), ("SigIgn", ignored), ("SigCgt", caught)]
    {
        let _ = writeln!(out, "{name}:\t{:016x}", set);
    }
    Ok(())
}

fn rights(out: &mut String, task: &Task) -> core::fmt::Result {
    let cred = task.cred();
    for (name, set) in [
        ("CapInh", cred.inheritable),
        ("CapPrm", cred.permitted),
        ("CapEff", cred.effective),
        ("CapBnd", cred.bounding),
        ("CapAmb", cred.ambient),
    ] {
        writeln!(out, "{name}:\t{set:016x}")?;
    }
    let (mode, filters) = (task.seccomp.mode(), task.seccomp.filters());
    writeln!(out, "NoNewPrivs:\t{}", u32::from(task.no_new_privs.load(Relaxed)))?;
    writeln!(out, "Seccomp:\t{mode}\nSeccomp_filters:\t{filters}")?;
    writeln!(out, "Speculation_Store_Bypass:\tvulnerable\nSpeculationIndirectBranch:\talways enabled")?;
    let cpus = sched::possible();
    let affinity = task.sched.affinity();
    let allowed: Vec<u32> = (0..cpus).filter(|cpu| affinity.has(*cpu)).collect();
    writeln!(out, "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}", mask(&allowed, cpus), list(&allowed))?;
    writeln!(out, "Mems_allowed:\t1\nMems_allowed_list:\t0")?;
    let usage = task.sched.usage();
    writeln!(out, "voluntary_ctxt_switches:\t{}", usage.voluntary_switches)?;
    writeln!(out, "nonvoluntary_ctxt_switches:\t{}", usage.involuntary_switches)
}

/// A set of `cpus` CPUs as hexadecimal words of 32 bits, the highest first.
pub fn mask(set: &[u32], cpus: u32) -> String {
    let words = cpus.div_ceil(32).max(1);
    let mut out = String::new();
    for word in (0..words).rev() {
        let bits = set.iter().filter(|cpu| **cpu / 32 == word).fold(0_u32, |bits, cpu| bits | 1 << (cpu % 32));
        // The first word without leading zeroes where the set has few CPUs.
        let _ = match (out.is_empty(), cpus % 32) {
            (true, 0) => write!(out, "{bits:08x}"),
            (true, rest) => write!(out, "{bits:0width$x}", width = rest.div_ceil(4) as usize),
            (false, _) => write!(out, ",{bits:08x}"),
        };
    }
    out
}

/// Ascending numbers as ranges: `0-3,5`.
pub fn list(set: &[u32]) -> String {
    let mut out = String::new();
    let mut rest = set;
    while let Some((&first, _)) = rest.split_first() {
        let run = rest.iter().zip(first..).take_while(|(have, want)| **have == *want).count();
        let last = first + run as u32 - 1;
        let comma = if out.is_empty() { "" } else { "," };
        let _ = if last > first { write!(out, "{comma}{first}-{last}") } else { write!(out, "{comma}{first}") };
        rest = rest.get(run..).unwrap_or_default();
    }
    out
}

/// Titles and units of the limits, by number.
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

/// `/proc/PID/limits`.
pub fn limits(limits: &Limits) -> String {
    let mut out = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let shown = |value: u64| if value == u64::MAX { String::from("unlimited") } else { format!("{value}") };
    for (resource, (title, unit)) in LIMITS.iter().enumerate() {
        if let Ok(limit) = limits.get(resource as u32) {
            let _ = write!(out, "{title:<25} {:<20} {:<20} ", shown(limit.soft), shown(limit.hard));
            let _ = if unit.is_empty() { writeln!(out) } else { writeln!(out, "{unit:<10}") };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_sets_print_as_linux_does() {
        assert_eq!(list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(list(&[]), "");
        assert_eq!(mask(&[0, 1], 2), "3");
        assert_eq!(mask(&[0, 33], 40), "02,00000001");
        assert_eq!(mask(&[31], 32), "80000000");
    }

    #[test]
    fn limits_print_as_on_the_host() {
        let text = limits(&Limits::first(1 << 20));
        let host = std::fs::read_to_string("/proc/self/limits").unwrap();
        let titles = |text: &str| text.lines().map(|line| line[..25].trim_end().into()).collect::<Vec<String>>();
        let units = |text: &str| text.lines().map(|line| line[67..].into()).collect::<Vec<String>>();
        assert_eq!(titles(&text), titles(&host));
        assert_eq!(units(&text), units(&host));
    }
}
