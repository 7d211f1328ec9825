//! Who of the virtual CPUs that compete shall be on which host CPU.
//!
//! More of them than host CPUs cannot all be alone on one, and those that are get more. So it is counted by how much each is
//! ahead of the mean, its *lead*. Host CPUs first get as many as each other, or one more. Then, where somebody is far ahead on
//! one CPU of somebody on a more crowded one, or one where others take much, the two change places: first who is behind goes, and
//! at the next decision who is ahead, so that no host CPU becomes empty in between, although their machines do not move them at
//! the same instant. Leads are forgotten with who does not compete any more, and bounded, so nobody can save time up.
//!
//! A host may favour who arrives on a CPU, and Linux does: whoever was alone there then waits, for 160 ms where it
//! was seen. That is why it is places that are changed and not simply another one that joins who is ahead: the same one would
//! come and go.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far somebody may get ahead of somebody on a more crowded host CPU, ns. Who moves waits longer for a while, since the host
/// must learn what it weighs there: less often is better.
const FAR_NS: i64 = 80_000_000;
/// The most that anybody can be ahead or behind.
const BOUND_NS: i64 = 200_000_000;

/// Where each gets so much more, it is better for whoever is behind, however many there are.
const BETTER: f64 = 1.25;
/// Over which time it is averaged what a host CPU gives, ns.
const WINDOW_NS: f64 = 200_000_000.0;

/// What host CPUs give to those who compete, as a part of all their time: what other processes take is missing.
pub type Given = BTreeMap<u32, f64>;

/// A virtual CPU that could use a host CPU all the time, or nearly.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Contender {
    /// Process id of its machine.
    pub owner: i32,
    /// Its number there.
    pub cpu: u32,
    /// Host CPUs on which it may be, as bits.
    pub allowed: Vec<u64>,
    /// That on which it ran last.
    pub at: u32,
    /// Processor time that it ever got, and how much of that was counted.
    pub ran_ns: u64,
    pub counted_ns: u64,
    /// When its machine said so.
    pub seen_ns: u64,
    pub lead_ns: i64,
    /// Where it shall be; `None`: wherever the host puts it.
    pub home: Option<u32>,
    /// Where it shall be after the next decision, if elsewhere.
    pub next_home: Option<u32>,
}

impl Contender {
    fn may(&self, host_cpu: u32) -> bool {
        self.allowed.get(host_cpu as usize / 64).is_some_and(|word| word & 1 << (host_cpu % 64) != 0)
    }

    fn is_on(&self, host_cpu: u32) -> bool {
        self.home == Some(host_cpu)
    }
}

/// Counts what all got in the time since it decided last, and says where they shall be now.
pub fn decide(all: &mut [Contender], given: &mut Given, elapsed_ns: u64) {
    let host_cpus = host_cpus(all);
    let machines = all.first().is_some_and(|first| all.iter().any(|one| one.owner != first.owner));
    if !machines || host_cpus.len() < 2 || all.len() <= host_cpus.len() {
        for one in all {
            (one.counted_ns, one.lead_ns) = (one.ran_ns, 0);
            (one.home, one.next_home) = (None, None);
        }
        given.clear();
        return;
    }
    count(all, given, elapsed_ns);
    let mut turning = false;
    for one in all.iter_mut() {
        turning |= one.next_home.is_some();
        let here = one.next_home.take().or(one.home).unwrap_or(one.at);
        one.home = if one.may(here) { Some(here) } else { host_cpus.iter().copied().find(|cpu| one.may(*cpu)) };
    }
    while even_out(all, &host_cpus) {}
    if !turning {
        take_turns(all, &host_cpus, given);
    }
}

/// Those on which any of them may be.
fn host_cpus(all: &[Contender]) -> Vec<u32> {
    let words = all.iter().map(|one| one.allowed.len()).max().unwrap_or(0);
    (0..words as u32 * 64).filter(|cpu| all.iter().any(|one| one.may(*cpu))).collect()
}

/// Brings the leads up to date, of which the mean is 0, and what host CPUs give.
fn count(all: &mut [Contender], given: &mut Given, elapsed_ns: u64) {
    let many = all.len().max(1) as i64;
    let mut sums = Given::new();
    for one in all.iter_mut() {
        // What it got before it competed is not counted.
        let new = one.home.is_none();
        let got = if new { 0 } else { one.ran_ns.saturating_sub(one.counted_ns).min(BOUND_NS as u64) };
        one.counted_ns = one.ran_ns;
        one.lead_ns = one.lead_ns.saturating_add(got as i64);
        if let Some(home) = one.home {
            *sums.entry(home).or_default() += got as f64;
        }
    }
    let elapsed = elapsed_ns.max(1) as f64;
    for (host_cpu, sum) in sums {
        let average = given.entry(host_cpu).or_insert(1.0);
        *average += (sum / elapsed - *average) * (elapsed / WINDOW_NS).min(1.0);
    }
    let mean = all.iter().map(|one| one.lead_ns / many).sum::<i64>();
    for one in all {
        one.lead_ns = one.lead_ns.saturating_sub(mean).clamp(-BOUND_NS, BOUND_NS);
    }
}

