//! Namespaces: what a task sees of the machine's names, IPC objects, network and users. Source: namespaces(7).
//!
//! * [`NsProxy`]: a task's namespaces of most kinds, immutable, shared by tasks until one changes. The user namespace is
//!   part of its credentials ([`user`]); mounts are part of its [`crate::fs::FsContext`].
//! * [`Ns`]: one namespace of any kind, as `/proc/PID/ns/*` and setns(2) have it ([`file`] makes it a file).
//! * [`unshare`], [`setns`]: the calls. clone(2) uses [`NsProxy::for_clone`].

pub mod count;
pub mod file;
pub mod pid;
pub mod time;
pub mod user;
pub mod uts;

use super::clone::CloneFlags;
use super::{Cred, Task, cap};
use crate::cgroup;
use crate::fs::tree::{self, MountNamespace};
use crate::fs::{self, FsContext};
use crate::ipc::sysv;
use crate::net;
use crate::{Errno, Result};
use alloc::sync::Arc;
use count::{Counted, Ticket};
pub use pid::PidNs;
pub use time::TimeNs;
use umbel_smp::lock::Once;
pub use user::UserNs;
pub use uts::Uts;

/// Inode numbers of the namespaces that the machine boots with, as Linux has them.
mod first {
    pub const CGROUP: u64 = 0xeffffffb;
    pub const UTS: u64 = 0xeffffffe;
    pub const USER: u64 = 0xeffffffd;
    pub const PID: u64 = 0xeffffffc;
    pub const TIME: u64 = 0xeffffffa;
}

/// Flags that make namespaces.
pub const ALL: CloneFlags = CloneFlags::NEWUTS
    .union(CloneFlags::NEWIPC)
    .union(CloneFlags::NEWNET)
    .union(CloneFlags::NEWUSER)
    .union(CloneFlags::NEWCGROUP)
    .union(CloneFlags::NEWPID)
    .union(CloneFlags::NEWTIME)
    .union(CloneFlags::NEWNS);

/// A cgroup namespace: whoever is in it sees a group as the root of the tree.
pub struct Cgroup {
    id: u64,
    owner: Arc<UserNs>,
    /// That group.
    pub root: Arc<cgroup::Cgroup>,
    _counts: Option<Ticket>,
}

impl Cgroup {
    /// The user namespace that owns it.
    pub fn owner(&self) -> Arc<UserNs> {
        self.owner.clone()
    }
}

/// An object of namespace `T` with the user namespace that owns it.
pub struct Owned<T> {
    pub ns: Arc<T>,
    pub owner: Arc<UserNs>,
    /// What it counts for, unless the namespace itself knows.
    counts: Option<Arc<Ticket>>,
}

impl<T> Clone for Owned<T> {
    fn clone(&self) -> Self {
        Owned { ns: self.ns.clone(), owner: self.owner.clone(), counts: self.counts.clone() }
    }
}

/// A task's namespaces.
#[derive(Clone)]
pub struct NsProxy {
    pub uts: Arc<Uts>,
    pub ipc: Owned<sysv::Namespace>,
    pub net: Owned<net::namespace::Namespace>,
    pub cgroup: Arc<Cgroup>,
    /// Where its children get numbers; a process stays in the one that it was made in.
    pub pid_for_children: Arc<PidNs>,
    pub time: Arc<TimeNs>,
    /// That of its children, and of what it executes.
    pub time_for_children: Arc<TimeNs>,
    /// Who owns the mounts that the task's `FsContext` shows.
    pub mounts_owner: Arc<UserNs>,
}

