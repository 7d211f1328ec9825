//! Signals when a file can be read or written: `O_ASYNC`, F_SETOWN, F_SETSIG. Source: fcntl(2), "Managing signals".
//!
//! A wake-up on one of the file's queues may come from any context and under that queue's lock; it only notes the
//! subscription ([`Hook`]). Whoever leaves the kernel next looks at the file and sends the signal ([`deliver`]), so that a
//! program that writes to itself has it at once; a kernel thread does where nobody leaves.
//!
//! Locks: [`RAISED`] (rank `Leaf`), a file's subscription (rank `Leaf`), never both.

use super::{File, Kind, OpenFlags, PollEvents, PollTable};
use crate::signal::{self, SIGIO, SigInfo};
use crate::task::{self, Process, Task, ids, kthread};
use crate::{Errno, Fd, Pid, Result, sched, time};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering::*};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, WakeTarget};

/// `F_OWNER_TID`, `F_OWNER_PID`, `F_OWNER_PGRP`.
pub const OWNER_TID: i32 = 0;
pub const OWNER_PID: i32 = 1;
pub const OWNER_PGRP: i32 = 2;

/// Why a signal is sent: `si_code`, and the events in `si_band`.
pub mod code {
    pub const POLL_IN: (i32, u64) = (1, 0x41);
    pub const POLL_OUT: (i32, u64) = (2, 0x304);
    pub const POLL_MSG: (i32, u64) = (3, 0x441);
    pub const POLL_HUP: (i32, u64) = (6, 0x18);
}

/// Subscriptions whose file is to be looked at, each once.
static RAISED: SpinLock<VecDeque<Arc<Hook>>> = SpinLock::new(Rank::Leaf, VecDeque::new());
/// How many, to look at without the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// How many are being looked at.
static LOOKING: AtomicUsize = AtomicUsize::new(0);
/// Subscriptions there are: so many may be raised.
static SUBSCRIBED: AtomicUsize = AtomicUsize::new(0);
/// The kernel thread waits here.
static WORK: WaitQueue = WaitQueue::new();

/// Who is told of a file (`F_SETOWN_EX`), and how.
#[derive(Debug)]
pub struct Owner {
    /// An id, of a group if negative; 0 = nobody.
    id: AtomicI32,
    kind: AtomicI32,
    /// `F_SETSIG`; 0 = SIGIO without reasons.
    signal: AtomicU32,
    /// Real and effective user of who set it: what they may send is sent.
    users: [AtomicU32; 2],
    subscription: SpinLock<Option<Box<Subscription>>>,
}

impl Owner {
    /// Nobody.
    pub const fn new() -> Owner {
        Owner {
            id: AtomicI32::new(0),
            kind: AtomicI32::new(OWNER_PID),
            signal: AtomicU32::new(0),
            users: [const { AtomicU32::new(0) }; 2],
            subscription: SpinLock::new(Rank::Leaf, None),
        }
    }

    /// The id, of a group if negative.
    pub fn id(&self) -> i32 {
        self.id.load(Relaxed)
    }

    /// Which kind of id it is.
    pub fn kind(&self) -> i32 {
        self.kind.load(Relaxed)
    }

    /// Sets it for the running task.
    pub fn set(&self, id: i32, kind: i32) {
        let cred = task::current().cred();
        self.id.store(id, Relaxed);
        self.kind.store(kind, Relaxed);
        for (own, user) in self.users.iter().zip([cred.uid, cred.euid]) {
            own.store(user, Relaxed);
        }
    }

    /// The signal, 0 = SIGIO.
    pub fn signal(&self) -> u32 {
        self.signal.load(Relaxed)
    }

    /// Changes it.
    pub fn set_signal(&self, signal: u32) {
        self.signal.store(signal, Relaxed);
    }

    fn may_tell(&self, target: &Task) -> bool {
        let theirs = target.cred();
        let [uid, euid] = [0, 1].map(|at: usize| self.users.get(at).map_or(0, |user| user.load(Relaxed)));
        euid == 0 || [uid, euid].iter().any(|user| [theirs.uid, theirs.suid].contains(user))
    }
}

impl Default for Owner {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Subscription {
    /// Registrations on the file's queues.
    _table: PollTable,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        SUBSCRIBED.fetch_sub(1, Relaxed);
    }
}

/// What a file's queues call.
#[derive(Debug)]
struct Hook {
    own: Weak<Hook>,
    file: Weak<File>,
    /// The descriptor by which `O_ASYNC` was set.
    fd: Fd,
    /// Whether it is in [`RAISED`].
    raised: AtomicBool,
}

impl WakeTarget for Hook {
    fn woken(&self) -> bool {
        if let Some(own) = self.own.upgrade()
            && !self.raised.swap(true, AcqRel)
        {
            // Room was made when it was subscribed.
            RAISED.lock().push_back(own);
            COUNT.fetch_add(1, Release);
            WORK.wake_all_nested();
        }
        false
    }
}

