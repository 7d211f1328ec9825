//! One guest thread.

use super::ns::NsProxy;
use super::ns::time::Offset;
use super::{Charge, Count, Cred, Process, User};
use crate::fs::{FdTable, FsContext};
use crate::signal;
use crate::vm::Space;
use crate::{Errno, Pid, Result};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use linux_raw_sys::general::RLIMIT_NPROC;
use umbel_gate::UserContext;
use umbel_mm::heap::{self, account};
use umbel_mm::stack::KernelStack;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::thread::ThreadRef;

/// Bytes of a thread's name, its NUL included.
pub const COMM_LEN: usize = 16;

/// A thread's name, NUL-padded.
pub type Comm = [u8; COMM_LEN];

/// A guest thread, or a kernel thread (then without space, files and fs).
pub struct Task {
    /// Changes once: when a thread that is not the leader calls execve(2) and takes the leader's place.
    tid: AtomicI32,
    /// Immutable.
    process: Arc<Process>,
    /// What a kernel thread runs; `None` for guest threads. Immutable.
    pub body: Option<fn(&Arc<Task>)>,
    /// Its kernel stack, freed after the last switch away from it.
    _stack: Option<KernelStack>,
    /// What the scheduler knows of it. Immutable reference.
    pub thread: ThreadRef,
    /// Registers, FPU, segment bases: touched by the thread itself, or before it runs.
    pub user: UserContext,
    /// Signals of this thread. Own locks.
    pub signal: signal::Private,
    /// What the thread itself replaces and others read.
    own: SpinLock<Own>,
    /// Address to zero and wake at exit, 0 = none. The thread's own.
    pub clear_child_tid: AtomicU64,
    /// Head of the robust futex list, 0 = none. The thread's own.
    pub robust_list: AtomicU64,
    /// See [`super::rseq`]. The thread's own.
    pub rseq: super::rseq::Rseq,
    /// Being traced. Own lock.
    pub trace: super::ptrace::Traced,
    /// Filters on its system calls. Own lock.
    pub seccomp: super::seccomp::Seccomp,
    /// Calls that it handles itself.
    pub dispatch: super::dispatch::UserDispatch,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: AtomicBool,
    /// The account that what the kernel allocates for it is charged to: its user's.
    account: AtomicU16,
    /// It became a user that has more than `RLIMIT_NPROC` allows: execve(2) fails.
    pub too_many: AtomicBool,
    /// `PR_SET_TSC`: reading the time-stamp counter is a fault.
    pub no_counter: AtomicBool,
    /// `PR_SET_PDEATHSIG`: signal at the parent's death, 0 = none.
    pub parent_death_signal: AtomicU32,
    /// `PR_SET_TIMERSLACK`, ns.
    pub timer_slack_ns: AtomicU64,
    /// What it goes back to: the slack of the thread that made this one.
    pub default_slack_ns: AtomicU64,
    /// ioprio_set(2): class and level, 0 = none.
    pub io_priority: AtomicU32,
    /// set_mempolicy(2): a [`crate::vm::policy::Policy`].
    pub mem_policy: AtomicU32,
    /// The thread is to leave the run loop: `exit(code)` was called. Set once by the thread itself.
    pub exiting: AtomicBool,
    /// Exit code of exit(2).
    pub exit_code: AtomicI32,
    /// Its times are in its process's. Protected by the process's `times`.
    pub counted: AtomicBool,
    /// Mark of the ids that slot pages show: unique among all threads, new after each change.
    identity: AtomicU32,
    /// The space without patches in which the thread was seen not to be on the way from one (`vm::Space::is_unpatched`).
    pub own_text_of: AtomicU64,
    /// Offsets of its time namespace. See [`Self::time_offset_ns`].
    time_offsets: [AtomicI64; 2],
    /// What it keeps for its control group.
    pub in_group: crate::cgroup::OfThread,
    /// Scheduling parameters and accounts.
    pub sched: crate::sched::Entity,
}

