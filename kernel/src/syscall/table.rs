//! The table of system calls: one row a call, written in the families' files by `rows!`.
//!
//! The row is the only place that knows a call's number, name, argument types, handler and level of support; the
//! dispatcher, `--strace`, `--stats` and the coverage page all read it.

use super::Args;
use crate::Result;
use crate::task::Task;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How much of the man page a call follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// All of it.
    Full,
    /// Less, and what is missing.
    Partial(&'static str),
}

/// One system call.
#[derive(Clone, Copy)]
pub struct Row {
    /// Number (x86-64).
    pub nr: u32,
    /// Linux's name.
    pub name: &'static str,
    /// Level of support.
    pub support: Support,
    /// Decodes the arguments, calls the handler, encodes the result.
    pub call: fn(&Arc<Task>, &Args) -> Result<u64>,
    /// Appends `name(arg, …)` for `--strace`.
    pub format: fn(&Task, &Args, &mut String),
}

/// Defines `pub const ROWS: &[Row]` of a family; see the example in [`super`].
macro_rules! rows {
    ($( $nr:expr, $name:ident ( $($arg:ident : $ty:ty),* $(,)? ) => $handler:path, $support:ident $( ($why:literal) )? ; )*) => {
        /// This family's system calls.
        pub const ROWS: &[$crate::syscall::table::Row] = &[ $( $crate::syscall::table::Row {
            nr: $nr,
            name: stringify!($name),
            support: $crate::syscall::table::Support::$support $( ($why) )?,
            call: |task, args| {
                #[allow(unused_mut, unused_variables)]
                let mut raw = args.iter().copied();
                $( let $arg = <$ty as $crate::syscall::args::FromArg>::from_arg(raw.next().unwrap_or(0))?; )*
                $handler(task $(, $arg)*).map($crate::syscall::args::IntoRet::into_ret)
            },
            #[allow(unused_variables)]
            format: |task, args, out| {
                #[allow(unused_mut)]
                let mut raw = args.iter().copied();
                let list: &[&dyn Fn(u64, &mut alloc::string::String)] = &[
                    $( &|raw, out| $crate::syscall::args::format::<$ty>(task, raw, out) ),*
                ];
                $crate::syscall::table::format_call(stringify!($name), args, list, out);
            },
        } ),* ];
    };
}

/// Numbers below this have a place in the table.
pub const LIMIT: usize = 512;

/// The families. One line each.
const FAMILIES: &[&[Row]] = &[
    super::aio::ROWS,
    super::attr::ROWS,
    super::cachestat::ROWS,
    super::quota::ROWS,
    super::cred::ROWS,
    super::fanotify::ROWS,
    super::fd::ROWS,
    super::fs::ROWS,
    super::handle::ROWS,
    super::io::ROWS,
    super::ipc::ROWS,
    super::kcmp::ROWS,
    super::keys::ROWS,
    super::landlock::ROWS,
    super::lock::ROWS,
    super::madvise::ROWS,
    super::mm::ROWS,
    super::mount::ROWS,
    super::mqueue::ROWS,
    super::notify::ROWS,
    super::ns::ROWS,
    super::numa::ROWS,
    super::pidfd::ROWS,
    super::poll::ROWS,
    super::prctl::ROWS,
    super::process::ROWS,
    super::ptrace::ROWS,
    super::sched::ROWS,
    super::sendfile::ROWS,
    super::signal::ROWS,
    super::socket::ROWS,
    super::splice::ROWS,
    super::statmount::ROWS,
    super::sync::ROWS,
    super::system::ROWS,
    super::sysv::ROWS,
    super::time::ROWS,
    super::truncate::ROWS,
    super::xattr::ROWS,
];

static TABLE: [Option<Row>; LIMIT] = by_number(FAMILIES);
/// The last one is for all numbers beyond the table.
static MISSING: [AtomicU32; LIMIT + 1] = [const { AtomicU32::new(0) }; LIMIT + 1];

/// The row of call `nr`.
pub fn find(nr: u64) -> Option<&'static Row> {
    TABLE.get(usize::try_from(nr).ok()?)?.as_ref()
}

/// All rows, by number.
pub fn iter() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().flatten()
}

/// Notes a call that has no row.
pub fn count_missing(nr: u64) {
    let nr = usize::try_from(nr).unwrap_or(LIMIT).min(LIMIT);
    if let Some(count) = MISSING.get(nr) {
        count.fetch_add(1, Relaxed);
    }
}

/// Calls that were asked for and have no row: number, [`LIMIT`] for all from there on, and count.
pub fn missing() -> impl Iterator<Item = (usize, u32)> {
    MISSING.iter().enumerate().map(|(nr, count)| (nr, count.load(Relaxed))).filter(|&(_, count)| count != 0)
}

/// Appends one argument, given its register.
pub type FormatArg<'a> = &'a dyn Fn(u64, &mut String);

/// Appends `name(first, second)`; used by the rows.
pub fn format_call(name: &str, args: &Args, list: &[FormatArg<'_>], out: &mut String) {
    let _ = write!(out, "{name}(");
    for (index, (format, &raw)) in list.iter().zip(args).enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        format(raw, out);
    }
    out.push(')');
}

/// Sorts the rows by number, at compile time: a number given twice does not compile.
const fn by_number(families: &[&[Row]]) -> [Option<Row>; LIMIT] {
    let mut table = [None; LIMIT];
    let mut family = 0;
    while family < families.len() {
        let mut row = 0;
        while row < families[family].len() {
            let nr = families[family][row].nr as usize;
            assert!(table[nr].is_none(), "two rows for one system call");
            table[nr] = Some(families[family][row]);
            row += 1;
        }
        family += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_number_and_nothing_else_is() {
        let row = find(u64::from(linux_raw_sys::general::__NR_getpid)).map(|row| row.name);
        assert_eq!(row, Some("getpid"));
        assert!(find(511).is_none());
        assert!(find(u64::MAX).is_none());
    }

    #[test]
    fn missing_calls_are_counted() {
        count_missing(510);
        count_missing(u64::MAX);
        assert!(missing().any(|entry| entry == (510, 1)));
        assert!(missing().any(|entry| entry == (LIMIT, 1)));
    }
}
