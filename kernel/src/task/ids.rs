//! The table of ids: processes and their tree, threads, process groups, sessions.
//!
//! Everything that relates processes to each other lives in one structure behind one spinning lock ([`Rank::PidTable`]),
//! so a fork, an exit, a reparenting or a `kill(-pgrp)` sees the tree as it was at one instant. Nothing blocks or
//! copies user memory under it. Used by: clone, exit, wait, kill, tty job control, /proc.
//!
//! An id is free when no thread, process, group or session has it. Numbers that it has in PID namespaces ([`super::ns::pid`])
//! go with it, some only when it is used again.

use super::ns::pid::{self, PidNs};
use super::{Process, Task, Usage};
use crate::cgroup;
use crate::tty::Tty;
use crate::{Errno, Pid, Result};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use umbel_smp::lock::{Rank, SpinGuard, SpinLock};

/// Highest id + 1, as `/proc/sys/kernel/pid_max` says.
pub const PID_MAX: i32 = 32768;

/// How many threads there may be (`kernel.threads-max`).
pub fn threads_max() -> u64 {
    (umbel_mm::frame::usage().total / 4).clamp(20, PID_MAX as u64)
}
/// Ids below this are not given out again after the first round.
pub(super) const RESERVED: i32 = 300;
/// The kernel's init: adopts orphans.
pub const INIT: Pid = Pid(1);

static TABLE: SpinLock<Table> = SpinLock::new(Rank::PidTable, Table::new());

/// The table, locked.
pub fn table() -> SpinGuard<'static, Table> {
    TABLE.lock()
}

/// The thread `tid`.
pub fn find_task(tid: Pid) -> Option<Arc<Task>> {
    table().tasks.get(&tid.0).cloned()
}

/// The process `pid`, alive or a zombie.
pub fn find_process(pid: Pid) -> Option<Arc<Process>> {
    table().processes.get(&pid.0).map(|node| node.process.clone())
}

/// The live processes of group `pgid`.
pub fn find_pgrp(pgid: Pid) -> Vec<Arc<Process>> {
    table().members(|node| node.pgrp.id == pgid)
}

/// All live processes except init, by their ids: each as it is when its turn comes, so that none of a bomb's children escapes who
/// kills it. Takes no memory: it serves whoever has to make some.
pub fn all_processes() -> impl Iterator<Item = Arc<Process>> {
    let mut last = INIT.0;
    core::iter::from_fn(move || {
        let table = table();
        let (&id, node) = table.processes.range(last + 1..).find(|(_, node)| node.zombie.is_none())?;
        last = id;
        Some(node.process.clone())
    })
}

/// All threads, by their ids: each as it is when its turn comes. Takes no memory, either.
pub fn all_tasks() -> impl Iterator<Item = Arc<Task>> {
    let mut last = 0;
    core::iter::from_fn(move || {
        let table = table();
        let (&id, task) = table.tasks.range(last + 1..).next()?;
        last = id;
        Some(task.clone())
    })
}

/// A session.
pub struct Session {
    /// Its id. Immutable.
    pub id: Pid,
    /// Its controlling terminal. Own lock.
    tty: SpinLock<Option<Arc<Tty>>>,
}

impl Session {
    fn new(id: Pid) -> Arc<Session> {
        Arc::new(Session { id, tty: SpinLock::new(Rank::TtyState, None) })
    }

    /// The controlling terminal.
    pub fn tty(&self) -> Option<Arc<Tty>> {
        self.tty.lock().clone()
    }

    /// Gives the session a controlling terminal, or takes it away.
    pub fn set_tty(&self, tty: Option<Arc<Tty>>) {
        let old = core::mem::replace(&mut *self.tty.lock(), tty);
        drop(old);
    }
}

/// A process group.
pub struct Pgrp {
    /// Its id. Immutable.
    pub id: Pid,
    /// Its session. Immutable.
    pub session: Arc<Session>,
}

