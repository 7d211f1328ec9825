//! mount(2) for guests: new tmpfs and proc, bind mounts, remounts. Source: mount(2), tmpfs(5).

use super::mount::{Mount, MountFlags, Path, attach, list};
use super::names::{Name, Names};
use super::tmpfs::TmpFs;
use super::walk::Follow;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi;

/// The arguments of mount(2).
pub struct MountRequest<'a> {
    pub source: &'a [u8],
    pub kind: &'a [u8],
    pub data: &'a [u8],
    /// `MS_*`.
    pub flags: u32,
}

/// Mounts on `target`, or changes its mount.
///
/// # Errors
/// `ENODEV` for unknown types, `EINVAL` for options that are not understood.
pub fn mount(names: &Names<'_>, target: Path, request: &MountRequest<'_>) -> Result<()> {
    let flags = MountFlags::from_bits_truncate(request.flags);
    let propagation = uapi::MS_SHARED | uapi::MS_PRIVATE | uapi::MS_SLAVE | uapi::MS_UNBINDABLE;
    if request.flags & uapi::MS_REMOUNT != 0 {
        target.mount().set_flags(flags);
        return Ok(());
    }
    if request.flags & uapi::MS_BIND != 0 {
        let source = names.find(&Name::new(request.source), Follow::Yes)?;
        let fs = source.mount().fs().clone();
        let bound = Mount::of(fs, source.dentry().clone(), request.source, source.mount().flags());
        return attach(&bound, target);
    }
    if request.flags & propagation != 0 {
        // There is one name space, so that nothing propagates.
        return Ok(());
    }
    if request.flags & uapi::MS_MOVE != 0 {
        return Err(Errno::EINVAL);
    }
    match request.kind {
        b"tmpfs" | b"ramfs" => attach(&Mount::new(new_tmpfs(request.data)?, request.source, flags), target),
        // The kernel's own are there once; a further mount shows the same.
        kind => {
            let known = list().into_iter().find(|mount| mount.fs().name().as_bytes() == kind);
            let fs = known.ok_or(Errno::ENODEV)?.fs().clone();
            attach(&Mount::new(fs, request.source, flags), target)
        }
    }
}

fn new_tmpfs(options: &[u8]) -> Result<Arc<TmpFs>> {
    let half = umbel_mm::frame::usage().total / 2;
    let (mut mode, mut pages) = (0o1777, half);
    for option in options.split(|&byte| byte == b',').filter(|option| !option.is_empty()) {
        let option = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
        match option.split_once('=') {
            Some(("mode", value)) => mode = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
            Some(("size", value)) => pages = size(value)?.div_ceil(4096),
            Some(("nr_blocks", value)) => pages = size(value)?,
            // Owners and counts of inodes are taken as they come.
            _ => {}
        }
    }
    Ok(TmpFs::new("tmpfs", mode, pages))
}

/// A number with an optional suffix k, m, g, or % of RAM.
fn size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let unit = match text.get(digits.len()..) {
        Some("") => 1,
        Some("k" | "K") => 1 << 10,
        Some("m" | "M") => 1 << 20,
        Some("g" | "G") => 1 << 30,
        Some("%") => umbel_mm::frame::usage().total * 4096 / 100,
        _ => return Err(Errno::EINVAL),
    };
    number.checked_mul(unit).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("3m"), Ok(3 << 20));
        assert_eq!(size("x"), Err(Errno::EINVAL));
        assert_eq!(size("1q"), Err(Errno::EINVAL));
    }
}
