//! The C programs of `tests/guest/`: each prints the same on the host and in machines of 1, 2 and 4 virtual CPUs.

mod common;

use common::same_as_host;

#[test]
fn hello() {
    same_as_host("hello");
}