/// How a process ended, as wait(2) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitStatus(pub u32);

impl WaitStatus {
    /// Ended by `exit(code)`.
    pub const fn exited(code: i32) -> WaitStatus {
        WaitStatus((code as u32 & 0xff) << 8)
    }

    /// Killed by signal `signo`.
    pub const fn signaled(signo: u32, core: bool) -> WaitStatus {
        WaitStatus(signo & 0x7f | if core { 0x80 } else { 0 })
    }

    /// Stopped by signal `signo`.
    pub const fn stopped(signo: u32) -> WaitStatus {
        WaitStatus(signo << 8 | 0x7f)
    }

    /// Continued.
    pub const CONTINUED: WaitStatus = WaitStatus(0xffff);

    /// The exit status as a shell shows it.
    pub const fn shell(self) -> i32 {
        if self.0 & 0x7f == 0 { (self.0 >> 8 & 0xff) as i32 } else { 128 + (self.0 & 0x7f) as i32 }
    }
}

/// A process in the tree.
pub struct Node {
    pub process: Arc<Process>,
    /// 0 for init.
    pub parent: Pid,
    pub children: BTreeSet<i32>,
    pub pgrp: Arc<Pgrp>,
    /// Threads that have not exited.
    pub threads: Vec<Arc<Task>>,
    /// Set once all threads are gone.
    pub zombie: Option<WaitStatus>,
    /// Threads that it traces, by id; a process whose end it has not waited for stays.
    pub tracees: BTreeSet<i32>,
    /// Ends of traced threads that were not leaders, to be waited for.
    pub dead_tracees: Vec<DeadTracee>,
    /// The process that traces its leader and is not its parent: it waits for the end first.
    pub traced_by: Option<Pid>,
    /// It has called execve since it was forked (setpgid by its parent is refused).
    pub execed: bool,
    /// The parent's thread that forked it, or another one since that ended: for `__WNOTHREAD` and parent death signals.
    pub by: Pid,
    /// It is a zombie whose parent traced it: waited for with whatever options.
    pub was_traced: bool,
}

/// The end of a traced thread.
pub struct DeadTracee {
    pub tid: Pid,
    pub process: Arc<Process>,
    pub status: WaitStatus,
    pub usage: Usage,
}

/// See the module.
pub struct Table {
    pub processes: BTreeMap<i32, Node>,
    pub tasks: BTreeMap<i32, Arc<Task>>,
    pgrps: BTreeMap<i32, Weak<Pgrp>>,
    sessions: BTreeMap<i32, Weak<Session>>,
    /// Given out by `reserve_id`, not entered yet.
    reserved: BTreeSet<i32>,
    /// Ids that have numbers besides the first namespace's: the namespace that each was made in.
    nested: BTreeMap<i32, Arc<PidNs>>,
    /// Last id given out.
    last: i32,
}

impl Table {
    pub(crate) const fn new() -> Table {
        Table {
            processes: BTreeMap::new(),
            tasks: BTreeMap::new(),
            pgrps: BTreeMap::new(),
            sessions: BTreeMap::new(),
            reserved: BTreeSet::new(),
            nested: BTreeMap::new(),
            last: 0,
        }
    }

    /// Takes the next free id; entering a task under it, or [`Self::unreserve`], ends the reservation.
    ///
    /// # Errors
    /// `EAGAIN` if all are in use.
    pub fn reserve_id(&mut self) -> Result<Pid> {
        let id = pid::next(self.last, |id| self.is_free(id)).ok_or(Errno::EAGAIN)?;
        self.last = id;
        Ok(self.take_id(Pid(id)))
    }

