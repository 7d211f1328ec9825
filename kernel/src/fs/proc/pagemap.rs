//! `/proc/PID/pagemap`: eight bytes a page. Source: proc_pid_pagemap(5), Linux's Documentation/admin-guide/mm/pagemap.rst.
//!
//! Who may open it: [`super::inspect`]; numbers of frames are for those who had `CAP_SYS_ADMIN` then. There is no swap; as on
//! Linux, pages that nobody has but that are watched or guarded are shown as if they were swapped out.
//! `PAGEMAP_SCAN` finds pages of a kind, and watches the next writes of those found ([`crate::vm::scan`]).

use super::inspect;
use super::process::Subject;
use crate::fs::pseudo::PseudoFs;
use crate::fs::{File, FileOps, InodeRef, IoDst, Whence};
use crate::task::{self, Task, cap};
use crate::vm::scan::{Category, Query};
use crate::vm::{PageState, Space};
use crate::{Errno, Result, sched, signal};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;
use umbel_mm::{PAGE, UserAddr, user};

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Entries made at a time.
const BATCH: u64 = 256;
/// Pages that a process may have: those of Linux's user space, and where that ends.
const PAGES: u64 = 0x7_ffff_ffff;
const LINUX_USER_TOP: u64 = PAGES * PAGE;

const PRESENT: u64 = 1 << 63;
const OF_OBJECT: u64 = 1 << 61;
const SWAPPED: u64 = 1 << 62;
const GUARD: u64 = 1 << 58;
const WATCHED: u64 = 1 << 57;
const EXCLUSIVE: u64 = 1 << 56;
const DIRTY: u64 = 1 << 55;

/// The file of `subject`.
pub fn file(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    inspect::file(fs, subject, 0o400, |space| {
        Arc::new(Pagemap { space, frames: task::current().capable(cap::SYS_ADMIN) })
    })
}

/// An open one.
struct Pagemap {
    space: Weak<Space>,
    /// Numbers of frames are shown.
    frames: bool,
}

impl Pagemap {
    fn entry(&self, page: &PageState) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let frame = page.frame.filter(|_| self.frames).map_or(0, u64::from);
        let marker = !page.present && (page.watched || page.guard);
        frame
            | bit(page.present, PRESENT)
            | bit(marker, SWAPPED)
            | bit(page.of_object, OF_OBJECT)
            | bit(page.guard, GUARD)
            | bit(page.watched, WATCHED)
            | bit(page.exclusive, EXCLUSIVE)
            | bit(page.dirty, DIRTY)
    }
}

/// `PAGEMAP_SCAN`, and what it takes: `struct pm_scan_arg`, twelve words.
const PAGEMAP_SCAN: u32 = 0xc060_6610;
const SCAN_WORDS: usize = 12;
/// Where the word is that tells how far it went.
const WALK_END: u64 = 4 * 8;
/// `PM_SCAN_WP_MATCHING` and `PM_SCAN_CHECK_WPASYNC`.
const SCAN_WATCH: u64 = 1;
const SCAN_CHECK: u64 = 2;
/// Pieces of memory looked at while the space is locked.
const SCAN_BATCH: usize = 256;

/// Where the found are put: three words a region.
struct Regions {
    out: UserAddr,
    /// Regions for which there is room, those in `found` not counted.
    room: u64,
    /// Pages that may still be told of.
    pages: u64,
    shown: Category,
    /// Not written yet: the last may grow.
    found: Vec<[u64; 3]>,
    written: u64,
}

impl Regions {
    /// Takes in pages of one kind, addresses; where the first is that does not fit.
    fn take(&mut self, range: Range<u64>, category: Category) -> u64 {
        if self.room == 0 && self.found.is_empty() {
            // Nobody wants to be told.
            return range.end;
        }
        let end = range.end.min(range.start.saturating_add(self.pages.saturating_mul(PAGE)));
        let category = (category & self.shown).bits();
        let full = self.found.len() as u64 >= self.room;
        match self.found.last_mut() {
            _ if end == range.start => {}
            Some(last) if last[1] == range.start && last[2] == category => last[1] = end,
            _ if full => return range.start,
            _ => self.found.push([range.start, end, category]),
        }
        self.pages -= (end - range.start) / PAGE;
        end
    }

