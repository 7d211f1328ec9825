//! Typed arguments and results of system calls.
//!
//! [`FromArg`] decodes a register, [`ArgFmt`] prints the decoded value for `--strace`, [`IntoRet`] encodes a result.
//! A flags type made by `bitflags!` gets all it needs from `flag_args!`.

use crate::task::Task;
use crate::task::ns::pid;
use crate::{Errno, Fd, Pid, Result};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use umbel_mm::UserAddr;
use umbel_mm::user::read_cstr;

/// A register's decoding.
pub trait FromArg: Sized {
    /// Decodes; only a value that can never be valid is an error.
    fn from_arg(raw: u64) -> Result<Self>;
}

/// A value's form in `--strace`.
pub trait ArgFmt {
    /// Appends the value. `task` is the caller, for values that stand for memory.
    fn arg_fmt(&self, task: &Task, out: &mut String);
}

/// A result's encoding into rax.
pub trait IntoRet {
    /// Encodes.
    fn into_ret(self) -> u64;
}

/// Appends the argument `raw` as type `T` prints it; used by the rows.
pub fn format<T: FromArg + ArgFmt>(task: &Task, raw: u64, out: &mut String) {
    match T::from_arg(raw) {
        Ok(value) => value.arg_fmt(task, out),
        Err(_) => {
            let _ = write!(out, "{raw:#x}");
        }
    }
}

/// A claim that a NUL-terminated string lies at this guest address; the handler copies it in once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserStr(pub UserAddr);

/// Longest path, its NUL included.
pub const PATH_MAX: usize = 4096;

impl UserStr {
    /// Copies the string in.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`.
    pub fn read(self) -> Result<Vec<u8>> {
        read_cstr(self.0, PATH_MAX)
    }
}

impl ArgFmt for UserStr {
    fn arg_fmt(&self, task: &Task, out: &mut String) {
        match self.read() {
            Ok(bytes) => format_bytes(&bytes, out),
            Err(_) => self.0.arg_fmt(task, out),
        }
    }
}

impl IntoRet for UserAddr {
    fn into_ret(self) -> u64 {
        self.0
    }
}

macro_rules! number_args {
    ($($ty:ty),*) => { $(
        impl FromArg for $ty {
            fn from_arg(raw: u64) -> Result<Self> {
                Ok(raw as $ty)
            }
        }
        impl ArgFmt for $ty {
            fn arg_fmt(&self, _: &Task, out: &mut String) {
                let _ = write!(out, "{self}");
            }
        }
        impl IntoRet for $ty {
            fn into_ret(self) -> u64 {
                self as i64 as u64
            }
        }
    )* };
}
number_args!(u32, i32, i64, usize);

impl FromArg for u64 {
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(raw)
    }
}

impl ArgFmt for u64 {
    fn arg_fmt(&self, _: &Task, out: &mut String) {
        let _ = if *self < 0x1_0000 { write!(out, "{self}") } else { write!(out, "{self:#x}") };
    }
}

impl IntoRet for u64 {
    fn into_ret(self) -> u64 {
        self
    }
}

impl IntoRet for () {
    fn into_ret(self) -> u64 {
        0
    }
}

macro_rules! newtype_args {
    ($($ty:ident),*) => { $(
        impl FromArg for $ty {
            fn from_arg(raw: u64) -> Result<Self> {
                Ok($ty(raw as i32))
            }
        }
        impl ArgFmt for $ty {
            fn arg_fmt(&self, _: &Task, out: &mut String) {
                let _ = write!(out, "{self}");
            }
        }
        impl IntoRet for $ty {
            fn into_ret(self) -> u64 {
                i64::from(self.0) as u64
            }
        }
    )* };
}
newtype_args!(Fd);

/// Guests write the numbers of their PID namespace, handlers have ids.
impl FromArg for Pid {
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(pid::of_caller(raw as i32))
    }
}

impl ArgFmt for Pid {
    fn arg_fmt(&self, _: &Task, out: &mut String) {
        let _ = write!(out, "{}", pid::caller_sees(*self));
    }
}

impl IntoRet for Pid {
    fn into_ret(self) -> u64 {
        i64::from(pid::caller_sees(self)) as u64
    }
}

impl FromArg for UserStr {
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(UserStr(UserAddr(raw)))
    }
}

/// Makes a `bitflags!` type an argument: unknown bits are `EINVAL`, names are printed joined by `|`.
#[macro_export]
macro_rules! flag_args {
    ($($ty:ty),* $(,)?) => { $(
        impl $crate::syscall::FromArg for $ty {
            fn from_arg(raw: u64) -> $crate::Result<Self> {
                <$ty>::from_bits(raw as _).ok_or($crate::Errno::EINVAL)
            }
        }
        impl $crate::syscall::ArgFmt for $ty {
            fn arg_fmt(&self, _: &$crate::task::Task, out: &mut alloc::string::String) {
                $crate::syscall::args::format_flags(self.iter_names().map(|(name, _)| name), out);
            }
        }
    )* };
}

/// Appends `A|B`, or `0`; used by `flag_args!`.
pub fn format_flags(names: impl Iterator<Item = &'static str>, out: &mut String) {
    let start = out.len();
    for name in names {
        if out.len() > start {
            out.push('|');
        }
        out.push_str(name);
    }
    if out.len() == start {
        out.push('0');
    }
}

impl FromArg for UserAddr {
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(UserAddr(raw))
    }
}

impl ArgFmt for UserAddr {
    fn arg_fmt(&self, _: &Task, out: &mut String) {
        let _ = if self.is_null() { out.write_str("NULL") } else { write!(out, "{:#x}", self.0) };
    }
}

/// Appends the first of `len` bytes at a guest address as text, or the address if they cannot be read.
pub fn format_user_bytes(addr: UserAddr, len: u64, out: &mut String) {
    let mut bytes = [0; SHOWN + 1];
    let part = &mut bytes[..len.min(SHOWN as u64 + 1) as usize];
    match umbel_mm::user::copy_in(part, addr) {
        Ok(()) => format_bytes(part, out),
        Err(_) => {
            let _ = write!(out, "{:#x}", addr.0);
        }
    }
}

/// Bytes of a buffer that are shown.
const SHOWN: usize = 32;

/// Appends `bytes` in quotes, at most [`SHOWN`] of them, escaped as strace(1) does.
pub fn format_bytes(bytes: &[u8], out: &mut String) {
    let shown = bytes.len().min(SHOWN);
    out.push('"');
    for &byte in bytes.iter().take(shown) {
        let _ = write!(out, "{}", core::ascii::escape_default(byte));
    }
    out.push_str(if shown < bytes.len() { "\"..." } else { "\"" });
}

/// The value of an integer argument that must not be negative.
pub fn non_negative(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_by_name_and_nothing_prints_as_zero() {
        let mut out = String::new();
        format_flags(["A", "B"].into_iter(), &mut out);
        format_flags([].into_iter(), &mut out);
        assert_eq!(out, "A|B0");
    }

    #[test]
    fn narrow_results_are_sign_extended() {
        assert_eq!((-1_i32).into_ret(), u64::MAX);
        assert_eq!(Fd(3).into_ret(), 3);
    }

    #[test]
    fn bytes_are_cut_and_escaped() {
        let mut out = String::new();
        format_bytes(b"a\n", &mut out);
        assert_eq!(out, "\"a\\n\"");
    }
}
