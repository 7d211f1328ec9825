//! Messages of netlink: requests taken apart, answers put together.

use crate::net::Address;
use crate::{Errno, Result};
use alloc::vec::Vec;

/// Kinds of messages below those of protocols.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const FIRST: u16 = 16;
/// `NLM_F_*`.
const F_REQUEST: u16 = 1;
const F_MULTI: u16 = 2;
const F_ACK: u16 = 4;
const F_DUMP: u16 = 0x300;
const F_REPLACE: u16 = 0x100;
const F_EXCL: u16 = 0x200;
const F_CREATE: u16 = 0x400;
const F_APPEND: u16 = 0x800;
/// Bytes of `struct nlmsghdr`, of an attribute's header.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// Bytes of a datagram after which a new one begins.
const DATAGRAM: usize = 7 << 10;

/// A request.
pub struct Request<'a> {
    pub kind: u16,
    flags: u16,
    sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
    /// The whole message.
    whole: &'a [u8],
}

impl Request<'_> {
    /// Whether all objects are asked for: where something is asked for, either flag says so; where something is made they mean others.
    pub fn dumps(&self) -> bool {
        self.flags & F_DUMP == F_DUMP || (self.asks() && self.flags & F_DUMP != 0)
    }

    /// Whether something is asked for, and nothing changed.
    pub fn asks(&self) -> bool {
        self.kind % 4 == 2
    }

    /// Whether what is there already is to be replaced (`NLM_F_REPLACE`, not `NLM_F_EXCL`).
    pub fn replaces(&self) -> bool {
        self.flags & F_DUMP == F_REPLACE
    }

    /// Whether it must not be there yet; whether it may be made; whether it goes behind its equals.
    pub fn excludes(&self) -> bool {
        self.flags & F_EXCL != 0
    }

    pub fn creates(&self) -> bool {
        self.flags & F_CREATE != 0
    }

    pub fn appends(&self) -> bool {
        self.flags & F_APPEND != 0
    }

    /// A number of the body, at a byte's place; 0 beyond its end.
    pub fn byte(&self, at: usize) -> u8 {
        self.body.get(at).copied().unwrap_or(0)
    }

    /// As [`Self::byte`], of four bytes.
    pub fn word(&self, at: usize) -> u32 {
        self.body.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(core::array::from_fn(|i| b[i])))
    }

    /// The value of an attribute; attributes begin after `skip` bytes of the body.
    pub fn attribute(&self, skip: usize, wanted: u16) -> Option<&[u8]> {
        attribute(self.body.get(skip..)?, wanted)
    }
}

/// The value of one of the attributes that `bytes` are.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = bytes;
    loop {
        let [a, b, c, d] = *rest.first_chunk::<ATTRIBUTE>()?;
        let (len, kind) = (usize::from(u16::from_le_bytes([a, b])), u16::from_le_bytes([c, d]) & 0x3fff);
        let value = rest.get(ATTRIBUTE..len)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

/// A number of four bytes; 0 if there are fewer.
pub fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The requests of a datagram; answers to others are none of ours.
pub fn requests(bytes: &[u8]) -> Vec<Request<'_>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(header) = rest.first_chunk::<HEADER>() {
        let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|i| header[at + i]));
        let (len, kind, flags) = (word(0) as usize, word(4) as u16, (word(4) >> 16) as u16);
        let Some(whole) = rest.get(..len).filter(|_| len >= HEADER) else { break };
        if flags & F_REQUEST != 0 && (kind >= FIRST || flags & F_ACK != 0) {
            found.push(Request { kind, flags, sequence: word(8), body: whole.get(HEADER..).unwrap_or(&[]), whole });
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    found
}

/// The answer to a request, as datagrams.
pub struct Answer {
    done: Vec<Vec<u8>>,
    bytes: Vec<u8>,
    /// Where the message that is being written begins.
    start: usize,
    sequence: u32,
    port: u32,
    multi: bool,
    /// There was no memory for all of it.
    short: bool,
}

impl Answer {
    /// Empty, for the socket with this port.
    pub fn new(request: &Request<'_>, port: u32) -> Answer {
        let multi = request.dumps();
        Answer { done: Vec::new(), bytes: Vec::new(), start: 0, sequence: request.sequence, port, multi, short: false }
    }

    /// A message that nobody asked for.
    pub fn notice() -> Answer {
        Answer { done: Vec::new(), bytes: Vec::new(), start: 0, sequence: 0, port: 0, multi: false, short: false }
    }

