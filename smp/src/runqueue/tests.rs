//! Unit tests of the run queue: order, fairness, real-time levels, stealing.

use super::*;
extern crate std;
use std::sync::Arc;
use std::vec::Vec;

const MS: u64 = 1_000_000;

fn fair(item: u32, nice: i8) -> Box<Entity<u32>> {
    Entity::new(item, Class::Fair { nice, idle: false })
}

/// Runs the queue in slices of 1 ms and returns the time each of `n` entities got, ms.
fn run(queue: &mut RunQueue<u32>, n: usize, ms: u64) -> Vec<u64> {
    let mut got = std::vec![0; n];
    for _ in 0..ms {
        let mut entity = queue.pop().expect("never empty here");
        got[entity.item as usize] += 1;
        queue.charge(&mut entity, MS);
        queue.requeue(entity, Requeue::Preempted);
    }
    got
}

#[test]
fn equal_weights_get_equal_time() {
    let mut queue = RunQueue::new();
    for item in 0..7 {
        queue.push(fair(item, 0), Arrival::New);
    }
    for ms in run(&mut queue, 7, 7000) {
        assert!(ms.abs_diff(1000) <= 4, "{ms}");
    }
}

#[test]
fn nice_values_share_by_linux_weights() {
    let mut queue = RunQueue::new();
    queue.push(fair(0, 0), Arrival::New);
    queue.push(fair(1, 5), Arrival::New);
    let got = run(&mut queue, 2, 13_590);
    // 1024 : 335
    assert!(got[0].abs_diff(10_240) <= 20, "{got:?}");
    assert!(got[1].abs_diff(3_350) <= 20, "{got:?}");
}

#[test]
fn a_woken_sleeper_neither_loses_nor_hoards_time() {
    let mut queue = RunQueue::new();
    queue.push(fair(0, 0), Arrival::New);
    queue.push(fair(1, 0), Arrival::New);
    let mut sleeper = loop {
        let entity = queue.pop().unwrap();
        if entity.item == 1 {
            break entity;
        }
        queue.requeue(entity, Requeue::Yielded);
    };
    queue.detach(&mut sleeper);
    run(&mut queue, 2, 1000);
    queue.push(sleeper, Arrival::Woken);
    let got = run(&mut queue, 2, 1000);
    assert!(got[1].abs_diff(500) <= 8, "{got:?}");
}

#[test]
fn no_entity_waits_longer_than_everybody_elses_slices() {
    let mut queue = RunQueue::new();
    for item in 0..10 {
        queue.push(fair(item, 0), Arrival::New);
    }
    let mut last = [0_u64; 10];
    for now in 1..5000 {
        let mut entity = queue.pop().unwrap();
        let waited = now - last[entity.item as usize];
        assert!(waited <= 10 * 4 + 4, "waited {waited} ms");
        last[entity.item as usize] = now;
        queue.charge(&mut entity, MS);
        queue.requeue(entity, Requeue::Preempted);
    }
}

#[test]
fn moving_between_queues_of_different_age_keeps_shares() {
    let (mut old, mut young) = (RunQueue::new(), RunQueue::new());
    for item in 0..3 {
        old.push(fair(item, 0), Arrival::New);
    }
    run(&mut old, 3, 100_000);
    young.push(fair(3, 0), Arrival::New);
    run(&mut young, 4, 10);
    let moved = old.steal(|_| true).expect("three are queued");
    let index = moved.item as usize;
    young.push(moved, Arrival::Moved);
    let got = run(&mut young, 4, 1000);
    assert!(got[index].abs_diff(500) <= 8, "{got:?}");
    assert!(got[3].abs_diff(500) <= 8, "{got:?}");
}

#[test]
fn real_time_runs_first_by_priority_then_arrival() {
    let mut queue = RunQueue::new();
    queue.push(fair(0, -20), Arrival::New);
    queue.push(Entity::new(1, Class::Fifo { priority: 10 }), Arrival::New);
    queue.push(Entity::new(2, Class::Fifo { priority: 50 }), Arrival::New);
    queue.push(Entity::new(3, Class::RoundRobin { priority: 10 }), Arrival::New);
    let order: Vec<u32> = core::iter::from_fn(|| queue.pop().map(|e| e.item)).collect();
    assert_eq!(order, [2, 1, 3, 0]);
}

#[test]
fn preempted_fifo_goes_to_the_front_and_yielded_to_the_back() {
    let mut queue = RunQueue::new();
    for item in 0..2 {
        queue.push(Entity::new(item, Class::Fifo { priority: 1 }), Arrival::New);
    }
    let first = queue.pop().unwrap();
    queue.requeue(first, Requeue::Preempted);
    let first = queue.pop().unwrap();
    assert_eq!(first.item, 0);
    queue.requeue(first, Requeue::Yielded);
    assert_eq!(queue.pop().unwrap().item, 1);
}

