//! AF_NETLINK. Source: netlink(7).

use super::socket::Socket;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;

/// socket(2).
///
/// # Errors
/// `EPROTONOSUPPORT`.
pub fn create(_: &Arc<Task>, _: u32, _: u32) -> Result<Arc<dyn Socket>> {
    Err(Errno::EAFNOSUPPORT)
}
