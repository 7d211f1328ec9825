//! Signals: sending, queues, masks, actions, delivery, job control. Source: signal(7).
//!
//! * [`SigInfo`]: a signal with its reason. [`Shared`]: a process's part. [`Private`]: a thread's.
//! * [`send_to_task`], [`send_to_process`], [`send_to_pgrp`]: from anywhere in the kernel that holds no lock below `Process`.
//! * [`force_fault`]: the running instruction's own fault. [`pending`], [`deliver`]: the way out to guest code.
//!
//! A signal is taken by the thread it hits: senders queue it and interrupt the thread (`sched::interrupt`, a sticky flag),
//! the thread finds it on its way out. Locks: `Process::stop`, then [`Shared`]'s, then one [`Private`]'s.

mod action;
mod deliver;
pub mod fd;
mod frame;
mod info;
mod number;
mod queue;
mod restart;
mod send;
mod state;
mod wait;

pub use action::{Action, Actions, SIG_DFL, SIG_IGN, sa};
pub use deliver::{
    altstack, deliver, fatal_pending, go_on, pending, restore_mask, set_altstack, set_mask, set_mask_for_call,
    sigreturn,
};
pub use info::{SigInfo, code};
pub use number::*;
pub use queue::{Pending, Queued};
pub use restart::Restart;
pub use send::{
    force_fault, ignores_child_stops, ignores_children, kill_now, may_signal, on_exit, queue_to_process, queue_to_task,
    send_to_pgrp, send_to_process, send_to_task, set_action,
};
pub use state::{FaultRegs, Private, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, Shared};
use wait::take_of;
pub use wait::{PutOff, blocked_pending, interrupted, wait_for};
