//! Pipes and FIFOs. Source: pipe(7), fifo(7).
//!
//! * [`Pipe`]: the buffer between readers and writers. [`PipeEnd`]: what a descriptor of it does.
//! * [`new`]: pipe2(2). [`open_fifo`]: open(2) of a named FIFO, whose inode knows the [`Pipe`] while it is open.
//!
//! Writes of at most [`PIPE_BUF`] bytes go in whole. In packet mode (`O_DIRECT`) each is a packet of its own, of which a
//! read takes one at most; where packets and other bytes meet is kept in [`Buffer`]. Queues are woken after every change that somebody may wait for; waking
//! an empty queue costs two loads. Locks: `ring` (sleeping, rank Stream), held while guest memory is copied.

use super::ring::{ByteRing, PAGE};
use crate::fs::{self, Attr, File, FileOps, IoDst, IoSrc, Kind, OpenFlags, PollEvents, PollTable, Time};
use crate::setting::Setting;
use crate::signal::{self, SIGPIPE, SigInfo};
use crate::task::{self, Charge, Count, Task, User, cap};
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};
use umbel_abi::linux::ioctl::FIONREAD;
use umbel_abi::linux::uapi;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::lock::{Mutex, Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

/// Longest write that is not interleaved with others.
pub const PIPE_BUF: usize = 4096;
/// Capacity of a new pipe.
const CAPACITY: usize = 16 * PAGE;
/// Largest capacity that F_SETPIPE_SZ gives ordinary users (fs.pipe-max-size).
pub static CAPACITY_MAX: AtomicUsize = AtomicUsize::new(1 << 20);
/// Pages that one user's pipes may hold (fs.pipe-user-pages-soft, -hard; 0 = no limit): beyond the first new ones are small, beyond
/// the second there are none.
pub static USER_PAGES_SOFT: Setting = Setting::new(16_384, 0, u64::MAX);
pub static USER_PAGES_HARD: Setting = Setting::new(0, 0, u64::MAX);
/// Capacity of a new pipe of a user with many.
const CAPACITY_SMALL: usize = 2 * PAGE;
/// Largest capacity of all: pages of the ring are the kernel's heap.
const CAPACITY_LIMIT: usize = 1 << 24;

/// Bytes, and where packets end.
struct Buffer {
    ring: ByteRing,
    /// Lengths of what is in the ring, and whether each is a packet. Empty while no packet is in the ring.
    parts: VecDeque<(usize, bool)>,
    /// The ring's pages, charged to whoever made the pipe.
    pages: Charge,
}

impl Buffer {
    /// Takes bytes from `src`, one packet of them if `packet`.
    fn fill(&mut self, src: &mut IoSrc<'_>, packet: bool) -> Result<usize> {
        if packet || !self.parts.is_empty() {
            self.parts.try_reserve(2).map_err(|_| Errno::ENOMEM)?;
        }
        let before = self.ring.len();
        let count = if packet { self.ring.fill_at_most(src, PIPE_BUF)? } else { self.ring.fill(src)? };
        if packet && self.parts.is_empty() && before > 0 {
            self.parts.push_back((before, false));
        }
        match self.parts.back_mut() {
            Some((len, false)) if !packet => *len += count,
            Some(_) => self.parts.push_back((count, packet)),
            None if packet => self.parts.push_back((count, true)),
            None => {}
        }
        Ok(count)
    }

    /// Gives bytes to `dst`: what is before the first packet's end, the rest of which is lost.
    fn drain(&mut self, dst: &mut IoDst<'_>) -> Result<usize> {
        let mut done = 0;
        while let Some((len, packet)) = self.parts.front_mut() {
            let moved = match self.ring.drain_at_most(dst, *len) {
                Ok(moved) => moved,
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            };
            done += moved;
            *len -= moved;
            let (left, packet) = (*len, *packet);
            if packet {
                self.ring.discard(left);
            } else if left > 0 {
                return Ok(done);
            }
            self.parts.pop_front();
            if packet || dst.remaining() == 0 {
                return Ok(done);
            }
        }
        if done > 0 { Ok(done) } else { self.ring.drain(dst) }
    }
}

/// The buffer and its two sides.
pub struct Pipe {
    ring: Mutex<Buffer>,
    /// Bytes in the ring and its room, to look at without the lock. Written under it.
    len: AtomicUsize,
    room: AtomicUsize,
    /// Open ends.
    readers: AtomicU32,
    writers: AtomicU32,
    /// Opens so far: an opener of a FIFO waits for the other side's count to move.
    reader_opens: AtomicU32,
    writer_opens: AtomicU32,
    read_queue: Arc<WaitQueue>,
    write_queue: Arc<WaitQueue>,
    id: u64,
    /// Who made it, and when.
    owner: (u32, u32),
    born: Time,
}

impl Pipe {
    /// A pipe with no ends, of `task`'s user.
    ///
    /// # Errors
    /// `ENOMEM`, `ENFILE` if the user's pipes hold too much.
    pub fn new(task: &Task) -> Result<Arc<Pipe>> {
        let pages = first_pages(task)?;
        let ring = ByteRing::new(pages.amount() as usize * PAGE)?;
        let cred = task.cred();
        Ok(Arc::new(Pipe {
            room: AtomicUsize::new(ring.room()),
            ring: Mutex::new(Rank::Stream, Buffer { ring, parts: VecDeque::new(), pages }),
            len: AtomicUsize::new(0),
            readers: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            reader_opens: AtomicU32::new(0),
            writer_opens: AtomicU32::new(0),
            read_queue: Arc::new(WaitQueue::new()),
            write_queue: Arc::new(WaitQueue::new()),
            id: crate::fs::next_ino(),
            owner: (cred.fsuid, cred.fsgid),
            born: Time::now(),
        }))
    }

    /// Reads what there is; waits for a first byte unless `nonblock`. 0 = no writer is left.
    fn read(&self, dst: &mut IoDst<'_>, nonblock: bool) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        loop {
            if self.len.load(Acquire) > 0 {
                let mut ring = self.ring.lock();
                if !ring.ring.is_empty() {
                    let result = ring.drain(dst);
                    self.note(&ring.ring);
                    drop(ring);
                    self.wake_writers();
                    return result;
                }
            }
            if self.writers.load(Acquire) == 0 {
                // A writer may have written and closed in between.
                if self.len.load(Acquire) > 0 {
                    continue;
                }
                return Ok(0);
            }
            if nonblock {
                return Err(Errno::EAGAIN);
            }
            let ready = || (self.len.load(Acquire) > 0 || self.writers.load(Acquire) == 0).then_some(());
            self.read_queue.wait_interruptible(None, ready).map_err(|_| Errno::ERESTARTSYS)?;
        }
    }

    /// Copies what there is and leaves it; waits for a first byte unless `nonblock`. 0 = no writer is left.
    pub fn peek(&self, dst: &mut IoDst<'_>, nonblock: bool) -> Result<usize> {
        let ready = || (self.len.load(Acquire) > 0 || self.writers.load(Acquire) == 0).then_some(());
        if ready().is_none() {
            if nonblock {
                return Err(Errno::EAGAIN);
            }
            self.read_queue.wait_interruptible(None, ready).map_err(|_| Errno::ERESTARTSYS)?;
        }
        self.ring.lock().ring.peek(dst)
    }

    /// Writes all of `src`, waiting for room as often as needed unless `nonblock`.
    fn write(&self, src: &mut IoSrc<'_>, nonblock: bool, packets: bool) -> Result<usize> {
        let total = src.remaining();
        let mut done = 0;
        while done < total || total == 0 {
            match self.write_some(src, total, packets) {
                Ok(Some(count)) => done += count,
                Ok(None) if nonblock && done == 0 => return Err(Errno::EAGAIN),
                Ok(None) if nonblock => break,
                Ok(None) => {
                    let needed = needed(if packets { src.remaining().min(PIPE_BUF) } else { total });
                    if let Err(error) = self.wait_room(needed) {
                        return if done > 0 { Ok(done) } else { Err(error) };
                    }
                }
                Err(error) => {
                    if error == Errno::EPIPE {
                        signal::send_to_task(&task::current(), SigInfo::kernel(SIGPIPE));
                    }
                    return if done > 0 { Ok(done) } else { Err(error) };
                }
            }
            if total == 0 {
                break;
            }
        }
        Ok(done)
    }

    /// Writes what fits of a write of `total` bytes; `None` if it must wait for room.
    fn write_some(&self, src: &mut IoSrc<'_>, total: usize, packets: bool) -> Result<Option<usize>> {
        if self.readers.load(Acquire) == 0 {
            return Err(Errno::EPIPE);
        }
        if total == 0 {
            return Ok(Some(0));
        }
        let mut ring = self.ring.lock();
        let needed = needed(if packets { src.remaining().min(PIPE_BUF) } else { total });
        if ring.ring.room() < needed {
            return Ok(None);
        }
        let result = ring.fill(src, packets);
        self.note(&ring.ring);
        drop(ring);
        self.read_queue.wake_taker();
        result.map(Some)
    }

    /// Writes what fits of `src` now, waiting for room unless `nonblock` (vmsplice(2)).
    pub fn write_part(&self, src: &mut IoSrc<'_>, nonblock: bool) -> Result<usize> {
        let total = src.remaining();
        loop {
            match self.write_some(src, total, false)? {
                Some(count) => return Ok(count),
                None if nonblock => return Err(Errno::EAGAIN),
                None => self.wait_room(needed(total))?,
            }
        }
    }

    /// Waits for `needed` bytes of room, or until nobody reads.
    fn wait_room(&self, needed: usize) -> Result<()> {
        let ready = || (self.room.load(Acquire) >= needed || self.readers.load(Acquire) == 0).then_some(());
        self.write_queue.wait_interruptible(None, ready).map_err(|_| Errno::ERESTARTSYS)
    }

    /// Waits until something can be written; how much.
    ///
    /// # Errors
    /// `ERESTARTSYS`.
    pub fn wait_some_room(&self) -> Result<usize> {
        self.wait_room(PIPE_BUF)?;
        // Nobody reads: the write says so.
        Ok(self.room.load(Acquire).max(1))
    }

    fn note(&self, ring: &ByteRing) {
        self.len.store(ring.len(), Release);
        self.room.store(ring.room(), Release);
    }

    /// Writers are woken when a page is free, not for every byte: they would find too little room.
    fn wake_writers(&self) {
        if self.room.load(Acquire) >= PIPE_BUF {
            self.write_queue.wake_taker();
        }
    }

    fn poll(&self, access: OpenFlags) -> PollEvents {
        let mut events = PollEvents::empty();
        if access.readable() {
            if self.len.load(Acquire) > 0 {
                events |= PollEvents::READABLE;
            }
            if self.writers.load(Acquire) == 0 && self.writer_opens.load(Acquire) > 0 {
                events |= PollEvents::HUP;
            }
        }
        if access.writable() {
            if self.room.load(Acquire) >= PIPE_BUF {
                events |= PollEvents::WRITABLE;
            }
            if self.readers.load(Acquire) == 0 {
                events |= PollEvents::ERR;
            }
        }
        events
    }

    /// Bytes it can hold (`F_GETPIPE_SZ`).
    pub fn capacity(&self) -> usize {
        self.ring.lock().ring.capacity()
    }

    /// Changes what it can hold (`F_SETPIPE_SZ`), rounded up to a power of two of pages; returns what it holds then.
    ///
    /// # Errors
    /// `EPERM` above a MiB and for users whose pipes hold too much, `EBUSY` if it holds more now, `EINVAL`, `ENOMEM`.
    pub fn set_capacity(&self, capacity: usize) -> Result<usize> {
        if capacity > i32::MAX as usize {
            return Err(Errno::EINVAL);
        }
        if capacity > CAPACITY_LIMIT {
            return Err(Errno::ENOMEM);
        }
        let capacity = capacity.max(PAGE).next_power_of_two();
        let task = task::current();
        if capacity > CAPACITY_MAX.load(Relaxed) && !task.capable(cap::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        let mut ring = self.ring.lock();
        let before = ring.pages.amount();
        let limit = if is_privileged(&task) { u64::MAX } else { most_pages() };
        if !ring.pages.resize((capacity / PAGE) as u64, limit) {
            return Err(Errno::EPERM);
        }
        if let Err(errno) = ring.ring.resize(capacity) {
            // It had as many before.
            let _ = ring.pages.resize(before, u64::MAX);
            return Err(errno);
        }
        self.note(&ring.ring);
        drop(ring);
        self.wake_writers();
        Ok(capacity)
    }

    fn open(self: &Arc<Pipe>, access: OpenFlags) -> Arc<PipeEnd> {
        if access.readable() {
            self.readers.fetch_add(1, AcqRel);
            self.reader_opens.fetch_add(1, AcqRel);
        }
        if access.writable() {
            self.writers.fetch_add(1, AcqRel);
            self.writer_opens.fetch_add(1, AcqRel);
        }
        self.read_queue.wake_all();
        self.write_queue.wake_all();
        Arc::new(PipeEnd { pipe: self.clone(), access: access & (OpenFlags::WRONLY | OpenFlags::RDWR) })
    }
}

fn is_privileged(task: &Task) -> bool {
    task.capable(cap::SYS_RESOURCE) || task.capable(cap::SYS_ADMIN)
}

/// Pages that a user without privilege may have with one more pipe, or a larger one.
fn most_pages() -> u64 {
    let of = |setting: &Setting| if setting.get() == 0 { u64::MAX } else { setting.get() };
    of(&USER_PAGES_SOFT).min(of(&USER_PAGES_HARD))
}

/// The pages of a new pipe of `task`'s user. Source: pipe(7).
fn first_pages(task: &Task) -> Result<Charge> {
    let user = User::of(task.cred().uid);
    let charge = |capacity: usize, limit| user.charge(Count::PipePages, (capacity / PAGE) as u64, limit);
    if is_privileged(task) {
        return charge(CAPACITY, u64::MAX).ok_or(Errno::ENFILE);
    }
    let hard = if USER_PAGES_HARD.get() == 0 { u64::MAX } else { USER_PAGES_HARD.get() };
    charge(CAPACITY, most_pages()).or_else(|| charge(CAPACITY_SMALL, hard)).ok_or(Errno::ENFILE)
}

/// Room that a write of `total` bytes waits for: all of it if it must go in whole.
fn needed(total: usize) -> usize {
    if total <= PIPE_BUF { total } else { 1 }
}

/// What an open end does.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    /// The access mode it was opened with.
    access: OpenFlags,
}

