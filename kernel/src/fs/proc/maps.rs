//! `/proc/PID/maps`. Source: proc_pid_maps(5).

use crate::Result;
use crate::fs::Dev;
use crate::task::Task;
use crate::vm::{Prot, VmaFlags, VmaInfo};
use alloc::format;
use alloc::vec::Vec;

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
    let mut areas: Vec<VmaInfo> = Vec::new();
    space.for_each_vma(|area| areas.push(area.clone()));
    // Names are looked up after the space is unlocked.
    Ok(areas.iter().flat_map(line).collect())
}

/// The line of an area.
pub fn line(area: &VmaInfo) -> Vec<u8> {
    let (dev, ino, mut name) = match &area.file {
        Some(file) => {
            let (dev, ino) = file.identity();
            (Dev::decode(dev), ino, file.path())
        }
        None => (Dev::new(0, 0), 0, Vec::new()),
    };
    if area.flags.contains(VmaFlags::HEAP) {
        name = b"[heap]".to_vec();
    } else if area.flags.contains(VmaFlags::STACK) {
        name = b"[stack]".to_vec();
    }
    format_line(area, dev, ino, &name)
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
