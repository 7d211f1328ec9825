//! Waiting on many files, registered once. Source: epoll(7).
//!
//! An [`Epoll`] keeps an [`Item`] for each file. A wake-up on one of the file's queues only raises the item's flag, puts it into the
//! list of raised items and wakes the instance ([`Hook`], called under that queue's lock); whoever waits looks at the files on
//! that list, so files that stay quiet cost nothing. A level-triggered item that has found something goes to the list's end again, an
//! edge-triggered one does not.
//!
//! Items do not keep files open: they hold weak references and are dropped when found dead, sooner or later.
//! Instances in instances: [`nest`].
//! Locks: `items` (rank `Epoll`), not held while files are looked at; the list of raised items (rank `Leaf`, [`raised`]).

mod nest;
mod raised;

use crate::fs::{File, FileOps, OpenFlags, PollEvents, PollTable};
use crate::signal::{self, PutOff};
use crate::task::Task;
use crate::{Errno, Fd, Result, time};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use nest::Nest;
use raised::Ticket;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake, WakeTarget};

/// Operations of epoll_ctl(2).
pub const ADD: u32 = 1;
pub const DEL: u32 = 2;
pub const MOD: u32 = 3;
/// `EPOLLET`, `EPOLLONESHOT`, `EPOLLWAKEUP`, `EPOLLEXCLUSIVE`.
const EDGE: u32 = 1 << 31;
const ONESHOT: u32 = 1 << 30;
const EXCLUSIVE: u32 = 1 << 28;
const OPTIONS: u32 = 0xf << 28;
/// What goes with `EXCLUSIVE`: `EPOLLIN`, `EPOLLOUT`, `EPOLLERR`, `EPOLLHUP`, `EPOLLWAKEUP`, `EPOLLET`.
const EXCLUSIVE_OK: u32 = EXCLUSIVE | 1 | 4 | ALWAYS | 1 << 29 | EDGE;
/// Reported whether asked for or not.
const ALWAYS: u32 = PollEvents::ERR.union(PollEvents::HUP).bits();

/// A registration of interest, and what it returns: `struct epoll_event`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub events: u32,
    pub data: u64,
}

impl Event {
    /// Whether more is wanted than to be told of levels.
    pub fn has_options(&self) -> bool {
        self.events >> 16 != 0
    }
}

/// What the gate noted for a descriptor that was registered, and is to be done: see `fs::plain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    Removed,
    /// Removed, and then added.
    Added(Event),
    Changed(Event),
}

impl Noted {
    /// From the operation and its event; the gate notes none with options.
    pub fn new(op: u8, event: Event) -> Option<Noted> {
        match u32::from(op) {
            DEL => Some(Noted::Removed),
            _ if event.has_options() => None,
            ADD => Some(Noted::Added(event)),
            MOD => Some(Noted::Changed(event)),
            _ => None,
        }
    }
}

/// Items that are raised.
type Raised = raised::Raised<Weak<Item>>;

/// What a file's queues call.
#[derive(Debug)]
struct Hook {
    ticket: Ticket,
    list: Arc<Raised>,
    queue: Arc<WaitQueue>,
}

impl Hook {
    /// Puts the item on the list, unless it is there.
    fn raise(&self) {
        self.list.raise(self.ticket);
    }
}

impl WakeTarget for Hook {
    fn woken(&self) -> bool {
        self.raise();
        self.queue.wake_all_nested()
    }
}

struct Item {
    file: Weak<File>,
    hook: Arc<Hook>,
    /// Interest and options; 0 = disabled by ONESHOT.
    events: AtomicU32,
    data: AtomicU64,
    /// Registrations on the file's queues: dropped with the item.
    _table: PollTable,
    /// For an instance: it is in this one.
    _link: Option<Arc<nest::Link>>,
}

impl Item {
    /// What the file shows of the interest.
    fn look(&self) -> PollEvents {
        self.look_for(self.events.load(Acquire))
    }

    fn look_for(&self, wanted: u32) -> PollEvents {
        match self.file.upgrade() {
            Some(file) if wanted & !OPTIONS != 0 => file.poll(None) & PollEvents::from_bits_truncate(wanted),
            _ => PollEvents::empty(),
        }
    }

