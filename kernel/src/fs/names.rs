//! Operations on names: open, make, link, remove, rename. Permissions are checked here; file systems only act.
//!
//! Locks: the directory's `dir` lock; for renames between directories first `RENAME`, then the ancestor before the
//! descendant. Sources: open(2), mknod(2), link(2), unlink(2), rmdir(2), rename(2).

use super::acl;
use super::busy::Writing;
use super::context::FsContext;
use super::dentry::Dentry;
use super::fanotify::{self, mask};
use super::file::{DirOps, PathOps};
use super::inode::{NewNode, RenameMode};
use super::mount::{MountFlags, Path};
use super::notify::{self, Events};
use super::perm::{self, Want};
use super::types::{InodeFlags, Kind, Mode, OpenFlags, SetAttr};
use super::walk::{Follow, Last, Resolve, Sight, Walk};
use super::{File, FileOps, OpenContext, tree};
use crate::landlock::files::{self, Moved};
use crate::task::{Cred, Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_smp::lock::{Mutex, Once, Rank};

static RENAME: Mutex<()> = Mutex::new(Rank::Rename, ());

/// Opens a fifo: registered by the pipes.
pub type FifoFn = fn(&Path, OpenFlags) -> Result<Arc<dyn FileOps>>;

static FIFO: Once<FifoFn> = Once::new();

/// Registers who opens fifos.
pub fn register_fifo(open: FifoFn) {
    // The first one stays.
    let _ = FIFO.set(open);
}

/// A name: where its walk starts if it is relative, and its bytes.
#[derive(Clone)]
pub struct Name<'a> {
    /// `None` = the current directory.
    pub start: Option<Path>,
    pub text: &'a [u8],
}

impl<'a> Name<'a> {
    /// A name that starts at the current directory.
    pub fn new(text: &'a [u8]) -> Name<'a> {
        Name { start: None, text }
    }
}

/// What to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    File,
    Directory,
}

/// What a rename does about an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Replace,
    /// `RENAME_NOREPLACE`.
    Refuse,
    /// `RENAME_EXCHANGE`.
    Exchange,
    /// `RENAME_WHITEOUT`: as `Replace`, and a device 0:0 takes the old name.
    Whiteout,
    /// `RENAME_WHITEOUT | RENAME_NOREPLACE`.
    WhiteoutRefuse,
}

/// Who acts on names.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    pub context: &'a FsContext,
    pub cred: &'a Cred,
}

impl<'a> Names<'a> {
    /// Walks to `name`.
    pub fn find(&self, name: &Name<'a>, follow: Follow) -> Result<Path> {
        self.walk(name)?.finish(follow)
    }

    /// Walks to `name` for its attributes.
    pub fn look(&self, name: &Name<'a>, follow: Follow) -> Result<Sight> {
        self.walk(name)?.look(follow)
    }

    fn walk(&self, name: &Name<'a>) -> Result<Walk<'a>> {
        Walk::new(self.context, name.start.clone(), self.cred, name.text)
    }

    /// Opens `name`; `mode` (umask applied here) is for files that it makes. `task` is the opener, for devices.
    pub fn open(&self, name: &Name<'a>, flags: OpenFlags, mode: Mode, task: Option<&Arc<Task>>) -> Result<Arc<File>> {
        self.open_walk(self.walk(name)?, flags, mode, task)
    }

    /// As [`Self::open`], within limits (openat2(2)).
    pub fn open_limited(
        &self,
        name: &Name<'a>,
        flags: OpenFlags,
        mode: Mode,
        task: Option<&Arc<Task>>,
        resolve: Resolve,
    ) -> Result<Arc<File>> {
        let walk = Walk::limited(self.context, name.start.clone(), self.cred, name.text, resolve)?;
        self.open_walk(walk, flags, mode, task)
    }

    fn open_walk(
        &self,
        mut walk: Walk<'a>,
        flags: OpenFlags,
        mode: Mode,
        task: Option<&Arc<Task>>,
    ) -> Result<Arc<File>> {
        if flags.contains(OpenFlags::TMPFILE) {
            return self.open_unnamed(walk, flags, mode, task);
        }
        umbel_mm::heap::room().map_err(|_| Errno::ENFILE)?;
        let create = flags.contains(OpenFlags::CREAT) && !flags.contains(OpenFlags::PATH);
        loop {
            let (path, slash) = match walk.parent()? {
                // A link that a jump led to is not followed.
                Last::Here => return self.open_here(walk.at().clone(), flags, task),
                Last::Up => (walk.up()?, false),
                Last::Name { slash: true } if create => return Err(Errno::EISDIR),
                Last::Name { slash } => {
                    let dentry = walk.dentry(walk.name())?;
                    if dentry.inode().is_none() && create {
                        if let Some(path) = self.create_for_open(&walk, mode)? {
                            return self.open_made(path, flags, task);
                        }
                        continue;
                    }
                    (walk.enter(dentry)?, slash)
                }
            };
            let kind = path.inode().kind();
            if create && flags.contains(OpenFlags::EXCL) {
                return Err(Errno::EEXIST);
            }
            if kind == Kind::Symlink && (slash || !flags.contains(OpenFlags::NOFOLLOW)) {
                walk.follow(&path, slash)?;
                continue;
            }
            if slash && kind != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            return self.open_path(path, flags, task);
        }
    }

    /// Opens where a walk ended without a last name.
    fn open_here(&self, path: Path, flags: OpenFlags, task: Option<&Arc<Task>>) -> Result<Arc<File>> {
        if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) {
            return Err(Errno::EEXIST);
        }
        self.open_path(path, flags, task)
    }

