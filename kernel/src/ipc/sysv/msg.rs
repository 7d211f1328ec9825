//! Message queues. Source: msgop(2), msgctl(2).
//!
//! Messages wait in order of arrival; a receiver chooses by type. Senders wait while the queue is full by bytes.

use super::{IPC_NOWAIT, Object, Perm, now};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::{WaitQueue, Wake};

/// `MSG_NOERROR`: too long a message is cut.
pub const NOERROR: u32 = 0o10000;
/// `MSG_EXCEPT`: any type but that.
pub const EXCEPT: u32 = 0o20000;
/// `MSG_COPY`: the message at a position, which stays.
pub const COPY: u32 = 0o40000;

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    pub kind: i64,
    pub text: Box<[u8]>,
}

/// What msgctl(2) and /proc show.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub perm: Perm,
    pub stime: i64,
    pub rtime: i64,
    pub bytes: u64,
    pub count: u64,
    pub max_bytes: u64,
    pub last_sender: i32,
    pub last_receiver: i32,
}

/// A queue of messages.
pub struct Queue {
    state: SpinLock<State>,
    /// Senders and receivers: whoever waits for a change.
    senders: WaitQueue,
    receivers: WaitQueue,
}

struct State {
    facts: Facts,
    messages: VecDeque<Message>,
    removed: bool,
}

impl Object for Queue {
    fn perm(&self) -> Perm {
        self.state.lock().facts.perm
    }
}

impl Queue {
    /// An empty queue of at most `max_bytes`.
    pub fn new(perm: Perm, max_bytes: u64) -> Queue {
        let facts = Facts { perm, stime: 0, rtime: 0, bytes: 0, count: 0, max_bytes, last_sender: 0, last_receiver: 0 };
        let state = State { facts, messages: VecDeque::new(), removed: false };
        Queue { state: SpinLock::new(Rank::Endpoint, state), senders: WaitQueue::new(), receivers: WaitQueue::new() }
    }

    /// What there is to know.
    pub fn facts(&self) -> Facts {
        self.state.lock().facts
    }

    /// Appends a message from process `pid`.
    ///
    /// # Errors
    /// `EAGAIN` with `IPC_NOWAIT`, `EIDRM`, `ENOMEM`, `ERESTARTNOHAND`.
    pub fn send(&self, message: Message, pid: i32, flags: u32) -> Result<()> {
        umbel_mm::heap::room_for(super::HEAP_MARGIN)?;
        let mut message = Some(message);
        let mut waited = false;
        let mut attempt = || {
            let mut state = self.state.lock();
            if state.removed {
                return Some(Err(if waited { Errno::EIDRM } else { Errno::EINVAL }));
            }
            let len = message.as_ref().map_or(0, |message| message.text.len() as u64);
            let Facts { bytes, count, max_bytes, .. } = state.facts;
            if bytes + len > max_bytes || count + 1 > max_bytes {
                waited = true;
                return (flags & IPC_NOWAIT != 0).then_some(Err(Errno::EAGAIN));
            }
            state.messages.extend(message.take());
            let facts = &mut state.facts;
            (facts.bytes, facts.count, facts.stime, facts.last_sender) = (bytes + len, count + 1, now(), pid);
            Some(Ok(()))
        };
        match attempt() {
            Some(result) => result?,
            None => self.senders.wait_interruptible(None, attempt).map_err(|_: Wake| Errno::ERESTARTNOHAND)??,
        }
        self.receivers.wake_all();
        Ok(())
    }

    /// Takes a message of `kind` of at most `room` bytes for process `pid`.
    ///
    /// # Errors
    /// `E2BIG`, `ENOMSG` with `IPC_NOWAIT`, `EIDRM`, `ERESTARTNOHAND`.
    pub fn receive(&self, kind: i64, room: usize, pid: i32, flags: u32) -> Result<Message> {
        let mut waited = false;
        let mut attempt = || {
            let mut state = self.state.lock();
            if state.removed {
                return Some(Err(if waited { Errno::EIDRM } else { Errno::EINVAL }));
            }
            match state.choose(kind, flags) {
                Some(index) => Some(state.take(index, room, pid, flags)),
                None => {
                    waited = true;
                    (flags & IPC_NOWAIT != 0).then_some(Err(Errno::ENOMSG))
                }
            }
        };
        let message = match attempt() {
            Some(result) => result?,
            None => self.receivers.wait_interruptible(None, attempt).map_err(|_: Wake| Errno::ERESTARTNOHAND)??,
        };
        self.senders.wake_all();
        Ok(message)
    }

