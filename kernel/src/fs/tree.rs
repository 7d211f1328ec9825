//! The tree of mounts: attaching, taking away, moving, copying; propagation; name spaces.
//!
//! A name space is a tree of mounts under one root; a mount is in one at most, so that a copied name space consists of
//! mounts of its own. What is attached or taken away below a shared mount is so below its peers and slaves as well.
//!
//! Lock: [`TREE`] (sleeping, rank Mount) for all changes. Users: `mounting`, `fsmount`, `init`, clone(2) and unshare(2).
//! Sources: mount_namespaces(7), Linux's Documentation/filesystems/sharedsubtree.

use super::context::FsContext;
use super::dentry::Dentry;
use super::mount::{self, Mount, Path, Propagation, TABLE};
use crate::room::{TryList, push};
use crate::setting::Setting;
use crate::task::ns::count::Ticket;
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Bound::{Excluded, Included};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use umbel_smp::lock::{Mutex, Once, Rank, RwLock, SpinLock};
use umbel_smp::wait::WaitQueue;

static TREE: Mutex<()> = Mutex::new(Rank::Mount, ());
/// `fs.mount-max`: mounts that a name space may have.
pub static MOUNT_MAX: Setting = Setting::new(100_000, 1, i32::MAX as u64);

/// What is kept of a name space without holding it.
struct Known {
    space: Weak<MountNamespace>,
    /// Mounts that came and went.
    changes: Arc<AtomicU64>,
    /// Mounts that are there.
    mounts: u64,
}

/// Name spaces by number.
static SPACES: SpinLock<BTreeMap<u64, Known>> = SpinLock::new(Rank::Dentry, BTreeMap::new());

/// A tree of mounts that processes see.
pub struct MountNamespace {
    id: u64,
    /// How deeply the user namespace that owns it is nested: the deeper, the less may be done.
    level: u32,
    root: RwLock<Arc<Mount>>,
    /// Mounts that came and went.
    changes: Arc<AtomicU64>,
    _counts: Option<Ticket>,
}

/// Woken when a mount comes or goes, in whatever name space.
pub fn changed() -> Arc<WaitQueue> {
    static QUEUE: Once<Arc<WaitQueue>> = Once::new();
    QUEUE.call_once(|| Arc::new(WaitQueue::new())).clone()
}

/// Notes that a mount comes to, or goes from, the name space `id`.
fn note_change(id: u64) {
    if let Some(known) = SPACES.lock().get(&id) {
        known.changes.fetch_add(1, Relaxed);
    }
    changed().wake_all();
}

impl MountNamespace {
    /// A name space whose root is `root`, owned by a user namespace at `level`; what is attached below it belongs to it.
    pub fn new(root: Arc<Mount>, level: u32, counts: Option<Ticket>) -> Arc<MountNamespace> {
        let id = super::next_ino();
        let changes = Arc::<AtomicU64>::default();
        let top = RwLock::new(Rank::Leaf, root.clone());
        let space = MountNamespace { id, level, root: top, changes: changes.clone(), _counts: counts };
        let space = Arc::new(space);
        SPACES.lock().insert(id, Known { space: Arc::downgrade(&space), changes, mounts: 0 });
        set_namespace(&root, id);
        space
    }

    /// A number that no other name space has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How many mounts came and went.
    pub fn changes(&self) -> Arc<AtomicU64> {
        self.changes.clone()
    }

    /// The mount at its root.
    pub fn root(&self) -> Arc<Mount> {
        self.root.read().clone()
    }

    /// All its mounts: a mount comes after the one it is on.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn mounts(&self) -> Result<Vec<Arc<Mount>>> {
        subtree(&self.root())
    }
}

impl Drop for MountNamespace {
    /// Nobody sees the mounts any more; those that are still in use elsewhere live on, detached.
    fn drop(&mut self) {
        SPACES.lock().remove(&self.id);
        let _tree = TREE.lock();
        remove_tree(&self.root());
    }
}

/// The name space that `mount` belongs to.
pub fn namespace_of(mount: &Mount) -> Option<Arc<MountNamespace>> {
    SPACES.lock().get(&mount.namespace())?.space.upgrade()
}

