//! An object of an overlay: which layers have it, and what is done to it and to names in it.

use super::super::acl::{Acl, Which};
use super::super::inode::{DirEntry, DirSink, Inode, InodeRef, NewNode, RenameMode};
use super::super::perm::Want;
use super::super::types::{Attr, Dev, InodeFlags, Kind, Mode, Owner, SetAttr};
use super::super::xattr::Put;
use super::super::{Busy, Extra, FileOps, FileSystem, OpenContext, OpenFlags, Path};
use super::copy::{ALL, Place};
use super::layer::{self, Layers, Listed};
use super::{OverlayFs, TmpFs};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use umbel_smp::lock::{Once, Rank, SpinLock};

/// The directory above, and the name in it.
type Above = (Weak<Node>, Box<[u8]>);

/// See the module.
pub struct Node {
    pub(super) me: Weak<Node>,
    fs: Weak<OverlayFs>,
    kind: Kind,
    ino: u64,
    /// Where it is written, once it is.
    pub(super) upper: Once<Path>,
    /// Where it is read until then; of a directory all that is merged.
    pub(super) lowers: Vec<Path>,
    /// The directory above, and the name in it.
    place: SpinLock<Option<Above>>,
    /// The last name was removed.
    gone: AtomicBool,
    extra: Extra,
    busy: Busy,
}

impl Node {
    /// The object that `layers` have, at `place`.
    pub(super) fn new(fs: &Arc<OverlayFs>, layers: Layers, place: Option<Above>) -> Result<Arc<Node>> {
        let origin = layers.lowers.first().or(layers.upper.as_ref()).ok_or(Errno::ENOENT)?;
        let first = layers.upper.as_ref().unwrap_or(origin);
        let (kind, ino) = (first.inode().kind(), fs.ino(origin)?);
        let upper = Once::new();
        if let Some(path) = layers.upper {
            // A new cell takes its first value.
            let _ = upper.set(path);
        }
        Ok(Arc::new_cyclic(|me| Node {
            me: me.clone(),
            fs: Arc::downgrade(fs),
            kind,
            ino,
            upper,
            lowers: layers.lowers,
            place: SpinLock::new(Rank::Dentry, place),
            gone: AtomicBool::new(false),
            extra: Extra::new(),
            busy: Busy::default(),
        }))
    }

    pub(super) fn system(&self) -> Result<Arc<OverlayFs>> {
        self.fs.upgrade().ok_or(Errno::EIO)
    }

    /// Where it is in the tree, unless it is the root or was removed.
    pub(super) fn place(&self) -> Option<Place> {
        let place = self.place.lock();
        let (parent, name) = place.as_ref()?;
        Some((parent.upgrade()?, name.clone()))
    }

    fn set_place(&self, place: Option<(&Node, &[u8])>) {
        let place = place.map(|(parent, name)| (parent.me.clone(), name.into()));
        let old = core::mem::replace(&mut *self.place.lock(), place);
        drop(old);
    }

    /// The layer's object that it shows.
    fn real(&self) -> Result<&Path> {
        self.upper.get().or(self.lowers.first()).ok_or(Errno::EIO)
    }

    fn of(inode: &InodeRef) -> Result<&Node> {
        inode.as_any().downcast_ref().ok_or(Errno::EXDEV)
    }

    /// Whether it is a directory that lower layers have.
    fn is_merged(&self) -> bool {
        self.kind == Kind::Directory && !self.lowers.is_empty()
    }

    /// What the layers have of `name`.
    fn layers(&self, name: &[u8]) -> Result<Layers> {
        let fs = self.system()?;
        let mut found = Layers::default();
        if let Some(dir) = self.upper.get()
            && let Some(path) = fs.find(dir, name)?
        {
            if layer::is_whiteout(&path) {
                return Err(Errno::ENOENT);
            }
            let last = !path.is_dir() || layer::is_opaque(&fs, &path);
            found.upper = Some(path);
            if last {
                return Ok(found);
            }
        }
        for dir in &self.lowers {
            let Some(path) = fs.find(dir, name)? else { continue };
            let lone = found.upper.is_none() && found.lowers.is_empty();
            if layer::is_whiteout(&path) || !path.is_dir() && !lone {
                break;
            }
            let last = !path.is_dir() || layer::is_opaque(&fs, &path);
            found.lowers.push(path);
            if last {
                break;
            }
        }
        if found.upper.is_none() && found.lowers.is_empty() { Err(Errno::ENOENT) } else { Ok(found) }
    }

    /// Whether lower layers would show something as `name`.
    fn is_below(&self, name: &[u8]) -> Result<bool> {
        let fs = self.system()?;
        for dir in &self.lowers {
            if let Some(path) = fs.find(dir, name)? {
                return Ok(!layer::is_whiteout(&path));
            }
        }
        Ok(false)
    }

