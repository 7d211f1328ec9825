//! Waiting on many files: poll, select and their variants.
//!
//! Each call registers with every file once, while it looks at it first, and then sleeps until a look finds something.

use super::Fd;
use crate::fs::{File, PollEvents, PollTable};
use crate::signal::{self, Restart};
use crate::task::Task;
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as nr;
use umbel_abi::linux::SigSet;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::wait::Wake;

rows! {
    nr::__NR_poll, poll(fds: u64, count: u64, timeout_ms: i32) => poll, Full;
    nr::__NR_ppoll, ppoll(fds: u64, count: u64, timeout: u64, mask: u64, size: u64) => ppoll, Full;
    nr::__NR_select, select(count: i32, reads: u64, writes: u64, others: u64, timeout: u64) => select, Full;
    nr::__NR_pselect6, pselect6(count: i32, reads: u64, writes: u64, others: u64, timeout: u64, mask: u64) => pselect6, Full;
}

/// Always reported, asked for or not.
const ALWAYS: PollEvents = PollEvents::ERR.union(PollEvents::HUP).union(PollEvents::NVAL);

/// One file that a call waits for.
struct Item {
    /// `None` if the descriptor is not open, or negative.
    file: Option<Arc<File>>,
    wanted: PollEvents,
    found: PollEvents,
}

impl Item {
    fn look(&mut self, table: Option<&mut PollTable>) -> bool {
        if let Some(file) = &self.file {
            self.found = file.poll(table) & (self.wanted | ALWAYS);
        }
        !self.found.is_empty()
    }
}

/// Waits until something is found or CLOCK_MONOTONIC `deadline_ns` (0 = look only). Returns how many items have found something.
fn wait(items: &mut [Item], deadline_ns: Option<u64>) -> core::result::Result<usize, Wake> {
    let mut table = PollTable::new();
    let mut found = 0;
    for item in items.iter_mut() {
        // Who has found something will not sleep: no need to register further.
        let register = found == 0 && deadline_ns != Some(0);
        found += usize::from(item.look(register.then_some(&mut table)));
    }
    if found > 0 || deadline_ns == Some(0) {
        return Ok(found);
    }
    let look = || {
        let found = items.iter_mut().map(|item| usize::from(item.look(None))).sum();
        (found > 0).then_some(found)
    };
    match table.wait_interruptible(deadline_ns, look) {
        Err(Wake::TimedOut) => Ok(0),
        result => result,
    }
}

/// `struct pollfd` as one word: descriptor, events, revents.
/// Refuses long lists while kernel memory is low: they take it for as long as the call sleeps.
fn room(count: u64) -> Result<()> {
    const BYTES_EACH: u64 = 256;
    const SHORT: u64 = 64;
    if count <= SHORT { Ok(()) } else { umbel_mm::heap::room_for(count * BYTES_EACH) }
}

fn read_items(task: &Task, fds: u64, count: u64) -> Result<(Vec<u64>, Vec<Item>)> {
    if count > task.process().limit(nr::RLIMIT_NOFILE) {
        return Err(Errno::EINVAL);
    }
    room(count)?;
    let words: Vec<u64> = user::read_vec(UserAddr(fds), count as usize)?;
    let files = task.files()?;
    let mut items = Vec::new();
    items.try_reserve_exact(words.len()).map_err(|_| Errno::ENOMEM)?;
    for word in &words {
        let fd = *word as i32;
        let file = if fd < 0 { None } else { files.get(Fd(fd)).ok() };
        let found = if fd >= 0 && file.is_none() { PollEvents::NVAL } else { PollEvents::empty() };
        let wanted = PollEvents::from_bits_truncate((*word >> 32) as u32 & 0xffff);
        items.push(Item { file, wanted, found });
    }
    Ok((words, items))
}

fn poll_until(task: &Task, fds: u64, count: u64, deadline_ns: Option<u64>) -> Result<core::result::Result<u64, Wake>> {
    let (words, mut items) = read_items(task, fds, count)?;
    let found = match wait(&mut items, deadline_ns) {
        Ok(found) => found,
        Err(wake) => return Ok(Err(wake)),
    };
    for (index, (word, item)) in words.iter().zip(&items).enumerate() {
        let revents = item.found.bits() as u16;
        // Most stay as they are.
        if revents != (*word >> 48) as u16 {
            user::write_val(UserAddr(fds.wrapping_add(8 * index as u64 + 6)), &revents)?;
        }
    }
    Ok(Ok(found as u64))
}

