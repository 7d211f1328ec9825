//! syslog(2): the actions of dmesg(1) on the kernel log.

use super::{BUFFER, Record, readers};
use crate::task::{Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_mm::UserAddr;
use umbel_smp::wait::Wake;

const CLOSE: u32 = 0;
const OPEN: u32 = 1;
const READ: u32 = 2;
const READ_ALL: u32 = 3;
const READ_CLEAR: u32 = 4;
const CLEAR: u32 = 5;
const CONSOLE_OFF: u32 = 6;
const CONSOLE_ON: u32 = 7;
const CONSOLE_LEVEL: u32 = 8;
const SIZE_UNREAD: u32 = 9;
const SIZE_BUFFER: u32 = 10;

/// Does `action`; the bytes are what goes to the caller's buffer of `len` bytes, the number is the result otherwise.
///
/// # Errors
/// `EPERM` without CAP_SYSLOG except for READ_ALL and SIZE_BUFFER, `EINVAL`, `ERESTARTSYS`.
pub fn syslog(task: &Arc<Task>, action: u32, buf: UserAddr, len: i32) -> Result<(Vec<u8>, u64)> {
    if !matches!(action, READ_ALL | SIZE_BUFFER) && !task.cred().capable(cap::SYSLOG) {
        return Err(Errno::EPERM);
    }
    if matches!(action, READ | READ_ALL | READ_CLEAR) && (len < 0 || buf.0 == 0) {
        return Err(Errno::EINVAL);
    }
    let len = len.max(0) as usize;
    match action {
        CLOSE | OPEN | CONSOLE_OFF | CONSOLE_ON => Ok((Vec::new(), 0)),
        READ => Ok((read(len)?, 0)),
        READ_ALL => Ok((read_all(len), 0)),
        READ_CLEAR => {
            let text = read_all(len);
            clear();
            Ok((text, 0))
        }
        CLEAR => {
            clear();
            Ok((Vec::new(), 0))
        }
        CONSOLE_LEVEL if (1..=8).contains(&len) => Ok((Vec::new(), 0)),
        SIZE_UNREAD => Ok((Vec::new(), size_unread() as u64)),
        SIZE_BUFFER => Ok((Vec::new(), 1 << 15)),
        _ => Err(Errno::EINVAL),
    }
}

/// `<priority>[seconds.micros] text\n`.
fn format(record: &Record) -> Vec<u8> {
    let (seconds, micros) = (record.time_ns / 1_000_000_000, record.time_ns / 1000 % 1_000_000);
    let mut line = alloc::format!("<{}>[{seconds:5}.{micros:06}] ", record.priority).into_bytes();
    line.extend_from_slice(record.text());
    line.push(b'\n');
    line
}

/// Waits for the first unread record, then gives as many as fit whole.
fn read(len: usize) -> Result<Vec<u8>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    let woken = readers().wait_interruptible(None, || {
        let buffer = BUFFER.lock();
        (buffer.unread < buffer.range().end).then_some(())
    });
    if woken == Err(Wake::Interrupted) {
        return Err(Errno::ERESTARTSYS);
    }
    let mut text = Vec::new();
    let mut seq = BUFFER.lock().unread;
    while let Some(record) = super::record_from(seq) {
        let line = format(&record);
        if text.len() + line.len() > len {
            break;
        }
        text.extend_from_slice(&line);
        seq = record.seq + 1;
    }
    BUFFER.lock().unread = seq;
    Ok(text)
}

/// The newest records that fit whole.
fn read_all(len: usize) -> Vec<u8> {
    let mut seq = BUFFER.lock().cleared;
    let mut lines = Vec::new();
    let mut total = 0;
    while let Some(record) = super::record_from(seq) {
        seq = record.seq + 1;
        let line = format(&record);
        total += line.len();
        lines.push(line);
    }
    let mut first = 0;
    while total > len {
        total -= lines.get(first).map_or(total, Vec::len);
        first += 1;
    }
    lines.get(first..).unwrap_or_default().concat()
}

fn size_unread() -> usize {
    let mut seq = BUFFER.lock().unread;
    let mut total = 0;
    while let Some(record) = super::record_from(seq) {
        seq = record.seq + 1;
        total += format(&record).len();
    }
    total
}

fn clear() {
    let mut buffer = BUFFER.lock();
    buffer.cleared = buffer.range().end;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_dmesg_expects() {
        let record = Record::new(3, 6, 12_345_678_901, b"hello");
        assert_eq!(format(&record), b"<6>[   12.345678] hello\n");
    }

    #[test]
    fn read_all_gives_the_newest_that_fit() {
        for text in ["one", "two", "three"] {
            BUFFER.lock().append(6, 0, text.as_bytes());
        }
        assert_eq!(read_all(27), b"<6>[    0.000000] three\n");
        clear();
        assert_eq!(read_all(1000), b"");
    }
}
