//! Calls that another process answers: `SECCOMP_RET_USER_NOTIF`. Source: seccomp_unotify(2).
//!
//! A filter made with `NEW_LISTENER` has a [`Listener`], which a descriptor stands for. A call that the filter notifies of becomes a
//! [`Notification`]; its thread sleeps until the holder of the descriptor has taken it and answered, or the descriptor is closed.
//!
//! ```text
//! New ─RECV─▶ Taken ─SEND, ADDFD_SEND, close─▶ Answered        (New ─close─▶ Answered)
//! ```
//!
//! Locks: the listener's `state` (rank `Endpoint`); waking up is done without it.

use super::{Verdict, set_result};
use crate::bpf::{CALL_WORDS, CallData};
use crate::fs::{File, FileOps, OnExec, OpenFlags, PollEvents, PollTable};
use crate::signal::{self, PutOff};
use crate::task::{self, Task};
use crate::{Errno, Fd, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use linux_raw_sys::general::RLIMIT_NOFILE;
use umbel_mm::user::{self, UserAddr};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

/// Requests of ioctl(2): the type and the number; those with a size of their own, as a whole.
const RECV: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const ID_VALID: u32 = 0x4008_2102;
const ID_VALID_OLD: u32 = 0x8008_2102;
const SET_FLAGS: u32 = 0x4008_2104;
/// `SECCOMP_IOCTL_NOTIF_ADDFD` without its size, which may grow.
const ADDFD: u32 = 0x4000_2103;
const SIZE_MASK: u32 = 0x3fff_0000;
const ADDFD_SIZE: u32 = 24;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`; `SECCOMP_ADDFD_FLAG_SETFD`, `_SEND`.
const CONTINUE: u32 = 1;
const SETFD: u32 = 1;
const ADDFD_SEND: u32 = 2;
/// Words of `struct seccomp_notif`.
const NOTIF_WORDS: usize = CALL_WORDS + 4;
/// Bytes of `struct seccomp_notif`, `seccomp_notif_resp`, `seccomp_data`.
pub const SIZES: [u16; 3] = [80, 24, 64];

/// What a call is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// This, as a register.
    Value(u64),
    /// The call is made after all.
    Continue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Taken,
    Answered(Answer),
}

/// A call that waits for an answer.
struct Notification {
    id: u64,
    task: Arc<Task>,
    data: CallData,
    stage: Stage,
}

struct State {
    /// In the order of their arrival; a thread takes its own away.
    calls: Vec<Notification>,
    last_id: u64,
    /// The descriptor is closed; no thread has the filter any more.
    closed: bool,
    orphaned: bool,
}

/// See the module.
pub struct Listener {
    state: SpinLock<State>,
    /// Who waits for calls, or polls.
    readers: Arc<WaitQueue>,
    /// Threads that wait for answers.
    callers: WaitQueue,
    /// `WAIT_KILLABLE_RECV`: once its call is taken, only a fatal signal ends a thread's wait.
    killable: bool,
}

/// A filter's hold on its listener: when it goes, no more calls come.
pub struct Attached(pub Arc<Listener>);

impl core::fmt::Debug for Attached {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Attached")
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.state.lock().orphaned = true;
        self.0.readers.wake_all();
    }
}

/// Has the call of `task` answered.
pub fn ask(task: &Arc<Task>, listener: Option<Arc<Listener>>, data: CallData) -> Verdict {
    match listener.ok_or(Errno::ENOSYS).and_then(|listener| listener.ask(task, data)) {
        Ok(Answer::Continue) => return Verdict::Make,
        Ok(Answer::Value(value)) => set_result(task, value),
        Err(error) => {
            set_result(task, error.as_return());
            if error == Errno::ERESTARTSYS {
                return Verdict::Restart;
            }
        }
    }
    Verdict::Done
}

/// A descriptor of `listener` for its maker.
///
/// # Errors
/// `EMFILE`.
pub fn install(task: &Task, listener: Arc<Listener>) -> Result<Fd> {
    let file = File::anonymous(Arc::new(Ops(listener)), OpenFlags::RDWR);
    task.files()?.install(file, OnExec::Close, task.process().limit(RLIMIT_NOFILE))
}

impl Listener {
    /// One that hears nothing yet.
    pub fn new(killable: bool) -> Arc<Listener> {
        // Not guessable from one another, as Linux has it: a number that is kept too long names nothing.
        let last_id = crate::random::next_u64();
        let state = State { calls: Vec::new(), last_id, closed: false, orphaned: false };
        Arc::new(Listener {
            state: SpinLock::new(Rank::Endpoint, state),
            readers: Arc::new(WaitQueue::new()),
            callers: WaitQueue::new(),
            killable,
        })
    }

    fn ask(&self, task: &Arc<Task>, data: CallData) -> Result<Answer> {
        let id = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Errno::ENOSYS);
            }
            state.calls.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            state.last_id = state.last_id.wrapping_add(1);
            let id = state.last_id;
            state.calls.push(Notification { id, task: task.clone(), data, stage: Stage::New });
            id
        };
        self.readers.wake_all();
        let answer = self.wait_answer(task, id);
        let mut state = self.state.lock();
        if let Some(at) = state.calls.iter().position(|call| call.id == id) {
            let call = state.calls.remove(at);
            drop(state);
            drop(call);
        }
        answer
    }

    /// Waits as the calling thread.
    fn wait_answer(&self, task: &Arc<Task>, id: u64) -> Result<Answer> {
        let answered = || match self.stage(id) {
            Some(Stage::Answered(answer)) => Some(answer),
            _ => None,
        };
        let mut later = PutOff::none(task);
        loop {
            match self.callers.wait_interruptible(None, answered) {
                Ok(answer) => return Ok(answer),
                Err(_) if !self.killable || self.stage(id) != Some(Stage::Taken) => return Err(Errno::ERESTARTSYS),
                Err(_) if later.ended_by(signal::fatal_pending) => return Err(Errno::EINTR),
                Err(_) => {}
            }
        }
    }

    fn stage(&self, id: u64) -> Option<Stage> {
        self.state.lock().calls.iter().find(|call| call.id == id).map(|call| call.stage)
    }

    /// Does something with a call that has been taken and not been answered.
    fn with_taken<R>(&self, id: u64, action: impl FnOnce(&mut Notification) -> R) -> Result<R> {
        let mut state = self.state.lock();
        let call = state.calls.iter_mut().find(|call| call.id == id).ok_or(Errno::ENOENT)?;
        if call.stage == Stage::Taken { Ok(action(call)) } else { Err(Errno::EINPROGRESS) }
    }

    /// `SECCOMP_IOCTL_NOTIF_RECV`.
    fn receive(&self, at: UserAddr) -> Result<()> {
        if user::read_val::<[u32; NOTIF_WORDS]>(at)? != [0; NOTIF_WORDS] {
            return Err(Errno::EINVAL);
        }
        let viewer = task::current();
        let next = || {
            let mut state = self.state.lock();
            let orphaned = state.orphaned;
            match state.calls.iter_mut().find(|call| call.stage == Stage::New) {
                Some(call) => {
                    call.stage = Stage::Taken;
                    Some(Ok((call.id, call.task.tid(), call.data)))
                }
                None => orphaned.then_some(Err(Errno::ENOENT)),
            }
        };
        let (id, tid, data) = self.readers.wait_interruptible(None, next).map_err(|_| Errno::ERESTARTSYS)??;
        let mut words = [0; NOTIF_WORDS];
        (words[0], words[1], words[2]) = (id as u32, (id >> 32) as u32, viewer.process().sees(tid) as u32);
        words[4..].copy_from_slice(&data);
        user::write_val(at, &words).inspect_err(|_| {
            // Somebody else may take it.
            let _ = self.with_taken(id, |call| call.stage = Stage::New);
            self.readers.wake_all();
        })?;
        self.readers.wake_all();
        Ok(())
    }

    /// `SECCOMP_IOCTL_NOTIF_SEND`.
    fn send(&self, at: UserAddr) -> Result<()> {
        let [id, value, rest]: [u64; 3] = user::read_val(at)?;
        let (error, flags) = (rest as i32, (rest >> 32) as u32);
        if flags & !CONTINUE != 0 || (flags & CONTINUE != 0 && (error != 0 || value != 0)) {
            return Err(Errno::EINVAL);
        }
        let answer = match flags {
            0 if error != 0 => Answer::Value(i64::from(error) as u64),
            0 => Answer::Value(value),
            _ => Answer::Continue,
        };
        self.with_taken(id, |call| call.stage = Stage::Answered(answer))?;
        self.callers.wake_all();
        Ok(())
    }

    /// `SECCOMP_IOCTL_NOTIF_ADDFD`: puts a file of the caller's into the files of the thread that waits.
    fn add_file(&self, at: UserAddr, size: u32) -> Result<u64> {
        if !(ADDFD_SIZE..=4096).contains(&size) {
            return Err(Errno::EINVAL);
        }
        let [id, flags, fds]: [u64; 3] = user::read_val(at)?;
        let rest: Vec<u8> = user::read_vec(UserAddr(at.0.wrapping_add(24)), (size - ADDFD_SIZE) as usize)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(Errno::E2BIG);
        }
        let (flags, source) = (flags as u32, Fd((flags >> 32) as i32));
        let (wanted, fd_flags) = (Fd(fds as i32), (fds >> 32) as u32);
        let fd_flags = OpenFlags::from_bits(fd_flags).filter(|flags| OpenFlags::CLOEXEC.contains(*flags));
        let bad = flags & !(SETFD | ADDFD_SEND) != 0 || (wanted.0 != 0 && flags & SETFD == 0);
        let Some(fd_flags) = fd_flags.filter(|_| !bad) else { return Err(Errno::EINVAL) };
        let own = task::current().files()?;
        let file = own.get(source)?;
        own.spoil(&file);
        let target = self.with_taken(id, |call| call.task.clone())?;
        let (files, limit) = (target.files()?, target.process().limit(RLIMIT_NOFILE));
        let on_exec = OnExec::close_if(fd_flags.contains(OpenFlags::CLOEXEC));
        let fd = match flags & SETFD {
            0 => files.install(file, on_exec, limit)?,
            _ => files.replace(wanted, file, on_exec, limit).map(|old| {
                drop(old);
                wanted
            })?,
        };
        if flags & ADDFD_SEND != 0 {
            self.with_taken(id, |call| call.stage = Stage::Answered(Answer::Value(fd.0 as u64)))?;
            self.callers.wake_all();
        }
        Ok(fd.0 as u64)
    }

    /// The descriptor is gone: whoever waits gets `ENOSYS`, whoever comes, too.
    fn close(&self) {
        {
            let mut state = self.state.lock();
            state.closed = true;
            for call in state.calls.iter_mut().filter(|call| !matches!(call.stage, Stage::Answered(_))) {
                call.stage = Stage::Answered(Answer::Value(Errno::ENOSYS.as_return()));
            }
        }
        self.callers.wake_all();
    }
}

/// What a descriptor of a listener does.
struct Ops(Arc<Listener>);

impl FileOps for Ops {
    fn ioctl(&self, _: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            RECV => self.0.receive(UserAddr(arg)).map(|()| 0),
            SEND => self.0.send(UserAddr(arg)).map(|()| 0),
            ID_VALID | ID_VALID_OLD => {
                let id = user::read_val(UserAddr(arg))?;
                self.0.with_taken(id, |_| 0).map_err(|_| Errno::ENOENT)
            }
            // The one flag asks for a wake-up on the same processor: a hint, and there is none here.
            SET_FLAGS if arg > 1 => Err(Errno::EINVAL),
            SET_FLAGS => Ok(0),
            cmd if cmd & !SIZE_MASK == ADDFD => self.0.add_file(UserAddr(arg), (cmd & SIZE_MASK) >> 16),
            _ => Err(Errno::EINVAL),
        }
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if table.is_some_and(|table| table.register(&self.0.readers).is_err()) {
            return PollEvents::ERR;
        }
        let state = self.0.state.lock();
        let mut events = PollEvents::empty();
        for call in &state.calls {
            match call.stage {
                Stage::New => events |= PollEvents::READABLE,
                Stage::Taken => events |= PollEvents::WRITABLE,
                Stage::Answered(_) => {}
            }
        }
        if state.orphaned {
            events |= PollEvents::HUP;
        }
        events
    }

    fn release(&self, _: &File) {
        self.0.close();
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:seccomp notify")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
