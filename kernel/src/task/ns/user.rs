//! User namespaces: who is root where, and which id is which. Source: user_namespaces(7).
//!
//! Inside the kernel ids are those of the first namespace; they are translated where a call takes or gives them. A
//! capability counts for the namespace that a thread's credentials are in, and for those below it.
//!
//! Lock: a namespace's maps (rank `Leaf`).

use super::count::{Counted, Counts, Ticket};
use super::first;
use crate::task::{Cred, Task, cap};
use crate::{Errno, Result, fs};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use umbel_smp::lock::{Once, Rank, SpinLock};

/// What an id that is not mapped is shown as.
pub const OVERFLOW: u32 = 65534;
/// Deepest nesting.
const LEVELS_MAX: u32 = 32;
/// Most lines of a map.
const EXTENTS_MAX: usize = 340;

/// Which ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Users,
    Groups,
    /// Of projects, by which some file systems count.
    Projects,
}

/// A line of a map: `count` ids from `inside` on are those from `outside` on in the first namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    inside: u32,
    outside: u32,
    count: u32,
}

#[derive(Debug, Default)]
struct Maps {
    users: Vec<Extent>,
    groups: Vec<Extent>,
    projects: Vec<Extent>,
}

impl Maps {
    fn of(&mut self, which: Which) -> &mut Vec<Extent> {
        match which {
            Which::Users => &mut self.users,
            Which::Groups => &mut self.groups,
            Which::Projects => &mut self.projects,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct UserNs {
    pub id: u64,
    parent: Option<Arc<UserNs>>,
    level: u32,
    /// Who made it.
    owner: (u32, u32),
    maps: SpinLock<Maps>,
    /// setgroups(2) is refused for good.
    pub deny_groups: AtomicBool,
    /// Namespaces that its users made.
    pub counts: Counts,
    _counted: Option<Ticket>,
}

impl PartialEq for UserNs {
    fn eq(&self, other: &UserNs) -> bool {
        self.id == other.id
    }
}

impl Eq for UserNs {}

impl UserNs {
    /// The first one.
    pub fn first() -> Arc<UserNs> {
        static FIRST: Once<Arc<UserNs>> = Once::new();
        let all = Extent { inside: 0, outside: 0, count: u32::MAX };
        let maps = || Maps { users: Vec::from([all]), groups: Vec::from([all]), projects: Vec::from([all]) };
        FIRST.call_once(|| UserNs::with(first::USER, None, (0, 0), maps(), None)).clone()
    }

    fn with(
        id: u64,
        parent: Option<Arc<UserNs>>,
        owner: (u32, u32),
        maps: Maps,
        counted: Option<Ticket>,
    ) -> Arc<UserNs> {
        let counts = if parent.is_some() { Counts::unlimited() } else { Counts::first() };
        let level = parent.as_ref().map_or(0, |parent| parent.level + 1);
        let deny = parent.as_ref().is_some_and(|parent| parent.deny_groups.load(Relaxed));
        Arc::new(UserNs {
            id,
            parent,
            level,
            owner,
            maps: SpinLock::new(Rank::Leaf, maps),
            deny_groups: AtomicBool::new(deny),
            counts,
            _counted: counted,
        })
    }

    /// One that `uid` made in `parent`.
    #[cfg(test)]
    pub fn for_tests(parent: &Arc<UserNs>, uid: u32) -> Arc<UserNs> {
        UserNs::with(9, Some(parent.clone()), (uid, uid), Maps::default(), None)
    }

    /// How deeply it is nested: the first is at 0.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Whether it is the first one.
    pub fn is_first(&self) -> bool {
        self.level == 0
    }

    /// The one that it was made in.
    pub fn parent(&self) -> Option<Arc<UserNs>> {
        self.parent.clone()
    }

    /// Whether it is `other`, or was made in it or below it.
    pub fn is_within(self: &Arc<UserNs>, other: &UserNs) -> bool {
        core::iter::successors(Some(self.clone()), |ns| ns.parent()).any(|ns| *ns == *other)
    }

    /// The user that made it.
    pub fn owner(&self) -> u32 {
        self.owner.0
    }

    fn extents<R>(&self, which: Which, look: impl FnOnce(&[Extent]) -> R) -> R {
        look(self.maps.lock().of(which))
    }

    /// The id that `inside` stands for.
    ///
    /// # Errors
    /// `EINVAL` if it is not mapped.
    pub fn take(&self, which: Which, inside: u32) -> Result<u32> {
        if self.is_first() {
            return if inside == u32::MAX { Err(Errno::EINVAL) } else { Ok(inside) };
        }
        let find = |extents: &[Extent]| extents.iter().find_map(|e| shift(inside, e.inside, e.outside, e.count));
        self.extents(which, find).ok_or(Errno::EINVAL)
    }

    /// The first of the ids that the `count` ids from `inside` on stand for. One line of the map has them all: what lies between
    /// two lines is nobody's here.
    ///
    /// # Errors
    /// `EINVAL` if they are not mapped, or not as a whole.
    fn take_all(&self, which: Which, inside: u32, count: u32) -> Result<u32> {
        let whole = |line: &Extent| {
            let offset = inside.checked_sub(line.inside)?;
            if u64::from(offset) + u64::from(count) > u64::from(line.count) {
                return None;
            }
            line.outside.checked_add(offset)
        };
        self.extents(which, |extents| extents.iter().find_map(whole)).ok_or(Errno::EINVAL)
    }

    /// What `id` is here, if it is mapped.
    pub fn find(&self, which: Which, id: u32) -> Option<u32> {
        if self.is_first() {
            return Some(id);
        }
        self.extents(which, |extents| extents.iter().find_map(|e| shift(id, e.outside, e.inside, e.count)))
    }

    /// What `id` is shown as here.
    pub fn show(&self, which: Which, id: u32) -> u32 {
        self.find(which, id).unwrap_or(OVERFLOW)
    }

    /// The text of a map, as `viewer` has the outside ids.
    pub fn map_text(&self, which: Which, viewer: &UserNs) -> String {
        let mut text = String::new();
        let lines = self.extents(which, <[Extent]>::to_vec);
        for line in lines {
            let outside = viewer.find(which, line.outside).unwrap_or(u32::MAX);
            text += &format!("{:>10} {:>10} {:>10}\n", line.inside, outside, line.count);
        }
        text
    }
}

/// `id` moved from the range at `from` to that at `to`, if it is in it.
fn shift(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let offset = id.checked_sub(from).filter(|&offset| offset < count)?;
    to.checked_add(offset)
}

impl Cred {
    /// Whether the capability counts for what belongs to `ns`.
    pub fn capable_in(&self, ns: &Arc<UserNs>, cap: u32) -> bool {
        let mut at = Some(ns.clone());
        while let Some(ns) = at {
            if ns == self.user_ns {
                return self.capable_here(cap);
            }
            // Who made a namespace has all capabilities in it.
            if ns.parent.as_ref() == Some(&self.user_ns) && ns.owner.0 == self.euid {
                return true;
            }
            at = ns.parent();
        }
        false
    }

    /// Whether who has these credentials could have those of `other` by itself: no more capabilities here, or any in a namespace
    /// that this user made.
    pub fn has_all_of(&self, other: &Cred) -> bool {
        if other.user_ns == self.user_ns {
            return other.permitted & !self.permitted == 0;
        }
        let mut at = Some(other.user_ns.clone());
        while let Some(ns) = at {
            if ns.parent.as_ref() == Some(&self.user_ns) && ns.owner.0 == self.euid {
                return true;
            }
            at = ns.parent();
        }
        false
    }

    /// Whether the capability counts in the user namespace of these credentials.
    pub fn capable_here(&self, cap: u32) -> bool {
        self.effective >> cap & 1 != 0
    }

    /// Whether the capability counts for an inode of these owners.
    pub fn capable_for(&self, owner: (u32, u32), cap: u32) -> bool {
        let ns = &self.user_ns;
        self.capable_here(cap) && ns.find(Which::Users, owner.0).is_some() && ns.find(Which::Groups, owner.1).is_some()
    }

    /// A user id as this user sees it.
    pub fn show_uid(&self, uid: u32) -> u32 {
        self.user_ns.show(Which::Users, uid)
    }

    /// A group id as this user sees it.
    pub fn show_gid(&self, gid: u32) -> u32 {
        self.user_ns.show(Which::Groups, gid)
    }
}

/// Credentials in a new user namespace.
///
/// # Errors
/// `ENOSPC` if it would be nested too deeply, or there are too many; `EPERM` for ids that are not mapped or in a changed root.
pub fn enter_new(task: &Task, cred: &Cred) -> Result<Cred> {
    let ns = &cred.user_ns;
    if ns.level > LEVELS_MAX {
        return Err(Errno::ENOSPC);
    }
    let ticket = Ticket::take(ns, cred.euid, Counted::User)?;
    if ns.find(Which::Users, cred.euid).is_none() || ns.find(Which::Groups, cred.egid).is_none() {
        return Err(Errno::EPERM);
    }
    if task.fs().is_ok_and(|fs| fs.is_chrooted()) {
        return Err(Errno::EPERM);
    }
    let new = UserNs::with(fs::next_ino(), Some(ns.clone()), (cred.euid, cred.egid), Maps::default(), Some(ticket));
    Ok(with_all(cred, new))
}

fn with_all(cred: &Cred, ns: Arc<UserNs>) -> Cred {
    Cred {
        permitted: cap::ALL,
        effective: cap::ALL,
        inheritable: 0,
        ambient: 0,
        bounding: cap::ALL,
        securebits: 0,
        user_ns: ns,
        ..cred.clone()
    }
}

/// setns(2) into a user namespace.
///
/// # Errors
/// `EINVAL` for one's own and for those with threads, or with places that are another's, too; `EPERM`.
pub fn enter(task: &Arc<Task>, cred: &Cred, ns: &Arc<UserNs>) -> Result<()> {
    // Nobody whose places are the same gets another root by this one's privileges.
    if *ns == cred.user_ns || task.process().live_threads() > 1 || task.fs()?.users() > 1 {
        return Err(Errno::EINVAL);
    }
    if !cred.capable_in(ns, cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    task.set_cred(with_all(cred, ns.clone()));
    Ok(())
}

/// A write to `uid_map`, `gid_map` or `projid_map` of `target` by `task`, to a file that `opener` opened: who was given the descriptor does not
/// lend its privileges. Once.
///
/// # Errors
/// `EPERM`, `EINVAL`.
pub fn write_map(task: &Task, opener: &Cred, target: &Task, which: Which, text: &[u8]) -> Result<()> {
    let (cred, ns) = (task.cred(), target.cred().user_ns.clone());
    let parent = ns.parent().ok_or(Errno::EPERM)?;
    if opener.user_ns != ns && opener.user_ns != parent {
        return Err(Errno::EPERM);
    }
    let needs_privilege = which != Which::Projects;
    let refused = needs_privilege && !opener.capable_in(&ns, cap::SYS_ADMIN);
    if !ns.extents(which, <[Extent]>::is_empty) || refused {
        return Err(Errno::EPERM);
    }
    let lines = parse(text)?;
    if needs_privilege && !may_map([opener, &cred], &ns, &parent, which, &lines) {
        return Err(Errno::EPERM);
    }
    let outside = |line: &Extent| {
        let first = parent.take_all(which, line.outside, line.count).map_err(|_| Errno::EPERM)?;
        Ok(Extent { outside: first, ..*line })
    };
    let lines = lines.iter().map(outside).collect::<Result<Vec<_>>>()?;
    let mut maps = ns.maps.lock();
    let map = maps.of(which);
    if !map.is_empty() {
        return Err(Errno::EPERM);
    }
    *map = lines;
    drop(maps);
    target.show_ids_anew();
    Ok(())
}

/// One's own id may be mapped by anybody, others where both who opened the file and who writes may take them in the parent.
fn may_map(both: [&Cred; 2], ns: &UserNs, parent: &Arc<UserNs>, which: Which, lines: &[Extent]) -> bool {
    let [opener, _] = both;
    if let [Extent { outside, count: 1, .. }] = lines
        && ns.owner.0 == opener.euid
    {
        let own = match which {
            Which::Users => parent.take(which, *outside) == Ok(opener.euid),
            Which::Groups => ns.deny_groups.load(Relaxed) && parent.take(which, *outside) == Ok(opener.egid),
            Which::Projects => true,
        };
        if own {
            return true;
        }
    }
    let needed = if which == Which::Users { cap::SETUID } else { cap::SETGID };
    both.iter().all(|cred| cred.capable_in(parent, needed))
}

fn parse(text: &[u8]) -> Result<Vec<Extent>> {
    // A string's NUL may have been written, too.
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let mut lines: Vec<Extent> = Vec::new();
    for line in text.lines() {
        let numbers = line.split_whitespace().map(|word| word.parse().map_err(|_| Errno::EINVAL));
        let numbers = numbers.collect::<Result<Vec<u32>>>()?;
        let [inside, outside, count] = numbers[..] else { return Err(Errno::EINVAL) };
        let fits = |first: u32| first != u32::MAX && first.checked_add(count - 1).is_some_and(|last| last != u32::MAX);
        if count == 0 || !fits(inside) || !fits(outside) || lines.len() >= EXTENTS_MAX {
            return Err(Errno::EINVAL);
        }
        let apart = |a: u32, an: u32, b: u32, bn: u32| {
            u64::from(a) + u64::from(an) <= u64::from(b) || u64::from(b) + u64::from(bn) <= u64::from(a)
        };
        let free = |other: &Extent| {
            apart(inside, count, other.inside, other.count) && apart(outside, count, other.outside, other.count)
        };
        if !lines.iter().all(free) {
            return Err(Errno::EINVAL);
        }
        lines.push(Extent { inside, outside, count });
    }
    if lines.is_empty() { Err(Errno::EINVAL) } else { Ok(lines) }
}

/// A write to `setgroups` of `target`, to a file that `opener` opened.
///
/// # Errors
/// `EINVAL`; `EPERM` once groups are mapped.
pub fn write_setgroups(opener: &Cred, target: &Task, text: &[u8]) -> Result<()> {
    let ns = target.cred().user_ns.clone();
    if !opener.capable_in(&ns, cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    // A string's NUL may have been written, too.
    match text.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii_end() {
        b"allow" if ns.deny_groups.load(Relaxed) => Err(Errno::EPERM),
        b"allow" => Ok(()),
        b"deny" if !ns.extents(Which::Groups, <[Extent]>::is_empty) => Err(Errno::EPERM),
        b"deny" => {
            ns.deny_groups.store(true, Relaxed);
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Whether setgroups(2) is allowed in `ns`.
pub fn may_set_groups(ns: &UserNs) -> bool {
    !ns.deny_groups.load(Relaxed) && !ns.extents(Which::Groups, <[Extent]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_strictly() {
        assert_eq!(parse(b"0 1000 1\n"), Ok(Vec::from([Extent { inside: 0, outside: 1000, count: 1 }])));
        for bad in ["", "0 0", "0 0 0", "x 0 1", "0 4294967295 1", "0 0 5\n3 10 1", "0 0 5\n9 4 1"] {
            assert_eq!(parse(bad.as_bytes()), Err(Errno::EINVAL), "{bad}");
        }
    }

    #[test]
    fn ids_go_through_the_map_both_ways() {
        let maps = Maps { users: Vec::from([Extent { inside: 0, outside: 1000, count: 2 }]), ..Maps::default() };
        let ns = UserNs::with(9, Some(UserNs::first()), (1000, 1000), maps, None);
        assert_eq!((ns.take(Which::Users, 1), ns.take(Which::Users, 2)), (Ok(1001), Err(Errno::EINVAL)));
        assert_eq!((ns.show(Which::Users, 1000), ns.show(Which::Users, 0)), (0, OVERFLOW));
        assert_eq!(ns.show(Which::Groups, 1000), OVERFLOW);
    }

    #[test]
    fn capabilities_count_downwards_only() {
        let ns = UserNs::for_tests(&UserNs::first(), 1000);
        let inner = with_all(&Cred::new(1000, 1000), ns.clone());
        assert!(inner.capable_in(&ns, cap::SYS_ADMIN) && !inner.capable_in(&UserNs::first(), cap::SYS_ADMIN));
        assert!(!inner.capable(cap::SYS_ADMIN));
        assert!(Cred::new(0, 0).capable_in(&ns, cap::SYS_ADMIN));
        assert!(Cred::new(1000, 1000).capable_in(&ns, cap::SYS_ADMIN));
        assert!(!Cred::new(1001, 1001).capable_in(&ns, cap::SYS_ADMIN));
    }
}
