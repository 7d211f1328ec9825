//! What an event names, and its bytes as a listener reads them: `struct fanotify_event_metadata` and the records behind it.
//!
//! With file handles an event names a directory and a name in it, for a rename a second pair, and the object itself: which of
//! them depends on the group's flags as on Linux.

use super::super::handle::{self, Handle};
use super::super::{InodeRef, Path};
use super::marks::Met;
use super::{Origin, flag, mask};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Bytes of `struct fanotify_event_metadata`, and its version.
pub(super) const HEAD: usize = 24;
const VERSION: u8 = 3;
/// Bytes of a record about a handle, before its name: a head, the file system's number, a handle's head and body.
const FID: usize = 4 + 8 + 8 + handle::SIZE;
/// Bytes of a record about a process.
const PIDFD: usize = 8;

/// Types of records.
mod kind {
    pub const FID: u8 = 1;
    pub const DFID_NAME: u8 = 2;
    pub const DFID: u8 = 3;
    pub const PIDFD: u8 = 4;
    pub const OLD_DFID_NAME: u8 = 10;
    pub const NEW_DFID_NAME: u8 = 12;
}

/// What an event is about.
pub(super) enum Subject {
    /// The queue itself.
    Queue,
    /// To be opened for the listener.
    Place(Path),
    /// By handles, which keep nothing.
    Handles(Handles),
}

/// A directory, and a name in it or an empty one.
type Entry = (Handle, Box<[u8]>);

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Handles {
    system: u64,
    dir: Option<Entry>,
    target: Option<Entry>,
    object: Option<Handle>,
}

impl Subject {
    /// What a group with `flags` is told of `origin`.
    pub fn new(flags: u32, origin: &Origin<'_>, met: &Met) -> Subject {
        match origin.path {
            Some(path) if flags & flag::FIDS == 0 => Subject::Place(path.clone()),
            _ => Subject::Handles(Handles::new(flags, origin, met)),
        }
    }

    /// Whether both are the same, so that their events may be one.
    pub fn is(&self, other: &Subject) -> bool {
        match (self, other) {
            (Subject::Place(one), Subject::Place(other)) => one.same(other),
            (Subject::Handles(one), Subject::Handles(other)) => one == other,
            _ => false,
        }
    }
}

impl Handles {
    fn new(flags: u32, origin: &Origin<'_>, met: &Met) -> Handles {
        if let Some(path) = origin.path {
            handle::keep(path.dentry());
        }
        let entries = met.mask & mask::ENTRIES != 0;
        let parent = origin.parent;
        let parent_inode = parent.and_then(|(dir, _)| dir.inode());
        let directory = if !entries && origin.is_dir() { Some(origin.inode) } else { parent_inode };
        let object = match parent_inode {
            Some(dir) if entries && flags & flag::REPORT_TARGET_FID == 0 => dir,
            _ => origin.inode,
        };
        let system = origin.inode.fs().dev();
        let alone = |inode: &InodeRef| Handles { system, object: Some(handle::of_inode(inode)), ..Handles::default() };
        let Some(directory) = directory.filter(|_| flags & flag::REPORT_DIR_FID != 0) else { return alone(object) };
        let child = (flags & flag::REPORT_FID != 0 && !Arc::ptr_eq(object, directory)).then_some(object);
        // A directory itself is told without its name.
        let names = flags & flag::REPORT_NAME != 0 && (entries || !origin.is_dir());
        if !names && child.is_none() {
            return alone(directory);
        }
        let entry = |(dir, name): (&Arc<super::Dentry>, &[u8])| {
            handle::keep(dir);
            let name = if names { name } else { b"" };
            dir.inode().map(|inode| (handle::of_inode(inode), name.into()))
        };
        let rename = met.mask & mask::RENAME != 0;
        Handles {
            system,
            dir: parent.filter(|_| !rename || met.old || met.system).and_then(entry),
            target: origin.target.filter(|_| rename && (met.new || met.system)).and_then(entry),
            object: child.map(handle::of_inode),
        }
    }

