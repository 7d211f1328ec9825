//! Device drivers: the kernel side of the machine's devices.
//!
//! * [`ring`]: byte rings with waiting and kicking. [`console`]: the standard streams and the terminal.
//! * [`handle_device_irq`]: called for `Mailbox::DEVICE` at the way out to guest code, when idle and in `schedule`.

pub mod ring;

use ring::OutRing;
use umbel_abi::machine::RingIndex;
use umbel_smp::lock::Once;

static LOG_OUT: Once<OutRing> = Once::new();

/// The ring of the kernel log and of `--strace`.
pub fn log_out() -> &'static OutRing {
    LOG_OUT.call_once(|| OutRing::of_machine(RingIndex::Log))
}

/// Looks at all rings and wakes whoever waits for them.
pub fn handle_device_irq() {
    log_out().interrupt();
}
