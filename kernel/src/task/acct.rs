//! Process accounting: a record of each process that ends, in a file. Source: acct(2), acct(5) (version 3).
//!
//! The last thread of a process writes its record on its way out, before anybody can learn of the end. A file system that is
//! nearly full stops the records, and lets them go on when there is room again (`kernel.acct`).
//!
//! Locks: [`FILE`] (rank `Leaf`), not held while a record is written; `O_APPEND` keeps records whole.

use super::task::Task;
use super::{WaitStatus, ids};
use crate::fs::{File, IoSrc, Kind};
use crate::{Errno, Result, time, tty};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

/// Where records go.
static FILE: SpinLock<Option<Arc<File>>> = SpinLock::new(Rank::Leaf, None);
/// Whether there is a file: to look at without the lock.
static ON: AtomicBool = AtomicBool::new(false);
/// `kernel.acct`: per cent of free room from which records go on, below which they stop, and seconds between looks.
pub const LIMITS: [u64; 3] = [4, 2, 30];
/// Bytes of a record.
const RECORD: usize = 64;
/// Ticks a second.
const HZ: u64 = 100;
/// `AFORK`: it never called execve. `ACORE`, `AXSIG`: a core was left, a signal ended it.
const AFORK: u8 = 1;
const ACORE: u8 = 8;
const AXSIG: u8 = 16;

/// Writes records to `file` from now on; to none without one.
///
/// # Errors
/// `EACCES` unless it is a regular file.
pub fn set_file(file: Option<Arc<File>>) -> Result<()> {
    if file.as_ref().is_some_and(|file| file.inode().is_none_or(|inode| inode.kind() != Kind::Regular)) {
        return Err(Errno::EACCES);
    }
    let on = file.is_some();
    let old = {
        let mut slot = FILE.lock();
        ON.store(on, Relaxed);
        core::mem::replace(&mut *slot, file)
    };
    drop(old);
    Ok(())
}

/// What is known only while the process has its memory: its size, bytes.
pub fn collect(task: &Task) -> u64 {
    if !ON.load(Relaxed) {
        return 0;
    }
    task.space().map_or(0, |space| space.usage().size)
}

/// The last thread of a process is leaving: writes its record, if somebody wants it.
pub fn process_exit(task: &Task, status: WaitStatus, size: u64) {
    if !ON.load(Relaxed) {
        return;
    }
    let Some(file) = FILE.lock().clone() else { return };
    if has_room(&file) {
        // A record that cannot be written is lost, as on Linux.
        let _ = file.write(&mut IoSrc::kernel(&record(task, status, size)));
    }
}

/// Whether the file system has room for records; looked at now and then.
fn has_room(file: &File) -> bool {
    static GOING: AtomicBool = AtomicBool::new(true);
    static NEXT_NS: AtomicU64 = AtomicU64::new(0);
    let now_ns = time::monotonic_ns();
    if now_ns < NEXT_NS.load(Relaxed) {
        return GOING.load(Relaxed);
    }
    let [resume, suspend, seconds] = LIMITS;
    NEXT_NS.store(now_ns.saturating_add(seconds.saturating_mul(time::SEC_NS)), Relaxed);
    let Ok(facts) = file.ops().statfs(file) else { return GOING.load(Relaxed) };
    let free = u128::from(facts.free) * 100;
    let least = u128::from(if GOING.load(Relaxed) { suspend } else { resume }) * u128::from(facts.blocks);
    GOING.store(free > least || facts.blocks == 0, Relaxed);
    GOING.load(Relaxed)
}

fn record(task: &Task, status: WaitStatus, size: u64) -> [u8; RECORD] {
    let process = task.process();
    let cred = task.cred();
    let usage = process.times.lock().own;
    let (parent, execed) = ids::table().node(process.pid()).map_or((0, true), |node| (node.parent.0, node.execed));
    let ran_ns = time::monotonic_ns().saturating_sub(process.start_ns);
    let began = time::clock::realtime_ns().saturating_sub(ran_ns) / time::SEC_NS;
    let terminal = tty::controlling(task).map_or(0, |tty| tty.rdev.0 << 8 | tty.rdev.1);
    let ticks = |ns: u64| ns / (time::SEC_NS / HZ);
    let mut flags = if execed { 0 } else { AFORK };
    // The low bits of a status are the signal, and whether it left a core.
    flags |= if status.0 & 0x7f != 0 { AXSIG } else { 0 };
    flags |= if status.0 & 0x80 != 0 { ACORE } else { 0 };
    let mut bytes = [0; RECORD];
    let mut at = 0;
    let mut put = |value: &[u8]| {
        if let Some(to) = bytes.get_mut(at..at + value.len()) {
            to.copy_from_slice(value);
        }
        at += value.len();
    };
    put(&[flags, 3]);
    put(&(terminal as u16).to_le_bytes());
    for word in [status.0, cred.uid, cred.gid, process.pid().0 as u32, parent as u32, began as u32] {
        put(&word.to_le_bytes());
    }
    put(&float(ticks(ran_ns)).to_le_bytes());
    let compact =
        [ticks(usage.user_ns), ticks(usage.system_ns), size / 1024, 0, 0, usage.minor_faults, usage.major_faults, 0];
    for value in compact {
        put(&comp(value).to_le_bytes());
    }
    put(&task.comm());
    bytes
}

/// An integer as the bits of a `float`; the fraction is cut.
fn float(value: u64) -> u32 {
    match value.checked_ilog2() {
        None => 0,
        Some(exponent) => {
            let fraction = (u128::from(value) << 23 >> exponent) as u32 & 0x7f_ffff;
            (127 + exponent) << 23 | fraction
        }
    }
}

/// `comp_t`: 13 bits, and 3 of a power of eight.
fn comp(mut value: u64) -> u16 {
    const MAX: u64 = 0x1fff;
    let mut exponent = 0;
    while value > MAX {
        let round = value >> 2 & 1;
        value = (value >> 3) + round;
        exponent += 1;
    }
    if exponent > 7 { u16::MAX } else { exponent << 13 | value as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_as_acct_5_says() {
        let unpack = |comp: u16| u64::from(comp & 0x1fff) << (3 * (comp >> 13));
        assert_eq!((comp(0), comp(8191), unpack(comp(8192)), unpack(comp(1_000_000))), (0, 8191, 8192, 999_936));
        assert_eq!(comp(u64::MAX), u16::MAX);
        for value in [0, 1, 3, 100, 12_345, 1 << 40] {
            assert_eq!(f32::from_bits(float(value)), value as f32);
        }
    }
}
