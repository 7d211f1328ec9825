//! The name space at boot.

use super::Path;
use crate::{Errno, Result};
use umbel_smp::lock::Once;

static ROOT: Once<Path> = Once::new();

/// The root of the name space.
pub fn root() -> Result<Path> {
    ROOT.get().cloned().ok_or(Errno::ENOENT)
}
