//! A kernel thread of execution and the states it moves through.
//!
//! ```text
//!              run                       die
//! Runnable ---------> Running ---------------------> Dead
//!    ^  ^               |  ^
//!    |  '--- yielded ---'  |  cancel_block / wake (its context is still live: nothing to enqueue)
//!    |                     |
//!    |            prepare_block
//!    |                  v  |
//!    |               Blocking --- blocked (its context is saved) ---> Blocked
//!    |                                                                  |
//!    '--------------------------- wake ---------------------------------'
//! ```
//!
//! A thread says `Blocking` while it still runs; only when its context is saved, on the next thread's stack, does
//! [`Thread::switched_out`] make it `Blocked` or `Runnable`. So nobody can enqueue a thread that another virtual CPU is
//! still running. Every edge is one function; whoever gets `Enqueue` must put the thread on a run queue, and exactly one
//! caller does.
//!
//! The sticky flag [`Thread::interrupt`] lives in the same word, so an interruptible block cannot miss it.

use crate::lock::{HeldLocks, Once};
use crate::sync::{AtomicU32, AtomicU64, Ordering::*, mutant};
use alloc::sync::{Arc, Weak};
use core::any::Any;

/// How threads are referred to.
pub type ThreadRef = Arc<Thread>;

/// The states, in the low bits of the word.
const RUNNING: u32 = 0;
const RUNNABLE: u32 = 1;
const BLOCKING: u32 = 2;
const BLOCKED: u32 = 3;
const DEAD: u32 = 4;
const STATE: u32 = 7;
/// The block may be ended by [`Thread::interrupt`]. Only with BLOCKING and BLOCKED.
const INTERRUPTIBLE: u32 = 8;
/// Somebody called [`Thread::interrupt`] and nobody cleared it yet.
const INTERRUPTED: u32 = 16;

/// Where a thread stands; a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// On a virtual CPU.
    Running,
    /// On a run queue, or about to be put on one.
    Runnable,
    /// On a virtual CPU, about to block.
    Blocking { interruptible: bool },
    /// Waiting for a wake-up.
    Blocked { interruptible: bool },
    /// Finished for ever.
    Dead,
}

/// Whether a block may be ended by an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruptible {
    Yes,
    No,
}

/// Outcome of [`Thread::prepare_block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Prepare {
    /// The thread is Blocking: test the condition, then block or cancel.
    Ready,
    /// The block is interruptible and the thread is interrupted: still Running.
    Interrupted,
}

/// Outcome of [`Thread::wake`] and [`Thread::interrupt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WakeEnd {
    /// The thread is Runnable now and the caller must put it on a run queue.
    Enqueue,
    /// The thread was about to block and will find that it may go on.
    Caught,
    /// It was not blocked.
    NotBlocked,
}

/// Outcome of [`Thread::switched_out`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SwitchedOut {
    /// The thread is Runnable (it yielded, or was woken before its context was saved): put it on a run queue.
    Enqueue,
    /// It is Blocked: a waker will enqueue it.
    Blocked,
    /// It is Dead: its stack may be freed.
    Dead,
}

/// A thread of execution with a kernel stack of its own.
#[derive(Debug)]
pub struct Thread {
    /// State and flags.
    word: AtomicU32,
    /// Stack pointer of the saved context ([`crate::switch`]).
    pub sp: AtomicU64,
    /// Identity of the address space that it needs, 0 = any slot will do (kernel threads).
    pub space: AtomicU64,
    /// What the kernel keeps for it: opaque here.
    pub cookie: AtomicU64,
    /// The kernel's own object for it. Set once, before it runs.
    owner: Once<Weak<dyn Any + Send + Sync>>,
    /// Sleeping locks it holds; only the thread itself writes this.
    pub held: HeldLocks,
}

impl Thread {
    /// A thread that is Runnable but on no run queue yet.
    pub fn new(space: u64, cookie: u64) -> Self {
        Self::in_state(RUNNABLE, space, cookie)
    }

