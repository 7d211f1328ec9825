//! Which virtual CPU may act on which address space's old translations, and how to make sure that it does not.
//!
//! Each virtual CPU has a [`View`]: the log of the space it runs (published before it catches up) and a count that is odd
//! inside an *active section*, a stretch of kernel code that touches guest memory. Each slot has the log it is bound
//! to and the count it has applied.
//!
//! ```text
//! receiver:  publish log (and odd count); full fence; read head; catch up; act
//! initiator: append; full fence; read views: cross-call, membarrier; wait for odd counts to change; catch up
//! ```
//!
//! Either the receiver sees the new entry or the initiator sees the receiver. An active section takes no lock and does
//! not block, so the wait is short. Slots whose log is not running anywhere catch up before they act again.
//!
//! The handshake itself is [`crate::handshake`].

use crate::log::{CaughtUp, Change, UpdateLog};
use crate::{percpu, slotmap};
use core::sync::atomic::AtomicBool;

pub use crate::handshake::View;
use crate::handshake::behind_append;
use umbel_abi::machine::{MAX_CPUS, Mailbox};
use umbel_host::mem;
use umbel_smp::sync::{AtomicU64, AtomicUsize, Ordering, fence};

/// Virtual CPUs and slots seen so far, plus one: how far the tables need be searched.
static CPUS: AtomicUsize = AtomicUsize::new(0);
static SLOTS_SEEN: AtomicUsize = AtomicUsize::new(0);

static VIEWS: [View; MAX_CPUS] = [const { View::new() }; MAX_CPUS];

/// What a slot is bound to. Used by the virtual CPU that runs it, and by [`forget`].
struct SlotState {
    log: core::sync::atomic::AtomicPtr<UpdateLog>,
    applied: AtomicU64,
}

static SLOTS: [SlotState; percpu::MAX_SLOTS] = [const {
    SlotState { log: core::sync::atomic::AtomicPtr::new(core::ptr::null_mut()), applied: AtomicU64::new(0) }
}; percpu::MAX_SLOTS];

/// Changes applied, and times that everything had to be dropped: for `--stats`.
pub static APPLIED: AtomicU64 = AtomicU64::new(0);
pub static WRAPS: AtomicU64 = AtomicU64::new(0);
pub static SHOOTDOWNS: AtomicU64 = AtomicU64::new(0);
pub static CROSS_CALLS: AtomicU64 = AtomicU64::new(0);

/// Nobody is told of changes: others act on old translations until they enter the kernel for another reason.
static BROKEN: AtomicBool = AtomicBool::new(false);

/// Leaves shootdowns out from now on, to see that the torture tests notice (`--debug-stall`).
pub fn break_shootdowns() {
    BROKEN.store(true, Ordering::Relaxed);
}

/// Binds the current slot to the log of the current thread's space and brings it up to date. Cheap when it is. Called
/// before every stay in guest mode and every fault. The log outlives the binding: its space calls [`forget`]. True if the
/// slot was not bound to it: nothing is mapped yet.
pub fn activate(log: &UpdateLog) -> bool {
    if !percpu::in_slot() {
        return false;
    }
    let state = &SLOTS[percpu::slot()];
    let address = core::ptr::from_ref(log).cast_mut();
    let fresh = state.log.load(Ordering::Relaxed) != address;
    if fresh {
        bind(state, address);
    }
    VIEWS[percpu::cpu()].publish(log);
    catch_up(state, log);
    fresh
}

#[cold]
fn bind(state: &SlotState, log: *mut UpdateLog) {
    // Whatever is mapped belongs to another space.
    slotmap::drop_all();
    // SAFETY: the caller's reference.
    let head = unsafe { (*log).head() };
    state.applied.store(head, Ordering::Relaxed);
    state.log.store(log, Ordering::Release);
    SLOTS_SEEN.fetch_max(percpu::slot() + 1, Ordering::AcqRel);
    CPUS.fetch_max(percpu::cpu() + 1, Ordering::AcqRel);
}

fn views() -> impl Iterator<Item = (usize, &'static View)> {
    VIEWS.iter().enumerate().take(CPUS.load(Ordering::Acquire))
}

fn catch_up(state: &SlotState, log: &UpdateLog) {
    let mut applied = state.applied.load(Ordering::Relaxed);
    let result = log.catch_up(&mut applied, apply, slotmap::drop_all);
    match result {
        CaughtUp::Already => return,
        CaughtUp::Applied(count) => APPLIED.fetch_add(count, Ordering::Relaxed),
        CaughtUp::Lost => WRAPS.fetch_add(1, Ordering::Relaxed),
    };
    state.applied.store(applied, Ordering::Relaxed);
}

fn apply(change: Change) {
    match change {
        Change::Drop { start, end } => slotmap::unmap(start, end - start),
        Change::Protect { start, end, prot } => slotmap::protect(start, end - start, prot),
    }
}

/// Unmaps the current slot and unbinds it: before another space uses it, and when its space is gone (exec, exit).
pub fn recycle() {
    let state = &SLOTS[percpu::slot()];
    state.log.store(core::ptr::null_mut(), Ordering::Release);
    VIEWS[percpu::cpu()].leave();
    slotmap::drop_all();
}