impl NsProxy {
    /// Those that the machine boots with.
    pub fn first() -> Arc<NsProxy> {
        static FIRST: Once<Arc<NsProxy>> = Once::new();
        let make = || {
            let owner = UserNs::first();
            Arc::new(NsProxy {
                uts: Uts::first(),
                ipc: Owned { ns: sysv::first(), owner: owner.clone(), counts: None },
                net: Owned { ns: net::namespace::initial().clone(), owner: owner.clone(), counts: None },
                cgroup: Arc::new(Cgroup {
                    id: first::CGROUP,
                    owner: owner.clone(),
                    root: cgroup::root().clone(),
                    _counts: None,
                }),
                pid_for_children: PidNs::first(),
                time: TimeNs::first(),
                time_for_children: TimeNs::first(),
                mounts_owner: owner,
            })
        };
        FIRST.call_once(make).clone()
    }

    /// A copy with new namespaces where `flags` ask for them, owned by `owner`.
    fn with_new(&self, task: &Task, flags: CloneFlags, owner: &Arc<UserNs>) -> Result<NsProxy> {
        let mut new = self.clone();
        let euid = task.cred().euid;
        let ticket = |kind| Ticket::take(owner, euid, kind);
        if flags.contains(CloneFlags::NEWUTS) {
            new.uts = self.uts.copy(owner, ticket(Counted::Uts)?);
        }
        if flags.contains(CloneFlags::NEWIPC) {
            let counts = Some(Arc::new(ticket(Counted::Ipc)?));
            new.ipc = Owned { ns: sysv::Namespace::new(), owner: owner.clone(), counts };
        }
        if flags.contains(CloneFlags::NEWNET) {
            let counts = Some(Arc::new(ticket(Counted::Net)?));
            new.net = Owned { ns: net::namespace::Namespace::new(), owner: owner.clone(), counts };
        }
        if flags.contains(CloneFlags::NEWCGROUP) {
            let root = task.process().cgroup.group();
            let counts = Some(ticket(Counted::Cgroup)?);
            new.cgroup = Arc::new(Cgroup { id: fs::next_ino(), owner: owner.clone(), root, _counts: counts });
        }
        if flags.contains(CloneFlags::NEWNS) {
            new.mounts_owner = owner.clone();
        }
        if flags.contains(CloneFlags::NEWPID) {
            new.pid_for_children = PidNs::new(&self.pid_for_children, owner, ticket(Counted::Pid)?)?;
        }
        if flags.contains(CloneFlags::NEWTIME) {
            new.time_for_children = self.time_for_children.copy(owner, ticket(Counted::Time)?);
        }
        Ok(new)
    }

    /// The same in the time namespace that is meant for children, if that is another one.
    pub fn in_time_for_children(self: &Arc<NsProxy>) -> Arc<NsProxy> {
        if Arc::ptr_eq(&self.time, &self.time_for_children) {
            return self.clone();
        }
        self.time_for_children.enter();
        Arc::new(NsProxy { time: self.time_for_children.clone(), ..(**self).clone() })
    }
}

/// The credentials and namespaces with which a task goes on.
pub struct Fresh {
    pub cred: Option<Cred>,
    pub ns: Option<Arc<NsProxy>>,
    /// With mounts of its own.
    pub fs: Option<Arc<FsContext>>,
}