impl PipeEnd {
    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// The last reference is gone: the other side sees the end.
    fn close(&self) {
        if self.access.readable() {
            self.pipe.readers.fetch_sub(1, AcqRel);
        }
        if self.access.writable() {
            self.pipe.writers.fetch_sub(1, AcqRel);
        }
        self.pipe.read_queue.wake_all();
        self.pipe.write_queue.wake_all();
    }
}

impl FileOps for PipeEnd {
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        self.pipe.read(dst, file.nonblocking())
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        self.pipe.write(src, file.nonblocking(), file.flags().contains(OpenFlags::DIRECT))
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            let reads = if self.access.readable() { table.register(&self.pipe.read_queue) } else { Ok(()) };
            let writes = if self.access.writable() { table.register(&self.pipe.write_queue) } else { Ok(()) };
            if reads.and(writes).is_err() {
                return PollEvents::ERR;
            }
        }
        self.pipe.poll(self.access)
    }

    fn splices(&self) -> bool {
        true
    }

    fn ioctl(&self, _: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        if cmd != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let len = self.pipe.len.load(Acquire) as i32;
        user::write_val(UserAddr(arg), &len)?;
        Ok(0)
    }

    fn fcntl(&self, _: &Arc<Task>, _: &File, command: u32, arg: u64) -> Result<u64> {
        match command {
            uapi::F_SETPIPE_SZ => self.pipe.set_capacity(arg as u32 as usize).map(|size| size as u64),
            uapi::F_GETPIPE_SZ => Ok(self.pipe.capacity() as u64),
            _ => Err(Errno::EINVAL),
        }
    }

    fn attr(&self, file: &File) -> Result<Attr> {
        match file.path() {
            Some(path) => path.attr(),
            None => {
                let ((uid, gid), born) = (self.pipe.owner, self.pipe.born);
                let attr = Attr::new(Kind::Fifo, 0o600, self.pipe.id);
                Ok(Attr { uid, gid, atime: born, mtime: born, ctime: born, btime: born, ..attr })
            }
        }
    }

    /// Not as a FIFO: nobody waits for the other side.
    fn reopen(&self, _: &Arc<File>, flags: OpenFlags) -> Result<Arc<File>> {
        Ok(File::anonymous(self.pipe.open(flags), flags))
    }

    fn release(&self, _: &File) {
        self.close();
    }

    fn describe(&self, _: &File) -> String {
        format!("pipe:[{}]", self.pipe.id)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes a pipe: its end to read and its end to write. `flags`: `O_NONBLOCK`.
///
/// # Errors
/// `ENOMEM`, `ENFILE`.
pub fn new(flags: OpenFlags) -> Result<(Arc<File>, Arc<File>)> {
    let pipe = Pipe::new(&task::current())?;
    let kept = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let end = |access: OpenFlags| File::anonymous(pipe.open(access), kept | access);
    Ok((end(OpenFlags::RDONLY), end(OpenFlags::WRONLY)))
}

/// Tells the file systems who opens FIFOs. Once, at boot.
pub fn init() {
    fs::register_fifo(|path, flags| {
        let inode = path.inode();
        let extra = inode.extra().ok_or(Errno::EOPNOTSUPP)?;
        let fifo = extra.get_or_insert(|| Arc::new(Fifo(SpinLock::new(Rank::InodeState, Weak::new()))));
        open_fifo(&fifo.pipe()?, flags)
    });
}

/// What the inode of a FIFO keeps: the pipe, while anybody has it open. What is left in it goes with the last end.
struct Fifo(SpinLock<Weak<Pipe>>);

impl Fifo {
    fn pipe(&self) -> Result<Arc<Pipe>> {
        if let Some(pipe) = self.0.lock().upgrade() {
            return Ok(pipe);
        }
        let new = Pipe::new(&task::current())?;
        let mut place = self.0.lock();
        if let Some(pipe) = place.upgrade() {
            drop(place);
            return Ok(pipe);
        }
        let old = core::mem::replace(&mut *place, Arc::downgrade(&new));
        drop(place);
        drop(old);
        Ok(new)
    }
}

/// Opens a named FIFO: waits for the other side unless `O_NONBLOCK`.
///
/// # Errors
/// `ENXIO` for a writer with `O_NONBLOCK` and no reader; `ERESTARTSYS`.
pub fn open_fifo(pipe: &Arc<Pipe>, flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
    let nonblock = flags.contains(OpenFlags::NONBLOCK);
    let (readable, writable) = (flags.readable(), flags.writable());
    let (queue, partners, opens) = if readable {
        (&pipe.read_queue, &pipe.writers, &pipe.writer_opens)
    } else {
        (&pipe.write_queue, &pipe.readers, &pipe.reader_opens)
    };
    // One opener at a time: a partner is here now, or its open is counted later. A partner that comes, and is gone again
    // before this thread looks, counts as well.
    let ring = pipe.ring.lock();
    if writable && !readable && nonblock && pipe.readers.load(Acquire) == 0 {
        return Err(Errno::ENXIO);
    }
    let (alone, before) = (partners.load(Acquire) == 0, opens.load(Acquire));
    let end = pipe.open(flags);
    drop(ring);
    let waits = readable != writable && !nonblock && alone;
    let met = || (opens.load(Acquire) != before).then_some(());
    if waits && queue.wait_interruptible(None, met).is_err() {
        end.close();
        return Err(Errno::ERESTARTSYS);
    }
    Ok(end)
}
