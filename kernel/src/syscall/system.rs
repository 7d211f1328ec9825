//! The machine as a whole: names, memory, random numbers, what only a real machine can do.

use super::fs::{Caller, name_at};
use super::{Fd, UserStr};
use crate::fs::OpenFlags;
use crate::fs::proc::{FILESYSTEMS, seen_uptime_ns};
use crate::signal;
use crate::task::ns::uts;
use crate::task::{self, Process, WaitStatus};
use crate::task::{Task, cap, ids};
use crate::{Errno, Result, random, tty};
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general as nr;
use umbel_mm::user::{copy_out, read_vec, write_val};
use umbel_mm::{UserAddr, frame};

rows! {
    nr::__NR_uname, uname(buf: UserAddr) => uname, Full;
    nr::__NR_sethostname, sethostname(name: UserAddr, len: i32) => sethostname, Full;
    nr::__NR_setdomainname, setdomainname(name: UserAddr, len: i32) => setdomainname, Full;
    nr::__NR_sysinfo, sysinfo(info: UserAddr) => sysinfo, Full;
    nr::__NR_getrandom, getrandom(buf: UserAddr, len: usize, flags: u32) => getrandom, Full;
    nr::__NR_syslog, syslog(action: u32, buf: UserAddr, len: i32) => syslog, Full;
    nr::__NR_reboot, reboot(magic: u32, magic2: u32, command: u32) => reboot, Partial("refused");
    nr::__NR_swapon, swapon(path: UserStr, flags: u32) => swapon, Partial("there is no swap: nothing is fit for it");
    nr::__NR_swapoff, swapoff(path: UserStr) => swapoff, Partial("there is no swap: nothing is in use");
    nr::__NR_vhangup, vhangup() => vhangup, Partial("a terminal that was hung up stays so");
    nr::__NR_acct, acct(path: UserStr) => acct, Partial("one file for all PID namespaces");
    nr::__NR_sysfs, sysfs(option: u32, first: u64, second: u64) => sysfs, Full;
}

/// The Linux whose behaviour this kernel follows.
pub const RELEASE: &str = "6.12.0-umbel";
/// As uname -v.
pub const VERSION: &str = "#1 SMP Umbel";

fn uname(task: &Arc<Task>, buf: UserAddr) -> Result<()> {
    let uts::Names { host, domain } = task.ns().uts.names();
    let field = uts::name;
    let fields =
        [field(b"Linux"), host, field(RELEASE.as_bytes()), field(VERSION.as_bytes()), field(b"x86_64"), domain];
    copy_out(buf, fields.as_flattened())
}

