//! Cost of memory: mapping, first touch, unmapping.

mod common;

use common::goal;

fn main() {
    common::ratios("fault", &[goal("first_touch_4096p", 2.0), goal("mmap_munmap_16p", 4.0)]);
}
