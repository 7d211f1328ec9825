//! How processes come into groups: by clone(2), and by a write to `cgroup.procs`. Source: Documentation/admin-guide/cgroup-v2.rst,
//! "Delegation Containment", "No Internal Process Constraint".

use super::{Cgroup, freezer, fs, pids, stat};
use crate::fs::perm::{self, Want};
use crate::fs::{File, InodeRef};
use crate::task::ids::{self, Table};
use crate::task::{Cred, Process, Task};
use crate::{Errno, Pid, Result};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

/// A process's place in the tree.
pub struct Member {
    /// Changed under the table's lock. A zombie keeps it.
    group: SpinLock<Arc<Cgroup>>,
    /// Threads of it that count there ([`pids`]).
    charged: AtomicUsize,
}

impl Member {
    /// In `group`, in which it does not count yet.
    pub fn new(group: Arc<Cgroup>) -> Member {
        Member { group: SpinLock::new(Rank::Leaf, group), charged: AtomicUsize::new(0) }
    }

    /// The group.
    pub fn group(&self) -> Arc<Cgroup> {
        self.group.lock().clone()
    }

    /// Whether that is `other`, or below it.
    pub fn is_within(&self, other: &Cgroup) -> bool {
        self.group.lock().is_within(other)
    }

    fn charge(&self, group: &Cgroup) {
        self.charged.fetch_add(1, Relaxed);
        pids::charge(group, 1);
    }

    /// One of its threads is gone for good.
    pub fn uncharge(&self, _: &mut Table) {
        if self.charged.load(Relaxed) != 0 {
            self.charged.fetch_sub(1, Relaxed);
            pids::uncharge(&self.group(), 1);
        }
    }
}

/// A new thread of `process` is in the table.
pub fn joined(_: &mut Table, process: &Process) {
    let group = process.cgroup.group();
    process.cgroup.charge(&group);
    group.add_members(1);
}

/// `task` has ended: its process has it no more.
pub fn left(_: &mut Table, task: &Task) {
    let group = task.process().cgroup.group();
    stat::settle(task, &group);
    freezer::count_resting(&group, task, false);
    group.take_members(1);
    if freezer::is_due(&group) {
        freezer::update(&group);
    }
}

/// Where what is cloned goes: into `asked`, or where its parent is, in which `process`, perhaps the same one, has a thread more.
///
/// # Errors
/// `EAGAIN` at a limit, of which the caller is to [`Cgroup::tell`]; `ENOENT` if the group was removed, `EBUSY`, `EOPNOTSUPP`.
pub fn place_child(table: &mut Table, parent: &Process, child: &Process, asked: Option<&Arc<Cgroup>>) -> Result<()> {
    let group = asked.cloned().unwrap_or_else(|| parent.cgroup.group());
    if asked.is_some() {
        if group.is_dead() {
            return Err(Errno::ENOENT);
        }
        group.check_entry()?;
    }
    pids::check(table, &group)?;
    let old = core::mem::replace(&mut *child.cgroup.group.lock(), group);
    drop(old);
    Ok(())
}

/// The group that `file`, the descriptor given to clone3(2), is the directory of, if `task` may put a process of its own there.
///
/// # Errors
/// `EBADF` for other files, `ENOENT` for a removed one; `EACCES` and `ENOENT` as for a write to `cgroup.procs`.
pub fn asked(task: &Task, file: &File) -> Result<Arc<Cgroup>> {
    let group = fs::group_of(file).ok_or(Errno::EBADF)?;
    if group.is_dead() {
        return Err(Errno::ENOENT);
    }
    let cred = task.cred();
    check_write(&group, &cred)?;
    check_move(&task.process().cgroup.group(), &group, &cred, &task.ns().cgroup.root)?;
    Ok(group)
}

/// Whether who has `cred` may write to `cgroup.procs` of `group`.
fn check_write(group: &Arc<Cgroup>, cred: &Cred) -> Result<()> {
    let procs: InodeRef = fs::procs_file(group)?;
    perm::check(&*procs, cred, Want::WRITE)
}