    /// Takes a whiteout of `name` out of the upper directory `dir`, if there is one.
    fn uncover(dir: &Path, name: &[u8]) -> Result<()> {
        match layer::find(dir, name)? {
            Some(path) if layer::is_whiteout(&path) => layer::remove(dir, path),
            _ => Ok(()),
        }
    }

    /// Adds `name`, made by `make` in the upper directory.
    fn add(&self, name: &[u8], make: impl FnOnce(&InodeRef) -> Result<InodeRef>) -> Result<Path> {
        let dir = self.writable(ALL)?;
        dir.mount().check_writable()?;
        Self::uncover(dir, name)?;
        layer::add(dir, name, make)
    }

    /// Takes `name` away, which is there; below it a whiteout takes its place.
    fn take(&self, name: &[u8], node: &Node) -> Result<()> {
        let dir = self.writable(ALL)?;
        dir.mount().check_writable()?;
        let below = self.is_below(name)?;
        if let Some(path) = layer::find(dir, name)? {
            layer::remove(dir, path)?;
        }
        if below {
            layer::whiteout(dir, name)?;
        }
        if node.upper.get().is_none() {
            node.gone.store(true, Relaxed);
        }
        node.set_place(None);
        Ok(())
    }

    fn check_empty(&self) -> Result<()> {
        if self.merged()?.is_empty() { Ok(()) } else { Err(Errno::ENOTEMPTY) }
    }

    /// All names, by a number that does not depend on what else there is.
    fn merged(&self) -> Result<BTreeMap<u64, Listed>> {
        let fs = self.system()?;
        let mut seen = BTreeMap::new();
        for dir in self.upper.get().into_iter().chain(&self.lowers) {
            fs.check_layer(dir, Want::READ)?;
            let dev = dir.mount().fs().dev();
            for Listed { name, ino, kind } in layer::entries(dir)? {
                umbel_mm::heap::room()?;
                if seen.contains_key(&name) {
                    continue;
                }
                let hidden = kind == Kind::Char && layer::hides(dir, &name);
                let ino = if dev == fs.base_dev { ino } else { ino ^ dev.rotate_left(40) };
                seen.insert(name, (ino, kind, hidden));
            }
        }
        let mut list = BTreeMap::new();
        for (name, (ino, kind, _)) in seen.into_iter().filter(|(_, (.., hidden))| !hidden) {
            let mut at = cookie(&name);
            while list.contains_key(&at) {
                at += 1;
            }
            list.insert(at, Listed { name, ino, kind });
        }
        Ok(list)
    }
}

/// A position in a listing: from the name alone (FNV-1a), behind `.` and `..`.
fn cookie(name: &[u8]) -> u64 {
    let hash = name
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash >> 2) + 2
}

