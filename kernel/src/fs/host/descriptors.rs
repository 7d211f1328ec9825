//! How many host descriptors the tree keeps open: all slots and the machine share one table.
//!
//! A second-chance queue of nodes that hold one. Lock: the queue (`Rank::Leaf`); a descriptor taken out of it is closed
//! after the lock is dropped.

use super::node::HostNode;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;
use umbel_smp::lock::{Rank, SpinLock};

/// Descriptors kept open for nodes that nobody has open.
const KEPT: usize = 1024;

static QUEUE: SpinLock<VecDeque<Weak<HostNode>>> = SpinLock::new(Rank::Leaf, VecDeque::new());

/// Notes that `node` has opened its descriptor, and closes that of another if there are too many.
pub(super) fn opened(node: &Arc<HostNode>) {
    let mut queue = QUEUE.lock();
    queue.push_back(Arc::downgrade(node));
    let mut chances = queue.len();
    while queue.len() > KEPT && chances > 0 {
        chances -= 1;
        let Some(oldest) = queue.pop_front() else { return };
        let Some(oldest_node) = oldest.upgrade() else { continue };
        let used = oldest_node.used.swap(false, Ordering::Relaxed);
        if used {
            queue.push_back(oldest);
        }
        drop(queue);
        if used {
            drop(oldest_node);
            queue = QUEUE.lock();
            continue;
        }
        // Whoever uses the descriptor now keeps it open until done.
        drop(oldest_node.forget_descriptor());
        // The last reference to a node closes descriptors too: not under the lock.
        drop(oldest_node);
        queue = QUEUE.lock();
    }
}

/// Closes the descriptors of some nodes that nobody has open.
pub(super) fn evict() {
    const SOME: usize = 64;
    for _ in 0..SOME {
        let oldest = QUEUE.lock().pop_front();
        match oldest.map(|oldest| oldest.upgrade()) {
            Some(Some(node)) => drop(node.forget_descriptor()),
            Some(None) => {}
            None => return,
        }
    }
}
