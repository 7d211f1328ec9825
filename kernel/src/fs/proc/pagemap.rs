//! `/proc/PID/pagemap`: eight bytes a page. Source: proc_pid_pagemap(5), Linux's Documentation/admin-guide/mm/pagemap.rst.
//!
//! Who may open it: [`super::inspect`]; numbers of frames are for those who had `CAP_SYS_ADMIN` then. There is no swap, and whether a page was written since `clear_refs` is not tracked.

use super::inspect;
use super::process::Subject;
use crate::fs::pseudo::PseudoFs;
use crate::fs::{File, FileOps, InodeRef, IoDst, Whence};
use crate::task::{self, cap};
use crate::vm::{PageState, Space};
use crate::{Errno, Result, signal};
use alloc::sync::{Arc, Weak};
use core::any::Any;

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Entries made at a time.
const BATCH: u64 = 256;
/// Pages that a process may have: those of Linux's user space.
const PAGES: u64 = 0x7_ffff_ffff;

const PRESENT: u64 = 1 << 63;
const OF_OBJECT: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;

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
        frame | bit(page.present, PRESENT) | bit(page.of_object, OF_OBJECT) | bit(page.exclusive, EXCLUSIVE)
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
