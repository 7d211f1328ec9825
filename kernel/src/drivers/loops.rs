//! Loop devices: a regular file as a block device (/dev/loop0 to 7, /dev/loop-control). Source: loop(4).
//!
//! No file system of this kernel lies on a block device; programs read and write the device itself.
//! Locks: `LOOPS`, a leaf; a backing file is used and dropped outside it.

use crate::fs::devtmpfs::{register_block, register_char};
use crate::fs::{Dev, File, FileOps, IoDst, IoSrc, Kind, OpenContext, Whence};
use crate::task::{Task, cap};
use crate::{Errno, Fd, Result};
use alloc::sync::Arc;
use alloc::vec;
use core::any::Any;
use core::ops::Range;
use umbel_mm::user::{UserAddr, read_val, write_val};
use umbel_smp::lock::{Rank, SpinLock};

const MAJOR: u32 = 7;
const COUNT: usize = 8;
const NAMES: [&str; COUNT] = ["loop0", "loop1", "loop2", "loop3", "loop4", "loop5", "loop6", "loop7"];
/// Bytes of a sector: sizes are whole sectors.
const SECTOR: u64 = 512;
/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;

const LOOP_SET_FD: u32 = 0x4c00;
const LOOP_CLR_FD: u32 = 0x4c01;
const LOOP_SET_STATUS: u32 = 0x4c02;
const LOOP_GET_STATUS: u32 = 0x4c03;
const LOOP_SET_STATUS64: u32 = 0x4c04;
const LOOP_GET_STATUS64: u32 = 0x4c05;
const LOOP_CHANGE_FD: u32 = 0x4c06;
const LOOP_SET_CAPACITY: u32 = 0x4c07;
const LOOP_SET_BLOCK_SIZE: u32 = 0x4c09;
const LOOP_CONFIGURE: u32 = 0x4c0a;
const LOOP_CTL_GET_FREE: u32 = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Kept and shown; no partition is ever looked for.
const LO_FLAGS_PARTSCAN: u32 = 8;
const BLKROGET: u32 = 0x125e;
const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKSSZGET: u32 = 0x1268;
const BLKPBSZGET: u32 = 0x127b;
const BLKBSZGET: u32 = 0x8008_1270;
const BLKGETSIZE64: u32 = 0x8008_1272;

/// What a device shows.
#[derive(Clone)]
struct Backing {
    file: Arc<File>,
    /// Where the device begins in the file, and its most bytes; 0 = to the end.
    offset: u64,
    limit: u64,
    flags: u32,
    name: [u8; 64],
    /// Bytes of a block, as the device says.
    block: u32,
}

/// What sysfs shows of a device.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Sectors.
    pub size: u64,
    pub read_only: bool,
    /// What is bound to it, if anything is.
    pub bound: Option<Bound>,
}

/// The file behind a device.
#[derive(Clone, Debug)]
pub struct Bound {
    pub path: Option<crate::fs::Path>,
    pub offset: u64,
    pub limit: u64,
    pub autoclear: bool,
    pub partscan: bool,
}

/// The devices by name, and what there is to see of one.
pub const DEVICES: [&str; COUNT] = NAMES;

/// See [`Shown`].
pub fn shown(index: usize) -> Shown {
    let backing = with(index, |device| Ok(device.backing.clone())).ok().flatten();
    let Some(backing) = backing else { return Shown::default() };
    let has = |flag| backing.flags & flag != 0;
    Shown {
        size: backing.size().unwrap_or(0) / SECTOR,
        read_only: has(LO_FLAGS_READ_ONLY),
        bound: Some(Bound {
            path: backing.file.path().cloned(),
            offset: backing.offset,
            limit: backing.limit,
            autoclear: has(LO_FLAGS_AUTOCLEAR),
            partscan: has(LO_FLAGS_PARTSCAN),
        }),
    }
}

#[derive(Default)]
struct Device {
    backing: Option<Backing>,
    opens: usize,
}

static LOOPS: SpinLock<[Device; COUNT]> =
    SpinLock::new(Rank::Leaf, [const { Device { backing: None, opens: 0 } }; COUNT]);

