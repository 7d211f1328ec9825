//! Linux's asynchronous I/O: contexts and their completed events. Source: io_setup(2), io_submit(2), io_getevents(2).
//!
//! A [`Context`] belongs to one address space ([`of_space`]): fork gives the child none, exec and the last exit end it. Its
//! name is the address of the page that Linux calls the ring. Programs may look there for events without a call; ours stays zero, and
//! without the ring's magic number they (libaio, fio) make the call.
//!
//! Reads, writes and syncs are done at submission, as Linux does them for files that are buffered; their event is there
//! when io_submit(2) returns. What really waits is [`poll`].
//!
//! A request holds a [`Place`] of its context from submission until its event has been taken, so that a context
//! never holds more than its `capacity`; contexts are charged to `fs.aio-max-nr` by what they were asked for.
//!
//! Locks: a context's state (rank `Leaf`); `readers` (sleeping, rank `Stream`) keeps events in order while they are copied out.

pub mod poll;

use crate::fs::File;
use crate::ipc::eventfd::EventFd;
use crate::setting::Setting;
use crate::signal::{self, PutOff};
use crate::task::Task;
use crate::vm::map::Place as MapPlace;
use crate::vm::{Backing, MapRequest, Prot, Space, VmaFlags};
use crate::{Errno, Result, time};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_mm::{PAGE, UserAddr, heap, user};
use umbel_smp::lock::{Mutex, Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// `fs.aio-max-nr`.
pub static MAX_NR: Setting = Setting::new(65_536, 0, i64::MAX as u64);
/// `fs.aio-nr`: requests that all contexts together were asked for.
static NR: AtomicU64 = AtomicU64::new(0);
/// Bytes of an event, and of the head of Linux's ring: they decide how many requests a context takes.
const EVENT: u64 = 32;

/// What a request has come to: `struct io_event` (its data, its address, two results).
pub type Event = [u64; 4];

/// `fs.aio-nr`.
pub fn charged() -> u64 {
    NR.load(Relaxed)
}

/// A share of [`MAX_NR`].
#[derive(Debug)]
struct Charge(u64);

impl Charge {
    fn new(asked: u64) -> Result<Charge> {
        let max = MAX_NR.get();
        let sum = |nr: u64| nr.checked_add(asked).filter(|sum| *sum <= max);
        NR.fetch_update(Relaxed, Relaxed, sum).map_err(|_| Errno::EAGAIN)?;
        Ok(Charge(asked))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        NR.fetch_sub(self.0, Relaxed);
    }
}

/// The contexts of one address space, by address.
#[derive(Debug)]
struct Contexts(SpinLock<BTreeMap<u64, Arc<Context>>>);

impl Drop for Contexts {
    fn drop(&mut self) {
        let contexts = core::mem::take(&mut *self.0.lock());
        contexts.values().for_each(|context| context.kill());
    }
}

/// See the module.
#[derive(Debug)]
pub struct Context {
    /// Requests that may be on their way or done and not taken.
    capacity: usize,
    state: SpinLock<State>,
    readers: Mutex<()>,
    queue: WaitQueue,
    _charge: Charge,
}

/// Protected by `Context::state`.
#[derive(Debug, Default)]
struct State {
    done: VecDeque<Event>,
    /// Requests without an event.
    running: usize,
    /// Those of them that wait: number and address.
    polls: BTreeMap<u64, u64>,
    dead: bool,
}

fn of_space(space: &Space) -> Option<&Contexts> {
    space.attachment()?.downcast_ref()
}

/// Makes a context for `asked` requests; its name.
///
/// # Errors
/// `EINVAL` (absurdly many), `EAGAIN` (more than [`MAX_NR`] allows), `ENOMEM`.
pub fn create(space: &Space, asked: u32) -> Result<u64> {
    let capacity = capacity(asked, u64::from(umbel_smp::cpu::count()))?;
    let charge = Charge::new(u64::from(asked))?;
    heap::room()?;
    let addr = space.map(MapRequest {
        addr: UserAddr::NULL,
        len: PAGE,
        place: MapPlace::Anywhere,
        prot: Prot::READ | Prot::WRITE,
        flags: VmaFlags::empty(),
        backing: Backing::Anonymous,
    })?;
    let context = Context {
        capacity,
        state: SpinLock::new(Rank::Leaf, State::default()),
        readers: Mutex::new(Rank::Stream, ()),
        queue: WaitQueue::new(),
        _charge: charge,
    };
    space.attach(|| Arc::new(Contexts(SpinLock::new(Rank::Leaf, BTreeMap::new()))));
    let contexts = of_space(space).ok_or(Errno::ENOMEM)?;
    let old = contexts.0.lock().insert(addr.0, Arc::new(context));
    // Its page was unmapped behind its back: nobody can name it any more.
    if let Some(old) = old {
        old.kill();
    }
    Ok(addr.0)
}

/// How many requests Linux's ring for `asked` would hold: twice as many, whole pages of them.
fn capacity(asked: u32, cpus: u64) -> Result<usize> {
    let slots = u64::from(asked.max(4 * cpus as u32).wrapping_mul(2));
    if slots > 0x1000_0000 / EVENT {
        return Err(Errno::EINVAL);
    }
    let bytes = (EVENT + (slots + 2) * EVENT).next_multiple_of(PAGE);
    Ok(((bytes - EVENT) / EVENT - 1) as usize)
}

/// The context `name` of a space.
///
/// # Errors
/// `EINVAL`.
pub fn find(space: &Space, name: u64) -> Result<Arc<Context>> {
    let contexts = of_space(space).ok_or(Errno::EINVAL)?;
    contexts.0.lock().get(&name).cloned().ok_or(Errno::EINVAL)
}

/// Ends the context `name`: what waits is cancelled, whoever waits for events is told.
///
/// # Errors
/// `EINVAL`.
pub fn destroy(space: &Space, name: u64) -> Result<()> {
    let contexts = of_space(space).ok_or(Errno::EINVAL)?;
    let context = contexts.0.lock().remove(&name).ok_or(Errno::EINVAL)?;
    context.kill();
    // The guest may have unmapped the page itself.
    let _ = space.unmap(UserAddr(name), PAGE);
    Ok(())
}

/// A request's place in its context, and whom else to tell.
#[derive(Debug)]
pub struct Place {
    context: Arc<Context>,
    /// The guest's own word for the request, and its address.
    data: u64,
    addr: u64,
    done: bool,
}

impl Context {
    /// Takes a place for the request at `addr`.
    ///
    /// # Errors
    /// `EAGAIN` if there is none, `EINVAL` if the context has ended.
    pub fn begin(self: &Arc<Context>, data: u64, addr: u64) -> Result<Place> {
        heap::room().map_err(|_| Errno::EAGAIN)?;
        let mut state = self.state.lock();
        if state.dead {
            return Err(Errno::EINVAL);
        }
        let taken = state.running + state.done.len();
        if taken >= self.capacity || state.done.try_reserve(taken + 1).is_err() {
            return Err(Errno::EAGAIN);
        }
        state.running += 1;
        drop(state);
        Ok(Place { context: self.clone(), data, addr, done: false })
    }

    /// Most requests that one call submits.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies out at least `min` and at most `max` events, waiting until CLOCK_MONOTONIC `deadline_ns` (0 = not at all) if there
    /// are fewer; how many it were.
    ///
    /// # Errors
    /// `EFAULT`; `EINVAL` if the context ends, `EINTR`: both only if there is no event.
    pub fn events(&self, task: &Task, to: UserAddr, [min, max]: [u64; 2], deadline_ns: Option<u64>) -> Result<u64> {
        let mut got = 0;
        let mut later = PutOff::none(task);
        let end = |got: u64, errno| if got > 0 { Ok(got) } else { Err(errno) };
        loop {
            got += match self.take(UserAddr(to.0.wrapping_add(got * EVENT)), max - got) {
                Ok(count) => count,
                Err(errno) => return end(got, errno),
            };
            if got >= min || deadline_ns == Some(0) {
                return Ok(got);
            }
            let more = || {
                let state = self.state.lock();
                (state.dead || !state.done.is_empty()).then_some(state.dead)
            };
            match self.queue.wait_interruptible(deadline_ns, more) {
                Ok(false) => {}
                Ok(true) => return end(got, Errno::EINVAL),
                Err(Wake::TimedOut) => return Ok(got),
                Err(Wake::Interrupted) if later.ended_by(signal::interrupted) => return end(got, Errno::EINTR),
                Err(Wake::Interrupted) => {}
            }
        }
    }

    /// Copies out what is there; events leave when they have been copied.
    fn take(&self, to: UserAddr, max: u64) -> Result<u64> {
        let _one = self.readers.lock();
        let mut taken = 0;
        while taken < max {
            let Some(event) = self.state.lock().done.front().copied() else { break };
            match user::write_val(UserAddr(to.0.wrapping_add(taken * EVENT)), &event) {
                Ok(()) => drop(self.state.lock().done.pop_front()),
                Err(errno) if taken == 0 => return Err(errno),
                Err(_) => break,
            }
            taken += 1;
        }
        Ok(taken)
    }

    /// Cancels the request at `addr`, if it waits. Its event comes as all others do.
    ///
    /// # Errors
    /// `EINPROGRESS` if it was cancelled, as on Linux; `EINVAL` if there is none.
    pub fn cancel(&self, addr: u64) -> Result<()> {
        let waiting = self.state.lock().polls.iter().find(|(_, at)| **at == addr).map(|(number, _)| *number);
        poll::cancel(waiting.ok_or(Errno::EINVAL)?);
        Err(Errno::EINPROGRESS)
    }

    fn kill(&self) {
        let polls: Vec<u64> = {
            let mut state = self.state.lock();
            state.dead = true;
            state.polls.keys().copied().collect()
        };
        polls.into_iter().for_each(poll::cancel);
        self.queue.wake_all();
    }
}

impl Place {
    /// The request has come to `result`: its event is there, `notify` (an eventfd) is told.
    pub fn complete(mut self, result: Result<usize>, notify: Option<&Arc<File>>) {
        let value = result.map_or_else(|errno| errno.as_return(), |count| count as u64);
        self.done = true;
        {
            let mut state = self.context.state.lock();
            state.running -= 1;
            state.done.push_back([self.data, self.addr, value, 0]);
        }
        if let Some(event) = notify.and_then(|file| file.ops_as::<EventFd>()) {
            event.signal();
        }
        self.context.queue.wake_all();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.done {
            self.context.state.lock().running -= 1;
        }
    }
}

/// A deadline from a `struct timespec` that nobody checked: 0 = do not wait.
pub fn deadline([sec, nsec]: [i64; 2]) -> u64 {
    let ns = i128::from(sec) * i128::from(time::SEC_NS) + i128::from(nsec);
    match u64::try_from(ns.clamp(0, i128::from(i64::MAX))) {
        Ok(ns) if ns > 0 => time::deadline_in(ns),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_those_of_whole_pages() {
        assert_eq!(capacity(1, 2), Ok(126));
        assert_eq!(capacity(64, 2), Ok(254));
        assert_eq!(capacity(u32::MAX, 2), Err(Errno::EINVAL));
        assert_eq!(capacity(1 << 23, 2), Err(Errno::EINVAL));
    }

    #[test]
    fn charges_end_at_the_limit_and_are_given_back() {
        let before = charged();
        let charge = Charge::new(60_000).unwrap();
        assert_eq!(Charge::new(10_000).err(), Some(Errno::EAGAIN));
        drop(charge);
        assert_eq!(charged(), before);
    }
}
