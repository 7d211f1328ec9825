//! `/proc/sys`: settings. Most are constants here; those that may be written say so. Source: proc(5), Linux's
//! Documentation/admin-guide/sysctl.

use crate::drivers::watch;
use crate::fs::pseudo::{Changes, Dir, Meta, PseudoFs, StaticDir, TextFile, Watched};
use crate::fs::{InodeRef, Mode};
use crate::fs::{fanotify, inotify, lease, tree};
use crate::ipc::sysv::{Limits, Namespace, namespace};
use crate::ipc::{aio, mqueue, pipe};
use crate::sched::{deadline, group};
use crate::setting::Setting;
use crate::syscall::system;
use crate::task::coredump::pattern;
use crate::task::ns::uts::{self, Name, Names};
use crate::task::{self, cap, ids};
use crate::vm::commit;
use crate::vm::map::MAX_AREAS;
use crate::{Errno, Result, keys, random, sched};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::slice::from_ref;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_mm::heap;
use umbel_smp::lock::Once;

/// Attributes of a setting: it ends where it begins, as whoever opens it to append to it finds.
pub(super) fn meta(fs: &Arc<PseudoFs>, mode: Mode) -> Meta {
    Meta::new(fs, mode).ending(0)
}

/// The directory.
pub fn dir(fs: &Arc<PseudoFs>) -> InodeRef {
    let sub = |dir: StaticDir| -> InodeRef { Dir::new(Meta::new(fs, 0o555), dir) };
    let fixed = |entries: &[(&str, &'static str)]| {
        entries.iter().fold(StaticDir::new(), |dir, (name, value)| dir.add(name, constant(fs, value)))
    };
    let text = |make: fn() -> String| -> InodeRef {
        TextFile::new(meta(fs, 0o444), move || Ok(format!("{}\n", make()).into_bytes()))
    };
    let boot_id = fixed(RANDOM)
        .add("boot_id", text(boot_id))
        .add("uuid", text(|| String::from_utf8_lossy(&random::uuid()).into()));
    let kernel = fixed(KERNEL)
        .add("core_pattern", core_pattern(fs))
        .add("hostname", uts_name(fs, |names| &mut names.host))
        .add("domainname", uts_name(fs, |names| &mut names.domain))
        .add("osrelease", text(|| system::RELEASE.into()))
        .add("version", text(|| system::VERSION.into()))
        .add("ns_last_pid", last_pid(fs))
        .add("pid_max", text(|| format!("{}", ids::PID_MAX)))
        .add("threads-max", text(|| format!("{}", ids::threads_max())))
        .add(
            "acct",
            text(|| format!("{}\t{}\t{}", task::acct::LIMITS[0], task::acct::LIMITS[1], task::acct::LIMITS[2])),
        )
        .add("cap_last_cap", text(|| format!("{}", cap::LAST)))
        .add("watchdog_thresh", TextFile::writable(meta(fs, 0o644), watch::show_limit, watch::set_limit))
        .add("sched_autogroup_enabled", autogroups(fs))
        .add("sched_rt_period_us", deadlines(fs, |limits| &mut limits.0))
        .add("sched_rt_runtime_us", deadlines(fs, |limits| &mut limits.1))
        .add("random", sub(boot_id))
        .add("seccomp", sub(fixed(SECCOMP)));
    let kernel = settings(fs, next_ids(fs, ipc_limits(fs, kernel)), KERNEL_SETTINGS)
        .add("keys", sub(settings(fs, StaticDir::new(), KEYS)));
    let root = StaticDir::new()
        .add(
            "fs",
            sub(settings(fs, fixed(FS), FS_SETTINGS)
                .add("fanotify", sub(settings(fs, StaticDir::new(), FANOTIFY)))
                .add("inotify", sub(settings(fs, StaticDir::new(), INOTIFY)))
                .add("mqueue", sub(settings(fs, StaticDir::new(), MQUEUE)))
                .add("pipe-max-size", pipe_limit(fs))
                .add("file-nr", text(file_count))
                .add("aio-nr", text(|| format!("{}", aio::charged())))),
        )
        .add("kernel", sub(kernel))
        .add("net", super::net::dir(fs))
        .add("user", super::own_limits::dir(fs))
        .add(
            "vm",
            sub(settings(fs, fixed(VM), VM_SETTINGS)
                .add("drop_caches", drop_caches(fs))
                .add("overcommit_kbytes", overcommit(fs, &commit::KBYTES, &commit::RATIO))
                .add("overcommit_ratio", overcommit(fs, &commit::RATIO, &commit::KBYTES))),
        );
    sub(root)
}

/// Whether sessions and users share the processors, or all threads alike.
fn autogroups(fs: &Arc<PseudoFs>) -> InodeRef {
    let read = || Ok(format!("{}\n", u32::from(group::enabled())).into_bytes());
    let write = |text: &[u8]| match Setting::parse(text)? {
        enabled @ 0..=1 => {
            group::set_enabled(enabled == 1);
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    };
    TextFile::writable(meta(fs, 0o644), read, write)
}

/// One of the limits of SCHED_DEADLINE: the period, or the run time in it.
fn deadlines(fs: &Arc<PseudoFs>, which: fn(&mut (i64, i64)) -> &mut i64) -> InodeRef {
    let read = move || Ok(format!("{}\n", which(&mut deadline::limits())).into_bytes());
    let write = move |text: &[u8]| {
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let mut limits = deadline::limits();
        *which(&mut limits) = text.trim().parse().map_err(|_| Errno::EINVAL)?;
        deadline::set_limits(limits.0, limits.1)
    };
    TextFile::writable(meta(fs, 0o644), read, write)
}

/// The last number given out in the PID namespace of who asks: the next is the one after what is written.
fn last_pid(fs: &Arc<PseudoFs>) -> InodeRef {
    let read = || Ok(format!("{}\n", ids::table().last_in(task::current().process().pid_ns())).into_bytes());
    let write = |text: &[u8]| {
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let last: i32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
        if !(0..ids::PID_MAX).contains(&last) {
            return Err(Errno::EINVAL);
        }
        let task = task::current();
        let ns = task.process().pid_ns();
        if !task.cred().capable_in(&ns.owner, cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        ids::table().set_last_in(ns, last);
        Ok(())
    };
    TextFile::writable(meta(fs, 0o666), read, write)
}

/// Open files, free ones, and most.
fn file_count() -> String {
    format!("{}\t0\t{}", crate::fs::open_files(), i64::MAX)
}

/// One of the two ways to say how much memory may be promised: setting one takes the other back.
fn overcommit(fs: &Arc<PseudoFs>, setting: &'static Setting, other: &'static Setting) -> InodeRef {
    let read = || Ok(format!("{}\n", setting.get()).into_bytes());
    let write = |text: &[u8]| {
        setting.set(Setting::parse(text)?)?;
        other.set(0)
    };
    TextFile::writable(meta(fs, 0o644), read, write)
}

/// Lets go of cached names (2, 3); pages of files are not cached.
fn drop_caches(fs: &Arc<PseudoFs>) -> InodeRef {
    let write = |text: &[u8]| {
        match text.strip_suffix(b"\n").unwrap_or(text) {
            b"2" | b"3" => {
                sched::ask_for_memory();
                crate::fs::dcache::shrink();
                heap::trim_now();
            }
            b"1" | b"4" => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    };
    TextFile::writable(meta(fs, 0o200), || Ok(b"0\n".to_vec()), write)
}

/// How large a pipe ordinary users may make: a power of two of pages.
fn pipe_limit(fs: &Arc<PseudoFs>) -> InodeRef {
    let read = || Ok(format!("{}\n", pipe::CAPACITY_MAX.load(Relaxed)).into_bytes());
    let write = |text: &[u8]| {
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let size: usize = text.trim().parse().map_err(|_| Errno::EINVAL)?;
        if !(1..=1 << 24).contains(&size) {
            return Err(Errno::EINVAL);
        }
        pipe::CAPACITY_MAX.store(size.max(4096).next_power_of_two(), Relaxed);
        Ok(())
    };
    TextFile::writable(meta(fs, 0o644), read, write)
}

/// The limits of System V IPC, which administrators may change.
fn ipc_limits(fs: &Arc<PseudoFs>, dir: StaticDir) -> StaticDir {
    type Limit = fn(&Limits) -> &[AtomicU64];
    const LIMITS: [(&str, Limit); 7] = [
        ("msgmax", |limits| from_ref(&limits.msgmax)),
        ("msgmnb", |limits| from_ref(&limits.msgmnb)),
        ("msgmni", |limits| from_ref(&limits.msgmni)),
        ("sem", |limits| &limits.sem),
        ("shmall", |limits| from_ref(&limits.shmall)),
        ("shmmax", |limits| from_ref(&limits.shmmax)),
        ("shmmni", |limits| from_ref(&limits.shmmni)),
    ];
    LIMITS.into_iter().fold(dir, |dir, (name, limit)| {
        let read = move || {
            let values: Vec<String> =
                limit(&namespace().limits).iter().map(|value| format!("{}", value.load(Relaxed))).collect();
            Ok(format!("{}\n", values.join("\t")).into_bytes())
        };
        let write = move |text: &[u8]| {
            let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
            for (place, word) in limit(&namespace().limits).iter().zip(text.split_whitespace()) {
                place.store(word.parse().map_err(|_| Errno::EINVAL)?, Relaxed);
            }
            Ok(())
        };
        dir.add(name, TextFile::writable(meta(fs, 0o644), read, write))
    })
}

/// Which numbers new objects of System V IPC get, for those who restore checkpoints.
fn next_ids(fs: &Arc<PseudoFs>, dir: StaticDir) -> StaticDir {
    let file = |read: fn(&Namespace) -> i32, write: fn(&Namespace, i32) -> Result<()>| {
        let show = move || Ok(format!("{}\n", read(&namespace())).into_bytes());
        let set = move |text: &[u8]| {
            let id = i32::try_from(Setting::parse(text)?).map_err(|_| Errno::EINVAL)?;
            write(&namespace(), id)
        };
        TextFile::writable(meta(fs, 0o644), show, set)
    };
    dir.add("msg_next_id", file(|space| space.msg.next_id(), |space, id| space.msg.set_next_id(id)))
        .add("sem_next_id", file(|space| space.sem.next_id(), |space, id| space.sem.set_next_id(id)))
        .add("shm_next_id", file(|space| space.shm.next_id(), |space, id| space.shm.set_next_id(id)))
}

const RANDOM: &[(&str, &str)] = &[
    ("entropy_avail", "256"),
    ("poolsize", "256"),
    ("urandom_min_reseed_secs", "60"),
    ("write_wakeup_threshold", "256"),
];

const KERNEL: &[(&str, &str)] = &[
    ("dmesg_restrict", "0"),
    ("kptr_restrict", "1"),
    ("ngroups_max", "65536"),
    ("ostype", "Linux"),
    ("overflowgid", "65534"),
    ("overflowuid", "65534"),
    ("panic", "0"),
    ("perf_event_paranoid", "4"),
    ("printk", "4\t4\t1\t7"),
    ("pty", "0"),
    ("randomize_va_space", "2"),
    ("sched_rr_timeslice_ms", "100"),
    ("sysrq", "0"),
    ("tainted", "0"),
];

/// What filters may answer, from the strongest on.
const SECCOMP: &[(&str, &str)] =
    &[("actions_avail", "kill_process kill_thread trap errno user_notif trace log allow"), ("actions_logged", "log")];

/// Nothing here is written back, nor has memory of names a share that could be set: those numbers stay what Linux begins with.
const VM: &[(&str, &str)] = &[
    ("dirty_background_bytes", "0"),
    ("dirty_background_ratio", "10"),
    ("dirty_bytes", "0"),
    ("dirty_expire_centisecs", "3000"),
    ("dirty_ratio", "20"),
    ("dirty_writeback_centisecs", "500"),
    ("dirtytime_expire_seconds", "43200"),
    ("min_free_kbytes", "1024"),
    ("mmap_min_addr", "65536"),
    ("nr_hugepages", "0"),
    ("panic_on_oom", "0"),
    ("swappiness", "60"),
    ("unprivileged_userfaultfd", "0"),
    ("vfs_cache_pressure", "100"),
];

const FS: &[(&str, &str)] = &[
    ("file-max", "9223372036854775807"),
    ("overflowgid", "65534"),
    ("overflowuid", "65534"),
    ("protected_hardlinks", "1"),
    ("protected_fifos", "0"),
    ("protected_regular", "0"),
    ("protected_symlinks", "0"),
    ("suid_dumpable", "0"),
];

/// Settings that others heed.
pub(super) type Settings = &'static [(&'static str, &'static Setting)];

const FS_SETTINGS: Settings = &[
    ("aio-max-nr", &aio::MAX_NR),
    ("lease-break-time", &lease::BREAK_SECONDS),
    ("mount-max", &tree::MOUNT_MAX),
    ("nr_open", &crate::fs::NR_OPEN),
    ("pipe-user-pages-hard", &pipe::USER_PAGES_HARD),
    ("pipe-user-pages-soft", &pipe::USER_PAGES_SOFT),
];

const KERNEL_SETTINGS: Settings = &[
    ("core_uses_pid", &pattern::USES_PID),
    ("io_uring_disabled", &IO_URING_DISABLED),
    ("sched_deadline_period_max_us", &deadline::PERIOD_MAX_US),
    ("sched_deadline_period_min_us", &deadline::PERIOD_MIN_US),
];

const VM_SETTINGS: Settings = &[("max_map_count", &MAX_AREAS), ("overcommit_memory", &commit::MODE)];

const KEYS: Settings = &[
    ("gc_delay", &keys::GC_DELAY),
    ("maxbytes", &keys::MAX_BYTES),
    ("maxkeys", &keys::MAX_KEYS),
    ("root_maxbytes", &keys::ROOT_MAX_BYTES),
    ("root_maxkeys", &keys::ROOT_MAX_KEYS),
];

const MQUEUE: Settings = &[
    ("msg_default", &mqueue::MSG_DEFAULT),
    ("msg_max", &mqueue::MSG_MAX),
    ("msgsize_default", &mqueue::MSGSIZE_DEFAULT),
    ("msgsize_max", &mqueue::MSGSIZE_MAX),
    ("queues_max", &mqueue::QUEUES_MAX),
];

const FANOTIFY: Settings = &[
    ("max_queued_events", &fanotify::MAX_QUEUED),
    ("max_user_groups", &fanotify::MAX_GROUPS),
    ("max_user_marks", &fanotify::MAX_MARKS),
];

const INOTIFY: Settings = &[
    ("max_queued_events", &inotify::MAX_QUEUED),
    ("max_user_instances", &inotify::MAX_INSTANCES),
    ("max_user_watches", &inotify::MAX_WATCHES),
];

/// There is none to enable: refused to all, whatever it says.
static IO_URING_DISABLED: Setting = Setting::new(2, 0, 2);

pub(super) fn settings(fs: &Arc<PseudoFs>, dir: StaticDir, list: Settings) -> StaticDir {
    list.iter().fold(dir, |dir, &(name, setting)| {
        let read = || Ok(format!("{}\n", setting.get()).into_bytes());
        let write = |text: &[u8]| setting.set(Setting::parse(text)?);
        dir.add(name, TextFile::writable(meta(fs, 0o644), read, write))
    })
}

pub(super) fn constant(fs: &Arc<PseudoFs>, value: &'static str) -> InodeRef {
    TextFile::new(meta(fs, 0o444), move || Ok(format!("{value}\n").into_bytes()))
}

fn boot_id() -> String {
    static ID: Once<[u8; 36]> = Once::new();
    String::from_utf8_lossy(ID.call_once(random::uuid)).into()
}

/// How core files are named.
fn core_pattern(fs: &Arc<PseudoFs>) -> InodeRef {
    let read = || Ok([&pattern::get()[..], b"\n"].concat());
    TextFile::writable(meta(fs, 0o644), read, pattern::set)
}

/// One of the names of the caller's machine, which root may change.
fn uts_name(fs: &Arc<PseudoFs>, which: fn(&mut Names) -> &mut Name) -> InodeRef {
    let read = move || {
        let mut names = task::current().ns().uts.names();
        let mut name: Vec<u8> = which(&mut names).iter().copied().take_while(|&byte| byte != 0).collect();
        name.push(b'\n');
        Ok(name)
    };
    let write = move |text: &[u8]| -> Result<()> {
        let task = task::current();
        let own = task.ns().uts.clone();
        if !task.cred().capable_in(&own.owner, cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let name = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        own.set(|names| *which(names) = uts::name(name));
        Ok(())
    };
    let changes: Changes = Box::new(|| task::current().ns().uts.changes());
    let watched = Watched { changes, queue: uts::changed() };
    TextFile::watched_writable(meta(fs, 0o644), read, write, watched)
}
