//! What a process and a thread keep about signals.
//!
//! Locks: [`Shared::state`] (rank `Signal`), then one thread's [`Private::state`] (rank `Task`). The mask is also kept in an
//! atomic, so that the way out to guest code and a sender's choice of a thread look without the lock.

use super::action::{Action, Actions};
use super::info::SigInfo;
use super::number::*;
use super::queue::Pending;
use super::restart::Restart;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_abi::linux::StackT;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

/// Signals of a process: one for all its threads.
#[derive(Debug)]
pub struct Shared {
    /// Actions and the queue that any thread may take from.
    pub(super) state: SpinLock<SharedState>,
    /// SIGCONTs sent so far: a stop signal taken before one must not stop the process after it.
    pub(super) continues: AtomicU64,
    /// Readers and pollers of signalfds: woken at every signal to the process or one of its threads.
    pub(super) watchers: Arc<WaitQueue>,
}

/// See [`Shared`].
#[derive(Debug)]
pub(super) struct SharedState {
    pub actions: SharedActions,
    pub pending: Pending,
}

/// The actions of a process, or of several that share them (`CLONE_SIGHAND` without `CLONE_THREAD`).
#[derive(Clone, Debug)]
pub(super) struct SharedActions(Arc<SpinLock<Actions>>);

impl SharedActions {
    fn new(actions: Actions) -> SharedActions {
        SharedActions(Arc::new(SpinLock::new(Rank::SignalActions, actions)))
    }

    /// The action of `signo`.
    pub fn get(&self, signo: Signo) -> Action {
        self.0.lock().get(signo)
    }

    /// Replaces the action of `signo`.
    pub fn set(&mut self, signo: Signo, action: Action) {
        self.0.lock().set(signo, action);
    }

    fn copy(&self) -> Actions {
        self.0.lock().clone()
    }
}

impl Shared {
    /// A number that those have in common who share their actions.
    pub fn actions_id(&self) -> usize {
        Arc::as_ptr(&self.state.lock().actions.0) as usize
    }

    /// All actions default, nothing pending.
    pub fn new() -> Shared {
        Self::with_actions(SharedActions::new(Actions::new()))
    }

    /// For the child of `parent`. With `share` (CLONE_SIGHAND without CLONE_THREAD) both have the same actions from now
    /// on; with `clear` (CLONE_CLEAR_SIGHAND) the child gets default actions in place of handlers.
    pub fn for_clone(parent: &Shared, share: bool, clear: bool) -> Shared {
        let shared = parent.state.lock().actions.clone();
        if share {
            return Self::with_actions(shared);
        }
        let mut actions = shared.copy();
        if clear {
            actions.reset_handlers();
        }
        Self::with_actions(SharedActions::new(actions))
    }

    /// execve(2): handlers become default.
    pub fn exec(&self) {
        // Its own from now on, whoever shared them.
        let mut actions = self.state.lock().actions.copy();
        actions.reset_handlers();
        let old = core::mem::replace(&mut self.state.lock().actions, SharedActions::new(actions));
        drop(old);
    }

    /// What is pending for the process as number `index`: see [`Pending::peek`].
    pub fn peek(&self, index: usize) -> Option<SigInfo> {
        self.state.lock().pending.peek(index)
    }

    /// The last thread is gone: nobody will take what is pending.
    pub fn forget_pending(&self) {
        self.state.lock().pending.discard(SigSet::MAX);
    }

    /// For /proc/PID/status: pending, ignored, caught.
    pub fn sets(&self) -> (SigSet, SigSet, SigSet) {
        let state = self.state.lock();
        let (ignored, caught) = state.actions.copy().sets();
        (state.pending.set(), ignored, caught)
    }

    fn with_actions(actions: SharedActions) -> Shared {
        let state = SharedState { actions, pending: Pending::new() };
        Shared {
            state: SpinLock::new(Rank::Signal, state),
            continues: AtomicU64::new(0),
            watchers: Arc::new(WaitQueue::new()),
        }
    }
}

impl core::default::Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// `SS_ONSTACK`.
pub const SS_ONSTACK: i32 = 1;
/// `SS_DISABLE`.
pub const SS_DISABLE: i32 = 2;
/// `SS_AUTODISARM`.
pub const SS_AUTODISARM: i32 = 1 << 31;

