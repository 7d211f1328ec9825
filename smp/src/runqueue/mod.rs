//! The run queue of one virtual CPU: what is runnable here, and which comes next.
//!
//! Those with a deadline first, the earliest before the others, as long as they have run time left (`deadline.rs`); then real-time
//! entities, by priority and arrival, which leave the others a part of their time (`share.rs`). Below them the fair class is EEVDF, as in Linux's
//! kernel/sched/fair.c and Stoica and Abdel-Wahab's "Earliest Eligible Virtual Deadline First": an entity's virtual
//! runtime grows by what it ran, divided by its weight; entities at or behind the weighted average are eligible; the
//! eligible one with the earliest virtual deadline runs.
//!
//! What an entity weighs follows from its nice value and from how many others its [`Group`]s have. How soon it runs follows
//! from its slice: who asks for less at once has the earlier deadline.
//!
//! An entity is *attached* to a queue while it counts in its average: queued here, or popped and running. What moves
//! between queues, or blocks, is detached and keeps only its lag (how far it is behind the average), so virtual times of
//! different queues need no common origin.
//!
//! An entity is allocated once a thread and moves by its box: no operation here allocates or fails. The queue itself takes
//! no locks; its user keeps it behind a spinning lock of rank `RunQueue`. Times in ns.
//! Model: `loom-tests/tests/runqueue.rs`.

mod deadline;
mod entity;
mod group;
mod share;
mod tree;

pub use deadline::Budget;
pub use entity::{BASE_SLICE_NS, Class, Entity, Params, RR_SLICE_NS, SLICES_NS, weight_of_nice};
pub use group::Group;
pub use share::set_real_time_share;
pub use tree::Key;

use crate::sync::mutant;
use alloc::boxed::Box;
use share::Share;
use tree::Tree;

/// How an entity comes to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// For the first time.
    New,
    /// After blocking.
    Woken,
    /// From another queue.
    Moved,
}

/// Why a running entity goes back to its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Something else should run, or its slice is over.
    Preempted,
    /// sched_yield(2).
    Yielded,
}

/// The runnable entities of one virtual CPU.
#[derive(Debug)]
pub struct RunQueue<T> {
    rt: Tree<T>,
    /// Attached like the others, until their next period: by its beginning.
    resting: Tree<T>,
    fair: Tree<T>,
    /// Weight of the attached fair entities.
    weight: u64,
    /// Sum of weight times virtual runtime of the attached fair entities.
    weighted: i128,
    share: Share,
    /// The average when it was last computed: what an empty queue goes on from.
    average: i64,
    /// Sequence numbers for arrivals at the back and at the front of their equals.
    back: i64,
    front: i64,
    /// Its virtual CPU is going away: nothing may be pushed from elsewhere.
    closed: bool,
    /// The number of its virtual CPU, by which groups keep their sums.
    cpu: u32,
}

