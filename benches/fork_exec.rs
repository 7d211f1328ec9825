//! Cost of new threads and processes.

mod common;

use common::{goal, report};

fn main() {
    common::ratios(
        "fork_exec",
        &[
            goal("pthread_create_join", 4.0),
            goal("fork_exit_wait", 5.0),
            goal("fork_exec_wait", 2.0),
            report("vfork_exec_wait"),
        ],
    );
}