    /// The thread that is running already: boot and idle threads.
    pub fn adopted(space: u64, cookie: u64) -> Self {
        Self::in_state(RUNNING, space, cookie)
    }

    fn in_state(state: u32, space: u64, cookie: u64) -> Self {
        Self {
            word: AtomicU32::new(state),
            sp: AtomicU64::new(0),
            space: AtomicU64::new(space),
            cookie: AtomicU64::new(cookie),
            owner: Once::new(),
            held: HeldLocks::new(),
        }
    }

    /// Sets the kernel's object for this thread. Later calls change nothing.
    pub fn set_owner(&self, owner: Weak<dyn Any + Send + Sync>) {
        // The thread keeps its first owner.
        let _ = self.owner.set(owner);
    }

    /// The kernel's object for this thread, while that lives and if it is a `T`.
    pub fn owner<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.owner.get()?.upgrade()?.downcast().ok()
    }

    /// A snapshot of the state.
    pub fn state(&self) -> State {
        let word = self.word.load(Acquire);
        let interruptible = word & INTERRUPTIBLE != 0;
        match word & STATE {
            RUNNING => State::Running,
            RUNNABLE => State::Runnable,
            BLOCKING => State::Blocking { interruptible },
            BLOCKED => State::Blocked { interruptible },
            _ => State::Dead,
        }
    }

    /// Running → Blocking, by the thread itself.
    ///
    /// The caller then fences (SeqCst), tests its condition and calls `block` or [`Self::cancel_block`]. From Blocking it
    /// only sets the kind anew, so that a condition may itself wait.
    pub fn prepare_block(&self, kind: Interruptible) -> Prepare {
        let flag = match kind {
            Interruptible::Yes => INTERRUPTIBLE,
            Interruptible::No => 0,
        };
        let prepared = self.word.fetch_update(AcqRel, Acquire, |word| {
            let refused = flag != 0 && word & INTERRUPTED != 0;
            (!refused).then_some(word & INTERRUPTED | BLOCKING | flag)
        });
        match prepared {
            Ok(_) => Prepare::Ready,
            Err(_) => {
                self.cancel_block();
                Prepare::Interrupted
            }
        }
    }

    /// Blocking → Running, by the thread itself; nothing if a waker was first.
    pub fn cancel_block(&self) {
        self.word.fetch_and(INTERRUPTED, AcqRel);
    }

    /// Whether the thread itself must still give up its CPU: false if a waker caught it.
    pub fn is_blocking(&self) -> bool {
        self.word.load(Acquire) & STATE == BLOCKING
    }

    /// Called for the previous thread, once its context is saved and this CPU will not touch it again.
    ///
    /// Blocking → Blocked; Running (yielded, or woken meanwhile) → Runnable; Dead stays.
    pub fn switched_out(&self) -> SwitchedOut {
        let next = |word: u32| match word & STATE {
            BLOCKING => Some(word & !STATE | BLOCKED),
            RUNNING => Some(word & !STATE | RUNNABLE),
            _ => None,
        };
        match self.word.fetch_update(AcqRel, Acquire, next) {
            Ok(word) if word & STATE == BLOCKING => SwitchedOut::Blocked,
            Ok(_) => SwitchedOut::Enqueue,
            Err(_) => SwitchedOut::Dead,
        }
    }

    /// Blocked → Runnable, or Blocking → Running.
    pub fn wake(&self) -> WakeEnd {
        self.end_block(0, 0)
    }

    /// Sets the sticky flag and ends an interruptible block.
    pub fn interrupt(&self) -> WakeEnd {
        self.end_block(INTERRUPTIBLE, INTERRUPTED)
    }

    /// Ends a block that has the flags `required`; sets `flags` in any case.
    fn end_block(&self, required: u32, flags: u32) -> WakeEnd {
        let next = |word: u32| {
            let kept = word & INTERRUPTED | flags;
            match word & STATE {
                BLOCKING if word & required == required => Some(kept | RUNNING),
                BLOCKED if word & required == required => Some(kept | RUNNABLE),
                _ if word | flags != word => Some(word | flags),
                _ => None,
            }
        };
        match self.word.fetch_update(AcqRel, Acquire, next) {
            Ok(word) if word & required != required => WakeEnd::NotBlocked,
            Ok(word) if word & STATE == BLOCKED => WakeEnd::Enqueue,
            Ok(word) if word & STATE == BLOCKING && mutant("thread-caught-enqueued") => WakeEnd::Enqueue,
            Ok(word) if word & STATE == BLOCKING => WakeEnd::Caught,
            _ => WakeEnd::NotBlocked,
        }
    }

    /// Whether [`Self::interrupt`] was called since the last [`Self::clear_interrupt`].
    pub fn interrupted(&self) -> bool {
        self.word.load(Acquire) & INTERRUPTED != 0
    }

    /// Forgets interrupts. The caller looks for their reasons afterwards, so that none is lost.
    pub fn clear_interrupt(&self) {
        self.word.fetch_and(!INTERRUPTED, AcqRel);
    }

    /// Runnable → Running, by the CPU that took it from a run queue.
    pub fn run(&self) {
        self.word.fetch_and(INTERRUPTED, AcqRel);
    }

    /// Running → Dead, by the thread itself, before it switches away for the last time.
    pub fn die(&self) {
        self.word.fetch_or(DEAD, AcqRel);
    }

    /// The state word, for schedulers that let the host block the thread (tests).
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_wake_before_the_context_is_saved_makes_the_switch_enqueue() {
        let thread = Thread::adopted(0, 0);
        assert_eq!(thread.prepare_block(Interruptible::No), Prepare::Ready);
        assert_eq!(thread.wake(), WakeEnd::Caught);
        assert_eq!(thread.switched_out(), SwitchedOut::Enqueue);
        assert_eq!(thread.state(), State::Runnable);
        assert_eq!(thread.wake(), WakeEnd::NotBlocked);
    }

    #[test]
    fn a_wake_after_it_enqueues_once() {
        let thread = Thread::adopted(0, 0);
        assert_eq!(thread.prepare_block(Interruptible::No), Prepare::Ready);
        assert_eq!(thread.switched_out(), SwitchedOut::Blocked);
        assert_eq!(thread.wake(), WakeEnd::Enqueue);
        assert_eq!(thread.wake(), WakeEnd::NotBlocked);
    }

    #[test]
    fn an_interrupt_is_sticky_and_refuses_an_interruptible_block() {
        let thread = Thread::adopted(0, 0);
        assert_eq!(thread.interrupt(), WakeEnd::NotBlocked);
        assert_eq!(thread.prepare_block(Interruptible::Yes), Prepare::Interrupted);
        assert_eq!(thread.state(), State::Running);
        assert_eq!(thread.prepare_block(Interruptible::No), Prepare::Ready);
        thread.cancel_block();
        assert!(thread.interrupted());
        thread.clear_interrupt();
        assert_eq!(thread.prepare_block(Interruptible::Yes), Prepare::Ready);
    }

    #[test]
    fn an_interrupt_ends_only_interruptible_blocks() {
        let thread = Thread::adopted(0, 0);
        assert_eq!(thread.prepare_block(Interruptible::No), Prepare::Ready);
        assert_eq!(thread.switched_out(), SwitchedOut::Blocked);
        assert_eq!(thread.interrupt(), WakeEnd::NotBlocked);
        assert_eq!(thread.wake(), WakeEnd::Enqueue);
        thread.run();
        thread.clear_interrupt();
        assert_eq!(thread.prepare_block(Interruptible::Yes), Prepare::Ready);
        assert_eq!(thread.switched_out(), SwitchedOut::Blocked);
        assert_eq!(thread.interrupt(), WakeEnd::Enqueue);
        assert!(thread.interrupted());
    }

    #[test]
    fn a_dead_thread_stays_dead() {
        let thread = Thread::adopted(0, 0);
        thread.die();
        assert_eq!(thread.switched_out(), SwitchedOut::Dead);
        assert_eq!(thread.wake(), WakeEnd::NotBlocked);
    }
}