/// What `flags` of clone(2) or unshare(2) make for `task`.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` (in the new user namespace, if one is asked for);
/// `ENOSPC` for user or PID namespaces nested too deeply, and for too many of any kind.
pub fn make(task: &Task, flags: CloneFlags) -> Result<Fresh> {
    let wanted = flags & ALL;
    let own = task.cred();
    let cred = if wanted.contains(CloneFlags::NEWUSER) { Some(user::enter_new(task, &own)?) } else { None };
    let acting = cred.as_ref().unwrap_or(&own);
    let others = wanted - CloneFlags::NEWUSER;
    if others.is_empty() {
        return Ok(Fresh { cred, ns: None, fs: None });
    }
    if !acting.capable_here(cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let now = task.ns();
    if others.contains(CloneFlags::NEWPID) && !Arc::ptr_eq(&now.pid_for_children, task.process().pid_ns()) {
        return Err(Errno::EINVAL);
    }
    let ns = Arc::new(now.with_new(task, others, &acting.user_ns)?);
    let level = acting.user_ns.level();
    let fs = if others.contains(CloneFlags::NEWNS) {
        let ticket = Ticket::take(&acting.user_ns, own.euid, Counted::Mounts)?;
        Some(tree::copy_namespace(&*task.fs()?, level, ticket)?)
    } else {
        None
    };
    Ok(Fresh { cred, ns: Some(ns), fs })
}

/// unshare(2).
///
/// # Errors
/// `EINVAL`, `EPERM`, `ENOMEM`: see unshare(2).
pub fn unshare(task: &Arc<Task>, flags: CloneFlags) -> Result<()> {
    let shares = CloneFlags::FS
        | CloneFlags::FILES
        | CloneFlags::SYSVSEM
        | CloneFlags::THREAD
        | CloneFlags::SIGHAND
        | CloneFlags::VM;
    if !(ALL | shares).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let mut alone = flags.intersects(CloneFlags::THREAD | CloneFlags::SIGHAND | CloneFlags::VM);
    alone |= flags.contains(CloneFlags::NEWUSER);
    if alone && task.process().live_threads() > 1 {
        return Err(Errno::EINVAL);
    }
    let fresh = make(task, flags)?;
    if flags.intersects(CloneFlags::FS | CloneFlags::NEWUSER | CloneFlags::NEWNS) {
        let own = match fresh.fs {
            Some(own) => own,
            None => task.fs()?.duplicate(),
        };
        drop(task.replace_fs(Some(own)));
    }
    if flags.contains(CloneFlags::FILES) {
        let own = task.files()?.duplicate()?;
        drop(task.replace_files(Some(own)));
    }
    if let Some(cred) = fresh.cred {
        task.set_cred(cred);
    }
    if let Some(ns) = fresh.ns {
        task.set_ns(ns);
    }
    Ok(())
}

/// One namespace.
#[derive(Clone)]
pub enum Ns {
    Uts(Arc<Uts>),
    Ipc(Owned<sysv::Namespace>),
    Net(Owned<net::namespace::Namespace>),
    User(Arc<UserNs>),
    Cgroup(Arc<Cgroup>),
    Mounts(Owned<MountNamespace>),
    Pid(Arc<PidNs>),
    Time(Arc<TimeNs>),
}

/// Finds the namespace of one kind of a task.
pub type NsOf = fn(&Task) -> Ns;

/// Names in `/proc/PID/ns`, and what each is of a task; in the order of the requests of pidfds (`PIDFD_GET_*_NAMESPACE`).
pub const KINDS: &[(&str, NsOf)] = &[
    ("cgroup", |task| Ns::Cgroup(task.ns().cgroup.clone())),
    ("ipc", |task| Ns::Ipc(task.ns().ipc.clone())),
    ("mnt", mounts_of),
    ("net", |task| Ns::Net(task.ns().net.clone())),
    ("pid", |task| Ns::Pid(task.process().pid_ns().clone())),
    ("pid_for_children", |task| Ns::Pid(task.ns().pid_for_children.clone())),
    ("time", |task| Ns::Time(task.ns().time.clone())),
    ("time_for_children", |task| Ns::Time(task.ns().time_for_children.clone())),
    ("user", |task| Ns::User(task.cred().user_ns.clone())),
    ("uts", |task| Ns::Uts(task.ns().uts.clone())),
];

/// A task without files has the mounts that the machine boots with, as far as anybody can tell.
fn mounts_of(task: &Task) -> Ns {
    let owner = task.ns().mounts_owner.clone();
    match task.fs().ok().and_then(|fs| fs.namespace()) {
        Some(ns) => Ns::Mounts(Owned { ns, owner, counts: None }),
        None => Ns::Time(TimeNs::first()),
    }
}

impl Ns {
    /// The number that tells it from all others: its inode number.
    pub fn id(&self) -> u64 {
        match self {
            Ns::Uts(uts) => uts.id,
            Ns::Ipc(ipc) => ipc.ns.id,
            Ns::Net(net) => net.ns.id,
            Ns::User(user) => user.id,
            Ns::Cgroup(cgroup) => cgroup.id,
            Ns::Mounts(mounts) => mounts.ns.id(),
            Ns::Pid(pid) => pid.id,
            Ns::Time(time) => time.id,
        }
    }

    /// Its kind: the name in links, and the flag of clone(2).
    pub fn kind(&self) -> (&'static str, u64) {
        let (name, flag) = match self {
            Ns::Uts(_) => ("uts", CloneFlags::NEWUTS),
            Ns::Ipc(_) => ("ipc", CloneFlags::NEWIPC),
            Ns::Net(_) => ("net", CloneFlags::NEWNET),
            Ns::User(_) => ("user", CloneFlags::NEWUSER),
            Ns::Cgroup(_) => ("cgroup", CloneFlags::NEWCGROUP),
            Ns::Mounts(_) => ("mnt", CloneFlags::NEWNS),
            Ns::Pid(_) => ("pid", CloneFlags::NEWPID),
            Ns::Time(_) => ("time", CloneFlags::NEWTIME),
        };
        (name, flag.bits())
    }

    /// Whether anybody can be in it: not a PID namespace whose first process is still to come.
    pub fn is_ready(&self) -> bool {
        !matches!(self, Ns::Pid(pid) if pid.init().is_none())
    }

    /// The user namespace that owns it.
    pub fn owner(&self) -> Arc<UserNs> {
        match self {
            Ns::Uts(uts) => uts.owner.clone(),
            Ns::Ipc(ipc) => ipc.owner.clone(),
            Ns::Net(net) => net.owner.clone(),
            Ns::User(user) => user.parent().unwrap_or_else(|| user.clone()),
            Ns::Cgroup(cgroup) => cgroup.owner(),
            Ns::Mounts(mounts) => mounts.owner.clone(),
            Ns::Pid(pid) => pid.owner.clone(),
            Ns::Time(time) => time.owner.clone(),
        }
    }
}

/// setns(2): puts the caller into `ns`.
///
/// # Errors
/// `EPERM`, `EINVAL`.
pub fn setns(task: &Arc<Task>, ns: Ns) -> Result<()> {
    let cred = task.cred();
    if let Ns::User(user) = &ns {
        return user::enter(task, &cred, user);
    }
    if !cred.capable_in(&ns.owner(), cap::SYS_ADMIN) || !cred.capable_here(cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let mut new = (*task.ns()).clone();
    match ns {
        Ns::Uts(uts) => new.uts = uts,
        Ns::Ipc(ipc) => new.ipc = ipc,
        Ns::Net(net) => new.net = net,
        Ns::Cgroup(cgroup) => new.cgroup = cgroup,
        Ns::Mounts(mounts) => {
            enter_mounts(task, &cred, &mounts)?;
            new.mounts_owner = mounts.owner;
        }
        Ns::Pid(pid) => {
            if !pid.is_within(task.process().pid_ns()) {
                return Err(Errno::EINVAL);
            }
            new.pid_for_children = pid;
        }
        Ns::Time(time) => {
            if task.process().live_threads() > 1 {
                return Err(Errno::EUSERS);
            }
            time.enter();
            (new.time, new.time_for_children) = (time.clone(), time);
        }
        Ns::User(_) => {}
    }
    task.set_ns(Arc::new(new));
    Ok(())
}

/// Root and current directory become the root of `mounts`.
fn enter_mounts(task: &Task, cred: &Cred, mounts: &Owned<MountNamespace>) -> Result<()> {
    if !cred.capable_here(cap::SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    let fs = task.fs()?;
    if fs.users() > 1 {
        return Err(Errno::EINVAL);
    }
    let root = mounts.ns.root().root_path()?.top();
    fs.set_places(root.clone(), root, Some(mounts.ns.clone()));
    Ok(())
}
