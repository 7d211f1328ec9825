//! Watching files: the queue of events behind a descriptor. Source: inotify(7).
//!
//! An [`Inotify`] holds its watches by descriptor and a queue of encoded events. An event equal to the last one is
//! dropped; a full queue ends in one overflow event. Lock: `state` (spinning, Endpoint); the table of [`super::notify`]
//! is not touched under it.

use super::notify::{self, Event, Events, Watch};
use super::{File, FileOps, InodeRef, IoDst, OpenFlags, Path, PollEvents, PollTable};
use crate::room::Text;
use crate::setting::Setting;
use crate::task::{Charge, Count, Task, User};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering::*};
use umbel_abi::linux::ioctl::FIONREAD;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

/// Events that a queue holds (fs.inotify.max_queued_events).
pub static MAX_QUEUED: Setting = Setting::new(16384, 1, i32::MAX as u64);
/// Instances of a user (fs.inotify.max_user_instances).
pub static MAX_INSTANCES: Setting = Setting::new(128, 0, i32::MAX as u64);
/// Watches of a user (fs.inotify.max_user_watches).
pub static MAX_WATCHES: Setting = Setting::new(8192, 0, i32::MAX as u64);
/// Bytes of the kernel's heap that queues and watches leave to others.
const HEAP_MARGIN: u64 = 2 << 20;
/// Bytes of `struct inotify_event` without its name; names are padded to a multiple of it.
const HEAD: usize = 16;

bitflags::bitflags! {
    /// How to watch; above the events in a mask.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct How: u32 {
        const ONLYDIR = 0x0100_0000;
        const DONT_FOLLOW = 0x0200_0000;
        const EXCL_UNLINK = 0x0400_0000;
        const MASK_CREATE = 0x1000_0000;
        const MASK_ADD = 0x2000_0000;
        const ONESHOT = 0x8000_0000;
    }
}

/// Events that can be asked for.
pub const ALL: u32 = 0xfff;

/// See the module.
pub struct Inotify {
    state: SpinLock<State>,
    queue: Arc<WaitQueue>,
    /// Itself, one of the instances of whoever made it, who is charged for the watches.
    charge: Charge,
    me: Weak<Inotify>,
}

#[derive(Default)]
struct State {
    watches: BTreeMap<i32, Arc<Marker>>,
    last_wd: i32,
    events: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Whether the overflow event is in the queue.
    overflowed: bool,
}

/// A watch of one inode.
struct Marker {
    group: Weak<Inotify>,
    wd: i32,
    inode: InodeRef,
    /// Events and [`How`].
    mask: AtomicU32,
    _charge: Charge,
}

impl Watch for Marker {
    fn tell(&self, event: &Event<'_>) {
        let mask = self.mask.load(Acquire);
        let how = How::from_bits_retain(mask);
        let wanted = event.events.bits() & mask & ALL != 0 || event.events.contains(Events::UNMOUNT);
        if !wanted || event.unlinked && how.contains(How::EXCL_UNLINK) {
            return;
        }
        let Some(group) = self.group.upgrade() else { return };
        let own = Events::DELETE_SELF | Events::MOVE_SELF;
        let events = if event.events.intersects(own) { event.events - Events::ISDIR } else { event.events };
        group.push(self.wd, events, event.cookie, event.name);
        if how.contains(How::ONESHOT) && self.mask.swap(0, AcqRel) != 0 {
            // The caller holds locks of the name space; dropping the watch takes none of them.
            let _ = group.remove(self.wd);
        }
    }

    fn ended(&self) {
        if let Some(group) = self.group.upgrade() {
            group.forget(self.wd);
        }
    }
}

