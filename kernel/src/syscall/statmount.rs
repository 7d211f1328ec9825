//! What there is to know of mounts. Source: statmount(2), listmount(2).

use crate::fs::{Dev, Mount, MountFlags, Path, mounting, tree};
use crate::room::TryList;
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_abi::linux::uapi;
use umbel_mm::user::{UserAddr, copy_out, read_val, read_vec};

/// Numbers that are missing in older headers.
const NR_STATMOUNT: u32 = 457;
const NR_LISTMOUNT: u32 = 458;

rows! {
    NR_STATMOUNT, statmount(request: UserAddr, buf: UserAddr, size: u64, flags: u32) => statmount,
        Partial("no option arrays, no maps of ids");
    NR_LISTMOUNT, listmount(request: UserAddr, ids: UserAddr, count: u64, flags: u32) => listmount, Full;
}

/// `LSMT_ROOT`: the root of the caller.
const ROOT: u64 = u64::MAX;
/// `LISTMOUNT_REVERSE`.
const REVERSE: u32 = 1;
/// Most mounts of one call.
const COUNT_MAX: u64 = 1_000_000;
/// Bytes of `struct statmount` before its strings.
const FIXED: usize = 512;
/// Length of `struct mnt_id_req`, first and second version.
const REQUEST: [u32; 2] = [24, 32];

/// `STATMOUNT_*`.
mod want {
    pub const SB_BASIC: u64 = 0x1;
    pub const MNT_BASIC: u64 = 0x2;
    pub const PROPAGATE_FROM: u64 = 0x4;
    pub const MNT_ROOT: u64 = 0x8;
    pub const MNT_POINT: u64 = 0x10;
    pub const FS_TYPE: u64 = 0x20;
    pub const MNT_NS_ID: u64 = 0x40;
    pub const MNT_OPTS: u64 = 0x80;
    pub const SB_SOURCE: u64 = 0x200;
    pub const STRINGS: u64 = MNT_ROOT | MNT_POINT | FS_TYPE | MNT_OPTS | SB_SOURCE;
}

/// Mount and parameter of `struct mnt_id_req`.
fn read_request(at: UserAddr) -> Result<(u64, u64)> {
    let size: u32 = read_val(at)?;
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    if size < REQUEST[0] {
        return Err(Errno::EINVAL);
    }
    let [head, mount, parameter]: [u64; 3] = read_val(at)?;
    let rest: Vec<u8> = read_vec(at.add(u64::from(REQUEST[0])), (size - REQUEST[0]) as usize)?;
    let beyond = rest.get((REQUEST[1] - REQUEST[0]) as usize..).unwrap_or(&[]);
    if beyond.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    // Other name spaces than the caller's cannot be asked for.
    if head >> 32 != 0 || rest.iter().any(|&byte| byte != 0) || mount <= Mount::UNIQUE_BASE {
        return Err(Errno::EINVAL);
    }
    Ok((mount, parameter))
}

/// The mount with a number, in the caller's name space, where the caller may look at it.
fn find(task: &Task, id: u64) -> Result<Arc<Mount>> {
    let context = task.fs()?;
    let space = context.namespace().ok_or(Errno::ENOENT)?;
    let mount = space.mounts()?.into_iter().find(|mount| mount.unique_id() == id).ok_or(Errno::ENOENT)?;
    let seen = mount.root_path()?.is_below(&context.root());
    if seen || task.cred().capable_in(&task.ns().mounts_owner, cap::SYS_ADMIN) { Ok(mount) } else { Err(Errno::EPERM) }
}

/// The answer as it is put together: the fixed part, and the strings behind it.
struct Answer {
    fixed: [u8; FIXED],
    strings: Vec<u8>,
}