/// A copy of `context` in a name space of its own, a copy of its own (`CLONE_NEWNS`), for a user namespace at `level`. One that is
/// less privileged sees what happens to the mounts, but not the other way round, and takes nothing apart that it did not make.
///
/// # Errors
/// `EINVAL` for a context without a name space, `ENOSPC`.
pub fn copy_namespace(context: &FsContext, level: u32, counts: Ticket) -> Result<Arc<FsContext>> {
    umbel_mm::heap::room().map_err(|_| Errno::ENOSPC)?;
    let old = context.namespace().ok_or(Errno::EINVAL)?;
    let _tree = TREE.lock();
    let mut copies = BTreeMap::new();
    let root = copy_tree(&old.root(), &old.root().root, Copies::All, &mut copies)?;
    if level > old.level {
        lock_tree(&root);
        walk(&root).for_each(|mount| mount.propagation.lock().enslave());
    }
    let space = MountNamespace::new(root, level, Some(counts));
    let translated = |path: Path| match copies.get(&path.mount().id()) {
        Some(copy) => Path::new(copy.clone(), path.dentry().clone()).unwrap_or(path),
        None => path,
    };
    let new = context.duplicate();
    new.set_places(translated(context.cwd()), translated(context.root()), Some(space));
    Ok(new)
}

/// A tree that a less privileged name space gets: it has it as a whole.
fn lock_tree(top: &Arc<Mount>) {
    for mount in walk(top) {
        mount.keep_flags();
        mount.locked.store(mount.id() != top.id(), Relaxed);
    }
}

/// The level of the user namespace that the name space of `mount` is owned by.
fn level_of(mount: &Mount) -> u32 {
    namespace_of(mount).map_or(0, |space| space.level)
}

fn is_locked(mount: &Mount) -> bool {
    mount.locked.load(Relaxed)
}

/// The first mount in the table behind `key` that is on the same mount.
fn next_on(key: (u32, usize)) -> Option<Arc<Mount>> {
    let range = (Excluded(key), Included((key.0, usize::MAX)));
    TABLE.read().range(range).next().map(|(_, mount)| mount.clone())
}

/// The first mount directly on `mount`, by the dentry it is on.
fn first_child(mount: &Mount) -> Option<Arc<Mount>> {
    // No dentry lies there.
    next_on((mount.id(), 0))
}

/// Mounts directly on `mount`. Takes no memory; under [`TREE`].
fn children(mount: &Mount) -> impl Iterator<Item = Arc<Mount>> {
    core::iter::successors(first_child(mount), |child| next_on(child.mountpoint()?.key()))
}

/// `top` and all that is mounted below it, a mount before those on it. Takes no memory; under [`TREE`].
fn walk(top: &Arc<Mount>) -> impl Iterator<Item = Arc<Mount>> {
    let end = top.id();
    core::iter::successors(Some(top.clone()), move |mount| {
        if let Some(child) = first_child(mount) {
            return Some(child);
        }
        let mut done = mount.clone();
        while done.id() != end {
            let place = done.mountpoint()?;
            if let Some(next) = next_on(place.key()) {
                return Some(next);
            }
            done = place.mount().clone();
        }
        None
    })
}

/// `mount` and all that is mounted below it, a mount before those on it, for somebody without the lock.
///
/// # Errors
/// `ENOMEM`.
pub fn subtree(mount: &Arc<Mount>) -> Result<Vec<Arc<Mount>>> {
    let mut list = [mount.clone()].into_iter().try_list()?;
    let mut next = 0;
    while let Some(above) = list.get(next).map(|mount| mount.id()) {
        let mut place = (above, 0);
        loop {
            let range = (Excluded(place), Included((above, usize::MAX)));
            let Some((key, child)) = TABLE.read().range(range).next().map(|(key, child)| (*key, child.clone())) else {
                break;
            };
            push(&mut list, child)?;
            place = key;
        }
        next += 1;
    }
    Ok(list)
}