/// Protected by `Task::own`.
struct Own {
    cred: Arc<Cred>,
    /// What it counts for as one of its user's.
    charge: Option<Charge>,
    comm: Comm,
    space: Option<Arc<Space>>,
    files: Option<Arc<FdTable>>,
    fs: Option<Arc<FsContext>>,
    ns: Arc<NsProxy>,
    /// Released at exec and exit: the vfork(2) parent waits for it.
    vfork_done: Option<Arc<super::Completion>>,
    /// The session keyring that a child gave it: see [`crate::keys::own`].
    next_session: Option<Arc<crate::keys::Key>>,
}

/// What a new task starts with.
pub struct NewTask {
    pub tid: Pid,
    pub process: Arc<Process>,
    /// The thread and its stack.
    pub thread: (ThreadRef, Option<KernelStack>),
    pub body: Option<fn(&Arc<Task>)>,
    pub user: UserContext,
    pub signal: signal::Private,
    pub sched: crate::sched::Entity,
    pub cred: Arc<Cred>,
    pub comm: Comm,
    pub space: Option<Arc<Space>>,
    pub files: Option<Arc<FdTable>>,
    pub fs: Option<Arc<FsContext>>,
    pub rseq: super::rseq::Rseq,
    pub seccomp: super::seccomp::Seccomp,
    pub ns: Arc<NsProxy>,
}

impl Task {
    /// A task that is in no table and on no run queue yet.
    pub fn new(new: NewTask) -> Arc<Task> {
        let time_offsets = new.ns.time.offsets().map(AtomicI64::new);
        let user = User::of(new.cred.uid);
        if let Some(fs) = &new.fs {
            fs.join();
        }
        let task = Task {
            tid: AtomicI32::new(new.tid.0),
            process: new.process,
            thread: new.thread.0,
            _stack: new.thread.1,
            body: new.body,
            user: new.user,
            signal: new.signal,
            own: SpinLock::new(
                Rank::Task,
                Own {
                    cred: new.cred,
                    charge: user.charge(Count::Processes, 1, u64::MAX),
                    comm: new.comm,
                    space: new.space,
                    files: new.files,
                    fs: new.fs,
                    ns: new.ns,
                    vfork_done: None,
                    next_session: None,
                },
            ),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            rseq: new.rseq,
            seccomp: new.seccomp,
            trace: Default::default(),
            dispatch: Default::default(),
            no_new_privs: AtomicBool::new(false),
            account: AtomicU16::new(user.account()),
            too_many: AtomicBool::new(false),
            no_counter: AtomicBool::new(false),
            parent_death_signal: AtomicU32::new(0),
            timer_slack_ns: AtomicU64::new(50_000),
            default_slack_ns: AtomicU64::new(50_000),
            io_priority: AtomicU32::new(0),
            mem_policy: AtomicU32::new(0),
            exiting: AtomicBool::new(false),
            exit_code: AtomicI32::new(0),
            counted: AtomicBool::new(false),
            identity: AtomicU32::new(next_identity()),
            own_text_of: AtomicU64::new(0),
            time_offsets,
            in_group: Default::default(),
            sched: new.sched,
        };
        // Hot: the gate's assembly reads the user context in it.
        let task = heap::hot(|| Arc::new(task));
        let owner: alloc::sync::Weak<Task> = Arc::downgrade(&task);
        task.thread.set_owner(owner);
        task.sched.attach(&task.thread);
        task
    }

    /// Its id.
    pub fn tid(&self) -> Pid {
        Pid(self.tid.load(Relaxed))
    }

    /// Takes over another id (execve of a thread that is not the leader). Under the lock of the table of ids.
    pub(super) fn set_tid(&self, tid: Pid) {
        self.tid.store(tid.0, Relaxed);
        self.change_identity();
    }

