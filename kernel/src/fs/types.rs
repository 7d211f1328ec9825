//! Plain values of the file systems: kinds, modes, attributes, times.

use crate::{Errno, Result};
use umbel_abi::linux::uapi;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    Char,
    Block,
    Fifo,
    Socket,
}

impl Kind {
    /// The `S_IFMT` bits.
    pub const fn mode(self) -> u32 {
        match self {
            Kind::Regular => uapi::S_IFREG,
            Kind::Directory => uapi::S_IFDIR,
            Kind::Symlink => uapi::S_IFLNK,
            Kind::Char => uapi::S_IFCHR,
            Kind::Block => uapi::S_IFBLK,
            Kind::Fifo => uapi::S_IFIFO,
            Kind::Socket => uapi::S_IFSOCK,
        }
    }

    /// From the `S_IFMT` bits of a mode.
    pub const fn from_mode(mode: u32) -> Option<Kind> {
        Some(match mode & uapi::S_IFMT {
            uapi::S_IFREG => Kind::Regular,
            uapi::S_IFDIR => Kind::Directory,
            uapi::S_IFLNK => Kind::Symlink,
            uapi::S_IFCHR => Kind::Char,
            uapi::S_IFBLK => Kind::Block,
            uapi::S_IFIFO => Kind::Fifo,
            uapi::S_IFSOCK => Kind::Socket,
            _ => return None,
        })
    }

    /// The `DT_*` value of a directory record.
    pub const fn dirent(self) -> u8 {
        (self.mode() >> 12) as u8
    }
}

/// Permission bits (07777).
pub type Mode = u32;

/// A device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dev {
    pub major: u32,
    pub minor: u32,
}

impl Dev {
    /// A pair of numbers.
    pub const fn new(major: u32, minor: u32) -> Dev {
        Dev { major, minor }
    }

    /// As `st_dev` and `st_rdev` hold it (makedev(3)).
    pub const fn encode(self) -> u64 {
        let (major, minor) = (self.major as u64, self.minor as u64);
        (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
    }

    /// From the argument of mknod(2).
    pub const fn decode(raw: u64) -> Dev {
        Dev {
            major: ((raw >> 8 & 0xfff) | (raw >> 32 & !0xfff)) as u32,
            minor: ((raw & 0xff) | (raw >> 12 & !0xff)) as u32,
        }
    }
}

/// A point in time since the epoch, ns in `0..10^9`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub sec: i64,
    pub ns: u32,
}

impl Time {
    /// From ns since the epoch.
    pub const fn from_ns(ns: u64) -> Time {
        Time { sec: (ns / 1_000_000_000) as i64, ns: (ns % 1_000_000_000) as u32 }
    }

    /// The time of day.
    pub fn now() -> Time {
        Time::from_ns(crate::time::realtime_ns())
    }
}

/// Who may do what with an inode: the part of the attributes that every path walk looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub mode: Mode,
    pub uid: u32,
    pub gid: u32,
}

/// All attributes of an inode, as stat(2) and statx(2) show them.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    pub kind: Kind,
    /// Permission bits only.
    pub mode: Mode,
    pub uid: u32,
    pub gid: u32,
    pub ino: u64,
    pub nlink: u32,
    /// Device of the file system, as [`Dev::encode`] makes it.
    pub dev: u64,
    pub rdev: Dev,
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub blksize: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
}

impl Attr {
    /// Attributes of an empty inode of `kind`; the rest is the caller's.
    pub const fn new(kind: Kind, mode: Mode, ino: u64) -> Attr {
        let zero = Time { sec: 0, ns: 0 };
        Attr {
            kind,
            mode,
            uid: 0,
            gid: 0,
            ino,
            nlink: 1,
            dev: 0,
            rdev: Dev::new(0, 0),
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: zero,
            mtime: zero,
            ctime: zero,
            btime: zero,
        }
    }

    /// The part that permission checks look at.
    pub const fn owner(&self) -> Owner {
        Owner { mode: self.mode, uid: self.uid, gid: self.gid }
    }

    /// With the owners' ids as `viewer` sees them.
    #[must_use]
    pub fn shown_to(self, viewer: &crate::task::Cred) -> Attr {
        Attr { uid: viewer.show_uid(self.uid), gid: viewer.show_gid(self.gid), ..self }
    }

    /// For stat(2).
    pub fn to_stat(&self) -> uapi::stat {
        uapi::stat {
            st_dev: self.dev,
            st_ino: self.ino,
            st_nlink: u64::from(self.nlink),
            st_mode: self.kind.mode() | self.mode,
            st_uid: self.uid,
            st_gid: self.gid,
            __pad0: 0,
            st_rdev: self.rdev.encode(),
            st_size: self.size as i64,
            st_blksize: i64::from(self.blksize),
            st_blocks: self.blocks as i64,
            st_atime: self.atime.sec as u64,
            st_atime_nsec: u64::from(self.atime.ns),
            st_mtime: self.mtime.sec as u64,
            st_mtime_nsec: u64::from(self.mtime.ns),
            st_ctime: self.ctime.sec as u64,
            st_ctime_nsec: u64::from(self.ctime.ns),
            __unused: [0; 3],
        }
    }