/// Counts a mount to the name space `id`, and no longer to the one it was in; 0 is none.
fn belong(mount: &Mount, id: u64) {
    let old = mount.namespace.swap(id, Relaxed);
    let mut spaces = SPACES.lock();
    if let Some(known) = spaces.get_mut(&old) {
        known.mounts = known.mounts.saturating_sub(1);
    }
    if let Some(known) = spaces.get_mut(&id) {
        known.mounts += 1;
    }
}

/// Checks that the name space `id` may have `more` mounts.
///
/// # Errors
/// `ENOSPC`.
fn check_count(id: u64, more: u64) -> Result<()> {
    let mounts = SPACES.lock().get(&id).map_or(0, |known| known.mounts);
    if mounts + more > MOUNT_MAX.get() { Err(Errno::ENOSPC) } else { Ok(()) }
}

fn set_namespace(mount: &Arc<Mount>, id: u64) {
    walk(mount).for_each(|mount| belong(&mount, id));
}

/// Puts a mount, with what is on it, on `place`: no propagation.
fn graft(mount: &Arc<Mount>, place: Path) {
    set_namespace(mount, place.mount().namespace());
    place.dentry().mount_on();
    TABLE.write().insert(place.key(), mount.clone());
    *mount.at.write() = Some(place);
    note_change(mount.namespace());
}

/// Takes one mount out of the tree.
fn unhook(mount: &Arc<Mount>) {
    note_change(mount.namespace());
    belong(mount, 0);
    let place = mount.at.write().take();
    if let Some(place) = place {
        let removed = TABLE.write().remove(&place.key());
        if removed.is_some() {
            place.dentry().mounts.fetch_sub(1, Relaxed);
        }
    }
}

/// What a copy of a tree leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// Nothing.
    All,
    /// Unbindable mounts.
    Bindable,
    /// Everything but the top.
    Top,
}

/// A detached copy of `top` from its dentry `root` on; `copies` is filled with copies by the originals' numbers.
fn copy_tree(
    top: &Arc<Mount>,
    root: &Arc<Dentry>,
    what: Copies,
    copies: &mut BTreeMap<u32, Arc<Mount>>,
) -> Result<Arc<Mount>> {
    let new_top = top.again(root);
    copies.insert(top.id(), new_top.clone());
    if what == Copies::Top {
        return Ok(new_top);
    }
    for mount in walk(top).skip(1) {
        umbel_mm::heap::room().map_err(|_| Errno::ENOSPC)?;
        let Some(at) = mount.mountpoint() else { continue };
        let Some(parent) = copies.get(&at.mount().id()).cloned() else { continue };
        let outside = at.mount().id() == top.id() && !root.is_ancestor_of(at.dentry());
        let unbindable = mount.propagation().unbindable;
        if outside || what == Copies::Bindable && unbindable {
            continue;
        }
        let copy = mount.again(&mount.root);
        copy.propagation.lock().unbindable = unbindable;
        copies.insert(mount.id(), copy.clone());
        graft(&copy, Path::new(parent, at.dentry().clone())?);
    }
    Ok(new_top)
}

/// A detached copy of what is at `path`, for bind mounts and open_tree(2).
///
/// # Errors
/// `EINVAL` for unbindable mounts.
pub fn clone_tree(path: &Path, recursive: bool) -> Result<Arc<Mount>> {
    let _tree = TREE.lock();
    if path.mount().propagation().unbindable {
        return Err(Errno::EINVAL);
    }
    // Alone it would show what is below them.
    if !recursive && has_locked(path) {
        return Err(Errno::EINVAL);
    }
    let what = if recursive { Copies::Bindable } else { Copies::Top };
    let copy = copy_tree(path.mount(), path.dentry(), what, &mut BTreeMap::new())?;
    copy.locked.store(false, Relaxed);
    Ok(copy)
}

/// Whether what is mounted at or below `path` hides something for good.
fn has_locked(path: &Path) -> bool {
    let covers = |mount: &Arc<Mount>| {
        is_locked(mount) && mount.mountpoint().is_some_and(|at| path.dentry().is_ancestor_of(at.dentry()))
    };
    children(path.mount()).any(|mount| covers(&mount))
}

