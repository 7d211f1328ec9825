//! `/proc/PID/numa_maps`. Source: proc_pid_numa_maps(5), numa(7). All pages are on node 0.

use super::process::Subject;
use crate::Result;
use crate::room::{Text, push};
use crate::task::Task;
use crate::vm::policy::Policy;
use crate::vm::{Resident, VmaFlags, VmaInfo};
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use umbel_mm::PAGE;

/// The whole file.
///
/// # Errors
/// `EACCES` for those who may not look, `ENOMEM`.
pub fn maps(subject: &Subject) -> Result<Vec<u8>> {
    let task = subject.task()?;
    super::may_inspect(&task)?;
    let Some(space) = task.space() else { return Ok(Vec::new()) };
    let mut areas: Vec<(VmaInfo, Resident)> = Vec::new();
    let mut all = Ok(());
    space.for_each_resident(|area, resident| all = all.and_then(|()| push(&mut areas, (area.clone(), *resident))));
    all?;
    // Names are looked up after the space is unlocked.
    let mut text = Text::default();
    areas.iter().for_each(|(area, resident)| text.push(&line(&task, area, resident)));
    text.finish()
}

fn line(task: &Task, area: &VmaInfo, resident: &Resident) -> Vec<u8> {
    let own = Policy::of(area.flags);
    // An area without a policy has the task's.
    let policy = if own == Policy::default() { Policy::from_word(task.mem_policy.load(Relaxed)) } else { own };
    let mut line = format!("{:08x} {}", area.start, policy.name()).into_bytes();
    if let Some(file) = &area.file {
        line.extend_from_slice(b" file=");
        line.extend_from_slice(&file.path());
    } else if area.flags.contains(VmaFlags::HEAP) {
        line.extend_from_slice(b" heap");
    } else if area.flags.contains(VmaFlags::STACK) {
        line.extend_from_slice(b" stack");
    }
    let pages = |bytes: u64| bytes / PAGE;
    let mut count = |name: &str, bytes: u64| {
        if bytes > 0 {
            line.extend_from_slice(format!(" {name}={}", pages(bytes)).as_bytes());
        }
    };
    count("anon", resident.anonymous);
    count("dirty", resident.shared_dirty + resident.private_dirty);
    if resident.rss > resident.anonymous {
        count("mapped", resident.rss);
    }
    count("N0", resident.rss);
    if resident.rss > 0 {
        line.extend_from_slice(b" kernelpagesize_kB=4");
    }
    line.push(b'\n');
    line
}