    /// Begins a message with its fixed part.
    pub fn begin(&mut self, kind: u16, fixed: &[u8]) {
        if self.bytes.len() > DATAGRAM {
            self.short |= self.done.try_reserve(1).is_err();
            if !self.short {
                self.done.push(core::mem::take(&mut self.bytes));
            }
        }
        self.start = self.bytes.len();
        let flags = if self.multi { F_MULTI } else { 0 };
        self.put(&0_u32.to_le_bytes());
        self.put(&kind.to_le_bytes());
        self.put(&flags.to_le_bytes());
        self.put(&self.sequence.to_le_bytes());
        self.put(&self.port.to_le_bytes());
        self.put(fixed);
        self.pad();
    }

    fn put(&mut self, bytes: &[u8]) {
        // Room for the padding, too.
        self.short |= self.bytes.try_reserve(bytes.len() + ATTRIBUTE).is_err();
        if !self.short {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Adds an attribute that is made of others.
    pub fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Answer)) {
        let start = self.bytes.len();
        self.attribute(kind, &[]);
        inside(self);
        let len = (self.bytes.len() - start) as u16;
        if let Some(place) = self.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&len.to_le_bytes());
        }
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.put(&((ATTRIBUTE + value.len()) as u16).to_le_bytes());
        self.put(&kind.to_le_bytes());
        self.put(value);
        self.pad();
    }

    /// Adds an attribute of four bytes.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_le_bytes());
    }

    /// Ends a message.
    pub fn end(&mut self) {
        let len = self.bytes.len().saturating_sub(self.start) as u32;
        if let Some(place) = self.bytes.get_mut(self.start..self.start + 4) {
            place.copy_from_slice(&len.to_le_bytes());
        }
    }

    fn pad(&mut self) {
        if self.short {
            return;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The end of the answer: of a list, or an error, or an acknowledgement that was asked for.
    pub fn finish(&mut self, request: &Request<'_>, result: Result<()>, short: bool) {
        let result = if core::mem::take(&mut self.short) { Err(Errno::ENOBUFS) } else { result };
        if result.is_err() {
            // What has been said is not the whole.
            (self.done, self.bytes) = (Vec::new(), Vec::new());
        }
        match result {
            Ok(()) if self.multi => {
                // The end is a datagram of its own.
                if !self.bytes.is_empty() {
                    self.done.push(core::mem::take(&mut self.bytes));
                }
                self.begin(DONE, &0_u32.to_le_bytes());
                self.end();
            }
            Ok(()) if request.flags & F_ACK == 0 => {}
            result => {
                let errno = result.err().map_or(0, Errno::raw);
                self.multi = false;
                let quoted = if errno == 0 || short { request.whole.get(..HEADER) } else { Some(request.whole) };
                let mut body: Address = (-errno).to_le_bytes().to_vec();
                body.extend_from_slice(quoted.unwrap_or(&[]));
                self.begin(ERROR, &body);
                self.end();
            }
        }
    }

    /// What is to be received.
    pub fn datagrams(mut self) -> Vec<Vec<u8>> {
        if !self.bytes.is_empty() {
            self.done.push(self.bytes);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn requests_are_taken_apart_and_nonsense_is_not() {
        let mut bytes = message(18, F_REQUEST, &[0, 0, 0, 0, 8, 0, 3, 0, b'l', b'o', 0, 0]);
        bytes.extend(message(18, 0, &[]));
        bytes.extend([1, 2, 3]);
        let found = requests(&bytes);
        assert_eq!((found.len(), found[0].kind), (1, 18));
        assert_eq!(found[0].attribute(4, 3), Some(&b"lo\0\0"[..]));
        assert_eq!(found[0].attribute(4, 4), None);
        assert!(requests(&[0xff; 40]).is_empty());
    }

    #[test]
    fn a_list_ends_with_done_and_a_failure_with_an_error() {
        let bytes = message(18, F_REQUEST | F_DUMP, &[]);
        let request = &requests(&bytes)[0];
        let mut answer = Answer::new(request, 5);
        answer.begin(16, &[1, 2]);
        answer.number(4, 9);
        answer.end();
        answer.finish(request, Ok(()), false);
        let got = answer.datagrams();
        assert_eq!((got.len(), got[0].len(), got[0][0], got[1].len(), got[1][4]), (2, 28, 28, 20, DONE as u8));
        let mut answer = Answer::new(request, 5);
        answer.finish(request, Err(Errno::EPERM), false);
        let got = answer.datagrams();
        assert_eq!((got[0][4], i32::from_le_bytes(got[0][16..20].try_into().unwrap())), (ERROR as u8, -1));
    }
}
