//! Clocks, timers, sleeps. All times are ns in `u64`; deadlines are CLOCK_MONOTONIC.
//!
//! * [`clock`]: what time it is. [`timer`]: callbacks at a deadline, per virtual CPU.

pub mod clock;
mod queue;
pub mod timer;

pub use clock::{monotonic_ns, realtime_ns};

/// The virtual CPU that runs this.
fn this_cpu() -> u32 {
    0
}
