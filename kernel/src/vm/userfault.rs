//! Faults that somebody else is asked about. Source: userfaultfd(2), ioctl_userfaultfd(2).
//!
//! An area may have a [`Watch`]. A fault there that finds nothing, or a page whose writing is watched, becomes a question
//! ([`Question`]): it is put to the [`Userfault`], and the thread sleeps until its page is answered for ([`Userfault::wake`]); then
//! the access is made again. Answers are pages that come ([`Space::supply`], [`Space::show`], [`Space::transfer`]), go bad
//! ([`Space::poison`]) or may be written again ([`Space::watch_writes`]).
//!
//! No wake-up is lost: the question is put first, and whether it stands is looked at once more under the space's lock before the
//! sleep; an answer changes the space under that lock before it wakes. Users: `ipc::userfaultfd`, [`super::fault`].
//! Locks: the space's; apart from it a list's (rank `Leaf`).

use super::account::is_touched;
use super::advise::check_parts;
use super::fault::{Access, Fault, FaultResult, Origin, area_for, release};
use super::map::max_areas;
use super::object::PageSource;
use super::space::{Inner, Space};
use super::table::Pte;
use super::vma::{Backing, Prot, Vma, VmaFlags};
use crate::{Errno, Pid, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bitflags::bitflags;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering::*};
use umbel_abi::machine::layout::USER_TOP;
use umbel_mm::frame::{self, FrameRef};
use umbel_mm::log::Change;
use umbel_mm::{PAGE, heap, view};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

/// How often a thread that waits within a call, and is interrupted, looks whether it must end, ns.
const LOOK_NS: u64 = 20_000_000;

bitflags! {
    /// What is asked about. Bits as `UFFDIO_REGISTER_MODE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Modes: u64 {
        const MISSING = 1;
        const WP = 2;
        const MINOR = 4;
    }
}

bitflags! {
    /// What a message says of a fault. Bits as `UFFD_PAGEFAULT_FLAG_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Asked: u64 {
        const WRITE = 1;
        const WP = 2;
        const MINOR = 4;
    }
}

/// Who is asked about an area's faults, and about which.
#[derive(Clone, Debug)]
pub struct Watch {
    by: Arc<Userfault>,
    modes: Modes,
    /// Writes of pages that are not there yet are watched, too (`UFFD_FEATURE_WP_UNPOPULATED`).
    pub protected: bool,
}

impl Watch {
    /// Whether a watched write is noted, and nobody is asked (`UFFD_FEATURE_WP_ASYNC`).
    pub fn is_async(&self) -> bool {
        self.by.notes_only.load(Relaxed) && self.modes.contains(Modes::WP)
    }
}

impl PartialEq for Watch {
    fn eq(&self, other: &Watch) -> bool {
        Arc::ptr_eq(&self.by, &other.by) && self.modes == other.modes && self.protected == other.protected
    }
}

/// What is to be known of the thread that runs; the layer above knows it.
pub trait Threads: core::fmt::Debug + Send + Sync {
    /// Its id.
    fn current(&self) -> Pid;
    /// Whether it must end, whatever it is doing.
    fn must_exit(&self) -> bool;
    /// CLOCK_MONOTONIC.
    fn now_ns(&self) -> u64;
}

/// A fault that was asked about.
#[derive(Debug)]
pub struct Pending {
    pub addr: u64,
    pub asked: Asked,
    pub thread: Pid,
    read: AtomicBool,
    answered: AtomicBool,
}

/// Who is asked: what a userfaultfd stands for.
#[derive(Debug)]
pub struct Userfault {
    space: Weak<Space>,
    threads: &'static dyn Threads,
    /// Faults in kernel mode are refused (`UFFD_USER_MODE_ONLY`).
    user_only: bool,
    /// All are refused (`UFFD_FEATURE_SIGBUS`).
    pub refuses: AtomicBool,
    /// Watched writes are noted, nobody is asked (`UFFD_FEATURE_WP_ASYNC`).
    pub notes_only: AtomicBool,
    /// Pages that are not there are watched, too (`UFFD_FEATURE_WP_UNPOPULATED`).
    pub watches_absent: AtomicBool,
    closed: AtomicBool,
    /// Not answered yet, in the order of arrival.
    pending: SpinLock<Vec<Arc<Pending>>>,
    /// Who reads messages; who waits for answers.
    pub readers: Arc<WaitQueue>,
    sleepers: WaitQueue,
}

