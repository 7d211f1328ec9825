//! Options of mounts. Source: tmpfs(5).

use crate::{Errno, Result};
use alloc::format;
use alloc::string::String;
use core::fmt::Write;

/// What a tmpfs is told when it is mounted; `None` = the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Most pages of data; 0 = as RAM allows.
    pub pages: Option<u64>,
    /// Most inodes; 0 = as memory allows.
    pub inodes: Option<u64>,
}

impl Options {
    /// From `key=value,…`.
    ///
    /// # Errors
    /// `EINVAL` for what is not understood.
    pub fn parse(text: &[u8]) -> Result<Options> {
        let mut options = Options::default();
        for option in text.split(|&byte| byte == b',').filter(|option| !option.is_empty()) {
            let option = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            options.set(key, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let id = |value: &str| value.parse().map(Some).map_err(|_| Errno::EINVAL);
        match key {
            "mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)?;
                self.mode = Some(mode & 0o7777);
            }
            "size" => self.pages = Some(size(value)?.div_ceil(4096)),
            "nr_blocks" => self.pages = Some(size(value)?),
            "nr_inodes" => self.inodes = Some(size(value)?),
            "uid" => self.uid = id(value)?,
            "gid" => self.gid = id(value)?,
            // Nothing here is ever huge, bound to a node or swapped.
            "huge" | "mpol" | "noswap" | "inode64" | "inode32" => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// As /proc/PID/mounts shows them, each with a comma before it.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        if let Some(pages) = self.pages.filter(|&pages| pages != 0) {
            let _ = write!(out, ",size={}k", pages * 4);
        }
        if let Some(inodes) = self.inodes.filter(|&inodes| inodes != 0) {
            let _ = write!(out, ",nr_inodes={inodes}");
        }
        if let Some(mode) = self.mode.filter(|&mode| mode != 0o1777) {
            let _ = write!(out, ",mode={mode:03o}");
        }
        for (name, id) in [("uid", self.uid), ("gid", self.gid)] {
            if let Some(id) = id.filter(|&id| id != 0) {
                out.push_str(&format!(",{name}={id}"));
            }
        }
        out
    }
}

/// A number with an optional suffix k, m, g, or % of RAM.
fn size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let unit = match text.get(digits.len()..) {
        Some("") => 1,
        Some("k" | "K") => 1 << 10,
        Some("m" | "M") => 1 << 20,
        Some("g" | "G") => 1 << 30,
        Some("%") => umbel_mm::frame::usage().total * 4096 / 100,
        _ => return Err(Errno::EINVAL),
    };
    number.checked_mul(unit).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("3m"), Ok(3 << 20));
        assert_eq!(size("x"), Err(Errno::EINVAL));
        assert_eq!(size("1q"), Err(Errno::EINVAL));
    }

    #[test]
    fn options_are_read_and_shown() {
        let options = Options::parse(b"size=64k,mode=700,nr_inodes=10,uid=5").unwrap();
        assert_eq!(options.describe(), ",size=64k,nr_inodes=10,mode=700,uid=5");
        assert_eq!(Options::parse(b"nonsense=1"), Err(Errno::EINVAL));
    }
}