#[test]
fn round_robin_rotates_when_its_slice_is_over() {
    let mut queue = RunQueue::new();
    for item in 0..2 {
        queue.push(Entity::new(item, Class::RoundRobin { priority: 1 }), Arrival::New);
    }
    let mut first = queue.pop().unwrap();
    assert!(!queue.charge(&mut first, RR_SLICE_NS / 2));
    assert!(!queue.preempts(&first));
    assert!(queue.charge(&mut first, RR_SLICE_NS / 2));
    assert!(queue.preempts(&first));
    queue.requeue(first, Requeue::Preempted);
    assert_eq!(queue.pop().unwrap().item, 1);
}

#[test]
fn a_woken_entity_preempts_one_that_ran_ahead() {
    let mut queue = RunQueue::new();
    queue.push(fair(0, 0), Arrival::New);
    let mut hog = queue.pop().unwrap();
    queue.charge(&mut hog, 2 * MS);
    assert!(!queue.preempts(&hog), "nothing else is there");
    queue.push(fair(1, 0), Arrival::Woken);
    queue.charge(&mut hog, 2 * MS);
    assert!(queue.preempts(&hog));
}

#[test]
fn removal_by_key_finds_exactly_that_entity() {
    let mut queue = RunQueue::new();
    let keys: Vec<Key> = (0..100).map(|item| queue.push(fair(item, (item % 40) as i8 - 20), Arrival::New)).collect();
    for (item, key) in keys.into_iter().enumerate().rev() {
        assert_eq!(queue.remove(key).unwrap().item as usize, item);
        assert!(queue.remove(key).is_none());
    }
    assert!(queue.is_empty());
    assert_eq!(queue.load(), 0);
    assert_eq!(queue.weighted, 0);
}

#[test]
fn steal_half_takes_only_what_may_move() {
    let mut queue = RunQueue::new();
    for item in 0..10 {
        queue.push(fair(item, 0), Arrival::New);
    }
    let mut stolen = Vec::new();
    let n = queue.steal_half(|item| item % 2 == 1, |entity| stolen.push(entity.item));
    stolen.sort_unstable();
    assert_eq!((n, stolen), (5, std::vec![1, 3, 5, 7, 9]));
    assert_eq!(queue.len(), 5);
}

#[test]
fn the_tree_agrees_with_a_linear_search() {
    let mut queue = RunQueue::new();
    let mut seed = 1_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for item in 0..200 {
        queue.push(fair(item, (random() % 40) as i8 - 20), Arrival::New);
    }
    for _ in 0..3000 {
        let mut expected: Option<(i64, bool)> = None;
        queue.for_each(|e| {
            if queue.is_eligible(e.vruntime) {
                let least = expected.map_or(i64::MAX, |(deadline, _)| deadline);
                expected = Some((least.min(e.deadline), true));
            }
        });
        let mut entity = queue.pop().unwrap();
        let (deadline, _) = expected.expect("somebody is at or behind the average");
        assert_eq!(entity.deadline, deadline);
        queue.charge(&mut entity, random() % (4 * MS));
        if random() % 4 == 0 {
            queue.detach(&mut entity);
            queue.push(entity, Arrival::Woken);
        } else {
            queue.requeue(entity, Requeue::Preempted);
        }
    }
    assert_eq!(queue.len(), 200);
}

/// An entity that shares with its group.
fn member(item: u32, group: &Arc<Group>) -> Box<Entity<u32>> {
    let mut entity = fair(item, 0);
    entity.configure(Params { group: Some(group.clone()), ..Params::of(Class::NORMAL) });
    entity
}

/// As [`run`] between two times, where groups count on all queues.
fn run_grouped(queue: &mut RunQueue<u32>, n: usize, ms: core::ops::Range<u64>) -> Vec<u64> {
    let mut got = std::vec![0; n];
    for now in ms {
        let mut entity = queue.pop().expect("never empty here");
        got[entity.item as usize] += 1;
        if let Some(group) = entity.group() {
            group.sum(now * MS, &|_| true);
        }
        queue.reweigh(&mut entity);
        queue.charge(&mut entity, MS);
        queue.requeue(entity, Requeue::Preempted);
    }
    got
}

#[test]
fn many_of_one_group_get_no_more_than_one_of_another() {
    let groups = [Group::new(None, 1), Group::new(None, 1)];
    let mut queue = RunQueue::new();
    queue.push(member(0, &groups[0]), Arrival::New);
    for item in 1..10 {
        queue.push(member(item, &groups[1]), Arrival::New);
    }
    let got = run_grouped(&mut queue, 10, 1..9001);
    assert!(got[0].abs_diff(4500) <= 150, "{got:?}");
    assert!(got[1..].iter().all(|ms| ms.abs_diff(500) <= 30), "{got:?}");
}