    /// Writes what is found, but for the last `kept` regions.
    fn write(&mut self, kept: usize) -> Result<()> {
        let count = self.found.len().saturating_sub(kept);
        for (region, at) in self.found.drain(..count).zip(self.written..) {
            user::write_val(UserAddr(self.out.0 + at * 24), &region)?;
        }
        self.written += count as u64;
        self.room -= count as u64;
        Ok(())
    }
}

impl Pagemap {
    /// Writes regions of pages that `arg` asks for; how many.
    fn scan(&self, task: &Arc<Task>, arg: UserAddr) -> Result<u64> {
        let [size, flags, start, end, _, out, room, pages, inverted, all, any, shown]: [u64; SCAN_WORDS] =
            user::read_val(arg)?;
        let categories = [inverted, all, any, shown].map(Category::from_bits);
        let [Some(inverted), Some(all), Some(any), Some(shown)] = categories else { return Err(Errno::EINVAL) };
        let bad = size != SCAN_WORDS as u64 * 8 || flags & !(SCAN_WATCH | SCAN_CHECK) != 0;
        if bad || !start.is_multiple_of(PAGE) || (out == 0 && room != 0) {
            return Err(Errno::EINVAL);
        }
        let within = |addr: u64, len: Option<u64>| {
            len.and_then(|len| addr.checked_add(len)).is_some_and(|end| end <= LINUX_USER_TOP)
        };
        if !within(start, end.checked_sub(start)) || (out != 0 && !within(out, room.checked_mul(24))) {
            return Err(Errno::EFAULT);
        }
        let end = end.next_multiple_of(PAGE);
        let query = Query { inverted, all, any, watch: flags & SCAN_WATCH != 0, check: flags & SCAN_CHECK != 0 };
        let pages = if pages == 0 { u64::MAX } else { pages };
        let mut regions = Regions { out: UserAddr(out), room, pages, shown, found: Vec::new(), written: 0 };
        regions.found.try_reserve_exact(SCAN_BATCH + 1).map_err(|_| Errno::ENOMEM)?;
        let mut at = start;
        let result = self.space.upgrade().map_or(Ok(()), |space| {
            while at < end {
                if task.must_exit() {
                    return Err(Errno::EINTR);
                }
                sched::cond_resched();
                let (next, all) =
                    space.scan(at..end, &query, SCAN_BATCH, &mut |range, kind| regions.take(range, kind))?;
                at = next;
                regions.write(1)?;
                if !all {
                    break;
                }
            }
            Ok(())
        });
        let told = if result.is_ok() && at < end && self.space.strong_count() > 0 { at } else { end };
        let result = result.and(regions.write(0));
        user::write_val(arg.add(WALK_END), &told)?;
        result.map(|()| regions.written)
    }
}

impl FileOps for Pagemap {
    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        let Some(space) = self.space.upgrade() else { return Ok(0) };
        if !offset.is_multiple_of(ENTRY) || !(dst.remaining() as u64).is_multiple_of(ENTRY) {
            return Err(Errno::EINVAL);
        }
        let (mut page, mut done) = (offset / ENTRY, 0);
        while dst.remaining() > 0 && page < PAGES {
            signal::go_on(&task::current())?;
            let end = (page + (dst.remaining() as u64 / ENTRY).min(BATCH)).min(PAGES);
            for state in space.page_states(page..end) {
                done += dst.write(&self.entry(&state).to_ne_bytes())?;
            }
            page = end;
        }
        Ok(done)
    }

    fn ioctl(&self, task: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            PAGEMAP_SCAN => self.scan(task, UserAddr(arg)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &File, whence: Whence, offset: i64) -> Result<u64> {
        file.seek_endless(whence, offset)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
