//! Access to a space from outside: the loader, ptrace, /proc/PID/mem, and the patcher of call sites. Needs no slot.

use super::object::PageSource;
use super::patch::{Patches, is_text};
use super::space::{Inner, Space};
use super::table::Pte;
use super::vma::{Backing, Prot, Vma, VmaFlags};
use crate::{Errno, Result};
use umbel_mm::frame::{self, FrameRef};
use umbel_mm::{PAGE, UserAddr, view};

impl Space {
    /// As [`Self::read_remote`] as far as the protection allows: process_vm_readv(2).
    pub fn read_mapped(&self, addr: UserAddr, buf: &mut [u8]) -> Result<usize> {
        let len = self.allowed(addr, buf.len(), Prot::READ)?;
        self.read_remote(addr, &mut buf[..len])
    }

    /// As [`Self::write_remote`] as far as the protection allows: process_vm_writev(2).
    pub fn write_mapped(&self, addr: UserAddr, bytes: &[u8]) -> Result<usize> {
        let len = self.allowed(addr, bytes.len(), Prot::WRITE)?;
        self.write_remote(addr, &bytes[..len])
    }

    /// How many of `len` bytes areas with `prot` hold: `EFAULT` if none.
    fn allowed(&self, addr: UserAddr, len: usize, prot: Prot) -> Result<usize> {
        let inner = self.inner.read();
        let end = addr.0.saturating_add(len as u64);
        let mut at = addr.0;
        while at < end {
            match inner.vmas.find(at).filter(|vma| vma.prot.intersects(prot)) {
                Some(vma) => at = vma.end.min(end),
                None => break,
            }
        }
        if at == addr.0 && len > 0 { Err(Errno::EFAULT) } else { Ok((at - addr.0) as usize) }
    }

    /// Reads guest memory whatever its protection; bytes read: fewer than asked for at the first address that is not
    /// mapped, `EFAULT` if that is the first. Patched text reads as the file has it.
    pub fn read_remote(&self, addr: UserAddr, buf: &mut [u8]) -> Result<usize> {
        let len = buf.len();
        let end = addr.0.saturating_add(len as u64);
        let has_text = self.inner.read().vmas.iter().any(|vma| vma.start < end && addr.0 < vma.end && is_text(vma));
        let patches = has_text.then(Patches::lock);
        self.by_page(addr, len, |inner, vma, vpn, offset, done, room| {
            read_page(inner, vma, vpn, offset, &mut buf[done..done + room], patches.as_ref())
        })
    }

    /// Writes guest memory whatever its protection: private pages are copied first. As [`Self::read_remote`] otherwise;
    /// a shared area that is not writable is `EFAULT`.
    pub fn write_remote(&self, addr: UserAddr, bytes: &[u8]) -> Result<usize> {
        // What a debugger puts into text is to be found where it was put.
        drop(self.write_own_text(&(addr.0..addr.0.saturating_add(bytes.len() as u64))));
        self.by_page(addr, bytes.len(), |inner, vma, vpn, offset, done, room| {
            if !vma.is_private() && !vma.prot.contains(Prot::WRITE) {
                return Err(Errno::EFAULT);
            }
            self.make_present(inner, vma, vpn, true, false).map_err(|_| Errno::EFAULT)?;
            let pte = inner.table.get_mut().get(vpn);
            FrameRef::from_held(pte.pfn()).write(offset, &bytes[done..done + room])
        })
    }

    /// Puts a page of RAM in the place of a page of private text, not writable: the patcher. The frame may be shared by
    /// many spaces. `EFAULT` if nothing is mapped there.
    pub fn replace_page(&self, addr: UserAddr, page: FrameRef) -> Result<()> {
        let mut inner = self.inner.write();
        let vma = inner.vmas.find(addr.0).ok_or(Errno::EFAULT)?;
        if !is_text(vma) {
            return Err(Errno::EFAULT);
        }
        let vpn = addr.0 / PAGE;
        let old = inner.table.get_mut().set(vpn, Pte::of_object(page.into_raw()));
        self.log_drop(vpn * PAGE, (vpn + 1) * PAGE);
        view::shootdown(&self.log);
        if old.is_present() {
            frame::put_run(old.pfn(), 1);
        }
        Ok(())
    }

    /// Calls `step(inner, vma, vpn, offset in page, bytes done, bytes here)` for each page of a range.
    fn by_page(
        &self,
        addr: UserAddr,
        len: usize,
        mut step: impl FnMut(&mut Inner, &Vma, u64, usize, usize, usize) -> Result<()>,
    ) -> Result<usize> {
        let mut inner = self.inner.write();
        let mut done = 0;
        while done < len {
            let at = addr.0.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let offset = (at % PAGE) as usize;
            let room = (PAGE as usize - offset).min(len - done);
            let result = match inner
                .vmas
                .find(at)
                .filter(|vma| !vma.flags.intersects(VmaFlags::MARKS | VmaFlags::SECRET))
                .cloned()
            {
                Some(vma) => step(&mut inner, &vma, at / PAGE, offset, done, room),
                None => Err(Errno::EFAULT),
            };
            match result {
                Ok(()) => done += room,
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

fn read_page(
    inner: &mut Inner,
    vma: &Vma,
    vpn: u64,
    offset: usize,
    buf: &mut [u8],
    patches: Option<&Patches>,
) -> Result<()> {
    let pte = inner.table.get_mut().get(vpn);
    let file_page = vma.object_page(vpn);
    let is_patch = patches.zip(file_page).is_some_and(|(patches, (object, page))| patches.has(object, page, pte));
    if pte.is_present() && !is_patch {
        return FrameRef::from_held(pte.pfn()).read(offset, buf);
    }
    let Backing::File { .. } = &vma.backing else {
        buf.fill(0);
        return Ok(());
    };
    let (object, index) = file_page.ok_or(Errno::EFAULT)?;
    match object.stands_for().unwrap_or(object).page(index, false)? {
        PageSource::Frame(frame) => frame.read(offset, buf),
        PageSource::Host { fd, offset: at } => frame::read_host(fd, at + offset as u64, buf),
    }
}
