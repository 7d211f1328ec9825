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
    /// The last minor number that it has; its first is the key's.
    last: u32,
}

/// By kind (block or not) and number.
static DEVICES: SpinLock<BTreeMap<(bool, Dev), Device>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

/// Registers a character device; its node appears in /dev as `name` with `mode`. Call it before `fs::init`.
pub fn register_char(major: u32, minor: u32, name: &'static str, mode: Mode, open: OpenFn) {
    DEVICES.lock().insert((false, Dev::new(major, minor)), Device { name, mode, open, last: minor });
}

/// Registers character devices of all minor numbers of `major`, without nodes: `open` knows which there are.
pub fn register_chars(major: u32, open: OpenFn) {
    DEVICES.lock().insert((false, Dev::new(major, 0)), Device { name: "", mode: 0, open, last: u32::MAX });
}

/// As [`register_char`], for a block device.
pub fn register_block(major: u32, minor: u32, name: &'static str, mode: Mode, open: OpenFn) {
    DEVICES.lock().insert((true, Dev::new(major, minor)), Device { name, mode, open, last: minor });
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
    let open = {
        let devices = DEVICES.lock();
        let before = devices.range(..=which).next_back();
        let has = |(key, device): &(&(bool, Dev), &Device)| {
            (key.0, key.1.major) == (which.0, which.1.major) && which.1.minor <= device.last
        };
        before.filter(has).map(|(_, device)| device.open).ok_or(Errno::ENXIO)?
    };
    open(context, which.1)
}

/// Nodes to make: name, kind, mode, number.
pub(super) fn nodes() -> Vec<(&'static str, Kind, Mode, Dev)> {
    let devices = DEVICES.lock();
    let kind = |block: bool| if block { Kind::Block } else { Kind::Char };
    let node = |(&(block, dev), device): (&(bool, Dev), &Device)| (device.name, kind(block), device.mode, dev);
    devices.iter().filter(|(_, device)| !device.name.is_empty()).map(node).collect()
}
