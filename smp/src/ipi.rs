//! Cross-calls between virtual CPUs and the idle doorbell.
//!
//! Sender: set bits in the mailbox, full full_fence, read the target's state; ring the doorbell if it is idle, signal its host
//! thread if it is in guest mode, else nothing. Receiver: publish the state, full fence, read the mailbox. One of the two
//! sees the other, so no cross-call waits for the next one. Model: `loom-tests/tests/ipi.rs`, over this very code.

use crate::sync::{AtomicU32, Ordering::*, full_fence, futex_wait_until, futex_wake, mutant};
#[cfg(not(loom))]
use crate::vtime;
use umbel_abi::machine::VcpuState;
#[cfg(not(loom))]
use umbel_abi::machine::{Control, VcpuShared, layout};

/// What the sender of a cross-call must still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Poke {
    /// The target will look by itself, or was woken.
    Nothing,
    /// The target runs guest code: send a host signal to its thread.
    Signal,
}

/// The words of one virtual CPU's line, wherever they are.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// A [`VcpuState`].
    pub state: &'a AtomicU32,
    /// Bits of pending causes.
    pub pending: &'a AtomicU32,
    /// Futex word: 0 = asleep or about to be, 1 = rung.
    pub doorbell: &'a AtomicU32,
}

impl Line<'_> {
    /// Sender: posts `bits` and wakes the target if it is idle.
    pub fn post(&self, bits: u32) -> Poke {
        self.pending.fetch_or(bits, AcqRel);
        full_fence("ipi-sender-unfenced");
        let state = self.state.load(Relaxed);
        if state == VcpuState::Idle as u32 {
            self.ring();
            Poke::Nothing
        } else if state == VcpuState::Guest as u32 {
            Poke::Signal
        } else {
            Poke::Nothing
        }
    }

    /// Receiver: publishes that guest mode comes next. False if something is pending: then it is in kernel mode still.
    #[must_use]
    pub fn enter_guest(&self) -> bool {
        self.publish(VcpuState::Guest)
    }

    /// Receiver: back in kernel mode.
    pub fn enter_kernel(&self) {
        self.state.store(VcpuState::Kernel as u32, Relaxed);
    }

    /// Receiver: sleeps until rung or until CLOCK_MONOTONIC reaches `deadline_ns`, unless something is pending or `busy()`
    /// says, after the state is published, that there is work after all.
    pub fn idle(&self, deadline_ns: Option<u64>, busy: impl FnOnce() -> bool) {
        // The doorbell is swapped on both sides, not stored: loom orders swaps totally, but concurrent stores only
        // partially, and would show us an old value again.
        self.doorbell.swap(0, AcqRel);
        if self.publish(VcpuState::Idle) && !busy() {
            let mut in_time = true;
            while in_time && self.doorbell.load(Acquire) == 0 {
                in_time = futex_wait_until(self.doorbell, 0, deadline_ns);
            }
        }
        self.enter_kernel();
    }

    /// Receiver: sleeps until rung or until CLOCK_MONOTONIC reaches `deadline_ns`, whatever is pending, unless `busy()` says,
    /// after the state is published, that it need not; returns false if the deadline passed. It may look at `pending`.
    pub fn nap(&self, deadline_ns: Option<u64>, busy: impl FnOnce() -> bool) -> bool {
        if !mutant("turns-bell-cleared-late") {
            self.doorbell.swap(0, AcqRel);
        }
        self.state.store(VcpuState::Idle as u32, Release);
        full_fence("nap-receiver-unfenced");
        let mut in_time = true;
        if !busy() {
            if mutant("turns-bell-cleared-late") {
                self.doorbell.swap(0, AcqRel);
            }
            while in_time && self.doorbell.load(Acquire) == 0 {
                in_time = futex_wait_until(self.doorbell, 0, deadline_ns);
            }
        }
        self.enter_kernel();
        in_time
    }

    /// Ends a nap, of now or to come.
    pub fn ring(&self) {
        self.doorbell.swap(1, AcqRel);
        futex_wake(self.doorbell, 1);
    }

    /// Receiver: takes all pending causes.
    #[must_use]
    pub fn take(&self) -> u32 {
        self.pending.swap(0, AcqRel)
    }

    fn publish(&self, state: VcpuState) -> bool {
        self.state.store(state as u32, Release);
        full_fence("ipi-receiver-unfenced");
        let clear = self.pending.load(Relaxed) == 0;
        if !clear {
            self.enter_kernel();
        }
        clear
    }
}

/// The line of a virtual CPU's shared block.
#[cfg(not(loom))]
pub fn line(shared: &VcpuShared) -> Line<'_> {
    Line { state: &shared.state, pending: &shared.mailbox.pending, doorbell: &shared.mailbox.doorbell }
}

/// The control block of the machine that this kernel image runs in. Kernel image only.
#[cfg(not(loom))]
pub fn control() -> &'static Control {
    // SAFETY: the machine maps the block here, for ever, before the first slot runs; all that changes in it is atomic.
    unsafe { &*((layout::HOT_BASE + layout::CONTROL_OFF) as *const Control) }
}

/// Posts `bits` (of [`umbel_abi::machine::Mailbox`]) to virtual CPU `cpu` and makes it look soon. Kernel image only.
#[cfg(not(loom))]
pub fn send(cpu: u32, bits: u32) {
    let Some(shared) = control().vcpus.get(cpu as usize) else {
        return;
    };
    if vtime::on() {
        // Nobody else runs: there is nobody to signal.
        shared.mailbox.pending.fetch_or(bits, AcqRel);
        vtime::call(cpu);
        return;
    }
    if line(shared).post(bits) == Poke::Signal {
        let tid = shared.tid.load(Acquire) as i32;
        // It may have left guest mode or moved to another slot since: then it has looked, or will.
        let _ = umbel_host::signal::tgkill(tid, tid, umbel_host::signal::SIGUSR1);
    }
}
