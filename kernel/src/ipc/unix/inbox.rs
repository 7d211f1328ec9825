//! What has been sent to a socket and not been received: messages with their bytes, files and sender.

use super::garbage::InFlight;
use crate::fs::{File, IoDst, IoSrc};
use crate::task::User;
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Longest message of a stream: a write is cut into these.
const PIECE: usize = 32 << 10;
/// Longer messages are taken only while there is room for them beside what others need.
const LARGE: usize = 64 << 10;
/// Messages that may wait at a datagram socket (net.unix.max_dgram_qlen).
const DATAGRAMS: usize = 512;

/// Who sent a message (`SCM_CREDENTIALS`, `SO_PEERCRED`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// What goes with the bytes of a message.
#[derive(Clone, Default)]
pub struct Extras {
    pub files: Vec<Arc<File>>,
    /// Who is charged for them while they wait.
    pub payer: Option<Arc<User>>,
    /// `None` where neither end asks who sends.
    pub sender: Option<Sender>,
    /// The name of the socket that sent a datagram.
    pub from: Vec<u8>,
}

struct Message {
    bytes: Vec<u8>,
    /// Bytes received already (streams).
    start: usize,
    /// Without files: these are `in_flight`.
    extras: Extras,
    in_flight: InFlight,
}

impl Message {
    /// What goes with it, for a receiver that takes it or looks at it.
    fn extras(&mut self, peek: bool) -> Extras {
        let files = if peek { self.in_flight.copy() } else { self.in_flight.take() };
        Extras { files, ..self.extras.clone() }
    }
}

/// What a receive call got.
#[derive(Default)]
pub struct Received {
    /// Bytes given out.
    pub count: usize,
    /// Bytes of the message, given out or cut off.
    pub full: usize,
    pub extras: Extras,
    /// There was nothing, and nothing will come.
    pub ended: bool,
}

/// See the module.
#[derive(Default)]
pub struct Inbox {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Inbox {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Bytes of the first message.
    pub fn first_len(&self) -> usize {
        self.messages.front().map_or(0, |message| message.bytes.len() - message.start)
    }

    /// Whether a sender with a buffer of `room` bytes must wait.
    pub fn is_full(&self, room: usize) -> bool {
        self.bytes >= room || self.messages.len() >= DATAGRAMS
    }

    /// Takes a piece of a stream from `src`, of a sender with a buffer of `room` bytes; returns its length. The files of
    /// `extras` go with the first piece.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn push_piece(&mut self, src: &mut IoSrc<'_>, room: usize, extras: &mut Option<Extras>) -> Result<usize> {
        let len = src.remaining().min(PIECE).min(room.saturating_sub(self.bytes).max(1));
        let mut own = extras.take().unwrap_or_default();
        // The rest is from the same sender, and of the same name.
        *extras = Some(Extras { sender: own.sender, from: core::mem::take(&mut own.from), ..Extras::default() });
        self.push(src, len, own)
    }

