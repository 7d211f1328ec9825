//! The end of the guest kernel: what happened goes to the control block, the machine prints it and stops all slots.

use crate::image;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU64};
use umbel_abi::linux::SigContext;
use umbel_abi::machine::layout::{HOT_BASE, HOT_MAX};
use umbel_abi::machine::{Control, ControlState};
use umbel_host::raw::syscall;

static PANICKING: AtomicBool = AtomicBool::new(false);

const NR_FUTEX: u32 = 202;
const NR_CLOCK_NANOSLEEP: u32 = 230;
const FUTEX_WAKE: u64 = 1;

/// Reports `message` with the return addresses found from frame pointer `rbp` (and `rip` first, if not 0), and never
/// returns. The machine prints the report, symbolises the addresses and ends.
pub fn fatal(message: fmt::Arguments<'_>, rip: u64, rbp: u64) -> ! {
    if !PANICKING.swap(true, SeqCst) {
        let control = image::control();
        let mut report = Report { control, len: 0 };
        let _ = report.write_fmt(message);
        control.report_len.store(report.len as u32, SeqCst);
        store_backtrace(&control.backtrace, rip, rbp);
        control.state.store(ControlState::Panicked as u32, SeqCst);
        // SAFETY: wakes the machine, which waits on this word of shared memory.
        let _ = unsafe { syscall(NR_FUTEX, [&raw const control.state as u64, FUTEX_WAKE, 64, 0, 0, 0]) };
    }
    loop {
        let second = [1u64, 0];
        // SAFETY: reads a timespec; nothing else to do until the machine ends this task.
        let _ = unsafe { syscall(NR_CLOCK_NANOSLEEP, [1, 0, second.as_ptr() as u64, 0, 0, 0]) };
    }
}

/// An exception in kernel mode that no fixup covers.
pub(crate) fn fatal_exception(signal: u32, addr: u64, cpu: &SigContext) -> ! {
    fatal(
        format_args!(
            "exception in kernel mode: signal {signal} trap {} error {:#x} address {addr:#x} ip {:#x} sp {:#x}",
            cpu.trapno, cpu.err, cpu.rip, cpu.rsp
        ),
        cpu.rip,
        cpu.rbp,
    )
}

/// Tells the machine where kernel code was when SIGUSR2 came, if it wants to know that of this virtual CPU.
pub(crate) fn tell_where(rip: u64, rbp: u64) {
    let watch = &image::control().watch;
    if watch.asked.load(SeqCst) == umbel_mm::percpu::cpu() as u32 + 1 {
        store_backtrace(&watch.trace, rip, rbp);
        watch.asked.store(0, SeqCst);
    }
}

fn store_backtrace(slots: &[AtomicU64], rip: u64, mut rbp: u64) {
    let mut slots = slots.iter();
    let mut push = |address: u64| slots.next().map(|slot| slot.store(address, Relaxed)).is_some();
    if rip != 0 {
        push(rip);
    }
    while is_frame(rbp) {
        // SAFETY: two words within hot KDATA, all of which is mapped.
        let [next, address] = unsafe { (rbp as *const [u64; 2]).read_volatile() };
        if address == 0 || !push(address) || next <= rbp {
            break;
        }
        rbp = next;
    }
    push(0);
}

fn is_frame(rbp: u64) -> bool {
    rbp.is_multiple_of(8) && (HOT_BASE..HOT_BASE + HOT_MAX - 16).contains(&rbp)
}

/// Writes into the control block's report, cutting what does not fit.
struct Report {
    control: &'static Control,
    len: usize,
}

impl Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (&byte, cell) in text.as_bytes().iter().zip(&self.control.report[self.len..]) {
            // SAFETY: the only writer, by `PANICKING`; the machine reads after `state`.
            unsafe { cell.get().write(byte) };
            self.len += 1;
        }
        Ok(())
    }
}
