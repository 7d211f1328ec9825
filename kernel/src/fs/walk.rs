//! From a name to a path, one component at a time. Source: path_resolution(7), path_lookup in Linux's documentation.
//!
//! A [`Walk`] starts at the root, the current directory or an open directory. [`Walk::parent`] stops before the last
//! component, for those who make, remove or open it; [`Walk::finish`] goes to the end. Links are put in front of what is left
//! of the name, so that nothing recurses.

use super::context::FsContext;
use super::dentry::{Dentry, Look};
use super::inode::LinkTarget;
use super::mount::{MountFlags, Path};
use super::perm::{self, Want};
use super::types::{Attr, Kind};
use crate::task::Cred;
use crate::{Errno, Result};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use umbel_abi::linux::uapi;

/// Most symbolic links in one walk.
const MAX_LINKS: u32 = 40;
/// Longest name, its NUL included.
pub const PATH_MAX: usize = 4096;

/// Whether a symbolic link at the end is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    Yes,
    No,
}

/// The last component of a name, not yet looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// Nothing is left: the name was `/` or ended in `.`, or a link jumped.
    Here,
    /// `..`.
    Up,
    /// A name ([`Walk::name`]), and whether a slash came after it.
    Name { slash: bool },
}

/// What [`Walk::look`] comes to.
pub enum Sight {
    Path(Path),
    /// Attributes of something in this directory that is neither a directory nor a link.
    Attr(Path, Attr),
}

bitflags::bitflags! {
    /// Where a walk may not go (`resolve` of openat2(2)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Resolve: u32 {
        const NO_XDEV = uapi::RESOLVE_NO_XDEV;
        const NO_MAGICLINKS = uapi::RESOLVE_NO_MAGICLINKS;
        const NO_SYMLINKS = uapi::RESOLVE_NO_SYMLINKS;
        const BENEATH = uapi::RESOLVE_BENEATH;
        const IN_ROOT = uapi::RESOLVE_IN_ROOT;
        const CACHED = uapi::RESOLVE_CACHED;
    }
}

/// A walk in progress.
pub struct Walk<'a> {
    at: Path,
    root: Path,
    cred: &'a Cred,
    rest: Cow<'a, [u8]>,
    /// Bytes of `rest` that are done.
    done: usize,
    links: u32,
    /// The last component in `rest`.
    last: (usize, usize),
    resolve: Resolve,
}