/// Checks that a file system may show what lies at `path`, without what is mounted there: it is in the tree of `context`, where nothing
/// that is locked hides a part of it.
///
/// # Errors
/// `EINVAL`.
pub fn check_layer(context: &FsContext, path: &Path) -> Result<()> {
    let _tree = TREE.lock();
    let own = context.namespace().is_none_or(|space| space.id() == path.mount().namespace());
    if own && !has_locked(path) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Checks that a new mount of a whole file system of the kernel's own shows a less privileged name space nothing that is hidden
/// there: some mount of the same kind, no stricter than `flags`, lies in it with nothing on it that stays. The new one keeps what
/// that one must keep. Source: `mount_too_revealing` of Linux.
///
/// # Errors
/// `EPERM`.
pub fn check_revealing(space: &MountNamespace, mount: &Arc<Mount>, flags: super::MountFlags) -> Result<()> {
    let name = mount.fs().name();
    if space.level == 0 || !matches!(name, "proc" | "sysfs") {
        return Ok(());
    }
    let _tree = TREE.lock();
    let known = walk(&space.root()).find(|known| {
        let whole = known.fs().name() == name && known.root.parent().is_none();
        whole && known.admits(flags) && !children(known).any(|child| is_locked(&child) && covers(&child))
    });
    mount.keep_as(&*known.ok_or(Errno::EPERM)?);
    Ok(())
}

/// Whether `mount` lies on more than a directory that is there to be mounted on.
fn covers(mount: &Mount) -> bool {
    let empty = |at: Path| {
        let mut any = false;
        let read = at.inode().readdir(2, &mut |_| {
            any = true;
            false
        });
        at.is_dir() && read.is_ok() && !any
    };
    !mount.mountpoint().is_none_or(empty)
}

fn new_group() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// Makes a mount a member of a group, its own if it has none.
fn share(mount: &Mount) {
    let mut propagation = mount.propagation.lock();
    propagation.unbindable = false;
    if propagation.group == 0 {
        propagation.group = new_group();
    }
}

/// Mounts that see what happens below a member of `group`: its members and slaves, and theirs, with the group through
/// which each is reached.
///
/// # Errors
/// `ENOMEM`.
fn receivers(group: u32) -> Result<Vec<(Arc<Mount>, Propagation)>> {
    let (mut groups, mut list, mut next) = (Vec::from([group]), Vec::new(), 0);
    while let Some(&group) = groups.get(next) {
        for mount in mount::all().filter(|mount| mount.namespace() != 0) {
            let propagation = mount.propagation();
            let slave = propagation.master == group && propagation.group != group;
            if slave && propagation.group != 0 && !groups.contains(&propagation.group) {
                push(&mut groups, propagation.group)?;
            }
            if propagation.group == group || slave {
                push(&mut list, (mount, propagation))?;
            }
        }
        next += 1;
    }
    list.sort_unstable_by_key(|(mount, _)| mount.id());
    list.dedup_by_key(|(mount, _)| mount.id());
    Ok(list)
}

/// Puts the detached mount `mount`, with what is on it, on `place` and wherever that propagates.
///
/// # Errors
/// `ENOTDIR` unless both are directories or neither is; `ENOENT` for a removed place.
pub fn attach(mount: &Arc<Mount>, place: Path) -> Result<()> {
    let _tree = TREE.lock();
    attach_locked(mount, place)
}

fn attach_locked(mount: &Arc<Mount>, place: Path) -> Result<()> {
    let place = place.top();
    // The links of procfs are there for a moment only.
    if place.is_deleted() || place.inode().kind() == super::Kind::Symlink && place.dentry().is_unhashed() {
        return Err(Errno::ENOENT);
    }
    if place.is_dir() != mount.root_path()?.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let group = place.mount().propagation().group;
    let count = walk(mount).count() as u64;
    check_count(place.mount().namespace(), count)?;
    if group != 0 {
        let receivers = receivers(group)?;
        check_receivers(&receivers, &place, count)?;
        walk(mount).for_each(|mount| share(&mount));
        propagate(mount, &place, group, receivers)?;
    }
    graft(mount, place);
    Ok(())
}

/// Whether `receiver` gets a copy of what is put on `place`.
fn receives(receiver: &Mount, place: &Path) -> bool {
    receiver.id() != place.mount().id() && receiver.root.is_ancestor_of(place.dentry())
}

/// Checks that each name space has room for `count` more at `place` and at each of `receivers` that is in it.
///
/// # Errors
/// `ENOSPC`.
fn check_receivers(receivers: &[(Arc<Mount>, Propagation)], place: &Path, count: u64) -> Result<()> {
    let own = place.mount().namespace();
    let mut more = BTreeMap::from([(own, count)]);
    for (receiver, _) in receivers.iter().filter(|(receiver, _)| receives(receiver, place)) {
        *more.entry(receiver.namespace()).or_insert(0) += count;
    }
    more.into_iter().try_for_each(|(id, more)| check_count(id, more))
}

/// Attaches copies of `mount` below all who see what happens at `place`.
fn propagate(mount: &Arc<Mount>, place: &Path, group: u32, receivers: Vec<(Arc<Mount>, Propagation)>) -> Result<()> {
    let mut by_group: BTreeMap<u32, Arc<Mount>> = BTreeMap::new();
    for (receiver, how) in receivers {
        if !receives(&receiver, place) {
            continue;
        }
        let original = by_group.get(&how.group).cloned();
        let source = original.clone().unwrap_or_else(|| mount.clone());
        let copy = copy_tree(&source, &source.root, Copies::All, &mut BTreeMap::new())?;
        if how.group != group && original.is_none() {
            enslave_tree(&copy, how.group != 0);
        }
        if level_of(&receiver) > level_of(place.mount()) {
            lock_tree(&copy);
        }
        if how.group != 0 && how.group != group {
            by_group.entry(how.group).or_insert_with(|| copy.clone());
        }
        graft(&copy, Path::new(receiver, place.dentry().clone())?.top());
    }
    Ok(())
}

/// The mounts of a copy that a slave sees: slaves of the originals' groups, shared anew among that slave's peers.
fn enslave_tree(top: &Arc<Mount>, shared: bool) {
    for mount in walk(top) {
        let mut propagation = mount.propagation.lock();
        propagation.master = propagation.group;
        propagation.group = if shared { new_group() } else { 0 };
    }
}

/// Whether anybody uses `mount`: more references than the table's and the `known` ones of the caller.
fn is_busy(mount: &Arc<Mount>, known: usize) -> bool {
    Arc::strong_count(mount) > known + 1
}

/// How umount(2) treats users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// `EBUSY` if there are any.
    Idle,
    /// `MNT_DETACH`: takes the mount and what is on it out of sight.
    Lazy,
    /// `MNT_EXPIRE`: as `Idle`, the second time if nobody came by in between, else `EAGAIN`.
    Expire,
}

