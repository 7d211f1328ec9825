//! What happens when RAM is used up: the process dies whose end frees most. Source: Linux's mm/oom_kill.c, proc(5).
//!
//! The score of a process is its pages in RAM with those of its page tables and areas, and `oom_score_adj` thousandths of
//! RAM; -1000 exempts. While a victim is on its way out nobody else is chosen: whoever lacks memory waits for it.
//!
//! Nothing here takes memory: what is left of the kernel's may be in small pieces.
//!
//! Locks: the table of ids, then one space after the other, never both. The caller may sleep.

use super::ids::{self, WaitStatus};
use super::task::Comm;
use super::{Process, Task, exit};
use crate::signal;
use crate::vm::Space;
use alloc::sync::{Arc, Weak};
use core::fmt::{self, Display, Formatter};
use core::sync::atomic::Ordering::Relaxed;
use umbel_mm::{PAGE, frame, heap};
use umbel_smp::lock::{Rank, SpinLock};

/// Who is exempt.
const EXEMPT: i32 = -1000;
/// How long whoever lacks memory sleeps while a victim ends, ns.
const WAIT_NS: u64 = 2_000_000;
/// How often before somebody else is chosen.
const PATIENCE: u32 = 1000;

/// The last victim, and how often somebody has waited for it.
static VICTIM: SpinLock<(Weak<Process>, u32)> = SpinLock::new(Rank::Leaf, (Weak::new(), 0));

/// Makes room for `task`, which lacks RAM. Whether it is to try again; not if it is itself being killed.
pub fn out_of_memory(task: &Arc<Task>) -> bool {
    if task.must_exit() {
        return false;
    }
    if heap::trim() {
        return true;
    }
    if victim_is_dying() {
        // Whatever ends the wait, the caller looks again.
        let _ = crate::time::sleep::until(crate::time::monotonic_ns() + WAIT_NS);
        return !task.must_exit();
    }
    let own = task.process();
    log::warn!("{} invoked oom-killer: order=0, oom_score_adj={}", name(own), own.oom_score_adj.load(Relaxed));
    let victim = choose().unwrap_or_else(|| own.clone());
    kill(&victim);
    !task.must_exit()
}

/// What `/proc/PID/oom_score` says: thousandths of RAM, by two thirds, 667 for a process of no size.
pub fn score(process: &Process) -> u64 {
    let total = frame::usage().total.max(1) as i64;
    badness(process).map_or(0, |points| ((1000 + points * 1000 / total) * 2 / 3).max(0) as u64)
}

/// Pages that the end of a process frees, adjusted; `None` if it is exempt.
fn badness(process: &Process) -> Option<i64> {
    let adjust = process.oom_score_adj.load(Relaxed);
    if adjust == EXEMPT {
        return None;
    }
    let space = space_of(process)?;
    Some(space.weight() as i64 + i64::from(adjust) * (frame::usage().total as i64) / 1000)
}

/// The space of a process: that of the first thread that still has one.
fn space_of(process: &Process) -> Option<Arc<Space>> {
    ids::table().node(process.pid()).ok()?.threads.iter().find_map(|thread| thread.space())
}

/// The name of its leader, for the log.
struct Name(Comm);

fn name(process: &Process) -> Name {
    Name(ids::find_task(process.pid()).map_or(Comm::default(), |thread| thread.comm()))
}

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        self.0[..end].escape_ascii().fmt(f)
    }
}

fn victim_is_dying() -> bool {
    let mut victim = VICTIM.lock();
    let dying = victim.0.upgrade().is_some_and(|process| !process.has_ended());
    victim.1 += 1;
    dying && victim.1 < PATIENCE
}

/// The process of the highest score; of equals the youngest id.
fn choose() -> Option<Arc<Process>> {
    let live = ids::all_processes().filter(|process| process.group_exit().is_none());
    live.filter_map(|process| Some((badness(&process)?, process))).max_by_key(|(points, _)| *points).map(|(_, p)| p)
}

/// Kills a process, and all others that use its memory.
fn kill(victim: &Arc<Process>) {
    *VICTIM.lock() = (Arc::downgrade(victim), 0);
    let space = space_of(victim);
    let sizes = space.as_ref().map(|space| space.usage()).unwrap_or_default();
    let kib = |bytes: u64| bytes >> 10;
    log::error!(
        "Out of memory: Killed process {} ({}) total-vm:{}kB, anon-rss:{}kB, file-rss:0kB, shmem-rss:{}kB, UID:{} pgtables:{}kB oom_score_adj:{}",
        victim.pid(),
        name(victim),
        kib(sizes.size),
        kib(sizes.resident.saturating_sub(sizes.shared)),
        kib(sizes.shared),
        victim.uid.load(Relaxed),
        kib(sizes.table.next_multiple_of(PAGE)),
        victim.oom_score_adj.load(Relaxed),
    );
    let Some(space) = space else { return end(victim) };
    for process in ids::all_processes() {
        if Arc::ptr_eq(&process, victim) || space_of(&process).is_some_and(|other| Arc::ptr_eq(&other, &space)) {
            end(&process);
        }
    }
}

fn end(process: &Arc<Process>) {
    exit::group_exit(process, WaitStatus::signaled(signal::SIGKILL, false));
}
