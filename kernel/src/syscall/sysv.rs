//! System V IPC: arguments, structures, commands. Semantics: [`crate::ipc::sysv`]; sources: the calls' man pages.

use super::Pid;
use crate::ipc::sysv::msg::{self, Message, Queue};
use crate::ipc::sysv::sem::{self, Op, Set};
use crate::ipc::sysv::shm::{self, Segment};
use crate::ipc::sysv::{GetRequest, IPC_NOWAIT, Limits, Namespace, Object, Perm, Table, namespace, now};
use crate::task::ns::pid::caller_sees;
use crate::task::ns::user::Which;
use crate::task::{self, Cred, Task, User, cap};
use crate::vm::map::Place;
use crate::vm::{Backing, MapRequest, Prot, VmaFlags};
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use umbel_abi::linux::uapi as nr;
use umbel_mm::user::{UserAddr, copy_in, copy_out, read_val, read_vec, write_val};
use umbel_mm::{PAGE, frame};

rows! {
    nr::__NR_shmget, shmget(key: i32, size: u64, flags: u32) => shmget, Partial("no huge pages");
    nr::__NR_shmat, shmat(id: i32, addr: UserAddr, flags: u32) => shmat, Full;
    nr::__NR_shmdt, shmdt(addr: UserAddr) => shmdt, Full;
    nr::__NR_shmctl, shmctl(id: i32, command: u32, buf: UserAddr) => shmctl, Full;
    nr::__NR_semget, semget(key: i32, count: i32, flags: u32) => semget, Full;
    nr::__NR_semop, semop(id: i32, ops: UserAddr, count: u64) => semop, Full;
    nr::__NR_semtimedop, semtimedop(id: i32, ops: UserAddr, count: u64, timeout: u64) => semtimedop, Full;
    nr::__NR_semctl, semctl(id: i32, num: i32, command: u32, arg: u64) => semctl, Full;
    nr::__NR_msgget, msgget(key: i32, flags: u32) => msgget, Full;
    nr::__NR_msgsnd, msgsnd(id: i32, message: UserAddr, len: u64, flags: u32) => msgsnd, Full;
    nr::__NR_msgrcv, msgrcv(id: i32, message: UserAddr, room: u64, kind: i64, flags: u32) => msgrcv, Full;
    nr::__NR_msgctl, msgctl(id: i32, command: u32, buf: UserAddr) => msgctl, Full;
}

const IPC_RMID: u32 = 0;
const IPC_SET: u32 = 1;
const IPC_STAT: u32 = 2;
const IPC_INFO: u32 = 3;

umbel_mm::pod! {
    /// `struct ipc64_perm`.
    struct PermArg {
        key: i32,
        uid: u32,
        gid: u32,
        cuid: u32,
        cgid: u32,
        mode: u32,
        seq: u16,
        pad: u16,
        pad2: u32,
        unused: [u64; 2],
    }
}

umbel_mm::pod! {
    /// `struct shmid64_ds`.
    struct ShmArg {
        perm: PermArg,
        size: u64,
        atime: i64,
        dtime: i64,
        ctime: i64,
        creator: i32,
        last: i32,
        attached: u64,
        unused: [u64; 2],
    }
}

umbel_mm::pod! {
    /// `struct semid64_ds`.
    struct SemArg {
        perm: PermArg,
        otime: i64,
        unused1: u64,
        ctime: i64,
        unused2: u64,
        count: u64,
        unused3: [u64; 2],
    }
}

umbel_mm::pod! {
    /// `struct msqid64_ds`.
    struct MsgArg {
        perm: PermArg,
        stime: i64,
        rtime: i64,
        ctime: i64,
        bytes: u64,
        count: u64,
        max_bytes: u64,
        last_sender: i32,
        last_receiver: i32,
        unused: [u64; 2],
    }
}

impl PermArg {
    /// As `viewer` has the ids.
    fn new(viewer: &Cred, perm: &Perm) -> PermArg {
        let Perm { key, mode, .. } = *perm;
        let (uid, cuid) = (viewer.show_uid(perm.uid), viewer.show_uid(perm.cuid));
        let (gid, cgid) = (viewer.show_gid(perm.gid), viewer.show_gid(perm.cgid));
        let seq = (perm.id >> 15) as u16;
        PermArg { key, uid, gid, cuid, cgid, mode, seq, pad: 0, pad2: 0, unused: [0; 2] }
    }

    /// The owners that it names.
    ///
    /// # Errors
    /// `EINVAL` for ids that are nobody's in the caller's user namespace.
    fn owners(&self, cred: &Cred) -> Result<(u32, u32)> {
        Ok((cred.user_ns.take(Which::Users, self.uid)?, cred.user_ns.take(Which::Groups, self.gid)?))
    }
}

