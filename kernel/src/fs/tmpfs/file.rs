//! Open files in RAM: reading, writing, sizes, copying up, mappings.

use super::content::{Content, Inserted, PAGE};
use super::node::Node;
use crate::fs::host::HostData;
use crate::fs::inode::Inode;
use crate::fs::{File, FileOps, IoDst, IoSrc, Whence};
use crate::task::Task;
use crate::vm::{Mappable, MappingSet, PageSource};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use umbel_abi::linux::uapi;
use umbel_host::file::{HostFd, write_at};
use umbel_mm::frame::FrameRef;

/// Pages allocated together.
const BATCH: u64 = 16;
/// Largest file.
const MAX_SIZE: u64 = i64::MAX as u64 & !(PAGE - 1);

/// Gives way to others between two pieces of a long transfer.
fn breathe() {
    // Unit tests have no scheduler.
    #[cfg(not(test))]
    crate::sched::cond_resched();
}

impl Node {
    /// Reads what is there between `offset` and the end.
    fn read_content(&self, content: &Content, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        let end = offset.saturating_add(dst.remaining() as u64).min(content.size());
        let mut at = offset;
        while at < end {
            let (index, within) = (at / PAGE, at % PAGE);
            let pages = (end - 1) / PAGE - index + 1;
            let moved = match content.run(index, pages) {
                Some(run) => {
                    let (fd, base, len) = run.host()?;
                    let len = (len - within).min(end - at);
                    dst.fill_from_host(fd, base + within, len as usize)
                }
                None => {
                    let len = (content.hole(index, pages) * PAGE - within).min(end - at);
                    dst.zero(len as usize)
                }
            };
            match moved {
                Ok(0) => break,
                Ok(count) => at += count as u64,
                Err(error) if at == offset => return Err(error),
                Err(_) => break,
            }
            if at < end {
                breathe();
            }
        }
        Ok(at.saturating_sub(offset) as usize)
    }

    /// Writes at `offset`. Under `write`.
    fn write_content(&self, content: &Content, src: &mut IoSrc<'_>, offset: u64) -> Result<usize> {
        if offset >= MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let mut end = offset.saturating_add(src.remaining() as u64).min(MAX_SIZE);
        if end > offset {
            end = content.seals.check_write_to(offset, end, content.size())?;
        }
        let mut at = offset;
        while at < end {
            match self.write_run(content, src, at, end) {
                Ok(0) => break,
                Ok(count) => at += count,
                Err(error) if at == offset => return Err(error),
                Err(_) => break,
            }
            content.grow(at);
            if at < end {
                breathe();
            }
        }
        if at > offset {
            self.written();
        }
        Ok((at - offset) as usize)
    }

    fn write_run(&self, content: &Content, src: &mut IoSrc<'_>, at: u64, end: u64) -> Result<u64> {
        let (index, within) = (at / PAGE, at % PAGE);
        let pages = (end - 1) / PAGE - index + 1;
        let run = match content.run(index, pages) {
            Some(run) => run,
            None => {
                self.fill_hole(content, index, pages)?;
                content.run(index, pages).ok_or(Errno::ENOSPC)?
            }
        };
        let (fd, base, len) = run.host()?;
        let len = (len - within).min(end - at);
        src.drain_to_host(fd, base + within, len as usize).map(|count| count as u64)
    }

    /// Puts zeroed frames into the hole at `index`, at least one and at most `max`.
    fn fill_hole(&self, content: &Content, index: u64, max: u64) -> Result<()> {
        umbel_mm::heap::room_for(super::HEAP_MARGIN).map_err(|_| Errno::ENOSPC)?;
        let fs = self.fs()?;
        let want = content.hole(index, max.min(BATCH)).max(1);
        let want = fs.charge(want)?;
        let frames = match FrameRef::alloc_run(want as u32) {
            Ok(frames) => frames,
            Err(_) => {
                fs.uncharge(want);
                return Err(Errno::ENOSPC);
            }
        };
        let mut used = 0;
        for (at, frame) in (index..).zip(frames) {
            if content.insert(at, frame) == Inserted::Yes {
                used += 1;
            }
        }
        fs.uncharge(want - used);
        Ok(())
    }

    /// Whether it is of the layered root, which stands for a file system on a disk.
    fn lower_root(&self) -> bool {
        self.fs().is_ok_and(|fs| fs.is_layered())
    }

