//! The kernel's and the models' side of a byte ring ([`umbel_abi::machine::Ring`]).
//!
//! One producer and one consumer on opposite sides of the machine/kernel border; each end here must be used by one
//! virtual CPU at a time (the drivers hold a lock around it). The words belong to a side that is not trusted: counts
//! that contradict each other make the ring fail with `EIO`, never an access outside `data`.
//!
//! Sleeping: a side that runs dry calls `arm`, which announces the wait and looks again; the other side's
//! `push`/`pop` is followed by `kick`, which takes the announcement back and reports that there was one. Fence
//! between the store and the look on both sides: one of them sees the other. Model: `loom-tests/tests/ring.rs`.

use crate::sync::{AtomicU32, AtomicU64, Ordering, full_fence, order};
use umbel_abi::linux::Errno;
#[cfg(not(loom))]
use umbel_abi::machine::{Ring, RingIndex};

/// Data bytes: the ABI's cells; loom's under the models.
#[cfg(not(loom))]
pub type Cell = core::cell::UnsafeCell<u8>;
/// Data bytes: the ABI's cells; loom's under the models.
#[cfg(loom)]
pub type Cell = crate::sync::UnsafeCell<u8>;

/// References to the words of one ring.
///
/// # Invariants
/// `data.len()` is a power of two, and nobody else writes the bytes between `head` and `tail`.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    /// Count consumed.
    pub head: &'a AtomicU64,
    /// Count produced.
    pub tail: &'a AtomicU64,
    /// Announcement of a waiting consumer.
    pub consumer_waiting: &'a AtomicU32,
    /// The consumer takes no more.
    pub consumer_closed: &'a AtomicU32,
    /// Announcement of a waiting producer.
    pub producer_waiting: &'a AtomicU32,
    /// The producer sends no more.
    pub producer_closed: &'a AtomicU32,
    /// Errno of the producer's side.
    pub error: &'a AtomicU32,
    /// The bytes.
    pub data: &'a [Cell],
}

// SAFETY: the words are atomics, and the bytes are reached through an end, which is one owner's at a time.
unsafe impl Send for Words<'_> {}
// SAFETY: as above; a shared reference to the words reaches no byte.
unsafe impl Sync for Words<'_> {}

/// The end that writes.
pub struct Producer<'a>(Words<'a>);

/// The end that reads.
pub struct Consumer<'a>(Words<'a>);

/// What a consumer finds in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// So many bytes can be taken.
    Ready(usize),
    /// Nothing now.
    Empty,
    /// Nothing ever again.
    End,
    /// The producer failed.
    Failed(Errno),
}

impl<'a> Producer<'a> {
    /// The writing end of `words`; the caller is the only producer.
    pub fn new(words: Words<'a>) -> Self {
        Self(words)
    }

    /// Bytes that fit now; `EPIPE` once the consumer closed, or what it closed with, `EIO` if the counts are nonsense.
    pub fn room(&self) -> Result<usize, Errno> {
        match self.0.consumer_closed.load(Ordering::Relaxed) {
            0 => {}
            1 => return Err(Errno::EPIPE),
            errno => return Err(Errno::from_raw((errno & 0xfff) as i32)),
        }
        let used = self.0.used(Ordering::Relaxed, Ordering::Acquire)?;
        Ok(self.0.data.len() - used)
    }

    /// Appends as much of `bytes` as fits and returns how much. Follow with [`Self::kick`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let count = self.room()?.min(bytes.len());
        let tail = self.0.tail.load(Ordering::Relaxed);
        for (offset, byte) in bytes[..count].iter().enumerate() {
            self.0.store(tail.wrapping_add(offset as u64), *byte);
        }
        self.0.tail.store(tail.wrapping_add(count as u64), order("ring-tail-relaxed", Ordering::Release));
        Ok(count)
    }

    /// Announces a wait for room and looks again; false: do not wait.
    pub fn arm(&self) -> bool {
        self.0.producer_waiting.store(1, Ordering::Relaxed);
        full_fence("ring-arm-unfenced");
        let full = self.room() == Ok(0);
        if !full {
            self.0.producer_waiting.store(0, Ordering::Relaxed);
        }
        full
    }

    /// After a push: the word to wake if the consumer announced a wait.
    #[must_use]
    pub fn kick(&self) -> Option<&'a AtomicU32> {
        take_announcement(self.0.consumer_waiting)
    }

    /// True once the consumer has taken everything, or will take no more.
    pub fn is_drained(&self) -> bool {
        self.room().map_or(true, |room| room == self.0.data.len())
    }

    /// Says that no more will come.
    pub fn close(&self) {
        self.0.producer_closed.store(1, Ordering::Release);
    }
}

