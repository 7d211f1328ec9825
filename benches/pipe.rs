//! Cost of pipes and sockets between processes.

mod common;

use common::{goal, report};

fn main() {
    common::ratios("pipe", &[goal("pipe_self_1", 14.0), goal("pipe_pingpong", 5.0), report("unix_pingpong")]);
}
