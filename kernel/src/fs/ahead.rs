//! Answers given ahead: what newfstatat(2) will say of the names that are likely to be asked for next.
//!
//! git(1) asks for thousands of files one after the other, and nearly all that such a call costs is the way into the kernel and out.
//! So who looks at a directory's names in order ([`super::host`]) is answered for as many more as the slot's page takes; the
//! gate gives these answers when just these calls come, in that order. They hold for this one stay in guest mode: each entry into
//! the kernel, whatever its cause, ends them, and so they cannot outlive what only the thread itself can change.
//!
//! What others change ends them, too: names and their attributes, permissions of directories, mounts, and where paths start.
//! Whoever changes one of these holds a [`Change`] meanwhile, which takes away what is shown and keeps more from
//! being shown; an answer is shown only if no change began since before it was asked for. The host's own changes are
//! believed for [`TRUST_NS`] longer than otherwise.
//!
//! Only for names relative to the current directory, or from the root, whose walk crossed no mount and no link, in directories that
//! the asker may read: what is on the slot's page, its process may see. Nothing is shown where calls are traced or filtered.
//!
//! Used by the system call, the run loop ([`show`], [`hide`]), all who change names. No locks: an order of sequentially
//! consistent accesses to [`CHANGES`], [`SHOWN`] and the pages.

use super::mount::Path;
use super::perm::{self, Want};
use super::types::Attr;
use crate::machine;
use crate::stats;
use crate::task::{Cred, Task};
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use umbel_abi::linux::uapi;
use umbel_abi::machine::{AHEAD_NAME, AHEAD_STAT, AHEAD_WORDS, BootInfo, MAX_CPUS, SlotPage};
use umbel_host::clock;
use umbel_smp::cpu;
use umbel_smp::slot::{self, Slot};

/// How long an answer may be given, ns.
const TRUST_NS: u64 = 2_000_000;
/// Shortest name that the gate compares, its NUL included, and the longest.
const SHORTEST: usize = 8;
const LONGEST: usize = 512;

/// In the lower half changes that go on, in the upper half how many began.
static CHANGES: AtomicU64 = AtomicU64::new(0);
const BEGUN: u64 = 1 << 32;

/// Per virtual CPU: 1 + the number of the slot that shows answers, 0 = none.
static SHOWN: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// A change of names, attributes, mounts or places that goes on.
pub struct Change(());

/// Begins a change: nothing is shown from now on that was found before, and nothing at all until it is over.
pub fn change() -> Change {
    CHANGES.fetch_add(BEGUN + 1, SeqCst);
    for (vcpu, shown) in cpu::all().zip(&SHOWN) {
        let shown = shown.load(SeqCst);
        if let Some(slot) = shown.checked_sub(1).and_then(|local| vcpu.slot(local)) {
            slot.page().ahead_until.store(0, SeqCst);
        }
    }
    Change(())
}

impl Drop for Change {
    fn drop(&mut self) {
        CHANGES.fetch_sub(1, SeqCst);
    }
}

/// Changes begun until now, unless one goes on.
fn unchanging() -> Option<u64> {
    Some(CHANGES.load(SeqCst)).filter(|changes| *changes % BEGUN == 0)
}

/// Answers on a page, while they are written there.
struct Answers<'a> {
    page: &'a SlotPage,
    /// Words written.
    len: usize,
}

impl Answers<'_> {
    /// Adds the answer to a name, if there is room.
    fn add(&mut self, prefix: &[u8], name: &[u8], stat: &[u64; AHEAD_STAT]) -> bool {
        let bytes = prefix.len() + name.len() + 1;
        let words = AHEAD_NAME + bytes.div_ceil(8);
        let Some(place) = self.page.ahead.get(self.len..self.len + words) else { return false };
        if !(SHORTEST..=LONGEST).contains(&bytes) {
            return false;
        }
        for (word, value) in place.iter().zip(stat) {
            word.store(*value, Relaxed);
        }
        let next = offset_of!(SlotPage, ahead) + (self.len + words) * 8;
        let lengths = (bytes - SHORTEST) as u64 | (next as u64) << 32;
        let mut text = prefix.iter().chain(name).copied();
        for (index, word) in place.iter().enumerate().skip(AHEAD_STAT) {
            let value = if index == AHEAD_STAT {
                lengths
            } else {
                u64::from_le_bytes([(); 8].map(|()| text.next().unwrap_or(0)))
            };
            word.store(value, Relaxed);
        }
        self.len += words;
        true
    }
}

/// A call of newfstatat(2) relative to the current directory that was answered: who asked for `name`, which is the end of `text`, in
/// `dir`.
pub struct Asked<'a> {
    pub task: &'a Task,
    pub cred: &'a Cred,
    pub dir: &'a Path,
    pub text: &'a [u8],
    pub name: &'a [u8],
    pub flags: u32,
}

impl Asked<'_> {
    /// The text before the name.
    fn prefix(&self) -> &[u8] {
        self.text.get(..self.text.len() - self.name.len()).unwrap_or(&[])
    }
}