impl Inode for Node {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        match self.fs.upgrade() {
            Some(fs) => fs,
            None => TmpFs::new("tmpfs", 0o755, 0),
        }
    }

    fn attr(&self) -> Result<Attr> {
        let mut attr = self.real()?.inode().attr()?;
        (attr.ino, attr.dev) = (self.ino, self.system()?.dev);
        if self.gone.load(Relaxed) {
            attr.nlink = 0;
        } else if self.is_merged() {
            attr.nlink = 1;
        }
        Ok(attr)
    }

    fn owner(&self) -> Result<Owner> {
        self.real()?.inode().owner()
    }

    fn busy(&self) -> Option<&Busy> {
        (self.kind == Kind::Regular).then_some(&self.busy)
    }

    fn flags(&self) -> InodeFlags {
        self.real().map_or(InodeFlags::empty(), |path| path.inode().flags())
    }

    fn set_flags(&self, flags: InodeFlags) -> Result<()> {
        self.writable(ALL)?.inode().set_flags(flags)
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        self.writable(change.size.unwrap_or(ALL))?.inode().set_attr(change)
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let layers = self.layers(name)?;
        Ok(Node::new(&self.system()?, layers, Some((self.me.clone(), name.into())))?)
    }

    fn create(&self, name: &[u8], node: &NewNode<'_>) -> Result<InodeRef> {
        if node.kind == Kind::Char && node.rdev == Dev::new(0, 0) {
            return Err(Errno::EPERM);
        }
        let fs = self.system()?;
        let made = self.add(name, |dir| dir.create(name, node))?;
        if node.kind == Kind::Directory && self.is_merged() {
            layer::make_opaque(&fs, &made)?;
        }
        let layers = Layers { upper: Some(made), lowers: Vec::new() };
        Ok(Node::new(&fs, layers, Some((self.me.clone(), name.into())))?)
    }

    fn create_unnamed(&self, node: &NewNode<'_>, linkable: bool) -> Result<InodeRef> {
        let dir = self.writable(ALL)?;
        dir.mount().check_writable()?;
        let inode = dir.inode().create_unnamed(node, linkable)?;
        let dentry = super::super::Dentry::unnamed(dir.dentry(), b"#", inode);
        let layers = Layers { upper: Some(Path::new(dir.mount().clone(), dentry)?), lowers: Vec::new() };
        Ok(Node::new(&self.system()?, layers, None)?)
    }

    fn link(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        let node = Node::of(target)?;
        let inode = node.writable(ALL)?.inode();
        self.add(name, |dir| {
            dir.link(name, inode)?;
            Ok(inode.clone())
        })?;
        Ok(())
    }

    fn unlink(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        self.take(name, Node::of(target)?)
    }

    fn rmdir(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        let node = Node::of(target)?;
        node.check_empty()?;
        self.take(name, node)?;
        node.gone.store(true, Relaxed);
        Ok(())
    }

    fn rename(
        &self,
        name: &[u8],
        source: &InodeRef,
        new_dir: &InodeRef,
        new_name: &[u8],
        replaced: Option<&InodeRef>,
        mode: RenameMode,
    ) -> Result<()> {
        let (source, new_dir) = (Node::of(source)?, Node::of(new_dir)?);
        let replaced = replaced.map(Node::of).transpose()?;
        let exchange = mode == RenameMode::Exchange;
        if source.is_merged() || exchange && replaced.is_some_and(Node::is_merged) {
            return Err(Errno::EXDEV);
        }
        source.writable(ALL)?;
        let (from, to) = (self.writable(ALL)?, new_dir.writable(ALL)?);
        from.mount().check_writable()?;
        let old_below = self.is_below(name)?;
        match replaced {
            Some(other) if exchange => drop(other.writable(ALL)?.clone()),
            Some(other) if other.kind == Kind::Directory => {
                other.check_empty()?;
                if let Some(path) = layer::find(to, new_name)? {
                    layer::remove(to, path)?;
                }
            }
            _ => {}
        }
        layer::rename((from, name), (to, new_name), exchange)?;
        let fs = self.system()?;
        // A directory hides what is below where it comes to.
        for (node, merged) in [(Some(source), new_dir.is_merged()), (replaced.filter(|_| exchange), self.is_merged())] {
            if let Some(node) = node.filter(|node| merged && node.kind == Kind::Directory) {
                layer::make_opaque(&fs, node.writable(ALL)?)?;
            }
        }
        if let Some(other) = replaced {
            other.set_place(exchange.then_some((self, name)));
            other.gone.fetch_or(!exchange && other.upper.get().is_none(), Relaxed);
        }
        source.set_place(Some((new_dir, new_name)));
        if old_below && !exchange { layer::whiteout(from, name) } else { Ok(()) }
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        self.real()?.inode().readlink()
    }

    fn readdir(&self, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        let mut at = pos;
        for (own, Listed { name, ino, kind }) in self.merged()?.range(pos..) {
            if !sink(&DirEntry { name, ino: *ino, kind: *kind, next: own + 1 }) {
                break;
            }
            at = own + 1;
        }
        Ok(at)
    }

    fn open(self: Arc<Self>, context: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        if context.flags.writable() || context.flags.contains(OpenFlags::TRUNC) {
            self.writable(if context.flags.contains(OpenFlags::TRUNC) { 0 } else { ALL })?;
        }
        let real = self.real()?;
        if context.flags.writable() {
            real.mount().check_writable()?;
        }
        real.inode().clone().open(context)
    }

    fn accessed(&self, strict: bool) {
        if let Some(upper) = self.upper.get() {
            upper.inode().accessed(strict);
        }
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Arc<[u8]>> {
        self.real()?.inode().get_xattr(&layer::stored(&*self.system()?, name))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], put: Put) -> Result<()> {
        self.writable(ALL)?.inode().set_xattr(&layer::stored(&*self.system()?, name), value, put)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        // What is not there is not copied for its sake.
        self.get_xattr(name)?;
        self.writable(ALL)?.inode().remove_xattr(&layer::stored(&*self.system()?, name))
    }

    fn list_xattr(&self) -> Result<Vec<Box<[u8]>>> {
        let fs = self.system()?;
        let names = self.real()?.inode().list_xattr()?.into_iter().filter(|name| !layer::is_mark(&fs, name));
        Ok(names.map(|name| layer::shown(&fs, &name).unwrap_or(name)).collect())
    }

    fn acl(&self, which: Which) -> Result<Option<Acl>> {
        self.real()?.inode().acl(which)
    }

    fn set_acl(&self, which: Which, acl: Option<Acl>, mode: Option<Mode>) -> Result<()> {
        if acl.is_none() && mode.is_none() && self.acl(which)?.is_none() {
            return Ok(());
        }
        self.writable(ALL)?.inode().set_acl(which, acl, mode)
    }

    fn extra(&self) -> Option<&Extra> {
        Some(&self.extra)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
