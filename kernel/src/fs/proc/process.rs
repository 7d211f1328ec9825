//! The directory of a process, and of each of its threads.

use super::{fd, map_files, maps, may_inspect, mem, mounts, numa, pagemap, running, smaps, status, users};
use crate::cgroup;
use crate::fs::pseudo::{Dir, DirSource, Link, Meta, PseudoFs, Request, Target, TextFile};
use crate::fs::{InodeRef, Kind, Mode};
use crate::task::ns::PidNs;
use crate::task::ns::user::Which;
use crate::task::{self, Cred, Process, Task, access, cap, ids};
use crate::{Errno, Pid, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use umbel_mm::UserAddr;

/// Most bytes of `cmdline` and `environ` that are shown.
const STRINGS_MAX: u64 = 1 << 20;
/// Inode numbers: those of processes' directories are made of their ids above this.
const INO_BASE: u64 = 1 << 32;

/// Who a directory is about.
#[derive(Clone)]
pub struct Subject {
    /// A thread's id; the process's own for its directory.
    pub tid: Pid,
    /// Whether this is a directory below `task`.
    pub thread: bool,
    /// Whose numbers are shown: the PID namespace that the file system was mounted in.
    pub ns: Arc<PidNs>,
    /// Who had the id when the directory was looked up.
    of: Weak<Process>,
}

impl Subject {
    /// The thread.
    ///
    /// # Errors
    /// `ESRCH` once it is gone, or a zombie.
    pub fn task(&self) -> Result<Arc<Task>> {
        ids::find_task(self.tid).filter(|task| self.is(task.process())).ok_or(Errno::ESRCH)
    }

    /// The process, a zombie too.
    ///
    /// # Errors
    /// `ESRCH` once it is gone.
    pub fn process(&self) -> Result<Arc<Process>> {
        match ids::find_process(self.tid).filter(|process| self.is(process)) {
            Some(process) => Ok(process),
            None => self.task().map(|task| task.process().clone()),
        }
    }

    /// About `tid`, which there is.
    fn new(ns: &Arc<PidNs>, tid: Pid, thread: bool) -> Result<Subject> {
        let by_thread = || ids::find_task(tid).map(|task| task.process().clone());
        let process = ids::find_process(tid).or_else(by_thread).ok_or(Errno::ENOENT)?;
        Ok(Subject { tid, thread, ns: ns.clone(), of: Arc::downgrade(&process) })
    }

    fn is(&self, process: &Arc<Process>) -> bool {
        core::ptr::eq(self.of.as_ptr(), Arc::as_ptr(process))
    }
}

/// Inode number of the directory of `id`.
///
/// Another one when another process has that id: the time when it began is in it.
pub fn ino(id: Pid) -> u64 {
    /// Bits of the time, and what they count: 131 us.
    const TIME: (u64, u32) = (0x3f_ffff, 17);
    let process = task::find_task(id).map(|task| task.process().clone()).or_else(|| task::find_process(id));
    let began = process.map_or(0, |process| process.start_ns >> TIME.1 & TIME.0);
    (INO_BASE + id.0 as u64) << TIME.0.count_ones() | began
}

/// The directory `/proc/NUMBER` of `id`, as `ns` shows it.
///
/// # Errors
/// `ENOENT` if there is no such process or thread.
pub fn dir(fs: &Arc<PseudoFs>, ns: &Arc<PidNs>, id: Pid) -> Result<InodeRef> {
    make(fs, Subject::new(ns, id, false)?)
}

fn make(fs: &Arc<PseudoFs>, subject: Subject) -> Result<InodeRef> {
    subject.process().map_err(|_| Errno::ENOENT)?;
    let meta = owned(fs, &subject, LISTED).numbered(ino(subject.tid));
    Ok(Dir::new(meta, Entries { fs: fs.clone(), subject }))
}

/// Mode of the directories that anybody may list: they belong to whom the process runs as, whatever it hides.
const LISTED: Mode = 0o555;

/// Attributes of a file about `subject`: owned by whom it runs as, and by root if others of that user may not look into it.
pub fn owned(fs: &Arc<PseudoFs>, subject: &Subject, mode: Mode) -> Meta {
    let meta = Meta::new(fs, mode);
    match subject.task() {
        Ok(task) if mode == LISTED || access::is_dumpable(&task) => {
            let cred = task.cred();
            meta.owned(cred.euid, cred.egid)
        }
        Ok(task) => {
            let root = |which| task.process().memory_owner().take(which, 0).unwrap_or(0);
            meta.owned(root(Which::Users), root(Which::Groups))
        }
        Err(_) => meta,
    }
}

/// How an entry is made.
enum Make {
    Text(Mode, fn(&Subject) -> Result<Vec<u8>>),
    /// Of a process's memory: opened only by who may inspect it, and empty for zombies.
    Memory(fn(&Subject) -> Result<Vec<u8>>),
    /// A file about mounts, whose changes can be waited for.
    Mounts(fn(&Task) -> Result<Vec<u8>>),
    /// A file that answers requests, too.
    Query(fn(&Task) -> Result<Vec<u8>>, Request),
    Write(fn(&Subject) -> Result<Vec<u8>>, fn(&Subject, &[u8]) -> Result<()>),
    /// As `Write`; it matters who opened it.
    Judge(fn(&Subject) -> Result<Vec<u8>>, fn(&Subject, &Cred, &[u8]) -> Result<()>),
    Link(fn(&Subject) -> Result<Target>),
    Dir(fn(&Arc<PseudoFs>, &Subject) -> InodeRef),
    File(fn(&Arc<PseudoFs>, &Subject) -> InodeRef),
}

use Make::{Dir as D, File as F, Judge as J, Link as L, Memory as G, Mounts as M, Query as Q, Text as T, Write as W};

/// All entries by name.
const ENTRIES: &[(&str, Make)] = &[
    ("attr", D(map_files::attributes)),
    ("autogroup", W(autogroup, set_autogroup)),
    ("auxv", T(0o400, auxv)),
    ("cgroup", T(0o444, |s| Ok(cgroup::enter::line(&*s.process()?, &task::current().ns().cgroup.root)))),
    ("children", T(0o444, children)),
    ("clear_refs", F(clear_refs)),
    ("cmdline", T(0o444, cmdline)),
    ("comm", W(comm, set_comm)),
    ("coredump_filter", W(coredump_filter, set_coredump_filter)),
    ("cpuset", T(0o444, |_| Ok(b"/\n".to_vec()))),
    ("cwd", L(|s| path_target(s.task()?.fs()?.cwd()))),
    ("environ", T(0o400, environ)),
    ("exe", L(exe)),
    ("fd", D(fd::dir)),
    ("fdinfo", D(fd::info_dir)),
    ("gid_map", J(|s| users::map(s, Which::Groups), |s, by, text| users::set_map(s, by, Which::Groups, text))),
    ("io", T(0o400, io)),
    ("limits", T(0o444, |s| Ok(status::limits(&s.process()?.limits()).into_bytes()))),
    ("loginuid", T(0o444, |_| Ok(b"4294967295".to_vec()))),
    ("map_files", D(map_files::dir)),
    ("maps", Q(maps::text, maps::query)),
    ("mem", F(mem::file)),
    ("mountinfo", M(mounts::mountinfo)),
    ("mounts", M(mounts::mounts)),
    ("mountstats", T(0o400, |s| mounts::mountstats(&*s.task()?))),
    ("net", D(net)),
    ("ns", D(users::namespaces)),
    ("numa_maps", G(numa::maps)),
    ("oom_adj", W(oom_adj, set_oom_adj)),
    ("oom_score", T(0o444, |s| Ok(format!("{}\n", task::oom::score(&*s.process()?)).into_bytes()))),
    ("oom_score_adj", W(oom_score_adj, set_oom_score_adj)),
    ("pagemap", F(pagemap::file)),
    ("personality", T(0o400, personality)),
    ("projid_map", J(|s| users::map(s, Which::Projects), |s, by, text| users::set_map(s, by, Which::Projects, text))),
    ("root", L(|s| path_target(s.task()?.fs()?.root()))),
    ("sched", T(0o444, running::sched)),
    ("schedstat", T(0o444, |s| Ok(format!("{} 0 0\n", s.task()?.sched.run_ns()).into_bytes()))),
    ("sessionid", T(0o444, |_| Ok(b"4294967295".to_vec()))),
    ("setgroups", J(users::setgroups, users::set_setgroups)),
    ("smaps", G(smaps::text)),
    ("smaps_rollup", G(smaps::rollup)),
    ("stat", T(0o444, |s| status::stat(s).map(String::into_bytes))),
    ("statm", T(0o444, |s| status::statm(s).map(String::into_bytes))),
    ("status", T(0o444, |s| status::status(s).map(String::into_bytes))),
    ("syscall", T(0o400, running::syscall)),
    ("task", D(|fs, s| Dir::new(owned(fs, s, LISTED), Threads { fs: fs.clone(), subject: s.clone() }))),
    ("timens_offsets", W(|s| Ok(s.task()?.ns().time_for_children.text().into_bytes()), set_time_offsets)),
    ("timers", T(0o444, running::timers)),
    ("timerslack_ns", T(0o444, timer_slack)),
    ("uid_map", J(|s| users::map(s, Which::Users), |s, by, text| users::set_map(s, by, Which::Users, text))),
    ("wchan", T(0o444, |_| Ok(b"0".to_vec()))),
];

/// Those that lseek(2) finds the end of, where they begin.
const ENDING: &[&str] =
    &["auxv", "cmdline", "coredump_filter", "environ", "loginuid", "oom_adj", "oom_score_adj", "sessionid"];

/// The process that `inode` is the directory of (`/proc/PID`); an error once it is gone, whoever has its number now.
pub fn process_of(inode: &InodeRef) -> Option<Result<Arc<Process>>> {
    let dir: &Dir<Entries> = inode.as_any().downcast_ref()?;
    let subject = &dir.source().subject;
    (!subject.thread).then(|| subject.process())
}

struct Entries {
    fs: Arc<PseudoFs>,
    subject: Subject,
}

impl Entries {
    fn make(&self, (name, entry): &'static (&'static str, Make)) -> InodeRef {
        let subject = self.subject.clone();
        let meta = |mode| {
            let meta = owned(&self.fs, &self.subject, mode);
            if ENDING.contains(name) { meta.ending(0) } else { meta }
        };
        match entry {
            T(mode, generate) => TextFile::new(meta(*mode), move || generate(&subject)),
            G(generate) => {
                let about = subject.clone();
                let text = move || if subject.task().is_ok() { generate(&subject) } else { empty_of_zombie(&subject) };
                TextFile::guarded(meta(0o444), text, move || guard(&about))
            }
            M(generate) => {
                let watched = mounts::watched(&subject);
                TextFile::watched(meta(0o444), move || generate(&*subject.task()?), watched)
            }
            Q(generate, request) => {
                let (other, about) = (subject.clone(), subject.clone());
                let whom = Arc::new(move || other.task());
                let text = move || subject.task().map_or_else(|_| empty_of_zombie(&subject), |task| generate(&task));
                TextFile::answering(meta(0o444), text, (*request, whom), move || guard(&about))
            }
            W(generate, accept) => {
                let other = subject.clone();
                TextFile::writable(meta(0o644), move || generate(&subject), move |text| accept(&other, text))
            }
            J(generate, accept) => {
                let other = subject.clone();
                let accept = move |by: &Cred, text: &[u8]| accept(&other, by, text);
                TextFile::judging(meta(0o644), move || generate(&subject), accept)
            }
            L(target) => Link::new(meta(0o777), move || {
                may_inspect(&*subject.task().or_else(|_| subject.process().and(Err(Errno::ENOENT)))?)?;
                target(&subject)
            }),
            D(make) | F(make) => make(&self.fs, &subject),
        }
    }

    /// A thread's directory has no threads of its own, and a process's has only what is the process's.
    fn shown(&self) -> impl Iterator<Item = (usize, &'static (&'static str, Make))> {
        let thread = self.subject.thread;
        let elsewhere: &[&str] = if thread { &["map_files", "task", "timers"] } else { &["children"] };
        ENTRIES.iter().enumerate().filter(move |(_, (name, _))| !elsewhere.contains(name))
    }
}

