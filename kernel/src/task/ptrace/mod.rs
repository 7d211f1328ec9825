//! Tracing: one thread (the tracer) stops others (tracees), looks at them and changes them. Source: ptrace(2).
//!
//! * [`Traced`]: what each task carries. [`stops`]: the tracee's side, called from the run loop, signal delivery, clone, exec
//!   and exit. [`relation`]: who traces whom. [`request`], [`memory`], [`registers`]: what ptrace(2) does.
//!   [`watch`]: debug registers.
//!
//! A tracee stops in kernel mode with its whole state saved (`gate::save_before_switch`), publishes the stop in
//! [`State::stop`] and waits. While the stop stands its tracer, and nobody else, may touch its `user` context. A resume
//! takes the stop away and wakes it. A tracee that must end leaves its stop by itself.
//!
//! Locks: [`Traced::state`] has rank `Task`. Who traces whom is also in the table of ids (`Node::tracees`), for wait(2).

pub mod answers;
mod memory;
mod operand;
pub mod registers;
pub mod relation;
pub mod request;
pub mod stops;
pub mod watch;

use super::{Process, Task};
use crate::signal::SigInfo;
use alloc::sync::{Arc, Weak};
use bitflags::bitflags;
use core::sync::atomic::{AtomicU32, Ordering::*};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

bitflags! {
    /// `PTRACE_O_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Options: u32 {
        const SYSGOOD = 1;
        const FORK = 1 << Event::Fork as u32;
        const VFORK = 1 << Event::Vfork as u32;
        const CLONE = 1 << Event::Clone as u32;
        const EXEC = 1 << Event::Exec as u32;
        const VFORK_DONE = 1 << Event::VforkDone as u32;
        const EXIT = 1 << Event::Exit as u32;
        const SECCOMP = 1 << Event::Seccomp as u32;
        const EXITKILL = 1 << 20;
    }
}

/// `PTRACE_EVENT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    Fork = 1,
    Vfork = 2,
    Clone = 3,
    Exec = 4,
    VforkDone = 5,
    Exit = 6,
    Seccomp = 7,
    Stop = 128,
}

impl Event {
    fn option(self) -> Options {
        Options::from_bits_truncate(1_u32.checked_shl(self as u32).unwrap_or(0))
    }
}

/// How a tracee goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `PTRACE_CONT`.
    #[default]
    Run,
    /// `PTRACE_SYSCALL`: stops at the next entry or exit of a system call.
    Syscall,
    /// `PTRACE_SINGLESTEP`.
    Step,
    /// `PTRACE_SYSEMU`: stops at entries, and calls are not made.
    Emulate,
}

/// Who traces.
#[derive(Clone)]
pub struct Tracer {
    pub task: Weak<Task>,
    pub process: Arc<Process>,
}

/// A stop that stands.
pub struct Stop {
    /// What wait(2) shows above the low byte: a signal's number, with the event above it.
    pub code: u32,
    /// `None` for a group stop of a tracee that was not seized.
    pub info: Option<SigInfo>,
    /// `PTRACE_GETEVENTMSG`.
    pub message: u64,
    /// wait(2) has reported it.
    pub reported: bool,
    /// `PTRACE_LISTEN`: it stands until something happens, and is nobody's to look at.
    pub listening: bool,
}

/// What a task carries about its being traced.
#[derive(Default)]
pub struct Traced {
    /// Copy of what the run loop looks at: see [`flag`].
    flags: AtomicU32,
    state: Locked,
    queue: WaitQueue,
}

struct Locked(SpinLock<State>);

impl Default for Locked {
    fn default() -> Self {
        Locked(SpinLock::new(Rank::Task, State::default()))
    }
}

/// Bits of [`Traced::flags`].
mod flag {
    pub const TRACED: u32 = 1;
    pub const SYSCALL: u32 = 2;
    pub const STEP: u32 = 4;
    pub const EMULATE: u32 = 8;
    /// To stop as soon as possible (`PTRACE_INTERRUPT`, a new seized tracee).
    pub const TRAP: u32 = 16;
    /// Debug registers are set.
    pub const WATCH: u32 = 32;
}

/// Protected by `Traced::state`.
#[derive(Default)]
pub struct State {
    tracer: Option<Tracer>,
    seized: bool,
    options: Options,
    stop: Option<Stop>,
    mode: Mode,
    trap: bool,
    /// The signal that the tracer let through or put in, and its reason.
    signal: u32,
    info: Option<SigInfo>,
    debug: watch::Registers,
    /// The group stop that the tracee has reported: it does not keep it a second time.
    group_stop: u64,
}

impl Traced {
    /// Whether it is traced.
    #[inline]
    pub fn is_traced(&self) -> bool {
        self.has(flag::TRACED)
    }

    fn has(&self, flag: u32) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }

    /// Whether it single-steps.
    #[inline]
    pub fn steps(&self) -> bool {
        self.has(flag::STEP)
    }

    /// Whether it stops at system calls.
    #[inline]
    pub fn stops_at_calls(&self) -> bool {
        self.has(flag::SYSCALL | flag::EMULATE)
    }

    /// Whether it is to stop as soon as possible.
    pub fn traps(&self) -> bool {
        self.has(flag::TRAP)
    }

    /// Whether it stands in a stop of tracing.
    pub fn is_stopped(&self) -> bool {
        self.is_traced() && self.state.0.lock().stop.is_some()
    }

    /// The process that traces it.
    pub fn tracer(&self) -> Option<Arc<Process>> {
        if !self.is_traced() {
            return None;
        }
        self.state.0.lock().tracer.as_ref().map(|tracer| tracer.process.clone())
    }

    /// The thread that traces it.
    pub fn tracer_task(&self) -> Option<Arc<Task>> {
        if !self.is_traced() {
            return None;
        }
        self.state.0.lock().tracer.as_ref()?.task.upgrade()
    }

    /// The code of a stop that wait(2) has not reported; taken if `take`.
    pub fn report(&self, take: bool) -> Option<u32> {
        let mut state = self.state.0.lock();
        let stop = state.stop.as_mut().filter(|stop| !stop.reported && !stop.listening)?;
        stop.reported |= take;
        Some(stop.code)
    }

    /// Wakes it from a stop, to look at its state.
    pub fn wake(&self) {
        self.queue.wake_all();
    }

    /// Runs `change` on the state and shows the run loop what it needs of it.
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.0.lock();
        let result = change(&mut state);
        self.flags.store(state.flags(), Relaxed);
        result
    }
}

impl State {
    fn flags(&self) -> u32 {
        if self.tracer.is_none() {
            return 0;
        }
        let mode = match self.mode {
            Mode::Run => 0,
            Mode::Syscall => flag::SYSCALL,
            Mode::Step => flag::STEP,
            Mode::Emulate => flag::EMULATE,
        };
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        flag::TRACED | mode | bit(self.trap, flag::TRAP) | bit(self.debug.any(), flag::WATCH)
    }
}
