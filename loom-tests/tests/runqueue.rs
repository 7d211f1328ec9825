//! Run queues of two virtual CPUs: waking, picking and stealing at once, and the sums of groups on both.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::runqueue::{Arrival, Class, Entity, Group, Params, RunQueue};

type Queue = SpinLock<RunQueue<u32>>;

fn queue() -> Arc<Queue> {
    Arc::new(SpinLock::new(Rank::RunQueue, RunQueue::new()))
}

/// A queue is filled, popped and stolen from at once.
fn owner_and_thief() {
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
}

#[test]
fn each_entity_is_taken_once_by_owner_or_thief() {
    model(owner_and_thief);
}

#[test]
fn mutant_relaxed_unlock_shows_half_a_queue() {
    mutant_fails("spin-unlock-relaxed", owner_and_thief);
}

/// Each takes from the queue of the other.
fn two_thieves() {
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
}

#[test]
fn two_thieves_that_lock_in_order_do_not_deadlock_and_lose_nothing() {
    model(two_thieves);
}

#[test]
fn mutant_relaxed_unlock_shows_a_thief_half_a_queue() {
    mutant_fails("spin-unlock-relaxed", two_thieves);
}

fn queue_of(cpu: u32) -> Arc<Queue> {
    let queue = queue();
    queue.lock().set_cpu(cpu);
    queue
}

fn member(item: u32, group: &Arc<Group>) -> Box<Entity<u32>> {
    let mut entity = Entity::new(item, Class::NORMAL);
    entity.configure(Params { group: Some(group.clone()), ..Params::of(Class::NORMAL) });
    entity
}

/// What the first two members of a group weigh on an empty queue; the second by what the first one adds to the sum.
fn weight_of_two(queue: &Queue, group: &Arc<Group>) -> u64 {
    let mut queue = queue.lock();
    queue.push(member(8, group), Arrival::New);
    group.sum(6_000_000, &|_| true);
    queue.push(member(9, group), Arrival::New);
    queue.load()
}

/// One member goes over to the queue on which another ends, while somebody sums: afterwards the group counts nobody.
fn members_come_and_go() {
    let group = Group::new(None, 2);
    let queues = [queue_of(0), queue_of(1)];
    for (item, queue) in queues.iter().enumerate() {
        queue.lock().push(member(item as u32, &group), Arrival::New);
    }
    let take = |queue: &Queue| {
        let mut queue = queue.lock();
        let mut entity = queue.pop()?;
        queue.detach(&mut entity);
        Some(entity)
    };
    let mover = {
        let queues = queues.clone();
        thread::spawn(move || {
            let entity = take(&queues[0]).expect("nobody else takes from here");
            queues[1].lock().push(entity, Arrival::Moved);
        })
    };
    assert!(take(&queues[1]).is_some(), "claim: its own member, or the one that came");
    group.sum(2_000_000, &|_| true);
    mover.join().unwrap();
    assert!(take(&queues[1]).is_some(), "claim: the other one");
    group.sum(4_000_000, &|_| true);
    assert_eq!(weight_of_two(&queues[0], &group), weight_of_two(&queue_of(0), &Group::new(None, 2)));
}

#[test]
fn a_group_counts_those_that_are_attached() {
    model(members_come_and_go);
}

#[test]
fn mutant_one_sum_under_two_locks_loses_members() {
    mutant_fails("group-one-sum", members_come_and_go);
}
