//! The kernel image: embedded, checked and loaded as a boot loader loads a kernel.

use crate::memory::{Memory, MemoryError, memory_file};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use object::elf::{PF_W, PF_X};
use object::{Object, ObjectSegment, SegmentFlags};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use thiserror::Error;
use umbel_abi::machine::layout::{HOT_BASE, HUGE, IMAGE_BASE, IMAGE_MAX, PAGE, STATICS_LEN};

/// The kernel's ELF.
pub static KERNEL: &[u8] = &EMBEDDED.0;

/// ELF structures are read in place, so they must be aligned.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("UMBEL_IMAGE")));

/// Why the image cannot be loaded.
#[derive(Debug, Error)]
pub enum ImageError {
    #[error("this umbel was built without a kernel image")]
    Missing,
    #[error("the kernel image is damaged: {0}")]
    Parse(#[from] object::Error),
    #[error("the kernel image has a segment at {0:#x}, outside its place")]
    Place(u64),
    #[error(transparent)]
    File(#[from] MemoryError),
    #[error("cannot fill the image's memory file: {0}")]
    Write(#[from] std::io::Error),
    #[error("cannot seal the image's memory file: {0}")]
    Seal(#[from] nix::Error),
}

/// A part of the image with one protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address, a multiple of the page size.
    pub start: u64,
    /// Bytes, a multiple of the page size; of code, of the huge page size.
    pub len: u64,
    /// Code, not data.
    pub exec: bool,
}

/// A loaded image, ready to be mapped.
pub struct Image {
    /// Read-only segments, sealed: the file's offset 0 is [`IMAGE_BASE`].
    pub file: OwnedFd,
    /// The read-only segments.
    pub segments: Vec<Segment>,
    /// Where to jump to.
    pub entry: u64,
}

impl Image {
    /// Loads [`KERNEL`]: text and constants into a file of their own, data into KDATA.
    pub fn load(memory: &mut Memory) -> Result<Image, ImageError> {
        if KERNEL.is_empty() {
            return Err(ImageError::Missing);
        }
        let elf = object::File::parse(KERNEL)?;
        let mut segments = Vec::new();
        for segment in elf.segments() {
            let SegmentFlags::Elf { p_flags } = segment.flags() else { continue };
            let (start, len) = (segment.address(), segment.size());
            if p_flags & PF_W != 0 {
                let inside = start >= HOT_BASE && start + len <= HOT_BASE + STATICS_LEN;
                if !inside || !memory.shared.load(start - HOT_BASE, segment.data()?) {
                    return Err(ImageError::Place(start));
                }
                continue;
            }
            if len == 0 {
                continue;
            }
            if start < IMAGE_BASE || start + len > IMAGE_BASE + IMAGE_MAX || start % PAGE != 0 {
                return Err(ImageError::Place(start));
            }
            let exec = p_flags & PF_X != 0;
            segments.push(Segment { start, len: len.next_multiple_of(if exec { HUGE } else { PAGE }), exec });
        }
        let end = segments.iter().map(|s| s.start + s.len).max().ok_or(ImageError::Missing)?;
        let file = File::from(memory_file(c"umbel-kernel", end - IMAGE_BASE)?);
        for segment in elf.segments().filter(|s| (IMAGE_BASE..end).contains(&s.address())) {
            file.write_all_at(segment.data()?, segment.address() - IMAGE_BASE)?;
        }
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Image { file: file.into(), segments, entry: elf.entry() })
    }
}
