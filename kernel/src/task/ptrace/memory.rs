//! A tracee's memory, word by word.

use crate::task::Task;
use crate::{Errno, Result};
use umbel_mm::UserAddr;

const WORD: usize = 8;

/// The word at `addr`.
///
/// # Errors
/// `EIO` if it is not all mapped.
pub fn peek(target: &Task, addr: u64) -> Result<u64> {
    let mut word = [0; WORD];
    let space = target.space().ok_or(Errno::EIO)?;
    match space.read_remote(UserAddr(addr), &mut word) {
        Ok(WORD) => Ok(u64::from_ne_bytes(word)),
        _ => Err(Errno::EIO),
    }
}

/// Replaces the word at `addr`, whatever its protection: a private page is copied first.
///
/// # Errors
/// `EIO` if it is not all mapped.
pub fn poke(target: &Task, addr: u64, value: u64) -> Result<()> {
    let space = target.space().ok_or(Errno::EIO)?;
    match space.write_remote(UserAddr(addr), &value.to_ne_bytes()) {
        Ok(WORD) => Ok(()),
        _ => Err(Errno::EIO),
    }
}
