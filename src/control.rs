//! The control block that machine and kernel share: interrupts, the end, last words.

use crate::os::{futex, shared, signal};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;
use umbel_abi::machine::{Control, ControlState, VcpuState};

/// Interrupts virtual CPU `cpu` for `bits` of its mailbox; see [`umbel_abi::machine::VcpuShared`].
pub fn interrupt(control: &Control, cpu: u32, bits: u32) {
    let vcpu = &control.vcpus[cpu as usize];
    vcpu.mailbox.pending.fetch_or(bits, SeqCst);
    fence(SeqCst);
    let state = vcpu.state.load(Relaxed);
    if state == VcpuState::Idle as u32 {
        vcpu.mailbox.doorbell.store(1, Release);
        futex::wake(&vcpu.mailbox.doorbell);
    } else if state == VcpuState::Guest as u32 {
        signal::device_interrupt(vcpu.tid.load(Acquire) as i32);
    }
}

/// Tells everybody that the machine has ended, unless it had already.
pub fn finish(control: &Control, state: ControlState) {
    let end = |now: u32| (now < ControlState::Finished as u32).then_some(state as u32);
    if control.state.fetch_update(SeqCst, SeqCst, end).is_ok() {
        futex::wake(&control.state);
    }
}

/// Ends the machine because its processes are gone.
pub fn lost(control: &Control, why: &str) {
    if control.state.load(Acquire) < ControlState::Finished as u32 {
        let len = shared::write_cells(&control.report, why.as_bytes());
        control.report_len.store(len as u32, Release);
        finish(control, ControlState::Panicked);
    }
}

/// The kernel's last words.
pub fn report(control: &Control) -> String {
    let len = (control.report_len.load(Acquire) as usize).min(control.report.len());
    String::from_utf8_lossy(&shared::read_cells(&control.report[..len])).into_owned()
}

/// Return addresses of a panic.
pub fn backtrace(control: &Control) -> Vec<u64> {
    control.backtrace.iter().map(|address| address.load(Relaxed)).take_while(|address| *address != 0).collect()
}