    /// As [`Self::reserve_id`], with numbers in `ns` and those around it. `wanted`: numbers that are asked for, for `ns` first
    /// (clone3(2)'s `set_tid`).
    ///
    /// # Errors
    /// `EEXIST` for a number in use, `ENOMEM` if the namespace's init has ended, `EAGAIN`, `EINVAL`.
    pub fn reserve_in(&mut self, ns: &Arc<PidNs>, wanted: &[i32]) -> Result<Pid> {
        let id = match wanted.get(ns.level()) {
            None => self.reserve_id()?,
            Some(&id) if self.is_free(id) => self.take_id(Pid(id)),
            Some(_) => return Err(Errno::EEXIST),
        };
        if ns.level() == 0 {
            return Ok(id);
        }
        self.sweep();
        self.nested.insert(id.0, ns.clone());
        for (depth, ns) in ns.lineage().filter(|ns| ns.level() > 0).enumerate() {
            if let Err(errno) = ns.enter(id, wanted.get(depth).copied().unwrap_or(0), |other| self.is_free(other)) {
                self.unreserve(id);
                return Err(errno);
            }
        }
        Ok(id)
    }

    fn take_id(&mut self, id: Pid) -> Pid {
        self.forget_numbers(id);
        self.reserved.insert(id.0);
        id
    }

    /// Whoever had `id` is gone: if nothing else has it, its numbers go, too.
    pub(super) fn release(&mut self, id: Pid) {
        if self.nested.contains_key(&id.0) && self.is_free(id.0) {
            self.forget_numbers(id);
        }
    }

    fn forget_numbers(&mut self, id: Pid) {
        if let Some(ns) = self.nested.remove(&id.0) {
            ns.lineage().for_each(|ns| ns.leave(id));
        }
    }

    /// Forgets numbers of groups and sessions that went without anybody's notice.
    fn sweep(&mut self) {
        if self.nested.len() > 64 + 2 * self.tasks.len() {
            let stale: Vec<i32> = self.nested.keys().copied().filter(|id| self.is_free(*id)).collect();
            stale.into_iter().for_each(|id| self.forget_numbers(Pid(id)));
        }
    }

    /// Keeps the id of a thread that is gone until [`Self::unreserve`].
    pub(super) fn keep_id(&mut self, id: Pid) {
        self.reserved.insert(id.0);
    }

    /// The last number given out in `ns`.
    pub fn last_in(&self, ns: &PidNs) -> i32 {
        if ns.level() == 0 { self.last } else { ns.last() }
    }

    /// Numbers of `ns` go on behind `last`.
    pub fn set_last_in(&mut self, ns: &PidNs, last: i32) {
        if ns.level() == 0 { self.last = last } else { ns.set_last(last) }
    }

    fn is_free(&self, id: i32) -> bool {
        !self.tasks.contains_key(&id)
            && !self.reserved.contains(&id)
            && !self.processes.contains_key(&id)
            && self.pgrps.get(&id).is_none_or(|pgrp| pgrp.strong_count() == 0)
            && self.sessions.get(&id).is_none_or(|session| session.strong_count() == 0)
    }

    /// Gives an id back that was never used.
    pub fn unreserve(&mut self, id: Pid) {
        self.reserved.remove(&id.0);
        self.release(id);
    }

    /// Enters a new process with its first thread, forked by thread `by` of `parent`.
    pub fn enter_process(&mut self, task: &Arc<Task>, (parent, by): (Pid, Pid), pgrp: Arc<Pgrp>) {
        let process = task.process().clone();
        process.threads.store(1, Relaxed);
        let pid = process.pid();
        if let Some(parent) = self.processes.get_mut(&parent.0) {
            parent.children.insert(pid.0);
        }
        let node = Node {
            process,
            parent,
            children: BTreeSet::new(),
            pgrp,
            threads: Vec::from([task.clone()]),
            zombie: None,
            tracees: BTreeSet::new(),
            dead_tracees: Vec::new(),
            traced_by: None,
            execed: false,
            by,
            was_traced: false,
        };
        self.reserved.remove(&pid.0);
        self.processes.insert(pid.0, node);
        self.tasks.insert(pid.0, task.clone());
        cgroup::enter::joined(self, task.process());
    }

