//! Preparing a slot's host task for guest code.

use crate::Errno;

/// Which step of arming a slot failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArmError {
    /// The host call, in words for one line on the console.
    pub step: &'static str,
    pub errno: Errno,
}

/// What the slot's filter and dispatch need to know of the image.
#[derive(Clone, Copy, Debug)]
pub struct ArmOptions {
    /// Slots stay dumpable and may leave cores (`--debug-host`).
    pub debug_host: bool,
}

/// Arms the calling host task as a slot: signal stack, handlers, user dispatch, seccomp filter, limits.
///
/// The slot's address space must be complete (image, KDATA, slot page, entry page, signal stack), its selector byte 0
/// and `in_kernel` 1. Afterwards only what [`crate::filter`] lists can be called.
pub fn arm_slot(options: &ArmOptions) -> core::result::Result<(), ArmError> {
    let _ = options;
    Err(ArmError { step: "arm_slot", errno: Errno::ENOSYS })
}
