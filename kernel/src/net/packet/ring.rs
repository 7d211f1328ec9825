//! `PACKET_RX_RING`: packets in memory that the program maps. Source: `Documentation/networking/packet_mmap.rst`.
//!
//! The memory is a file without a name. In versions 1 and 2 each packet has a frame of its own; in version 3 each has a block, which is given
//! to the program at once: as if its time had run out.

use super::LINK_HEADER;
use crate::fs::tmpfs::memory_file;
use crate::fs::{File, FsContext, IoSrc, Names};
use crate::task::{self, Cred};
use crate::time::SEC_NS;
use crate::vm::Mappable;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

const PAGE: u32 = 4096;
const ALIGNMENT: u32 = 16;
/// `TPACKET_V3`, and bytes of a block's header there.
const V3: u32 = 2;
const BLOCK_HEADER: u32 = 48;
/// Bytes of `struct sockaddr_ll`, of `struct virtio_net_hdr`.
const ADDRESS: u32 = 20;
const VNET: u32 = 10;
/// `TP_STATUS_USER`.
const USER: u32 = 1;

/// What decides how frames look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `TPACKET_V1` = 0 and so on.
    pub version: u32,
    pub reserve: u32,
    pub vnet_header: bool,
}

impl Settings {
    /// Bytes of a frame's header, without the sender's address.
    pub fn header(&self) -> u32 {
        if self.version == V3 { 48 } else { 32 }
    }
}

/// `struct tpacket_req`, or `tpacket_req3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    block_size: u32,
    blocks: u32,
    frame_size: u32,
    frames: u32,
    private: u32,
}

impl Shape {
    fn read(settings: Settings, value: &[u8]) -> Result<Shape> {
        let word = |at: usize| {
            let bytes = value.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(Errno::EINVAL)
        };
        let private = if settings.version == V3 { word(20).and_then(|private| word(24).map(|_| private))? } else { 0 };
        Ok(Shape { block_size: word(0)?, blocks: word(4)?, frame_size: word(8)?, frames: word(12)?, private })
    }

