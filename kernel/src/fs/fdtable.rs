//! Descriptor tables: small integers to open files, shared by the tasks that clone(2) made with `CLONE_FILES`.
//!
//! Lock: one spin lock a table (rank FdTable). Files are dropped outside it, since a last drop may do anything.

use super::file::File;
use super::plain::{self, Mark, Plain};
use crate::setting::Setting;
use crate::{Errno, Fd, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use umbel_smp::lock::{Rank, SpinLock};

/// Most descriptors of a process, whatever its limit (fs.nr_open).
pub static NR_OPEN: Setting = Setting::new(1 << 20, 64, 1 << 30);

#[derive(Clone)]
struct Entry {
    file: Arc<File>,
    cloexec: bool,
}

#[derive(Default)]
struct Entries {
    list: Vec<Option<Entry>>,
    /// No free entry below this.
    first_free: usize,
    plain: Plain,
}

/// A table of descriptors.
pub struct FdTable {
    entries: SpinLock<Entries>,
    mark: Mark,
}

/// Whether a descriptor survives execve(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExec {
    Keep,
    Close,
}

impl OnExec {
    /// Close if `cloexec`.
    pub const fn close_if(cloexec: bool) -> OnExec {
        if cloexec { OnExec::Close } else { OnExec::Keep }
    }
}

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

impl FdTable {
    /// An empty table.
    pub fn new() -> FdTable {
        FdTable::of(Entries::default())
    }

    fn of(entries: Entries) -> FdTable {
        FdTable { entries: SpinLock::new(Rank::FdTable, entries), mark: Mark::new() }
    }

    /// A copy, for fork(2).
    ///
    /// # Errors
    /// `EMFILE` if a descriptor is above what fs.nr_open has become meanwhile.
    pub fn duplicate(&self) -> Result<Arc<FdTable>> {
        let most = NR_OPEN.get().next_multiple_of(u64::from(u64::BITS));
        let entries = self.entries.lock();
        let used = entries.list.iter().rposition(Option::is_some).map_or(0, |last| last as u64 + 1);
        drop(entries);
        if used > most { Err(Errno::EMFILE) } else { Ok(self.copy()) }
    }

    /// A copy, for execve(2), which cannot fail any more.
    pub fn copy(&self) -> Arc<FdTable> {
        let mut entries = self.entries.lock();
        entries.plain.spoil(u64::MAX, &self.mark);
        entries.plain.unwatch_all(&self.mark);
        let copy = Entries { list: entries.list.clone(), first_free: entries.first_free, plain: Plain::default() };
        drop(entries);
        Arc::new(FdTable::of(copy))
    }

