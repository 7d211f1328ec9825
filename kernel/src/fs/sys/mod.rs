//! /sys: the machine's processors, and directories that programs expect. Source: sysfs(5),
//! Documentation/ABI/{stable,testing}/sysfs-devices-system-cpu.

mod cache;
mod loops;
mod net;

use super::pseudo::{Dir, DirSource, Meta, PseudoFs, StaticDir, TextFile};
use super::{FileSystem, InodeRef, Kind};
use crate::sched::{self, hotplug};
use crate::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_abi::machine::MAX_CPUS;

/// `SYSFS_MAGIC`.
const MAGIC: u32 = 0x6265_6572;

/// A new instance.
pub fn new() -> Arc<dyn FileSystem> {
    let fs = PseudoFs::with_files("sysfs", MAGIC, Some(4096));
    let tree = Tree(&fs);
    let root = StaticDir::new()
        .add("block", loops::block(tree))
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
            .add("cpulist", self.text(|| list(sched::online())))
            .add("cpumap", self.text(|| mask(sched::online())))
            .add("distance", self.text(|| "10".into()))
            .add("meminfo", self.text(node_meminfo))
            .add("numastat", self.text(numastat));
        let node = StaticDir::new()
            .add("has_cpu", self.text(|| "0".into()))
            .add("has_memory", self.text(|| "0".into()))
            .add("has_normal_memory", self.text(|| "0".into()))
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
    let (total, free) = (usage.total * 4, usage.free * 4);
    let line = |name: &str, kib: u64| format!("Node 0 {:16}{kib:8} kB", format!("{name}:"));
    // What is in files counts as used: nothing of it can be given back.
    [line("MemTotal", total), line("MemFree", free), line("MemUsed", total - free), line("FilePages", 0)].join("\n")
}

/// Every page came from where it was wanted.
fn numastat() -> String {
    let usage = umbel_mm::frame::usage();
    let used = usage.total - usage.free;
    format!("numa_hit {used}\nnuma_miss 0\nnuma_foreign 0\ninterleave_hit 0\nlocal_node {used}\nother_node 0")
}

/// A set as ranges: `0-2,5`.
fn list(cpus: impl Iterator<Item = u32>) -> String {
    super::proc::cpu_list(&cpus.collect::<Vec<_>>())
}

/// A set as a mask.
fn mask(cpus: impl Iterator<Item = u32>) -> String {
    super::proc::cpu_mask(&cpus.collect::<Vec<_>>(), sched::possible())
}

/// The virtual CPUs that are not there, or do not run.
fn offline() -> impl Iterator<Item = u32> {
    (0..sched::possible()).filter(|cpu| !hotplug::is_online(*cpu))
}

/// A text about all CPUs.
type OfCpus = fn() -> String;

/// Files of `/sys/devices/system/cpu` beside the CPUs.
const FILES: [(&str, OfCpus); 6] = [
    ("isolated", String::new),
    ("kernel_max", || format!("{}", MAX_CPUS - 1)),
    ("offline", || list(offline())),
    ("online", || list(sched::online())),
    ("possible", || list(0..sched::possible())),
    ("present", || list(0..hotplug::present())),
];

/// The mask of one CPU.
fn own_mask(cpu: u32) -> String {
    super::proc::cpu_mask(&[cpu], sched::possible())
}

/// As the host reads truth values: 1, y, on and the like.
fn truth(text: &[u8]) -> Result<bool> {
    match text.trim_ascii() {
        [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..] => Ok(true),
        [b'0' | b'n' | b'N' | b'f' | b'F', ..] | [b'o' | b'O', b'f' | b'F', ..] => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}

/// `/sys/devices/system/cpu`.
struct Cpus {
    fs: Arc<PseudoFs>,
}

impl Cpus {
    fn cpu(&self, cpu: u32) -> InodeRef {
        let tree = Tree(&self.fs);
        let only = move || own_mask(cpu);
        let topology = StaticDir::new()
            .add("core_cpus", tree.text(only))
            .add("core_cpus_list", tree.text(move || format!("{cpu}")))
            .add("core_id", tree.text(move || format!("{cpu}")))
            .add("core_siblings", tree.text(|| mask(sched::online())))
            .add("core_siblings_list", tree.text(|| list(sched::online())))
            .add("die_id", tree.text(|| "0".into()))
            .add("package_cpus", tree.text(|| mask(sched::online())))
            .add("package_cpus_list", tree.text(|| list(sched::online())))
            .add("physical_package_id", tree.text(|| "0".into()))
            .add("thread_siblings", tree.text(only))
            .add("thread_siblings_list", tree.text(move || format!("{cpu}")));
        let dir = StaticDir::new().add("cache", cache::directory(tree, cpu)).add("topology", tree.dir(topology));
        // As on x86 since Linux 6.5 the first one cannot go.
        tree.dir(if cpu == 0 { dir } else { dir.add("online", self.switch(cpu)) })
    }

    /// `cpuN/online`.
    fn switch(&self, cpu: u32) -> InodeRef {
        let text = move || Ok(format!("{}\n", u32::from(hotplug::is_online(cpu))).into_bytes());
        TextFile::writable(Meta::new(&self.fs, 0o644), text, move |text| hotplug::set_online(cpu, truth(text)?))
    }
}

impl DirSource for Cpus {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        if let Some((_, make)) = FILES.iter().find(|(own, _)| own.as_bytes() == name) {
            return Ok(Tree(&self.fs).text(make));
        }
        let number = name.strip_prefix(b"cpu").ok_or(Errno::ENOENT)?;
        let number: u32 = core::str::from_utf8(number).ok().and_then(|text| text.parse().ok()).ok_or(Errno::ENOENT)?;
        if number < hotplug::present() { Ok(self.cpu(number)) } else { Err(Errno::ENOENT) }
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        let cpus = hotplug::present();
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
    fn sets_are_written_as_in_sysfs() {
        assert_eq!(list(0..1), "0");
        assert_eq!(list(0..16), "0-15");
        assert_eq!(list([0, 2, 3].into_iter()), "0,2-3");
    }

    #[test]
    fn truth_has_many_names() {
        assert_eq!([&b"1\n"[..], b"on", b"Y"].map(truth), [Ok(true); 3]);
        assert_eq!([&b"0\n"[..], b"off", b"n"].map(truth), [Ok(false); 3]);
        assert_eq!([&b""[..], b"2", b"o"].map(truth), [Err(Errno::EINVAL); 3]);
    }
}
