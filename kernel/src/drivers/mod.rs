//! Device drivers: the kernel side of the machine's devices.
//!
//! * [`ring`]: byte rings with waiting and kicking. [`console`]: the standard streams and the terminal.
//! * [`mem`]: null, zero, full, random, kmsg. [`shutdown`]: the orderly end that the machine asks for.
//! * [`loops`]: files as block devices. [`watch`]: what the machine says of virtual CPUs that hang.
//! * [`interrupt`]: called for `Mailbox::DEVICE` at the way out to guest code, when idle and in `schedule`.

pub mod console;
pub mod loops;
pub mod mem;
pub mod ring;
pub mod shutdown;
mod stdio;
pub mod watch;

use crate::fs::File;
use crate::syscall::system;
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use ring::OutRing;
use umbel_abi::machine::{RingIndex, StdioKind};
use umbel_smp::ipi::control;
use umbel_smp::lock::Once;

static LOG_OUT: Once<OutRing> = Once::new();

/// Brings up the log, the terminal and the device numbers. Called once, before the file systems are made.
pub fn init() {
    let boot = &control().boot;
    crate::log::init(boot.log_level);
    let mib = boot.ram_pages / 256;
    log::info!("Linux version {} {}", system::RELEASE, system::VERSION);
    log::info!("machine: {} virtual CPUs, {mib} MiB of RAM in {} arenas", boot.cpus, boot.arena_count);
    log::info!("clock: {} kHz; kernel memory on {} byte pages", boot.tsc_khz, boot.huge.max(4096));
    watch::init();
    mem::register();
    loops::register();
    crate::tty::register_nodes();
    console::init();
}

/// What has to wait for the file systems: nothing yet.
pub fn late_init() {}

/// The files for descriptors 0, 1 and 2 of the first process.
pub fn stdio() -> [Option<Arc<File>>; 3] {
    core::array::from_fn(console::open_stdio)
}

/// Prints on the machine's standard error; waits for room.
pub fn print_error(text: &str) {
    log_out().push_all(&for_standard_error(text.as_bytes()));
}

/// The ring of the kernel log and of `--strace`.
pub fn log_out() -> &'static OutRing {
    LOG_OUT.call_once(|| OutRing::of_machine(RingIndex::Log))
}

/// Text as the machine's standard error wants it: a terminal is in raw mode.
pub fn for_standard_error(text: &[u8]) -> Cow<'_, [u8]> {
    if control().boot.stdio[2].kind != StdioKind::Tty as u32 {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + 8);
    for byte in text {
        if *byte == b'\n' {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    Cow::Owned(out)
}

/// Device interrupt: looks at all rings and wakes whoever waits for them.
pub fn interrupt() {
    log_out().interrupt();
    console::interrupt();
    shutdown::look();
    crate::sched::hotplug::look();
    watch::look();
}