    /// Why a mapping gets no page: a full file system is the writer's error (SIGBUS); RAM may come back.
    fn no_page(&self) -> Errno {
        if self.fs().is_ok_and(|fs| fs.is_layered() || fs.is_full()) { Errno::ENOSPC } else { Errno::ENOMEM }
    }

    /// Changes the size.
    pub(super) fn truncate(&self, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let content = self.content()?;
        self.copy_up(size)?;
        let _write = content.write.lock();
        let old = content.size();
        content.seals.check_size(old, size)?;
        content.set_size(size);
        if size < old {
            content.zero_tail(size)?;
            self.drop_pages(content, size.div_ceil(PAGE), u64::MAX)?;
        }
        self.pin();
        self.written();
        Ok(())
    }

    /// Drops the pages `from..to` and their mappings. Under `write`.
    fn drop_pages(&self, content: &Content, from: u64, to: u64) -> Result<()> {
        let removed = content.remove(from, to);
        self.fs()?.uncharge(removed);
        let mapping = content.mapping.lock().upgrade();
        if let Some(mapping) = mapping {
            mapping.set.truncate(Arc::as_ptr(&mapping).cast(), from);
        }
        Ok(())
    }

    /// Makes the first `limit` bytes of the host's file this file's own, unless that has been done.
    pub(super) fn copy_up(&self, limit: u64) -> Result<()> {
        let content = self.content()?;
        if !content.is_lower() {
            return Ok(());
        }
        let _change = crate::fs::ahead::change();
        let _write = content.write.lock();
        if !content.is_lower() {
            return Ok(());
        }
        let data = self.lower.as_ref().ok_or(Errno::EIO)?.contents()?;
        match self.copy_from(content, &data, limit) {
            Ok(size) => {
                content.copied(size);
                self.pin();
                Ok(())
            }
            Err(error) => {
                let removed = content.remove(0, u64::MAX);
                self.fs()?.uncharge(removed);
                Err(error)
            }
        }
    }

    /// Copies; returns the number of bytes.
    fn copy_from(&self, content: &Content, data: &HostData, limit: u64) -> Result<u64> {
        let mut buffer = Vec::new();
        let step = (BATCH * PAGE) as usize;
        buffer.try_reserve_exact(step).map_err(|_| Errno::ENOMEM)?;
        buffer.resize(step, 0);
        let mut at = 0;
        while at < limit {
            let want = (limit - at).min(step as u64) as usize;
            let room = buffer.get_mut(..want).ok_or(Errno::EIO)?;
            let count = data.read_at(&mut IoDst::kernel(room), at)?;
            if count == 0 {
                break;
            }
            self.store(content, at, buffer.get(..count).unwrap_or(&[]))?;
            at += count as u64;
            if count < want {
                break;
            }
            breathe();
        }
        Ok(at)
    }

    /// Writes `bytes`, from the start of a page on, into new frames.
    fn store(&self, content: &Content, at: u64, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        let mut index = at / PAGE;
        while !rest.is_empty() {
            let pages = (rest.len() as u64).div_ceil(PAGE);
            self.fill_hole(content, index, pages)?;
            let (fd, base, len) = content.run(index, pages).ok_or(Errno::EIO)?.host()?;
            let count = rest.len().min(len as usize);
            let (now, later) = rest.split_at(count);
            if write_at(HostFd(fd), now, base)? != count {
                return Err(Errno::ENOSPC);
            }
            (rest, index) = (later, index + count as u64 / PAGE);
        }
        Ok(())
    }

    /// The object to map, the same for all who map it at the same time. `data` is the host's file if it was opened.
    fn mapping(&self, data: Option<Arc<HostData>>) -> Result<Arc<Mapping>> {
        let content = self.content()?;
        if let Some(mapping) = content.mapping.lock().upgrade() {
            return Ok(mapping);
        }
        let new = Arc::new(Mapping { node: self.this()?, data, set: MappingSet::new() });
        let mut place = content.mapping.lock();
        if let Some(other) = place.upgrade() {
            drop(place);
            return Ok(other);
        }
        *place = Arc::downgrade(&new);
        Ok(new)
    }

    /// Gives all of a range memory. Under `write`.
    fn fill_range(&self, content: &Content, from: u64, to: u64) -> Result<()> {
        for index in from / PAGE..to.div_ceil(PAGE) {
            if content.page(index).is_none() {
                self.fill_hole(content, index, to.div_ceil(PAGE) - index)?;
            }
        }
        Ok(())
    }