/// No alternate stack.
pub(super) const NO_STACK: StackT = StackT { sp: 0, flags: SS_DISABLE, pad: 0, size: 0 };

/// What the last fault left in the CPU's registers, for the frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRegs {
    pub trapno: u64,
    pub err: u64,
    pub cr2: u64,
}

/// Signals of one thread.
#[derive(Debug)]
pub struct Private {
    /// Blocked signals. Written by the thread itself, under `state`.
    mask: AtomicU64,
    pub(super) state: SpinLock<PrivateState>,
}

/// See [`Private`].
#[derive(Debug)]
pub(super) struct PrivateState {
    pub pending: Pending,
    /// Mask to return to when no handler runs (sigsuspend, ppoll).
    pub saved_mask: Option<SigSet>,
    /// Signals that the thread waits for in sigtimedwait, blocked or not.
    pub waiting_for: SigSet,
    pub altstack: StackT,
    pub restart: Restart,
    pub fault: FaultRegs,
}

impl Private {
    /// For a first thread: nothing pending, `mask` blocked.
    pub fn new(mask: SigSet) -> Private {
        Self::build(mask, NO_STACK)
    }

    /// For a thread or process that `parent` makes (in a task: `task.signal`): the same mask, nothing pending, and the
    /// same alternate stack unless `drop_altstack` (CLONE_VM without CLONE_VFORK).
    pub fn for_clone(parent: &Private, drop_altstack: bool) -> Private {
        let altstack = if drop_altstack { NO_STACK } else { parent.state.lock().altstack };
        Self::build(parent.mask(), altstack)
    }

    fn build(mask: SigSet, altstack: StackT) -> Private {
        let state = PrivateState {
            pending: Pending::new(),
            saved_mask: None,
            waiting_for: 0,
            altstack,
            restart: Restart::None,
            fault: FaultRegs::default(),
        };
        Private { mask: AtomicU64::new(mask & !UNBLOCKABLE), state: SpinLock::new(Rank::Task, state) }
    }

    /// Blocked signals.
    pub fn mask(&self) -> SigSet {
        self.mask.load(Relaxed)
    }

    /// Whether sigtimedwait(2) waits for `signo`.
    pub(super) fn waits_for(&self, signo: Signo) -> bool {
        self.state.lock().waiting_for & bit(signo) != 0
    }

    /// Replaces the mask without looking at what became deliverable: see [`super::set_mask`].
    pub(super) fn store_mask(&self, mask: SigSet) {
        self.mask.store(mask & !UNBLOCKABLE, Relaxed);
    }

    /// What is pending for this thread alone as number `index`: see [`Pending::peek`].
    pub fn peek(&self, index: usize) -> Option<SigInfo> {
        self.state.lock().pending.peek(index)
    }

    /// Signals pending for this thread alone.
    pub fn pending_set(&self) -> SigSet {
        self.state.lock().pending.set()
    }

    /// execve(2): the alternate stack is gone, the mask and what is pending stay.
    pub fn exec(&self) {
        let mut state = self.state.lock();
        state.altstack = NO_STACK;
        state.restart = Restart::None;
    }

    /// Notes what a fault left in the CPU, for the frame of its handler.
    pub fn set_fault(&self, fault: FaultRegs) {
        self.state.lock().fault = fault;
    }

    /// What restart_syscall(2) does now, once.
    pub fn take_restart(&self) -> Restart {
        core::mem::take(&mut self.state.lock().restart)
    }

    /// What restart_syscall(2) will do.
    pub fn set_restart(&self, restart: Restart) {
        self.state.lock().restart = restart;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::action::Action;

    #[test]
    fn a_child_gets_actions_and_mask_and_nothing_pending() {
        let parent = Shared::new();
        parent.state.lock().actions.set(SIGHUP, Action { handler: 4096, ..Action::default() });
        assert_eq!(Shared::for_clone(&parent, false, false).sets(), (0, 0, bit(SIGHUP)));
        assert_eq!(Shared::for_clone(&parent, false, true).sets(), (0, 0, 0));
        let thread = Private::new(bit(SIGINT) | bit(SIGKILL));
        assert_eq!(Private::for_clone(&thread, false).mask(), bit(SIGINT));
    }
}
