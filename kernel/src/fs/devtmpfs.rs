//! Character devices: who opens which number, and the directory of their nodes (/dev).

use super::file::{FileOps, OpenContext};
use super::types::{Dev, Mode};
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_smp::lock::{Rank, SpinLock};

/// Opens a device: returns the operations of the new file.
pub type OpenFn = fn(&OpenContext<'_>, Dev) -> Result<Arc<dyn FileOps>>;

#[derive(Clone)]
struct Device {
    /// Path below /dev; empty = no node.
    name: &'static str,
    mode: Mode,
    open: OpenFn,
}

static DEVICES: SpinLock<BTreeMap<Dev, Device>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

/// Registers a character device; its node appears in /dev as `name` (not if empty) with `mode`. Call it before
/// `fs::init`, or at any time for devices without node.
pub fn register_char(major: u32, minor: u32, name: &'static str, mode: Mode, open: OpenFn) {
    DEVICES.lock().insert(Dev::new(major, minor), Device { name, mode, open });
}

/// Opens character device `dev`. `ENXIO` if nobody registered it.
pub fn open_char(context: &OpenContext<'_>, dev: Dev) -> Result<Arc<dyn FileOps>> {
    let open = DEVICES.lock().get(&dev).map(|device| device.open).ok_or(Errno::ENXIO)?;
    open(context, dev)
}

/// Nodes to make: name, mode, number.
pub(super) fn nodes() -> Vec<(&'static str, Mode, Dev)> {
    let devices = DEVICES.lock();
    let node = |(dev, device): (&Dev, &Device)| (device.name, device.mode, *dev);
    devices.iter().filter(|(_, device)| !device.name.is_empty()).map(node).collect()
}
