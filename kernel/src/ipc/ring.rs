//! A byte ring on pages of the kernel heap: the buffer of a pipe or a stream socket.
//!
//! Pages are made when first written and kept; an empty ring starts over at its first page, so small messages use one
//! page for ever and allocate nothing.

use crate::fs::{IoDst, IoSrc};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bytes of a page of the ring.
pub const PAGE: usize = 4096;
/// Pages that an empty ring keeps.
const KEPT: usize = 1;

/// See the module.
#[derive(Default)]
pub struct ByteRing {
    pages: Vec<Option<Box<[u8]>>>,
    /// Where the first byte lies.
    head: usize,
    /// Bytes in use.
    len: usize,
}

impl ByteRing {
    /// An empty ring of `capacity` bytes, rounded up to pages.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(capacity: usize) -> Result<ByteRing> {
        let count = capacity.div_ceil(PAGE).max(1);
        let mut pages = Vec::new();
        pages.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        pages.resize_with(count, || None);
        Ok(ByteRing { pages, head: 0, len: 0 })
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.pages.len() * PAGE
    }

    /// Bytes it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it can still take.
    pub fn room(&self) -> usize {
        self.capacity() - self.len
    }

    /// Moves bytes from `src` into the ring until one of them is exhausted; returns how many.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM` if nothing was moved.
    pub fn fill(&mut self, src: &mut IoSrc<'_>) -> Result<usize> {
        self.fill_at_most(src, usize::MAX)
    }

    /// As [`Self::fill`], at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn fill_at_most(&mut self, src: &mut IoSrc<'_>, limit: usize) -> Result<usize> {
        let mut done = 0;
        while self.room() > 0 && src.remaining() > 0 && done < limit {
            let moved = match self.free_piece(src.remaining().min(limit - done)) {
                Ok(piece) => src.read(piece),
                Err(error) => Err(error),
            };
            match moved {
                Ok(0) => break,
                Ok(count) => {
                    self.len += count;
                    done += count;
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Moves bytes from the ring to `dst` until one of them is exhausted; returns how many.
    ///
    /// # Errors
    /// `EFAULT` if nothing was moved.
    pub fn drain(&mut self, dst: &mut IoDst<'_>) -> Result<usize> {
        self.drain_at_most(dst, usize::MAX)
    }

    /// As [`Self::drain`], at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::drain`].
    pub fn drain_at_most(&mut self, dst: &mut IoDst<'_>, limit: usize) -> Result<usize> {
        let mut done = 0;
        while self.len > 0 && dst.remaining() > 0 && done < limit {
            let room = dst.remaining().min(limit - done);
            let piece = self.used_piece(0);
            let piece = &piece[..piece.len().min(room)];
            match dst.write(piece) {
                Ok(0) => break,
                Ok(count) => {
                    self.discard(count);
                    done += count;
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// As [`Self::drain`] and leaves the bytes where they are (`MSG_PEEK`, tee(2)).
    ///
    /// # Errors
    /// `EFAULT` if nothing was copied.
    pub fn peek(&self, dst: &mut IoDst<'_>) -> Result<usize> {
        self.peek_at_most(dst, usize::MAX)
    }

    /// As [`Self::peek`], at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::peek`].
    pub fn peek_at_most(&self, dst: &mut IoDst<'_>, limit: usize) -> Result<usize> {
        let mut done = 0;
        while done < self.len.min(limit) && dst.remaining() > 0 {
            let piece = self.used_piece(done);
            let piece = &piece[..piece.len().min(dst.remaining()).min(limit - done)];
            match dst.write(piece) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Forgets the first `count` bytes.
    pub fn discard(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.head = if self.len == 0 { 0 } else { (self.head + count) % self.capacity() };
    }

    /// Gives back the pages of an empty ring but the first few.
    pub fn trim(&mut self) {
        if self.len == 0
            && let Some(rest) = self.pages.get_mut(KEPT..)
        {
            rest.iter_mut().for_each(|page| *page = None);
        }
    }

    /// Changes the capacity, rounded up to pages.
    ///
    /// # Errors
    /// `EBUSY` if it holds more than that, `ENOMEM`.
    pub fn resize(&mut self, capacity: usize) -> Result<()> {
        if capacity.div_ceil(PAGE) * PAGE < self.len {
            return Err(Errno::EBUSY);
        }
        let mut new = ByteRing::new(capacity)?;
        while self.len > 0 {
            let piece = self.used_piece(0);
            let free = new.free_piece(piece.len())?;
            let count = free.len().min(piece.len());
            free[..count].copy_from_slice(&piece[..count]);
            new.len += count;
            self.discard(count);
        }
        *self = new;
        Ok(())
    }

    /// Bytes in one piece, `skip` bytes after the first; empty if there are no more.
    fn used_piece(&self, skip: usize) -> &[u8] {
        let at = (self.head + skip) % self.capacity();
        let offset = at % PAGE;
        let count = (self.len - skip.min(self.len)).min(PAGE - offset);
        match self.pages.get(at / PAGE) {
            Some(Some(page)) => page.get(offset..offset + count).unwrap_or(&[]),
            _ => &[],
        }
    }

    /// Free bytes in one piece, at most `wanted`.
    fn free_piece(&mut self, wanted: usize) -> Result<&mut [u8]> {
        let at = (self.head + self.len) % self.capacity();
        let offset = at % PAGE;
        let count = wanted.min(self.room()).min(PAGE - offset);
        let slot = self.pages.get_mut(at / PAGE).ok_or(Errno::EIO)?;
        let page = match slot {
            Some(page) => page,
            None => slot.insert(new_page()?),
        };
        page.get_mut(offset..offset + count).ok_or(Errno::EIO)
    }
}

fn new_page() -> Result<Box<[u8]>> {
    let mut page = Vec::new();
    page.try_reserve_exact(PAGE).map_err(|_| Errno::ENOMEM)?;
    page.resize(PAGE, 0);
    Ok(page.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(ring: &mut ByteRing, bytes: &[u8]) -> usize {
        ring.fill(&mut IoSrc::kernel(bytes)).unwrap()
    }

    fn get(ring: &mut ByteRing, count: usize) -> Vec<u8> {
        let mut buf = std::vec![0; count];
        let got = ring.drain(&mut IoDst::kernel(&mut buf)).unwrap();
        buf.truncate(got);
        buf
    }

    #[test]
    fn bytes_come_out_in_order_across_pages_and_the_end() {
        let mut ring = ByteRing::new(2 * PAGE).unwrap();
        let (mut next_in, mut next_out) = (0_u32, 0_u32);
        for round in 0..200 {
            let wanted = (round * 37) % 3000 + 1;
            let bytes: Vec<u8> = (0..wanted).map(|i| (next_in + i) as u8).collect();
            next_in += put(&mut ring, &bytes) as u32;
            for byte in get(&mut ring, (round as usize * 53) % 2500) {
                assert_eq!(byte, next_out as u8);
                next_out += 1;
            }
        }
        assert_eq!(ring.len() as u32, next_in - next_out);
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let mut ring = ByteRing::new(1).unwrap();
        assert_eq!(put(&mut ring, &[7; 5000]), PAGE);
        assert_eq!(put(&mut ring, &[7]), 0);
        assert_eq!(get(&mut ring, 10).len(), 10);
        assert_eq!(ring.room(), 10);
    }

    #[test]
    fn an_empty_ring_starts_over_at_its_first_page() {
        let mut ring = ByteRing::new(16 * PAGE).unwrap();
        for _ in 0..10_000 {
            put(&mut ring, b"x");
            assert_eq!(get(&mut ring, 1), b"x");
        }
        assert_eq!(ring.pages.iter().flatten().count(), 1);
    }

    #[test]
    fn resizing_keeps_the_bytes_or_refuses() {
        let mut ring = ByteRing::new(2 * PAGE).unwrap();
        put(&mut ring, &[1; PAGE]);
        get(&mut ring, 100);
        put(&mut ring, &[2; 1000]);
        assert_eq!(ring.resize(PAGE), Err(Errno::EBUSY));
        ring.resize(4 * PAGE).unwrap();
        let bytes = get(&mut ring, 2 * PAGE);
        assert_eq!((bytes.len(), bytes[0], bytes[PAGE - 100], bytes[PAGE + 899]), (PAGE + 900, 1, 2, 2));
    }

    #[test]
    fn peeking_leaves_the_bytes() {
        let mut ring = ByteRing::new(PAGE).unwrap();
        put(&mut ring, b"hello");
        let mut buf = [0; 3];
        assert_eq!(ring.peek(&mut IoDst::kernel(&mut buf)), Ok(3));
        assert_eq!((&buf, get(&mut ring, 9).as_slice()), (b"hel", b"hello".as_slice()));
    }
}
