//! The name of a core file: `kernel.core_pattern`. Source: core(5).

use crate::setting::Setting;
use crate::task::Task;
use crate::{Errno, Result, time};
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general::RLIMIT_CORE;
use umbel_smp::lock::{Rank, SpinLock};

/// Longest pattern.
const LEN: usize = 127;

/// `None`: as at boot.
static PATTERN: SpinLock<Option<Vec<u8>>> = SpinLock::new(Rank::Leaf, None);
/// `kernel.core_uses_pid`.
pub static USES_PID: Setting = Setting::new(0, 0, 1);

/// The pattern now.
pub fn get() -> Vec<u8> {
    PATTERN.lock().clone().unwrap_or_else(|| b"core".to_vec())
}

/// Replaces the pattern, as a write to the file does.
///
/// # Errors
/// `EINVAL` for one that starts a program or names a socket: there is no helper.
pub fn set(text: &[u8]) -> Result<()> {
    let line = text.split(|&byte| byte == b'\n' || byte == 0).next().unwrap_or_default();
    if matches!(line.first(), Some(b'|' | b'@')) {
        return Err(Errno::EINVAL);
    }
    let new = line.get(..line.len().min(LEN)).unwrap_or_default().to_vec();
    let old = PATTERN.lock().replace(new);
    drop(old);
    Ok(())
}

/// The name for the core of `task`, which `signo` ends.
pub fn expand(task: &Task, signo: u32) -> Vec<u8> {
    let pattern = get();
    let (mut name, mut has_pid) = (Vec::new(), false);
    let mut rest = pattern.iter().copied();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let Some(what) = rest.next() else { break };
                has_pid |= what == b'p';
                name.extend(value(task, signo, what));
            }
            other => name.push(other),
        }
    }
    if !has_pid && USES_PID.get() != 0 {
        name.push(b'.');
        name.extend(value(task, signo, b'p'));
    }
    name
}

/// What `%` and `what` stand for; nothing if there is no such thing.
fn value(task: &Task, signo: u32, what: u8) -> Vec<u8> {
    let process = task.process();
    let number = |value: u64| format!("{value}").into_bytes();
    let host_name = || {
        let names = task.ns().uts.names();
        names.host.iter().copied().take_while(|&byte| byte != 0).collect()
    };
    match what {
        b'%' => b"%".to_vec(),
        b'p' => number(process.sees(process.pid()) as u64),
        b'P' => number(process.pid().0 as u64),
        b'i' => number(process.sees(task.tid()) as u64),
        b'I' => number(task.tid().0 as u64),
        b'u' => number(u64::from(task.cred().uid)),
        b'g' => number(u64::from(task.cred().gid)),
        b'd' => number(u64::from(process.dumpable.load(Relaxed))),
        b's' => number(u64::from(signo)),
        b't' => number(time::realtime_ns() / time::SEC_NS),
        b'c' => number(process.limit(RLIMIT_CORE)),
        b'h' => flat(host_name()),
        b'e' => flat(task.comm().iter().copied().take_while(|&byte| byte != 0).collect()),
        b'f' => process.image().exe.rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec(),
        b'E' => flat(process.image().exe.clone()),
        _ => Vec::new(),
    }
}

/// A name that is no path.
fn flat(name: Vec<u8>) -> Vec<u8> {
    let flat: Vec<u8> = name.iter().map(|&byte| if byte == b'/' { b'!' } else { byte }).collect();
    if flat.iter().all(|&byte| byte == b'.') { flat.iter().map(|_| b'!').collect() } else { flat }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_kept_and_programs_are_refused() {
        assert_eq!(set(b"|/bin/helper %p\n"), Err(Errno::EINVAL));
        assert_eq!((get(), set(b"/tmp/%e.%p\n")), (b"core".to_vec(), Ok(())));
        assert_eq!(get(), b"/tmp/%e.%p");
    }

    #[test]
    fn names_hold_no_directories() {
        assert_eq!(flat(b"/bin/a".to_vec()), b"!bin!a");
        assert_eq!(flat(b"..".to_vec()), b"!!");
    }
}
