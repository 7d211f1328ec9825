//! Character and block devices: who opens which number, and the nodes in /dev.

use super::types::{Dev, Kind, Mode};
use super::{FileOps, OpenContext};
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

/// By kind (block or not) and number.
static DEVICES: SpinLock<BTreeMap<(bool, Dev), Device>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

/// Registers a character device; its node appears in /dev as `name` (not if empty) with `mode`. Call it before
/// `fs::init`, or at any time for devices without node.
pub fn register_char(major: u32, minor: u32, name: &'static str, mode: Mode, open: OpenFn) {
    DEVICES.lock().insert((false, Dev::new(major, minor)), Device { name, mode, open });
}

/// As [`register_char`], for a block device.
pub fn register_block(major: u32, minor: u32, name: &'static str, mode: Mode, open: OpenFn) {
    DEVICES.lock().insert((true, Dev::new(major, minor)), Device { name, mode, open });
}

/// Opens character device `dev`. `ENXIO` if nobody registered it.
pub fn open_char(context: &OpenContext<'_>, dev: Dev) -> Result<Arc<dyn FileOps>> {
    open(context, (false, dev))
}

/// Opens block device `dev`. `ENXIO` if nobody registered it.
pub fn open_block(context: &OpenContext<'_>, dev: Dev) -> Result<Arc<dyn FileOps>> {
    open(context, (true, dev))
}

fn open(context: &OpenContext<'_>, which: (bool, Dev)) -> Result<Arc<dyn FileOps>> {
    let open = DEVICES.lock().get(&which).map(|device| device.open).ok_or(Errno::ENXIO)?;
    open(context, which.1)
}

/// Nodes to make: name, kind, mode, number.
pub(super) fn nodes() -> Vec<(&'static str, Kind, Mode, Dev)> {
    let devices = DEVICES.lock();
    let kind = |block: bool| if block { Kind::Block } else { Kind::Char };
    let node = |(&(block, dev), device): (&(bool, Dev), &Device)| (device.name, kind(block), device.mode, dev);
    devices.iter().filter(|(_, device)| !device.name.is_empty()).map(node).collect()
}