/// Registers them.
pub fn register() {
    register_char(10, 237, "loop-control", 0o660, |_, _| Ok(Arc::new(Control)));
    for (minor, name) in (0..).zip(NAMES) {
        register_block(MAJOR, minor, name, 0o660, open);
    }
}

fn open(_: &OpenContext<'_>, dev: Dev) -> Result<Arc<dyn FileOps>> {
    let index = dev.minor as usize;
    with(index, |device| {
        device.opens += 1;
        Ok(())
    })?;
    Ok(Arc::new(Loop { index }))
}

fn with<T>(index: usize, act: impl FnOnce(&mut Device) -> Result<T>) -> Result<T> {
    act(LOOPS.lock().get_mut(index).ok_or(Errno::ENXIO)?)
}

impl Backing {
    fn new(task: &Arc<Task>, fd: Fd, device: &File) -> Result<Backing> {
        let file = task.files()?.get(fd)?;
        // A device on a device could go round in circles.
        if file.inode().is_none_or(|inode| inode.kind() != Kind::Regular) {
            return Err(Errno::EINVAL);
        }
        let writable = file.flags().writable() && device.flags().writable();
        let flags = if writable { 0 } else { LO_FLAGS_READ_ONLY };
        Ok(Backing { file, offset: 0, limit: 0, flags, name: [0; 64], block: SECTOR as u32 })
    }

    /// Bytes of the device.
    fn size(&self) -> Result<u64> {
        let rest = self.file.attr()?.size.saturating_sub(self.offset);
        let size = if self.limit == 0 { rest } else { rest.min(self.limit) };
        Ok(size - size % SECTOR)
    }

    /// The part of the file that `count` bytes of the device from `at` on are.
    fn range(&self, at: u64, count: usize) -> Result<Range<u64>> {
        let size = self.size()?;
        let end = at.saturating_add(count as u64).min(size);
        Ok(self.offset + at.min(size)..self.offset + end)
    }
}

/// An open loop device.
struct Loop {
    index: usize,
}

impl Loop {
    fn backing(&self) -> Result<Backing> {
        with(self.index, |device| device.backing.clone().ok_or(Errno::ENXIO))
    }

    fn size(&self) -> u64 {
        self.backing().and_then(|backing| backing.size()).unwrap_or(0)
    }

    fn bind(&self, backing: Backing) -> Result<u64> {
        with(self.index, |device| match device.backing {
            Some(_) => Err(Errno::EBUSY),
            None => {
                device.backing = Some(backing);
                Ok(0)
            }
        })
    }

    /// Gone at once, or with the last open where others have it open too.
    fn clear(&self) -> Result<u64> {
        let gone = with(self.index, |device| {
            let shared = device.opens > 1;
            let backing = device.backing.as_mut().ok_or(Errno::ENXIO)?;
            if shared {
                backing.flags |= LO_FLAGS_AUTOCLEAR;
                return Ok(None);
            }
            Ok(device.backing.take())
        })?;
        drop(gone);
        Ok(0)
    }

    /// Another file of the same size takes the place of what cannot be written to.
    fn change(&self, new: Backing) -> Result<u64> {
        let size = new.file.attr()?.size;
        let old = self.backing()?;
        if old.flags & LO_FLAGS_READ_ONLY == 0 || old.file.attr()?.size != size {
            return Err(Errno::EINVAL);
        }
        let gone = with(self.index, |device| {
            let backing = device.backing.as_mut().ok_or(Errno::ENXIO)?;
            Ok(core::mem::replace(&mut backing.file, new.file))
        })?;
        drop((gone, old));
        Ok(0)
    }

    fn set_block(&self, block: u64) -> Result<u64> {
        let block = checked_block(block)?;
        with(self.index, |device| {
            device.backing.as_mut().ok_or(Errno::ENXIO)?.block = block;
            Ok(0)
        })
    }

    fn set_status(&self, status: &Status) -> Result<u64> {
        with(self.index, |device| {
            let backing = device.backing.as_mut().ok_or(Errno::ENXIO)?;
            status.apply(backing);
            Ok(0)
        })
    }
}

