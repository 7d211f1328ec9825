//! Where reads put bytes and writes take them from. Kernel buffers only until the user copies land.

use crate::Result;

/// The destination of a read.
pub struct IoDst<'a>(&'a mut [u8]);

/// The source of a write.
pub struct IoSrc<'a>(&'a [u8]);

impl<'a> IoDst<'a> {
    /// A kernel buffer.
    pub fn kernel(buf: &'a mut [u8]) -> Self {
        Self(buf)
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    /// Appends bytes; how many went in.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = bytes.len().min(self.0.len());
        let (head, tail) = core::mem::take(&mut self.0).split_at_mut(count);
        head.copy_from_slice(&bytes[..count]);
        self.0 = tail;
        Ok(count)
    }
}

impl<'a> IoSrc<'a> {
    /// A kernel buffer.
    pub fn kernel(buf: &'a [u8]) -> Self {
        Self(buf)
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    /// Takes bytes; how many.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let count = bytes.len().min(self.0.len());
        let (head, tail) = self.0.split_at(count);
        bytes[..count].copy_from_slice(head);
        self.0 = tail;
        Ok(count)
    }
}
