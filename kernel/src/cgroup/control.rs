//! The files of a group: what each shows and takes. Source: Documentation/admin-guide/cgroup-v2.rst, "Core Interface Files".
//!
//! Used by [`super::fs`], which finds and opens them.

use super::enter::{self, Writer};
use super::{Cgroup, Controllers, NAMES, NO_LIMIT, Notice, freezer, fs, pids, stat};
use crate::fs::notify::{self, Events};
use crate::fs::{InodeRef, Mode};
use crate::task::{self, Task, ids};
use crate::{Errno, Pid, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Which groups have a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    All,
    /// All but the root.
    Below,
    /// All but the root that have this controller.
    With(Controllers),
}

type Show = fn(&Arc<Cgroup>) -> Result<Vec<u8>>;
type Store = fn(&Arc<Cgroup>, &Arc<Task>, &str, &Writer<'_>) -> Result<()>;

/// A file.
pub(super) struct File {
    pub name: &'static str,
    pub mode: Mode,
    pub place: Where,
    /// Who sees this group as the root may write to it even so.
    pub delegated: bool,
    pub show: Option<Show>,
    pub store: Option<Store>,
    /// What tells of changes.
    pub notice: Option<fn(&Cgroup) -> &Notice>,
}

const fn shown(name: &'static str, place: Where, show: Show) -> File {
    File { name, mode: 0o444, place, delegated: false, show: Some(show), store: None, notice: None }
}

const fn stored(name: &'static str, place: Where, show: Show, store: Store) -> File {
    File { name, mode: 0o644, place, delegated: false, show: Some(show), store: Some(store), notice: None }
}

impl File {
    const fn delegated(mut self) -> File {
        self.delegated = true;
        self
    }

    const fn told(mut self, notice: fn(&Cgroup) -> &Notice) -> File {
        self.notice = Some(notice);
        self
    }

    /// Whether `group` has it.
    pub fn is_in(&self, group: &Cgroup) -> bool {
        match self.place {
            Where::All => true,
            Where::Below => !group.is_root(),
            Where::With(controller) => !group.is_root() && group.controllers().contains(controller),
        }
    }
}

const PIDS: Where = Where::With(Controllers::PIDS);

/// All of them.
pub(super) static FILES: [File; 18] = [
    stored("cgroup.type", Where::Below, |group| Ok(kind(group).into()), set_kind),
    stored(PROCS, Where::All, procs, |to, task, text, by| enter::move_to(to, task, number(text)?, by, true))
        .delegated(),
    stored("cgroup.threads", Where::All, threads, |to, task, text, by| {
        enter::move_to(to, task, number(text)?, by, false)
    })
    .delegated(),
    shown("cgroup.controllers", Where::All, |group| Ok(names(group.controllers()).into())),
    stored("cgroup.subtree_control", Where::All, |group| Ok(names(group.passed_on()).into()), set_subtree_control)
        .delegated(),
    shown("cgroup.events", Where::Below, events).told(|group| &group.events),
    stored(
        "cgroup.max.descendants",
        Where::All,
        |group| limit(&group.max_descendants),
        |group, _, text, _| set_limit(&group.max_descendants, text),
    ),
    stored(
        "cgroup.max.depth",
        Where::All,
        |group| limit(&group.max_depth),
        |group, _, text, _| set_limit(&group.max_depth, text),
    ),
    shown("cgroup.stat", Where::All, numbers),
    stored("cgroup.freeze", Where::Below, |group| Ok(line(u32::from(group.freezer.wanted()))), set_freeze),
    File {
        name: "cgroup.kill",
        mode: 0o200,
        place: Where::Below,
        delegated: false,
        show: None,
        store: Some(kill),
        notice: None,
    },
    shown("cpu.stat", Where::All, cpu_stat),
    stored("pids.max", PIDS, |group| Ok(number_or_max(group.pids.max(), pids::NO_LIMIT)), set_pids_max),
    shown("pids.current", PIDS, |group| Ok(line(group.pids.current()))),
    shown("pids.peak", PIDS, |group| Ok(line(group.pids.peak()))),
    shown("pids.events", PIDS, |group| Ok(refused(group, fs::counts_locally()))).told(|group| &group.pids.events),
    shown("pids.events.local", PIDS, |group| Ok(refused(group, true))).told(|group| &group.pids.local_events),
    shown("cpu.stat.local", Where::All, |_| Ok(Vec::new())),
];

/// The file whose permissions say who may put processes into a group.
pub(super) const PROCS: &str = "cgroup.procs";

/// Tells pollers and watches of the files of `group` that have changed since they were told last.
pub(super) fn tell(group: &Cgroup) {
    for (index, file) in FILES.iter().enumerate() {
        let Some(notice) = file.notice.map(|of| of(group)).filter(|notice| notice.take()) else { continue };
        notice.queue.wake_all();
        if let Some(inode) = group.node.open_file(index) {
            let inode: InodeRef = inode;
            notify::inode(&inode, Events::MODIFY);
        }
    }
}

/// Wakes all who poll files of `group`, which was removed.
pub(super) fn end(group: &Cgroup) {
    for notice in FILES.iter().filter_map(|file| file.notice) {
        notice(group).queue.wake_all();
    }
}

fn line(value: impl core::fmt::Display) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

fn number_or_max(value: u64, max: u64) -> Vec<u8> {
    if value == max { line("max") } else { line(value) }
}

/// A number, as Linux reads one of type `int` in any base.
///
/// # Errors
/// `EINVAL`, `ERANGE`.
fn int(text: &str) -> Result<i32> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(Errno::EINVAL);
    }
    let value = i64::from_str_radix(digits, base).map_err(|_| Errno::ERANGE)?;
    i32::try_from(if negative { -value } else { value }).map_err(|_| Errno::ERANGE)
}

