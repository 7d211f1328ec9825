//! cachestat(2): which pages of a file are in memory. Here all that there are: nothing is written back or evicted.

use super::{Fd, io};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi as nr;
use umbel_mm::PAGE;
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_cachestat, cachestat(fd: Fd, range: UserAddr, stat: UserAddr, flags: u32) => cachestat, Full;
}

/// `struct cachestat`: in the cache, dirty, being written, evicted, evicted lately.
type Stat = [u64; 5];

fn cachestat(task: &Arc<Task>, fd: Fd, range: UserAddr, stat: UserAddr, flags: u32) -> Result<()> {
    let file = io::file(task, fd)?;
    let [offset, len]: [u64; 2] = user::read_val(range)?;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    // Files that cannot be mapped have no pages.
    let cached = file.mappable().map_or(0, |object| {
        let end = if len == 0 { u64::MAX } else { offset.saturating_add(len) };
        let end = end.min(object.size()).div_ceil(PAGE);
        if offset / PAGE < end { object.cached(offset / PAGE, end) } else { 0 }
    });
    let found: Stat = [cached, 0, 0, 0, 0];
    user::write_val(stat, &found)
}
