//! /proc: what the kernel knows, as text. Source: proc(5).
//!
//! * [`system`]: files of the whole machine, [`config`] and [`cpuinfo`] among them. [`sysctl`]: /proc/sys, with [`net`].
//! * System V IPC: [`sysvipc`].
//! * [`process`]: the directory of a process or thread; [`status`], [`maps`], [`fd`], [`mounts`]: its larger files.
//!
//! Nothing is kept: directories list the table of ids at the moment, files are made at the first read after an open.
//! Locks: those of what is shown, one after the other, never two.

mod config;
mod cpuinfo;
mod fd;
mod maps;
mod mem;
mod mounts;
mod net;
mod process;
mod status;
mod sysctl;
mod system;
mod sysvipc;
mod users;

pub use process::process_of;
pub use status::mask as cpu_mask;
pub use system::{FILESYSTEMS, load, uptime_ns};

use super::pseudo::{Dir, DirSource, Link, Meta, PseudoFs, StaticDir, Target};
use super::{FileSystem, InodeRef, Kind};
use crate::syscall::Pid;
use crate::task::{self, access, ids};
use crate::{Errno, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `PROC_SUPER_MAGIC`.
const MAGIC: u32 = 0x9fa0;
/// Directory position of process 0: those below are the files of the machine.
const FIRST_PID: u64 = 256;
/// Inode number of the root.
const ROOT_INO: u64 = 1;

/// A new instance.
pub fn new() -> Arc<dyn FileSystem> {
    let fs = PseudoFs::new("proc", MAGIC);
    let link = |target: fn() -> Result<Target>| -> InodeRef { Link::new(Meta::new(&fs, 0o777), target) };
    let fixed = StaticDir::new()
        .add("self", link(|| Ok(Target::text(format!("{}", task::current().process().pid())))))
        .add(
            "thread-self",
            link(|| {
                let task = task::current();
                Ok(Target::text(format!("{}/task/{}", task.process().pid(), task.tid())))
            }),
        )
        .add("mounts", link(|| Ok(Target::text("self/mounts"))))
        .add("net", link(|| Ok(Target::text("self/net"))))
        .add("sys", sysctl::dir(&fs))
        .add("sysvipc", sysvipc::dir(&fs));
    let fixed = system::add(&fs, fixed);
    let root = Root { fs: fs.clone(), fixed };
    fs.set_root(Dir::new(Meta::new(&fs, 0o555).numbered(ROOT_INO), root));
    fs
}

/// The root directory: files of the machine, then processes by id.
struct Root {
    fs: Arc<PseudoFs>,
    fixed: StaticDir,
}

impl DirSource for Root {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let Some(id) = parse_id(name) else { return self.fixed.lookup(name) };
        // Threads have a directory too, which is not listed.
        process::dir(&self.fs, id)
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
        let pids: Vec<i32> = ids::table().processes.keys().copied().collect();
        for pid in pids {
            let at = pid as u64;
            if at >= first && go_on {
                go_on = emit(FIRST_PID + at, format!("{pid}").as_bytes(), process::ino(Pid(pid)), Kind::Directory);
            }
        }
        Ok(())
    }
}

/// A number without sign or leading zero.
fn parse_id(name: &[u8]) -> Option<Pid> {
    let well_formed = name.first().is_some_and(|first| (b'1'..=b'9').contains(first));
    let text = core::str::from_utf8(name).ok().filter(|_| well_formed)?;
    text.parse().ok().map(Pid)
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
        assert_eq!(parse_id(b"42"), Some(Pid(42)));
        for name in [&b"0"[..], b"042", b"-1", b"4x", b"", b"99999999999"] {
            assert_eq!(parse_id(name), None, "{name:?}");
        }
    }
}