fn poll(task: &Arc<Task>, fds: u64, count: u64, timeout_ms: i32) -> Result<u64> {
    let deadline_ns = match timeout_ms {
        0 => Some(0),
        1.. => Some(time::deadline_in(timeout_ms as u64 * 1_000_000)),
        _ => None,
    };
    restart(task, fds, count, deadline_ns)
}

/// Waits, or goes on waiting (restart_syscall(2)), until the deadline.
pub fn restart(task: &Arc<Task>, fds: u64, count: u64, deadline_ns: Option<u64>) -> Result<u64> {
    poll_until(task, fds, count, deadline_ns)?.map_err(|_| {
        task.signal.set_restart(Restart::Poll { fds, count, deadline_ns });
        Errno::ERESTART_RESTARTBLOCK
    })
}

/// Runs a call with its own signal mask, if `mask` is not 0. An interrupted call keeps it until its handler's frame is built.
pub(super) fn with_mask<T>(task: &Arc<Task>, mask: u64, size: u64, call: impl FnOnce() -> Result<T>) -> Result<T> {
    if mask == 0 {
        return call();
    }
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask: SigSet = user::read_val(UserAddr(mask))?;
    signal::set_mask_for_call(task, mask);
    let result = call();
    if !matches!(result, Err(Errno::ERESTARTNOHAND | Errno::EINTR)) {
        signal::restore_mask(task);
    }
    result
}

/// A timeout in the form of one of the calls, kept to write back what is left of it.
#[derive(Clone, Copy)]
enum Timeout {
    None,
    Timeval { addr: u64, deadline_ns: u64 },
    Timespec { addr: u64, deadline_ns: u64 },
}

impl Timeout {
    fn timespec(addr: u64) -> Result<Timeout> {
        if addr == 0 {
            return Ok(Timeout::None);
        }
        Ok(Timeout::Timespec { addr, deadline_ns: Self::deadline(time::read_timespec(addr)?) })
    }

    /// select(2) takes microseconds of any size.
    fn timeval(addr: u64) -> Result<Timeout> {
        if addr == 0 {
            return Ok(Timeout::None);
        }
        let [sec, usec]: [i64; 2] = user::read_val(UserAddr(addr))?;
        if sec < 0 || usec < 0 {
            return Err(Errno::EINVAL);
        }
        let ns = (sec as u64).saturating_mul(time::SEC_NS).saturating_add((usec as u64).saturating_mul(1000));
        Ok(Timeout::Timeval { addr, deadline_ns: Self::deadline(ns) })
    }

    fn deadline(ns: u64) -> u64 {
        if ns == 0 { 0 } else { time::deadline_in(ns) }
    }

    fn deadline_ns(self) -> Option<u64> {
        match self {
            Timeout::None => None,
            Timeout::Timeval { deadline_ns, .. } | Timeout::Timespec { deadline_ns, .. } => Some(deadline_ns),
        }
    }

    /// Writes back what is left. A timeout in memory that cannot be written stays as it is.
    fn write_rest(self, task: &Task) {
        const STICKY_TIMEOUTS: u32 = 0x0400_0000;
        if task.process().personality.load(Relaxed) & STICKY_TIMEOUTS != 0 {
            return;
        }
        let rest = |deadline_ns: u64| deadline_ns.saturating_sub(time::monotonic_ns());
        let _ = match self {
            Timeout::None => Ok(()),
            Timeout::Timeval { addr, deadline_ns } => time::write_timeval(addr, rest(deadline_ns)),
            Timeout::Timespec { addr, deadline_ns } => time::write_timespec(addr, rest(deadline_ns)),
        };
    }
}

fn ppoll(task: &Arc<Task>, fds: u64, count: u64, timeout: u64, mask: u64, size: u64) -> Result<u64> {
    let timeout = Timeout::timespec(timeout)?;
    with_mask(task, mask, size, || {
        let waited = poll_until(task, fds, count, timeout.deadline_ns());
        timeout.write_rest(task);
        waited?.map_err(|_| Errno::ERESTARTNOHAND)
    })
}

/// The three sets of select(2): their addresses and the words of those given.
struct Sets {
    addrs: [u64; 3],
    words: [Vec<u64>; 3],
    count: usize,
}