    /// Takes what the item has found, once for edges. The item was just taken off the list.
    fn take(&self) -> Option<Event> {
        loop {
            let wanted = self.events.load(Acquire);
            let found = self.look_for(wanted);
            if found.is_empty() {
                return None;
            }
            if wanted & ONESHOT != 0 {
                // It may be on the list again: another thread may take it, or arm it anew, meanwhile.
                if self.events.compare_exchange(wanted, wanted & OPTIONS, AcqRel, Relaxed).is_err() {
                    continue;
                }
            } else if wanted & EDGE == 0 {
                self.hook.raise();
            }
            return Some(Event { events: found.bits(), data: self.data.load(Relaxed) });
        }
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        self.hook.list.leave(self.hook.ticket);
    }
}

/// Descriptor and file: a descriptor may be registered again for another file.
type Key = (i32, u64);

/// The items of an instance.
#[derive(Default)]
struct Items {
    by_key: BTreeMap<Key, Arc<Item>>,
    /// How many there are before those of closed files are looked for: looking at all for each new one would be quadratic.
    sweep_at: usize,
}

impl Items {
    /// Fewest items that are looked through.
    const SWEEP_LEAST: usize = 64;

    /// Takes out the items of files that are closed, if there are many more items than after the last time.
    fn sweep(&mut self) -> Vec<Arc<Item>> {
        if self.by_key.len() < self.sweep_at.max(Self::SWEEP_LEAST) {
            return Vec::new();
        }
        let closed = self.by_key.extract_if(.., |_, item| item.file.strong_count() == 0);
        let dead = closed.map(|(_, item)| item).collect();
        self.sweep_at = 2 * self.by_key.len();
        dead
    }
}

/// An instance.
pub struct Epoll {
    items: SpinLock<Items>,
    raised: Arc<Raised>,
    queue: Arc<WaitQueue>,
    nest: Arc<Nest>,
}

impl Epoll {
    /// Registers `file` as `fd`.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` for what does not go with `EPOLLEXCLUSIVE`, `EPERM` for files that are always ready, `EBADF` for those
    /// of `O_PATH`, `ELOOP`, `ENOMEM`.
    pub fn add(&self, fd: Fd, file: &Arc<File>, event: Event) -> Result<()> {
        if file.flags().contains(OpenFlags::PATH) {
            return Err(Errno::EBADF);
        }
        if !file.ops().pollable(file) {
            return Err(Errno::EPERM);
        }
        let inner = file.ops_as::<Epoll>();
        if event.events & EXCLUSIVE != 0 && (inner.is_some() || event.events & !EXCLUSIVE_OK != 0) {
            return Err(Errno::EINVAL);
        }
        let link = inner.map(|inner| nest::link(&self.nest, &inner.nest)).transpose()?;
        let key = (fd.0, file.id());
        if self.items.lock().by_key.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        let (list, queue) = (self.raised.clone(), self.queue.clone());
        let hook = Arc::new(Hook { ticket: list.join()?, list, queue });
        let mut table = match event.events & EXCLUSIVE {
            0 => PollTable::for_target(hook.clone()),
            _ => PollTable::for_exclusive_target(hook.clone()),
        };
        file.poll(Some(&mut table));
        let item = Arc::new(Item {
            file: Arc::downgrade(file),
            hook: hook.clone(),
            events: AtomicU32::new(event.events | ALWAYS),
            data: AtomicU64::new(event.data),
            _table: table,
            _link: link,
        });
        hook.list.name(hook.ticket, Arc::downgrade(&item));
        let (old, dead) = {
            let mut items = self.items.lock();
            let dead = items.sweep();
            (items.by_key.insert(key, item), dead)
        };
        // Their registrations are taken off other queues: not under a lock.
        drop((old, dead));
        // Looked at once, whatever it shows.
        hook.raise();
        self.queue.wake_all();
        Ok(())
    }

    /// Changes a registration.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL` for and to `EPOLLEXCLUSIVE`.
    pub fn modify(&self, fd: Fd, file: &File, event: Event) -> Result<()> {
        self.modified(fd, file, event)?.hook.raise();
        self.queue.wake_all();
        Ok(())
    }

    /// The item, which wants `event` now. It is to be raised.
    fn modified(&self, fd: Fd, file: &File, event: Event) -> Result<Arc<Item>> {
        let item = self.items.lock().by_key.get(&(fd.0, file.id())).cloned().ok_or(Errno::ENOENT)?;
        if (event.events | item.events.load(Relaxed)) & EXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        item.data.store(event.data, Relaxed);
        item.events.store(event.events | ALWAYS, Release);
        Ok(item)
    }