impl Inotify {
    /// Watches `path` for the events in `mask`; the watch's number.
    ///
    /// # Errors
    /// `EEXIST` with `MASK_CREATE`, `ENOSPC`.
    pub fn watch(&self, path: &Path, mask: u32) -> Result<i32> {
        let how = How::from_bits_truncate(mask);
        let kept = mask & (ALL | (How::EXCL_UNLINK | How::ONESHOT).bits());
        let known = {
            let state = self.state.lock();
            state.watches.values().find(|marker| Arc::ptr_eq(&marker.inode, path.inode())).cloned()
        };
        if let Some(marker) = known {
            if how.contains(How::MASK_CREATE) {
                return Err(Errno::EEXIST);
            }
            let old = if how.contains(How::MASK_ADD) { marker.mask.load(Acquire) } else { 0 };
            marker.mask.store(old | kept, Release);
            return Ok(marker.wd);
        }
        umbel_mm::heap::room_for(HEAP_MARGIN).map_err(|_| Errno::ENOMEM)?;
        let charge = self.charge.user().charge(Count::InotifyWatches, 1, MAX_WATCHES.get()).ok_or(Errno::ENOSPC)?;
        let mut state = self.state.lock();
        let wd = state.free_wd();
        let (group, inode) = (self.me.clone(), path.inode().clone());
        let marker = Arc::new(Marker { group, wd, inode, mask: AtomicU32::new(kept), _charge: charge });
        state.watches.insert(wd, marker.clone());
        drop(state);
        notify::add(path, marker);
        Ok(wd)
    }

    /// Ends watch `wd`.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub fn remove(&self, wd: i32) -> Result<()> {
        let marker = self.state.lock().watches.get(&wd).cloned().ok_or(Errno::EINVAL)?;
        let inode = marker.inode.clone();
        let watch: Arc<dyn Watch> = marker;
        notify::remove(&inode, &watch);
        self.forget(wd);
        Ok(())
    }

    /// The watch `wd` is in the table no more.
    fn forget(&self, wd: i32) {
        let marker = self.state.lock().watches.remove(&wd);
        if marker.is_some() {
            self.push(wd, Events::IGNORED, 0, b"");
        }
    }

    fn push(&self, wd: i32, events: Events, cookie: u32, name: &[u8]) {
        let most = MAX_QUEUED.get() as usize;
        let mut state = self.state.lock();
        let full = state.events.len() >= most || umbel_mm::heap::room_for(HEAP_MARGIN).is_err();
        if full && core::mem::replace(&mut state.overflowed, true) {
            return;
        }
        let record = if full { encode(-1, Events::Q_OVERFLOW, 0, b"") } else { encode(wd, events, cookie, name) };
        let repeated = state.events.back().is_some_and(|last| **last == *record);
        if repeated && !events.contains(Events::IGNORED) {
            return;
        }
        state.bytes += record.len();
        state.events.push_back(record);
        drop(state);
        self.queue.wake_all();
    }

    /// The first event, if it fits into `room` bytes.
    fn pop(&self, room: usize) -> Option<Result<Box<[u8]>>> {
        let mut state = self.state.lock();
        if state.events.front()?.len() > room {
            return Some(Err(Errno::EINVAL));
        }
        let record = state.events.pop_front()?;
        state.bytes -= record.len();
        if record.starts_with(&(-1_i32).to_ne_bytes()) {
            state.overflowed = false;
        }
        Some(Ok(record))
    }
}

impl State {
    /// Numbers go up and start over at 1.
    fn free_wd(&mut self) -> i32 {
        loop {
            self.last_wd = if self.last_wd == i32::MAX { 1 } else { self.last_wd + 1 };
            if !self.watches.contains_key(&self.last_wd) {
                return self.last_wd;
            }
        }
    }
}

/// `struct inotify_event`.
fn encode(wd: i32, events: Events, cookie: u32, name: &[u8]) -> Box<[u8]> {
    let padded = if name.is_empty() { 0 } else { (name.len() + 1).next_multiple_of(HEAD) };
    let mut out = Vec::with_capacity(HEAD + padded);
    for word in [wd as u32, events.bits(), cookie, padded as u32] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(name);
    out.resize(HEAD + padded, 0);
    out.into_boxed_slice()
}

