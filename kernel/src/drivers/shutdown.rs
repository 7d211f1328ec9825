//! The orderly end that the machine asks for when it gets SIGTERM: programs are told to end, then made to.
//!
//! Interactive shells ignore SIGTERM and take SIGHUP as their end, so both are sent. The machine itself forces the end
//! after 5 s.

use crate::signal::{self, SIGCONT, SIGHUP, SIGKILL, SIGTERM, SigInfo, Signo};
use crate::task::ids;
use crate::time::timer::{self, Expire, Target};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use umbel_smp::ipi::control;

/// Between the request and the force, ns.
const GRACE_NS: u64 = 2_000_000_000;

static BEGUN: AtomicBool = AtomicBool::new(false);

/// Device interrupt: begins the end if the machine has asked for it.
pub fn look() {
    if control().shutdown.load(Relaxed) == 0 || BEGUN.swap(true, Relaxed) {
        return;
    }
    log::info!("shutdown: asked by the machine");
    for signo in [SIGTERM, SIGHUP, SIGCONT] {
        signal_all(signo);
    }
    let deadline = crate::time::monotonic_ns() + GRACE_NS;
    if timer::arm(deadline, Target::Call(Arc::new(Force))).is_err() {
        signal_all(SIGKILL);
    }
}

fn signal_all(signo: Signo) {
    for process in ids::all_processes() {
        signal::send_to_process(&process, SigInfo::kernel(signo));
    }
}

struct Force;

impl Expire for Force {
    fn expired(&self, _: u64) {
        signal_all(SIGKILL);
    }
}
