//! Numbers that administrators change under /proc/sys. Each belongs to the subsystem that heeds it; `fs::proc::sysctl`
//! shows them and takes new values.

use crate::{Errno, Result};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number within bounds.
#[derive(Debug)]
pub struct Setting {
    value: AtomicU64,
    least: u64,
    most: u64,
}

impl Setting {
    /// `value`, which may become anything from `least` to `most`.
    pub const fn new(value: u64, least: u64, most: u64) -> Setting {
        Setting { value: AtomicU64::new(value), least, most }
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }

    /// Changes it.
    ///
    /// # Errors
    /// `EINVAL` out of bounds.
    pub fn set(&self, value: u64) -> Result<()> {
        if !(self.least..=self.most).contains(&value) {
            return Err(Errno::EINVAL);
        }
        self.value.store(value, Relaxed);
        Ok(())
    }

    /// Reads a decimal number.
    ///
    /// # Errors
    /// `EINVAL` if `text` is none.
    pub fn parse(text: &[u8]) -> Result<u64> {
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let word = text.split_whitespace().next().ok_or(Errno::EINVAL)?;
        word.parse().map_err(|_| Errno::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_within_bounds() {
        let setting = Setting::new(5, 1, 10);
        assert_eq!(setting.set(Setting::parse(b" 7\n").unwrap()), Ok(()));
        assert_eq!((setting.set(11), setting.set(0), setting.get()), (Err(Errno::EINVAL), Err(Errno::EINVAL), 7));
        assert_eq!((Setting::parse(b"x"), Setting::parse(b"")), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    }
}