/// Takes the mount whose root is `path` away, and those that it propagated to.
///
/// # Errors
/// `EINVAL` if `path` is no mount's root, `EBUSY`, `EAGAIN`, `ENOMEM`.
pub fn detach(path: Path, how: Unmount) -> Result<()> {
    let _tree = TREE.lock();
    if !path.is_mount_root() || path.mount().namespace() == 0 || is_locked(path.mount()) {
        return Err(Errno::EINVAL);
    }
    let mount = path.mount().clone();
    drop(path);
    let place = mount.mountpoint().ok_or(if how == Unmount::Lazy { Errno::EINVAL } else { Errno::EBUSY })?;
    if how != Unmount::Lazy && (first_child(&mount).is_some() || is_busy(&mount, 1)) {
        return Err(Errno::EBUSY);
    }
    if how == Unmount::Expire && !mount.expiring.swap(true, Relaxed) {
        return Err(Errno::EAGAIN);
    }
    let group = place.mount().propagation().group;
    for (receiver, _) in if group == 0 { Vec::new() } else { receivers(group)? } {
        let key = (receiver.id(), Arc::as_ptr(place.dentry()) as usize);
        let copy = TABLE.read().get(&key).cloned();
        if let Some(copy) = copy.filter(|copy| copy.id() != mount.id()) {
            let idle = first_child(&copy).is_none() && !is_busy(&copy, 1);
            if how == Unmount::Lazy || idle {
                remove_tree(&copy);
            }
        }
    }
    remove_tree(&mount);
    Ok(())
}