/// Reads a new name.
fn new_name(task: &Task, name: UserAddr, len: i32) -> Result<uts::Name> {
    if !task.cred().capable_in(&task.ns().uts.owner, cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if !(0..uts::LEN as i32).contains(&len) {
        return Err(Errno::EINVAL);
    }
    let bytes: Vec<u8> = read_vec(name, len as usize)?;
    Ok(uts::name(&bytes))
}

fn sethostname(task: &Arc<Task>, name: UserAddr, len: i32) -> Result<()> {
    let name = new_name(task, name, len)?;
    task.ns().uts.set(|names| names.host = name);
    Ok(())
}

fn setdomainname(task: &Arc<Task>, name: UserAddr, len: i32) -> Result<()> {
    let name = new_name(task, name, len)?;
    task.ns().uts.set(|names| names.domain = name);
    Ok(())
}

fn sysinfo(_: &Arc<Task>, info: UserAddr) -> Result<()> {
    let memory = frame::usage();
    let page = umbel_mm::PAGE;
    let uptime = seen_uptime_ns().div_ceil(1_000_000_000);
    let loads = crate::sched::load_average().map(|load| load << 5);
    let tasks = ids::table().tasks.len().min(usize::from(u16::MAX)) as u64;
    let words = [
        uptime,
        loads[0],
        loads[1],
        loads[2],
        memory.total * page,
        memory.free * page,
        0,
        0,
        0,
        0,
        tasks,
        0,
        0,
        // mem_unit = 1, in the low half.
        1,
    ];
    write_val(info, &words)
}

const GRND_NONBLOCK: u32 = 1;
const GRND_RANDOM: u32 = 2;
const GRND_INSECURE: u32 = 4;

fn getrandom(task: &Arc<Task>, buf: UserAddr, len: usize, flags: u32) -> Result<usize> {
    if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0
        || flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE
    {
        return Err(Errno::EINVAL);
    }
    let len = len.min(i32::MAX as usize);
    let mut done = 0;
    let mut chunk = [0; 256];
    while done < len {
        let count = (len - done).min(chunk.len());
        let Some(part) = chunk.get_mut(..count) else { break };
        random::fill(part);
        if let Err(errno) = signal::go_on(task).and_then(|()| copy_out(buf.add(done as u64), part)) {
            return if done > 0 { Ok(done) } else { Err(errno) };
        }
        done += count;
    }
    Ok(done)
}

/// Nobody may restart the machine from inside; the first process's end ends it.
fn syslog(task: &Arc<Task>, action: u32, buf: UserAddr, len: i32) -> Result<u64> {
    let (text, value) = crate::log::syslog(task, action, buf, len)?;
    if text.is_empty() {
        return Ok(value);
    }
    copy_out(buf, &text)?;
    Ok(text.len() as u64)
}

fn reboot(task: &Arc<Task>, magic: u32, _magic2: u32, command: u32) -> Result<()> {
    const MAGIC: u32 = 0xfee1_dead;
    const CAD: [u32; 2] = [0, 0x89ab_cdef];
    if !task.capable(cap::SYS_BOOT) {
        return Err(Errno::EPERM);
    }
    let process = task.process();
    if process.pid_ns().level() > 0 {
        return if magic == MAGIC { reboot_namespace(process, command) } else { Err(Errno::EINVAL) };
    }
    if magic == MAGIC && CAD.contains(&command) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// reboot(2) in a PID namespace: ends its init as a signal would.
fn reboot_namespace(process: &Process, command: u32) -> Result<()> {
    const RESTART: u32 = 0x0123_4567;
    const RESTART2: u32 = 0xa1b2_c3d4;
    const HALT: u32 = 0xcdef_0123;
    const POWER_OFF: u32 = 0x4321_fedc;
    let signo = match command {
        RESTART | RESTART2 => signal::SIGHUP,
        HALT | POWER_OFF => signal::SIGINT,
        _ => return Err(Errno::EINVAL),
    };
    let init = process.pid_ns().init().and_then(task::find_process).ok_or(Errno::ESRCH)?;
    task::group_exit(&init, WaitStatus::signaled(signo, false));
    Ok(())
}

/// The types of file systems: by name, by number, and how many.
fn sysfs(_: &Arc<Task>, option: u32, first: u64, second: u64) -> Result<usize> {
    let types = FILESYSTEMS.lines().map(|line| line.rsplit('\t').next().unwrap_or(line));
    match option {
        1 => {
            let name = UserStr(UserAddr(first)).read()?;
            types.map(str::as_bytes).position(|own| own == name).ok_or(Errno::EINVAL)
        }
        2 => {
            let mut types = types;
            let name = usize::try_from(first).ok().and_then(|index| types.nth(index)).ok_or(Errno::EINVAL)?;
            copy_out(UserAddr(second), &[name.as_bytes(), b"\0"].concat())?;
            Ok(0)
        }
        3 => Ok(types.count()),
        _ => Err(Errno::EINVAL),
    }
}

fn vhangup(task: &Arc<Task>) -> Result<()> {
    if !task.capable(cap::SYS_TTY_CONFIG) {
        return Err(Errno::EPERM);
    }
    if let Some(tty) = tty::controlling(task) {
        tty.hang_up();
    }
    Ok(())
}

/// What both calls of swap have in common: who may not, and names that lead nowhere.
fn swap(task: &Arc<Task>, path: UserStr) -> Result<()> {
    if !task.capable(cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let text = path.read()?;
    let caller = Caller::new(task)?;
    let flags = OpenFlags::RDWR | OpenFlags::LARGEFILE;
    caller.names().open(&name_at(task, Fd::CWD, &text)?, flags, 0, Some(task)).map(drop)
}

/// Source: swapon(2).
fn swapon(task: &Arc<Task>, path: UserStr, flags: u32) -> Result<()> {
    /// `SWAP_FLAGS_VALID`.
    const FLAGS: u32 = 0x7_ffff;
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    // As files of a file system that does not say where they lie.
    swap(task, path).and(Err(Errno::EINVAL))
}

fn swapoff(task: &Arc<Task>, path: UserStr) -> Result<()> {
    swap(task, path).and(Err(Errno::EINVAL))
}

fn acct(task: &Arc<Task>, path: UserStr) -> Result<()> {
    if !task.capable(cap::SYS_PACCT) {
        return Err(Errno::EPERM);
    }
    if path.0.is_null() {
        return task::acct::set_file(None);
    }
    let text = path.read()?;
    let flags = OpenFlags::WRONLY | OpenFlags::APPEND | OpenFlags::LARGEFILE;
    let caller = Caller::new(task)?;
    let file = caller.names().open(&name_at(task, Fd::CWD, &text)?, flags, 0, Some(task))?;
    task::acct::set_file(Some(file))
}
