//! The kernel image: entry, memory functions, panic. What runs is in the library.

#![no_std]
#![no_main]

extern crate alloc;

mod image;