    /// Removes a registration.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn remove(&self, fd: Fd, file: &File) -> Result<()> {
        let removed = self.items.lock().by_key.remove(&(fd.0, file.id()));
        removed.map(drop).ok_or(Errno::ENOENT)
    }

    /// Does what the gate noted.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn make_good(&self, fd: Fd, file: &File, noted: Noted) -> Result<()> {
        match noted {
            Noted::Removed => self.remove(fd, file),
            Noted::Changed(event) => self.modify(fd, file, event),
            // Removed and added at once: the item stays, and stands where a new one would.
            Noted::Added(event) => {
                let item = self.modified(fd, file, event)?;
                item.hook.list.raise_anew(item.hook.ticket);
                self.queue.wake_all();
                Ok(())
            }
        }
    }

    /// Whether nobody waits for it now, nor an instance in which it is.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes at most `max` events, waiting for the first until CLOCK_MONOTONIC `deadline_ns` (0 = not at all).
    ///
    /// # Errors
    /// `EINTR`.
    pub fn wait(&self, task: &Task, max: usize, deadline_ns: Option<u64>) -> Result<Vec<Event>> {
        let look = || Some(self.take(max)).filter(|events| !events.is_empty());
        let mut later = PutOff::none(task);
        loop {
            if let Some(events) = look() {
                return Ok(events);
            }
            if deadline_ns.is_some_and(|deadline| deadline <= time::monotonic_ns()) {
                return Ok(Vec::new());
            }
            match self.queue.wait_interruptible(deadline_ns, look) {
                Ok(events) => return Ok(events),
                Err(Wake::TimedOut) => return Ok(Vec::new()),
                Err(Wake::Interrupted) if later.ended_by(signal::interrupted) => return Err(Errno::EINTR),
                Err(Wake::Interrupted) => {}
            }
        }
    }

    /// Looks at the items that are on the list now, until `max` have found something.
    fn take(&self, max: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..self.raised.len() {
            // The rest is there for the next call.
            if events.len() == max || (!events.is_empty() && events.try_reserve(1).is_err()) {
                break;
            }
            let Some(item) = self.raised.take() else { break };
            let item = item.and_then(|item| item.upgrade());
            events.extend(item.and_then(|item| item.take()));
        }
        events
    }

    fn is_ready(&self) -> bool {
        // Whoever waits for it looks again: it may be told too much, but not too little.
        let Ok(raised) = self.raised.all() else { return true };
        raised.iter().filter_map(Weak::upgrade).any(|item| !item.look().is_empty())
    }
}

