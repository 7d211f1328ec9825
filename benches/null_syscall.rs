//! Cost of entering the kernel and coming back, and of the calls answered without entering it.

mod common;

use common::goal;

fn main() {
    common::ratios("null_syscall", &[goal("getppid", 20.0), goal("getpid", 1.5), goal("clock_gettime", 1.5)]);
}
