//! The byte ring between the kernel and a device thread. Two bytes long here.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::ring::{Cell, Consumer, Input, Producer, Words};
use umbel_smp::sync::{AtomicU32, AtomicU64, futex_wait, futex_wake};

struct Ring {
    head: AtomicU64,
    tail: AtomicU64,
    consumer_waiting: AtomicU32,
    consumer_closed: AtomicU32,
    producer_waiting: AtomicU32,
    producer_closed: AtomicU32,
    error: AtomicU32,
    data: [Cell; 2],
}

// SAFETY: the counts order the accesses to the bytes, which loom checks.
unsafe impl Sync for Ring {}
// SAFETY: as above.
unsafe impl Send for Ring {}

impl Ring {
    fn new() -> Arc<Self> {
        let word = || AtomicU32::new(0);
        Arc::new(Self {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            consumer_waiting: word(),
            consumer_closed: word(),
            producer_waiting: word(),
            producer_closed: word(),
            error: word(),
            data: [Cell::new(0), Cell::new(0)],
        })
    }

    fn words(&self) -> Words<'_> {
        Words {
            head: &self.head,
            tail: &self.tail,
            consumer_waiting: &self.consumer_waiting,
            consumer_closed: &self.consumer_closed,
            producer_waiting: &self.producer_waiting,
            producer_closed: &self.producer_closed,
            error: &self.error,
            data: &self.data,
        }
    }

    /// Sends all of `bytes`, sleeping while the ring is full.
    fn send(&self, bytes: &[u8]) {
        let mut end = Producer::new(self.words());
        let mut sent = 0;
        while sent < bytes.len() {
            sent += end.push(&bytes[sent..]).unwrap();
            wake(end.kick());
            if sent < bytes.len() && end.arm() {
                futex_wait(&self.producer_waiting, 1);
            }
        }
        end.close();
        wake(end.kick());
    }

    /// Takes everything until the end, sleeping while the ring is empty.
    fn receive(&self) -> Vec<u8> {
        let mut end = Consumer::new(self.words());
        let mut got = Vec::new();
        loop {
            match end.look() {
                Input::End => return got,
                Input::Ready(_) => {
                    let mut bytes = [0; 2];
                    let count = end.pop(&mut bytes);
                    got.extend(&bytes[..count]);
                    wake(end.kick());
                }
                Input::Empty if end.arm() => futex_wait(&self.consumer_waiting, 1),
                Input::Empty => {}
                Input::Failed(errno) => panic!("claim: counts make sense: {errno:?}"),
            }
        }
    }
}

fn wake(word: Option<&AtomicU32>) {
    if let Some(word) = word {
        futex_wake(word, 1);
    }
}

/// Sends `bytes` through the ring; a lost kick is a deadlock, a byte read too early a race.
fn transfer(bytes: &'static [u8]) {
    let ring = Ring::new();
    let producer = {
        let ring = ring.clone();
        thread::spawn(move || ring.send(bytes))
    };
    assert_eq!(ring.receive(), bytes);
    producer.join().unwrap();
}

#[test]
fn bytes_arrive_whole_and_in_order_and_both_sides_wake() {
    model(|| transfer(b"abc"));
}

#[test]
fn mutant_waiter_without_fence_sleeps_for_ever() {
    mutant_fails("ring-arm-unfenced", || transfer(b"abc"));
}

#[test]
fn mutant_kick_without_fence_leaves_a_sleeper() {
    mutant_fails("ring-kick-unfenced", || transfer(b"abc"));
}

#[test]
fn mutant_relaxed_tail_shows_bytes_before_they_are_there() {
    mutant_fails("ring-tail-relaxed", || transfer(b"a"));
}

#[test]
fn mutant_relaxed_head_overwrites_bytes_that_are_being_read() {
    mutant_fails("ring-head-relaxed", || transfer(b"abc"));
}