impl Userfault {
    /// For the faults of `space`.
    pub fn new(space: &Arc<Space>, threads: &'static dyn Threads, user_only: bool) -> Arc<Userfault> {
        Arc::new(Userfault {
            space: Arc::downgrade(space),
            threads,
            user_only,
            refuses: AtomicBool::new(false),
            notes_only: AtomicBool::new(false),
            watches_absent: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pending: SpinLock::new(Rank::Leaf, Vec::new()),
            readers: Arc::new(WaitQueue::new()),
            sleepers: WaitQueue::new(),
        })
    }

    /// The space.
    ///
    /// # Errors
    /// `ESRCH` once it is gone.
    pub fn space(&self) -> Result<Arc<Space>> {
        self.space.upgrade().ok_or(Errno::ESRCH)
    }

    /// The next fault to tell about; it is not told again if `take`.
    pub fn next(&self, take: bool) -> Option<Arc<Pending>> {
        let pending = self.pending.lock();
        let next = pending.iter().find(|one| !one.read.load(Relaxed)).cloned();
        next.inspect(|one| one.read.store(take, Relaxed))
    }

    /// Faults that nobody has read of, and all that wait.
    pub fn counts(&self) -> (usize, usize) {
        let pending = self.pending.lock();
        (pending.iter().filter(|one| !one.read.load(Relaxed)).count(), pending.len())
    }

    /// Those who wait for pages of `range` make their accesses again.
    pub fn wake(&self, range: &Range<u64>) {
        self.pending.lock().retain(|one| {
            let hit = range.contains(&one.addr);
            one.answered.fetch_or(hit, Release);
            !hit
        });
        self.sleepers.wake_all();
    }

    /// Nobody will answer any more: areas are as others, and all who wait go on.
    pub fn close(self: &Arc<Self>) {
        self.closed.store(true, Release);
        if let Ok(space) = self.space() {
            space.unwatch(self, &(0..USER_TOP));
        }
        self.wake(&(0..u64::MAX));
    }

    fn put(&self, addr: u64, asked: Asked) -> FaultResult<Arc<Pending>> {
        let thread = self.threads.current();
        let (read, answered) = (AtomicBool::new(false), AtomicBool::new(false));
        let one = Arc::new(Pending { addr, asked, thread, read, answered });
        let mut pending = self.pending.lock();
        pending.try_reserve(1).map_err(|_| Fault::Oom)?;
        pending.push(one.clone());
        Ok(one)
    }

    fn sleep(&self, one: &Pending, origin: Origin) {
        let over = || (one.answered.load(Acquire) || self.closed.load(Acquire)).then_some(());
        if self.sleepers.wait_interruptible(None, over).is_ok() || origin == Origin::Guest {
            return;
        }
        // A call cannot be left half done for a signal, but for the end.
        while !self.threads.must_exit() {
            let deadline_ns = self.threads.now_ns() + LOOK_NS;
            if self.sleepers.wait_deadline(deadline_ns, over).is_some() {
                return;
            }
        }
    }
}

/// A fault that is to be asked about.
pub(super) struct Question {
    by: Arc<Userfault>,
    asked: Asked,
}