/// Whether who has `cred`, and sees what lies below `base`, may move something of `from` to `to`.
fn check_move(from: &Arc<Cgroup>, to: &Arc<Cgroup>, cred: &Cred, base: &Cgroup) -> Result<()> {
    let mut common = to.clone();
    while !from.is_within(&common) {
        common = common.parent.clone().ok_or(Errno::ENOENT)?;
    }
    check_write(&common, cred)?;
    let inside = from.is_within(base) && to.is_within(base);
    if fs::delegates() && !inside { Err(Errno::ENOENT) } else { Ok(()) }
}

/// Who wrote to a file of a group: as of its open.
pub struct Writer<'a> {
    pub cred: &'a Cred,
    /// The root of its cgroup namespace.
    pub base: &'a Cgroup,
}

/// `number`, as `task` counts, which writes it to a file of `to`, moves there; 0 = the caller. `whole`: its process is meant.
///
/// # Errors
/// `ESRCH`; `EINVAL` for kernel threads; `EACCES`, `ENOENT`, `EBUSY`, `EOPNOTSUPP` as the tree's rules say; `ENODEV` if
/// the group was removed.
pub fn move_to(to: &Arc<Cgroup>, task: &Arc<Task>, number: i32, writer: &Writer<'_>, whole: bool) -> Result<()> {
    let Some(process) = find(task, number)? else { return Ok(()) };
    loop {
        let from = process.cgroup.group();
        check_move(&from, to, writer.cred, writer.base)?;
        let mut table = ids::table();
        if to.is_dead() {
            return Err(Errno::ENODEV);
        }
        if !Arc::ptr_eq(&from, &process.cgroup.group()) {
            // It was moved meanwhile: another one's permission counts.
            continue;
        }
        to.check_entry()?;
        let moves = !Arc::ptr_eq(&from, to);
        if moves && !whole {
            return Err(Errno::EOPNOTSUPP);
        }
        if moves {
            relocate(&mut table, &process, &from, to);
        }
        drop(table);
        if moves {
            crate::task::exit::kick_threads(&process);
            from.tell();
            to.tell();
        }
        return Ok(());
    }
}

/// The process that `number` is a thread of, as `task` counts; `None` for a zombie, which stays where it is.
fn find(task: &Arc<Task>, number: i32) -> Result<Option<Arc<Process>>> {
    if number == 0 {
        return Ok(Some(task.process().clone()));
    }
    let id: Pid = task.process().pid_ns().find(number).ok_or(Errno::ESRCH)?;
    match ids::find_task(id) {
        Some(found) if found.body.is_some() => Err(Errno::EINVAL),
        Some(found) => Ok(Some(found.process().clone())),
        None => {
            let process = ids::find_process(id).ok_or(Errno::ESRCH)?;
            // Its leader may have ended before other threads.
            Ok((!process.has_ended()).then_some(process))
        }
    }
}

/// Takes `process` with all that it counts for from one group to another.
fn relocate(table: &mut Table, process: &Arc<Process>, from: &Arc<Cgroup>, to: &Arc<Cgroup>) {
    let Ok(node) = table.node(process.pid()) else { return };
    for thread in &node.threads {
        stat::settle(thread, from);
        freezer::count_resting(from, thread, false);
        freezer::count_resting(to, thread, true);
    }
    let (live, charged) = (node.threads.len(), process.cgroup.charged.load(Relaxed) as u64);
    if live == 0 {
        return;
    }
    let old = core::mem::replace(&mut *process.cgroup.group.lock(), to.clone());
    drop(old);
    // In this order, so that the peak of those above both stays.
    pids::uncharge(from, charged);
    pids::charge(to, charged);
    to.add_members(live);
    from.take_members(live);
    freezer::update(from);
    freezer::update(to);
}

/// What `/proc/PID/cgroup` says of `process` to who sees what lies below `base`.
pub fn line(process: &Process, base: &Cgroup) -> alloc::vec::Vec<u8> {
    let group = process.cgroup.group();
    let path = group.path_from(base);
    let deleted: &[u8] = if group.is_dead() { b" (deleted)" } else { b"" };
    [b"0::", path.as_slice(), deleted, b"\n"].concat()
}
