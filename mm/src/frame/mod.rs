//! Frames: the pages of guest RAM, in the arenas (memfds) that the machine made.
//!
//! A frame has a number ([`Pfn`], all arenas together) and a reference count. [`FrameRef`] is one reference; the page
//! tables hold references as bare numbers ([`FrameRef::into_raw`]). The kernel never maps RAM: contents go through
//! pread and pwrite on the memfd. Each virtual CPU allocates from its own arena first (one memfd for all would
//! serialise in the host).
//!
//! Invariants: a frame is in its arena's bitmap exactly when its count is 0; a frame is freed only after every slot
//! that may have mapped it writable or readable has been shot down (the caller of the last put sees to that).
//! Locks: `Rank::Frames`, one arena at a time. Exhaustion is `ENOMEM`, never a panic.

mod bitmap;
mod bounce;
mod counts;
mod refcount;

pub use bitmap::MAX_RUN;
pub use refcount::RefCount;

use crate::{Errno, PAGE, Result, percpu};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bitmap::Bitmap;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};
use counts::Counts;
use umbel_abi::machine::{BootInfo, MAX_ARENAS};
use umbel_host::mem;
use umbel_smp::lock::{Once, Rank, SpinLock};

/// Number of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(pub u32);

/// Free frames that keep old bytes before an arena gives some back to the host, as a share of its pages.
const DIRTY_SHARE: u32 = 8;
/// And at least this many.
const DIRTY_MIN: u32 = 4096;
/// Frames given back in one host call at most.
const PUNCH_RUN: u32 = 512;

static FRAMES: Once<Frames> = Once::new();

struct Arena {
    fd: i32,
    first: u32,
    pages: u32,
    map: SpinLock<Bitmap>,
}

/// All RAM of the machine.
pub struct Frames {
    arenas: Box<[Arena]>,
    counts: Counts,
    arena_pages: u32,
    /// Frames in use, for `usage` without locks.
    used: AtomicU64,
    /// Pages that the kernel's own memory takes of the guest's RAM: so many frames are never handed out.
    kernel: AtomicU64,
}

/// RAM as the guest sees it, in pages.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// All of it.
    pub total: u64,
    /// Not in use.
    pub free: u64,
}

/// Sets up the frames from the machine's facts. Once, at boot, after the heap works.
pub fn init(boot: &BootInfo) -> Result<()> {
    let count = (boot.arena_count as usize).clamp(1, MAX_ARENAS);
    let fds = boot.files.arenas.get(..count).ok_or(Errno::EINVAL)?;
    let frames = Frames::new(fds, boot.ram_pages, boot.arena_pages)?;
    FRAMES.call_once(|| frames);
    Ok(())
}

/// RAM for unit tests on the host: one memfd of `pages` pages, once per process.
pub fn init_for_tests(pages: u32) {
    const NR_MEMFD_CREATE: u32 = 319;
    const NR_FTRUNCATE: u32 = 77;
    FRAMES.call_once(|| {
        let name = c"frames";
        // SAFETY: the name is a C string; the call touches nothing else.
        let fd = unsafe { umbel_host::raw::syscall(NR_MEMFD_CREATE, [name.as_ptr() as u64, 0, 0, 0, 0, 0]) };
        let fd = fd.expect("a test host has memfds");
        let len = u64::from(pages) * PAGE;
        // SAFETY: sizes our own descriptor.
        unsafe { umbel_host::raw::syscall(NR_FTRUNCATE, [fd, len, 0, 0, 0, 0]) }.expect("a test host has memory");
        Frames::new(&[fd as i32], u64::from(pages), u64::from(pages)).expect("a test host has memory")
    });
}

/// How much RAM there is.
pub fn usage() -> Usage {
    let Some(frames) = FRAMES.get() else {
        return Usage { total: 0, free: 0 };
    };
    let total = frames.counts.frames();
    Usage { total, free: total - frames.taken().min(total) }
}