fn load(all: &[Contender], host_cpu: u32) -> usize {
    all.iter().filter(|one| one.is_on(host_cpu)).count()
}

/// Moves one to a host CPU with at least two fewer, the one most behind; false if there is none.
fn even_out(all: &mut [Contender], host_cpus: &[u32]) -> bool {
    let loads: Vec<(u32, usize)> = host_cpus.iter().map(|cpu| (*cpu, load(all, *cpu))).collect();
    let better = |one: &Contender| {
        let (_, crowd) = loads.iter().find(|(cpu, _)| one.is_on(*cpu))?;
        let (to, least) = loads.iter().filter(|(cpu, _)| one.may(*cpu)).min_by_key(|(_, load)| *load)?;
        (least + 2 <= *crowd).then_some(*to)
    };
    let moves = all.iter_mut().filter_map(|one| better(one).map(|to| (one, to)));
    let Some((one, to)) = moves.min_by_key(|(one, _)| one.lead_ns) else { return false };
    one.home = Some(to);
    true
}

/// Where somebody is far ahead of who has a worse place, they begin to change places. A host CPU takes part once.
fn take_turns(all: &mut [Contender], host_cpus: &[u32], given: &Given) {
    let mut left: Vec<u32> = host_cpus.to_vec();
    while let Some(Turn { ahead, behind, from, to }) = next_turn(all, &left, given) {
        all[behind].home = Some(to);
        all[ahead].next_home = Some(from).filter(|cpu| all[ahead].may(*cpu));
        left.retain(|cpu| *cpu != from && *cpu != to);
    }
}

/// Who is behind goes from there to where it is better, who is ahead there.
struct Turn {
    ahead: usize,
    behind: usize,
    from: u32,
    to: u32,
}

