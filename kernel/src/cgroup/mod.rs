//! Control groups: the tree that processes are sorted into, and what is counted, limited, stopped and killed there. Source:
//! cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
//!
//! There is one tree, of version 2. A process is in one group with all its threads (no group is *threaded*). [`control`]: the files
//! of a group; [`fs`]: the file system that shows the tree; [`pids`]: the controller `pids`; [`freezer`]: stopping and killing;
//! [`enter`]: how processes come in.
//!
//! # Invariants
//! * Who is in which group, the tree itself and all that is summed over it change under the lock of the table of ids
//!   ([`crate::task::ids::table`]), which the functions that change it take as a witness. Single numbers are read without it.
//! * What has changed is noted under the lock ([`Notice::changed`]) and told to pollers and watches after it ([`Cgroup::tell`]).
//! * A group that was removed is *dead*: it has no live member and no child, but whoever holds it may look at it.
//!
//! Locks: `children` and a process's `group` (spinning, Leaf).

mod control;
pub mod enter;
pub mod freezer;
pub mod fs;
pub mod pids;
mod stat;

use crate::fs::{Time, next_ino};
use crate::task::ids::Table;
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
pub use enter::Member;
pub use stat::OfThread;
use umbel_smp::lock::{Once, Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

/// Levels below the root. Linux has no limit of its own; here walks up the tree are short.
const LEVELS_MAX: u32 = 64;
/// `max` of `cgroup.max.depth` and `cgroup.max.descendants`.
const NO_LIMIT: u32 = i32::MAX as u32;
/// Bytes of the kernel's heap that groups leave to others.
const HEAP_MARGIN: u64 = 2 << 20;

bitflags::bitflags! {
    /// Controllers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Controllers: u32 {
        const PIDS = 1;
    }
}

/// Their names, in the order in which they are shown.
const NAMES: [(&str, Controllers); 1] = [("pids", Controllers::PIDS)];

/// A group.
pub struct Cgroup {
    /// Inode number of its directory. Immutable.
    id: u64,
    /// Empty for the root. Immutable.
    name: Box<[u8]>,
    parent: Option<Arc<Cgroup>>,
    /// How far below the root. Immutable.
    level: u32,
    made: Time,
    me: Weak<Cgroup>,
    children: SpinLock<Children>,
    dead: AtomicBool,
    /// Groups below it, and those that were removed and are still held.
    descendants: AtomicUsize,
    dying: AtomicUsize,
    max_descendants: AtomicU32,
    max_depth: AtomicU32,
    /// Live threads of its processes.
    members: AtomicUsize,
    /// Children that are populated.
    populated_children: AtomicUsize,
    /// Controllers that its children have.
    passed_on: AtomicU32,
    /// Told of when it becomes populated or empty, or frozen, and back.
    events: Notice,
    pids: pids::Counts,
    freezer: freezer::State,
    times: stat::Times,
    node: fs::Node,
}

/// The live groups in a group.
#[derive(Default)]
struct Children {
    by_id: BTreeMap<u64, Arc<Cgroup>>,
    by_name: BTreeMap<Box<[u8]>, u64>,
}

/// The root, which every process is in at first.
pub fn root() -> &'static Arc<Cgroup> {
    static ROOT: Once<Arc<Cgroup>> = Once::new();
    ROOT.call_once(|| Cgroup::build(None, b"", fs::Node::new(0o555, 0, 0)))
}

impl Cgroup {
    fn build(parent: Option<&Arc<Cgroup>>, name: &[u8], node: fs::Node) -> Arc<Cgroup> {
        Arc::new_cyclic(|me| Cgroup {
            id: next_ino(),
            name: name.into(),
            parent: parent.cloned(),
            level: parent.map_or(0, |parent| parent.level + 1),
            made: Time::now(),
            me: me.clone(),
            children: SpinLock::new(Rank::Leaf, Children::default()),
            dead: AtomicBool::new(false),
            descendants: AtomicUsize::new(0),
            dying: AtomicUsize::new(0),
            max_descendants: AtomicU32::new(NO_LIMIT),
            max_depth: AtomicU32::new(NO_LIMIT),
            members: AtomicUsize::new(0),
            populated_children: AtomicUsize::new(0),
            passed_on: AtomicU32::new(0),
            events: Notice::new(),
            pids: pids::Counts::new(),
            freezer: freezer::State::default(),
            times: stat::Times::default(),
            node,
        })
    }