impl<T> RunQueue<T> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            rt: Tree::new(),
            resting: Tree::new(),
            fair: Tree::new(),
            weight: 0,
            weighted: 0,
            share: Share::new(),
            average: 0,
            back: 0,
            front: -1,
            closed: false,
            cpu: 0,
        }
    }

    /// Says whose it is, before anything is attached.
    pub fn set_cpu(&mut self, cpu: u32) {
        self.cpu = cpu;
    }

    /// Attaches and queues a detached entity. The key finds it again until it is popped.
    pub fn push(&mut self, mut entity: Box<Entity<T>>, arrival: Arrival) -> Key {
        debug_assert!(!entity.attached, "pushed twice");
        entity.weigh();
        if let Class::Fair { .. } = entity.class {
            self.place(&mut entity, arrival);
        }
        self.attach(&mut entity);
        self.insert(entity, Place::Back)
    }

    /// As [`Self::push`], for those who do not know whether the virtual CPU is still there: gives the entity back if not.
    pub fn try_push(&mut self, entity: Box<Entity<T>>, arrival: Arrival) -> Result<Key, Box<Entity<T>>> {
        if self.closed && !mutant("runqueue-closed-ignored") {
            return Err(entity);
        }
        Ok(self.push(entity, arrival))
    }

    /// Takes no more entities, if none is queued; returns whether that is so now.
    #[must_use]
    pub fn close(&mut self) -> bool {
        self.closed = self.is_empty() && self.resting.len() == 0;
        self.closed
    }

    /// Takes entities again.
    pub fn open(&mut self) {
        self.closed = false;
    }

    /// Takes the entity that should run next; it stays attached.
    pub fn pop(&mut self) -> Option<Box<Entity<T>>> {
        if !self.is_fair_turn()
            && let Some(entity) = self.rt.pop_first()
        {
            return Some(entity);
        }
        let key = self.best_fair()?;
        let mut entity = self.fair.remove(key)?;
        entity.protected = entity.deadline;
        Some(entity)
    }

    /// Puts back an entity that was popped here.
    pub fn requeue(&mut self, mut entity: Box<Entity<T>>, why: Requeue) -> Key {
        debug_assert!(entity.attached, "requeued where it never ran");
        let place = match (entity.class, why) {
            (Class::Fair { .. }, Requeue::Yielded) => {
                entity.deadline = entity.deadline.saturating_add(entity.virtual_slice());
                Place::Back
            }
            (Class::Fair { .. }, Requeue::Preempted) => Place::Back,
            (Class::Deadline(_), Requeue::Yielded) => {
                entity.job.end();
                Place::Back
            }
            (_, Requeue::Yielded) => Place::Back,
            // POSIX: preempted goes to the head of its list, a used-up round-robin slice to the tail.
            (_, Requeue::Preempted) if entity.renew_rr_slice() => Place::Back,
            (_, Requeue::Preempted) => Place::Front,
        };
        self.insert(entity, place)
    }

    /// Detaches an entity that was popped here and now blocks, ends, moves or changes class.
    pub fn detach(&mut self, entity: &mut Entity<T>) {
        debug_assert!(entity.attached, "detached twice");
        entity.attached = false;
        if let Class::Fair { .. } = entity.class {
            let average = self.average();
            let limit = 2 * entity.virtual_slice();
            entity.lag = (average - entity.vruntime).clamp(-limit, limit);
            entity.deadline -= entity.vruntime;
            self.uncount(entity);
        }
    }

    /// Changes what an entity that was popped here is scheduled by.
    pub fn configure(&mut self, entity: &mut Entity<T>, params: Params) {
        self.detach(entity);
        entity.configure(params);
        if let Class::Fair { .. } = entity.class {
            self.place(entity, Arrival::Moved);
            entity.protected = entity.deadline;
        }
        self.attach(entity);
    }

    /// Makes an entity that was popped here weigh what it should by now. Its lag in real time, and what it has left of its
    /// slice, stay what they are.
    pub fn reweigh(&mut self, entity: &mut Entity<T>) {
        debug_assert!(entity.attached, "weighed where it does not run");
        let (parts, weight) = entity.weighed();
        if !matches!(entity.class, Class::Fair { .. }) || (parts == entity.parts && weight == entity.weight) {
            return;
        }
        let average = self.average();
        self.uncount(entity);
        let scale = |span: i64| (i128::from(span) * i128::from(entity.weight) / i128::from(weight)) as i64;
        let (lag, left) = (scale(average - entity.vruntime), scale(entity.deadline - entity.vruntime));
        let protected = scale(entity.protected - entity.vruntime);
        (entity.parts, entity.weight) = (parts, weight);
        entity.vruntime = average - lag;
        entity.deadline = entity.vruntime + left;
        entity.protected = entity.vruntime + protected;
        self.count(entity);
    }

    /// Takes a queued entity out, detached; `None` if it is not queued here.
    pub fn remove(&mut self, key: Key) -> Option<Box<Entity<T>>> {
        let mut entity = match key.real_time {
            true => self.rt.remove(key)?,
            false => self.fair.remove(key)?,
        };
        self.detach(&mut entity);
        Some(entity)
    }

    /// Takes out the queued entity that `is_wanted` accepts, detached. Looks at all of them.
    pub fn take(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<Box<Entity<T>>> {
        if let Some(key) = self.resting.find_first(&is_wanted) {
            let mut entity = self.resting.remove(key)?;
            self.detach(&mut entity);
            return Some(entity);
        }
        let key = self.rt.find_first(&is_wanted).or_else(|| self.fair.find_first(&is_wanted))?;
        self.remove(key)
    }

    /// Takes one queued entity that `may_move` accepts, detached: the most urgent real-time one, else the fair one that
    /// would have waited longest.
    pub fn steal(&mut self, may_move: impl Fn(&T) -> bool) -> Option<Box<Entity<T>>> {
        let key = match self.rt.find_first(&may_move) {
            Some(key) => key,
            None => self.fair.find_last(&may_move)?,
        };
        self.remove(key)
    }

    /// Takes half of the queued entities (rounded up) that `may_move` accepts, as [`Self::steal`] does; returns how many.
    pub fn steal_half(&mut self, may_move: impl Fn(&T) -> bool, mut take: impl FnMut(Box<Entity<T>>)) -> usize {
        let wanted = self.len().div_ceil(2);
        for stolen in 0..wanted {
            match self.steal(&may_move) {
                Some(entity) => take(entity),
                None => return stolen,
            }
        }
        wanted
    }

    /// Accounts `ran_ns` to an entity that was popped here; returns whether its slice is over.
    pub fn charge(&mut self, entity: &mut Entity<T>, ran_ns: u64) -> bool {
        debug_assert!(entity.attached, "charged where it does not run");
        if let Class::Fair { .. } = entity.class {
            self.weighted -= entity.weighted();
        }
        let over = entity.charge(ran_ns);
        if let Class::Fair { .. } = entity.class {
            self.weighted += entity.weighted();
            self.share.fair_ran(ran_ns);
        } else {
            self.share.other_ran(ran_ns, self.fair.len() != 0);
        }
        over
    }

    /// Whether something queued should run instead of `running`, which was popped here.
    pub fn preempts(&mut self, running: &Entity<T>) -> bool {
        if self.is_fair_turn() && running.is_real_time() {
            return true;
        }
        if let Some(first) = self.rt.first()
            && (first.is_budgeted() || !self.share.is_turn())
        {
            return match running.class {
                Class::Fair { .. } => true,
                Class::RoundRobin { .. } if running.rr_slice_over() => first.rank() <= running.rank(),
                _ => first.rank() < running.rank(),
            };
        }
        if !matches!(running.class, Class::Fair { .. }) {
            return false;
        }
        let eligible = self.is_eligible(running.vruntime);
        match self.best_fair().and_then(|key| self.fair.get(key)) {
            Some(best) => !eligible || best.deadline < running.deadline,
            None => false,
        }
    }

    /// Whether fair entities run before real-time ones now.
    fn is_fair_turn(&self) -> bool {
        self.share.is_turn() && self.fair.len() != 0 && !self.rt.first().is_some_and(|first| first.is_budgeted())
    }

    /// As [`Self::preempts`], when the time comes to look: who runs keeps on until its slice is over, except for somebody
    /// who asked for a shorter one. Who is spent does not.
    pub fn expires(&mut self, running: &Entity<T>) -> bool {
        if running.is_spent() {
            return true;
        }
        let within = matches!(running.class, Class::Fair { .. }) && running.vruntime < running.protected;
        if !within || (self.rt.len() != 0 && !self.share.is_turn()) {
            return self.preempts(running);
        }
        let best = self.best_fair().and_then(|key| self.fair.get(key));
        best.is_some_and(|best| best.slice_ns < running.slice_ns && best.deadline < running.deadline)
    }

    /// How long `running`, which was popped here, may go on before somebody must look again.
    pub fn slice_ns(&self, running: Option<&Entity<T>>) -> u64 {
        if let Some(running) = running.filter(|running| running.is_budgeted()) {
            return running.job.left_ns();
        }
        let own_ns = running.map_or(BASE_SLICE_NS, |running| running.slice_ns);
        self.fair.shortest_ns().map_or(own_ns, |shortest_ns| shortest_ns.min(own_ns))
    }

    /// Those whose next period has begun by `now_ns` may run again.
    pub fn replenish(&mut self, now_ns: u64) {
        while self.resting_until().is_some_and(|next_ns| next_ns <= now_ns) {
            self.end_rest(now_ns);
        }
    }

    /// All that rest may run again.
    pub fn release(&mut self) {
        while self.resting.len() != 0 {
            self.end_rest(0);
        }
    }

    fn end_rest(&mut self, now_ns: u64) {
        if let Some(mut entity) = self.resting.pop_first() {
            entity.job.replenish(now_ns);
            self.insert(entity, Place::Back);
        }
    }

    /// When the first of those that rest may run again.
    pub fn resting_until(&self) -> Option<u64> {
        self.resting.first().map(|entity| entity.job.next_ns())
    }

    /// Entities queued (the running one does not count, nor those that rest).
    pub fn len(&self) -> usize {
        self.rt.len() + self.fair.len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Weight of the attached fair entities, the running one included.
    pub fn load(&self) -> u64 {
        self.weight
    }

    /// Calls `visit` for every queued entity.
    pub fn for_each(&self, mut visit: impl FnMut(&Entity<T>)) {
        self.rt.for_each(&mut visit);
        self.fair.for_each(&mut visit);
    }

    /// The weighted average of virtual runtimes.
    fn average(&mut self) -> i64 {
        if self.weight != 0 {
            self.average = self.weighted.div_euclid(i128::from(self.weight)) as i64;
        }
        self.average
    }

    /// Whether an entity with this virtual runtime has had at most its share.
    fn is_eligible(&self, vruntime: i64) -> bool {
        i128::from(vruntime) * i128::from(self.weight) <= self.weighted
    }

    /// Gives an arriving fair entity its virtual runtime and deadline.
    fn place(&mut self, entity: &mut Entity<T>, arrival: Arrival) {
        let average = self.average();
        // Its own weight moves the average: without this correction its lag would shrink on arrival.
        let lag = match self.weight {
            0 => 0,
            load => {
                let load = i128::from(load);
                (i128::from(entity.lag) * (load + i128::from(entity.weight)) / load) as i64
            }
        };
        entity.vruntime = average - lag;
        let until_deadline = match arrival {
            // Newcomers start with half a slice, so that a stream of them does not crowd out the others.
            Arrival::New => entity.virtual_slice() / 2,
            Arrival::Woken => entity.virtual_slice(),
            Arrival::Moved => entity.deadline.clamp(1, entity.virtual_slice()),
        };
        entity.deadline = entity.vruntime + until_deadline;
    }

    fn attach(&mut self, entity: &mut Entity<T>) {
        entity.attached = true;
        if let Class::Fair { .. } = entity.class {
            self.count(entity);
        }
    }

    fn count(&mut self, entity: &Entity<T>) {
        self.weight += entity.weight;
        self.weighted += entity.weighted();
        group::add(entity.group.as_deref(), self.cpu, &entity.parts);
    }

    fn uncount(&mut self, entity: &Entity<T>) {
        self.weight -= entity.weight;
        self.weighted -= entity.weighted();
        group::subtract(entity.group.as_deref(), self.cpu, &entity.parts);
    }

    fn insert(&mut self, mut entity: Box<Entity<T>>, place: Place) -> Key {
        let seq = match place {
            Place::Back => {
                self.back += 1;
                self.back
            }
            Place::Front => {
                self.front -= 1;
                self.front
            }
        };
        let (real_time, major) = match entity.class {
            Class::Fair { .. } => (false, entity.vruntime),
            Class::Deadline(_) if entity.job.is_spent() => (true, entity.job.next_ns() as i64),
            _ => (true, entity.rank()),
        };
        let key = Key { real_time, major, seq };
        entity.key = key;
        if entity.is_spent() {
            self.resting.insert(entity);
            return key;
        }
        match real_time {
            true => self.rt.insert(entity),
            false => self.fair.insert(entity),
        }
        key
    }

    /// The eligible queued fair entity with the earliest deadline. When only the running entity is eligible, the queued
    /// one that is the least ahead.
    fn best_fair(&self) -> Option<Key> {
        self.fair
            .earliest_deadline(|vruntime| self.is_eligible(vruntime))
            .or_else(|| self.fair.first().map(|entity| entity.key))
    }
}

impl<T> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where among its equals an entity goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Front,
    Back,
}

#[cfg(all(test, not(loom)))]
mod tests;