#[test]
fn a_group_that_shrinks_leaves_its_share_to_whom_remains() {
    let groups = [Group::new(None, 1), Group::new(None, 1)];
    let mut queue = RunQueue::new();
    queue.push(member(0, &groups[0]), Arrival::New);
    for item in 1..10 {
        queue.push(member(item, &groups[1]), Arrival::New);
    }
    run_grouped(&mut queue, 10, 1..1001);
    for item in 2..10 {
        assert!(queue.take(|other| *other == item).is_some());
    }
    let got = run_grouped(&mut queue, 10, 1001..2001);
    assert!(got[0].abs_diff(500) <= 60 && got[1].abs_diff(500) <= 60, "{got:?}");
    assert!(queue.take(|item| *item == 0).is_some() && queue.take(|item| *item == 1).is_some());
    assert_eq!((queue.load(), queue.weighted), (0, 0), "nothing is left of what was weighed anew");
}

#[test]
fn a_user_with_many_groups_gets_no_more_than_one_with_one() {
    let users = [Group::new(None, 1), Group::new(None, 1)];
    let mut queue = RunQueue::new();
    queue.push(member(0, &Group::new(Some(users[0].clone()), 1)), Arrival::New);
    for item in 1..7 {
        queue.push(member(item, &Group::new(Some(users[1].clone()), 1)), Arrival::New);
    }
    let got = run_grouped(&mut queue, 7, 1..6001);
    assert!(got[0].abs_diff(3000) <= 150, "{got:?}");
}

#[test]
fn a_group_on_two_queues_has_one_share_of_them() {
    let (wide, narrow) = (Group::new(None, 2), Group::new(None, 2));
    let mut queues = [RunQueue::new(), RunQueue::new()];
    queues[1].set_cpu(1);
    queues[0].push(member(0, &wide), Arrival::New);
    queues[0].push(member(1, &narrow), Arrival::New);
    queues[1].push(member(2, &wide), Arrival::New);
    // Half of it is on the other queue, where it has no rival.
    let got = run_grouped(&mut queues[0], 2, 1..3001);
    assert!(got[0].abs_diff(1000) <= 60, "{got:?}");
    assert_eq!(run_grouped(&mut queues[1], 3, 1..11)[2], 10);
}

#[test]
fn who_asks_for_less_at_once_waits_less_and_gets_as_much() {
    let mut queue = RunQueue::new();
    for item in 0..4 {
        let mut entity = fair(item, 0);
        let slice_ns = if item == 0 { MS } else { 20 * MS };
        entity.configure(Params { slice_ns, ..Params::of(Class::NORMAL) });
        queue.push(entity, Arrival::New);
    }
    assert_eq!(queue.slice_ns(None), MS);
    let (mut got, mut longest, mut last) = ([0_u64; 4], [0_u64; 4], [0_u64; 4]);
    let mut running = queue.pop().expect("four are queued");
    for now in 1..8000 {
        let item = running.item as usize;
        got[item] += 1;
        longest[item] = longest[item].max(now - last[item]);
        last[item] = now;
        queue.charge(&mut running, MS);
        if queue.expires(&running) {
            queue.requeue(running, Requeue::Preempted);
            running = queue.pop().expect("just requeued");
        }
    }
    assert!(got.iter().all(|ms| ms.abs_diff(2000) <= 60), "{got:?}");
    assert!(longest[0] <= 8 && longest[1..].iter().all(|ms| *ms > longest[0]), "{longest:?}");
}

#[test]
fn what_runs_changes_class_without_leaving() {
    let mut queue = RunQueue::new();
    queue.push(fair(0, 0), Arrival::New);
    queue.push(fair(1, 0), Arrival::New);
    let mut running = queue.pop().expect("two are queued");
    queue.configure(&mut running, Params::of(Class::Fifo { priority: 1 }));
    queue.charge(&mut running, 900 * MS);
    assert!(!queue.preempts(&running));
    queue.configure(&mut running, Params::of(Class::NORMAL));
    queue.charge(&mut running, 10 * MS);
    assert!(queue.preempts(&running));
}

fn deadline(item: u32, runtime_ns: u64, period_ns: u64) -> Box<Entity<u32>> {
    let mut entity = Entity::new(item, Class::NORMAL);
    let budget = Budget { runtime_ns, deadline_ns: period_ns, period_ns };
    entity.configure(Params::of(Class::Deadline(budget)));
    entity
}