impl FileOps for Epoll {
    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if table.is_some_and(|table| table.register(&self.queue).is_err()) {
            return PollEvents::ERR;
        }
        if self.is_ready() { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[eventpoll]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes an instance.
pub fn new() -> Arc<File> {
    let epoll = Epoll {
        items: SpinLock::new(Rank::Epoll, Items::default()),
        raised: Arc::new(Raised::new()),
        queue: Arc::new(WaitQueue::new()),
        nest: Nest::new(),
    };
    File::anonymous(Arc::new(epoll), OpenFlags::RDWR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::eventfd::{self, Take};

    fn event(events: u32) -> Event {
        Event { events, data: 77 }
    }

    fn bump(file: &File) {
        file.write(&mut crate::fs::IoSrc::kernel(&1_u64.to_le_bytes())).unwrap();
    }

    #[test]
    fn levels_are_reported_again_and_edges_once() {
        let file = new();
        let epoll = file.ops_as::<Epoll>().unwrap();
        let (level, edge) =
            (eventfd::new(0, Take::All, OpenFlags::NONBLOCK), eventfd::new(0, Take::All, OpenFlags::NONBLOCK));
        epoll.add(Fd(3), &level, event(1)).unwrap();
        epoll.add(Fd(4), &edge, event(1 | EDGE)).unwrap();
        assert!(epoll.take(9).is_empty());
        bump(&level);
        bump(&edge);
        assert_eq!(epoll.take(9).len(), 2);
        assert_eq!(epoll.take(9), [event(1)]);
        bump(&edge);
        assert_eq!(epoll.take(9).len(), 2);
    }

    #[test]
    fn one_shots_are_silent_until_armed_again() {
        let file = new();
        let epoll = file.ops_as::<Epoll>().unwrap();
        let counter = eventfd::new(1, Take::All, OpenFlags::NONBLOCK);
        epoll.add(Fd(3), &counter, event(1 | ONESHOT)).unwrap();
        assert_eq!(epoll.take(9).len(), 1);
        bump(&counter);
        assert!(epoll.take(9).is_empty());
        epoll.modify(Fd(3), &counter, event(1)).unwrap();
        assert_eq!(epoll.take(9).len(), 1);
        epoll.remove(Fd(3), &counter).unwrap();
        assert_eq!(epoll.remove(Fd(3), &counter), Err(Errno::ENOENT));
        assert!(epoll.take(9).is_empty());
    }

    /// Readable; another thread takes what is ready while the first one looks.
    struct Contested {
        epoll: Arc<File>,
        others: SpinLock<Option<Vec<Event>>>,
    }

    impl FileOps for Contested {
        fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
            let epoll = self.epoll.ops_as::<Epoll>().unwrap();
            let first = table.is_none() && self.others.lock().replace(Vec::new()).is_none();
            if first {
                let item = epoll.items.lock().by_key.values().next().cloned();
                item.unwrap().hook.raise();
                let events = epoll.take(9);
                *self.others.lock() = Some(events);
            }
            PollEvents::READABLE
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    #[test]
    fn one_of_two_that_look_at_once_takes_a_one_shot() {
        let file = new();
        let epoll = file.ops_as::<Epoll>().unwrap();
        let contested = Arc::new(Contested { epoll: file.clone(), others: SpinLock::new(Rank::Leaf, None) });
        let contested_file = File::anonymous(contested.clone(), OpenFlags::RDWR);
        epoll.add(Fd(3), &contested_file, event(1 | ONESHOT)).unwrap();
        assert!(epoll.take(9).is_empty());
        assert_eq!(*contested.others.lock(), Some(alloc::vec![event(1)]));
    }

    #[test]
    fn what_is_added_again_is_reported_once() {
        let file = new();
        let epoll = file.ops_as::<Epoll>().unwrap();
        let (one, other) =
            (eventfd::new(1, Take::All, OpenFlags::NONBLOCK), eventfd::new(1, Take::All, OpenFlags::NONBLOCK));
        epoll.add(Fd(4), &other, event(1)).unwrap();
        for _ in 0..100 {
            epoll.add(Fd(3), &one, event(1)).unwrap();
            assert_eq!(epoll.raised.len(), 2);
            epoll.remove(Fd(3), &one).unwrap();
            assert_eq!(epoll.raised.len(), 1);
        }
        epoll.add(Fd(3), &one, event(1 | EDGE)).unwrap();
        assert_eq!(epoll.take(9).len(), 2);
        assert_eq!(epoll.take(9).len(), 1);
    }

    #[test]
    fn instances_nest_but_not_in_circles() {
        let (inner, outer) = (new(), new());
        let (a, b) = (inner.ops_as::<Epoll>().unwrap(), outer.ops_as::<Epoll>().unwrap());
        let counter = eventfd::new(1, Take::All, OpenFlags::NONBLOCK);
        a.add(Fd(3), &counter, event(1)).unwrap();
        assert_eq!(b.add(Fd(3), &inner, event(1)), Ok(()));
        assert_eq!(b.take(9).len(), 1);
        assert_eq!(a.add(Fd(4), &outer, event(1)), Err(Errno::ELOOP));
        assert_eq!(a.add(Fd(4), &inner, event(1)), Err(Errno::EINVAL));
    }

    #[test]
    fn a_closed_file_is_forgotten() {
        let file = new();
        let epoll = file.ops_as::<Epoll>().unwrap();
        let counter = eventfd::new(1, Take::All, OpenFlags::NONBLOCK);
        epoll.add(Fd(3), &counter, event(1)).unwrap();
        drop(counter);
        assert!(epoll.take(9).is_empty());
        for _ in 0..1000 {
            let other = eventfd::new(1, Take::All, OpenFlags::NONBLOCK);
            epoll.add(Fd(3), &other, event(1)).unwrap();
        }
        assert!(epoll.items.lock().by_key.len() <= Items::SWEEP_LEAST);
    }
}
