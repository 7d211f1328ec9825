//! Run queues of two virtual CPUs: waking, picking and stealing at once.

#![cfg(loom)]

use loom::thread;
use loom_tests::model;
use std::sync::Arc;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::runqueue::{Arrival, Class, Entity, RunQueue};

type Queue = SpinLock<RunQueue<u32>>;

fn queue() -> Arc<Queue> {
    Arc::new(SpinLock::new(Rank::RunQueue, RunQueue::new()))
}

#[test]
fn each_entity_is_taken_once_by_owner_or_thief() {
    model(|| {
        let queue = queue();
        let waker = {
            let queue = queue.clone();
            thread::spawn(move || {
                for item in [1, 2] {
                    queue.lock().push(Entity::new(item, Class::NORMAL), Arrival::Woken);
                }
            })
        };
        let thief = {
            let queue = queue.clone();
            thread::spawn(move || queue.lock().steal(|_| true).map(|entity| entity.item))
        };
        let mut got = queue.lock().pop().map_or(0, |entity| entity.item);
        waker.join().unwrap();
        got += thief.join().unwrap().unwrap_or(0);
        while let Some(entity) = queue.lock().pop() {
            got += entity.item;
        }
        assert_eq!(got, 3, "nothing is lost or taken twice");
    });
}

#[test]
fn two_thieves_that_lock_in_order_do_not_deadlock_and_lose_nothing() {
    model(|| {
        let queues = [queue(), queue()];
        for (item, queue) in queues.iter().enumerate() {
            queue.lock().push(Entity::new(item as u32, Class::NORMAL), Arrival::New);
        }
        let steal = |queues: [Arc<Queue>; 2], from: usize| {
            let mut low = queues[0].lock();
            let mut high = queues[1].lock_nested();
            let (from, to) = match from {
                0 => (&mut *low, &mut *high),
                _ => (&mut *high, &mut *low),
            };
            if let Some(entity) = from.steal(|_| true) {
                to.push(entity, Arrival::Moved);
            }
        };
        let other = queues.clone();
        let other = thread::spawn(move || steal(other, 0));
        steal(queues.clone(), 1);
        other.join().unwrap();
        let left = queues[0].lock().len() + queues[1].lock().len();
        assert_eq!(left, 2);
    });
}
