//! What the gate may answer for a table that one task has for itself, without entering the kernel: the slot's page shows it. Calls
//! that change something it notes on the entry page; the run loop makes good the notes at the next entry, whatever its cause, before
//! anything else. A note is taken only where the call cannot fail and nobody but its caller could see that it is not done yet, and
//! a forged one is a call that the process could make.
//!
//! *Plain descriptors* are directories and files of the host that one process opened for reading and shares with nobody. The gate
//! answers `F_GETFL`, `F_GETFD` and an `F_SETFD` that changes nothing, and notes a close(2). So nobody may be
//! waiting for such a close: a descriptor is plain no more once its file is known to another table (fork, `SCM_RIGHTS`,
//! pidfd_getfd(2)), has had its flags changed or is locked, leased or watched, and none is in a table with record locks,
//! which any close of the file gives back. Who asks whether a mount or a file is in use first sees to it that all notes are made
//! good: [`settle`].
//!
//! *Watched descriptors* are those registered, without options, with one instance of epoll that nobody else has, and that is in no
//! other instance: all who could wait for it or look at it is the task, which makes no other call before the notes are good. The
//! gate notes `EPOLL_CTL_DEL`, an `EPOLL_CTL_ADD` of what it noted as removed, and one `EPOLL_CTL_MOD`, if the event can be read. They
//! are made good in the order of the last note on each; one that was removed and added again keeps its memory, so that cannot fail, and
//! stands where a new one would. That ends for a descriptor when it is closed or another file takes its place, for
//! all when the instance becomes known to somebody: who makes a file known calls [`FdTable::spoil`], pidfd_getfd(2) waits for
//! what is noted, besides. `/proc/PID/fd` does not open it, `fdinfo` and kcmp(2) do not show what is registered (if they ever
//! do: `settle` first).
//!
//! A page shows nothing while calls are traced or filtered, or several tasks share the table: see [`publish`].
//! State: under the lock of the table. What is shown follows at the task's next exit, and only itself changes its table.

use super::FdTable;
use super::fdtable::OnExec;
use crate::ipc::epoll::{Epoll, Event, Noted};
use crate::sched;
use crate::task::Task;
use crate::time;
use crate::{Fd, stats};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::*};
use umbel_abi::machine::{BootInfo, Mailbox, PLAIN_FDS, SlotPage, VcpuState};
use umbel_gate::{Notes, WatchNote};
use umbel_smp::{cpu, ipi, slot};

/// What a table knows of its plain descriptors.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// A bit for each.
    pub(super) fds: u64,
    /// Those whose place changed since they were shown.
    dirty: u64,
    /// Count of changes when they were shown.
    shown: u64,
    /// There are, or were, record locks: none is plain.
    locks: bool,
    /// Descriptor of the instance for which the gate notes epoll_ctl(2), and a bit for each descriptor on which it may.
    pub(super) watcher: Option<usize>,
    watched: u64,
}

/// Number and count of changes of a table, for whoever does not hold its lock.
#[derive(Debug)]
pub(super) struct Mark {
    id: u64,
    changes: AtomicU64,
}

impl Mark {
    pub(super) fn new() -> Mark {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Mark { id: NEXT.fetch_add(1, Relaxed), changes: AtomicU64::new(1) }
    }
}

/// The bit of a descriptor, if it may be plain.
pub(super) fn bit(index: usize) -> u64 {
    if index < PLAIN_FDS { 1 << index } else { 0 }
}

/// The descriptors of a set.
pub(super) fn fds(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let fd = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (fd < PLAIN_FDS).then_some(fd)
    })
}

impl Plain {
    /// Descriptor `index` is another one now, or is none.
    pub(super) fn changed(&mut self, index: usize, plain: bool, mark: &Mark) {
        let bit = bit(index);
        self.unwatch(index, mark);
        if !plain && self.fds & bit == 0 {
            return;
        }
        self.fds = if plain && !self.locks { self.fds | bit } else { self.fds & !bit };
        self.dirty |= bit;
        mark.changes.fetch_add(1, Relaxed);
    }

    /// These are plain no more.
    pub(super) fn spoil(&mut self, set: u64, mark: &Mark) {
        fds(self.fds & set).for_each(|fd| self.changed(fd, false, mark));
    }

    /// The gate may note epoll_ctl(2) of `watcher` on `index`. `alone`: nobody can wait for that instance while the caller does
    /// not.
    pub(super) fn watch(&mut self, watcher: usize, index: usize, alone: impl FnOnce() -> bool, mark: &Mark) {
        if self.watcher != Some(watcher) {
            // One at a time.
            if self.watched != 0 || !alone() {
                return;
            }
            self.watcher = Some(watcher);
        }
        if self.watched & bit(index) == 0 {
            self.watched |= bit(index);
            self.watches_changed(bit(index), mark);
        }
    }

    /// It may not any more, if `index` is that instance on none.
    pub(super) fn unwatch(&mut self, index: usize, mark: &Mark) {
        let lost = if self.watcher == Some(index) { u64::MAX } else { bit(index) };
        if self.watcher == Some(index) {
            self.watcher = None;
        }
        if self.watched & lost != 0 {
            self.watches_changed(self.watched & lost, mark);
            self.watched &= !lost;
        }
    }

    /// On none.
    pub(super) fn unwatch_all(&mut self, mark: &Mark) {
        if let Some(watcher) = self.watcher {
            self.unwatch(watcher, mark);
        }
    }

    fn watches_changed(&mut self, set: u64, mark: &Mark) {
        self.dirty |= set;
        mark.changes.fetch_add(1, Relaxed);
    }

