//! What a network namespace counts, for `/proc/net/{snmp,snmp6,netstat}`. Source: RFC 4293, 4022 and 4113, and Linux's `snmp_counter.rst`.
//!
//! Counted where it happens, in the context of who sends, with two exceptions: packets of IP are the device's ([`super::interface`]), and
//! segments of TCP are counted by each socket and added here when it closes, so that connections share no memory. A segment is
//! what a write without others beside it would be cut into; acknowledgements of data are not counted, as nothing sends them.
//!
//! No locks.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_abi::machine::MAX_CPUS;

/// What happens to TCP. Those of both families together.
#[derive(Clone, Copy)]
pub enum Tcp {
    ActiveOpens,
    PassiveOpens,
    AttemptFails,
    EstabResets,
    OutRsts,
    ListenOverflows,
    AbortOnData,
    AbortOnClose,
    AbortOnTimeout,
    KeepAlives,
    Segments,
    Segments6,
    Bytes,
    Bytes6,
}

/// What happens to datagrams.
#[derive(Clone, Copy)]
pub enum Udp {
    In,
    NoPorts,
    Out,
    /// No room in the receiver's buffer.
    Overflows,
}

/// UDP and UDP-Lite, over IPv4 and IPv6.
const UDPS: usize = 4;
const TCP: usize = Tcp::Bytes6 as usize + 1;
const UDP: usize = Udp::Overflows as usize + 1;
/// Types of ICMP that are counted: the first of IPv4, and two ranges of IPv6.
const ICMP4: usize = 19;
const ICMP6_ERRORS: core::ops::RangeInclusive<u8> = 1..=4;
const ICMP6_QUERIES: core::ops::RangeInclusive<u8> = 128..=143;
const ICMP: usize = ICMP4 + 4 + 16;

/// Numbers of one namespace.
pub struct Counters {
    tcp: [AtomicU64; TCP],
    udp: [[AtomicU64; UDP]; UDPS],
    icmp_in: [AtomicU64; ICMP],
    icmp_out: [AtomicU64; ICMP],
    pub unknown_protocols: AtomicU64,
}

/// Packets that each virtual CPU has moved, on cache lines of their own.
#[repr(align(64))]
struct Processed(AtomicU64);

static PROCESSED: [Processed; MAX_CPUS] = [const { Processed(AtomicU64::new(0)) }; MAX_CPUS];

/// This virtual CPU moves packets.
pub fn process(count: u64) {
    if let Some(own) = PROCESSED.get(super::this_cpu() as usize) {
        own.0.fetch_add(count, Relaxed);
    }
}

/// How many one has moved.
pub fn processed(cpu: u32) -> u64 {
    PROCESSED.get(cpu as usize).map_or(0, |one| one.0.load(Relaxed))
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    [const { AtomicU64::new(0) }; N]
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            tcp: zeros(),
            udp: core::array::from_fn(|_| zeros()),
            icmp_in: zeros(),
            icmp_out: zeros(),
            unknown_protocols: AtomicU64::new(0),
        }
    }
}

/// Where a type of ICMP is counted.
fn place(v6: bool, kind: u8) -> Option<usize> {
    match (v6, kind) {
        (false, kind) => Some(usize::from(kind)).filter(|at| *at < ICMP4),
        (true, kind) if ICMP6_ERRORS.contains(&kind) => Some(ICMP4 + usize::from(kind) - 1),
        (true, kind) if ICMP6_QUERIES.contains(&kind) => Some(ICMP4 + 4 + usize::from(kind - 128)),
        _ => None,
    }
}

impl Counters {
    /// Something happened.
    pub fn tcp(&self, what: Tcp) {
        self.tcp_by(what, 1);
    }

    /// It happened several times.
    pub fn tcp_by(&self, what: Tcp, count: u64) {
        self.tcp[what as usize].fetch_add(count, Relaxed);
    }

    /// How often it did.
    pub fn of_tcp(&self, what: Tcp) -> u64 {
        self.tcp[what as usize].load(Relaxed)
    }

    /// Something happened to a datagram.
    pub fn udp(&self, (lite, v6): (bool, bool), what: Udp) {
        self.udp[usize::from(lite) + 2 * usize::from(v6)][what as usize].fetch_add(1, Relaxed);
    }

    /// How often it did.
    pub fn of_udp(&self, (lite, v6): (bool, bool), what: Udp) -> u64 {
        self.udp[usize::from(lite) + 2 * usize::from(v6)][what as usize].load(Relaxed)
    }

    /// An ICMP message of type `kind` was sent.
    pub fn icmp_sent(&self, v6: bool, kind: u8) {
        if let Some(count) = place(v6, kind).and_then(|at| self.icmp_out.get(at)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// One has come.
    pub fn icmp_received(&self, v6: bool, kind: u8) {
        if let Some(count) = place(v6, kind).and_then(|at| self.icmp_in.get(at)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Messages of a type, received and sent.
    pub fn of_icmp(&self, v6: bool, kind: u8) -> (u64, u64) {
        let count = |from: &[AtomicU64; ICMP]| place(v6, kind).map_or(0, |at| from[at].load(Relaxed));
        (count(&self.icmp_in), count(&self.icmp_out))
    }

    /// Messages of all types, received and sent.
    pub fn all_icmp(&self, v6: bool) -> (u64, u64) {
        let add = |sum: (u64, u64), kind| {
            let (received, sent) = self.of_icmp(v6, kind);
            (sum.0 + received, sum.1 + sent)
        };
        (0..=u8::MAX).fold((0, 0), add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_both_families_are_counted_apart() {
        let counters = Counters::default();
        counters.icmp_sent(false, 3);
        counters.icmp_received(true, 3);
        counters.icmp_received(true, 143);
        counters.icmp_received(true, 144);
        assert_eq!((counters.of_icmp(false, 3), counters.of_icmp(true, 3)), ((0, 1), (1, 0)));
        assert_eq!((counters.all_icmp(false), counters.all_icmp(true)), ((0, 1), (2, 0)));
    }

    #[test]
    fn protocols_are_counted_apart() {
        let counters = Counters::default();
        counters.udp((true, false), Udp::In);
        counters.udp((false, true), Udp::NoPorts);
        counters.tcp_by(Tcp::Bytes6, 3);
        assert_eq!((counters.of_udp((true, false), Udp::In), counters.of_udp((false, false), Udp::In)), (1, 0));
        assert_eq!((counters.of_udp((false, true), Udp::NoPorts), counters.of_tcp(Tcp::Bytes6)), (1, 3));
    }
}
