//! What user copies need from address spaces.

use super::fault::Access;
use super::space::Space;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_mm::{Pager, UserAddr, user};
use umbel_smp::lock::Once;

static CURRENT: Once<fn() -> Option<Arc<Space>>> = Once::new();

struct KernelPager;

/// Registers the pager. Once, at boot. `current` says which space the current thread has, if any.
pub fn init(current: fn() -> Option<Arc<Space>>) {
    CURRENT.call_once(|| current);
    user::register(&KernelPager);
}

fn current() -> Result<Arc<Space>> {
    CURRENT.get().and_then(|current| current()).ok_or(Errno::EFAULT)
}

impl Pager for KernelPager {
    fn fault_in(&self, addr: UserAddr, write: bool) -> Result<()> {
        let access = if write { Access::Write } else { Access::Read };
        // Out of memory during a copy is an error of the call; the guest's own accesses meet the OOM killer.
        current()?.handle_fault(addr.0, access).map_err(|_| Errno::EFAULT)
    }

    fn activate(&self) {
        if let Ok(space) = current()
            && space.activate()
        {
            space.warm();
        }
    }
}