    /// Makes the regular file the walk is at; `None` if somebody else made it meanwhile.
    fn create_for_open(&self, walk: &Walk<'_>, mode: Mode) -> Result<Option<Path>> {
        let node = self.node(Kind::Regular, mode);
        match self.create_at(walk.at(), walk.name(), &node) {
            Ok(path) => Ok(Some(path)),
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// A node owned by the caller; the umask is applied where it is made.
    pub fn node(&self, kind: Kind, mode: Mode) -> NewNode<'static> {
        NewNode {
            kind,
            mode: mode & 0o7777,
            uid: self.cred.fsuid,
            gid: self.cred.fsgid,
            rdev: Default::default(),
            target: &[],
        }
    }

    /// Opens an existing object after checking permissions.
    pub fn open_path(&self, path: Path, flags: OpenFlags, task: Option<&Arc<Task>>) -> Result<Arc<File>> {
        let kind = path.inode().kind();
        if flags.contains(OpenFlags::DIRECTORY) && kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if flags.contains(OpenFlags::PATH) {
            let kept = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW;
            return Ok(File::new(path, PathOps::shared(), flags & kept));
        }
        let truncate = flags.contains(OpenFlags::TRUNC);
        let writes = flags.writable() || truncate;
        match kind {
            Kind::Symlink => return Err(Errno::ELOOP),
            Kind::Directory if writes || flags.contains(OpenFlags::CREAT) => return Err(Errno::EISDIR),
            Kind::Directory if flags.contains(OpenFlags::DIRECT) => return Err(Errno::EINVAL),
            Kind::Regular if writes => path.mount().check_writable()?,
            _ => {}
        }
        let mut want = Want::empty();
        // What may be neither read nor written (for ioctl) needs both permissions.
        let neither = !flags.readable() && !flags.writable();
        want.set(Want::READ, flags.readable() || neither);
        want.set(Want::WRITE, writes || neither);
        perm::check(&**path.inode(), self.cred, want)?;
        if let Some(file) = super::anon::reopen(&path, flags) {
            return file;
        }
        let appends = flags.contains(OpenFlags::APPEND) && !truncate;
        if writes && !appends && path.inode().flags().contains(InodeFlags::APPEND) {
            return Err(Errno::EPERM);
        }
        if flags.contains(OpenFlags::NOATIME) {
            perm::check_owner(&**path.inode(), self.cred)?;
        }
        self.cred.sandbox.check(&path, files::to_open(&path, flags))?;
        fanotify::permit(&path, mask::OPEN_PERM)?;
        super::lease::break_for(&path, flags)?;
        let writing = if writes { Writing::new(path.inode())? } else { None };
        let ops = operations(&path, flags, task)?;
        notify::used(&path, Events::OPEN);
        if truncate && kind == Kind::Regular {
            path.inode().set_attr(&SetAttr { size: Some(0), ..SetAttr::default() })?;
            notify::changed(path.dentry(), Events::MODIFY);
        }
        let writing = writing.filter(|_| flags.writable());
        let forbidden = self.cred.sandbox.refuses(&path, files::asked_later(path.inode().kind()));
        let file = File::for_writing(path, ops, flags, writing);
        file.forbid(forbidden);
        Ok(file)
    }

    /// Opens what the same call made: its mode does not matter.
    fn open_made(&self, path: Path, flags: OpenFlags, task: Option<&Arc<Task>>) -> Result<Arc<File>> {
        self.cred.sandbox.check(&path, files::to_open(&path, flags - OpenFlags::TRUNC))?;
        let writing = if flags.writable() { Writing::new(path.inode())? } else { None };
        let ops = operations(&path, flags, task)?;
        notify::used(&path, Events::OPEN);
        let forbidden = self.cred.sandbox.refuses(&path, files::asked_later(path.inode().kind()));
        let file = File::for_writing(path, ops, flags, writing);
        file.forbid(forbidden);
        file.mark_created();
        Ok(file)
    }

    fn open_unnamed(
        &self,
        walk: Walk<'a>,
        flags: OpenFlags,
        mode: Mode,
        task: Option<&Arc<Task>>,
    ) -> Result<Arc<File>> {
        if !flags.writable() {
            return Err(Errno::EINVAL);
        }
        let dir = walk.finish(Follow::Yes)?;
        if !dir.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        dir.mount().check_writable()?;
        perm::check(&**dir.inode(), self.cred, Want::WRITE | Want::EXEC)?;
        let linkable = !flags.contains(OpenFlags::EXCL);
        let mut node = self.node(Kind::Regular, mode);
        self.settle(&dir, &mut node)?;
        let inode = dir.inode().create_unnamed(&node, linkable)?;
        let name = alloc::format!("#{}", inode.attr()?.ino);
        let path = Path::new(dir.mount().clone(), Dentry::unnamed(dir.dentry(), name.as_bytes(), inode))?;
        let flags = flags.difference(OpenFlags::TMPFILE) | (flags & OpenFlags::EXCL);
        self.open_made(path, flags, task)
    }

    /// Gives `node` the group and the mode that it has in `dir`.
    fn settle(&self, dir: &Path, node: &mut NewNode<'_>) -> Result<()> {
        inherit_group(dir, node, self.cred)?;
        // Where the directory says what new files may be, the umask does not.
        let has_default = || matches!(dir.inode().acl(acl::Which::Default), Ok(Some(_)));
        if node.kind != Kind::Symlink && !has_default() {
            node.mode &= !self.context.umask();
        }
        Ok(())
    }

    /// Makes `node` (its mode as [`Self::node`] made it) at `name`.
    pub fn create(&self, name: &Name<'a>, node: &NewNode<'_>) -> Result<Path> {
        let mut walk = self.walk(name)?;
        match walk.parent()? {
            Last::Name { slash } if slash && node.kind != Kind::Directory => {
                let exists = walk.dentry(walk.name())?.inode().is_some();
                Err(if exists { Errno::EEXIST } else { Errno::ENOENT })
            }
            Last::Name { .. } => self.create_at(walk.at(), walk.name(), node),
            Last::Here | Last::Up => Err(Errno::EEXIST),
        }
    }

    fn create_at(&self, dir: &Path, name: &[u8], node: &NewNode<'_>) -> Result<Path> {
        let _lock = dir.dentry().lock_dir();
        let dentry = dir.dentry().lookup_locked(name)?;
        if dentry.inode().is_some() {
            return Err(Errno::EEXIST);
        }
        if dir.inode().volatile() {
            // procfs has no knowledge of names to come: the look-up itself fails.
            return Err(match (dir.mount().fs().name(), node.kind) {
                ("proc", _) => Errno::ENOENT,
                (_, Kind::Regular) => Errno::EACCES,
                _ => Errno::EPERM,
            });
        }
        self.check_addition(dir)?;
        self.cred.sandbox.check(dir, files::to_make(node.kind))?;
        let mut node = *node;
        self.settle(dir, &mut node)?;
        dentry.instantiate(dir.inode().create(name, &node)?);
        if let Some(inode) = dentry.inode() {
            notify::name(dir.dentry(), name, inode, Events::CREATE);
        }
        Path::new(dir.mount().clone(), dentry)
    }

    fn check_addition(&self, dir: &Path) -> Result<()> {
        dir.mount().check_writable()?;
        dir.mount().check_known(self.cred)?;
        perm::check(&**dir.inode(), self.cred, Want::WRITE | Want::EXEC)?;
        if dir.dentry().is_unhashed() { Err(Errno::ENOENT) } else { Ok(()) }
    }

    /// Gives `target` the further name `name`.
    pub fn link(&self, target: &Path, name: &Name<'a>) -> Result<()> {
        let mut walk = self.walk(name)?;
        let Last::Name { slash } = walk.parent()? else { return Err(Errno::EEXIST) };
        let dir = walk.at().clone();
        let _lock = dir.dentry().lock_dir();
        let dentry = dir.dentry().lookup_locked(walk.name())?;
        if dentry.inode().is_some() {
            return Err(Errno::EEXIST);
        }
        if slash {
            return Err(Errno::ENOENT);
        }
        if !Arc::ptr_eq(target.mount(), dir.mount()) {
            return Err(Errno::EXDEV);
        }
        self.check_addition(&dir)?;
        perm::check_free(&**target.inode())?;
        self.check_link(target)?;
        if target.is_dir() {
            return Err(Errno::EPERM);
        }
        if !self.cred.sandbox.is_none() {
            let from = target.dentry().parent().and_then(|from| Path::new(target.mount().clone(), from).ok());
            let moved = Moved { file: target, from: from.as_ref().unwrap_or(target), to: &dir };
            self.cred.sandbox.check_move(moved, 0, files::to_make(target.inode().kind()))?;
        }
        dir.inode().link(walk.name(), target.inode())?;
        dentry.instantiate(target.inode().clone());
        notify::inode(target.inode(), Events::ATTRIB);
        notify::name(dir.dentry(), walk.name(), target.inode(), Events::CREATE);
        Ok(())
    }

    /// Others' files get no further names unless the caller may read and write them, and nobody is fooled by what they
    /// run as (fs.protected_hardlinks). `EPERM`.
    fn check_link(&self, target: &Path) -> Result<()> {
        let inode = &**target.inode();
        if perm::check_owner(inode, self.cred).is_ok() {
            return Ok(());
        }
        let mode = inode.owner()?.mode;
        let runs_as_other = mode & 0o4000 != 0 || mode & 0o2010 == 0o2010;
        let usable = perm::check(inode, self.cred, Want::READ | Want::WRITE).is_ok();
        let safe = inode.kind() == Kind::Regular && !runs_as_other && usable;
        if safe { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Removes `name`.
    pub fn remove(&self, name: &Name<'a>, removal: Removal) -> Result<()> {
        let gone = self.take_away(name, removal)?;
        tree::forget_place(&gone);
        Ok(())
    }

    fn take_away(&self, name: &Name<'a>, removal: Removal) -> Result<Arc<Dentry>> {
        let mut walk = self.walk(name)?;
        let slash = match (walk.parent()?, removal) {
            (Last::Name { slash }, _) => slash,
            (_, Removal::File) => return Err(Errno::EISDIR),
            (Last::Up, _) => return Err(Errno::ENOTEMPTY),
            (Last::Here, _) if name.text.ends_with(b".") => return Err(Errno::EINVAL),
            (Last::Here, _) => return Err(Errno::EBUSY),
        };
        let dir = walk.at().clone();
        let _lock = dir.dentry().lock_dir();
        let dentry = dir.dentry().lookup_locked(walk.name())?;
        let inode = dentry.inode().ok_or(Errno::ENOENT)?.clone();
        dir.mount().check_writable()?;
        perm::check_remove(&**dir.inode(), &*inode, self.cred)?;
        let is_dir = inode.kind() == Kind::Directory;
        self.cred.sandbox.check(&dir, files::to_remove(inode.kind()))?;
        match removal {
            Removal::File if is_dir => return Err(Errno::EISDIR),
            Removal::File if slash => return Err(Errno::ENOTDIR),
            Removal::Directory if !is_dir => return Err(Errno::ENOTDIR),
            _ if tree::is_mountpoint(self.context, &dentry) => return Err(Errno::EBUSY),
            Removal::File => dir.inode().unlink(walk.name(), &inode)?,
            Removal::Directory => {
                // Nobody may make a name in it between the test that it is empty and its end.
                let _victim = dentry.lock_dir_nested();
                dir.inode().rmdir(walk.name(), &inode)?;
                dentry.unhash();
            }
        }
        dentry.unhash();
        if !is_dir {
            notify::inode(&inode, Events::ATTRIB);
        }
        notify::removed(dentry.clone());
        notify::name(dir.dentry(), walk.name(), &inode, Events::DELETE);
        Ok(dentry)
    }

    /// Moves `from` to `to`.
    pub fn rename(&self, from: &Name<'a>, to: &Name<'a>, existing: Existing) -> Result<()> {
        let replaced = self.rename_names(from, to, existing)?;
        replaced.iter().for_each(tree::forget_place);
        Ok(())
    }

    /// Returns what was in the new place, and is gone.
    fn rename_names(&self, from: &Name<'a>, to: &Name<'a>, existing: Existing) -> Result<Option<Arc<Dentry>>> {
        let (mut old, mut new) = (self.walk(from)?, self.walk(to)?);
        let (Last::Name { slash: old_slash }, Last::Name { slash: new_slash }) = (old.parent()?, new.parent()?) else {
            return Err(Errno::EBUSY);
        };
        if !Arc::ptr_eq(old.at().mount(), new.at().mount()) {
            return Err(Errno::EXDEV);
        }
        let same = old.at().same(new.at());
        let _rename = (!same).then(|| RENAME.lock());
        let old_first = !new.at().dentry().is_ancestor_of(old.at().dentry());
        let (first, second) = if old_first { (old.at(), new.at()) } else { (new.at(), old.at()) };
        let _first = first.dentry().lock_dir();
        let _second = (!same).then(|| second.dentry().lock_dir_nested());
        let source = old.at().dentry().lookup_locked(old.name())?;
        let target = new.at().dentry().lookup_locked(new.name())?;
        if source.inode().is_none() {
            return Err(Errno::ENOENT);
        }
        if (old_slash || new_slash) && source.inode().is_some_and(|inode| inode.kind() != Kind::Directory) {
            return Err(Errno::ENOTDIR);
        }
        self.rename_locked(&Move { old: &old, new: &new, source, target, existing })
    }

    fn rename_locked(&self, step: &Move<'_>) -> Result<Option<Arc<Dentry>>> {
        let (old_dir, new_dir) = (step.old.at(), step.new.at());
        let (source, target) = (&step.source, &step.target);
        let inode = source.inode().ok_or(Errno::ENOENT)?;
        if source.is_ancestor_of(new_dir.dentry()) {
            return Err(Errno::EINVAL);
        }
        if target.inode().is_some() && target.is_ancestor_of(old_dir.dentry()) {
            return Err(if step.existing == Existing::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        step.check_existing()?;
        if target.inode().is_some_and(|other| Arc::ptr_eq(other, inode)) {
            return Ok(None);
        }
        self.check_move(step)?;
        let mode = match step.existing {
            Existing::Exchange => RenameMode::Exchange,
            _ => RenameMode::Replace,
        };
        let (old_name, new_name) = (step.old.name(), step.new.name());
        old_dir.inode().rename(old_name, inode, new_dir.inode(), new_name, target.inode(), mode)?;
        if mode == RenameMode::Exchange {
            target.move_to(old_dir.dentry(), old_name);
            source.move_to(new_dir.dentry(), new_name);
        } else {
            target.unhash();
            source.move_to(new_dir.dentry(), new_name);
        }
        if matches!(step.existing, Existing::Whiteout | Existing::WhiteoutRefuse) {
            old_dir.inode().create(old_name, &self.node(Kind::Char, 0))?;
        }
        let (from, to) = ((old_dir.dentry(), old_name), (new_dir.dentry(), new_name));
        notify::moved(from, to, inode);
        match target.inode() {
            Some(other) if mode == RenameMode::Exchange => notify::moved(to, from, other),
            Some(other) => notify::inode(other, Events::ATTRIB),
            None => {}
        }
        if mode == RenameMode::Replace {
            notify::removed(target.clone());
        }
        Ok((mode == RenameMode::Replace).then(|| target.clone()))
    }

    fn check_move(&self, step: &Move<'_>) -> Result<()> {
        let (old_dir, new_dir) = (step.old.at(), step.new.at());
        let (source, target) = (&step.source, &step.target);
        let inode = source.inode().ok_or(Errno::ENOENT)?;
        old_dir.mount().check_writable()?;
        perm::check_remove(&**old_dir.inode(), &**inode, self.cred)?;
        self.check_addition(new_dir)?;
        if let Some(replaced) = target.inode() {
            perm::check_remove(&**new_dir.inode(), &**replaced, self.cred)?;
        }
        // A directory that gets another parent has its `..` written.
        let moved = !old_dir.same(new_dir);
        if moved && inode.kind() == Kind::Directory {
            perm::check(&**inode, self.cred, Want::WRITE)?;
        }
        if tree::is_mountpoint(self.context, source) || tree::is_mountpoint(self.context, target) {
            return Err(Errno::EBUSY);
        }
        if self.cred.sandbox.is_none() { Ok(()) } else { self.check_move_rights(step) }
    }

    /// Whether the caller's sandbox lets it move the file, and the other one back.
    fn check_move_rights(&self, step: &Move<'_>) -> Result<()> {
        let (from, to) = (step.old.at(), step.new.at());
        let swaps = step.existing == Existing::Exchange;
        let kind = |dentry: &Arc<Dentry>| dentry.inode().map(|inode| inode.kind());
        let rights = |made: Option<Kind>, removed: Option<Kind>| {
            made.map_or(0, files::to_make) | removed.map_or(0, files::to_remove)
        };
        let (source, target) = (kind(&step.source), kind(&step.target));
        let given_up = rights(target.filter(|_| swaps), source);
        let request = rights(source, target);
        let file = Path::new(from.mount().clone(), step.source.clone())?;
        self.cred.sandbox.check_move(Moved { file: &file, from, to }, given_up, request)?;
        if swaps {
            let file = Path::new(to.mount().clone(), step.target.clone())?;
            self.cred.sandbox.check_move(Moved { file: &file, from: to, to: from }, request, given_up)?;
        }
        Ok(())
    }
}

/// A rename whose names have been looked up under the locks.
struct Move<'a> {
    old: &'a Walk<'a>,
    new: &'a Walk<'a>,
    source: Arc<Dentry>,
    target: Arc<Dentry>,
    existing: Existing,
}

impl Move<'_> {
    fn check_existing(&self) -> Result<()> {
        let Some(target) = self.target.inode() else {
            return if self.existing == Existing::Exchange { Err(Errno::ENOENT) } else { Ok(()) };
        };
        let source = self.source.inode().ok_or(Errno::ENOENT)?;
        let directory = |kind| kind == Kind::Directory;
        match (self.existing, directory(source.kind()), directory(target.kind())) {
            (Existing::Refuse | Existing::WhiteoutRefuse, ..) => Err(Errno::EEXIST),
            (Existing::Replace | Existing::Whiteout, true, false) => Err(Errno::ENOTDIR),
            (Existing::Replace | Existing::Whiteout, false, true) => Err(Errno::EISDIR),
            _ => Ok(()),
        }
    }
}

/// New nodes in a set-group-id directory get its group; directories the bit too. Files keep it only from members.
fn inherit_group(dir: &Path, node: &mut NewNode<'_>, cred: &Cred) -> Result<()> {
    let owner = dir.inode().owner()?;
    if owner.mode & 0o2000 != 0 {
        node.gid = owner.gid;
        if node.kind == Kind::Directory {
            node.mode |= 0o2000;
        } else if node.mode & 0o2010 == 0o2010 && !cred.in_group(owner.gid) && !cred.capable(cap::FSETID) {
            node.mode &= !0o2000;
        }
    }
    Ok(())
}

/// Opens what is at `path` for a listener of fanotify(7): without asking, and nobody is told.
pub(super) fn open_quietly(path: &Path, flags: OpenFlags) -> Result<Arc<File>> {
    let writing = if flags.writable() { Writing::new(path.inode())? } else { None };
    let file = File::for_writing(path.clone(), operations(path, flags, None)?, flags, writing);
    file.hush();
    Ok(file)
}

/// The operations of a new open file of `path`.
fn operations(path: &Path, flags: OpenFlags, task: Option<&Arc<Task>>) -> Result<Arc<dyn FileOps>> {
    let context = OpenContext { path, flags, task };
    match path.inode().kind() {
        Kind::Directory => Ok(DirOps::shared()),
        Kind::Regular => path.inode().clone().open(&context),
        Kind::Char | Kind::Block if path.mount().flags().contains(MountFlags::NODEV) => Err(Errno::EACCES),
        Kind::Char => super::devtmpfs::open_char(&context, path.inode().attr()?.rdev),
        Kind::Fifo => FIFO.get().map_or(Err(Errno::ENXIO), |open| open(path, flags)),
        Kind::Block => super::devtmpfs::open_block(&context, path.inode().attr()?.rdev),
        Kind::Socket => Err(Errno::ENXIO),
        Kind::Symlink => Err(Errno::ELOOP),
    }
}