/// Whether `names` lead from `start` down to `dir` by nothing but directories' names, in one mount.
fn leads_straight(start: &Path, names: &[u8], dir: &Path) -> bool {
    let mut at = dir.dentry().clone();
    for name in names.rsplit(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
        match at.parent() {
            Some(parent) if at.name() == name => at = parent,
            _ => return false,
        }
    }
    Arc::ptr_eq(&at, start.dentry()) && Arc::ptr_eq(start.mount(), dir.mount())
}

/// Puts answers to what is likely to be asked next on the running slot's page.
pub fn prepare(asked: &Asked<'_>) {
    let page = slot::this().page();
    let Some(changes) = unchanging() else { return };
    let Some(inode) = asked.dir.dentry().inode() else { return };
    let Some(mut following) = inode.following(asked.name) else { return };
    let Some(limit) = may_show(asked, page) else { return };
    let mut answers = Answers { page, len: 0 };
    while let Some(name) = following.advance() {
        let known = asked.dir.dentry().cached(name);
        if known.as_ref().is_some_and(|known| known.inode().is_none() || known.is_mountpoint()) {
            break;
        }
        let Some(attr) = inode.peek(name, known.as_ref().and_then(|known| known.inode())) else { break };
        let attr = asked.dir.mount().shown(attr).shown_to(asked.cred);
        if !answers.add(asked.prefix(), name, &words(&attr)) {
            break;
        }
    }
    if answers.len != 0 {
        page.ahead_changes.store(changes, Relaxed);
        page.ahead_limit.store(limit, Relaxed);
        page.ahead_flags.store(asked.flags, Relaxed);
        page.ahead_end.store((offset_of!(SlotPage, ahead) + answers.len * 8) as u32, Relaxed);
        page.ahead_task.store(asked.task.identity(), Relaxed);
    }
}

/// Until when answers from now on may be given, by the time-stamp counter, if they may at all.
fn may_show(asked: &Asked<'_>, page: &SlotPage) -> Option<u64> {
    let (mult, shift) = (u64::from(page.mult.load(Relaxed)), page.shift.load(Relaxed));
    let counts = mult != 0 && !asked.task.no_counter.load(Relaxed) && !machine::option(BootInfo::VIRTUAL);
    if !counts || page.fast_reads.load(Relaxed) == 0 || asked.task.trace.is_traced() {
        return None;
    }
    let context = asked.task.fs().ok()?;
    let start = if asked.text.first() == Some(&b'/') { context.root() } else { context.cwd() };
    if !leads_straight(&start, asked.prefix(), asked.dir) {
        return None;
    }
    perm::check(&**asked.dir.inode(), asked.cred, Want::READ).ok()?;
    Some(clock::tsc() + ((TRUST_NS << shift) / mult))
}

/// Shows what was prepared for `task`, which leaves the kernel next in `slot`, in this stay in the kernel.
#[inline]
pub fn show(task: &Task, slot: &Slot) {
    let page = slot.page();
    let whose = page.ahead_task.load(Relaxed);
    if whose != 0 && whose == task.identity() {
        show_on(slot, page);
    }
}

fn show_on(slot: &Slot, page: &SlotPage) {
    let Some(shown) = SHOWN.get(slot.cpu() as usize) else { return };
    umbel_gate::ahead::begin(offset_of!(SlotPage, ahead) as u32);
    shown.store(slot.local() + 1, SeqCst);
    page.ahead_until.store(page.ahead_limit.load(Relaxed), SeqCst);
    // Whoever began a change before has not seen the page, and whoever does later takes it away.
    if unchanging() != Some(page.ahead_changes.load(Relaxed)) {
        page.ahead_until.store(0, SeqCst);
    }
}

/// Ends what `page` of the running slot shows.
#[inline]
pub fn hide(page: &SlotPage) {
    if page.ahead_task.load(Relaxed) != 0 {
        page.ahead_task.store(0, Relaxed);
        page.ahead_until.store(0, SeqCst);
        stats::STATS_AHEAD.add(u64::from(umbel_gate::ahead::given()).min(AHEAD_WORDS as u64));
    }
}

/// Wipes the answers off `page`, before another process uses the slot.
pub fn clear(page: &SlotPage) {
    page.ahead_task.store(0, Relaxed);
    page.ahead_until.store(0, SeqCst);
    if page.ahead_end.swap(0, Relaxed) != 0 {
        page.ahead.iter().for_each(|word| word.store(0, Relaxed));
    }
}

/// `struct stat` by words.
fn words(attr: &Attr) -> [u64; AHEAD_STAT] {
    let uapi::stat { st_dev, st_ino, st_nlink, st_mode, st_uid, st_gid, .. } = attr.to_stat();
    let stat = attr.to_stat();
    let two = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    [
        st_dev,
        st_ino,
        st_nlink,
        two(st_mode, st_uid),
        two(st_gid, 0),
        stat.st_rdev,
        stat.st_size as u64,
        stat.st_blksize as u64,
        stat.st_blocks as u64,
        stat.st_atime,
        stat.st_atime_nsec,
        stat.st_mtime,
        stat.st_mtime_nsec,
        stat.st_ctime,
        stat.st_ctime_nsec,
        0,
        0,
        0,
    ]
}