/// A power of two from a sector to a page.
fn checked_block(block: u64) -> Result<u32> {
    let fits = block.is_power_of_two() && (SECTOR..=umbel_mm::PAGE).contains(&block);
    if fits { Ok(block as u32) } else { Err(Errno::EINVAL) }
}

/// `struct loop_info64` without what nobody may choose.
#[derive(Clone, Copy)]
struct Status {
    offset: u64,
    limit: u64,
    flags: u32,
    name: [u8; 64],
}

impl Status {
    const SIZE: usize = 232;
    const OLD_SIZE: usize = 168;

    fn from_bytes(bytes: &[u8; Status::SIZE]) -> Status {
        Status {
            offset: field::<8>(bytes, 24),
            limit: field::<8>(bytes, 32),
            flags: field::<4>(bytes, 52) as u32,
            name: core::array::from_fn(|i| bytes[56 + i]),
        }
    }

    /// `struct loop_info`.
    fn from_old(bytes: &[u8; Status::OLD_SIZE]) -> Status {
        Status {
            offset: field::<4>(bytes, 32),
            limit: 0,
            flags: field::<4>(bytes, 44) as u32,
            name: core::array::from_fn(|i| bytes[48 + i]),
        }
    }

    fn apply(&self, backing: &mut Backing) {
        (backing.offset, backing.limit, backing.name) = (self.offset, self.limit, self.name);
        backing.name[63] = 0;
        let settable = LO_FLAGS_AUTOCLEAR | LO_FLAGS_PARTSCAN;
        backing.flags = backing.flags & !LO_FLAGS_AUTOCLEAR | self.flags & settable;
    }
}

/// The little-endian number of `N` bytes at `at`.
fn field<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes.iter().skip(at).take(N).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(value) {
        *place = *byte;
    }
}

fn status64(index: usize, backing: &Backing) -> Result<[u8; Status::SIZE]> {
    let attr = backing.file.attr()?;
    let mut out = [0; Status::SIZE];
    put(&mut out, 0, &attr.dev.to_le_bytes());
    put(&mut out, 8, &attr.ino.to_le_bytes());
    put(&mut out, 24, &backing.offset.to_le_bytes());
    put(&mut out, 32, &backing.limit.to_le_bytes());
    put(&mut out, 40, &(index as u32).to_le_bytes());
    put(&mut out, 52, &backing.flags.to_le_bytes());
    put(&mut out, 56, &backing.name);
    Ok(out)
}

fn status_old(index: usize, backing: &Backing) -> Result<[u8; Status::OLD_SIZE]> {
    let attr = backing.file.attr()?;
    let offset = i32::try_from(backing.offset).map_err(|_| Errno::EOVERFLOW)?;
    let mut out = [0; Status::OLD_SIZE];
    put(&mut out, 0, &(index as u32).to_le_bytes());
    put(&mut out, 8, &attr.dev.to_le_bytes());
    put(&mut out, 16, &attr.ino.to_le_bytes());
    put(&mut out, 32, &offset.to_le_bytes());
    put(&mut out, 44, &backing.flags.to_le_bytes());
    put(&mut out, 48, &backing.name);
    Ok(out)
}

