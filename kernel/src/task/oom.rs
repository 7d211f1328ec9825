//! What happens when RAM is used up: the process dies whose end frees most. Source: Linux's mm/oom_kill.c, proc(5).
//!
//! The score of a process is its pages in RAM with those of its page tables and areas, and `oom_score_adj` thousandths of
//! RAM; -1000 exempts. While anybody is on its way out nobody is chosen: whoever lacks memory waits. An exempt process that lacks
//! memory is killed last, when nobody else is there and none has ended for long.
//!
//! Nothing here takes memory: what is left of the kernel's may be in small pieces.
//!
//! Locks: the table of ids, then one space after the other, never both. The caller may sleep.

use super::ids::{self, WaitStatus};
use super::task::Comm;
use super::{Process, Task, exit};
use crate::time::monotonic_ns;
use crate::vm::Space;
use crate::{sched, signal};
use alloc::sync::Arc;
use core::fmt::{self, Display, Formatter};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use umbel_mm::{PAGE, frame, heap};

/// Who is exempt.
const EXEMPT: i32 = -1000;
/// How long whoever lacks memory sleeps before it looks again, ns.
const WAIT_NS: u64 = 4_000_000;
/// How often the other virtual CPUs are asked for what they have in stock, and how long they may take, ns.
const ASK_NS: u64 = 100_000_000;
const ANSWER_NS: u64 = 5_000_000;
/// For how long one that is to end is waited for before somebody else is chosen, ns; and before an exempt process is, whose
/// end leaves nobody whom it could serve.
const PATIENCE_NS: u64 = 4_000_000_000;
const LAST_PATIENCE_NS: u64 = 30_000_000_000;

/// When the other virtual CPUs were asked last.
static ASKED_NS: AtomicU64 = AtomicU64::new(0);
/// Somebody is choosing: others would choose another one.
static CHOOSING: AtomicBool = AtomicBool::new(false);

/// Makes room for `task`, which lacks RAM. Whether it is to try again; not if it is itself being killed.
pub fn out_of_memory(task: &Arc<Task>) -> bool {
    if task.must_exit() {
        return false;
    }
    if heap::trim() {
        return true;
    }
    if is_coming() || !make_room(task.process()) {
        // Not cut short by a signal: nobody else would run here, and those who are to end could not.
        sched::sleep_until(monotonic_ns() + WAIT_NS);
    }
    !task.must_exit()
}

/// Whether the other virtual CPUs may be giving something back: asks them now and then.
fn is_coming() -> bool {
    let now_ns = monotonic_ns();
    let since_ns = now_ns.saturating_sub(ASKED_NS.load(Relaxed));
    if since_ns > ASK_NS {
        ASKED_NS.store(now_ns, Relaxed);
        sched::ask_for_memory();
    }
    !(ANSWER_NS..=ASK_NS).contains(&since_ns)
}

/// Kills somebody for `own`, which lacks RAM. Not if somebody is ending or being chosen: then it says so.
fn make_room(own: &Arc<Process>) -> bool {
    if CHOOSING.swap(true, Acquire) {
        return false;
    }
    let victim = if is_anybody_ending(PATIENCE_NS) { None } else { choose() };
    let victim = victim.or_else(|| (!is_anybody_ending(LAST_PATIENCE_NS)).then(|| own.clone()));
    if let Some(victim) = &victim {
        log::warn!("{} invoked oom-killer: order=0, oom_score_adj={}", name(own), own.oom_score_adj.load(Relaxed));
        kill(victim);
    }
    CHOOSING.store(false, Release);
    victim.is_some()
}

/// Whether a process is to end, for no longer than `patience_ns`, and still has memory: its own, or the kernel's for it.
fn is_anybody_ending(patience_ns: u64) -> bool {
    let start_ns = monotonic_ns().saturating_sub(patience_ns);
    ids::all_processes().any(|process| process.is_ending_since(start_ns))
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

/// The process of the highest score; of equals the youngest id.
fn choose() -> Option<Arc<Process>> {
    let live = ids::all_processes().filter(|process| process.group_exit().is_none());
    live.filter_map(|process| Some((badness(&process)?, process))).max_by_key(|(points, _)| *points).map(|(_, p)| p)
}

/// Kills a process, and all others that use its memory.
fn kill(victim: &Arc<Process>) {
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