    /// Zeroes a range that lies within the file, without changing its size. Under `write`.
    fn punch(&self, content: &Content, from: u64, to: u64) -> Result<()> {
        let (first, last) = (from.div_ceil(PAGE), to / PAGE);
        if first < last {
            self.drop_pages_between(content, first, last)?;
        }
        for (at, end) in [(from, to.min(first * PAGE)), (from.max(last * PAGE), to)] {
            if at < end
                && let Some(frame) = content.page(at / PAGE)
            {
                let zeroes = alloc::vec![0; (end - at) as usize];
                frame.write((at % PAGE) as usize, &zeroes)?;
            }
        }
        Ok(())
    }

    /// As [`Self::drop_pages`] for pages in the middle: mapped ones are zeroed and stay, as nothing unmaps a part.
    fn drop_pages_between(&self, content: &Content, first: u64, last: u64) -> Result<()> {
        if content.mapping.lock().strong_count() == 0 {
            return self.drop_pages(content, first, last);
        }
        let mut index = content.next_data(first);
        while let Some(at) = index.filter(|&at| at < last) {
            if let Some(frame) = content.page(at) {
                frame.write(0, &[0; PAGE as usize])?;
            }
            index = content.next_data(at + 1);
        }
        Ok(())
    }
}

impl Node {
    fn add_seals(&self, content: &Content, seals: u32) -> Result<()> {
        let _write = content.write.lock();
        let mode = Inode::owner(self)?.mode;
        content.seals.add(seals, mode, || {
            let mapping = content.mapping.lock().upgrade();
            mapping.is_some_and(|mapping| mapping.set.has_writer(Arc::as_ptr(&mapping).cast()))
        })
    }
}