    /// The file of `fd`. `EBADF` if there is none.
    pub fn get(&self, fd: Fd) -> Result<Arc<File>> {
        let index = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        let entries = self.entries.lock();
        match entries.list.get(index) {
            Some(Some(entry)) => Ok(entry.file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// Puts `file` at the lowest free number below `limit` (the caller's `RLIMIT_NOFILE`).
    pub fn install(&self, file: Arc<File>, on_exec: OnExec, limit: u64) -> Result<Fd> {
        self.install_from(0, file, on_exec, limit)
    }

    /// As [`Self::install`], at `min` or above (`F_DUPFD`).
    pub fn install_from(&self, min: usize, file: Arc<File>, on_exec: OnExec, limit: u64) -> Result<Fd> {
        self.install_as(min, file, on_exec, limit, false)
    }

    /// As [`Self::install`], a file that was just opened and that nobody else knows.
    pub fn install_opened(&self, file: Arc<File>, on_exec: OnExec, limit: u64) -> Result<Fd> {
        let plain = file.is_plain();
        self.install_as(0, file, on_exec, limit, plain)
    }

    fn install_as(&self, min: usize, file: Arc<File>, on_exec: OnExec, limit: u64, plain: bool) -> Result<Fd> {
        let mut entries = self.entries.lock();
        let start = min.max(entries.first_free);
        let index = (start..entries.list.len())
            .find(|&index| matches!(entries.list.get(index), Some(None)))
            .unwrap_or(start.max(entries.list.len()));
        if index as u64 >= limit.min(NR_OPEN.get()) {
            drop(entries);
            return Err(Errno::EMFILE);
        }
        let plain = plain || entries.plain_fds_of(&file) != 0;
        entries.put(index, Entry { file, cloexec: on_exec == OnExec::Close })?;
        entries.plain.changed(index, plain, &self.mark);
        if min <= entries.first_free {
            entries.first_free = index + 1;
        }
        Ok(Fd(index as i32))
    }

    /// Puts `file` at exactly `fd`, returning what was there (dup2(2)). `EBADF` if `fd` is not below `limit`.
    pub fn replace(&self, fd: Fd, file: Arc<File>, on_exec: OnExec, limit: u64) -> Result<Option<Arc<File>>> {
        let index = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit.min(NR_OPEN.get()) {
            return Err(Errno::EBADF);
        }
        let mut entries = self.entries.lock();
        let old = entries.put(index, Entry { file, cloexec: on_exec == OnExec::Close })?;
        entries.plain.changed(index, false, &self.mark);
        drop(entries);
        Ok(old.map(|entry| entry.file))
    }

    /// Removes `fd`; the caller flushes and drops the file.
    pub fn remove(&self, fd: Fd) -> Result<Arc<File>> {
        let index = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        let mut entries = self.entries.lock();
        let taken = entries.take(index).ok_or(Errno::EBADF)?;
        entries.plain.changed(index, false, &self.mark);
        drop(entries);
        Ok(taken.file)
    }

    /// Closes `fd` as close(2) does.
    pub fn close(&self, fd: Fd) -> Result<()> {
        let file = self.remove(fd)?;
        super::lock::release_posix(&file, self);
        if file.is_dir() && super::dnotify::is_used() {
            super::dnotify::forget(&file);
        }
        let flushed = file.ops().flush(&file);
        if Arc::strong_count(&file) == 1 {
            file.ops().last_close(&file);
        }
        flushed
    }

    /// Whether `fd` closes at execve(2).
    pub fn on_exec(&self, fd: Fd) -> Result<OnExec> {
        let index = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        match self.entries.lock().list.get(index) {
            Some(Some(entry)) => Ok(OnExec::close_if(entry.cloexec)),
            _ => Err(Errno::EBADF),
        }
    }

    /// Sets whether `fd` closes at execve(2).
    pub fn set_on_exec(&self, fd: Fd, on_exec: OnExec) -> Result<()> {
        let index = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        let mut entries = self.entries.lock();
        let Some(Some(entry)) = entries.list.get_mut(index) else { return Err(Errno::EBADF) };
        entry.cloexec = on_exec == OnExec::Close;
        let plain = entries.plain.fds & plain::bit(index) != 0;
        entries.plain.changed(index, plain, &self.mark);
        Ok(())
    }

    /// The descriptors of `file` are plain no more: see [`super::plain`].
    pub fn spoil(&self, file: &Arc<File>) {
        let mut entries = self.entries.lock();
        let fds = entries.plain_fds_of(file);
        entries.plain.spoil(fds, &self.mark);
        if entries.plain.watcher.is_some_and(|watcher| entries.is(watcher, file)) {
            entries.plain.unwatch_all(&self.mark);
        }
    }

    /// `fd`, which is `file`, is registered with the epoll instance at `watcher`: the gate may note epoll_ctl(2) on it, if nobody
    /// else has the instance and nobody waits for it (`idle`). See [`super::plain`].
    pub fn watch(&self, watcher: Fd, instance: &Arc<File>, fd: Fd, file: &Arc<File>, idle: impl Fn() -> bool) {
        let (Ok(watcher), Ok(fd)) = (usize::try_from(watcher.0), usize::try_from(fd.0)) else { return };
        let mut entries = self.entries.lock();
        if entries.is(watcher, instance) && entries.is(fd, file) {
            // The table's reference and the caller's.
            let alone = || Arc::strong_count(instance) == 2 && idle();
            entries.plain.watch(watcher, fd, alone, &self.mark);
        }
    }

    /// `fd` is registered no more.
    pub fn unwatch(&self, fd: Fd) {
        if let Ok(index) = usize::try_from(fd.0) {
            self.entries.lock().plain.unwatch(index, &self.mark);
        }
    }

    /// A record lock is taken in the name of this table: no descriptor is plain from now on.
    pub fn note_lock(&self) {
        self.entries.lock().plain.lock(&self.mark);
    }

    /// See [`super::plain`].
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Runs `f` on what is plain, under the lock, with what says of a descriptor whether it closes at execve(2) and its flags.
    pub(super) fn with_plain(&self, f: impl FnOnce(&mut Plain, &dyn Fn(usize) -> Option<(OnExec, u32)>)) {
        let mut entries = self.entries.lock();
        let Entries { list, plain, .. } = &mut *entries;
        f(plain, &|fd| {
            let entry = list.get(fd)?.as_ref()?;
            Some((OnExec::close_if(entry.cloexec), entry.file.flags().bits()))
        });
    }

    /// Closes all of `range` (close_range(2)).
    pub fn close_range(&self, range: RangeInclusive<u32>) {
        let (mut from, last) = (*range.start() as usize, *range.end() as usize);
        // One by one: a list of them all could be more than the kernel has room for just when it ends a process.
        while let Some(index) = self.next_used(from, |_| true).filter(|index| *index <= last) {
            // What flush says is nobody's concern here.
            let _ = self.close(Fd(index as i32));
            from = index + 1;
        }
    }

    /// The first descriptor from `from` on that is in use and `wanted`.
    fn next_used(&self, from: usize, wanted: impl Fn(&Entry) -> bool) -> Option<usize> {
        let entries = self.entries.lock();
        let rest = entries.list.get(from..)?;
        let at = rest.iter().position(|entry| entry.as_ref().is_some_and(&wanted))?;
        Some(from + at)
    }

    /// Marks all of `range` (`CLOSE_RANGE_CLOEXEC`).
    pub fn cloexec_range(&self, range: RangeInclusive<u32>) {
        for fd in self.fds_in(range) {
            let _ = self.set_on_exec(fd, OnExec::Close);
        }
    }

    /// Closes what execve(2) closes. The caller is the only user of the table.
    pub fn close_on_exec(&self) {
        let mut from = 0;
        while let Some(index) = self.next_used(from, |entry| entry.cloexec) {
            let _ = self.close(Fd(index as i32));
            from = index + 1;
        }
    }

    /// Closes everything, at exit.
    pub fn close_all(&self) {
        self.close_range(0..=u32::MAX);
    }

    /// Descriptors in use, ascending, for /proc/PID/fd.
    pub fn list(&self) -> Vec<Fd> {
        self.fds_in(0..=u32::MAX)
    }

    fn fds_in(&self, range: RangeInclusive<u32>) -> Vec<Fd> {
        let entries = self.entries.lock();
        let (first, last) = (*range.start() as usize, *range.end() as usize);
        let used = |&(index, entry): &(usize, &Option<Entry>)| index <= last && entry.is_some();
        entries.list.iter().enumerate().skip(first).filter(used).map(|(index, _)| Fd(index as i32)).collect()
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.close_all();
    }
}

impl Entries {
    fn plain_fds_of(&self, file: &Arc<File>) -> u64 {
        plain::fds(self.plain.fds).filter(|fd| self.is(*fd, file)).fold(0, |set, fd| set | plain::bit(fd))
    }

    fn is(&self, index: usize, file: &Arc<File>) -> bool {
        matches!(self.list.get(index), Some(Some(entry)) if Arc::ptr_eq(&entry.file, file))
    }

    fn put(&mut self, index: usize, entry: Entry) -> Result<Option<Entry>> {
        if index >= self.list.len() {
            let more = (index + 1).next_power_of_two().max(16) - self.list.len();
            self.list.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.list.resize(index + 1, None);
        }
        match self.list.get_mut(index) {
            Some(place) => Ok(place.replace(entry)),
            None => Err(Errno::EMFILE),
        }
    }

    fn take(&mut self, index: usize) -> Option<Entry> {
        let entry = self.list.get_mut(index)?.take()?;
        self.first_free = self.first_free.min(index);
        Some(entry)
    }
}