impl FileOps for Loop {
    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        let backing = self.backing()?;
        let mut range = backing.range(offset, dst.remaining())?;
        let mut chunk = vec![0; CHUNK];
        let mut done = 0;
        while !range.is_empty() {
            let count = (range.end - range.start).min(CHUNK as u64) as usize;
            let part = chunk.get_mut(..count).ok_or(Errno::EIO)?;
            let got = backing.file.ops().read_at(&backing.file, &mut IoDst::kernel(part), range.start)?;
            if got == 0 {
                break;
            }
            done += dst.write(part.get(..got).ok_or(Errno::EIO)?)?;
            range.start += got as u64;
        }
        Ok(done)
    }

    fn write_at(&self, _: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<usize> {
        let backing = self.backing()?;
        if backing.flags & LO_FLAGS_READ_ONLY != 0 {
            return Err(Errno::EPERM);
        }
        let mut range = backing.range(offset, src.remaining())?;
        if range.is_empty() && src.remaining() > 0 {
            return Err(Errno::ENOSPC);
        }
        let mut chunk = vec![0; CHUNK];
        let mut done = 0;
        while !range.is_empty() {
            let count = (range.end - range.start).min(CHUNK as u64) as usize;
            let part = chunk.get_mut(..count).ok_or(Errno::EIO)?;
            let got = src.read(part)?;
            let part = chunk.get(..got).filter(|part| !part.is_empty()).ok_or(Errno::EFAULT)?;
            let written = backing.file.ops().write_at(&backing.file, &mut IoSrc::kernel(part), range.start)?;
            done += written;
            range.start += written as u64;
            if written < got {
                break;
            }
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &File, whence: Whence, offset: i64) -> Result<u64> {
        file.seek_within(whence, offset, self.size())
    }

    fn ioctl(&self, task: &Arc<Task>, file: &File, cmd: u32, arg: u64) -> Result<u64> {
        let at = UserAddr(arg);
        match cmd {
            LOOP_SET_FD => self.bind(Backing::new(task, Fd(arg as i32), file)?),
            LOOP_CONFIGURE => {
                let config: [u8; 8 + Status::SIZE] = read_val(at)?;
                let mut backing = Backing::new(task, Fd(field::<4>(&config, 0) as i32), file)?;
                let status = Status::from_bytes(&core::array::from_fn(|i| config[8 + i]));
                status.apply(&mut backing);
                match field::<4>(&config, 4) {
                    0 => {}
                    block => backing.block = checked_block(block)?,
                }
                backing.flags |= status.flags & LO_FLAGS_READ_ONLY;
                self.bind(backing)
            }
            LOOP_CLR_FD => self.clear(),
            LOOP_CHANGE_FD => self.change(Backing::new(task, Fd(arg as i32), file)?),
            LOOP_SET_BLOCK_SIZE => self.backing().and_then(|_| self.set_block(arg)),
            LOOP_SET_STATUS => self.set_status(&Status::from_old(&read_val(at)?)),
            LOOP_SET_STATUS64 => self.set_status(&Status::from_bytes(&read_val(at)?)),
            LOOP_GET_STATUS => write_val(at, &status_old(self.index, &self.backing()?)?).map(|()| 0),
            LOOP_GET_STATUS64 => write_val(at, &status64(self.index, &self.backing()?)?).map(|()| 0),
            // The size is looked up each time.
            LOOP_SET_CAPACITY => self.backing().map(|_| 0),
            BLKGETSIZE64 => write_val(at, &self.size()).map(|()| 0),
            BLKGETSIZE => write_val(at, &(self.size() / SECTOR)).map(|()| 0),
            BLKSSZGET | BLKPBSZGET => {
                let block = self.backing().map_or(SECTOR as u32, |backing| backing.block);
                write_val(at, &block).map(|()| 0)
            }
            BLKBSZGET => write_val(at, &4096_u32).map(|()| 0),
            BLKROGET => {
                let flags = self.backing().map_or(0, |backing| backing.flags);
                write_val(at, &(flags & LO_FLAGS_READ_ONLY)).map(|()| 0)
            }
            BLKFLSBUF if !task.capable(cap::SYS_ADMIN) => Err(Errno::EACCES),
            BLKFLSBUF => self.fsync(file).map(|()| 0),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn release(&self, _: &File) {
        let gone = with(self.index, |device| {
            device.opens -= 1;
            let last = device.opens == 0;
            let done = |backing: &mut Backing| last && backing.flags & LO_FLAGS_AUTOCLEAR != 0;
            Ok(device.backing.take_if(done))
        });
        drop(gone);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `/dev/loop-control`.
struct Control;

impl FileOps for Control {
    fn ioctl(&self, task: &Arc<Task>, _: &File, cmd: u32, _: u64) -> Result<u64> {
        match cmd {
            LOOP_CTL_GET_FREE if !task.capable(cap::SYS_ADMIN) => Err(Errno::EPERM),
            LOOP_CTL_GET_FREE => {
                let free = LOOPS.lock().iter().position(|device| device.backing.is_none());
                free.map(|index| index as u64).ok_or(Errno::ENOSPC)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