impl DirSource for Entries {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let (_, entry) = self.shown().find(|(_, (own, _))| own.as_bytes() == name).ok_or(Errno::ENOENT)?;
        // As searching the directory of a process that is gone.
        self.subject.process()?;
        Ok(self.make(entry))
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        self.subject.process().map_err(|_| Errno::ENOENT)?;
        for (index, (name, entry)) in self.shown().skip_while(|(index, _)| (*index as u64) < from) {
            let kind = match entry {
                T(..) | G(_) | M(_) | Q(..) | W(..) | J(..) | F(_) => Kind::Regular,
                L(_) => Kind::Symlink,
                D(_) => Kind::Directory,
            };
            if !emit(index as u64, name.as_bytes(), ino(self.subject.tid) << 8 | index as u64, kind) {
                break;
            }
        }
        Ok(())
    }
}

/// `/proc/PID/task`.
struct Threads {
    fs: Arc<PseudoFs>,
    subject: Subject,
}

impl DirSource for Threads {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let ns = &self.subject.ns;
        let tid = super::parse_id(name).and_then(|number| ns.find(number)).ok_or(Errno::ENOENT)?;
        let own = self.subject.process()?.pid();
        let belongs = ids::find_task(tid).is_some_and(|task| task.process().pid() == own);
        if !belongs && tid != own {
            return Err(Errno::ENOENT);
        }
        make(&self.fs, Subject::new(ns, tid, true)?)
    }

    fn subdirs(&self) -> u32 {
        let process = self.subject.process();
        process.map_or(0, |process| ids::table().node(process.pid()).map_or(0, |node| node.threads.len() as u32))
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        let pid = self.subject.process().map_err(|_| Errno::ENOENT)?.pid();
        let mut tids: Vec<(i32, Pid)> = {
            let table = ids::table();
            let node = table.node(pid).map_err(|_| Errno::ENOENT)?;
            let shown = node.threads.iter().map(|thread| (self.subject.ns.number_of(thread.tid()), thread.tid()));
            shown.filter(|(number, _)| *number != 0).collect()
        };
        tids.sort_unstable();
        for (number, tid) in tids {
            let at = number as u64;
            if at >= from && !emit(at, format!("{number}").as_bytes(), ino(tid), Kind::Directory) {
                break;
            }
        }
        Ok(())
    }
}

