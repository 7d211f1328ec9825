//! Cost of the small file calls.

mod common;

use common::{goal, report};

fn main() {
    common::ratios(
        "file",
        &[
            goal("read_zero_1", 18.0),
            report("write_null_1"),
            report("stat"),
            report("open_close"),
            report("pread_4k"),
            report("pread_64k"),
            report("pwrite_4k"),
            report("create_unlink"),
        ],
    );
}