/// What each set asks for, and what counts as found.
const SET_EVENTS: [(PollEvents, PollEvents); 3] = [
    (
        PollEvents::READABLE.union(PollEvents::RDBAND),
        PollEvents::READABLE.union(PollEvents::RDBAND).union(PollEvents::HUP).union(PollEvents::ERR),
    ),
    (
        PollEvents::WRITABLE.union(PollEvents::WRBAND),
        PollEvents::WRITABLE.union(PollEvents::WRBAND).union(PollEvents::ERR),
    ),
    (PollEvents::PRI, PollEvents::PRI),
];

impl Sets {
    fn read(count: i32, limit: u64, addrs: [u64; 3]) -> Result<Sets> {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(limit as usize);
        let mut words = [Vec::new(), Vec::new(), Vec::new()];
        for (set, &addr) in words.iter_mut().zip(&addrs) {
            if addr != 0 {
                *set = user::read_vec(UserAddr(addr), count.div_ceil(64))?;
            }
        }
        Ok(Sets { addrs, words, count })
    }

    fn has(&self, set: usize, fd: usize) -> bool {
        let word = self.words.get(set).and_then(|words| words.get(fd / 64));
        word.is_some_and(|word| word >> (fd % 64) & 1 != 0)
    }

    /// The files asked for, with their descriptors.
    fn items(&self, task: &Task) -> Result<(Vec<usize>, Vec<Item>)> {
        room(self.count as u64)?;
        let files = task.files()?;
        let (mut fds, mut items) = (Vec::new(), Vec::new());
        for fd in 0..self.count {
            let mut wanted = PollEvents::empty();
            for (set, (events, _)) in SET_EVENTS.iter().enumerate() {
                if self.has(set, fd) {
                    wanted |= *events;
                }
            }
            if !wanted.is_empty() {
                let file = files.get(Fd(fd as i32))?;
                fds.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                items.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                fds.push(fd);
                items.push(Item { file: Some(file), wanted, found: PollEvents::empty() });
            }
        }
        Ok((fds, items))
    }

    /// Writes the sets of what was found; returns how many bits that are.
    fn write(&self, fds: &[usize], items: &[Item]) -> Result<u64> {
        let mut total = 0;
        for (set, (_, counts)) in SET_EVENTS.iter().enumerate() {
            let (Some(asked), Some(&addr)) = (self.words.get(set), self.addrs.get(set)) else { continue };
            if addr == 0 {
                continue;
            }
            let mut result: Vec<u64> = asked.iter().map(|_| 0).collect();
            for (&fd, item) in fds.iter().zip(items) {
                if self.has(set, fd)
                    && item.found.intersects(*counts)
                    && let Some(word) = result.get_mut(fd / 64)
                {
                    *word |= 1 << (fd % 64);
                    total += 1;
                }
            }
            for (index, word) in result.iter().enumerate() {
                user::write_val(UserAddr(addr.wrapping_add(8 * index as u64)), word)?;
            }
        }
        Ok(total)
    }
}

fn select_until(task: &Task, count: i32, addrs: [u64; 3], timeout: Timeout) -> Result<u64> {
    let sets = Sets::read(count, task.process().limit(nr::RLIMIT_NOFILE), addrs)?;
    let (fds, mut items) = sets.items(task)?;
    // A file may be ready in a way that no set counts, for example hung up for a writer: then the wait goes on.
    let waited = wait(&mut items, timeout.deadline_ns());
    timeout.write_rest(task);
    match waited {
        Ok(_) => sets.write(&fds, &items),
        Err(_) => Err(Errno::ERESTARTNOHAND),
    }
}

fn select(task: &Arc<Task>, count: i32, reads: u64, writes: u64, others: u64, timeout: u64) -> Result<u64> {
    select_until(task, count, [reads, writes, others], Timeout::timeval(timeout)?)
}

fn pselect6(
    task: &Arc<Task>,
    count: i32,
    reads: u64,
    writes: u64,
    others: u64,
    timeout: u64,
    mask: u64,
) -> Result<u64> {
    let timeout = Timeout::timespec(timeout)?;
    let [mask, size]: [u64; 2] = if mask == 0 { [0, 0] } else { user::read_val(UserAddr(mask))? };
    with_mask(task, mask, size, || select_until(task, count, [reads, writes, others], timeout))
}
