//! The network's guest programs: each prints the same on the host and in machines of 1, 2 and 4 virtual CPUs.

mod common;

use common::same_as_host;

#[test]
fn tcp() {
    same_as_host("tcp");
}

#[test]
fn udp() {
    same_as_host("udp");
}

#[test]
fn netlink() {
    same_as_host("netlink");
}

#[test]
fn unix() {
    same_as_host("unix");
}

#[test]
fn sending() {
    same_as_host("sending");
}

#[test]
fn packets() {
    same_as_host("packets");
}

#[test]
fn buffers() {
    same_as_host("buffers");
}

#[test]
fn sysctls() {
    same_as_host("sysctls");
}

#[test]
fn counts() {
    same_as_host("counts");
}

#[test]
fn keepalive() {
    same_as_host("keepalive");
}

#[test]
fn receiving() {
    same_as_host("receiving");
}

#[test]
fn links() {
    same_as_host("links");
}

#[test]
fn pairs() {
    same_as_host("pairs");
}
