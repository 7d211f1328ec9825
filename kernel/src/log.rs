//! The kernel log: what `log::info!` and its siblings write, kept in memory for dmesg(1) and `/dev/kmsg`, and shown on
//! the machine's standard error up to `--log LEVEL`; and the lines of `--strace`, which go there as well.
//!
//! Writing needs no heap and takes one lock that may be taken under any other ([`Rank::Log`]), so anything may log.
//! Readers keep a sequence number: what was overwritten meanwhile is skipped.
//!
//! Source: syslog(2), Linux Documentation/ABI/testing/dev-kmsg.

mod buffer;
mod syslog;

pub use buffer::Record;
pub use syslog::syslog;

use crate::drivers;
use alloc::sync::Arc;
use alloc::vec::Vec;
use buffer::Buffer;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use umbel_smp::lock::{Once, Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

static BUFFER: SpinLock<Buffer> = SpinLock::new(Rank::Log, Buffer::new());
/// The `log` crate's number of the last level shown outside: 0 none … 5 trace.
static SHOWN: AtomicU32 = AtomicU32::new(0);
/// Readers of `/dev/kmsg` and SYSLOG_ACTION_READ.
static READERS: Once<Arc<WaitQueue>> = Once::new();

/// Facility and level as in syslog(3): kernel messages have facility 0.
const LEVELS: [u8; 6] = [3, 3, 4, 6, 7, 7];

struct Logger;

impl ::log::Log for Logger {
    fn enabled(&self, _: &::log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &::log::Record<'_>) {
        let level = record.level() as usize;
        write_record(LEVELS[level], level as u32 <= SHOWN.load(Relaxed), *record.args());
    }

    fn flush(&self) {}
}

/// Starts logging; `shown` is BootInfo's `log_level`. Everything from info up is kept whatever is shown.
pub fn init(shown: u32) {
    SHOWN.store(shown, Relaxed);
    let kept = match shown {
        5.. => ::log::LevelFilter::Trace,
        4 => ::log::LevelFilter::Debug,
        _ => ::log::LevelFilter::Info,
    };
    // A second call finds a logger, which is this one.
    let _ = ::log::set_logger(&Logger);
    ::log::set_max_level(kept);
}

/// Whether what a program writes with this priority is shown outside, as a console of that level would.
pub fn shows(priority: u8) -> bool {
    let level = match priority & 7 {
        0..=3 => 1,
        4 => 2,
        5 | 6 => 3,
        _ => 4,
    };
    level <= SHOWN.load(Relaxed)
}

/// Appends a record with syslog priority `priority`; `shown`: on the machine's standard error as well.
pub fn write_record(priority: u8, shown: bool, text: fmt::Arguments<'_>) {
    let mut line = Line::default();
    let _ = line.write_fmt(text);
    let time_ns = crate::time::monotonic_ns();
    BUFFER.lock().append(priority, time_ns, line.bytes());
    if let Some(readers) = READERS.get() {
        readers.wake_all();
    }
    if shown {
        let mut outside = Line::default();
        let (seconds, micros) = (time_ns / 1_000_000_000, time_ns / 1000 % 1_000_000);
        let _ = write!(outside, "[{seconds:5}.{micros:06}] ");
        outside.push(line.bytes());
        outside.push(b"\n");
        drivers::log_out().push_or_drop(&drivers::for_standard_error(outside.bytes()));
    }
}

/// Prints one line of `--strace` on the machine's standard error; waits for room, so the caller may sleep.
pub fn strace(line: &str) {
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    drivers::log_out().push_all(&drivers::for_standard_error(&bytes));
}

/// Where readers wait for the next record.
pub fn readers() -> &'static Arc<WaitQueue> {
    READERS.call_once(|| Arc::new(WaitQueue::new()))
}

/// The first record that is still kept and has a sequence number of `seq` or more.
pub fn record_from(seq: u64) -> Option<Record> {
    BUFFER.lock().record_from(seq)
}

/// The sequence numbers of the oldest record kept and of the next to come.
pub fn range() -> core::ops::Range<u64> {
    BUFFER.lock().range()
}

/// Text under construction, cut at its end.
struct Line {
    len: usize,
    bytes: [u8; buffer::TEXT_MAX + 24],
}

impl Default for Line {
    fn default() -> Self {
        Self { len: 0, bytes: [0; buffer::TEXT_MAX + 24] }
    }
}

impl Line {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, text: &[u8]) {
        let free = self.bytes.get_mut(self.len..).unwrap_or_default();
        let count = text.len().min(free.len());
        free[..count].copy_from_slice(&text[..count]);
        self.len += count;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
