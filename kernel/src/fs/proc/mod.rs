//! /proc: what the kernel knows, as text. Source: proc(5).
//!
//! * [`system`]: files of the whole machine, [`config`] and [`cpuinfo`] among them. [`sysctl`]: /proc/sys, with [`net`].
//! * System V IPC: [`sysvipc`].
//! * [`process`]: the directory of a process or thread; [`status`], [`running`], [`map_files`], [`maps`], [`smaps`], [`pagemap`], [`fd`], [`mounts`]: its larger files.
//!
//! `slabinfo`, `zoneinfo`, `buddyinfo` and `pagetypeinfo` are about allocators that this kernel does not have: RAM is kept in bitmaps
//! without zones ([`umbel_mm::frame`]). Nobody's kernel stack is shown (`/proc/PID/stack`): there are no names for what is on it.
//!
//! Nothing is kept: directories list the table of ids at the moment, files are made at the first read after an open.
//! Locks: those of what is shown, one after the other, never two.

mod config;
mod cpuinfo;
mod fd;
mod inspect;
mod map_files;
mod maps;
mod mem;
mod mounts;
mod net;
mod numa;
mod own_limits;
mod pagemap;
mod process;
mod running;
mod smaps;
mod status;
mod sysctl;
mod system;
mod sysvipc;
mod users;

pub use process::process_of;
pub use status::{list as cpu_list, mask as cpu_mask};
pub use system::{FILESYSTEMS, load, seen_uptime_ns};

use super::pseudo::{Dir, DirSource, Link, Meta, PseudoFs, StaticDir, Target};
use super::{FileSystem, InodeRef, Kind};
use crate::task::ns::PidNs;
use crate::task::{self, access, ids};
use crate::{Errno, Pid, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `PROC_SUPER_MAGIC`.
const MAGIC: u32 = 0x9fa0;
/// Directory position of process 0: those below are the files of the machine.
const FIRST_PID: u64 = 256;
/// Inode number of the root.
const ROOT_INO: u64 = 1;

/// A new instance, which shows the processes of `ns`.
pub fn new(ns: &Arc<PidNs>) -> Arc<dyn FileSystem> {
    let fs = PseudoFs::new("proc", MAGIC);
    let link = |target: fn() -> Result<Target>| -> InodeRef { Link::new(Meta::new(&fs, 0o777), target) };
    let own = |target: fn(&PidNs) -> Result<Target>| -> InodeRef {
        let ns = ns.clone();
        Link::new(Meta::new(&fs, 0o777), move || target(&ns))
    };
    let fixed = StaticDir::new()
        .add("self", own(|ns| Ok(Target::text(format!("{}", own_number(ns)?)))))
        .add(
            "thread-self",
            own(|ns| {
                let tid = ns.number_of(task::current().tid());
                Ok(Target::text(format!("{}/task/{tid}", own_number(ns)?)))
            }),
        )
        .add("mounts", link(|| Ok(Target::text("self/mounts"))))
        .add("net", link(|| Ok(Target::text("self/net"))))
        .add("sys", sysctl::dir(&fs))
        .add("sysvipc", sysvipc::dir(&fs));
    let fixed = system::add(&fs, fixed);
    let root = Root { fs: fs.clone(), fixed, ns: ns.clone() };
    fs.set_root(Dir::new(Meta::new(&fs, 0o555).numbered(ROOT_INO), root));
    fs
}

/// The caller's number in `ns`.
fn own_number(ns: &PidNs) -> Result<i32> {
    match ns.number_of(task::current().process().pid()) {
        0 => Err(Errno::ENOENT),
        number => Ok(number),
    }
}

/// The root directory: files of the machine, then processes by id.
struct Root {
    fs: Arc<PseudoFs>,
    fixed: StaticDir,
    ns: Arc<PidNs>,
}

impl DirSource for Root {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let Some(number) = parse_id(name) else { return self.fixed.lookup(name) };
        // Threads have a directory too, which is not listed.
        process::dir(&self.fs, &self.ns, self.ns.find(number).ok_or(Errno::ENOENT)?)
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        let mut go_on = true;
        if from < FIRST_PID {
            self.fixed.list(from, &mut |at, name, ino, kind| {
                go_on = emit(at, name, ino, kind);
                go_on
            })?;
        }
        let first = from.saturating_sub(FIRST_PID);
        let mut pids: Vec<(i32, Pid)> = {
            let table = ids::table();
            let shown = table.processes.keys().map(|&pid| (self.ns.number_of(Pid(pid)), Pid(pid)));
            shown.filter(|(number, _)| *number != 0).collect()
        };
        pids.sort_unstable();
        for (number, pid) in pids {
            let at = number as u64;
            if at >= first && go_on {
                go_on = emit(FIRST_PID + at, format!("{number}").as_bytes(), process::ino(pid), Kind::Directory);
            }
        }
        Ok(())
    }
}

/// A number without sign or leading zero.
fn parse_id(name: &[u8]) -> Option<i32> {
    let well_formed = name.first().is_some_and(|first| (b'1'..=b'9').contains(first));
    let text = core::str::from_utf8(name).ok().filter(|_| well_formed)?;
    text.parse().ok()
}

/// Whether the running task may look into `of` as a debugger could (ptrace(2), access mode checks).
fn may_inspect(of: &task::Task) -> Result<()> {
    access::may_access(&task::current(), of, access::Creds::Fs).map_err(|_| Errno::EACCES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_ids() {
        assert_eq!(parse_id(b"42"), Some(42));
        for name in [&b"0"[..], b"042", b"-1", b"4x", b"", b"99999999999"] {
            assert_eq!(parse_id(name), None, "{name:?}");
        }
    }
}
