//! Terminals: the line discipline, waiting readers and writers, job control.
//!
//! * [`ldisc`]: what happens to bytes. [`Tty`]: a discipline between a [`Line`] (the device) and its programs.
//! * `file`: the operations of an open terminal. `ioctl`: its requests. `job`: whose turn it is to read and write.
//! * [`console`]: the machine's terminal, if it has one. [`attach`]: makes it a session's.
//! * `pty`: pairs of a master and a terminal. `pts`: the file system of their nodes.
//!
//! Locks: `Tty::reading` and `Tty::writing` (sleeping, rank TtyIo); `Tty::job` (rank TtyState); `Tty::state` (rank Tty),
//! under which only the line's own lock is taken; signals are sent and queues woken after it is released.

mod file;
mod ioctl;
mod job;
pub mod ldisc;
mod pts;
mod pty;
mod terminal;
pub mod termios;

pub use file::{TtyFile, register_nodes};
pub use job::{attach, controlling};
pub use pts::devpts;
pub use terminal::{Line, Tty};

use crate::Pid;
use crate::task::ids::Session;
use alloc::sync::Arc;
use umbel_smp::lock::Once;

static CONSOLE: Once<Arc<Tty>> = Once::new();

/// The machine's terminal; none if no standard stream is one.
pub fn console() -> Option<&'static Arc<Tty>> {
    CONSOLE.get()
}

/// Gives the console, if there is one, to the first session with `group` in the foreground.
pub fn give_console(session: &Arc<Session>, group: Pid) {
    if let Some(tty) = console() {
        session.set_tty(Some(tty.clone()));
        tty.set_session(Some(session.id), Some(group));
    }
}

/// Makes `tty` the console. Called once at boot.
pub fn set_console(tty: Arc<Tty>) {
    // A second one is a bug of the boot path that changes nothing.
    let _ = CONSOLE.set(tty);
}