    /// Its thread group.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Whether it is its group's leader.
    pub fn is_leader(&self) -> bool {
        self.tid() == self.process.pid()
    }

    /// Its credentials now.
    pub fn cred(&self) -> Arc<Cred> {
        self.own.lock().cred.clone()
    }

    /// Replaces the credentials; the thread itself calls this.
    pub fn set_cred(&self, cred: Cred) {
        let cred = Arc::new(cred);
        self.process.set_uid(cred.uid);
        let old = core::mem::replace(&mut self.own.lock().cred, cred.clone());
        if old.uid != cred.uid {
            self.change_user(cred.uid);
        }
        let ids = |cred: &Cred| [cred.euid, cred.egid, cred.fsuid, cred.fsgid];
        if ids(&old) != ids(&cred) || !old.has_all_of(&cred) {
            // What it knows is not for those who could look before.
            self.process.dumpable.store(0, Relaxed);
            self.parent_death_signal.store(0, Relaxed);
        }
        if old.uid != cred.uid {
            crate::sched::group::change_user(self, cred.uid);
        }
        drop(old);
        self.change_identity();
    }

    /// The thread itself is another user's now.
    fn change_user(&self, uid: u32) {
        let user = User::of(uid);
        let limit = self.process.limit(RLIMIT_NPROC);
        let charge = user.charge(Count::Processes, 1, u64::MAX);
        self.too_many.store(uid != 0 && user.count(Count::Processes) > limit, Relaxed);
        let old = core::mem::replace(&mut self.own.lock().charge, charge);
        drop(old);
        self.account.store(user.account(), Relaxed);
        account::enter(user.account());
    }

    /// The account that what the kernel allocates for it is charged to.
    pub fn account(&self) -> u16 {
        self.account.load(Relaxed)
    }

    /// What it counts for as one of its user's, once it has ended.
    pub(super) fn take_charge(&self) -> Option<Charge> {
        self.own.lock().charge.take()
    }

    /// Its namespaces.
    pub fn ns(&self) -> Arc<NsProxy> {
        self.own.lock().ns.clone()
    }

    /// Replaces its namespaces; the thread itself calls this.
    pub(super) fn set_ns(&self, ns: Arc<NsProxy>) {
        for (own, new) in self.time_offsets.iter().zip(ns.time.offsets()) {
            own.store(new, Relaxed);
        }
        if !Arc::ptr_eq(&ns.ipc.ns, &self.ns().ipc.ns) && self.process.live_threads() <= 1 {
            crate::ipc::sysv::exit(self.process.pid().0);
        }
        let old = core::mem::replace(&mut self.own.lock().ns, ns);
        drop(old);
    }

    /// Gives up its IPC namespace, which ends with its last process. The thread itself calls this on its way out; the task may be held
    /// for longer. Without memory it keeps the namespace until then.
    pub(super) fn leave_ipc(&self) {
        let (ns, first) = (self.ns(), NsProxy::first());
        if Arc::ptr_eq(&ns.ipc.ns, &first.ipc.ns) || umbel_mm::heap::room().is_err() {
            return;
        }
        let left = Arc::new(NsProxy { ipc: first.ipc.clone(), ..(*ns).clone() });
        let old = core::mem::replace(&mut self.own.lock().ns, left);
        drop(old);
    }

    /// What it sees a clock show, less what the clock of the first time namespace shows.
    pub fn time_offset_ns(&self, clock: Offset) -> i64 {
        let [monotonic, boottime] = &self.time_offsets;
        let of = if clock == Offset::Monotonic { monotonic } else { boottime };
        of.load(Relaxed)
    }

    /// Whether the capability counts for its network.
    pub fn net_capable(&self, cap: u32) -> bool {
        let (cred, owner) = (self.cred(), self.ns().net.owner.clone());
        cred.capable_in(&owner, cap)
    }