    /// For statx(2), without the mount's number.
    pub fn to_statx(&self) -> uapi::statx {
        let time = |time: Time| uapi::statx_timestamp { tv_sec: time.sec, tv_nsec: time.ns, __reserved: 0 };
        let dev = Dev::decode(self.dev);
        uapi::statx {
            stx_mask: uapi::STATX_BASIC_STATS | if self.btime == Time::default() { 0 } else { uapi::STATX_BTIME },
            stx_blksize: self.blksize,
            stx_attributes: 0,
            stx_nlink: self.nlink,
            stx_uid: self.uid,
            stx_gid: self.gid,
            stx_mode: (self.kind.mode() | self.mode) as u16,
            __spare0: [0],
            stx_ino: self.ino,
            stx_size: self.size,
            stx_blocks: self.blocks,
            stx_attributes_mask: 0,
            stx_atime: time(self.atime),
            stx_btime: time(self.btime),
            stx_ctime: time(self.ctime),
            stx_mtime: time(self.mtime),
            stx_rdev_major: self.rdev.major,
            stx_rdev_minor: self.rdev.minor,
            stx_dev_major: dev.major,
            stx_dev_minor: dev.minor,
            stx_mnt_id: 0,
            stx_dio_mem_align: 0,
            stx_dio_offset_align: 0,
            stx_subvol: 0,
            stx_atomic_write_unit_min: 0,
            stx_atomic_write_unit_max: 0,
            stx_atomic_write_segments_max: 0,
            stx_dio_read_offset_align: 0,
            stx_atomic_write_unit_max_opt: 0,
            __spare2: [0],
            __spare3: [0; 8],
        }
    }
}

bitflags::bitflags! {
    /// Attributes that restrict what may be done to an inode (`FS_*_FL`, chattr(1)).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct InodeFlags: u32 {
        const IMMUTABLE = uapi::FS_IMMUTABLE_FL;
        const APPEND = uapi::FS_APPEND_FL;
        const NODUMP = uapi::FS_NODUMP_FL;
        const NOATIME = uapi::FS_NOATIME_FL;
    }
}

impl InodeFlags {
    /// What nobody may give another name, another owner or an end.
    pub const FIXED: InodeFlags = InodeFlags::IMMUTABLE.union(InodeFlags::APPEND);
}

/// A change of attributes; `None` leaves one as it is. The caller has checked permissions.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    pub mode: Option<Mode>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Time>,
    pub mtime: Option<Time>,
}

/// Facts of a file system, for statfs(2).
#[derive(Clone, Copy, Debug, Default)]
pub struct StatFs {
    pub magic: u32,
    pub block_size: u32,
    pub blocks: u64,
    pub free: u64,
    pub files: u64,
    pub files_free: u64,
    /// Its number, for who has several of a kind.
    pub fsid: u64,
}

bitflags::bitflags! {
    /// Events of poll(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PollEvents: u32 {
        const IN = 0x1;
        const PRI = 0x2;
        const OUT = 0x4;
        const ERR = 0x8;
        const HUP = 0x10;
        const NVAL = 0x20;
        const RDNORM = 0x40;
        const RDBAND = 0x80;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const RDHUP = 0x2000;
    }
}

impl PollEvents {
    /// Data to read.
    pub const READABLE: PollEvents = PollEvents::IN.union(PollEvents::RDNORM);
    /// Room to write.
    pub const WRITABLE: PollEvents = PollEvents::OUT.union(PollEvents::WRNORM);
}

bitflags::bitflags! {
    /// Flags of open(2) with Linux's values. The access mode is [`OpenFlags::access`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        const WRONLY = uapi::O_WRONLY;
        const RDWR = uapi::O_RDWR;
        const CREAT = uapi::O_CREAT;
        const EXCL = uapi::O_EXCL;
        const NOCTTY = uapi::O_NOCTTY;
        const TRUNC = uapi::O_TRUNC;
        const APPEND = uapi::O_APPEND;
        const NONBLOCK = uapi::O_NONBLOCK;
        const DSYNC = uapi::O_DSYNC;
        const SYNC = uapi::O_SYNC;
        const ASYNC = uapi::FASYNC;
        const DIRECT = uapi::O_DIRECT;
        const LARGEFILE = uapi::O_LARGEFILE;
        const DIRECTORY = uapi::O_DIRECTORY;
        const NOFOLLOW = uapi::O_NOFOLLOW;
        const NOATIME = uapi::O_NOATIME;
        const CLOEXEC = uapi::O_CLOEXEC;
        const PATH = uapi::O_PATH;
        const TMPFILE = uapi::O_TMPFILE;
    }
}

impl OpenFlags {
    /// `O_RDONLY`.
    pub const RDONLY: OpenFlags = OpenFlags::empty();

    /// Whether reads are allowed.
    pub fn readable(self) -> bool {
        matches!(self.bits() & uapi::O_ACCMODE, uapi::O_RDONLY | uapi::O_RDWR) && !self.contains(OpenFlags::PATH)
    }

    /// Whether writes are allowed.
    pub fn writable(self) -> bool {
        matches!(self.bits() & uapi::O_ACCMODE, uapi::O_WRONLY | uapi::O_RDWR) && !self.contains(OpenFlags::PATH)
    }
}

/// Checks one name: not empty, at most 255 bytes, no slash.
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > 255 {
        Err(Errno::ENAMETOOLONG)
    } else if name.is_empty() || name.contains(&b'/') {
        Err(Errno::ENOENT)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_encoding() {
        for dev in [Dev::new(1, 5), Dev::new(136, 300), Dev::new(5000, 70000)] {
            assert_eq!(Dev::decode(dev.encode()), dev);
        }
        assert_eq!(Dev::new(1, 5).encode(), 0x105);
    }

    #[test]
    fn access_modes_say_what_is_allowed() {
        assert!(OpenFlags::RDONLY.readable() && !OpenFlags::RDONLY.writable());
        assert!(!OpenFlags::WRONLY.readable() && OpenFlags::WRONLY.writable());
        assert!(!(OpenFlags::RDWR | OpenFlags::PATH).readable());
    }
}