impl<'a> Consumer<'a> {
    /// The reading end of `words`; the caller is the only consumer.
    pub fn new(words: Words<'a>) -> Self {
        Self(words)
    }

    /// What is there. The end and the error count only once the bytes before them are taken.
    pub fn look(&self) -> Input {
        // Closed first: what the producer pushed before it closed must be seen.
        let closed = self.0.producer_closed.load(Ordering::Acquire) != 0;
        let error = self.0.error.load(Ordering::Acquire);
        match self.0.used(Ordering::Acquire, Ordering::Relaxed) {
            Err(errno) => Input::Failed(errno),
            Ok(0) if error != 0 => Input::Failed(Errno::from_raw((error & 0xfff) as i32)),
            Ok(0) if closed => Input::End,
            Ok(0) => Input::Empty,
            Ok(used) => Input::Ready(used),
        }
    }

    /// Takes up to `bytes.len()` bytes and returns how many. Follow with [`Self::kick`].
    pub fn pop(&mut self, bytes: &mut [u8]) -> usize {
        let Input::Ready(used) = self.look() else { return 0 };
        let count = used.min(bytes.len());
        let head = self.0.head.load(Ordering::Relaxed);
        for (offset, byte) in bytes[..count].iter_mut().enumerate() {
            *byte = self.0.load(head.wrapping_add(offset as u64));
        }
        self.0.head.store(head.wrapping_add(count as u64), order("ring-head-relaxed", Ordering::Release));
        count
    }

    /// Announces a wait for data and looks again; false: do not wait.
    pub fn arm(&self) -> bool {
        self.0.consumer_waiting.store(1, Ordering::Relaxed);
        full_fence("ring-arm-unfenced");
        let empty = self.look() == Input::Empty;
        if !empty {
            self.0.consumer_waiting.store(0, Ordering::Relaxed);
        }
        empty
    }

    /// After a pop: the word to wake if the producer announced a wait.
    #[must_use]
    pub fn kick(&self) -> Option<&'a AtomicU32> {
        take_announcement(self.0.producer_waiting)
    }

    /// Says that no more will be taken.
    pub fn close(&self) {
        self.0.consumer_closed.store(1, Ordering::Release);
    }
}

fn take_announcement(word: &AtomicU32) -> Option<&AtomicU32> {
    full_fence("ring-kick-unfenced");
    (word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::Relaxed) != 0).then_some(word)
}

impl Words<'_> {
    /// Bytes between the counts; the partner's count is read with `Acquire`.
    fn used(&self, tail_order: Ordering, head_order: Ordering) -> Result<usize, Errno> {
        let tail = self.tail.load(tail_order);
        let head = self.head.load(head_order);
        let used = tail.wrapping_sub(head);
        if used > self.data.len() as u64 { Err(Errno::EIO) } else { Ok(used as usize) }
    }

    fn cell(&self, count: u64) -> &Cell {
        &self.data[count as usize & (self.data.len() - 1)]
    }

    #[cfg(not(loom))]
    fn store(&self, count: u64, byte: u8) {
        // SAFETY: the counts give this byte to the producer; volatile because the partner is another program.
        unsafe { self.cell(count).get().write_volatile(byte) }
    }

    #[cfg(loom)]
    fn store(&self, count: u64, byte: u8) {
        let cell = self.cell(count).get_mut();
        // SAFETY: loom checks that nobody else is at the byte.
        unsafe { cell.as_ptr().write(byte) }
    }

    #[cfg(not(loom))]
    fn load(&self, count: u64) -> u8 {
        // SAFETY: the counts give this byte to the consumer; volatile because the partner is another program.
        unsafe { self.cell(count).get().read_volatile() }
    }

    #[cfg(loom)]
    fn load(&self, count: u64) -> u8 {
        let cell = self.cell(count).get();
        // SAFETY: loom checks that nobody writes the byte.
        unsafe { cell.as_ptr().read() }
    }
}

