//! Cost of TCP and UDP over loopback: latency, throughput, connections.

mod common;

use common::{goal, report};

fn main() {
    common::ratios_of(
        "net",
        "net",
        &[
            report("tcp_self_1"),
            goal("tcp_pingpong", 2.0),
            goal("tcp_stream_64k", 2.0),
            goal("tcp_connect", 2.0),
            report("udp_self_64"),
        ],
    );
}
