//! `/proc/PID/smaps`, `smaps_rollup` and `clear_refs`. Sources: proc_pid_smaps(5), Linux's
//! Documentation/filesystems/proc.rst.

use super::maps;
use super::process::Subject;
use crate::room::{Text, push};
use crate::vm::{Prot, Resident, Space, VmaFlags, VmaInfo};
use crate::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// The space of whom the reader may look at; `None` for one that has none.
fn space(subject: &Subject) -> Result<Option<Arc<Space>>> {
    let task = subject.task()?;
    super::may_inspect(&task)?;
    Ok(task.space())
}

/// All areas with what of them is in RAM.
pub fn text(subject: &Subject) -> Result<Vec<u8>> {
    let Some(space) = space(subject)? else { return Ok(Vec::new()) };
    // A copy of the areas and twice the text.
    umbel_mm::heap::room_for(space.areas() as u64 * 2048)?;
    let mut areas: Vec<(VmaInfo, Resident)> = Vec::new();
    let mut all = Ok(());
    space.for_each_resident(|area, resident| all = all.and_then(|()| push(&mut areas, (area.clone(), *resident))));
    all?;
    let mut out = Text::default();
    // Names are looked up after the space is unlocked.
    for (area, resident) in areas {
        let line = maps::line(&area);
        let size = (area.end - area.start) / 1024;
        let mut text = String::new();
        let _ =
            write!(text, "Size:           {size:>8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n");
        sizes(&mut text, &resident, false);
        let _ = writeln!(text, "THPeligible:           0\nVmFlags: {}", flags(&area));
        // What there is room for need not lie in one piece.
        out.push(&line);
        out.push_str(&text);
    }
    out.finish()
}

/// The sum over all areas.
pub fn rollup(subject: &Subject) -> Result<Vec<u8>> {
    let Some(space) = space(subject)? else { return Err(Errno::ESRCH) };
    let (mut sum, mut start, mut end) = (Resident::default(), None, 0);
    space.for_each_resident(|area, resident| {
        start = start.or(Some(area.start));
        end = area.end;
        sum += *resident;
    });
    let mut head = format!("{:08x}-{end:08x} ---p 00000000 00:00 0 ", start.unwrap_or(0)).into_bytes();
    maps::name_column(&mut head);
    let mut out = String::from_utf8_lossy(&head).into_owned();
    out.push_str("[rollup]\n");
    sizes(&mut out, &sum, true);
    Ok(out.into_bytes())
}

/// The lines that both have; shares by kind in the sum only.
fn sizes(out: &mut String, resident: &Resident, kinds: bool) {
    let [pss, dirty, anon, file, shmem, locked] = resident.shares();
    let lines = [
        ("Rss", resident.rss, true),
        ("Pss", pss, true),
        ("Pss_Dirty", dirty, true),
        ("Pss_Anon", anon, kinds),
        ("Pss_File", file, kinds),
        ("Pss_Shmem", shmem, kinds),
        ("Shared_Clean", resident.shared_clean, true),
        ("Shared_Dirty", resident.shared_dirty, true),
        ("Private_Clean", resident.private_clean, true),
        ("Private_Dirty", resident.private_dirty, true),
        ("Referenced", resident.referenced, true),
        ("Anonymous", resident.anonymous, true),
        ("KSM", 0, true),
        ("LazyFree", 0, true),
        ("AnonHugePages", 0, true),
        ("ShmemPmdMapped", 0, true),
        ("FilePmdMapped", 0, true),
        ("Shared_Hugetlb", 0, true),
        ("Private_Hugetlb", 0, true),
        ("Swap", 0, true),
        ("SwapPss", 0, true),
        ("Locked", locked, true),
    ];
    for (name, bytes, _) in lines.iter().filter(|(_, _, shown)| *shown) {
        let _ = writeln!(out, "{:<15} {:>8} kB", format!("{name}:"), bytes / 1024);
    }
}

/// Two letters a property, in the order of Linux's bits.
fn flags(area: &VmaInfo) -> String {
    let shared = area.flags.contains(VmaFlags::SHARED);
    let may_write = !shared || area.flags.contains(VmaFlags::MAYWRITE);
    let (write, noreserve) = (area.prot.contains(Prot::WRITE), area.flags.contains(VmaFlags::NORESERVE));
    let has = |flag| area.flags.contains(flag);
    let all = [
        ("rd", area.prot.contains(Prot::READ)),
        ("wr", write),
        ("ex", area.prot.contains(Prot::EXEC)),
        ("sh", shared && may_write),
        ("mr", true),
        ("mw", may_write),
        ("me", !has(VmaFlags::NOEXEC)),
        ("ms", shared),
        ("gd", has(VmaFlags::GROWSDOWN)),
        ("lo", has(VmaFlags::LOCKED)),
        ("sr", has(VmaFlags::SEQUENTIAL)),
        ("rr", has(VmaFlags::RANDOM)),
        ("dc", has(VmaFlags::DONTFORK)),
        ("lf", has(VmaFlags::ONFAULT)),
        ("ac", write && !shared && !noreserve),
        ("nr", noreserve),
        ("wf", has(VmaFlags::WIPEONFORK)),
        ("dd", has(VmaFlags::DONTDUMP)),
        ("sd", !has(VmaFlags::CLEARED)),
        ("hg", has(VmaFlags::HUGEPAGE)),
        ("nh", has(VmaFlags::NOHUGEPAGE)),
        ("mg", has(VmaFlags::MERGEABLE)),
        ("sl", has(VmaFlags::SEALED)),
    ];
    all.iter().filter(|(_, set)| *set).fold(String::new(), |text, (letters, _)| text + letters + " ")
}

/// `clear_refs`: 1 all pages, 2 anonymous ones, 3 those of files were not touched; 4 none was written; 5 the peak is what
/// is there now.
pub fn clear_refs(subject: &Subject, text: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let what: u32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
    if !(1..=5).contains(&what) {
        return Err(Errno::EINVAL);
    }
    let Some(space) = subject.task()?.space() else { return Ok(()) };
    match what {
        1..=3 => space.clear_referenced(what != 3, what != 2),
        4 => space.clear_dirty(),
        _ => space.reset_peak(),
    }
    Ok(())
}
