//! Turns: in virtual time one virtual CPU runs at a time, the one whose clock is furthest behind.
//!
//! ```text
//!            give_up: yield                        granted
//! Running ------------------> Ready{clock} ----------------------> Running
//!    |                          ^
//!    | give_up: idle            | called at a time, or interrupted by a device
//!    '-------> Idle{clock, until} -------------------------------> Running
//!                                   granted: nobody is earlier than `until`
//! ```
//!
//! The right to run (the *baton*) is named by one word of a table under a lock; whoever gives it up chooses the next one and
//! rings that one's doorbell. A virtual CPU without the baton is in [`Turns::rest`] and does nothing else, so spinning locks
//! are never contended. A device that interrupts one which rests makes it ready, or lets it take a baton that nobody has.
//! The table alone decides; doorbells may ring too often. Rest keeps nothing on the stack: a slot that the host kills there
//! is replaced by one that rests on.
//!
//! Used by [`crate::vtime`]. Lock: the table's, innermost. Model: `loom-tests/tests/turns.rs`.

use crate::const_new;
use crate::ipi::Line;
use crate::lock::RawSpin;
use crate::sync::{AtomicU64, Ordering::*, UnsafeCell, mutant};

/// Where a virtual CPU stands. Times are virtual, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    /// Not taking part.
    Absent,
    /// Has the baton; got it at this time.
    Running { clock: u64 },
    /// Could go on at this time.
    Ready { clock: u64 },
    /// Has had nothing to do since `clock`, and will by itself at `until`.
    Idle { clock: u64, until: Option<u64> },
}

impl Seat {
    /// When it could go on, if nobody calls it.
    fn next(self) -> Option<u64> {
        match self {
            Seat::Ready { clock } => Some(clock),
            Seat::Idle { clock, until } => until.map(|until| until.max(clock)),
            Seat::Absent | Seat::Running { .. } => None,
        }
    }
}

/// How a virtual CPU gives up the baton.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It could go on at once.
    Yields,
    /// It has nothing to do until this time, or until somebody calls.
    Idles(Option<u64>),
    /// For good.
    Departs,
}

/// What passes while nobody has the baton.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lull {
    /// Virtual time jumps to the next deadline: no device interrupts of its own accord.
    Jumps,
    /// Likewise, and devices are heard when nobody else can go on: when they interrupt changes nothing else.
    Silent,
    /// Virtual time passes as the host's does, in which devices may interrupt.
    Passes,
}

/// Protected by `Turns::lock`.
struct Table<const N: usize> {
    seats: [Seat; N],
    /// Seats that were ever taken: the first ones.
    used: usize,
    holder: Option<usize>,
    lull: Lull,
    /// How far the clocks of those that run may drift apart, ns.
    quantum_ns: u64,
    /// Virtual time of the last hand-over.
    time: u64,
    /// Host time since when nobody has the baton.
    free_since: u64,
    /// State of the generator that decides between equals; not 0.
    random: u64,
}

/// The turns of at most `N` virtual CPUs.
pub struct Turns<const N: usize> {
    lock: RawSpin,
    table: UnsafeCell<Table<N>>,
    /// Virtual time at which the running one must give up the baton; `u64::MAX` = nobody waits for it.
    limit: AtomicU64,
}

// SAFETY: the table is reached under the lock only.
unsafe impl<const N: usize> Sync for Turns<N> {}

/// What one that rests finds.
enum Look {
    /// It has the baton.
    Mine,
    /// It waits; nobody has the baton, and it is the first to go on by itself, so many ns from now.
    First(u64),
    Wait,
}

impl<const N: usize> Turns<N> {
    const_new! {
        /// Nobody takes part.
        pub fn new() -> Self {
            let table = Table {
                seats: [Seat::Absent; N],
                used: 0,
                holder: None,
                lull: Lull::Jumps,
                quantum_ns: 0,
                time: 0,
                free_since: 0,
                random: 1,
            };
            Self { lock: RawSpin::new(), table: UnsafeCell::new(table), limit: AtomicU64::new(u64::MAX) }
        }
    }

    /// Begins: `first` runs, at time `clock`. `seed`, not 0, decides who of about equals goes on.
    pub fn begin(&self, first: usize, clock: u64, quantum_ns: u64, lull: Lull, seed: u64) {
        self.locked(|table| {
            table.seats[first] = Seat::Running { clock };
            table.used = table.used.max(first + 1);
            table.holder = Some(first);
            (table.time, table.quantum_ns, table.lull, table.random) = (clock, quantum_ns, lull, seed);
        });
    }

    /// `me` takes part from now on, by [`Self::rest`]ing.
    pub fn join(&self, me: usize) {
        self.locked(|table| {
            table.seats[me] = Seat::Ready { clock: table.time };
            table.used = table.used.max(me + 1);
            if table.holder.is_none() {
                table.take(me, table.time);
            }
        });
    }

