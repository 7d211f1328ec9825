//! Kernel threads: tasks without a program. Users: boot, and subsystems that have work of their own.

use super::ns::{NsProxy, PidNs};
use super::{Cred, Image, Limits, NewTask, Process, Task};
use crate::sched::{self, Entity};
use crate::{Pid, Result, machine, signal};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_gate::UserContext;
use umbel_smp::lock::{Rank, SpinLock};

/// The boot thread of a virtual CPU.
///
/// # Errors
/// `ENOMEM`.
pub fn idle() -> Result<Arc<Task>> {
    try_make(Pid(0), "swapper", None)
}

/// A kernel thread of the first ones; with a body it gets a stack to run it on.
pub fn make(pid: Pid, name: &str, body: Option<fn(&Arc<Task>)>) -> Arc<Task> {
    try_make(pid, name, body).expect("memory for the first threads")
}

/// Starts a kernel thread of no process; it runs `body`, which does not return.
///
/// # Errors
/// `ENOMEM`.
pub fn start(name: &str, body: fn(&Arc<Task>)) -> Result<()> {
    /// Nobody else keeps them: they have no place in the table of ids.
    static THREADS: SpinLock<Vec<Arc<Task>>> = SpinLock::new(Rank::Leaf, Vec::new());
    let task = try_make(Pid(0), name, Some(body))?;
    THREADS.lock().push(task.clone());
    sched::start(&task);
    Ok(())
}

fn try_make(pid: Pid, name: &str, body: Option<fn(&Arc<Task>)>) -> Result<Arc<Task>> {
    let limits = Limits::first(machine::info().ram_pages);
    let process = Process::new((pid, PidNs::first()), signal::Shared::new(), limits, Arc::new(Image::default()));
    let thread = match body {
        Some(_) => sched::new_thread(0)?,
        None => sched::adopted_thread(),
    };
    Ok(Task::new(NewTask {
        tid: pid,
        process: Arc::new(process),
        thread,
        body,
        user: UserContext::try_new()?,
        signal: signal::Private::new(!0),
        sched: Entity::new(),
        cred: Arc::new(Cred::new(0, 0)),
        comm: super::comm(name.as_bytes()),
        space: None,
        files: None,
        fs: None,
        rseq: Default::default(),
        seccomp: Default::default(),
        ns: NsProxy::first(),
    }))
}