impl Question {
    /// About an access to page `vpn` of `vma`, which the area allows; `None` if nobody wants to be asked.
    pub fn about(inner: &Inner, vma: &Vma, vpn: u64, write: bool) -> Option<Question> {
        let watch = vma.watch.as_ref()?;
        let pte = inner.table.lock().get(vpn);
        let of_object = || vma.object_page(vpn).is_some_and(|(object, index)| object.is_resident(index));
        let mut asked = match pte.is_present() {
            true if watch.is_async() => return None,
            true if write && pte.is_watched() && watch.modes.contains(Modes::WP) => Asked::WP,
            true => return None,
            false if of_object() => watch.modes.contains(Modes::MINOR).then_some(Asked::MINOR)?,
            false => watch.modes.contains(Modes::MISSING).then_some(Asked::empty())?,
        };
        asked.set(Asked::WRITE, write);
        Some(Question { by: watch.by.clone(), asked })
    }
}

impl Space {
    /// Puts a question and sleeps until it is answered.
    pub(super) fn ask(&self, question: Question, addr: u64, access: Access, origin: Origin) -> FaultResult<()> {
        let Question { by, asked } = question;
        if by.refuses.load(Relaxed) || by.user_only && origin == Origin::Kernel {
            return Err(Fault::Bus);
        }
        let one = by.put(addr, asked)?;
        by.readers.wake_all();
        let stands = {
            let inner = self.inner.read();
            let area = area_for(&inner, addr, access).ok();
            let again = area.and_then(|vma| Question::about(&inner, vma, addr / PAGE, access == Access::Write));
            again.is_some_and(|again| Arc::ptr_eq(&again.by, &by))
        };
        if stands {
            by.sleep(&one, origin);
        }
        by.pending.lock().retain(|other| !Arc::ptr_eq(other, &one));
        if origin == Origin::Kernel && by.threads.must_exit() { Err(Fault::Bus) } else { Ok(()) }
    }

    /// Faults in the areas of `range` are asked about from now on.
    ///
    /// # Errors
    /// `EINVAL` if there is none, or one of another kind; `EBUSY` if another one is asked already, `EPERM` if a shared one may not
    /// be written, `ENOMEM`.
    pub fn watch(&self, by: &Arc<Userfault>, range: &Range<u64>, modes: Modes) -> Result<()> {
        heap::room()?;
        let mut inner = self.inner.write();
        check_parts(&inner, range)?;
        let parts: Vec<Vma> = inner.vmas.within(range).collect();
        if parts.is_empty() {
            return Err(Errno::EINVAL);
        }
        parts.iter().try_for_each(|part| check_kind(part, by, modes))?;
        if inner.vmas.count() + 2 > max_areas() {
            return Err(Errno::ENOMEM);
        }
        if modes.contains(Modes::MISSING) {
            parts.iter().for_each(|part| self.drop_untouched(&mut inner, part));
        }
        inner.vmas.update(range, |vma| vma.watch = Some(Watch { by: by.clone(), modes, protected: false }));
        Ok(())
    }

    /// What came along with other pages, and nobody has written to, has not come.
    fn drop_untouched(&self, inner: &mut Inner, part: &Vma) {
        let next = |inner: &mut Inner, at: u64| {
            let mut pages = inner.table.get_mut().iter(at..part.pages().end);
            pages.find(|(_, pte)| pte.is_ahead()).map(|(vpn, _)| vpn)
        };
        let mut at = next(inner, part.pages().start);
        if at.is_some() {
            // First nobody writes any more.
            self.log_drop(part.start, part.end);
            view::shootdown(&self.log);
        }
        while let Some(vpn) = at {
            if !is_touched(inner, vpn) {
                release(inner.table.get_mut().take(vpn));
            }
            at = next(inner, vpn + 1);
        }
    }

    /// `by` is not asked any more about areas of `range`.
    pub fn unwatch(&self, by: &Arc<Userfault>, range: &Range<u64>) {
        let mut inner = self.inner.write();
        let mut at = range.start;
        // One by one: this cannot fail for want of memory.
        while at < range.end
            && let Some(vma) = inner.vmas.find_from(at).filter(|vma| vma.start < range.end)
        {
            let part = vma.start.max(at)..vma.end.min(range.end);
            let watched = is_watched(vma, by, Modes::empty());
            at = part.end;
            if watched {
                inner.vmas.update(&part, |vma| vma.watch = None);
                inner.table.get_mut().update(part.start / PAGE..part.end / PAGE, |_, pte| *pte = pte.unwatched());
            }
        }
    }

