//! `/sys/devices/system/cpu/cpuN/cache`: the caches that the processor tells of. Source: Linux's
//! Documentation/ABI/testing/sysfs-devices-system-cpu; CPUID leaves 4 and 0x8000_001d.
//!
//! Those of the last level are shown as shared by all virtual CPUs, which are cores of one package; all others as a
//! core's own.

use super::super::pseudo::StaticDir;
use super::Tree;
use crate::fs::InodeRef;
use crate::sched;
use alloc::format;
use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

const NAMES: [&str; 6] = ["index0", "index1", "index2", "index3", "index4", "index5"];

/// One cache, as both leaves describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cache {
    level: u32,
    kind: &'static str,
    line: u32,
    partitions: u32,
    ways: u32,
    sets: u32,
}

impl Cache {
    fn new(raw: &CpuidResult) -> Option<Cache> {
        let kind = match raw.eax & 0x1f {
            1 => "Data",
            2 => "Instruction",
            3 => "Unified",
            _ => return None,
        };
        Some(Cache {
            level: raw.eax >> 5 & 7,
            kind,
            line: (raw.ebx & 0xfff) + 1,
            partitions: (raw.ebx >> 12 & 0x3ff) + 1,
            ways: (raw.ebx >> 22) + 1,
            sets: raw.ecx.saturating_add(1),
        })
    }

    fn kilobytes(&self) -> u64 {
        u64::from(self.line) * u64::from(self.partitions) * u64::from(self.ways) * u64::from(self.sets) / 1024
    }
}

/// The leaf that lists the caches, if there is one.
fn leaf() -> Option<u32> {
    const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
    let extended = __cpuid(0x8000_0000).eax;
    if extended >= 0x8000_001d && __cpuid(0x8000_0001).ecx & TOPOLOGY_EXTENSIONS != 0 {
        return Some(0x8000_001d);
    }
    (__cpuid(0).eax >= 4).then_some(4)
}

fn all() -> impl Iterator<Item = Cache> {
    let leaf = leaf();
    (0..NAMES.len() as u32).map_while(move |index| Cache::new(&__cpuid_count(leaf?, index)))
}

/// The directory of virtual CPU `cpu`.
pub(super) fn directory(tree: Tree<'_>, cpu: u32) -> InodeRef {
    let last = all().map(|cache| cache.level).max();
    let mut dir = StaticDir::new();
    for (name, cache) in NAMES.into_iter().zip(all()) {
        let shared = Some(cache.level) == last && cache.level > 1;
        let map = move || if shared { super::mask(sched::online()) } else { super::own_mask(cpu) };
        let list = move || if shared { super::list(sched::online()) } else { format!("{cpu}") };
        let id = if shared { 0 } else { cpu };
        let index = StaticDir::new()
            .add("coherency_line_size", tree.text(move || format!("{}", cache.line)))
            .add("id", tree.text(move || format!("{id}")))
            .add("level", tree.text(move || format!("{}", cache.level)))
            .add("number_of_sets", tree.text(move || format!("{}", cache.sets)))
            .add("physical_line_partition", tree.text(move || format!("{}", cache.partitions)))
            .add("shared_cpu_list", tree.text(list))
            .add("shared_cpu_map", tree.text(map))
            .add("size", tree.text(move || format!("{}K", cache.kilobytes())))
            .add("type", tree.text(move || cache.kind.into()))
            .add("ways_of_associativity", tree.text(move || format!("{}", cache.ways)));
        dir = dir.add(name, tree.dir(index));
    }
    tree.dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_read_as_the_manual_says() {
        // Level 2, unified, 8 ways of 1024 sets of 64 bytes.
        let raw = CpuidResult { eax: 0x143, ebx: 0x01c0_003f, ecx: 0x3ff, edx: 0 };
        let cache = Cache::new(&raw).expect("a cache");
        assert_eq!((cache.level, cache.kind, cache.ways, cache.sets, cache.kilobytes()), (2, "Unified", 8, 1024, 512));
        assert_eq!(Cache::new(&CpuidResult { eax: 0, ..raw }), None);
    }
}