    /// The ids that it sees have changed by the map of its user namespace.
    pub(super) fn show_ids_anew(&self) {
        self.change_identity();
    }

    /// Whether the capability is effective.
    pub fn capable(&self, cap: u32) -> bool {
        self.own.lock().cred.capable(cap)
    }

    /// Its name.
    pub fn comm(&self) -> Comm {
        self.own.lock().comm
    }

    /// Renames it; `name` is cut after 15 bytes.
    pub fn set_comm(&self, name: &[u8]) {
        self.own.lock().comm = comm(name);
    }

    /// Its address space; `None` for kernel threads and after the thread gave it up at exit.
    pub fn space(&self) -> Option<Arc<Space>> {
        self.own.lock().space.clone()
    }

    /// Its descriptors.
    ///
    /// # Errors
    /// `EBADF` for threads that have none.
    pub fn files(&self) -> Result<Arc<FdTable>> {
        self.own.lock().files.clone().ok_or(Errno::EBADF)
    }

    /// Its directory, root and umask.
    ///
    /// # Errors
    /// `ENOENT` for threads that have none.
    pub fn fs(&self) -> Result<Arc<FsContext>> {
        self.own.lock().fs.clone().ok_or(Errno::ENOENT)
    }

    /// Replaces the address space, giving back the old one.
    pub fn replace_space(&self, space: Option<Arc<Space>>) -> Option<Arc<Space>> {
        core::mem::replace(&mut self.own.lock().space, space)
    }

    /// Replaces the descriptors, giving back the old ones.
    pub fn replace_files(&self, files: Option<Arc<FdTable>>) -> Option<Arc<FdTable>> {
        core::mem::replace(&mut self.own.lock().files, files)
    }

    /// Replaces directory, root and umask, giving back the old ones.
    pub fn replace_fs(&self, fs: Option<Arc<FsContext>>) -> Option<Arc<FsContext>> {
        if let Some(new) = &fs {
            new.join();
        }
        let old = core::mem::replace(&mut self.own.lock().fs, fs);
        if let Some(old) = &old {
            old.leave();
        }
        old
    }

    /// Notes a session keyring that it is to take, or takes the note; the old one.
    pub fn replace_next_session(&self, ring: Option<Arc<crate::keys::Key>>) -> Option<Arc<crate::keys::Key>> {
        core::mem::replace(&mut self.own.lock().next_session, ring)
    }

    /// Makes somebody wait until [`Self::release_vfork`].
    pub(super) fn set_vfork(&self, done: Arc<super::Completion>) {
        self.own.lock().vfork_done = Some(done);
    }

    /// Whether a vfork(2) parent still waits for it to leave the address space that they share.
    pub(super) fn is_vfork_child(&self) -> bool {
        self.own.lock().vfork_done.is_some()
    }

    /// Lets the vfork(2) parent go on: the address space is no longer shared with it.
    pub(super) fn release_vfork(&self) {
        let done = self.own.lock().vfork_done.take();
        if let Some(done) = done {
            done.complete();
        }
    }

    /// An id that slot pages show has changed: the next exit to guest code shows the new one.
    pub(super) fn change_identity(&self) {
        self.identity.store(next_identity(), Relaxed);
    }

    /// See [`Self::change_identity`].
    pub fn identity(&self) -> u32 {
        self.identity.load(Relaxed)
    }

    /// Whether the thread must leave the run loop: it called exit(2) or its process is being ended.
    pub fn must_exit(&self) -> bool {
        self.exiting.load(Relaxed) || self.process.is_exiting() || self.process.is_replacing(self)
    }
}

fn next_identity() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Relaxed).wrapping_add(1)
}

/// `name` as a thread's name.
pub fn comm(name: &[u8]) -> Comm {
    let mut comm = [0; COMM_LEN];
    for (to, from) in comm.iter_mut().take(COMM_LEN - 1).zip(name) {
        *to = *from;
    }
    comm
}