    /// `IPC_SET`.
    pub fn set(&self, uid: u32, gid: u32, mode: u32, max_bytes: u64) {
        let mut state = self.state.lock();
        state.facts.perm.set(uid, gid, mode);
        state.facts.max_bytes = max_bytes;
        drop(state);
        self.senders.wake_all();
    }

    /// It is in the table no more: whoever waits fails.
    pub fn removed(&self) {
        self.state.lock().removed = true;
        self.senders.wake_all();
        self.receivers.wake_all();
    }
}

impl State {
    /// The message that a receiver of `kind` gets.
    fn choose(&self, kind: i64, flags: u32) -> Option<usize> {
        let mut kinds = self.messages.iter().map(|message| message.kind);
        if flags & COPY != 0 {
            return usize::try_from(kind).ok().filter(|&index| index < self.messages.len());
        }
        match kind {
            0 => (!self.messages.is_empty()).then_some(0),
            1.. if flags & EXCEPT != 0 => kinds.position(|own| own != kind),
            1.. => kinds.position(|own| own == kind),
            _ => {
                let limit = kind.checked_neg().unwrap_or(i64::MAX);
                let lowest = kinds.filter(|own| *own <= limit).min()?;
                self.messages.iter().position(|message| message.kind == lowest)
            }
        }
    }

    fn take(&mut self, index: usize, room: usize, pid: i32, flags: u32) -> Result<Message> {
        let message = self.messages.get(index).ok_or(Errno::ENOMSG)?;
        if message.text.len() > room && flags & NOERROR == 0 {
            return Err(Errno::E2BIG);
        }
        if flags & COPY != 0 && message.text.len() > room {
            // A copy is never cut.
            return Err(Errno::EINVAL);
        }
        if flags & COPY != 0 {
            return Ok(message.clone());
        }
        let message = self.messages.remove(index).ok_or(Errno::ENOMSG)?;
        let facts = &mut self.facts;
        facts.bytes -= message.text.len() as u64;
        facts.count -= 1;
        (facts.rtime, facts.last_receiver) = (now(), pid);
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Cred;
    use std::vec::Vec;

    fn queue(kinds: &[i64]) -> Queue {
        let queue = Queue::new(Perm::new(0, 0, &Cred::new(0, 0), 0o600), 10);
        for &kind in kinds {
            queue.send(Message { kind, text: Box::new([1, 2]) }, 1, IPC_NOWAIT).unwrap();
        }
        queue
    }

    fn take(queue: &Queue, kind: i64, flags: u32) -> Result<i64> {
        queue.receive(kind, 2, 1, flags | IPC_NOWAIT).map(|message| message.kind)
    }

    #[test]
    fn receivers_choose_by_kind() {
        let queue = queue(&[5, 3, 4, 3, 9]);
        assert_eq!(take(&queue, 4, 0), Ok(4));
        assert_eq!(take(&queue, -4, 0), Ok(3));
        assert_eq!(take(&queue, 5, EXCEPT), Ok(3));
        assert_eq!(take(&queue, 1, COPY), Ok(9));
        let left: Vec<_> = [0, 0, 0].map(|kind| take(&queue, kind, 0)).into();
        assert_eq!(left, [Ok(5), Ok(9), Err(Errno::ENOMSG)]);
    }

    #[test]
    fn a_full_queue_takes_no_more_and_long_messages_are_cut_or_refused() {
        let queue = queue(&[1; 5]);
        assert_eq!(queue.send(Message { kind: 1, text: Box::new([1]) }, 1, IPC_NOWAIT), Err(Errno::EAGAIN));
        assert_eq!(queue.receive(0, 1, 1, 0).map(|_| ()), Err(Errno::E2BIG));
        assert!(queue.receive(0, 1, 1, NOERROR).is_ok());
        queue.removed();
        assert_eq!(take(&queue, 0, 0), Err(Errno::EINVAL));
    }
}