    /// Appends the records.
    fn encode(&self, out: &mut Vec<u8>, flags: u32, mask: u32) {
        if let Some((dir, name)) = &self.dir {
            let kind = match name.is_empty() {
                _ if mask & mask::RENAME != 0 => kind::OLD_DFID_NAME,
                true => kind::DFID,
                false => kind::DFID_NAME,
            };
            self.fid(out, kind, dir, name);
        }
        if let Some((dir, name)) = &self.target {
            self.fid(out, kind::NEW_DFID_NAME, dir, name);
        }
        let Some(object) = &self.object else { return };
        let first = self.dir.is_none() && self.target.is_none() && flags & flag::FIDS != flag::REPORT_FID;
        let directory = mask & mask::ONDIR != 0;
        match first {
            true if flags & flag::REPORT_NAME != 0 && directory => self.fid(out, kind::DFID_NAME, object, b"."),
            true if directory || mask & mask::ENTRIES != 0 => self.fid(out, kind::DFID, object, b""),
            _ => self.fid(out, kind::FID, object, b""),
        }
    }

    fn fid(&self, out: &mut Vec<u8>, kind: u8, handle: &Handle, name: &[u8]) {
        let start = out.len();
        out.extend_from_slice(&[kind, 0]);
        out.extend_from_slice(&(fid_len(name) as u16).to_le_bytes());
        out.extend_from_slice(&self.system.to_le_bytes());
        out.extend_from_slice(&(handle::SIZE as u32).to_le_bytes());
        out.extend_from_slice(&handle::KIND.to_le_bytes());
        out.extend_from_slice(handle);
        out.extend_from_slice(name);
        out.resize(start + fid_len(name), 0);
    }

    fn len(&self, flags: u32, mask: u32) -> usize {
        let entry = |entry: &Option<Entry>| entry.as_ref().map_or(0, |(_, name)| fid_len(name));
        let pairs = entry(&self.dir) + entry(&self.target);
        let dot = pairs == 0 && flags & flag::REPORT_NAME != 0 && mask & mask::ONDIR != 0;
        let own = if dot { fid_len(b".") } else { fid_len(b"") };
        pairs + if self.object.is_some() { own } else { 0 }
    }
}

/// Bytes of a record about a handle; a name ends with a zero.
fn fid_len(name: &[u8]) -> usize {
    let name = if name.is_empty() { 0 } else { name.len() + 1 };
    (FID + name).next_multiple_of(4)
}

/// Bytes of an event for a group with `flags`.
pub(super) fn len(flags: u32, subject: &Subject, mask: u32) -> usize {
    let pidfd = if flags & flag::REPORT_PIDFD != 0 { PIDFD } else { 0 };
    let handles = if let Subject::Handles(handles) = subject { handles.len(flags, mask) } else { 0 };
    HEAD + handles + pidfd
}

/// What an event's descriptors are: of the object and of the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub fd: i32,
    pub pidfd: i32,
}

/// An event as the listener reads it, `len` bytes.
pub(super) fn encode(flags: u32, subject: &Subject, mask: u32, pid: i32, opened: Opened) -> Vec<u8> {
    let len = len(flags, subject, mask);
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&[VERSION, 0, HEAD as u8, 0]);
    out.extend_from_slice(&u64::from(mask).to_le_bytes());
    out.extend_from_slice(&opened.fd.to_le_bytes());
    out.extend_from_slice(&pid.to_le_bytes());
    if let Subject::Handles(handles) = subject {
        handles.encode(&mut out, flags, mask);
    }
    if flags & flag::REPORT_PIDFD != 0 {
        out.extend_from_slice(&[kind::PIDFD, 0, PIDFD as u8, 0]);
        out.extend_from_slice(&opened.pidfd.to_le_bytes());
    }
    out
}