    /// `me`, which runs, gives up the baton at `clock`; returns whose doorbell must ring. Then it rests, unless it departs.
    #[must_use]
    pub fn give_up(&self, me: usize, clock: u64, leave: Leave, host_ns: u64) -> Option<usize> {
        self.locked(|table| {
            table.seats[me] = match leave {
                Leave::Yields => Seat::Ready { clock },
                Leave::Idles(until) => Seat::Idle { clock, until },
                Leave::Departs => Seat::Absent,
            };
            table.hand_on(clock, host_ns).filter(|&next| next != me && !mutant("turns-grant-silent"))
        })
    }

    /// `target` has something to do since `clock`. By the one that runs.
    pub fn call(&self, target: usize, clock: u64) {
        self.locked(|table| table.call(target, clock));
    }

    /// Whether `target` has nothing to do and was not called.
    pub fn is_idle(&self, target: usize) -> bool {
        self.locked(|table| matches!(table.seats[target], Seat::Idle { .. }))
    }

    /// Whether `me` has the baton.
    pub fn runs(&self, me: usize) -> bool {
        matches!(self.look(me), Look::Mine)
    }

    /// Virtual time at which the running one must give up the baton.
    #[inline]
    pub fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// When `me`, which runs, got the baton.
    pub fn started(&self, me: usize) -> u64 {
        self.locked(|table| match table.seats[me] {
            Seat::Running { clock } => clock,
            _ => table.time,
        })
    }

    /// Sleeps until `me` has the baton. `line` is its own; `host_ns` the host's clock.
    pub fn rest(&self, me: usize, line: Line<'_>, host_ns: impl Fn() -> u64) {
        let mut found = Look::Wait;
        loop {
            let deadline_ns = match found {
                Look::First(ns) => Some(host_ns().saturating_add(ns)),
                _ => None,
            };
            let in_time = line.nap(deadline_ns, || {
                if line.pending.load(Relaxed) != 0 && !mutant("turns-device-ignored") {
                    self.interrupt(me, host_ns());
                }
                found = self.look(me);
                match found {
                    Look::Mine => true,
                    // The deadline is not known to the nap yet.
                    Look::First(_) => deadline_ns.is_none(),
                    Look::Wait => false,
                }
            });
            if !in_time {
                self.expire(me);
            }
            if self.runs(me) {
                return;
            }
        }
    }

    fn look(&self, me: usize) -> Look {
        self.locked(|table| table.look(me))
    }

    /// A device interrupted `me`, which rests.
    fn interrupt(&self, me: usize, host_ns: u64) {
        self.locked(|table| {
            if table.lull == Lull::Silent && table.holder.is_some() {
                return;
            }
            table.call(me, table.time);
            if table.holder.is_none() || mutant("turns-baton-doubled") {
                if table.lull == Lull::Passes {
                    table.time += host_ns.saturating_sub(table.free_since);
                }
                table.take(me, table.time);
            }
        });
    }

    /// The host's clock says that the deadline of `me` has come.
    fn expire(&self, me: usize) {
        self.locked(|table| {
            if let Look::First(ns) = table.look(me) {
                table.take(me, table.time + ns);
            }
        });
    }

    fn locked<R>(&self, f: impl FnOnce(&mut Table<N>) -> R) -> R {
        self.lock.lock();
        let (result, limit) = {
            let cell = self.table.get_mut();
            // SAFETY: the lock is held until the reference is gone.
            let table = unsafe { &mut *cell.as_ptr() };
            (f(table), table.limit())
        };
        self.limit.store(limit, Relaxed);
        self.lock.unlock();
        result
    }
}

impl<const N: usize> Default for Turns<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Table<N> {
    fn call(&mut self, target: usize, at: u64) {
        if let Seat::Idle { clock, .. } = self.seats[target] {
            self.seats[target] = Seat::Ready { clock: clock.max(at) };
        }
    }

    fn take(&mut self, who: usize, clock: u64) {
        let clock = match self.seats[who] {
            Seat::Ready { clock: own } | Seat::Idle { clock: own, .. } => clock.max(own),
            Seat::Running { .. } | Seat::Absent => clock,
        };
        self.seats[who] = Seat::Running { clock };
        self.holder = Some(who);
        self.time = self.time.max(clock);
    }

    /// Who goes on next, and when: one of those that are hardly later than the earliest. By the clocks alone those who have
    /// not waited for a lock would always be before those who have.
    fn first(&mut self) -> Option<(usize, u64)> {
        let least = self.seats[..self.used].iter().filter_map(|seat| seat.next()).min()?;
        let near = least.saturating_add(self.quantum_ns / 8);
        let mut best = None;
        let mut equals = 0;
        for who in 0..self.used {
            let Some(next) = self.seats[who].next().filter(|next| *next <= near) else { continue };
            equals += 1;
            if equals == 1 || self.draw().is_multiple_of(equals) {
                best = Some((who, next));
            }
        }
        best
    }

