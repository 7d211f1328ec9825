//! The first stack of a program: strings, vectors, auxiliary vector. Pure.
//!
//! From the top down: the executable's name, environment strings, argument strings, the platform's name, 16 random bytes,
//! padding, auxiliary vector, environment and argument pointers, argument count. Source: the x86-64 psABI, 3.4.1.

use crate::{Errno, Result};
use alloc::vec::Vec;
use core::ops::Range;
use umbel_abi::machine::layout::PAGE;

/// The strings of an execve, each with its length limited and the whole too.
#[derive(Clone, Debug, Default)]
pub struct Strings {
    pub args: Vec<Vec<u8>>,
    pub envs: Vec<Vec<u8>>,
}

/// Longest single string, its NUL included.
pub const STRING_MAX: usize = 32 * PAGE as usize;
/// What all strings and pointers may use whatever the limits say.
const TOTAL_MIN: u64 = STRING_MAX as u64;
/// Three quarters of Linux's default stack.
const TOTAL_MAX: u64 = 6 << 20;

impl Strings {
    /// Bytes that strings and pointers take.
    pub fn size(&self) -> u64 {
        let all = self.args.iter().chain(&self.envs);
        all.map(|string| string.len() as u64 + 1 + 8).sum()
    }

    /// # Errors
    /// `E2BIG` above a quarter of `stack_limit` (or above 6 MiB, if that is less).
    pub fn check(&self, stack_limit: u64) -> Result<()> {
        let limit = (stack_limit / 4).clamp(TOTAL_MIN, TOTAL_MAX);
        let fits = self.size() <= limit && self.args.iter().chain(&self.envs).all(|s| s.len() < STRING_MAX);
        if fits { Ok(()) } else { Err(Errno::E2BIG) }
    }
}

/// A built stack.
#[derive(Debug)]
pub struct Image {
    /// Where `bytes` go; the stack pointer.
    pub sp: u64,
    pub bytes: Vec<u8>,
    /// Addresses of argument and environment strings.
    pub args: Range<u64>,
    pub envs: Range<u64>,
    /// The auxiliary vector as bytes, for /proc/PID/auxv.
    pub auxv: Vec<u8>,
}

/// An entry of the auxiliary vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aux {
    Value(u64, u64),
    /// Address of the executable's name, of the platform's name, of the random bytes.
    ExecFn(u64),
    Platform(u64),
    Random(u64),
}

/// Lays the stack out below `top`.
///
/// # Errors
/// `ENOMEM`.
pub fn build(top: u64, strings: &Strings, exec_name: &[u8], random: &[u8; 16], aux: &[Aux]) -> Result<Image> {
    let mut area = Area { top, bytes: Vec::new() };
    let total = strings.size() as usize + exec_name.len() + 1024 + aux.len() * 16;
    area.bytes.try_reserve_exact(total).map_err(|_| Errno::ENOMEM)?;
    // `bytes` grows downwards: it is kept reversed and turned round once.
    area.push(&[0; 8]);
    let exec_name = area.push_str(exec_name);
    let envs_end = area.at();
    let mut envs: Vec<u64> = strings.envs.iter().rev().map(|string| area.push_str(string)).collect();
    let args_end = area.at();
    let mut args: Vec<u64> = strings.args.iter().rev().map(|string| area.push_str(string)).collect();
    let args_start = area.at();
    envs.reverse();
    args.reverse();
    let platform = area.push_str(b"x86_64");
    let random = area.push(random);
    area.align(16);
    let words = 1 + args.len() + 1 + envs.len() + 1 + 2 * (aux.len() + 1);
    if !words.is_multiple_of(2) {
        area.push(&[0; 8]);
    }
    let mut auxv = Vec::new();
    for entry in aux {
        let (key, value) = match *entry {
            Aux::Value(key, value) => (key, value),
            Aux::ExecFn(key) => (key, exec_name),
            Aux::Platform(key) => (key, platform),
            Aux::Random(key) => (key, random),
        };
        auxv.extend(key.to_le_bytes());
        auxv.extend(value.to_le_bytes());
    }
    auxv.extend([0; 16]);
    area.push(&auxv);
    area.push(&[0; 8]);
    for addr in envs.iter().rev() {
        area.push(&addr.to_le_bytes());
    }
    area.push(&[0; 8]);
    for addr in args.iter().rev() {
        area.push(&addr.to_le_bytes());
    }
    let sp = area.push(&(args.len() as u64).to_le_bytes());
    area.bytes.reverse();
    Ok(Image { sp, bytes: area.bytes, args: args_start..args_end, envs: args_end..envs_end, auxv })
}

/// Bytes below `top`, the highest address first.
struct Area {
    top: u64,
    bytes: Vec<u8>,
}

impl Area {
    fn at(&self) -> u64 {
        self.top - self.bytes.len() as u64
    }

    fn push(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.extend(bytes.iter().rev());
        self.at()
    }

    fn push_str(&mut self, string: &[u8]) -> u64 {
        self.push(&[0]);
        self.push(string)
    }

    fn align(&mut self, align: u64) {
        while !self.at().is_multiple_of(align) {
            self.push(&[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings() -> Strings {
        Strings { args: Vec::from([b"a".to_vec(), b"bc".to_vec()]), envs: Vec::from([b"E=1".to_vec()]) }
    }

    #[test]
    fn pointers_lead_to_their_strings() {
        let image = build(0x10000, &strings(), b"/x", &[7; 16], &[Aux::ExecFn(31), Aux::Random(25)]).unwrap();
        assert_eq!(image.sp % 16, 0);
        let word = |index: usize| u64::from_le_bytes(image.bytes[index * 8..index * 8 + 8].try_into().unwrap());
        let string = |addr: u64| {
            let bytes = &image.bytes[(addr - image.sp) as usize..];
            bytes[..bytes.iter().position(|&byte| byte == 0).unwrap()].to_vec()
        };
        assert_eq!(word(0), 2);
        assert_eq!(string(word(1)), b"a");
        assert_eq!(string(word(2)), b"bc");
        assert_eq!(word(3), 0);
        assert_eq!(string(word(4)), b"E=1");
        assert_eq!(word(5), 0);
        assert_eq!((word(6), string(word(7))), (31, b"/x".to_vec()));
        assert_eq!(word(8), 25);
        assert_eq!(&image.bytes[(word(9) - image.sp) as usize..][..16], [7; 16]);
        assert_eq!((word(10), word(11)), (0, 0));
        assert_eq!(string(image.args.start), b"a");
        assert_eq!(image.sp + image.bytes.len() as u64, 0x10000);
    }

    #[test]
    fn too_much_is_refused() {
        assert_eq!(strings().check(8 << 20), Ok(()));
        let long = Strings { args: Vec::from([std::vec![b'x'; STRING_MAX]]), envs: Vec::new() };
        assert_eq!(long.check(8 << 20), Err(Errno::E2BIG));
        let many = Strings { args: std::vec![std::vec![b'x'; 1000]; 3000], envs: Vec::new() };
        assert_eq!(many.check(8 << 20), Err(Errno::E2BIG));
    }
}
