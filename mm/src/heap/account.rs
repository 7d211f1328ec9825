//! Who holds how much of the heap: each block bears the number of the account that it was allocated for, and gives its bytes
//! back to that account wherever it is freed.
//!
//! The kernel gives each user an account and says at a switch of threads whose runs ([`enter`]). [`NOBODY`]'s (the kernel's and
//! root's) is not counted. The number lies behind the block, in bytes that the allocator's granularity leaves unused.
//!
//! A virtual CPU keeps a sum for the account that it counted last and adds it to the account's total in batches: totals are off by
//! [`BATCH`] a virtual CPU at most. No locks.

use crate::percpu;
use core::sync::atomic::{AtomicI64, AtomicU16, Ordering::Relaxed};
use umbel_abi::machine::MAX_CPUS;

/// Number of accounts.
pub const ACCOUNTS: usize = 256;
/// The account that has no limit.
pub const NOBODY: u16 = 0;
/// Bytes behind each block for its account's number.
pub(super) const TAG: usize = 8;
/// Bytes that a virtual CPU keeps to itself.
const BATCH: i64 = 16 << 10;

/// What one virtual CPU knows. Only its own code writes it, which is not preempted.
#[repr(align(64))]
struct Cpu {
    /// The account of the running thread.
    running: AtomicU16,
    /// The account whose bytes are in `kept`.
    counted: AtomicU16,
    kept: AtomicI64,
}

static CPUS: [Cpu; MAX_CPUS] =
    [const { Cpu { running: AtomicU16::new(NOBODY), counted: AtomicU16::new(NOBODY), kept: AtomicI64::new(0) } };
        MAX_CPUS];
static HELD: [AtomicI64; ACCOUNTS] = [const { AtomicI64::new(0) }; ACCOUNTS];

/// From now on this virtual CPU allocates for `account`.
#[inline]
pub fn enter(account: u16) {
    CPUS[percpu::cpu()].running.store(account, Relaxed);
}

/// Bytes of the heap that an account holds.
pub fn held(account: u16) -> u64 {
    HELD[usize::from(account) % ACCOUNTS].load(Relaxed).max(0) as u64
}

/// The account that is charged for what is allocated now.
#[inline]
pub(super) fn running() -> u16 {
    CPUS[percpu::cpu()].running.load(Relaxed)
}

/// Charges a new block of `len` bytes with room for a tag behind it to `account`.
///
/// # Safety
/// `block` is valid for writes of `len` + [`TAG`] bytes, and `len` is a multiple of 8.
#[inline]
pub(super) unsafe fn charge(account: u16, block: *mut u8, len: usize) {
    // SAFETY: by the caller; blocks are aligned to 16.
    unsafe { block.add(len).cast::<u64>().write(account.into()) };
    if account != NOBODY {
        count(account, len as i64);
    }
}

/// Gives back what a block of `len` bytes was charged.
///
/// # Safety
/// [`charge`] was called for it with this length.
#[inline]
pub(super) unsafe fn uncharge(block: *mut u8, len: usize) {
    // SAFETY: by the caller, `charge` wrote it.
    let account = unsafe { block.add(len).cast::<u64>().read() } as u16;
    if account != NOBODY {
        count(account, -(len as i64));
    }
}

fn count(account: u16, bytes: i64) {
    let own = &CPUS[percpu::cpu()];
    let counted = own.counted.load(Relaxed);
    let mut kept = own.kept.load(Relaxed);
    if counted != account {
        add(counted, kept);
        own.counted.store(account, Relaxed);
        kept = 0;
    }
    kept += bytes;
    if kept.abs() > BATCH {
        add(account, kept);
        kept = 0;
    }
    own.kept.store(kept, Relaxed);
}

fn add(account: u16, bytes: i64) {
    HELD[usize::from(account) % ACCOUNTS].fetch_add(bytes, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_charged_to_whom_it_was_made_for_until_it_is_freed() {
        const LEN: usize = 4096;
        let mut blocks = std::vec![[0_u64; LEN / 8 + 1]; 12];
        let base = held(7);
        enter(7);
        // SAFETY: the buffers are long enough and aligned.
        blocks.iter_mut().for_each(|block| unsafe { charge(running(), block.as_mut_ptr().cast(), LEN) });
        enter(9);
        let mut other = [0_u64; LEN / 8 + 1];
        // SAFETY: as above. Another account's turn: what was kept for the first is added.
        unsafe { charge(running(), other.as_mut_ptr().cast(), LEN) };
        assert_eq!(held(7) - base, 12 * LEN as u64);
        // SAFETY: charged above.
        blocks.iter_mut().for_each(|block| unsafe { uncharge(block.as_mut_ptr().cast(), LEN) });
        // SAFETY: charged above.
        unsafe { uncharge(other.as_mut_ptr().cast(), LEN) };
        enter(NOBODY);
        // What is kept for the last one counted is added when another is.
        count(7, 0);
        assert_eq!((held(7), held(9)), (base, 0));
    }
}