/// Unbinds every slot of a space that ends. Their mappings stay until they are bound again; nothing runs in them.
pub fn forget(log: &UpdateLog) {
    let address = core::ptr::from_ref(log).cast_mut();
    for state in SLOTS.iter().take(SLOTS_SEEN.load(Ordering::Acquire)) {
        let _ = state.log.compare_exchange(address, core::ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
    }
    for (_, view) in views() {
        let _ = view.log.compare_exchange(address as usize, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Makes sure that no virtual CPU acts on translations that the entries appended so far took away. Afterwards the old
/// pages may be reused. Not in an active section; takes no lock.
pub fn shootdown(log: &UpdateLog) {
    behind_append();
    let me = percpu::cpu();
    let mut any = false;
    for (cpu, view) in views() {
        if cpu != me && view.runs(log) && !BROKEN.load(Ordering::Relaxed) {
            umbel_smp::ipi::send(cpu as u32, Mailbox::SHOOTDOWN);
            CROSS_CALLS.fetch_add(1, Ordering::Relaxed);
            any = true;
        }
    }
    if any {
        // Without it a target could still run guest code with its signal pending. Registered per slot when it is armed.
        let _ = mem::membarrier(mem::MEMBARRIER_GLOBAL_EXPEDITED);
        for (cpu, view) in views() {
            if cpu != me && view.runs(log) {
                view.wait_section();
            }
        }
    }
    SHOOTDOWNS.fetch_add(1, Ordering::Relaxed);
    catch_up_current();
}

/// Applies a change in the current slot alone, if it is bound to `log`: no other slot may have any of its pages mapped
/// ([`crate::holders`]). If it is not bound, it has none either.
pub fn apply_here(log: &UpdateLog, change: Change) {
    if percpu::in_slot() && SLOTS[percpu::slot()].log.load(Ordering::Relaxed) == core::ptr::from_ref(log).cast_mut() {
        apply(change);
    }
}

/// As [`shootdown`] for one change of which the caller replaces all mappings in the current slot, bound to `log`, at once:
/// it need not unmap them first.
pub fn shootdown_replaced(log: &UpdateLog) {
    let state = &SLOTS[percpu::slot()];
    let head = log.head();
    if state.applied.load(Ordering::Relaxed) + 1 == head {
        state.applied.store(head, Ordering::Relaxed);
    }
    shootdown(log);
}

/// A full barrier on every virtual CPU that runs guest code: membarrier(2) for guests.
pub fn barrier() {
    let _ = mem::membarrier(mem::MEMBARRIER_GLOBAL_EXPEDITED);
    fence(Ordering::SeqCst);
}

/// Brings the current slot up to date with the log it is bound to, if it is. Before every stay in guest mode; the gate
/// looks at the log once more behind its full fence ([`watched`]). A slot that is not bound has nothing mapped: its first
/// fault binds it.
pub fn catch_up_current() {
    let state = &SLOTS[percpu::slot()];
    let log = state.log.load(Ordering::Acquire);
    // SAFETY: a bound log belongs to the current thread's space, which `forget`s it before it goes.
    if let Some(log) = unsafe { log.as_ref() } {
        VIEWS[percpu::cpu()].announce(log);
        catch_up(state, log);
    }
}

/// Before guest mode: says which log the virtual CPU is about to act on, and brings the slot up to date with it. A slot
/// that is not bound has nothing mapped; the first fault binds it.
pub fn enter_guest() {
    let state = &SLOTS[percpu::slot()];
    let log = state.log.load(Ordering::Acquire);
    // SAFETY: as in `catch_up_current`.
    match unsafe { log.as_ref() } {
        Some(log) => {
            VIEWS[percpu::cpu()].publish(log);
            catch_up(state, log);
        }
        None => VIEWS[percpu::cpu()].leave(),
    }
}

/// The running virtual CPU acts on no log until it publishes one again: it is idle or goes offline. A slot that it is bound to
/// catches up before it acts again; until then nobody need wake it for a shootdown.
pub fn leave() {
    VIEWS[percpu::cpu()].leave();
}

/// What the gate looks at once more before it leaves: the head of the log that the current slot is bound to, and the
/// count that the slot has applied. The pointer holds until the slot is bound to another log.
pub fn watched() -> Option<(*const AtomicU64, u64)> {
    let state = &SLOTS[percpu::slot()];
    let log = state.log.load(Ordering::Acquire);
    // SAFETY: as in `catch_up_current`.
    let head = unsafe { log.as_ref() }?.head_word();
    Some((core::ptr::from_ref(head), state.applied.load(Ordering::Relaxed)))
}

/// An active section of the current virtual CPU, in the slot of the current thread's space.
pub struct Section(&'static View);

impl Section {
    /// Begins one; nothing if the slot is not bound yet ([`activate`] it) .
    pub fn begin() -> Option<Section> {
        let state = &SLOTS[percpu::slot()];
        let log = state.log.load(Ordering::Acquire);
        if log.is_null() {
            return None;
        }
        // SAFETY: as in `catch_up_current`.
        let log = unsafe { &*log };
        let view = &VIEWS[percpu::cpu()];
        view.begin(log);
        let section = Section(view);
        catch_up(state, log);
        Some(section)
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        self.0.end();
    }
}