    /// There is a record lock.
    pub(super) fn lock(&mut self, mark: &Mark) {
        self.locks = true;
        self.spoil(u64::MAX, mark);
    }
}

impl FdTable {
    /// Shows the plain descriptors on `page`.
    fn show(&self, page: &SlotPage) {
        let mark = self.mark();
        let current = page.table.load(Relaxed) == mark.id;
        let changes = mark.changes.load(Relaxed);
        if current && page.table_changes.load(Relaxed) == changes {
            return;
        }
        self.with_plain(|plain, describe| {
            // Another page may have been the last to follow.
            let follows = current && page.table_changes.load(Relaxed) == plain.shown;
            for fd in fds(if follows { plain.dirty } else { u64::MAX }) {
                let described = if plain.fds & bit(fd) != 0 { describe(fd) } else { None };
                let (on_exec, status) = described.unwrap_or((OnExec::Keep, 0));
                page.plain[fd].store(u8::from(described.is_some()), Relaxed);
                page.cloexec[fd].store(u8::from(on_exec == OnExec::Close), Relaxed);
                page.status[fd].store(status, Relaxed);
                page.watched[fd].store(u8::from(plain.watched & bit(fd) != 0), Relaxed);
            }
            page.watcher.store(plain.watcher.map_or(0, |fd| -(fd as i32)), Relaxed);
            plain.dirty = 0;
            plain.shown = changes;
            page.table_changes.store(changes, Relaxed);
            page.table.store(mark.id, Relaxed);
        });
    }
}

/// Shows guest code in this slot the plain descriptors of `task`, which leaves the kernel next. `answers`: the gate may answer
/// calls for it.
pub fn publish(task: &Task, page: &SlotPage, answers: bool) {
    let files = if answers && !crate::machine::option(BootInfo::VIRTUAL) { task.files().ok() } else { None };
    match files {
        // This reference and the task's.
        Some(files) if Arc::strong_count(&files) == 2 => files.show(page),
        _ if page.table.load(Relaxed) != 0 => {
            page.plain.iter().for_each(|plain| plain.store(0, Relaxed));
            page.status.iter().for_each(|status| status.store(0, Relaxed));
            page.watched.iter().for_each(|watched| watched.store(0, Relaxed));
            page.table.store(0, Relaxed);
        }
        _ => {}
    }
}

/// Makes good what the gate noted while `task` was in guest mode in this slot.
#[inline]
pub fn make_good(task: &Task) {
    if let Some(notes) = umbel_gate::take_notes() {
        make_notes_good(task, &notes);
    }
}

fn make_notes_good(task: &Task, notes: &Notes) {
    let page = slot::this().page();
    let Ok(files) = task.files() else { return };
    if page.table.load(Relaxed) != files.mark().id {
        return;
    }
    for fd in fds(notes.closed).filter(|fd| page.plain[*fd].load(Relaxed) != 0) {
        stats::CLOSES_LATER.add(1);
        // Such a close cannot fail.
        let _ = files.close(Fd(fd as i32));
    }
    if notes.watches != [0; PLAIN_FDS] {
        watch_noted(&files, page, notes);
    }
}

/// Makes good, in their order, the epoll_ctl(2) that were noted.
#[inline(never)]
fn watch_noted(files: &FdTable, page: &SlotPage, notes: &Notes) {
    let Ok(instance) = files.get(Fd(-page.watcher.load(Relaxed))) else { return };
    let Some(epoll) = instance.ops_as::<Epoll>() else { return };
    let mut order = [(0, 0); PLAIN_FDS];
    let noted = (0..PLAIN_FDS).filter(|fd| notes.watches[*fd] != 0 && page.watched[*fd].load(Relaxed) != 0);
    let count = order.iter_mut().zip(noted).map(|(place, fd)| *place = (notes.watch(fd).number, fd)).count();
    let order = order.get_mut(..count).unwrap_or_default();
    order.sort_unstable();
    for (_, index) in order {
        let (fd, WatchNote { events, data, .. }) = (Fd(*index as i32), notes.watch(*index));
        let noted = notes.watches.get(*index).and_then(|op| Noted::new(*op, Event { events, data }));
        let (Some(noted), Ok(file)) = (noted, files.get(fd)) else { continue };
        stats::WATCHES_LATER.add(1);
        // It is registered: none of these can fail.
        let _ = epoll.make_good(fd, &file, noted);
        if noted == Noted::Removed {
            files.unwatch(fd);
        }
    }
}

/// Waits until what other virtual CPUs have noted until now is made good: until each has passed a point at which it looks for
/// interrupts, or is idle. The limit is there for one that the host does not run any more.
pub fn settle() {
    const STEP_NS: u64 = 20_000;
    const LIMIT_NS: u64 = 10_000_000_000;
    if crate::machine::option(BootInfo::VIRTUAL) {
        return;
    }
    let deadline = time::monotonic_ns() + LIMIT_NS;
    let own = cpu::this().id();
    for vcpu in cpu::all().filter(|vcpu| vcpu.id() != own) {
        let shared = vcpu.shared();
        let before = shared.progress.load(Acquire);
        // One in kernel mode may have come just now, and not have looked at its notes yet.
        let busy =
            || [VcpuState::Guest, VcpuState::Kernel].map(|state| state as u32).contains(&shared.state.load(Acquire));
        ipi::send(vcpu.id(), Mailbox::RESCHEDULE);
        while busy() && shared.progress.load(Acquire) == before && time::monotonic_ns() < deadline {
            sched::sleep_until(time::monotonic_ns() + STEP_NS);
        }
    }
}