/// The words of one of the machine's rings. Kernel image only.
#[cfg(not(loom))]
pub fn of_machine(index: RingIndex) -> Words<'static> {
    Words::from(&crate::ipi::control().rings[index as usize])
}

#[cfg(not(loom))]
impl<'a> From<&'a Ring> for Words<'a> {
    fn from(ring: &'a Ring) -> Self {
        Self {
            head: &ring.head,
            tail: &ring.tail,
            consumer_waiting: &ring.consumer_waiting,
            consumer_closed: &ring.consumer_closed,
            producer_waiting: &ring.producer_waiting,
            producer_closed: &ring.producer_closed,
            error: &ring.error,
            data: &ring.data,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fake {
        head: AtomicU64,
        tail: AtomicU64,
        words: [AtomicU32; 5],
        data: [Cell; 8],
    }

    impl Fake {
        fn words(&self) -> Words<'_> {
            let [cw, cc, pw, pc, error] = &self.words;
            Words {
                head: &self.head,
                tail: &self.tail,
                consumer_waiting: cw,
                consumer_closed: cc,
                producer_waiting: pw,
                producer_closed: pc,
                error,
                data: &self.data,
            }
        }
    }

    #[test]
    fn bytes_come_out_in_order_across_the_wrap() {
        let fake = Fake::default();
        let (mut producer, mut consumer) = (Producer::new(fake.words()), Consumer::new(fake.words()));
        let mut next = 0u8;
        for round in 0..20u8 {
            let sent: [u8; 5] = core::array::from_fn(|i| round.wrapping_mul(5) + i as u8);
            assert_eq!(producer.push(&sent), Ok(5));
            let mut got = [0; 8];
            assert_eq!(consumer.pop(&mut got), 5);
            for byte in &got[..5] {
                assert_eq!(*byte, next);
                next += 1;
            }
        }
    }

    #[test]
    fn a_full_ring_takes_no_more_and_asks_for_a_kick() {
        let fake = Fake::default();
        let (mut producer, mut consumer) = (Producer::new(fake.words()), Consumer::new(fake.words()));
        assert_eq!(producer.push(&[7; 20]), Ok(8));
        assert_eq!(producer.push(&[7]), Ok(0));
        assert!(producer.arm());
        assert_eq!(consumer.pop(&mut [0; 3]), 3);
        assert!(consumer.kick().is_some());
        assert!(consumer.kick().is_none());
        assert!(!producer.arm());
    }

    #[test]
    fn the_end_comes_after_the_last_byte() {
        let fake = Fake::default();
        let (mut producer, mut consumer) = (Producer::new(fake.words()), Consumer::new(fake.words()));
        assert_eq!(consumer.look(), Input::Empty);
        assert!(consumer.arm());
        producer.push(b"x").unwrap();
        producer.close();
        assert!(producer.kick().is_some());
        assert_eq!(consumer.look(), Input::Ready(1));
        consumer.pop(&mut [0; 4]);
        assert_eq!(consumer.look(), Input::End);
        consumer.close();
        assert_eq!(producer.push(b"y"), Err(Errno::EPIPE));
    }

    #[test]
    fn contradicting_counts_are_an_error() {
        let fake = Fake::default();
        fake.tail.store(9, Ordering::Relaxed);
        assert_eq!(Consumer::new(fake.words()).look(), Input::Failed(Errno::EIO));
        assert_eq!(Producer::new(fake.words()).room(), Err(Errno::EIO));
        assert_eq!(Consumer::new(fake.words()).pop(&mut [0; 4]), 0);
    }
}
