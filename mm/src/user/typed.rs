//! Typed claims on guest memory.

use super::{Pod, UserAddr, access_ok, copy_in, copy_in_partial, copy_out};
use crate::{Errno, PAGE, Result};
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::slice;

/// Reads a value.
pub fn read_val<T: Pod>(from: UserAddr) -> Result<T> {
    let mut value = T::zeroed();
    // SAFETY: a Pod value is its bytes.
    let bytes = unsafe { slice::from_raw_parts_mut((&raw mut value).cast::<u8>(), size_of::<T>()) };
    copy_in(bytes, from)?;
    Ok(value)
}

/// Writes a value.
pub fn write_val<T: Pod>(to: UserAddr, value: &T) -> Result<()> {
    // SAFETY: a Pod value is its bytes, without padding.
    let bytes = unsafe { slice::from_raw_parts((value as *const T).cast::<u8>(), size_of::<T>()) };
    copy_out(to, bytes)
}

/// Reads `count` values. `ENOMEM` if they are too many for the heap.
pub fn read_vec<T: Pod>(from: UserAddr, count: usize) -> Result<Vec<T>> {
    let len = count.checked_mul(size_of::<T>()).ok_or(Errno::EFAULT)?;
    access_ok(from, len)?;
    let mut values: Vec<T> = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    values.resize(count, T::zeroed());
    // SAFETY: Pod values are their bytes.
    let bytes = unsafe { slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), len) };
    copy_in(bytes, from)?;
    Ok(values)
}

/// Reads a string up to, and without, its NUL. `ENAMETOOLONG` if there is none in the first `max` bytes.
pub fn read_cstr(from: UserAddr, max: usize) -> Result<Vec<u8>> {
    let mut string = Vec::new();
    let mut at = from.0;
    while string.len() < max {
        // Up to the end of the page only: what lies behind the NUL may not be readable.
        let room = ((PAGE - at % PAGE) as usize).min(max - string.len()).min(256);
        let mut piece = [0u8; 256];
        let (got, result) = copy_in_partial(&mut piece[..room], UserAddr(at));
        if let Some(end) = piece[..got].iter().position(|&byte| byte == 0) {
            string.try_reserve_exact(end).map_err(|_| Errno::ENOMEM)?;
            string.extend_from_slice(&piece[..end]);
            return Ok(string);
        }
        result?;
        string.try_reserve(got).map_err(|_| Errno::ENOMEM)?;
        string.extend_from_slice(&piece[..got]);
        at += got as u64;
    }
    Err(Errno::ENAMETOOLONG)
}

/// A value that the guest passes in. Reading consumes the claim: a second look would see another value.
#[derive(Debug)]
pub struct UserIn<T>(UserAddr, PhantomData<T>);

impl<T: Pod> UserIn<T> {
    /// A claim.
    pub const fn new(addr: UserAddr) -> Self {
        UserIn(addr, PhantomData)
    }

    /// The address.
    pub const fn addr(&self) -> UserAddr {
        self.0
    }

    /// Whether the guest passed a null pointer.
    pub const fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The value.
    pub fn read(self) -> Result<T> {
        read_val(self.0)
    }

    /// The value, or nothing for a null pointer.
    pub fn read_opt(self) -> Result<Option<T>> {
        if self.is_null() { Ok(None) } else { self.read().map(Some) }
    }
}

/// A place for a result.
#[derive(Clone, Copy, Debug)]
pub struct UserOut<T>(UserAddr, PhantomData<T>);

impl<T: Pod> UserOut<T> {
    /// A claim.
    pub const fn new(addr: UserAddr) -> Self {
        UserOut(addr, PhantomData)
    }

    /// The address.
    pub const fn addr(&self) -> UserAddr {
        self.0
    }

    /// Whether the guest passed a null pointer.
    pub const fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Writes the value.
    pub fn write(&self, value: &T) -> Result<()> {
        write_val(self.0, value)
    }

    /// Writes the value unless the guest passed a null pointer.
    pub fn write_opt(&self, value: &T) -> Result<()> {
        if self.is_null() { Ok(()) } else { self.write(value) }
    }
}

/// Bytes in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct UserSlice {
    /// Where.
    pub addr: UserAddr,
    /// How many.
    pub len: usize,
}

impl UserSlice {
    /// A claim.
    pub const fn new(addr: UserAddr, len: usize) -> Self {
        UserSlice { addr, len }
    }

    /// Reads all of it. `ENOMEM` if it is too much for the heap.
    pub fn read(&self) -> Result<Vec<u8>> {
        read_vec(self.addr, self.len)
    }

    /// Writes as much of `bytes` as there is room for; the number written.
    pub fn write(&self, bytes: &[u8]) -> Result<usize> {
        let len = bytes.len().min(self.len);
        copy_out(self.addr, &bytes[..len])?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_ends_at_its_nul() {
        let bytes = b"hello\0world\0";
        let addr = UserAddr(bytes.as_ptr() as u64);
        assert_eq!(read_cstr(addr, 100).unwrap(), b"hello");
        assert_eq!(read_cstr(addr, 5), Err(Errno::ENAMETOOLONG));
        assert_eq!(read_cstr(addr, 6).unwrap(), b"hello");
        let long: Vec<u8> = core::iter::repeat_n(b'x', 9000).chain([0]).collect();
        assert_eq!(read_cstr(UserAddr(long.as_ptr() as u64), 10_000).unwrap().len(), 9000);
    }

    #[test]
    fn values_round_trip() {
        let mut place = [0u64; 2];
        let out: UserOut<[u32; 3]> = UserOut::new(UserAddr(&raw mut place as u64));
        out.write(&[1, 2, 3]).unwrap();
        let back: [u32; 3] = UserIn::new(out.addr()).read().unwrap();
        assert_eq!(back, [1, 2, 3]);
    }
}