/// Takes `pages` of RAM for kernel memory; false if they are in use. Without RAM yet there is nothing to be taken of.
pub fn charge_kernel(pages: u64) -> bool {
    charge_kernel_beside(pages, 0)
}

/// As [`charge_kernel`], if so many pages are `kept` free then.
pub fn charge_kernel_beside(pages: u64, kept: u64) -> bool {
    let Some(frames) = FRAMES.get() else { return true };
    // Never more than there is, not for a moment: others would be refused what is there.
    let more = |kernel: u64| {
        let taken = frames.used.load(Ordering::Relaxed) + kernel + pages;
        (taken + kept <= frames.counts.frames()).then_some(kernel + pages)
    };
    frames.kernel.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

/// Gives them back.
pub fn uncharge_kernel(pages: u64) {
    if let Some(frames) = FRAMES.get() {
        // What was taken before there was RAM was not counted.
        let less = |taken: u64| Some(taken.saturating_sub(pages));
        let _ = frames.kernel.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Contiguous frames just allocated, one reference each, owned by the caller as bare numbers.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Run {
    /// The first frame.
    pub first: Pfn,
    /// How many.
    pub count: u32,
}

/// Allocates up to `want` contiguous frames (shorter, a power of two, when RAM is in pieces), zeroed.
pub fn alloc_zeroed_run(want: u32) -> Result<Run> {
    let frames = FRAMES.get().ok_or(Errno::ENOMEM)?;
    let (run, dirty) = frames.alloc(want)?;
    if dirty && let Err(error) = frames.zero(run) {
        frames.release(run.first, run.count);
        return Err(error);
    }
    Ok(run)
}

/// As [`alloc_zeroed_run`], but whether the run must be zeroed before anybody sees it is left to the caller.
pub fn alloc_unzeroed_run(want: u32) -> Result<(Run, bool)> {
    FRAMES.get().ok_or(Errno::ENOMEM)?.alloc(want)
}

/// Zeroes a run.
pub fn zero_run(run: Run) -> Result<()> {
    FRAMES.get().ok_or(Errno::ENOMEM)?.zero(run)
}

/// As [`alloc_zeroed_run`], of undefined contents: for callers that overwrite all of it.
pub fn alloc_run(want: u32) -> Result<Run> {
    let frames = FRAMES.get().ok_or(Errno::ENOMEM)?;
    frames.alloc(want).map(|(run, _)| run)
}

/// Drops one reference on each of `count` frames from `first`; frees those it was the last of.
pub fn put_run(first: Pfn, count: u32) {
    if let Some(frames) = FRAMES.get() {
        frames.put_run(first, count);
    }
}

/// One reference more on a frame that the caller holds.
pub fn get(pfn: Pfn) {
    if let Some(count) = FRAMES.get().and_then(|frames| frames.counts.get(pfn)) {
        count.get();
    }
}

/// References on a frame; 1 is stable for its holder.
pub fn references(pfn: Pfn) -> u32 {
    FRAMES.get().and_then(|frames| frames.counts.get(pfn)).map_or(0, RefCount::count)
}

/// The host descriptor and byte offset of a frame.
pub fn host(pfn: Pfn) -> Result<(i32, u64)> {
    let frames = FRAMES.get().ok_or(Errno::ENOMEM)?;
    let arena = frames.arena_of(pfn).ok_or(Errno::EFAULT)?;
    Ok((arena.fd, u64::from(pfn.0 - arena.first) * PAGE))
}

/// Copies `count` contiguous frames to `count` contiguous frames.
pub fn copy(from: Pfn, to: Pfn, count: u32) -> Result<()> {
    let (from_fd, from) = host(from)?;
    let (to_fd, to) = host(to)?;
    let mut buffer = bounce::take()?;
    let len = u64::from(count) * PAGE;
    let mut done = 0;
    while done < len {
        let step = (len - done).min(buffer.len() as u64) as usize;
        read_all(from_fd, &mut buffer[..step], from + done)?;
        write_all(to_fd, &buffer[..step], to + done)?;
        done += step as u64;
    }
    Ok(())
}

/// Fills `count` contiguous frames with pages of a host file; zeroes behind its end.
pub fn copy_from_host(fd: i32, offset: u64, to: Pfn, count: u32) -> Result<()> {
    let (to_fd, to) = host(to)?;
    let mut buffer = bounce::take()?;
    let len = u64::from(count) * PAGE;
    let mut done = 0;
    while done < len {
        let step = (len - done).min(buffer.len() as u64) as usize;
        read_host(fd, offset + done, &mut buffer[..step])?;
        write_all(to_fd, &buffer[..step], to + done)?;
        done += step as u64;
    }
    Ok(())
}

/// Fills a run with `bytes` of a host file from `offset` on, and with zeroes behind them.
pub fn load(fd: i32, offset: u64, bytes: u64, run: Run) -> Result<()> {
    let (to_fd, to) = host(run.first)?;
    let mut buffer = bounce::take()?;
    let len = u64::from(run.count) * PAGE;
    let mut done = 0;
    while done < len {
        let step = (len - done).min(buffer.len() as u64) as usize;
        let wanted = bytes.saturating_sub(done).min(step as u64) as usize;
        let (file, rest) = buffer[..step].split_at_mut(wanted);
        if wanted > 0 {
            read_host(fd, offset + done, file)?;
        }
        rest.fill(0);
        write_all(to_fd, &buffer[..step], to + done)?;
        done += step as u64;
    }
    Ok(())
}

/// Reads bytes of a host file that is mapped; zeroes behind its end.
pub fn read_host(fd: i32, offset: u64, buf: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match mem::pread(fd, &mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    buf[done..].fill(0);
    Ok(())
}

/// Whether frame `next` lies right behind frame `pfn` on the host.
pub fn follows(pfn: Pfn, next: Pfn) -> bool {
    next.0 == pfn.0.wrapping_add(1)
        && FRAMES.get().is_some_and(|frames| frames.arena_index(pfn) == frames.arena_index(next))
}

impl Frames {
    fn new(fds: &[i32], pages: u64, arena_pages: u64) -> Result<Self> {
        let pages = u32::try_from(pages).map_err(|_| Errno::EINVAL)?;
        let arena_pages = u32::try_from(arena_pages).map_err(|_| Errno::EINVAL)?;
        if arena_pages == 0 {
            return Err(Errno::EINVAL);
        }
        let mut arenas = Vec::new();
        let mut first = 0;
        for (index, &fd) in fds.iter().enumerate() {
            let rest = pages - first;
            let share = if index + 1 == fds.len() { rest } else { arena_pages.min(rest) };
            if share == 0 {
                break;
            }
            let map = SpinLock::new(Rank::Frames, Bitmap::new(share));
            arenas.push(Arena { fd, first, pages: share, map });
            first += share;
        }
        Ok(Frames {
            arenas: arenas.into_boxed_slice(),
            counts: Counts::new(pages)?,
            arena_pages,
            used: AtomicU64::new(0),
            kernel: AtomicU64::new(0),
        })
    }

    fn arena_index(&self, pfn: Pfn) -> usize {
        ((pfn.0 / self.arena_pages) as usize).min(self.arenas.len() - 1)
    }

    fn arena_of(&self, pfn: Pfn) -> Option<&Arena> {
        let arena = self.arenas.get(self.arena_index(pfn))?;
        (pfn.0 - arena.first < arena.pages).then_some(arena)
    }

    /// Frames in use, and those that stand for kernel memory.
    fn taken(&self) -> u64 {
        self.used.load(Ordering::Relaxed) + self.kernel.load(Ordering::Relaxed)
    }

    fn alloc(&self, want: u32) -> Result<(Run, bool)> {
        let left = self.counts.frames().saturating_sub(self.taken());
        if left == 0 {
            return Err(Errno::ENOMEM);
        }
        let want = want.clamp(1, MAX_RUN).min(left.min(u64::from(MAX_RUN)) as u32);
        let preferred = percpu::cpu() % self.arenas.len();
        let powers = (0..=want.ilog2()).rev().map(|order| 1 << order).filter(|&count| count != want);
        for count in core::iter::once(want).chain(powers) {
            for step in 0..self.arenas.len() {
                let arena = &self.arenas[(preferred + step) % self.arenas.len()];
                let Some(grant) = arena.map.lock().take(count) else {
                    continue;
                };
                let first = Pfn(arena.first + grant.first);
                if let Err(error) = self.counts.init(first, grant.count) {
                    arena.map.lock().give(grant.first, grant.count);
                    return Err(error);
                }
                self.used.fetch_add(u64::from(grant.count), Ordering::Relaxed);
                return Ok((Run { first, count: grant.count }, grant.dirty));
            }
        }
        Err(Errno::ENOMEM)
    }

    fn zero(&self, run: Run) -> Result<()> {
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        let (fd, mut offset) = host(run.first)?;
        let end = offset + u64::from(run.count) * PAGE;
        while offset < end {
            let len = (end - offset).min(ZEROES.len() as u64) as usize;
            offset += write_all(fd, &ZEROES[..len], offset)? as u64;
        }
        Ok(())
    }

    fn put_run(&self, first: Pfn, count: u32) {
        let mut start = 0;
        let mut length = 0;
        for index in 0..count {
            let Some(refs) = self.counts.get(Pfn(first.0 + index)) else {
                continue;
            };
            if refs.put() {
                if length == 0 {
                    start = index;
                }
                length += 1;
            } else if length > 0 {
                self.release(Pfn(first.0 + start), length);
                length = 0;
            }
        }
        if length > 0 {
            self.release(Pfn(first.0 + start), length);
        }
    }

    /// Puts frames of count 0 back; they may span arenas only if the caller's run did, which none does.
    fn release(&self, first: Pfn, count: u32) {
        let Some(arena) = self.arena_of(first) else {
            return;
        };
        let mut map = arena.map.lock();
        map.give(first.0 - arena.first, count);
        let excess = map.dirty_free() > (arena.pages / DIRTY_SHARE).max(DIRTY_MIN);
        drop(map);
        self.used.fetch_sub(u64::from(count), Ordering::Relaxed);
        if excess {
            arena.punch();
        }
    }
}

impl Arena {
    /// Gives the bytes of some dirty free frames back to the host: down to half of what set it off.
    fn punch(&self) {
        let floor = (self.pages / DIRTY_SHARE).max(DIRTY_MIN) / 2;
        for _ in 0..64 {
            let mut map = self.map.lock();
            if map.dirty_free() <= floor {
                return;
            }
            let Some((first, count)) = map.take_dirty(PUNCH_RUN) else {
                return;
            };
            drop(map);
            // SAFETY: the frames are out of the bitmap with count 0: ours alone, and never mapped by the kernel.
            let punched = unsafe { mem::punch_hole(self.fd, u64::from(first) * PAGE, u64::from(count) * PAGE) };
            let mut map = self.map.lock();
            match punched {
                Ok(()) => map.give_clean(first, count),
                Err(_) => {
                    map.give(first, count);
                    return;
                }
            }
        }
    }
}

/// Fills `buf`.
fn read_all(fd: i32, buf: &mut [u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match mem::pread(fd, &mut buf[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::EIO),
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `bytes`; the number written.
fn write_all(fd: i32, bytes: &[u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match mem::pwrite(fd, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::ENOMEM),
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            // The host is out of memory or space: for the guest that is the same thing.
            Err(_) => return Err(Errno::ENOMEM),
        }
    }
    Ok(done)
}

/// One reference on a frame.
///
/// # Invariants
/// The frame's count includes this reference.
#[derive(Debug)]
pub struct FrameRef(Pfn);

impl FrameRef {
    /// A frame of undefined contents. For callers that overwrite all of it.
    pub fn alloc() -> Result<FrameRef> {
        let frames = FRAMES.get().ok_or(Errno::ENOMEM)?;
        frames.alloc(1).map(|(run, _)| FrameRef(run.first))
    }

    /// A frame of zeroes.
    pub fn zeroed() -> Result<FrameRef> {
        alloc_zeroed_run(1).map(|run| FrameRef(run.first))
    }

    /// Up to `want` contiguous frames of zeroes.
    pub fn alloc_run(want: u32) -> Result<Vec<FrameRef>> {
        let run = alloc_zeroed_run(want)?;
        Ok((0..run.count).map(|index| FrameRef(Pfn(run.first.0 + index))).collect())
    }

    /// The frame's number.
    pub fn pfn(&self) -> Pfn {
        self.0
    }

    /// References on the frame.
    pub fn count(&self) -> u32 {
        references(self.0)
    }

    /// Gives the reference away as a bare number, to a page table for example.
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).0
    }

    /// Takes a reference back that [`Self::into_raw`] gave away. Taking one back twice frees a frame in use.
    pub fn from_raw(pfn: Pfn) -> FrameRef {
        FrameRef(pfn)
    }

    /// A new reference on a frame that the caller knows to be held.
    pub fn from_held(pfn: Pfn) -> FrameRef {
        get(pfn);
        FrameRef(pfn)
    }

    /// Copies bytes of the frame out; the range must lie within the page.
    pub fn read(&self, offset: usize, buf: &mut [u8]) -> Result<()> {
        let (fd, base) = self.place(offset, buf.len())?;
        read_all(fd, buf, base)
    }

    /// Copies bytes into the frame; the range must lie within the page.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let (fd, base) = self.place(offset, bytes.len())?;
        write_all(fd, bytes, base).map(drop)
    }

    /// Where the frame is on the host: descriptor and byte offset.
    pub fn host(&self) -> Result<(i32, u64)> {
        host(self.0)
    }

    fn place(&self, offset: usize, len: usize) -> Result<(i32, u64)> {
        if offset.checked_add(len).is_none_or(|end| end as u64 > PAGE) {
            return Err(Errno::EINVAL);
        }
        let (fd, base) = host(self.0)?;
        Ok((fd, base + offset as u64))
    }
}

impl Clone for FrameRef {
    fn clone(&self) -> Self {
        FrameRef::from_held(self.0)
    }
}

impl Drop for FrameRef {
    fn drop(&mut self) {
        put_run(self.0, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_frame_reads_as_zero() {
        init_for_tests(4096);
        let frame = FrameRef::zeroed().unwrap();
        frame.write(100, b"secret").unwrap();
        let pfn = frame.pfn();
        drop(frame);
        let mut again = Vec::new();
        loop {
            let frame = FrameRef::zeroed().unwrap();
            let mut bytes = [1; 6];
            frame.read(100, &mut bytes).unwrap();
            assert_eq!(bytes, [0; 6]);
            let found = frame.pfn() == pfn;
            again.push(frame);
            if found || again.len() > 3000 {
                break;
            }
        }
    }

    #[test]
    fn kernel_memory_is_taken_up_to_what_is_kept() {
        init_for_tests(4096);
        let total = usage().total;
        assert!(!charge_kernel(total + 1));
        assert!(!charge_kernel_beside(8, total));
        // Other tests hold 3001 at most.
        assert!(charge_kernel_beside(8, 64));
        uncharge_kernel(8);
    }

    #[test]
    fn ranges_outside_the_page_are_refused() {
        init_for_tests(4096);
        let frame = FrameRef::zeroed().unwrap();
        assert_eq!(frame.read(4090, &mut [0; 7]), Err(Errno::EINVAL));
        assert_eq!(frame.write(usize::MAX, &[0]), Err(Errno::EINVAL));
    }
}
