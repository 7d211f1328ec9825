//! Guest code that attacks the kernel it shares an address space with.

mod common;

use common::{Run, guest_program};
use umbel_abi::machine::layout;

#[test]
fn attackers_are_killed_or_unharmed_and_nobody_else_notices() {
    let program = guest_program("hostile", false).to_string_lossy().into_owned();
    let places = [layout::HOT_BASE, layout::IMAGE_BASE, layout::SLOT_PAGE, layout::ENTRY_PAGE, layout::SIGNAL_STACK]
        .map(|at| format!("{at:x}"));
    let mut args = vec!["run", "--cpus", "2", "--user", "0", "--", &program];
    args.extend(places.iter().map(String::as_str));
    let outcome = Run::umbel(&args).limit(300).finish();
    assert_eq!(outcome.status, 0, "{outcome:#?}");
    assert!(outcome.stdout.ends_with("ok\n"), "{outcome:#?}");
}
