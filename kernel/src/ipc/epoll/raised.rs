//! The items of an instance that are raised, each once, in the order in which they are to be looked at.
//!
//! A list linked through places. An item takes a place when it is added and gives it back when it is dropped: raising needs no
//! memory, so it can be done under a queue's lock, and an item that is removed leaves nothing behind, however often that happens.
//! Whoever still holds the ticket of a place that was given back raises nobody.
//!
//! Lock: the list (`Rank::Leaf`). Whoever changes what an item shows raises it afterwards; whoever takes an item looks at it
//! afterwards: in the order of the lock one of the two sees the other.

use crate::{Errno, Result};
use alloc::vec::Vec;
use umbel_smp::lock::{Rank, SpinLock};

/// No place.
const NONE: u32 = u32::MAX;

/// A place, and the number of its owner, which no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    place: u32,
    owner: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Raised<T>(SpinLock<List<T>>);

#[derive(Debug)]
struct List<T> {
    places: Vec<Place<T>>,
    /// The first free place; `next` leads to others.
    free: u32,
    first: u32,
    last: u32,
    raised: usize,
    owners: u64,
}

#[derive(Debug)]
struct Place<T> {
    /// 0 = free.
    owner: u64,
    item: Option<T>,
    raised: bool,
    before: u32,
    next: u32,
}

impl<T: Clone> Raised<T> {
    pub fn new() -> Raised<T> {
        let list = List { places: Vec::new(), free: NONE, first: NONE, last: NONE, raised: 0, owners: 0 };
        Raised(SpinLock::new(Rank::Leaf, list))
    }

    /// Takes a place. `ENOMEM`.
    pub fn join(&self) -> Result<Ticket> {
        self.0.lock().join()
    }

    /// The place is that of `item` from now on: before, it is taken for nobody.
    pub fn name(&self, ticket: Ticket, item: T) {
        if let Some(place) = self.0.lock().place(ticket) {
            place.item = Some(item);
        }
    }

    /// Gives the place back.
    pub fn leave(&self, ticket: Ticket) {
        let item = self.0.lock().leave(ticket);
        drop(item);
    }

    /// Puts the item at the end, unless it is on the list.
    pub fn raise(&self, ticket: Ticket) {
        self.0.lock().raise(ticket);
    }

    /// Puts the item at the end, as one that had just taken its place.
    pub fn raise_anew(&self, ticket: Ticket) {
        let mut list = self.0.lock();
        if list.place(ticket).is_some_and(|place| place.raised) {
            list.unlink(ticket.place);
        }
        list.raise(ticket);
    }

    /// Takes the first item off the list; `Some(None)` if its place has not been named yet.
    pub fn take(&self) -> Option<Option<T>> {
        self.0.lock().take()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().raised
    }

    /// All, in order; they stay. `ENOMEM`.
    pub fn all(&self) -> Result<Vec<T>> {
        let list = self.0.lock();
        let mut all = Vec::new();
        all.try_reserve(list.raised).map_err(|_| Errno::ENOMEM)?;
        let mut at = list.first;
        while let Some(place) = list.places.get(at as usize) {
            all.extend(place.item.clone());
            at = place.next;
        }
        Ok(all)
    }
}

impl<T> List<T> {
    fn join(&mut self) -> Result<Ticket> {
        self.owners += 1;
        let owner = self.owners;
        let new = Place { owner, item: None, raised: false, before: NONE, next: NONE };
        let place = self.free;
        if let Some(free) = self.places.get_mut(place as usize) {
            self.free = free.next;
            *free = new;
            return Ok(Ticket { place, owner });
        }
        let place = u32::try_from(self.places.len()).ok().filter(|place| *place != NONE).ok_or(Errno::ENOMEM)?;
        self.places.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.places.push(new);
        Ok(Ticket { place, owner })
    }

    fn place(&mut self, ticket: Ticket) -> Option<&mut Place<T>> {
        self.places.get_mut(ticket.place as usize).filter(|place| place.owner == ticket.owner)
    }

    fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let raised = self.place(ticket)?.raised;
        if raised {
            self.unlink(ticket.place);
        }
        let next = self.free;
        let place = self.place(ticket)?;
        let item = place.item.take();
        (place.owner, place.next) = (0, next);
        self.free = ticket.place;
        item
    }

    fn raise(&mut self, ticket: Ticket) {
        let before = self.last;
        let Some(place) = self.place(ticket).filter(|place| !place.raised) else { return };
        (place.raised, place.before, place.next) = (true, before, NONE);
        self.set_next(before, ticket.place);
        self.last = ticket.place;
        self.raised += 1;
    }

    fn take(&mut self) -> Option<Option<T>>
    where
        T: Clone,
    {
        let first = self.first;
        let item = self.places.get(first as usize)?.item.clone();
        self.unlink(first);
        Some(item)
    }

    fn unlink(&mut self, at: u32) {
        let Some(place) = self.places.get_mut(at as usize) else { return };
        place.raised = false;
        let (before, next) = (place.before, place.next);
        self.set_next(before, next);
        match self.places.get_mut(next as usize) {
            Some(next) => next.before = before,
            None => self.last = before,
        }
        self.raised -= 1;
    }

    fn set_next(&mut self, before: u32, next: u32) {
        match self.places.get_mut(before as usize) {
            Some(before) => before.next = next,
            None => self.first = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(raised: &Raised<u32>, item: u32) -> Ticket {
        let ticket = raised.join().unwrap();
        raised.name(ticket, item);
        ticket
    }

    #[test]
    fn each_is_on_the_list_once_and_in_order() {
        let raised = Raised::new();
        let tickets = [1, 2, 3].map(|item| named(&raised, item));
        for ticket in [tickets[1], tickets[0], tickets[1], tickets[2], tickets[0]] {
            raised.raise(ticket);
        }
        assert_eq!((raised.len(), raised.all().unwrap()), (3, [2, 1, 3].into()));
        assert_eq!(raised.take(), Some(Some(2)));
        raised.raise(tickets[1]);
        assert_eq!(raised.all().unwrap(), [1, 3, 2]);
        raised.leave(tickets[2]);
        assert_eq!(raised.all().unwrap(), [1, 2]);
        raised.leave(tickets[0]);
        raised.leave(tickets[1]);
        assert_eq!((raised.len(), raised.take()), (0, None));
    }

    #[test]
    fn places_are_used_again_and_old_tickets_are_nobodys() {
        let raised = Raised::new();
        let old = named(&raised, 1);
        raised.raise(old);
        raised.leave(old);
        for item in 0..1000 {
            let ticket = named(&raised, item);
            raised.raise(old);
            raised.leave(old);
            assert_eq!(raised.len(), 0);
            raised.raise(ticket);
            assert_eq!(raised.all().unwrap(), [item]);
            raised.leave(ticket);
        }
        assert_eq!(raised.0.lock().places.len(), 1);
    }

    #[test]
    fn a_place_without_a_name_is_taken_for_nobody() {
        let raised: Raised<u32> = Raised::new();
        let ticket = raised.join().unwrap();
        raised.raise(ticket);
        assert_eq!((raised.all().unwrap(), raised.take()), (Vec::new(), Some(None)));
        raised.raise(ticket);
        raised.name(ticket, 7);
        assert_eq!((raised.take(), raised.take()), (Some(Some(7)), None));
    }

    /// Whatever is done, the list is what a plain one would be.
    #[test]
    fn the_links_hold() {
        let (raised, mut model, mut live) = (Raised::new(), Vec::new(), Vec::new());
        let mut random = 12345_u64;
        for item in 0..20_000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = (random >> 33) as usize;
            match pick % 4 {
                0 => live.push((named(&raised, item), item)),
                1 if !live.is_empty() => {
                    let (ticket, item) = live.swap_remove(pick / 4 % live.len());
                    raised.leave(ticket);
                    model.retain(|one| *one != item);
                }
                2 if !live.is_empty() => {
                    let (ticket, item) = live[pick / 4 % live.len()];
                    raised.raise(ticket);
                    if !model.contains(&item) {
                        model.push(item);
                    }
                }
                3 if !model.is_empty() => assert_eq!(raised.take(), Some(Some(model.remove(0)))),
                _ => {}
            }
            assert_eq!(raised.len(), model.len());
        }
        assert_eq!(raised.all().unwrap(), model);
    }
}
