//! /sys: the machine's processors, and directories that programs expect. Source: sysfs(5),
//! Documentation/ABI/{stable,testing}/sysfs-devices-system-cpu.

mod net;

use super::pseudo::{Dir, DirSource, Meta, PseudoFs, StaticDir, TextFile};
use super::{FileSystem, InodeRef, Kind};
use crate::{Errno, Result, sched};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

/// `SYSFS_MAGIC`.
const MAGIC: u32 = 0x6265_6572;

/// A new instance.
pub fn new() -> Arc<dyn FileSystem> {
    let fs = PseudoFs::new("sysfs", MAGIC);
    let tree = Tree(&fs);
    let root = StaticDir::new()
        .add("block", tree.empty())
        .add("bus", tree.dir(StaticDir::new().add("cpu", tree.empty()).add("pci", tree.empty())))
        .add("class", tree.dir(tree.empties(&["block", "mem", "misc", "tty"]).add("net", net::class(tree))))
        .add("dev", tree.dir(tree.empties(&["block", "char"])))
        .add("devices", tree.devices())
        .add("firmware", tree.empty())
        .add("fs", tree.dir(tree.empties(&["cgroup", "pstore"])))
        .add("kernel", tree.kernel())
        .add("module", tree.empty())
        .add("power", tree.empty());
    fs.set_root(Dir::new(Meta::new(&fs, 0o555).numbered(1), root));
    fs
}

/// Builds nodes of one instance.
#[derive(Clone, Copy)]
struct Tree<'a>(&'a Arc<PseudoFs>);

impl Tree<'_> {
    fn dir(self, source: impl DirSource) -> InodeRef {
        Dir::new(Meta::new(self.0, 0o555), source)
    }

    fn empty(self) -> InodeRef {
        self.dir(StaticDir::new())
    }

    fn empties(self, names: &[&str]) -> StaticDir {
        names.iter().fold(StaticDir::new(), |dir, name| dir.add(name, self.empty()))
    }

    fn text(self, make: impl Fn() -> String + Send + Sync + 'static) -> InodeRef {
        TextFile::new(Meta::new(self.0, 0o444), move || Ok(format!("{}\n", make()).into_bytes()))
    }

    fn kernel(self) -> InodeRef {
        let huge = StaticDir::new()
            .add("enabled", self.text(|| "always [madvise] never".into()))
            .add("hpage_pmd_size", self.text(|| "2097152".into()));
        let mm = StaticDir::new().add("transparent_hugepage", self.dir(huge));
        let root = self.empties(&["debug", "security", "tracing"]).add("mm", self.dir(mm));
        self.dir(root)
    }

    fn devices(self) -> InodeRef {
        let cpu = self.dir(Cpus { fs: self.0.clone() });
        let node0 = StaticDir::new()
            .add("cpulist", self.text(|| range(sched::cpus())))
            .add("cpumap", self.text(|| mask(sched::cpus())))
            .add("distance", self.text(|| "10".into()))
            .add("meminfo", self.text(node_meminfo));
        let node = StaticDir::new()
            .add("has_cpu", self.text(|| "0".into()))
            .add("node0", self.dir(node0))
            .add("online", self.text(|| "0".into()))
            .add("possible", self.text(|| "0".into()));
        let system = StaticDir::new().add("cpu", cpu).add("memory", self.empty()).add("node", self.dir(node));
        let tty = self.empties(&["tty"]).add("net", net::devices(self));
        self.dir(StaticDir::new().add("system", self.dir(system)).add("virtual", self.dir(tty)))
    }
}

fn node_meminfo() -> String {
    let usage = umbel_mm::frame::usage();
    format!("Node 0 MemTotal:       {:8} kB\nNode 0 MemFree:        {:8} kB", usage.total * 4, usage.free * 4)
}

/// `0`, or `0-N`.
fn range(cpus: u32) -> String {
    if cpus <= 1 { "0".into() } else { format!("0-{}", cpus - 1) }
}

/// The set of all, or of one.
fn mask(cpus: u32) -> String {
    let all: alloc::vec::Vec<u32> = (0..cpus).collect();
    super::proc::cpu_mask(&all, cpus)
}

/// Makes a text from the number of CPUs.
type OfCpus = fn(u32) -> String;

/// Files of `/sys/devices/system/cpu` beside the CPUs.
const FILES: [(&str, OfCpus); 5] = [
    ("isolated", |_| String::new()),
    ("kernel_max", |_| "255".into()),
    ("online", range),
    ("possible", range),
    ("present", range),
];

/// `/sys/devices/system/cpu`.
struct Cpus {
    fs: Arc<PseudoFs>,
}

impl Cpus {
    fn cpu(&self, cpu: u32) -> InodeRef {
        let tree = Tree(&self.fs);
        let only = move || super::proc::cpu_mask(&[cpu], sched::cpus());
        let topology = StaticDir::new()
            .add("core_cpus", tree.text(only))
            .add("core_cpus_list", tree.text(move || format!("{cpu}")))
            .add("core_id", tree.text(move || format!("{cpu}")))
            .add("core_siblings", tree.text(|| mask(sched::cpus())))
            .add("core_siblings_list", tree.text(|| range(sched::cpus())))
            .add("die_id", tree.text(|| "0".into()))
            .add("package_cpus", tree.text(|| mask(sched::cpus())))
            .add("package_cpus_list", tree.text(|| range(sched::cpus())))
            .add("physical_package_id", tree.text(|| "0".into()))
            .add("thread_siblings", tree.text(only))
            .add("thread_siblings_list", tree.text(move || format!("{cpu}")));
        tree.dir(StaticDir::new().add("online", tree.text(|| "1".into())).add("topology", tree.dir(topology)))
    }
}

impl DirSource for Cpus {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        if let Some((_, make)) = FILES.iter().find(|(own, _)| own.as_bytes() == name) {
            return Ok(Tree(&self.fs).text(move || make(sched::cpus())));
        }
        let number = name.strip_prefix(b"cpu").ok_or(Errno::ENOENT)?;
        let number: u32 = core::str::from_utf8(number).ok().and_then(|text| text.parse().ok()).ok_or(Errno::ENOENT)?;
        if number < sched::cpus() { Ok(self.cpu(number)) } else { Err(Errno::ENOENT) }
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        let cpus = sched::cpus();
        for at in from..u64::from(cpus) + FILES.len() as u64 {
            let taken = match FILES.get(at.wrapping_sub(u64::from(cpus)) as usize) {
                Some((name, _)) => emit(at, name.as_bytes(), 0x1_0000 + at, Kind::Regular),
                None => emit(at, format!("cpu{at}").as_bytes(), 0x1_0000 + at, Kind::Directory),
            };
            if !taken {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_sysfs() {
        assert_eq!(range(1), "0");
        assert_eq!(range(16), "0-15");
    }
}
