//! Descriptors under way in messages, and sockets that nobody but such messages can reach.
//!
//! A socket whose descriptor waits in its own inbox, directly or in a circle of others, would live for ever. [`collect`] finds
//! these: sockets all of whose references are messages, all of which wait in such sockets. What waits in their inboxes is
//! thrown away, which closes them. It runs when sockets close, and when a process has closed its last one; an inbox that is in use just then keeps its circle until the
//! next time.
//!
//! Locks: `IN_FLIGHT`, `GRAVES` (rank Leaf); inboxes by `try_lock` only, since a close must not sleep.

use super::Socket;
use super::inbox::Inbox;
use crate::fs::File;
use crate::net::socket;
use crate::room::push;
use crate::task::{Charge, Count, User};
use crate::{Errno, Result};
use alloc::collections::{BTreeMap, LinkedList};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use umbel_smp::lock::{Rank, SpinLock};

/// Sockets whose descriptors are in messages, by number: their file, and in how many.
static IN_FLIGHT: SpinLock<BTreeMap<u64, (Weak<File>, usize)>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

/// The descriptors of a message that waits, charged to who sent it.
#[derive(Default)]
pub struct InFlight(Vec<Arc<File>>, Option<Charge>);

/// The socket of this family behind a file.
fn unix(file: &File) -> Option<&Socket> {
    socket::of(file).ok()?.as_any().downcast_ref()
}