/// Bytes `range` of the subject's memory, as much of it as is mapped.
fn memory(subject: &Subject, range: core::ops::Range<u64>) -> Result<Vec<u8>> {
    let Some(space) = subject.task().ok().and_then(|task| task.space()) else { return Ok(Vec::new()) };
    let len = range.end.saturating_sub(range.start).min(STRINGS_MAX) as usize;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    let count = if len == 0 { 0 } else { space.read_remote(UserAddr(range.start), &mut bytes).unwrap_or(0) };
    bytes.truncate(count);
    Ok(bytes)
}

/// What it read and wrote; nothing goes to a device.
fn io(subject: &Subject) -> Result<Vec<u8>> {
    let process = subject.process()?;
    if let Ok(task) = subject.task() {
        may_inspect(&task)?;
    }
    let io = &process.io;
    let [read, written, reads, writes] =
        [&io.read_bytes, &io.written_bytes, &io.reads, &io.writes].map(|count| count.load(Relaxed));
    let text = format!(
        "rchar: {read}\nwchar: {written}\nsyscr: {reads}\nsyscw: {writes}\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n"
    );
    Ok(text.into_bytes())
}

/// The arguments; a program that overwrote the NUL behind them (setproctitle) shows what is there up to the next one.
fn cmdline(subject: &Subject) -> Result<Vec<u8>> {
    let image = subject.process()?.image();
    let bytes = memory(subject, image.args.clone())?;
    if bytes.last().is_none_or(|last| *last == 0) {
        return Ok(bytes);
    }
    let mut all = memory(subject, image.args.start..image.env.end)?;
    if let Some(end) = all.iter().position(|byte| *byte == 0) {
        all.truncate(end + 1);
    }
    Ok(all)
}

