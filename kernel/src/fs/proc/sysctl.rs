//! `/proc/sys`: settings. Most are constants here; those that may be written say so. Source: proc(5), Linux's
//! Documentation/admin-guide/sysctl.

use crate::fs::InodeRef;
use crate::fs::pseudo::{Dir, Meta, PseudoFs, StaticDir, TextFile};
use crate::syscall::system;
use crate::task::{self, cap, ids};
use crate::{Errno, Result, random};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_mm::frame;
use umbel_smp::lock::Once;

/// The directory.
pub fn dir(fs: &Arc<PseudoFs>) -> InodeRef {
    let sub = |dir: StaticDir| -> InodeRef { Dir::new(Meta::new(fs, 0o555), dir) };
    let fixed = |entries: &[(&str, &'static str)]| {
        entries.iter().fold(StaticDir::new(), |dir, (name, value)| dir.add(name, constant(fs, value)))
    };
    let text = |make: fn() -> String| -> InodeRef {
        TextFile::new(Meta::new(fs, 0o444), move || Ok(format!("{}\n", make()).into_bytes()))
    };
    let boot_id = fixed(RANDOM)
        .add("boot_id", text(boot_id))
        .add("uuid", text(|| String::from_utf8_lossy(&random::uuid()).into()));
    let kernel = fixed(KERNEL)
        .add("hostname", host_name(fs))
        .add("osrelease", text(|| system::RELEASE.into()))
        .add("version", text(|| system::VERSION.into()))
        .add("pid_max", text(|| format!("{}", ids::PID_MAX)))
        .add("threads-max", text(|| format!("{}", (frame::usage().total / 4).clamp(20, ids::PID_MAX as u64))))
        .add("cap_last_cap", text(|| format!("{}", cap::LAST)))
        .add("random", sub(boot_id));
    let net = StaticDir::new().add("core", sub(fixed(NET_CORE))).add("unix", sub(fixed(NET_UNIX)));
    let root = StaticDir::new()
        .add("fs", sub(fixed(FS)))
        .add("kernel", sub(kernel))
        .add("net", sub(net))
        .add("vm", sub(fixed(VM)));
    sub(root)
}

const RANDOM: &[(&str, &str)] = &[
    ("entropy_avail", "256"),
    ("poolsize", "256"),
    ("urandom_min_reseed_secs", "60"),
    ("write_wakeup_threshold", "256"),
];

const KERNEL: &[(&str, &str)] = &[
    ("core_pattern", "core"),
    ("core_uses_pid", "0"),
    ("domainname", "(none)"),
    ("dmesg_restrict", "0"),
    ("kptr_restrict", "1"),
    ("msgmax", "8192"),
    ("msgmnb", "16384"),
    ("msgmni", "32000"),
    ("ngroups_max", "65536"),
    ("ostype", "Linux"),
    ("overflowgid", "65534"),
    ("overflowuid", "65534"),
    ("panic", "0"),
    ("perf_event_paranoid", "4"),
    ("printk", "4\t4\t1\t7"),
    ("pty", "0"),
    ("randomize_va_space", "2"),
    ("sched_autogroup_enabled", "0"),
    ("sched_rr_timeslice_ms", "100"),
    ("sem", "32000\t1024000000\t500\t32000"),
    ("shmall", "18446744073692774399"),
    ("shmmax", "18446744073692774399"),
    ("shmmni", "4096"),
    ("sysrq", "0"),
    ("tainted", "0"),
];

const VM: &[(&str, &str)] = &[
    ("max_map_count", "65530"),
    ("min_free_kbytes", "1024"),
    ("mmap_min_addr", "65536"),
    ("nr_hugepages", "0"),
    ("overcommit_kbytes", "0"),
    ("overcommit_memory", "1"),
    ("overcommit_ratio", "50"),
    ("panic_on_oom", "0"),
    ("swappiness", "60"),
];

const FS: &[(&str, &str)] = &[
    ("file-max", "9223372036854775807"),
    ("lease-break-time", "45"),
    ("nr_open", "1048576"),
    ("overflowgid", "65534"),
    ("overflowuid", "65534"),
    ("pipe-max-size", "1048576"),
    ("pipe-user-pages-hard", "0"),
    ("pipe-user-pages-soft", "16384"),
    ("protected_hardlinks", "1"),
    ("protected_symlinks", "1"),
];

const NET_CORE: &[(&str, &str)] = &[
    ("rmem_default", "212992"),
    ("rmem_max", "212992"),
    ("somaxconn", "4096"),
    ("wmem_default", "212992"),
    ("wmem_max", "212992"),
];
const NET_UNIX: &[(&str, &str)] = &[("max_dgram_qlen", "512")];

fn constant(fs: &Arc<PseudoFs>, value: &'static str) -> InodeRef {
    TextFile::new(Meta::new(fs, 0o444), move || Ok(format!("{value}\n").into_bytes()))
}

fn boot_id() -> String {
    static ID: Once<[u8; 36]> = Once::new();
    String::from_utf8_lossy(ID.call_once(random::uuid)).into()
}

fn host_name(fs: &Arc<PseudoFs>) -> InodeRef {
    let read = || {
        let mut name: Vec<u8> = system::host_name();
        name.push(b'\n');
        Ok(name)
    };
    let write = |text: &[u8]| -> Result<()> {
        if !task::current().capable(cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        system::set_host_name(text.split(|byte| *byte == b'\n').next().unwrap_or_default());
        Ok(())
    };
    TextFile::writable(Meta::new(fs, 0o644), read, write)
}