/// A number of a thread or process.
fn number(text: &str) -> Result<i32> {
    int(text).ok().filter(|number| *number >= 0).ok_or(Errno::EINVAL)
}

fn kind(group: &Cgroup) -> &'static str {
    match () {
        () if !group.is_valid_domain() => "domain invalid\n",
        () if group.is_thread_root() => "domain threaded\n",
        () => "domain\n",
    }
}

/// Groups whose threads count one by one are not supported.
fn set_kind(_: &Arc<Cgroup>, _: &Arc<Task>, text: &str, _: &Writer<'_>) -> Result<()> {
    Err(if text == "threaded" { Errno::EOPNOTSUPP } else { Errno::EINVAL })
}

/// A list of numbers that grows only as far as there is memory.
struct Numbers(Vec<u8>);

impl Write for Numbers {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.try_reserve(text.len()).map_err(|_| core::fmt::Error)?;
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Numbers {
    /// Adds what the caller calls `id`.
    fn add(&mut self, id: Pid) -> Result<()> {
        writeln!(self, "{}", task::current().process().sees(id)).map_err(|_| Errno::ENOMEM)
    }
}

fn procs(group: &Arc<Cgroup>) -> Result<Vec<u8>> {
    let mut out = Numbers(Vec::new());
    for node in ids::table().processes.values() {
        if !node.threads.is_empty() && Arc::ptr_eq(&node.process.cgroup.group(), group) {
            out.add(node.process.pid())?;
        }
    }
    Ok(out.0)
}

fn threads(group: &Arc<Cgroup>) -> Result<Vec<u8>> {
    let mut out = Numbers(Vec::new());
    for task in ids::table().tasks.values() {
        if Arc::ptr_eq(&task.process().cgroup.group(), group) {
            out.add(task.tid())?;
        }
    }
    Ok(out.0)
}

fn names(controllers: Controllers) -> String {
    let names = NAMES.iter().filter(|(_, bit)| controllers.contains(*bit)).map(|(name, _)| *name);
    let list = names.collect::<Vec<_>>().join(" ");
    if list.is_empty() { list } else { list + "\n" }
}

fn set_subtree_control(group: &Arc<Cgroup>, _: &Arc<Task>, text: &str, _: &Writer<'_>) -> Result<()> {
    let (mut enable, mut disable) = (Controllers::empty(), Controllers::empty());
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (sign, name) = word.split_at_checked(1).ok_or(Errno::EINVAL)?;
        let (_, bit) = NAMES.iter().find(|(own, _)| *own == name).ok_or(Errno::EINVAL)?;
        match sign {
            "+" => (enable, disable) = (enable | *bit, disable - *bit),
            "-" => (enable, disable) = (enable - *bit, disable | *bit),
            _ => return Err(Errno::EINVAL),
        }
    }
    let mut table = ids::table();
    if group.is_dead() {
        return Err(Errno::ENODEV);
    }
    group.pass_on(&mut table, enable, disable)
}