    /// Enters a new thread of an existing process.
    ///
    /// # Errors
    /// `ESRCH` if the process is gone.
    pub fn enter_thread(&mut self, task: &Arc<Task>) -> Result<()> {
        self.node_mut(task.process().pid())?.threads.push(task.clone());
        task.process().threads.fetch_add(1, Relaxed);
        self.reserved.remove(&task.tid().0);
        self.tasks.insert(task.tid().0, task.clone());
        cgroup::enter::joined(self, task.process());
        Ok(())
    }

    /// The node of `pid`.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn node(&self, pid: Pid) -> Result<&Node> {
        self.processes.get(&pid.0).ok_or(Errno::ESRCH)
    }

    /// The node of `pid`, to change.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn node_mut(&mut self, pid: Pid) -> Result<&mut Node> {
        self.processes.get_mut(&pid.0).ok_or(Errno::ESRCH)
    }

    /// Live processes that satisfy `test`.
    pub fn members(&self, test: impl Fn(&Node) -> bool) -> Vec<Arc<Process>> {
        let live = self.processes.values().filter(|node| node.zombie.is_none() && test(node));
        live.map(|node| node.process.clone()).collect()
    }

    /// The existing group `id`.
    pub fn pgrp(&self, id: Pid) -> Option<Arc<Pgrp>> {
        self.pgrps.get(&id.0)?.upgrade()
    }

    /// The existing session `id`.
    pub fn session(&self, id: Pid) -> Option<Arc<Session>> {
        self.sessions.get(&id.0)?.upgrade()
    }

    /// Makes group `id` in `session`.
    pub fn new_pgrp(&mut self, id: Pid, session: Arc<Session>) -> Arc<Pgrp> {
        self.forget_dead();
        let pgrp = Arc::new(Pgrp { id, session });
        self.pgrps.insert(id.0, Arc::downgrade(&pgrp));
        pgrp
    }

    /// Makes session `id` with its first group.
    pub fn new_session(&mut self, id: Pid) -> Arc<Pgrp> {
        let session = Session::new(id);
        self.sessions.insert(id.0, Arc::downgrade(&session));
        self.new_pgrp(id, session)
    }

    /// Whether group `pgid` has a member whose parent is in the same session but another group: else it is orphaned.
    pub fn has_job_control(&self, pgid: Pid, ignored: Pid) -> bool {
        self.processes.values().any(|node| {
            node.pgrp.id == pgid
                && node.zombie.is_none()
                && node.process.pid() != ignored
                && self
                    .processes
                    .get(&node.parent.0)
                    .is_some_and(|parent| parent.pgrp.id != pgid && parent.pgrp.session.id == node.pgrp.session.id)
        })
    }

    fn forget_dead(&mut self) {
        if self.pgrps.len() > 64 + 2 * self.processes.len() {
            self.pgrps.retain(|_, pgrp| pgrp.strong_count() > 0);
            self.sessions.retain(|_, session| session.strong_count() > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_groups_and_sessions_are_not_reused() {
        let mut table = Table::new();
        assert_eq!(table.reserve_id(), Ok(Pid(1)));
        let pgrp = table.new_session(Pid(2));
        assert_eq!(table.reserve_id(), Ok(Pid(3)));
        drop(pgrp);
        table.last = 1;
        assert_eq!(table.reserve_id(), Ok(Pid(2)));
    }

    #[test]
    fn ids_wrap_above_the_reserved_ones() {
        let mut table = Table::new();
        table.last = PID_MAX - 1;
        assert_eq!(table.reserve_id(), Ok(Pid(RESERVED)));
    }

    #[test]
    fn statuses_are_those_of_wait() {
        assert_eq!(WaitStatus::exited(3).0, 0x300);
        assert_eq!(WaitStatus::exited(3).shell(), 3);
        assert_eq!(WaitStatus::signaled(9, false).shell(), 137);
        assert_eq!(WaitStatus::stopped(19).0, 0x137f);
    }
}
