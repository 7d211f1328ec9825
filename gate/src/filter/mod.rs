//! The seccomp filter of a slot: which host call may come from where.
//!
//! The gate's four calls are tested first, each with its exact arguments. From kernel text, the calls of
//! [`WHITELIST`] are allowed, with argument checks where a classic BPF program can make them. Everything else traps
//! (SIGSYS with code `SYS_SECCOMP`): in guest mode that kills the guest process, in kernel mode it is a panic.
//! Source: seccomp(2). The instruction pointer that a filter sees is the one after the call.

mod bpf;
mod table;

pub use bpf::Insn;
pub use table::{Call, Check, WHITELIST};

use crate::asm::label;
use crate::image;
use alloc::vec::Vec;
use bpf::{Builder, Label};
use core::ops::Range;
use umbel_abi::linux::uapi::{__NR_mprotect, SIGALRM, SIGIO, SIGUSR1};
use umbel_abi::machine::layout::{self, COLD_BASE, COLD_LEN, HOT_BASE, USER_TOP, WINDOW, WINDOW_LEN};

/// `SECCOMP_RET_ALLOW`.
const ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_TRAP`.
const TRAP: u32 = 0x0003_0000;
/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH_AT: u32 = 4;
const IP_LO: u32 = 8;
const IP_HI: u32 = 12;
/// `MADV_DONTNEED`.
const DONTNEED: u32 = 4;
/// `MADV_COLLAPSE`.
const COLLAPSE: u32 = 25;
/// `MAP_FIXED`.
const MAP_FIXED: u32 = 0x10;

const fn lo(argument: u32) -> u32 {
    16 + 8 * argument
}

const fn hi(argument: u32) -> u32 {
    20 + 8 * argument
}

/// What the filter must know of the image.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Addresses after the unlock instructions.
    unlocks: [u64; 2],
    /// Addresses after the lock instructions.
    locks: [u64; 2],
    /// Address after the kernel's rt_sigreturn.
    sigreturn: u64,
    /// Address after the call that opens and locks cold KDATA.
    cold: u64,
    /// Address after the call that drops the mappings of hot KDATA.
    thin: u64,
    /// Bytes of hot KDATA.
    hot_len: u64,
    /// Kernel text, without the gate page.
    text: Range<u64>,
}

impl Places {
    /// Of the running image.
    fn of_image() -> Places {
        Places {
            unlocks: [label::gate_fast_unlocked(), label::gate_signal_unlocked()],
            locks: [label::gate_fast_locked(), label::gate_slow_locked()],
            sigreturn: label::gate_sigreturned(),
            cold: label::gate_cold_protected(),
            thin: label::gate_thinned(),
            hot_len: layout::hot_len(image::control().boot.ram_pages),
            text: image::kernel_text(),
        }
    }
}

/// The filter program for slots of this image.
pub fn program() -> Vec<Insn> {
    build(&Places::of_image(), WHITELIST)
}

fn build(places: &Places, calls: &[Call]) -> Vec<Insn> {
    let mut b = Builder::new();
    let (unlock, lock, gate, text) = (b.label(), b.label(), b.label(), b.label());
    let (allow, trap) = (b.label(), b.label());
    b.load(IP_LO);
    for ip in places.unlocks {
        b.if_eq(ip as u32, unlock);
    }
    for ip in places.locks {
        b.if_eq(ip as u32, lock);
    }
    b.go(text);
    b.place(unlock);
    b.load(lo(2));
    b.unless_eq(3, trap);
    b.go(gate);
    b.place(lock);
    b.load(lo(2));
    b.unless_eq(0, trap);
    b.place(gate);
    for (at, value) in gate_call(places) {
        b.load(at);
        b.unless_eq(value, trap);
    }
    b.ret(ALLOW);
    b.place(text);
    b.load(ARCH_AT);
    b.unless_eq(ARCH, trap);
    b.load(IP_HI);
    b.unless_eq((places.text.start >> 32) as u32, trap);
    b.load(IP_LO);
    b.if_ge(places.text.end as u32, trap);
    b.unless_ge(places.text.start as u32, trap);
    b.load(NR);
    whitelist(&mut b, places, calls, allow, trap);
    b.place(allow);
    b.ret(ALLOW);
    b.place(trap);
    b.ret(TRAP);
    b.finish()
}

/// What all four calls of the gate have in common: field and value.
fn gate_call(places: &Places) -> [(u32, u32); 8] {
    [
        (IP_HI, (places.unlocks[0] >> 32) as u32),
        (NR, __NR_mprotect),
        (ARCH_AT, ARCH),
        (lo(0), HOT_BASE as u32),
        (hi(0), (HOT_BASE >> 32) as u32),
        (lo(1), places.hot_len as u32),
        (hi(1), (places.hot_len >> 32) as u32),
        (hi(2), 0),
    ]
}

fn whitelist(b: &mut Builder, places: &Places, calls: &[Call], allow: Label, trap: Label) {
    let mut sorted: Vec<Call> = calls.to_vec();
    sorted.sort_by_key(|call| call.nr);
    let kinds = [Check::Sigreturn, Check::Signal, Check::FixedMap, Check::Protect, Check::Range, Check::Advise]
        .map(|check| (check, b.label()));
    let arguments = sorted.iter().filter(|call| matches!(call.check, Check::Argument(..)));
    let kinds: Vec<_> =
        kinds.into_iter().chain(arguments.map(|call| (call.check, b.label())).collect::<Vec<_>>()).collect();
    let target = |check: Check| kinds.iter().find(|kind| kind.0 == check).map_or(allow, |kind| kind.1);
    tree(b, &sorted, &target, trap);
    for &(check, label) in &kinds {
        b.place(label);
        match check {
            Check::Sigreturn => {
                b.load(IP_LO);
                b.if_eq(places.sigreturn as u32, allow);
                b.go(trap);
            }
            Check::FixedMap => {
                b.load(lo(3));
                b.unless_bits(MAP_FIXED, trap);
                b.go(target(Check::Range));
            }
            Check::Protect => protect(b, places, target(Check::Range), allow, trap),
            Check::Range => range(b, allow, trap),
            Check::Advise => advise(b, places, allow, trap),
            Check::Signal => {
                b.load(lo(2));
                for signal in [SIGUSR1, SIGIO, SIGALRM] {
                    b.if_eq(signal, allow);
                }
                b.go(trap);
            }
            Check::Argument(argument, values) => {
                b.load(lo(argument));
                for &value in values {
                    b.if_eq(value, allow);
                }
                b.go(trap);
            }
            Check::Any => b.go(allow),
        }
    }
}

/// mprotect: all of cold KDATA from the instruction that is there for it, else guest memory.
fn protect(b: &mut Builder, places: &Places, range: Label, allow: Label, trap: Label) {
    let cold = b.label();
    b.load(IP_LO);
    b.if_eq(places.cold as u32, cold);
    b.go(range);
    b.place(cold);
    exactly(b, [COLD_BASE, COLD_LEN], trap);
    b.load(lo(2));
    b.if_eq(0, allow);
    b.if_eq(3, allow);
    b.go(trap);
}

/// madvise: the one instruction for it drops the mappings of all of hot KDATA, the others collapse.
fn advise(b: &mut Builder, places: &Places, allow: Label, trap: Label) {
    let thin = b.label();
    b.load(IP_LO);
    b.if_eq(places.thin as u32, thin);
    b.load(lo(2));
    b.if_eq(COLLAPSE, allow);
    b.go(trap);
    b.place(thin);
    exactly(b, [HOT_BASE, places.hot_len], trap);
    b.load(lo(2));
    b.if_eq(DONTNEED, allow);
    b.go(trap);
}

/// Arguments 0 and 1 are these, and argument 2 is below 2^32.
fn exactly(b: &mut Builder, [start, len]: [u64; 2], trap: Label) {
    let halves = [(lo(0), start), (hi(0), start >> 32), (lo(1), len), (hi(1), len >> 32), (hi(2), 0)];
    for (at, value) in halves {
        b.load(at);
        b.unless_eq(value as u32, trap);
    }
}

/// A binary search for the call number in the accumulator.
fn tree(b: &mut Builder, calls: &[Call], target: &impl Fn(Check) -> Label, trap: Label) {
    if calls.len() <= 3 {
        for call in calls {
            b.if_eq(call.nr, target(call.check));
        }
        b.go(trap);
        return;
    }
    let (below, above) = calls.split_at(calls.len() / 2);
    let upper = b.label();
    b.if_ge(above[0].nr, upper);
    tree(b, below, target, trap);
    b.place(upper);
    tree(b, above, target, trap);
}

/// Arguments 0 and 1 are an address range in guest memory or in the mapping window.
fn range(b: &mut Builder, allow: Label, trap: Label) {
    const LO_SUM: u32 = 0;
    const HI_SUM: u32 = 1;
    let top = (USER_TOP >> 32) as u32;
    let (no_carry, summed, window) = (b.label(), b.label(), b.label());
    b.load(hi(0));
    b.if_gt(top, trap);
    b.load(hi(1));
    b.if_gt(top, trap);
    // 64-bit sum of address and length in two halves.
    b.load(hi(1));
    b.copy_to_x();
    b.load(hi(0));
    b.add_x();
    b.store(HI_SUM);
    b.load(lo(1));
    b.copy_to_x();
    b.load(lo(0));
    b.add_x();
    b.store(LO_SUM);
    b.if_ge_x(no_carry);
    b.load_memory(HI_SUM);
    b.add(1);
    b.store(HI_SUM);
    b.go(summed);
    b.place(no_carry);
    b.load_memory(HI_SUM);
    b.place(summed);
    b.unless_ge(top, allow);
    b.unless_eq(top, trap);
    b.load_memory(LO_SUM);
    b.unless_eq(0, window);
    b.go(allow);
    b.place(window);
    b.if_gt((WINDOW + WINDOW_LEN) as u32, trap);
    b.load(hi(0));
    b.unless_eq(top, trap);
    b.load(lo(0));
    b.if_ge(WINDOW as u32, allow);
    b.go(trap);
}

#[cfg(test)]
mod tests {
    use super::bpf::run;
    use super::*;
    use umbel_abi::linux::uapi::*;
    use umbel_abi::machine::layout::{GUEST_VDSO, IMAGE_BASE};

    fn places() -> Places {
        Places {
            unlocks: [IMAGE_BASE + 0x30, IMAGE_BASE + 0x130],
            locks: [IMAGE_BASE + 0x230, IMAGE_BASE + 0x330],
            sigreturn: IMAGE_BASE + 0x2100,
            cold: IMAGE_BASE + 0x2200,
            thin: IMAGE_BASE + 0x2300,
            hot_len: 48 << 20,
            text: IMAGE_BASE + 0x1000..IMAGE_BASE + 0x9_0000,
        }
    }

    fn allowed(ip: u64, nr: u32, args: [u64; 6]) -> bool {
        allowed_arch(ip, nr, args, ARCH)
    }

    fn allowed_arch(ip: u64, nr: u32, args: [u64; 6], arch: u32) -> bool {
        let mut data = Vec::new();
        data.extend(nr.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(ip.to_le_bytes());
        args.iter().for_each(|a| data.extend(a.to_le_bytes()));
        run(&build(&places(), WHITELIST), &data) == ALLOW
    }

    const KERNEL: u64 = IMAGE_BASE + 0x5000;
    const UNLOCK: [u64; 6] = [HOT_BASE, 48 << 20, 3, 0, 0, 0];
    const LOCK: [u64; 6] = [HOT_BASE, 48 << 20, 0, 0, 0, 0];

    #[test]
    fn the_gate_may_only_lock_and_unlock_at_their_own_places() {
        let p = places();
        for ip in p.unlocks {
            assert!(allowed(ip, __NR_mprotect, UNLOCK));
            assert!(!allowed(ip, __NR_mprotect, LOCK));
        }
        for ip in p.locks {
            assert!(allowed(ip, __NR_mprotect, LOCK));
            assert!(!allowed(ip, __NR_mprotect, UNLOCK));
        }
        for ip in [0x40_1000, p.unlocks[0] + 1, p.unlocks[0] - (1 << 32), IMAGE_BASE + 0x40] {
            assert!(!allowed(ip, __NR_mprotect, UNLOCK), "{ip:#x}");
        }
    }

    #[test]
    fn every_bit_of_the_unlock_counts() {
        let ip = places().unlocks[0];
        for argument in 0..3 {
            for bit in 0..64 {
                let mut args = UNLOCK;
                args[argument] ^= 1 << bit;
                assert!(!allowed(ip, __NR_mprotect, args), "argument {argument} bit {bit}");
            }
        }
        for nr in [__NR_munmap, __NR_execve, __NR_rt_sigreturn, 335, 336, 0x4000_0000 | __NR_mprotect] {
            assert!(!allowed(ip, nr, UNLOCK), "{nr}");
        }
        assert!(!allowed_arch(ip, __NR_mprotect, UNLOCK, 0x4000_0003));
    }

    #[test]
    fn cold_memory_has_an_instruction_of_its_own() {
        let p = places();
        let cold = |prot| [COLD_BASE, COLD_LEN, prot, 0, 0, 0];
        assert!(allowed(p.cold, __NR_mprotect, cold(3)) && allowed(p.cold, __NR_mprotect, cold(0)));
        for prot in [1, 2, 4, 7, 3 | 1 << 32] {
            assert!(!allowed(p.cold, __NR_mprotect, cold(prot)));
        }
        assert!(!allowed(p.cold, __NR_mprotect, [COLD_BASE, COLD_LEN / 2, 3, 0, 0, 0]));
        assert!(!allowed(p.cold, __NR_mprotect, UNLOCK));
        for ip in [KERNEL, p.unlocks[0], p.locks[0], 0x40_1000] {
            assert!(!allowed(ip, __NR_mprotect, cold(3)) && !allowed(ip, __NR_mprotect, cold(0)), "{ip:#x}");
        }
        assert!(!allowed(p.cold, __NR_munmap, cold(3)));
    }

    #[test]
    fn kernel_text_may_make_listed_calls_only() {
        for call in WHITELIST.iter().filter(|call| call.check == Check::Any) {
            assert!(allowed(KERNEL, call.nr, [0; 6]), "{}", call.nr);
            assert!(!allowed(0x40_1000, call.nr, [0; 6]), "{}", call.nr);
            assert!(!allowed(KERNEL - (1 << 32), call.nr, [0; 6]), "{}", call.nr);
        }
        for nr in [
            __NR_openat,
            __NR_read,
            __NR_write,
            __NR_timer_create,
            __NR_clone,
            __NR_execve,
            __NR_ptrace,
            __NR_kill,
            __NR_fork,
            __NR_prctl,
            __NR_ioctl,
            __NR_socket,
            0x4000_0000,
            9999,
        ] {
            assert!(!allowed(KERNEL, nr, [0; 6]), "{nr}");
        }
        assert!(allowed(places().sigreturn, __NR_rt_sigreturn, [0; 6]));
        assert!(!allowed(KERNEL, __NR_rt_sigreturn, [0; 6]));
    }

    #[test]
    fn mappings_stay_in_guest_memory_and_the_window() {
        let unmap = |at, len| allowed(KERNEL, __NR_munmap, [at, len, 0, 0, 0, 0]);
        assert!(unmap(0x10_0000, 0x1000));
        assert!(unmap(0, USER_TOP));
        assert!(unmap(USER_TOP - 0x1000, 0x1000));
        assert!(unmap(0xffff_f000, 0x2000), "carry");
        assert!(!unmap(USER_TOP - 0x1000, 0x2000));
        assert!(!unmap(0, USER_TOP + 0x1000));
        assert!(!unmap(IMAGE_BASE, 0x1000));
        assert!(!unmap(HOT_BASE, 0x1000));
        assert!(!unmap(GUEST_VDSO, 0x1000));
        assert!(!unmap(u64::MAX - 0xfff, 0x2000), "wrap");
        assert!(!unmap(0x1000, u64::MAX - 0xfff), "wrap");
        assert!(unmap(WINDOW, WINDOW_LEN));
        assert!(!unmap(WINDOW, WINDOW_LEN + 0x1000));
        assert!(!unmap(WINDOW - 0x1000, 0x2000));
        let map = |at, flags| allowed(KERNEL, __NR_mmap, [at, 0x1000, 3, flags, 3, 0]);
        assert!(map(0x10_0000, 0x11));
        assert!(!map(0x10_0000, 0x01), "not fixed");
        assert!(!map(HOT_BASE, 0x11));
    }

    #[test]
    fn arguments_outside_the_list_trap() {
        for call in WHITELIST {
            let Check::Argument(argument, values) = call.check else { continue };
            for value in 0..64 {
                let mut args = [0; 6];
                args[argument as usize] = u64::from(value);
                assert_eq!(allowed(KERNEL, call.nr, args), values.contains(&value), "{} {value}", call.nr);
            }
        }
        let advise = |advice| allowed(KERNEL, __NR_madvise, [HOT_BASE, 48 << 20, advice, 0, 0, 0]);
        assert!(advise(25) && !advise(4) && !advise(9) && !advise(100));
    }

    #[test]
    fn the_mappings_of_hot_memory_are_dropped_by_an_instruction_of_its_own() {
        let thin = places().thin;
        let whole = [HOT_BASE, 48 << 20, 4, 0, 0, 0];
        assert!(allowed(thin, __NR_madvise, whole));
        for argument in 0..3 {
            for bit in 0..64 {
                let mut args = whole;
                args[argument] ^= 1 << bit;
                assert!(!allowed(thin, __NR_madvise, args), "argument {argument} bit {bit}");
            }
        }
        for advice in (0..128).filter(|&advice| advice != 4) {
            assert!(!allowed(thin, __NR_madvise, [HOT_BASE, 48 << 20, advice, 0, 0, 0]), "{advice}");
        }
        let p = places();
        for ip in [p.unlocks[0], p.locks[0], p.cold, KERNEL, thin + 1, thin - (1 << 32), 0x40_1000] {
            assert!(!allowed(ip, __NR_madvise, whole), "{ip:#x}");
        }
        assert!(!allowed(thin, __NR_mprotect, UNLOCK) && !allowed(thin, __NR_munmap, whole));
        assert!(!allowed_arch(thin, __NR_madvise, whole, 0x4000_0003));
    }

    #[test]
    fn only_interrupts_can_be_sent() {
        let send = |signal| allowed(KERNEL, __NR_tgkill, [7, 7, signal, 0, 0, 0]);
        assert!(send(u64::from(SIGUSR1)) && send(u64::from(SIGIO)) && send(u64::from(SIGALRM)));
        assert!(!send(u64::from(SIGKILL)) && !send(u64::from(SIGSEGV)));
    }

    #[test]
    fn the_program_fits_the_host() {
        assert!(build(&places(), WHITELIST).len() < 4096);
    }
}
