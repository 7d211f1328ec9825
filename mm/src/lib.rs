//! mm

#![no_std]
