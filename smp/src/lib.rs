//! smp

#![no_std]
