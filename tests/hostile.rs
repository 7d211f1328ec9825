//! Guest code that attacks the kernel it shares an address space with.

mod common;

use common::{Run, guest_program, is_root, open_to_all};
use std::mem::offset_of;
use umbel_abi::machine::{Control, layout};

/// Bytes of memory of the machine that is attacked.
const RAM: u64 = 1 << 30;

#[test]
fn attackers_are_killed_or_unharmed_and_nobody_else_notices() {
    let program = open_to_all(&guest_program("hostile", false)).to_string_lossy().into_owned();
    let places = [
        layout::HOT_BASE,
        layout::IMAGE_BASE,
        layout::SLOT_PAGE,
        layout::ENTRY_PAGE,
        layout::SIGNAL_STACK,
        layout::COLD_BASE,
        layout::HOT_BASE + layout::CONTROL_OFF + offset_of!(Control, canary) as u64,
        layout::COLD_BASE + layout::COLD_LEN - layout::PAGE,
        // The filter compares the length that an unlock is asked for.
        layout::hot_len(RAM / layout::PAGE),
    ]
    .map(|at| format!("{at:x}"));
    let mem = RAM.to_string();
    let mut args = vec!["run", "--cpus", "2", "--mem", &mem, "--user", "0", "--", &program];
    args.extend(places.iter().map(String::as_str));
    let attack = || Run::umbel(&args).limit(900);
    let mut runs = vec![attack()];
    if is_root() {
        // Slots of an ordinary user live under other rules of the host.
        runs.push(attack().user(65534));
    }
    for run in runs {
        let outcome = run.finish();
        assert_eq!(outcome.status, 0, "{outcome:#?}");
        assert!(outcome.stdout.ends_with("ok\n"), "{outcome:#?}");
    }
}

#[test]
fn a_write_to_the_canary_ends_the_machine() {
    for script in ["echo y > /proc/sysrq-trigger; sleep 60", "echo y > /proc/sysrq-trigger"] {
        let outcome = Run::umbel(&["run", "--cpus", "1", "--debug-stall", "--", "/bin/sh", "-c", script]).finish();
        assert_eq!(outcome.status, 70, "{outcome:#?}");
        assert!(outcome.stderr.contains("kernel memory was written to: hot canary at 0x320"), "{outcome:#?}");
    }
    // Without the option nothing of the kind can be asked for.
    let outcome = Run::umbel(&["run", "--cpus", "1", "--", "/bin/sh", "-c", "echo y > /proc/sysrq-trigger"]).finish();
    assert_eq!(outcome.status, 0, "{outcome:#?}");
}