    /// Makes a child.
    ///
    /// # Errors
    /// `EINVAL` for a name with a line end, `EEXIST`, `ENOENT` in a dead group, `EAGAIN` beyond a limit, `ENOMEM`.
    fn make_child(self: &Arc<Self>, _: &mut Table, name: &[u8], node: fs::Node) -> Result<Arc<Cgroup>> {
        // `/proc/PID/cgroup` could not be understood.
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        umbel_mm::heap::room_for(HEAP_MARGIN)?;
        if self.is_dead() {
            return Err(Errno::ENOENT);
        }
        for (above, group) in self.lineage().enumerate() {
            let full = group.descendants.load(Relaxed) >= group.max_descendants.load(Relaxed) as usize;
            if full || above as u32 + 1 > group.max_depth.load(Relaxed) {
                return Err(Errno::EAGAIN);
            }
        }
        if self.level >= LEVELS_MAX {
            return Err(Errno::EAGAIN);
        }
        if self.child(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let child = Self::build(Some(self), name, node);
        let mut children = self.children.lock();
        children.by_name.insert(name.into(), child.id);
        children.by_id.insert(child.id, child.clone());
        drop(children);
        for group in self.lineage() {
            group.descendants.fetch_add(1, Relaxed);
        }
        freezer::update(&child);
        Ok(child)
    }

    /// Removes the child `name`.
    ///
    /// # Errors
    /// `ENOENT`; `EBUSY` if it has members or children.
    fn remove_child(self: &Arc<Self>, _: &mut Table, name: &[u8]) -> Result<Arc<Cgroup>> {
        let child = self.child(name).ok_or(Errno::ENOENT)?;
        if child.is_populated() || !child.children.lock().by_id.is_empty() {
            return Err(Errno::EBUSY);
        }
        let mut children = self.children.lock();
        children.by_name.remove(name);
        let _child = children.by_id.remove(&child.id);
        drop(children);
        child.dead.store(true, Relaxed);
        for group in self.lineage() {
            group.descendants.fetch_sub(1, Relaxed);
            group.dying.fetch_add(1, Relaxed);
        }
        self.times.add(child.times.get());
        freezer::update(self);
        Ok(child)
    }

    /// The child `name`.
    fn child(&self, name: &[u8]) -> Option<Arc<Cgroup>> {
        let children = self.children.lock();
        children.by_name.get(name).and_then(|id| children.by_id.get(id)).cloned()
    }

    /// The first child whose id is at least `id`.
    fn child_from(&self, id: u64) -> Option<Arc<Cgroup>> {
        self.children.lock().by_id.range(id..).next().map(|(_, child)| child.clone())
    }

    /// The live group that comes after this one in a walk through all below `top`, parents first. Takes no memory.
    fn next_below(self: &Arc<Self>, top: &Arc<Cgroup>) -> Option<Arc<Cgroup>> {
        if let Some(first) = self.child_from(0) {
            return Some(first);
        }
        let mut at = self.clone();
        while !Arc::ptr_eq(&at, top) {
            let parent = at.parent.clone()?;
            if let Some(next) = parent.child_from(at.id + 1) {
                return Some(next);
            }
            at = parent;
        }
        None
    }

    /// It and all groups below it, parents first. Under the table's lock.
    fn subtree(self: &Arc<Self>) -> impl Iterator<Item = Arc<Cgroup>> {
        let top = self.clone();
        core::iter::successors(Some(self.clone()), move |group| group.next_below(&top))
    }

    /// It and all groups above it.
    fn lineage(&self) -> impl Iterator<Item = &Cgroup> {
        core::iter::successors(Some(self), |group| group.parent.as_deref())
    }

    /// Whether it is `other`, or below it.
    pub fn is_within(&self, other: &Cgroup) -> bool {
        self.lineage().any(|group| core::ptr::eq(group, other))
    }

    /// Whether it was removed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// Whether it, or a group below it, has a live member.
    fn is_populated(&self) -> bool {
        self.members.load(Relaxed) != 0 || self.populated_children.load(Relaxed) != 0
    }

    /// `count` live threads come in.
    fn add_members(&self, count: usize) {
        let was = self.is_populated();
        self.members.fetch_add(count, Relaxed);
        if !was && count != 0 {
            self.population_changed(|above| above.populated_children.fetch_add(1, Relaxed));
        }
    }

    /// They are gone.
    fn take_members(&self, count: usize) {
        self.members.fetch_sub(count, Relaxed);
        if count != 0 && !self.is_populated() {
            self.population_changed(|above| above.populated_children.fetch_sub(1, Relaxed));
        }
    }

    /// It became populated, or empty: `count` changes what its parent counts, and so on as far as that makes a difference.
    fn population_changed(&self, count: impl Fn(&Cgroup) -> usize) {
        self.events.changed();
        for above in self.lineage().skip(1) {
            let was = above.is_populated();
            count(above);
            if above.is_populated() == was {
                return;
            }
            above.events.changed();
        }
    }

    /// Controllers that it has.
    fn controllers(&self) -> Controllers {
        self.parent.as_ref().map_or(Controllers::all(), |parent| parent.passed_on())
    }

    /// Controllers that its children have.
    fn passed_on(&self) -> Controllers {
        Controllers::from_bits_truncate(self.passed_on.load(Relaxed))
    }

    /// Whether both processes and children with controllers may be in it. All controllers here are of the kind that can have
    /// both, as long as no child is populated.
    fn may_be_thread_root(&self) -> bool {
        self.is_root() || self.populated_children.load(Relaxed) == 0
    }

    /// Whether it has both.
    fn is_thread_root(&self) -> bool {
        !self.is_root() && self.members.load(Relaxed) != 0 && !self.passed_on().is_empty()
    }

    /// Whether processes may be in it: not where they would compete with threads above.
    fn is_valid_domain(&self) -> bool {
        !self.lineage().skip(1).any(Cgroup::is_thread_root)
    }

    /// Whether a process may come in.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `EBUSY`: as the rule about inner groups says.
    fn check_entry(&self) -> Result<()> {
        if !self.is_valid_domain() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.may_be_thread_root() || self.passed_on().is_empty() { Ok(()) } else { Err(Errno::EBUSY) }
    }

    /// `cgroup.subtree_control`: changes which controllers the children have.
    ///
    /// # Errors
    /// `ENOENT` for one that it does not have itself, `EBUSY` where a child or a member is in the way.
    fn pass_on(&self, _: &mut Table, enable: Controllers, disable: Controllers) -> Result<()> {
        let now = self.passed_on();
        let (enable, disable) = (enable - now, disable & now);
        if !self.controllers().contains(enable) {
            return Err(Errno::ENOENT);
        }
        let in_use = |child: &Arc<Cgroup>| child.passed_on().intersects(disable);
        if self.children.lock().by_id.values().any(in_use) {
            return Err(Errno::EBUSY);
        }
        if !enable.is_empty() && !self.is_root() {
            if !self.is_valid_domain() {
                return Err(Errno::EOPNOTSUPP);
            }
            if !self.may_be_thread_root() && self.members.load(Relaxed) != 0 {
                return Err(Errno::EBUSY);
            }
        }
        self.passed_on.store(((now | enable) - disable).bits(), Relaxed);
        if enable.contains(Controllers::PIDS) {
            self.children.lock().by_id.values().for_each(|child| child.pids.start());
        }
        Ok(())
    }

    /// Tells whoever polls or watches files of it, and of those above it, what has changed. Outside of all locks.
    pub fn tell(&self) {
        for group in self.lineage().filter(|group| !group.is_root()) {
            control::tell(group);
        }
    }

    /// Its name as who has `base` for a root sees it.
    pub fn path_from(&self, base: &Cgroup) -> Vec<u8> {
        let mut out = Vec::new();
        for group in base.lineage() {
            if self.is_within(group) {
                let mut names: Vec<&Cgroup> = self.lineage().take((self.level - group.level) as usize).collect();
                while let Some(below) = names.pop() {
                    out.push(b'/');
                    out.extend_from_slice(&below.name);
                }
                break;
            }
            out.extend_from_slice(b"/..");
        }
        if out.is_empty() {
            out.push(b'/');
        }
        out
    }
}

impl core::fmt::Debug for Cgroup {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "group {}", self.id)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for group in self.lineage().skip(1) {
            group.dying.fetch_sub(1, Relaxed);
        }
    }
}

/// /proc/cgroups.
pub fn list() -> Vec<u8> {
    let groups = root().descendants.load(Relaxed) + 1;
    let mut out = String::from("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    for (name, _) in NAMES {
        out += &format!("{name}\t0\t{groups}\t1\n");
    }
    out.into_bytes()
}

/// That a file's contents changed, for poll(2) and inotify(7).
pub struct Notice {
    /// How often.
    count: AtomicU64,
    /// How often it had when that was told.
    told: AtomicU64,
    queue: Arc<WaitQueue>,
}

impl Notice {
    fn new() -> Notice {
        // A descriptor that has not read yet has news.
        let (count, told) = (AtomicU64::new(1), AtomicU64::new(1));
        Notice { count, told, queue: Arc::new(WaitQueue::new()) }
    }

    fn changed(&self) {
        self.count.fetch_add(1, Relaxed);
    }

    /// Whether something is to be told that was not.
    fn take(&self) -> bool {
        let count = self.count.load(Relaxed);
        self.told.load(Relaxed) != count && self.told.swap(count, Relaxed) != count
    }
}

#[cfg(test)]
mod tests;