fn environ(subject: &Subject) -> Result<Vec<u8>> {
    may_inspect(&*subject.task()?)?;
    memory(subject, subject.process()?.image().env.clone())
}

fn auxv(subject: &Subject) -> Result<Vec<u8>> {
    guard(subject)?;
    Ok(subject.process()?.image().auxv.clone())
}

/// Processes that the thread forked.
fn children(subject: &Subject) -> Result<Vec<u8>> {
    let process = subject.process()?;
    let table = ids::table();
    let node = table.node(process.pid()).map_err(|_| Errno::ESRCH)?;
    let forked = |child: &&i32| table.processes.get(*child).is_some_and(|node| node.by == subject.tid);
    let numbers = node.children.iter().filter(forked).map(|&child| subject.ns.number_of(Pid(child)));
    let numbers = numbers.filter(|number| *number != 0);
    Ok(numbers.map(|number| format!("{number} ")).collect::<String>().into_bytes())
}

/// Takes writes only.
fn clear_refs(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    let (meta, subject) = (owned(fs, subject, 0o200), subject.clone());
    let write = move |text: &[u8]| smaps::clear_refs(&subject, text);
    TextFile::writable(meta, || Err(Errno::EINVAL), write)
}

/// Whether the memory may be looked at; that of a zombie is empty.
fn guard(about: &Subject) -> Result<()> {
    about.task().map_or(Ok(()), |task| may_inspect(&task))
}