    /// Puts a page with these contents at `addr`; its writing is watched if `watched`.
    ///
    /// # Errors
    /// `ENOENT` where `by` is not asked, `EEXIST` where a page is, `ENOMEM`.
    pub fn supply(&self, by: &Arc<Userfault>, addr: u64, bytes: &[u8], watched: bool) -> Result<()> {
        let vpn = addr / PAGE;
        let mut inner = self.inner.write();
        let vma = absent(&mut inner, by, addr)?;
        heap::room_to_fault()?;
        let pte = match vma.object_page(vpn) {
            None => {
                let frame = FrameRef::alloc()?;
                frame.write(0, bytes)?;
                Pte::private(frame.into_raw(), true)
            }
            Some((object, index)) if object.is_resident(index) => return Err(Errno::EEXIST),
            Some((object, index)) => match object.page(index, true)? {
                PageSource::Frame(frame) => {
                    frame.write(0, bytes)?;
                    object.written();
                    Pte::shared(frame.into_raw())
                }
                PageSource::Host { .. } => return Err(Errno::EINVAL),
            },
        };
        release(inner.table.get_mut().set(vpn, if watched { pte.watched() } else { pte }));
        if vma.flags.contains(VmaFlags::POISON) {
            inner.vmas.update(&(addr..addr + PAGE), |vma| vma.flags.remove(VmaFlags::POISON));
        }
        Ok(())
    }

    /// Shows the page that the object at `addr` has.
    ///
    /// # Errors
    /// `ENOENT` where `by` is not asked, `EEXIST` where a page is shown, `EFAULT` if the object has none.
    pub fn show(&self, by: &Arc<Userfault>, addr: u64) -> Result<()> {
        let mut inner = self.inner.write();
        let vma = absent(&mut inner, by, addr)?;
        heap::room_to_fault()?;
        let (object, index) = vma.object_page(addr / PAGE).ok_or(Errno::EINVAL)?;
        if !object.is_resident(index) {
            return Err(Errno::EFAULT);
        }
        let PageSource::Frame(frame) = object.page(index, false)? else { return Err(Errno::EINVAL) };
        let pte = Pte::shared(frame.into_raw());
        let pte = if object.notes_writes() { pte.read_only() } else { pte };
        release(inner.table.get_mut().set(addr / PAGE, pte));
        Ok(())
    }

    /// Accesses to the page at `addr` are answered by SIGBUS.
    ///
    /// # Errors
    /// As [`Self::supply`].
    pub fn poison(&self, by: &Arc<Userfault>, addr: u64) -> Result<()> {
        heap::room()?;
        let mut inner = self.inner.write();
        if absent(&mut inner, by, addr)?.flags.contains(VmaFlags::POISON) {
            return Err(Errno::EEXIST);
        }
        if inner.vmas.count() + 2 > max_areas() {
            return Err(Errno::ENOMEM);
        }
        inner.vmas.update(&(addr..addr + PAGE), |vma| vma.flags.insert(VmaFlags::POISON));
        Ok(())
    }