impl FileOps for Node {
    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        self.read_content(self.content()?, dst, offset)
    }

    fn write_at(&self, _: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<usize> {
        let content = self.content()?;
        let _write = content.write.lock();
        self.write_content(content, src, offset)
    }

    fn append(&self, _: &File, src: &mut IoSrc<'_>) -> Result<(usize, u64)> {
        let content = self.content()?;
        let _write = content.write.lock();
        let end = content.size();
        let count = self.write_content(content, src, end)?;
        Ok((count, end + count as u64))
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &File, whence: Whence, offset: i64) -> Result<u64> {
        let content = self.content()?;
        let size = content.size();
        let Ok(from) = u64::try_from(offset) else { return file.seek_within(whence, offset, size) };
        let found = match whence {
            Whence::Data if from < size => match content.next_data(from / PAGE) {
                Some(page) if page * PAGE < size => from.max(page * PAGE),
                _ => return Err(Errno::ENXIO),
            },
            Whence::Hole if from < size => {
                let mut page = from / PAGE;
                while content.page(page).is_some() {
                    page += 1;
                }
                from.max(page * PAGE).min(size)
            }
            _ => return file.seek_within(whence, offset, size),
        };
        file.seek_within(Whence::Set, found as i64, size)
    }

    fn mappable(&self, _: &File) -> Result<Arc<dyn Mappable>> {
        Ok(self.mapping(None)?)
    }

    fn fcntl(&self, _: &Arc<Task>, file: &File, command: u32, arg: u64) -> Result<u64> {
        let content = self.content()?;
        // Only files of a plain tmpfs have seals.
        match command {
            _ if self.fs()?.is_layered() => Err(Errno::EINVAL),
            uapi::F_GET_SEALS => Ok(u64::from(content.seals.get())),
            uapi::F_ADD_SEALS if !file.flags().writable() => Err(Errno::EPERM),
            uapi::F_ADD_SEALS => self.add_seals(content, arg as u32).map(|()| 0),
            _ => Err(Errno::EINVAL),
        }
    }

    fn truncate(&self, _: &File, size: u64) -> Result<()> {
        Node::truncate(self, size)
    }

    fn allocate(&self, _: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let content = self.content()?;
        let end = offset.checked_add(len).filter(|&end| end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let keep = mode & uapi::FALLOC_FL_KEEP_SIZE != 0;
        let _write = content.write.lock();
        match mode & !uapi::FALLOC_FL_KEEP_SIZE {
            0 => content.seals.check_size(content.size(), end.max(content.size()))?,
            _ => content.seals.check_write()?,
        }
        match mode & !uapi::FALLOC_FL_KEEP_SIZE {
            0 => self.fill_range(content, offset, end)?,
            uapi::FALLOC_FL_PUNCH_HOLE if keep => self.punch(content, offset, end)?,
            uapi::FALLOC_FL_ZERO_RANGE => {
                self.punch(content, offset, end)?;
                self.fill_range(content, offset, end)?;
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        if !keep {
            content.grow(end);
        }
        self.written();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A file of the host, open for reading; reads what replaced it once it has been copied.
pub(super) struct LowerFile {
    node: Arc<Node>,
    data: Arc<HostData>,
}

impl LowerFile {
    /// Opens the host's file under `node`.
    pub fn open(node: Arc<Node>) -> Result<LowerFile> {
        let data = node.lower.as_ref().ok_or(Errno::EIO)?.contents()?;
        Ok(LowerFile { node, data })
    }
}

impl FileOps for LowerFile {
    fn closes_plainly(&self) -> bool {
        true
    }

    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        let content = self.node.content()?;
        if content.is_lower() { self.data.read_at(dst, offset) } else { self.node.read_content(content, dst, offset) }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &File, whence: Whence, offset: i64) -> Result<u64> {
        if self.node.content()?.is_lower() {
            return file.seek_within(whence, offset, Inode::attr(&*self.node)?.size);
        }
        FileOps::seek(&*self.node, file, whence, offset)
    }

    fn mappable(&self, _: &File) -> Result<Arc<dyn Mappable>> {
        Ok(self.node.mapping(Some(self.data.clone()))?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What mmap(2) maps of a file: one object a file while anybody maps it.
pub(super) struct Mapping {
    node: Arc<Node>,
    /// Keeps the host's file open; `None` if it had been copied, or never was, when the mapping was made.
    data: Option<Arc<HostData>>,
    set: MappingSet,
}

impl Mapping {
    fn lower(&self) -> Option<&HostData> {
        let lower = self.node.content().is_ok_and(Content::is_lower);
        self.data.as_deref().filter(|_| lower)
    }
}

impl Mappable for Mapping {
    fn page(&self, index: u64, write: bool) -> Result<PageSource> {
        if let Some(data) = self.lower() {
            return data.page(index, write);
        }
        let content = self.node.content()?;
        let beyond = || index >= content.size().div_ceil(PAGE);
        if beyond() {
            return Err(Errno::EFAULT);
        }
        if let Some(frame) = content.page(index) {
            return Ok(PageSource::Frame(frame));
        }
        let pages = content.size().div_ceil(PAGE) - index;
        self.node.fill_hole(content, index, pages).map_err(|_| self.node.no_page())?;
        let frame = content.page(index);
        // A truncation that came in between sees the new frame, or is seen here.
        if beyond() {
            let removed = content.remove(index, index + 1);
            self.node.fs()?.uncharge(removed);
            return Err(Errno::EFAULT);
        }
        frame.map(PageSource::Frame).ok_or(Errno::EFAULT)
    }

    fn ready(&self, index: u64) -> Option<FrameRef> {
        let content = self.node.content().ok().filter(|content| !content.is_lower())?;
        if index < content.size().div_ceil(PAGE) { content.page(index) } else { None }
    }

    fn host_page(&self, index: u64) -> Option<(i32, u64)> {
        self.lower()?.host_page(index)
    }

    fn size(&self) -> u64 {
        match self.lower() {
            Some(data) => data.size(),
            None => self.node.content().map_or(0, Content::size),
        }
    }

    fn is_resident(&self, index: u64) -> bool {
        let in_ram = self.node.content().is_ok_and(|content| content.page(index).is_some());
        in_ram || self.lower().is_some_and(|data| index < data.size().div_ceil(PAGE))
    }

    fn cached(&self, first: u64, end: u64) -> u64 {
        let Ok(content) = self.node.content() else { return 0 };
        if self.lower().is_some() {
            return end.saturating_sub(first);
        }
        let present = |at: u64| content.next_data(at).filter(|at| *at < end);
        core::iter::successors(present(first), |at| present(at + 1)).count() as u64
    }

    fn written(&self) {
        self.node.modified();
    }

    fn notes_writes(&self) -> bool {
        self.node.lower_root()
    }

    fn mappings(&self) -> Option<&MappingSet> {
        Some(&self.set)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let content = self.node.content()?;
        let _write = content.write.lock();
        content.seals.check_write()?;
        self.node.punch(content, offset, offset + len)
    }

    fn write_sealed(&self) -> bool {
        self.node.content().is_ok_and(|content| content.seals.no_write())
    }

    fn host_run(&self, index: u64, limit: u64) -> u64 {
        self.lower().map_or(1, |data| data.host_run(index, limit))
    }
}
