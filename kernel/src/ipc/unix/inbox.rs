//! What has been sent to a socket and not been received: messages with their bytes, files and sender.

use super::garbage::InFlight;
use crate::fs::{File, IoDst, IoSrc};
use crate::task::User;
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Bytes that may wait at a socket (net.core.wmem_default).
pub const CAPACITY: usize = 212_992;
/// Longest message of a stream: a write is cut into these.
const PIECE: usize = 32 << 10;
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
    pub sender: Sender,
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
    /// All of a message was given out.
    pub ends: bool,
    pub extras: Extras,
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

    /// Whether a sender must wait.
    pub fn is_full(&self) -> bool {
        self.bytes >= CAPACITY || self.messages.len() >= DATAGRAMS
    }

    /// Takes a piece of a stream from `src`; returns its length. `extras` go with the first piece.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn push_piece(&mut self, src: &mut IoSrc<'_>, extras: &mut Option<Extras>) -> Result<usize> {
        let len = src.remaining().min(PIECE).min(CAPACITY.saturating_sub(self.bytes).max(1));
        self.push(src, len, extras.take().unwrap_or_default())
    }

    /// Takes all of `src` as one message.
    ///
    /// # Errors
    /// `EMSGSIZE` if it can never fit, `EFAULT`, `ENOMEM`.
    pub fn push_message(&mut self, src: &mut IoSrc<'_>, extras: Extras) -> Result<usize> {
        let len = src.remaining();
        if len > CAPACITY { Err(Errno::EMSGSIZE) } else { self.push(src, len, extras) }
    }

    /// The descriptors that wait here.
    pub fn in_flight(&self) -> impl Iterator<Item = &InFlight> {
        self.messages.iter().map(|message| &message.in_flight)
    }

    fn push(&mut self, src: &mut IoSrc<'_>, len: usize, mut extras: Extras) -> Result<usize> {
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
        Ok(Received { count, full, ends: count == full, extras })
    }

    /// Gives out bytes of a stream: of several messages, up to one that has files with it.
    ///
    /// # Errors
    /// `EFAULT` if nothing was given out.
    pub fn take_stream(&mut self, dst: &mut IoDst<'_>, peek: bool) -> Result<Received> {
        let mut got = Received::default();
        let mut at = 0;
        while dst.remaining() > 0
            && let Some(message) = self.messages.get_mut(at)
        {
            if got.count > 0 && !message.in_flight.is_empty() {
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
            if got.count == 0 {
                got.extras = message.extras(peek);
            }
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
            if !whole || has_files {
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

    fn send(inbox: &mut Inbox, bytes: &[u8]) {
        inbox.push_piece(&mut IoSrc::kernel(bytes), &mut None).unwrap();
    }

    fn stream(inbox: &mut Inbox, room: usize, peek: bool) -> Vec<u8> {
        let mut buf = std::vec![0; room];
        let count = inbox.take_stream(&mut IoDst::kernel(&mut buf), peek).unwrap().count;
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
        while !inbox.is_full() {
            send(&mut inbox, &big);
        }
        assert_eq!(inbox.len(), CAPACITY);
        let mut too_big = IoSrc::kernel(&big);
        assert!(inbox.push_message(&mut too_big, Extras::default()).is_ok());
        let bigger = std::vec![0; CAPACITY + 1];
        assert_eq!(inbox.push_message(&mut IoSrc::kernel(&bigger), Extras::default()), Err(Errno::EMSGSIZE));
    }
}