/// The object of a `*_STAT` command: by id, or by table index, which gives the id. Index with `any` needs no permission.
fn stat<T: Object>(task: &Task, table: &Table<T>, id: i32, by_index: bool, any: bool) -> Result<(Arc<T>, i32)> {
    let object = if by_index { table.at(id)? } else { table.find(id)? };
    let perm = object.perm();
    if !any {
        perm.check(&task.cred(), 0o444)?;
    }
    Ok((object, if by_index { perm.id } else { 0 }))
}

/// The number that process `pid` has for the caller.
fn seen(pid: i32) -> i32 {
    caller_sees(Pid(pid))
}

fn own_pid(task: &Task) -> i32 {
    task.process().pid().0
}

// Shared memory.

const SHM_HUGETLB: u32 = 0o4000;
const SHM_RDONLY: u32 = 0o10000;
const SHM_RND: u32 = 0o20000;
const SHM_REMAP: u32 = 0o40000;
const SHM_EXEC: u32 = 0o100000;
const SHM_LOCK: u32 = 11;
const SHM_UNLOCK: u32 = 12;
const SHM_STAT: u32 = 13;
const SHM_INFO: u32 = 14;
const SHM_STAT_ANY: u32 = 15;

fn shmget(task: &Arc<Task>, key: i32, size: u64, flags: u32) -> Result<i32> {
    let space = namespace();
    let limits = &space.limits;
    let request = GetRequest { key, flags, limit: Limits::get(&limits.shmmni) };
    let large_enough = |segment: &Segment| if segment.size < size { Err(Errno::EINVAL) } else { Ok(()) };
    let make = |perm| {
        if size == 0 || size > Limits::get(&limits.shmmax) {
            return Err(Errno::EINVAL);
        }
        if flags & SHM_HUGETLB != 0 {
            return Err(Errno::EINVAL);
        }
        let pages = size.div_ceil(PAGE);
        if pages > Limits::get(&limits.shmall) {
            return Err(Errno::ENOSPC);
        }
        // More than all of RAM can never be used.
        if pages > frame::usage().total {
            return Err(Errno::ENOMEM);
        }
        Segment::new(perm, size, own_pid(task), &space)
    };
    space.shm.get(&request, &task.cred(), large_enough, make)
}

fn shmat(task: &Arc<Task>, id: i32, addr: UserAddr, flags: u32) -> Result<UserAddr> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let place = match (addr.is_null(), flags & SHM_REMAP != 0) {
        (true, true) => return Err(Errno::EINVAL),
        (true, _) => Place::Anywhere,
        (_, true) => Place::Fixed,
        _ => Place::FixedFree,
    };
    let addr = if flags & SHM_RND != 0 { UserAddr(addr.0 & !(PAGE - 1)) } else { addr };
    if !addr.is_page_aligned() || addr.is_null() && place != Place::Anywhere {
        return Err(Errno::EINVAL);
    }
    let segment = namespace().shm.find(id)?;
    let (read_only, exec) = (flags & SHM_RDONLY != 0, flags & SHM_EXEC != 0);
    let wanted = if read_only { 0o444 } else { 0o666 } | if exec { 0o111 } else { 0 };
    segment.perm().check(&task.cred(), wanted)?;
    let mut prot = Prot::READ;
    prot.set(Prot::WRITE, !read_only);
    prot.set(Prot::EXEC, exec);
    let mut area = VmaFlags::SHARED;
    area.set(VmaFlags::MAYWRITE, !read_only);
    let backing = Backing::File { object: segment.memory.clone(), offset: 0, file: Some(segment.attach()) };
    let request = MapRequest { addr, len: segment.size, place, prot, flags: area, backing };
    let mapped = task.space().ok_or(Errno::ESRCH)?.map(request);
    let at = mapped.map_err(|errno| if errno == Errno::EEXIST { Errno::EINVAL } else { errno })?;
    segment.update(|state| (state.atime, state.last) = (now(), own_pid(task)));
    Ok(at)
}

