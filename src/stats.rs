//! What `--stats` says that only the host knows: huge pages of kernel memory that slots map.

use std::fs;
use std::sync::atomic::Ordering::Acquire;
use umbel_abi::machine::{Control, layout::HUGE};

/// One line of the report, while the slots live: huge pages, in all and by slot.
pub fn huge_pages(control: &Control) -> String {
    let parents = control.vcpus.iter().map(|vcpu| vcpu.parent_pid.load(Acquire)).filter(|pid| *pid != 0);
    let counts: Vec<Option<u64>> = parents.flat_map(children).map(of_slot).collect();
    let known: Vec<u64> = counts.iter().copied().flatten().collect();
    let label = "huge pages mapped per slot";
    if known.is_empty() {
        // Slots of an ordinary user are closed to himself, too.
        return format!("{label:36} not shown to an ordinary user without --debug-host\n");
    }
    let each: Vec<String> = known.iter().map(u64::to_string).collect();
    format!("{label:36} {}\n", each.join(" "))
}

fn children(parent: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Huge pages of memory files that a process maps.
fn of_slot(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix("ShmemPmdMapped:"))?.split_whitespace().next()?.parse().ok()?;
    Some((kib << 10) / HUGE)
}
