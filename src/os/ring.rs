//! The machine's ends of a byte ring ([`umbel_abi::machine::Ring`]): blocking, on a futex at the ring's own words.
//!
//! The other end is the guest kernel: its counts are checked before use, so that a broken kernel costs an error here
//! and never an access outside the ring.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;
use umbel_abi::machine::{RING_LEN, Ring};

/// How long a wait lasts at most before the ring is looked at again: also the bound on noticing the machine's end.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What to do when a ring has nothing for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// This many bytes can be moved.
    Ready(usize),
    /// None yet.
    Wait,
    /// None ever again, or the counts are nonsense.
    Over,
}

/// What the consumer finds.
pub fn available(ring: &Ring) -> Status {
    let closed = ring.producer_closed.load(Ordering::Acquire) != 0;
    match used(ring) {
        None => Status::Over,
        Some(0) if closed => Status::Over,
        Some(0) => Status::Wait,
        Some(n) => Status::Ready(n),
    }
}

/// What the producer finds.
pub fn room(ring: &Ring) -> Status {
    match used(ring) {
        _ if ring.consumer_closed.load(Ordering::Acquire) != 0 => Status::Over,
        None => Status::Over,
        Some(RING_LEN) => Status::Wait,
        Some(n) => Status::Ready(RING_LEN - n),
    }
}

fn used(ring: &Ring) -> Option<usize> {
    let head = ring.head.load(Ordering::Acquire);
    let tail = ring.tail.load(Ordering::Acquire);
    usize::try_from(tail.wrapping_sub(head)).ok().filter(|n| *n <= RING_LEN)
}

/// Copies up to `into.len()` bytes out. Returns how many, and whether the kernel waits for room.
pub fn take(ring: &Ring, into: &mut [u8]) -> (usize, bool) {
    let Status::Ready(ready) = available(ring) else { return (0, false) };
    let count = ready.min(into.len());
    let head = ring.head.load(Ordering::Relaxed);
    for (offset, byte) in into[..count].iter_mut().enumerate() {
        let at = head.wrapping_add(offset as u64) as usize % RING_LEN;
        // SAFETY: `at` is below RING_LEN, and the counts give this byte to the consumer.
        *byte = unsafe { ring.data[at].get().read_volatile() };
    }
    ring.head.store(head.wrapping_add(count as u64), Ordering::Release);
    (count, withdraw(&ring.producer_waiting))
}

/// Copies as much of `bytes` in as fits. Returns how many, and whether the kernel waits for data.
pub fn put(ring: &Ring, bytes: &[u8]) -> (usize, bool) {
    let Status::Ready(ready) = room(ring) else { return (0, false) };
    let count = ready.min(bytes.len());
    let tail = ring.tail.load(Ordering::Relaxed);
    for (offset, byte) in bytes[..count].iter().enumerate() {
        let at = tail.wrapping_add(offset as u64) as usize % RING_LEN;
        // SAFETY: `at` is below RING_LEN, and the counts give this byte to the producer.
        unsafe { ring.data[at].get().write_volatile(*byte) };
    }
    ring.tail.store(tail.wrapping_add(count as u64), Ordering::Release);
    (count, withdraw(&ring.consumer_waiting))
}

/// Takes back the other side's announcement that it waits; true if there was one.
fn withdraw(waiting: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    waiting.load(Ordering::Relaxed) != 0 && waiting.swap(0, Ordering::SeqCst) != 0
}

/// Waits until the kernel may have produced something.
pub fn wait_for_data(ring: &Ring) {
    wait(&ring.consumer_waiting, || available(ring) == Status::Wait);
}

/// Waits until the kernel may have made room.
pub fn wait_for_room(ring: &Ring) {
    wait(&ring.producer_waiting, || room(ring) == Status::Wait);
}

fn wait(word: &AtomicU32, still: impl Fn() -> bool) {
    word.store(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    if still() {
        futex_wait(word, 1, LOOK_AGAIN);
    }
    word.store(0, Ordering::SeqCst);
}

/// Waits while `word` is `value`, at most `limit`. Shared between processes.
pub fn futex_wait(word: &AtomicU32, value: u32, limit: Duration) {
    let timeout = libc::timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    // SAFETY: the word outlives the call and the timeout is on our stack.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const timeout) };
}

/// Wakes everyone who waits at `word`. Shared between processes.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word outlives the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}
