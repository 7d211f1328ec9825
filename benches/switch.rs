//! Cost of handing the processor from one thread or process to another.

mod common;

use common::{goal, report};

fn main() {
    common::ratios("switch", &[goal("futex_pingpong", 5.0), goal("pipe_pingpong", 5.0), report("signal_self")]);
}