fn empty_of_zombie(subject: &Subject) -> Result<Vec<u8>> {
    subject.process().map(|_| Vec::new())
}

fn comm(subject: &Subject) -> Result<Vec<u8>> {
    subject.process()?;
    let mut name = status::comm_of(subject);
    name.push(b'\n');
    Ok(name)
}

fn set_comm(subject: &Subject, text: &[u8]) -> Result<()> {
    let task = subject.task()?;
    if task.process().pid() != task::current().process().pid() {
        return Err(Errno::EINVAL);
    }
    task.set_comm(text.strip_suffix(b"\n").unwrap_or(text));
    Ok(())
}

fn exe(subject: &Subject) -> Result<Target> {
    let image = subject.process()?.image();
    path_target(image.place.clone().ok_or(Errno::ENOENT)?)
}

fn path_target(path: crate::fs::Path) -> Result<Target> {
    let root = task::current().fs()?.root();
    Ok(Target { text: path.display(&root), jump: Some(path) })
}

fn personality(subject: &Subject) -> Result<Vec<u8>> {
    let value = subject.process()?.personality.load(Relaxed);
    Ok(format!("{value:08x}\n").into_bytes())
}

/// Kinds of memory that a core can hold (`MMF_DUMP_FILTER_MASK`).
const DUMP_FILTER: u32 = 0x1ff;

fn coredump_filter(subject: &Subject) -> Result<Vec<u8>> {
    Ok(format!("{:08x}\n", subject.process()?.coredump_filter.load(Relaxed)).into_bytes())
}

fn set_coredump_filter(subject: &Subject, text: &[u8]) -> Result<()> {
    let text = word(text)?;
    let value = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let value = value.map_err(|_| Errno::EINVAL)?;
    subject.process()?.coredump_filter.store(value & DUMP_FILTER, Relaxed);
    Ok(())
}

