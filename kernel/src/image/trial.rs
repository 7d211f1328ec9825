//! Proof of the boot, until there are tasks: one page of guest code that asks for its parent for ever.

use umbel_abi::machine::ControlState;
use umbel_gate::{Regs, Trap, UserContext};
use umbel_smp::cpu;

/// mov eax, 110; syscall; jmp back; then a call of the host by the way that must not work.
const CODE: [u8; 9] = [0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
const ADDRESS: u64 = 0x10_0000;
const ROUNDS: u32 = 100_000;

pub fn run() {
    // SAFETY: guest memory of this slot, which nobody else uses.
    unsafe {
        umbel_host::space::map_private(ADDRESS, 4096).expect("trial memory");
        (ADDRESS as *mut [u8; 9]).write(CODE);
        umbel_host::raw::syscall(10, [ADDRESS, 4096, 5, 0, 0, 0]).expect("trial protection");
    }
    let context = UserContext::try_new().expect("trial context");
    context.set_regs(&Regs::start(ADDRESS, ADDRESS + 4096));
    // SAFETY: reads a counter.
    let start = unsafe { core::arch::x86_64::_rdtsc() };
    for _ in 0..ROUNDS {
        match umbel_gate::enter_user(&context) {
            Trap::Syscall => context.update(|regs| regs.rax = 4242),
            trap => panic!("{trap:?} {:x?}", context.regs()),
        }
    }
    // SAFETY: reads a counter.
    let ticks = unsafe { core::arch::x86_64::_rdtsc() } - start;
    let ns = u128::from(ticks) * 1_000_000 / u128::from(cpu::control().boot.tsc_khz.max(1)) / u128::from(ROUNDS);
    use core::fmt::Write;
    let mut report = cpu::Report::begin();
    let _ = writeln!(report, "{ns} ns a call");
    report.publish();
    cpu::set_state(ControlState::Finished);
}
