//! Virtual CPUs and what their concurrency needs: locks, wait queues, threads, cross-calls, run queues.
//!
//! * [`sync`]: the facade through which all protocols take their atomics (loom's under `cfg(loom)`, shuttle's if also `cfg(shuttle)`).
//! * [`lock`]: spinning and sleeping locks with ranks. [`wait`]: wait queues and poll registrations.
//! * [`thread`]: the states of a thread. [`schedule`]: what blocking needs from the scheduler above.
//! * [`cpu`]: the virtual CPUs. [`slot`]: their host tasks. [`switch`]: moving between stacks and slots.
//!   [`placement`]: on which host CPU. [`zygote`]: where slots come from.
//! * [`vtime`]: virtual time. [`turns`]: who runs when in it.
//! * [`hotplug`]: virtual CPUs that come and go.
//! * [`ipi`]: cross-calls and the idle doorbell. [`runqueue`]: the queue of one virtual CPU. [`ring`]: device rings.

#![no_std]

extern crate alloc;
/// Whose atomics and threads models run on.
#[cfg(all(loom, not(shuttle)))]
extern crate loom as checker;
#[cfg(shuttle)]
extern crate shuttle as checker;
#[cfg(shuttle)]
extern crate std;

#[cfg(not(loom))]
pub mod berths;
#[cfg(not(loom))]
pub mod cpu;
pub mod handover;
pub mod hotplug;
#[cfg(not(loom))]
pub mod idle;
pub mod ipi;
pub mod lock;
#[cfg(not(loom))]
pub mod placement;
pub mod ring;
pub mod runqueue;
pub mod schedule;
#[cfg(not(loom))]
pub mod slot;
#[cfg(not(loom))]
pub mod switch;
pub mod sync;
#[cfg(any(test, loom, feature = "testing"))]
pub mod testing;
pub mod thread;
pub mod turns;
#[cfg(not(loom))]
pub mod vtime;
pub mod wait;
#[cfg(not(loom))]
pub mod zygote;

pub use schedule::{BlockEnd, Schedule, register};