fn events(group: &Arc<Cgroup>) -> Result<Vec<u8>> {
    let (populated, frozen) = (group.is_populated(), group.freezer.is_frozen());
    Ok(line(format_args!("populated {}\nfrozen {}", u32::from(populated), u32::from(frozen))))
}

fn limit(value: &AtomicU32) -> Result<Vec<u8>> {
    Ok(number_or_max(u64::from(value.load(Relaxed)), u64::from(NO_LIMIT)))
}

fn set_limit(value: &AtomicU32, text: &str) -> Result<()> {
    let limit = if text == "max" { NO_LIMIT } else { u32::try_from(int(text)?).map_err(|_| Errno::ERANGE)? };
    value.store(limit, Relaxed);
    Ok(())
}

fn numbers(group: &Arc<Cgroup>) -> Result<Vec<u8>> {
    let (below, dying) = (group.descendants.load(Relaxed), group.dying.load(Relaxed));
    Ok(line(format_args!("nr_descendants {below}\nnr_dying_descendants {dying}")))
}

fn set_freeze(group: &Arc<Cgroup>, _: &Arc<Task>, text: &str, _: &Writer<'_>) -> Result<()> {
    let wanted = int(text)?;
    if !(0..=1).contains(&wanted) {
        return Err(Errno::ERANGE);
    }
    freezer::set(group, wanted == 1);
    Ok(())
}

fn kill(group: &Arc<Cgroup>, task: &Arc<Task>, text: &str, _: &Writer<'_>) -> Result<()> {
    if int(text)? != 1 {
        return Err(Errno::ERANGE);
    }
    freezer::kill(group, task);
    Ok(())
}

fn cpu_stat(group: &Arc<Cgroup>) -> Result<Vec<u8>> {
    let time = stat::total(&ids::table(), group);
    let (user, system) = (time.user_ns / 1000, time.system_ns / 1000);
    Ok(line(format_args!("usage_usec {}\nuser_usec {user}\nsystem_usec {system}", user + system)))
}

fn set_pids_max(group: &Arc<Cgroup>, _: &Arc<Task>, text: &str, _: &Writer<'_>) -> Result<()> {
    let max = if text == "max" { pids::NO_LIMIT } else { u64::try_from(int(text)?).map_err(|_| Errno::EINVAL)? };
    group.pids.set_max(max)
}

fn refused(group: &Cgroup, here: bool) -> Vec<u8> {
    line(format_args!("max {}", group.pids.refused(here)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_linux_reads_them() {
        assert_eq!(["0", "17", "-3", "+5", "0x1f", "010"].map(int), [Ok(0), Ok(17), Ok(-3), Ok(5), Ok(31), Ok(8)]);
        assert_eq!(["", "-", "x", "1x", "08", "0x"].map(int), [Err(Errno::EINVAL); 6]);
        assert_eq!(["2147483648", "99999999999999999999"].map(int), [Err(Errno::ERANGE); 2]);
    }
}