/// Between the two that are furthest apart.
fn next_turn(all: &[Contender], host_cpus: &[u32], given: &Given) -> Option<Turn> {
    let on = |cpu: u32| (0..all.len()).filter(move |n| all[*n].is_on(cpu));
    let each = |cpu: u32| given.get(&cpu).unwrap_or(&1.0) / load(all, cpu) as f64;
    let better = |to: u32, from: u32| load(all, to) < load(all, from) || each(to) > BETTER * each(from);
    let (mut apart, mut best) = (FAR_NS, None);
    for &from in host_cpus {
        for &to in host_cpus.iter().filter(|to| better(**to, from)) {
            let Some(behind) = on(from).filter(|n| all[*n].may(to)).min_by_key(|n| all[*n].lead_ns) else { continue };
            let Some(ahead) = on(to).max_by_key(|n| all[*n].lead_ns) else { continue };
            let distance = all[ahead].lead_ns - all[behind].lead_ns;
            if distance > apart {
                (apart, best) = (distance, Some(Turn { ahead, behind, from, to }));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_NS: u64 = 20_000_000;

    fn contender(owner: i32, cpu: u32, allowed: u64) -> Contender {
        Contender {
            owner,
            cpu,
            allowed: vec![allowed],
            at: 0,
            ran_ns: 0,
            counted_ns: 0,
            seen_ns: 0,
            lead_ns: 0,
            home: None,
            next_home: None,
        }
    }

    /// A machine of each number of virtual CPUs, on so many host CPUs.
    fn machines(sizes: &[u32], host_cpus: u32) -> Vec<Contender> {
        let machine = |(owner, size): (usize, &u32)| {
            let one = move |cpu| contender(owner as i32 + 1, cpu, (1 << host_cpus) - 1);
            (0..*size).map(one).collect::<Vec<_>>()
        };
        sizes.iter().enumerate().flat_map(machine).collect()
    }

    /// A host that divides each of its CPUs evenly among who is there, and never moves anybody that is bound.
    fn run(all: &mut [Contender], ns: u64) {
        run_with(all, ns, 0, 0);
    }

    /// The same, but who arrives is alone there for the first so many looks, and others are on the first host CPU.
    fn run_with(all: &mut [Contender], ns: u64, favour: u64, others: u64) {
        let mut given = Given::new();
        let mut fresh = vec![0; all.len()];
        for look in 1..=ns / LOOK_NS {
            decide(all, &mut given, LOOK_NS);
            for (one, fresh) in all.iter_mut().zip(&mut fresh) {
                if let Some(home) = one.home.filter(|home| *home != one.at) {
                    one.at = home;
                    *fresh = look + favour;
                }
            }
            for n in 0..all.len() {
                let there = || (0..all.len()).filter(|other| all[*other].at == all[n].at);
                let newest = there().map(|other| fresh[other]).max().filter(|until| *until > look);
                let crowd = there().filter(|other| newest.is_none_or(|until| fresh[*other] == until));
                if newest.is_none_or(|until| fresh[n] == until) {
                    let part = LOOK_NS / (crowd.count() as u64 + if all[n].at == 0 { others } else { 0 });
                    all[n].ran_ns += part;
                }
            }
        }
    }

    fn seconds(one: &Contender) -> f64 {
        one.ran_ns as f64 / 1e9
    }

    #[test]
    fn all_get_the_same_within_two_percent() {
        for (sizes, host_cpus) in [
            (&[2, 1][..], 2),
            (&[4, 1], 2),
            (&[8, 4], 2),
            (&[3, 4], 4),
            (&[1, 1, 1, 1, 1], 4),
            (&[2, 1], 1),
            (&[64, 1], 2),
        ] {
            let mut all = machines(sizes, host_cpus);
            run(&mut all, 10_000_000_000);
            let fair = 10.0 * f64::from(host_cpus) / all.len() as f64;
            for one in &all {
                let apart = (seconds(one) - fair).abs();
                assert!(apart < 0.1_f64.max(fair / 50.0), "{sizes:?} on {host_cpus}: {one:?}, fair is {fair} s");
            }
        }
    }

    #[test]
    fn a_host_that_favours_who_arrives_changes_little() {
        for favour in [1, 2, 4, 8, 16] {
            let mut all = machines(&[2, 1], 2);
            run_with(&mut all, 10_000_000_000, favour, 0);
            assert!(all.iter().all(|one| (seconds(one) - 20.0 / 3.0).abs() < 0.2), "{favour}: {all:?}");
        }
    }

    #[test]
    fn where_others_take_much_nobody_stays_for_long() {
        for (sizes, others) in [(&[2, 1][..], 1), (&[2, 1], 3), (&[2, 2], 3), (&[4, 1], 9)] {
            let mut all = machines(sizes, 2);
            run_with(&mut all, 10_000_000_000, 0, others);
            let all: Vec<f64> = all.iter().map(seconds).collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            assert!(all.iter().all(|one| (one - mean).abs() < 0.2), "{sizes:?} beside {others}: {all:?}");
        }
    }

    #[test]
    fn without_competition_the_host_does_as_it_likes() {
        for (sizes, host_cpus) in [(&[1, 1][..], 2), (&[5], 2), (&[2, 1], 4), (&[], 2), (&[2, 1], 1)] {
            let mut all = machines(sizes, host_cpus);
            run(&mut all, 1_000_000_000);
            assert!(all.iter().all(|one| one.home.is_none()), "{sizes:?} on {host_cpus}");
        }
    }

    #[test]
    fn homes_end_with_the_competition() {
        let mut all = machines(&[2, 1], 2);
        run(&mut all, 1_000_000_000);
        assert!(all.iter().all(|one| one.home.is_some()));
        all.pop();
        decide(&mut all, &mut Given::new(), LOOK_NS);
        assert!(all.iter().all(|one| one.home.is_none() && one.lead_ns == 0));
    }

    #[test]
    fn nobody_goes_where_it_may_not() {
        let mut all = machines(&[2, 1], 2);
        all[2].allowed = vec![0b10];
        for _ in 0..50 {
            run(&mut all, 10 * LOOK_NS);
            assert_eq!(all[2].home, Some(1));
        }
        // The others take turns beside it, and it has no less than two of three on one.
        assert!((seconds(&all[0]) - seconds(&all[1])).abs() < 0.2, "{all:?}");
        let mut apart = machines(&[1, 2], 2);
        (apart[0].allowed, apart[1].allowed, apart[2].allowed) = (vec![1], vec![2], vec![2]);
        run(&mut apart, 1_000_000_000);
        assert_eq!(apart.iter().map(|one| one.home).collect::<Vec<_>>(), [Some(0), Some(1), Some(1)]);
    }

    #[test]
    fn no_host_cpu_becomes_empty() {
        let mut all = machines(&[2, 1], 2);
        for _ in 0..500 {
            run(&mut all, LOOK_NS);
            assert!(load(&all, 0) > 0 && load(&all, 1) > 0);
        }
    }

    #[test]
    fn who_comes_late_or_was_long_away_has_no_credit() {
        let mut all = machines(&[2, 1], 2);
        run(&mut all, 5_000_000_000);
        let mut late = contender(3, 0, 3);
        (late.ran_ns, late.counted_ns) = (7, 7);
        all.push(late);
        let before: Vec<f64> = all.iter().map(seconds).collect();
        run(&mut all, 3_000_000_000);
        for (one, before) in all.iter().zip(before) {
            assert!((seconds(one) - before - 1.5).abs() < 0.2, "{one:?} {before}");
        }
    }

    #[test]
    fn nonsense_of_another_machine_does_no_harm() {
        let mut all = machines(&[2, 1], 2);
        all[2] = Contender {
            allowed: vec![],
            at: u32::MAX,
            ran_ns: u64::MAX,
            counted_ns: 0,
            lead_ns: i64::MIN,
            home: Some(9999),
            ..all[2].clone()
        };
        let mut given = Given::from([(0, f64::NAN), (1, -1.0), (u32::MAX, f64::INFINITY)]);
        decide(&mut all, &mut given, 0);
        (all[0].lead_ns, all[1].lead_ns, all[1].ran_ns) = (i64::MAX, i64::MAX, 0);
        decide(&mut all, &mut given, LOOK_NS);
        assert!(all.iter().all(|one| one.lead_ns.abs() <= BOUND_NS));
    }
}
