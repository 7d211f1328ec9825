//! File handles. Semantics: [`crate::fs::handle`]; source: open_by_handle_at(2).

use super::fs::{AtFlags, Caller, path_at};
use super::{Fd, UserStr};
use crate::fs::{OpenFlags, handle};
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi as nr;
use umbel_mm::user::{UserAddr, copy_in, copy_out, read_val, write_val};

rows! {
    nr::__NR_name_to_handle_at, name_to_handle_at(dir: Fd, path: UserStr, handle: UserAddr, mount: UserAddr, flags: u32) => name_to_handle_at,
        Partial("tmpfs and the root; the last 1024 handles can be opened");
    nr::__NR_open_by_handle_at, open_by_handle_at(mount: Fd, handle: UserAddr, flags: OpenFlags) => open_by_handle_at, Full;
}

/// Most bytes of a handle (`MAX_HANDLE_SZ`).
const SIZE_MAX: u32 = 128;
/// `AT_HANDLE_MNT_ID_UNIQUE`, `AT_HANDLE_CONNECTABLE`, `AT_HANDLE_FID`.
const UNIQUE: u32 = 0x1;
const CONNECTABLE: u32 = 0x2;
const FID: u32 = 0x200;
/// Bytes before the handle proper.
const HEAD: u64 = 8;

fn name_to_handle_at(
    task: &Arc<Task>,
    dir: Fd,
    path: UserStr,
    to: UserAddr,
    mount: UserAddr,
    flags: u32,
) -> Result<()> {
    let at = AtFlags::SYMLINK_FOLLOW | AtFlags::EMPTY_PATH;
    let both = flags & FID != 0 && flags & CONNECTABLE != 0;
    if flags & !(at.bits() | UNIQUE | CONNECTABLE | FID) != 0 || both {
        return Err(Errno::EINVAL);
    }
    let mut walk = AtFlags::from_bits_truncate(flags) & at;
    walk.set(AtFlags::SYMLINK_NOFOLLOW, !walk.contains(AtFlags::SYMLINK_FOLLOW));
    let path = path_at(task, dir, path, walk)?;
    let made = handle::of(&path, flags & FID == 0)?;
    let room: u32 = read_val(to)?;
    if room > SIZE_MAX {
        return Err(Errno::EINVAL);
    }
    let id = path.mount().id();
    let told = match flags & UNIQUE {
        0 => write_val(mount, &id),
        _ => write_val(mount, &path.mount().unique_id()),
    };
    write_val(to, &(handle::SIZE as u32)).and(told)?;
    if (room as usize) < handle::SIZE {
        return Err(Errno::EOVERFLOW);
    }
    write_val(to.add(4), &handle::KIND)?;
    copy_out(to.add(HEAD), &made)
}

fn open_by_handle_at(task: &Arc<Task>, mount: Fd, from: UserAddr, flags: OpenFlags) -> Result<Fd> {
    let place = match mount {
        Fd::CWD => task.fs()?.cwd(),
        fd => task.files()?.get(fd)?.path().cloned().ok_or(Errno::ESTALE)?,
    };
    if !task.capable(cap::DAC_READ_SEARCH) {
        return Err(Errno::EPERM);
    }
    let [size, kind]: [u32; 2] = read_val(from)?;
    if size == 0 || size > SIZE_MAX {
        return Err(Errno::EINVAL);
    }
    if size as usize != handle::SIZE || kind as i32 != handle::KIND {
        return Err(Errno::ESTALE);
    }
    let mut bytes = [0; handle::SIZE];
    copy_in(&mut bytes, from.add(HEAD))?;
    let path = handle::find(place.mount(), &bytes)?;
    let caller = Caller::new(task)?;
    let file = caller.names().open_path(path, flags | OpenFlags::LARGEFILE, Some(task))?;
    super::ipc::install(task, file, flags)
}
