//! `/proc/PID/maps`, as text and by question. Sources: proc_pid_maps(5), Linux's `linux/fs.h` (`PROCMAP_QUERY`).

use crate::fs::Dev;
use crate::room::{Text, push};
use crate::task::Task;
use crate::vm::{Prot, Space, VmaFlags, VmaInfo};
use crate::{Errno, Result};
use alloc::format;
use alloc::vec::Vec;
use umbel_mm::user::{copy_out, read_val, read_vec};
use umbel_mm::{PAGE, UserAddr};

/// Column of the name.
const NAME_COLUMN: usize = 73;

/// The whole file.
///
/// # Errors
/// `EACCES` for those who may not look.
pub fn text(task: &Task) -> Result<Vec<u8>> {
    super::may_inspect(task)?;
    let Some(space) = task.space() else { return Ok(Vec::new()) };
    // A copy of the areas and twice the text.
    umbel_mm::heap::room_for(space.areas() as u64 * 512)?;
    let (mut areas, mut all): (Vec<VmaInfo>, _) = (Vec::new(), Ok(()));
    space.for_each_vma(|area| all = all.and_then(|()| push(&mut areas, area.clone())));
    all?;
    // Names are looked up after the space is unlocked.
    let mut out = Text::default();
    areas.iter().for_each(|area| out.push(&line(area)));
    out.finish()
}

/// The line of an area.
pub fn line(area: &VmaInfo) -> Vec<u8> {
    let (dev, ino, name) = identity(area);
    format_line(area, dev, ino, &name)
}

/// The file behind an area, and its name or that of what the area is for.
fn identity(area: &VmaInfo) -> (Dev, u64, Vec<u8>) {
    let (dev, ino, mut name) = match &area.file {
        Some(file) => {
            let (dev, ino) = file.identity();
            (Dev::decode(dev), ino, file.path())
        }
        // Linux has a file of its own for each such area.
        None if area.flags.contains(VmaFlags::SHARED) => (Dev::new(0, 1), 1, b"/dev/zero (deleted)".to_vec()),
        None => (Dev::new(0, 0), 0, Vec::new()),
    };
    if area.flags.contains(VmaFlags::HEAP) {
        name = b"[heap]".to_vec();
    } else if area.flags.contains(VmaFlags::STACK) {
        name = b"[stack]".to_vec();
    }
    (dev, ino, name)
}

/// The request, and `struct procmap_query` as words.
const PROCMAP_QUERY: u32 = 0xc068_6611;
const QUERY_LEN: u64 = 104;

/// What an area is to be like.
mod wanted {
    pub const READABLE: u64 = 1;
    pub const WRITABLE: u64 = 2;
    pub const EXECUTABLE: u64 = 4;
    pub const SHARED: u64 = 8;
    pub const OR_NEXT: u64 = 16;
    pub const OF_FILE: u64 = 32;
    pub const ALL: u64 = 63;
}

