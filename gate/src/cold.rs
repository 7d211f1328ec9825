//! Cold KDATA: locked until kernel code touches it.

/// Unlocks cold KDATA after a fault on it. Returns whether the access may be repeated.
///
/// Nothing is placed in cold KDATA yet, so a fault there is a bug.
pub(crate) fn unlock() -> bool {
    false
}