/// Takes a mount, and before it all that is on it, out of the tree. Takes no memory.
fn remove_tree(top: &Arc<Mount>) {
    let mut mount = top.clone();
    loop {
        while let Some(child) = first_child(&mount) {
            mount = child;
        }
        let above = mount.mountpoint();
        unhook(&mount);
        match above {
            Some(above) if mount.id() != top.id() => mount = above.mount().clone(),
            _ => return,
        }
    }
}

/// The first mount on `dentry` that `wanted` accepts, through whatever mount of its file system.
fn on_dentry(dentry: &Arc<Dentry>, wanted: impl Fn(&Mount) -> bool) -> Option<Arc<Mount>> {
    if !dentry.is_mountpoint() {
        return None;
    }
    let place = Arc::as_ptr(dentry) as usize;
    let table = TABLE.read();
    table.iter().find(|((_, at), mount)| *at == place && wanted(mount)).map(|(_, mount)| mount.clone())
}

/// Whether something is mounted on `dentry` in the caller's name space: what others mount there does not bind it.
pub fn is_mountpoint(context: &FsContext, dentry: &Arc<Dentry>) -> bool {
    let own = context.namespace().map(|space| space.id());
    on_dentry(dentry, |mount| own.is_none_or(|own| own == mount.namespace())).is_some()
}

/// The name of `dentry` is gone: what others have mounted on it goes, too. Called without locks.
pub fn forget_place(dentry: &Arc<Dentry>) {
    if dentry.is_mountpoint() {
        let _tree = TREE.lock();
        while let Some(mount) = on_dentry(dentry, |_| true) {
            remove_tree(&mount);
        }
    }
}

/// Takes a detached mount apart, unless it has been attached meanwhile.
pub fn discard(mount: &Arc<Mount>) {
    let _tree = TREE.lock();
    if mount.namespace() == 0 {
        remove_tree(mount);
    }
}

/// Moves the mount whose root is `from` to `to` (`MS_MOVE`); a detached one is attached there.
///
/// # Errors
/// `EINVAL` if it is no mount's root, its parent is shared, or unbindable mounts would come below a shared one;
/// `ELOOP` into itself.
pub fn relocate(from: &Path, to: Path) -> Result<()> {
    let _tree = TREE.lock();
    let mount = from.mount();
    if !from.is_mount_root() || to.mount().namespace() == 0 || is_locked(mount) {
        return Err(Errno::EINVAL);
    }
    let to = to.top();
    if from.is_dir() != to.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    if walk(mount).any(|mount| Arc::ptr_eq(&mount, to.mount())) {
        return Err(Errno::ELOOP);
    }
    let to_shared = to.mount().propagation().group != 0;
    if to_shared && walk(mount).any(|mount| mount.propagation().unbindable) {
        return Err(Errno::EINVAL);
    }
    if let Some(place) = mount.mountpoint() {
        if place.mount().propagation().group != 0 {
            return Err(Errno::EINVAL);
        }
        // The mounts on it stay on it.
        unhook(mount);
        set_namespace(mount, 0);
        let moved = attach_locked(mount, to);
        if moved.is_err() {
            graft(mount, place);
        }
        return moved;
    }
    if mount.namespace() != 0 {
        return Err(Errno::EINVAL);
    }
    attach_locked(mount, to)
}

/// Puts the mount whose root is `from`, as [`relocate`] does, below the uppermost mount on `to`: that one is on it from then on.
///
/// # Errors
/// `EINVAL` unless `to` is a mount's root that is on another one, which is not shared; as [`relocate`].
pub fn slip_beneath(from: &Path, to: Path) -> Result<()> {
    let _tree = TREE.lock();
    let to = to.top();
    let (mount, above) = (from.mount().clone(), to.mount().clone());
    let place = above.mountpoint().filter(|_| to.is_mount_root()).ok_or(Errno::EINVAL)?;
    let group = |mount: &Mount| mount.propagation().group;
    let locked = is_locked(&mount) || is_locked(&above);
    if locked || !from.is_mount_root() || above.namespace() == 0 || group(place.mount()) != 0 || group(&mount) != 0 {
        return Err(Errno::EINVAL);
    }
    if from.is_dir() != to.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    if walk(&mount).any(|mount| Arc::ptr_eq(&mount, &above) || Arc::ptr_eq(&mount, place.mount())) {
        return Err(Errno::ELOOP);
    }
    match mount.mountpoint() {
        Some(from) if group(from.mount()) != 0 => return Err(Errno::EINVAL),
        Some(_) => unhook(&mount),
        None if mount.namespace() != 0 => return Err(Errno::EINVAL),
        None => {}
    }
    let root = mount.root_path()?;
    unhook(&above);
    graft(&mount, place);
    graft(&above, root.top());
    Ok(())
}