    /// Takes all of `src` as one message.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn push_message(&mut self, src: &mut IoSrc<'_>, extras: Extras) -> Result<usize> {
        self.push(src, src.remaining(), extras)
    }

    /// The descriptors that wait here.
    pub fn in_flight(&self) -> impl Iterator<Item = &InFlight> {
        self.messages.iter().map(|message| &message.in_flight)
    }

    fn push(&mut self, src: &mut IoSrc<'_>, len: usize, mut extras: Extras) -> Result<usize> {
        if len > LARGE {
            // The heap could give it; others need some, too.
            umbel_mm::heap::room_for(len as u64).map_err(|_| Errno::ENOBUFS)?;
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        self.messages.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        let got = src.read(&mut bytes)?;
        bytes.truncate(got);
        self.bytes += got;
        let in_flight = InFlight::new(core::mem::take(&mut extras.files), extras.payer.take().as_ref());
        self.messages.push_back(Message { bytes, start: 0, extras, in_flight });
        Ok(got)
    }

    /// Gives out the first message; what does not fit is lost, unless `peek`.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn take_message(&mut self, dst: &mut IoDst<'_>, peek: bool) -> Result<Received> {
        let Some(message) = self.messages.front_mut() else { return Ok(Received::default()) };
        let full = message.bytes.len();
        let count = dst.write(message.bytes.get(..full.min(dst.remaining())).unwrap_or(&[]))?;
        let extras = message.extras(peek);
        if !peek {
            self.bytes -= full;
            self.messages.pop_front();
        }
        Ok(Received { count, full, extras, ended: false })
    }

    /// Gives out bytes of a stream: of several messages, up to one that has files with it, and, if it matters to the
    /// receiver, only from one sender.
    ///
    /// # Errors
    /// `EFAULT` if nothing was given out.
    pub fn take_stream(&mut self, dst: &mut IoDst<'_>, peek: bool, one_sender: bool) -> Result<Received> {
        let mut got = Received::default();
        let (mut at, mut first) = (0, true);
        while let Some(message) = self.messages.get_mut(at) {
            if !first && one_sender && message.extras.sender != got.extras.sender {
                break;
            }
            let rest = message.bytes.get(message.start..).unwrap_or(&[]);
            let count = match dst.write(rest.get(..rest.len().min(dst.remaining())).unwrap_or(&[])) {
                Ok(count) => count,
                Err(_) if got.count > 0 => break,
                Err(error) => return Err(error),
            };
            let whole = count == rest.len();
            let has_files = !message.in_flight.is_empty();
            let extras = message.extras(peek);
            if first {
                got.extras = extras;
            } else if has_files {
                got.extras.files = extras.files;
            }
            first = false;
            got.count += count;
            if peek {
                at += 1;
            } else {
                message.start += count;
                self.bytes -= count;
                if whole {
                    self.messages.pop_front();
                }
            }
            if !whole || has_files || dst.remaining() == 0 {
                break;
            }
        }
        got.full = got.count;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 212_992;

    fn send(inbox: &mut Inbox, bytes: &[u8]) {
        inbox.push_piece(&mut IoSrc::kernel(bytes), CAPACITY, &mut None).unwrap();
    }

    fn stream(inbox: &mut Inbox, room: usize, peek: bool) -> Vec<u8> {
        let mut buf = std::vec![0; room];
        let count = inbox.take_stream(&mut IoDst::kernel(&mut buf), peek, false).unwrap().count;
        buf.truncate(count);
        buf
    }

    #[test]
    fn streams_have_no_borders_and_messages_do() {
        let mut inbox = Inbox::default();
        send(&mut inbox, b"hello ");
        send(&mut inbox, b"world");
        assert_eq!(stream(&mut inbox, 8, true), b"hello wo");
        assert_eq!(stream(&mut inbox, 8, false), b"hello wo");
        assert_eq!(stream(&mut inbox, 8, false), b"rld");
        assert!(inbox.is_empty());
        send(&mut inbox, b"one");
        send(&mut inbox, b"two");
        let mut buf = [0; 2];
        let got = inbox.take_message(&mut IoDst::kernel(&mut buf), false).unwrap();
        assert_eq!((got.count, got.full, &buf, inbox.len()), (2, 3, b"on", 3));
    }

    #[test]
    fn a_full_inbox_says_so() {
        let mut inbox = Inbox::default();
        let big = std::vec![0; CAPACITY];
        while !inbox.is_full(CAPACITY) {
            send(&mut inbox, &big);
        }
        assert_eq!(inbox.len(), CAPACITY);
        assert!(!inbox.is_full(2 * CAPACITY));
    }

    #[test]
    fn senders_are_kept_apart_where_it_matters() {
        let mut inbox = Inbox::default();
        for pid in [1, 1, 2] {
            let mut extras = Some(Extras { sender: Some(Sender { pid, uid: 0, gid: 0 }), ..Extras::default() });
            inbox.push_piece(&mut IoSrc::kernel(b"ab"), CAPACITY, &mut extras).unwrap();
        }
        let mut buf = [0; 8];
        assert_eq!(inbox.take_stream(&mut IoDst::kernel(&mut buf), true, false).unwrap().count, 6);
        assert_eq!(inbox.take_stream(&mut IoDst::kernel(&mut buf), false, true).unwrap().count, 4);
        assert_eq!(inbox.take_stream(&mut IoDst::kernel(&mut buf), false, true).unwrap().extras.sender.unwrap().pid, 2);
    }
}
