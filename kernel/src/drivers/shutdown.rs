//! The orderly end that the machine asks for when it gets SIGTERM: programs are told to end, then made to.
//!
//! SIGTERM comes first; interactive shells ignore it and take SIGHUP as their end, so that follows; then SIGKILL. The
//! machine itself forces the end after 5 s.

use crate::signal::{self, SIGCONT, SIGHUP, SIGKILL, SIGTERM, SigInfo, Signo};
use crate::task::ids;
use crate::time::timer::{self, Expire, Target};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use umbel_smp::ipi::control;

/// What is sent, and how long after the request, ns.
const STEPS: [(u64, Signo); 3] = [(0, SIGTERM), (1_000_000_000, SIGHUP), (2_500_000_000, SIGKILL)];

static BEGUN: AtomicBool = AtomicBool::new(false);

/// Device interrupt: begins the end if the machine has asked for it.
pub fn look() {
    if control().shutdown.load(Relaxed) == 0 || BEGUN.swap(true, Relaxed) {
        return;
    }
    log::info!("shutdown: asked by the machine");
    let now_ns = crate::time::monotonic_ns();
    for (after_ns, signo) in STEPS {
        let step = Step(signo);
        if after_ns == 0 || timer::arm(now_ns + after_ns, Target::Call(Arc::new(step))).is_err() {
            Step(signo).expired(now_ns);
        }
    }
}

/// Sends its signal to all processes.
struct Step(Signo);

impl Expire for Step {
    fn expired(&self, _: u64) {
        for process in ids::all_processes() {
            signal::send_to_process(&process, SigInfo::kernel(self.0));
            // What is stopped can neither handle a signal nor end.
            signal::send_to_process(&process, SigInfo::kernel(SIGCONT));
        }
    }
}