/// How a mount is to propagate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Shared,
    Private,
    Slave,
    Unbindable,
}

/// Changes how the mount whose root is `path` propagates, and those on it if `recursive`.
///
/// # Errors
/// `EINVAL` if `path` is no mount's root.
pub fn set_propagation(path: &Path, kind: Kind, recursive: bool) -> Result<()> {
    let _tree = TREE.lock();
    if !path.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    for mount in walk(path.mount()).take(if recursive { usize::MAX } else { 1 }) {
        match kind {
            Kind::Shared => share(&mount),
            Kind::Private => *mount.propagation.lock() = Propagation::default(),
            Kind::Unbindable => *mount.propagation.lock() = Propagation { unbindable: true, ..Propagation::default() },
            Kind::Slave => enslave(&mount),
        }
    }
    Ok(())
}

/// Makes a member of a group a slave of the others of it; without others, of the group's own master if it has one.
fn enslave(mount: &Arc<Mount>) {
    let group = mount.propagation().group;
    if group == 0 {
        return;
    }
    let has_peers = mount::all().any(|other| other.id() != mount.id() && other.propagation().group == group);
    let mut propagation = mount.propagation.lock();
    propagation.group = 0;
    if has_peers {
        propagation.master = group;
    }
}

/// Makes the mount at `new` the root of its name space and puts the old root on `old` (pivot_root(2)).
///
/// # Errors
/// `EINVAL`, `EBUSY`, `ENOTDIR`.
pub fn pivot(context: &FsContext, new: &Path, old: Path) -> Result<()> {
    let _tree = TREE.lock();
    let space = context.namespace().ok_or(Errno::EINVAL)?;
    let root = context.root();
    let old = old.top();
    if !old.is_dir() || !new.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    if Arc::ptr_eq(new.mount(), root.mount()) || Arc::ptr_eq(old.mount(), root.mount()) {
        return Err(Errno::EBUSY);
    }
    let shared = |mount: &Arc<Mount>| mount.propagation().group != 0;
    let place = new.mount().mountpoint().ok_or(Errno::EINVAL)?;
    let above_root = root.mount().mountpoint();
    let any_shared =
        shared(place.mount()) || shared(old.mount()) || above_root.as_ref().is_some_and(|above| shared(above.mount()));
    let own = [new.mount(), old.mount(), root.mount()].iter().all(|mount| mount.namespace() == space.id());
    if any_shared || !own || !new.is_mount_root() || !root.is_mount_root() || is_locked(new.mount()) {
        return Err(Errno::EINVAL);
    }
    if !old.is_below(new) || !new.is_below(&root) {
        return Err(Errno::EINVAL);
    }
    unhook(new.mount());
    unhook(root.mount());
    // What is in the place of a locked one is locked.
    new.mount().locked.store(root.mount().locked.swap(false, Relaxed), Relaxed);
    match above_root {
        Some(above) => graft(new.mount(), above),
        None => {
            let _old = core::mem::replace(&mut *space.root.write(), new.mount().clone());
            set_namespace(new.mount(), space.id());
        }
    }
    graft(root.mount(), old);
    Ok(())
}

/// Changes the flags of all of `mounts` by `change`.
pub fn change_flags(mounts: &[Arc<Mount>], change: impl Fn(super::MountFlags) -> super::MountFlags) {
    let _tree = TREE.lock();
    for mount in mounts {
        mount.set_flags(change(mount.flags()));
    }
}
