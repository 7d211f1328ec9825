//! What is rare made frequent: registers under a fast timer, memory changed under other threads' feet, storms of processes.

mod common;

use common::{Outcome, Run, guest_program};

fn passes(outcome: &Outcome) {
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

#[test]
fn every_register_survives_interrupts_and_moves() {
    let program = guest_program("registers", false);
    passes(&Run::on_host(&program, &["1"]).finish());
    for cpus in [1, 2, 4] {
        passes(&Run::in_machine(cpus, &program, &["4"]).finish());
    }
}

#[test]
fn no_freed_page_is_seen_through_an_old_mapping() {
    let program = guest_program("torture_memory", false);
    passes(&Run::on_host(&program, &["1"]).finish());
    for cpus in [2, 4] {
        passes(&Run::in_machine(cpus, &program, &["5"]).finish());
    }
}

#[test]
fn virtual_cpus_come_and_go_and_nobody_misses_them() {
    let program = guest_program("hotplug", false);
    for cpus in [2, 4] {
        passes(&Run::in_machine(cpus, &program, &["60"]).finish());
    }
}

#[test]
fn many_virtual_cpus_on_few_processors_lose_no_wake_up() {
    let program = guest_program("turns", false);
    passes(&Run::in_machine(64, &program, &["4", "5"]).limit(900).finish());
}

#[test]
fn ten_thousand_processes_leave_nothing_behind() {
    let program = guest_program("storm", false);
    passes(&Run::on_host(&program, &["100"]).finish());
    let program = program.to_string_lossy().into_owned();
    let args = ["run", "--cpus", "2", "--env", "UMBEL_GUEST=1", "--", &program, "10000"];
    passes(&Run::umbel(&args).limit(900).finish());
}

#[test]
fn thousands_of_processes_and_fifty_thousand_files() {
    let program = guest_program("many", false);
    passes(&Run::on_host(&program, &["100", "1000"]).finish());
    let program = program.to_string_lossy().into_owned();
    let args = ["run", "--cpus", "2", "--mem", "4G", "--env", "UMBEL_GUEST=1", "--", &program, "3000", "50000"];
    passes(&Run::umbel(&args).limit(900).finish());
}