impl Answer {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.fixed.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn long(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn int(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    /// A string, whose place is noted.
    fn text(&mut self, at: usize, text: &[u8]) {
        self.int(at, self.strings.len() as u32);
        self.strings.extend_from_slice(text);
        self.strings.push(0);
    }
}

fn statmount(task: &Arc<Task>, request: UserAddr, buf: UserAddr, size: u64, flags: u32) -> Result<()> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (id, wanted) = read_request(request)?;
    let mount = find(task, id)?;
    let root = task.fs()?.root();
    let mut answer = Answer { fixed: [0; FIXED], strings: Vec::new() };
    let known = describe(&mount, &root, wanted, &mut answer)?;
    let room = usize::try_from(size).unwrap_or(usize::MAX);
    if wanted & want::STRINGS != 0 && room < FIXED + answer.strings.len() {
        return Err(Errno::EOVERFLOW);
    }
    let head = room.min(FIXED);
    answer.int(0, (head + answer.strings.len()) as u32);
    answer.long(8, known);
    copy_out(buf, answer.fixed.get(..head).unwrap_or(&[]))?;
    if answer.strings.is_empty() { Ok(()) } else { copy_out(buf.add(FIXED as u64), &answer.strings) }
}

/// Fills in what is wanted and known; returns which that was.
fn describe(mount: &Arc<Mount>, root: &Path, wanted: u64, answer: &mut Answer) -> Result<u64> {
    let propagation = mount.propagation();
    let mut known = 0;
    let mut is_wanted = |bit| {
        known |= wanted & bit;
        wanted & bit != 0
    };
    if is_wanted(want::SB_BASIC) {
        let dev = Dev::decode(mount.fs().dev());
        answer.int(16, dev.major);
        answer.int(20, dev.minor);
        answer.long(24, u64::from(mount.fs().statfs()?.magic));
        answer.int(32, if mount.fs_read_only() { uapi::MS_RDONLY } else { 0 });
    }
    if is_wanted(want::MNT_BASIC) {
        let parent = mount.mountpoint().map_or(mount.clone(), |place| place.mount().clone());
        answer.long(40, mount.unique_id());
        answer.long(48, parent.unique_id());
        answer.int(56, mount.id());
        answer.int(60, parent.id());
        answer.long(64, mounting::attributes_of_flags(mount.flags()));
        answer.long(72, u64::from(kinds(mount)));
        answer.long(80, u64::from(propagation.group));
        answer.long(88, u64::from(propagation.master));
    }
    if is_wanted(want::PROPAGATE_FROM) {
        answer.long(96, u64::from(propagation.master));
    }
    if is_wanted(want::FS_TYPE) {
        answer.text(36, mount.fs().name().as_bytes());
    }
    if is_wanted(want::MNT_ROOT) {
        answer.text(104, &mount.root_name());
    }
    if is_wanted(want::MNT_POINT) {
        answer.text(108, &mount.root_path()?.display(root));
    }
    if is_wanted(want::MNT_NS_ID) {
        answer.long(112, mount.namespace());
    }
    if is_wanted(want::MNT_OPTS) {
        let options = mount.fs().options();
        answer.text(4, options.strip_prefix(',').unwrap_or(&options).as_bytes());
    }
    if is_wanted(want::SB_SOURCE) {
        answer.text(124, mount.source());
    }
    Ok(known)
}

/// How it propagates, as `MS_*`.
fn kinds(mount: &Mount) -> u32 {
    let propagation = mount.propagation();
    let mut kinds = 0;
    for (kind, is) in [
        (uapi::MS_SHARED, propagation.group != 0),
        (uapi::MS_SLAVE, propagation.master != 0),
        (uapi::MS_UNBINDABLE, propagation.unbindable),
    ] {
        kinds |= if is { kind } else { 0 };
    }
    if kinds & (uapi::MS_SHARED | uapi::MS_SLAVE) == 0 && kinds == 0 { uapi::MS_PRIVATE } else { kinds }
}

fn listmount(task: &Arc<Task>, request: UserAddr, ids: UserAddr, count: u64, flags: u32) -> Result<usize> {
    if flags & !REVERSE != 0 {
        return Err(Errno::EINVAL);
    }
    if count > COUNT_MAX {
        return Err(Errno::EOVERFLOW);
    }
    let (id, last) = read_request(request)?;
    if last != 0 && last <= Mount::UNIQUE_BASE {
        return Err(Errno::EINVAL);
    }
    let context = task.fs()?;
    let top = if id == ROOT { context.root() } else { find(task, id)?.root_path()? };
    let mut found: Vec<u64> = tree::subtree(top.mount())?
        .iter()
        .filter(|mount| mount.id() != top.mount().id() && is_below(mount, &top))
        .map(|mount| mount.unique_id())
        .filter(|&id| last == 0 || if flags & REVERSE == 0 { id > last } else { id < last })
        .try_list()?;
    found.sort_unstable();
    if flags & REVERSE != 0 {
        found.reverse();
    }
    found.truncate(count as usize);
    let bytes = found.iter().flat_map(|id| id.to_le_bytes()).try_list()?;
    copy_out(ids, &bytes)?;
    Ok(found.len())
}

fn is_below(mount: &Arc<Mount>, top: &Path) -> bool {
    mount.flags() & MountFlags::INTERNAL == MountFlags::empty()
        && mount.root_path().is_ok_and(|root| root.is_below(top))
}
