//! Holds machines to their shares on several host CPUs: a thread of each machine.
//!
//! On one host CPU the host's scheduler gives each virtual CPU the same ([`crate::manage::shares`]). But it does not move tasks
//! between CPUs to make three of them even on two. So where virtual CPUs of several machines of a user compete, their machines
//! agree where each shall be ([`rule`], by way of [`board`]), from what each got ([`meter`]), and tell the kernel by
//! `VcpuShared::home`. As long as nobody competes the host does as it likes, and the thread looks up now and then.

mod board;
mod meter;
mod rule;

use crate::manage::shares::host_cpus;
use meter::{Meter, now_ns};
use std::thread;
use std::time::Duration;
use umbel_abi::machine::Control;

/// Between two looks: while machines compete, while this one computes, while it is idle.
const COMPETING: Duration = Duration::from_millis(20);
const BUSY: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_millis(500);
/// With each so many virtual CPUs that compete, looks get rarer by one part.
const MANY: u32 = 8;

/// Starts the thread, for a machine that is known to others. Without it the machine gets what the host gives.
pub fn start(control: &'static Control, zygote: i32) {
    if host_cpus() > 1 {
        let _ = thread::Builder::new().name("shares".into()).spawn(move || balance(control, zygote));
    }
}

fn balance(control: &'static Control, zygote: i32) -> ! {
    let mut meter = Meter::new(control, zygote);
    // Those that the others were told of last.
    let mut told = Vec::new();
    loop {
        let pause = if meter.is_idle() && told.is_empty() { IDLE } else { look(&mut meter, &mut told) };
        thread::sleep(pause);
    }
}

/// One look; returns how long until the next.
fn look(meter: &mut Meter, told: &mut Vec<u32>) -> Duration {
    let own = meter.look();
    if own.is_empty() && told.is_empty() {
        return BUSY;
    }
    let now: Vec<u32> = own.iter().map(|one| one.cpu).collect();
    let Some(decided) = board::exchange(own, now_ns()) else { return COMPETING };
    for cpu in told.iter().filter(|cpu| !now.contains(cpu)) {
        meter.settle(*cpu as usize, None);
    }
    for one in &decided {
        meter.settle(one.cpu as usize, one.home);
    }
    let competing = decided.iter().any(|one| one.home.is_some());
    *told = now;
    if competing { COMPETING * (1 + told.len() as u32 / MANY) } else { BUSY }
}