/// `O_ASYNC` of `file` was set or cleared by `fd`.
///
/// # Errors
/// `ENOMEM`.
pub fn update(file: &Arc<File>, fd: Fd) -> Result<()> {
    let wanted = file.flags().contains(OpenFlags::ASYNC) && file.ops().pollable(file);
    let new = if wanted { Some(subscribe(file, fd)?) } else { None };
    let old = core::mem::replace(&mut *file.async_owner().subscription.lock(), new);
    drop(old);
    Ok(())
}

fn subscribe(file: &Arc<File>, fd: Fd) -> Result<Box<Subscription>> {
    start_worker()?;
    // A subscription that is replaced may still be raised.
    let most = SUBSCRIBED.fetch_add(1, Relaxed) + 2;
    let room = {
        let mut raised = RAISED.lock();
        let len = raised.len();
        raised.try_reserve((2 * most).saturating_sub(len))
    };
    let hook = Arc::new_cyclic(|own| Hook {
        own: own.clone(),
        file: Arc::downgrade(file),
        fd,
        raised: AtomicBool::new(false),
    });
    let mut table = PollTable::for_target(hook);
    file.poll(Some(&mut table));
    let subscription = Box::new(Subscription { _table: table });
    room.map_err(|_| Errno::ENOMEM).map(|()| subscription)
}

/// Makes the caller's process the owner of `file`, unless it has one.
pub fn claim(task: &Task, file: &File) {
    if file.async_owner().id() == 0 {
        file.async_owner().set(task.process().pid().0, OWNER_PID);
    }
}

/// Sends the signals that are due, and waits for those that others are about to send: what a call made ready is told of
/// before the call returns. Holding nothing: files may be closed here.
pub fn deliver() {
    /// Others' looks are short; whoever keeps making files ready shall not hold up everybody.
    const PATIENCE_NS: u64 = 10_000_000;
    while COUNT.load(Acquire) != 0 {
        let Some(hook) = take() else { break };
        look(&hook);
    }
    if LOOKING.load(Acquire) == 0 {
        return;
    }
    let end_ns = time::monotonic_ns() + PATIENCE_NS;
    while LOOKING.load(Acquire) != 0 && time::monotonic_ns() < end_ns {
        sched::yield_now();
    }
}

fn take() -> Option<Arc<Hook>> {
    let mut raised = RAISED.lock();
    let hook = raised.pop_front()?;
    LOOKING.fetch_add(1, Relaxed);
    COUNT.fetch_sub(1, Release);
    Some(hook)
}

/// Looks at a file that was taken out of [`RAISED`].
fn look(hook: &Hook) {
    look_at(hook);
    LOOKING.fetch_sub(1, Release);
}

fn look_at(hook: &Hook) {
    // Before the look, in one total order with a waker's change and its mark.
    hook.raised.swap(false, SeqCst);
    let Some(file) = hook.file.upgrade() else { return };
    let found = file.poll(None);
    let is_pipe = || file.inode().is_some_and(|inode| inode.kind() == Kind::Fifo) || file.path().is_none();
    let reason = if found.intersects(PollEvents::READABLE | PollEvents::PRI) {
        code::POLL_IN
    } else if found.intersects(PollEvents::HUP | PollEvents::RDHUP) {
        if is_pipe() { code::POLL_IN } else { code::POLL_HUP }
    } else if found.intersects(PollEvents::WRITABLE | PollEvents::ERR) {
        code::POLL_OUT
    } else {
        return;
    };
    send(&file, hook.fd, reason);
}

/// Tells the owner of `file`, open as `fd`, for `reason`.
pub fn send(file: &File, fd: Fd, reason: (i32, u64)) {
    let owner = file.async_owner();
    let (id, signo) = (owner.id(), owner.signal());
    let tell = |target: Option<&Arc<Task>>, process: &Arc<Process>| {
        let first = || ids::table().node(process.pid()).ok().and_then(|node| node.threads.first().cloned());
        let Some(task) = target.cloned().or_else(first).filter(|task| owner.may_tell(task)) else { return };
        let queue = |info| match target {
            Some(_) => signal::queue_to_task(&task, info),
            None => signal::queue_to_process(process, info),
        };
        // Where there is no room for one with its reason, SIGIO says that something was lost.
        if signo == 0 || queue(SigInfo::poll(signo, reason.0, reason.1, fd.0)).is_err() {
            let _ = queue(SigInfo::kernel(SIGIO));
        }
    };
    match owner.kind() {
        _ if id == 0 => {}
        OWNER_TID => task::find_task(Pid(id)).iter().for_each(|task| tell(Some(task), task.process())),
        OWNER_PGRP => ids::find_pgrp(Pid(-id)).iter().for_each(|process| tell(None, process)),
        _ => ids::find_process(Pid(id)).iter().for_each(|process| tell(None, process)),
    }
}

fn start_worker() -> Result<()> {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.swap(true, AcqRel) {
        return Ok(());
    }
    kthread::start("sigio", worker).inspect_err(|_| STARTED.store(false, Release))
}

fn worker(_: &Arc<Task>) {
    loop {
        look(&WORK.wait_until(take));
    }
}