#[test]
fn the_earliest_deadline_runs_before_all_priorities_until_it_is_spent() {
    let mut queue = RunQueue::new();
    queue.push(Entity::new(0, Class::Fifo { priority: 99 }), Arrival::New);
    queue.push(deadline(1, MS, 20 * MS), Arrival::New);
    queue.push(deadline(2, MS, 10 * MS), Arrival::New);
    let mut first = queue.pop().unwrap();
    assert!(first.item == 2 && !queue.preempts(&first) && queue.slice_ns(Some(&first)) == MS);
    assert!(queue.charge(&mut first, MS) && first.is_spent() && queue.expires(&first));
    queue.requeue(first, Requeue::Preempted);
    assert_eq!((queue.len(), queue.resting_until()), (2, Some(10 * MS)));
    let second = queue.pop().unwrap();
    assert_eq!(second.item, 1);
    queue.requeue(second, Requeue::Yielded);
    assert_eq!((queue.len(), queue.resting_until()), (1, Some(10 * MS)));
    let last = queue.pop().unwrap();
    assert_eq!(last.item, 0);
    queue.replenish(10 * MS - 1);
    assert!(!queue.preempts(&last));
    queue.replenish(10 * MS);
    assert!(queue.preempts(&last) && queue.resting_until() == Some(20 * MS));
    assert!(!queue.close());
    queue.release();
    assert_eq!((queue.len(), queue.resting_until()), (2, None));
}

#[test]
fn one_that_rests_can_be_taken_but_not_stolen() {
    let mut queue = RunQueue::new();
    let mut entity = deadline(1, MS, 10 * MS);
    entity.charge(2 * MS);
    queue.push(entity, Arrival::Moved);
    assert!(queue.pop().is_none() && queue.steal(|_| true).is_none() && !queue.close());
    let mut entity = queue.take(|&item| item == 1).unwrap();
    assert!(queue.close() && queue.resting_until().is_none());
    entity.wake(10 * MS);
    assert!(!entity.is_spent());
}

#[test]
fn real_time_entities_leave_the_others_a_part_of_each_period() {
    let mut queue = RunQueue::new();
    queue.push(fair(0, 0), Arrival::New);
    queue.push(fair(1, 0), Arrival::New);
    queue.push(Entity::new(2, Class::Fifo { priority: 99 }), Arrival::New);
    queue.push(Entity::new(3, Class::RoundRobin { priority: 99 }), Arrival::New);
    let got = run(&mut queue, 4, 950);
    assert_eq!(got[0] + got[1], 0, "{got:?}");
    let got = run(&mut queue, 4, 50);
    assert_eq!(got[2] + got[3], 0, "{got:?}");
    let got = run(&mut queue, 4, 9000);
    assert_eq!((got[0] + got[1], got[2] + got[3]), (450, 8550), "{got:?}");
}

#[test]
fn a_running_real_time_entity_gives_way_when_the_others_turn_comes_and_takes_over_after_it() {
    let mut queue = RunQueue::new();
    queue.push(Entity::new(0, Class::Fifo { priority: 1 }), Arrival::New);
    let mut running = queue.pop().unwrap();
    queue.charge(&mut running, 5000 * MS);
    queue.push(fair(1, 0), Arrival::New);
    assert!(!queue.preempts(&running), "it held nobody up");
    queue.charge(&mut running, 949 * MS);
    assert!(!queue.preempts(&running) && !queue.expires(&running));
    queue.charge(&mut running, MS);
    assert!(queue.preempts(&running) && queue.expires(&running));
    queue.requeue(running, Requeue::Preempted);
    let mut running = queue.pop().unwrap();
    assert_eq!(running.item, 1);
    queue.charge(&mut running, 49 * MS);
    assert!(!queue.preempts(&running) && !queue.expires(&running));
    queue.charge(&mut running, MS);
    assert!(queue.preempts(&running) && queue.expires(&running));
}

#[test]
fn a_turn_ends_when_no_fair_entity_wants_it_and_deadlines_do_not_wait_for_it() {
    let mut queue = RunQueue::new();
    queue.push(fair(0, 0), Arrival::New);
    queue.push(Entity::new(1, Class::Fifo { priority: 1 }), Arrival::New);
    run(&mut queue, 2, 950);
    let budget = Budget { runtime_ns: 10 * MS, deadline_ns: 100 * MS, period_ns: 100 * MS };
    let mut urgent = Entity::new(2, Class::NORMAL);
    urgent.configure(Params::of(Class::Deadline(budget)));
    queue.push(urgent, Arrival::New);
    let mut urgent = queue.pop().unwrap();
    assert_eq!(urgent.item, 2);
    queue.charge(&mut urgent, MS);
    queue.detach(&mut urgent);
    let mut fair = queue.pop().unwrap();
    assert_eq!(fair.item, 0);
    queue.detach(&mut fair);
    let mut running = queue.pop().unwrap();
    queue.charge(&mut running, MS);
    queue.push(fair, Arrival::Woken);
    assert!(!queue.preempts(&running), "its turn is over");
}