impl FileOps for Inotify {
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        let room = dst.remaining();
        let first = match self.pop(room) {
            Some(first) => first?,
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => {
                let wait = self.queue.wait_interruptible(None, || self.pop(room));
                // As on Linux, an interrupted read of events is never restarted by itself without SA_RESTART.
                wait.map_err(|_| Errno::ERESTARTSYS)??
            }
        };
        let mut done = dst.write(&first)?;
        while let Some(Ok(next)) = self.pop(dst.remaining()) {
            done += dst.write(&next)?;
        }
        Ok(done)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if table.is_some_and(|table| table.register(&self.queue).is_err()) {
            return PollEvents::ERR;
        }
        let empty = self.state.lock().events.is_empty();
        if empty { PollEvents::empty() } else { PollEvents::READABLE }
    }

    fn ioctl(&self, _: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        if cmd != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes = self.state.lock().bytes as i32;
        user::write_val(UserAddr(arg), &bytes).map(|()| 0)
    }

    fn release(&self, _: &File) {
        let watches = core::mem::take(&mut self.state.lock().watches);
        for marker in watches.into_values() {
            let inode = marker.inode.clone();
            let watch: Arc<dyn Watch> = marker;
            notify::remove(&inode, &watch);
        }
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:inotify")
    }

    fn fdinfo(&self, _: &File, out: &mut Text) {
        let mut last = 0;
        let next = |last: i32| {
            let state = self.state.lock();
            state.watches.range(last + 1..).next().map(|(_, marker)| marker.clone())
        };
        while let Some(marker) = next(last) {
            let (ino, dev) = marker.inode.attr().map_or((0, 0), |attr| (attr.ino, attr.dev));
            let (wd, mask) = (marker.wd, marker.mask.load(Relaxed));
            let _ = writeln!(out, "inotify wd:{wd:x} ino:{ino:x} sdev:{dev:x} mask:{mask:x} ignored_mask:0");
            last = wd;
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes one for a user. `flags`: `O_NONBLOCK`.
///
/// # Errors
/// `EMFILE` when it has too many.
pub fn new(user: &Arc<User>, flags: OpenFlags) -> Result<Arc<File>> {
    Ok(File::anonymous(group(user)?, flags | OpenFlags::RDONLY))
}

fn group(user: &Arc<User>) -> Result<Arc<Inotify>> {
    let charge = user.charge(Count::InotifyInstances, 1, MAX_INSTANCES.get()).ok_or(Errno::EMFILE)?;
    Ok(Arc::new_cyclic(|me| Inotify {
        state: SpinLock::new(Rank::Endpoint, State::default()),
        queue: Arc::new(WaitQueue::new()),
        charge,
        me: me.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Arc<Inotify> {
        super::group(&User::of(601)).unwrap()
    }

    #[test]
    fn each_user_has_so_many() {
        let (user, other) = (User::of(602), User::of(603));
        let most = MAX_INSTANCES.get();
        let mut groups: Vec<_> = (0..most).map(|_| super::group(&user).unwrap()).collect();
        assert_eq!(super::group(&user).err(), Some(Errno::EMFILE));
        assert!(super::group(&other).is_ok());
        groups.pop();
        assert!(super::group(&user).is_ok());
    }

    #[test]
    fn equal_events_in_a_row_are_one() {
        let group = group();
        group.push(1, Events::MODIFY, 0, b"a");
        group.push(1, Events::MODIFY, 0, b"a");
        group.push(1, Events::MODIFY, 0, b"b");
        assert_eq!(group.state.lock().events.len(), 2);
        assert_eq!(group.pop(16).map(|popped| popped.is_err()), Some(true));
        assert_eq!(group.pop(32).and_then(Result::ok).map(|record| record.len()), Some(32));
    }

    #[test]
    fn a_full_queue_says_so_once() {
        let group = group();
        let most = MAX_QUEUED.get() as usize;
        for cookie in 0..most as u32 + 5 {
            group.push(1, Events::MOVED_TO, cookie, b"");
        }
        assert!(group.pop(32).is_some_and(|popped| popped.is_ok()));
        group.push(1, Events::MOVED_TO, 7, b"");
        let state = group.state.lock();
        assert_eq!(state.events.len(), most);
        assert_eq!(state.events.back().map(|record| record[..4].to_vec()), Some(std::vec![0xff; 4]));
    }
}
