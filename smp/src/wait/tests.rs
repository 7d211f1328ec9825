//! What the models show for three threads, here for many and with deadlines.

extern crate std;

use super::*;
use crate::testing::{HostThreads, ROUNDS, THREADS, interrupt, now_ns, register_all, together};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// Half of the threads give units one wake-up each, the others take them; some takers give up early.
#[test]
fn every_unit_finds_a_taker_although_others_give_up() {
    let (units, queue) = (AtomicU32::new(0), WaitQueue::new());
    let take = || units.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).ok();
    together(|index| {
        for round in 0..ROUNDS {
            if index % 2 == 0 {
                units.fetch_add(1, SeqCst);
                queue.wake_one();
                continue;
            }
            // Give up after a microsecond or so, then insist: a lost wake-up would hang here.
            if round % 3 == 0 && queue.wait_interruptible(Some(now_ns() + 1000), take).is_ok() {
                continue;
            }
            queue.wait_until(take);
        }
    });
    assert_eq!(units.into_inner(), 0);
    assert!(queue.is_empty());
}

#[test]
fn a_deadline_ends_a_wait_in_time() {
    register_all();
    let start = Instant::now();
    let queue = WaitQueue::new();
    let end = queue.wait_interruptible(Some(now_ns() + 20_000_000), || None::<()>);
    assert_eq!(end, Err(Wake::TimedOut));
    assert_eq!(queue.wait_deadline(now_ns() + 1000, || None::<()>), None);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(20), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn an_interrupt_ends_only_interruptible_waits() {
    register_all();
    let (send, receive) = std::sync::mpsc::channel();
    let gate = Arc::new((AtomicU32::new(0), WaitQueue::new()));
    let sleeper = {
        let gate = gate.clone();
        thread::spawn(move || {
            send.send(HostThreads.current()).unwrap();
            let open = || (gate.0.load(SeqCst) == 1).then_some(());
            let first = gate.1.wait_interruptible(None, open);
            gate.1.wait_until(open);
            first
        })
    };
    interrupt(&receive.recv().unwrap());
    thread::sleep(Duration::from_millis(20));
    assert!(!sleeper.is_finished());
    gate.0.store(1, SeqCst);
    gate.1.wake_all();
    assert_eq!(sleeper.join().unwrap(), Err(Wake::Interrupted));
}

#[test]
fn a_poller_notices_each_of_many_queues_and_leaves_none_behind() {
    let queues: Vec<_> = (0..THREADS).map(|_| Arc::new(WaitQueue::new())).collect();
    let posted = AtomicU64::new(0);
    together(|index| {
        if index > 0 {
            for _ in 0..100 {
                posted.fetch_add(1, SeqCst);
                queues[index as usize].wake_all();
                thread::yield_now();
            }
            return;
        }
        let mut seen = 0;
        while seen < u64::from(THREADS - 1) * 100 {
            let mut table = PollTable::new();
            queues.iter().for_each(|queue| table.register(queue).unwrap());
            let news = || Some(posted.load(SeqCst)).filter(|now| *now != seen);
            seen = table.wait_interruptible(None, news).unwrap();
        }
    });
    assert!(queues.iter().all(|queue| queue.is_empty()));
}