/// Unmaps the areas of one attachment: those that lie where they would if all began at `addr`.
fn shmdt(task: &Arc<Task>, addr: UserAddr) -> Result<()> {
    if !addr.is_page_aligned() {
        return Err(Errno::EINVAL);
    }
    let space = task.space().ok_or(Errno::ESRCH)?;
    let mut areas: Vec<(u64, u64, u64)> = Vec::new();
    space.for_each_vma(|vma| {
        if let Some(file) = &vma.file
            && let (shm::DEV, id) = file.identity()
            && vma.start.checked_sub(vma.offset) == Some(addr.0)
        {
            areas.push((vma.start, vma.end, id));
        }
    });
    let &(_, _, id) = areas.first().ok_or(Errno::EINVAL)?;
    for (start, end, own) in areas {
        if own == id {
            space.unmap(UserAddr(start), end - start)?;
        }
    }
    if let Ok(segment) = namespace().shm.find(id as i32) {
        segment.update(|state| (state.dtime, state.last) = (now(), own_pid(task)));
    }
    Ok(())
}

fn shmctl(task: &Arc<Task>, id: i32, command: u32, buf: UserAddr) -> Result<i32> {
    let space = namespace();
    match command {
        _ if id < 0 => Err(Errno::EINVAL),
        IPC_INFO => {
            let limits = &space.limits;
            let [max, all, count] = [&limits.shmmax, &limits.shmall, &limits.shmmni].map(Limits::get);
            write_val(buf, &[max, 1, count, count, all, 0, 0, 0, 0])?;
            Ok(space.shm.highest())
        }
        SHM_INFO => {
            let all = space.shm.list();
            let pages: u64 = all.iter().map(|segment| segment.size.div_ceil(PAGE)).sum();
            let resident: u64 = all.iter().map(|segment| segment.memory.resident()).sum();
            write_val(buf, &[all.len() as u64, pages, resident, 0, 0, 0])?;
            Ok(space.shm.highest())
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let (segment, result) = stat(task, &space.shm, id, command != IPC_STAT, command == SHM_STAT_ANY)?;
            write_val(buf, &describe_segment(&segment)).map(|()| result)
        }
        IPC_SET => {
            let new: ShmArg = read_val(buf)?;
            let segment = space.shm.find(id)?;
            segment.perm().check_owner(&task.cred())?;
            let (uid, gid) = new.perm.owners(&task.cred())?;
            segment.update(|state| state.perm.set(uid, gid, new.perm.mode));
            Ok(0)
        }
        IPC_RMID => {
            let segment = space.shm.find(id)?;
            segment.perm().check_owner(&task.cred())?;
            space.shm.unname(id);
            if segment.doom() {
                drop(space.shm.remove(id));
            }
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => lock_segment(task, &space, id, command == SHM_LOCK).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn describe_segment(segment: &Segment) -> ShmArg {
    let state = segment.state();
    ShmArg {
        perm: PermArg::new(&task::current().cred(), &state.perm),
        size: segment.size,
        atime: state.atime,
        dtime: state.dtime,
        ctime: state.perm.ctime,
        creator: seen(segment.creator),
        last: seen(state.last),
        attached: segment.attached() as u64,
        unused: [0; 2],
    }
}

/// Nothing is ever swapped out: only the mark and who may set it.
fn lock_segment(task: &Task, space: &Namespace, id: i32, lock: bool) -> Result<()> {
    let segment = space.shm.find(id)?;
    if !task.capable(cap::IPC_LOCK) {
        let perm = segment.perm();
        let euid = task.cred().euid;
        if euid != perm.uid && euid != perm.cuid || lock && task.process().limit(nr::RLIMIT_MEMLOCK) == 0 {
            return Err(Errno::EPERM);
        }
    }
    let limit = if task.capable(cap::IPC_LOCK) { u64::MAX } else { task.process().limit(nr::RLIMIT_MEMLOCK) };
    let user = User::of(task.cred().uid);
    segment.set_locked(lock.then_some((&user, limit)))
}

// Semaphores.

const GETPID: u32 = 11;
const GETVAL: u32 = 12;
const GETALL: u32 = 13;
const GETNCNT: u32 = 14;
const GETZCNT: u32 = 15;
const SETVAL: u32 = 16;
const SETALL: u32 = 17;
const SEM_STAT: u32 = 18;
const SEM_INFO: u32 = 19;
const SEM_STAT_ANY: u32 = 20;

fn semget(task: &Arc<Task>, key: i32, count: i32, flags: u32) -> Result<i32> {
    let space = namespace();
    let [most, all, _, sets] = sem::limits(&space.limits);
    let count = u64::try_from(count).ok().filter(|&count| count <= most).ok_or(Errno::EINVAL)?;
    let request = GetRequest { key, flags, limit: sets };
    let large_enough = |set: &Set| if (set.count() as u64) < count { Err(Errno::EINVAL) } else { Ok(()) };
    let make = |perm| match count {
        0 => Err(Errno::EINVAL),
        _ if count > all => Err(Errno::ENOSPC),
        _ => Set::new(perm, count as usize),
    };
    space.sem.get(&request, &task.cred(), large_enough, make)
}

fn semop(task: &Arc<Task>, id: i32, ops: UserAddr, count: u64) -> Result<()> {
    semtimedop(task, id, ops, count, 0)
}

fn semtimedop(task: &Arc<Task>, id: i32, ops: UserAddr, count: u64, timeout: u64) -> Result<()> {
    let space = namespace();
    let [_, _, most, _] = sem::limits(&space.limits);
    let deadline = match timeout {
        0 => None,
        at => Some(time::deadline_in(time::read_timespec(at)?)),
    };
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL);
    }
    if count > most {
        return Err(Errno::E2BIG);
    }
    let ops: Vec<Op> = read_vec(ops, count as usize)?;
    let set = space.sem.find(id)?;
    if ops.iter().any(|op| usize::from(op.number()) >= set.count()) {
        return Err(Errno::EFBIG);
    }
    let alters = ops.iter().any(Op::alters);
    set.perm().check(&task.cred(), if alters { 0o222 } else { 0o444 })?;
    set.operate(&ops, own_pid(task), deadline, &space.undo)
}

fn semctl(task: &Arc<Task>, id: i32, num: i32, command: u32, arg: u64) -> Result<i32> {
    let space = namespace();
    let buf = UserAddr(arg);
    match command {
        _ if id < 0 => Err(Errno::EINVAL),
        IPC_INFO | SEM_INFO => {
            let [most, all, ops, sets] = sem::limits(&space.limits).map(|limit| limit as i32);
            let list = space.sem.list();
            let used: usize = list.iter().map(|set| set.count()).sum();
            let (size, exit) =
                if command == SEM_INFO { (list.len() as i32, used as i32) } else { (20, sem::VALUE_MAX) };
            write_val(buf, &[all, sets, all, all, most, ops, ops, size, sem::VALUE_MAX, exit])?;
            Ok(space.sem.highest())
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let (set, result) = stat(task, &space.sem, id, command != IPC_STAT, command == SEM_STAT_ANY)?;
            let (perm, otime, count) = set.facts();
            let perm_arg = PermArg::new(&task::current().cred(), &perm);
            let (ctime, count) = (perm.ctime, count as u64);
            let out = SemArg { perm: perm_arg, otime, unused1: 0, ctime, unused2: 0, count, unused3: [0; 2] };
            write_val(buf, &out).map(|()| result)
        }
        IPC_SET => {
            let new: SemArg = read_val(buf)?;
            let set = space.sem.find(id)?;
            set.perm().check_owner(&task.cred())?;
            let (uid, gid) = new.perm.owners(&task.cred())?;
            set.set_perm(uid, gid, new.perm.mode);
            Ok(0)
        }
        IPC_RMID => {
            let set = space.sem.find(id)?;
            set.perm().check_owner(&task.cred())?;
            space.sem.remove(id).ok_or(Errno::EINVAL)?.removed(&space.undo);
            Ok(0)
        }
        _ => sem_values(task, &*space.sem.find(id)?, num, command, arg),
    }
}

/// Commands that read or set values.
fn sem_values(task: &Task, set: &Set, num: i32, command: u32, arg: u64) -> Result<i32> {
    let allowed = |wanted| set.perm().check(&task.cred(), wanted);
    let index = || usize::try_from(num).ok().filter(|&num| num < set.count()).ok_or(Errno::EINVAL);
    match command {
        GETALL => {
            allowed(0o444)?;
            let bytes: Vec<u8> = set.values()?.into_iter().flat_map(u16::to_ne_bytes).collect();
            copy_out(UserAddr(arg), &bytes).map(|()| 0)
        }
        SETALL => {
            allowed(0o222)?;
            let mut bytes = alloc::vec![0; set.count() * 2];
            copy_in(&mut bytes, UserAddr(arg))?;
            let value = |pair: &[u8]| pair.try_into().map_or(0, |pair| i32::from(u16::from_ne_bytes(pair)));
            let values: Vec<i32> = bytes.chunks_exact(2).map(value).collect();
            set.set_values(0, &values, own_pid(task)).map(|()| 0)
        }
        SETVAL => {
            let index = index()?;
            if !(0..=sem::VALUE_MAX).contains(&(arg as i32)) {
                return Err(Errno::ERANGE);
            }
            allowed(0o222)?;
            set.set_values(index, &[arg as i32], own_pid(task)).map(|()| 0)
        }
        GETPID | GETVAL | GETNCNT | GETZCNT => {
            allowed(0o444)?;
            let index = index()?;
            Ok(match command {
                GETPID => seen(set.semaphore(index)?.pid),
                GETVAL => set.semaphore(index)?.value,
                _ => set.waiters(index, command == GETZCNT)? as i32,
            })
        }
        _ => Err(Errno::EINVAL),
    }
}

// Message queues.

const MSG_STAT: u32 = 11;
const MSG_INFO: u32 = 12;
const MSG_STAT_ANY: u32 = 13;

fn msgget(task: &Arc<Task>, key: i32, flags: u32) -> Result<i32> {
    let space = namespace();
    let limits = &space.limits;
    let request = GetRequest { key, flags, limit: Limits::get(&limits.msgmni) };
    let make = |perm| Ok(Queue::new(perm, Limits::get(&limits.msgmnb)));
    space.msg.get(&request, &task.cred(), |_| Ok(()), make)
}

fn msgsnd(task: &Arc<Task>, id: i32, message: UserAddr, len: u64, flags: u32) -> Result<()> {
    let space = namespace();
    let kind: i64 = read_val(message)?;
    if len > Limits::get(&space.limits.msgmax) || id < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let mut text = Vec::new();
    text.try_reserve_exact(len as usize).map_err(|_| Errno::ENOMEM)?;
    text.resize(len as usize, 0);
    copy_in(&mut text, message.add(8))?;
    let queue = space.msg.find(id)?;
    queue.perm().check(&task.cred(), 0o222)?;
    queue.send(Message { kind, text: text.into_boxed_slice() }, own_pid(task), flags)
}

fn msgrcv(task: &Arc<Task>, id: i32, message: UserAddr, room: u64, kind: i64, flags: u32) -> Result<usize> {
    let copy = flags & msg::COPY != 0;
    if id < 0 || room > i64::MAX as u64 || copy && (flags & msg::EXCEPT != 0 || flags & IPC_NOWAIT == 0) {
        return Err(Errno::EINVAL);
    }
    let queue = namespace().msg.find(id)?;
    queue.perm().check(&task.cred(), 0o444)?;
    let taken = queue.receive(kind, room as usize, own_pid(task), flags)?;
    let len = taken.text.len().min(room as usize);
    write_val(message, &taken.kind)?;
    copy_out(message.add(8), taken.text.get(..len).unwrap_or(&[]))?;
    Ok(len)
}

fn msgctl(task: &Arc<Task>, id: i32, command: u32, buf: UserAddr) -> Result<i32> {
    let space = namespace();
    match command {
        _ if id < 0 => Err(Errno::EINVAL),
        IPC_INFO | MSG_INFO => {
            let limits = &space.limits;
            let [max, bytes, count] = [&limits.msgmax, &limits.msgmnb, &limits.msgmni].map(|l| Limits::get(l) as i32);
            let all = space.msg.list();
            let sum = |of: fn(&msg::Facts) -> u64| all.iter().map(|queue| of(&queue.facts())).sum::<u64>() as i32;
            let (pool, map, total) = match command {
                MSG_INFO => (all.len() as i32, sum(|facts| facts.count), sum(|facts| facts.bytes)),
                _ => (count * bytes / 1024, bytes, bytes),
            };
            write_val(buf, &[pool, map, max, bytes, count, 16, total, 0xffff])?;
            Ok(space.msg.highest())
        }
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let (queue, result) = stat(task, &space.msg, id, command != IPC_STAT, command == MSG_STAT_ANY)?;
            write_val(buf, &describe_queue(&queue.facts())).map(|()| result)
        }
        IPC_SET => {
            let new: MsgArg = read_val(buf)?;
            let queue = space.msg.find(id)?;
            queue.perm().check_owner(&task.cred())?;
            if new.max_bytes > space.limits.msgmnb.load(Relaxed) && !task.capable(cap::SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
            let (uid, gid) = new.perm.owners(&task.cred())?;
            queue.set(uid, gid, new.perm.mode, new.max_bytes);
            Ok(0)
        }
        IPC_RMID => {
            let queue = space.msg.find(id)?;
            queue.perm().check_owner(&task.cred())?;
            space.msg.remove(id).ok_or(Errno::EINVAL)?.removed();
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn describe_queue(facts: &msg::Facts) -> MsgArg {
    MsgArg {
        perm: PermArg::new(&task::current().cred(), &facts.perm),
        stime: facts.stime,
        rtime: facts.rtime,
        ctime: facts.perm.ctime,
        bytes: facts.bytes,
        count: facts.count,
        max_bytes: facts.max_bytes,
        last_sender: seen(facts.last_sender),
        last_receiver: seen(facts.last_receiver),
        unused: [0; 2],
    }
}
