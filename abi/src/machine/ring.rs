//! A byte ring between one producer and one consumer on opposite sides of the machine/kernel border.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// Bytes of data in a ring; a power of two.
pub const RING_LEN: usize = 1 << 16;

/// Number of rings.
pub const RINGS: usize = 6;

/// Which ring of [`super::Control`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum RingIndex {
    /// Standard input where it is a stream: machine to kernel.
    Stdin = 0,
    /// Standard output where it is a stream: kernel to machine.
    Stdout = 1,
    /// Standard error where it is a stream: kernel to machine.
    Stderr = 2,
    /// Kernel log and `--strace` lines: kernel to machine, printed on the machine's standard error.
    Log = 3,
    /// The terminal's keys, where any standard stream is the terminal: machine to kernel.
    Keyboard = 4,
    /// The terminal's screen, likewise: kernel to machine.
    Screen = 5,
}

/// A single-producer single-consumer byte ring.
///
/// `head` and `tail` are absolute 64-bit counts of bytes; the index is count mod [`RING_LEN`]. The producer owns
/// `tail`, the consumer owns `head`; a count further than [`RING_LEN`] from its partner is the other side's error.
/// Each side that runs dry sets its `*_waiting` word, fences, checks again, then waits: the machine on a host futex
/// at that word, the kernel by putting the task to sleep until the device interrupt.
#[repr(C, align(64))]
pub struct Ring {
    /// Bytes consumed so far. Written by the consumer.
    pub head: AtomicU64,
    /// 1 while the consumer waits for data: a futex word when the consumer is the machine.
    pub consumer_waiting: AtomicU32,
    /// 1 when the consumer will take no more: the producer's writes fail with `EPIPE`. Or the errno that they fail with instead.
    pub consumer_closed: AtomicU32,
    _pad0: [u64; 6],
    /// Bytes produced so far. Written by the producer.
    pub tail: AtomicU64,
    /// 1 while the producer waits for room: a futex word when the producer is the machine.
    pub producer_waiting: AtomicU32,
    /// 1 when the producer will send no more: end of file after the rest is read.
    pub producer_closed: AtomicU32,
    /// Errno of the producer's side, 0 if none: reads fail with it once the ring is drained.
    pub error: AtomicU32,
    _pad1: [u32; 11],
    /// The bytes.
    pub data: [core::cell::UnsafeCell<u8>; RING_LEN],
}

// SAFETY: the data bytes are reached only through raw pointers by the side that the counts give them to.
unsafe impl Sync for Ring {}