    /// Moves the page at `from`, which nobody else has, to `to`.
    ///
    /// # Errors
    /// As [`Self::supply`]; `ENOENT` if there is no page, `EBUSY` if others have it, too, `EINVAL` for areas that differ.
    pub fn transfer(&self, by: &Arc<Userfault>, from: u64, to: u64) -> Result<()> {
        let mut inner = self.inner.write();
        let vma = absent(&mut inner, by, to)?;
        let source = inner.vmas.find(from).ok_or(Errno::ENOENT)?;
        let movable = |vma: &Vma| matches!(vma.backing, Backing::Anonymous) && vma.prot.contains(Prot::WRITE);
        if vma.flags.contains(VmaFlags::POISON) {
            return Err(Errno::EEXIST);
        }
        let locked = VmaFlags::LOCKED;
        if !movable(source) || !movable(&vma) || source.flags.contains(locked) != vma.flags.contains(locked) {
            return Err(Errno::EINVAL);
        }
        let pte = inner.table.get_mut().get(from / PAGE);
        if !pte.is_present() || !is_touched(&mut inner, from / PAGE) {
            return Err(Errno::ENOENT);
        }
        if frame::references(pte.pfn()) > 1 {
            return Err(Errno::EBUSY);
        }
        heap::room_to_fault()?;
        let pte = inner.table.get_mut().take(from / PAGE);
        self.log_drop(from, from + PAGE);
        view::shootdown(&self.log);
        release(inner.table.get_mut().set(to / PAGE, pte.elsewhere().dirty().writable()));
        Ok(())
    }

    /// `by` is asked before the next write to each page of `range` that is there, or not any more.
    ///
    /// # Errors
    /// `ENOENT` unless it wants to be asked there.
    pub fn watch_writes(&self, by: &Arc<Userfault>, range: &Range<u64>, watched: bool) -> Result<()> {
        let mut inner = self.inner.write();
        check_parts(&inner, range)?;
        let parts: Vec<Vma> = inner.vmas.within(range).collect();
        if !inner.vmas.covers(range) || !parts.iter().all(|part| is_watched(part, by, Modes::WP)) {
            return Err(Errno::ENOENT);
        }
        if by.watches_absent.load(Relaxed) {
            if inner.vmas.count() + 2 > max_areas() {
                return Err(Errno::ENOMEM);
            }
            inner.vmas.update(range, |vma| vma.set_protected(watched));
        }
        for part in &parts {
            let change = if watched { Pte::watched } else { Pte::unwatched };
            inner.table.get_mut().update(part.pages(), |_, pte| *pte = change(*pte));
            if watched && part.prot.contains(Prot::WRITE) {
                let prot = part.prot.difference(Prot::WRITE).bits();
                self.log.append(Change::Protect { start: part.start, end: part.end, prot });
            }
        }
        if watched {
            view::shootdown(&self.log);
        }
        Ok(())
    }
}

/// Whether `by` is asked about all of `modes` in `part`.
fn is_watched(part: &Vma, by: &Arc<Userfault>, modes: Modes) -> bool {
    part.watch.as_ref().is_some_and(|watch| Arc::ptr_eq(&watch.by, by) && watch.modes.contains(modes))
}

/// The area of `addr`, about which `by` is asked and where no page is.
fn absent(inner: &mut Inner, by: &Arc<Userfault>, addr: u64) -> Result<Vma> {
    let vma = inner.vmas.find(addr).filter(|vma| is_watched(vma, by, Modes::empty())).ok_or(Errno::ENOENT)?;
    let vma = vma.clone();
    if inner.table.get_mut().get(addr / PAGE).is_present() { Err(Errno::EEXIST) } else { Ok(vma) }
}

/// Private anonymous memory, and shared memory without its writes.
fn check_kind(part: &Vma, by: &Arc<Userfault>, modes: Modes) -> Result<()> {
    if part.watch.as_ref().is_some_and(|watch| !Arc::ptr_eq(&watch.by, by)) {
        return Err(Errno::EBUSY);
    }
    match &part.backing {
        Backing::Anonymous if modes.contains(Modes::MINOR) => Err(Errno::EINVAL),
        Backing::Anonymous => Ok(()),
        Backing::File { .. } if part.is_private() || modes.contains(Modes::WP) => Err(Errno::EINVAL),
        Backing::File { object, offset, .. } if object.host_page(offset / PAGE).is_some() => Err(Errno::EINVAL),
        Backing::File { .. } if !part.flags.contains(VmaFlags::MAYWRITE) => Err(Errno::EPERM),
        Backing::File { .. } => Ok(()),
    }
}