impl<'a> Walk<'a> {
    /// A walk of `name` from `start` (ignored if `name` is absolute). `ENOENT` for an empty name.
    pub fn new(context: &FsContext, start: Option<Path>, cred: &'a Cred, name: &'a [u8]) -> Result<Walk<'a>> {
        if name.is_empty() {
            return Err(Errno::ENOENT);
        }
        if name.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let root = context.root();
        let at = match start {
            _ if name.first() == Some(&b'/') => root.clone(),
            Some(start) => start,
            None => context.cwd(),
        };
        let (rest, resolve) = (Cow::Borrowed(name), Resolve::empty());
        Ok(Walk { at, root, cred, rest, done: 0, links: 0, last: (0, 0), resolve })
    }

    /// As [`Self::new`], within limits. `EXDEV` if the name itself leads out of them.
    pub fn limited(
        context: &FsContext,
        start: Option<Path>,
        cred: &'a Cred,
        name: &'a [u8],
        resolve: Resolve,
    ) -> Result<Walk<'a>> {
        let scoped = resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT);
        let scope = scoped.then(|| start.clone().unwrap_or_else(|| context.cwd()));
        let mut walk = Walk::new(context, start, cred, name)?;
        walk.resolve = resolve;
        if let Some(scope) = scope {
            if name.first() == Some(&b'/') {
                if resolve.contains(Resolve::BENEATH) {
                    return Err(Errno::EXDEV);
                }
                walk.at = scope.clone();
            }
            walk.root = scope;
        }
        Ok(walk)
    }

    /// `to`, reached from `from`, unless mounts must not be crossed. `EXDEV`.
    fn stay(&self, from: &Path, to: Path) -> Result<Path> {
        let crosses = self.resolve.contains(Resolve::NO_XDEV) && !Arc::ptr_eq(from.mount(), to.mount());
        if crosses { Err(Errno::EXDEV) } else { Ok(to) }
    }

    /// The directory above.
    pub fn up(&self) -> Result<Path> {
        if self.resolve.contains(Resolve::BENEATH) && self.at.same(&self.root) {
            return Err(Errno::EXDEV);
        }
        self.stay(&self.at, self.at.parent(&self.root)?)
    }

    /// What `dentry`, found in the current directory, leads to: with what is mounted on it.
    pub fn enter(&self, dentry: Arc<Dentry>) -> Result<Path> {
        let path = Path::new(self.at.mount().clone(), dentry)?.top();
        self.stay(&self.at, path)
    }

    /// Where the walk is: after [`Self::parent`] the directory of the last component.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// The last component, after [`Self::parent`] returned [`Last::Name`].
    pub fn name(&self) -> &[u8] {
        self.rest.get(self.last.0..self.last.1).unwrap_or(&[])
    }

    /// The root of the caller.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Goes to the end.
    pub fn finish(mut self, follow: Follow) -> Result<Path> {
        loop {
            let slash = match self.parent()? {
                Last::Here => return Ok(self.at),
                Last::Up => return self.up(),
                Last::Name { slash } => slash,
            };
            let child = self.child(self.name())?;
            if let Some(path) = self.arrive(child, slash, follow)? {
                return Ok(path);
            }
        }
    }

    /// Goes to the end for somebody who wants attributes only.
    pub fn look(mut self, follow: Follow) -> Result<Sight> {
        loop {
            let slash = match self.parent()? {
                Last::Here => return Ok(Sight::Path(self.at)),
                Last::Up => return self.up().map(Sight::Path),
                Last::Name { slash } => slash,
            };
            let child = match self.at.dentry().look(self.name())? {
                Look::Attr(_) if slash => return Err(Errno::ENOTDIR),
                Look::Attr(attr) => return Ok(Sight::Attr(self.at, attr)),
                Look::Dentry(dentry) => self.enter(dentry)?,
            };
            if let Some(path) = self.arrive(child, slash, follow)? {
                return Ok(Sight::Path(path));
            }
        }
    }

    /// Ends at `child`, the last component, unless it is a link to follow.
    fn arrive(&mut self, child: Path, slash: bool, follow: Follow) -> Result<Option<Path>> {
        if child.inode().kind() == Kind::Symlink && (follow == Follow::Yes || slash) {
            self.follow(&child, slash)?;
            return Ok(None);
        }
        if slash && !child.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(Some(child))
    }

    /// Goes to the directory that holds the last component, whose search permission is checked.
    pub fn parent(&mut self) -> Result<Last> {
        loop {
            self.skip_slashes();
            if self.done == self.rest.len() {
                return Ok(Last::Here);
            }
            if !self.at.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            perm::check(&**self.at.inode(), self.cred, Want::EXEC)?;
            let (start, end) = self.component();
            let after = self.rest.get(end..).unwrap_or(&[]);
            let slash = !after.is_empty();
            let last = after.iter().all(|&byte| byte == b'/');
            let name = self.rest.get(start..end).unwrap_or(&[]);
            match name {
                b"." => self.done = end,
                b".." if last => {
                    self.done = self.rest.len();
                    return Ok(Last::Up);
                }
                b".." => {
                    self.at = self.up()?;
                    self.done = end;
                }
                _ if last => {
                    self.last = (start, end);
                    self.done = self.rest.len();
                    return Ok(Last::Name { slash });
                }
                _ => self.step(start, end)?,
            }
        }
    }

    /// Enters the component `start..end` of the rest.
    fn step(&mut self, start: usize, end: usize) -> Result<()> {
        let name = self.rest.get(start..end).unwrap_or(&[]);
        let child = self.child(name)?;
        self.done = end;
        if child.inode().kind() == Kind::Symlink {
            return self.follow(&child, true);
        }
        self.at = child;
        Ok(())
    }

    /// The child `name` of the directory the walk is at, with what is mounted on it.
    fn child(&self, name: &[u8]) -> Result<Path> {
        self.enter(self.at.dentry().lookup(name)?)
    }

    /// The dentry `name` of that directory, perhaps negative, without what is mounted on it.
    pub fn dentry(&self, name: &[u8]) -> Result<Arc<Dentry>> {
        self.at.dentry().lookup(name)
    }

    /// Continues with what the symbolic link `link`, found in the current directory, leads to.
    pub fn follow(&mut self, link: &Path, slash: bool) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        if self.resolve.contains(Resolve::NO_SYMLINKS) || link.mount().flags().contains(MountFlags::NOSYMFOLLOW) {
            return Err(Errno::ELOOP);
        }
        let text = match link.inode().follow()? {
            LinkTarget::Jump(path) => return self.jump(path),
            LinkTarget::Text(text) => text,
        };
        link.accessed();
        if text.is_empty() {
            return Err(Errno::ENOENT);
        }
        if text.first() == Some(&b'/') {
            if self.resolve.contains(Resolve::BENEATH) {
                return Err(Errno::EXDEV);
            }
            self.at = self.stay(&self.at, self.root.clone())?;
        }
        let mut rest = text;
        if slash {
            rest.push(b'/');
        }
        rest.extend_from_slice(self.rest.get(self.done..).unwrap_or(&[]));
        self.rest = Cow::Owned(rest);
        self.done = 0;
        Ok(())
    }

    /// Continues at an object itself.
    fn jump(&mut self, path: Path) -> Result<()> {
        if self.resolve.contains(Resolve::NO_MAGICLINKS) {
            return Err(Errno::ELOOP);
        }
        if self.resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT) {
            return Err(Errno::EXDEV);
        }
        self.at = self.stay(&self.at, path)?;
        Ok(())
    }

    fn skip_slashes(&mut self) {
        let left = self.rest.get(self.done..).unwrap_or(&[]);
        self.done += left.iter().take_while(|&&byte| byte == b'/').count();
    }

    fn component(&self) -> (usize, usize) {
        let left = self.rest.get(self.done..).unwrap_or(&[]);
        let len = left.iter().position(|&byte| byte == b'/').unwrap_or(left.len());
        (self.done, self.done + len)
    }
}