impl InFlight {
    /// These begin to wait.
    pub fn new(files: Vec<Arc<File>>, sender: Option<&Arc<User>>) -> InFlight {
        let charge = sender.and_then(|user| user.charge(Count::InFlight, files.len() as u64, u64::MAX));
        for file in &files {
            if let Some(socket) = unix(file) {
                DUE.store(true, Relaxed);
                let mut all = IN_FLIGHT.lock();
                all.entry(socket.common.id).or_insert_with(|| (Arc::downgrade(file), 0)).1 += 1;
            }
        }
        InFlight(files, charge)
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same descriptors, for somebody who looks without taking.
    pub fn copy(&self) -> Vec<Arc<File>> {
        self.0.clone()
    }

    /// They wait no more.
    pub fn take(&mut self) -> Vec<Arc<File>> {
        let files = core::mem::take(&mut self.0);
        self.1 = None;
        for file in &files {
            let Some(socket) = unix(file) else { continue };
            let mut all = IN_FLIGHT.lock();
            if let Some(entry) = all.get_mut(&socket.common.id) {
                entry.1 -= 1;
                if entry.1 == 0 {
                    all.remove(&socket.common.id);
                }
            }
        }
        files
    }

    /// The numbers of the sockets among them.
    fn sockets(&self) -> impl Iterator<Item = u64> {
        self.0.iter().filter_map(|file| unix(file).map(|socket| socket.common.id))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Closes that pass before the next collection: in proportion to what the last one left, so that many closes beside many
/// sockets in flight do not each look at all of these.
static SKIP: AtomicUsize = AtomicUsize::new(0);
/// A socket went into a message, or a close was passed over, since a process has closed all that it had.
static DUE: AtomicBool = AtomicBool::new(false);

/// A socket was closed.
pub fn closed() {
    if SKIP.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        DUE.store(true, Relaxed);
        return;
    }
    collect();
    SKIP.store(IN_FLIGHT.lock().len() / 4, Relaxed);
}

/// A process has closed all that it had. A descriptor whose socket is in a message, too, is no close of that socket.
pub fn settle() {
    if DUE.load(Relaxed) && DUE.swap(false, Relaxed) {
        collect();
    }
}

/// A socket in messages, as a collection sees it.
struct Seen {
    id: u64,
    /// Not kept: that would be one more reference.
    file: Weak<File>,
    /// Nobody but messages seems to hold it.
    is_held: bool,
    /// Of these messages, those that do not wait at sockets that are held so, too.
    outside: usize,
    /// It can be received.
    is_reached: bool,
    /// What waits there: a part of the list of all such.
    waiting: Range<usize>,
}

/// Throws away what only unreachable sockets would receive.
fn collect() {
    let Ok(all) = unreachable() else { return };
    for seen in all.iter().filter(|seen| seen.is_held && !seen.is_reached) {
        empty(&seen.file).into_iter().flatten().for_each(bury);
    }
}

/// The sockets in messages, with those marked that can be reached.
///
/// # Errors
/// `ENOMEM`: a close cannot fail, so nothing is collected this time. `EBUSY`: an inbox is in use.
fn unreachable() -> Result<Vec<Seen>> {
    let mut all = in_flight()?;
    // Places in `all` of what waits, by where it waits.
    let mut waiting: Vec<usize> = Vec::new();
    for at in 0..all.len() {
        if all[at].is_held {
            let start = waiting.len();
            contents(&all, at, &mut waiting)?;
            all[at].waiting = start..waiting.len();
        }
    }
    for &at in &waiting {
        all[at].outside = all[at].outside.saturating_sub(1);
    }
    // What waits at a socket that can be reached, can be reached.
    let mut reached: Vec<usize> = Vec::new();
    reached.try_reserve_exact(all.len()).map_err(|_| Errno::ENOMEM)?;
    for (at, seen) in all.iter_mut().enumerate().filter(|(_, seen)| seen.is_held && seen.outside > 0) {
        seen.is_reached = true;
        reached.push(at);
    }
    while let Some(at) = reached.pop() {
        for &next in &waiting[all[at].waiting.clone()] {
            if !core::mem::replace(&mut all[next].is_reached, true) {
                reached.push(next);
            }
        }
    }
    Ok(all)
}

/// What is in messages, by number.
fn in_flight() -> Result<Vec<Seen>> {
    let flying = IN_FLIGHT.lock();
    let mut all = Vec::new();
    all.try_reserve_exact(flying.len()).map_err(|_| Errno::ENOMEM)?;
    for (&id, (file, count)) in flying.iter() {
        let is_held = file.strong_count() == *count;
        all.push(Seen { id, file: file.clone(), is_held, outside: *count, is_reached: false, waiting: 0..0 });
    }
    Ok(all)
}

/// Inboxes of closed sockets, and whether somebody is dropping them.
static GRAVES: SpinLock<(bool, LinkedList<Inbox>)> = SpinLock::new(Rank::Leaf, (false, LinkedList::new()));

/// Drops an inbox. Descriptors in it may be the last of sockets with inboxes of their own, and so on to any depth: these are dropped
/// one after the other, not one inside the other.
pub fn bury(inbox: Inbox) {
    {
        let mut graves = GRAVES.lock();
        if graves.0 {
            // Piece by piece: a list in one piece may have no room.
            graves.1.push_back(inbox);
            return;
        }
        graves.0 = true;
    }
    let mut next = Some(inbox);
    while let Some(inbox) = next {
        drop(inbox);
        let mut graves = GRAVES.lock();
        next = graves.1.pop_back();
        graves.0 = next.is_some();
    }
}

/// Adds the places in `all` (sorted by number) of sockets whose descriptors wait at the one at `at`.
fn contents(all: &[Seen], at: usize, waiting: &mut Vec<usize>) -> Result<()> {
    let file = all[at].file.upgrade().ok_or(Errno::EBUSY)?;
    for socket in unix(&file).ok_or(Errno::EBUSY)?.with_backlog() {
        let inbox = socket.inbox.try_lock().ok_or(Errno::EBUSY)?;
        for id in inbox.in_flight().flat_map(InFlight::sockets) {
            let known = all.binary_search_by_key(&id, |seen| seen.id);
            if let Some(place) = known.ok().filter(|&place| all[place].is_held) {
                push(waiting, place)?;
            }
        }
    }
    Ok(())
}

/// Takes everything out of a socket's inboxes.
fn empty(file: &Weak<File>) -> Option<Vec<Inbox>> {
    let file = file.upgrade()?;
    let mut lost = Vec::new();
    for socket in unix(&file)?.with_backlog() {
        if let Some(mut inbox) = socket.inbox.try_lock() {
            lost.push(core::mem::take(&mut *inbox));
        }
    }
    Some(lost)
}

impl Socket {
    /// Itself, and the connections that wait for accept(2).
    fn with_backlog(&self) -> Vec<Arc<Socket>> {
        let mut all: Vec<Arc<Socket>> = self.me.upgrade().into_iter().collect();
        if let Some(backlog) = &self.state.lock().backlog {
            all.extend(backlog.iter().cloned());
        }
        all
    }
}