    /// Whether it fits together, as Linux asks.
    fn check(&self, settings: Settings) -> Result<()> {
        let least = u64::from(settings.header() + ADDRESS) + u64::from(settings.reserve);
        let in_block = u64::from(BLOCK_HEADER) + u64::from(self.private).next_multiple_of(8) + least;
        let bad = self.block_size as i32 <= 0
            || !self.block_size.is_multiple_of(PAGE)
            || (settings.version == V3 && u64::from(self.block_size) < in_block)
            || u64::from(self.frame_size) < least
            || !self.frame_size.is_multiple_of(ALIGNMENT)
            || self.block_size.checked_div(self.frame_size).unwrap_or(0) == 0
            || self.block_size.checked_mul(self.blocks).is_none()
            || (self.block_size / self.frame_size).checked_mul(self.blocks) != Some(self.frames);
        if bad { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn bytes(&self) -> u64 {
        u64::from(self.block_size) * u64::from(self.blocks)
    }

    /// Where frame `index` begins: they do not lie across blocks. In version 3 blocks are what is counted.
    fn place(&self, settings: Settings, index: u32) -> u64 {
        if settings.version == V3 {
            return u64::from(index) * u64::from(self.block_size);
        }
        let in_block = (self.block_size / self.frame_size.max(1)).max(1);
        u64::from(index / in_block) * u64::from(self.block_size)
            + u64::from(index % in_block) * u64::from(self.frame_size)
    }
}

/// A ring that receives.
pub struct Ring {
    settings: Settings,
    shape: Shape,
    memory: Arc<File>,
    /// The next frame (or block), and how many packets there have been.
    next: u32,
    count: u64,
}

impl Ring {
    /// The ring that setsockopt(2) asks for; none takes away the one there is.
    ///
    /// # Errors
    /// `EINVAL`, `EBUSY` if there is one, `ENOMEM`.
    pub fn new(settings: Settings, value: &[u8], exists: bool) -> Result<Option<Ring>> {
        let shape = Shape::read(settings, value)?;
        if shape.blocks == 0 {
            return if shape.frames == 0 { Ok(None) } else { Err(Errno::EINVAL) };
        }
        if exists {
            return Err(Errno::EBUSY);
        }
        shape.check(settings)?;
        let (context, owner) = (task::current().fs()?, Cred::new(0, 0));
        let memory = memory(&context, &owner)?;
        memory.ops().truncate(&memory, shape.bytes())?;
        Ok(Some(Ring { settings, shape, memory, next: 0, count: 0 }))
    }

    /// What mmap(2) maps.
    ///
    /// # Errors
    /// Those of the file.
    pub fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        self.memory.mappable()
    }

    fn slots(&self) -> u32 {
        if self.settings.version == V3 { self.shape.blocks } else { self.shape.frames }
    }

    /// The status of a frame, or of a block: where it lies, and what it is. The program may have written anything there.
    fn status(&self, index: u32) -> (u64, u32) {
        let at = self.shape.place(self.settings, index) + if self.settings.version == V3 { 8 } else { 0 };
        let mut bytes = [0; 4];
        let read = self.memory.read_kernel(&mut bytes, at);
        (at, if read == Ok(4) { u32::from_le_bytes(bytes) } else { USER })
    }

    /// Whether the program has a packet that it has not given back: the last one.
    pub fn has_packets(&self) -> bool {
        let slots = self.slots().max(1);
        self.count > 0 && self.status((self.next + slots - 1) % slots).1 & USER != 0
    }

    /// Puts a packet, of which `whole` bytes are known and `hidden` are not shown, into the next frame. False: there is none free, or
    /// it does not fit.
    pub fn put(&mut self, bytes: &[u8], whole: usize, hidden: usize, sender: &[u8], at_ns: u64) -> bool {
        let (status_at, status) = self.status(self.next);
        if status & USER != 0 {
            return false;
        }
        let header = self.settings.header();
        let base = (header + ADDRESS + 16).next_multiple_of(ALIGNMENT) + self.settings.reserve;
        let network = if hidden > 0 { base } else { base + if self.settings.vnet_header { VNET } else { 0 } };
        let link = if hidden > 0 { network } else { network - LINK_HEADER as u32 };
        if network > u32::from(u16::MAX) {
            return false;
        }
        let first = if self.settings.version == V3 { BLOCK_HEADER + self.shape.private.next_multiple_of(8) } else { 0 };
        let room = if self.settings.version == V3 { self.shape.block_size - first } else { self.shape.frame_size };
        let shown = bytes.get(hidden..).unwrap_or(&[]);
        let shown = shown.get(..shown.len().min(room.saturating_sub(link) as usize)).unwrap_or(&[]);
        let frame = self.shape.place(self.settings, self.next) + u64::from(first);
        let lengths = (shown.len() as u32, (whole - hidden.min(whole)) as u32);
        let written = self.write(frame + u64::from(link), shown)
            && self.write(frame + u64::from(header), sender)
            && self.write(frame, &self.frame_header(lengths, (link, network), at_ns))
            && (self.settings.version != V3
                || self.finish_block(frame - u64::from(first), first, link + lengths.0, at_ns))
            && self.write(status_at, &USER.to_le_bytes());
        if written {
            self.next = (self.next + 1) % self.slots().max(1);
            self.count += 1;
        }
        written
    }

    /// `struct tpacket_hdr`, `tpacket2_hdr` or `tpacket3_hdr`, still the kernel's in versions 1 and 2.
    fn frame_header(&self, (shown, whole): (u32, u32), (link, network): (u32, u32), at_ns: u64) -> Vec<u8> {
        let (sec, ns) = ((at_ns / SEC_NS) as u32, (at_ns % SEC_NS) as u32);
        let places = link | network << 16;
        let words: &[u32] = match self.settings.version {
            0 => &[0, 0, whole, shown, places, sec, ns / 1000, 0],
            1 => &[0, whole, shown, places, sec, ns, 0, 0],
            _ => &[0, sec, ns, shown, whole, USER, places, 0, 0, 0, 0, 0],
        };
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The header of a block that holds one packet, but for its status.
    fn finish_block(&self, block: u64, first: u32, len: u32, at_ns: u64) -> bool {
        let (sec, ns) = ((at_ns / SEC_NS) as u32, (at_ns % SEC_NS) as u32);
        let sequence = self.count + 1;
        let end = first + len;
        let head: [u32; 2] = [V3, BLOCK_HEADER];
        let rest = [1, first, end, sequence as u32, (sequence >> 32) as u32, sec, ns, sec, ns];
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        self.write(block, &bytes(&head)) && self.write(block + 12, &bytes(&rest))
    }

    fn write(&self, at: u64, bytes: &[u8]) -> bool {
        self.memory.ops().write_at(&self.memory, &mut IoSrc::kernel(bytes), at) == Ok(bytes.len())
    }
}

fn memory(context: &FsContext, owner: &Cred) -> Result<Arc<File>> {
    memory_file(b"packet", &Names { context, cred: owner }, 0o600, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn shapes_must_fit_together() {
        let two = Settings { version: 1, ..Settings::default() };
        let check =
            |settings, words: &[u32]| Shape::read(settings, &value(words)).and_then(|shape| shape.check(settings));
        assert_eq!(check(two, &[4096, 2, 2048, 4]), Ok(()));
        assert_eq!(check(two, &[4096, 2, 2048, 5]), Err(Errno::EINVAL));
        assert_eq!(check(two, &[4096, 2, 16, 512]), Err(Errno::EINVAL));
        assert_eq!(check(two, &[4000, 2, 2000, 4]), Err(Errno::EINVAL));
        assert_eq!(check(two, &[0x8000_0000, 1, 4096, 1]), Err(Errno::EINVAL));
        assert_eq!(check(Settings { reserve: 4096, ..two }, &[4096, 1, 4096, 1]), Err(Errno::EINVAL));
        let three = Settings { version: V3, ..Settings::default() };
        assert_eq!(check(three, &[4096, 2, 4096, 2, 100, 512, 0]), Ok(()));
        assert_eq!(check(three, &[4096, 2, 4096, 2, 100, 3 << 30, 0]), Err(Errno::EINVAL));
        assert_eq!(check(three, &[4096, 2, 4096, 2]), Err(Errno::EINVAL));
    }

    #[test]
    fn frames_do_not_lie_across_blocks() {
        let shape = Shape { block_size: 4096, blocks: 2, frame_size: 1536, frames: 4, private: 0 };
        let places = [0, 1, 2, 3].map(|index| shape.place(Settings::default(), index));
        assert_eq!(places, [0, 1536, 4096, 5632]);
    }
}