fn timer_slack(subject: &Subject) -> Result<Vec<u8>> {
    let value = subject.task()?.timer_slack_ns.load(Relaxed);
    Ok(format!("{value}\n").into_bytes())
}

fn set_time_offsets(subject: &Subject, text: &[u8]) -> Result<()> {
    subject.task()?.ns().time_for_children.set(&task::current(), text)
}

/// What a program wrote, without blanks around it; it may have written a string's NUL, too.
fn word(text: &[u8]) -> Result<&str> {
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    core::str::from_utf8(text).map(str::trim).map_err(|_| Errno::EINVAL)
}

/// Nothing for those that are in none.
fn autogroup(subject: &Subject) -> Result<Vec<u8>> {
    Ok(subject.task()?.sched.group().map_or_else(Vec::new, |group| group.show().into_bytes()))
}

fn set_autogroup(subject: &Subject, text: &[u8]) -> Result<()> {
    let group = subject.task()?.sched.group().ok_or(Errno::EINVAL)?;
    group.set_nice(&task::current(), text)
}

/// A number within limits.
fn number(text: &[u8], min: i32, max: i32) -> Result<i32> {
    let value = word(text)?.parse().map_err(|_| Errno::EINVAL)?;
    if (min..=max).contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
}

/// Ends of the scale of the old file `oom_adj`; those of the new one are -1000 and 1000.
const OOM_ADJ: core::ops::RangeInclusive<i32> = -17..=15;

fn oom_adj(subject: &Subject) -> Result<Vec<u8>> {
    let value = subject.process()?.oom_score_adj.load(Relaxed);
    let value = if value == 1000 { *OOM_ADJ.end() } else { value * 17 / 1000 };
    Ok(format!("{value}\n").into_bytes())
}

fn set_oom_adj(subject: &Subject, text: &[u8]) -> Result<()> {
    let value = number(text, *OOM_ADJ.start(), *OOM_ADJ.end())?;
    let value = if value == *OOM_ADJ.end() { 1000 } else { value * 1000 / 17 };
    let process = subject.process()?;
    let now = process.oom_score_adj.load(Relaxed);
    adjust_oom(&process, value, now)
}

fn oom_score_adj(subject: &Subject) -> Result<Vec<u8>> {
    Ok(format!("{}\n", subject.process()?.oom_score_adj.load(Relaxed)).into_bytes())
}

fn set_oom_score_adj(subject: &Subject, text: &[u8]) -> Result<()> {
    let value = number(text, -1000, 1000)?;
    let process = subject.process()?;
    let least = process.oom_score_adj_min.load(Relaxed);
    adjust_oom(&process, value, least)?;
    if task::current().capable(cap::SYS_RESOURCE) {
        process.oom_score_adj_min.store(value, Relaxed);
    }
    Ok(())
}

/// Below `least` only with `CAP_SYS_RESOURCE`.
fn adjust_oom(process: &Process, value: i32, least: i32) -> Result<()> {
    if value < least && !task::current().capable(cap::SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    process.oom_score_adj.store(value, Relaxed);
    Ok(())
}

/// `/proc/PID/net`: the process's network namespace.
fn net(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    let mut dir = crate::fs::pseudo::StaticDir::new();
    for (name, make) in crate::net::procfs::FILES {
        let subject = subject.clone();
        let generate = move || crate::net::procfs::text(&crate::net::namespace::of(&*subject.task()?), *make);
        dir = dir.add(name, TextFile::new(Meta::new(fs, 0o444), generate));
    }
    Dir::new(Meta::new(fs, 0o555), dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_and_unique() {
        assert!(ENTRIES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn adjustments_have_limits() {
        assert_eq!(number(b"-1000\n", -1000, 1000), Ok(-1000));
        assert_eq!(number(b"1001", -1000, 1000), Err(Errno::EINVAL));
        assert_eq!(number(b"x", -1000, 1000), Err(Errno::EINVAL));
    }
}