/// A request on the open file: which area is at an address, or the next one, and what it is like.
///
/// # Errors
/// `EACCES` for those who may not look, `ENOENT` for none, `ENAMETOOLONG`, `E2BIG`, `EINVAL`, `ESRCH` without memory, `ENOTTY` for other requests.
pub fn query(task: &Task, request: u32, arg: u64) -> Result<u64> {
    if request != PROCMAP_QUERY {
        return Err(Errno::ENOTTY);
    }
    super::may_inspect(task)?;
    let place = UserAddr(arg);
    let len = read_val::<u64>(place)?;
    if len > 4096 {
        return Err(Errno::E2BIG);
    }
    if len < 16 {
        return Err(Errno::EINVAL);
    }
    let mut bytes: Vec<u8> = read_vec(place, len as usize)?;
    if bytes.iter().skip(QUERY_LEN as usize).any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    bytes.resize(QUERY_LEN as usize, 0);
    let word = |at: usize| {
        bytes.get(8 * at..8 * at + 8).map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap_or([0; 8])))
    };
    let (flags, address) = (word(1), word(2));
    // The sizes of name and build id are the halves of one word, and their addresses follow.
    let (name_size, id_size, name_place, id_place) = (word(10) & 0xffff_ffff, word(10) >> 32, word(11), word(12));
    if flags & !wanted::ALL != 0 || (name_size == 0) != (name_place == 0) || (id_size == 0) != (id_place == 0) {
        return Err(Errno::EINVAL);
    }
    let area = find(&*task.space().ok_or(Errno::ESRCH)?, address, flags).ok_or(Errno::ENOENT)?;
    let (dev, ino, name) = identity(&area);
    let full = if name.is_empty() { 0 } else { name.len() as u64 + 1 };
    if name_size > 0 && full > name_size {
        return Err(Errno::ENAMETOOLONG);
    }
    let shown = if name_size > 0 { full } else { 0 };
    let out: [u64; 13] = [
        len,
        flags,
        address,
        area.start,
        area.end,
        properties(&area),
        PAGE,
        area.offset,
        ino,
        u64::from(dev.major) | u64::from(dev.minor) << 32,
        // No file's build id is looked for.
        shown,
        name_place,
        id_place,
    ];
    if shown > 0 {
        copy_out(UserAddr(name_place), &name)?;
        copy_out(UserAddr(name_place).add(name.len() as u64), &[0])?;
    }
    let out: Vec<u8> = out.iter().flat_map(|word| word.to_le_bytes()).collect();
    copy_out(place, out.get(..out.len().min(len as usize)).unwrap_or(&[]))?;
    Ok(0)
}

fn properties(area: &VmaInfo) -> u64 {
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    bit(area.prot.contains(Prot::READ), wanted::READABLE)
        | bit(area.prot.contains(Prot::WRITE), wanted::WRITABLE)
        | bit(area.prot.contains(Prot::EXEC), wanted::EXECUTABLE)
        | bit(area.flags.contains(VmaFlags::SHARED), wanted::SHARED)
}

/// The first area that ends above `address` and is as wanted; it must hold `address` if not the next one would do as well.
fn find(space: &Space, address: u64, flags: u64) -> Option<VmaInfo> {
    let asked = flags & (wanted::READABLE | wanted::WRITABLE | wanted::EXECUTABLE | wanted::SHARED);
    let mut found = None;
    space.for_each_vma(|area| {
        let near = flags & wanted::OR_NEXT != 0 || area.start <= address;
        let fits = properties(area) & asked == asked && (flags & wanted::OF_FILE == 0 || area.file.is_some());
        if found.is_none() && area.end > address && near && fits {
            found = Some(area.clone());
        }
    });
    found
}

/// Fills a line up to where names begin.
pub fn name_column(line: &mut Vec<u8>) {
    line.resize(line.len().max(NAME_COLUMN), b' ');
}

fn format_line(area: &VmaInfo, dev: Dev, ino: u64, name: &[u8]) -> Vec<u8> {
    let flag = |prot: Prot, letter: char| if area.prot.contains(prot) { letter } else { '-' };
    let mut line = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {ino} ",
        area.start,
        area.end,
        flag(Prot::READ, 'r'),
        flag(Prot::WRITE, 'w'),
        flag(Prot::EXEC, 'x'),
        if area.flags.contains(VmaFlags::SHARED) { 's' } else { 'p' },
        area.offset,
        dev.major,
        dev.minor,
    )
    .into_bytes();
    if !name.is_empty() {
        name_column(&mut line);
        for byte in name {
            match byte {
                b'\n' => line.extend_from_slice(b"\\012"),
                other => line.push(*other),
            }
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_manual() {
        let area = VmaInfo {
            start: 0x560e_4997_e000,
            end: 0x560e_4998_0000,
            prot: Prot::READ | Prot::EXEC,
            flags: VmaFlags::empty(),
            offset: 0x2000,
            file: None,
        };
        let line = format_line(&area, Dev::new(0xfe, 0), 247_282, b"/usr/bin/head");
        assert_eq!(
            core::str::from_utf8(&line),
            Ok("560e4997e000-560e49980000 r-xp 00002000 fe:00 247282                     /usr/bin/head\n")
        );
        assert_eq!(format_line(&area, Dev::new(0, 0), 0, b""), b"560e4997e000-560e49980000 r-xp 00002000 00:00 0 \n");
    }
}
