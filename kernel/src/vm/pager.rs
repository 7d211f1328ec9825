//! What user copies need from address spaces.

use super::fault::{Access, Fault, Origin};
use super::space::Space;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_mm::{Pager, UserAddr, user};
use umbel_smp::lock::Once;

static CURRENT: Once<fn() -> Option<Arc<Space>>> = Once::new();
static RECLAIM: Once<fn() -> bool> = Once::new();

struct KernelPager;

/// Registers the pager. Once, at boot. `current` says which space the current thread has, if any; `reclaim` makes room when
/// RAM is used up, and says whether to try again.
pub fn init(current: fn() -> Option<Arc<Space>>, reclaim: fn() -> bool) {
    CURRENT.call_once(|| current);
    RECLAIM.call_once(|| reclaim);
    user::register(&KernelPager);
}

fn current() -> Result<Arc<Space>> {
    CURRENT.get().and_then(|current| current()).ok_or(Errno::EFAULT)
}

impl Pager for KernelPager {
    fn fault_in(&self, addr: UserAddr, write: bool) -> Result<()> {
        let access = if write { Access::Write } else { Access::Read };
        let space = current()?;
        loop {
            match space.handle_fault(addr.0, access, Origin::Kernel) {
                Ok(()) => return Ok(()),
                Err(Fault::Oom) if RECLAIM.get().is_some_and(|reclaim| reclaim()) => {}
                Err(_) => return Err(Errno::EFAULT),
            }
        }
    }

    fn activate(&self) {
        if let Ok(space) = current()
            && space.activate()
        {
            space.warm();
        }
    }
}