    /// xorshift64.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// The baton is free since `clock`: whoever is first gets it, or must look at the host's clock. Returns that one.
    fn hand_on(&mut self, clock: u64, host_ns: u64) -> Option<usize> {
        self.holder = None;
        self.free_since = host_ns;
        let first = self.first();
        let somebody_ready = self.seats[..self.used].iter().any(|seat| matches!(seat, Seat::Ready { .. }));
        match first {
            Some((who, next)) if somebody_ready || self.lull != Lull::Passes => self.take(who, next),
            _ => self.time = self.time.max(clock),
        }
        first.map(|(who, _)| who)
    }

    fn look(&mut self, me: usize) -> Look {
        match (self.holder, self.lull) {
            (Some(holder), _) if holder == me => Look::Mine,
            (None, Lull::Passes) => match self.seats[me].next() {
                Some(next)
                    if self.seats[..self.used].iter().all(|seat| seat.next().is_none_or(|other| other >= next)) =>
                {
                    Look::First(next.saturating_sub(self.time))
                }
                _ => Look::Wait,
            },
            _ => Look::Wait,
        }
    }

    /// See [`Turns::limit`].
    fn limit(&self) -> u64 {
        let next = self.seats[..self.used].iter().filter_map(|seat| seat.next()).min();
        next.map_or(u64::MAX, |next| next.saturating_add(self.quantum_ns))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn three() -> Turns<3> {
        let turns = Turns::new();
        turns.begin(0, 100, 10, Lull::Jumps, 1);
        turns.join(1);
        turns.join(2);
        turns
    }

    #[test]
    fn the_one_that_is_furthest_behind_runs_next() {
        let turns = three();
        assert_eq!(turns.limit(), 110);
        assert_eq!(turns.give_up(0, 130, Leave::Yields, 0), Some(1));
        assert_eq!(turns.give_up(1, 150, Leave::Yields, 0), Some(2));
        assert_eq!(turns.limit(), 140);
        assert_eq!(turns.give_up(2, 140, Leave::Yields, 0), Some(0));
        assert_eq!(turns.started(0), 130);
    }

    #[test]
    fn an_idle_one_goes_on_when_it_was_called_or_at_its_deadline() {
        let turns = three();
        assert_eq!(turns.give_up(0, 120, Leave::Idles(Some(500)), 0), Some(1));
        assert_eq!(turns.give_up(1, 120, Leave::Idles(None), 0), Some(2));
        assert!(turns.is_idle(1));
        turns.call(1, 300);
        assert!(!turns.is_idle(1));
        assert_eq!(turns.limit(), 310);
        assert_eq!(turns.give_up(2, 900, Leave::Idles(None), 0), Some(1));
        assert_eq!(turns.started(1), 300);
        assert_eq!(turns.limit(), 510);
        assert_eq!(turns.give_up(1, 310, Leave::Idles(None), 0), Some(0));
        assert_eq!(turns.started(0), 500, "virtual time jumped");
        assert_eq!(turns.give_up(0, 510, Leave::Idles(None), 0), None);
    }

    #[test]
    fn where_devices_may_interrupt_a_lull_takes_the_hosts_time() {
        let turns: Turns<2> = Turns::new();
        turns.begin(0, 100, 10, Lull::Passes, 1);
        assert_eq!(turns.give_up(0, 150, Leave::Idles(Some(400)), 7000), None);
        assert!(matches!(turns.look(0), Look::First(250)));
        turns.interrupt(0, 7050);
        assert!(matches!(turns.look(0), Look::Mine));
        assert_eq!(turns.started(0), 200);
    }

    #[test]
    fn who_departs_is_never_chosen() {
        let turns = three();
        assert_eq!(turns.give_up(0, 1, Leave::Departs, 0), Some(1));
        assert_eq!(turns.give_up(1, 200, Leave::Yields, 0), Some(2));
        assert_eq!(turns.give_up(2, 300, Leave::Yields, 0), Some(1));
    }

    #[test]
    fn about_equals_are_chosen_by_the_seed() {
        let order = |seed: u64| {
            let turns: Turns<4> = Turns::new();
            turns.begin(0, 100, 10, Lull::Jumps, seed);
            (1..4).for_each(|me| turns.join(me));
            let mut now = 0;
            let mut order = [0; 24];
            for (round, next) in order.iter_mut().enumerate() {
                now = turns.give_up(now, 100, Leave::Yields, 0).unwrap_or(now);
                *next = now;
                assert!(now < 4, "round {round}");
            }
            order
        };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
    }
}
