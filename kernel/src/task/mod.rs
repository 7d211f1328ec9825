//! Tasks (threads), processes (thread groups), credentials, the table of ids, the run loop.
//!
//! * [`Task`]: one guest thread. [`Process`]: its thread group. [`Cred`]: who it is.
//! * [`current`]: the running task; the only way to it.
//!
//! Each subsystem adds its own fields to [`Task`] or [`Process`] (one line, with "protected by").

mod cred;
mod process;
#[allow(clippy::module_inception)]
mod task;

pub use cred::{Cred, cap};
pub use process::Process;
pub use task::Task;
