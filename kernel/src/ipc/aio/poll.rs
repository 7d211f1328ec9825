//! `IOCB_CMD_POLL`: requests that wait until a file is ready.
//!
//! A wake-up on one of the file's queues may come from any context and under that queue's lock; it only notes the request's
//! number ([`Hook`]) and wakes a kernel thread, started with the first such request, that looks at the file and completes the request.
//!
//! Locks: `WAITING` and `RAISED` (rank `Leaf`), never both.

use super::Place;
use crate::fs::{File, PollEvents, PollTable};
use crate::task::{Task, kthread};
use crate::{Errno, Result};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, WakeTarget};

/// Requests that wait, by number.
static WAITING: SpinLock<BTreeMap<u64, (Arc<Watched>, Reply)>> = SpinLock::new(Rank::Leaf, BTreeMap::new());
/// Numbers whose file is to be looked at.
static RAISED: SpinLock<VecDeque<u64>> = SpinLock::new(Rank::Leaf, VecDeque::new());
/// The kernel thread waits here.
static WORK: WaitQueue = WaitQueue::new();

/// What a file's queues call.
#[derive(Debug)]
struct Hook {
    number: u64,
    /// Whether `number` is in [`RAISED`].
    raised: AtomicBool,
}

impl WakeTarget for Hook {
    fn woken(&self) -> bool {
        if !self.raised.swap(true, AcqRel) {
            // Room was made when the request was submitted.
            RAISED.lock().push_back(self.number);
            WORK.wake_all_nested();
        }
        true
    }
}

struct Watched {
    file: Arc<File>,
    wanted: PollEvents,
    hook: Arc<Hook>,
    /// Registrations on the file's queues.
    _table: PollTable,
}

/// Whom to tell.
struct Reply {
    place: Place,
    notify: Option<Arc<File>>,
}

/// Completes the request when `file` shows one of `wanted`, an error or a hang-up.
///
/// # Errors
/// `EAGAIN` when memory is short.
pub fn submit(place: Place, file: Arc<File>, wanted: PollEvents, notify: Option<Arc<File>>) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    start_worker().map_err(|_| Errno::EAGAIN)?;
    let number = NEXT.fetch_add(1, Relaxed);
    let wanted = wanted | PollEvents::ERR | PollEvents::HUP;
    let waiting = WAITING.lock().len();
    RAISED.lock().try_reserve(waiting + 1).map_err(|_| Errno::EAGAIN)?;
    let hook = Arc::new(Hook { number, raised: AtomicBool::new(false) });
    let mut table = PollTable::for_target(hook.clone());
    // What it shows is asked again when a wake-up finds the request.
    file.poll(Some(&mut table));
    let context = place.context.clone();
    let addr = place.addr;
    let watched = Arc::new(Watched { file, wanted, hook, _table: table });
    WAITING.lock().insert(number, (watched, Reply { place, notify }));
    let dead = {
        let mut state = context.state.lock();
        state.polls.insert(number, addr);
        state.dead
    };
    if dead {
        cancel(number)
    } else {
        look(number)
    }
    Ok(())
}

/// Ends a request that waits: its event says that nothing was found.
pub fn cancel(number: u64) {
    finish(number, PollEvents::empty());
}

fn look(number: u64) {
    let Some(watched) = WAITING.lock().get(&number).map(|(watched, _)| watched.clone()) else { return };
    // Before the look, in one total order with a waker's change and its mark.
    watched.hook.raised.swap(false, SeqCst);
    let found = watched.file.poll(None) & watched.wanted;
    if !found.is_empty() {
        finish(number, found);
    }
}

fn finish(number: u64, found: PollEvents) {
    let taken = WAITING.lock().remove(&number);
    if let Some((watched, Reply { place, notify })) = taken {
        place.context.state.lock().polls.remove(&number);
        place.complete(Ok(found.bits() as usize), notify.as_ref());
        drop(watched);
    }
}

fn start_worker() -> Result<()> {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.swap(true, AcqRel) {
        return Ok(());
    }
    kthread::start("aio", worker).inspect_err(|_| STARTED.store(false, Release))
}

fn worker(_: &Arc<Task>) {
    loop {
        look(WORK.wait_until(|| RAISED.lock().pop_front()));
    }
}
