//! Who adopts orphans, and the end of a PID namespace. Source: pid_namespaces(7), `PR_SET_CHILD_SUBREAPER` of prctl(2).
//!
//! The last thread of a namespace's init does not leave the tree before everybody else in the namespace has: it kills
//! them, adopts and reaps what they leave, and waits for the rest.

use super::exit;
use super::ids::{self, INIT, Table};
use super::process::Process;
use crate::Pid;
use crate::signal;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

/// Who adopts the children of `process`: the nearest living subreaper among its ancestors of the same PID namespace, or the
/// init of that.
pub(super) fn find(table: &Table, process: &Process) -> Pid {
    let ns = process.pid_ns();
    let lives = |pid: Pid| pid != process.pid() && table.node(pid).is_ok_and(|node| node.zombie.is_none());
    let init = ns.lineage().find_map(|ns| ns.init().filter(|init| lives(*init))).unwrap_or(INIT);
    let parent_of = |pid: Pid| table.node(pid).map_or(INIT, |node| node.parent);
    let mut at = parent_of(process.pid());
    for _ in 0..table.processes.len() {
        let Ok(node) = table.node(at) else { break };
        if at == init || !Arc::ptr_eq(node.process.pid_ns(), ns) {
            break;
        }
        if node.zombie.is_none() && node.process.subreaper.load(Relaxed) {
            return at;
        }
        at = parent_of(at);
    }
    init
}

/// Whether the thread that leaves now is the last of a namespace's init, whose namespace has not been ended yet.
pub(super) fn is_due(table: &Table, process: &Process) -> bool {
    process.is_ns_init()
        && !process.pid_ns().is_closed()
        && table.node(process.pid()).is_ok_and(|node| node.threads.len() <= 1)
}

/// Ends all other processes in the namespace of `init`; afterwards none lives there and nobody can come in.
pub(super) fn end_namespace(init: &Arc<Process>) {
    let ns = init.pid_ns();
    ns.close();
    for process in ns.members().into_iter().filter_map(ids::find_process) {
        if !Arc::ptr_eq(&process, init) {
            signal::kill_now(&process);
        }
    }
    loop {
        let zombies = match look(init) {
            State::Empty => return,
            State::Living => Vec::new(),
            State::Zombies(zombies) => zombies,
        };
        zombies.into_iter().for_each(|pid| _ = exit::reap(pid));
        init.child_events.wait_until(|| match look(init) {
            State::Living => None,
            _ => Some(()),
        });
    }
}

/// What is left in a namespace besides its init.
enum State {
    /// Nobody who lives.
    Empty,
    Living,
    /// Children of the init that can be reaped.
    Zombies(Vec<Pid>),
}

fn look(init: &Process) -> State {
    let members = init.pid_ns().members();
    let table = ids::table();
    let Ok(own) = table.node(init.pid()) else { return State::Empty };
    let ended = |pid: &Pid| table.node(*pid).is_ok_and(|node| node.zombie.is_some() && node.traced_by.is_none());
    let zombies: Vec<Pid> = own.children.iter().copied().map(Pid).filter(ended).collect();
    if !zombies.is_empty() {
        return State::Zombies(zombies);
    }
    let lives = |pid: &Pid| *pid != init.pid() && table.node(*pid).is_ok_and(|node| node.zombie.is_none());
    if members.iter().any(lives) { State::Living } else { State::Empty }
}

/// A process has ended: inits that wait for the end of all look again.
pub(super) fn tell_inits(process: &Process) {
    for ns in process.pid_ns().lineage().filter(|ns| ns.level() > 0 && ns.is_closed()) {
        if let Some(init) = ns.init().and_then(ids::find_process) {
            init.child_events.wake_all();
        }
    }
}
